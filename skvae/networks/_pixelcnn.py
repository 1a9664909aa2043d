"""A decoder that predicts an image pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._params import Activation, Count
from ._base import AutoregressiveDecoder, Columns, Network, start_linear
from ._image import Planes, ToImage, ToRow, check_image_shape
from ._layers import ACTIVATION_RULE, check_activation, check_sizes, hidden_layers, linear, make_activation

__all__ = ["PixelCNN"]


class PixelCNN(Network):
    """A decoder in which every pixel depends on the latents and on the pixels before it.

    log p(x|z) = sum_d log p(x_d | x_1, ..., x_{d-1}, z), pixels from left to right and top to bottom, a pixel's
    channels one after the other. One pass through masked convolutions finds all the terms (van den Oord et al. 2016a).
    The latents enter as a map of the whole image, added before the first activation (van den Oord et al. 2016b), and as
    a linear map to the outputs, where training starts. What neighbours tell, latents need not: they are left with what
    is common to the image, fewer of them are active, and they may be ignored altogether (Gulrajani et al. 2017).

    Drawing or averaging takes a pass for each pixel: `sample`, `inverse_transform` and `reconstruct` are slow, and the
    last two give every pixel's mean after the means before it. Rows must be complete, so there is no `impute`, and the
    objective must offer a density: one that compares rows with such a reconstruction would only learn to copy them.

    Parameters
    ----------
    image_shape : tuple of int
        (height, width) or (height, width, channels): `X.reshape(-1, *image_shape)` are the images.
    channels : int, default=32
        Of the hidden layers; at least as many as the image has.
    n_layers : int, default=4
        Masked convolutions. More see farther, and leave the latents less to tell.
    kernel_size : int, default=3
        Side of the kernels, odd; the first layer's is twice as large, plus 1.
    hidden_layer_sizes : sequence of int, default=()
        Fully connected layers between the latents and their map.
    activation : str or callable, default="relu"
        A name in `skvae.networks.ACTIVATIONS`, or a callable without arguments that returns an `nn.Module`.

    See Also
    --------
    skvae.networks.Conv : A decoder whose pixels depend on the latents alone.

    References
    ----------
    van den Oord, A., Kalchbrenner, N. and Kavukcuoglu, K. (2016a). Pixel recurrent neural networks. arXiv:1601.06759.

    van den Oord, A. et al. (2016b). Conditional image generation with PixelCNN decoders. arXiv:1606.05328.

    Gulrajani, I. et al. (2017). PixelVAE: a latent variable model for natural images. arXiv:1611.05013.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import VAETransformer
    >>> from skvae.networks import PixelCNN
    >>> X = (load_digits().data[:200] > 7).astype(float)
    >>> decoder = PixelCNN((8, 8), channels=8)
    >>> vae = VAETransformer(2, likelihood="bernoulli", decoder=decoder, max_iter=3, random_state=0).fit(X)
    >>> vae.sample(5, random_state=0).shape
    (5, 64)
    """

    __module__ = "skvae.networks"

    reads_columns = True
    reads_x = True

    _parameter_constraints: ClassVar[dict] = {
        "image_shape": ["array-like"],
        "channels": [Count()],
        "n_layers": [Count()],
        "kernel_size": [Count()],
        "hidden_layer_sizes": ["array-like"],
        "activation": ACTIVATION_RULE,
    }

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: int = 32,
        *,
        n_layers: int = 4,
        kernel_size: int = 3,
        hidden_layer_sizes: Sequence[int] = (),
        activation: Activation = "relu",
    ) -> None:
        self.image_shape = image_shape
        self.channels = channels
        self.n_layers = n_layers
        self.kernel_size = kernel_size
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation

    def _validate_params(self) -> None:
        super()._validate_params()
        check_image_shape(self.image_shape)
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes, "Use () for none.")
        check_activation(self.activation)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} has no middle pixel; use an odd number.")
        if self.channels < (least := (*self.image_shape, 1)[2]):
            raise ValueError(f"channels={self.channels} are fewer than the image's {least}; use as many, or more.")

    def count_layers(self) -> int:
        return self.n_layers + int(np.size(self.hidden_layer_sizes))

    def build_encoder(self, n_in: int, n_out: int, columns: Columns | None = None) -> nn.Module:
        return super().build_encoder(n_in, n_out)

    def build_decoder(self, n_in: int, n_out: int, columns: Columns | None = None) -> nn.Module:
        read, said = (np.arange(n_out),) * 2 if columns is None else columns
        return _PixelDecoder(n_in, n_out, self, Planes(self.image_shape, read), Planes(self.image_shape, said))


class _MaskedConv(nn.Conv2d):
    """A convolution that sees the rows above and the pixels to the left, of its own pixel the channels before.

    With `own` it sees its own channel, too. Layers' channels are shared out evenly to the image's.
    """

    seen: Tensor

    def __init__(self, n_in: int, n_out: int, kernel: int, n_channels: int, own: bool):
        half = kernel // 2
        super().__init__(n_in, n_out, (half + 1, kernel), dtype=torch.float32)
        before, after = (torch.arange(n) * n_channels // n for n in (n_in, n_out))
        seen = torch.ones(self.weight.shape, dtype=torch.float32)
        seen[:, :, half, half:] = 0.0
        seen[:, :, half, half] = (before <= after[:, None] if own else before < after[:, None]).to(seen)
        self.register_buffer("seen", seen, persistent=False)
        self.margins = half, half, half, 0  # to the left, to the right, above, below

    def forward(self, image: Tensor) -> Tensor:
        return F.conv2d(F.pad(image, self.margins), self.weight * self.seen, self.bias)


class _PixelDecoder(AutoregressiveDecoder):
    """Masked convolutions, each added to what it gets, over an image and a map of the latents."""

    def __init__(self, n_in: int, n_out: int, network: PixelCNN, read: Planes, said: Planes):
        super().__init__()
        channels, kernel, n_channels = int(network.channels), int(network.kernel_size), said.n_channels

        def layer(n_next: int, kernel: int) -> nn.Sequential:
            conv = _MaskedConv(channels, n_next, kernel, n_channels, own=True)
            return nn.Sequential(make_activation(network.activation), conv)

        dense = [n_in, *map(int, network.hidden_layer_sizes)]
        shape = channels, *said.shape[1:]
        to_map = linear(dense[-1], int(np.prod(shape)))
        self.map = nn.Sequential(*hidden_layers(dense, network.activation), to_map, nn.Unflatten(1, shape))
        self.image, self.row = ToImage(read), ToRow(said)
        self.first = _MaskedConv(read.shape[0], channels, 2 * kernel + 1, n_channels, own=False)
        self.others = nn.ModuleList(layer(channels, kernel) for _ in range(network.n_layers - 1))
        self.last = layer(said.shape[0], 1)
        self.linear = linear(n_in, n_out)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        image = self.first(self.image(x)) + self.map(z)
        for layer in self.others:
            image = image + layer(image)
        return self.linear(z) + self.row(self.last(image))

    def start_at(self, weight: Tensor, bias: Tensor) -> None:
        """Begin without the pixels before, at the linear map z -> weight z + bias."""
        start_linear(self.linear, self.last, weight, bias)
