"""scikit-learn's callbacks around a fit, and what is printed of epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ._saved import RUNNING
from ._state import unfitted
from ._training.loop import Epoch

__all__ = ["EpochLog", "FitTask", "clean_after", "fit_task", "is_one_of_many", "on_behalf_of"]

Attributes = dict[str, Any]


# About so many epochs are printed with verbose=1.
LINES = 20


class FitTask:
    """A fit as scikit-learn's callbacks see it: a task with one subtask per epoch."""

    def __init__(self, context: Any, hooks: dict[str, Any]):
        self.context, self.hooks = context, hooks
        self.result: Any = None

    def epoch(self, attributes: Callable[[], Attributes]) -> bool:
        """Tell callbacks that an epoch has ended, and what a model that stopped there would be; whether to stop."""
        sub = self.context.subcontext(task_name="epoch")
        sub.call_on_fit_task_begin(**self.hooks)
        return sub.call_on_fit_task_end(**self.hooks, reconstruction_attributes=lambda: self.whole(attributes()))

    def whole(self, attributes: Attributes) -> Attributes:
        """What the copy that a callback is shown takes over: all that it holds, and so nothing of an earlier fit.

        scikit-learn copies the estimator, which holds its previous model until the fit has ended, and sets these.
        """
        dropped = (*RUNNING, "_parent_callback_ctx")
        kept = {name: value for name, value in unfitted(self.hooks["estimator"]).items() if name not in dropped}
        return {"__dict__": kept | attributes}


@contextmanager
def fit_task(estimator: Any, X: Any, y: Any, max_iter: int) -> Iterator[FitTask]:
    """A scope for a fit of `estimator` of so many epochs at most; set `result`, a `Fit`, before the end.

    The estimator itself is to be written afterwards: an error of a callback then leaves it as it was.
    """
    context = estimator._init_callback_context(max_subtasks=max_iter)
    # An autoencoder's target is X.
    task = FitTask(context, {"estimator": estimator, "X": X, "y": X if y is None else y})
    context.call_on_fit_task_begin(**task.hooks)
    yield task
    context.call_on_fit_task_end(**task.hooks, reconstruction_attributes=lambda: task.whole(task.result.attributes))


# Set while an estimator that scikit-learn's callbacks know of fits a model of its own, which they do not.
_WITHIN_A_SEARCH: ContextVar[bool] = ContextVar("_WITHIN_A_SEARCH", default=False)


def is_one_of_many(estimator: Any) -> bool:
    """Whether its fit is one of those of a search, which an interrupt is to end as a whole."""
    context = getattr(estimator, "_parent_callback_ctx", None)
    while context is not None and context.estimator_name == "Pipeline":
        context = context.parent
    return context is not None or _WITHIN_A_SEARCH.get()


@contextmanager
def on_behalf_of(estimator: Any) -> Iterator[None]:
    """A scope for fits of its own models by an estimator, which are part of a search where its own fit is."""
    token = _WITHIN_A_SEARCH.set(is_one_of_many(estimator))
    try:
        yield
    finally:
        _WITHIN_A_SEARCH.reset(token)


@contextmanager
def clean_after(estimator: Any) -> Iterator[None]:
    """A scope for a fit: an interrupt in a callback's teardown leaves nothing of scikit-learn's behind."""
    try:
        yield
    except BaseException:
        for name in RUNNING:
            vars(estimator).pop(name, None)
        raise


class EpochLog:
    """What a fit prints: with verbose=1 some twenty lines, with 2 one per epoch; nothing with 0.

    Both losses are to be as low as possible: the held-out one is minus what early stopping watches.
    """

    def __init__(self, name: str, max_iter: int, verbose: int):
        self.name, self.max_iter, self.verbose = name, max_iter, verbose
        self.every = 1 if verbose > 1 else max(1, max_iter // LINES)
        self.last: Epoch | None = None
        self.began = time.perf_counter()

    def say(self, text: str) -> None:
        """Print a line."""
        if self.verbose:
            print(f"[{self.name}] {text}")

    def epoch(self, epoch: Epoch) -> None:
        """Print what an epoch showed, if it is the turn of one."""
        self.last = epoch
        if epoch.number == 1 or epoch.number % self.every == 0:
            self._line(epoch)

    def close(self) -> None:
        """Print what the last epoch showed."""
        if self.last is not None:
            self._line(self.last)

    def _line(self, epoch: Epoch) -> None:
        self.last = None
        shown = epoch.terms if self.verbose > 1 else {"loss": epoch.terms["loss"]}
        terms = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        held_out = "" if epoch.held_out is None else f"  held-out loss {-epoch.held_out:.4f} (best: epoch {epoch.best})"
        seconds = time.perf_counter() - self.began
        self.say(f"epoch {epoch.number}/{self.max_iter}  {terms}{held_out}  {seconds:.1f} s")
