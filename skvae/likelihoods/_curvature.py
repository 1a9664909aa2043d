"""Second derivatives of log p(x|z) over latents, along which the decoder's outputs have known slopes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._math import slopes_along

__all__ = ["by_bends", "by_columns", "by_latents"]


def by_bends(bends: Tensor, slope: Tensor) -> Tensor:
    """Second derivatives over J latents, from those over outputs, (N or 1, P), of slopes (N, P, J): (N, J, J)."""
    return (bends[..., None] * slope).mT @ slope


def by_latents(log_prob: Callable[[Tensor], Tensor], outputs: Tensor, slope: Tensor) -> Tensor:
    """Of log p, of any function of outputs (N, P) whose slopes over J latents are (N, P, J): (N, J, J).

    In one pass over a copy of the rows for each latent.
    """
    directions = slope.permute(2, 0, 1)
    return slopes_along(log_prob, outputs.expand(directions.shape), directions).transpose(0, 1) @ slope


def by_columns(log_prob: Callable[[Tensor], Tensor], outputs: Tensor, slope: Tensor, n_columns: int) -> Tensor:
    """The same where log p is a sum over columns, each of its own outputs, that stand as all columns' first, then next.

    Passes are as many as a column has outputs: a direction along one of each column leaves the columns apart.
    """
    n_each = outputs.shape[1] // max(1, n_columns)
    parts, found = slope.unflatten(1, (n_each, n_columns)), slope.new_zeros(len(slope), *2 * slope.shape[2:])
    for k in range(n_each):
        direction = torch.zeros_like(outputs).unflatten(1, (n_each, n_columns))
        direction[:, k] = 1.0
        bent = slopes_along(log_prob, outputs, direction.flatten(1))
        found += (bent[..., None] * slope).mT @ parts[:, k].repeat(1, n_each, 1)
    return found
