"""Image: a row as an image, the most similar normal one, and what each pixel adds to the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ._base import Array, ExplainedRow, Picture, axes_within, number
from ._pixels import checked_shape, square

__all__ = ["Image"]

# Percentile of the pixels' contributions, by size, at which the colours end.
SHOWN_PERCENT = 99


@dataclass(eq=False)
class Image(Picture):
    """An image, the most similar normal one, and what each pixel adds to the score.

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
    """

    row: int
    values: Array
    similar: Array
    contributions: Array
    score: float
    offset: float

    size: ClassVar[tuple[float, float]] = (8.5, 3.0)

    @classmethod
    def of(cls, detector: Any, X: Any, row: int | None = None, image_shape: tuple[int, ...] | None = None) -> Image:
        """Ask a detector for what is shown."""
        seen = ExplainedRow.of(detector, X, row)
        shape = square(len(seen.values)) if image_shape is None else checked_shape(image_shape, len(seen.values))
        parts = seen.contributions[:-1].reshape(*shape[:2], -1).sum(axis=-1)
        values, similar = seen.values.reshape(shape), seen.similar.reshape(shape)
        return cls(seen.row, values, similar, parts, seen.score, float(detector.offset_))

    def draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Draw the three images. `kwargs`: style for the heat map of contributions (`Axes.imshow`).

        Artists: "image", "similar", "contributions" and "colorbar".
        """
        axes = axes_within(ax, (3,), "kind='image'")
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
