"""Seconds until skvae's held-out likelihood is what PyOD's or pythae's VAE has at its end.

Tables: digits (8 latents), 10,000 rows of MNIST (20 latents; tested on 500 rows of its test set) and four continuous
tables of ADBench (5 latents; normal rows only, at most 3000), columns standardised by the training rows, near-constant
ones left out; 30 % of the rows are held out where there is no test set. All models have one hidden layer of 100 relu
units on either side and the same number of latents, and one Gaussian noise variance for all columns.
Peers train once at their own defaults (PyOD 30 epochs of batches of 32, pythae 100 of 64), each in a process that has
fitted a few rows before, with one thread and with all cores; the faster run counts. Their loss is a squared error, so
the noise variance that makes each a density is fitted afterwards: the mean squared residual of the training rows at
draws of q(z|x), which maximises the bound given the networks. PyOD's VAE has no KL term at its defaults (capacity=0)
and is evaluated as it is.
One estimator for all: skvae.scores.log_likelihood, importance sampling with --draws draws, in nats of standardised
units, noise at least 1e-3. For networks whose q(z|x) is far from p(z|x), as without a KL term, the encoder is a poor
proposal; all models are therefore evaluated twice, with draws from the encoder's q and from Laplace's approximation to
p(z|x), and as both are lower bounds the higher mean counts.
skvae is VAETransformer(J, likelihood=Gaussian(noise="shared")), all else at its defaults, fitted with max_iter 1, 2, 3,
4, 5, 6, 8 and so on by a quarter, rows held out for early stopping and all; a time is the median wall time of --repeats
whole fits with the first max_iter whose likelihood is at least the peer's.
Prediction: on every table that takes at most a tenth of the time of the peer with the higher likelihood ("!": it does
not).
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from math import ceil, log
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from _measure import PAGE, rewrite
from _peers import PEERS, Job, run_job
from _tables import format_table, print_table
from likelihood import load, near_constant
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

from skvae import Gaussian, VAETransformer
from skvae._inference.posterior import Posterior, laplace, posterior
from skvae._inference.quadrature import Rule, normal_rule
from skvae._inference.scores import block_rows
from skvae._math import log_normal
from skvae._tables.batches import Batch
from skvae._tables.moments import Scale
from skvae.model import VAE
from skvae.priors import StandardNormal

LATENTS = {"digits": 8, "mnist": 20, "25_musk": 5, "28_pendigits": 5, "40_vowels": 5, "43_WDBC": 5}
HIDDEN = 100
MNIST_ROWS, MNIST_TEST_ROWS = 10_000, 500
BAR = 0.1
STEP = 1.25
COMMAND = "python benchmarks/time_to_quality.py"
HEADER = ["table", "N", "D", "J", "peer", "s", "nats", "skvae, s", "epochs", "ratio", "at its end, s", "nats"]

Array = NDArray[np.float64]


class Fitted(NamedTuple):
    """A model, the seconds its training took, and its mean held-out log-likelihood."""

    seconds: float
    nats: float
    epochs: int | None = None


def split(name: str, data: Path | None) -> tuple[Array, Array]:
    """Training and test rows in units of the training rows' standard deviations."""
    if name == "mnist":
        assert data is not None
        file = np.load(data / "mnist.npz")
        train, test = (file[key].reshape(-1, 784) / 255.0 for key in ("X_train", "X_test"))
        train, test = train[:MNIST_ROWS], test[:MNIST_TEST_ROWS]
    else:
        train, test = train_test_split(load(name, data), test_size=0.3, random_state=0)
    kept = ~near_constant(train)
    scaler = StandardScaler().fit(train[:, kept])
    return scaler.transform(train[:, kept]), scaler.transform(test[:, kept])


@torch.no_grad()
def held_out(model: VAE, x: torch.Tensor, n_draws: int) -> float:
    """Mean log-likelihood of the rows x, in the model's units: the higher of two lower bounds."""
    rule, size = normal_rule(n_draws, model.prior.n_components, seed=0), block_rows(model, n_draws)
    encoded = posterior(model, Batch(x))

    def bound(q: Posterior) -> float:
        blocks = zip(x.split(size), q.mean.split(size), q.factor.split(size), strict=True)
        values = [log_likelihood(model, Batch(rows), Posterior(*moments), rule) for rows, *moments in blocks]
        return float(torch.cat(values).mean())

    return max(bound(encoded), bound(laplace(model, Batch(x), encoded.mean)))


def log_likelihood(model: VAE, rows: Batch, q: Posterior, rule: Rule) -> torch.Tensor:
    """`skvae.scores.log_likelihood`, with any normal distribution in the place of the encoder's: (N,)."""
    z = q.mean + torch.einsum("njk,sk->snj", q.factor, rule.eps[:, 0])
    log_q = log_normal(rule.eps).sum(-1) - q.factor.diagonal(dim1=1, dim2=2).log().sum(-1)
    return torch.logsumexp(model.log_joint(z, rows.x) - log_q + rule.log_weight, dim=0)


def peer_model(path: Path, train: torch.Tensor, J: int) -> VAE:
    """A peer's networks as a model of ours, with the noise that fits the training rows."""
    file, D = np.load(path), train.shape[1]

    def network(part: str) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in range(2):
            weight, bias = (torch.tensor(file[f"{part}.{i}.{name}"]) for name in ("weight", "bias"))
            layer = nn.Linear(*weight.T.shape)
            layer.load_state_dict({"weight": weight, "bias": bias})
            layers += [layer, nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    density = Gaussian(noise="shared").build(D, Scale(np.zeros(D), np.ones(D)))
    model = VAE(network("encoder"), network("decoder"), density, StandardNormal(J), nn.ModuleDict()).double().eval()
    with torch.no_grad():
        mu, log_var = model.encode(train)
        eps = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0), dtype=mu.dtype)
        residual = train - model.mean(mu + torch.exp(0.5 * log_var) * eps)
        density.log_noise.fill_(residual.square().mean().log())
    return model


def fit_peer(name: str, train: Array, test: Array, J: int, args: argparse.Namespace) -> Fitted:
    """The faster of two runs, with one thread and with all cores; the second is ended once it cannot be faster."""
    script, found = str(Path(__file__).with_name("_peers.py")), []
    with tempfile.TemporaryDirectory() as folder:
        rows, weights = Path(folder) / "rows.npy", Path(folder) / "weights.npz"
        np.save(rows, train)
        request = {"rows": str(rows), "job": Job(name, J, HIDDEN)._asdict(), "weights": str(weights)}
        limit = None
        for one_thread in (True, False):
            start = time.perf_counter()
            seconds = run_job(args.peers, script, request, one_thread, limit)
            limit = time.perf_counter() - start
            if np.isfinite(seconds):
                model = peer_model(weights, torch.tensor(train), J)
                found.append(Fitted(seconds, held_out(model, torch.tensor(test), args.draws)))
    return min(found)


def fit_ours(train: Array, J: int, epochs: int) -> tuple[VAETransformer, float]:
    """A fitted model, and the wall time of its fit."""
    vae = VAETransformer(J, likelihood=Gaussian(noise="shared"), max_iter=epochs, random_state=0)
    start = time.perf_counter()
    vae.fit(train)
    return vae, time.perf_counter() - start


def our_points(train: Array, test: Array, J: int, args: argparse.Namespace) -> Iterator[Fitted]:
    """Whole fits with more and more epochs, up to one at the defaults."""
    longest = VAETransformer().max_iter
    for epochs in sorted({min(longest, ceil(STEP**i)) for i in range(ceil(log(longest, STEP)) + 1)}):
        vae, seconds = fit_ours(train, J, epochs)
        x = torch.tensor((test - vae.mean_) / vae.scale_)
        yield Fitted(seconds, held_out(vae.module_, x, args.draws), epochs)
        if vae.n_iter_ < epochs:  # stopped by itself: more epochs would change nothing
            return


def measure(name: str, args: argparse.Namespace) -> Iterator[tuple[list[str], float, float]]:
    """One row of the table a peer, its likelihood, and the ratio of the times."""
    J, (train, test) = LATENTS[name], split(name, args.data)
    peers = {peer: fit_peer(peer, train, test, J, args) for peer in PEERS}
    target = max(peer.nats for peer in peers.values())
    fit_ours(train[:256], J, 1)  # first calls of everything
    points = []
    for point in our_points(train, test, J, args):
        points.append(point)
        if point.nats >= target:
            break
    vae, at_end = fit_ours(train, J, VAETransformer().max_iter)
    final = held_out(vae.module_, torch.tensor((test - vae.mean_) / vae.scale_), args.draws)
    for peer_name, peer in peers.items():
        reached = next((point for point in points if point.nats >= peer.nats), None)
        ours, epochs, ratio = "never", "", np.inf
        if reached is not None:
            assert reached.epochs is not None
            seconds = median(fit_ours(train, J, reached.epochs)[1] for _ in range(args.repeats))
            ours, epochs, ratio = f"{seconds:.2f}", str(reached.epochs), seconds / peer.seconds
        label = [name, str(len(train)), str(train.shape[1]), str(J), peer_name]
        numbers = [f"{peer.seconds:.2f}", f"{peer.nats:.2f}", ours, epochs, f"{ratio:.3f}"]
        yield [*label, *numbers, f"{at_end:.1f}", f"{final:.2f}"], peer.nats, ratio


def mark(found: list[tuple[list[str], float, float]]) -> tuple[list[list[str]], float]:
    """The rows of one table, the ratio to the better peer marked where it misses, and that ratio."""
    best = max(range(len(found)), key=lambda i: found[i][1])
    row, _, ratio = found[best]
    if ratio > BAR:
        row[HEADER.index("ratio")] += " !"
    return [row for row, _, _ in found], ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with mnist.npz and adbench/*.npz; without it, digits only")
    parser.add_argument("--peers", help="the Python of an environment with pyod and pythae")
    parser.add_argument("--tables", nargs="+", choices=list(LATENTS), help="default: all that are there")
    parser.add_argument("--draws", type=int, default=256, help="draws of the latents per row in the likelihood")
    parser.add_argument("--repeats", type=int, default=3, help="fits whose median time counts")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args()
    if not args.peers:
        raise SystemExit("Nothing to compare with: --peers names no Python that has pyod and pythae.")
    warnings.simplefilter("ignore", ConvergenceWarning)  # few epochs are the point here

    rows, ratios = [], []
    for name in args.tables or (list(LATENTS) if args.data else ["digits"]):
        marked, ratio = mark(list(measure(name, args)))
        for row in marked:
            print("  ".join(row), flush=True)
        rows += marked
        ratios.append(ratio)
    print()
    print_table(HEADER, rows, args.markdown)
    print(f"\nLargest ratio to the better peer: {max(ratios):.3f} (predicted: at most {BAR})")
    if args.docs:
        rewrite(args.docs, "time to quality", COMMAND, format_table(HEADER, rows, markdown=True))


if __name__ == "__main__":
    main()
