"""Rows of a table: containers at the door, moments, the scale, and the batches a training loop reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Array", "Moments", "Rows", "Scale", "column_moments", "name_the_string", "to_rows", "unpack_container"]

Array = NDArray[np.float64]


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
    kinds = [getattr(dtype, "kind", "") for dtype in getattr(X, "dtypes", [getattr(X, "dtype", None)])]
    if "M" in kinds or "m" in kinds:
        raise ValueError("X holds dates or time spans; turn them into numbers first (days since a date, say).")
    return X


def name_the_string(X: Any, error: ValueError) -> ValueError:
    """The error for a cell that is no number, naming its column and the way out; `error` itself where there is none."""
    columns = getattr(X, "columns", None)
    cells = np.asarray(X, dtype=object)
    if cells.ndim != 2:
        return error
    for i, column in enumerate(cells.T):
        for value in column:
            if isinstance(value, str) and not _is_number(value):
                name = i if columns is None else columns[i]
                return ValueError(
                    f"could not convert string to float: column {name!r} holds {value!r}. Encode categories as numbers "
                    "(OneHotEncoder, say), drop the column, or mark the cell as missing (NaN)."
                )
    return error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class Moments(NamedTuple):
    """Weighted mean and standard deviation of every column, in data units; `constant` marks flat columns."""

    mean: Array
    std: Array
    constant: NDArray[np.bool_]


class Scale(NamedTuple):
    """The affine map between data units and the model's units: x = (X - shift) / scale."""

    shift: Array
    scale: Array

    def to_model(self, X: Array) -> Array:
        """Data units to model units, in float64; a value too far out for float64 becomes infinite."""
        with np.errstate(over="ignore", invalid="ignore"):
            return (X - self.shift) / self.scale

    def to_data(self, x: Array) -> Array:
        """Model units to data units, in float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            return x * self.scale + self.shift


def column_moments(X: Array, weight: Array | None = None) -> Moments:
    """Mean and standard deviation of each column of X (N, D) over its present (not NaN) cells.

    Every column is divided by its largest magnitude first, so that 1e-300 and 1e300 are ordinary numbers.
    A column counts as constant where its variance is within rounding of zero: its standard deviation is
    then reported as 0.
    """
    present = ~np.isnan(X)
    magnitude = np.max(np.abs(X), axis=0, where=present, initial=0.0)
    magnitude[magnitude == 0] = 1.0
    unit = np.divide(X, magnitude, where=present, out=np.zeros_like(X))
    mass = present if weight is None else present * weight[:, None]
    total = mass.sum(axis=0, dtype=np.float64)
    mean = (mass * unit).sum(axis=0) / np.maximum(total, np.finfo(float).tiny)
    centred = np.where(present, unit - mean, 0.0)
    var = (mass * centred**2).sum(axis=0) / np.maximum(total, np.finfo(float).tiny)
    rounding = len(X) * np.finfo(float).eps
    constant = var <= rounding * var + (rounding * mean) ** 2
    # The mean of equal numbers can miss them by a rounding error, which a scale of 1 would show in data units.
    low = np.min(unit, axis=0, where=present, initial=np.inf)
    high = np.max(unit, axis=0, where=present, initial=-np.inf)
    mean = np.where(low == high, high, mean)
    return Moments(mean * magnitude, np.where(constant, 0.0, np.sqrt(var) * magnitude), constant)


@dataclass
class Rows:
    """Rows in the model's units. A missing cell holds 0 in `x` and 0 in `mask`.

    Attributes
    ----------
    x : Tensor of shape (N, D)
    mask : Tensor of shape (N, D) or None
        1 where a cell is present; None when all are.
    weight : Tensor of shape (N,) or None
        Sample weights of mean 1; None when all are equal.
    y : Tensor of shape (N, ...) or None
        Targets, for objectives with `uses_target`.
    """

    x: Tensor
    mask: Tensor | None = None
    weight: Tensor | None = None
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Rows:
        mask, weight, y = (None if v is None else change(v) for v in (self.mask, self.weight, self.y))
        return Rows(change(self.x), mask, weight, y)

    def take(self, index: Tensor) -> Rows:
        """The rows at `index`."""
        return self._map(lambda value: value.index_select(0, index))

    def narrow(self, dim: int, first: int, length: int) -> Rows:
        """Views of `length` rows from `first` on, where rows are axis `dim`."""
        return self._map(partial(torch.narrow, dim=dim, start=first, length=length))

    def thinned(self, most: int) -> Rows:
        """Every so many rows, `most` at most: the first ones of a sorted table would not stand for it."""
        return self.take(torch.arange(0, len(self), -(-len(self) // most)))

    def to(self, device: torch.device) -> Rows:
        """The same rows on `device`."""
        return self._map(lambda value: value.to(device))

    def blocks(self, size: int) -> Iterator[Rows]:
        """The rows in order, at most `size` at a time."""
        for first in range(0, len(self), size):
            yield self.narrow(0, first, min(size, len(self) - first))

    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Rows]:
        """One epoch: shuffled rows in even batches of about `batch_size`, none dropped, no small rest."""
        order = torch.randperm(len(self), generator=rng, device=rng.device)
        if order.device != self.x.device:
            order = order.to(self.x.device)
        for index in order.tensor_split(-(-len(self) // batch_size)):
            yield self.take(index)

    @property
    def mass(self) -> Tensor:
        """Weight of every present cell, 0 where one is missing: (N, D), float64."""
        mass = torch.ones_like(self.x, dtype=torch.float64) if self.mask is None else self.mask.double()
        return mass if self.weight is None else mass * self.weight[:, None]

    def mean(self, values: Tensor) -> Tensor:
        """Mean over rows of `values` (N, ...), weighted where the rows are; a scalar passes through."""
        if values.dim() == 0:
            return values
        if self.weight is None:
            return values.mean(0)
        return torch.tensordot(self.weight, values, dims=1) / len(self)


def to_rows(X: Array, scale: Scale, weight: Array | None = None, y: Array | None = None, dtype=torch.float32) -> Rows:
    """Rows in model units from a float64 table in data units, where NaN marks a missing cell."""
    x = scale.to_model(X)
    missing = np.isnan(x)
    mask = None
    if missing.any():
        x[missing] = 0.0
        mask = _tensor(~missing, dtype)
    return Rows(
        _tensor(x, dtype),
        mask,
        None if weight is None else _tensor(weight, dtype),
        None if y is None else _tensor(y, dtype),
    )


def _tensor(values: np.ndarray, dtype: torch.dtype) -> Tensor:
    """A tensor of its own memory: numpy arrays may be read-only or memory-mapped."""
    return torch.tensor(values, dtype=dtype, device="cpu")
