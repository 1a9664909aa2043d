"""p(x|z): what the decoder's numbers mean, one file per family.

A `Likelihood` holds hyperparameters only (it can be cloned and searched). For one table it builds a `LikelihoodModule`,
which plays three roles: it is p(x|z); its `encoding` is what the encoder sees of a row; and its `linear_start` says how
training starts at a linear model. Modules work in the model's units, x = (X - shift) / scale, and report nats of the
data's own units: the Jacobian -log(scale) is included.
"""

from __future__ import annotations

from .._tables.moments import Scale
from ._auto import Auto
from ._base import (
    CellWeights,
    Likelihood,
    LikelihoodModule,
    LinearStart,
    NLLGradient,
    Standardised,
    Unscaled,
    autograd_gradient,
)
from ._bernoulli import Bernoulli, ContinuousBernoulli
from ._categorical import Categorical
from ._counts import NegativeBinomial, Poisson
from ._encoding import Encoding, Identity, column_sums
from ._gaussian import Gaussian
from ._given import Given
from ._mixed import Mixed
from ._multinomial import Multinomial
from ._names import LIKELIHOODS
from ._normal_score import NormalScore
from ._resolve import described, fits_schema, given_columns, resolved
from ._robust import Laplace, StudentT
from ._start import (
    baseline,
    baseline_samples,
    covariance,
    linear_model,
    max_latents,
    start_linear,
)
from ._warped import JohnsonSU, LogNormal

__all__ = [
    "LIKELIHOODS",
    "Auto",
    "Bernoulli",
    "Categorical",
    "CellWeights",
    "ContinuousBernoulli",
    "Encoding",
    "Gaussian",
    "Given",
    "Identity",
    "JohnsonSU",
    "Laplace",
    "Likelihood",
    "LikelihoodModule",
    "LinearStart",
    "LogNormal",
    "Mixed",
    "Multinomial",
    "NLLGradient",
    "NegativeBinomial",
    "NormalScore",
    "Poisson",
    "Scale",
    "Standardised",
    "StudentT",
    "Unscaled",
    "autograd_gradient",
    "baseline",
    "baseline_samples",
    "column_sums",
    "covariance",
    "described",
    "fits_schema",
    "given_columns",
    "linear_model",
    "max_latents",
    "resolved",
    "start_linear",
]


def __dir__() -> list[str]:
    return __all__
