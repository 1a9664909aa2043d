"""The one owner of how parameters lie in memory: training moves them as one vector, the engine multiplies its parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FlatParameters", "block", "store_inputs_by_outputs"]


class FlatParameters:
    """Parameters as views into one vector, and their gradients as views into its gradient.

    They lie there one behind the other, a matrix in its own memory order. A linear layer that is stored inputs by
    outputs so has its bias as one more row, and layers whose outputs are added stand above each other:

        vector   ... | w_11 .. w_1m  ..  w_n1 .. w_nm | b_1 .. b_m | v_11 .. v_1m  ..  v_km | c_1 .. c_m | ...
                       weight of a body's last layer    its bias     weight of the linear     its bias

        block        w_11 .. w_1m   <- hidden unit 1
                     ..
                     w_n1 .. w_nm   <- hidden unit n
                     b_1  .. b_m    <- 1
                     v_11 .. v_1m   <- input 1
                     ..
                     v_k1 .. v_km   <- input k
                     c_1  .. c_m    <- 1

    Attributes
    ----------
    vector : nn.Parameter of shape (P,)
        With a gradient of the same shape.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = list(parameters)
        self.vector = nn.Parameter(torch.cat([_in_memory(p.detach()).reshape(-1) for p in self.parameters]))
        self.vector.grad = torch.zeros_like(self.vector)
        data, grads = self._views(self.vector.data), self._views(self.vector.grad)
        for p, value, grad in zip(self.parameters, data, grads, strict=True):
            p.data, p.grad = value, grad

    def _views(self, vector: Tensor) -> list[Tensor]:
        """The vector's pieces in the shapes and memory orders of the parameters."""
        pieces = vector.split([p.numel() for p in self.parameters])
        return [_like(piece, p) for piece, p in zip(pieces, self.parameters, strict=True)]


def block(flat: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """The layers' weights and biases above each other, (sum of n_in + 1, n_out): a view into a flat vector, see there.

    `flat` is the vector that the layers' parameters are views of, or its gradient.
    """
    first = end = int(layers[0].weight.storage_offset())
    for layer in layers:
        for part in (layer.weight.t(), layer.bias):
            assert part.is_contiguous(), "a layer is not stored inputs by outputs"
            assert part.storage_offset() == end, "a layer's weight, its bias and the next layer do not lie side by side"
            end += part.numel()
    return flat[first:end].view(-1, layers[0].out_features)


@torch.no_grad()
def store_inputs_by_outputs(network: nn.Module) -> None:
    """Store the weights of a network's linear layers so that `block` can be taken."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.t().contiguous().t()


def _in_memory(value: Tensor) -> Tensor:
    """A matrix as its memory has it: transposed where it is stored column by column."""
    return value.t() if value.dim() == 2 and not value.is_contiguous() and value.t().is_contiguous() else value


def _like(piece: Tensor, value: Tensor) -> Tensor:
    """A view of `piece` in the shape and memory order of `value`."""
    stored = _in_memory(value)
    return piece.view_as(stored) if stored is value else piece.view_as(stored).t()
