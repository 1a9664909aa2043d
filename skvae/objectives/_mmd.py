"""How far two samples lie apart: the maximum mean discrepancy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["KERNELS", "mmd"]

# From squared distances and a scale C to the kernel.
KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "imq": lambda squares, c: c / (c + squares),
    "rbf": lambda squares, c: torch.exp(-squares / c),
}

# The kernel is averaged over these multiples of its scale: far codes feel the wide ones, near codes the narrow ones.
MULTIPLES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def mmd(codes: Tensor, drawn: Tensor, kernel: str = "imq", weight: Tensor | None = None) -> Tensor:
    """An estimate of MMD^2 without bias, the U-statistic: a number, of codes (N, J) and draws of p(z) (M, J).

    mean_{i != j} k(z_i, z_j) + mean_{i != j} k(p_i, p_j) - 2 mean_{i, j} k(z_i, p_j), rows of codes counting by
    `weight`. k is the mean of C / (C + d^2) ("imq") or exp(-d^2 / C) ("rbf") over some multiples C of 2 J, the mean
    squared distance of two draws of N(0, I) (Tolstikhin et al. 2018, section 4). One row says nothing of where codes
    lie: 0.
    """
    if len(codes) < 2:
        return codes.sum() * 0.0
    centre = drawn.mean(0).detach()  # distances by products lose digits far from 0
    codes, drawn = codes - centre, drawn - centre
    weight = torch.ones_like(codes[:, 0]) if weight is None else weight
    alike = torch.ones_like(drawn[:, 0])
    across = (weight @ _mean_kernel(codes, drawn, kernel) @ alike) / (weight.sum() * len(drawn))
    return _within(codes, weight, kernel) + _within(drawn, alike, kernel) - 2 * across


def _within(z: Tensor, weight: Tensor, kernel: str) -> Tensor:
    """The kernel's mean over pairs of different rows."""
    found = _mean_kernel(z, z, kernel)
    pairs = weight[:, None] * weight * (1 - torch.eye(len(z), dtype=z.dtype, device=z.device))
    return (pairs * found).sum() / pairs.sum().clamp_min(torch.finfo(z.dtype).tiny)


def _mean_kernel(one: Tensor, other: Tensor, kernel: str) -> Tensor:
    """The kernel of every pair, averaged over its scales: (N, M)."""
    squares = one.square().sum(1)[:, None] + other.square().sum(1) - 2 * one @ other.T
    squares = squares.clamp_min(0.0)  # what rounding leaves of equal rows
    scale = 2 * one.shape[1]
    return sum(KERNELS[kernel](squares, scale * multiple) for multiple in MULTIPLES) / len(MULTIPLES)  # type: ignore
