"""What the columns of a user's table are: their container, names, types and categories; into numbers, and back."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from math import isinf
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import check_array

from .._ranks import gathered, sum_over_ranks
from .doubts import warn_of_categories
from .frames import (
    axis_of,
    column_filled,
    column_of,
    column_values,
    frame_library,
    frame_of,
    is_axis,
    is_number_type,
    label_of,
    labels_and,
    mean_type,
    new_series,
    series_of,
    type_name,
    type_names,
    type_of,
    with_columns,
)
from .moments import Array, reduce_blocks, row_blocks
from .sources import Recoded, RowSource
from .types import in_type, is_missing, kinds_of, number_type, objects, plain

__all__ = ["Schema", "cells_of", "infinity_in"]

# How many known categories an error names.
NAMED_CATEGORIES = 10


def cells_of(X: Any) -> Any:
    """A list, or an array of strings, as a two-dimensional array of what its cells are; other tables as they are."""
    if frame_library(X) is not None or isinstance(X, RowSource):
        return X
    if not isinstance(X, np.ndarray) or X.dtype.kind in "US":
        X = np.asarray(X, dtype=object)
    return check_array(X, dtype=None, ensure_all_finite=False)


def infinity_in(label: str, row: int) -> ValueError:
    """The error for a cell that is infinite."""
    return ValueError(f"Input X contains infinity: {label}, row {row}. Remove it, or mark it as missing (NaN).")


@dataclass
class Schema:
    """The columns of a table.

    Attributes
    ----------
    library : str or None
        Of the data frame that the table is.
    names, dtypes : list or None
        Of a data frame's columns; an array of objects has types, too.
    axis : dict or None
        What kind of labels a pandas frame's columns have, beside `names`.
    categories : dict of int to list
        The values that a column of categories can hold, in the order of their codes.
    """

    library: str | None = None
    names: Any = None
    dtypes: Any = None
    axis: Any = None
    categories: dict[int, list[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, X: Any) -> Schema:
        """The schema of a table, without categories yet."""
        library = frame_library(X)
        names = None if library is None else list(X.columns)
        return cls(library, names, type_names(X), axis_of(X.columns) if library == "pandas" else None)

    def label(self, column: int) -> str:
        """How an error names a column."""
        return f"column {column if self.names is None else self.names[column]!r}"

    def learn(self, X: Any, wanted: dict[int, int | None]) -> None:
        """Find the categories of these columns; a number says that they are the codes 0, 1, ... below it."""
        unknown = [column for column, n_categories in wanted.items() if n_categories is None]
        # Of all ranks: the values each column holds, and the categories that its type names.
        held = _joined(gathered(_held(X, unknown)))
        typed = _joined(gathered({column: _of_type(X, column) for column in unknown}))
        n_rows = sum_over_ranks(len(X)) if unknown else 0  # what has no columns yet may be no table at all
        for column, n_categories in wanted.items():
            if n_categories is not None:
                self.categories[column] = list(range(n_categories))
                continue
            found = _sorted(held[column], self.label(column))
            self.categories[column] = typed[column] or found
            if not self.categories[column]:
                raise ValueError(f"{self.label(column)} holds no value in {n_rows} rows; drop it before fitting.")
            warn_of_categories(self.label(column), found, n_rows, declared=bool(typed[column]))

    def n_categories(self, columns: list[int]) -> list[int]:
        """How many categories each of these columns has; numbers have none."""
        return [len(self.categories.get(column, ())) for column in columns]

    def encoded(self, X: Any, needed: Collection[int] = ()) -> Any:
        """X with codes for categories; X itself where it has none. No cell of the columns `needed` may be missing."""
        if not self.categories:
            return X
        if isinstance(X, RowSource):
            return Recoded(X, partial(self._encoded_array, needed=needed))
        if frame_library(X) is None:
            return self._encoded_array(np.asarray(X), needed=needed)
        codes = {column: self._codes(column_values(X, column), column, needed=needed) for column in self.categories}
        return with_columns(X, codes)

    def _encoded_array(self, X: np.ndarray, rows: Any = None, needed: Collection[int] = ()) -> np.ndarray:
        """An array in memory, or these rows of a larger one, with codes for categories; other cells stay."""
        result = np.array(X, dtype=X.dtype if X.dtype.kind in "Of" else np.float64)
        for column in self.categories:
            result[:, column] = self._codes(column_values(X, column), column, rows, needed)
        return result

    def _codes(self, values: np.ndarray, column: int, rows: Any = None, needed: Collection[int] = ()) -> Array:
        """The codes of a column's values, NaN where one is missing; `rows` are their numbers for errors."""
        known = self.categories[column]
        places = {value: code for code, value in enumerate(known)}
        # 1 and True are equal, and yet two categories where a column holds both.
        exact = {_kept_apart(value): code for code, value in enumerate(known)}
        distinct, inverse = _distinct(values, self.label(column))
        codes = np.array(
            [np.nan if is_missing(v) else exact.get(_kept_apart(v), places.get(v, -1)) for v in distinct], dtype=float
        )
        odd = np.array([_is_infinite(value) for value in distinct], dtype=bool) | (codes == -1)
        if odd.any():
            place = int(np.flatnonzero(odd[inverse])[0])
            value, row = distinct[inverse[place]], place if rows is None else int(rows[place])
            if _is_infinite(value):
                raise infinity_in(self.label(column), row)
            way_out = "Leave such rows out" if column in needed else "Mark the cell as missing (NaN)"
            raise ValueError(
                f"{self.label(column)} holds {value!r} in row {row}, a category that fit has not seen; "
                f"it knows {_listed(known, value)}. {way_out}, or fit to rows that have it."
            )
        return codes[inverse]

    def decoded(self, X: Array, like: Any = None, typed: bool = False) -> Any:
        """Numbers in data units as the kind of table that `fit` saw.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Codes where a column holds categories.
        like : table or None
            Whose index a pandas frame takes over.
        typed : bool
            Whether every column takes its own type, as what is drawn does; means of whole numbers are no whole numbers.
        """
        known = self.categories
        cells = [_looked_up(known[c], values) if c in known else values for c, values in enumerate(X.T)]
        if self.library is None and not any(values.dtype.kind == "O" for values in cells):
            return np.column_stack(cells).astype(X.dtype) if known else X
        own = [c in known or (typed and bool(number_type(name).kind)) for c, name in enumerate(self.dtypes)]
        pairs = zip(self.dtypes, own, strict=True)
        names = [name if kept else mean_type(self.library, name) for name, kept in pairs]
        if self.library is None:
            cells = [in_type(v, name) if v.dtype.kind == "f" else v for v, name in zip(cells, names, strict=True)]
            return np.column_stack([values.astype(object) for values in cells])
        parts = zip(cells, names, strict=True)
        columns = [column_of(self.library, v, name, known.get(c)) for c, (v, name) in enumerate(parts)]
        return frame_of(columns, self.names, self.axis, like)

    def filled(self, X: Any, values: Array, gaps: np.ndarray, drawn: bool) -> Any:
        """A table with its gaps filled, as the kind of table that `fit` saw; present cells are the table's own.

        Parameters
        ----------
        X : table
            As it was given.
        values : array of shape (n_samples, n_features)
            The same in numbers, codes where a column holds categories, without gaps.
        gaps : array of bool of shape (n_samples, n_features)
            Which cells of X are missing.
        drawn : bool
            Whether the gaps' values were drawn from the model.
        """
        X = cells_of(X)
        if self.library is None:
            found = self.decoded(values, typed=True)
            if found.dtype.kind == "O" and not isinstance(X, RowSource):
                found[~gaps] = _objects_of(X)[~gaps]
            return found
        columns = [self._filled(X, column, values[:, column], gaps[:, column], drawn) for column in range(len(gaps.T))]
        return frame_of(columns, self.names, self.axis, X)

    def _filled(self, X: Any, column: int, values: Array, gaps: np.ndarray, drawn: bool) -> Any:
        """A column of X with its gaps filled: categories in the type that `fit` saw, numbers in that of a frame X."""
        known: Any
        library, name, known = self.library, self.dtypes[column], self.categories.get(column)
        own = frame_library(X) == library
        given = series_of(X, column) if own else new_series(library, _given(X, column, values))
        if own and known is None and not gaps.any() and is_number_type(given.dtype):
            return given.copy() if library == "pandas" else given
        if known is not None:
            return column_filled(library, given, _looked_up(known, values[gaps]), gaps, name, known)
        cells = in_type(values[gaps], name) if drawn else values[gaps]
        if own and number_type(type_name(given)).kind:
            name = type_name(given)
        elif not number_type(name).kind:
            name = mean_type(library, name)
        return column_filled(library, given, cells.astype(np.float64), gaps, name, None)

    def cell(self, value: float, column: int) -> Any:
        """A number of a column as its cell: a category, True, a whole number; None where it is NaN."""
        if np.isnan(value):
            return None
        if column in self.categories:
            return self.categories[column][int(value)]
        kind = number_type("" if self.dtypes is None else self.dtypes[column])
        if kind.kind == "bool" and value in (0, 1):
            return bool(value)
        return int(value) if kind.whole and float(value).is_integer() else float(value)

    def labels_and(self, container: str, names: list[str], last: str) -> Any:
        """Labels for a frame of the columns and one more: their own, where `fit` saw such a frame, else `names`."""
        own = self.library == container == "pandas"
        last = f"{last} (model)" if last in (self.names if own else names) else last
        return labels_and(self.names, self.axis, last) if own else [*names, last]

    def fault(self, n_features: int) -> str | None:
        """What is wrong with a saved schema, in words; None if nothing is."""
        if self.library is not None and not (isinstance(self.library, str) and self.library in ("pandas", "polars")):
            return "its table is of an unknown library"
        for values in (self.names, self.dtypes):
            framed = self.library is not None or (values is self.dtypes and values is not None)
            if (not isinstance(values, list) or len(values) != n_features) if framed else values is not None:
                return f"its columns are not {n_features} names and types"
        if not all(isinstance(dtype, str) for dtype in self.dtypes or []):
            return "a column's type is not told by its name"
        if not is_axis(self.axis, n_features) if self.library == "pandas" else self.axis is not None:
            return "its labels are of no kind"
        if not isinstance(self.categories, dict) or not set(self.categories) <= set(range(n_features)):
            return "its categories are not those of columns"
        for known in self.categories.values():
            if not isinstance(known, list) or not known or len(set(known)) < len(known):
                return "a column has no list of categories, each once"
        return None


def _given(X: Any, column: int, values: Array) -> np.ndarray:
    """The cells of a column of a table that is no such frame; `values` are they where it is read from elsewhere."""
    return values if isinstance(X, RowSource) else column_values(X, column)


def _objects_of(X: Any) -> np.ndarray:
    """The cells of a table in memory."""
    return np.array(X.rows(), dtype=object) if frame_library(X) == "polars" else np.asarray(X, dtype=object)


def _kept_apart(value: Any) -> tuple[bool, Any]:
    """What makes a category: 1 and True are two."""
    return isinstance(value, bool), value


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and isinf(value)


def _distinct(values: np.ndarray, label: str) -> tuple[list, np.ndarray]:
    """The distinct values of a column, and which of them every cell is."""
    if values.dtype.kind != "O":
        distinct, inverse = np.unique(values, return_inverse=True)
        return distinct.tolist(), inverse
    places: dict[Any, int] = {}
    try:
        keys = values.tolist()
        if not kinds_of(keys) <= {str, type(None)}:
            keys = [None if is_missing(value) else _kept_apart(value) for value in keys]
        inverse = np.array([places.setdefault(key, len(places)) for key in keys], dtype=int)
    except TypeError:
        odd = next(value for value in values if not isinstance(value, Hashable))
        raise TypeError(
            f"{label} holds {odd!r}; its argument must be a string or a number. Give every item a column of its own, "
            "or make strings of them."
        ) from None
    return [key[1] if isinstance(key, tuple) else key for key in places], inverse


def _held(X: Any, columns: list[int]) -> dict[int, list]:
    """The distinct values that each of these columns holds."""
    if not columns or not isinstance(X, RowSource):
        return {column: _distinct(column_values(X, column), label_of(X, column))[0] for column in columns}

    def distinct(part: slice) -> tuple[list, ...]:
        block = X[part]
        return tuple(np.unique(block[:, column]).tolist() for column in columns)

    return dict(zip(columns, reduce_blocks(row_blocks(X), distinct), strict=True))


def _joined(parts: list[dict[int, list]]) -> dict[int, list]:
    """The values of every column in any of the parts, each once."""
    if len(parts) == 1:
        return parts[0]
    every = ({_kept_apart(value): value for part in parts for value in part[column]} for column in parts[0])
    return {column: list(values.values()) for column, values in zip(parts[0], every, strict=True)}


def _of_type(X: Any, column: int) -> list:
    """The categories that a column's type names, whether the column holds them or not."""
    dtype = type_of(X, column)
    # polars' Categorical shares its categories with every other column.
    if getattr(dtype, "categories", None) is None or str(dtype) == "Categorical":
        return []
    return dtype.categories.tolist() if hasattr(dtype.categories, "tolist") else dtype.categories.to_list()


def _sorted(values: list, label: str) -> list:
    """The values that are neither missing nor infinite, each once: numbers first."""
    kept = {_kept_apart(value) for value in map(plain, values) if not is_missing(value) and not _is_infinite(value)}
    try:
        found = sorted(kept, key=lambda pair: (not isinstance(pair[1], Real), str(type(pair[1])), pair[1]))
    except TypeError:
        shown = ", ".join(repr(value) for _, value in sorted(kept, key=repr)[:2])
        raise TypeError(f"{label} holds categories without an order, as {shown}; make strings of them.") from None
    return [value for _, value in found]


def _looked_up(known: list, codes: Array) -> np.ndarray:
    """The categories of these codes, as numbers where all are."""
    kinds = set(map(type, known))
    # Whole numbers stay whole: float64 has not all of them.
    table = np.array(known) if kinds <= {int} or kinds <= {int, float} else objects(known)
    missing = np.isnan(codes)
    if not missing.any():
        return table[codes.astype(int)]
    found = table[np.where(missing, 0, codes).astype(int)]
    found = found if found.dtype.kind == "O" else found.astype(np.float64)
    found[missing] = np.nan if found.dtype.kind == "f" else None
    return found


def _listed(known: list, value: Any) -> str:
    """Some of the known categories, those that are spelt like `value` first where there are many."""
    if len(known) > NAMED_CATEGORIES:
        close = set(get_close_matches(str(value), list(map(str, known))))
        known = sorted(known, key=lambda one: str(one) not in close)
    shown = ", ".join(map(repr, known[:NAMED_CATEGORIES]))
    return shown if len(known) <= NAMED_CATEGORIES else f"{shown} and {len(known) - NAMED_CATEGORIES} more"
