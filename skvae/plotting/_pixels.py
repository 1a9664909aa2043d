"""Rows as images: their shape, and many of them in one picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._params import Count
from ._base import Array

__all__ = ["checked_shape", "draw_images", "square"]

# Pixels around each image.
GAP = 1
# Behind images with missing pixels, to be seen through them.
BEHIND = "#cfe2f3"
# Percentiles of the pixels between which colours vary: a few that no row has would leave the others without contrast.
SHOWN_PERCENT = (1, 99)


def square(n_features: int) -> tuple[int, int]:
    """The shape of a square image of so many pixels."""
    side = round(n_features**0.5)
    if side * side != n_features:
        raise ValueError(f"{n_features} columns are no square image; give image_shape=(height, width).")
    return side, side


def checked_shape(shape: Any, n_features: int) -> tuple[int, ...]:
    """The shape of an image of so many numbers, if it is one."""
    shape = tuple(np.ravel(shape).tolist())
    counts = all(Count().is_satisfied_by(size) for size in shape)
    if len(shape) not in (2, 3) or not counts or int(np.prod(shape)) != n_features:
        raise ValueError(
            f"image_shape={shape} must be (height, width) or (height, width, channels) with a product of {n_features}, "
            "the number of columns."
        )
    return shape


def draw_images(ax: Any, images: Array, **kwargs: Any) -> Any:
    """Draw a grid of images as one; the image in row i from the top and column j is centred at (j, -i).

    Parameters
    ----------
    ax : matplotlib Axes
        Where to draw.
    images : ndarray of shape (rows, columns, height, width) or (rows, columns, height, width, channels)
        Of any range; that of most of their pixels is shown.
    **kwargs : dict
        Style (`Axes.imshow`).
    """
    rows, columns, height, width = images.shape[:4]
    finite = images[np.isfinite(images)]
    low, high = np.percentile(finite, SHOWN_PERCENT) if len(finite) else (0.0, 1.0)
    style: dict[str, Any] = {"cmap": "gray", "vmin": low, "vmax": high if high > low else low + 1} | kwargs
    padding = [(0, 0), (0, 0), (GAP, GAP), (GAP, GAP), *[(0, 0)] * (images.ndim - 4)]
    framed = np.pad(images, padding, constant_values=np.nan)
    grid = np.concatenate(np.concatenate(framed, axis=1), axis=1)
    if images.ndim == 5 and images.shape[-1] > 1:  # colours are read as they are, from 0 to 1
        low, high = style.pop("vmin"), style.pop("vmax")
        grid = np.where(np.isnan(grid), 1.0, np.clip((grid - low) / (high - low), 0, 1))
    else:
        grid = grid.reshape(grid.shape[:2])
    extent = (-0.5, columns - 0.5, 0.5 - rows, 0.5)
    artist = ax.imshow(grid, extent=extent, aspect=(height + 2 * GAP) / (width + 2 * GAP), **style)
    if len(finite) < images.size:
        ax.set_facecolor(BEHIND)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return artist
