"""The one training loop: batches, players, averaging, early stopping, history. It knows no method by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from . import _dense
from ._flat import FlatParameters
from ._solvers import Adam, Solver
from ._torch import make_generator
from .data import Rows, Table, Walk
from .model import VAE
from .objectives import Objective, Turn

__all__ = [
    "DivergedError",
    "Epoch",
    "Plan",
    "Report",
    "average_weight",
    "held_out_mean",
    "held_out_repeats",
    "make_players",
    "train",
]

# The averaged weights are a mean over about the last 1 / AVERAGE_POWER of the steps.
AVERAGE_POWER = 9
# Of a long vector an average takes two thirds of the time of Adam's step: it is brought up every few steps, the weights
# of one standing in for those of all.
LONG_VECTOR, STEPS_AN_AVERAGE = 100_000, 8
# Held-out rows are repeated with fresh draws up to this many evaluations, so that few rows do not mean a noisy curve.
HELD_OUT_DRAWS = 2000
HELD_OUT_REPEATS = 8


class DivergedError(ValueError):
    """The loss or the weights became infinite or undefined in the first epoch."""


class Step(Protocol):
    """One way to get the gradients of an objective; `pure` says that no autograd graph is made."""

    pure: bool

    def prepared(self, rows: Walk) -> Walk:
        """The rows in the form that the step reads, made once."""
        ...

    def __call__(self, batch: Rows, rng: torch.Generator, epoch: int, player: Player) -> None:
        """Set the gradient of every parameter that this player moves."""

    def take_means(self) -> dict[str, Tensor]:
        """The terms' means over the rows of all steps since the last call."""
        ...


@dataclass(frozen=True)
class Plan:
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
    """

    solver: Solver
    batch_size: int
    max_iter: int
    patience: float = math.inf
    average: bool = True
    done: int = 0
    keep_start: bool = False


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed: `terms` are means over its rows, `held_out` the monitored mean, `best` the epoch kept."""

    number: int
    terms: dict[str, float]
    held_out: float | None
    best: int


@dataclass
class Report:
    """What training did: `best` is the epoch whose weights were kept (0: the start); `diverged` is the bad epoch."""

    n_iter: int = 0
    best: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    held_out: list[float] = field(default_factory=list)
    solver_state: list[dict[str, Any]] = field(default_factory=list)
    diverged: int | None = None


class Player:
    """One group of parameters, laid out in one contiguous vector, and the optimiser that moves it.

    A step, a snapshot or an average is one operation, however many layers there are: see `FlatParameters`.
    """

    def __init__(self, turn: Turn, solver: Solver):
        self.parameters, self.turn = turn.parameters, turn
        self.vector = FlatParameters(turn.parameters).vector
        self.weights = self.vector.data
        self.average = self.vector.detach().clone()
        # What the weights of the steps since the last time weigh in the average, and how many those are.
        self.owed, self.waiting = 0.0, 0
        self.steps_an_average = 1 if self.vector.numel() < LONG_VECTOR else STEPS_AN_AVERAGE
        self.solver = solver([self.vector])

    def backward(self, loss: Tensor, only: bool) -> None:
        """Set the gradients of this player's parameters, and of nobody else's."""
        assert self.vector.grad is not None
        self.vector.grad.zero_()
        if only:
            loss.backward()
            return
        grads = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, grad in zip(self.parameters, grads, strict=True):
            if grad is not None and parameter.grad is not None:
                parameter.grad.copy_(grad)

    def step(self, average_weight: float) -> None:
        """Move the weights; the new ones weigh so much in the running average of all."""
        self.solver.step()
        self.owed = average_weight + (1 - average_weight) * self.owed
        self.waiting += 1
        if self.waiting == self.steps_an_average:
            self._bring_up_average()

    def _bring_up_average(self) -> None:
        """The weights stand in for those of all steps since the last time."""
        if self.owed:
            self.average.lerp_(self.weights, self.owed)
        self.owed, self.waiting = 0.0, 0

    def swap_average(self) -> None:
        """Exchange the weights and their average."""
        self._bring_up_average()
        held = self.vector.data.clone()
        self.vector.data.copy_(self.average)
        self.average.copy_(held)

    def state(self) -> dict[str, Any]:
        """The optimiser's name, and its state as numpy arrays and numbers."""
        state = {"solver": type(self.solver).__name__, **self.solver.state_dict()["state"].get(0, {})}
        return {k: v.cpu().numpy().copy() if isinstance(v, Tensor) else v for k, v in state.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; another optimiser starts afresh."""
        state = dict(state)
        if state.pop("solver", None) != type(self.solver).__name__:
            return
        values = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}
        if values:
            self.solver.load_state_dict({**self.solver.state_dict(), "state": {0: values}})


def make_players(model: VAE, objective: Objective, solver: Solver) -> list[Player]:
    """One `Player` a group; groups must not share parameters, or two optimisers would pull at one weight."""
    turns = [turn for turn in objective.players(model) if turn.parameters]
    everyone = [id(p) for turn in turns for p in turn.parameters]
    if len(everyone) != len(set(everyone)):
        raise ValueError(
            f"{type(objective).__name__}.players gives one parameter to two players; groups must be disjoint."
        )
    return [Player(turn, solver) for turn in turns]


def train(
    model: VAE,
    objective: Objective,
    rows: Rows | Table,
    plan: Plan,
    rng: torch.Generator,
    held_out: Rows | None = None,
    on_epoch: Callable[[Epoch], bool] = lambda epoch: False,
    solver_state: list[dict[str, Any]] | None = None,
) -> Report:
    """Train `model` in place and leave it at its best weights.

    With `held_out` rows the best epoch is the one with the highest monitored mean, the start (epoch 0) included;
    without them it is the last. `on_epoch` sees every epoch, with the weights it would keep in place, and stops
    training by returning True.

    Raises
    ------
    DivergedError
        When the first epoch ends with a loss or weights that are not finite.
    """
    players = make_players(model, objective, plan.solver)
    for player, state in zip(players, solver_state or [], strict=False):
        player.load_state(state)
    seed = int(torch.randint(2**31 - 1, (), generator=rng, device=rng.device))
    report, kept = Report(), _snapshot(model, players)
    step, done = make_step(model, objective, players), 0
    judge = None if held_out is None else _judge(step, model, objective, held_out, seed)
    if judge is not None:
        report.held_out.append(judge())
    prepared = step.prepared(rows)
    for number in range(1, plan.max_iter + 1):
        batches = prepared.batches(plan.batch_size, rng)
        terms, done = _one_epoch(model, step, batches, players, rng, plan.done + number, done)
        if plan.average:
            _swap(players)
        if not _finite(players, terms):
            if number == 1:
                raise DivergedError
            report.diverged = number
            break
        _log(report, terms)
        better = not plan.keep_start
        if judge is not None:
            report.held_out.append(judge())
            better = report.held_out[-1] > report.held_out[report.best]
        if better:
            report.best, kept = number, _snapshot(model, players)
        watched = None if judge is None else report.held_out[-1]
        stop = on_epoch(Epoch(number, terms, watched, report.best))
        if plan.average:
            _swap(players)
        if stop or number - max(report.best, objective.ramp) >= plan.patience:
            break
    report.solver_state = [player.state() for player in players]
    _restore(model, players, kept)
    model.eval()
    return report


class AutogradStep:
    """The gradient of every player's term by automatic differentiation: any model, any objective."""

    pure = False

    def __init__(self, model: VAE, players: list[Player]):
        self.model, self.players = model, players
        # Of every term: its sum over rows, and their number.
        self.sums: dict[str, tuple[Tensor | float, int]] = {}

    def prepared(self, rows: Walk) -> Walk:
        return rows

    @torch.enable_grad()
    def __call__(self, batch: Rows, rng: torch.Generator, epoch: int, player: Player) -> None:
        terms = {k: batch.mean(term) for k, term in player.turn.terms(self.model, batch, rng, epoch).items()}
        player.backward(terms[player.turn.loss], only=len(self.players) == 1)
        for name, term in terms.items():
            total, n_rows = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + len(batch) * term.detach(), n_rows + len(batch)

    def take_means(self) -> dict[str, Tensor]:
        means = {name: torch.as_tensor(total) / n_rows for name, (total, n_rows) in self.sums.items()}
        self.sums = {}
        return means


def make_step(model: VAE, objective: Objective, players: list[Player]) -> Step:
    """The dense engine where it knows the model's pieces, autograd elsewhere."""
    if _dense.understands(model, objective):
        (player,) = players
        assert player.vector.grad is not None
        return _dense.DenseStep(model, objective, player.vector.data, player.vector.grad)
    return AutogradStep(model, players)


def _one_epoch(
    model: VAE, step: Step, batches: Iterable[Rows], players: list[Player], rng: torch.Generator, number: int, done: int
) -> tuple[dict[str, float], int]:
    """Take one step a batch; return the mean of every term over the rows, and the number of steps so far."""
    if not step.pure:  # the others have no module that asks
        _wake(model)
    # A solver of the user's may keep tensors that it wants to use with autograd later.
    pure = step.pure and all(type(player.solver) is Adam for player in players)
    # A step too large shows in the loss: numpy is to be as silent about it as torch.
    with torch.inference_mode() if pure else torch.no_grad(), np.errstate(all="ignore"):
        for batch in batches:
            done += 1
            for player in players:
                step(batch, rng, number, player)
                player.step(average_weight(done))
    if not step.pure:
        model.eval()
    return {name: float(mean) for name, mean in step.take_means().items()}, done


def _wake(model: VAE) -> None:
    """Put the model into training mode, but for an objective's frozen modules."""
    model.train()
    for extra in model.extras.values():
        if not any(p.requires_grad for p in extra.parameters()):
            extra.eval()


def average_weight(step: int) -> float:
    """What the weights after `step`, counted from 1, weigh in the running average."""
    return min(1.0, (AVERAGE_POWER + 1) / (AVERAGE_POWER + step))


def held_out_repeats(n_rows: int, most: int = HELD_OUT_REPEATS) -> int:
    """How often `n_rows` held-out rows are looked at, with fresh draws."""
    return min(most, max(1, HELD_OUT_DRAWS // n_rows))


@torch.no_grad()
def held_out_mean(
    model: VAE, objective: Objective, rows: Rows, seed: int, most_repeats: int = HELD_OUT_REPEATS
) -> float:
    """The monitored mean over `rows`, with the same draws at every call; few rows are looked at several times."""
    assert objective.monitor is not None
    rng = make_generator(seed, rows.x.device)
    total, mass = 0.0, 0.0
    for block in _repeated(rows, most_repeats).blocks(_dense.JUDGED_ROWS):
        values = objective.monitor(model, block, rng).cpu().double()
        weight = torch.ones_like(values) if block.weight is None else block.weight.cpu().double()
        total += float((weight * values).sum())
        mass += float(weight.sum())
    return _finite_or_worst(total / mass)


def _judge(step: Step, model: VAE, objective: Objective, rows: Rows, seed: int) -> Callable[[], float]:
    """`held_out_mean` at the weights of the moment, by the step's own networks where it knows them all."""
    if not (isinstance(step, _dense.DenseStep) and step.judges):
        return partial(held_out_mean, model, objective, rows, seed)
    mean = step.judge(_repeated(rows, HELD_OUT_REPEATS), seed)
    return lambda: _finite_or_worst(mean())


def _repeated(rows: Rows, most: int) -> Rows:
    """Few rows several times."""
    times = held_out_repeats(len(rows), most)
    return rows if times == 1 else rows.take(torch.arange(len(rows), device=rows.device).repeat(times))


def _finite_or_worst(mean: float) -> float:
    return mean if math.isfinite(mean) else -math.inf


def _log(report: Report, terms: dict[str, float]) -> None:
    report.n_iter += 1
    for name, value in terms.items():
        report.history.setdefault(name, []).append(value)


def _finite(players: list[Player], terms: dict[str, float]) -> bool:
    return all(map(math.isfinite, terms.values())) and all(bool(p.vector.isfinite().all()) for p in players)


def _swap(players: list[Player]) -> None:
    for player in players:
        player.swap_average()


def _snapshot(model: VAE, players: list[Player]) -> tuple[list[Tensor], list[Tensor]]:
    return [p.vector.detach().clone() for p in players], [b.clone() for b in model.buffers()]


@torch.no_grad()
def _restore(model: VAE, players: list[Player], kept: tuple[list[Tensor], list[Tensor]]) -> None:
    for player, vector in zip(players, kept[0], strict=True):
        player.vector.copy_(vector)
    for buffer, value in zip(model.buffers(), kept[1], strict=True):
        buffer.copy_(value)
