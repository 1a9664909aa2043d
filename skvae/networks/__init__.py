"""How arrays become arrays: encoders and decoders.

A `Network` holds hyperparameters only; `build_encoder` and `build_decoder` return fresh torch modules. In its place a
user may pass an `nn.Module` (copied in fit) or a callable `(n_in, n_out) -> nn.Module` (fresh, seeded in every fit).
"""

from __future__ import annotations

from ._base import AutoregressiveDecoder, Columns, LinearPath, Network, Supplied
from ._conv import Conv
from ._layers import ACTIVATIONS
from ._mlp import MLP
from ._pixelcnn import PixelCNN

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "AutoregressiveDecoder",
    "Columns",
    "Conv",
    "LinearPath",
    "Network",
    "PixelCNN",
    "Supplied",
]


def __dir__() -> list[str]:
    return __all__
