"""TraversalDisplay: what changes in a row while one latent moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from ._base import Array, Display, place_in, ticks
from ._codes import Codes, check_count
from ._columns import names_of, numbers_in, pixels_of, spread_of
from ._pixels import checked_shape, draw_images

__all__ = ["TraversalDisplay"]

# Lines before a colour comes again.
N_COLOURS = 10
# Rows drawn from the model where no X says how much columns vary.
DRAWN_ROWS = 1000


@dataclass(eq=False)
class TraversalDisplay(Display):
    """What the decoder makes of one latent that moves while the others stay: a strip of images, or lines of columns.

    Made by :meth:`from_estimator`; `plot` draws it again elsewhere.

    Parameters
    ----------
    values : ndarray of shape (n,)
        The latent's values, rising.
    decoded : ndarray of shape (n, height, width), (n, height, width, channels) or (n, n_columns)
        Images in data units; or the columns that are shown, those that move most first, in standard deviations from
        their means.
    latent : str
        The latent's name.
    features : list of str or None
        The columns' names; None for images.
    others : str or None
        Where the other latents lie; None if there are none.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the picture.
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn: "images", or "lines" and "legend".

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.plotting import TraversalDisplay
    >>> X = load_wine(as_frame=True).data
    >>> vae = VAETransformer(2, max_iter=20, random_state=0).fit(X)
    >>> display = TraversalDisplay.from_estimator(vae, X, row=0, n=5, n_features=3)
    >>> display.decoded.shape
    (5, 3)
    """

    __module__ = "skvae.plotting"

    values: Array
    decoded: Array
    latent: str
    features: list[str] | None = None
    others: str | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        component: int = 0,
        row: int | None = None,
        n: int = 11,
        image_shape: tuple[int, ...] | None = None,
        n_features: int = 10,
        given: Any = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Move one latent, and draw what becomes of the row.

        Parameters
        ----------
        estimator : VAETransformer
            Fitted; or a pipeline that ends in one, or another transformer with `inverse_transform`, such as `PCA`.
        X : array-like of shape (n_samples, n_features), default=None
            Rows. The latent then moves where their codes lie, 99.7 % of them, and columns are shown in their standard
            deviations. None: from -3 to 3, and in those of rows that `sample` draws. Needed where the estimator has no
            `sample`, and advisable under a prior other than N(0, I).
        component : int, default=0
            The latent that moves.
        row : int, default=None
            The place in X of the row at whose code the other latents stay. None: at the medians of X's codes, or at 0.
        n : int, default=11
            Values of the latent.
        image_shape : tuple of int, default=None
            (height, width) or (height, width, channels) of a row. None: rows are no images.
        n_features : int, default=10
            How many columns are shown, those that move most first, where rows are no images.
        given : dict, Series or DataFrame, default=None
            What to decode for, of a model that is given columns (:class:`skvae.Given`): one row, by the columns' names.
        ax : matplotlib Axes, default=None
            Where to draw; the legend needs room, so make figures with `layout="constrained"`. None: a new figure.
        **kwargs : dict
            For the images (`Axes.imshow`) or the lines (`Axes.plot`).

        Returns
        -------
        display : TraversalDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If a parameter breaks a rule, or nothing says where codes lie.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_count("n", n, 2)
        check_count("n_features", n_features)
        if row is not None and X is None:
            raise ValueError(f"row={row!r} is the place of a row in X; give X.")
        codes = Codes(estimator, X)
        place = codes.place(component)
        centre, others = codes.centre(None if row is None else place_in(X, row))
        names = names_of(estimator)
        shape = None if image_shape is None else checked_shape(image_shape, len(names))
        values = codes.values(place, n)
        Z = np.tile(centre, (n, 1))
        Z[:, place] = values
        rows = estimator.inverse_transform(Z, **({} if given is None else {"given": given}))
        said = codes.names[place], others if len(codes.names) > 1 else None
        if shape is not None:
            return cls(values, pixels_of(rows).reshape(n, *shape), said[0], None, said[1]).plot(ax, **kwargs)
        lines, features = _standardised(rows, _rows_for_units(estimator, X), names, n_features)
        return cls(values, lines, said[0], features, said[1]).plot(ax, **kwargs)

    @property
    def _size(self) -> tuple[float, float]:
        return (7.5, 4.0) if self.features is not None else (8.0, 1.6)

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        artists = self._strip(ax, kwargs) if self.features is None else self._lines(ax, self.features, kwargs)
        ax.set_xlabel(self.latent)
        if self.others is not None:
            ax.set_title(f"other latents {self.others}", fontsize="medium")
        return ax, artists

    def _strip(self, ax: Any, style: dict[str, Any]) -> dict[str, Any]:
        artists = {"images": draw_images(ax, self.decoded[None], **style)}
        ax.set_xticks(range(len(self.values)), ticks(self.values))
        ax.set_yticks([])
        return artists

    def _lines(self, ax: Any, features: list[str], style: dict[str, Any]) -> dict[str, Any]:
        ax.axhline(0, color="black", linewidth=0.8)
        lines = [
            ax.plot(
                self.values, line, **{"label": name, "color": f"C{i}", "linestyle": "-" if i < 10 else "--"} | style
            )[0]
            for i, (name, line) in enumerate(zip(features, self.decoded.T, strict=True))
        ]
        # The legend's order is that of the lines' right ends.
        order = np.argsort(-self.decoded[-1], kind="stable")
        place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False, "fontsize": "small"}
        legend = ax.legend(handles=[lines[i] for i in order], **place)
        ax.set_ylabel("standard deviations from the mean")
        ax.spines[["top", "right"]].set_visible(False)
        return {"lines": lines, "legend": legend}


def _rows_for_units(estimator: Any, X: Any) -> Any:
    """Rows that say how much the columns vary."""
    if X is not None:
        return X
    if not hasattr(estimator, "sample"):
        raise ValueError("A pipeline draws no rows, so nothing says how much columns vary; give X, rows which do.")
    return estimator.sample(DRAWN_ROWS, random_state=0)


def _standardised(decoded: Any, X: Any, names: list[str], n_features: int) -> tuple[Array, list[str]]:
    """The columns of numbers that move most, in standard deviations of X from its means, and their names."""
    moved, (mean, std) = numbers_in(decoded), spread_of(X)
    places = [place for place in moved if place in mean]
    if not places:
        raise ValueError("All columns hold categories; a traversal of a table shows columns that hold numbers.")
    lines = np.column_stack([(moved[place] - mean[place]) / std[place] for place in places])
    order = np.argsort(-np.ptp(lines, axis=0), kind="stable")[:n_features]
    return lines[:, order], [names[places[i]] for i in order]
