"""AnomalyScoresDisplay: a histogram of scores, with the threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from ._base import ANOMALOUS, KNOWN, NORMAL, Array, Display, number
from ._detected import check_detector

__all__ = ["AnomalyScoresDisplay"]

# Bars of the histogram, about.
BINS = 40
# The axis is logarithmic where a score lies further below the threshold than the first number of times the spread of
# the training scores; what is lower than the second number of times is not shown.
BENT, FURTHEST = 8.0, 1e9
# Ticks of a logarithmic axis, at most.
MOST_TICKS = 8


@dataclass(eq=False)
class AnomalyScoresDisplay(Display):
    """A histogram of anomaly scores less the threshold, beside that of the training rows.

    Made by :meth:`from_estimator` or :meth:`from_predictions`; `plot` draws it again elsewhere.
    Where a score is extremely low, the axis is logarithmic far from the threshold.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        Scores of the rows; may hold -inf.
    training_scores : ndarray of shape (n_scored,)
        Scores of the training rows; may hold -inf.
    offset : float
        The threshold.
    n_training : int or None, default=None
        Of how many training rows some were scored; None: all of them were.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the picture.
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn: "training", "normal", "anomalies", "marks" (one per anomaly), "threshold", "legend", and "off"
        where rows are off the scale.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEAnomalyDetector
    >>> from skvae.plotting import AnomalyScoresDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> detector = VAEAnomalyDetector(max_iter=20, random_state=0).fit(X[y == 0])
    >>> display = AnomalyScoresDisplay.from_estimator(detector, X)
    >>> display.scores.shape, display.training_scores.shape
    ((178,), (59,))
    """

    __module__ = "skvae.plotting"

    scores: Array
    training_scores: Array
    offset: float
    n_training: int | None = None

    @classmethod
    def from_estimator(cls, detector: Any, X: Any, *, ax: Any = None, **kwargs: Any) -> Self:
        """Score rows with a fitted detector, and draw the scores.

        Parameters
        ----------
        detector : VAEAnomalyDetector
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.
        ax : matplotlib Axes, default=None
            Where to draw. None: a new figure.
        **kwargs : dict
            For the bars of the rows (`Axes.bar`).

        Returns
        -------
        display : AnomalyScoresDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If the estimator is no detector.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_detector(detector)
        support = getattr(detector, "support_", None)
        n_training = None if support is None else len(support)
        display = cls(detector.score_samples(X), detector.training_scores_, detector.offset_, n_training)
        return display.plot(ax, **kwargs)

    @classmethod
    def from_predictions(
        cls, scores: Any, *, training_scores: Any, offset: float = 0.0, ax: Any = None, **kwargs: Any
    ) -> Self:
        """Draw scores of any detector, such as scikit-learn's.

        Parameters
        ----------
        scores : array-like of shape (n_samples,)
            Scores of the rows: higher is more normal, as `score_samples` and `decision_function` have it.
        training_scores : array-like of shape (n_scored,)
            Scores of rows to compare with.
        offset : float, default=0.0
            The threshold: 0 for `decision_function`.
        ax : matplotlib Axes, default=None
            Where to draw. None: a new figure.
        **kwargs : dict
            For the bars of the rows (`Axes.bar`).

        Returns
        -------
        display : AnomalyScoresDisplay
            What was drawn.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        new, known = (np.ravel(np.asarray(values, dtype=np.float64)) for values in (scores, training_scores))
        return cls(new, known, float(offset)).plot(ax, **kwargs)

    @property
    def _size(self) -> tuple[float, float]:
        return (7.5, 4.0)

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        spread = self._spread()
        differences = self._differences(), self.training_scores - self.offset
        new, known = (values[values >= -FURTHEST * spread] for values in differences)
        both = np.concatenate([new, known])
        label = "score minus threshold"
        if both.min(initial=0.0) < -BENT * spread:
            _bend(ax, max(spread, both.max()))
            label += " (logarithmic far below 0)"
        edges = _edges(ax, both)
        artists = {"training": self._training_bars(ax, known, edges)}
        artists |= self._bars(ax, new, edges, kwargs)
        artists |= self._marks(ax, new)
        ax.set(xlabel=label, ylabel="share of the rows")
        artists["legend"] = ax.legend(frameon=False, fontsize="small")
        ax.spines[["top", "right"]].set_visible(False)
        return ax, artists

    def _differences(self) -> Array:
        """The scores less the threshold."""
        return self.scores - self.offset

    def _spread(self) -> float:
        """How far a typical training score is above the threshold: the width of the axis's linear part."""
        typical = float(np.median(self.training_scores))
        return typical - self.offset if typical > self.offset else 1.0

    def _training_bars(self, ax: Any, known: Array, edges: Array) -> Any:
        shares = np.histogram(known, edges)[0] / len(self.training_scores)
        n_scored = len(self.training_scores)
        of = "" if self.n_training in (None, n_scored) else f" of {self.n_training:,}"
        label = f"training rows ({n_scored:,}{of})"
        return ax.stairs(shares, edges, fill=True, color=KNOWN, label=label)

    def _bars(self, ax: Any, new: Array, edges: Array, style: dict[str, Any]) -> dict[str, Any]:
        shares = np.histogram(new, edges)[0] / len(self.scores)
        below = edges[:-1] < 0
        n_below = int((self._differences() < 0).sum())
        artists = {}
        for name, bars, n_rows, colour in (
            ("normal", ~below, len(self.scores) - n_below, NORMAL),
            ("anomalies", below, n_below, ANOMALOUS),
        ):
            usual = {"align": "edge", "color": colour, "alpha": 0.75, "label": f"{name} ({n_rows:,})"}
            artists[name] = ax.bar(edges[:-1][bars], shares[bars], np.diff(edges)[bars], **usual | style)
        return artists

    def _marks(self, ax: Any, new: Array) -> dict[str, Any]:
        # A few anomalies among thousands of rows are too low a bar to be seen.
        marks = new[new < 0]
        style = {"color": ANOMALOUS, "alpha": 0.6, "markersize": 7, "transform": ax.get_xaxis_transform()}
        artists = {"marks": ax.plot(marks, np.full(len(marks), 0.015), "|", **style)[0]}
        label = f"threshold {number(self.offset)}"
        artists["threshold"] = ax.axvline(0, color="black", linestyle="--", linewidth=1, label=label)
        if n_off := len(self.scores) - len(new):
            text = f"\N{LEFTWARDS ARROW} off the scale: {n_off:,}"
            artists["off"] = ax.text(0.01, 0.08, text, color=ANOMALOUS, transform=ax.transAxes)
        return artists


def _bend(ax: Any, linear: float) -> None:
    """Make the x axis logarithmic further than `linear` from 0, with no tick nearer but 0."""
    from matplotlib.ticker import SymmetricalLogLocator

    ax.set_xscale("symlog", linthresh=linear)
    locator = SymmetricalLogLocator(base=10, linthresh=10 ** np.ceil(np.log10(linear)))
    locator.set_params(numticks=MOST_TICKS)
    ax.xaxis.set_major_locator(locator)


def _edges(ax: Any, values: Array) -> Array:
    """Edges of bars that are equally wide on the x axis of `ax`; one edge is 0."""
    scale = ax.xaxis.get_transform()
    lowest, highest = values.min(initial=0.0), values.max(initial=0.0)
    low, high = scale.transform(np.array([lowest, highest]))
    step = (high - low) / BINS or 1.0
    n_below, n_above = int(np.ceil(-low / step)), max(1, int(np.ceil(high / step)))
    edges = scale.inverted().transform(step * np.arange(-n_below, n_above + 1))
    edges[n_below] = 0.0
    edges[[0, -1]] = min(edges[0], lowest), max(edges[-1], highest)
    return edges
