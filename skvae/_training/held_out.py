"""What held-out rows say of the weights: what early stopping watches.

Epochs are compared row by row. The differences of an epoch's values from those of the best one so far are averaged with
the outermost ones moved to the nearest of the others (a winsorised mean): a single row, thousands of nats off for a
cell that no training row is like, would decide for all others. Where no row stands out that is the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from .._tables.batches import Batch
from .._tables.moments import Array
from .._torch import make_generator
from ..model import VAE
from ..objectives import Objective

__all__ = [
    "HELD_OUT_ROWS",
    "Judge",
    "defined",
    "differences",
    "held_out_mean",
    "held_out_repeats",
    "held_out_values",
    "repeated",
    "winsorised",
    "winsorised_mean",
]

# Held-out rows are repeated with fresh draws up to this many evaluations, so that few rows do not mean a noisy curve.
HELD_OUT_DRAWS = 2000
HELD_OUT_REPEATS = 8
# The share of the differences, at either end, that are moved; one row at least. A group of more rows than that counts.
# By `benchmarks/monitor.py`.
MOVED = 0.02
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


class Judge:
    """Compares epochs by what they say of held-out rows.

    Parameters
    ----------
    look : callable
        The rows' values, (N,), at the weights of the moment.
    weight : array of shape (N,) or None
    best : array of shape (N,) or None
        Values at the best epoch so far; None: the start is yet to be judged.
    """

    def __init__(self, look: Callable[[], Array], weight: Array | None, best: Array | None = None):
        self.look, self.weight, self.best = look, weight, best
        self.latest: Array | None = None

    def level(self, of_best: float | None) -> float:
        """The mean over the rows, where the best epoch's is `of_best`; None: this is the first to be judged."""
        self.latest = self.look()
        if of_best is None or self.best is None:
            self.best = self.latest
            return self._level(self.latest)
        gain = winsorised_mean(differences(self.latest, self.best), self.weight)
        # Rows that only now have a value gain without bound.
        return self._level(self.latest) if gain == math.inf else finite_or_worst(of_best + gain)

    def keep(self) -> None:
        """The epoch that was judged last is the best."""
        self.best = self.latest

    def _level(self, values: Array) -> float:
        mean = float(np.average(values, weights=self.weight))
        return mean if math.isfinite(mean) else finite_or_worst(winsorised_mean(defined(values), self.weight))


def winsorised_mean(values: Array, weight: Array | None = None) -> float:
    """The mean of values (N,) of which the outermost are moved to the nearest of the others; of two, their mean."""
    return float(np.average(winsorised(values, weight), weights=weight))


def winsorised(values: Array, weight: Array | None = None) -> Array:
    """Values (N,), the outermost moved to the nearest of the others."""
    if len(values) < 3:
        return values
    order = np.argsort(values, kind="stable")
    mass = np.ones(len(values)) if weight is None else weight[order]
    most = max(MOVED, 1 / len(values)) * (1 + 1e-9) * mass.sum()
    low, high = (int((np.cumsum(part) <= most).sum()) for part in (mass, mass[::-1]))
    return np.clip(values, values[order[low]], values[order[len(values) - 1 - high]])


def defined(values: Array) -> Array:
    """Values, -inf where they are no numbers."""
    return np.where(np.isfinite(values), values, -math.inf)


def differences(values: Array, best: Array) -> Array:
    """What each row gains; nothing where it has no value in either."""
    values, best = defined(values), defined(best)
    return np.subtract(values, best, out=np.zeros_like(values), where=values != best)


def repeated(rows: Batch, most: int = HELD_OUT_REPEATS) -> Batch:
    """Few rows several times."""
    times = held_out_repeats(len(rows), most)
    return rows if times == 1 else rows.take(torch.arange(len(rows), device=rows.device).repeat(times))


def finite_or_worst(mean: float) -> float:
    """A mean that is no number is the worst there is."""
    return mean if math.isfinite(mean) else -math.inf
