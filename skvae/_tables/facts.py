"""What a column holds: what `likelihood="auto"` looks at."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from .._math import LARGEST_WHOLE
from .._ranks import first_and_all, gathered
from .containers import floats_of
from .frames import column_values, is_category_type, label_of, type_of
from .moments import ColumnSums, reduce_blocks, row_blocks
from .sources import RowSource
from .types import is_missing, kinds_of

__all__ = ["ColumnFacts", "column_facts"]


# Rows whose values are looked at: as many as hold so many numbers, between these bounds.
MOST_VALUES, LEAST_ROWS, MOST_ROWS = 600_000, 2_000, 10_000


@dataclass(frozen=True)
class ColumnFacts:
    """What a column holds.

    Attributes
    ----------
    is_category : bool
        Whether its cells are no numbers.
    low, high : float
    whole : bool
        Whether all numbers are whole.
    values : ndarray
        Of rows all over the table, those that are not missing, in order of size.
    """

    is_category: bool
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    values: np.ndarray = field(default_factory=lambda: np.empty(0), compare=False)


def column_facts(X: Any) -> list[ColumnFacts]:
    """The facts of every column of a data frame, an array or a source."""
    most = min(MOST_ROWS, max(LEAST_ROWS, MOST_VALUES // max(1, X.shape[1])))
    first, n_rows = first_and_all(len(X))
    return _joined(gathered(_own_facts(X, -(-n_rows // most), first)))


def _own_facts(X: Any, every: int, first: int) -> list[ColumnFacts]:
    """The facts of a table whose rows are numbered from `first` on, and whose values are looked at every so many."""
    if isinstance(X, RowSource) or (isinstance(X, np.ndarray) and X.dtype.kind in "biuf"):
        return _facts_of_numbers(X, every, first)
    facts = []
    for column in range(X.shape[1]):
        values = column_values(X, column)
        numbers_only = values.dtype.kind != "O" or _are_numbers(values)
        if is_category_type(type_of(X, column)) or not numbers_only:
            facts.append(ColumnFacts(is_category=True))
        else:
            if values.dtype.kind == "O":
                values = floats_of(values, label_of(X, column))
            facts += _facts_of_numbers(values.astype(np.float64)[:, None], every, first)
    return facts


def _joined(parts: list[list[ColumnFacts]]) -> list[ColumnFacts]:
    """The facts of the columns of several tables as of one."""
    if len(parts) == 1:
        return parts[0]
    return [
        ColumnFacts(
            any(facts.is_category for facts in column),
            min(facts.low for facts in column),
            max(facts.high for facts in column),
            all(facts.whole for facts in column),
            np.sort(np.concatenate([facts.values for facts in column])),
        )
        for column in zip(*parts, strict=True)
    ]


def _are_numbers(cells: np.ndarray) -> bool:
    """Whether all cells that are not missing are numbers, or True and False."""
    if all(issubclass(kind, (Real, type(None))) for kind in kinds_of(cells)):
        return True
    return all(is_missing(value) or isinstance(value, Real) for value in cells)


def _facts_of_numbers(X: Any, every: int, first: int) -> list[ColumnFacts]:
    """In one pass, of which every so many rows are kept."""
    kept = []

    def summed(part: slice) -> tuple[ColumnSums, np.ndarray]:
        block = np.asarray(X[part], dtype=np.float64)
        kept.append(block[-(first + part.start) % every :: every].copy())
        with np.errstate(invalid="ignore"):
            return ColumnSums.of(block), (block % 1 > 0).sum(axis=0)

    sums, n_broken = reduce_blocks(row_blocks(X), summed)
    # Beyond, floats are whole and say nothing of what they count.
    whole = (n_broken == 0) & (np.maximum(np.abs(sums.low), np.abs(sums.high)) <= LARGEST_WHOLE)
    sample = np.sort(np.concatenate(kept), axis=0)
    present = (~np.isnan(sample)).sum(axis=0)
    columns = (values.tolist() for values in (sums.low, sums.high, whole))
    values = (column[:n] for column, n in zip(sample.T, present, strict=True))
    return [ColumnFacts(False, *facts) for facts in zip(*columns, values, strict=True)]
