"""The experiments of Auto-Encoding Variational Bayes (Kingma & Welling 2013, figure 2): the bound against rows seen.

Protocol, as the paper has it: one layer of tanh units (MNIST 500, Frey Face 200) in encoder and decoder, batches of 100
rows, one draw, Adagrad with the step of {0.01, 0.02, 0.1} that trains best at first (on at most 5000 rows), a prior
N(0, I) over the weights, no early stopping. Two starts:
- "paper": plain perceptrons with weights from N(0, 0.01);
- "pca": hidden_layer_sizes and init="linear", which add a linear path, started at the linear model.
("random" is the second network with random weights.) MNIST is grey values in [0, 1] under a Bernoulli likelihood, as
in the paper: its bound is a cross entropy, no density of the pixels. Frey Face is in [0, 1] with a Gaussian whose mean
and variance the decoder emits; our mean is not squashed into [0, 1], and the variance of a pixel has a floor of 1e-3 of
its variance over the rows. Frey Face's rows are split at random, 1565 to 400: frames of one film, so test rows have
near twins in training. Bounds are means over the same 1000 rows (Frey: 400 of test), with the averaged weights that fit
would keep there. The time is shared evenly by all configurations, the choice of the step included, and every
one that starts gets a whole epoch: what is printed is how far each came.
Prediction: more latents do not overfit (on MNIST the train and test bounds stay within a few nats of each other at any
J), and "pca" has in its first epoch what "paper" reaches many epochs later.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _tables import print_table
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from skvae import ELBO, Bernoulli, Gaussian, VAETransformer
from skvae._tables.batches import Batch
from skvae.likelihoods import Likelihood

STEPS = (0.01, 0.02, 0.1)
LATENTS = {"mnist": (3, 5, 10, 20, 200), "frey": (2, 5, 10, 20)}
HIDDEN = {"mnist": 500, "frey": 200}
BATCH = 100
EVALUATED = 1000
# Neighbouring points of a curve lie at least this factor of rows apart.
SPACING = 1.7

Array = NDArray[np.float64]


def load(name: str, data: Path) -> tuple[Array, Array, Likelihood]:
    """Training rows, test rows, likelihood."""
    if name == "mnist":
        file = np.load(data / "mnist.npz")
        train, test = (file[key].reshape(-1, 784) / 255.0 for key in ("X_train", "X_test"))
        return train, test, Bernoulli()
    X = np.random.default_rng(0).permutation(np.load(data / "frey_face.npz")["X"] / 255.0)
    return X[400:], X[:400], Gaussian(noise="decoder")


def perceptron(n_in: int, n_out: int, hidden: int) -> nn.Module:
    net = nn.Sequential(nn.Linear(n_in, hidden), nn.Tanh(), nn.Linear(hidden, n_out))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net


@torch.no_grad()
def bound(vae: VAETransformer, X: Array) -> float:
    """Mean ELBO of the rows of X, with the same draws at every call."""
    shift = 0.0 if isinstance(vae.likelihood, Bernoulli) else vae.mean_
    rows = Batch(torch.tensor((X - shift) / vae.scale_))
    return float(ELBO(n_draws=4).monitor(vae.module_, rows, torch.Generator().manual_seed(0)).mean())


@dataclass
class Curve:
    """A scikit-learn callback: bounds after log-spaced epochs, and a stop when the time is up."""

    n_train: int
    train: Array
    test: Array
    deadline: float
    max_iter: int
    points: list[tuple[int, float, float]] = field(default_factory=list)
    epoch: int = 0
    __hash__ = object.__hash__

    def setup(self, estimator, context) -> None: ...

    def teardown(self, estimator, context) -> None: ...

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None) -> None: ...

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None) -> bool:
        if context.task_name != "epoch":
            return False
        self.epoch += 1
        stop = time.perf_counter() > self.deadline
        rows = self.epoch * self.n_train
        if stop or self.epoch == self.max_iter or not self.points or rows >= SPACING * self.points[-1][0]:
            self.points.append((rows, bound(fitted_estimator, self.train), bound(fitted_estimator, self.test)))
        return stop


@dataclass
class Setup:
    """One configuration: a set, a number of latents and a start."""

    name: str
    latents: int
    start: str
    likelihood: Likelihood

    def estimator(self, step: float, n_rows: int, epochs: int) -> VAETransformer:
        """The paper's; a weight decay of 1 / n_rows on the mean loss is the prior N(0, I) over the weights."""
        hidden = HIDDEN[self.name]
        plain = partial(perceptron, hidden=hidden) if self.start == "paper" else None
        return VAETransformer(
            self.latents,
            likelihood=self.likelihood,
            hidden_layer_sizes=(hidden,),
            activation="tanh",
            encoder=plain,
            decoder=plain,
            init="linear" if self.start == "pca" else "random",
            max_iter=epochs,
            batch_size=BATCH,
            solver=partial(torch.optim.Adagrad, lr=step, weight_decay=1 / n_rows),
            early_stopping=False,
            random_state=0,
        )

    def best_step(self, X: Array) -> float:
        """The step whose training loss is lowest after about 5000 rows; one that diverges is out."""
        X = X[:5000]

        def loss(step: float) -> float:
            try:
                return self.estimator(step, len(X), max(1, 5000 // len(X))).fit(X).loss_curve_[-1]
            except ValueError:
                return np.inf

        return min(STEPS, key=loss)

    def run(self, train: Array, test: Array, seconds: float, rows_seen: int) -> list[list[str]]:
        """The curve of the bound, as rows of the table."""
        began = time.perf_counter()
        step, epochs = self.best_step(train), max(1, rows_seen // len(train))
        curve = Curve(len(train), train[:EVALUATED], test[:EVALUATED], began + seconds, epochs)
        vae = self.estimator(step, len(train), epochs).set_callbacks(curve).fit(train)
        head = [self.name, str(self.latents), self.start, f"{step:g}"]
        rows = [[*head, f"{seen:.2e}", f"{a:.2f}", f"{b:.2f}", "", ""] for seen, a, b in curve.points]
        rows[-1][-2:] = [str(int(vae.active_components_.sum())), f"{time.perf_counter() - began:.0f}"]
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist.npz and frey_face.npz")
    parser.add_argument("--sets", nargs="+", choices=list(LATENTS), default=list(LATENTS))
    parser.add_argument("--latents", nargs="+", type=int, help="default: the paper's")
    parser.add_argument("--starts", nargs="+", choices=["paper", "pca", "random"], default=["paper", "pca"])
    parser.add_argument("--minutes", type=float, default=3.0, help="for all configurations together")
    parser.add_argument("--rows-seen", type=int, default=10**8, help="at most, a configuration")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # stopped by the clock, and the table says where

    plan = [(name, J, start) for name in args.sets for J in args.latents or LATENTS[name] for start in args.starts]
    deadline = time.perf_counter() + 60 * args.minutes
    loaded = {name: load(name, args.data) for name in args.sets}
    table: list[list[str]] = []
    for i, (name, J, start) in enumerate(plan):
        seconds = (deadline - time.perf_counter()) / (len(plan) - i)
        if seconds <= 0:
            print(f"{name} J={J} {start}: no time left; raise --minutes or name fewer --sets, --latents, --starts")
            continue
        train, test, likelihood = loaded[name]
        table += Setup(name, J, start, likelihood).run(train, test, seconds, args.rows_seen)
        print(f"{name} J={J} {start}: {table[-1][4]} rows, test bound {table[-1][6]}", flush=True)
    print()
    print_table(["set", "J", "start", "step", "rows seen", "train", "test", "active", "s"], table, args.markdown)


if __name__ == "__main__":
    main()
