"""One fit by two processes beside the same fit by one: seconds an epoch, and what a long table takes.

Protocol: a group of two processes (gloo, this machine), and one process alone; each has one thread.
- Epochs: 30,000 x 784 uniform numbers in float32, perceptrons 784-500-20-500-784, Bernoulli, no rows held out, batches
  of --batch rows in all (a rank takes half). One process and the group take turns for --rounds rounds of five epochs
  each; the first epoch of a fit is not counted. Numbers are medians over all epochs of a run, and the shortest ones: on
  a machine that does other work the median says what that left. CPU seconds are a rank's own, its waiting left out.
- Rows: --rows rows of 30 columns in a file of float32 (as in out_of_core.py), half of which either rank maps; one epoch
  of VAETransformer(2, hidden_layer_sizes=64, batch_size=4096), with the checks, the moments, the linear start and the
  rows held out.
- 100 GB: a file of 833 million such rows that is all holes, so that it takes no disk. A process has a rank's half of
  it, or four million rows, and takes what a fit takes of a table: rows held out and --steps batches of an epoch, of
  blocks from anywhere. The passes for checks and moments go block by block, however many these are, and are left out.
  What the second takes beyond the first is the slope over rows.
Peaks are of all resident memory of a rank, torch's 0.4 GB included (VmHWM, see _measure.py).
Prediction: an epoch of batches of 2000 takes at most 0.62 of one process's. Sums of 870,000 gradients and Adam's step,
which every rank takes whole, are 5 to 7 ms whatever the batch, so that 1000 rows take 0.65 and 200 rows gain nothing.
A rank's peak stays below 1 GB at 20 million rows, and rises by less than 1 byte a row beyond.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch.distributed as dist
from _measure import MB, _status, verdict
from _tables import print_table
from out_of_core import COLUMNS, write
from threadpoolctl import threadpool_limits

from skvae import ELBO, Gaussian, VAETransformer
from skvae._tables.batches import as_table
from skvae._tables.moments import sum_columns
from skvae._tables.reader import TableReader
from skvae._torch import make_generator
from skvae.likelihoods import resolved

MOST_RATIO, MOST_MB = 0.62, 1000
EPOCHS, EPOCH_ROWS = 6, 30_000
WHOLE = 100_000_000_000 // (4 * COLUMNS)


class Stamped(ELBO):
    """The ELBO, and a note of when every epoch begins."""

    def begin_epoch(self, model: Any, rows: Any, rng: Any, epoch: int) -> None:
        STAMPS.append((time.perf_counter(), time.process_time()))


STAMPS: list[tuple[float, float]] = []


def epochs(n_rows: int, batch: int) -> tuple[list[float], list[float]]:
    """Seconds and CPU seconds of every epoch but the first, of a fit to so many rows here."""
    X = np.random.default_rng(0).random((n_rows, 784), dtype=np.float32)
    vae = VAETransformer(
        20, hidden_layer_sizes=500, likelihood="bernoulli", objective=Stamped(), init="random", batch_size=batch
    )
    STAMPS.clear()
    vae.set_params(max_iter=EPOCHS + 1, early_stopping=False, keep_codes=False, random_state=0).fit(X)
    taken = np.diff(np.array(STAMPS), axis=0)[1:]
    return taken[:, 0].tolist(), taken[:, 1].tolist()


def mapped(file: str, first: int, n_rows: int) -> tuple[float, float]:
    """Seconds and peak megabytes of a fit to so many rows of a file."""
    X = np.memmap(file, np.float32, "r", offset=first * 4 * COLUMNS, shape=(n_rows, COLUMNS))
    start = time.perf_counter()
    VAETransformer(2, hidden_layer_sizes=64, batch_size=4096, max_iter=1, random_state=0).fit(X)
    return time.perf_counter() - start, _status("VmHWM") / MB


class Group:
    """Fresh processes that call functions of this file, together."""

    def __init__(self, n_ranks: int):
        context = get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        pipes = [context.Pipe() for _ in range(n_ranks)]
        self.ends = [end for end, _ in pipes]
        for rank, (_, end) in enumerate(pipes):
            arguments = (rank, n_ranks, f"file://{self.folder.name}/store", end)
            context.Process(target=serve, args=arguments, daemon=True).start()

    def __call__(self, function: Callable[..., Any], *by_rank: tuple[Any, ...]) -> list[Any]:
        for end, arguments in zip(self.ends, by_rank, strict=True):
            end.send((function, arguments))
        return [end.recv() for end in self.ends]


def serve(rank: int, n_ranks: int, store: str, pipe: Any) -> None:
    warnings.simplefilter("ignore")
    if n_ranks > 1:
        where: dict[str, Any] = {"init_method": store, "rank": rank, "world_size": n_ranks}
        dist.init_process_group("gloo", timeout=timedelta(minutes=10), **where)
    with threadpool_limits(1), suppress(EOFError):  # when the main process has ended
        while True:
            function, arguments = pipe.recv()
            pipe.send(function(*arguments))


def compare_epochs(batches: list[int], n_rows: int, rounds: int) -> None:
    alone, pair, table, claims = Group(1), Group(2), [], []
    for batch in batches:
        times: list[tuple[list[float], list[float]]] = [([], []), ([], [])]
        for _ in range(rounds):
            ((wall, cpu),) = alone(epochs, (n_rows, batch))
            both = pair(epochs, (n_rows // 2, batch), (n_rows - n_rows // 2, batch))
            for kept, found in zip(times, ((wall, cpu), both[0]), strict=True):
                kept[0].extend(found[0])
                kept[1].extend(found[1])
        ways = median, min
        numbers = [[way(kept) for kept in of] for of in times for way in ways]
        ratios = [[two / one for one, two in zip(numbers[i], numbers[i + 2], strict=True)] for i in (0, 1)]
        for label, one, two, ratio in zip(("median", "shortest"), numbers[:2], numbers[2:], ratios, strict=True):
            table.append(
                [str(batch), label, *(f"{v:.3f}" for v in (one[0], two[0], ratio[0], one[1], two[1], ratio[1]))]
            )
        if batch >= 2000:
            claims.append(verdict(f"batches of {batch}: at most {MOST_RATIO}", ratios[0][0] <= MOST_RATIO))
    header = ["batch", "epochs", "one, s", "two, s", "ratio", "one, CPU s", "two, CPU s a rank", "ratio"]
    print_table(header, table)
    print("\n".join(claims))


def long_tables(n_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "memmap", n_rows)
        found = Group(2)(mapped, *((f"{folder}/dense", first, n_rows // 2) for first in (0, n_rows // 2)))
    peak = max(mb for _, mb in found)
    header = ["rows", "seconds", "rank 0, MB", "rank 1, MB"]
    print_table(header, [[f"{n_rows:,}", f"{found[0][0]:.0f}", *(f"{mb:.0f}" for _, mb in found)]])
    print(verdict(f"{n_rows:,} rows: at most {MOST_MB} MB a rank", peak <= MOST_MB))


def steps_of(file: str, n_rows: int, steps: int) -> float:
    """Peak megabytes of the first steps of an epoch on so many rows of a file."""
    X = np.memmap(file, np.float32, "r", shape=(n_rows, COLUMNS))
    _, source = TableReader.learn("VAETransformer", X, Gaussian(), resolved)
    rows = as_table(source, Gaussian().scale(sum_columns(source[:1000]).moments), None, None)
    training, _ = rows.split_off(n_rows // 10, make_generator(0))
    for _ in islice(training.batches(4096, make_generator(0)), steps):
        pass
    return _status("VmHWM") / MB


def holes(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/holes", "wb") as file:
            file.truncate(WHOLE * 4 * COLUMNS)
        sizes = [4_000_000, WHOLE // 2]
        peaks = [Group(1)(steps_of, (f"{folder}/holes", size, steps))[0] for size in sizes]
    print_table(["rows of a rank", "MB"], [[f"{n:,}", f"{mb:.0f}"] for n, mb in zip(sizes, peaks, strict=True)])
    slope = (peaks[1] - peaks[0]) * MB / (sizes[1] - sizes[0])
    print(f"{slope:.4f} bytes a row")
    print(verdict(f"half of 100 GB: at most {MOST_MB} MB", max(peaks) <= MOST_MB))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[200, 1000, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", choices=["epochs", "rows", "holes"])
    args = parser.parse_args()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if args.only in (None, "epochs"):
        compare_epochs(args.batch, EPOCH_ROWS, args.rounds)
    if args.only in (None, "rows"):
        long_tables(args.rows)
    if args.only in (None, "holes"):
        holes(args.steps)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
