"""The plan to 1e10 rows: hours of a pass over so many rows by so many processes, from slopes that were measured.

A cost model, no measurement of such tables. An epoch of N rows by P processes in batches of B rows in all takes

    N (s / P + a(P) / B) seconds, with a(P) = (P - 1) a0 + 2 (P - 1) / P * 4 n a1,

where s is the seconds a row takes one process, n the number of parameters, and a(P) the time of summing their float32
gradients over the processes in a ring; a0 and a1 are such that a(2) is what was measured for both networks. transform
and score_samples have no sums. s of the network 30-64-2 is that of one epoch of a mapped file in the table "out of
core" of docs/benchmarks.md, checks, moments and start included, and of its transform and score_samples with 8 draws;
that of 784-500-20 is the epoch of the table "epoch time", in memory, with the number of threads that was faster.
Reading takes 4 bytes a number, at --disk bytes a second for all processes together, where the disk is shared; "*" marks
hours below those of reading: there such a disk, not the processes, decides.
--sums measures the sums: two processes (gloo, this machine, one thread each), 400 sums of each size after 20 others,
the processes waiting for each other before each; the quartile counts, as the median says what a busy machine left, too.
Between machines sums take what their network takes.
Prediction: with 4096 rows in all, 64 processes are no faster than 16 for the small network; with 4096 rows each, 64
take at most a twentieth of one process's time for either.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from _measure import PAGE, rewrite, verdict
from _tables import format_table, print_table
from sklearn.exceptions import ConvergenceWarning

from skvae import VAETransformer

PLAN = PAGE.parent / "guide" / "plan.md"
COMMAND = "python benchmarks/plan.py"
PROCESSES, ROWS, BATCH = (1, 2, 16, 64), (10**8, 10**10), 4096
NETWORKS = {"30-64-2": (30, 64, 2), "784-500-20": (784, 500, 20)}
SUMS_HEADER = ["network", "parameters", "bytes", "us, quartile", "us, median"]
HEADER = ["a pass", "network", "batch", "rows", "reading, h", *(f"{n}, h" for n in PROCESSES)]
WARM, SUMS = 20, 400


class Sums(NamedTuple):
    """Seconds of a sum over two processes: of a message, and of a byte."""

    message: float
    byte: float

    def seconds(self, n_processes: int, n_numbers: int) -> float:
        """Of so many float32 numbers, in a ring."""
        others = n_processes - 1
        return others * self.message + 2 * others / n_processes * 4 * n_numbers * self.byte


class Pass(NamedTuple):
    """A pass over rows: seconds a row takes one process, and the numbers that every batch sums over processes."""

    name: str
    network: str
    seconds: float
    n_numbers: int = 0

    def hours(self, n_rows: int, n_processes: int, batch: int, sums: Sums) -> float:
        waiting = sums.seconds(n_processes, self.n_numbers) / batch if self.n_numbers else 0.0
        return n_rows * (self.seconds / n_processes + waiting) / 3600


def table(page: Path, name: str) -> list[dict[str, str]]:
    """The rows of a page's measured table, by the names of the columns."""
    text = page.read_text().split(f"<!-- {name} table: ", 1)[1].split("<!-- end -->", 1)[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    header, _, *rows = lines
    return [dict(zip(header, row, strict=True)) for row in rows]


def number(text: str) -> float:
    return float(text.replace(",", ""))


def n_parameters(n_columns: int, hidden: int, n_latents: int) -> int:
    vae = VAETransformer(n_latents, hidden_layer_sizes=hidden, init="random", max_iter=1, early_stopping=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        vae.set_params(keep_codes=False, random_state=0).fit(np.random.default_rng(0).random((8, n_columns)))
    return sum(p.numel() for p in vae.module_.parameters())


def passes(page: Path, numbers: dict[str, int]) -> list[Pass]:
    """What was measured of a row."""
    small, wide = NETWORKS
    rows = {row["call"]: row for row in table(page, "out of core") if row["table"] == "numpy.memmap"}
    of_row = {call: 1e-6 * number(row["us per row"]) for call, row in rows.items()}
    epoch = next(row for row in table(page, "epoch time") if wide in f"784-{row['table'].split()[-1]}")
    n_rows = number(epoch["table"].split(" x ")[0])
    return [
        Pass("epoch", small, of_row["fit, one epoch"], numbers[small]),
        Pass("epoch", wide, number(epoch["skvae, s"]) / n_rows, numbers[wide]),
        Pass("transform", small, of_row["transform"]),
        Pass("score_samples", small, of_row["score_samples"]),
    ]


def sums_of(rows: list[dict[str, str]]) -> Sums:
    """The straight line through the sums of both networks."""
    (few, fast), (many, slow) = ((number(row["bytes"]), 1e-6 * number(row["us, quartile"])) for row in rows)
    byte = (slow - fast) / (many - few)
    return Sums(fast - byte * few, byte)


def time_sums(n_numbers: int, n_sums: int) -> list[float]:
    """Seconds of every sum, in one of the processes."""
    numbers, taken = torch.zeros(n_numbers), []
    for _ in range(WARM + n_sums):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(numbers)
        taken.append(time.perf_counter() - start)
    return taken[WARM:]


def sums_table(numbers: dict[str, int], n_sums: int) -> list[list[str]]:
    from distributed import Group  # here: dask's package of this name may be known already

    pair, rows = Group(2), []
    for network, n in numbers.items():
        taken = 1e6 * np.array(pair(time_sums, (n, n_sums), (n, n_sums))[0])
        rows.append([network, f"{n:,}", f"{4 * n:,}", *(f"{np.quantile(taken, q):.0f}" for q in (0.25, 0.5))])
    return rows


def plan_rows(found: list[Pass], sums: Sums, disk: float) -> list[list[str]]:
    """A row for every pass, rule of the batch and number of rows."""
    rows = []
    for one in found:
        for each in (False, True) if one.n_numbers else (None,):
            label = {False: f"{BATCH} in all", True: f"{BATCH} each", None: ""}[each]
            for n in ROWS:
                reading = n * 4 * NETWORKS[one.network][0] / disk / 3600
                hours = [one.hours(n, p, BATCH * (p if each else 1), sums) for p in PROCESSES]
                cells = [f"{h:.3g}{' *' if h < reading else ''}" for h in hours]
                rows.append([one.name, one.network, label, f"1e{len(str(n)) - 1}", f"{reading:.3g}", *cells])
    return rows


def verdicts(found: list[Pass], sums: Sums) -> list[str]:
    small, wide = found[:2]
    n = ROWS[-1]
    in_all = {p: small.hours(n, p, BATCH, sums) for p in PROCESSES}
    each = [one.hours(n, 64, 64 * BATCH, sums) / one.hours(n, 1, BATCH, sums) for one in (small, wide)]
    return [
        verdict(f"{BATCH} rows in all: 64 processes no faster than 16 for {small.network}", in_all[64] >= in_all[16]),
        verdict(f"{BATCH} rows each: 64 processes take at most 1/20 of one's time", max(each) <= 1 / 20),
    ]


def main(arguments: list[str] | None = None) -> list[list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sums", action="store_true", help="measure the sums, and write their table")
    parser.add_argument("--n-sums", type=int, default=SUMS)
    parser.add_argument("--disk", type=float, default=1e9, help="bytes a second, of all processes together")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PLAN, help="rewrite its table in docs/guide/plan.md")
    args = parser.parse_args(arguments)
    numbers = {name: n_parameters(*sizes) for name, sizes in NETWORKS.items()}
    if args.sums:
        rows, header = sums_table(numbers, args.n_sums), SUMS_HEADER
        print_table(header, rows, args.markdown)
        if args.docs:
            rewrite(args.docs, "sums", COMMAND + " --sums", format_table(header, rows, markdown=True))
        return rows
    found, sums = passes(PAGE, numbers), sums_of(table(args.docs or PLAN, "sums"))
    rows = plan_rows(found, sums, args.disk)
    print_table(HEADER, rows, args.markdown)
    print("\n".join(["", *verdicts(found, sums)]))
    if args.docs:
        rewrite(args.docs, "plan", COMMAND, format_table(HEADER, rows, markdown=True))
    return rows


if __name__ == "__main__":
    main()
