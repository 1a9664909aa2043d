"""p(z) as a learnt mixture of Gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .._clusters import clusters_of
from .._params import Count
from .._tables.batches import Table
from .._torch import double, namespace
from ._base import Prior, PriorSpec
from ._modes import Modes, codes, drawn_rows, quadratic

__all__ = ["Mixture", "MixturePrior"]


# Log variances of a mixture's modes are kept within plus and minus this; modes that start nowhere in particular start
# so far from the origin.
MODE_LOG_VAR, MODE_SPREAD = 7.0, 1.5
# At its start a mode takes so many of its rows from all modes alike: a few rows have no variance of their own.
SHARED_ROWS = 5.0


class MixturePrior(Modes):
    """p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2), all of it learnt with the model (Jiang et al. 2017).

    Parameters
    ----------
    n_components : int
        J, the number of latents.
    n_modes : int
        K, the number of Gaussians.
    """

    states_gradient = True

    def __init__(self, n_components: int, n_modes: int):
        super().__init__(n_components)
        shape = n_modes, n_components
        self.mean = nn.Parameter(MODE_SPREAD * torch.randn(shape, dtype=torch.float32))
        self.log_var = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        self.logit = nn.Parameter(torch.zeros(n_modes, dtype=torch.float32))

    def modes(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.mean, self.log_var.clamp(-MODE_LOG_VAR, MODE_LOG_VAR), torch.log_softmax(self.logit, dim=0)

    def log_prob_gradient(self, z: Any) -> tuple[Any, Callable[[Any], Any]]:
        """Every mode has its share of the slopes: shares are the softmax of the modes' terms."""
        xp, n = namespace(z), self.n_components
        parts = self.mean, self.log_var, self.logit
        mean, log_var, logit = (double(_memory(xp, part)) for part in parts)
        held = xp.clip(log_var, -MODE_LOG_VAR, MODE_LOG_VAR)
        total, weight = _softmax(xp, logit)
        constant, factors = quadratic(mean, held, logit - total)
        exact = double(z)
        powers = xp.concat([exact * exact, exact], -1)
        log_p, share = _softmax(xp, constant + powers @ factors)

        def back(counts: Any) -> Any:
            counted = double(counts) * share
            mass, sums = counted.sum(0), counted.T @ powers
            about = sums[:, n:] - mean * mass[:, None]
            squares = sums[:, :n] - mean * (sums[:, n:] + about)
            precision = xp.exp(-held)
            slope_log_var = 0.5 * (mass[:, None] - precision * squares) * (held == log_var)
            slopes = -precision * about, slope_log_var, weight * mass.sum() - mass
            for part, slope in zip(parts, slopes, strict=True):
                _memory(xp, part.grad)[...] = slope
            by_power = counted @ factors.T
            return xp.asarray(-2 * exact * by_power[:, :n] - by_power[:, n:], dtype=z.dtype)

        return xp.asarray(log_p, dtype=z.dtype), back

    @torch.no_grad()
    def start(self, model: Any, rows: Table, rng: torch.Generator) -> None:
        """At the clusters that k-means finds among the codes: as wide as their codes lie and as q(z|x) is."""
        some = drawn_rows(rows, rng)
        mean, var = (values.double().numpy() for values in codes(model, some))
        weight = np.ones(len(mean)) if some.weight is None else some.weight.double().numpy()
        known, labels, centers = clusters_of(mean, weight, len(self.logit), rng)
        n_clusters = len(centers)
        if not n_clusters:
            return  # the first epoch will say that the model gives no numbers
        mean, var, weight = mean[known], var[known], weight[known]
        of_cluster = (labels == np.arange(n_clusters)[:, None]) * weight
        mass = of_cluster.sum(1, keepdims=True)
        centre = of_cluster @ mean / mass
        within = of_cluster @ (var + np.square(mean - centre[labels]))
        within += SHARED_ROWS * within.sum(0) / mass.sum()
        log_var = np.log(within / (mass + SHARED_ROWS) + math.exp(-MODE_LOG_VAR))
        # Of fewer clusters than modes each has several.
        at = np.arange(len(self.logit)) % n_clusters
        log_weight = np.log(mass[:, 0] / np.bincount(at))
        for parameter, values in zip((self.mean, self.log_var, self.logit), (centre, log_var, log_weight), strict=True):
            parameter.copy_(torch.from_numpy(values[at]))


def _memory(xp: Any, tensor: Any) -> Any:
    """An array of numpy or torch on the tensor's own memory."""
    return tensor.detach().numpy() if xp is np else tensor.detach()


def _softmax(xp: Any, terms: Any) -> tuple[Any, Any]:
    """log sum exp over the last axis, which stays, and the terms' shares of it."""
    top = xp.amax(terms, axis=-1, keepdims=True)
    share = xp.exp(terms - top)
    total = share.sum(-1)[..., None]
    return top + xp.log(total), share / total


class Mixture(PriorSpec):
    """Latents in groups: p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2), all of it learnt with the model.

    Rows that form groups need not be squeezed into one Gaussian (Jiang et al. 2017, variational deep embedding; Tomczak
    & Welling 2018 compare it as MoG). Training starts at the clusters that k-means finds among the first codes. The KL
    has no closed form and is averaged over the objective's draws.

    Parameters
    ----------
    n_modes : int, default=10
        K, the number of Gaussians.

    See Also
    --------
    Vamp : The Gaussians are the posteriors of rows that are learnt: fewer parameters where there are many latents.

    References
    ----------
    Jiang, Z. et al. (2017). Variational deep embedding: an unsupervised and generative approach to clustering.
    arXiv:1611.05148.

    Tomczak, J. M. and Welling, M. (2018). VAE with a VampPrior. arXiv:1705.07120.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer
    >>> from skvae.priors import Mixture
    >>> vae = VAETransformer(2, prior=Mixture(3), max_iter=20, random_state=0).fit(load_iris().data)
    >>> vae.sample(5, random_state=0).shape
    (5, 4)
    """

    __module__ = "skvae.priors"

    _parameter_constraints: ClassVar[dict] = {"n_modes": [Count()]}

    def __init__(self, n_modes: int = 10) -> None:
        self.n_modes = n_modes

    def build(self, n_components: int, density: Any) -> Prior:
        return MixturePrior(n_components, self.n_modes)
