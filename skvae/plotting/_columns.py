"""The columns of a table as numbers, whatever kind of table it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import _check_feature_names_in

from .._params import Count
from .._tables.containers import unpack_container
from .._tables.frames import column_values, is_category_type, type_of
from .._tables.schema import cells_of
from .._tables.sources import RowSource
from .._tables.types import is_missing, is_number
from ._base import Array

__all__ = ["chosen_column", "names_in", "names_of", "numbers_in", "pixels_of", "spread_of"]


def names_of(estimator: Any) -> list[str]:
    """The names of an estimator's columns: those that fit saw, or x0, x1, ..."""
    return [str(name) for name in _check_feature_names_in(estimator)]


def names_in(table: Any) -> list[str]:
    """The names of a table's columns, or x0, x1, ..."""
    names = getattr(table, "columns", None)
    return [f"x{i}" for i in range(np.shape(table)[1])] if names is None else [str(name) for name in names]


def numbers_in(table: Any) -> dict[int, Array]:
    """The columns that hold numbers, by their place; NaN where a cell is missing."""
    table = unpack_container(table)
    table = table[:] if isinstance(table, RowSource) else cells_of(table)
    found = {}
    for place in range(table.shape[1]):
        cells = column_values(table, place)
        if not is_category_type(type_of(table, place)) and _are_numbers(cells):
            found[place] = np.array([np.nan if is_missing(cell) else cell for cell in cells], dtype=np.float64)
    return found


def _are_numbers(cells: np.ndarray) -> bool:
    return cells.dtype.kind in "biuf" or all(is_missing(cell) or is_number(type(cell)) for cell in cells)


def pixels_of(table: Any) -> Array:
    """A table of numbers as an array."""
    columns = numbers_in(table)
    return np.column_stack(list(columns.values()))


def spread_of(table: Any) -> tuple[dict[int, float], dict[int, float]]:
    """The columns' means and standard deviations, by their place; 1 in place of 0, and 0 and 1 of an empty column."""
    columns = {place: values[~np.isnan(values)] for place, values in numbers_in(table).items()}
    means = {place: float(values.mean()) if len(values) else 0.0 for place, values in columns.items()}
    return means, {place: (float(values.std()) if len(values) else 0.0) or 1.0 for place, values in columns.items()}


def chosen_column(feature: Any, names: list[str]) -> int:
    """The place of a column that is given by its name or its place."""
    if isinstance(feature, str) and feature in names:
        return names.index(feature)
    if Count(0).is_satisfied_by(feature) and feature < len(names):
        return int(feature)
    raise ValueError(
        f"feature={feature!r} must be a column's name or its place from 0 to {len(names) - 1}; the names begin with "
        f"{', '.join(map(repr, names[:3]))}."
    )
