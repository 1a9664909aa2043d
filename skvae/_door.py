"""Rows at the door: X, y and sample_weight as arrays, or an error that names the column."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    _check_sample_weight,
    check_consistent_length,
    validate_data,
)

from ._params import named
from ._schema import Schema, frame_library
from ._sources import RowSource, picked
from .data import Array, name_the_string, row_blocks, unpack_container
from .likelihoods import LIKELIHOODS, Auto, Categorical, Mixed, resolved
from .objectives import OBJECTIVES

__all__ = ["Checked", "Door", "empty_columns"]

# X, targets and weights of mean 1 (None: all equal), without rows of weight 0.
Checked = tuple[Array, Array | None, Array | None]


class Door(ABC):
    """The checks of every estimator here."""

    @abstractmethod
    def _parts_now(self) -> dict[str, Any]:
        """The hyperparameters a model is built from, as objects of their families."""

    likelihood: Any
    objective: Any
    n_features_in_: int
    _parts: dict[str, Any]
    _columns: dict[str, Any]

    @property
    def _schema(self) -> Schema:
        """What the columns are; kept as plain Python, like all fitted state."""
        return Schema(**self._columns)

    def _check_rows(self, X, reset: bool = False) -> Array:
        """X as an array of floats or a source of such, NaN where a cell is missing, within the likelihood's support.

        With `reset` X says what the columns are, and which likelihood each of them has.
        """
        X = unpack_container(X)
        if reset:
            self._learn_columns(X)
        if self._schema.categories:
            X = _cells(X)
            if not reset:
                # Before categories are looked up, which another table's columns would not have.
                _check_feature_names(self, X, reset=False)
                _check_n_features(self, X, reset=False)
            X = self._schema.encoded(X)
        X = self._as_numbers(X, reset)
        labels, likelihood = self._column_labels(X), self._parts["likelihood"]
        for part in row_blocks(X):
            block = X[part]
            infinite = np.isinf(block)
            if infinite.any():
                row, column = np.argwhere(infinite)[0]
                raise ValueError(
                    f"Input X contains infinity: {labels[column]}, row {part.start + row}. Remove it, or mark it as "
                    "missing (NaN)."
                )
            likelihood.check(block, labels)
        return X

    def _as_numbers(self, X: Any, reset: bool) -> Array:
        """X as scikit-learn's estimators check it, without a copy of what is read from elsewhere."""
        if isinstance(X, RowSource):
            if not (len(X) and X.shape[1]):
                raise ValueError(f"X has {len(X)} sample(s) and {X.shape[1]} feature(s); at least 1 of each is needed.")
            _check_n_features(self, X, reset=reset)
            return X  # type: ignore[return-value]
        try:
            return validate_data(
                self, X, dtype=[np.float64, np.float32], ensure_all_finite=False, order="C", reset=reset
            )
        except ValueError as error:
            if "could not convert string" in str(error):
                raise name_the_string(X, error) from None
            raise

    def _learn_columns(self, X: Any) -> None:
        """Find out what the columns of a table are, and the likelihood of each."""
        likelihood = named(self.likelihood, LIKELIHOODS)
        likelihood._validate_params()
        schema = Schema.of(X)
        if isinstance(likelihood, (Auto, Categorical, Mixed)):
            X = _cells(X)
        assigned = likelihood.assign(X)
        wanted: dict[int, int | None] = {}
        for member, columns in assigned:
            if isinstance(member, Categorical):
                owned = range(X.shape[1]) if columns is None else columns
                wanted |= dict(zip(owned, member.sizes(len(owned)), strict=True))
        schema.learn(X, wanted)
        self._columns = vars(schema)
        asked = self._parts_now()
        self._asked = {name: repr(part) for name, part in asked.items()}
        self._parts = asked | {"likelihood": resolved(assigned, schema)}

    def _column_labels(self, X: Array) -> list[str]:
        return [f"column {name!r}" for name in getattr(self, "feature_names_in_", range(X.shape[1]))]

    def _check_training_rows(self, X, y, sample_weight, reset: bool) -> Checked:
        """What there is to train on."""
        X = self._check_rows(X, reset=reset)
        target = None
        if kind := named(self.objective, OBJECTIVES).target:
            target = self._check_target(y, kind)
            check_consistent_length(X, target)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            used = weight > 0
            X = picked(X, used)
            target, weight = None if target is None else target[used], weight[used] / weight.max()
            weight = weight / weight.mean()
        if reset and (empty := empty_columns(X)).any():
            label = self._column_labels(X)[int(empty.argmax())]
            raise ValueError(f"{label} holds no value in {len(X)} rows; drop it before fitting.")
        return X, target, weight

    def _check_target(self, y: Any, kind: str) -> Array:
        """y as numbers: rows like those of X, in data units, or labels."""
        if y is None:
            raise ValueError(f"objective={self.objective!r} is trained towards y; give fit a y.")
        if kind == "label":
            return check_array(y, dtype=np.float64, ensure_2d=False, ensure_all_finite="allow-nan", input_name="y")
        rows = np.array(self._check_rows(y)[:], dtype=np.float64)
        if np.isnan(rows).any():
            raise ValueError(f"y holds NaN, but objective={self.objective!r} compares every row with all of its y.")
        return rows


def _cells(X: Any) -> Any:
    """A list, or an array of strings, as a two-dimensional array of what its cells are; other tables as they are."""
    if frame_library(X) is not None or isinstance(X, RowSource):
        return X
    if not isinstance(X, np.ndarray) or X.dtype.kind in "US":
        X = np.asarray(X, dtype=object)
    return check_array(X, dtype=None, ensure_all_finite=False)


def empty_columns(X: Array) -> np.ndarray:
    """Which columns hold no value."""
    empty = np.ones(X.shape[1], dtype=bool)
    for part in row_blocks(X):
        empty &= np.isnan(X[part]).all(axis=0)
        if not empty.any():
            break
    return empty
