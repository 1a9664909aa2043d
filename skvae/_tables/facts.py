"""What a column holds: what `likelihood="auto"` looks at."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from .._math import LARGEST_WHOLE
from .containers import floats_of
from .frames import column_values, is_category_type, label_of, type_of
from .moments import ColumnSums, reduce_blocks, row_blocks
from .sources import RowSource
from .types import is_missing, kinds_of

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
        return _facts_of_numbers(X)
    facts = []
    for column in range(X.shape[1]):
        values = column_values(X, column)
        numbers_only = values.dtype.kind != "O" or _are_numbers(values)
        if is_category_type(type_of(X, column)) or not numbers_only:
            facts.append(ColumnFacts(is_category=True))
        else:
            if values.dtype.kind == "O":
                values = floats_of(values, label_of(X, column))
            facts += _facts_of_numbers(values.astype(np.float64)[:, None])
    return facts


def _are_numbers(cells: np.ndarray) -> bool:
    """Whether all cells that are not missing are numbers, or True and False."""
    if all(issubclass(kind, (Real, type(None))) for kind in kinds_of(cells)):
        return True
    return all(is_missing(value) or isinstance(value, Real) for value in cells)


def _facts_of_numbers(X: Any) -> list[ColumnFacts]:
    def summed(part: slice) -> tuple[ColumnSums, ColumnSums, np.ndarray]:
        block = np.asarray(X[part], dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = np.where(block > 0, np.log(block), np.nan)
            return ColumnSums.of(block), ColumnSums.of(logs), (block % 1 > 0).sum(axis=0)

    sums, of_logs, n_broken = reduce_blocks(row_blocks(X), summed)
    mean, std, _ = sums.moments
    mean_log, std_log, _ = of_logs.moments
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.log(std) - np.log(std_log) - mean_log
    gain = np.where((sums.low > 0) & (std > 0) & np.isfinite(gain), gain, -np.inf)
    # Beyond, floats are whole and say nothing of what they count.
    whole = (n_broken == 0) & (np.maximum(np.abs(sums.low), np.abs(sums.high)) <= LARGEST_WHOLE)
    columns = (values.tolist() for values in (sums.low, sums.high, mean, std, whole, gain))
    return [ColumnFacts(False, *facts) for facts in zip(*columns, strict=True)]
