"""The distribution of one column alone: the grid its values lie on, knots of its distribution function, how many."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import gammaincinv, log_ndtr, ndtr, ndtri

from .._math import LARGEST_WHOLE, LOG_2PI
from .._tables.moments import Array

__all__ = ["MOST_KNOTS", "Column", "Grid", "Knots", "Trial", "best", "fitted", "most_edges", "tried"]

# Numbers of knots that are tried: powers of two up to this.
MOST_KNOTS = 256
# Decimals in which values may have been recorded, and values that are looked at first: of most columns without a grid
# these are enough.
MOST_DECIMALS, FIRST_VALUES = 10, 64
# A model's rows are float32: two values closer than a share of the largest are one, and a cell is so many times wider.
BLUR, CELL = 2.0**-23, 2.0**-22
# Of a column without a grid and without heaps a cell is as narrow as differences of distribution functions allow.
FINE = 2.0**-38
# Nats that one row counts for, at most, where two maps are compared: a value far out would decide alone.
MOST_LEAD = 2.0
# A grid's numbers are kept as float32.
LARGEST_SINGLE = 1e38
# Of a grid, values may be off by so much of its step.
OFF = 0.1
# Cells narrower than this, in normal scores, have the density at their middle.
NARROW = 0.01
# How far beyond its outermost knots a tail is drawn, in normal scores; and where a straight map has its knots.
TAIL, STRAIGHT = 6.0, np.array([-6.0, 0.0, 6.0])
# Where a bent one has them: near enough to each other to be straight between them.
BENT = np.linspace(-8.0, 8.0, 65)


class Grid(NamedTuple):
    """Values are (offset + step k) / parts, k whole, in data units."""

    step: float
    parts: float
    offset: float


@dataclass(frozen=True)
class Knots:
    """Normal scores at the edges of cells, (E,) each, both ascending; straight between them and beyond."""

    edges: Array
    scores: Array

    def score(self, x: Array) -> Array:
        """The normal scores at x."""
        k = np.searchsorted(self.edges[1:-1], x)
        return self.scores[k] + (x - self.edges[k]) * self._slope[k]

    @cached_property
    def _slope(self) -> Array:
        return np.diff(self.scores) / np.diff(self.edges)

    def within(self, column: Column) -> Knots:
        """With knots where the range of a column ends."""
        ends = column.values[[0, -1]] + np.array([-0.5, 0.5]) * column.cell
        new = ends[np.abs(self.edges[:, None] - ends).min(axis=0) > 0.25 * column.cell]
        edges = np.append(self.edges, new)
        order = np.argsort(edges)
        return Knots(edges[order], np.append(self.scores, self.score(new))[order])


@dataclass(frozen=True)
class Column:
    """What a column holds, in model units.

    Attributes
    ----------
    values : array of shape (V,)
        Ascending and distinct.
    weight : array of shape (V,)
        How many rows hold each.
    cell : float
        What a value stands for: as much on either side together.
    grid : Grid or None
    from_zero : bool
        Whether no value is below 0, in data units too.
    """

    values: Array
    weight: Array
    cell: float
    grid: Grid | None
    from_zero: bool

    @classmethod
    def of(cls, x: Array, weight: Array | None = None, shift: float = 0.0, scale: float = 1.0) -> Column:
        """Of cells x (N,), at least one, in model units: X = shift + scale x."""
        values, place = np.unique(x, return_inverse=True)
        weight = np.bincount(place, weight).astype(np.float64)
        X, blur = shift + scale * values, BLUR * np.abs(values)
        heaped = bool(weight.max() > max(1.5, weight.sum() / MOST_KNOTS))
        grid = _decimal_grid(X, scale * blur) or (_even_grid(X, scale * blur) if heaped else None)
        return cls(values, weight, _cell(values, heaped, grid, scale), grid, shift == 0 and bool(values[0] >= 0))

    @cached_property
    def halves(self) -> tuple[Array, Array]:
        """Its rows' weights, tossed into two halves, the same whatever their order and units."""
        copies = np.maximum(np.rint(self.weight), 1.0)
        first = self.weight * np.random.default_rng(0).binomial(copies.astype(np.int64), 0.5) / copies
        return first, self.weight - first


def _cell(values: Array, heaped: bool, grid: Grid | None, scale: float) -> float:
    """What a value stands for: the grid's step, or less than lies between any two; not less than float32 can tell."""
    least = CELL * float(np.abs(values).max())
    if grid is not None:
        return max(grid.step / grid.parts / scale, least)
    if len(values) == 1:
        return 1.0
    return max(float(np.diff(values).min()), least) if heaped else FINE * float(values[-1] - values[0])


def _decimal_grid(X: Array, blur: Array) -> Grid | None:
    """The coarsest of decimal numbers on which X (V,) lie, each known up to `blur`; None: they have too many digits."""
    largest = np.abs(X).max()
    for decimals in range(MOST_DECIMALS + 1):
        parts = 10.0**decimals
        if largest * parts > LARGEST_WHOLE:
            return None
        if (whole := _whole(X, parts, blur)) is not None:
            step = float(np.gcd.reduce(np.diff(whole).astype(np.int64), initial=0)) or 1.0
            return Grid(step, parts, float(whole[0] % step))
    return None


def _whole(X: Array, parts: float, blur: Array) -> Array | None:
    """X in units of 1 / parts where these are whole and distinct; whole numbers need not be rounded to be so."""
    if parts == 1 and (X % 1 == 0).all():
        return X
    if blur.max() * parts > OFF:
        return None
    for some in (slice(FIRST_VALUES), slice(None)):
        scaled = X[some] * parts
        whole = np.rint(scaled)
        off = np.abs(scaled - whole) > blur[some] * parts + 1e-15 * np.abs(scaled)
        if off.any() or (np.diff(whole) < 1).any():
            return None
    return whole


def _even_grid(X: Array, blur: Array) -> Grid | None:
    """The smallest difference as a step, where all others are multiples: whole numbers that somebody standardised."""
    if len(X) < 2:
        return None
    step = np.diff(X).min()
    if blur.max() > OFF * step:
        return None
    steps = np.rint((X - X[0]) / step)
    step = (X[-1] - X[0]) / steps[-1]
    off = np.abs(X - X[0] - step * steps) > 2 * blur.max()
    small = max(step, abs(X[0])) < LARGEST_SINGLE and step > 1 / LARGEST_SINGLE
    return Grid(float(step), 1.0, float(X[0])) if small and not off.any() else None


def quantiles(column: Column, weight: Array, most: int) -> Knots:
    """Knots at `most` quantiles; a value that is more common than one part in `most` has both edges of its cell.

    One more row is spread evenly over the range, and half a row lies beyond either end: nothing is impossible.
    """
    seen = weight > 0
    values, weight, cell = column.values[seen], weight[seen], column.cell
    upto, n = np.cumsum(weight), weight.sum()
    heap = weight > max(n / most, 1.5)
    top, bottom = heap.copy(), heap.copy()
    top[np.searchsorted(upto, n * np.arange(1, most) / most).clip(0, len(values) - 1)] = True
    top[-1] = bottom[0] = True
    edges = np.concatenate([values[bottom] - cell / 2, values[top] + cell / 2])
    below = np.concatenate([(upto - weight)[bottom], upto[top]])
    # Edges that are the same up to rounding are one.
    _, first = np.unique(np.rint((edges - values[0]) / cell * 2), return_index=True)
    edges, below = edges[first], below[first]
    share = (below + (edges - edges[0]) / (edges[-1] - edges[0])) / (n + 1)
    scores = ndtri((0.5 + share * n) / (n + 1))
    # A tail is as wide as the column, or as its outermost part where that is wider.
    unit = (edges[-1] - edges[0]) / (scores[-1] - scores[0])
    low, high = (max(unit, cell, (edges[i + 1] - edges[i]) / (scores[i + 1] - scores[i])) for i in (0, -2))
    return Knots(
        np.concatenate([[edges[0] - TAIL * low], edges, [edges[-1] + TAIL * high]]),
        np.concatenate([[scores[0] - TAIL], scores, [scores[-1] + TAIL]]),
    )


def _moments(values: Array, weight: Array) -> tuple[float, float]:
    """Mean and variance."""
    mean = float(np.average(values, weights=weight))
    return mean, float(np.average((values - mean) ** 2, weights=weight))


def _normal(column: Column, weight: Array) -> Knots:
    mean, var = _moments(column.values, weight)
    return Knots(mean + max(np.sqrt(var), column.cell / 4) * STRAIGHT, STRAIGHT)


def _log_normal(column: Column, weight: Array) -> Knots:
    mean, var = _moments(np.log(column.values), weight)
    return Knots(np.exp(mean + max(np.sqrt(var), 1e-6) * BENT), BENT)


def _gamma(column: Column, weight: Array) -> Knots:
    """From half a cell below 0 on, so that of counts 0 has a whole one: nearly the negative binomial."""
    mean, var = _moments(column.values + column.cell / 2, weight)
    var = max(var, column.cell**2 / 16)
    edges = gammaincinv(mean**2 / var, ndtr(BENT)) * (var / mean)
    apart = edges > FINE * column.cell
    return Knots(np.append(0.0, edges[apart]) - column.cell / 2, np.append(BENT[0] - 1, BENT[apart]))


# Maps of few parameters: whether a column may have one, and the map.
SHAPES: dict[str, tuple[Callable[[Column], bool], Callable[[Column, Array], Knots]]] = {
    "normal": (lambda column: True, _normal),
    "log-normal": (lambda column: column.from_zero and column.values[0] > 0, _log_normal),
    "gamma": (lambda column: column.from_zero and column.values[-1] > 0, _gamma),
}


def fitted(column: Column, how: str | int, weight: Array | None = None) -> Knots:
    """A map of `SHAPES`, or with so many knots, of the column's rows or of rows that weigh otherwise."""
    weight = column.weight if weight is None else weight
    return SHAPES[how][1](column, weight) if isinstance(how, str) else quantiles(column, weight, how)


def most_edges(n_knots: int) -> int:
    """Edges that maps may have: two of every part, those of tails, and of the range."""
    return max(2 * n_knots + 4, len(BENT) + 2)


def log_density(column: Column, low: Array, high: Array) -> Array:
    """Of values whose cells end at these normal scores."""
    # By rounding alone, a cell far out may have no width, or less than none.
    width, middle = np.maximum(high - low, np.finfo(float).tiny), 0.5 * (low + high)
    found = np.log(width) - 0.5 * middle**2 - 0.5 * LOG_2PI
    wide = np.flatnonzero(width > NARROW)
    # From the side on which both are below 0.
    a, b = np.where(middle > 0, -high, low)[wide], np.where(middle > 0, -low, high)[wide]
    with np.errstate(divide="ignore"):
        found[wide] = np.where(b < -30, log_ndtr(b), np.log(ndtr(b) - ndtr(a)))
    return found - np.log(column.cell)


def of_values(column: Column, found: Knots) -> Array:
    """The log density of the column's values under a map."""
    values, half = column.values, column.cell / 2
    return log_density(column, found.score(values - half), found.score(values + half))


@dataclass(frozen=True)
class Trial:
    """How likely a fit to one half of a column's rows makes the other half, and the other way round.

    Attributes
    ----------
    log_p : array of shape (2, V)
        Of the column's values, in nats.
    weight : array of shape (2, V)
        Shares of the rows that hold them: they sum to 1.
    """

    log_p: Array
    weight: Array

    @classmethod
    def of(cls, column: Column, log_p: Callable[[Array], Array]) -> Trial:
        """From a function that fits to weights and returns what the column's values have then."""
        one, other = column.halves
        return cls(np.stack([log_p(one), log_p(other)]), np.stack([other, one]) / column.weight.sum())

    @property
    def mean(self) -> float:
        """Nats a row."""
        return self._sum(self.log_p)

    def _sum(self, values: Array) -> float:
        return float((self.weight * np.where(self.weight > 0, values, 0.0)).sum())

    def lead(self, other: Trial, n_rows: float) -> tuple[float, float]:
        """By how many nats a row it is ahead of another, and the standard error of that; no row counts for many."""
        ahead = np.where(self.weight > 0, self.log_p - other.log_p, 0.0).clip(-MOST_LEAD, MOST_LEAD)
        mean = self._sum(ahead)
        return mean, float(np.sqrt(self._sum((ahead - mean) ** 2) / n_rows))


def tried(column: Column) -> dict[str | int, Trial]:
    """Every shape and number of knots; none where a half of the rows would hold less than two values."""
    if min(np.count_nonzero(half) for half in column.halves) < 2:
        return {}

    def trial(how: str | int) -> Trial:
        return Trial.of(column, lambda weight: of_values(column, fitted(column, how, weight)))

    found: dict[str | int, Trial] = {name: trial(name) for name, (may, _) in SHAPES.items() if may(column)}
    smooth, behind, most = column.grid is None and column.weight.max() < 1.5, 0, -math.inf
    for power in range(1, MOST_KNOTS.bit_length()):
        # Of smooth columns more knots are worse, once they are too many.
        if 2**power > max(4, column.weight.sum() / 4) or (smooth and behind > 1):
            break
        found[2**power] = trial(2**power)
        behind = 0 if found[2**power].mean > most else behind + (power > 3)
        most = max(most, found[2**power].mean)
    return found


def best(column: Column) -> str | int:
    """What of `tried` makes either half likeliest."""
    found = tried(column)
    return max(found, key=lambda how: found[how].mean) if found else 2
