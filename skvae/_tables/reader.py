"""Tables at the door: X, y and sample_weight as arrays, or an error that names the column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    _check_sample_weight,
    check_consistent_length,
    validate_data,
)

from .._ranks import from_ranks, gathered, is_shared, same_on_all_ranks, sum_over_ranks
from .containers import dense, numbers_of, unpack_container
from .moments import Array, ColumnSums, row_blocks, sum_columns
from .schema import Schema, cells_of, infinity_in
from .sources import RowSource, Selected
from .types import number_type

__all__ = ["Support", "TableReader", "TrainingRows", "relative_weights"]

# Rows that weigh less than this share of the heaviest one count as rows of weight 0: a billion of them together would
# weigh a thousandth of it, and float32, in which models train, can neither add them to it nor tell them apart.
LEAST_WEIGHT = 1e-12
# The lightest row stands for so many copies at most, where weights are copies.
MOST_PARTS = 10


class Support(Protocol):
    """What a reader asks of a likelihood."""

    reads_cells: bool

    def assign(self, X: Any) -> list[tuple[Any, list[int] | None]]:
        """The likelihood of every column, as members and their columns."""

    def check(self, X: Array, names: Sequence[str]) -> None:
        """Raise ValueError, naming the column, where X leaves the support."""


@dataclass(frozen=True)
class TrainingRows:
    """What there is to train on: X, targets, and weights of mean 1 (None: all equal), without rows of weight 0.

    `known` is what was summed while the rows were checked.
    """

    X: Any
    y: Array | None = None
    weight: Array | None = None
    known: ColumnSums | None = None

    def __len__(self) -> int:
        return len(self.X)

    @cached_property
    def sums(self) -> ColumnSums:
        """What the columns hold."""
        return sum_columns(self.X, self.weight) if self.known is None else self.known

    @cached_property
    def copies(self) -> float:
        """How many rows a weight of 1 stands for where weights are whole multiples of one number, as of copies; else 1.

        Smoothing adds one row's cell to a column, whose part in it depends on how many rows there are.
        """
        if self.weight is None:
            return 1.0
        least = min(gathered(self.weight.min()))
        ratios = np.unique(self.weight) / least
        for part in range(1, MOST_PARTS + 1):
            if all(gathered(np.allclose(part * ratios, np.round(part * ratios), rtol=1e-9, atol=0))):
                return float(part / least)
        return 1.0

    @cached_property
    def n_all(self) -> int:
        """How many rows all ranks have."""
        return sum_over_ranks(len(self))

    def drawn(self, numbers: np.ndarray) -> TrainingRows:
        """The rows of these numbers, of the rows of all ranks, with weights: the same on every rank."""

        def taken(own: np.ndarray) -> tuple[Array, Array]:
            return self.X[own], np.ones(len(own)) if self.weight is None else self.weight[own]

        X, weight = from_ranks(numbers, len(self), taken)
        return TrainingRows(X, None, weight)

    def at(self, rows: np.ndarray) -> TrainingRows:
        """The rows that are True; the table itself where these are all."""
        if rows.all():
            return self
        y, weight = (None if values is None else values[rows] for values in (self.y, self.weight))
        X = Selected(self.X, np.flatnonzero(rows)) if isinstance(self.X, RowSource) else self.X[rows]
        return TrainingRows(X, y, weight)


@dataclass(frozen=True)
class TableReader:
    """The columns that fit saw, and the checks that every later table passes.

    Attributes
    ----------
    name : str
        The estimator's, for errors.
    schema : Schema
    likelihood : Likelihood
        Of all columns, with what depends on the table spelt out.
    n_features : int
    names : ndarray of str of shape (n_features,) or None
        The columns' names, where all are strings.
    """

    name: str
    schema: Schema
    likelihood: Any
    n_features: int
    names: np.ndarray | None = None

    @classmethod
    def learn(
        cls, name: str, X: Any, likelihood: Support, resolve: Callable[[list, Schema], Support]
    ) -> tuple[TableReader, Array]:
        """The reader of a table's columns, each with its likelihood, and the table's numbers, yet to be checked.

        `resolve` spells out a likelihood, given as members and their columns, for the table's schema.
        """
        X = _rows_of(unpack_container(X), name)
        cells = cells_of(X) if likelihood.reads_cells else X
        schema = Schema.of(cells)
        if is_shared():
            _refuse_ranks(schema, cells)
            schema.dtypes = _common_types(gathered(schema.dtypes))
        assigned = likelihood.assign(cells)
        schema.learn(cells, _categories(assigned, cells))
        known = _stand_in(name)
        X = _numbers(known, schema.encoded(cells) if schema.categories else X, reset=True)
        names = getattr(known, "feature_names_in_", None)
        return cls(name, schema, resolve(assigned, schema), known.n_features_in_, names), X

    def read(self, X: Any, checked: bool = True) -> Array:
        """X as floats, in an array or a source, NaN where a cell is missing; `checked` says whether `check` sees it."""
        X = _rows_of(unpack_container(X), self.name)
        if self.schema.categories:
            X = cells_of(X)
            # Before categories are looked up, which another table's columns would not have.
            _check_feature_names(self._known, X, reset=False)
            _check_n_features(self._known, X, reset=False)
            X = self.schema.encoded(X, self._given)
        X = _numbers(self._known, X, reset=False)
        if checked:
            self.check(X)
        return X

    def training_rows(self, X: Array, y: Any, sample_weight: Any, objective: Any) -> TrainingRows:
        """What there is to train on, of a table's numbers, which are checked; the objective's `target` says what y is.

        One pass checks the rows and sums their columns.
        """
        weight = None
        if sample_weight is not None:
            weight = relative_weights(sample_weight, X)
            some = weight[weight > 0]
            total, n_rows = sum_over_ranks((some.sum(), len(some)))
            weight = weight / (total / n_rows)
        sums = sum_columns(X, weight, self._checked)
        rows = TrainingRows(X, self._target(y, X, objective) if objective.target else None, weight)
        return replace(rows if weight is None else rows.at(weight > 0), known=sums)

    def first_rows(self, X: Array, y: Any, sample_weight: Any, objective: Any) -> TrainingRows:
        """The same for a new model, to which every column must show a value; ValueError names one that does not."""
        rows = self.training_rows(X, y, sample_weight, objective)
        if (empty := rows.sums.empty).any():
            label = self.labels[int(empty.argmax())]
            raise ValueError(f"{label} holds no value in {rows.n_all} rows; drop it before fitting.")
        return rows

    def check(self, X: Array) -> None:
        """Raise ValueError for a cell that is infinite or outside the likelihood's support."""
        for part in row_blocks(X):
            self._checked(X, part)

    @property
    def attributes(self) -> dict[str, Any]:
        """The columns as a fitted estimator's attributes."""
        names = {} if self.names is None else {"feature_names_in_": self.names}
        return {"n_features_in_": self.n_features, **names, "_columns": vars(self.schema)}

    @cached_property
    def labels(self) -> list[str]:
        """How errors name the columns."""
        return [self.schema.label(column) for column in range(self.n_features)]

    @cached_property
    def _given(self) -> set[int]:
        """The columns that the model is given, of which no cell may be missing."""
        pairs = self.likelihood.assigned(self.n_features)
        return {column for member, own in pairs if member.is_given for column in own}

    @cached_property
    def _known(self) -> Any:
        known = _stand_in(self.name)
        known.n_features_in_ = self.n_features
        if self.names is not None:
            known.feature_names_in_ = self.names
        return known

    def _target(self, y: Any, X: Array, objective: Any) -> Array:
        """y as numbers: rows like those of X, in data units, or labels."""
        if y is None:
            raise ValueError(f"objective={objective!r} is trained towards y; give fit a y.")
        if objective.target in ("row", "filled"):
            y = np.array(self.read(y, checked=objective.target == "row")[:], dtype=np.float64)
            if not np.isfinite(y).all():
                use = "compares every row with" if objective.target == "row" else "shows the encoder"
                raise ValueError(f"y holds NaN or infinity, but objective={objective!r} {use} all of its y.")
        else:
            y = check_array(y, dtype=np.float64, ensure_2d=False, ensure_all_finite="allow-nan", input_name="y")
            objective.check_labels(y)
        check_consistent_length(X, y)
        return y

    def _checked(self, X: Array, part: slice) -> Array:
        """These rows of X; ValueError for a cell that is infinite or outside the likelihood's support."""
        block = X[part]
        infinite = np.isinf(block)
        if infinite.any():
            row, column = np.argwhere(infinite)[0]
            raise infinity_in(self.labels[column], part.start + row)
        self.likelihood.check(block, self.labels)
        return block


def _refuse_ranks(schema: Schema, X: Any) -> None:
    """ValueError where a rank has no rows, or other columns than the rest."""
    sizes = gathered(len(X))
    if 0 in sizes:
        raise ValueError(
            f"Rank {sizes.index(0)} of {len(sizes)} has no rows. Give every process some, or start fewer processes."
        )
    same_on_all_ranks({"The number of columns": X.shape[1], "The list of columns": schema.names or "without names"})


def _common_types(types: list[list[str] | None]) -> list[str] | None:
    """For every column a rank's type that is not of whole numbers, where any is: one rank's cells may lack gaps."""
    known = [names for names in types if names is not None]
    if not known:
        return None
    columns = zip(*known, strict=True)
    return [next((name for name in column if not number_type(name).whole), column[0]) for column in columns]


def relative_weights(sample_weight: Any, X: Any) -> Array:
    """The weights of the rows of X over the largest one, checked; below `LEAST_WEIGHT` they are 0."""
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    weight = weight / max(gathered(weight.max()))
    return np.where(weight < LEAST_WEIGHT, 0.0, weight)


def _rows_of(X: Any, name: str) -> Any:
    """X; ValueError where every row is an array of its own, as of images."""
    if getattr(X, "ndim", 2) > 2:
        found = f"Found array with dim {X.ndim}, while dim <= 2 is required by {name}"
        raise ValueError(f"{found}; make every image a row by X.reshape(len(X), -1).")
    return X


def _stand_in(name: str) -> Any:
    """What scikit-learn's checks read column names from and write them to: an empty estimator of this name.

    The estimator itself is written when its fit has ended, and not before.
    """
    return type(name, (BaseEstimator,), {})()


def _numbers(known: Any, X: Any, reset: bool) -> Array:
    """X as scikit-learn's estimators check it, without a copy of what is read from elsewhere."""
    if isinstance(X, RowSource):
        if not (len(X) and X.shape[1]):
            raise ValueError(f"X has {len(X)} sample(s) and {X.shape[1]} feature(s); at least 1 of each is needed.")
        _check_n_features(known, X, reset=reset)
        return X  # type: ignore[return-value]
    check = partial(
        validate_data, known, dtype=[np.float64, np.float32], ensure_all_finite=False, order="C", reset=reset
    )
    X = dense(X)
    try:
        return check(X)
    except (TypeError, ValueError, OverflowError):
        numbers = numbers_of(X)
        if numbers is None:
            raise
    return check(numbers)


def _categories(assigned: list, X: Any) -> dict[int, int | None]:
    """The columns of categories, and how many each has (None: those that it holds)."""
    found: dict[int, int | None] = {}
    for member, columns in assigned:
        if member.reads_cells:
            owned = list(range(X.shape[1])) if columns is None else columns
            # Some of those that look at cells have columns of numbers, too.
            found |= dict(zip(owned, member.categories(len(owned)), strict=False))
    return found
