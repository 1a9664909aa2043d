"""Real-valued columns with outliers: Student's t and Laplace noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from numbers import Real
from typing import Any, ClassVar

import torch
from scipy.special import stdtr
from sklearn.utils._param_validation import Interval
from torch import Tensor

from .._tables.moments import Scale
from .._torch import namespace
from ._base import LikelihoodModule, Standardised, by_scipy
from ._location_scale import FeatureNoise, Shape

__all__ = ["Laplace", "StudentT"]


class StudentT(Standardised):
    """Real-valued columns of which some cells are far off: p(x|z) = t(mean(z), scale, df).

    One learnt variance per column. The logarithm of p falls like the logarithm of x, so that an outlier pulls neither
    the mean nor the variance far.

    Parameters
    ----------
    df : float, default=4.0
        Degrees of freedom, above 2, so that there is a variance. Fewer: heavier tails.
    noise_floor : float, default=1e-3
        The smallest noise variance, as a share of the column's variance.

    See Also
    --------
    Laplace : Lighter tails.
    JohnsonSU : Heavy tails with one noise for all columns.

    References
    ----------
    Lange, K. L., Little, R. J. A. and Taylor, J. M. G. (1989). Robust statistical modeling using the t distribution.
    Journal of the American Statistical Association 84, 881-896.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skvae import VAETransformer, StudentT
    >>> X = load_diabetes().data
    >>> VAETransformer(2, likelihood=StudentT(df=3), random_state=0).fit(X).noise_variance_.shape
    (10,)
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {
        "df": [Interval(Real, 2, None, closed="neither")],
        "noise_floor": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(self, df: float = 4.0, *, noise_floor: float = 1e-3) -> None:
        self.df = df
        self.noise_floor = noise_floor

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        return FeatureNoise(scale, self.noise_floor, _StudentTNoise(self.df))


class Laplace(Standardised):
    """Real-valued columns of which some cells are off: p(x|z) = `exp(-|x - mean(z)| / b) / 2b`.

    One learnt b per column. Training lowers absolute errors, so `mean` is a median too.

    Parameters
    ----------
    noise_floor : float, default=1e-3
        The smallest noise variance, 2 b^2, as a share of the column's variance.

    See Also
    --------
    StudentT : Heavier tails.
    Gaussian : Lighter tails.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skvae import VAETransformer
    >>> X = load_diabetes().data
    >>> VAETransformer(2, likelihood="laplace", random_state=0).fit(X).transform(X).shape
    (442, 2)
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {"noise_floor": [Interval(Real, 0, 1, closed="neither")]}

    def __init__(self, *, noise_floor: float = 1e-3) -> None:
        self.noise_floor = noise_floor

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        return FeatureNoise(scale, self.noise_floor, _LaplaceNoise())


class _ByEnergy(Shape):
    """-log density is `energy(u) + log_norm`. Subclasses state the energy and its slope, of tensors or numpy arrays."""

    @abstractmethod
    def energy(self, u: Any) -> Any:
        """-log density, but for a constant."""

    @abstractmethod
    def slope(self, u: Any) -> Any:
        """Its derivative."""

    def log_density(self, u: Tensor, log_var: Tensor) -> Tensor:
        return -self.energy(u) - (self.log_norm + 0.5 * log_var)

    def weigh(self, xp: Any, residual: Any, log_var: Any, mass: Any) -> tuple[Any, Any, Any]:
        precision = xp.exp(-0.5 * log_var)
        u = residual * precision
        slope = mass * self.slope(u)
        return slope * precision, slope * u, mass * self.energy(u)


class _StudentTNoise(_ByEnergy):
    def __init__(self, df: float):
        self.df = float(df)
        half = 0.5 * self.df
        self.log_norm = math.lgamma(half) - math.lgamma(half + 0.5) + 0.5 * math.log(math.pi * (self.df - 2))

    def energy(self, u: Any) -> Any:
        return 0.5 * (self.df + 1) * namespace(u).log1p(u * u / (self.df - 2))

    def slope(self, u: Any) -> Any:
        return (self.df + 1) * u / (self.df - 2 + u * u)

    def cdf(self, u: Tensor) -> Tensor:
        return by_scipy(stdtr, self.df, u * math.sqrt(self.df / (self.df - 2)))

    def draw(self, like: Tensor, rng: torch.Generator) -> Tensor:
        normal = torch.randn(like.shape, generator=rng, dtype=like.dtype, device=like.device)
        half_chi2 = torch._standard_gamma(torch.full_like(like, 0.5 * self.df), generator=rng)
        return normal * torch.sqrt(0.5 * (self.df - 2) / half_chi2)


class _LaplaceNoise(_ByEnergy):
    log_norm = 0.5 * math.log(2)

    def energy(self, u: Any) -> Any:
        return math.sqrt(2) * abs(u)

    def slope(self, u: Any) -> Any:
        return math.sqrt(2) * namespace(u).sign(u)

    def cdf(self, u: Tensor) -> Tensor:
        tail = 0.5 * torch.exp(-math.sqrt(2) * u.abs())
        return torch.where(u > 0, 1 - tail, tail)

    def draw(self, like: Tensor, rng: torch.Generator) -> Tensor:
        """The difference of two exponential variables."""
        u = torch.rand((2, *like.shape), generator=rng, dtype=like.dtype, device=like.device)
        first, second = -torch.log1p(-u)
        return (first - second) / math.sqrt(2)
