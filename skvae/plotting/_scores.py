"""Scores: a histogram of scores, with the threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ._base import ANOMALOUS, KNOWN, NORMAL, Array, Picture, number

__all__ = ["Scores"]

# Bars of the histogram, about.
BINS = 40
# The axis is bent where a score lies further below the threshold than the first number of times the spread of the
# training scores; what is lower than the second number of times is not shown.
BENT, FURTHEST = 8.0, 1e9
# Powers of ten beside the ticks of a bent axis, at most.
MOST_POWERS = 5


@dataclass(eq=False)
class Scores(Picture):
    """A histogram of scores, with the threshold.

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
    """

    scores: Array
    training_scores: Array
    offset: float
    n_training: int | None = None

    size: ClassVar[tuple[float, float]] = (7.5, 4.0)

    @classmethod
    def of(cls, detector: Any, X: Any) -> Scores:
        """Ask a detector for what is shown."""
        support = getattr(detector, "support_", None)
        n_training = None if support is None else len(support)
        return cls(detector.score_samples(X), detector.training_scores_, detector.offset_, n_training)

    def draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Draw the histogram over the scores less the threshold. `kwargs`: style for the bars of the rows (`Axes.bar`).

        Artists: "training", "normal", "anomalies", "marks", "threshold", and "off" where rows are off the scale.
        """
        spread = self._spread()
        differences = self._differences(), self.training_scores - self.offset
        new, known = (values[values >= -FURTHEST * spread] for values in differences)
        both = np.concatenate([new, known])
        label = "score minus threshold"
        if both.min(initial=0.0) < -BENT * spread:
            _bend(ax, both.min(), max(spread, both.max()))
            label += " (logarithmic far below 0)"
        edges = _edges(ax, both)
        artists = {"training": self._training_bars(ax, known, edges)}
        artists |= self._bars(ax, new, edges, kwargs)
        artists |= self._marks(ax, new)
        ax.set(xlabel=label, ylabel="share of the rows")
        ax.legend(frameon=False, fontsize="small")
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


def _bend(ax: Any, lowest: float, linear: float) -> None:
    """Make the x axis logarithmic below -`linear`; ticks are powers of ten there, and a round number beside 0."""
    ax.set_xscale("symlog", linthresh=linear)
    unit = 10.0 ** np.floor(np.log10(linear))
    near = unit * max(factor for factor in (1, 2, 5) if factor * unit <= linear)
    powers = np.arange(np.ceil(np.log10(2 * linear)), np.floor(np.log10(-lowest)) + 1)
    far = -(10.0 ** powers[:: 1 + len(powers) // (MOST_POWERS + 1)])
    ticks = [*far[::-1], -near, 0.0, near]
    ax.set_xticks(ticks, [number(tick) for tick in ticks])


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
