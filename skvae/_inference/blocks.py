"""Rows through a fitted model, block by block: memory follows the block and the result, not X."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import Tensor

from .._tables.batches import Batch, to_rows
from .._tables.moments import Array, Scale, row_blocks
from .._torch import thread_limit, torch_scope
from ..model import VAE
from .quadrature import Rule, normal_rule
from .scores import block_rows, log_likelihood

__all__ = ["Inference", "filled", "refuse_far_rows"]


@dataclass(frozen=True)
class Inference:
    """A fitted model, and what it takes to look at rows in data units.

    Attributes
    ----------
    model : VAE
        In float64 and evaluation mode, on `device`.
    scale : Scale
    device : torch.device
    n_draws, seed : int
        Points per row, and what they are made from.
    """

    model: VAE
    scale: Scale
    device: torch.device
    n_draws: int
    seed: int

    @cached_property
    def rule(self) -> Rule:
        """The points all rows share."""
        return normal_rule(self.n_draws, self.model.prior.n_components, self.seed).to(self.device)

    def by_blocks(
        self,
        X: Array,
        function: Callable[[VAE, Batch], Tensor],
        n_draws: int = 1,
        dtype: Any = np.float64,
        widest: int = 1,
        factors: bool = True,
        threads: bool = True,
    ) -> np.ndarray:
        """`function` of the rows of X, in blocks. `widest`: the most numbers it allocates per row."""

        def of(part: slice) -> Tensor:
            return function(self.model, to_rows(X[part], self.scale, dtype=torch.float64).to(self.device))

        size = block_rows(self.model, n_draws, widest, factors)
        return filled(len(X), size, of, dtype, self.device, threads)

    def log_likelihood(self, X: Array) -> np.ndarray:
        """log p(x) of the rows of X, in nats of data units: (N,)."""
        rule = self.rule
        return self.by_blocks(X, lambda model, rows: log_likelihood(model, rows, rule), self.n_draws)

    def decoded(self, Z: Array, function: Callable[[VAE, Tensor], Tensor]) -> np.ndarray:
        """`function` of latents in training order, in blocks, in data units."""

        def of(part: slice) -> np.ndarray:
            z = torch.tensor(Z[part], dtype=torch.float64, device=self.device)
            return self.scale.to_data(function(self.model, z).cpu().numpy())

        # One thread: draws come from a generator, in order.
        return filled(len(Z), block_rows(self.model, 1), of, np.float64, self.device, threads=False)


def filled(
    n_rows: int,
    size: int,
    of: Callable[[slice], Tensor | np.ndarray],
    dtype: Any,
    device: torch.device,
    threads: bool,
) -> np.ndarray:
    """The rows `of(part)` of every block of `size` rows, in one array.

    Many blocks are shared out among threads of one core each: they never wait for each other, as the threads inside a
    product do.
    """
    blocks = list(gen_batches(n_rows, size))
    threads = threads and device.type == "cpu"
    limit = 0 if threads else None

    def values(part: slice) -> np.ndarray:
        found = of(part)
        return found.cpu().numpy() if isinstance(found, Tensor) else found

    with torch_scope(device, grad=False), thread_limit(limit):
        first = values(blocks[0])
    result = np.empty((n_rows, *first.shape[1:]), dtype=dtype)
    result[blocks[0]] = first

    def fill(parts: list[slice]) -> None:
        with torch_scope(device, grad=False), thread_limit(limit):
            for part in parts:
                result[part] = values(part)

    n_threads = torch.get_num_threads() if threads else 1
    if n_threads > 1 and len(blocks) > 2 * n_threads:
        shares = [blocks[1 + i :: n_threads] for i in range(n_threads)]
        # joblib would look every 10 ms whether they are done, which is as long as a small table takes.
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(fill, shares))
    else:
        fill(blocks[1:])
    return result


def refuse_far_rows(values: np.ndarray, row_numbers: Sequence[int] | np.ndarray, what: str = "encoded") -> None:
    """Raise ValueError, naming a row by its number, where `values` (N, ...) are not finite."""
    for part in row_blocks(values):
        finite = np.isfinite(values[part])
        if finite.all():
            continue
        row = row_numbers[part][(~finite.reshape(len(finite), -1).all(axis=1)).argmax()]
        raise ValueError(f"Row {row} of X is too far from the training data to be {what}; check its values.")
