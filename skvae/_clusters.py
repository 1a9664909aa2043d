"""Clusters of codes: where a learnt mixture and the centres of a clustering begin."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ._torch import seed_from, thread_limit

__all__ = ["Clusters", "clusters_of"]

# How often k-means starts, of which the best is taken.
N_INIT = 4


class Clusters(NamedTuple):
    """Clusters that hold at least one code each.

    Attributes
    ----------
    rows : ndarray of shape (M,)
        The numbers of the codes that were looked at: those that are finite and of some weight.
    labels : ndarray of shape (M,)
        The cluster of each, from 0 on.
    centers : ndarray of shape (K, J)
    """

    rows: np.ndarray
    labels: np.ndarray
    centers: np.ndarray


def clusters_of(codes: np.ndarray, weight: np.ndarray, most: int, rng: torch.Generator) -> Clusters:
    """k-means of codes (N, J) of some weights (N,), with at most `most` clusters; none where no code is finite."""
    from sklearn.cluster import KMeans  # a twentieth of what importing skvae takes

    rows = np.flatnonzero(np.isfinite(codes).all(axis=1) & (weight > 0))
    if not len(rows):
        return Clusters(rows, rows, codes[:0])
    codes, weight = codes[rows], weight[rows]
    k_means = KMeans(min(most, len(np.unique(codes, axis=0))), n_init=N_INIT, random_state=seed_from(rng))
    # Sums by several threads differ in their last bits. Codes closer than rounding make fewer clusters, with a warning.
    with thread_limit(0), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        k_means.fit(codes, sample_weight=weight)
    found, labels = np.unique(k_means.labels_, return_inverse=True)
    return Clusters(rows, labels, k_means.cluster_centers_[found])
