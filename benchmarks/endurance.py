"""Does anything grow? Memory, threads and open files over many fits, many epochs and a long stream.

python benchmarks/endurance.py [--fits 500] [--epochs 10000] [--chunks 2000]
"""

from __future__ import annotations

import argparse
import gc
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from skvae import VAEAnomalyDetector, VAETransformer

# How many numbers each run reports.
LOOKS = 5


def resident() -> float:
    """Memory of this process now, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors() -> int:
    """Open files of this process."""
    return len(os.listdir("/proc/self/fd"))


def look(after: int, began: float) -> tuple[float, int, int]:
    """Print and return what is held: MB, threads, open files."""
    gc.collect()
    held = memory, threads, files = resident(), threading.active_count(), descriptors()
    seconds = time.perf_counter() - began
    print(f"  after {after:6d}: {memory:7.1f} MB  {threads} threads  {files} files  {seconds:6.1f} s")
    return held


def repeat(name: str, times: int, call: Callable[[int], object]) -> tuple[float, int, int]:
    """Call so often, look a few times, and return what the last half has added."""
    print(name)
    began, looks = time.perf_counter(), []
    every = max(1, times // LOOKS)
    for i in range(times):
        call(i)
        if (i + 1) % every == 0:
            looks.append(look(i + 1, began))
    half = looks[len(looks) // 2]
    return looks[-1][0] - half[0], looks[-1][1] - half[1], looks[-1][2] - half[2]


def main(argv: list[str] | None = None) -> dict[str, tuple[float, int, int]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=10_000)
    parser.add_argument("--chunks", type=int, default=2_000)
    asked = parser.parse_args(argv)
    X = np.random.default_rng(0).normal(size=(150, 5))

    def fit(i: int) -> object:
        kind = VAEAnomalyDetector if i % 5 == 4 else VAETransformer
        model = kind(2, max_iter=3, random_state=i).fit(X)
        return pickle.loads(pickle.dumps(model)).score_samples(X)

    grown = {"fits": repeat("fits, each saved, loaded and used", asked.fits, fit)}
    # Epochs of one fit: the history is a few numbers an epoch.
    epochs = max(1, asked.epochs // LOOKS)
    long = VAETransformer(2, max_iter=epochs, early_stopping=False, learning_rate_init=1e-5, random_state=0)
    grown["epochs"] = repeat(f"fits of {epochs} epochs", LOOKS, lambda i: long.fit(X))
    stream, rows = VAETransformer(2, random_state=0), X[:32]
    grown["chunks"] = repeat("chunks of partial_fit", asked.chunks, lambda i: stream.partial_fit(rows))
    print(f"  the stream's model takes {len(pickle.dumps(stream)) / 1e3:.0f} kB in a file")
    for name, (memory, threads, files) in grown.items():
        print(f"{name}: the second half added {memory:.1f} MB, {threads} threads, {files} open files")
    return grown


if __name__ == "__main__":
    main()
