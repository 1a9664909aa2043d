"""LearningCurveDisplay: how a fit went, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from ._base import ANOMALOUS, NORMAL, Array, Display, number
from ._codes import last_step

__all__ = ["LearningCurveDisplay"]


@dataclass(eq=False)
class LearningCurveDisplay(Display):
    """The bound on training rows and on held-out rows, epoch by epoch: higher is better.

    Made by :meth:`from_estimator`; `plot` draws it again elsewhere.
    The start, which is the linear model with `init="linear"`, is a line: what lies above it is what training added.
    A training curve that lies below the held-out one has noise or a penalty in its objective; one that rises while the
    held-out curve falls is overfitting, and the epoch whose weights are kept is marked.

    Parameters
    ----------
    training : ndarray of shape (n_iter,)
        Minus the training loss of every epoch.
    held_out : ndarray of shape (n_iter + 1,) or (0,)
        The held-out bound at the start and after every epoch; empty where no rows were held out.
    best : int
        The epoch whose weights are kept; 0 is the start.
    linear : bool, default=True
        Whether the start is the linear model.
    in_nats : bool, default=True
        Whether these are nats per row.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the picture.
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn: "training", "legend"; and "held_out", "start" and "best" where rows were held out.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.plotting import LearningCurveDisplay
    >>> vae = VAETransformer(2, max_iter=20, random_state=0).fit(load_wine().data)
    >>> display = LearningCurveDisplay.from_estimator(vae)
    >>> display.training.shape, display.held_out.shape
    ((20,), (21,))
    """

    __module__ = "skvae.plotting"

    training: Array
    held_out: Array
    best: int
    linear: bool = True
    in_nats: bool = True

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> Self:
        """Draw how a fit went.

        Parameters
        ----------
        estimator : VAETransformer
            Fitted; or a detector, a classifier, a search over the number of latents, or a pipeline that ends in one.
        ax : matplotlib Axes, default=None
            Where to draw. None: a new figure.
        **kwargs : dict
            For the curve of the held-out rows, or of the training rows where none were held out (`Axes.plot`).

        Returns
        -------
        display : LearningCurveDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If the estimator keeps no learning curve.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        last = last_step(estimator)
        if not hasattr(last, "loss_curve_") or not hasattr(last, "validation_curve_"):
            raise ValueError(f"{type(last).__name__} keeps no learning curve; take an estimator of skvae.")
        training, held_out = -np.asarray(last.loss_curve_), np.asarray(last.validation_curve_, dtype=np.float64)
        linear = getattr(last, "init", None) == "linear"
        display = cls(training, held_out, int(last.best_iter_), linear, hasattr(last, "score_samples"))
        return display.plot(ax, **kwargs)

    @property
    def _size(self) -> tuple[float, float]:
        return (6.4, 4.0)

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        epochs = np.arange(1, len(self.training) + 1)
        style = {"color": "0.55", "linewidth": 1.2, "label": "training rows"}
        held_out = len(self.held_out) > 0
        artists = {"training": ax.plot(epochs, self.training, **style if held_out else style | kwargs)[0]}
        if held_out:
            artists |= self._held_out(ax, kwargs)
        ax.set(xlabel="epoch", ylabel="nats per row" if self.in_nats else "minus the loss")
        artists["legend"] = ax.legend(frameon=False, fontsize="small")
        ax.spines[["top", "right"]].set_visible(False)
        return ax, artists

    def _held_out(self, ax: Any, style: dict[str, Any]) -> dict[str, Any]:
        start, best = self.held_out[0], self.held_out[min(self.best, len(self.held_out) - 1)]
        usual = {"color": NORMAL, "linewidth": 1.8, "label": "held-out rows"}
        artists = {"held_out": ax.plot(np.arange(len(self.held_out)), self.held_out, **usual | style)[0]}
        label = f"{'linear start' if self.linear else 'start'}, held out: {number(start)}"
        artists["start"] = ax.axhline(start, color="black", linestyle="--", linewidth=1, label=label)
        mark = {"color": ANOMALOUS, "marker": "o", "linestyle": "none", "zorder": 3}
        label = f"kept: epoch {self.best:,}, {number(best)}"
        artists["best"] = ax.plot(self.best, best, **mark, label=label)[0]
        return artists
