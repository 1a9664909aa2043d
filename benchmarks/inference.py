"""What a fitted model costs: transform, score_samples and sample, in seconds and in memory.

Protocol: VAETransformer(8, hidden_layer_sizes=(64,)) fitted on 10,000 x 30 rows (a nonlinear map of 4 latents plus
noise), all calls at their defaults and torch's own number of threads, after the same call on few rows.
- transform of `--rows` rows, float64 and float32. "Bare products" is the least a float64 encoder can do on the same
  threads: torch.mm with out= for every layer and the linear path beside them, in the blocks of rows that skvae takes;
  no bias, no activation, no standardising, no conversion, nothing read but float64 rows. All calls take turns in one
  process; a call's seconds are those of the fastest of `--repeats`, which other work on the machine disturbs least.
  Memory is measured in processes of their own, one per call.
- Extra memory is the rise of the process' peak resident memory during the call less the bytes of the array returned;
  the rows themselves were there before (see _measure.py).
- Beside it, on the same rows: PCA(8).transform, and predict of MLPRegressor((64,)) fitted to PCA's 8 codes, which has
  the shape of the encoder without its linear path.
- score_samples with 64 draws against rows, and of `--score-rows` rows against draws: the fastest of at most 3 calls,
  and the least-squares slope in logarithms.
- sample(n).
- with --gaps, these alone: transform, score_samples and impute of rows of which four in five lack a tenth of their
  cells, beside the same rows whole, against latents. Laplace's approximation asks the decoder for second derivatives,
  so their time grows with the latents.
- with --detector, this alone: score_samples of VAEAnomalyDetector at its defaults, fitted to 10,000 such rows and so
  with 5000 codes in as many latents as columns, of `--rows` rows; the fastest of at most 3 calls.
- with --serving, this alone: what a service pays for one row and one file, after a fit to 10,000 x 30 rows: bytes of
  the file, by joblib or as ONNX, and milliseconds of a call with a single row, the median of 200, one thread.
Prediction: transform takes at most 1.2 times the bare products and 100 MB whatever the number of rows; score_samples is
linear in rows and in draws (slope at most 1.05); a detector scores a million rows in at most 20 s on two cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import torch
from _measure import EXACT, MB, PAGE, fresh, latent_table, measure, rewrite, slope, verdict
from _tables import format_table, print_table
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from skvae import VAEAnomalyDetector, VAETransformer
from skvae._inference.scores import block_rows

FIT_ROWS, COLUMNS, LATENTS, HIDDEN = 10_000, 30, 8, 64
SCORED = (1_000, 10_000, 100_000)
DRAWS = (16, 64, 256, 1024)
SAMPLED = (1_000, 10_000, 100_000, 1_000_000)
MOST_RATIO, MOST_MB, MOST_SLOPE = 1.2, 100, 1.05
# Of a detector, for a row: 20 s for a million.
MOST_SCORING = 20e-6
SERVED_CALLS = 200
GAP_ROWS, GAP_COLUMNS, GAP_LATENTS = 2_000, 80, (1, 2, 5, 10, 20, 40)
COMMAND = "python benchmarks/inference.py"
HEADER = ["call", "rows", "s", "of the bare products", "extra MB"]

Array = np.ndarray


def fitted(dtype: str) -> VAETransformer:
    """The model under test; how well it is trained does not matter here."""
    vae = VAETransformer(LATENTS, hidden_layer_sizes=(HIDDEN,), max_iter=5, random_state=0)
    return vae.fit(latent_table(FIT_ROWS, COLUMNS, dtype))


def bare_products(vae: VAETransformer) -> Callable[[Array], Array]:
    """The encoder's matrix products and nothing else, block by block, into arrays made once."""
    encoder = vae.module_.encoder
    linear = encoder.linear.weight.T
    hidden, out = (layer.weight.T for layer in encoder.body if isinstance(layer, torch.nn.Linear))
    size = block_rows(vae.module_, 1)
    buffers = [torch.empty(size, weight.shape[1], dtype=torch.float64) for weight in (linear, hidden, out)]

    @torch.inference_mode()
    def run(X: Array) -> Array:
        for rows in torch.from_numpy(X).split(size):
            straight, inner, last = (buffer[: len(rows)] for buffer in buffers)
            torch.mm(rows, linear, out=straight)
            torch.mm(rows, hidden, out=inner)
            torch.mm(inner, out, out=last)
        return np.empty((len(X), 0))

    return run


def model(name: str, dtype: str) -> Callable[[Array], Array]:
    """The call named `name`, fitted."""
    train = latent_table(FIT_ROWS, COLUMNS, dtype)
    pca = PCA(LATENTS).fit(train)
    if name == "PCA":
        return pca.transform
    if name == "MLPRegressor":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            network = MLPRegressor(hidden_layer_sizes=(HIDDEN,), max_iter=5, random_state=0)
            return network.fit(train, pca.transform(train)).predict
    vae = fitted(dtype)
    return bare_products(vae) if name == "bare" else vae.transform


def memory(name: str, dtype: str, n_rows: int) -> float:
    """Megabytes beyond the rows and the result."""
    call, X = model(name, dtype), latent_table(n_rows, COLUMNS, dtype, seed=1)
    call(X[:2000])
    run = measure(lambda: call(X))
    return (run.extra - run.result.nbytes) / MB


def seconds(names: list[str], dtype: str, n_rows: int, repeats: int) -> dict[str, float]:
    """Seconds of the fastest run of every call, turn about in one process."""
    X = latent_table(n_rows, COLUMNS, dtype, seed=1)
    tasks = {name: (model(name, dtype), X.astype(np.float64, copy=False) if name == "bare" else X) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for call, rows in tasks.values():
        call(rows[:2000])
    for _ in range(repeats):
        for name, (call, rows) in tasks.items():
            start = time.perf_counter()
            call(rows)
            times[name].append(time.perf_counter() - start)
    return {name: min(t) for name, t in times.items()}


def encode(n_rows: int, repeats: int) -> tuple[list[list[str]], dict[str, tuple[float, float]]]:
    """Rows of the table, and (ratio to the bare products, extra megabytes) of transform by dtype."""
    names, rows, ours = ["bare", "VAETransformer", "PCA", "MLPRegressor"], [], {}
    labels = ["bare float64 products", "VAETransformer.transform", "PCA.transform", "MLPRegressor.predict"]
    for dtype in ("float64", "float32"):
        took = fresh(seconds, names, dtype, n_rows, repeats)
        for name, label in zip(names, labels, strict=True):
            if (name, dtype) == ("bare", "float32"):
                continue  # the same as above
            extra, ratio = fresh(memory, name, dtype, n_rows), took[name] / took["bare"]
            shown = label if name == "bare" else f"{label}, {dtype}"
            rows.append([shown, f"{n_rows:,}", f"{took[name]:.3f}", f"{ratio:.2f}", f"{extra:.0f}"])
            print("  ".join(rows[-1]), flush=True)
            if name == "VAETransformer":
                ours[dtype] = ratio, extra
    return rows, ours


Point = tuple[int, int]


def score(points: list[Point], repeats: int) -> list[tuple[float, float]]:
    """Of every (rows, draws): seconds of score_samples, the fastest call, and megabytes beyond rows and result."""
    vae, X = fitted("float64"), latent_table(max(n for n, _ in points), COLUMNS, seed=1)
    vae.score_samples(X[:100])
    return [fastest(lambda n=n, s=s: vae.set_params(n_draws=s).score_samples(X[:n]), repeats) for n, s in points]


def sample(sizes: list[int], repeats: int) -> list[tuple[float, float]]:
    vae = fitted("float64")
    vae.sample(100, random_state=0)
    return [fastest(lambda n=n: vae.sample(n, random_state=0), repeats) for n in sizes]


def fastest(call: Callable[[], Array], repeats: int) -> tuple[float, float]:
    runs = [measure(call) for _ in range(repeats)]
    return min(run.seconds for run in runs), (runs[0].extra - runs[0].result.nbytes) / MB


def detect(n_rows: int, repeats: int) -> tuple[float, float, float]:
    """Seconds in which a detector scores so many rows, the fastest call, megabytes beyond rows and result, CPU seconds.

    The last are of the first call, all threads together: what other work on the machine disturbs least.
    """
    detector = VAEAnomalyDetector(random_state=0).fit(latent_table(FIT_ROWS, COLUMNS))
    X = latent_table(n_rows, COLUMNS, seed=1)
    detector.score_samples(X[:2000])
    start = time.process_time()
    detector.score_samples(X)
    busy = time.process_time() - start
    return *fastest(lambda: detector.score_samples(X), repeats), busy


def with_gaps(repeats: int) -> list[list[str]]:
    """Of every number of latents: microseconds a row with gaps takes, and how many times as long as a whole row."""
    X = latent_table(GAP_ROWS, GAP_COLUMNS, seed=1)
    rng = np.random.default_rng(0)
    gaps = np.where((rng.random(X.shape) < 0.1) & (rng.random(GAP_ROWS) < 0.8)[:, None], np.nan, X)
    found = []
    for n_components in GAP_LATENTS:
        vae = VAETransformer(n_components, max_iter=5, random_state=0).fit(X)
        row = [str(n_components)]
        for call in (vae.transform, vae.score_samples, vae.impute):
            whole = vae.score_samples if call == vae.impute else call
            call(gaps[:200])
            took = [fastest(lambda f=f, rows=rows: f(rows), repeats)[0] for f, rows in ((call, gaps), (whole, X))]
            row.append(f"{1e6 * took[0] / GAP_ROWS:.0f} ({took[0] / took[1]:.1f})")
        found.append(row)
        print("  ".join(row), flush=True)
    return found


def one_row(call: Callable[[], object]) -> str:
    """Milliseconds of a call, the median of many."""
    call()
    took = []
    for _ in range(SERVED_CALLS):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return f"{1e3 * np.median(took):.2g}"


def serving() -> list[list[str]]:
    """Of fitted estimators: kilobytes of their files, and milliseconds of a call with one row."""
    import onnxruntime

    from skvae.export import to_onnx

    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    train, row = latent_table(FIT_ROWS, COLUMNS), latent_table(1, COLUMNS, seed=1)
    few = {"max_iter": 5, "random_state": 0}
    served = [
        (PCA(LATENTS), ["transform"], None),
        (IsolationForest(random_state=0), ["predict"], None),
        (VAETransformer(LATENTS, **few), ["transform", "score_samples"], None),
        (VAETransformer(LATENTS, keep_codes=False, **few), ["transform"], "transform"),
        (VAEAnomalyDetector(**few), ["predict"], "decision_function"),
    ]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model"
        for estimator, methods, exported in served:
            joblib.dump(estimator.fit(train), file)
            size = f"{file.stat().st_size / 1e3:,.0f}"
            name = type(estimator).__name__
            name += "(keep_codes=False)" if getattr(estimator, "keep_codes", True) is False else ""
            for method in methods:
                call = getattr(estimator, method)
                found.append([f"{name}.{method}", size, one_row(lambda call=call: call(row))])
            if exported:
                to_onnx(estimator, file, exported)
                run = onnxruntime.InferenceSession(file, options).run
                size = f"{file.stat().st_size / 1e3:,.0f}"
                found.append([f"{name}.{exported}, ONNX", size, one_row(lambda run=run: run(None, {"X": row}))])
    return found


def score_rows(points: list[Point], measured: list[tuple[float, float]]) -> list[list[str]]:
    return [
        [f"{n:,}", str(s), f"{took:.3f}", f"{1e6 * took / n / s:.3f}", f"{extra:.0f}"]
        for (n, s), (took, extra) in zip(points, measured, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--score-rows", type=int, default=10_000, help="rows of the series over draws")
    parser.add_argument("--most", type=int, default=1_000_000, help="leave out larger series of rows")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls (score_samples and sample: at most 3)")
    parser.add_argument("--gaps", action="store_true", help="rows with gaps beside whole ones, and nothing else")
    parser.add_argument("--detector", action="store_true", help="a detector's scores, and nothing else")
    parser.add_argument("--serving", action="store_true", help="files and single rows, and nothing else")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args()
    few = min(3, args.repeats)
    if args.gaps:
        header = ["latents", "transform: us a row (times a whole one)", "score_samples", "impute (times a score)"]
        print_table(header, fresh(with_gaps, few), args.markdown)
        return
    if args.detector:
        took, extra, busy = fresh(detect, args.rows, few)
        claim = f"a detector scores {args.rows:,} rows in {took:.1f} s ({busy:.1f} s of CPU) and {extra:.0f} MB"
        print(verdict(f"{claim}, at most {MOST_SCORING * args.rows:g} s", took <= MOST_SCORING * args.rows))
        return
    if args.serving:
        header, rows = ["after a fit to 10,000 x 30", "file, kB", "one row, ms"], fresh(serving)
        print_table(header, rows, args.markdown)
        if args.docs:
            rewrite(args.docs, "serving", COMMAND + " --serving", format_table(header, rows, markdown=True))
        return
    if not EXACT:
        print("Peak memory cannot be set back on this system: extra memory is a lower bound.")

    table, ours = encode(args.rows, args.repeats)
    by_rows = [(n, 64) for n in SCORED if n <= args.most]
    by_draws = [(args.score_rows, s) for s in DRAWS]
    sizes = [n for n in SAMPLED if n <= args.most]
    in_rows, in_draws = (fresh(score, points, few) for points in (by_rows, by_draws))
    scored = score_rows(by_rows, in_rows) + score_rows(by_draws, in_draws)
    sampled = [[f"{n:,}", f"{s:.3f}", f"{mb:.0f}"] for n, (s, mb) in zip(sizes, fresh(sample, sizes, few), strict=True)]

    print()
    print_table(HEADER, table, args.markdown)
    print()
    print_table(["score_samples: rows", "draws", "s", "us per row and draw", "extra MB"], scored, args.markdown)
    print()
    print_table(["sample: rows", "s", "extra MB"], sampled, args.markdown)
    print()
    report(ours)
    for what, points, at, measured in (("rows", by_rows, 0, in_rows), ("draws", by_draws, 1, in_draws)):
        found = slope([point[at] for point in points], [took for took, _ in measured])
        print(verdict(f"score_samples: slope {found:.2f} in {what}, at most {MOST_SLOPE}", found <= MOST_SLOPE))
    if args.docs:
        (rows, _, took, _, extra), drawn = scored[len(by_rows) - 1], sampled[-1]
        table.append(["VAETransformer.score_samples, 64 draws", rows, took, "", extra])
        table.append(["VAETransformer.sample", drawn[0], drawn[1], "", drawn[2]])
        rewrite(args.docs, "inference", COMMAND, format_table(HEADER, table, markdown=True))


def report(ours: dict[str, tuple[float, float]]) -> None:
    for dtype, (ratio, extra) in ours.items():
        claim = f"transform of {dtype} in {ratio:.2f} times the bare products, at most {MOST_RATIO}"
        print(verdict(claim, ratio <= MOST_RATIO))
        print(verdict(f"transform of {dtype} in {extra:.0f} MB, at most {MOST_MB}", extra <= MOST_MB))


if __name__ == "__main__":
    main()
