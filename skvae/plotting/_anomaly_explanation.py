"""AnomalyExplanationDisplay: what each column adds to the score of one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import _check_feature_names_in

from .._params import Count
from .._tables.types import is_missing
from .._words import cell
from ._base import ANOMALOUS, NORMAL, Array, Display, number
from ._detected import ExplainedRow, check_detector

__all__ = ["AnomalyExplanationDisplay"]

# Characters of a feature's name that are shown.
MOST_LETTERS = 32


@dataclass(eq=False)
class AnomalyExplanationDisplay(Display):
    """What each column adds to the score of one row, as bars.

    Made by :meth:`from_estimator`; `plot` draws it again elsewhere.
    Beside the bars stand the row's values and those of the most similar normal row; the last bar is what belongs to
    the combination of all columns ("latent" in `explain`).

    Parameters
    ----------
    row : int
        The row's place in the table.
    values : ndarray of shape (n_features,)
        The row; objects where a column holds categories.
    similar : ndarray of shape (n_features,)
        The most similar normal row.
    contributions : ndarray of shape (n_features + 1,)
        One per column, and a last one for the latents: how the columns go together.
    score : float
        The row's score.
    label : object
        The row's label in a pandas frame, elsewhere its place.
    typical : float
        The mean of the training scores.
    n_typical : int
        Of how many rows.
    offset : float
        The threshold.
    names : list of str
        Names of the columns.
    n_shown : int
        How many columns are drawn.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the picture.
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn: "bars", "numbers" (their labels), and "values" (the axis on the right).

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEAnomalyDetector
    >>> from skvae.plotting import AnomalyExplanationDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> detector = VAEAnomalyDetector(max_iter=20, random_state=0).fit(X[y == 0])
    >>> display = AnomalyExplanationDisplay.from_estimator(detector, X, row=177)
    >>> display.contributions.shape  # one per column, and one for the latents
    (14,)
    >>> len(display.artists_["bars"])  # the 10 largest, the sum of the other columns, and the latents
    12
    """

    __module__ = "skvae.plotting"

    row: int
    values: Array
    similar: Array
    contributions: Array
    score: float
    label: Any
    typical: float
    n_typical: int
    offset: float
    names: list[str]
    n_shown: int

    @classmethod
    def from_estimator(
        cls,
        detector: Any,
        X: Any,
        *,
        row: int | str | None = None,
        n_features: int = 10,
        feature_names: Sequence[str] | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Explain a row's score by a fitted detector, and draw the explanation.

        Parameters
        ----------
        detector : VAEAnomalyDetector
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.
        row : int or str, default=None
            The place in X of the row to explain; a string is its label in a pandas frame. None: the row with the
            lowest score.
        n_features : int, default=10
            How many columns are drawn, largest contributions first; the sum of the others is drawn too.
        feature_names : sequence of str, default=None
            Names of the columns. None: those the detector was fitted with.
        ax : matplotlib Axes, default=None
            Where to draw; labels need room, so make figures with `layout="constrained"`. None: a new figure.
        **kwargs : dict
            For the bars (`Axes.barh`).

        Returns
        -------
        display : AnomalyExplanationDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If a parameter breaks a rule, the estimator is no detector, or the row is too far out to be explained.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_detector(detector)
        if not Count().is_satisfied_by(n_features):
            raise ValueError(f"n_features={n_features!r} must be an integer above 0.")
        seen = ExplainedRow.of(detector, X, row)
        names = _check_feature_names_in(detector) if feature_names is None else feature_names
        if len(names) != len(seen.values):
            raise ValueError(f"feature_names has {len(names)} names; X has {len(seen.values)} columns.")
        known = np.ma.masked_invalid(detector.training_scores_).compressed()
        names = [str(name) for name in names]
        display = cls(*seen, float(known.mean()), len(known), float(detector.offset_), names, n_features)
        return display.plot(ax, **kwargs)

    @property
    def _size(self) -> tuple[float, float]:
        return (7.5, 4.8)

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        names, values, parts = self._lines()
        places = np.arange(len(names))
        style = {"color": np.where(parts < 0, ANOMALOUS, NORMAL), "height": 0.7}
        bars = ax.barh(places, parts, **style | kwargs)
        for bar in bars[sum(map(bool, values)) :]:
            bar.set_alpha(0.5)
        artists = {"bars": bars, "numbers": ax.bar_label(bars, _aligned(parts), padding=3, fontsize="small")}
        ax.axvline(0, color="black", linewidth=0.8)
        ax.margins(x=0.18)
        ax.set_yticks(places, names)
        ax.invert_yaxis()
        artists["values"] = ax.secondary_yaxis("right")
        artists["values"].set_yticks(places, values)
        artists["values"].set_ylabel("value, and the most similar normal row's")
        for side in (ax, artists["values"]):
            side.tick_params(axis="y", length=0)
            side.spines[:].set_visible(False)
        ax.spines["bottom"].set_visible(True)
        typical = f"{self.n_typical:,} training rows on average"
        ax.set_xlabel(f"contribution to the score (negative: less normal than {typical})")
        scores = f"score {number(self.score)}, typical {number(self.typical)}, threshold {number(self.offset)}"
        ax.set_title(f"Row {self.label}: {scores}", fontsize="medium")
        return ax, artists

    def _lines(self) -> tuple[list[str], list[str], Array]:
        """Names, values as text, and contributions, from top to bottom."""
        columns = self.contributions[:-1]
        order = np.argsort(-np.abs(columns), kind="stable")
        shown, others = order[: self.n_shown], order[self.n_shown :]
        names, values = [_short(self.names[i]) for i in shown], [self._value(i) for i in shown]
        parts = [*columns[shown]]
        if len(others):
            names.append(f"{len(others)} other column{'s' if len(others) > 1 else ''}")
            parts.append(columns[others].sum())
        names.append("combination of columns")
        parts.append(self.contributions[-1])
        return names, values + [""] * (len(names) - len(values)), np.array(parts)

    def _value(self, column: int) -> str:
        """The row's value, and the most similar normal row's."""
        value = self.values[column]
        return "missing" if is_missing(value) else f"{cell(value)}, normal: {cell(self.similar[column])}"


def _short(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _aligned(parts: Array) -> list[str]:
    """Summands as text, all with as many decimals as give the largest three digits: they are to be added up."""
    largest = float(np.abs(parts).max())
    decimals = min(max(0, 2 - int(np.floor(np.log10(largest)))), 6) if largest else 0
    rounded = np.round(parts, decimals) + 0.0  # no minus before a zero
    return [f"{part:+,.{decimals}f}".replace("-", "\N{MINUS SIGN}") for part in rounded]
