"""The parameters that one optimiser moves, and their running average."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._flat import FlatParameters
from ..model import VAE
from ..objectives import Objective, Turn
from .solvers import Solver

__all__ = ["Player", "make_players"]

# Of a long vector an average takes two thirds of the time of Adam's step: it is brought up every few steps, the weights
# of one standing in for those of all.
LONG_VECTOR, STEPS_AN_AVERAGE = 100_000, 8


class Player:
    """One group of parameters, the optimiser that moves it, and the running average that is kept.

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
            self.bring_up_average()

    def bring_up_average(self) -> None:
        """The weights stand in for those of all steps since the last time."""
        if self.owed:
            self.average.lerp_(self.weights, self.owed)
        self.owed, self.waiting = 0.0, 0

    def swap_average(self) -> None:
        """Exchange the weights and their average."""
        self.bring_up_average()
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
    """One `Player` per group; groups must not share parameters, or two optimisers would pull at one weight."""
    turns = [turn for turn in objective.players(model) if turn.parameters]
    everyone = [id(p) for turn in turns for p in turn.parameters]
    if len(everyone) != len(set(everyone)):
        raise ValueError(
            f"{type(objective).__name__}.players gives one parameter to two players; groups must be disjoint."
        )
    return [Player(turn, solver) for turn in turns]
