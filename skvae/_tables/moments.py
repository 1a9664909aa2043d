"""Sums over the rows of a table: moments, gaps, and the scale that follows from them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from torch import Tensor

from .._ranks import sum_over_ranks
from .sources import RowSource

__all__ = [
    "BLOCK_NUMBERS",
    "Array",
    "ColumnSums",
    "Moments",
    "Scale",
    "Units",
    "at_most",
    "has_gaps",
    "reduce_blocks",
    "row_blocks",
    "sum_columns",
    "sum_rows",
    "within_rounding",
]

# Numbers that a block of rows holds where a whole table is walked through.
BLOCK_NUMBERS = 250_000
# A column's unit lies between 2 ** -1000 and 2 ** 1000: neither it nor its inverse leaves the normal numbers.
MOST_EXPONENT = 1000
# A column is constant where its standard deviation is at most so many roundings of its mean.
ROUNDINGS = 8
TINY = np.finfo(float).tiny
Array = NDArray[np.float64]
Block = TypeVar("Block")


class Moments(NamedTuple):
    """Weighted mean and standard deviation of every column, in data units; `constant` marks flat columns."""

    mean: Array
    std: Array
    constant: NDArray[np.bool_]


def within_rounding(moments: Moments, value: Array) -> NDArray[np.bool_]:
    """Whether columns lie around these values as closely as one that is constant lies around its mean."""
    with np.errstate(over="ignore"):
        away = np.hypot(moments.mean - value, moments.std)
    return away <= ROUNDINGS * np.finfo(float).eps * np.abs(value)


def at_most(values: Array, dtype: Any) -> Array:
    """Values as numbers of this type; those beyond it are its largest."""
    largest = np.finfo(dtype).max
    return np.clip(values, -largest, largest).astype(dtype)


class Scale(NamedTuple):
    """The affine map between data units and the model's units: x = (X - shift) / scale.

    Attributes
    ----------
    shift, scale : array of shape (D,)
    constant : array of shape (D,) or None
        The value of a column that holds no other in the training rows, NaN elsewhere: what the model decodes to it is
        that value. None: no column is one.
    """

    shift: Array
    scale: Array
    constant: Array | None = None

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
        """Model units to data units, in float64; constant columns take their value."""
        with np.errstate(over="ignore", invalid="ignore"):
            X = x * self.scale + self.shift
        return X if self.constant is None else np.where(np.isnan(self.constant), X, self.constant)


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


def row_blocks(X: np.ndarray | RowSource) -> Iterator[slice]:
    """Slices of consecutive rows that hold about `BLOCK_NUMBERS` numbers each."""
    return gen_batches(len(X), max(1, BLOCK_NUMBERS // max(1, X.shape[1])))


def reduce_blocks(blocks: Iterable[Block], partial: Callable[[Block], Any]) -> Any:
    """The sum of what `partial` makes of each block, in their order.

    A partial sum is an array of its own memory, a number, a `ColumnSums`, or a tuple of such, added one by one.
    """
    total = None
    for block in blocks:
        total = partial(block) if total is None else _added(total, partial(block))
    return total


def sum_rows(blocks: Iterable[Block], partial: Callable[[Block], Any]) -> Any:
    """The same over the rows of all ranks: the way to sum over the rows of a table that is fitted to."""
    return sum_over_ranks(reduce_blocks(blocks, partial))


def _added(total: Any, more: Any) -> Any:
    # In place where the sum is an array: a covariance of many columns is large.
    return tuple(map(_added, total, more)) if isinstance(total, tuple) else operator.iadd(total, more)


@dataclass(frozen=True)
class ColumnSums:
    """What some rows hold in each column, over the present (not NaN) cells: sums, which add up to those of more rows.

    Every array is (D,). `anchor`, `mean` and `squares` are in units of 2 ** `exponent`, a power of two near the
    column's largest magnitude, so that 1e-300 and 1e300 are ordinary numbers. The mean is a distance from an anchor
    beside it: of a clock in microseconds, a number of its own would lose what the column varies by.

    Attributes
    ----------
    n_rows : int
        Rows of weight above 0.
    low, high : array
        The smallest and the largest value, in data units; inf and -inf where there is none.
    exponent : array of int
    anchor : array
        A number near the mean.
    mass, mean, squares : array
        The sum of weights, the weighted mean less the anchor, and the weighted sum of squared distances from the mean.
    """

    n_rows: int
    low: Array
    high: Array
    exponent: np.ndarray
    anchor: Array
    mass: Array
    mean: Array
    squares: Array

    @classmethod
    def of(cls, X: Array, weight: Array | None = None) -> ColumnSums:
        """Of the rows of a block (N, D) with weights (N,); those of weight 0 do not count."""
        if weight is not None and not weight.all():
            X, weight = X[weight > 0], weight[weight > 0]
        low = np.fmin.reduce(X, axis=0, initial=np.inf).astype(np.float64)
        high = np.fmax.reduce(X, axis=0, initial=-np.inf).astype(np.float64)
        magnitude = np.maximum(np.abs(low), np.abs(high))
        some = (magnitude > 0) & np.isfinite(magnitude)
        exponent = np.where(some, np.frexp(magnitude)[1], -MOST_EXPONENT).clip(-MOST_EXPONENT, MOST_EXPONENT)
        with np.errstate(invalid="ignore", over="ignore"):
            values = X * np.ldexp(1.0, -exponent)
            present = ~np.isnan(values)
            values[~present] = 0.0
            cells = present if weight is None else present * weight[:, None]
            mass = cells.sum(axis=0, dtype=np.float64)
            anchor = (values if weight is None else values * weight[:, None]).sum(axis=0) / np.maximum(mass, TINY)
            values -= anchor  # in place from here on: blocks are as large as the cache
            if not present.all():
                values[~present] = 0.0
            # Of numbers next to each other the first sum is off by their number of roundings; this one is not.
            mean = (values if weight is None else values * weight[:, None]).sum(axis=0) / np.maximum(mass, TINY)
            values -= mean
            values *= values
            values *= cells
        return cls(len(X), low, high, exponent, anchor, mass, mean, values.sum(axis=0))

    def __add__(self, other: ColumnSums) -> ColumnSums:
        """The sums over both (Chan, Golub & LeVeque 1983)."""
        exponent = np.maximum(self.exponent, other.exponent)
        squares = [np.ldexp(part.squares, 2 * (part.exponent - exponent)) for part in (self, other)]
        anchors = [np.ldexp(part.anchor, part.exponent - exponent) for part in (self, other)]
        anchor = np.where(self.mass > 0, *anchors)
        means = [
            np.where(part.mass > 0, (own - anchor) + np.ldexp(part.mean, part.exponent - exponent), 0.0)
            for own, part in zip(anchors, (self, other), strict=True)
        ]
        mass, step = self.mass + other.mass, means[1] - means[0]
        share = other.mass / np.maximum(mass, TINY)
        return ColumnSums(
            self.n_rows + other.n_rows,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            exponent,
            anchor,
            mass,
            means[0] + share * step,
            squares[0] + squares[1] + self.mass * share * step**2,
        )

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Which columns hold no value."""
        return self.low > self.high

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation. A column is constant where it varies by no more than its numbers' rounding."""
        std, mean = np.sqrt(self.squares / np.maximum(self.mass, TINY)), self.anchor + self.mean
        constant = std <= ROUNDINGS * np.finfo(float).eps * np.abs(mean)
        # The mean of equal numbers can miss them by a rounding error, which would show in data units.
        mean = np.where(self.low == self.high, self.high, np.ldexp(mean, self.exponent))
        return Moments(mean, np.where(constant, 0.0, np.ldexp(std, self.exponent)), constant)


def sum_columns(
    X: np.ndarray | RowSource, weight: Array | None = None, read: Callable[[Any, slice], Array] = operator.getitem
) -> ColumnSums:
    """What the rows of X (N, D), and of other ranks, hold in each column, weighed (N,); `read` takes rows out of X."""

    def partial(part: slice) -> ColumnSums:
        return ColumnSums.of(read(X, part), None if weight is None else weight[part])

    return sum_rows(row_blocks(X), partial)


def has_gaps(X: np.ndarray | RowSource) -> bool:
    """Whether any cell is missing."""
    return bool(reduce_blocks(row_blocks(X), lambda part: np.isnan(X[part]).any()))
