"""Test likelihood of MNIST with a learnt prior, or a tighter bound: what is reached in given minutes, on any device.

Two protocols, as their papers have them; every option below changes one thing of it.
- "vamp" (Tomczak & Welling 2018, section 5): MNIST of fixed binarisation (binarized_mnist.npz, 60,000 rows of which
  10,000 are held out), two hidden layers of 300 gated units, 40 latents, a VampPrior of 500 pseudo-inputs, the ELBO
  with a warm-up of 100 epochs, Adam at 5e-4, batches of 100, at most 2000 epochs, patience of 50.
  Anchors, -log p(x) in nats: 85.6 (N(0, I) with the same networks: 88.6).
- "iwae" (Burda et al. 2016, section 5): MNIST binarised anew in every batch (mnist.npz), two hidden layers of 200 tanh
  units, 50 latents, N(0, I), 50 draws, batches of 20, Adam with epsilon 1e-4 and 3^i passes at 1e-3 10^(-i/7) for
  i = 0 ... 7 (3280 in all), no early stopping. Anchor: 84.78 (VAE of one draw: 86.76; fixed binarisation: 87.10).
Both are evaluated as there: log p(x) of the 10,000 test rows by 5000 importance samples each.
--minutes ends training early; what is printed then stands beside the anchors with the minutes it took.
`--start linear` has skvae's own networks in place of the paper's: a perceptron of the same width beside a linear map,
where training starts.

On two cores, some minutes:    python benchmarks/static_mnist.py --data DIR --minutes 8 --samples 500 --test-rows 1000
In full, on an accelerator:    python benchmarks/static_mnist.py --data DIR --protocol vamp --device cuda
                               python benchmarks/static_mnist.py --data DIR --protocol iwae --device cuda
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skvae import ELBO, IWAE, VAETransformer
from skvae.objectives import Batch, Objective
from skvae.priors import PRIORS, Mixture, PriorSpec, Vamp

N_HELD_OUT = 10_000
PROTOCOLS: dict[str, dict[str, Any]] = {
    "vamp": {
        "hidden": [300, 300],
        "gated": True,
        "latents": 40,
        "prior": "vamp",
        "modes": 500,
        "objective": "elbo",
        "draws": 1,
        "warmup": 100,
        "rate": 5e-4,
        "batch": 100,
        "epochs": 2000,
        "patience": 50,
        "dynamic": False,
        "anchor": "85.6 (VampPrior), 88.6 (N(0, I))",
    },
    "iwae": {
        "hidden": [200, 200],
        "gated": False,
        "latents": 50,
        "prior": "normal",
        "modes": 500,
        "objective": "iwae",
        "draws": 50,
        "warmup": 0,
        "rate": None,
        "batch": 20,
        "epochs": 3280,
        "patience": None,
        "dynamic": True,
        "anchor": "84.78 (IWAE-50), 86.76 (VAE)",
    },
}

Array = NDArray[np.float32]


def load(data: Path, dynamic: bool) -> tuple[Array, Array]:
    """Rows to train on, in grey where they are binarised anew in every batch, and binary test rows."""
    if not dynamic:
        file = np.load(data / "binarized_mnist.npz")
        parts = (np.unpackbits(file[f"X_{part}"], axis=1)[:, :784] for part in ("train", "valid", "test"))
        train, valid, test = (part.astype(np.float32) for part in parts)
        return np.concatenate([train, valid]), test
    file = np.load(data / "mnist.npz")
    train, test = (file[key].reshape(-1, 784).astype(np.float32) / 255 for key in ("X_train", "X_test"))
    return train, (np.random.default_rng(0).random(test.shape) < test).astype(np.float32)


class Gated(nn.Module):
    """h(x) * sigmoid(g(x)), with linear maps h and g."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.both = nn.Linear(n_in, 2 * n_out)
        nn.init.normal_(self.both.weight, std=math.sqrt(2 / n_in))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.glu(self.both(x), dim=-1)


def perceptron(n_in: int, n_out: int, hidden: list[int], gated: bool) -> nn.Module:
    """The papers' network."""
    layers: list[nn.Module] = []
    for before, width in pairwise([n_in, *hidden]):
        layers += [Gated(before, width)] if gated else [nn.Linear(before, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], n_out))


def binarised(batch: Batch, rng: torch.Generator) -> Batch:
    return replace(batch, x=torch.bernoulli(batch.x, generator=rng))


class DynamicELBO(ELBO):
    """The ELBO of rows that are binarised anew in every batch."""

    def views(self, units: Any, batch: Batch, rng: torch.Generator) -> tuple[Batch, Batch]:
        drawn = binarised(batch, rng)
        return drawn, drawn


class DynamicIWAE(IWAE):
    """The importance-weighted bound of the same."""

    def bound(self, model: Any, batch: Batch, rng: torch.Generator) -> Tensor:
        return super().bound(model, binarised(batch, rng), rng)


class Burda(torch.optim.Adam):
    """Adam whose step size falls as in the IWAE paper: 3^i passes at 1e-3 10^(-i/7)."""

    def __init__(self, parameters: Any, steps_per_pass: int):
        super().__init__(parameters, lr=1e-3, eps=1e-4)
        self.steps_per_pass, self.n_steps = steps_per_pass, 0

    def step(self, closure: Any = None) -> Any:
        stage = int(math.log(2 * (self.n_steps // self.steps_per_pass) + 1, 3) + 1e-9)
        for group in self.param_groups:
            group["lr"] = 1e-3 * 10 ** (-stage / 7)
        self.n_steps += 1
        return super().step(closure)


class Limit:
    """A scikit-learn callback that ends training when its minutes are over."""

    def __init__(self, minutes: float):
        self.until = time.perf_counter() + 60 * minutes

    def setup(self, estimator: Any, context: Any) -> None:
        pass

    teardown = on_fit_task_begin = lambda self, *args, **kwargs: None

    def on_fit_task_end(self, estimator: Any, context: Any, **kwargs: Any) -> bool:
        return time.perf_counter() > self.until


def prior_of(name: str, n_modes: int) -> PriorSpec:
    return {"mixture": Mixture, "vamp": Vamp}[name](n_modes) if name != "normal" else PRIORS["normal"]()


def objective_of(args: argparse.Namespace) -> Objective:
    if args.objective == "iwae":
        return (DynamicIWAE if args.dynamic else IWAE)(args.draws)
    return (DynamicELBO if args.dynamic else ELBO)(n_draws=args.draws, warmup=args.warmup)


def estimator(args: argparse.Namespace, n_rows: int) -> VAETransformer:
    networks: dict[str, Any] = {"hidden_layer_sizes": args.hidden}
    if args.start == "random":
        build = partial(perceptron, hidden=args.hidden, gated=args.gated)
        networks = {"encoder": build, "decoder": build}
    solver = "adam" if args.rate else partial(Burda, steps_per_pass=-(-n_rows // args.batch))
    vae = VAETransformer(
        args.latents,
        likelihood="bernoulli",
        objective=objective_of(args),
        prior=prior_of(args.prior, args.modes),
        **networks,
        solver=solver,
        learning_rate_init=args.rate or 1e-3,
        batch_size=args.batch,
        max_iter=args.epochs,
        early_stopping=args.patience is not None,
        n_iter_no_change=args.patience or args.epochs,
        validation_fraction=N_HELD_OUT / 60_000,
        device=args.device,
        random_state=args.seed,
        verbose=1,
    )
    return vae if args.minutes is None else vae.set_callbacks(Limit(args.minutes))


@torch.no_grad()
def evaluate(vae: VAETransformer, X: Array, n_samples: int, device: torch.device) -> tuple[float, float]:
    """Mean ELBO and mean log p(x) by importance samples from q(z|x): of rows, a part of them and of the draws at once.

    Both are of the same draws: the mean of log w, and the logarithm of the mean of w.
    """
    model = copy.deepcopy(vae.module_).to(device, torch.float32)
    rng = torch.Generator(device).manual_seed(0)
    most = 200_000_000 if device.type == "cuda" else 4_000_000  # numbers in an array of pixels
    n_rows, n_draws = min(100, len(X)), max(1, min(n_samples, most // 784 // 100))
    began, printed = time.perf_counter(), time.perf_counter()
    bounds, likelihoods = [], []
    for first in range(0, len(X), n_rows):
        x = torch.tensor(X[first : first + n_rows]).to(device)
        total, sums = x.new_full((len(x),), -math.inf, dtype=torch.float64), x.new_zeros(len(x), dtype=torch.float64)
        for done in range(0, n_samples, n_draws):
            shape = min(n_draws, n_samples - done), len(x), vae.n_components_
            eps = torch.randn(shape, generator=rng, device=device, dtype=torch.float32)
            log_w = model.log_weights(x, eps).total.double()
            total, sums = torch.logaddexp(total, torch.logsumexp(log_w, 0)), sums + log_w.sum(0)
        bounds.append(sums / n_samples)
        likelihoods.append(total - math.log(n_samples))
        if time.perf_counter() - printed > 20:
            printed = time.perf_counter()
            print(f"  {first + len(x)} of {len(X)} test rows, {printed - began:.0f} s")
    return float(torch.cat(bounds).mean()), float(torch.cat(likelihoods).mean())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with binarized_mnist.npz and mnist.npz")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="vamp")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, help="of training, at most")
    parser.add_argument("--rows", type=int, help="to train and to hold out, together")
    parser.add_argument("--samples", type=int, default=5000, help="importance samples of a test row")
    parser.add_argument("--test-rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", choices=["random", "linear"], default="random", help="whose networks")
    parser.add_argument("--hidden", type=int, nargs="+")
    parser.add_argument("--gated", action=argparse.BooleanOptionalAction)
    parser.add_argument("--dynamic", action=argparse.BooleanOptionalAction, help="binarise anew in every batch")
    parser.add_argument("--prior", choices=sorted(PRIORS))
    parser.add_argument("--objective", choices=["elbo", "iwae"])
    for name in ("latents", "modes", "draws", "warmup", "batch", "epochs", "patience"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--rate", type=float, help="a constant step size of Adam")
    args = parser.parse_args()
    for name, value in PROTOCOLS[args.protocol].items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    return args


def main() -> None:
    args = arguments()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    train, test = load(args.data, args.dynamic)
    train = np.random.default_rng(args.seed).permutation(train)[: args.rows]
    print(f"{args.protocol}: {len(train)} rows on {args.device}, torch {torch.__version__}")
    n_trained = len(train) - (int(len(train) * N_HELD_OUT / 60_000) if args.patience is not None else 0)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training that was ended early is below the linear model
        vae = estimator(args, n_trained).fit(train)
    minutes = (time.perf_counter() - began) / 60
    print(f"{minutes:.1f} minutes, {vae.n_iter_} epochs, weights of epoch {vae.best_iter_} kept")
    some = np.random.default_rng(0).permutation(test)[: args.test_rows]  # the file's rows are in an order of their own
    bound, nats = evaluate(vae, some, args.samples, torch.device(args.device))
    active = int(vae.active_components_.sum())
    print(f"test bound {bound:.2f}, -log p(x) {-nats:.2f} nats ({args.samples} samples, {args.test_rows} rows)")
    print(f"{active} of {args.latents} latents are active; anchors, trained to the end: {args.anchor}")


if __name__ == "__main__":
    main()
