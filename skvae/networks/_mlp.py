"""Perceptrons beside a linear map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import nn

from .._params import Activation, Count
from ._base import LinearPath, Network
from ._layers import ACTIVATION_RULE, check_activation, check_sizes, hidden_layers, linear

__all__ = ["MLP"]


class MLP(Network):
    """Fully connected layers beside a linear map; the decoder mirrors the encoder.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        The encoder's hidden layers, from the data to the latents. Empty: a linear model.
    activation : str or callable, default="relu"
        A name in `skvae.networks.ACTIVATIONS`, or a callable without arguments that returns an `nn.Module`.

    See Also
    --------
    VAETransformer : Takes networks as `encoder` and `decoder`.

    Examples
    --------
    >>> import torch
    >>> from skvae import MLP
    >>> MLP((32, 16), "tanh").build_encoder(10, 4)(torch.zeros(3, 10)).shape
    torch.Size([3, 4])
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {
        "hidden_layer_sizes": ["array-like", Count()],
        "activation": ACTIVATION_RULE,
    }

    def __init__(self, hidden_layer_sizes: int | Sequence[int] = (100,), activation: Activation = "relu") -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation

    def _validate_params(self) -> None:
        super()._validate_params()
        advice = "Use (100,) for one layer of 100 units, () for none."
        check_sizes("hidden_layer_sizes", np.atleast_1d(self.hidden_layer_sizes).tolist(), advice)
        check_activation(self.activation)

    def count_layers(self) -> int:
        return int(np.size(self.hidden_layer_sizes))

    def _sizes(self) -> list[int]:
        return [int(size) for size in np.atleast_1d(self.hidden_layer_sizes)]

    def build_encoder(self, n_in: int, n_out: int) -> nn.Module:
        return self._build(n_in, self._sizes(), n_out)

    def build_decoder(self, n_in: int, n_out: int) -> nn.Module:
        return self._build(n_in, self._sizes()[::-1], n_out)

    def _build(self, n_in: int, hidden: list[int], n_out: int) -> LinearPath:
        straight = linear(n_in, n_out)
        if not hidden:
            return LinearPath(straight, None)
        layers = hidden_layers([n_in, *hidden], self.activation)
        return LinearPath(straight, nn.Sequential(*layers, linear(hidden[-1], n_out)))
