"""The likelihoods that a name stands for."""

from __future__ import annotations

from collections.abc import Callable

from ._auto import Auto
from ._base import Likelihood
from ._bernoulli import Bernoulli, ContinuousBernoulli
from ._categorical import Categorical
from ._counts import NegativeBinomial, Poisson
from ._gaussian import Gaussian
from ._given import Given
from ._multinomial import Multinomial
from ._normal_score import NormalScore
from ._robust import Laplace, StudentT
from ._warped import JohnsonSU, LogNormal

__all__ = ["LIKELIHOODS"]

LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "auto": Auto,
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "given": Given,
    "johnson_su": JohnsonSU,
    "laplace": Laplace,
    "log_normal": LogNormal,
    "multinomial": Multinomial,
    "negative_binomial": NegativeBinomial,
    "normal_score": NormalScore,
    "poisson": Poisson,
    "student_t": StudentT,
}
