"""Rows through a fitted model, block by block: memory follows the block and the result, not X."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import Tensor

from .._tables.batches import Batch, to_rows
from .._tables.moments import Array, Scale, at_most, has_gaps, row_blocks
from .._torch import thread_limit, torch_scope
from ..model import VAE
from .cells import Lattice, lattice_of
from .draws import draws, points_for
from .marginals import marginal
from .proposals import Noise, Proposal, around, around_modes, in_cells, starts_of
from .quadrature import Rule, normal_rule
from .quantiles import quantiles
from .scores import block_rows, conditional_mean, likelihood_by_cells, log_likelihood, mean_by_cells

__all__ = ["Inference", "filled", "refuse_far_rows"]


# Points, at least, around the posterior of rows for which the first ones did not do.
MORE_POINTS = 256


# Rows that are looked at cell by cell come in blocks as if for so many points: cells are taken in parts.
CELL_POINTS = 16


# Points per latent by which rows are judged before they are drawn: they reach as far as draws do.
JUDGING_NODES = 8


# Rows whose quantiles or marginals are asked come in blocks as if for so many points: points are taken in parts.
QUANTILE_POINTS = 128


# Rows with gaps come in blocks as if for so many points.
GAP_POINTS = 2


# Rows that are asked again, at most at a time.
ASKED_AGAIN = 10_000


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

    def rows(self, X: Array) -> Batch:
        """Rows in data units as the model takes them."""
        return to_rows(X, self.scale, dtype=torch.float64).to(self.device)

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
            return function(self.model, self.rows(X[part]))

        size = block_rows(self.model, n_draws, widest, factors)
        return filled(len(X), size, of, dtype, self.device, threads)

    @cached_property
    def lattice(self) -> Lattice | None:
        """The cells all rows share; None for more than two latents."""
        return lattice_of(self.model, self.device)

    def log_likelihood(self, X: Array) -> np.ndarray:
        """log p(x) of the rows of X, in nats of data units: (N,)."""
        return self._settled(X, log_likelihood, likelihood_by_cells)[:, 0].copy()

    def conditional_mean(self, X: Array) -> np.ndarray:
        """E[x | the present cells] of the rows of X, in model units: (N, D)."""
        return self._settled(X, conditional_mean, mean_by_cells)

    def _settled(self, X: Array, by_points: Callable[..., Tensor], by_cells: Callable[..., Tensor]) -> np.ndarray:
        """What points around q(z|x) say of the rows of X, or more points around the decoder's posterior, or cells.

        What comes later costs more, and is asked where what comes before is to be doubted: its last column says so.
        """
        rule, lattice = self.rule, self.lattice
        # Newton's steps for rows with gaps take a call each whatever the block; points are taken in parts.
        n_points = min(self.n_draws, GAP_POINTS) if has_gaps(X) else self.n_draws
        found = self.by_blocks(X, lambda model, rows: by_points(model, rows, rule, lattice), n_points)
        doubtful = found[:, -1] == 1
        # Points take as long to make as a row takes to score.
        more = replace(self, n_draws=max(self.n_draws, MORE_POINTS)).rule if doubtful.any() else rule
        for numbers in _some(doubtful):
            found[numbers] = self.by_blocks(
                X[numbers], lambda model, rows: by_points(model, rows, more, lattice, True), len(more.eps)
            )
        for numbers in _some(found[:, -1] > 0):
            found[numbers, :-1] = self.by_blocks(
                X[numbers], lambda model, rows: by_cells(model, rows, lattice), CELL_POINTS
            )
        return found[:, :-1]

    def conditional_draws(self, X: Array, n_draws: int, rng: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws of x given the present cells of the rows of X, in model units, (N, n_draws, D).

        And of how many effective points each row's come, (N,).
        """
        n_points, noise = points_for(n_draws, self.n_draws), Noise(rng)

        def drawn(model: VAE, rows: Batch, proposal: Proposal) -> tuple[Tensor, Tensor]:
            return draws(model, rows, proposal, n_points, n_draws, noise)

        return self._tables(X, drawn, n_draws, max(self.n_draws, n_draws))

    def conditional_quantiles(self, X: Array, levels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles of x given the present cells of the rows of X, for rising levels, in model units: (N, L, D).

        And of how many effective points each row's come, (N,).
        """

        def found(model: VAE, rows: Batch, proposal: Proposal) -> tuple[Tensor, Tensor]:
            return quantiles(model, rows, proposal, levels, self.seed)

        return self._tables(X, found, len(levels), QUANTILE_POINTS, threads=True)

    def _tables(
        self, X: Array, function: Callable[..., tuple[Tensor, Tensor]], n_tables: int, n_points: int, **how: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """A function's tables (n_tables, N, D) and effective points (N,), `_by_proposal`: rows first."""

        def packed(model: VAE, rows: Batch, proposal: Proposal) -> Tensor:
            tables, n_effective = function(model, rows, proposal)
            return torch.cat([tables.transpose(0, 1).flatten(1), n_effective[:, None]], dim=1)

        values = self._by_proposal(X, packed, n_points, **how)
        return values[:, :-1].reshape(len(X), n_tables, -1), values[:, -1]

    def marginal(self, X: Array, column: int) -> np.ndarray:
        """How likely each category of a column is given the present cells of the rows of X: (N, K)."""

        def found(model: VAE, rows: Batch, proposal: Proposal) -> Tensor:
            return marginal(model, rows, proposal, column, self.seed)

        return self._by_proposal(X, found, QUANTILE_POINTS, threads=True)

    def _by_proposal(
        self, X: Array, function: Callable[[VAE, Batch, Proposal], Tensor], n_points: int, threads: bool = False
    ) -> np.ndarray:
        """`function` of the rows of X, in blocks as if for so many points, each with the proposal that suits it."""
        lattice = self.lattice

        def of(X: Array, proposal: Callable[..., Proposal], *more: Any) -> np.ndarray:
            # One thread where draws come from a generator, in order.
            return self.by_blocks(
                X, lambda model, rows: function(model, rows, proposal(model, rows, *more)), n_points, threads=threads
            )

        if lattice is None:
            return of(X, around_modes, starts_of(self.model, self.device))
        n_nodes = JUDGING_NODES**self.model.prior.n_components
        judging = replace(self, n_draws=n_nodes).rule
        judged = self.by_blocks(X, lambda model, rows: log_likelihood(model, rows, judging, lattice), n_nodes)
        doubtful = judged[:, 1] > 0
        if doubtful.all():
            return of(X, in_cells, lattice)
        found = of(X[~doubtful], around)
        whole = np.empty((len(X), found.shape[1]))
        whole[~doubtful] = found
        if doubtful.any():
            whole[doubtful] = of(X[doubtful], in_cells, lattice)
        return whole

    def decoded(
        self, Z: Array, function: Callable[[VAE, Tensor, Tensor | None], Tensor], X: Array | None = None
    ) -> np.ndarray:
        """`function` of latents in training order and of rows of X, in blocks, in data units.

        X, in data units, has what is given of the rows, and NaN in unknown cells; given columns keep theirs.
        """
        columns = self.model.likelihood.given_columns

        def of(part: slice) -> np.ndarray:
            z = torch.tensor(Z[part], dtype=torch.float64, device=self.device)
            x = None if X is None else self.rows(X[part]).known
            found = self.to_data(function(self.model, z, x).cpu().numpy())
            if X is not None:
                found[:, columns] = X[part][:, columns]
            return found

        # One thread: draws come from a generator, in order.
        return filled(len(Z), block_rows(self.model, 1), of, np.float64, self.device, threads=False)

    def to_data(self, values: np.ndarray) -> np.ndarray:
        """Values in model units, (..., D), in data units; the largest float where they are beyond it."""
        return at_most(self.scale.to_data(values), np.float64)


def _some(which: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the rows where `which` holds, some at a time."""
    numbers = np.flatnonzero(which)
    for first in range(0, len(numbers), ASKED_AGAIN):
        yield numbers[first : first + ASKED_AGAIN]


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
