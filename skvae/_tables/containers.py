"""Containers in, those that scikit-learn's validation misreads; cells that are no numbers; and containers out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from datetime import date, time, timedelta
from itertools import chain
from numbers import Complex, Real
from typing import Any

import numpy as np
import torch
from sklearn.utils._set_output import ADAPTERS_MANAGER, _get_output_config
from torch import Tensor

from .frames import column_values, frame_library, label_of, series_of, with_columns
from .sources import as_source
from .types import is_missing, kinds_of

__all__ = [
    "dense",
    "floats_of",
    "framed",
    "in_frame",
    "numbers_of",
    "output_container",
    "refuse_container",
    "unpack_container",
]

# How the names of types begin whose cells are dates, or lists, in pandas, pyarrow and polars.
DATES = ("date", "duration", "period", "time")
LISTS = ("array(", "fixed_size_list", "large_list", "list", "map<", "struct")


def unpack_container(X: Any) -> Any:
    """X in a form scikit-learn's validation reads rightly: tensors, masked arrays and dates are its blind spots."""
    _refuse_what_is_no_table(X)
    if isinstance(X, Tensor):
        if X.requires_grad or X.device.type != "cpu" or X.dtype == torch.bfloat16:
            raise TypeError(
                f"X is a torch tensor on {X.device} of {X.dtype} with requires_grad={X.requires_grad}; "
                "pass X.detach().cpu().float()."
            )
        return X.numpy()
    if isinstance(X, np.ma.MaskedArray):
        return np.ma.filled(X.astype(np.float64), np.nan)
    if frame_library(X) is None:
        _refuse_cells(X)
    else:
        for column, dtype in enumerate(X.dtypes):
            refused = _refused_type(dtype)
            if str(dtype).lower() == "object":
                refused = _refused_kind(series_of(X, column).to_list())
            if refused is not None:
                raise refused(label_of(X, column))
    source = as_source(X)
    return X if source is None else source


def _refuse_what_is_no_table(X: Any) -> None:
    """Raise for what is often taken for a table, in words that say what to pass in its place."""
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    if pandas is not None and isinstance(X, pandas.Series):
        raise ValueError(
            f"Expected a 2-dimensional container but got {type(X)} instead. Pass a DataFrame containing a single row "
            "(i.e. single sample) or a single column (i.e. single feature) instead."
        )
    if polars is not None and isinstance(X, polars.LazyFrame):
        raise ValueError("X is a polars LazyFrame, which holds no rows yet; pass X.collect().")
    if hasattr(X, "shape"):
        return
    if isinstance(X, Mapping):
        raise ValueError(f"X is a {type(X).__name__}, not a table of rows and columns; pass pandas.DataFrame(X).")
    if X is None or isinstance(X, (Iterator, Set, str, bytes)):
        raise ValueError(
            f"X is {'None' if X is None else f'a {type(X).__name__}'}, not a table of rows and columns; pass an "
            "array, a data frame or a list of rows."
        )


# What makes an error of a column's label.
Refusal = Callable[[str], Exception]


def _refuse_cells(X: Any) -> None:
    """Raise where an array, or a list of rows, holds what are no cells of a table."""
    if isinstance(X, np.ndarray) and X.dtype.kind in "Mm":
        raise _holds_dates("X")
    if isinstance(X, np.ndarray) and X.dtype.kind == "O" and X.ndim == 2:
        rows: list = X.tolist()
    elif isinstance(X, (list, tuple)) and all(isinstance(row, (list, tuple)) for row in X):
        rows = list(X)
    else:
        return
    if _refused_kind(chain.from_iterable(rows)) is not None:
        for column, cells in enumerate(zip(*rows, strict=False)):
            if (refused := _refused_kind(cells)) is not None:
                raise refused(f"column {column}")


def _refused_type(dtype: Any) -> Refusal | None:
    """The error for a column of such a type; None where its cells are cells of a table."""
    name, kind = str(dtype).lower(), getattr(dtype, "kind", "-")
    if kind in "Mm" or name.startswith(DATES):
        return _holds_dates
    if kind == "c":
        return _holds_complex
    return _holds_lists if name.startswith(LISTS) else None


def _refused_kind(cells: Iterable) -> Refusal | None:
    """The same for a column of Python's objects."""
    for kind in kinds_of(cells):
        if _is_date(kind):
            return _holds_dates
        if issubclass(kind, Complex) and not issubclass(kind, Real):
            return _holds_complex
        if issubclass(kind, (list, np.ndarray)):
            return _holds_lists
    return None


def _is_date(kind: type) -> bool:
    if kind.__name__ == "NaTType":  # a missing one, which may stand in any column
        return False
    return issubclass(kind, (date, time, timedelta, np.datetime64, np.timedelta64)) or kind.__name__ == "Period"


def _holds_dates(label: str) -> ValueError:
    return ValueError(f"{label} holds dates or time spans; turn them into numbers first (days since a date, say).")


def _holds_lists(label: str) -> TypeError:
    return TypeError(f"{label} holds lists; give every item a column of its own.")


def _holds_complex(label: str) -> ValueError:
    return ValueError(
        f"Complex data not supported: {label} holds complex numbers; give their real and imaginary parts as two "
        "columns."
    )


def dense(X: Any) -> Any:
    """A pandas frame without sparse columns, of which scikit-learn refuses frames that hold no others."""
    if frame_library(X) != "pandas":
        return X
    sparse = [column for column, dtype in enumerate(X.dtypes) if str(dtype).startswith("Sparse")]
    return with_columns(X, {column: column_values(X, column) for column in sparse}) if sparse else X


def numbers_of(X: Any) -> Any:
    """A table with floats in place of what are no numbers by their type; the error that names a cell that is none.

    None where X is no such table.
    """
    if frame_library(X) is not None:
        cells = {column: column_values(X, column) for column in range(X.shape[1])}
        objects = {column: values for column, values in cells.items() if values.dtype.kind == "O"}
        return with_columns(X, {column: floats_of(values, label_of(X, column)) for column, values in objects.items()})
    if getattr(getattr(X, "dtype", None), "kind", "O") in "biufc":
        return None
    try:
        table = np.asarray(X, dtype=object)
    except ValueError:  # rows of several lengths
        return None
    if table.ndim != 2 or not table.size:
        return None
    return np.column_stack([floats_of(values, f"column {column}") for column, values in enumerate(table.T)])


def floats_of(cells: np.ndarray, label: str) -> np.ndarray:
    """Cells as floats, NaN where one is missing; the error that names one that is no number."""
    # numpy takes None for NaN, which saves looking at each cell, and not pandas' NA.
    for values in (lambda: cells, lambda: [np.nan if is_missing(value) else value for value in cells]):
        try:
            found = np.array(values(), dtype=np.float64)
            if found.ndim == 1:  # and not of tuples
                return found
        except (TypeError, ValueError, OverflowError):
            pass
    faults = (error for value in cells if (error := _fault(value, label)) is not None)
    raise next(faults, ValueError(f"{label} holds cells that are no numbers."))


def _fault(value: Any, label: str) -> Exception | None:
    """The error for a cell that is no number, with the way out; None for one that is."""
    advice = "Set likelihood='auto' (or Mixed) for a table with categories, drop the column, or mark the cell as "
    advice += "missing (NaN)."
    try:
        float(np.nan if is_missing(value) else value)
    except OverflowError:
        return ValueError(f"{label} holds {value!r}, which is too large for a number in float64.")
    except ValueError:
        return ValueError(f"could not convert string to float: {label} holds {value!r}. {advice}")
    except TypeError:
        return TypeError(f"{label} holds {value!r}, but float() argument must be a string or a real number. {advice}")
    return None


def output_container(estimator: Any) -> str:
    """The container that the estimator's `set_output` or scikit-learn's configuration asks for."""
    return _get_output_config("transform", estimator)["dense"]


def framed(estimator: Any, X: Any, values: np.ndarray, names: list[str]) -> Any:
    """`values` in the container that is asked for."""
    library = output_container(estimator)
    return values if library == "default" else in_frame(library, X, values, names)


def in_frame(library: str, X: Any, values: np.ndarray, names: list) -> Any:
    """`values` as a frame, with the rows' labels of X."""
    return ADAPTERS_MANAGER.adapters[library].create_container(values, X, columns=names)


def refuse_container(name: str) -> None:
    """Raise unless scikit-learn knows how to fill a container of this name."""
    words = {"default", *ADAPTERS_MANAGER.supported_outputs}
    if name not in words:
        raise ValueError(f"transform={name!r} must be one of {sorted(words)} or None.")
