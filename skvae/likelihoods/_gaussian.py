"""Real-valued columns: Gaussian noise a column, shared, or from the decoder."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn

from .._linear import Covariance, LinearGaussian, probabilistic_pca
from ..data import Array, Moments, Rows, Scale, Walk
from ..priors import LOG_2PI, log_normal
from ._base import Cells, Density, Likelihood, LowerBound, NLLGradient, as_arrays, blocked, column_sums

__all__ = ["FeatureNoise", "Gaussian", "GaussianDensity", "SharedNoise", "standardised"]


class Gaussian(Likelihood):
    """p(x|z) = N(mean(z), variance): real-valued columns.

    Parameters
    ----------
    noise : {"feature", "shared", "decoder"}, default="feature"
        - "feature": one learnt variance a column, as in factor analysis. Columns are standardised one by one, so
          units do not matter.
        - "shared": one learnt variance for all columns, as in PCA. All columns are divided by one number, so the
          columns of the largest values matter most: standardise a table of mixed units first.
        - "decoder": a variance a row and column, emitted by the decoder (Kingma & Welling 2013, appendix C.2).
    noise_floor : float, default=1e-3
        The smallest noise variance, as a share of the column's variance ("shared": of the smallest variance among
        the columns that vary). Without a floor the density of a column that the latents copy grows without bound.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer, Gaussian
    >>> X = load_wine().data
    >>> vae = VAETransformer(2, likelihood=Gaussian(noise="decoder"), random_state=0).fit(X)
    >>> vae.transform(X).shape
    (178, 2)
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {
        "noise": [StrOptions({"feature", "shared", "decoder"})],
        "noise_floor": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(self, noise="feature", *, noise_floor=1e-3):
        self.noise = noise
        self.noise_floor = noise_floor

    def scale(self, moments: Moments) -> Scale:
        if self.noise != "shared":
            return standardised(moments)
        largest = moments.std.max(initial=0.0) or 1.0
        pooled = largest * np.sqrt(np.mean((moments.std / largest) ** 2))
        return standardised(moments._replace(std=np.full_like(moments.std, pooled)))

    def build(self, n_features: int, scale: Scale) -> Density:
        kind: Any = {"feature": FeatureNoise, "shared": SharedNoise, "decoder": _DecoderNoise}[self.noise]
        return kind(n_features, scale, self.noise_floor)


def standardised(moments: Moments) -> Scale:
    """Columns of mean 0 and standard deviation 1; constant ones are left as they are, around 0."""
    return Scale(moments.mean, np.where(moments.std > 0, moments.std, 1.0))


class GaussianDensity(Density):
    """What the three noises share. Subclasses say where the log variance comes from."""

    log_scale: Tensor
    log_unit: Tensor  # what -log p holds whatever z is
    log_floor: Tensor

    def __init__(self, n_features: int, scale: Scale, noise_floor: float, params_per_feature: int = 1):
        super().__init__(n_features, params_per_feature * n_features)
        self.noise_floor = noise_floor
        self.register_buffer("log_scale", torch.tensor(np.log(scale.scale)), persistent=False)
        self.register_buffer("log_unit", self.log_scale + 0.5 * LOG_2PI, persistent=False)
        floor = torch.full((n_features,), math.log(noise_floor))
        self.register_buffer("log_floor", floor)

    @abstractmethod
    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., N, D) and log variance (broadcastable to it)."""

    def log_slope(self, x: Tensor) -> Tensor:
        """Logarithm of what a unit of X is in what the encoder sees, for every cell of x."""
        return -self.log_scale.expand_as(x)

    def noise_range(self) -> tuple[Array, Array]:
        return np.full(self.n_features, self.noise_floor), np.full(self.n_features, np.inf)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        mean, log_var = self.split(outputs)
        return log_normal((x - mean) * torch.exp(-0.5 * log_var), log_var) - self.log_scale

    def mean(self, outputs: Tensor) -> Tensor:
        return self.split(outputs)[0]

    def variance(self, outputs: Tensor) -> Tensor | None:
        mean, log_var = self.split(outputs)
        return log_var.exp().expand_as(mean)

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        mean, log_var = self.split(outputs)
        eps = torch.randn(mean.shape, generator=rng, dtype=mean.dtype, device=mean.device)
        return mean + torch.exp(0.5 * log_var) * eps

    def from_linear(self, linear: LinearGaussian) -> tuple[Array, Array]:
        self.set_noise(torch.tensor(np.log(linear.noise)))
        pad = self.n_params - self.n_features
        bias = np.append(np.zeros(self.n_features), np.log(linear.noise)[:pad])
        return np.pad(linear.loadings, ((0, pad), (0, 0))), bias

    def set_noise(self, log_noise: Tensor) -> None:
        """Start the noise at `log_noise` (D,)."""
        return

    def baseline_samples(self, rows: Rows, cov: Covariance, n_components: int) -> Array:
        linear = self.linear_model(cov, n_components)
        assert linear is not None
        x = rows.x.double()
        present = torch.ones_like(x) if rows.mask is None else rows.mask.double()
        seen, log_slope = ((present * values).cpu().numpy() for values in (self.encode_input(x), self.log_slope(x)))
        return linear.score_samples(seen, present.cpu().numpy()) + log_slope.sum(axis=1)


class _LearntNoise(GaussianDensity):
    """A noise that is a parameter of its own: `log_noise` holds one number a column, or one for all."""

    def __init__(self, n_features: int, scale: Scale, noise_floor: float, n_noises: int):
        super().__init__(n_features, scale, noise_floor)
        self.log_noise = nn.Parameter(torch.zeros(n_noises, dtype=torch.float32))

    def bound(self) -> Tensor:
        """The lower bound of `log_noise`."""
        return self.log_floor

    def decoder_unit(self) -> Tensor | None:
        """What the decoder's numbers are multiplied with; None for 1."""
        return None

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        unit = self.decoder_unit()
        return outputs if unit is None else unit * outputs, LowerBound.apply(self.log_noise, self.bound())

    def nll_gradient(self, outputs: Tensor, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        nll, gradient = self.gradient_of_seen(torch)(outputs, self.encode_input(x), cells)
        return nll.sum((-2, -1)), gradient

    def gradient_of_seen(self, xp: Any) -> NLLGradient:
        log_noise, bound, log_unit = as_arrays(xp, self.log_noise.detach(), self.bound(), self.log_unit)
        unit = None if self.decoder_unit() is None else as_arrays(xp, self.unit)[0]
        set_noise_gradient = self.noise_gradient_setter(xp)

        def nll_gradient(outputs: Any, seen: Any, cells: Cells) -> tuple[Any, Any]:
            log_var = xp.maximum(log_noise, bound)
            residual = xp.subtract(outputs if unit is None else unit * outputs, seen, out=outputs)
            slope = residual * (xp.exp(-log_var) * cells.mass)
            squares = (residual * slope).sum(-2)[..., None, :]
            nll = cells.total * (log_unit + 0.5 * log_var) + 0.5 * squares
            grad = 0.5 * (cells.total - squares)
            set_noise_gradient(grad if unit is None else grad.sum(-1)[..., None])
            return nll, slope if unit is None else unit * slope

        return nll_gradient

    def noise_gradient_setter(self, xp: Any) -> Callable[[Any], None]:
        """From the gradient of the log variance, as arrays of `xp`, to that of `log_noise`."""
        value, grad, bound = as_arrays(xp, self.log_noise.detach(), self.log_noise.grad, self.bound())

        def set_gradient(slope: Any) -> None:
            grad[...] = slope.reshape(grad.shape)
            grad[blocked(value, bound, grad)] = 0.0

        return set_gradient

    def set_noise(self, log_noise: Tensor) -> None:
        self.log_noise.data.copy_(log_noise[: len(self.log_noise)])


class FeatureNoise(_LearntNoise):
    """One learnt variance a column."""

    def __init__(self, n_features: int, scale: Scale, noise_floor: float):
        super().__init__(n_features, scale, noise_floor, n_features)


class SharedNoise(_LearntNoise):
    """One learnt variance for all columns. Its floor follows the smallest column and so stays below PCA's noise.

    The decoder speaks in units of the starting noise's standard deviation: on a raw table that is a thousandth of the
    largest column, and steps measured in the column would throw the start away.
    """

    shared_noise = True
    unit: Tensor

    def __init__(self, n_features: int, scale: Scale, noise_floor: float):
        super().__init__(n_features, scale, noise_floor, 1)
        self.register_buffer("unit", torch.ones(1, dtype=torch.float32))

    def fit(self, rows: Walk) -> None:
        squares, mass = column_sums(rows, lambda x: x.square())
        self.bound_noise(squares / mass)

    def bound_noise(self, var: Tensor) -> None:
        """Set the noise's floor from the columns' variances."""
        smallest = var[var > 0].min() if bool((var > 0).any()) else var.new_ones(())
        self.log_floor.fill_(math.log(self.noise_floor) + float(smallest.clamp_min(1e-8).log()))

    def bound(self) -> Tensor:
        return self.log_floor[..., :1]

    def decoder_unit(self) -> Tensor:
        return self.unit

    def from_linear(self, linear: LinearGaussian) -> tuple[Array, Array]:
        weight, bias = super().from_linear(linear)
        return weight / float(self.unit), bias

    def set_noise(self, log_noise: Tensor) -> None:
        shared = log_noise.mean(0, keepdim=True)  # the columns' are the same, but for a part of a `Mixed`
        super().set_noise(shared)
        self.unit.copy_(torch.exp(0.5 * shared))

    def linear_model(self, cov: Covariance, n_components: int) -> LinearGaussian:
        return probabilistic_pca(cov, n_components, float(self.log_floor[0].exp()))


class _DecoderNoise(GaussianDensity):
    """A variance a row and column, from the second half of the decoder's outputs."""

    def __init__(self, n_features: int, scale: Scale, noise_floor: float):
        super().__init__(n_features, scale, noise_floor, params_per_feature=2)

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = outputs.chunk(2, dim=-1)
        return mean, LowerBound.apply(log_var, self.log_floor)

    def nll_gradient(self, outputs: Tensor, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        nll, gradient = self.gradient_of_seen(torch)(outputs, x, cells)
        return nll.sum((-2, -1)), gradient

    def gradient_of_seen(self, xp: Any) -> NLLGradient:
        log_floor, log_unit = as_arrays(xp, self.log_floor, self.log_unit)

        def nll_gradient(outputs: Any, seen: Any, cells: Cells) -> tuple[Any, Any]:
            mean, raw = outputs[..., : self.n_features], outputs[..., self.n_features :]
            log_var = xp.maximum(raw, log_floor)
            residual = mean - seen
            slope = xp.exp(-log_var) * cells.mass * residual
            squares = residual * slope
            nll = cells.mass * (log_unit + 0.5 * log_var) + 0.5 * squares
            by_log_var = 0.5 * (cells.mass - squares)
            by_log_var = xp.where(blocked(raw, log_floor, by_log_var), 0.0, by_log_var)
            return nll, xp.concat([slope, by_log_var], -1)

        return nll_gradient
