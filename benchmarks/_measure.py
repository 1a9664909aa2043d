"""What the benchmarks share: fresh processes, peak memory, slopes, two kinds of table, the marks in docs/benchmarks.md.

Peak memory is the kernel's high-water mark of the resident set, VmHWM in /proc/self/status: exact, where a thread that
samples would miss short peaks. The mark is set back just before the call (by writing 5 to /proc/self/clear_refs) after
memory that the allocator held free was given back, so what it rises by is what the call took beyond what was there.
Where the kernel has no such file, the mark cannot be set back and the number is a lower bound: `EXACT` says which.
A child process starts with a mark of its own; `ru_maxrss` would not do, it is inherited from the parent.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "EXACT",
    "MB",
    "PAGE",
    "Measured",
    "fresh",
    "latent_table",
    "measure",
    "near_constant",
    "rewrite",
    "slope",
    "verdict",
]

MB = 1e6
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
RESET = Path("/proc/self/clear_refs")
EXACT = os.access(RESET, os.W_OK)
BLOCK = 50_000


class Measured(NamedTuple):
    """What a call returned, its seconds, and the bytes by which it raised the peak of resident memory."""

    result: Any
    seconds: float
    extra: int


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def _peak() -> int:
    if EXACT:
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(call: Callable[[], Any]) -> Measured:
    """Call once. The result's own memory is part of `extra`."""
    gc.collect()
    if EXACT:
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)
        RESET.write_text("5")
    before = _peak()
    start = time.perf_counter()
    result = call()
    return Measured(result, time.perf_counter() - start, _peak() - before)


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a new process that inherits nothing."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def slope(sizes: Sequence[float], values: Sequence[float], decades: float = np.inf) -> float:
    """Least-squares slope of log(value) against log(size), over the last `decades` of the sizes."""
    x, y = np.log10(sizes), np.log10(np.maximum(values, np.finfo(float).tiny))
    last = x >= x.max() - decades - 1e-9
    return float(np.polyfit(x[last], y[last], 1)[0])


def latent_table(n_rows: int, n_columns: int, dtype: str = "float64", seed: int = 0) -> np.ndarray:
    """Rows with something to find: a nonlinear map of 4 latents plus noise, made block by block in place."""
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((4, 16)), rng.standard_normal((16, n_columns)) / 4
    X = np.empty((n_rows, n_columns), dtype=dtype)
    step = max(1, BLOCK * 30 // n_columns)
    for i in range(0, n_rows, step):
        block = X[i : i + step]
        latents = rng.standard_normal((len(block), 4))
        block[:] = np.tanh(latents @ first) @ second + 0.3 * rng.standard_normal(block.shape)
    return X


def near_constant(X: np.ndarray) -> np.ndarray:
    """Columns of no variance, or with one value in more than 95 % of the rows."""
    most = [np.unique(column, return_counts=True)[1].max() for column in X.T]
    return (X.max(axis=0) == X.min(axis=0)) | (np.array(most) > 0.95 * len(X))


def verdict(claim: str, holds: bool) -> str:
    return f"{claim}: {'yes' if holds else 'NO'}"


def rewrite(page: Path, name: str, command: str, table: str) -> None:
    """Put `table` between the marks `<!-- name table: command -->` and `<!-- end -->` of a page."""
    text, opening, closing = page.read_text(), f"<!-- {name} table: {command} -->", "<!-- end -->"
    if opening not in text:
        raise SystemExit(f"{page} has no line {opening!r}.")
    before, rest = text.split(opening, 1)
    after = rest.split(closing, 1)[1]
    page.write_text(f"{before}{opening}\n{table}\n{closing}{after}")
