"""Formulas that several rooms share, most of them in what numpy and torch spell alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LARGEST_WHOLE", "LOG_2PI", "log_normal", "second_derivatives", "slopes_along"]


LOG_2PI = math.log(2 * math.pi)


# Beyond it all floats are whole numbers, and not every whole number is a float.
LARGEST_WHOLE = 2.0**53


def log_normal(eps: Any, log_var: Any = 0.0) -> Any:
    """log N(mu + sigma * eps; mu, sigma^2) = -(log 2 pi + log sigma^2 + eps^2) / 2, element by element.

    Tensors, or numpy arrays in their place.
    """
    return -0.5 * (LOG_2PI + log_var + eps * eps)


def second_derivatives(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Of a function at points (N, J), over these, in one pass over a copy of them for each: (N, J, J)."""
    n_axes = points.shape[1]
    directions = torch.eye(n_axes, dtype=points.dtype, device=points.device)[:, None].expand(-1, *points.shape)
    return slopes_along(function, points.expand(directions.shape), directions).transpose(0, 1)


def slopes_along(function: Callable[[Tensor], Tensor], points: Tensor, directions: Tensor) -> Tensor:
    """Derivatives of a function's slopes at points (..., N, K) along directions (..., N, K): (..., N, K)."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(points).sum(), points, create_graph=True)
        if not slope.requires_grad:
            return torch.zeros_like(points)
        return torch.autograd.grad((slope * directions).sum(), points)[0]
