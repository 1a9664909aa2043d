"""skvae: the variational autoencoder as a scikit-learn estimator."""

from .anomaly import VAEAnomalyDetector
from .likelihoods import Bernoulli, Gaussian, JohnsonSU
from .model_selection import VAETransformerCV
from .networks import MLP
from .objectives import ELBO, IWAE
from .transformer import VAETransformer

__all__ = [
    "ELBO",
    "IWAE",
    "MLP",
    "Bernoulli",
    "Gaussian",
    "JohnsonSU",
    "VAEAnomalyDetector",
    "VAETransformer",
    "VAETransformerCV",
]
__version__ = "0.1.0"
