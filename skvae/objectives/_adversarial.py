"""The adversarial autoencoder."""

from __future__ import annotations

from numbers import Real
from typing import ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from .._params import Count
from ._matched import MatchedCodes

__all__ = ["Adversarial"]


class Adversarial(MatchedCodes):
    """The adversarial autoencoder (Makhzani et al. 2015): minimise ||x - g(f(x))||^2 - weight log sigmoid(c(f(x))).

    A critic c learns to tell draws of p(z), which it should call real, from codes f(x), by lowering
    -log sigmoid(c(z)) - log(1 - sigmoid(c(f(x)))); encoder and decoder lower the error while they fool it. They take
    turns in every step. Codes have no spread of their own, and lie as the prior does when the critic can no longer
    tell: `sample` gives g(z), z from p(z). Any prior that can be drawn from will do, a mixture too. It is the
    Wasserstein autoencoder with a critic's penalty, for squared errors (Tolstikhin et al. 2018).

    The error is summed over columns, in the units that the encoder sees. There is no density, so `score`, `posterior`
    and `noise_variance_` are absent. A prior with parameters, such as a mixture, is fitted to the codes by maximum
    likelihood, in a turn of its own; one without a density stays as it started. Early stopping watches a neutral
    referee: the error and the codes' maximum mean discrepancy from the prior.

    Parameters
    ----------
    weight : float or "auto", default="auto"
        Of the critic's verdict. "auto": a tenth of the number of columns.
    width : int, default=64
        Units in each of the critic's two hidden layers.

    See Also
    --------
    skvae.ELBO : Each code has a spread, and rows a likelihood.

    References
    ----------
    Makhzani, A., Shlens, J., Jaitly, N., Goodfellow, I. and Frey, B. (2015). Adversarial autoencoders.
    arXiv:1511.05644.

    Tolstikhin, I., Bousquet, O., Gelly, S. and Schoelkopf, B. (2018). Wasserstein auto-encoders. arXiv:1711.01558.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer
    >>> vae = VAETransformer(2, objective="adversarial", max_iter=20, random_state=0).fit(load_iris().data)
    >>> vae.sample(5, random_state=0).shape
    (5, 4)
    >>> sorted(vae.history_)
    ['critic', 'error', 'gan', 'loss']
    """

    __module__ = "skvae.objectives"

    _parameter_constraints: ClassVar[dict] = {
        "weight": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "width": [Count()],
    }

    penalty = "gan"
    kernel = "imq"

    def __init__(self, weight: float | str = "auto", *, width: int = 64) -> None:
        self.weight = weight
        self.width = width
