"""Tables larger than memory: what fit, transform and score_samples take of a memory-mapped file and of a sparse matrix.

Protocol: float32 rows of 30 columns (a nonlinear map of 4 latents plus noise), made block by block in files of a
temporary folder: a matrix to be mapped (numpy.memmap), and the same with nine of ten cells set to 0, as CSR. Models are
VAETransformer(2, hidden_layer_sizes=(64,), n_draws=8, random_state=0) with max_iter=1: one epoch, with the checks of X,
the scale, the linear start and the rows held out, which weigh more than in a real fit. Two latents and eight draws keep
what the calls return, and the time they take, small beside reading: it is reading that is under test.
- Memory, at `--rows` rows, every call in a process of its own: the peak of resident memory less what the interpreter
  held after its imports, so threads, buffers, pages of the mapped files and the array that is returned all count (see
  _measure.py). The CSR matrix' three arrays are mapped files, too.
- Time, at `--paired-rows` rows: the call on the memory-mapped or sparse table and on the same rows as an array in
  memory take turns in one process; the ratio is that of the medians of `--repeats` calls.
Files that were just written are read from the page cache while they fit in it: the disk is not under test.
Prediction: at most 500 MB, whatever the number of rows but for what is returned, and at most 1.3 times the seconds.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _measure import EXACT, MB, PAGE, fresh, measure, rewrite, verdict
from _tables import format_table, print_table
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from skvae import VAETransformer

COLUMNS, LATENTS, DRAWS, HIDDEN, DENSITY = 30, 2, 8, 64, 0.1
CHUNK = 100_000
MOST_MB, MOST_RATIO = 500, 1.3
CALLS = ("fit", "transform", "score_samples")
KINDS = {"memmap": "numpy.memmap", "csr": "CSR"}
COMMAND = "python benchmarks/out_of_core.py"
HEADER = [
    "call",
    "table",
    "rows",
    "table, MB",
    "extra MB",
    "of it returned",
    "us per row",
    "paired: us per row",
    "array",
    "ratio",
]


class Paired(NamedTuple):
    """Median seconds of a call on a table that is read from elsewhere, and on the same rows as an array."""

    read: float
    array: float

    @property
    def ratio(self) -> float:
        return self.read / self.array


def chunks(n_rows: int, density: float = 1.0) -> Iterator[np.ndarray]:
    """Rows of the table; with a density below 1 other cells are 0."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((4, 16), "f4"), rng.standard_normal((16, COLUMNS), "f4") / 4
    for start in range(0, n_rows, CHUNK):
        latents = rng.standard_normal((min(CHUNK, n_rows - start), 4), "f4")
        block = np.tanh(latents @ first) @ second
        block += np.float32(0.3) * rng.standard_normal(block.shape, "f4")
        if density < 1:
            block *= rng.random(block.shape, "f4") < density
        yield block


def write(folder: Path, kind: str, n_rows: int) -> None:
    """The files of a table, written with no more than a chunk in memory."""
    if kind == "memmap":
        with open(folder / "dense", "wb") as file:
            for block in chunks(n_rows):
                block.tofile(file)
        return
    ends = [np.zeros(1, dtype=np.int64)]
    with open(folder / "data", "wb") as data, open(folder / "indices", "wb") as indices:
        for block in chunks(n_rows, DENSITY):
            rows = sparse.csr_array(block)
            rows.data.tofile(data)
            rows.indices.astype(np.int32).tofile(indices)
            ends.append(ends[-1][-1] + rows.indptr[1:].astype(np.int64))
    ends = np.concatenate(ends)
    ends.astype(np.int32 if ends[-1] < 2**31 else np.int64).tofile(folder / "indptr")


def opened(folder: Path, kind: str, n_rows: int, n_written: int) -> Any:
    """The first rows of a table: mapped, or a sparse matrix of mapped arrays."""
    if kind == "memmap":
        return np.memmap(folder / "dense", dtype=np.float32, mode="r", shape=(n_rows, COLUMNS))
    size = (folder / "indptr").stat().st_size // (n_written + 1)
    indptr = np.memmap(folder / "indptr", f"i{size}", "r", shape=n_rows + 1)
    data, indices = (
        np.memmap(folder / name, kind, "r", shape=int(indptr[-1])) for name, kind in (("data", "f4"), ("indices", "i4"))
    )
    return sparse.csr_array((data, indices.astype(indptr.dtype, copy=False), indptr), shape=(n_rows, COLUMNS))


def n_bytes(X: Any) -> int:
    return X.data.nbytes + X.indices.nbytes + X.indptr.nbytes if sparse.issparse(X) else X.nbytes


def model() -> VAETransformer:
    warnings.simplefilter("ignore", ConvergenceWarning)
    return VAETransformer(LATENTS, hidden_layer_sizes=(HIDDEN,), n_draws=DRAWS, max_iter=1, random_state=0)


def alone(folder: Path, kind: str, n_rows: int, call: str) -> tuple[int, int, int, float]:
    """Bytes of the table, extra bytes of the call, bytes it returned, and its seconds, in this process."""
    vae = model() if call == "fit" else pickle.loads((folder / f"{kind}.pkl").read_bytes())
    X = opened(folder, kind, n_rows, n_rows)
    run = measure(lambda: getattr(vae, call)(X))
    if call == "fit":
        (folder / f"{kind}.pkl").write_bytes(pickle.dumps(vae))
    return n_bytes(X), run.extra, getattr(run.result, "nbytes", 0), run.seconds


def in_turn(folder: Path, kind: str, n_rows: int, n_written: int, repeats: int) -> dict[str, Paired]:
    """Each call on the table and on the same rows as an array, turn about in this process."""
    X = opened(folder, kind, n_rows, n_written)
    array = X.toarray() if sparse.issparse(X) else np.array(X)
    fitted = model().fit(array[:CHUNK])
    found = {}
    for name in CALLS:
        call: Callable[[Any], Any] = getattr(model() if name == "fit" else fitted, name)
        times: dict[bool, list[float]] = {True: [], False: []}
        call(array[:CHUNK])
        for turn in range(2 * repeats):
            # array, table, table, array, ...: a machine that slows down favours neither
            read = turn % 4 in (1, 2)
            start = time.perf_counter()
            call(X if read else array)
            times[read].append(time.perf_counter() - start)
        found[name] = Paired(float(np.median(times[True])), float(np.median(times[False])))
    return found


def rows_of(kind: str, folder: Path, args: argparse.Namespace) -> Iterator[tuple[list[str], str, float, Paired]]:
    """Rows of the table with what they are of, the extra megabytes and the pair of seconds."""
    fresh(write, folder, kind, args.rows)
    few = min(args.rows, args.paired_rows)
    pairs = fresh(in_turn, folder, kind, few, args.rows, args.repeats)
    for call in CALLS:
        size, extra, returned, seconds = fresh(alone, folder, kind, args.rows, call)
        pair = pairs[call]
        cells = [f"{value / MB:.0f}" for value in (size, extra, returned)]
        micro = [f"{1e6 * value:.2f}" for value in (seconds / args.rows, pair.read / few, pair.array / few)]
        label = "fit, one epoch" if call == "fit" else call
        yield (
            [label, KINDS[kind], f"{args.rows:,}", *cells, *micro, f"{pair.ratio:.2f}"],
            f"{label} of {kind}",
            extra / MB,
            pair,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument(
        "--paired-rows",
        type=int,
        default=2_000_000,
        help="rows of the timed pairs: an array of them must fit in memory",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument(
        "--folder", type=Path, help="where the files are made (2.4 GB and 0.6 GB), and deleted at the end"
    )
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args()
    if not EXACT:
        print("Peak memory cannot be set back on this system: extra memory is a lower bound.")

    rows, verdicts = [], []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for kind in args.kinds:
            for row, label, extra, pair in rows_of(kind, Path(folder), args):
                rows.append(row)
                print("  ".join(row), flush=True)
                verdicts.append(verdict(f"{label} in {extra:.0f} MB, at most {MOST_MB}", extra <= MOST_MB))
                claim = f"{label} in {pair.ratio:.2f} times the seconds of an array, at most {MOST_RATIO}"
                verdicts.append(verdict(claim, pair.ratio <= MOST_RATIO))
    print()
    print_table(HEADER, rows, args.markdown)
    print()
    print("\n".join(verdicts))
    if args.docs:
        rewrite(args.docs, "out of core", COMMAND, format_table(HEADER, rows, markdown=True))


if __name__ == "__main__":
    main()
