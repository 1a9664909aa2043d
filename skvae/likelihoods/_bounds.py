"""Numbers held between bounds, by a gradient that lets them come back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["at_least", "at_most", "blocked"]


def blocked(value: Any, slope: Any, low: Any = None, high: Any = None) -> Any:
    """Where a slope is not passed on: the value is beyond a bound and would be moved further out. Of numpy or torch.

    A plain clamp passes none at all there, so a parameter that once slipped over its bound never comes back.
    """
    if high is None:
        return (value < low) & (slope > 0)
    above = (value > high) & (slope < 0)
    return above if low is None else above | blocked(value, slope, low)


class _AtLeast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: Tensor) -> Tensor:
        ctx.save_for_backward(value, low)
        return torch.maximum(value, low)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        value, low = ctx.saved_tensors
        return slopes[0].masked_fill(blocked(value, slopes[0], low), 0.0), None


def at_least(value: Tensor, low: Tensor) -> Tensor:
    """max(value, low), but for the slope, see `blocked`."""
    return _AtLeast.apply(value, low)


def at_most(value: Tensor, high: Tensor) -> Tensor:
    """min(value, high), but for the slope."""
    return -at_least(-value, -high)
