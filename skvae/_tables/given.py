"""Rows of which some columns are given: a dict, a Series or a table, as a table of all columns with gaps."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from .containers import unpack_container
from .frames import absent_column, column_values, frame_library, frame_of, in_own_type, new_series, series_of
from .schema import Schema, cells_of
from .sources import RowSource
from .types import is_missing, objects, plain

__all__ = ["place_of", "repeated", "table_of_given"]

# How many known columns an error names.
NAMED_COLUMNS = 10


def table_of_given(given: Any, schema: Schema, n_features: int) -> Any:
    """A table of all columns, of the kind that `fit` saw, missing where nothing is given.

    Parameters
    ----------
    given : mapping, Series, data frame or array-like of shape (n_rows, n_features)
        One row's values by their columns' names, or rows of some columns, by their names. What has no names has all
        columns, and NaN where a cell is not given.
    schema : Schema
    n_features : int

    Raises
    ------
    ValueError
        If a column is unknown or named twice, or a table has another shape.
    TypeError
        If a mapping holds several values for a column.
    """
    names = _names(schema, n_features)
    if (cells := _one_row(given)) is not None:
        _places(list(cells), names)
        known = {label: value for label, value in cells.items() if not is_missing(value)}
        parts = {names.index(label): _cell(label, value, schema) for label, value in known.items()}
        return _table(parts, 1, schema, names)
    given = unpack_container(given)
    if frame_library(given) is None:
        return _without_names(given, n_features)
    labels = list(given.columns)
    if not len(given):
        raise ValueError("given has no rows; give at least one.")
    if labels == names and frame_library(given) == schema.library:
        return given
    own = frame_library(given) == schema.library
    columns = {
        place: series_of(given, number) if own else column_values(given, number)
        for number, place in enumerate(_places(labels, names))
    }
    return _table(columns, len(given), schema, names, like=given)


def place_of(column: Any, schema: Schema, n_features: int) -> int:
    """The number of a column, by its name, or by its number where there are no names."""
    names = _names(schema, n_features)
    if column not in names:
        raise ValueError(f"column={plain(column)!r} is none that fit has seen; {_advice(column, names)}")
    return names.index(column)


def _names(schema: Schema, n_features: int) -> list:
    """The columns' names, or their numbers."""
    return list(range(n_features)) if schema.names is None else schema.names


def repeated(table: Any, n_times: int, labelled: bool) -> Any:
    """Every row of a table so many times, in order; a pandas frame's with the rows' labels, or numbered anew."""
    numbers = np.repeat(np.arange(len(table)), n_times)
    found = _safe_indexing(table, numbers.tolist() if frame_library(table) == "polars" else numbers)
    return found if labelled or frame_library(found) != "pandas" else found.reset_index(drop=True)


def _one_row(given: Any) -> dict[Any, Any] | None:
    """The cells of one row by their columns' labels; None for a table."""
    if isinstance(given, Mapping):
        return dict(given)
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(given, pandas.Series):
        _refuse_twice(list(given.index))
        return dict(zip(given.index, given.tolist(), strict=True))
    return None


def _cell(label: Any, value: Any, schema: Schema) -> Any:
    """One value as a column; of the type that `fit` saw where that is the same value."""
    value = plain(value)
    if not isinstance(value, Hashable) or isinstance(value, tuple):
        raise TypeError(
            f"given holds a {type(value).__name__} for column {label!r}; give one value, or a data frame for several "
            "rows."
        )
    if schema.library is None:
        return objects([value])
    place = schema.names.index(label)
    series = new_series(
        schema.library, np.array([value]) if isinstance(value, (bool, int, float)) else objects([value])
    )
    return in_own_type(schema.library, series, schema.dtypes[place], schema.categories.get(place))


def _without_names(given: Any, n_features: int) -> Any:
    """A table without columns' names, checked for its shape."""
    table = given[:] if isinstance(given, RowSource) else given
    if np.ndim(table) != 2:
        raise ValueError(
            f"given has {np.ndim(table)} dimension(s); give a dict of columns' names and values, a data frame, or rows "
            f"of all {n_features} columns with NaN where a cell is not given."
        )
    table = cells_of(table)
    if not len(table):
        raise ValueError("given has no rows; give at least one.")
    if table.shape[1] != n_features:
        raise ValueError(
            f"given has {table.shape[1]} columns without names, but the model has {n_features}; give all of them, NaN "
            "where a cell is not given, or name those that are."
        )
    return table


def _places(labels: list, names: list) -> list[int]:
    """The numbers of the columns of these labels."""
    _refuse_twice(labels)
    for label in labels:
        if label not in names:
            raise ValueError(f"given has a column {plain(label)!r}, which fit has not seen; {_advice(label, names)}")
    return [names.index(label) for label in labels]


def _refuse_twice(labels: list) -> None:
    if twice := [label for place, label in enumerate(labels) if label in labels[:place]]:
        raise ValueError(f"given has the column {twice[0]!r} twice; give it once.")


def _advice(label: Any, names: list) -> str:
    if names == list(range(len(names))):
        return f"its columns are the numbers 0 to {len(names) - 1}."
    texts = {str(name): name for name in names}
    if close := get_close_matches(str(label), texts, 1):
        return f"did you mean {texts[close[0]]!r}?"
    shown = ", ".join(map(repr, names[:NAMED_COLUMNS]))
    return f"it knows {shown}" + (f" and {len(names) - NAMED_COLUMNS} more." if len(names) > NAMED_COLUMNS else ".")


def _table(columns: dict[int, Any], n_rows: int, schema: Schema, names: list, like: Any = None) -> Any:
    """A table of all columns of which these have cells."""
    if schema.library is not None:
        whole = [columns.get(place, absent_column(schema.library, n_rows)) for place in range(len(names))]
        return frame_of([_column(schema.library, cells) for cells in whole], names, schema.axis, like)
    table = np.full((n_rows, len(names)), None, dtype=object)
    for place, cells in columns.items():
        table[:, place] = cells
    return table


def _column(library: str, cells: Any) -> Any:
    """Cells, or a column of a frame, as `frame_of` takes them."""
    if library == "pandas":
        return getattr(cells, "array", cells)
    return new_series(library, cells) if isinstance(cells, np.ndarray) else cells
