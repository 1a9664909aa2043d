"""AnomalyImageDisplay: a row as an image, the most similar normal one, and what each pixel adds to the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from ._base import Array, Display, axes_within, number
from ._detected import ExplainedRow, check_detector
from ._pixels import checked_shape, square

__all__ = ["AnomalyImageDisplay"]

# Percentile of the pixels' contributions, by size, at which the colours end.
SHOWN_PERCENT = 99


@dataclass(eq=False)
class AnomalyImageDisplay(Display):
    """An image, the most similar normal one, and what each pixel adds to the score.

    Made by :meth:`from_estimator`; `plot` draws it again elsewhere.

    Parameters
    ----------
    row : int
        The row's place in the table.
    values : ndarray of shape (height, width) or (height, width, channels)
        The row.
    similar : ndarray of shape (height, width) or (height, width, channels)
        The most similar normal row.
    contributions : ndarray of shape (height, width)
        What each pixel adds to the score, summed over channels.
    score : float
        The row's score.
    offset : float
        The threshold.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes of shape (3,)
        The axes with the three images.
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn: "image", "similar", "contributions" and "colorbar".

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import VAEAnomalyDetector
    >>> from skvae.plotting import AnomalyImageDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> detector = VAEAnomalyDetector(8, max_iter=20, random_state=0).fit(X[y == 0])
    >>> display = AnomalyImageDisplay.from_estimator(detector, X, row=8)
    >>> display.contributions.shape
    (8, 8)
    """

    __module__ = "skvae.plotting"

    row: int
    values: Array
    similar: Array
    contributions: Array
    score: float
    offset: float

    @classmethod
    def from_estimator(
        cls,
        detector: Any,
        X: Any,
        *,
        row: int | str | None = None,
        image_shape: tuple[int, ...] | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Explain an image's score by a fitted detector, and draw the explanation.

        Parameters
        ----------
        detector : VAEAnomalyDetector
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Rows of pixels; NaN marks a missing one.
        row : int or str, default=None
            The place in X of the row to explain; a string is its label in a pandas frame. None: the row with the
            lowest score.
        image_shape : tuple of int, default=None
            (height, width) or (height, width, channels) of a row. None: a square.
        ax : matplotlib Axes, default=None
            Where to draw: axes made by `plt.subplots`, whose place is divided; or three axes. None: a new figure.
        **kwargs : dict
            For the heat map of contributions (`Axes.imshow`).

        Returns
        -------
        display : AnomalyImageDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If a parameter breaks a rule, the estimator is no detector, or the row is too far out to be explained.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_detector(detector)
        seen = ExplainedRow.of(detector, X, row)
        shape = square(len(seen.values)) if image_shape is None else checked_shape(image_shape, len(seen.values))
        parts = seen.contributions[:-1].reshape(*shape[:2], -1).sum(axis=-1)
        values, similar = seen.values.reshape(shape), seen.similar.reshape(shape)
        return cls(seen.row, values, similar, parts, seen.score, float(detector.offset_)).plot(ax, **kwargs)

    @property
    def _size(self) -> tuple[float, float]:
        return (8.5, 3.0)

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        axes = axes_within(ax, (3,), type(self).__name__)
        artists: dict[str, Any] = {}
        low, span = _range(self.values, self.similar)
        for place, name, pixels in zip(axes, ("image", "similar"), (self.values, self.similar), strict=False):
            artists[name] = place.imshow(np.clip((pixels - low) / span, 0, 1), cmap="gray", vmin=0, vmax=1)
        sizes = np.abs(self.contributions)
        # A few pixels that hardly ever change in normal images would leave the others without colour.
        most = np.percentile(sizes, SHOWN_PERCENT) or sizes.max() or 1.0
        style = {"cmap": "RdBu", "vmin": -most, "vmax": most}
        artists["contributions"] = axes[2].imshow(self.contributions, **style | kwargs)
        extend = "both" if sizes.max() > most else "neither"
        artists["colorbar"] = axes[2].figure.colorbar(
            artists["contributions"], ax=axes[2], extend=extend, fraction=0.046
        )
        titles = (f"row {self.row}", "most similar normal image", "contributions to the score")
        for place, title in zip(axes, titles, strict=True):
            place.set_title(title, fontsize="medium")
            place.set(xticks=[], yticks=[])
        axes[0].set_xlabel(f"score {number(self.score)}, threshold {number(self.offset)}")
        return axes, artists


def _range(image: Array, other: Array) -> tuple[float, float]:
    """Least value and range of an image; of both where the first has only one value."""
    image, both = (values[~np.isnan(values)] for values in (image, np.stack([image, other])))
    values = image if len(image) and np.ptp(image) > 0 else both
    return float(values.min()), float(np.ptp(values)) or 1.0
