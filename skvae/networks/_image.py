"""Flat rows as images, and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._layers import check_sizes

__all__ = ["Planes", "ToImage", "ToRow", "check_image_shape"]


def check_image_shape(image_shape: Any) -> None:
    """Raise ValueError for anything but (height, width) or (height, width, channels)."""
    if np.ndim(image_shape) != 1 or len(image_shape) not in (2, 3):
        raise ValueError(
            f"image_shape must be (height, width) or (height, width, channels); it is {image_shape!r}. "
            "Its product is the number of X's columns."
        )
    check_sizes("image_shape", image_shape, "It is (height, width) or (height, width, channels).")


class Planes:
    """Where the numbers of a flat row lie in an image (n_planes, height, width).

    A row holds the pixels from left to right and top to bottom, a pixel's channels side by side. Every channel has as
    many planes as the column with most numbers has; where a column has fewer, 0 is in their place.

    Parameters
    ----------
    image_shape : tuple of int
        (height, width) or (height, width, channels), of the columns of a table.
    columns : ndarray of int
        The column of every number.

    Attributes
    ----------
    n_channels : int
    shape : tuple of int
    place : ndarray of int
        Of every number, in the flat image.
    """

    def __init__(self, image_shape: Any, columns: np.ndarray):
        height, width, n_channels = (int(n) for n in (*image_shape, 1)[:3])
        n_columns, n_cells = int(columns.max()) + 1, height * width * n_channels
        if n_columns != n_cells:
            raise ValueError(
                f"image_shape={tuple(image_shape)} holds {n_cells} numbers and X has {n_columns} columns; give the "
                "image's (height, width) or (height, width, channels)."
            )
        counts = np.bincount(columns, minlength=n_columns)
        order = np.argsort(columns, kind="stable")
        slot = np.empty_like(columns)
        slot[order] = np.arange(len(columns)) - np.repeat(np.cumsum(counts) - counts, counts)
        pixel, channel = np.divmod(columns, n_channels)
        n_each = int(counts.max())
        self.n_channels, self.shape = n_channels, (n_channels * n_each, height, width)
        self.place = (channel * n_each + slot) * height * width + pixel

    @property
    def is_straight(self) -> bool:
        """Whether a flat row is a flat image as it is."""
        return np.array_equal(self.place, np.arange(math.prod(self.shape)))


class _Reshaped(nn.Flatten):
    """Numbers between flat rows, (N, n), and images, (N, n_planes, height, width): no activation, as no Flatten is."""

    place: Tensor | None

    def __init__(self, planes: Planes):
        super().__init__()
        self.shape = planes.shape
        place = None if planes.is_straight else torch.tensor(planes.place)
        self.register_buffer("place", place, persistent=False)


class ToImage(_Reshaped):
    """Rows as images."""

    def forward(self, x: Tensor) -> Tensor:
        if self.place is not None:
            x = x.new_zeros(len(x), math.prod(self.shape)).index_copy(1, self.place, x)
        return x.unflatten(1, self.shape)


class ToRow(_Reshaped):
    """Images as rows."""

    def forward(self, image: Tensor) -> Tensor:
        flat = image.flatten(1)
        return flat if self.place is None else flat.index_select(1, self.place)
