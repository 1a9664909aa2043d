"""Rows at the door: X, y and sample_weight as arrays, or an error that names the column."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, validate_data

from ._params import named
from .data import Array, name_the_string, row_blocks, unpack_container
from .likelihoods import LIKELIHOODS
from .objectives import OBJECTIVES

__all__ = ["Checked", "Door", "empty_columns"]

# X, targets and weights of mean 1 (None: all equal), without rows of weight 0.
Checked = tuple[Array, Array | None, Array | None]


class Door:
    """The checks of every estimator here."""

    likelihood: Any
    objective: Any
    _parts: dict[str, Any]

    def _check_rows(self, X, reset: bool = False) -> Array:
        """X as a float64 array, NaN where a cell is missing, within the likelihood's support."""
        X = unpack_container(X)
        try:
            X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_all_finite=False, order="C", reset=reset)
        except ValueError as error:
            if "could not convert string" in str(error):
                raise name_the_string(X, error) from None
            raise
        labels = self._column_labels(X)
        likelihood = named(self.likelihood, LIKELIHOODS) if reset else self._parts["likelihood"]
        for part in row_blocks(X):
            infinite = np.isinf(X[part])
            if infinite.any():
                row, column = np.argwhere(infinite)[0]
                raise ValueError(
                    f"Input X contains infinity: {labels[column]}, row {part.start + row}. Remove it, or mark it as "
                    "missing (NaN)."
                )
            likelihood.check(X[part], labels)
        return X

    def _column_labels(self, X: Array) -> list[str]:
        return [f"column {name!r}" for name in getattr(self, "feature_names_in_", range(X.shape[1]))]

    def _check_training_rows(self, X, y, sample_weight, reset: bool) -> Checked:
        """What there is to train on."""
        X = self._check_rows(X, reset=reset)
        target = None
        if named(self.objective, OBJECTIVES).uses_target:
            target = check_array(y, dtype=np.float64, ensure_2d=False, ensure_all_finite="allow-nan", input_name="y")
            check_consistent_length(X, target)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            used = weight > 0
            X = X if used.all() else X[used]
            target, weight = None if target is None else target[used], weight[used] / weight.max()
            weight = weight / weight.mean()
        if reset and (empty := empty_columns(X)).any():
            label = self._column_labels(X)[int(empty.argmax())]
            raise ValueError(f"{label} holds no value in {len(X)} rows; drop it before fitting.")
        return X, target, weight


def empty_columns(X: Array) -> np.ndarray:
    """Which columns hold no value."""
    empty = np.ones(X.shape[1], dtype=bool)
    for part in row_blocks(X):
        empty &= np.isnan(X[part]).all(axis=0)
    return empty
