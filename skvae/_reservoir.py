"""An even sample of all rows of a stream, of bounded size, in which a row that comes again is known again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ._tables.moments import Array, row_blocks
from ._tables.reader import TrainingRows

__all__ = ["Reservoir"]


@dataclass(frozen=True)
class Reservoir:
    """Rows (N, D), their weights and a random-looking key each; those of the smallest keys are kept.

    The smallest of random keys are an even sample of the rows, however many chunks there were.
    """

    X: Array
    weight: Array
    key: np.ndarray

    @classmethod
    def of(cls, X: Array, weight: Array | None, seed: int) -> Reservoir:
        """All of these rows, equal ones as one of the sum of their weights."""
        key, first, group = np.unique(_keys(X, seed), return_index=True, return_inverse=True)
        return cls(X[first], np.bincount(group, weights=weight).astype(np.float64), key)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The sample as plain arrays; `Reservoir(**state)` is the way back."""
        return asdict(self)

    @property
    def table(self) -> TrainingRows:
        """The rows, to learn from."""
        return TrainingRows(self.X, None, self.weight)

    def joined(self, chunk: Reservoir) -> Reservoir:
        """The rows of both; one that comes again adds its weight to the known one.

        Then rows that come in every pass through the table are judged without their own codes, not beside a copy.
        """
        order = np.argsort(self.key, kind="stable")
        place = order[np.searchsorted(self.key, chunk.key, sorter=order).clip(max=len(order) - 1)]
        again = self.key[place] == chunk.key
        weight = self.weight.copy()
        np.add.at(weight, place[again], chunk.weight[again])
        return Reservoir(
            np.concatenate([self.X, chunk.X[~again]]),
            np.concatenate([weight, chunk.weight[~again]]),
            np.concatenate([self.key, chunk.key[~again]]),
        )

    def smallest(self, size: int) -> Reservoir:
        """At most `size` of the rows."""
        kept = np.argsort(self.key, kind="stable")[:size]
        return Reservoir(self.X[kept], self.weight[kept], self.key[kept])


def _keys(X: Array, seed: int) -> np.ndarray:
    """A random-looking number per row, (N,), the same for the same row."""
    factors = np.random.default_rng(seed).integers(2**63, size=X.shape[1], dtype=np.uint64) * 2 + 1
    keys = np.empty(len(X), dtype=np.uint64)
    for part in row_blocks(X):
        bits = (np.asarray(X[part], dtype=np.float64) + 0.0).view(np.uint64)  # + 0.0: zero has one sign
        keys[part] = _scrambled((_scrambled(bits) * factors).sum(axis=1, dtype=np.uint64))
    return keys


def _scrambled(bits: np.ndarray) -> np.ndarray:
    """Spread every bit over all others (the finalizer of SplitMix64, Steele et al. 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def fault(rows: Any, n_features: int) -> str | None:
    """What is wrong with a saved sample, in words; None if nothing is, or there is none."""
    if rows is None:
        return None
    if not isinstance(rows, dict) or rows.keys() != {"X", "weight", "key"}:
        return "_reservoir is not rows, weights and keys"
    if not all(isinstance(values, np.ndarray) and values.dtype.kind in "fu" for values in rows.values()):
        return "_reservoir holds something that is not a number"
    n_rows = rows["key"].size
    if rows["X"].shape != (n_rows, n_features) or not rows["weight"].shape == rows["key"].shape == (n_rows,):
        return f"_reservoir has the shapes {[values.shape for values in rows.values()]}"
    positive = np.isfinite(rows["weight"]).all() and (rows["weight"] > 0).all()
    return None if positive else "a row's weight is not positive"
