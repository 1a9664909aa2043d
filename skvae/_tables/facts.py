"""What a column holds: what `likelihood="auto"` looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from .moments import Array, column_moments, row_blocks
from .schema import column_values, is_category_type, is_missing, type_of
from .sources import RowSource

__all__ = ["ColumnFacts", "column_facts"]


@dataclass(frozen=True)
class ColumnFacts:
    """What a column holds.

    Attributes
    ----------
    is_category : bool
        Whether its cells are no numbers.
    low, high, mean, std : float
    whole : bool
        Whether all numbers are whole.
    log_gain : float
        Nats per cell by which a log-normal distribution describes it better than a normal one.
    """

    is_category: bool
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    whole: bool = False
    log_gain: float = -np.inf


def column_facts(X: Any) -> list[ColumnFacts]:
    """The facts of every column of a data frame, an array or a source."""
    if isinstance(X, RowSource) or (isinstance(X, np.ndarray) and X.dtype.kind in "biuf"):
        return _facts_of_numbers(X, lambda part: np.asarray(X[part], dtype=np.float64))
    facts = []
    for column in range(X.shape[1]):
        values = column_values(X, column)
        numbers_only = values.dtype.kind != "O" or all(is_missing(v) or isinstance(v, Real) for v in values)
        if is_category_type(type_of(X, column)) or not numbers_only:
            facts.append(ColumnFacts(is_category=True))
            continue
        numbers = np.array([np.nan if is_missing(v) else v for v in values], dtype=np.float64)[:, None]
        facts += _facts_of_numbers(numbers, numbers.__getitem__)
    return facts


def _facts_of_numbers(X: Any, read: Callable[[slice], Array]) -> list[ColumnFacts]:
    n_columns = X.shape[1]
    low, high = np.full(n_columns, np.inf), np.full(n_columns, -np.inf)
    whole = np.ones(n_columns, dtype=bool)
    sums = np.zeros((3, n_columns))  # of 1, log x and its square
    for part in row_blocks(X):
        block = read(part)
        low, high = np.fmin(low, np.fmin.reduce(block)), np.fmax(high, np.fmax.reduce(block))
        with np.errstate(invalid="ignore", divide="ignore"):
            whole &= ~(block % 1 > 0).any(axis=0)
            logs = np.where(block > 0, np.log(block), 0.0)
        sums += [(~np.isnan(block)).sum(axis=0), logs.sum(axis=0), (logs**2).sum(axis=0)]
    moments = column_moments(X)
    first, second = sums[1] / sums[0].clip(1), sums[2] / sums[0].clip(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.log(moments.std) - 0.5 * np.log(second - first**2) - first
    gain = np.where((low > 0) & (moments.std > 0) & np.isfinite(gain), gain, -np.inf)
    return [
        ColumnFacts(False, float(lo), float(hi), float(mean), float(std), bool(are_whole), float(more))
        for lo, hi, mean, std, are_whole, more in zip(low, high, moments.mean, moments.std, whole, gain, strict=True)
    ]
