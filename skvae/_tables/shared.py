"""The rows of all ranks as one table, of which this process has a part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._ranks import first_and_all, from_ranks, gathered, is_shared, own_generator, own_rank
from .batches import ArrayTable, Batch, Table, joined

__all__ = ["HeldOut", "Rows", "Share", "SharedTable", "of_all_ranks"]


@dataclass
class Share(Batch):
    """This rank's rows of a batch, and how many rows all ranks have in it; `fault` is why there are none."""

    n_whole: int = 0
    fault: Exception | None = None


def of_all_ranks(own: Any) -> Any:
    """The table that the ranks have together; `own` itself where this process has it all."""
    return SharedTable(own, tuple(gathered(len(own)))) if is_shared() else own


@dataclass(eq=False)
class SharedTable(Table):
    """The table that the ranks have together, one part behind the other.

    Its length is that of all parts; `take`, and what is made of it, gives every rank the same rows. What goes through
    `blocks` goes through the own part, so that sums are to be formed by `sum_rows`.

    Parameters
    ----------
    own : Batch or ArrayTable
        This rank's part.
    sizes : tuple of int
        How many rows each rank has.
    """

    own: Any
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def n_features(self) -> int:
        return self.own.n_features

    @property
    def device(self) -> torch.device:
        return self.own.device

    @property
    def weight(self) -> Tensor | None:
        """The weights of all rows, of a table whose parts are in memory."""
        parts = gathered(self.own.weight)
        return None if parts[0] is None else torch.cat([part.cpu() for part in parts])

    def take(self, index: Tensor) -> Batch:
        def taken(numbers: np.ndarray) -> tuple[np.ndarray | None, ...]:
            rows = self.own.take(torch.from_numpy(numbers).to(self.device))
            mask = torch.ones_like(rows.x) if rows.mask is None else rows.mask
            return tuple(None if v is None else v.cpu().numpy() for v in (rows.x, mask, rows.weight, rows.y))

        arrays = from_ranks(index.cpu().numpy(), len(self.own), taken)
        x, mask, weight, y = (None if v is None else torch.from_numpy(v).to(self.device) for v in arrays)
        assert x is not None
        assert mask is not None
        return Batch(x, None if bool((mask == 1).all()) else mask, weight, y)

    def blocks(self, size: int | None = None) -> Iterator[Batch]:
        return self.own.blocks(size) if len(self.own) else iter(())

    def part(self, index: Tensor) -> SharedTable:
        first, _ = first_and_all(len(self.own))
        here = index[(index >= first) & (index < first + len(self.own))]
        return of_all_ranks(self.own.part(here - first))

    def mapped(self, change: Callable[[Tensor], Tensor], target: bool = False) -> SharedTable:
        return replace(self, own=self.own.mapped(change, target))

    def to(self, device: torch.device) -> SharedTable:
        """The same rows on `device`."""
        return replace(self, own=self.own.to(device))

    def whole(self) -> Batch:
        return self.take(torch.arange(len(self)))

    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Share]:
        """One epoch: this rank's shares of even batches of about `batch_size` rows of all ranks.

        A rank's rows, shuffled, are spread over all batches. One that cannot read on has none in the rest.
        """
        n_batches = -(-len(self) // batch_size)
        by_rank = [_even(size, n_batches) for size in self.sizes]
        sizes, wholes = by_rank[own_rank()], np.sum(by_rank, axis=0).tolist()
        rows, fault = _cut(self.own.batches(max(1, max(sizes)), rng), sizes, self._none), None
        gathered(None)  # all begin together, or none
        for n_whole in wholes:
            batch = self._none
            if fault is None:
                try:
                    batch = next(rows)
                except Exception as error:
                    fault = error
            yield Share(batch.x, batch.mask, batch.weight, batch.y, n_whole, fault)

    @property
    def _none(self) -> Batch:
        return Batch(torch.empty(0, self.n_features, dtype=torch.float32, device=self.device))

    def some(self, most: int, rng: torch.Generator) -> Batch:
        """Some random rows, `most` or so at most, the same on all ranks."""
        share = -(-min(most, len(self)) * len(self.own) // len(self))
        drawn = next(iter(self.own.batches(share, own_generator(rng)))) if share else None
        return joined([part for part in gathered(drawn) if part is not None])

    def split_off(self, n_rows: int, rng: torch.Generator) -> tuple[SharedTable, SharedTable]:
        """The table without random rows of all ranks, in proportion, and those."""
        share, rng = _in_proportion(n_rows, self.sizes)[own_rank()], own_generator(rng)
        kept, taken = self.own.split_off(share, rng) if share else (self.own, self._none)
        return of_all_ranks(kept), of_all_ranks(taken)


def _even(n_rows: int, n_batches: int) -> list[int]:
    """Even sizes of so many batches, the larger ones first."""
    small, n_large = divmod(n_rows, n_batches)
    return [small + 1] * n_large + [small] * (n_batches - n_large)


def _in_proportion(total: int, sizes: tuple[int, ...]) -> list[int]:
    """Whole shares of a total, in proportion to sizes."""
    ends = [0, *np.cumsum(sizes).tolist()]
    return np.diff([total * end // ends[-1] for end in ends]).tolist()


def _cut(batches: Iterator[Batch], sizes: list[int], none: Batch) -> Iterator[Batch]:
    """The same rows in batches of these sizes."""
    rest = none
    for size in sizes:
        waiting = [rest] if len(rest) else []
        while sum(map(len, waiting)) < size:
            waiting.append(next(batches))
        whole = joined(waiting) if len(waiting) > 1 else waiting[0] if waiting else none
        taken, rest = whole.split([size, len(whole) - size]) if len(whole) > size else (whole, none)
        yield taken


# A table to fit to, and rows that are kept from it.
Rows = Batch | ArrayTable | SharedTable
HeldOut = Batch | SharedTable
