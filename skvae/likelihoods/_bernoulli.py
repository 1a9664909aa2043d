"""Columns between 0 and 1: zeros and ones, or fractions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from .._tables.moments import Array, Scale
from .._torch import fast_log
from ._base import CellWeights, LikelihoodModule, Linked, NLLGradient, Unscaled, as_arrays, refuse, weighed
from ._encoding import Centred

__all__ = ["Bernoulli", "ContinuousBernoulli"]

# Below this, |logit| is small enough for the first terms of the series, and too small for the quotients.
SMALL_LOGIT = 0.05
# The same in double precision, where the quotients keep their digits much longer.
SMALL_DOUBLE_LOGIT = 1e-6
# Logits that a column's mean may start at.
LARGEST_LOGIT = 50.0


class Bernoulli(Unscaled):
    """Columns of 0 and 1, or images in [0, 1]: p(x|z) = prob(z)^x (1 - prob(z))^(1 - x).

    The decoder emits logits. On fractional values this is a cross entropy and no density (at a probability of 0.1
    it integrates to 0.36 over [0, 1]): fine for images, not to be compared with another model's likelihood.
    :class:`ContinuousBernoulli` is a density there.

    See Also
    --------
    ContinuousBernoulli : A density on [0, 1], for fractions.
    Categorical : More than two categories.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import VAETransformer
    >>> X = load_digits().data > 7
    >>> vae = VAETransformer(8, likelihood="bernoulli", max_iter=5, random_state=0).fit(X)
    >>> vae.sample(2, random_state=0).shape
    (2, 64)
    """

    __module__ = "skvae"

    positive_only = True
    yes_or_no = True

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        return _BernoulliModule(n_features)

    def check(self, X: Array, names: Sequence[str]) -> None:
        refuse(X, (X < 0) | (X > 1), names, "likelihood='bernoulli' takes values in [0, 1]")


class ContinuousBernoulli(Unscaled):
    """Fractions and grey values: p(x|z) = exp(logit(z) x) / A(z) on [0, 1] (Loaiza-Ganem & Cunningham 2019).

    The Bernoulli's cross entropy with the constant that makes it a density. Its mean is 1/2 at a logit of 0 and goes
    to 0 or 1 more slowly than a probability.

    See Also
    --------
    Bernoulli : For columns of 0 and 1.

    References
    ----------
    Loaiza-Ganem, G. and Cunningham, J. P. (2019). The continuous Bernoulli: fixing a pervasive error in variational
    autoencoders. arXiv:1907.06845.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import VAETransformer
    >>> X = load_digits().data / 16
    >>> vae = VAETransformer(8, likelihood="continuous_bernoulli", max_iter=5, random_state=0).fit(X)
    >>> vae.score(X) > 20  # nats per image: a density on [0, 1] can exceed 1
    True
    """

    __module__ = "skvae"

    positive_only = True

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        return _ContinuousBernoulliModule(n_features)

    def check(self, X: Array, names: Sequence[str]) -> None:
        refuse(X, (X < 0) | (X > 1), names, "likelihood='continuous_bernoulli' takes values in [0, 1]")


class _UnitInterval(Linked):
    """log p = logit (x - 1/2) - f(logit) with an even f, whose slope is what the mean exceeds 1/2 by.

    Half a one and half a zero are added to every column.
    """

    columns_apart = True

    def __init__(self, n_features: int):
        super().__init__(n_features, n_features, Centred(n_features, pseudo_mean=0.5, pseudo_count=1.0))

    @abstractmethod
    def even(self, size: Any) -> tuple[Any, Any]:
        """f and its slope at logits of 0 and above, tensors or numpy arrays, which may be overwritten."""

    def gradient(self, xp: Any) -> NLLGradient:
        mean, unit = as_arrays(xp, self.encoding.column_mean, self.encoding.pooled_std)
        offset = mean - 0.5

        def nll_gradient(outputs: Any, rows: Any, cells: CellWeights) -> tuple[Any, Any]:
            # In place: a wide table's arrays cost more to make than to fill.
            lean = unit * rows
            lean += offset  # x - 1/2
            value, slope = self.even(abs(outputs))
            slope = xp.copysign(slope, outputs)
            slope -= lean
            slope *= cells.mass
            lean *= outputs
            value -= lean
            return weighed(value, cells.mass), slope

        return nll_gradient


class _BernoulliModule(_UnitInterval):
    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return x * outputs - softplus(outputs)

    def bends(self, outputs: Tensor, x: Tensor) -> Tensor:
        p = outputs.sigmoid()
        return p * (p - 1)

    def cdf(self, outputs: Tensor, x: Tensor) -> Tensor:
        return torch.where(x < 1, (-outputs).sigmoid(), 1.0) * (x >= 0)

    def even(self, size: Any) -> tuple[Any, Any]:
        """log(2 cosh(logit / 2)) and a probability less 1/2, from one exponential."""
        tensor = isinstance(size, Tensor)
        p = size.sigmoid() if tensor else 1 / (1 + np.exp(-size))
        size *= 0.5
        size -= fast_log(p) if tensor else np.log(p)
        p -= 0.5
        return size, p

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        return torch.bernoulli(outputs.sigmoid(), generator=rng)

    def link(self) -> tuple[Array, Array]:
        """Both are p (1 - p)."""
        share = self.encoding.share
        variance = share * (1 - share)
        return variance, variance

    def bias(self, square: Array) -> Array:
        """E[sigmoid(b + w z)] is about sigmoid(b / sqrt(1 + pi w^2 / 8)) (MacKay 1992)."""
        share = self.encoding.share
        return (np.log(share) - np.log1p(-share)) * np.sqrt(1 + np.pi / 8 * square)


class _ContinuousBernoulliModule(_UnitInterval):
    """log p = logit x - log A, A = (exp(logit) - 1) / logit."""

    max_swing = 3.0

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return x * outputs - 0.5 * outputs - _even_log_norm(outputs.abs())

    def cdf(self, outputs: Tensor, x: Tensor) -> Tensor:
        """(exp(logit x) - 1) / (exp(logit) - 1), from the side that the mass is on."""
        size = outputs.abs().clamp_min(torch.finfo(outputs.dtype).tiny)
        from_end = torch.where(outputs > 0, 1 - x, x).clamp(0, 1)
        share = torch.expm1(-size * from_end) / torch.expm1(-size)
        return torch.where(outputs > 0, 1 - share, share)

    def even(self, size: Any) -> tuple[Any, Any]:
        """log(2 sinh(logit / 2) / logit). numpy's is in double precision, which needs no series around 0."""
        if isinstance(size, Tensor):
            return _even_log_norm(size), self.mean(size) - 0.5
        minus = -np.maximum(size, SMALL_DOUBLE_LOGIT, dtype=np.float64)
        lack = np.expm1(minus)
        slope = 1 / minus - 1 / lack - 0.5
        return np.log(lack / minus) - 0.5 * minus, slope.astype(size.dtype)

    def mean(self, outputs: Tensor) -> Tensor:
        """d log A / d logit = 1 / (1 - exp(-logit)) - 1 / logit, which is 1/2 + logit/12 around 0."""
        small = outputs.abs() < SMALL_LOGIT
        safe = torch.where(small, 1.0, outputs)
        series = 0.5 + outputs / 12 - outputs**3 / 720
        return torch.where(small, series, -1 / torch.expm1(-safe) - 1 / safe)

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        """By the inverse of the distribution function, from the side that the mass is on."""
        u = torch.rand(outputs.shape, generator=rng, dtype=outputs.dtype, device=outputs.device)
        size = outputs.abs()
        safe = torch.where(size < SMALL_LOGIT, SMALL_LOGIT, size)
        from_one = -torch.log1p(u * torch.expm1(-safe)) / safe
        # Around a logit of 0 the density is 1 + logit (x - 1/2).
        near = torch.where(size < SMALL_LOGIT, u - 0.5 * size * u * (1 - u), from_one)
        return torch.where(outputs > 0, 1 - near, near)

    def link(self) -> tuple[Array, Array]:
        """Both are the variance at the logit whose mean is the column's."""
        _, variance = self._logit_and_variance()
        return variance, variance

    def bias(self, square: Array) -> Array:
        """Near enough to linear to leave the spread out."""
        return self._logit_and_variance()[0]

    def _logit_and_variance(self) -> tuple[Array, Array]:
        """The logit whose mean is the column's, and the variance there, from a table of both."""
        grid = torch.linspace(-LARGEST_LOGIT, LARGEST_LOGIT, 4001, dtype=torch.float64)
        means = self.mean(grid).numpy()
        logit = np.interp(self.encoding.share, means, grid.numpy())
        return logit, np.interp(logit, grid.numpy(), np.gradient(means, grid.numpy()))


def _even_log_norm(size: Tensor) -> Tensor:
    """log((exp(size) - 1) / size) - size / 2: size^2 / 24 - ... around 0."""
    small = size < SMALL_LOGIT
    safe = torch.where(small, 1.0, size)
    series = size**2 / 24 - size**4 / 2880
    return torch.where(small, series, 0.5 * safe + torch.log(-torch.expm1(-safe)) - safe.log())
