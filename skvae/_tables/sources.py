"""Tables that are read a few rows at a time: sparse ones, and those that lie in a file."""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

__all__ = ["Recoded", "RowSource", "Selected", "as_source"]

# Bytes read from a mapped file before its pages are given back: they would count as this process' memory.
MAPPED_BYTES = 64_000_000
# The kernel may map as much around a byte that is read, where it keeps the file in large pages.
LARGEST_PAGE = 2_000_000
# Numbers of a chunk that are read at once where only some of its rows are wanted.
LARGEST_PIECE = 4_000_000


class RowSource(ABC):
    """A table whose rows are read when asked for: `source[rows]` is a dense array of floats.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy dtype
        float32 where nothing is lost by it, float64 otherwise.
    """

    ndim = 2

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape = shape
        self.dtype = np.dtype(np.float32 if dtype == np.float32 else np.float64)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """How many numbers the table holds."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """A row by its number, or the rows of a slice, or of an array of row numbers or of True and False."""
        if isinstance(rows, (int, np.integer)):
            first = range(len(self))[rows]  # negative ones count from the end; none is beyond it
            return self[first : first + 1][0]
        if isinstance(rows, slice) and rows.step in (None, 1):
            found = self._slice(*rows.indices(len(self))[:2])
        else:
            rows = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
            found = self._take(np.flatnonzero(rows) if rows.dtype == bool else rows)
        return np.ascontiguousarray(found, dtype=self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows, in an array of their own."""
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def slices(self, parts: list[slice]) -> np.ndarray:
        """The rows of several slices, which lie in order."""
        return np.concatenate([self[part] for part in parts])

    @abstractmethod
    def _slice(self, first: int, last: int) -> np.ndarray:
        """Rows `first` to `last` - 1."""

    @abstractmethod
    def _take(self, rows: np.ndarray) -> np.ndarray:
        """The rows of these numbers, in this order."""


class _Pages:
    """The mapped files that some arrays lie in, whose pages are given back while they are read."""

    def __init__(self, *arrays: Any):
        self.maps = [found for found in map(_mapping, arrays) if found is not None]
        self.read, self.last = 0, 0

    @property
    def rows_at_once(self) -> int:
        """How many scattered rows may be read before pages are given back: any may lie in a page of its own."""
        return MAPPED_BYTES // LARGEST_PAGE // max(1, len(self.maps))

    def count(self, n_bytes: int, place: int) -> None:
        """Note what was read of each map, from byte `place` on; where that may be much, give it back."""
        far = abs(place - self.last) > LARGEST_PAGE  # neighbours lie in the same pages
        self.read += (n_bytes + far * LARGEST_PAGE) * len(self.maps)
        self.last = place + n_bytes
        if self.read >= MAPPED_BYTES:
            self.give_back()

    def give_back(self) -> None:
        """Let go of the pages; the kernel keeps them, or reads them again."""
        self.read = 0
        for mapping in self.maps:
            mapping.madvise(mmap.MADV_DONTNEED)

    def scattered(self, rows: np.ndarray, width: int, dtype: Any, read: Callable[[np.ndarray], Any]) -> np.ndarray:
        """The rows that `read` gives for some numbers at a time, in one array."""
        if not self.maps:
            return read(rows)
        found = np.empty((len(rows), width), dtype=dtype)
        for first in range(0, len(rows), self.rows_at_once):
            part = slice(first, first + self.rows_at_once)
            found[part] = read(rows[part])
            self.give_back()
        return found


def _mapping(array: Any) -> Any:
    """The mapped file that an array lies in; None where it is in memory, or its owner's own copy (mode "c")."""
    while not isinstance(array, np.memmap):
        if array is None:
            return None
        array = getattr(array, "base", None)
    owner: Any = array
    return owner._mmap if owner.mode in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED") else None


class SparseRows(RowSource):
    """A CSR matrix, made dense a block at a time. What is not stored is 0, not missing."""

    def __init__(self, X: Any):
        super().__init__(X.shape, X.dtype)
        self.X, self.pages = X, _Pages(X.data, X.indices, X.indptr)

    def _slice(self, first: int, last: int) -> np.ndarray:
        # What the matrix' own slicing does, without its checks and copies.
        ends = self.X.indptr[first : last + 1]
        stored = slice(ends[0], ends[-1])
        part = self.X.data[stored], self.X.indices[stored], ends - ends[0]
        dense = type(self.X)(part, shape=(last - first, self.shape[1])).toarray()
        self.pages.count(part[0].nbytes, int(ends[0]) * self.X.data.itemsize)
        return dense

    def _take(self, rows: np.ndarray) -> np.ndarray:
        return self.pages.scattered(rows, self.shape[1], self.dtype, lambda some: self.X[some].toarray())


class MappedRows(RowSource):
    """An array in a file (numpy.memmap), whose pages are given back while it is read."""

    def __init__(self, X: np.memmap):
        super().__init__(X.shape, X.dtype)
        self.X, self.pages = X, _Pages(X)

    def _slice(self, first: int, last: int) -> np.ndarray:
        copy = np.array(self.X[first:last], dtype=self.dtype)
        self.pages.count(copy.nbytes, first * copy.shape[1] * self.X.itemsize)
        return copy

    def _take(self, rows: np.ndarray) -> np.ndarray:
        return self.pages.scattered(rows, self.shape[1], self.dtype, lambda some: np.asarray(self.X[some]))


class ChunkedRows(RowSource):
    """An array that a library keeps in chunks: h5py, zarr, dask and others that can be sliced by rows."""

    def __init__(self, X: Any):
        super().__init__(X.shape, X.dtype)
        self.X = X

    def _slice(self, first: int, last: int) -> np.ndarray:
        return np.asarray(self.X[first:last])

    def _take(self, rows: np.ndarray) -> np.ndarray:
        """One slice for each run of neighbours, or each chunk: such a library reads a chunk whole, for one row too."""
        wanted, place = np.unique(rows, return_inverse=True)
        apart = (np.diff(wanted) > 1) & (np.diff(self._piece(wanted)) > 0)
        runs = np.split(wanted, np.flatnonzero(apart) + 1)
        parts = [self._slice(int(run[0]), int(run[-1]) + 1)[run - run[0]] for run in runs if len(run)]
        return np.concatenate(parts)[place] if parts else np.empty((0, self.shape[1]))

    def slices(self, parts: list[slice]) -> np.ndarray:
        return self[np.concatenate([np.arange(part.start, part.stop) for part in parts])]

    def _piece(self, rows: np.ndarray) -> np.ndarray:
        """The number of the chunk that each row lies in, or of a part of it, if a chunk is very large."""
        size = (self.X.chunks or [1])[0]
        if isinstance(size, tuple):  # dask's chunks differ
            ends = np.cumsum(size)
            return np.searchsorted(ends, rows, side="right")
        most = max(1, LARGEST_PIECE // max(1, self.shape[1]))
        return rows // size * -(-size // most) + rows % size // most


class Selected(RowSource):
    """Some rows of another source."""

    def __init__(self, source: RowSource, rows: np.ndarray):
        super().__init__((len(rows), source.shape[1]), source.dtype)
        self.source, self.rows = source, rows

    def _slice(self, first: int, last: int) -> np.ndarray:
        return self.source[self.rows[first:last]]

    def _take(self, rows: np.ndarray) -> np.ndarray:
        return self.source[self.rows[rows]]


class Recoded(RowSource):
    """Another source, whose values go through a function of a block of rows and their numbers."""

    def __init__(self, source: RowSource, function: Any):
        super().__init__(source.shape, source.dtype)
        self.source, self.function = source, function

    def _slice(self, first: int, last: int) -> np.ndarray:
        return self.function(self.source[first:last], range(first, last))

    def _take(self, rows: np.ndarray) -> np.ndarray:
        return self.function(self.source[rows], rows)

    def slices(self, parts: list[slice]) -> np.ndarray:
        return self.function(self.source.slices(parts), np.concatenate([np.arange(p.start, p.stop) for p in parts]))


def as_source(X: Any) -> RowSource | None:
    """X as a table to be read a few rows at a time, or None where it is an array, a frame or a list."""
    if isinstance(X, RowSource):
        return X
    if sparse.issparse(X):
        if X.ndim != 2 or X.dtype.kind not in "biuf":
            what = "Complex data not supported" if X.dtype.kind == "c" else "Expected 2D array of numbers"
            raise ValueError(f"{what}: X is a sparse array of {X.ndim} dimension(s) and type {X.dtype}.")
        return SparseRows(X if X.format == "csr" else X.tocsr())
    if isinstance(X, np.memmap) and X._mmap is not None:  # type: ignore[attr-defined]
        return MappedRows(X) if X.ndim == 2 and X.dtype.kind in "biuf" else None
    # `chunks` is what h5py, zarr and dask have in common, and arrays in memory lack.
    if all(hasattr(X, name) for name in ("chunks", "shape", "dtype", "__getitem__")) and len(X.shape) == 2:
        return ChunkedRows(X) if np.dtype(X.dtype).kind in "biuf" else None
    return None
