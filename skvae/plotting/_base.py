"""What pictures share: the one contract, colours, numbers as text, places of rows and of axes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import _num_samples

from .._params import Count
from .._tables.frames import frame_library
from .._words import number

__all__ = [
    "ANOMALOUS",
    "KNOWN",
    "NORMAL",
    "Array",
    "Display",
    "axes_within",
    "checked_place",
    "number",
    "place_in",
    "ticks",
]

ANOMALOUS, NORMAL, KNOWN = "#cc3311", "#4477aa", "#bbbbbb"

Array = NDArray[np.float64]


class Display(ABC):
    """What was drawn, and how to draw it again."""

    @property
    @abstractmethod
    def _size(self) -> tuple[float, float]:
        """Width and height of a new figure, in inches."""

    @abstractmethod
    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Draw in `ax`, the main artist styled by `kwargs`; the axes, and what was drawn by name."""

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the picture.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            As in `from_estimator`.
        **kwargs : dict
            As in `from_estimator`.

        Returns
        -------
        display : Display
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=self._size, layout="constrained")
        self.ax_, self.artists_ = self._draw(ax, **kwargs)
        self.figure_ = np.ravel(self.ax_)[0].figure
        return self


def axes_within(ax: Any, shape: tuple[int, ...], what: str) -> NDArray[Any]:
    """So many axes in the place of one, or those that were given."""
    from matplotlib.axes import Axes

    n_axes = int(np.prod(shape))
    if not isinstance(ax, Axes):
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) != n_axes:
            raise ValueError(f"{what} draws in {n_axes} axes; ax holds {len(axes)}.")
        return axes.reshape(shape)
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError(f"{what} needs an ax made by plt.subplots, or {n_axes} axes.")
    ax.set_axis_off()
    parts = place.subgridspec(*(1, *shape)[-2:])
    return np.array([ax.figure.add_subplot(parts[i]) for i in range(n_axes)], dtype=object).reshape(shape)


def place_in(X: Any, row: Any) -> int:
    """The place of a row in X: an integer is one, a string a label of a pandas frame."""
    if isinstance(row, str) and frame_library(X) == "pandas":
        return _labelled(X.index, row)
    return checked_place("row", row, _num_samples(X), "a row in X")


def _labelled(index: Any, label: str) -> int:
    places = np.flatnonzero(index == label)
    if len(places) != 1:
        found = "none of" if not len(places) else f"{len(places)} of"
        raise ValueError(f"row={label!r} is the label of {found} X's rows; give the label of one, or its place.")
    return int(places[0])


def checked_place(name: str, value: Any, n: int, of: str) -> int:
    """A parameter that is the place of one of n things, if it is."""
    if not Count(0).is_satisfied_by(value) or value >= n:
        raise ValueError(f"{name}={value!r} must be an integer from 0 to {n - 1}, the place of {of}.")
    return int(value)


def ticks(values: Array) -> list[str]:
    """Rising numbers as text, with two digits of what they vary by."""
    decimals = 2 - int(np.ceil(np.log10(np.ptp(values))))
    return [number(value) for value in np.round(values, decimals) + 0.0]  # no minus before a zero
