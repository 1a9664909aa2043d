"""ReconstructionDisplay: rows beside what an estimator makes of their codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import _num_samples

from ._base import Array, Display, place_in
from ._codes import check_codes
from ._columns import names_in, names_of, numbers_in, pixels_of, spread_of
from ._pixels import checked_shape, draw_images

__all__ = ["ReconstructionDisplay"]

# Rows that are shown where nobody says which, as images and as lines.
SHOWN_IMAGES, SHOWN_LINES = 10, 3
# Columns that are named, at most.
MOST_NAMES = 40


@dataclass(eq=False)
class ReconstructionDisplay(Display):
    """Rows beside their reconstructions, `inverse_transform(transform(X))`: images, or lines through their columns.

    Made by :meth:`from_estimator` or :meth:`from_predictions`; `plot` draws it again elsewhere.

    Parameters
    ----------
    rows : ndarray of int of shape (n,)
        The rows' places in the table.
    values, rebuilt : ndarray of shape (n, height, width), (n, height, width, channels) or (n, n_columns)
        The rows and their reconstructions: images in data units, NaN where a pixel is missing; or columns that hold
        numbers, in standard deviations from their means.
    features : list of str or None
        The columns' names; None for images.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the picture.
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn: "images", or "lines", "rebuilt" and "legend".

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import VAETransformer
    >>> from skvae.plotting import ReconstructionDisplay
    >>> X = load_digits().data[:500]
    >>> vae = VAETransformer(8, max_iter=20, random_state=0).fit(X)
    >>> display = ReconstructionDisplay.from_estimator(vae, X, rows=[3, 1, 4], image_shape=(8, 8))
    >>> display.rebuilt.shape
    (3, 8, 8)
    """

    __module__ = "skvae.plotting"

    rows: NDArray[np.intp]
    values: Array
    rebuilt: Array
    features: list[str] | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        rows: Sequence[int] | None = None,
        image_shape: tuple[int, ...] | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Rebuild rows from their codes, and draw both.

        Parameters
        ----------
        estimator : VAETransformer
            Fitted; or a pipeline that ends in one, or another transformer with `inverse_transform`, such as `PCA`.
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell. They also say how much the columns vary.
        rows : sequence of int, default=None
            The places in X of the rows to show. None: the first ones, 10 images or 3 lines.
        image_shape : tuple of int, default=None
            (height, width) or (height, width, channels) of a row. None: rows are no images.
        ax : matplotlib Axes, default=None
            Where to draw; the legend needs room, so make figures with `layout="constrained"`. None: a new figure.
        **kwargs : dict
            For the images (`Axes.imshow`) or the lines (`Axes.plot`).

        Returns
        -------
        display : ReconstructionDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If a parameter breaks a rule.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_codes(estimator)
        names = names_of(estimator)
        places, shape = _chosen(X, rows, image_shape, len(names))
        shown = _safe_indexing(X, places)
        # A model that is given columns reads them from the rows.
        own = getattr(estimator, "reconstruct", None)
        rebuilt = estimator.inverse_transform(estimator.transform(shown)) if own is None else own(shown)
        return cls._of(X, places, rebuilt, names, shape).plot(ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        X: Any,
        X_rebuilt: Any,
        *,
        rows: Sequence[int] | None = None,
        image_shape: tuple[int, ...] | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw rows beside others that were made of them: rebuilt, cleaned or filled by whatever method.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell. They also say how much the columns vary.
        X_rebuilt : array-like of shape (n_samples, n_features)
            What was made of them.
        rows : sequence of int, default=None
            The places in X of the rows to show. None: the first ones, 10 images or 3 lines.
        image_shape : tuple of int, default=None
            (height, width) or (height, width, channels) of a row. None: rows are no images.
        ax : matplotlib Axes, default=None
            As in `from_estimator`.
        **kwargs : dict
            For the images (`Axes.imshow`) or the lines (`Axes.plot`).

        Returns
        -------
        display : ReconstructionDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If a parameter breaks a rule, or the two tables differ in shape.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        if np.shape(X) != np.shape(X_rebuilt):
            raise ValueError(f"X has shape {np.shape(X)}, X_rebuilt {np.shape(X_rebuilt)}; give the same rows.")
        names = names_in(X)
        places, shape = _chosen(X, rows, image_shape, len(names))
        return cls._of(X, places, _safe_indexing(X_rebuilt, places), names, shape).plot(ax, **kwargs)

    @classmethod
    def _of(cls, X: Any, places: list[int], rebuilt: Any, names: list[str], shape: tuple[int, ...] | None) -> Self:
        """Rows of X and what was made of them, as images or in standard deviations."""
        shown = _safe_indexing(X, places)
        if shape is not None:
            values = [pixels_of(table).reshape(-1, *shape) for table in (shown, rebuilt)]
            return cls(np.array(places), values[0], values[1])
        mean, std = spread_of(X)
        columns = [place for place in numbers_in(rebuilt) if place in mean]
        if not columns:
            raise ValueError("All columns hold categories; lines go through columns that hold numbers.")
        lines = []
        for table in (shown, rebuilt):
            cells = numbers_in(table)
            lines.append(np.column_stack([(cells[c] - mean[c]) / std[c] for c in columns]))
        return cls(np.array(places), lines[0], lines[1], [names[c] for c in columns])

    @property
    def _size(self) -> tuple[float, float]:
        return (8.0, 4.0) if self.features is not None else (8.0, 2.4)

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if self.features is not None:
            return ax, self._lines(ax, self.features, kwargs)
        artists = {"images": draw_images(ax, np.stack([self.values, self.rebuilt]), **kwargs)}
        ax.set_yticks([0, -1], ["row", "rebuilt"])
        ax.set_xticks(range(len(self.rows)), [str(row) for row in self.rows])
        return ax, artists

    def _lines(self, ax: Any, features: list[str], style: dict[str, Any]) -> dict[str, Any]:
        from matplotlib.lines import Line2D

        places = np.arange(len(features))
        lines, rebuilt = [], []
        for i, (row, values, other) in enumerate(zip(self.rows, self.values, self.rebuilt, strict=True)):
            own = {"color": f"C{i % 10}"}
            lines += ax.plot(places, values, **own | {"marker": "o", "markersize": 4, "label": f"row {row}"} | style)
            rebuilt += ax.plot(places, other, **own | {"linestyle": "--", "label": "_rebuilt"} | style)
        place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False, "fontsize": "small"}
        handles = [*lines, Line2D([], [], color="gray", linestyle="--", label="rebuilt")]
        legend = ax.legend(handles=handles, **place)
        named = places[:: -(-len(features) // MOST_NAMES)]
        ax.set_xticks(named, [features[i] for i in named], rotation=45, ha="right", fontsize="small")
        ax.set_ylabel("standard deviations from the mean")
        ax.spines[["top", "right"]].set_visible(False)
        return {"lines": lines, "rebuilt": rebuilt, "legend": legend}


def _chosen(X: Any, rows: Any, image_shape: Any, n_columns: int) -> tuple[list[int], tuple[int, ...] | None]:
    """The places of the rows to show, and their shape where they are images."""
    shape = None if image_shape is None else checked_shape(image_shape, n_columns)
    if rows is None:
        rows = range(min(_num_samples(X), SHOWN_LINES if shape is None else SHOWN_IMAGES))
    places = [place_in(X, row) for row in rows]
    if not places:
        raise ValueError("rows holds no row; give the places of some in X.")
    return places, shape
