"""Containers in, those that scikit-learn's validation misreads; cells that are no numbers; and containers out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils._set_output import ADAPTERS_MANAGER, _get_output_config
from torch import Tensor

from .schema import Schema
from .sources import as_source

__all__ = ["framed", "name_the_string", "refuse_container", "unpack_container"]


def unpack_container(X: Any) -> Any:
    """X in a form scikit-learn's validation reads rightly: tensors, masked arrays and dates are its blind spots."""
    if isinstance(X, Tensor):
        if X.requires_grad or X.device.type != "cpu" or X.dtype == torch.bfloat16:
            raise TypeError(
                f"X is a torch tensor on {X.device} of {X.dtype} with requires_grad={X.requires_grad}; "
                "pass X.detach().cpu().float()."
            )
        return X.numpy()
    if isinstance(X, np.ma.MaskedArray):
        return np.ma.filled(X.astype(np.float64), np.nan)
    for column, dtype in enumerate(getattr(X, "dtypes", [getattr(X, "dtype", None)])):
        if getattr(dtype, "kind", "") in ("M", "m") or str(dtype).startswith(("Date", "Duration", "Time")):
            label = Schema.of(X).label(column) if hasattr(X, "columns") else "X"
            raise ValueError(
                f"{label} holds dates or time spans; turn them into numbers first (days since a date, say)."
            )
    source = as_source(X)
    return X if source is None else source


def name_the_string(X: Any, error: ValueError) -> ValueError:
    """The error for a cell that is no number, naming its column and the way out; `error` itself where there is none."""
    cells = np.asarray(X, dtype=object)
    if cells.ndim != 2:
        return error
    for column, values in enumerate(cells.T):
        for value in values:
            if isinstance(value, str) and not _is_number(value):
                return ValueError(
                    f"could not convert string to float: {Schema.of(X).label(column)} holds {value!r}. Set "
                    "likelihood='auto' (or Mixed) for a table with categories, drop the column, or mark the cell as "
                    "missing (NaN)."
                )
    return error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def framed(estimator: Any, X: Any, values: np.ndarray, names: list[str]) -> Any:
    """`values` in the container that the estimator's `set_output` or scikit-learn's configuration asks for."""
    dense = _get_output_config("transform", estimator)["dense"]
    return values if dense == "default" else ADAPTERS_MANAGER.adapters[dense].create_container(values, X, columns=names)


def refuse_container(name: str) -> None:
    """Raise unless scikit-learn knows how to fill a container of this name."""
    words = {"default", *ADAPTERS_MANAGER.supported_outputs}
    if name not in words:
        raise ValueError(f"transform={name!r} must be one of {sorted(words)} or None.")
