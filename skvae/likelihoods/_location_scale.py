"""Noise around a mean, in what the encoder sees: a shape, a place for its variance, and perhaps a warp beneath.

log p(x|z) = log density of (seen - mean) + log |d seen / dX|. The second does not depend on the weights, and a training
step leaves out what of it varies. A `Shape` states the density (normal here, others in `_robust`), a subclass of
`LocationScale` where its variance comes from, and the encoding how x is bent (`_warped`), if it is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .._linear import LinearGaussian, probabilistic_pca
from .._math import LOG_2PI, log_normal
from .._tables.moments import Array, ColumnSums, Scale
from ._base import CellWeights, LikelihoodModule, LinearStart, NLLGradient, as_arrays
from ._bounds import at_least, blocked
from ._encoding import Encoding, Summand

__all__ = ["DecoderNoise", "FeatureNoise", "Normal", "ScaledNoise", "Shape", "SharedNoise"]


class Shape(ABC):
    """A noise of mean 0 and variance 1.

    Attributes
    ----------
    log_norm : float
        What its -log density has beside the energies of `weigh`.
    is_normal : bool, default=False
    """

    log_norm: float
    is_normal: ClassVar[bool] = False

    @abstractmethod
    def log_density(self, u: Tensor, log_var: Tensor) -> Tensor:
        """Of the noise times its standard deviation, where that is u standard deviations."""

    @abstractmethod
    def cdf(self, u: Tensor) -> Tensor:
        """Of u standard deviations."""

    @abstractmethod
    def draw(self, like: Tensor, rng: torch.Generator) -> Tensor:
        """Noise of the shape of `like`."""

    @abstractmethod
    def weigh(self, xp: Any, residual: Any, log_var: Any, mass: Any) -> tuple[Any, Any, Any]:
        """Of residuals (N, D), mean less value: slope, slope times residual, and energy, all times the cells' mass.

        Arrays of `xp`, numpy or torch. None stands for an energy that is half of the second.
        """


class Normal(Shape):
    """Of energy u^2 / 2."""

    log_norm = 0.5 * LOG_2PI
    is_normal = True

    def log_density(self, u: Tensor, log_var: Tensor) -> Tensor:
        return log_normal(u, log_var)

    def cdf(self, u: Tensor) -> Tensor:
        return torch.special.ndtr(u)

    def draw(self, like: Tensor, rng: torch.Generator) -> Tensor:
        return torch.randn(like.shape, generator=rng, dtype=like.dtype, device=like.device)

    def weigh(self, xp: Any, residual: Any, log_var: Any, mass: Any) -> tuple[Any, Any, None]:
        slope = residual * (xp.exp(-log_var) * mass)
        return slope, residual * slope, None


class LocationScale(LikelihoodModule):
    """Noise of any shape around the decoder's mean. Subclasses say where its variance comes from.

    Parameters
    ----------
    scale : Scale
    noise_floor : float
        The least variance, in units of what the encoder sees.
    shape : Shape or None, default=None
        None: normal.
    encoding : Encoding or None, default=None
    """

    params_per_feature: ClassVar[int] = 1
    columns_apart = True
    log_scale: Tensor
    log_floor: Tensor

    def __init__(
        self, scale: Scale, noise_floor: float, shape: Shape | None = None, encoding: Encoding | None = None
    ) -> None:
        n_features = len(scale.scale)
        super().__init__(n_features, self.params_per_feature * n_features, encoding)
        self.noise_floor, self.shape = noise_floor, shape or Normal()
        self.register_buffer("log_scale", torch.tensor(np.log(scale.scale)), persistent=False)
        self.register_buffer("log_floor", torch.full((n_features,), math.log(noise_floor), dtype=torch.float32))

    @abstractmethod
    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., N, D) and log variance (broadcastable to it)."""

    @abstractmethod
    def from_linear(self, linear: LinearGaussian) -> tuple[Array, Array]:
        """Set the noise to a linear model's; return its decoder's weight, (n_params, J), and bias, (n_params,)."""

    def log_volume(self, seen: Tensor) -> Tensor:
        """log |d seen / dX|, (N, D), of rows that the encoder sees so."""
        slope = self.encoding.log_slope(torch)
        return -self.log_scale if slope is None else slope(seen) - self.log_scale

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        mean, log_var = self.split(outputs)
        seen = self.encoding.encode(x)
        return self.shape.log_density((seen - mean) * torch.exp(-0.5 * log_var), log_var) + self.log_volume(seen)

    def bends(self, outputs: Tensor, x: Tensor) -> Tensor | None:
        """A normal noise of a variance that no output decides bends log p by its precision everywhere."""
        if not (self.shape.is_normal and self.params_per_feature == 1 and self.states_log_prob):
            return None
        unit, log_var = self.split(torch.ones_like(outputs[:1]))
        return -unit.square() * torch.exp(-log_var)

    @property
    def states_log_prob(self) -> bool:
        """Whether `log_prob` is the formula above, and not a subclass' own."""
        return type(self).log_prob is LocationScale.log_prob

    def cdf(self, outputs: Tensor, x: Tensor) -> Tensor:
        mean, log_var = self.split(outputs)
        return self.shape.cdf((self.encoding.encode(x) - mean) * torch.exp(-0.5 * log_var))

    def mean(self, outputs: Tensor) -> Tensor:
        return self.encoding.mean(*self.split(outputs))

    def variance(self, outputs: Tensor) -> Tensor | None:
        """None where the noise is one of a warped x, not of x."""
        mean, log_var = self.split(outputs)
        return None if self.encoding.log_slope(torch) else log_var.exp().expand_as(mean)

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        mean, log_var = self.split(outputs)
        return self.encoding.decode(mean + torch.exp(0.5 * log_var) * self.shape.draw(mean, rng))

    def linear_start(self) -> LinearStart:
        least = np.full(self.n_features, self.noise_floor)
        volume = self.log_volume if self.shape.is_normal else None
        return LinearStart(least, np.full_like(least, np.inf), self.from_linear, log_volume=volume)

    def log_unit(self) -> Tensor:
        """What of -log p depends on the column alone, (D,)."""
        return self.log_scale + self.shape.log_norm


class _LearntNoise(LocationScale):
    """A variance that is a parameter: `log_noise` holds one number per column, or one for all."""

    unit: Tensor  # what the decoder's numbers are multiplied with

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_noise = nn.Parameter(torch.zeros(1 if self.shared_noise else self.n_features, dtype=torch.float32))
        self.register_buffer("unit", torch.ones(1, dtype=torch.float32))

    def bound(self) -> Tensor:
        """The least of `log_noise`."""
        return self.log_floor[: len(self.log_noise)]

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.unit * outputs, at_least(self.log_noise, self.bound())

    def gradient(self, xp: Any) -> NLLGradient:
        assert self.log_noise.grad is not None
        arrays = as_arrays(xp, self.log_noise, self.log_noise.grad, self.bound(), self.unit, self.log_unit())
        value, grad, bound, unit, log_unit = arrays
        shared = self.shared_noise

        def nll_gradient(outputs: Any, seen: Any, cells: CellWeights) -> tuple[Any, Any]:
            mean, log_var = unit * outputs if shared else outputs, xp.maximum(value, bound)
            slope, work, energy = self.shape.weigh(xp, xp.subtract(mean, seen, out=mean), log_var, cells.mass)
            work = work.sum(-2)[..., None, :]
            energy = 0.5 * work if energy is None else energy.sum(-2)[..., None, :]
            by_log_var = 0.5 * (cells.total - work)
            grad[...] = by_log_var.sum() if shared else by_log_var.reshape(grad.shape)
            grad[blocked(value, grad, bound)] = 0.0
            return cells.total * (log_unit + 0.5 * log_var) + energy, unit * slope if shared else slope

        return nll_gradient

    @property
    def states_error(self) -> bool:
        """Where the encoder sees x, whose mean is the decoder's; not where a subclass says otherwise."""
        own = type(self).error is LikelihoodModule.error and type(self).mean is LocationScale.mean
        return own and self.encoding.log_slope(torch) is None

    def error_gradient(self, xp: Any) -> NLLGradient:
        assert self.log_noise.grad is not None
        grad, unit = as_arrays(xp, self.log_noise.grad, self.unit)

        def error_gradient(outputs: Any, seen: Any, cells: CellWeights) -> tuple[Any, Any]:
            residual = unit * outputs - seen
            slope = cells.mass * residual
            grad[...] = 0.0
            return (residual * slope).sum(-2)[..., None, :], 2 * unit * slope

        return error_gradient


class FeatureNoise(_LearntNoise):
    """One learnt variance per column."""

    def from_linear(self, linear: LinearGaussian) -> tuple[Array, Array]:
        self.log_noise.data.copy_(torch.tensor(np.log(linear.noise)))
        return linear.loadings, np.zeros(self.n_features)


class SharedNoise(_LearntNoise):
    """One learnt variance for all columns. Its floor follows the smallest column and so stays below PCA's noise.

    The decoder speaks in units of the starting noise's standard deviation: on a raw table that is a thousandth of the
    largest column, and steps measured in the column would throw the start away.
    """

    shared_noise = shared_unit = True

    def summands(self) -> Sequence[Summand]:
        return self.encoding.summands() or (lambda x: x,)

    def fit_sums(self, *sums: ColumnSums) -> None:
        """Set the floor from the columns' variances."""
        var = self.encoding.fit_sums(*sums)
        if var is None:
            mean, std, _ = map(torch.tensor, sums[0].moments)
            var = mean.square() + std.square()
        smallest = var[var > 0].min() if bool((var > 0).any()) else var.new_ones(())
        self.log_floor.fill_(math.log(self.noise_floor) + float(smallest.clamp_min(1e-8).log()))

    def linear_start(self) -> LinearStart:
        floor = float(self.log_floor[0].exp())
        return replace(super().linear_start(), model=partial(probabilistic_pca, floor=floor))

    def from_linear(self, linear: LinearGaussian) -> tuple[Array, Array]:
        shared = torch.tensor(np.log(linear.noise)).mean()  # all columns' is the same, but within a `Mixed`
        self.log_noise.data.fill_(shared)
        self.unit.fill_(torch.exp(0.5 * shared))
        return linear.loadings / float(self.unit), np.zeros(self.n_features)


class ScaledNoise(SharedNoise):
    """The same of columns with a unit each: one share of their variances."""

    shared_unit = False


class DecoderNoise(LocationScale):
    """One variance per row and column, from the second half of the decoder's outputs."""

    params_per_feature = 2

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = outputs.chunk(2, dim=-1)
        return mean, at_least(log_var, self.log_floor)

    def gradient(self, xp: Any) -> NLLGradient:
        n, (floor, log_unit) = self.n_features, as_arrays(xp, self.log_floor, self.log_unit())

        def nll_gradient(outputs: Any, seen: Any, cells: CellWeights) -> tuple[Any, Any]:
            raw = outputs[..., n:]
            log_var = xp.maximum(raw, floor)
            slope, work, energy = self.shape.weigh(xp, outputs[..., :n] - seen, log_var, cells.mass)
            by_log_var = 0.5 * (cells.mass - work)
            by_log_var = xp.where(blocked(raw, by_log_var, floor), 0.0, by_log_var)
            nll = cells.mass * (log_unit + 0.5 * log_var) + (0.5 * work if energy is None else energy)
            return nll, xp.concat([slope, by_log_var], -1)

        return nll_gradient

    def from_linear(self, linear: LinearGaussian) -> tuple[Array, Array]:
        weight = np.concatenate([linear.loadings, np.zeros_like(linear.loadings)])
        return weight, np.append(np.zeros(self.n_features), np.log(linear.noise))
