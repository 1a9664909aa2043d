"""p(x|z): what the decoder's numbers mean, one file per family.

A `Likelihood` holds hyperparameters only (it can be cloned and searched). For one table it builds a `Density`, the
torch module that turns decoder outputs into log-probabilities, means and samples. Densities work in the model's
units, x = (X - shift) / scale, and report nats of the data's own units: the Jacobian -log(scale) is included.
"""

from __future__ import annotations

from .._linear import LinearGaussian
from .._tables.batches import Rows
from .._tables.moments import Scale
from ._base import Cells, Density, Likelihood, LinearStart
from ._bernoulli import Bernoulli, ContinuousBernoulli
from ._categorical import Categorical
from ._counts import NegativeBinomial, Poisson
from ._gaussian import Gaussian
from ._mixed import LIKELIHOODS, Auto, Mixed, described, fits_schema, resolved
from ._robust import Laplace, StudentT
from ._warped import JohnsonSU, LogNormal

__all__ = [
    "LIKELIHOODS",
    "Auto",
    "Bernoulli",
    "Categorical",
    "Cells",
    "ContinuousBernoulli",
    "Density",
    "Gaussian",
    "JohnsonSU",
    "Laplace",
    "Likelihood",
    "LinearGaussian",
    "LinearStart",
    "LogNormal",
    "Mixed",
    "NegativeBinomial",
    "Poisson",
    "Rows",
    "Scale",
    "StudentT",
    "described",
    "fits_schema",
    "resolved",
]
