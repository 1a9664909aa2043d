"""Perceptrons beside a linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import StrOptions
from torch import nn

from .._params import Activation, Count, may_make_modules
from ._base import LinearPath, Network

__all__ = ["ACTIVATIONS", "MLP"]


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


class MLP(Network):
    """Fully connected layers beside a linear map; the decoder mirrors the encoder.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default=(100,)
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
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS)), callable],
    }

    def __init__(self, hidden_layer_sizes: Sequence[int] = (100,), activation: Activation = "relu") -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation

    def _validate_params(self) -> None:
        super()._validate_params()
        for size in self.hidden_layer_sizes:
            if not Count().is_satisfied_by(size):
                raise ValueError(
                    f"hidden_layer_sizes must hold integers of at least 1; it holds {size!r}. "
                    "Use (100,) for one layer of 100 units, () for none."
                )
        if not isinstance(self.activation, str) and not may_make_modules(self.activation):
            raise ValueError(f"{self._wanted}; {self.activation!r} is none.")

    def count_layers(self) -> int:
        return int(np.size(self.hidden_layer_sizes))

    def build_encoder(self, n_in: int, n_out: int) -> nn.Module:
        return self._build(n_in, [int(size) for size in self.hidden_layer_sizes], n_out)

    def build_decoder(self, n_in: int, n_out: int) -> nn.Module:
        return self._build(n_in, [int(size) for size in self.hidden_layer_sizes][::-1], n_out)

    def _build(self, n_in: int, hidden: list[int], n_out: int) -> LinearPath:
        linear = _linear(n_in, n_out)
        if not hidden:
            return LinearPath(linear, None)
        layers: list[nn.Module] = []
        for size_in, size_out in zip([n_in, *hidden], hidden, strict=False):
            layers += [_linear(size_in, size_out), self._activation()]
        return LinearPath(linear, nn.Sequential(*layers, _linear(hidden[-1], n_out)))

    def _activation(self) -> nn.Module:
        if not callable(self.activation):
            return ACTIVATIONS[self.activation]()
        try:
            made = self.activation()
        except TypeError as error:
            raise TypeError(f"{self._wanted}; calling {self.activation!r} failed: {error}") from error
        if not isinstance(made, nn.Module):
            raise TypeError(f"{self._wanted}; {self.activation!r} returned {type(made).__name__}.")
        return made

    @property
    def _wanted(self) -> str:
        return f"activation must be one of {sorted(ACTIVATIONS)}, or a callable without arguments that returns a Module"


def _linear(n_in: int, n_out: int) -> nn.Linear:
    """A float32 layer, whatever the caller's default dtype."""
    return nn.Linear(n_in, n_out, dtype=torch.float32)
