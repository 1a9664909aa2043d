"""skvae: the variational autoencoder as a scikit-learn estimator.

Public classes say `__module__ = "skvae"`: users import them from here, and saved models name them so.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._checkpoint import Checkpoint
from ._trusted import TRUSTED_TYPES
from ._version import __version__ as __version__
from .anomaly import VAEAnomalyDetector
from .classifier import VAEClassifier
from .imputer import VAEImputer
from .likelihoods import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    Given,
    JohnsonSU,
    Laplace,
    LogNormal,
    Mixed,
    Multinomial,
    NegativeBinomial,
    NormalScore,
    Poisson,
    StudentT,
)
from .model_selection import VAETransformerCV
from .networks import MLP
from .objectives import ELBO, IWAE
from .pooling import pool
from .transformer import VAETransformer

__all__ = [
    "ELBO",
    "IWAE",
    "MLP",
    "TRUSTED_TYPES",
    "Bernoulli",
    "Categorical",
    "Checkpoint",
    "ContinuousBernoulli",
    "Gaussian",
    "Given",
    "JohnsonSU",
    "Laplace",
    "LogNormal",
    "Mixed",
    "Multinomial",
    "NegativeBinomial",
    "NormalScore",
    "Poisson",
    "StudentT",
    "VAEAnomalyDetector",
    "VAEClassifier",
    "VAEImputer",
    "VAETransformer",
    "VAETransformerCV",
    "pool",
]

# What a user finds here beside these names: rooms that `import skvae` does not need are imported when asked for.
_ROOMS = ["export", "likelihoods", "metrics", "networks", "objectives", "plotting", "priors"]


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS, "__version__"]


if not TYPE_CHECKING:  # type checkers would take any name for one of these

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
