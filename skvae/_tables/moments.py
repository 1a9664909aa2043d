"""Sums over the rows of a table: moments, gaps, and the scale that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from torch import Tensor

from .sources import RowSource

__all__ = [
    "BLOCK_NUMBERS",
    "Array",
    "Moments",
    "Scale",
    "Units",
    "column_moments",
    "empty_columns",
    "has_gaps",
    "row_blocks",
]


# Numbers that a block of rows holds where a whole table is walked through.
BLOCK_NUMBERS = 250_000


Array = NDArray[np.float64]


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
        if self.is_identity():  # a sixth of the time
            return X.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            x = np.subtract(X, self.shift, dtype=np.float64)
            return np.divide(x, self.scale, out=x)

    def is_identity(self) -> bool:
        """Whether the units are the same, as for shares and counts."""
        return not self.shift.any() and bool((self.scale == 1).all())

    def to_data(self, x: Array) -> Array:
        """Model units to data units, in float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            return x * self.scale + self.shift


class Units(NamedTuple):
    """What an objective's views may do to the x of a batch.

    Attributes
    ----------
    add_noise : callable
        `add_noise(x, noise)`: x with noise added as the likelihood allows.
    scale : Scale
        The map between data units and the model's.
    """

    add_noise: Callable[[Tensor, Tensor], Tensor]
    scale: Scale

    def to_data(self, x: Tensor) -> Tensor:
        """Model units to data units, in float64 where the device has it."""
        return x * _like(self.scale.scale, x) + _like(self.scale.shift, x)

    def to_model(self, x: Tensor) -> Tensor:
        """Data units to model units."""
        return (x - _like(self.scale.shift, x)) / _like(self.scale.scale, x)


def _like(values: Array, x: Tensor) -> Tensor:
    """`values` where x lies, in float64 unless the device lacks it."""
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    return torch.as_tensor(values, dtype=dtype, device=x.device)


def column_moments(X: Array, weight: Array | None = None) -> Moments:
    """Mean and standard deviation of each column of X (N, D) over its present (not NaN) cells.

    Every column is divided by its largest magnitude first, so that 1e-300 and 1e300 are ordinary numbers.
    A column counts as constant where its variance is within rounding of zero: its standard deviation is
    then reported as 0.
    """
    tiny = np.finfo(float).tiny
    n_columns = X.shape[1]
    low, high = np.full(n_columns, np.inf), np.full(n_columns, -np.inf)
    for part in row_blocks(X):
        low, high = np.fmin(low, np.fmin.reduce(X[part])), np.fmax(high, np.fmax.reduce(X[part]))
    magnitude = np.maximum(np.abs(low), np.abs(high))
    magnitude[(magnitude == 0) | np.isinf(magnitude)] = 1.0

    def mean_of(function: Callable[[Array], Array]) -> Array:
        """Weighted mean over present cells of `function` of the columns divided by their magnitude."""
        total, sums = np.zeros(n_columns), np.zeros(n_columns)
        for part in row_blocks(X):
            values = function(X[part] / magnitude)
            mass = ~np.isnan(values) if weight is None else ~np.isnan(values) * weight[part, None]
            total += mass.sum(axis=0)
            sums += (mass * np.nan_to_num(values)).sum(axis=0)
        return sums / np.maximum(total, tiny)

    mean = mean_of(lambda unit: unit)
    var = mean_of(lambda unit: (unit - mean) ** 2)
    rounding = len(X) * np.finfo(float).eps
    constant = var <= rounding * var + (rounding * mean) ** 2
    # The mean of equal numbers can miss them by a rounding error, which a scale of 1 would show in data units.
    mean = np.where(low == high, high / magnitude, mean)
    return Moments(mean * magnitude, np.where(constant, 0.0, np.sqrt(var) * magnitude), constant)


def row_blocks(X: np.ndarray | RowSource, numbers: int = BLOCK_NUMBERS) -> Iterator[slice]:
    """Slices of consecutive rows that hold about `numbers` numbers each."""
    return gen_batches(len(X), max(1, numbers // max(1, X.shape[1])))


def has_gaps(X: np.ndarray | RowSource) -> bool:
    """Whether any cell is missing."""
    return any(bool(np.isnan(X[part]).any()) for part in row_blocks(X))


def empty_columns(X: Array) -> np.ndarray:
    """Which columns hold no value."""
    empty = np.ones(X.shape[1], dtype=bool)
    for part in row_blocks(X):
        empty &= np.isnan(X[part]).all(axis=0)
        if not empty.any():
            break
    return empty
