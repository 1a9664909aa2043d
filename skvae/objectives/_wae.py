"""The Wasserstein autoencoder."""

from __future__ import annotations

from numbers import Real
from typing import ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from .._params import Count
from ._matched import MatchedCodes
from ._mmd import KERNELS

__all__ = ["WAE"]


class WAE(MatchedCodes):
    """The Wasserstein autoencoder (Tolstikhin et al. 2018): minimise ||x - g(f(x))||^2 + weight D(f(x), p(z)).

    Codes f(x) have no spread of their own; the penalty D asks that those of all rows together lie as the prior does,
    so that rows can be drawn: `sample` gives g(z), z from p(z). It needs draws of p(z) alone, whatever prior that is.

    With "mmd", D is the maximum mean discrepancy of a batch's codes and as many draws of p(z), the U-statistic

        MMD^2 = mean_{i != j} k(z_i, z_j) + mean_{i != j} k(p_i, p_j) - 2 mean_{i, j} k(z_i, p_j),

    with k(a, b) = C / (C + ||a - b||^2) ("imq") or exp(-||a - b||^2 / C) ("rbf"), averaged over C from 0.1 to 10 times
    2 J, the mean squared distance of two draws of N(0, I).

    With "gan", a critic c learns to tell draws of p(z) from codes, and D is -log sigmoid(c(f(x))): an adversarial
    autoencoder. The two take turns.

    The error is summed over columns, in the units that the encoder sees. There is no density, so `score`, `posterior`
    and `noise_variance_` are absent. A prior with parameters, such as a mixture, is fitted to the codes by maximum
    likelihood, in a turn of its own; one without a density stays as it started. Early stopping watches the error and
    the MMD, with either penalty.

    Parameters
    ----------
    penalty : {"mmd", "gan"}, default="mmd"
        How codes are held to the prior.
    kernel : {"imq", "rbf"}, default="imq"
        Of the MMD; "imq" also feels codes that lie far out.
    weight : float or "auto", default="auto"
        Of the penalty. "auto": the number of columns for "mmd", a tenth of it for "gan".
    width : int, default=64
        Units in each of the critic's two hidden layers.

    See Also
    --------
    skvae.ELBO : Each code has a spread, and rows a likelihood.

    References
    ----------
    Tolstikhin, I., Bousquet, O., Gelly, S. and Schoelkopf, B. (2018). Wasserstein auto-encoders. arXiv:1711.01558.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer
    >>> vae = VAETransformer(2, objective="wae", max_iter=20, random_state=0).fit(load_iris().data)
    >>> vae.sample(5, random_state=0).shape
    (5, 4)
    >>> sorted(vae.history_)
    ['error', 'loss', 'mmd']
    """

    __module__ = "skvae.objectives"

    _parameter_constraints: ClassVar[dict] = {
        "penalty": [StrOptions({"mmd", "gan"})],
        "kernel": [StrOptions(set(KERNELS))],
        "weight": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "width": [Count()],
    }

    def __init__(
        self, penalty: str = "mmd", *, kernel: str = "imq", weight: float | str = "auto", width: int = 64
    ) -> None:
        self.penalty = penalty
        self.kernel = kernel
        self.weight = weight
        self.width = width
