"""Columns that are Gaussian after a change of variable: heavy tails, and amounts above zero."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor

from .._torch import namespace
from ..data import Array, Moments, Scale, Walk
from ._base import Cells, Density, Likelihood, NLLGradient, as_arrays, column_sums, refuse
from ._gaussian import FeatureNoise, GaussianDensity, SharedNoise, standardised

__all__ = ["JohnsonSU", "LogNormal"]


class JohnsonSU(Likelihood):
    """p(x|z): the inverse hyperbolic sine of x is Gaussian around the decoder's mean (Johnson 1949).

    Around a column's mean the likelihood is Gaussian, far from it its tails are heavy: y = tail arcsinh(x / tail), with
    x the standardised column, is x near 0 and grows like log x beyond `tail` standard deviations. A few
    extreme values then neither set the scale of a column nor pull the networks towards them. One noise variance is
    shared by all columns, in units of the geometric mean of a column's standard deviation and its range (both of y): a
    column with a few values far out counts less than one that spreads evenly.

    Parameters
    ----------
    tail : float, default=2.0
        Where the tails begin, in standard deviations of the column.
    noise_floor : float, default=0.05
        The smallest noise variance, as a share of the smallest variance among the columns that vary.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer, JohnsonSU
    >>> X = load_wine().data
    >>> vae = VAETransformer(2, likelihood=JohnsonSU(), random_state=0).fit(X)
    >>> vae.reconstruct(X).shape
    (178, 13)
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {
        "tail": [Interval(Real, 0, None, closed="neither")],
        "noise_floor": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(self, tail=2.0, *, noise_floor=0.05):
        self.tail = tail
        self.noise_floor = noise_floor

    def scale(self, moments: Moments) -> Scale:
        return standardised(moments)

    def build(self, n_features: int, scale: Scale) -> Density:
        return _JohnsonSUDensity(n_features, scale, self.noise_floor, self.tail)


class LogNormal(Likelihood):
    """p(x|z): the logarithm of x is Gaussian around the decoder's mean. Amounts, durations, sizes: columns above zero.

    One noise variance a column, of the logarithm. The mean of p(x|z) lies above its median, by a factor of half that
    variance's exponential.

    Parameters
    ----------
    noise_floor : float, default=1e-3
        The smallest noise variance, as a share of the variance of the column's logarithm.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from skvae import VAETransformer
    >>> X = load_breast_cancer().data[:, :5]
    >>> vae = VAETransformer(2, likelihood="log_normal", random_state=0).fit(X)
    >>> bool((vae.sample(100, random_state=0) > 0).all())
    True
    """

    __module__ = "skvae"

    positive_only = True

    _parameter_constraints: ClassVar[dict] = {"noise_floor": [Interval(Real, 0, 1, closed="neither")]}

    def __init__(self, *, noise_floor=1e-3):
        self.noise_floor = noise_floor

    def scale(self, moments: Moments) -> Scale:
        return Scale(np.zeros_like(moments.mean), np.where(moments.mean > 0, moments.mean, 1.0))

    def build(self, n_features: int, scale: Scale) -> Density:
        return _LogNormalDensity(n_features, scale, self.noise_floor)

    def check(self, X: Array, names: Sequence[str]) -> None:
        refuse(X, X <= 0, names, "likelihood='log_normal' takes values above 0")


class Warped(GaussianDensity):
    """A Gaussian in y = (bent(x) - centre) / spread, beside a noise. Subclasses say how x is bent."""

    centre: Tensor
    spread: Tensor

    def register_warp(self) -> None:
        """Make room for centre and spread, which `fit` sets."""
        self.register_buffer("centre", torch.zeros(self.n_features, dtype=torch.float32))
        self.register_buffer("spread", torch.ones(self.n_features, dtype=torch.float32))

    @abstractmethod
    def bent(self, x: Tensor) -> Tensor:
        """What is Gaussian, up to centre and spread."""

    @abstractmethod
    def unbent(self, value: Tensor) -> Tensor:
        """The inverse of `bent`."""

    @abstractmethod
    def log_bend(self, bent: Any) -> Any:
        """log d bent / dx where bent(x) is `bent`, a tensor or a numpy array."""

    def _data(self, y: Tensor) -> Tensor:
        """x where the Gaussian's variable is y."""
        return self.unbent(self.centre + self.spread * y)

    def _log_slope(self, bent: Tensor) -> Tensor:
        """log dy/dx."""
        return self.log_bend(bent) - self.spread.log()

    def moments_of_bent(self, rows: Walk) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the bent columns: two (D,)."""
        sums, mass = column_sums(rows, self.bent)
        mean = sums / mass
        return mean, (column_sums(rows, lambda x: (self.bent(x) - mean).square())[0] / mass).sqrt()

    def log_slope(self, x: Tensor) -> Tensor:
        return super().log_slope(x) + self._log_slope(self.bent(x))

    def encode_input(self, x: Tensor) -> Tensor:
        return self._seen(self.bent(x))

    def _seen(self, bent: Tensor) -> Tensor:
        """y."""
        return (bent - self.centre) / self.spread

    def smooth(self, x: Tensor, noise: Tensor) -> Tensor:
        return self._data(self.encode_input(x) + noise)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        bent = self.bent(x)
        return super().log_prob(outputs, self._seen(bent)) + self._log_slope(bent)

    def gradient_of_seen(self, xp: Any) -> NLLGradient:
        of_gaussian = super().gradient_of_seen(xp)
        assert of_gaussian is not None
        centre, spread, log_spread = as_arrays(xp, self.centre, self.spread, self.spread.log())

        def nll_gradient(outputs: Any, seen: Any, cells: Cells) -> tuple[Any, Any]:
            nll, gradient = of_gaussian(outputs, seen, cells)
            log_slope = self.log_bend(centre + spread * seen) - log_spread
            return nll.sum(-2)[..., None, :] / seen.shape[-2] - cells.mass * log_slope, gradient

        return nll_gradient

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        return self._data(super().sample(outputs, rng))

    def variance(self, outputs: Tensor) -> None:
        """None: the noise is one of y, not of x."""
        return


class _JohnsonSUDensity(Warped, SharedNoise):
    """bent(x) = tail arcsinh(x / tail), with a shared noise."""

    def __init__(self, n_features: int, scale: Scale, noise_floor: float, tail: float):
        super().__init__(n_features, scale, noise_floor)
        self.tail = tail
        self.register_warp()

    @torch.no_grad()
    def fit(self, rows: Walk) -> None:
        """Set centre and spread so that the columns of y have mean 0 and a mean variance of 1."""
        centre, std = self.moments_of_bent(rows)
        extent = _range(rows, self.bent, centre)
        spread = torch.where(std > 0, (std * extent).sqrt(), 1.0)
        share = (std / spread).square().mean().sqrt()
        self.centre.copy_(centre)
        self.spread.copy_(spread * share if share > 0 else spread)
        self.bound_noise((std / self.spread.double()).square())

    def bent(self, x: Tensor) -> Tensor:
        return self.tail * _arcsinh(x / self.tail)

    def unbent(self, value: Tensor) -> Tensor:
        return self.tail * torch.sinh(value / self.tail)

    def log_bend(self, bent: Any) -> Any:
        """-log cosh(bent / tail), which is -log(1 + (x / tail)^2) / 2."""
        xp, size = namespace(bent), abs(bent / self.tail)
        return math.log(2) - size - xp.log(1 + xp.exp(-2 * size))  # numpy's log1p is three times as slow

    def mean(self, outputs: Tensor) -> Tensor:
        """E[tail sinh(u)] for u ~ N(m, s^2) is tail exp(s^2 / 2) sinh(m)."""
        mean, log_var = self.split(outputs)
        s = torch.exp(0.5 * log_var) * self.spread / self.tail
        return torch.exp(0.5 * s.square()) * self._data(mean)


class _LogNormalDensity(Warped, FeatureNoise):
    """bent(x) = log x. A missing cell, where x is 0, stands at a logarithm that is finite."""

    def __init__(self, n_features: int, scale: Scale, noise_floor: float):
        super().__init__(n_features, scale, noise_floor)
        self.register_warp()

    @torch.no_grad()
    def fit(self, rows: Walk) -> None:
        """Set centre and spread so that the logarithms have mean 0 and variance 1."""
        centre, std = self.moments_of_bent(rows)
        self.centre.copy_(centre)
        self.spread.copy_(torch.where(std > 1e-12, std, 1.0))

    def bent(self, x: Tensor) -> Tensor:
        return torch.log(_above_zero(x))

    def unbent(self, value: Tensor) -> Tensor:
        return torch.exp(value)

    def log_bend(self, bent: Any) -> Any:
        """-log x."""
        return -bent

    def mean(self, outputs: Tensor) -> Tensor:
        """E[exp(u)] for u ~ N(m, s^2) is exp(m + s^2 / 2)."""
        mean, log_var = self.split(outputs)
        return torch.exp(0.5 * log_var.exp() * self.spread.square()) * self._data(mean)


def _above_zero(x: Tensor) -> Tensor:
    return x.clamp_min(torch.finfo(torch.float32).tiny)


def _arcsinh(x: Tensor) -> Tensor:
    """numpy's is ten times as fast as torch's on the CPU."""
    if x.is_cpu and not (x.requires_grad and torch.is_grad_enabled()):
        return torch.from_numpy(np.arcsinh(x.detach().numpy()))
    return torch.asinh(x)


def _range(rows: Walk, function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Largest minus smallest value of `function` of each column's present cells; `start` lies between them."""
    low = high = start
    for block in rows.blocks():
        values = function(block.x.double())
        values = values if block.mask is None else torch.where(block.mask > 0, values, start)
        low, high = torch.minimum(low, values.amin(0)), torch.maximum(high, values.amax(0))
    return high - low
