"""Real-valued columns with outliers: Student's t and Laplace noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from numbers import Real
from typing import Any, ClassVar

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor

from .._linear import Covariance
from .._tables.batches import Rows
from .._tables.moments import Array, Moments, Scale
from .._torch import namespace
from ._base import Cells, Density, Likelihood, NLLGradient, as_arrays
from ._gaussian import FeatureNoise, standardised

__all__ = ["Laplace", "StudentT"]


class StudentT(Likelihood):
    """p(x|z) = t(mean(z), scale, df): real-valued columns, of which some cells are far off.

    One learnt variance per column. The logarithm of p falls like log |x|, so that an outlier pulls neither the mean nor
    the variance far.

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

    def scale(self, moments: Moments) -> Scale:
        return standardised(moments)

    def build(self, n_features: int, scale: Scale) -> Density:
        return _StudentTDensity(n_features, scale, self.noise_floor, self.df)


class Laplace(Likelihood):
    """p(x|z) = exp(-|x - mean(z)| / b) / 2b: real-valued columns, of which some cells are off.

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

    def scale(self, moments: Moments) -> Scale:
        return standardised(moments)

    def build(self, n_features: int, scale: Scale) -> Density:
        return _LaplaceDensity(n_features, scale, self.noise_floor)


class _LocationScale(FeatureNoise):
    """Any noise of one shape: log p = -energy(u) - log std, u = (x - mean) / std. Subclasses give the shape.

    `log_noise` is the logarithm of the variance, whatever the shape.
    """

    @abstractmethod
    def energy(self, u: Any) -> Any:
        """-log density of the noise of variance 1, for a tensor or a numpy array."""

    @abstractmethod
    def slope(self, u: Any) -> Any:
        """Its derivative."""

    @abstractmethod
    def draw(self, like: Tensor, rng: torch.Generator) -> Tensor:
        """Noise of variance 1, of the shape of `like`."""

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        mean, log_var = self.split(outputs)
        return -self.energy((x - mean) * torch.exp(-0.5 * log_var)) - 0.5 * log_var - self.log_scale

    def gradient_of_seen(self, xp: Any) -> NLLGradient:
        log_noise, bound, log_scale = as_arrays(xp, self.log_noise.detach(), self.bound(), self.log_scale)
        set_noise_gradient = self.noise_gradient_setter(xp)

        def nll_gradient(outputs: Any, seen: Any, cells: Cells) -> tuple[Any, Any]:
            log_var = xp.maximum(log_noise, bound)
            precision = xp.exp(-0.5 * log_var)
            u = (outputs - seen) * precision
            slope = cells.mass * self.slope(u)
            nll = cells.mass * (self.energy(u) + (log_scale + 0.5 * log_var))
            set_noise_gradient(0.5 * (cells.total - (slope * u).sum(-2)[..., None, :]))
            return nll, slope * precision

        return nll_gradient

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        mean, log_var = self.split(outputs)
        return mean + torch.exp(0.5 * log_var) * self.draw(mean, rng)

    def baseline_samples(self, rows: Rows, cov: Covariance, n_components: int) -> Array:
        """Of independent columns: the Gaussian's own would be another family's."""
        return Density.baseline_samples(self, rows, cov, n_components)


class _StudentTDensity(_LocationScale):
    def __init__(self, n_features: int, scale: Scale, noise_floor: float, df: float):
        super().__init__(n_features, scale, noise_floor)
        self.df = float(df)
        half = 0.5 * self.df
        self.log_norm = math.lgamma(half) - math.lgamma(half + 0.5) + 0.5 * math.log(math.pi * (self.df - 2))

    def energy(self, u: Any) -> Any:
        return 0.5 * (self.df + 1) * namespace(u).log1p(u * u / (self.df - 2)) + self.log_norm

    def slope(self, u: Any) -> Any:
        return (self.df + 1) * u / (self.df - 2 + u * u)

    def draw(self, like: Tensor, rng: torch.Generator) -> Tensor:
        normal = torch.randn(like.shape, generator=rng, dtype=like.dtype, device=like.device)
        half_chi2 = torch._standard_gamma(torch.full_like(like, 0.5 * self.df), generator=rng)
        return normal * torch.sqrt(0.5 * (self.df - 2) / half_chi2)


class _LaplaceDensity(_LocationScale):
    def energy(self, u: Any) -> Any:
        return math.sqrt(2) * abs(u) + 0.5 * math.log(2)

    def slope(self, u: Any) -> Any:
        return math.sqrt(2) * namespace(u).sign(u)

    def draw(self, like: Tensor, rng: torch.Generator) -> Tensor:
        """The difference of two exponential variables."""
        u = torch.rand((2, *like.shape), generator=rng, dtype=like.dtype, device=like.device)
        first, second = -torch.log1p(-u)
        return (first - second) / math.sqrt(2)
