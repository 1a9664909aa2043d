"""Convolutions beside a linear map of the flat image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from .._params import Activation, Count
from ._base import Columns, LinearPath, Network
from ._image import Planes, ToImage, ToRow, check_image_shape
from ._layers import (
    ACTIVATION_RULE,
    check_activation,
    check_sizes,
    hidden_layers,
    linear,
    make_activation,
    one_each,
)

__all__ = ["Conv"]


class Conv(Network):
    """Convolutions over images whose rows are flat, beside a linear map of the row; the decoder mirrors the encoder.

    An encoder is the convolutions, then fully connected layers, then the latents' means and log variances. A decoder
    goes the same way back, through transposed convolutions, to exactly `image_shape`. A kernel of k pixels reaches
    (k - 1) // 2 pixels over the edge, where zeros are: an odd one leaves ceil(size / stride) pixels of a side. Training
    starts at the linear model, as a perceptron's does.

    Parameters
    ----------
    image_shape : tuple of int
        (height, width) or (height, width, channels): `X.reshape(-1, *image_shape)` are the images. Where the channels
        come first, move them: `np.moveaxis(images, 1, -1)`.
    channels : sequence of int, default=(32, 64)
        Of the encoder's convolutions, from the data to the latents.
    kernel_sizes : int or sequence of int, default=3
        Side of the kernels, in pixels; one for all layers, or one for each.
    strides : int or sequence of int, default=2
        By how many pixels kernels move on; 2 halves both sides. At most as many as the kernel has.
    hidden_layer_sizes : sequence of int, default=(100,)
        Fully connected layers between the convolutions and the latents.
    activation : str or callable, default="relu"
        A name in `skvae.networks.ACTIVATIONS`, or a callable without arguments that returns an `nn.Module`.

    See Also
    --------
    skvae.MLP : Fully connected layers, for columns that are no image.

    Notes
    -----
    Encoder and decoder may differ. A network that is often drawn for 28 x 28 digits, with convolutions of 32, 64
    (stride 2), 64 and 64 channels and 32 units before the latents, and back by one transposed convolution and one
    convolution, is `encoder=Conv((28, 28), (32, 64, 64, 64), strides=(1, 2, 1, 1), hidden_layer_sizes=(32,))` and
    `decoder=Conv((28, 28), (32, 64), strides=(1, 2), hidden_layer_sizes=())`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import VAETransformer
    >>> from skvae.networks import Conv
    >>> X = load_digits().data[:200]
    >>> conv = Conv((8, 8), (8, 16))
    >>> vae = VAETransformer(4, encoder=conv, decoder=conv, max_iter=5, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (200, 4)
    """

    __module__ = "skvae.networks"

    reads_columns = True

    _parameter_constraints: ClassVar[dict] = {
        "image_shape": ["array-like"],
        "channels": ["array-like"],
        "kernel_sizes": [Count(), "array-like"],
        "strides": [Count(), "array-like"],
        "hidden_layer_sizes": ["array-like"],
        "activation": ACTIVATION_RULE,
    }

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        *,
        kernel_sizes: int | Sequence[int] = 3,
        strides: int | Sequence[int] = 2,
        hidden_layer_sizes: Sequence[int] = (100,),
        activation: Activation = "relu",
    ) -> None:
        self.image_shape = image_shape
        self.channels = channels
        self.kernel_sizes = kernel_sizes
        self.strides = strides
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation

    def _validate_params(self) -> None:
        super()._validate_params()
        check_image_shape(self.image_shape)
        check_sizes("channels", self.channels, "Use (32, 64) for two convolutions.")
        if not len(self.channels):
            raise ValueError("channels is empty; name a number for each convolution, or use MLP without any.")
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes, "Use () for none.")
        check_activation(self.activation)
        for i, (kernel, stride) in enumerate(self._kernels()):
            if stride > kernel:
                raise ValueError(
                    f"strides[{i}]={stride} skips pixels between kernels of size {kernel}; use a stride of at most the "
                    "kernel's size."
                )
        self._sides()

    def count_layers(self) -> int:
        return len(self.channels) + int(np.size(self.hidden_layer_sizes))

    def build_encoder(self, n_in: int, n_out: int, columns: Columns | None = None) -> nn.Module:
        planes = Planes(self.image_shape, np.arange(n_in) if columns is None else columns.inputs)
        sizes = [planes.shape[0], *map(int, self.channels)]
        layers: list[nn.Module] = [ToImage(planes)]
        for (n_planes, n_next), (kernel, stride) in zip(pairwise(sizes), self._kernels(), strict=True):
            conv = nn.Conv2d(n_planes, n_next, kernel, stride, (kernel - 1) // 2, dtype=torch.float32)
            layers += [conv, make_activation(self.activation)]
        dense = self._dense()
        layers += [nn.Flatten(), *hidden_layers(dense, self.activation), linear(dense[-1], n_out)]
        return LinearPath(linear(n_in, n_out), nn.Sequential(*layers))

    def build_decoder(self, n_in: int, n_out: int, columns: Columns | None = None) -> nn.Module:
        planes = Planes(self.image_shape, np.arange(n_out) if columns is None else columns.outputs)
        sizes, sides = [*map(int, self.channels)][::-1], self._sides()[::-1]
        layers = hidden_layers([n_in, *self._dense()[::-1]], self.activation)
        layers.append(nn.Unflatten(1, (sizes[0], *sides[0])))
        steps = zip(pairwise([*sizes, planes.shape[0]]), pairwise(sides), self._kernels()[::-1], strict=True)
        for (n_planes, n_next), (now, then), (kernel, stride) in steps:
            padding = (kernel - 1) // 2
            rows, cols = (to - (side - 1) * stride + 2 * padding - kernel for side, to in zip(now, then, strict=True))
            conv = nn.ConvTranspose2d(n_planes, n_next, kernel, stride, padding, (rows, cols), dtype=torch.float32)
            layers += [conv, make_activation(self.activation)]
        layers[-1] = ToRow(planes)
        return LinearPath(linear(n_in, n_out), nn.Sequential(*layers))

    def _kernels(self) -> list[tuple[int, int]]:
        """Size and stride of every convolution."""
        n_layers = len(self.channels)
        sizes, strides = (
            one_each("kernel_sizes", self.kernel_sizes, n_layers),
            one_each("strides", self.strides, n_layers),
        )
        return list(zip(sizes, strides, strict=True))

    def _sides(self) -> list[tuple[int, int]]:
        """Height and width of the image, and of what every convolution leaves of it."""
        sides = [(int(self.image_shape[0]), int(self.image_shape[1]))]
        for i, (kernel, stride) in enumerate(self._kernels()):
            height, width = ((side + 2 * ((kernel - 1) // 2) - kernel) // stride + 1 for side in sides[-1])
            if min(height, width) < 1:
                raise ValueError(
                    f"kernel_sizes[{i}]={kernel} leaves nothing of the {sides[-1][0]} x {sides[-1][1]} pixels that the "
                    "convolutions before it leave; use a smaller or odd kernel, or fewer layers."
                )
            sides.append((height, width))
        return sides

    def _dense(self) -> list[int]:
        """Sizes of the fully connected layers, what the convolutions leave first."""
        return [int(self.channels[-1]) * math.prod(self._sides()[-1]), *map(int, self.hidden_layer_sizes)]
