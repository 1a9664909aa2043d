"""How the seconds and the memory of `fit` grow with rows, columns and latents.

Protocol: VAETransformer at its defaults but for max_iter=3, on float32 C-contiguous rows (a nonlinear map of 4 latents
plus noise), each point in a process of its own that has fitted 200 other rows before. With early_stopping="auto", which
holds a tenth of the rows out, and False. Three series: N rows of 30 columns with 8 latents; 1000 rows of D columns with
8 latents (at D = 10 with 5); 1000 rows of 1000 columns with J latents. The time includes the checks of X, the scale and
the linear start: with 3 epochs they weigh more than in a real fit. Below 2000 rows batches are smaller than above
("auto": a tenth of the rows, at most 200), so small tables take more steps per row.
Extra memory is the rise of the process' peak resident memory during fit, beyond X (see _measure.py).
The slope is the least-squares one of log(seconds) against log(size): over all points, and over the last two decades,
where fixed costs weigh less.
Prediction: at most 1.05 in N over the last two decades, and at most about 1 in D and J where the linear start does not
rule (its eigenvectors are exact up to 2000 columns: cubic in D). On float32 C-contiguous X fit copies nothing beyond
a batch and the held-out rows: its extra memory is below 0.3 of X at a million rows.
"""

from __future__ import annotations

import argparse
import warnings
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from _measure import EXACT, MB, PAGE, fresh, latent_table, measure, rewrite, slope, verdict
from _tables import format_table, print_table
from sklearn.exceptions import ConvergenceWarning

from skvae import VAETransformer

EPOCHS = 3
MOST_SLOPE, MOST_COPIED = 1.05, 0.3
COMMAND = "python benchmarks/scaling.py"
HEADER = ["fit of 3 epochs", "N", "D", "J", "s", "extra MB", "of X", "s, no early stopping", "extra MB", "of X"]


class Point(NamedTuple):
    n_rows: int
    n_columns: int
    n_latents: int


class Cost(NamedTuple):
    """Seconds of fit, and its extra memory in bytes and as a multiple of X."""

    seconds: float
    extra: int
    of_x: float


SERIES = {
    "N": [Point(n, 30, 8) for n in (1_000, 10_000, 100_000, 1_000_000)],
    "D": [Point(1000, d, min(8, d // 2)) for d in (10, 100, 1000, 10_000)],
    "J": [Point(1000, 1000, j) for j in (1, 10, 100, 1000)],
}


def cost(point: Point, early_stopping: bool | str) -> Cost:
    warnings.simplefilter(
        "ignore", ConvergenceWarning
    )  # three epochs from a random start may end below the linear model
    vae = VAETransformer(point.n_latents, max_iter=EPOCHS, early_stopping=early_stopping, random_state=0)
    VAETransformer(2, max_iter=EPOCHS, early_stopping=early_stopping).fit(latent_table(200, 10, "float32"))
    X = latent_table(point.n_rows, point.n_columns, "float32")
    run = measure(lambda: vae.fit(X))
    return Cost(run.seconds, run.extra, run.extra / X.nbytes)


def costs(point: Point) -> tuple[Cost, Cost] | None:
    """With and without early stopping; None where the memory did not suffice."""
    try:
        return fresh(cost, point, "auto"), fresh(cost, point, False)
    except (BrokenProcessPool, MemoryError):
        return None


def format_row(name: str, point: Point, found: tuple[Cost, Cost] | None) -> list[str]:
    cells = [(f"{c.seconds:.2f}", f"{c.extra / MB:.0f}", f"{c.of_x:.2f}") for c in found or ()]
    return [f"against {name}", *(f"{v:,}" for v in point), *(cells[0] + cells[1] if cells else ["out of memory"] * 6)]


def slopes(name: str, sizes: list[int], found: list[tuple[Cost, Cost]]) -> list[str]:
    """A line of the table of slopes: of seconds over the last two decades and over all, then of memory."""
    cells = []
    for kind in (0, 1):
        seconds = [pair[kind].seconds for pair in found]
        extra = [pair[kind].extra for pair in found]
        cells += [slope(sizes, seconds, 2), slope(sizes, seconds), slope(sizes, extra, 2)]
    return [f"slope in {name}", *(f"{value:.2f}" for value in cells)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", nargs="+", choices=list(SERIES), default=list(SERIES))
    parser.add_argument("--quick", action="store_true", help="leave out the largest size of every series")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args()
    if not EXACT:
        print("Peak memory cannot be set back on this system: extra memory is a lower bound.")

    rows, lines, verdicts = [], [], []
    for at, name in enumerate("NDJ"):
        if name not in args.series:
            continue
        measured: dict[Point, tuple[Cost, Cost]] = {}
        for point in SERIES[name][: -1 if args.quick else None]:
            found = costs(point)
            rows.append(format_row(name, point, found))
            print("  ".join(rows[-1]), flush=True)
            if found:
                measured[point] = found
        sizes = [point[at] for point in measured]
        if len(sizes) > 1:
            lines.append(slopes(name, sizes, list(measured.values())))
        if name == "N" and len(sizes) > 1:
            verdicts += judge(sizes, list(measured.values()))

    header = ["", "s, two decades", "s, all", "MB, two decades", "no stopping: s, two decades", "s, all", "MB"]
    print()
    print_table(HEADER, rows, args.markdown)
    print()
    print_table(header, lines, args.markdown)
    print()
    print("\n".join(verdicts))
    if args.docs:
        rewrite(args.docs, "scaling", COMMAND, format_table(HEADER, rows, markdown=True))


def judge(sizes: list[int], found: list[tuple[Cost, Cost]]) -> list[str]:
    """The two claims about N, with early stopping and without."""
    verdicts = []
    for kind, label in enumerate(("with early stopping", "without")):
        value, of_x = slope(sizes, [pair[kind].seconds for pair in found], 2), found[-1][kind].of_x
        claim = f"Slope in N {label} {value:.2f}, at most {MOST_SLOPE}"
        verdicts.append(verdict(claim, value <= MOST_SLOPE))
        claim = f"fit of float32 X with {sizes[-1]:,} rows {label} does not copy X: {of_x:.2f} of its bytes more,"
        verdicts.append(verdict(f"{claim} at most {MOST_COPIED}", of_x <= MOST_COPIED))
    return verdicts


if __name__ == "__main__":
    main()
