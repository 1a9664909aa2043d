"""A search over the number of latents: VAETransformerCV, which races its candidates, beside GridSearchCV.

Protocol: n_components in 1, 2, 4, 8, 16, 32, the same five folds (shuffled once), a fit on all rows at the best number
included. Tables: digits without its near-constant columns (no variance, or one value in more than 95 % of the rows;
1797 x 50) and a nonlinear map of 4 latents plus noise (10,000 x 30); "digits-all" keeps every column, of which a few
decide all scores: a pixel that is on in one row gets -2000 nats there. One hidden layer of 100 units, the default;
everything else at its default, early stopping included.
- VAETransformerCV(n_components=[...], n_jobs=2).
- GridSearchCV(VAETransformer(), ..., n_jobs=2).
- A loop over sizes and folds in one process.
Every search runs in a process of its own which has run the same search on few rows for two epochs first, so imports and
the start of worker processes are not counted. Methods take turns, round by round; round r has random_state=r. Seconds
are medians over `--rounds`, and a ratio is the median of the rounds' ratios. "CPU s" are the processor's seconds, of
the process and its workers: on a busy machine they say more than the clock.
"Agrees" counts the rounds in which the size VAETransformerCV chose has, in GridSearchCV's own scores of that round, a
mean within one standard error of the best one's. "Difference" is between the scores that the two searches report for
the size that VAETransformerCV chose most often, means over the rounds in which it did, in nats per row; "over seeds" is
the standard deviation of GridSearchCV's. The two differ by their candidates' seeds alone.
- Competitors (--peers PYTHON, an interpreter with PyOD and pythae, see requirements-peers.txt): one fit a size on four
  fifths of the rows, with our hidden layer, our batches and as many epochs as ours took on average at that size,
  times five. Nothing is added for their scores, which they do not have, nor for the last fit. Where that is
  more than `--peer-epochs`, the fit is timed for so many and scaled up.
Prediction: VAETransformerCV takes at most a third of GridSearchCV's time and agrees with it in every round; a
competitor's search takes at least 50 times as long.
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
from _measure import PAGE, fresh, latent_table, near_constant, rewrite, verdict
from _tables import format_table, print_table
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold

# skvae is imported where it is used: a competitor's interpreter runs this file without it.

SIZES = [1, 2, 4, 8, 16, 32]
FOLDS = KFold(5, shuffle=True, random_state=0)
TABLES = ("digits", "digits-all", "latent")
METHODS = ("VAETransformerCV", "GridSearchCV", "loop")
PEERS = ("PyOD", "pythae")
LEAST_GRID, LEAST_PEER = 3, 50
COMMAND = "python benchmarks/grid_search.py"
HEADER = [
    "search over 1 to 32 latents", "N", "D", "hidden", "VAETransformerCV(n_jobs=2) s", "CPU s",
    "GridSearchCV(n_jobs=2) s", "CPU s", "loop s", *(f"{name} s" for name in PEERS), "best J", "GridSearchCV's",
    "agrees", "difference", "over seeds",
]  # fmt: skip

Array = np.ndarray


class Setting(NamedTuple):
    """A table and a network."""

    table: str
    hidden: int
    max_iter: int
    n_rows: int


class Found(NamedTuple):
    """What one search took and found: seconds by the clock and the processor, test scores, the best size, epochs."""

    scores: list[list[float]]
    best: int
    seconds: float = 0.0
    cpu: float = 0.0
    epochs: list[float] | None = None


def load(setting: Setting) -> Array:
    X = latent_table(10_000, 30) if setting.table == "latent" else load_digits().data
    X = X[:, ~near_constant(X)] if setting.table == "digits" else X
    return np.random.default_rng(0).permutation(X)[: setting.n_rows]


def cpu_seconds() -> float:
    """Of this process and its children; 0 where the kernel does not list them."""
    total = time.process_time()
    for task in Path("/proc/self/task").glob("*/children"):
        for child in task.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def search(method: str, setting: Setting, seed: int) -> Found:
    """One search, after the same on few rows."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    os.environ["PYTHONWARNINGS"] = "ignore"  # in worker processes
    X = load(setting)
    options: dict[str, Any] = {"hidden_layer_sizes": (setting.hidden,), "random_state": seed}
    run = {"VAETransformerCV": as_one, "GridSearchCV": as_grid, "loop": as_loop}[method]
    run(X[:200], options | {"max_iter": 2})
    start, cpu = time.perf_counter(), cpu_seconds()
    found = run(X, options | {"max_iter": setting.max_iter})
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    get_reusable_executor().shutdown(kill_workers=True)  # or this process would wait for its workers for ever
    return found._replace(seconds=seconds, cpu=cpu)


def as_one(X: Array, options: dict[str, Any]) -> Found:
    from skvae import VAETransformerCV

    return found_by(VAETransformerCV(n_components=SIZES, cv=FOLDS, n_jobs=2, **options).fit(X))


def as_grid(X: Array, options: dict[str, Any]) -> Found:
    from skvae import VAETransformer

    return found_by(GridSearchCV(VAETransformer(**options), {"n_components": SIZES}, cv=FOLDS, n_jobs=2).fit(X))


def found_by(fitted: Any) -> Found:
    scores = [fitted.cv_results_[f"split{k}_test_score"] for k in range(FOLDS.n_splits)]
    return Found(np.transpose(scores).tolist(), int(fitted.best_params_["n_components"]))


def as_loop(X: Array, options: dict[str, Any]) -> Found:
    from skvae import VAETransformer

    scores, epochs = np.zeros((len(SIZES), FOLDS.n_splits)), np.zeros((len(SIZES), FOLDS.n_splits))
    for i, size in enumerate(SIZES):
        for j, (train, test) in enumerate(FOLDS.split(X)):
            vae = VAETransformer(size, **options).fit(X[train])
            scores[i, j], epochs[i, j] = vae.score(X[test]), vae.n_iter_
    best = SIZES[int(scores.mean(axis=1).argmax())]
    VAETransformer(best, **options).fit(X)
    return Found(scores.tolist(), best, epochs=epochs.mean(axis=1).tolist())


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
            scores = " ".join(f"{np.nanmean(score):.2f}" for score in found.scores)
            label = f"{setting.table} ({setting.hidden},) round {seed} {method}"
            took = f"{found.seconds:.1f} s, {found.cpu:.1f} CPU s"
            print(f"{label}: {took}, best {found.best}, scores {scores}", flush=True)
    return searches


def agrees(ours: Found, grid: Found) -> bool:
    """Whether our size is within one standard error of the best, by GridSearchCV's own scores."""
    best, chosen = (np.array(grid.scores[SIZES.index(found.best)]) for found in (grid, ours))
    return bool(chosen.mean() >= best.mean() - best.std(ddof=1) / len(best) ** 0.5)


def ratio(searches: dict[str, list[Found]], method: str) -> float:
    """How many times as long as ours a method took: the median over rounds."""
    pairs = zip(searches[method], searches["VAETransformerCV"], strict=True)
    return statistics.median(theirs.seconds / ours.seconds for theirs, ours in pairs)


def differences(ours: list[Found], grid: list[Found]) -> tuple[str, str]:
    """The scores of our usual size, ours less GridSearchCV's, and the latter's standard deviation over the rounds."""
    usual = statistics.mode(found.best for found in ours)
    at = SIZES.index(usual)
    pairs = [(np.mean(o.scores[at]), np.mean(g.scores[at])) for o, g in zip(ours, grid, strict=True) if o.best == usual]
    one, other = np.transpose(pairs)
    return f"{one.mean() - other.mean():+.3f}", f"{other.std(ddof=1):.3f}" if len(pairs) > 1 else ""


def chosen(runs: list[Found]) -> str:
    return ", ".join(map(str, sorted({found.best for found in runs})))


def format_row(setting: Setting, searches: dict[str, list[Found]], peers: dict[str, float]) -> list[str]:
    ours, grid = searches.get("VAETransformerCV"), searches.get("GridSearchCV")
    seconds = {m: statistics.median(found.seconds for found in runs) for m, runs in searches.items()}
    cpu = {m: f"{statistics.median(found.cpu for found in runs):.1f}" for m, runs in searches.items()}
    cells = {name: f"{took:.1f}" for name, took in (seconds | peers).items()}
    if ours:
        cells |= {m: f"{seconds[m]:.1f} ({ratio(searches, m):.1f}x)" for m in seconds if m != "VAETransformerCV"}
        cells |= {name: f"{took:.1f} ({took / seconds['VAETransformerCV']:.1f}x)" for name, took in peers.items()}
    both = bool(ours and grid)
    agreeing = f"{sum(map(agrees, ours, grid))} of {len(ours)}" if both else ""
    return [
        setting.table,
        *(f"{n:,}" for n in load(setting).shape),
        f"({setting.hidden},)",
        cells.get("VAETransformerCV", ""),
        cpu.get("VAETransformerCV", ""),
        cells.get("GridSearchCV", ""),
        cpu.get("GridSearchCV", ""),
        *(cells.get(name, "") for name in ("loop", *PEERS)),
        chosen(ours) if ours else "",
        chosen(grid) if grid else "",
        agreeing,
        *(differences(ours, grid) if both else ("", "")),
    ]


def judge(setting: Setting, searches: dict[str, list[Found]], peers: dict[str, float]) -> list[str]:
    """The claims this setting can answer."""
    ours, grid = searches.get("VAETransformerCV"), searches.get("GridSearchCV")
    if not ours:
        return []
    where = f"{setting.table} ({setting.hidden},)"
    times = {name: took / statistics.median(found.seconds for found in ours) for name, took in peers.items()}
    claims = [
        (f"{name}'s takes {x:.1f} times as long, at least {LEAST_PEER}", x >= LEAST_PEER) for name, x in times.items()
    ]
    if grid:
        x = ratio(searches, "GridSearchCV")
        claims.append((f"GridSearchCV's takes {x:.2f} times as long, at least {LEAST_GRID}", x >= LEAST_GRID))
        claims.append(("agrees with GridSearchCV in every round", all(map(agrees, ours, grid))))
    return [verdict(f"{where}: {claim}", holds) for claim, holds in claims]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=["digits", "latent"])
    parser.add_argument("--hidden", nargs="+", type=int, default=[100])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["VAETransformerCV", "GridSearchCV"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-iter", type=int, default=200, help="epochs at most")
    parser.add_argument("--rows", type=int, default=10_000, help="of each table, at most")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter with PyOD and pythae")
    parser.add_argument("--peer-epochs", type=int, default=10, help="epochs of a competitor that are timed, at most")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
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
            peers: dict[str, float] = {}
            for name in PEERS if args.peers else ():
                epochs = np.mean([found.epochs for found in searches["loop"]], axis=0).tolist()
                peers[name] = peer_search(name, setting, epochs, args.peers, args.peer_epochs)
                print(f"{table} ({hidden},) {name}: {peers[name]:.1f} s", flush=True)
            rows.append(format_row(setting, searches, peers))
            verdicts += judge(setting, searches, peers)
    print()
    print_table(HEADER, rows, args.markdown)
    print()
    print("\n".join(verdicts))
    if args.docs:
        rewrite(args.docs, "grid search", COMMAND, format_table(HEADER, rows, markdown=True))


if __name__ == "__main__":
    main()
