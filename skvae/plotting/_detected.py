"""Rows as a detector sees them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from .._tables.frames import frame_library
from ._base import Array, place_in

__all__ = ["ExplainedRow", "check_detector"]


def check_detector(detector: Any) -> None:
    """Raise for an estimator that is not fitted, or detects nothing."""
    check_is_fitted(detector)
    if not hasattr(detector, "explain"):
        raise ValueError(f"{type(detector).__name__} detects no anomalies; take a VAEAnomalyDetector.")


class ExplainedRow(NamedTuple):
    """One row as a detector sees it.

    `contributions` holds one number per feature, and a last one for the latents; `label` is the row's in a pandas
    frame, elsewhere its place. Values are objects where a column holds categories.
    """

    row: int
    values: Array
    similar: Array
    contributions: Array
    score: float
    label: Any

    @classmethod
    def of(cls, detector: Any, X: Any, row: int | str | None) -> ExplainedRow:
        """Ask a detector about a row of X; None: the row with the lowest score."""
        place = int(np.argmin(detector.score_samples(X))) if row is None else place_in(X, row)
        one = _safe_indexing(X, [place])
        score = float(detector.score_samples(one)[0])
        contributions = np.asarray(detector.explain(one))[0]
        if not np.isfinite(contributions).all():
            raise ValueError(
                f"Row {place} is too far out to be explained: its score is {score}. Look at X - detector.similar(X), "
                "or at another row."
            )
        label = X.index[place] if frame_library(X) == "pandas" else place
        return cls(place, _cells(one), np.asarray(detector.similar(one))[0], contributions, score, label)


def _cells(one: Any) -> Any:
    """The cells of a table of one row: numbers where all are."""
    try:
        return np.asarray(one, dtype=np.float64)[0]
    except (TypeError, ValueError):
        return np.asarray(one, dtype=object)[0]
