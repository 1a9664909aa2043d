"""Data frames of pandas and polars: their columns as arrays, and columns and frames made anew."""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable
from typing import Any

import numpy as np

from .types import in_type, is_number, kinds_of, number_type, object_type, objects, plain

__all__ = [
    "absent_column",
    "axis_of",
    "column_filled",
    "column_of",
    "column_values",
    "emptied",
    "frame_library",
    "frame_of",
    "in_own_type",
    "is_axis",
    "is_category_type",
    "is_number_type",
    "label_of",
    "labels_and",
    "mean_type",
    "new_series",
    "series_of",
    "table_of_lines",
    "type_name",
    "type_names",
    "type_of",
    "with_columns",
]


# Types that pandas has from numpy.
NUMPY = {"bool", *(f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64))} - {"float8"}


def frame_library(X: Any) -> str | None:
    """ "pandas" or "polars" for a data frame of theirs, None for anything else."""
    for name in ("pandas", "polars"):
        library = sys.modules.get(name)
        if library is not None and isinstance(X, library.DataFrame):
            return name
    return None


def _library(name: str) -> Any:
    return sys.modules.get(name) or __import__(name)


# What a frame holds


def series_of(X: Any, column: int) -> Any:
    """A data frame's column."""
    return X.iloc[:, column] if frame_library(X) == "pandas" else X.to_series(column)


def new_series(library: str | None, values: np.ndarray) -> Any:
    """A column of whatever type suits these values."""
    if library == "pandas":
        return _library("pandas").Series(values)
    return _library("polars").Series(values.tolist(), strict=False)


def absent_column(library: str, n_rows: int) -> Any:
    """A column of no type and without values, as `frame_of` takes it."""
    return objects([None] * n_rows) if library == "pandas" else _library(library).Series([None] * n_rows)


def type_of(X: Any, column: int) -> Any:
    """The type of a data frame's column; None for other tables."""
    return None if frame_library(X) is None else series_of(X, column).dtype


def is_number_type(dtype: Any) -> bool:
    """Whether a column's type says that it holds numbers, or True and False."""
    if hasattr(dtype, "is_numeric"):  # polars'
        return dtype.is_numeric() or str(dtype) == "Boolean"
    return getattr(dtype, "kind", "O") in "biuf"


def is_category_type(dtype: Any) -> bool:
    """Whether a column's type is one of categories, whatever these are."""
    return hasattr(dtype, "categories") or str(dtype) == "Categorical"


def column_values(X: Any, column: int) -> np.ndarray:
    """A column of any table as an array: numbers where it holds nothing else, NaN where one is missing.

    Otherwise Python's objects, and None where one is missing. Whole numbers of which none is missing stay whole.
    """
    library = frame_library(X)
    if library is None:
        values = np.asarray(X)[:, column]
        return _cells(values) if values.dtype.kind == "O" else values
    series = series_of(X, column)
    if library == "pandas":
        kind = getattr(series.dtype, "kind", "O")
        if kind in "iu" and not series.isna().any():
            return series.to_numpy(dtype=f"{kind}8")
        if kind in "biuf":
            return series.to_numpy(dtype=np.float64, na_value=np.nan)
        if isinstance(series.dtype, np.dtype):
            return _cells(series.to_numpy())
        return _cells(series.astype(object).where(series.notna(), None).to_numpy())
    if series.dtype.is_integer() and not series.null_count() and number_type(str(series.dtype)).bits <= 64:
        return series.to_numpy()
    if is_number_type(series.dtype):
        return series.cast(_library("polars").Float64).to_numpy()
    return _cells(series.to_list())


def _cells(values: Any) -> np.ndarray:
    """A column of objects as an array of objects of Python's types."""
    if not all(map(_is_plain, kinds_of(values))):
        values = [plain(value) for value in values]
    return values if isinstance(values, np.ndarray) else objects(values)


def _is_plain(kind: type) -> bool:
    return kind in (bool, int, float, str) or not (is_number(kind) or issubclass(kind, np.generic))


def label_of(X: Any, column: int) -> str:
    """How an error names a column of a table."""
    return f"column {column if frame_library(X) is None else plain(X.columns[column])!r}"


def with_columns(X: Any, columns: dict[int, np.ndarray]) -> Any:
    """A frame with arrays in place of some columns."""
    if frame_library(X) == "polars":
        series = _library("polars").Series
        return X.with_columns([series(X.columns[column], values) for column, values in columns.items()])
    X = X.copy(deep=False)
    for column, values in columns.items():
        X.isetitem(column, values)
    return X


def type_names(X: Any) -> list[str] | None:
    """The types of the columns of a frame, or of an array of objects; None for an array of numbers."""
    if frame_library(X) is not None:
        return [type_name(series_of(X, column)) for column in range(X.shape[1])]
    if isinstance(X, np.ndarray) and X.dtype.kind == "O":
        return [object_type(values) for values in X.T]
    return None


def type_name(series: Any) -> str:
    """The type of a frame's column, or of pandas' labels, by a name of which `column_of` makes such a column again."""
    dtype = series.dtype
    if hasattr(dtype, "is_numeric"):  # polars'
        return str(dtype)
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        return object_type(series.tolist())
    if hasattr(dtype, "pyarrow_dtype"):
        return f"arrow {dtype.pyarrow_dtype}"
    if hasattr(dtype, "storage"):
        missing = "str" if dtype.na_value is not _library("pandas").NA else "string"
        return f"{missing} in {dtype.storage}"
    return "ordered category" if getattr(dtype, "ordered", False) else str(dtype)


# What is made


def mean_type(library: str | None, name: str) -> str:
    """The type that means of a column's numbers have: its own, or one of the same family where it has whole numbers."""
    kind = number_type(name)
    if kind.kind and not kind.whole:
        return name
    if library == "polars":
        return "Float64"
    if name.startswith("arrow"):
        return "arrow double"
    return "Float64" if kind.whole and name.startswith(("Int", "UInt", "boolean")) else "float64"


def column_of(library: str | None, cells: np.ndarray, name: str, known: list | None = None) -> Any:
    """A column of this type; `known` are the categories that its cells are of, None if they are numbers.

    Of pandas an array that a frame takes for a column.
    """
    if cells.dtype.kind == "f":
        cells = in_type(cells, name)
    if library == "pandas":
        dtype = _pandas_type(name, known)
        if isinstance(dtype, np.dtype):
            return cells.astype(dtype, copy=False)
        return _library("pandas").array(cells.tolist() if name.startswith("arrow dictionary") else cells, dtype=dtype)
    polars = _library("polars")
    if name == "Object":
        return polars.Series(cells.tolist(), dtype=polars.Object)
    return polars.Series(cells.tolist() if cells.dtype.kind == "O" else cells).cast(_polars_type(name, known))


def _pandas_type(name: str, known: list | None) -> Any:
    """A type by the name that `type_names` gave it."""
    if name in NUMPY:
        return np.dtype(name)
    pandas = _library("pandas")
    if name.endswith("category"):
        return pandas.CategoricalDtype(known, ordered=name.startswith("ordered"))
    if name.startswith("object"):
        return np.dtype(object)
    if name.startswith("arrow "):
        return pandas.ArrowDtype(_arrow_type(name.removeprefix("arrow ")))
    if found := re.match(r"(str|string) in (\w+)$", name):
        missing = {"na_value": np.nan} if found[1] == "str" else {}
        return pandas.StringDtype(found[2], **missing)
    if found := re.match(r"Sparse\[(\w+), (.*)\]$", name):
        fill = {"nan": np.nan, "True": True, "False": False}
        return pandas.SparseDtype(found[1], fill[found[2]] if found[2] in fill else float(found[2]))
    return pandas.api.types.pandas_dtype(name)


def _arrow_type(name: str) -> Any:
    """pyarrow's type of this name."""
    pyarrow = _library("pyarrow")
    if found := re.match(r"decimal(\d+)\((\d+), (-?\d+)\)$", name):
        return getattr(pyarrow, f"decimal{found[1]}")(int(found[2]), int(found[3]))
    if found := re.match(r"dictionary<values=(\w+), indices=(\w+), ordered=(\d)>$", name):
        values, indices = map(pyarrow.type_for_alias, found.groups()[:2])
        return pyarrow.dictionary(indices, values, found[3] == "1")
    if found := re.match(r"fixed_size_binary\[(\d+)\]$", name):
        return pyarrow.binary(int(found[1]))
    return pyarrow.type_for_alias(name)


def _polars_type(name: str, known: list | None) -> Any:
    polars = _library("polars")
    if name.startswith("Enum"):
        return polars.Enum(known)
    kind = number_type(name)
    return polars.Decimal(kind.precision, kind.digits) if kind.kind == "decimal" else getattr(polars, name)


def frame_of(columns: list, names: list, axis: dict[str, Any] | None, like: Any = None) -> Any:
    """A frame of columns that `column_of` made, with the rows' labels of `like`; polars' labels have no `axis`."""
    if axis is None:
        return _library("polars").DataFrame([series.alias(name) for series, name in zip(columns, names, strict=True)])
    pandas, index = _library("pandas"), like.index if frame_library(like) == "pandas" else None

    def as_they_are(cells: Any) -> Any:
        # A frame would make a column of text of an array of objects.
        objects = isinstance(cells, np.ndarray) and cells.dtype.kind == "O"
        return pandas.Series(cells, index, dtype=object) if objects else cells

    frame = pandas.DataFrame({i: as_they_are(cells) for i, cells in enumerate(columns)}, index=index)
    frame.columns = _labels_of(names, axis)
    return frame


def emptied(table: Any, gaps: np.ndarray) -> Any:
    """A table without these cells; columns that lose none keep their type, others theirs if it can lack a value."""
    library, columns = frame_library(table), np.flatnonzero(gaps.any(axis=0)).tolist()
    if library is None:
        table = table.copy()
        table[gaps] = np.nan
    elif library == "pandas":
        table = table.copy()
        for column in columns:
            table.isetitem(column, table.iloc[:, column].mask(gaps[:, column]))
    else:
        polars = _library("polars")
        for column in columns:
            name = table.columns[column]
            kept = polars.when(polars.Series(~gaps[:, column])).then(polars.col(name))
            table = table.with_columns(kept.alias(name))
    return table


def table_of_lines(library: str | None, lines: list[dict[str, Any]], like: Any) -> Any:
    """Lines as a frame, each under the label of its "row" of `like`; the lines themselves without a library.

    A column of polars has one type: mixed cells become text there.
    """
    if library == "polars":
        mixed = [name for name in lines[0] if len({type(line[name]) for line in lines} - {type(None)}) > 1]
        texts = [{n: str(v) if n in mixed and v is not None else v for n, v in line.items()} for line in lines]
        return _library("polars").DataFrame(texts, infer_schema_length=None)
    if library != "pandas":
        return lines
    index = like.index[[line["row"] for line in lines]] if frame_library(like) == "pandas" else None
    return _library("pandas").DataFrame(lines, index=index)


# The labels of pandas' columns


def axis_of(labels: Any) -> dict[str, Any]:
    """What kind of index a pandas frame's columns are, in plain words, beside their labels."""
    if labels.nlevels > 1:
        levels = [axis_of(labels.get_level_values(i)) for i in range(labels.nlevels)]
        return {"names": list(labels.names), "levels": levels}
    found: dict[str, Any] = {"names": list(labels.names), "type": type_name(labels)}
    if hasattr(labels, "step"):
        found["range"] = [labels.start, labels.stop, labels.step]
    if getattr(labels, "freq", None) is not None and labels.dtype.kind in "Mm":  # of dates at even distances
        found["freq"] = labels.freqstr
    if hasattr(labels.dtype, "categories"):
        found["categories"] = labels.dtype.categories.tolist()
    return found


def is_axis(axis: Any, n_labels: int) -> bool:
    """Whether a saved value is what `axis_of` says of so many labels."""
    if not isinstance(axis, dict) or not isinstance(axis.get("names"), list):
        return False
    if not all(isinstance(name, Hashable) for name in axis["names"]):
        return False
    if "levels" in axis:
        levels = axis["levels"]
        listed = isinstance(levels, list) and len(levels) == len(axis["names"])
        return listed and all(is_axis(level, n_labels) for level in levels)
    whole = axis.get("range", [0, n_labels, 1])
    of_labels = isinstance(whole, list) and len(whole) == 3 and len(range(*whole)) == n_labels
    texts = isinstance(axis.get("type"), str) and isinstance(axis.get("freq", ""), str)
    return of_labels and texts and len(axis["names"]) == 1 and isinstance(axis.get("categories", []), list)


def _labels_of(names: list, axis: dict[str, Any]) -> Any:
    """The index of these labels, of the kind that `axis_of` says."""
    pandas = _library("pandas")
    if "levels" in axis:
        each = zip(zip(*names, strict=True), axis["levels"], strict=True)
        return pandas.MultiIndex.from_arrays([_labels_of(list(own), kind) for own, kind in each], names=axis["names"])
    (name,) = axis["names"]
    if "range" in axis:
        return pandas.RangeIndex(*axis["range"], name=name)
    dtype = _pandas_type(axis["type"], axis.get("categories"))
    index = pandas.Index(names, dtype=dtype, name=name, tupleize_cols=False)
    return type(index)(index, freq=axis["freq"]) if "freq" in axis else index


def labels_and(names: list, axis: dict[str, Any], last: str) -> Any:
    """These labels and one more, at the first of several levels."""
    labels = _labels_of(names, axis)
    more = (last, *[""] * (labels.nlevels - 1)) if labels.nlevels > 1 else last
    return labels.astype(object).insert(len(names), more) if labels.nlevels == 1 else labels.insert(len(names), more)


# Gaps filled


def column_filled(
    library: str | None, column: Any, cells: np.ndarray, gaps: np.ndarray, name: str, known: list | None
) -> Any:
    """`column` with these cells in its gaps, of the type of this name; of its own where that would change a cell."""
    pandas = library == "pandas"
    made = column_of(library, cells, name, known)
    if isinstance(made, np.ndarray) and made.dtype == column.dtype:
        found = column.to_numpy(copy=True)
        found[gaps] = made
        return found
    present = column.loc[~gaps] if pandas else column.filter(_library("polars").Series(~gaps))
    kept = present if present.dtype == made.dtype else _converted(present, made.dtype)
    if kept is None:
        kept, made = present, column_of(library, cells, type_name(column), known)
    place = np.argsort(np.r_[np.flatnonzero(~gaps), np.flatnonzero(gaps)])
    if not pandas:
        return _library("polars").concat([kept.alias(""), made.alias("")]).gather(place)
    return _library("pandas").concat([kept, _library("pandas").Series(made)], ignore_index=True).array[place]


def in_own_type(library: str, series: Any, name: str, known: list | None) -> Any:
    """A column in the type of this name; as it is where that would change a cell."""
    none = column_of(library, objects([]) if known is not None else np.empty(0), name, known)
    found = _converted(series, none.dtype)
    return series if found is None else found


def _converted(series: Any, dtype: Any) -> Any:
    """A column in another type; None where that would change a cell."""
    errors = [TypeError, ValueError, OverflowError, NotImplementedError]
    try:
        if hasattr(series, "iloc"):
            found = series.astype(dtype)
            same = found.astype(object).tolist() == series.astype(object).tolist()
        else:
            errors.append(_library("polars").exceptions.PolarsError)
            found = series.cast(dtype)
            same = found.to_list() == series.to_list()
    except tuple(errors):
        return None
    return found if same else None
