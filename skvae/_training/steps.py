"""Ways to get the gradients of an objective: by automatic differentiation, or by the graph-free engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .._ranks import gathered, own_rank, sum_tensor
from .._tables.batches import Batch, Table
from .._tables.moments import Array
from .._tables.shared import Share, SharedTable
from ..model import VAE
from ..objectives import Objective
from . import engine
from .held_out import held_out_values
from .parameters import Player

__all__ = ["AutogradStep", "SharedStep", "make_step"]


class Step(Protocol):
    """One way to get the gradients of an objective; `pure` says that no autograd graph is made."""

    pure: bool

    def prepared(self, rows: Table) -> Table:
        """The rows in the form that the step reads, made once."""
        ...

    def __call__(self, batch: Batch, rng: torch.Generator, epoch: int, player: Player) -> None:
        """Set the gradient of every parameter that this player moves."""

    def take_means(self) -> dict[str, Tensor]:
        """The terms' means over the rows of all steps since the last call."""
        ...

    def held_out_values(self, rows: Batch, seed: int) -> Callable[[], Array]:
        """A function that returns what the monitor says of each of `rows`, at the weights of the moment, by the same
        draws.
        """
        ...


class AutogradStep:
    """The gradient of every player's term by automatic differentiation: any model, any objective."""

    pure = False

    def __init__(self, model: VAE, objective: Objective, players: list[Player]):
        self.model, self.objective, self.players = model, objective, players
        # Of every term: its sum over rows, and their number.
        self.sums: dict[str, tuple[Tensor | float, int]] = {}

    def prepared(self, rows: Table) -> Table:
        return rows

    @torch.enable_grad()
    def __call__(self, batch: Batch, rng: torch.Generator, epoch: int, player: Player) -> None:
        terms = {k: batch.mean(term) for k, term in player.turn.terms(self.model, batch, rng, epoch).items()}
        player.backward(terms[player.turn.loss], only=len(self.players) == 1)
        for name, term in terms.items():
            total, n_rows = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + len(batch) * term.detach(), n_rows + len(batch)

    def held_out_values(self, rows: Batch, seed: int) -> Callable[[], Array]:
        return partial(held_out_values, self.model, self.objective, rows, seed)

    def take_means(self) -> dict[str, Tensor]:
        means = {name: torch.as_tensor(total) / n_rows for name, (total, n_rows) in self.sums.items()}
        self.sums = {}
        return means


class SharedStep:
    """Another step on this rank's share of a batch: gradients and means are those of the rows of all ranks.

    A rank that fails adds nothing until the epoch is over, and says so then: the others count on its part.
    """

    def __init__(self, step: Any):
        self.step, self.pure = step, step.pure
        self.n_rows = 0
        self.fault: Exception | None = None

    def prepared(self, rows: Table) -> Table:
        return self.step.prepared(rows)

    def __call__(self, batch: Share, rng: torch.Generator, epoch: int, player: Player) -> None:
        grad: Any = player.vector.grad
        self.fault = self.fault or batch.fault
        if len(batch) and self.fault is None:
            try:
                self.step(batch, rng, epoch, player)
                grad.mul_(len(batch) / batch.n_whole)
                self.n_rows += len(batch)
            except Exception as error:
                self.fault = error
        if not len(batch) or self.fault is not None:
            grad.zero_()
        sum_tensor(grad)

    def take_means(self) -> dict[str, Tensor]:
        if self.fault is not None:
            raise self.fault
        own = {name: float(mean) for name, mean in self.step.take_means().items()} if self.n_rows else {}
        n_rows, self.n_rows = self.n_rows, 0
        parts = [(n, means) for n, means in gathered((n_rows, own)) if n]
        total = sum(n for n, _ in parts)
        return {name: torch.tensor(sum(n * means[name] for n, means in parts) / total) for name in parts[0][1]}

    def held_out_values(self, rows: SharedTable, seed: int) -> Callable[[], Array]:
        own = self.step.held_out_values(rows.own, seed + own_rank()) if len(rows.own) else lambda: np.empty(0)
        return lambda: np.concatenate(gathered(own()))


def make_step(model: VAE, objective: Objective, players: list[Player]) -> Step:
    """The dense engine where it knows the model's pieces, autograd elsewhere."""
    if engine.understands(model, objective):
        (player,) = players
        assert player.vector.grad is not None
        return engine.DenseStep(model, objective, player.vector.data, player.vector.grad)
    return AutogradStep(model, objective, players)
