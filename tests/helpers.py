"""What several test files share."""

from __future__ import annotations

import numpy as np
import torch

from skvae import VAETransformer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(**parameters):
    """A small transformer."""
    return VAETransformer(**{"n_components": 2, "max_iter": 5, "random_state": 0, **parameters})


def with_gaps(X, share, seed=0):
    """X, each cell of which is missing with this probability."""
    return np.where(np.random.RandomState(seed).rand(*X.shape) < share, np.nan, X)
