"""LatentDisplay: the codes of rows in the plane of two latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_clusterer
from sklearn.metrics import pairwise_distances_argmin
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_consistent_length, column_or_1d
from sklearn.utils._optional_dependencies import check_matplotlib_support

from .._params import Count
from ._base import Array, Display
from ._codes import Codes, checked_pair, last_step
from ._columns import names_in

__all__ = ["LatentDisplay"]

# Rows whose posterior is drawn where nobody says how many, and how many standard deviations of it.
N_ELLIPSES, DEVIATIONS = 10, 2
# The palette with stronger colours has so many.
N_COLOURS = 10
# Classes that colours tell apart; more numbers than these are a scale.
MOST_CLASSES = 20


@dataclass(eq=False)
class LatentDisplay(Display):
    """Codes of rows in the plane of two latents: coloured by labels or clusters, a few with their posterior.

    Made by :meth:`from_estimator` or :meth:`from_predictions`; `plot` draws it again elsewhere.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, 2)
        The rows' codes.
    latents : tuple of str
        The two latents' names.
    labels : ndarray of shape (n_samples,) or None
        What colours say: labels, numbers, or clusters.
    centres : ndarray of shape (n_clusters, 2) or None
        The clusters' centres.
    means, stds : ndarray of shape (n_ellipses, 2) or None
        Posterior means and standard deviations of a few rows.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the picture.
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn: "points", a list with one artist per class; "ellipses", "centres", "legend" and "colorbar" where
        there are any.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.plotting import LatentDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> vae = VAETransformer(2, max_iter=20, random_state=0).fit(X)
    >>> display = LatentDisplay.from_estimator(vae, X, y, n_ellipses=5)
    >>> display.codes.shape, display.stds.shape
    ((178, 2), (5, 2))
    """

    __module__ = "skvae.plotting"

    codes: Array
    latents: tuple[str, str]
    labels: NDArray[Any] | None = None
    centres: Array | None = None
    means: Array | None = None
    stds: Array | None = None

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        components: tuple[int, int] = (0, 1),
        n_ellipses: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw where codes lie.

        Parameters
        ----------
        estimator : VAETransformer
            Fitted; or a pipeline that ends in one, with or without a clusterer behind it, such as `KMeans`; or another
            transformer, such as `PCA`.
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.
        y : array-like of shape (n_samples,), default=None
            What to colour rows by: labels, or numbers (a scale, if there are more than 20 of them). None: clusters, if
            the estimator has `cluster_centers_`, each row that of the nearest.
        components : pair of int, default=(0, 1)
            The two latents.
        n_ellipses : int, default=None
            Of how many rows, spread over X, to draw q(z|x) as an ellipse of two standard deviations. None: 10, where
            the estimator has a `posterior`.
        ax : matplotlib Axes, default=None
            Where to draw; the legend needs room, so make figures with `layout="constrained"`. None: a new figure.
        **kwargs : dict
            For the points (`Axes.scatter`).

        Returns
        -------
        display : LatentDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If a parameter breaks a rule, or ellipses are asked for and there is no posterior.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        centres = getattr(last_step(estimator), "cluster_centers_", None)
        if isinstance(estimator, Pipeline) and is_clusterer(estimator[-1]):
            estimator = estimator[:-1]
        codes = Codes(estimator, needs=("transform",))
        pair = list(codes.pair(components))
        rows = np.asarray(estimator.transform(X), dtype=np.float64)
        labels = None if y is None else _checked(y, X)
        if labels is None and centres is not None:
            labels = np.array([f"cluster {k}" for k in pairwise_distances_argmin(rows, centres)])
        means, stds = _posteriors(estimator, X, len(rows), n_ellipses)
        return cls(
            rows[:, pair],
            (codes.names[pair[0]], codes.names[pair[1]]),
            labels,
            None if centres is None else np.asarray(centres)[:, pair],
            None if means is None else means[:, pair],
            None if stds is None else stds[:, pair],
        ).plot(ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        codes: Any,
        y: Any = None,
        *,
        components: tuple[int, int] = (0, 1),
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw codes that are there already, of whatever method.

        Parameters
        ----------
        codes : array-like of shape (n_samples, n_components)
            The rows' codes. Columns of a frame have names.
        y : array-like of shape (n_samples,), default=None
            What to colour rows by, as in `from_estimator`.
        components : pair of int, default=(0, 1)
            The two columns of `codes`.
        ax : matplotlib Axes, default=None
            As in `from_estimator`.
        **kwargs : dict
            For the points (`Axes.scatter`).

        Returns
        -------
        display : LatentDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If there are no two columns, or y does not fit.
        """
        check_matplotlib_support(f"{cls.__name__}.from_predictions")
        rows, names = np.asarray(codes, dtype=np.float64), names_in(codes)
        first, second = checked_pair(components, len(names), "codes")
        labels = None if y is None else _checked(y, codes)
        return cls(rows[:, [first, second]], (names[first], names[second]), labels).plot(ax, **kwargs)

    @property
    def _size(self) -> tuple[float, float]:
        return (6.4, 4.8)

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        artists = self._points(ax, kwargs)
        if self.means is not None and self.stds is not None and len(self.means):
            artists["ellipses"] = self._ellipses(ax, self.means, self.stds)
        if self.centres is not None:
            style = {"marker": "X", "s": 90, "color": "black", "edgecolors": "white", "zorder": 4}
            artists["centres"] = ax.scatter(*self.centres.T, label="centres", **style)
        if ax.get_legend_handles_labels()[0]:
            place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False, "fontsize": "small"}
            artists["legend"] = ax.legend(**place)
        ax.set(xlabel=self.latents[0], ylabel=self.latents[1])
        ax.spines[["top", "right"]].set_visible(False)
        return ax, artists

    def _points(self, ax: Any, style: dict[str, Any]) -> dict[str, Any]:
        style = {"s": 12, "alpha": 0.7, "linewidths": 0} | style
        if self.labels is None:
            return {"points": [ax.scatter(*self.codes.T, **style)]}
        classes = np.unique(self.labels)
        if len(classes) > MOST_CLASSES:
            points = ax.scatter(*self.codes.T, **{"c": self.labels} | style)
            return {"points": [points], "colorbar": ax.figure.colorbar(points, ax=ax)}
        colours = "tab10" if len(classes) <= N_COLOURS else "tab20"
        points = []
        for i, label in enumerate(classes):
            own = {"color": _colour(colours, i), "label": str(label)}
            points.append(ax.scatter(*self.codes[self.labels == label].T, **own | style))
        return {"points": points}

    def _ellipses(self, ax: Any, means: Array, stds: Array) -> list[Any]:
        from matplotlib.patches import Ellipse

        ellipses: list[Any] = []
        for mean, std in zip(means, stds, strict=True):
            label = "_" if ellipses else f"q(z|x), {DEVIATIONS} standard deviations"
            style: dict[str, Any] = {"facecolor": "none", "edgecolor": "black", "linewidth": 0.8, "zorder": 3}
            ellipses.append(ax.add_patch(Ellipse(mean, *(2 * DEVIATIONS * std), label=label, **style)))
        ax.autoscale_view()
        return ellipses


def _colour(name: str, place: int) -> Any:
    import matplotlib as mpl

    return mpl.colormaps[name](place)


def _checked(y: Any, X: Any) -> NDArray[Any]:
    """Labels that a picture can tell apart, or numbers."""
    check_consistent_length(X, y)
    labels = column_or_1d(y)
    labels = labels.astype(str) if labels.dtype.kind not in "biuf" else labels
    n_classes = len(np.unique(labels))
    if labels.dtype.kind == "U" and n_classes > MOST_CLASSES:
        raise ValueError(f"y holds {n_classes} labels; a picture tells at most {MOST_CLASSES} apart.")
    return labels


def _posteriors(estimator: Any, X: Any, n_rows: int, n_ellipses: int | None) -> tuple[Array, Array] | tuple[None, None]:
    """Posterior means and standard deviations of rows spread over X, where the estimator has any."""
    last = last_step(estimator)
    if n_ellipses is not None and not Count(0).is_satisfied_by(n_ellipses):
        raise ValueError(f"n_ellipses={n_ellipses!r} must be an integer of at least 0, or None.")
    if n_ellipses and not hasattr(last, "posterior"):
        raise ValueError(
            f"n_ellipses={n_ellipses}: this {type(last).__name__} gives a row one code and no posterior around it; "
            "use n_ellipses=0."
        )
    if n_ellipses == 0 or not hasattr(last, "posterior"):
        return None, None
    places = np.unique(np.linspace(0, n_rows - 1, n_ellipses or N_ELLIPSES).round().astype(int))
    some = _safe_indexing(X, places)
    if isinstance(estimator, Pipeline) and len(estimator) > 1:
        some = estimator[:-1].transform(some)
    mean, std = last.posterior(some)
    return np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
