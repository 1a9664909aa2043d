"""Rows through a fitted model, block by block: memory follows the block and the result, not X."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import Tensor

from .. import _state
from .._tables.batches import Rows, to_rows
from .._tables.moments import Array, Scale, row_blocks
from .._torch import resolve_device, thread_limit, torch_scope
from ..model import VAE
from .quadrature import Rule, normal_rule
from .scores import block_rows

__all__ = ["Fitted", "filled", "refuse_far_rows"]


class Fitted:
    """What every fitted estimator needs to look at rows."""

    device: str
    n_draws: int
    n_components_: int
    scale_: Array
    _shift: Array
    _seed: int

    @property
    def module_(self) -> VAE:
        """The fitted model as a torch module, in float64 and evaluation mode; its latents are in training order."""
        if "_weights" not in vars(self):
            raise AttributeError(f"This {type(self).__name__} is not fitted yet; call fit first.")
        return _state.module_of(self, self._inference_device())

    def _scale(self) -> Scale:
        """The map between data units and the fitted model's."""
        return Scale(self._shift, self.scale_)

    def _inference_device(self) -> torch.device:
        """Inference is in float64, which Apple's GPUs lack."""
        device = resolve_device(self.device)
        return torch.device("cpu") if device.type == "mps" else device

    def _rule(self) -> Rule:
        """The points all rows share."""
        return normal_rule(self.n_draws, self.n_components_, self._seed).to(self._inference_device())

    def _by_blocks(
        self,
        X: Array,
        function: Callable[[VAE, Rows], Tensor],
        n_draws: int = 1,
        dtype: Any = np.float64,
        widest: int = 1,
        factors: bool = True,
        threads: bool = True,
    ) -> np.ndarray:
        """`function` of the rows of X, block by block; it holds `widest` numbers per row, a layer's if that is more."""
        device = self._inference_device()
        model, scale = _state.module_of(self, device), self._scale()

        def of(part: slice) -> Tensor:
            return function(model, to_rows(X[part], scale, dtype=torch.float64).to(device))

        return filled(len(X), block_rows(model, n_draws, widest, factors), of, dtype, device, threads)


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


def refuse_far_rows(values: np.ndarray, row_numbers: Sequence[int] | np.ndarray) -> None:
    """Raise ValueError, naming a row by its number, where `values` (N, ...) are not finite."""
    for part in row_blocks(values):
        finite = np.isfinite(values[part])
        if finite.all():
            continue
        row = row_numbers[part][(~finite.reshape(len(finite), -1).all(axis=1)).argmax()]
        raise ValueError(f"Row {row} of X is too far from the training data to be encoded; check its values.")
