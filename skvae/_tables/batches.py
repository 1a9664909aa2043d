"""Rows in the model's units: the batches that a training loop reads, and the tables they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import Tensor

from .moments import BLOCK_NUMBERS, Array, Scale
from .sources import RowSource

__all__ = ["ArrayTable", "Batch", "FileTable", "Table", "as_table", "joined", "shuffled", "to_rows"]

# Numbers that are gathered at once, for as many small batches as they make: few enough for the processor's cache.
GATHERED_NUMBERS = 32_768
# Tables of up to this many numbers are kept in the model's units; larger ones are converted a batch at a time.
SMALL_TABLE = 1_000_000
# A table that is read from elsewhere is shuffled by blocks of about so many numbers, and the rows of this many blocks
# together; and this many rows are held out of it, at most.
SHUFFLED_NUMBERS, SHUFFLED_BLOCKS, MOST_HELD_OUT = 65_536, 32, 100_000


def shuffled(n: int, rng: torch.Generator) -> Tensor:
    """The numbers below n in random order, in four bytes each: of a long table they are a good part of all memory."""
    return torch.randperm(n, generator=rng, device=rng.device, dtype=torch.int32 if n < 2**31 else torch.int64)


class Table(ABC):
    """Ways through a table, for anything that has a length and can `take` rows."""

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """D."""

    @abstractmethod
    def take(self, index: Tensor) -> Batch:
        """The rows at `index`."""

    @abstractmethod
    def blocks(self, size: int | None = None) -> Iterator[Batch]:
        """The rows in order, at most `size` at a time."""

    @abstractmethod
    def part(self, index: Tensor) -> Table:
        """The rows at `index`, to train on."""

    @abstractmethod
    def mapped(self, change: Callable[[Tensor], Tensor], target: bool = False) -> Table:
        """The same rows with `change(x)` in place of x, and `change(y)` in place of y if `target`."""

    def subsample(self, most: int) -> Batch:
        """Every so many rows, `most` at most: the first ones of a sorted table would not stand for it."""
        return self.take(torch.arange(0, len(self), -(-len(self) // most)))

    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Batch]:
        """One epoch: shuffled rows in even batches of about `batch_size`, none dropped, no small rest.

        Rows are gathered for several small batches at once.
        """
        order = shuffled(len(self), rng).to(self.device)
        n_batches = -(-len(self) // batch_size)
        small, n_large = divmod(len(self), n_batches)
        sizes = [small + 1] * n_large + [small] * (n_batches - n_large)
        at_once = max(1, GATHERED_NUMBERS // max(1, batch_size * self.n_features))
        for first in range(0, n_batches, at_once):
            group = sizes[first : first + at_once]
            taken, order = order.split([sum(group), len(order) - sum(group)])
            yield from self.take(taken).split(group)

    def some(self, most: int, rng: torch.Generator) -> Batch:
        """Some random rows, `most` or so at most, read as a batch of an epoch is."""
        return next(iter(self.batches(min(most, len(self)), rng)))

    def whole(self) -> Batch:
        """All rows as tensors."""
        return joined(list(self.blocks()))

    def split_off(self, n_rows: int, rng: torch.Generator) -> tuple[Any, Any]:
        """The table without `n_rows` random rows, and those."""
        order = shuffled(len(self), rng)
        return self.part(order[n_rows:]), self.part(order[:n_rows]).whole()

    @property
    def device(self) -> torch.device:
        """Where the rows that are taken lie."""
        return torch.device("cpu")


@dataclass
class Batch(Table):
    """Rows in the model's units. A missing cell holds 0 in `x` and 0 in `mask`.

    Attributes
    ----------
    x : Tensor of shape (N, D)
    mask : Tensor of shape (N, D) or None
        1 where a cell is present; None when all are.
    weight : Tensor of shape (N,) or None
        Sample weights of mean 1; None when all are equal.
    y : Tensor of shape (N, ...) or None
        Targets, for objectives with a `target`.
    """

    x: Tensor
    mask: Tensor | None = None
    weight: Tensor | None = None
    y: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        mask, weight, y = (None if v is None else change(v) for v in (self.mask, self.weight, self.y))
        return Batch(change(self.x), mask, weight, y)

    @property
    def n_features(self) -> int:
        return self.x.shape[-1]

    def mapped(self, change: Callable[[Tensor], Tensor], target: bool = False) -> Batch:
        return replace(self, x=change(self.x), y=change(self.y) if target and self.y is not None else self.y)

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def known(self) -> Tensor:
        """x with NaN in missing cells."""
        return self.x if self.mask is None else self.x.masked_fill(self.mask == 0, torch.nan)

    def take(self, index: Tensor) -> Batch:
        return self._map(lambda value: value.index_select(0, index))

    def to(self, device: torch.device) -> Batch:
        """The same rows on `device`."""
        return self._map(lambda value: value.to(device))

    def blocks(self, size: int | None = None) -> Iterator[Batch]:
        size = size or max(1, BLOCK_NUMBERS // self.x.shape[1])
        for first in range(0, len(self), size):
            yield self._map(partial(torch.narrow, dim=0, start=first, length=min(size, len(self) - first)))

    def split(self, sizes: list[int]) -> Iterator[Batch]:
        """Views of consecutive rows, `sizes` of them."""
        parts = [[None] * len(sizes) if v is None else v.split(sizes) for v in (self.mask, self.weight, self.y)]
        return map(Batch, self.x.split(sizes), *parts)

    def part(self, index: Tensor) -> Batch:
        return self.take(index)

    def whole(self) -> Batch:
        return self

    def mean(self, values: Tensor) -> Tensor:
        """Mean over rows of `values` (N, ...), weighted where the rows are; a scalar passes through."""
        if values.dim() == 0:
            return values
        if self.weight is None:
            return values.mean(0)
        return torch.tensordot(self.weight, values, dims=1) / len(self)


@dataclass(eq=False)
class ArrayTable(Table):
    """The rows of an array in data units, converted to the model's when they are taken: nothing is copied before.

    Parameters
    ----------
    X : array of shape (N, D)
        float32 or float64; NaN marks a missing cell.
    scale : Scale
    weight, y : arrays of shape (N,) and (N, ...), or None
    index : Tensor of int or None
        The rows this table consists of; None for all.
    change : callable or None
        Of rows in the model's units, `change(rows)` are taken.
    """

    X: Any
    scale: Scale
    weight: Array | None = None
    y: Array | None = None
    index: Tensor | None = None
    change: Callable[[Batch], Batch] | None = None

    def __len__(self) -> int:
        return len(self.X) if self.index is None else len(self.index)

    @property
    def n_features(self) -> int:
        return self.X.shape[1]

    def _converted(self, X: Array, weight: Array | None, y: Array | None) -> Batch:
        rows = to_rows(X, self.scale, weight, y)
        return rows if self.change is None else self.change(rows)

    def take(self, index: Tensor) -> Batch:
        at = (index if self.index is None else self.index[index]).numpy()
        return self._converted(self.X[at], *(None if v is None else v[at] for v in (self.weight, self.y)))

    def part(self, index: Tensor) -> ArrayTable:
        return replace(self, index=index if self.index is None else self.index[index])

    def blocks(self, size: int | None = None) -> Iterator[Batch]:
        for part in gen_batches(len(self), size or max(1, BLOCK_NUMBERS // self.n_features)):
            yield self.take(torch.arange(part.start, part.stop))

    def mapped(self, change: Callable[[Tensor], Tensor], target: bool = False) -> ArrayTable:
        earlier = self.change
        return replace(self, change=lambda rows: (rows if earlier is None else earlier(rows)).mapped(change, target))

    def to(self, device: torch.device) -> ArrayTable | Batch:
        """The table itself on the CPU, its rows as tensors on another device."""
        return self if device.type == "cpu" else self.whole().to(device)


@dataclass(eq=False)
class FileTable(ArrayTable):
    """The rows of a table that is read from elsewhere, block by block: a file, or a sparse matrix.

    An epoch reads `SHUFFLED_BLOCKS` blocks of neighbouring rows at once, from anywhere in the table, and shuffles their
    rows. Reading row by row would ask the disk for each, and a permutation of all rows would take more memory than a
    batch.

    Parameters
    ----------
    X : RowSource
    scale, weight, y, change
        As in `ArrayTable`.
    index : Tensor of int or None
        The blocks this table consists of; None for all. A last, shorter one stands last.
    """

    def __post_init__(self) -> None:
        self.size = max(1, SHUFFLED_NUMBERS // max(1, self.n_features))
        self.numbers = torch.arange(-(-len(self.X) // self.size)) if self.index is None else self.index.sort().values

    def __len__(self) -> int:
        n_blocks = len(self.numbers)
        lacking = -len(self.X) % self.size if n_blocks and self.numbers[-1] == len(self.X) // self.size else 0
        return n_blocks * self.size - lacking

    def _rows_of(self, numbers: Tensor) -> Batch:
        """The rows of these blocks."""
        slices = [slice(n * self.size, min((n + 1) * self.size, len(self.X))) for n in numbers.tolist()]
        weight, y = (None if v is None else np.concatenate([v[s] for s in slices]) for v in (self.weight, self.y))
        return self._converted(self.X.slices(slices), weight, y)

    def take(self, index: Tensor) -> Batch:
        return self.part(index).whole()

    def part(self, index: Tensor) -> ArrayTable:
        at = self.numbers[index // self.size] * self.size + index % self.size
        return ArrayTable(self.X, self.scale, self.weight, self.y, at, self.change)

    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Batch]:
        """One epoch: shuffled rows in batches of about `batch_size`, none dropped."""
        order = self.numbers[shuffled(len(self.numbers), rng).cpu()]
        for numbers in order.tensor_split(-(-len(order) // SHUFFLED_BLOCKS)):
            yield from self._rows_of(numbers.sort().values).batches(batch_size, rng)

    def split_off(self, n_rows: int, rng: torch.Generator) -> tuple[FileTable, Batch]:
        """The table without some random blocks that hold about `n_rows`, `MOST_HELD_OUT` at most, and those."""
        n_blocks = max(1, min(n_rows, MOST_HELD_OUT) // self.size)
        order = self.numbers[shuffled(len(self.numbers), rng).cpu()]
        return replace(self, index=order[n_blocks:]), self._rows_of(order[:n_blocks].sort().values)

    def blocks(self, size: int | None = None) -> Iterator[Batch]:
        """The rows in order, a few blocks at a time."""
        return map(self._rows_of, self.numbers.split(max(1, BLOCK_NUMBERS // SHUFFLED_NUMBERS)))


def as_table(X: Array | RowSource, scale: Scale, weight: Array | None, y: Array | None) -> Batch | ArrayTable:
    """The rows of a table, in the model's units where it is small, to be converted when they are taken elsewhere."""
    if X.size <= SMALL_TABLE:
        return to_rows(X[:], scale, weight, y)
    return FileTable(X, scale, weight, y) if isinstance(X, RowSource) else ArrayTable(X, scale, weight, y)


def joined(parts: list[Batch]) -> Batch:
    """Consecutive blocks as one."""
    if any(part.mask is not None for part in parts):
        parts = [replace(part, mask=torch.ones_like(part.x)) if part.mask is None else part for part in parts]
    fields = ([getattr(part, name) for part in parts] for name in ("x", "mask", "weight", "y"))
    tensors: Any = (None if values[0] is None else torch.cat(values) for values in fields)
    return Batch(*tensors)


def to_rows(
    X: Array,
    scale: Scale,
    weight: Array | None = None,
    y: Array | None = None,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Rows in model units from a float64 table in data units, where NaN marks a missing cell."""
    # float32 numbers that stay as they are need no detour through float64.
    x = X.copy() if X.dtype == np.float32 and scale.is_identity() else scale.to_model(X)
    mask = None
    if x.size and np.isnan(x.min()):
        mask = ~np.isnan(x)
        x[~mask] = 0.0
    # Of their own memory: numpy arrays may be read-only or memory-mapped.
    tensors = (None if v is None else torch.tensor(v, dtype=dtype, device="cpu") for v in (mask, weight, y))
    return Batch(torch.from_numpy(x).to(dtype), *tensors)
