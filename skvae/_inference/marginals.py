"""How likely each category of a column is, given the cells that are present."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._tables.batches import Batch
from ..model import VAE
from .draws import points_until_enough
from .proposals import Common, Proposal, lost, shares

__all__ = ["marginal"]


# Points of a proposal at first, and how many of all are to be effective.
POINTS, EFFECTIVE = 256, 64


def marginal(model: VAE, rows: Batch, proposal: Proposal, column: int, seed: int) -> Tensor:
    """P(column d is its k-th category | the present cells), (N, K).

    The points are the same for all rows and calls. Not a number for a row so far out that its weights are none.
    """
    places = torch.as_tensor(model.likelihood.columns_of_inputs() == column).nonzero()[:, 0].to(rows.device)
    found = rows.x.new_empty(len(rows), len(places))
    noise = Common(seed, rows.device)
    for number, points, _ in points_until_enough(model, rows, proposal, POINTS, EFFECTIVE, noise):
        log_weight = points.log_weight
        share = shares(log_weight)
        outputs = model.params(points.z, rows.take(number).x)
        probability = model.likelihood.expected(outputs).index_select(-1, places)
        found[number] = torch.einsum("sn,snk->nk", share, probability).masked_fill(lost(log_weight)[:, None], math.nan)
    return found
