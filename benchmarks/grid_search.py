"""A search over the number of latents: VAETransformerCV beside GridSearchCV, a plain loop and a competitor's search.

Protocol: n_components in 1, 2, 4, 8, 16, 32, the same five folds (shuffled once), a fit on all rows at the best number
included. Tables: digits (1797 x 64) and a nonlinear map of 4 latents plus noise (10,000 x 30). Hidden layers (64,) and
the default, one layer of 100 units; everything else at its default, early stopping included.
- VAETransformerCV(n_components=[...], n_jobs=2).
- GridSearchCV(VAETransformer(), ..., n_jobs=2).
- A loop over sizes and folds in one process.
Every search runs in a process of its own which has run the same search on few rows for two epochs first, so imports and
the start of worker processes are not counted. Methods take turns, round by round; round r has random_state=r, and the
seconds are medians over `--rounds`.
"Difference" is the largest one over sizes between the mean test scores of VAETransformerCV and of GridSearchCV, each a
mean over the rounds, in nats per row; "over seeds" is the largest standard deviation of GridSearchCV's own over the
rounds. The two differ by their candidates' seeds alone.
- Competitors (--peers PYTHON, an interpreter with PyOD and pythae, see requirements-peers.txt): one fit a size on four
  fifths of the rows, with our hidden layer, our batches and as many epochs as ours took on average at that size,
  times five. Nothing is added for their scores, which they do not have, nor for the last fit. Where that is
  more than `--peer-epochs`, the fit is timed for so many and scaled up.
Prediction: VAETransformerCV takes no longer than GridSearchCV (a tenth for noise), is at least 50 times as fast as a
competitor's search, and chooses the same size.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _measure import README, fresh, latent_table, rewrite, verdict
from _tables import format_table, print_table
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold

# skvae is imported where it is used: a competitor's interpreter runs this file without it.

SIZES = [1, 2, 4, 8, 16, 32]
FOLDS = KFold(5, shuffle=True, random_state=0)
METHODS = ("VAETransformerCV", "GridSearchCV", "loop")
PEERS = ("PyOD", "pythae")
LEAST_GRID, LEAST_PEER = 0.9, 50
COMMAND = "python benchmarks/grid_search.py"
HEADER = [
    "search over 1 to 32 latents", "N", "D", "hidden", "VAETransformerCV(n_jobs=2) s", "GridSearchCV(n_jobs=2) s",
    "loop s", *(f"{name} s" for name in PEERS), "best J", "GridSearchCV's", "difference", "over seeds",
]  # fmt: skip

Array = np.ndarray


class Setting(NamedTuple):
    """A table and a network."""

    table: str
    hidden: int
    max_iter: int
    n_rows: int


class Found(NamedTuple):
    """What one search took and found: mean test score and epochs of every size, and the best size."""

    seconds: float
    scores: list[float]
    best: int
    epochs: list[float] | None = None


def load(setting: Setting) -> Array:
    X = load_digits().data if setting.table == "digits" else latent_table(10_000, 30)
    return np.random.default_rng(0).permutation(X)[: setting.n_rows]


def search(method: str, setting: Setting, seed: int) -> Found:
    """One search, after the same on few rows."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    os.environ["PYTHONWARNINGS"] = "ignore"  # in worker processes
    X = load(setting)
    options: dict[str, Any] = {"hidden_layer_sizes": (setting.hidden,), "random_state": seed}
    run = {"VAETransformerCV": as_one, "GridSearchCV": as_grid, "loop": as_loop}[method]
    run(X[:200], options | {"max_iter": 2})
    start = time.perf_counter()
    found = run(X, options | {"max_iter": setting.max_iter})
    seconds = time.perf_counter() - start
    get_reusable_executor().shutdown(kill_workers=True)  # or this process would wait for its workers for ever
    return found._replace(seconds=seconds)


def as_one(X: Array, options: dict[str, Any]) -> Found:
    from skvae import VAETransformerCV

    return found_by(VAETransformerCV(n_components=SIZES, cv=FOLDS, n_jobs=2, **options).fit(X))


def as_grid(X: Array, options: dict[str, Any]) -> Found:
    from skvae import VAETransformer

    return found_by(GridSearchCV(VAETransformer(**options), {"n_components": SIZES}, cv=FOLDS, n_jobs=2).fit(X))


def found_by(fitted: Any) -> Found:
    scores = [float(score) for score in fitted.cv_results_["mean_test_score"]]
    return Found(0.0, scores, int(fitted.best_params_["n_components"]))


def as_loop(X: Array, options: dict[str, Any]) -> Found:
    from skvae import VAETransformer

    scores, epochs = np.zeros((len(SIZES), FOLDS.n_splits)), np.zeros((len(SIZES), FOLDS.n_splits))
    for i, size in enumerate(SIZES):
        for j, (train, test) in enumerate(FOLDS.split(X)):
            vae = VAETransformer(size, **options).fit(X[train])
            scores[i, j], epochs[i, j] = vae.score(X[test]), vae.n_iter_
    best = SIZES[int(scores.mean(axis=1).argmax())]
    VAETransformer(best, **options).fit(X)
    return Found(0.0, scores.mean(axis=1).tolist(), best, epochs.mean(axis=1).tolist())


def peer_fit(request: dict[str, Any]) -> float:
    """Seconds of one competitor's fit; runs in its interpreter."""
    from _peers import FITS, Job

    X, job = np.load(request["rows"]), Job(**request["job"])
    FITS[job.name](X[:256], job, 1)  # first calls of everything
    start = time.perf_counter()
    FITS[job.name](X, job, request["epochs"])
    return time.perf_counter() - start


def peer_search(name: str, setting: Setting, epochs: list[float], python: str, most_epochs: int) -> float:
    """Seconds of a competitor's search: one fit a size, times the folds."""
    from _peers import Job, run_job

    X = load(setting)
    X = ((X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0, X.std(axis=0), 1.0)).astype(np.float32)
    train = X[next(FOLDS.split(X))[0]]
    # Ours holds a tenth of the training rows out; "auto" is a tenth of the rest, between 32 and 200 rows.
    batch = min(200, max(32, (len(train) - len(train) // 10) // 10))
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        rows = str(Path(folder) / "rows.npy")
        np.save(rows, train)
        for size, wanted in zip(SIZES, epochs, strict=True):
            timed = max(1, min(round(wanted), most_epochs))
            job = Job(name, latents=size, hidden=setting.hidden, batch=batch)
            request = {"rows": rows, "job": job._asdict(), "epochs": timed}
            total += FOLDS.n_splits * run_job(python, __file__, request, one_thread=False) * wanted / timed
    return total


def compare(setting: Setting, methods: list[str], rounds: int) -> dict[str, list[Found]]:
    """Every method's searches, turn about."""
    searches: dict[str, list[Found]] = {method: [] for method in methods}
    for seed in range(rounds):
        for method in methods:
            found = fresh(search, method, setting, seed)
            searches[method].append(found)
            scores = " ".join(f"{score:.2f}" for score in found.scores)
            label = f"{setting.table} ({setting.hidden},) round {seed} {method}"
            print(f"{label}: {found.seconds:.1f} s, best {found.best}, scores {scores}", flush=True)
    return searches


def format_row(setting: Setting, searches: dict[str, list[Found]], seconds: dict[str, float]) -> list[str]:
    ours = seconds.get("VAETransformerCV")
    cells = {
        name: f"{took:.1f}" if ours is None else f"{took:.1f} ({took / ours:.1f}x)" for name, took in seconds.items()
    }
    if ours is not None:
        cells["VAETransformerCV"] = f"{ours:.1f}"
    scores = {method: np.array([found.scores for found in runs]) for method, runs in searches.items()}
    best = {method: str(SIZES[int(s.mean(axis=0).argmax())]) for method, s in scores.items()}
    one, grid = scores.get("VAETransformerCV"), scores.get("GridSearchCV")
    difference = "" if one is None or grid is None else f"{np.abs(one.mean(axis=0) - grid.mean(axis=0)).max():.3f}"
    spread = "" if grid is None or len(grid) < 2 else f"{grid.std(axis=0, ddof=1).max():.3f}"
    return [
        setting.table,
        *(f"{n:,}" for n in load(setting).shape),
        f"({setting.hidden},)",
        *(cells.get(name, "") for name in (*METHODS, *PEERS)),
        best.get("VAETransformerCV", ""),
        best.get("GridSearchCV", ""),
        difference,
        spread,
    ]


def judge(setting: Setting, seconds: dict[str, float]) -> list[str]:
    """The claims this setting can answer."""
    if "VAETransformerCV" not in seconds:
        return []
    bars = {"GridSearchCV": LEAST_GRID} | dict.fromkeys(PEERS, LEAST_PEER)
    ratios = {name: seconds[name] / seconds["VAETransformerCV"] for name in bars if name in seconds}
    where = f"{setting.table} ({setting.hidden},)"
    return [
        verdict(f"{where}: {ratio:.1f} times as fast as {name}'s, at least {bars[name]}", ratio >= bars[name])
        for name, ratio in ratios.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=["digits", "latent"], default=["digits", "latent"])
    parser.add_argument("--hidden", nargs="+", type=int, default=[64, 100])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-iter", type=int, default=200, help="epochs at most")
    parser.add_argument("--rows", type=int, default=10_000, help="of each table, at most")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter with PyOD and pythae")
    parser.add_argument("--peer-epochs", type=int, default=10, help="epochs of a competitor that are timed, at most")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--readme", type=Path, nargs="?", const=README, help="rewrite the README's table")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(peer_fit(json.loads(args.job)))
        return
    if args.peers and "loop" not in args.methods:
        raise SystemExit("--peers needs the loop among --methods: it counts our epochs.")

    rows, verdicts = [], []
    for table in args.tables:
        for hidden in args.hidden:
            setting = Setting(table, hidden, args.max_iter, args.rows)
            searches = compare(setting, args.methods, args.rounds)
            seconds = {m: statistics.median(found.seconds for found in runs) for m, runs in searches.items()}
            for name in PEERS if args.peers else ():
                epochs = np.mean([found.epochs for found in searches["loop"]], axis=0).tolist()
                seconds[name] = peer_search(name, setting, epochs, args.peers, args.peer_epochs)
                print(f"{table} ({hidden},) {name}: {seconds[name]:.1f} s", flush=True)
            rows.append(format_row(setting, searches, seconds))
            verdicts += judge(setting, seconds)
    print()
    print_table(HEADER, rows, args.markdown)
    print()
    print("\n".join(verdicts))
    if args.readme:
        rewrite(args.readme, "grid search", COMMAND, format_table(HEADER, rows, markdown=True))


if __name__ == "__main__":
    main()
