"""Optimisers by name: a solver takes a list of parameters and moves them along their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["LARGEST_SGD_GRADIENT", "SOLVERS", "Adam", "BoundedSGD", "Solver"]


# What Adam keeps for a tensor, by torch.optim's names.
_STATE = ("step", "exp_avg", "exp_avg_sq")


Solver = Callable[[list[nn.Parameter]], Any]


# Largest gradient norm that plain gradient descent follows.
LARGEST_SGD_GRADIENT = 1.0


class Adam:
    """Adam (Kingma & Ba 2015) on tensors that have a gradient, by torch's fused kernel.

    The numbers are `torch.optim.Adam(fused=True)`'s. That class adds about 20 us to every step, and the first of its
    kind in a process imports torch's compiler, which takes a second.
    """

    def __init__(self, params: list[nn.Parameter], lr: float):
        self.options: dict[str, Any] = {"lr": lr, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        self.options |= {"amsgrad": False, "maximize": False}
        self.params = params
        self.values = [p.data for p in params]
        self.means = [torch.zeros_like(p.data) for p in params]
        self.squares = [torch.zeros_like(p.data) for p in params]
        self.steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in params]
        # The same numbers: numpy adds one to a single number in a fifth of torch's time.
        self.counts: list[Any] = [step.numpy() if step.is_cpu else step for step in self.steps]

    def step(self) -> None:
        for count in self.counts:
            count += 1
        grads: Any = [p.grad for p in self.params]
        torch._fused_adam_(self.values, grads, self.means, self.squares, [], self.steps, **self.options)

    def state_dict(self) -> dict[str, Any]:
        state = zip(self.steps, self.means, self.squares, strict=True)
        return {"state": {i: dict(zip(_STATE, values, strict=True)) for i, values in enumerate(state)}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for i, own in self.state_dict()["state"].items():
            for name in _STATE:
                own[name].copy_(saved["state"][i][name])


class BoundedSGD(torch.optim.SGD):
    """Gradient descent with Nesterov momentum, the gradient's norm bounded.

    At a good start with little noise a log-likelihood is steep, and an unbounded step of the usual size leaves it.
    """

    def __init__(self, params: list[nn.Parameter], lr: float):
        super().__init__(params, lr=lr, momentum=0.9, nesterov=True)

    def step(self, closure: Any = None) -> Any:
        nn.utils.clip_grad_norm_(self.param_groups[0]["params"], LARGEST_SGD_GRADIENT)
        return super().step(closure)


SOLVERS: dict[str, Callable[..., Any]] = {
    "adagrad": torch.optim.Adagrad,
    "adam": Adam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": BoundedSGD,
}
