"""p(x|z): what the decoder's numbers mean, one file a family.

A `Likelihood` holds hyperparameters only (it can be cloned and searched). For one table it builds a `Density`, the
torch module that turns decoder outputs into log-probabilities, means and samples. Densities work in the model's
units, x = (X - shift) / scale, and report nats of the data's own units: the Jacobian -log(scale) is included.
"""

from __future__ import annotations

from ._base import Cells, Density, Likelihood, LinearStart
from ._bernoulli import Bernoulli
from ._gaussian import Gaussian
from ._johnson_su import JohnsonSU

__all__ = ["LIKELIHOODS", "Bernoulli", "Cells", "Density", "Gaussian", "JohnsonSU", "Likelihood", "LinearStart"]

LIKELIHOODS: dict[str, type[Likelihood]] = {"gaussian": Gaussian, "bernoulli": Bernoulli, "johnson_su": JohnsonSU}
