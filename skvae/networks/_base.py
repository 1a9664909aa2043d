"""How arrays become arrays: encoders and decoders.

A `Network` holds hyperparameters only; `build_encoder` and `build_decoder` return fresh torch modules. In its place a
user may pass an `nn.Module` (copied in fit) or a callable `(n_in, n_out) -> nn.Module` (fresh, seeded in every fit).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .._flat import store_inputs_by_outputs
from .._params import NetworkLike, Spec

__all__ = ["AutoregressiveDecoder", "Columns", "LinearPath", "Network", "Supplied"]

# Layers that move numbers and compute none.
RESHAPING = nn.Flatten, nn.Unflatten


class Columns(NamedTuple):
    """Which column of the table every number belongs to, columns counted from 0.

    Attributes
    ----------
    inputs : ndarray of int of shape (n_inputs,)
        Of what the encoder sees: several numbers for a column of categories.
    outputs : ndarray of int of shape (n_params,)
        Of what the decoder emits: several numbers where a column's likelihood has as many parameters.
    """

    inputs: np.ndarray
    outputs: np.ndarray


class Network(Spec):
    """Hyperparameters of an encoder, a decoder, or both.

    Attributes
    ----------
    reads_columns : bool
        Whether `build_encoder` and `build_decoder` take a third argument, the table's `Columns`.
    reads_x : bool
        Whether its decoder is an `AutoregressiveDecoder`, so that rows with gaps can be refused by name.
    """

    reads_columns: ClassVar[bool] = False
    reads_x: bool = False

    def count_layers(self) -> int:
        """How many layers with weights a module has at least: a saved file that holds fewer arrays is damaged."""
        return 0

    def build_encoder(self, n_in: int, n_out: int) -> nn.Module:
        """A module from (N, n_in) to (N, n_out): posterior means, then log variances."""
        raise TypeError(f"{type(self).__name__} has no encoder; pass it as decoder=.")

    def build_decoder(self, n_in: int, n_out: int) -> nn.Module:
        """A module from (N, n_in) to (N, n_out): the likelihood's parameters."""
        raise TypeError(f"{type(self).__name__} has no decoder; pass it as encoder=.")


class LinearPath(nn.Module):
    """A linear map plus a network: y = A x + b + body(x).

    Started at a linear model, the network begins at the best linear answer and learns what is missing from it.

    Parameters
    ----------
    linear : nn.Linear
        A x + b.
    body : nn.Sequential or None
        A network from the same inputs to the same outputs; behind its last layer with weights nothing is computed.
    """

    def __init__(self, linear: nn.Linear, body: nn.Sequential | None):
        super().__init__()
        # In this order the body's last layer and the linear map lie side by side in a flat vector, see `_flat`.
        self.body = body
        self.linear = linear
        store_inputs_by_outputs(self)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        return self.linear(x) if self.body is None else self.linear(x) + self.body(x)

    def hidden(self, x: Tensor) -> list[Tensor]:
        """What comes out of each activation of the body: (N, units) each."""
        found = []
        for layer in list(self.body or [])[:-1]:
            x = layer(x)
            if not list(layer.parameters()) and not isinstance(layer, RESHAPING):
                found.append(x.flatten(1))
        return found

    def leading(self, x: Tensor, n_outputs: int) -> Tensor:
        """The first `n_outputs` columns of `forward`, without the work for the others."""
        outputs = _leading_outputs(self.linear, x, n_outputs)
        if self.body is None:
            return outputs
        for layer in list(self.body)[:-1]:
            x = layer(x)
        return outputs.add_(_leading_outputs(self.body[-1], x, n_outputs))

    def start_at(self, weight: Tensor, bias: Tensor) -> None:
        """Make the whole network the linear map x -> weight x + bias; the body's last weights start at zero."""
        start_linear(self.linear, self.body or (), weight, bias)


@torch.no_grad()
def start_linear(linear: nn.Linear, body: Iterable[nn.Module], weight: Tensor, bias: Tensor) -> None:
    """Set a linear map, and to zero the last weights of the layers whose output is added to it."""
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    last = [layer for layer in body if list(layer.parameters())][-1:]
    for parameter in (p for layer in last for p in layer.parameters()):
        parameter.zero_()


class AutoregressiveDecoder(nn.Module, ABC):
    """A decoder whose parameters for feature d depend on z and on the features before d.

    Its model evaluates p(x|z) in one pass, and draws or averages x feature by feature: D passes, slow by nature.
    """

    reads_x: ClassVar[bool] = True

    @abstractmethod
    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Outputs (N, n_params) for latents (N, J) and what the encoder sees of rows, (N, n_inputs)."""


def _leading_outputs(layer: nn.Module, x: Tensor, n_outputs: int) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return nn.functional.linear(x, layer.weight[:n_outputs], layer.bias[:n_outputs])


class Supplied(Network):
    """A user's `nn.Module` or callable, in a Network's clothes.

    Parameters
    ----------
    network : nn.Module or callable
        A module is copied, weights included. A callable gets `(n_in, n_out)` and returns a module.
    """

    known = False

    def __init__(self, network: NetworkLike) -> None:
        self.network = network

    @property
    def reads_x(self) -> bool:  # type: ignore[override]
        return getattr(self.network, "reads_x", False)

    def build_encoder(self, n_in: int, n_out: int) -> nn.Module:
        return self._build(n_in, n_out)

    def build_decoder(self, n_in: int, n_out: int) -> nn.Module:
        return self._build(n_in, n_out)

    def _build(self, n_in: int, n_out: int) -> nn.Module:
        if isinstance(self.network, nn.Module):
            return copy.deepcopy(self.network)
        module = self.network(n_in, n_out)
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"A network given as a callable must return a torch.nn.Module; it returned {type(module).__name__}."
            )
        return module
