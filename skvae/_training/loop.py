"""The one training loop: batches, players, averaging, early stopping, history. It knows no method by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._ranks import copy_from_first, gathered, own_generator
from .._tables.batches import Batch
from .._tables.moments import Array
from .._tables.shared import HeldOut, Rows, SharedTable
from .._torch import seed_from
from ..model import VAE
from ..objectives import Objective
from .held_out import Judge
from .parameters import make_players
from .solvers import Adam, Solver
from .steps import SharedStep, make_step

__all__ = [
    "DivergedError",
    "Epoch",
    "Progress",
    "Training",
    "TrainingResult",
    "TrainingSettings",
    "average_weight",
    "train",
]


# The averaged weights are a mean over about the last 1 / AVERAGE_POWER of the steps.
AVERAGE_POWER = 9
# A held-out value still rises that gained more than this, in nats per row, in the last tenth of the epochs. On wine and
# breast cancer, whose curves level off at about `max_iter` epochs, it gains 0.05 by then; on digits 1.4 to 1.8, and
# 12 to 14 in the epochs that are yet to come.
STILL_RISING = 0.1


class DivergedError(ValueError):
    """The loss or the weights became infinite or undefined in the first epoch."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes
    ----------
    solver : callable
        From a list of parameters to a `torch.optim.Optimizer`.
    batch_size, max_iter : int
        Rows a step; epochs.
    patience : float
        Epochs without a better held-out value before training stops.
    average : bool
        Evaluate and keep the averaged weights rather than the last ones.
    done : int
        Epochs trained in earlier calls: objectives that change with time count on from there.
    keep_start : bool
        Keep the weights of the start, whatever training finds.
    learning_rate : float or None
        The solver's step size, for messages.
    """

    solver: Solver
    batch_size: int
    max_iter: int
    patience: float = math.inf
    average: bool = True
    done: int = 0
    keep_start: bool = False
    learning_rate: float | None = None


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed: `terms` are means over its rows, `held_out` the monitored mean, `best` the epoch kept."""

    number: int
    terms: dict[str, float]
    held_out: float | None
    best: int


@dataclass
class TrainingResult:
    """What training did: `best` is the epoch whose weights were kept (0: the start); `diverged` is the bad epoch."""

    n_iter: int = 0
    best: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    held_out: list[float] = field(default_factory=list)
    solver_state: list[dict[str, Any]] = field(default_factory=list)
    diverged: int | None = None

    def log(self, terms: dict[str, float]) -> None:
        """Add an epoch."""
        self.n_iter += 1
        for name, value in terms.items():
            self.history.setdefault(name, []).append(value)

    def still_rises(self, max_iter: int) -> bool:
        """Whether all `max_iter` epochs are over and the best held-out value has risen in the last tenth of them."""
        if not self.held_out or self.n_iter < max_iter:
            return False
        return max(self.held_out) - max(self.held_out[: -max(1, self.n_iter // 10)]) > STILL_RISING


def train(
    model: VAE,
    objective: Objective,
    rows: Rows,
    settings: TrainingSettings,
    rng: torch.Generator,
    held_out: HeldOut | None = None,
    on_epoch: Callable[[Epoch], bool] = lambda epoch: False,
    solver_state: list[dict[str, Any]] | None = None,
) -> TrainingResult:
    """Train `model` in place and leave it at its best weights; see `Training`.

    Raises
    ------
    DivergedError
        When the first epoch ends with a loss or weights that are not finite.
    """
    training = Training(model, objective, rows, settings, rng, held_out, solver_state)
    training.run(on_epoch=on_epoch)
    return training.finish()


class Kept(NamedTuple):
    """The best epoch so far, and its vectors and buffers: one value, so that an interrupt cannot part them."""

    epoch: int
    vectors: list[Tensor]
    buffers: list[Tensor]


@dataclass(frozen=True)
class Progress:
    """Where training stands between two epochs: what it takes to go on, in another process too, as if never stopped.

    Attributes
    ----------
    epoch, n_steps : int
        Epochs and steps done.
    seed : int
        Of the draws that held-out rows are judged by.
    rng : Tensor
        State of the generator of batches and draws.
    weights : dict of str to Tensor
        The model's parameters and buffers.
    averages : list of Tensor
        The running averages, one per player.
    solvers : list of dict
        States of the optimisers.
    kept : Kept
        The best epoch so far.
    result : TrainingResult
        What is known so far.
    judged : array of shape (N,) or None
        What the held-out rows said of the best epoch so far.
    over : bool
        Whether training has ended.
    """

    epoch: int
    n_steps: int
    seed: int
    rng: Tensor
    weights: dict[str, Tensor]
    averages: list[Tensor]
    solvers: list[dict[str, Any]]
    kept: Kept
    result: TrainingResult
    judged: Array | None
    over: bool


class Training:
    """The training of one model: it can stop after any epoch and go on from what `progress` returned.

    With `held_out` rows the best epoch is the one that their `Judge` puts highest, the start (epoch 0) included;
    without them it is the last. `model` is trained in place; only after `finish` does it hold the best weights.
    """

    def __init__(
        self,
        model: VAE,
        objective: Objective,
        rows: Rows,
        settings: TrainingSettings,
        rng: torch.Generator,
        held_out: HeldOut | None = None,
        solver_state: list[dict[str, Any]] | None = None,
        progress: Progress | None = None,
    ):
        self.model, self.objective, self.rows, self.settings, self.rng = model, objective, rows, settings, rng
        model.check_rows(rows)
        self.players = make_players(model, objective, settings.solver)
        step = make_step(model, objective, self.players)
        self.step: Any = SharedStep(step) if isinstance(rows, SharedTable) else step
        if progress is not None:
            self._go_on_from(progress)
        else:
            self.over = False
            for player, state in zip(self.players, solver_state or [], strict=False):
                player.load_state(state)
            copy_from_first(self._numbers)
            self.epoch, self.n_steps, self.result = 0, 0, TrainingResult()
            self.seed = seed_from(rng)
            self.kept = self._snapshot()
        self.whole = self.epoch  # the last epoch of which everything is known
        self.judge = None if held_out is None else self._judge(held_out, progress)
        if self.judge is not None and not self.result.held_out:
            self.result.held_out.append(self.judge.level(None))

    def _judge(self, held_out: HeldOut, progress: Progress | None) -> Judge:
        given = held_out.weight
        weight = None if given is None else given.cpu().double().numpy()
        look = self.step.held_out_values(held_out, self.seed)
        return Judge(look, weight, None if progress is None else progress.judged)

    def run(self, until: float = math.inf, on_epoch: Callable[[Epoch], bool] = lambda epoch: False) -> None:
        """Train to the end of epoch `until`, or to the end of training.

        `on_epoch` sees every epoch, with the weights it would keep in place, and ends training by returning True.
        """
        settings, result = self.settings, self.result
        rows = self.step.prepared(self.rows)
        while not self.over and self.epoch < until:
            self.epoch += 1
            self.objective.begin_epoch(self.model, self.rows, self.rng, settings.done + self.epoch)
            copy_from_first(self._numbers)
            rng = own_generator(self.rng)
            terms = self._one_epoch(rows.batches(settings.batch_size, rng), rng)
            with self._averaged():
                if not self._is_finite(terms):
                    if self.epoch == 1:
                        raise _diverged(settings)
                    result.diverged, self.over = self.epoch, True
                    return
                result.log(terms)
                better = not settings.keep_start
                if self.judge is not None:
                    result.held_out.append(self.judge.level(result.held_out[result.best]))
                    better = result.held_out[-1] > result.held_out[result.best]
                if better:
                    self.kept = self._snapshot()
                    result.best = self.epoch
                    if self.judge is not None:
                        self.judge.keep()
                self.whole = self.epoch
                watched = result.held_out[-1] if result.held_out else None
                stop = any(gathered(bool(on_epoch(Epoch(self.epoch, terms, watched, result.best)))))
            since = self.epoch - max(result.best, self.objective.ramp)
            self.over = stop or since >= settings.patience or self.epoch >= settings.max_iter

    def _one_epoch(self, batches: Iterable[Batch], rng: torch.Generator) -> dict[str, float]:
        """Take one step per batch; return the mean of every term over the rows."""
        model, step, number = self.model, self.step, self.settings.done + self.epoch
        if not step.pure:  # the others have no module that asks
            _wake(model)
        # A solver of the user's may keep tensors that it wants to use with autograd later.
        pure = step.pure and all(type(player.solver) is Adam for player in self.players)
        # A step too large shows in the loss: numpy is to be as silent about it as torch.
        with torch.inference_mode() if pure else torch.no_grad(), np.errstate(all="ignore"):
            for batch in batches:
                self.n_steps += 1
                for player in self.players:
                    step(batch, rng, number, player)
                    player.step(average_weight(self.n_steps))
        if not step.pure:
            model.eval()
        return {name: float(mean) for name, mean in step.take_means().items()}

    def end_early(self) -> bool:
        """End training where an error broke it off: after the last whole epoch. False where there is none yet."""
        # The epoch that is kept was whole, but for what is known of it to be noted.
        n_iter = max(self.whole, self.kept.epoch)
        if n_iter == 0:
            return False
        result = self.result
        result.n_iter, result.best, self.over = n_iter, self.kept.epoch, True
        result.history = {name: values[:n_iter] for name, values in result.history.items()}
        del result.held_out[n_iter + 1 :]
        return True

    def finish(self) -> TrainingResult:
        """Leave the model at the best weights so far."""
        self.result.solver_state = [player.state() for player in self.players]
        self._restore(self.kept)
        copy_from_first(self._numbers)
        self.model.eval()
        return self.result

    def _numbers(self) -> list[Tensor]:
        """All that is trained, and what stands beside it."""
        return [*(player.vector for player in self.players), *self.model.buffers()]

    def progress(self) -> Progress:
        """Where training stands; to be asked before `finish`."""
        return Progress(
            self.epoch,
            self.n_steps,
            self.seed,
            self.rng.get_state(),
            {name: _copied(value) for name, value in self.model.state_dict().items()},
            [_copied(player.average) for player in self.players],
            [_copied(player.solver.state_dict()) for player in self.players],
            Kept(*_copied(tuple(self.kept))),
            deepcopy(self.result),
            None if self.judge is None else self.judge.best,
            self.over,
        )

    @torch.no_grad()
    def _go_on_from(self, progress: Progress) -> None:
        self.epoch, self.n_steps, self.seed = progress.epoch, progress.n_steps, progress.seed
        self.result, self.kept, self.over = deepcopy(progress.result), progress.kept, progress.over
        self.rng.set_state(progress.rng)
        self.model.load_state_dict(progress.weights)
        for player, average, state in zip(self.players, progress.averages, progress.solvers, strict=True):
            player.average.copy_(average)
            player.solver.load_state_dict(deepcopy(state))

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """A scope with the averaged weights in place of the last ones, where they are what is kept."""
        averaged = self.players if self.settings.average else []
        for player in averaged:
            player.swap_average()
        yield
        for player in averaged:
            player.swap_average()

    def _is_finite(self, terms: dict[str, float]) -> bool:
        return all(map(math.isfinite, terms.values())) and all(bool(p.vector.isfinite().all()) for p in self.players)

    def _snapshot(self) -> Kept:
        vectors = [p.vector.detach().clone() for p in self.players]
        return Kept(self.epoch, vectors, [b.clone() for b in self.model.buffers()])

    @torch.no_grad()
    def _restore(self, kept: Kept) -> None:
        for player, vector in zip(self.players, kept.vectors, strict=True):
            player.vector.copy_(vector)
        for buffer, value in zip(self.model.buffers(), kept.buffers, strict=True):
            buffer.copy_(value)


def _diverged(settings: TrainingSettings) -> DivergedError:
    return DivergedError(
        f"Training diverged in its first epoch at learning_rate_init={settings.learning_rate}: the loss is not finite. "
        "Lower the learning rate; if X holds extreme values, clip or transform them."
    )


def _copied(value: Any) -> Any:
    """Tensors in nested containers as copies in main memory."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return deepcopy(value)


def average_weight(step: int) -> float:
    """What the weights after `step`, counted from 1, weigh in the running average."""
    return min(1.0, (AVERAGE_POWER + 1) / (AVERAGE_POWER + step))


def _wake(model: VAE) -> None:
    """Put the model into training mode, but for an objective's frozen modules."""
    model.train()
    for extra in model.extras.values():
        if not any(p.requires_grad for p in extra.parameters()):
            extra.eval()
