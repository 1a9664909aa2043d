"""How skvae's anomaly detector ranks among others on 22 tables of ADBench.

One-class protocol: a random half of the normal rows trains; the other half and all anomalies are scored; at most 5000
training and 10,000 scored rows. Unsupervised protocol: at most 5000 rows train without their labels and are scored
themselves, each by what the others say of it where a method can (skvae's `training_scores_`, kNN, KDE,
LocalOutlierFactor). Rows are drawn at random by the seed, which is every method's random_state, too; columns are
standardised by the training rows (constant ones divided by 1).
- skvae: VAEAnomalyDetector at its defaults; unsupervised with contamination=0.1, the same guess for every table, which
  makes it train on the more normal 70 % of the rows.
- PyOD-VAE and PyOD-AutoEncoder (--peers PYTHON, see requirements-peers.txt), IsolationForest, LocalOutlierFactor and
  OneClassSVM: all at their defaults.
- skvae-elbo and the like, on request: another criterion, likelihood or choice of training rows.
- kNN: the distance to the fifth neighbour. GaussianMixture: 8 components (at most half as many as rows), 1e-3 added to
  variances. PCA: log-density with half as many components as columns, at most 8.
- KDE: Gaussian kernels, their bandwidth by the likelihood of a fifth of the training rows given the others.
- norm: that of the standardised row, which needs no training.
Anomalies are the positive class; AUPRC is the average precision. Ranks are among the methods that ran, by a table's
mean over the seeds, ties shared. A method that fails on a table ranks last there and counts as chance: AUROC 0.5, and
AUPRC the share of anomalies.
Seconds are of fit and score (imports and first calls apart), summed over tables, mean over seeds. PyOD's run with one
thread: for networks as small as its defaults a second one gains nothing, and costs many times as much on a busy
machine.
Prediction: one-class AUROC at least 0.912, AUPRC at least 0.765 and the best mean rank of all methods; unsupervised
AUROC at least IsolationForest's; seconds at most twice IsolationForest's, a tenth of PyOD-VAE's and 3 times
PyOD-AutoEncoder's; with --raw, no table's AUROC changes by more than 0.005 where columns are not standardised.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _anomaly import BASELINES, PROTOCOLS, VARIANTS, Array, Detector, Labels, Split, load, skvae, split, standardised
from _measure import PAGE, rewrite, verdict
from _peers import detectors
from _tables import format_table, print_table
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score, roc_auc_score

PEERS = {"PyOD-VAE": "VAE", "PyOD-AutoEncoder": "AutoEncoder"}
METHODS = ("skvae", *BASELINES, *PEERS)
OURS_AND_OTHERS = {"skvae": skvae, **VARIANTS, **BASELINES}
LEAST_AUROC, LEAST_AUPRC, MOST_RAW = 0.912, 0.765, 0.005
MOST_SECONDS = {"IsolationForest": 2.0, "PyOD-VAE": 0.1, "PyOD-AutoEncoder": 3.0}
COMMAND = "python benchmarks/adbench.py"

Timed = Callable[[Array, Array | None, int], tuple[Array, float]]


class Run(NamedTuple):
    """What one method found on one table with one seed."""

    auroc: float
    auprc: float
    seconds: float
    failed: bool


class Summary(NamedTuple):
    """A method's means over tables and seeds, and its seconds on all tables."""

    auroc: float
    auprc: float
    rank: float
    rank_auprc: float
    seconds: float


def timed(detect: Detector) -> Timed:
    def call(train: Array, test: Array | None, seed: int) -> tuple[Array, float]:
        start = time.perf_counter()
        scores = detect(train, test, seed)
        return scores, time.perf_counter() - start

    return call


def prepare(names: Sequence[str], peers: str | None, stack: ExitStack) -> dict[str, Timed]:
    """The methods, each called once before: imports and first calls are no part of the seconds."""
    methods = {name: timed(detect) for name, detect in OURS_AND_OTHERS.items() if name in names}
    if asked := [name for name in PEERS if name in names]:
        if peers:
            detect = stack.enter_context(detectors(peers))
            methods |= {name: partial(detect, PEERS[name]) for name in asked}
        else:
            print(f"Left out: {' and '.join(asked)}, as --peers names no Python that has pyod.\n")
    rows = np.random.default_rng(0).standard_normal((300, 5))
    for method in methods.values():
        method(rows[:200], rows[200:], 0)
    return methods


def measure(method: Timed, part: Split, seed: int, label: str) -> Run:
    """The quality of a method's scores; a failure is printed and counts as chance."""
    start = time.perf_counter()
    try:
        scores, seconds = method(part.train, part.test, seed)
        return Run(roc_auc_score(part.y, scores), average_precision_score(part.y, scores), seconds, False)
    except Exception as error:
        print(f"{label} failed: {error!r}", flush=True)
        return Run(0.5, float(part.y.mean()), time.perf_counter() - start, True)


def measure_table(
    X: Array, y: Labels, label: str, protocol: str, methods: dict[str, Timed], args: argparse.Namespace
) -> tuple[Array, float]:
    """Seeds by methods by `Run`'s fields, and the largest change of skvae's AUROC where columns are as they are."""
    runs, change = [], 0.0
    for seed in args.seeds:
        raw = split(X, y, protocol, seed)
        part = standardised(raw)
        found = {name: measure(method, part, seed, f"{label}, {name}") for name, method in methods.items()}
        runs.append(list(found.values()))
        if args.raw:
            as_it_is = measure(methods["skvae"], raw, seed, f"{label} as it is, skvae")
            change = max(change, abs(as_it_is.auroc - found["skvae"].auroc))
    return np.array(runs, dtype=float), change


def mean_ranks(quality: Array, failed: Array) -> Array:
    """Mean rank of every method, 1 the best, from tables by methods; whatever failed is last."""
    return rankdata(np.where(failed, np.inf, -quality), axis=1).mean(axis=0)


def summarise(names: list[str], runs: Array) -> dict[str, Summary]:
    """One summary a method, the best AUROC first, from tables by seeds by methods by `Run`'s fields."""
    auroc, auprc, seconds, failed = np.moveaxis(runs.mean(axis=1), -1, 0)
    ranks = [mean_ranks(quality, failed > 0) for quality in (auroc, auprc)]
    columns = zip(auroc.mean(axis=0), auprc.mean(axis=0), *ranks, seconds.sum(axis=0), strict=True)
    found = {name: Summary(*map(float, numbers)) for name, numbers in zip(names, columns, strict=True)}
    return dict(sorted(found.items(), key=lambda item: -item[1].auroc))


def summary_table(protocol: str, n_tables: int, found: dict[str, Summary], markdown: bool) -> str:
    header = [f"{protocol}, {n_tables} tables", "AUROC", "AUPRC", "rank", "rank by AUPRC", "fit + score, s"]
    rows = [
        [name, f"{s.auroc:.4f}", f"{s.auprc:.4f}", f"{s.rank:.2f}", f"{s.rank_auprc:.2f}", f"{s.seconds:.1f}"]
        for name, s in found.items()
    ]
    return format_table(header, rows, markdown)


def verdicts(protocol: str, found: dict[str, Summary]) -> Iterator[str]:
    """What was predicted of skvae, beside the methods that ran."""
    ours, others = found["skvae"], {name: s for name, s in found.items() if name != "skvae"}
    if protocol == "one-class":
        yield verdict(f"mean AUROC {ours.auroc:.4f}, at least {LEAST_AUROC}", ours.auroc >= LEAST_AUROC)
        yield verdict(f"mean AUPRC {ours.auprc:.4f}, at least {LEAST_AUPRC}", ours.auprc >= LEAST_AUPRC)
        if others:
            name, next_best = min(others.items(), key=lambda item: item[1].rank)
            claim = f"mean rank {ours.rank:.2f}, the best ({name} has {next_best.rank:.2f})"
            yield verdict(claim, ours.rank <= next_best.rank)
    elif "IsolationForest" in others:
        forest = others["IsolationForest"].auroc
        yield verdict(f"mean AUROC {ours.auroc:.4f}, at least IsolationForest's {forest:.4f}", ours.auroc >= forest)
    for name in (name for name in MOST_SECONDS if name in others):
        ratio = ours.seconds / others[name].seconds
        yield verdict(f"{ratio:.3f} times {name}'s seconds, at most {MOST_SECONDS[name]}", ratio <= MOST_SECONDS[name])


def compare(
    protocol: str, tables: dict[str, tuple[Array, Labels]], methods: dict[str, Timed], args: argparse.Namespace
) -> str:
    """Run and print one protocol; its summary in Markdown."""
    rows, runs, changes = [], [], {}
    for table, (X, y) in tables.items():
        found, changes[table] = measure_table(X, y, f"{protocol}, {table}", protocol, methods, args)
        runs.append(found)
        cells = [f"{run.auroc:.3f}/{run.auprc:.3f}" for run in (Run(*mean) for mean in found.mean(axis=0))]
        rows.append([table, str(len(X)), str(X.shape[1]), *cells])
        print("  ".join(rows[-1]), flush=True)
    print()
    print_table([f"{protocol}: AUROC/AUPRC", "N", "D", *methods], rows, args.markdown)
    summary = summarise(list(methods), np.array(runs))
    print(f"\n{summary_table(protocol, len(tables), summary, args.markdown)}\n")
    if "skvae" in methods:
        for line in verdicts(protocol, summary):
            print(f"{protocol}: {line}")
    if args.raw:
        worst = max(changes, key=lambda table: changes[table])
        claim = f"columns as they are change AUROC by {changes[worst]:.4f} ({worst}), at most {MOST_RAW}"
        print(f"{protocol}: {verdict(claim, changes[worst] <= MOST_RAW)}")
    print(flush=True)
    return summary_table(protocol, len(tables), summary, markdown=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with adbench/*.npz")
    parser.add_argument("--peers", help="the Python of an environment with pyod")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tables", nargs="+", help="names as in 28_pendigits; default: all that are there")
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, *VARIANTS), default=METHODS)
    parser.add_argument("--raw", action="store_true", help="run skvae on columns that are not standardised, too")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args()
    if args.raw and "skvae" not in args.methods:
        parser.error("--raw is about skvae, which --methods leaves out")
    tables = load(args.data)
    if unknown := set(args.tables or ()) - set(tables):
        parser.error(f"no such tables in {args.data}: {', '.join(sorted(unknown))}")
    tables = {name: table for name, table in tables.items() if not args.tables or name in args.tables}
    if not tables:
        parser.error(f"no tables in {args.data}")
    warnings.simplefilter("ignore", ConvergenceWarning)  # of GaussianMixture
    warnings.filterwarnings("ignore", "Duplicate values", UserWarning)  # of LocalOutlierFactor

    with ExitStack() as stack:
        methods = prepare(args.methods, args.peers, stack)
        summaries = [compare(protocol, tables, methods, args) for protocol in args.protocol]
    if args.docs:
        rewrite(args.docs, "anomaly detection", COMMAND, "\n\n".join(summaries))


if __name__ == "__main__":
    main()
