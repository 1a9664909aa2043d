"""Clusters of codes: where a learnt mixture and the centres of a clustering begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ._torch import seed_from, thread_limit

__all__ = ["clusters_of"]

# How often k-means starts, of which the best is taken.
N_INIT = 4


def clusters_of(codes: np.ndarray, weight: np.ndarray | None, most: int, rng: torch.Generator) -> Any:
    """k-means of codes (N, J), fitted with `most` clusters, or with as many as there are different codes."""
    from sklearn.cluster import KMeans  # a twentieth of what importing skvae takes

    n_clusters = min(most, len(np.unique(codes, axis=0)))
    with thread_limit(0):  # sums by several threads differ in their last bits
        return KMeans(n_clusters, n_init=N_INIT, random_state=seed_from(rng)).fit(codes, sample_weight=weight)
