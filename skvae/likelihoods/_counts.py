"""Whole numbers from 0 on: how often something was counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor, nn
from torch.nn.functional import softplus

from .._linear import LinearGaussian
from .._math import LARGEST_WHOLE
from .._tables.moments import Array, ColumnSums, Scale
from .._torch import double, namespace
from ._base import (
    CellWeights,
    LikelihoodModule,
    LinearStart,
    Linked,
    NLLGradient,
    Unscaled,
    as_arrays,
    by_scipy,
    refuse,
)
from ._bounds import at_least, at_most, blocked
from ._encoding import Centred, Summand

__all__ = ["NegativeBinomial", "Poisson"]

# Means up to this get their moments of log(1 + x) by summing over counts, larger ones from their limit.
SUMMED_MEAN = 60.0
# The dispersion 1 / r of a negative binomial lies between these, and starts at no less than the third: its logarithm
# takes small steps, and comes down from there sooner than up from nothing.
DISPERSIONS, FIRST_DISPERSION = (1e-4, 1e4), 0.05
# From here on quotients of Gamma functions are differences of large numbers, and Stirling's series has their digits.
LARGE, LARGE_IN_DOUBLE = 50.0, 1000.0
# A mean is at most so many times the largest count of its column: a decoder's exponential goes far beyond.
MOST_TIMES = 10.0


class Poisson(Unscaled):
    """Counts whose variance, given the latents, is their mean: p(x|z) = Poisson(rate(z)).

    The decoder emits log rates; the encoder sees log(1 + x). A latent for how much was counted in all (the library
    size of a cell, the length of a text) is found like any other.

    See Also
    --------
    NegativeBinomial : Counts that vary more.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> X = np.random.default_rng(0).poisson([1.0, 5.0, 20.0], size=(200, 3))
    >>> vae = VAETransformer(1, likelihood="poisson", random_state=0).fit(X)
    >>> bool((vae.sample(5, random_state=0) % 1 == 0).all())
    True
    """

    __module__ = "skvae"

    positive_only = True

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        return _PoissonModule(n_features)

    def check(self, X: Array, names: Sequence[str]) -> None:
        check_counts(X, names, "poisson")


class NegativeBinomial(Unscaled):
    """Counts that vary more than a Poisson's, by mean + mean^2 / r: p(x|z) = NB(mean(z), r).

    A Poisson whose rate is gamma distributed with shape r, one learnt r per column. The decoder emits the logarithm of
    the mean; the encoder sees log(1 + x).

    See Also
    --------
    Poisson : Counts whose variance is their mean.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> X = np.random.default_rng(0).negative_binomial(2, [0.5, 0.2, 0.05], size=(200, 3))
    >>> vae = VAETransformer(1, likelihood="negative_binomial", random_state=0).fit(X)
    >>> vae.reconstruct(X).shape
    (200, 3)
    """

    __module__ = "skvae"

    positive_only = True

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        return _NegativeBinomialModule(n_features)

    def check(self, X: Array, names: Sequence[str]) -> None:
        check_counts(X, names, "negative_binomial")


def check_counts(X: Array, names: Sequence[str], name: str) -> None:
    """Raise ValueError where X holds anything but whole numbers from 0 on that floats can tell apart."""
    with np.errstate(invalid="ignore"):
        outside = (X < 0) | (X % 1 > 0) | (X > LARGEST_WHOLE)
    refuse(X, outside, names, f"likelihood={name!r} takes counts: 0, 1, 2, ... up to 9e15")


class _LogCounts(Centred):
    """The encoder sees log(1 + x)."""

    def features(self, x: Tensor) -> Tensor:
        return torch.log1p(x)


class _CountModule(Linked):
    """What the two share: the decoder's log mean, what a step reads, and the linear start.

    They compute in double precision, in which differences of large numbers keep their digits.
    """

    max_swing = 1.0
    columns_apart = True
    log_mean: Tensor
    max_log_mean: Tensor

    def __init__(self, n_features: int):
        super().__init__(n_features, n_features, _LogCounts(n_features))
        self.register_buffer("log_mean", torch.zeros(n_features, dtype=torch.float32))
        self.register_buffer("max_log_mean", torch.full((n_features,), 40.0, dtype=torch.float32))

    def summands(self) -> Sequence[Summand]:
        return *super().summands(), lambda x: x

    def fit_sums(self, *sums: ColumnSums) -> None:
        *own, counts = sums
        super().fit_sums(*own)
        mean = (counts.mass * counts.moments.mean + 0.5) / (counts.mass + 1.0)
        self.log_mean.copy_(torch.tensor(np.log(mean)))
        self.max_log_mean.copy_(_log_of_most(torch.tensor(counts.high)))

    def reach(self, high: Tensor) -> None:
        self.max_log_mean.copy_(torch.maximum(self.max_log_mean, _log_of_most(high)))

    def mean(self, outputs: Tensor) -> Tensor:
        return torch.exp(self.log_of_mean(outputs))

    def log_of_mean(self, outputs: Tensor) -> Tensor:
        """The outputs, bounded from above; a step back below the bound keeps its gradient."""
        return at_most(outputs, self.max_log_mean)

    def more(self, x: Tensor) -> Tensor:
        """The counts, and log x! with the digits that one number would lose."""
        exact = torch.lgamma(double(x) + 1)
        log_factorial = exact.to(x.dtype)
        return torch.cat([x, log_factorial, (exact - log_factorial).to(x.dtype)], dim=-1)

    def link(self) -> tuple[Array, Array]:
        """Of log(1 + x), as in Poisson columns."""
        return log1p_moments(np.exp(self.log_mean.double().numpy()))

    def bias(self, square: Array) -> Array:
        """E[exp(w z)] = exp(w^2 / 2)."""
        return self.log_mean.double().numpy() - 0.5 * square


class _PoissonModule(_CountModule):
    """log p = x log rate - rate - log x!."""

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        log_rate, x = double(self.log_of_mean(outputs)), double(x)
        return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).to(outputs.dtype)

    def gradient(self, xp: Any) -> NLLGradient:
        (most,) = as_arrays(xp, self.max_log_mean)

        def nll_gradient(outputs: Any, rows: Any, cells: CellWeights) -> tuple[Any, Any]:
            x, log_factorial = counts_of(rows)
            log_rate = in_double(xp.minimum, outputs, most)
            rate = xp.exp(log_rate)
            nll = log_rate  # in place from here on: numbers of twice the size take twice the memory
            nll *= x
            xp.subtract(rate, nll, out=nll)
            nll += log_factorial
            nll *= cells.mass
            rate -= x
            rate *= cells.mass
            return nll, held_back(rate, outputs, most)

        return nll_gradient

    def cdf(self, outputs: Tensor, x: Tensor) -> Tensor:
        return torch.special.gammaincc(x.floor().clamp_min(0) + 1, self.mean(outputs)) * (x >= 0)

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        return torch.poisson(self.mean(outputs), generator=rng)


class _NegativeBinomialModule(_CountModule):
    """With t = log mean - log r: log p = log Gamma(x + r) / (Gamma(r) x!) - r softplus(t) - x softplus(-t)."""

    def __init__(self, n_features: int):
        super().__init__(n_features)
        self.log_dispersion = nn.Parameter(torch.zeros(n_features, dtype=torch.float32))

    def _bounds(self) -> Tensor:
        """Least and largest of `log_dispersion`."""
        return self.log_dispersion.new_tensor(DISPERSIONS).log()

    def _log_r(self) -> Tensor:
        """Between its bounds; a step back inside keeps its gradient."""
        low, high = self._bounds()
        return -at_most(at_least(self.log_dispersion, low), high)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        log_r, x = double(self._log_r()), double(x)
        r, t = log_r.exp(), self.log_of_mean(outputs) - log_r
        rising, _ = rising_and_slope(x, r)
        return (rising - torch.lgamma(x + 1) - r * softplus(t) - x * softplus(-t)).to(outputs.dtype)

    def bends(self, outputs: Tensor, x: Tensor) -> Tensor:
        log_r = double(self._log_r())
        share = (self.log_of_mean(outputs) - log_r).sigmoid()
        return ((double(x) + log_r.exp()) * share * (share - 1) * (outputs <= self.max_log_mean)).to(outputs.dtype)

    def gradient(self, xp: Any) -> NLLGradient:
        """-log p = (x + r) softplus(t) - x t - log Gamma(x + r) / Gamma(r) + log x!."""
        assert self.log_dispersion.grad is not None
        most, grad, dispersion, bounds = as_arrays(
            xp, self.max_log_mean, self.log_dispersion.grad, self.log_dispersion, self._bounds()
        )
        low, high = bounds

        def nll_gradient(outputs: Any, rows: Any, cells: CellWeights) -> tuple[Any, Any]:
            x, log_factorial = counts_of(rows)
            log_r = -in_double(xp.minimum, xp.maximum(dispersion, low), high)
            r = xp.exp(log_r)
            t = xp.minimum(outputs, most) - log_r
            total, growth = x + r, xp.exp(t)
            softplus = xp.log1p(growth)
            rising, rising_slope = rising_and_slope(x, r)
            log_factorial -= rising
            nll = cells.mass * (total * softplus - x * t + log_factorial)
            growth /= 1 + growth
            slope = cells.mass * (total * growth - x)
            rising_slope -= softplus
            grad[...] = r * (cells.mass * rising_slope).sum(-2) + slope.sum(-2)
            grad[blocked(dispersion, grad, low, high)] = 0.0
            return nll, held_back(slope, outputs, most)

        return nll_gradient

    def cdf(self, outputs: Tensor, x: Tensor) -> Tensor:
        r = self._log_r().exp()
        return by_scipy(special.betainc, r, x.floor().clamp_min(0) + 1, r / (r + self.mean(outputs))) * (x >= 0)

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        r = self._log_r().exp()
        gamma = torch._standard_gamma(r.expand_as(outputs).contiguous(), generator=rng)
        return torch.poisson(gamma * self.mean(outputs) / r, generator=rng)

    def linear_start(self) -> LinearStart:
        """What the linear model's noise exceeds a Poisson's by is dispersion: Var[log rate] is about 1 / r."""
        poisson, (slope, least) = super().linear_start(), self.link()

        def from_linear(linear: LinearGaussian) -> tuple[Array, Array]:
            dispersion = (linear.noise * float(self.encoding.pooled_std) ** 2 - least) / slope**2
            dispersion = np.clip(dispersion, FIRST_DISPERSION, DISPERSIONS[1])
            self.log_dispersion.data.copy_(torch.as_tensor(np.log(dispersion)))
            return poisson.from_linear(linear)

        return replace(poisson, most=np.full(self.n_features, np.inf), from_linear=from_linear)


def _log_of_most(high: Tensor) -> Tensor:
    """The logarithm of the largest mean of columns whose largest counts are `high`."""
    return torch.log(MOST_TIMES * (high + 1))


def in_double(function: Any, first: Any, second: Any) -> Any:
    """A function of two numpy arrays, or of two tensors, in double precision."""
    if isinstance(first, Tensor):
        return function(double(first), double(second))
    return function(first, second, dtype=np.float64)


def counts_of(rows: Any) -> tuple[Any, Any]:
    """From a step's rows, x in double precision and log x!: two (N, D)."""
    n = rows.shape[-1] // 4
    log_factorial = in_double(namespace(rows).add, rows[:, 2 * n : 3 * n], rows[:, 3 * n :])
    return double(rows[:, n : 2 * n]), log_factorial


def held_back(slope: Any, outputs: Any, most: Any) -> Any:
    """The slope over outputs that `at_most` bounds, in their place."""
    passed = (outputs <= most) | (slope > 0)
    if isinstance(slope, Tensor):
        return outputs.copy_(slope * passed)
    return np.multiply(slope, passed, out=outputs, casting="same_kind")


def rising_and_slope(x: Any, r: Any) -> tuple[Any, Any]:
    """log Gamma(x + r) / Gamma(r) and its slope over r, psi(x + r) - psi(r), for x (N, D) and r (D,).

    Tensors or numpy arrays. From some r on they are differences of large numbers: Stirling's series has their digits.
    """
    xp, a = namespace(x), x + r
    functions = torch.special if xp is torch else special
    value, slope = functions.gammaln(a) - functions.gammaln(r), functions.psi(a) - functions.psi(r)
    is_large = r >= (LARGE_IN_DOUBLE if x.dtype in (np.float64, torch.float64) else LARGE)
    if torch.compiler.is_exporting():  # a graph's operators do not depend on values
        return xp.where(is_large, stirling_rising(x, r), value), xp.where(is_large, stirling_rising_slope(x, r), slope)
    (large,) = xp.where(is_large)
    if len(large):  # arrays are stored column by column: columns are picked as rows of the transpose
        x, r = x.T[large], r[large, None]
        value.T[large], slope.T[large] = stirling_rising(x, r), stirling_rising_slope(x, r)
    return value, slope


def stirling_rising(x: Any, r: Any) -> Any:
    """log Gamma(x + r) / Gamma(r) by Stirling's series."""
    xp, a = namespace(x), x + r
    i, j = 1 / a, 1 / r
    rest = i * (1 / 12 - i * i / 360) - j * (1 / 12 - j * j / 360)
    return (r - 0.5) * xp.log1p(x * j) + x * (xp.log(a) - 1) + rest


def stirling_rising_slope(x: Any, r: Any) -> Any:
    """Its derivative by r."""
    i, j = 1 / (x + r), 1 / r
    square, own_square = i * i, j * j
    rest = own_square * (1 / 12 - own_square / 120) - square * (1 / 12 - square / 120)
    return namespace(x).log1p(x * j) + 0.5 * (j - i) + rest


def log1p_moments(mean: Array) -> tuple[Array, Array]:
    """d E[log(1 + x)] / d log mean, and Var[log(1 + x)], for Poisson counts of these means: two (D,)."""
    slope, variance = mean / (1 + mean), mean / (1 + mean) ** 2
    few = mean < SUMMED_MEAN
    counts = np.arange(int(SUMMED_MEAN + 10 * math.sqrt(SUMMED_MEAN)))
    weight = stats.poisson.pmf(counts, mean[few, None])
    first, second = weight @ np.log1p(counts), weight @ np.log1p(counts) ** 2
    slope[few] = mean[few] * (weight @ np.log1p(1 / (1 + counts)))
    variance[few] = second - first**2
    return slope, variance
