"""Codes that are pulled to the centres of their clusters while they are learnt."""

from __future__ import annotations

from numbers import Real
from typing import ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn

from .._clusters import clusters_of
from .._params import Count
from .._tables.batches import Batch, Table
from ..model import VAE, Dims, Emitted
from ._base import OnePass

__all__ = ["Clustered"]

# Rows at most whose codes k-means looks at.
KMEANS_ROWS = 10_000


class Clustered(OnePass):
    """Codes pulled to cluster centres (Yang et al. 2017): ||x - g(f(x))||^2 + weight D min_k ||f(x) - c_k||^2 / V.

    The encoder f gives a code of J numbers per row, the decoder g a row back. After `warmup` epochs the centres c_k are
    put where k-means finds them among the codes; from then on they are learnt with the networks, and every code is
    pulled to its nearest one. V is the mean squared distance of a batch's codes from the middle of the centres: without
    it codes would meet the pull by shrinking, which tells nothing. The error is a sum over the D columns, in the units
    that the encoder sees, and so is the pull.

    Cluster the codes with any method, or take `cluster_centers_`, a fitted attribute of the estimator: an array of
    shape (n_clusters, n_components_), in the order in which `transform` has the latents. There is no p(x), so `score`,
    `score_samples`, `posterior` and `sample` are absent.

    Parameters
    ----------
    n_clusters : int, default=8
        K, the number of centres, from 2 on.
    weight : float, default=1.0
        Of the pull.
    warmup : int, default=20
        Epochs without the pull; `fit` warns where `max_iter` has no more. Too early it holds rows where the first codes
        happened to put them; let it come when the error hardly falls any more.

    See Also
    --------
    sklearn.cluster.KMeans : Finds the centres, and labels for the codes.

    References
    ----------
    Yang, B., Fu, X., Sidiropoulos, N. D. and Hong, M. (2017). Towards k-means-friendly spaces: simultaneous deep
    learning and clustering. ICML, 3861-3870.

    Xie, J., Girshick, R. and Farhadi, A. (2016). Unsupervised deep embedding for clustering analysis. ICML, 478-487.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.metrics import pairwise_distances_argmin
    >>> from skvae import VAETransformer
    >>> from skvae.objectives import Clustered
    >>> X = load_digits().data
    >>> vae = VAETransformer(8, objective=Clustered(10, warmup=10), max_iter=15, random_state=0).fit(X)
    >>> vae.cluster_centers_.shape
    (10, 8)
    >>> labels = pairwise_distances_argmin(vae.transform(X), vae.cluster_centers_)
    >>> labels.shape
    (1797,)
    """

    __module__ = "skvae.objectives"

    _parameter_constraints: ClassVar[dict] = {
        "n_clusters": [Count(2)],
        "weight": [Interval(Real, 0, None, closed="left")],
        "warmup": [Count(0)],
    }

    def __init__(self, n_clusters: int = 8, *, weight: float = 1.0, warmup: int = 20) -> None:
        self.n_clusters = n_clusters
        self.weight = weight
        self.warmup = warmup

    @property
    def ramp(self) -> int:
        return self.warmup + 1

    def modules(self, dims: Dims) -> dict[str, nn.Module]:
        return {"centers": nn.Embedding(self.n_clusters, dims.n_components, dtype=torch.float32)}

    def start(self, model: VAE, rows: Table, rng: torch.Generator) -> None:
        self._place(model, rows, rng)

    def begin_epoch(self, model: VAE, rows: Table, rng: torch.Generator, epoch: int) -> None:
        """Put the centres where the codes are by now, before they begin to pull."""
        if 1 < epoch == self.warmup + 1:
            self._place(model, rows, rng)

    def attributes(self, weights: dict[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
        return {"cluster_centers_": weights["extras.centers.weight"][:, order].astype(np.float64)}

    def terms(
        self, emitted: Emitted, batch: Batch, model: VAE, rng: torch.Generator, epoch: float
    ) -> dict[str, Tensor]:
        """||x - g(f(x))||^2 + weight D min_k ||f(x) - c_k||^2 / V, V the batch's mean of ||f(x) - mean_k c_k||^2."""
        error, centers = model.squared_error(emitted.outputs, batch), self._centers(model)
        distance = (emitted.z[:, None] - centers).square().sum(-1).amin(-1)
        variance = batch.mean((emitted.z - centers.mean(0)).square().sum(-1))
        pull = distance / variance.clamp_min(torch.finfo(variance.dtype).tiny)
        weight = self.weight * batch.n_features if epoch > self.warmup else 0.0
        return {"loss": error + weight * pull, "error": error, "pull": pull}

    def _centers(self, model: VAE) -> Tensor:
        centers = model.extras["centers"].weight
        assert isinstance(centers, Tensor)
        return centers

    @torch.no_grad()
    def _place(self, model: VAE, rows: Table, rng: torch.Generator) -> None:
        """Centres by k-means of the codes of some rows."""
        if self.n_clusters > len(rows):
            raise ValueError(f"n_clusters={self.n_clusters} takes as many training rows; there are {len(rows)}.")
        some = rows.some(KMEANS_ROWS, rng)
        codes = model.encode_mean(some.x, some.mask).cpu().double().numpy()
        weight = np.ones(len(codes)) if some.weight is None else some.weight.cpu().double().numpy()
        found = clusters_of(codes, weight, self.n_clusters, rng).centers
        if not len(found):
            return  # the loss is no number either, and says so
        # Of fewer different codes some have several centres.
        self._centers(model).copy_(torch.from_numpy(found[np.arange(self.n_clusters) % len(found)]))
