"""ManifoldDisplay: rows decoded from a grid in the plane of two latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

from ._base import Array, Display, ticks
from ._codes import Codes, check_count
from ._columns import chosen_column, names_of, numbers_in, pixels_of
from ._pixels import checked_shape, draw_images

__all__ = ["ManifoldDisplay"]

GRIDS = ("quantile", "linear")
# Ticks along a side, at most.
MOST_TICKS = 9


@dataclass(eq=False)
class ManifoldDisplay(Display):
    """What the decoder makes of a grid in the plane of two latents: images, or one column as a heat map.

    Made by :meth:`from_estimator`; `plot` draws it again elsewhere.

    Parameters
    ----------
    x, y : ndarray of shape (n,)
        The grid's values of the first latent, left to right, and of the second, bottom to top.
    decoded : ndarray of shape (n, n, height, width), (n, n, height, width, channels) or (n, n)
        Images, or values of one column, in data units; `decoded[i, j]` is made of `x[j]` and `y[i]`.
    latents : tuple of str
        The two latents' names.
    feature : str or None
        The column's name; None for images.
    others : str or None
        Where the other latents lie; None if there are none.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the picture.
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn: "images", or "map" and "colorbar".

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import VAETransformer
    >>> from skvae.plotting import ManifoldDisplay
    >>> X = load_digits().data[:500]
    >>> vae = VAETransformer(2, max_iter=20, random_state=0).fit(X)
    >>> display = ManifoldDisplay.from_estimator(vae, n=4, image_shape=(8, 8))
    >>> display.decoded.shape
    (4, 4, 8, 8)
    >>> display.x.round(2)  # where the normal distribution function is .05, .35, .65 and .95
    array([-1.64, -0.39,  0.39,  1.64])
    """

    __module__ = "skvae.plotting"

    x: Array
    y: Array
    decoded: Array
    latents: tuple[str, str]
    feature: str | None = None
    others: str | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        *,
        grid: str = "quantile",
        n: int = 15,
        components: tuple[int, int] = (0, 1),
        image_shape: tuple[int, ...] | None = None,
        feature: str | int | None = None,
        given: Any = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Decode a grid in the plane of two latents, and draw what comes out.

        Parameters
        ----------
        estimator : VAETransformer
            Fitted; or a pipeline that ends in one, or another transformer with `inverse_transform`, such as `PCA`.
        X : array-like of shape (n_samples, n_features), default=None
            Rows; the grid then covers their codes: quantiles of these in place of the normal distribution's. Needed
            where the estimator has no `sample`, and advisable under a prior other than N(0, I).
        grid : {"quantile", "linear"}, default="quantile"
            - "quantile": the unit square through the inverse normal distribution function, from .05 to .95, so that
              every image stands for an equal share of what the prior makes.
            - "linear": equally spaced from -3 to 3, which shows more of what is rare.
        n : int, default=15
            Values of each latent.
        components : pair of int, default=(0, 1)
            The two latents. The others stay at 0, or at the medians of X's codes.
        image_shape : tuple of int, default=None
            (height, width) or (height, width, channels) of a row. None: rows are no images.
        feature : str or int, default=None
            The column to show as a heat map where rows are no images, by its name or place.
        given : dict, Series or DataFrame, default=None
            What to decode for, of a model that is given columns (:class:`skvae.Given`): one row, by the columns' names.
        ax : matplotlib Axes, default=None
            Where to draw. None: a new figure.
        **kwargs : dict
            For the images (`Axes.imshow`) or the heat map (`Axes.pcolormesh`).

        Returns
        -------
        display : ManifoldDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If a parameter breaks a rule, or nothing says where codes lie.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        if grid not in GRIDS:
            raise ValueError(f"grid={grid!r} must be one of {', '.join(map(repr, GRIDS))}.")
        check_count("n", n, 2)
        codes = Codes(estimator, X)
        first, second = codes.pair(components)
        names = names_of(estimator)
        if (image_shape is None) == (feature is None):
            raise ValueError(
                "Give image_shape=(height, width) if rows are images, or feature=, the column to show, if they are not."
            )
        shape = () if image_shape is None else checked_shape(image_shape, len(names))
        place = None if feature is None else chosen_column(feature, names)
        x, y = codes.values(first, n, grid), codes.values(second, n, grid)
        centre, others = codes.centre()
        Z = np.tile(centre, (n * n, 1))
        Z[:, first], Z[:, second] = np.tile(x, n), np.repeat(y, n)
        rows = estimator.inverse_transform(Z, **({} if given is None else {"given": given}))
        latents = codes.names[first], codes.names[second]
        still = others if len(codes.names) > 2 else None
        if place is None:
            return cls(x, y, pixels_of(rows).reshape(n, n, *shape), latents, None, still).plot(ax, **kwargs)
        columns = numbers_in(rows)
        if place not in columns:
            raise ValueError(f"Column {names[place]!r} holds categories; choose a feature that holds numbers.")
        return cls(x, y, columns[place].reshape(n, n), latents, names[place], still).plot(ax, **kwargs)

    @property
    def _size(self) -> tuple[float, float]:
        return (6.0, 6.0) if self.feature is None else (6.4, 4.8)

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        artists = self._images(ax, kwargs) if self.feature is None else self._map(ax, kwargs)
        ax.set(xlabel=self.latents[0], ylabel=self.latents[1])
        if self.others is not None:
            ax.set_title(f"other latents {self.others}", fontsize="medium")
        return ax, artists

    def _images(self, ax: Any, style: dict[str, Any]) -> dict[str, Any]:
        artists = {"images": draw_images(ax, self.decoded[::-1], **style)}
        for axis, values in ((ax.xaxis, self.x), (ax.yaxis, self.y)):
            n = len(values)
            step = -(-n // MOST_TICKS)
            shown = np.arange(n // 2 % step, n, step)  # the middle among them
            axis.set_ticks(shown if axis is ax.xaxis else shown - (n - 1), [ticks(values)[i] for i in shown])
        return artists

    def _map(self, ax: Any, style: dict[str, Any]) -> dict[str, Any]:
        mesh = ax.pcolormesh(self.x, self.y, self.decoded, **{"shading": "nearest"} | style)
        return {"map": mesh, "colorbar": ax.figure.colorbar(mesh, ax=ax, label=self.feature)}
