"""What the columns of a user's table are: their container, names, types and categories; into numbers, and back."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import check_array

from .moments import Array, reduce_blocks, row_blocks
from .sources import Recoded, RowSource

__all__ = [
    "Schema",
    "cells_of",
    "column_values",
    "frame_library",
    "is_category_type",
    "is_missing",
    "type_of",
]

# pandas' nullable types, and what kind of numpy type they hold.
NULLABLE = {"boolean": "b", "Float32": "f", "Float64": "f"}
NULLABLE |= {f"{'U' * (kind == 'u')}Int{bits}": kind for kind in "iu" for bits in (8, 16, 32, 64)}
# How many known categories an error names.
NAMED_CATEGORIES = 10


def frame_library(X: Any) -> str | None:
    """ "pandas" or "polars" for a data frame of theirs, None for anything else."""
    for name in ("pandas", "polars"):
        library = sys.modules.get(name)
        if library is not None and isinstance(X, library.DataFrame):
            return name
    return None


def cells_of(X: Any) -> Any:
    """A list, or an array of strings, as a two-dimensional array of what its cells are; other tables as they are."""
    if frame_library(X) is not None or isinstance(X, RowSource):
        return X
    if not isinstance(X, np.ndarray) or X.dtype.kind in "US":
        X = np.asarray(X, dtype=object)
    return check_array(X, dtype=None, ensure_all_finite=False)


@dataclass
class Schema:
    """The columns of a table.

    Attributes
    ----------
    library : str or None
        Of the data frame that the table is.
    names, dtypes : list or None
        Of a data frame's columns.
    categories : dict of int to list
        The values that a column of categories can hold, in the order of their codes.
    """

    library: str | None = None
    names: Any = None
    dtypes: Any = None
    categories: dict[int, list[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, X: Any) -> Schema:
        """The schema of a table, without categories yet."""
        library = frame_library(X)
        if library is None:
            return cls()
        dtypes = ["ordered category" if getattr(dtype, "ordered", False) else str(dtype) for dtype in X.dtypes]
        return cls(library, list(X.columns), dtypes)

    def label(self, column: int) -> str:
        """How an error names a column."""
        return f"column {column if self.names is None else self.names[column]!r}"

    def learn(self, X: Any, wanted: dict[int, int | None]) -> None:
        """Find the categories of these columns; a number says that they are the codes 0, 1, ... below it."""
        held = _categories(X, [column for column, n_categories in wanted.items() if n_categories is None])
        for column, n_categories in wanted.items():
            self.categories[column] = held[column] if n_categories is None else list(range(n_categories))
            if not self.categories[column]:
                raise ValueError(f"{self.label(column)} holds no value in {len(X)} rows; drop it before fitting.")

    def n_categories(self, columns: list[int]) -> list[int]:
        """How many categories each of these columns has; numbers have none."""
        return [len(self.categories.get(column, ())) for column in columns]

    def encoded(self, X: Any) -> Any:
        """X with codes for categories; X itself where it has none."""
        if not self.categories:
            return X
        if isinstance(X, RowSource):
            return Recoded(X, self._encoded_array)
        library = frame_library(X)
        if library is None:
            return self._encoded_array(np.asarray(X))
        codes = {column: self._codes(column_values(X, column), column) for column in self.categories}
        if library == "polars":
            series = sys.modules["polars"].Series
            return X.with_columns([series(X.columns[column], values) for column, values in codes.items()])
        X = X.copy(deep=False)
        for column, values in codes.items():
            X.isetitem(column, values)
        return X

    def _encoded_array(self, X: np.ndarray) -> np.ndarray:
        """An array in memory with codes for categories; other cells become numbers later."""
        result = np.array(X, dtype=X.dtype if X.dtype.kind in "Of" else np.float64)
        for column in self.categories:
            result[:, column] = self._codes(X[:, column], column)
        return result

    def _codes(self, values: np.ndarray, column: int) -> Array:
        """The codes of a column's values, NaN where one is missing."""
        places = {value: code for code, value in enumerate(self.categories[column])}
        distinct, inverse = _distinct(values)
        codes = np.array([np.nan if is_missing(v) else places.get(v, -1) for v in distinct], dtype=np.float64)
        found = codes[inverse]
        if (codes == -1).any():
            row = int(np.flatnonzero(found == -1)[0])
            raise ValueError(
                f"{self.label(column)} holds {_plain(values[row])!r} in row {row}, a category that fit has not seen; "
                f"it knows {_listed(self.categories[column])}. Mark the cell as missing (NaN), or fit to rows that "
                "have it."
            )
        return found

    def decoded(self, X: Array, like: Any = None, drawn: bool = False) -> Any:
        """Numbers in data units as the kind of table that `fit` saw.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Codes where a column holds categories.
        like : table or None
            Whose index a pandas frame takes over.
        drawn : bool
            Whether X was drawn from the model: then columns of whole numbers are rounded, and yes or no is made of 0
            and 1.
        """
        columns: list[Any] = list(X.T)
        for column, known in self.categories.items():
            columns[column] = _looked_up(known, X[:, column])
        if self.library is None:
            texts = any(values.dtype.kind == "O" for values in columns)
            return np.column_stack(columns).astype(object if texts else X.dtype) if self.categories else X
        for column, dtype in enumerate(self.dtypes):
            if column not in self.categories:
                columns[column] = _as_dtype(columns[column], dtype, drawn)
        make = _polars_frame if self.library == "polars" else _pandas_frame
        return make(self, columns, like)

    def fault(self, n_features: int) -> str | None:
        """What is wrong with a saved schema, in words; None if nothing is."""
        if self.library not in (None, "pandas", "polars"):
            return f"its table is of {self.library!r}"
        for values in (self.names, self.dtypes):
            if (values is None) != (self.library is None) or (values is not None and len(values) != n_features):
                return f"its columns are not {n_features} names and types"
        if not isinstance(self.categories, dict) or not set(self.categories) <= set(range(n_features)):
            return "its categories are not those of columns"
        if not all(isinstance(known, list) and known for known in self.categories.values()):
            return "a column has no list of categories"
        return None


def column_values(X: Any, column: int) -> np.ndarray:
    """A column of any table as an array; what is missing is None or NaN."""
    library = frame_library(X)
    if library == "pandas":
        series = X.iloc[:, column]
        if _is_number_type(series.dtype):
            return series.to_numpy(dtype=np.float64, na_value=np.nan)
        return series.astype(object).where(series.notna(), None).to_numpy()
    if library == "polars":
        series = X.to_series(column)
        if _is_number_type(series.dtype):
            return series.cast(sys.modules["polars"].Float64).to_numpy()
        return np.array(series.to_list(), dtype=object)
    return np.asarray(X)[:, column]


def _is_number_type(dtype: Any) -> bool:
    """Whether a column's type says that it holds numbers, or True and False."""
    if hasattr(dtype, "is_numeric"):
        return dtype.is_numeric() or str(dtype) == "Boolean"
    return getattr(dtype, "kind", "O") in "biuf"


def is_category_type(dtype: Any) -> bool:
    """Whether a column's type is one of categories, whatever these are."""
    return hasattr(dtype, "categories") or str(dtype) == "Categorical"


def type_of(X: Any, column: int) -> Any:
    """The type of a data frame's column; None for other tables."""
    library = frame_library(X)
    if library is None:
        return None
    return X.iloc[:, column].dtype if library == "pandas" else X.to_series(column).dtype


def is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas' NA is neither
        return True


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _distinct(values: np.ndarray) -> tuple[list, np.ndarray]:
    """The distinct values of a column, and which of them every cell is."""
    if values.dtype.kind != "O":
        distinct, inverse = np.unique(values, return_inverse=True)
        return distinct.tolist(), inverse
    places: dict[Any, int] = {}
    try:
        inverse = np.array([places.setdefault(None if is_missing(v) else v, len(places)) for v in values], dtype=int)
    except TypeError:
        odd = next(value for value in values if not isinstance(value, Hashable))
        raise TypeError(f"A cell of X holds {odd!r}; its argument must be a string or a number.") from None
    return list(places), inverse


def _categories(X: Any, columns: list[int]) -> dict[int, list]:
    """The categories of each of these columns: those of its pandas or polars type, else the sorted values it holds."""
    if not columns or not isinstance(X, RowSource):
        return {column: _of_type(X, column) or _sorted(_distinct(column_values(X, column))[0]) for column in columns}

    def distinct(part: slice) -> tuple[list, ...]:
        block = X[part]
        return tuple(np.unique(block[:, column]).tolist() for column in columns)

    return dict(zip(columns, map(_sorted, reduce_blocks(row_blocks(X), distinct)), strict=True))


def _of_type(X: Any, column: int) -> list:
    """The categories that a column's type names, whether the column holds them or not."""
    dtype = type_of(X, column)
    # polars' Categorical shares its categories with every other column.
    if getattr(dtype, "categories", None) is None or str(dtype) == "Categorical":
        return []
    return dtype.categories.tolist() if hasattr(dtype.categories, "tolist") else dtype.categories.to_list()


def _sorted(values: list) -> list:
    """The values that are not missing, each once: numbers first."""
    kept = {_plain(value) for value in values if not is_missing(value)}
    return sorted(kept, key=lambda value: (not isinstance(value, Real), str(type(value)), value))


def _looked_up(known: list, codes: Array) -> np.ndarray:
    """The categories of these codes; None, or NaN among numbers, where a code is missing."""
    numbers = all(isinstance(value, Real) and not isinstance(value, bool) for value in known)
    table = np.array([*known, np.nan if numbers else None], dtype=np.float64 if numbers else object)
    return table[np.where(np.isnan(codes), len(known), codes).astype(int)]


def _as_dtype(values: Array, dtype: str, drawn: bool) -> np.ndarray:
    """A column of numbers in the type it had, where no value is lost by it."""
    kind = dtype.lower()
    if drawn and kind.startswith(("int", "uint", "bool")):
        values = np.rint(values)
    whole = bool((np.isfinite(values) & (values % 1 == 0)).all())
    if kind.startswith("bool"):
        return values.astype(bool) if whole and set(np.unique(values)) <= {0.0, 1.0} else values
    if kind.startswith(("int", "uint")):
        limits = np.iinfo(kind)
        fits = whole and (not len(values) or (values.min() >= limits.min and values.max() <= limits.max))
        return values.astype(kind) if fits else values
    return values.astype(np.float32) if kind == "float32" else values


def _pandas_frame(schema: Schema, columns: list, like: Any) -> Any:
    pandas = sys.modules.get("pandas") or __import__("pandas")
    index = getattr(like, "index", None) if frame_library(like) == "pandas" else None
    frame = pandas.DataFrame(dict(enumerate(columns)), index=index)
    for column, known in schema.categories.items():
        if schema.dtypes[column].endswith("category"):
            ordered = schema.dtypes[column].startswith("ordered")
            frame.isetitem(column, pandas.Categorical(frame.iloc[:, column], categories=known, ordered=ordered))
        else:
            whole = frame.iloc[:, column].notna().all() or not schema.dtypes[column].startswith(("int", "uint", "bool"))
            frame.isetitem(column, frame.iloc[:, column].astype(schema.dtypes[column]) if whole else frame[column])
    for column, dtype in enumerate(schema.dtypes):
        # Nullable types, where the numbers are still of their kind.
        if dtype in NULLABLE and frame.iloc[:, column].dtype.kind == NULLABLE[dtype]:
            frame.isetitem(column, frame.iloc[:, column].astype(dtype))
    frame.columns = schema.names
    return frame


def _polars_frame(schema: Schema, columns: list, like: Any) -> Any:
    polars = sys.modules.get("polars") or __import__("polars")
    series = []
    for column, (name, values) in enumerate(zip(schema.names, columns, strict=True)):
        dtype = schema.dtypes[column]
        made = polars.Series(name, values.tolist() if values.dtype.kind == "O" else values)
        if column in schema.categories:
            known = schema.categories[column]
            made = made.cast(polars.Enum(known) if dtype.startswith("Enum") else getattr(polars, dtype))
        series.append(made)
    return polars.DataFrame(series)


def _listed(known: list) -> str:
    shown = ", ".join(map(repr, known[:NAMED_CATEGORIES]))
    return shown if len(known) <= NAMED_CATEGORIES else f"{shown} and {len(known) - NAMED_CATEGORIES} more"
