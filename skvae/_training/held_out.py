"""The monitored mean over held-out rows: what early stopping watches."""

from __future__ import annotations

import math

import numpy as np
import torch

from .._tables.batches import Batch
from .._tables.moments import Array
from .._torch import make_generator
from ..model import VAE
from ..objectives import Objective

__all__ = ["HELD_OUT_ROWS", "finite_or_worst", "held_out_mean", "held_out_repeats", "held_out_values", "repeated"]

# Held-out rows are repeated with fresh draws up to this many evaluations, so that few rows do not mean a noisy curve.
HELD_OUT_DRAWS = 2000
HELD_OUT_REPEATS = 8
# Rows that are judged at once.
HELD_OUT_ROWS = 4096


def held_out_repeats(n_rows: int, most: int = HELD_OUT_REPEATS) -> int:
    """How often `n_rows` held-out rows are looked at, with fresh draws."""
    return min(most, max(1, HELD_OUT_DRAWS // n_rows))


@torch.no_grad()
def held_out_values(
    model: VAE, objective: Objective, rows: Batch, seed: int, most_repeats: int = HELD_OUT_REPEATS
) -> Array:
    """What the objective's monitor says of each of `rows`, (N,), with the same draws at every call.

    Few rows are looked at several times, and their values averaged.
    """
    assert objective.monitor is not None
    monitor, rng = objective.monitor, make_generator(seed, rows.x.device)
    blocks = repeated(rows, most_repeats).blocks(HELD_OUT_ROWS)
    values = torch.cat([monitor(model, block, rng).cpu().double() for block in blocks])
    return values.reshape(-1, len(rows)).mean(dim=0).numpy()


def held_out_mean(
    model: VAE, objective: Objective, rows: Batch, seed: int, most_repeats: int = HELD_OUT_REPEATS
) -> float:
    """The mean of `held_out_values`, weighted where the rows are."""
    weight = None if rows.weight is None else rows.weight.cpu().double().numpy()
    return finite_or_worst(
        float(np.average(held_out_values(model, objective, rows, seed, most_repeats), weights=weight))
    )


def repeated(rows: Batch, most: int = HELD_OUT_REPEATS) -> Batch:
    """Few rows several times."""
    times = held_out_repeats(len(rows), most)
    return rows if times == 1 else rows.take(torch.arange(len(rows), device=rows.device).repeat(times))


def finite_or_worst(mean: float) -> float:
    """A mean that is no number is the worst there is."""
    return mean if math.isfinite(mean) else -math.inf
