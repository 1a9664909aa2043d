"""The README's table of results, out of the measured tables of docs/benchmarks.md: no number stands there by hand.

    python benchmarks/readme.py --docs

Which cells it shows is said here, in the README's words; `all.py` runs it last.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from _measure import PAGE, rewrite
from _tables import format_table

README = PAGE.parents[1] / "README.md"
COMMAND = "python benchmarks/readme.py"
# A cell: of which table, headed by which first cell; its row, by the first cells, and its column.
Cell = tuple[str, str, tuple[str, ...], str]


def nats(row: tuple[str, ...], column: str) -> Cell:
    return "likelihood", "table", row, column


def ranks(way: str, method: str) -> Cell:
    return "anomaly detection", f"{way}, 25 tables", (method,), "AUROC"


def seconds(method: str) -> Cell:
    return "PyOD", "one-class, 25 tables", (method,), "fit + score, s"


CANCER, DIGITS = ("breast_cancer (std)", "569", "30", "5"), ("digits (std, varying)", "1797", "50", "5")
# What is measured, whether more is better, skvae's cell, and those beside it by their names.
LINES: list[tuple[str, bool, Cell, dict[str, Cell]]] = [
    (
        "held-out nats a row, 5 latents, breast cancer",
        True,
        nats(CANCER, "VAE shared"),
        {"`PCA`": nats(CANCER, "PCA")},
    ),
    (
        "the same with a noise variance per column",
        True,
        nats(CANCER, "VAE feature"),
        {"`FactorAnalysis`": nats(CANCER, "FactorAnalysis")},
    ),
    ("digits", True, nats(DIGITS, "VAE shared"), {"`PCA`": nats(DIGITS, "PCA")}),
    (
        "the same with a noise variance per column",
        True,
        nats(DIGITS, "VAE feature"),
        {"`FactorAnalysis`": nats(DIGITS, "FactorAnalysis")},
    ),
    (
        "anomalies, mean AUROC of 25 tables, trained on normal rows",
        True,
        ranks("one-class", "skvae"),
        {"nearest neighbours": ranks("one-class", "kNN"), "`IsolationForest`": ranks("one-class", "IsolationForest")},
    ),
    (
        "the same, trained on tables that hold anomalies",
        True,
        ranks("unsupervised", "skvae"),
        {
            "nearest neighbours": ranks("unsupervised", "kNN"),
            "`IsolationForest`": ranks("unsupervised", "IsolationForest"),
        },
    ),
    (
        "seconds to fit and score these tables",
        False,
        seconds("skvae"),
        {
            "`IsolationForest`": seconds("IsolationForest"),
            "PyOD's AutoEncoder": seconds("PyOD-AutoEncoder"),
            "its VAE": seconds("PyOD-VAE"),
        },
    ),
]


def look_up(page: str, cell: Cell) -> str:
    """What stands in a cell of the page's measured tables."""
    name, first, row, column = cell
    block = re.search(rf"<!-- {re.escape(name)} table: .*?-->\n(.*?)<!-- end -->", page, re.DOTALL)
    assert block is not None, f"docs/benchmarks.md has no table {name!r}"
    lines = [[value.strip() for value in line.strip("|").split("|")] for line in block[1].splitlines()]
    start = next(i for i, line in enumerate(lines) if line[0] == first)
    return next(line for line in lines[start:] if tuple(line[: len(row)]) == row)[lines[start].index(column)]


def table(page: str) -> str:
    """The README's table in Markdown; where skvae is ahead of all beside it, its number is in bold."""
    rows = []
    for what, more_is_better, own, others in LINES:
        ours, theirs = look_up(page, own), {name: look_up(page, cell) for name, cell in others.items()}
        best = (max if more_is_better else min)(map(float, (ours, *theirs.values())))
        shown = f"**{ours}**" if float(ours) == best else ours
        rows.append([what, shown, ", ".join(f"{name} {value}" for name, value in theirs.items())])
    return format_table(["", "skvae", "beside it"], rows, markdown=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, nargs="?", const=README, help="rewrite its table in README.md")
    args = parser.parse_args()
    found = table(PAGE.read_text())
    print(found)
    if args.docs:
        rewrite(args.docs, "measured", COMMAND, found)


if __name__ == "__main__":
    main()
