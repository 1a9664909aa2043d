"""What built-in networks are made of: layers, and the rules of the parameters that ask for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from .._hints import Names
from .._params import Activation, Count, may_make_modules

__all__ = ["ACTIVATIONS", "ACTIVATION_RULE", "check_activation", "check_sizes", "hidden_layers", "linear", "one_each"]


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}

# Of an activation parameter, and what it says where that is broken.
ACTIVATION_RULE = [Names(set(ACTIVATIONS)), callable]
WANTED = f"activation must be one of {sorted(ACTIVATIONS)}, or a callable without arguments that returns a Module"


def check_activation(activation: Activation) -> None:
    """Raise ValueError for a callable that makes no modules."""
    if not isinstance(activation, str) and not may_make_modules(activation):
        raise ValueError(f"{WANTED}; {activation!r} is none.")


def check_sizes(name: str, sizes: Any, advice: str) -> None:
    """Raise ValueError where a parameter holds anything but integers from 1 on."""
    for size in sizes:
        if not Count().is_satisfied_by(size):
            raise ValueError(f"{name} must hold integers of at least 1; it holds {size!r}. {advice}")


def one_each(name: str, value: Any, n_layers: int) -> list[int]:
    """A parameter that is one number for all layers, or one for each."""
    values = [value] * n_layers if np.ndim(value) == 0 else list(value)
    if len(values) != n_layers:
        raise ValueError(
            f"{name} holds {len(values)} numbers for {n_layers} layers; give one for each, or one for all."
        )
    check_sizes(name, values, "Give one for each layer, or one for all.")
    return [int(size) for size in values]


def linear(n_in: int, n_out: int) -> nn.Linear:
    """A float32 layer, whatever the caller's default dtype."""
    return nn.Linear(n_in, n_out, dtype=torch.float32)


def hidden_layers(sizes: Sequence[int], activation: Activation) -> list[nn.Module]:
    """Linear layers from each size to the next, each with an activation behind it."""
    return [layer for pair in pairwise(sizes) for layer in (linear(*pair), make_activation(activation))]


def make_activation(activation: Activation) -> nn.Module:
    """The module that an activation parameter asks for."""
    if not callable(activation):
        return ACTIVATIONS[activation]()
    try:
        made = activation()
    except TypeError as error:
        raise TypeError(f"{WANTED}; calling {activation!r} failed: {error}") from error
    if not isinstance(made, nn.Module):
        raise TypeError(f"{WANTED}; {activation!r} returned {type(made).__name__}.")
    return made
