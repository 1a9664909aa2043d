"""Seconds per epoch beside other autoencoders with the same network and batch, and beside its matrix products alone.

Workloads: 10,000 x 30 standard normal numbers, perceptrons 30-64-8-64-30, batches of 32 and of 200, Gaussian; and
60,000 x 784, 784-500-20-500-784, batches of 128, Bernoulli: MNIST from --data, uniform numbers without. relu
everywhere, rows in float32. And every likelihood on 10,000 x 30 of its own numbers, batches of 32, one thread, beside
MLPRegressor alone: its ratio is a median over the rounds.
Competitors:
- skvae: VAETransformer with its dense engine, which is what fit uses by itself; random start, no rows held out. Its
  networks have a linear map beside the perceptron, which no other competitor has: a quarter to a half more products.
- skvae autograd: the same fit with an objective that is the ELBO by another name, whose gradient nobody states.
- MLPRegressor: scikit-learn's, hidden layers (64, 8, 64), fitted X to X with adam. It is no VAE: no noise, no KL, and
  half as many numbers out of its encoder.
- PyOD and pythae: their released VAE, each with its own training loop (see requirements-peers.txt and --peers).
- products: the float32 matrix products of the plain perceptrons in torch and nothing else, into buffers made before:
  for every layer forward, the weight's gradient and the input's gradient (not that of the data, which nobody needs).
  The encoder emits 2 J numbers. "products, linear path" has those of skvae's linear maps too.
Protocol: a fit of 1 + n epochs less a fit of one, divided by n, in a fresh process that has fitted a few rows before; n
such that the difference is at least --seconds. Competitors take turns for --rounds rounds; every number is the median.
All run with 1 thread and with all cores, and a competitor's better median counts; a number of threads that took more
than three times the other's time in the first round is not tried again, and one that hangs is ended ("inf").
Prediction, as ratios of seconds per epoch: skvae takes at most 0.60 (batch 32), 0.75 (batch 200) and 0.55 (784 columns)
of MLPRegressor; on 30 columns PyOD takes at least 15 times and pythae 3 times as long as skvae; on 784 columns skvae
takes at most 1.25 of the bare products. Of the likelihoods, real columns take at most 0.60 of MLPRegressor, zeros and
ones 0.65, fractions 0.80, counts, categories and mixed columns 1.00. "!" marks a ratio that misses.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from _measure import PAGE, rewrite
from _peers import PEERS, Array, Job, run_job, seconds_an_epoch
from _tables import format_table, print_table
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from skvae import ELBO, Gaussian, Mixed, VAETransformer

OURS = ("skvae", "skvae autograd", "MLPRegressor", "products", "products, linear path")
COMMAND = "python benchmarks/epoch_time.py"
THREADS = ("1 thread", "all cores")
HEADER = ["competitor", *(f"{name}, s" for name in THREADS), "us per step"]
DOCS_HEADER = [
    *("table", "batch", "skvae, s", "us per step", "autograd, s"),
    *("/ MLPRegressor", "PyOD /", "pythae /", "/ products"),
]
LIKELIHOODS_HEADER = ["likelihood", "skvae, s", "us per step", "/ MLPRegressor", "bar"]
# What takes this many times longer than with the other number of threads is not tried again.
HOPELESS = 3.0
# A process with all cores is ended after this many times the wall time of the one with one thread.
PATIENCE = 10.0

# Seconds per epoch by competitor and threads, one per round.
Times = dict[tuple[str, str], list[float]]


class Workload(NamedTuple):
    """A table, a network, a batch and the largest or smallest ratios that were predicted."""

    label: str
    shape: tuple[int, int]
    hidden: int
    latents: int
    batch: int
    bars: dict[str, float]
    likelihood: str = "gaussian"

    @property
    def mnist(self) -> bool:
        return self.shape[1] == 784

    @property
    def steps(self) -> int:
        return -(-self.shape[0] // self.batch)

    def job(self, name: str) -> Job:
        return Job(name, self.latents, self.hidden, self.batch, self.likelihood)


SMALL, LARGE = (10_000, 30), (60_000, 784)
WORKLOADS = {
    "small-32": Workload("10,000 x 30, 64-8-64", SMALL, 64, 8, 32, {"MLPRegressor": 0.60, "PyOD": 15.0, "pythae": 3.0}),
    "small-200": Workload(
        "10,000 x 30, 64-8-64", SMALL, 64, 8, 200, {"MLPRegressor": 0.75, "PyOD": 15.0, "pythae": 3.0}
    ),
    "large-128": Workload(
        "60,000 x 784, 500-20-500", LARGE, 500, 20, 128, {"MLPRegressor": 0.55, "products": 1.25}, "bernoulli"
    ),
}

# The ten columns each of a mixed table.
REAL, COUNTED, CHOSEN = (list(range(first, first + 10)) for first in (0, 10, 20))
# Of every likelihood: what stands for it in fit, and its bar beside MLPRegressor.
LIKELIHOODS: dict[str, tuple[Any, float]] = {
    "gaussian": ("gaussian", 0.60),
    "gaussian, shared": (Gaussian("shared"), 0.60),
    "gaussian, decoder": (Gaussian("decoder"), 0.60),
    "student_t": ("student_t", 0.60),
    "laplace": ("laplace", 0.60),
    "johnson_su": ("johnson_su", 0.60),
    "log_normal": ("log_normal", 0.60),
    "normal_score": ("normal_score", 0.75),
    "bernoulli": ("bernoulli", 0.65),
    "continuous_bernoulli": ("continuous_bernoulli", 0.80),
    "poisson": ("poisson", 1.0),
    "negative_binomial": ("negative_binomial", 1.0),
    "categorical": ("categorical", 1.0),
    "mixed": (Mixed([("gaussian", REAL), ("poisson", COUNTED), ("categorical", CHOSEN)]), 1.0),
}


class AnyLoss(ELBO):
    """The ELBO as a user's own call: nothing states its gradient, so autograd finds it."""

    def __call__(self, model, batch, rng, epoch):
        return super().__call__(model, batch, rng, epoch)


def load(workload: Workload, data: Path | None) -> Array:
    if workload.mnist and data is not None and (data / "mnist.npz").exists():
        X = np.load(data / "mnist.npz")["X_train"].reshape(-1, 784) / np.float32(255)
    elif workload.mnist:
        X = np.random.default_rng(0).random(workload.shape, dtype=np.float32)
    else:
        X = in_support(workload.likelihood, workload.shape)
    return np.ascontiguousarray(X, dtype=np.float32)


def in_support(likelihood: str, shape: tuple[int, int]) -> np.ndarray:
    """Random numbers that a likelihood takes."""
    rng = np.random.default_rng(0)
    real = rng.standard_normal(shape, dtype=np.float32)
    if likelihood == "mixed":
        real[:, COUNTED] = rng.poisson(5, (len(real), len(COUNTED)))
        real[:, CHOSEN] = rng.integers(3, size=(len(real), len(CHOSEN)))
    drawn = {
        "log_normal": lambda: np.exp(real),
        "bernoulli": lambda: rng.random(shape) < 0.3,
        "continuous_bernoulli": lambda: rng.random(shape),
        "poisson": lambda: rng.poisson(5, shape),
        "negative_binomial": lambda: rng.negative_binomial(2, 0.3, shape),
        "categorical": lambda: rng.integers(3, size=shape),
    }
    return drawn.get(likelihood, lambda: real)()


def fit_skvae(X: Array, job: Job, epochs: int, objective: Any = "elbo") -> None:
    VAETransformer(
        job.latents,
        likelihood=LIKELIHOODS[job.likelihood][0],
        objective=objective,
        hidden_layer_sizes=(job.hidden,),
        init="random",
        max_iter=epochs,
        batch_size=job.batch,
        early_stopping=False,
        random_state=0,
    ).fit(X)


def fit_autograd(X: Array, job: Job, epochs: int) -> None:
    fit_skvae(X, job, epochs, AnyLoss())


def fit_regressor(X: Array, job: Job, epochs: int) -> None:
    hidden = (job.hidden, job.latents, job.hidden)
    MLPRegressor(
        hidden_layer_sizes=hidden, batch_size=job.batch, max_iter=epochs, n_iter_no_change=epochs + 1, random_state=0
    ).fit(X, X)


class Product:
    """One layer's matrix products for a batch, into its own buffers."""

    def __init__(self, n_in: int, n_out: int, batch: int, sees_data: bool):
        self.weight, self.weight_grad = torch.randn(n_out, n_in), torch.empty(n_out, n_in)
        self.x, self.out, self.out_grad = (torch.randn(batch, n) for n in (n_in, n_out, n_out))
        self.x_grad = torch.empty(batch, n_in)
        self.sees_data = sees_data

    def forward(self, batch: torch.Tensor) -> None:
        self.seen = batch if self.sees_data else self.x
        torch.mm(self.seen, self.weight.T, out=self.out)

    def backward(self) -> None:
        torch.mm(self.out_grad.T, self.seen, out=self.weight_grad)
        if not self.sees_data:
            torch.mm(self.out_grad, self.weight, out=self.x_grad)


@torch.inference_mode()
def multiply(X: Array, job: Job, epochs: int) -> None:
    """The products of `epochs` epochs; the rows beyond the last whole batch are left out."""
    assert job.batch is not None
    n_features, rows = X.shape[1], torch.from_numpy(X)
    encoder, decoder = (n_features, job.hidden, 2 * job.latents), (job.latents, job.hidden, n_features)
    shapes = [*pairwise(encoder), *pairwise(decoder)]
    if job.name == "products, linear path":
        shapes += [(encoder[0], encoder[-1]), (decoder[0], decoder[-1])]
    layers = [Product(*shape, job.batch, sees_data=shape[0] == n_features) for shape in shapes]
    for _ in range(epochs):
        for first in range(0, len(X) - job.batch + 1, job.batch):
            batch = rows[first : first + job.batch]
            for layer in layers:
                layer.forward(batch)
            for layer in layers:
                layer.backward()


FITS = {
    "skvae": fit_skvae,
    "skvae autograd": fit_autograd,
    "MLPRegressor": fit_regressor,
    "products": multiply,
    "products, linear path": multiply,
}


def answer(text: str) -> None:
    """What a child process does: time the competitor of one job."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    request = json.loads(text)
    X, job = np.load(request["rows"]), Job(**request["job"])
    fit = FITS[job.name]
    assert job.batch is not None
    seconds = seconds_an_epoch(lambda rows, epochs: fit(rows, job, epochs), X, job.batch, request["least"])
    print(seconds)


def measure(
    workload: Workload,
    X: Array,
    args: argparse.Namespace,
    ours: Sequence[str] = OURS,
    threads: Sequence[str] = THREADS,
) -> Times:
    """Every competitor in turn, `args.rounds` times."""
    times: Times = {}
    scripts = dict.fromkeys(ours, (sys.executable, __file__))
    if args.peers and ours is OURS:
        scripts |= dict.fromkeys(PEERS, (args.peers, str(Path(__file__).with_name("_peers.py"))))
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npy"
        np.save(rows, X)
        for i in range(args.rounds):
            for name, (python, script) in scripts.items():
                request = {"rows": str(rows), "job": workload.job(name)._asdict(), "least": args.seconds}
                tried = {n: times[name, n][0] for n in threads if i > 0}
                limit = None
                for n in threads:
                    if not tried or tried[n] <= HOPELESS * min(tried.values()):
                        start = time.perf_counter()
                        found = run_job(python, script, request, n == THREADS[0], limit)
                        limit = PATIENCE * (time.perf_counter() - start)
                        times.setdefault((name, n), []).append(found)
                        print(f"round {i + 1}  {workload.label}  {name}  {n}  {found:.4f} s", flush=True)
    return times


def best(times: Times) -> dict[str, float]:
    """A competitor's median with the number of threads that suits it."""
    return {name: min(median(times[name, n]) for n in THREADS) for name, _ in times}


def ratios(seconds: dict[str, float]) -> dict[str, tuple[str, float]]:
    """Label and value of each ratio, by the name of the other competitor; a peer stands above the line, so that more
    is better for it.
    """
    ours = seconds["skvae"]
    return {
        name: (f"{name} / skvae", other / ours) if name in PEERS else (f"skvae / {name}", ours / other)
        for name, other in seconds.items()
        if name != "skvae"
    }


def marked(workload: Workload, name: str, ratio: float) -> str:
    bar = workload.bars.get(name)
    missed = bar is not None and (ratio < bar if name in PEERS else ratio > bar)
    return f"{ratio:.2f}{' !' if missed else ''}"


def ratio_rows(workload: Workload, seconds: dict[str, float]) -> Iterator[list[str]]:
    for name, (label, ratio) in ratios(seconds).items():
        bar = workload.bars.get(name)
        rule = "" if bar is None else f"{'>=' if name in PEERS else '<='} {bar:.2f}"
        yield [label, marked(workload, name, ratio), rule]


def docs_row(workload: Workload, seconds: dict[str, float]) -> list[str]:
    found, ours = ratios(seconds), seconds["skvae"]
    autograd = f"{seconds['skvae autograd']:.3f}"
    cells = [f"{found[name][1]:.2f}" if name in found else "" for name in ("MLPRegressor", *PEERS, "products")]
    return [workload.label, str(workload.batch), f"{ours:.3f}", f"{1e6 * ours / workload.steps:.0f}", autograd, *cells]


def likelihood_row(name: str, args: argparse.Namespace) -> list[str]:
    """A likelihood's epoch beside MLPRegressor's, on the same rows."""
    bar = LIKELIHOODS[name][1]
    workload = Workload(name, SMALL, 64, 8, 32, {"MLPRegressor": bar}, name)
    X = load(workload, None)
    times = measure(workload, X, args, ("skvae", "MLPRegressor"), THREADS[:1])
    ours, other = (times[competitor, THREADS[0]] for competitor in ("skvae", "MLPRegressor"))
    ratio = median(a / b for a, b in zip(ours, other, strict=True))
    seconds = median(ours)
    shown = marked(workload, "MLPRegressor", ratio)
    return [name, f"{seconds:.3f}", f"{1e6 * seconds / workload.steps:.0f}", shown, f"<= {bar:.2f}"]


def workload_row(workload: Workload, args: argparse.Namespace) -> list[str]:
    """Print one workload's tables; return the row of docs/benchmarks.md."""
    times = measure(workload, load(workload, args.data), args)
    seconds = best(times)
    rows = [
        [name, *(f"{median(times[name, n]):.4f}" for n in THREADS), f"{1e6 * s / workload.steps:.0f}"]
        for name, s in seconds.items()
    ]
    print(f"\n{workload.label}, batch {workload.batch}")
    print_table(HEADER, rows, args.markdown)
    print()
    print_table(["ratio", "", "bar"], list(ratio_rows(workload, seconds)), args.markdown)
    print(flush=True)
    return docs_row(workload, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with mnist.npz; without it, uniform numbers of its shape")
    parser.add_argument("--peers", help="the Python of an environment with pyod and pythae")
    parser.add_argument("--workloads", nargs="*", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--likelihoods", nargs="*", choices=list(LIKELIHOODS), default=list(LIKELIHOODS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="shortest difference of two fits that counts")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        answer(args.job)
        return
    if not args.peers:
        print("PyOD and pythae are left out: --peers names no Python that has them.")

    table = [workload_row(WORKLOADS[name], args) for name in args.workloads]
    if table:
        print_table(DOCS_HEADER, table, args.markdown)
        print()
    print_table(LIKELIHOODS_HEADER, [likelihood_row(name, args) for name in args.likelihoods], args.markdown)
    if args.docs and table:
        rewrite(args.docs, "epoch time", COMMAND, format_table(DOCS_HEADER, table, markdown=True))


if __name__ == "__main__":
    main()
