"""How skvae's anomaly detector ranks among others on tables of ADBench.

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
- MCD: the distance by the minimum covariance determinant.
- KDE: Gaussian kernels, their bandwidth by the likelihood of a fifth of the training rows given the others.
- norm: that of the standardised row, which needs no training.
Anomalies are the positive class; AUPRC is the average precision. Ranks are among the methods that ran, by a table's
mean over the seeds, ties shared. A method that fails on a table ranks last there and counts as chance: AUROC 0.5, and
AUPRC the share of anomalies.
Seconds are of fit and score (imports and first calls apart), summed over tables, mean over seeds. PyOD's run with one
thread: for networks as small as its defaults a second one gains nothing, and costs many times as much on a busy
machine.
--cut makes other tables of these, of kinds where neighbours do well: columns as 0 and 1 ("binary"), ten columns in
one-hot bins ("one-hot"), 3 to 5 columns at random ("columns"), 33 to 100 training rows ("rows"); they have at most 1000
training rows, and tables with fewer than 8 different training rows are left out.
Prediction: one-class at least 0.023 of AUROC and 0.052 of AUPRC over kNN, the best mean rank by both, and on campaign,
Hepatitis and WBC no AUROC more than 0.02 below kNN's; on cut tables ahead of kNN and GaussianMixture by both;
unsupervised ahead of IsolationForest and MCD by both; seconds at most twice IsolationForest's, a tenth of PyOD-VAE's
and 3 times PyOD-AutoEncoder's; with --raw, no table's AUROC changes by more than 0.005 where columns are not
standardised.
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
from _anomaly import (
    BASELINES,
    CUTS,
    PROTOCOLS,
    VARIANTS,
    Array,
    Detector,
    Labels,
    Split,
    cut,
    load,
    skvae,
    split,
    standardised,
)
from _measure import PAGE, rewrite, verdict
from _peers import detectors
from _tables import format_table, print_table
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score, roc_auc_score

PEERS = {"PyOD-VAE": "VAE", "PyOD-AutoEncoder": "AutoEncoder"}
METHODS = ("skvae", *BASELINES)
CUT_METHODS = ("skvae", "kNN", "GaussianMixture", "IsolationForest")
PYOD_METHODS = ("skvae", "IsolationForest", *PEERS)
OURS_AND_OTHERS = {"skvae": skvae, **VARIANTS, **BASELINES}
# What is to lie between skvae's means and kNN's, and how far one of the tables below may lie under kNN's AUROC.
LEAD, CLOSE, MOST_RAW = {"AUROC": 0.023, "AUPRC": 0.052}, 0.02, 0.005
CLOSE_TABLES = ("5_campaign", "15_Hepatitis", "42_WBC")
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


def dealt(X: Array, y: Labels, protocol: str, kind: str, seeds: Sequence[int]) -> dict[int, Split] | None:
    """A part for every seed; None where cutting leaves too little of one."""
    parts = {seed: split(X, y, protocol, seed) for seed in seeds}
    if kind == protocol:
        return parts
    found = {seed: cut(part, kind, seed) for seed, part in parts.items()}
    return None if None in found.values() else found


def measure_table(parts: dict[int, Split], label: str, methods: dict[str, Timed], raw_too: bool) -> tuple[Array, float]:
    """Seeds by methods by `Run`'s fields, and the largest change of skvae's AUROC where columns are as they are."""
    runs, change = [], 0.0
    for seed, raw in parts.items():
        part = standardised(raw)
        found = {name: measure(method, part, seed, f"{label}, {name}") for name, method in methods.items()}
        runs.append(list(found.values()))
        if raw_too:
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


def leads(ours: Summary, other: Summary, name: str, least: dict[str, float]) -> Iterator[str]:
    """How far skvae's means lie over another's."""
    for measure_name, lead in (("AUROC", ours.auroc - other.auroc), ("AUPRC", ours.auprc - other.auprc)):
        bar = least.get(measure_name, 0.0)
        yield verdict(f"mean {measure_name} {lead:+.4f} beside {name}, at least {bar:+}", lead >= bar)


def verdicts(kind: str, found: dict[str, Summary], auroc: dict[str, dict[str, float]]) -> Iterator[str]:
    """What was predicted of skvae, beside the methods that ran; `auroc` is of tables, by methods."""
    ours, others = found["skvae"], {name: s for name, s in found.items() if name != "skvae"}
    rivals = {"one-class": ("kNN",), "unsupervised": ("IsolationForest", "MCD")}.get(kind, ("kNN", "GaussianMixture"))
    for name in (name for name in rivals if name in others):
        yield from leads(ours, others[name], name, LEAD if kind == "one-class" else {})
    if kind == "one-class" and others:
        for what, place in (("rank", 2), ("rank by AUPRC", 3)):
            name, best = min(others.items(), key=lambda item: item[1][place])
            claim = f"mean {what} {ours[place]:.2f}, the best ({name} has {best[place]:.2f})"
            yield verdict(claim, ours[place] <= best[place])
        for table in (table for table in CLOSE_TABLES if table in auroc and "kNN" in others):
            lead = auroc[table]["skvae"] - auroc[table]["kNN"]
            yield verdict(f"AUROC of {table} {lead:+.4f} beside kNN, at least {-CLOSE}", lead >= -CLOSE)
    for name in (name for name in MOST_SECONDS if name in others and kind in PROTOCOLS):
        ratio = ours.seconds / others[name].seconds
        yield verdict(f"{ratio:.3f} times {name}'s seconds, at most {MOST_SECONDS[name]}", ratio <= MOST_SECONDS[name])


def compare(
    protocol: str,
    kind: str,
    tables: dict[str, tuple[Array, Labels]],
    methods: dict[str, Timed],
    args: argparse.Namespace,
) -> str:
    """Run and print one protocol, on tables as they are or cut; its summary in Markdown."""
    rows, runs, changes, auroc = [], [], {}, {}
    for table, (X, y) in tables.items():
        parts = dealt(X, y, protocol, kind, args.seeds)
        if parts is None:
            continue
        found, changes[table] = measure_table(parts, f"{kind}, {table}", methods, args.raw)
        runs.append(found)
        means = [Run(*mean) for mean in found.mean(axis=0)]
        auroc[table] = {name: run.auroc for name, run in zip(methods, means, strict=True)}
        rows.append([table, str(len(X)), str(X.shape[1]), *(f"{run.auroc:.3f}/{run.auprc:.3f}" for run in means)])
        print("  ".join(rows[-1]), flush=True)
    print()
    print_table([f"{kind}: AUROC/AUPRC", "N", "D", *methods], rows, args.markdown)
    summary = summarise(list(methods), np.array(runs))
    print(f"\n{summary_table(kind, len(runs), summary, args.markdown)}\n")
    if "skvae" in methods:
        for line in verdicts(kind, summary, auroc):
            print(f"{kind}: {line}")
    if args.raw:
        worst = max(changes, key=lambda table: changes[table])
        claim = f"columns as they are change AUROC by {changes[worst]:.4f} ({worst}), at most {MOST_RAW}"
        print(f"{kind}: {verdict(claim, changes[worst] <= MOST_RAW)}")
    print(flush=True)
    return summary_table(kind, len(runs), summary, markdown=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with adbench/*.npz")
    parser.add_argument("--peers", help="the Python of an environment with pyod")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 to 4, and 0 with --pyod")
    parser.add_argument("--tables", nargs="+", help="names as in 28_pendigits; default: all that are there")
    parser.add_argument("--protocol", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, *PEERS, *VARIANTS))
    parser.add_argument("--cut", nargs="+", choices=CUTS, default=[], help="one-class, on tables cut from these")
    parser.add_argument("--pyod", action="store_true", help="beside PyOD's, which take minutes: one seed")
    parser.add_argument("--raw", action="store_true", help="run skvae on columns that are not standardised, too")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args()
    if args.pyod and not args.peers:
        parser.error("--pyod needs --peers")
    args.methods = args.methods or (CUT_METHODS if args.cut else PYOD_METHODS if args.pyod else METHODS)
    args.seeds = args.seeds or ([0] if args.pyod else [0, 1, 2, 3, 4])
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
    warnings.filterwarnings("ignore", module="sklearn.covariance")  # of MCD where columns are constant

    with ExitStack() as stack:
        methods = prepare(args.methods, args.peers, stack)
        kinds = [("one-class", kind) for kind in args.cut] or [(protocol, protocol) for protocol in args.protocol]
        summaries = [compare(protocol, kind, tables, methods, args) for protocol, kind in kinds]
    if args.docs and args.cut:
        rewrite(args.docs, "cut tables", COMMAND + f" --cut {' '.join(CUTS)}", "\n\n".join(summaries))
    elif args.docs and args.pyod:
        rewrite(args.docs, "PyOD", COMMAND + " --pyod", "\n\n".join(summaries))
    elif args.docs:
        rewrite(args.docs, "anomaly detection", COMMAND, "\n\n".join(summaries))


if __name__ == "__main__":
    main()
