"""SamplesDisplay: sampled rows beside real ones, column by column and pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import _num_samples

from .._params import RandomState
from .._tables.containers import unpack_container
from .._tables.frames import column_values
from .._tables.schema import cells_of
from .._tables.sources import RowSource
from .._tables.types import is_missing
from ._base import KNOWN, NORMAL, Array, Display, axes_within
from ._codes import check_codes
from ._columns import chosen_column, names_in, names_of, numbers_in

__all__ = ["SamplesDisplay"]

# Columns that are shown where nobody says which, and rows of each kind that are drawn as points.
SHOWN, POINTS = 4, 1000
# Bars of a histogram, and categories that have one of their own: the others share one.
BINS, MOST_CATEGORIES = 30, 9
# How far points of a category lie from its place, at most.
JITTER = 0.35


@dataclass(eq=False)
class SamplesDisplay(Display):
    """Rows that a model draws beside real ones: every column's distribution, and every two columns as points.

    Made by :meth:`from_estimator` or :meth:`from_predictions`; `plot` draws it again elsewhere.

    Parameters
    ----------
    real, drawn : ndarray of shape (n_rows, n_columns)
        The columns shown: numbers, or places in `categories`; NaN where a cell is missing.
    features : list of str
        The columns' names.
    categories : list of (list of str or None)
        The names of a column's categories, the most frequent first; None where it holds numbers.

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes of shape (n_columns, n_columns)
        Distributions on the diagonal, pairs below; what is above is empty.
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn: "real" and "drawn", each a dict from a pair of places to the artist there; "legend".

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.plotting import SamplesDisplay
    >>> X = load_wine(as_frame=True).data
    >>> vae = VAETransformer(2, max_iter=20, random_state=0).fit(X)
    >>> display = SamplesDisplay.from_estimator(vae, X, features=["alcohol", "hue"], random_state=0)
    >>> display.drawn.shape
    (178, 2)
    """

    __module__ = "skvae.plotting"

    real: Array
    drawn: Array
    features: list[str]
    categories: list[list[str] | None]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        features: Sequence[int | str] | None = None,
        prior: str = "aggregated",
        random_state: RandomState = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw as many rows as X has, and show both.

        Parameters
        ----------
        estimator : VAETransformer
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Real rows, as `fit` takes them; best those that it has not seen. NaN marks a missing cell; where there are
            any, drawn rows lack cells as training rows do, if z comes from around their codes.
        features : sequence of int or str, default=None
            The columns to show, by place or name. None: the first 4.
        prior : {"aggregated", "model"}, default="aggregated"
            Where z comes from, as in `sample`.
        random_state : int, RandomState or None, default=None
            Of the rows drawn.
        ax : matplotlib Axes, default=None
            Where to draw: axes made by `plt.subplots`, whose place is divided; or as many axes as there are pairs of
            columns, those with themselves included. None: a new figure.
        **kwargs : dict
            For the points of drawn rows (`Axes.scatter`).

        Returns
        -------
        display : SamplesDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If a parameter breaks a rule, or the estimator draws no rows.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_codes(estimator, ("sample", "inverse_transform"))
        names = names_of(estimator)
        places = _chosen(features, names)
        more = {"gaps": True} if prior == "aggregated" else {}
        drawn = estimator.sample(_num_samples(X), random_state=random_state, prior=prior, **more)
        return cls._of(X, drawn, places, names).plot(ax, **kwargs)

    @classmethod
    def from_predictions(
        cls, X: Any, X_drawn: Any, *, features: Sequence[int | str] | None = None, ax: Any = None, **kwargs: Any
    ) -> Self:
        """Draw real rows and others, of whatever method, that should be like them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Real rows; NaN marks a missing cell.
        X_drawn : array-like of shape (n_drawn, n_features)
            The others, with the same columns.
        features : sequence of int or str, default=None
            The columns to show, by place or name. None: the first 4.
        ax : matplotlib Axes, default=None
            As in `from_estimator`.
        **kwargs : dict
            For the points of drawn rows (`Axes.scatter`).

        Returns
        -------
        display : SamplesDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If a parameter breaks a rule, or the tables' columns differ.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        names = names_in(X)
        if names != names_in(X_drawn):
            raise ValueError("The columns of X_drawn are not those of X; give the same ones, in one order.")
        return cls._of(X, X_drawn, _chosen(features, names), names).plot(ax, **kwargs)

    @classmethod
    def _of(cls, X: Any, drawn: Any, places: list[int], names: list[str]) -> Self:
        """Some columns of both tables."""
        real, found, categories = zip(*(_both(X, drawn, place) for place in places), strict=True)
        shown = [names[place] for place in places]
        return cls(np.column_stack(real), np.column_stack(found), shown, list(categories))

    @property
    def _size(self) -> tuple[float, float]:
        side = 1.2 + 2.1 * len(self.features)
        return (side, 0.85 * side)

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        n = len(self.features)
        axes: Any = axes_within(ax, (n, n), "SamplesDisplay")
        artists: dict[str, Any] = {"real": {}, "drawn": {}}
        for i, j in np.ndindex(n, n):
            if j > i:
                axes[i, j].axis("off")
                continue
            found = self._marginal(axes[i, i], i) if i == j else self._pair(axes[i, j], j, i, kwargs)
            artists["real"][i, j], artists["drawn"][i, j] = found
            self._label(axes[i, j], i, j)
        where = {"loc": "upper right"} if n > 1 else {"loc": "best"}
        handles = [artists["real"][0, 0], artists["drawn"][0, 0]]
        style = {"frameon": False, "fontsize": "small"}
        artists["legend"] = axes[0, n - 1].legend(handles, ["real", "drawn"], **where, **style)
        return axes, artists

    def _marginal(self, ax: Any, column: int) -> tuple[Any, Any]:
        """Shares of the rows: bars of a category, a histogram of numbers, what is missing in the title."""
        both, names = [self.real[:, column], self.drawn[:, column]], self.categories[column]
        missing = [float(np.isnan(values).mean()) for values in both]
        if any(missing):
            ax.set_title(f"missing {missing[0]:.0%}, drawn {missing[1]:.0%}", fontsize="x-small")
        shares = [values[~np.isnan(values)] for values in both]
        if names is None:
            edges = np.histogram_bin_edges(np.concatenate(shares), _bins(np.concatenate(shares)))
        else:
            edges = np.arange(len(names) + 1) - 0.5
        heights = [np.histogram(values, edges)[0] / max(1, len(own)) for values, own in zip(shares, both, strict=True)]
        real = ax.stairs(heights[0], edges, fill=True, color=KNOWN)
        return real, ax.stairs(heights[1], edges, color=NORMAL, linewidth=1.5)

    def _pair(self, ax: Any, x: int, y: int, style: dict[str, Any]) -> tuple[Any, Any]:
        found, rng = [], np.random.default_rng(0)
        for values, size, colour, own in ((self.real, 12, KNOWN, {}), (self.drawn, 4, NORMAL, style)):
            some = values[rng.permutation(len(values))[:POINTS]][:, [x, y]]
            for k, column in enumerate((x, y)):
                if self.categories[column] is not None:
                    some[:, k] += rng.uniform(-JITTER, JITTER, len(some))
            usual = {"s": size, "alpha": 0.7, "linewidths": 0, "color": colour}
            found.append(ax.scatter(*some.T, **usual | own))
        return found[0], found[1]

    def _label(self, ax: Any, i: int, j: int) -> None:
        """Names at the outer axes, and categories at theirs; the diagonal's heights are shares."""
        n = len(self.features)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize="x-small", labelbottom=i == n - 1, labelleft=j == 0 and i > 0)
        for axis, column, outer in ((ax.xaxis, j, i == n - 1), (ax.yaxis, i, j == 0 and i > 0)):
            names = self.categories[column]
            if names is not None and (axis is ax.xaxis or i != j):
                axis.set_ticks(range(len(names)), names if outer else [""] * len(names))
                if axis is ax.xaxis:
                    ax.tick_params("x", rotation=90 if max(map(len, names)) > 3 else 0)
            if outer:
                axis.set_label_text(self.features[column], fontsize="small")
        if i == j:
            ax.set_yticks([])


def _chosen(features: Any, names: list[str]) -> list[int]:
    """The places of the columns to show."""
    if features is None:
        return list(range(min(SHOWN, len(names))))
    places = [chosen_column(feature, names) for feature in features]
    if not places:
        raise ValueError("features holds no column; give the places or names of some.")
    return places


def _bins(values: Array) -> int:
    """Bars of a histogram: one for each of a few whole numbers, else `BINS`."""
    distinct = np.unique(values)
    whole = len(distinct) and np.array_equal(distinct, np.round(distinct)) and np.ptp(distinct) < BINS
    return int(np.ptp(distinct)) + 1 if whole else BINS


def _both(X: Any, drawn: Any, place: int) -> tuple[Array, Array, list[str] | None]:
    """A column of both tables as numbers, and the names that these stand for where it holds categories."""
    columns = [_column(table, place) for table in (X, drawn)]
    if all(column.dtype.kind == "f" for column in columns):
        return columns[0], columns[1], None
    texts = [np.array([None if is_missing(cell) else str(cell) for cell in column], dtype=object) for column in columns]
    known, counts = np.unique([text for text in texts[0] if text is not None], return_counts=True)
    names = known[np.argsort(-counts, kind="stable")][:MOST_CATEGORIES].tolist()
    if any(text not in {None, *names} for column in texts for text in column):
        names.append("others")
    code = {name: float(k) for k, name in enumerate(names)} | {None: np.nan}
    found = [np.array([code.get(text, len(names) - 1.0) for text in column]) for column in texts]
    return found[0], found[1], names


def _column(table: Any, place: int) -> Any:
    """A column's numbers, or its cells where it holds others."""
    table = unpack_container(table)
    table = table[:] if isinstance(table, RowSource) else cells_of(table)
    numbers = numbers_in(table)
    return numbers[place] if place in numbers else np.array(column_values(table, place), dtype=object)
