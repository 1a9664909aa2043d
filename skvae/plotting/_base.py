"""What pictures share: the contract, colours, numbers as text, and one row as a detector sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from .._params import Count

__all__ = ["ANOMALOUS", "KNOWN", "NORMAL", "Array", "ExplainedRow", "Picture", "number"]

ANOMALOUS, NORMAL, KNOWN = "#cc3311", "#4477aa", "#bbbbbb"

Array = NDArray[np.float64]


class Picture(ABC):
    """What one kind of picture shows, and how it is drawn.

    Attributes
    ----------
    size : (float, float)
        Width and height of a new figure, in inches.
    """

    size: ClassVar[tuple[float, float]]

    @abstractmethod
    def draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Draw the picture in `ax`, its main artist styled by `kwargs`; the axes, and what was drawn by name."""


class ExplainedRow(NamedTuple):
    """One row as a detector sees it.

    `contributions` holds one number per feature, and a last one for the latents.
    """

    row: int
    values: Array
    similar: Array
    contributions: Array
    score: float

    @classmethod
    def of(cls, detector: Any, X: Any, row: int | None) -> ExplainedRow:
        """Ask a detector about a row of X; None: the row with the lowest score."""
        n_rows = _num_samples(X)
        if row is None:
            row = int(np.argmin(detector.score_samples(X)))
        elif not Count(0).is_satisfied_by(row) or row >= n_rows:
            raise ValueError(f"row={row!r} must be an integer from 0 to {n_rows - 1}, the place of a row in X.")
        one = _safe_indexing(X, [row])
        score = float(detector.score_samples(one)[0])
        contributions = np.asarray(detector.explain(one))[0]
        if not np.isfinite(contributions).all():
            raise ValueError(
                f"Row {row} is too far out to be explained: its score is {score}. Look at X - detector.similar(X), or "
                "at another row."
            )
        values = np.asarray(one, dtype=np.float64)[0]
        return cls(int(row), values, np.asarray(detector.similar(one))[0], contributions, score)


def number(value: float, digits: int = 4, sign: str = "") -> str:
    """A number with `digits` significant digits, or as a whole number where that stays readable."""
    whole = 10.0**digits <= abs(value) < 1e9
    comma = "," if abs(value) >= 1e4 else ""
    text = f"{value:{sign}{comma}.0f}" if whole else f"{value:{sign}.{digits}g}"
    return text.replace("-", "\N{MINUS SIGN}")
