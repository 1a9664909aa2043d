"""Held-out likelihood by prior: N(0, I) beside the learnt ones, on six tables.

Tables, chosen because they are common: digits, breast cancer (scikit-learn's), MNIST of 14 x 14 (means of 2 x 2,
10,000 rows), Frey Face, adult's numeric columns (10,000 rows) and pendigits (ADBench's, all rows), without columns that
are near constant. 70 % of the rows train, 30 % test; nats of a test row, columns in units of their standard deviations
in the training rows. Everything but the prior is at its default, `max_iter` included; eight latents.
With more than two latents `score` is a lower bound of n_draws draws; it is asked for 512 here, of 1000 test rows.
Every number is the mean over the seeds, which deal the rows anew, and "+-" the standard error of the difference to
N(0, I), which is paired, over the seeds.
Prediction: the better of the learnt priors is ahead of N(0, I) on five tables of six.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from _measure import near_constant, verdict
from _tables import print_table
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skvae import VAETransformer
from skvae.priors import Mixture, Normal, PriorSpec, Vamp

ROWS, TEST_ROWS, DRAWS = 10_000, 1000, 512
Array = NDArray[np.float64]


def mnist(data: Path) -> Array:
    images = np.load(data / "mnist.npz")["X_train"][:ROWS]
    return images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)


def adult(data: Path) -> Array:
    table = pd.read_csv(data / "adult-train.csv.gz", header=None)
    return table.select_dtypes("number").to_numpy(float)[:ROWS]


TABLES: dict[str, Callable[[Path], Array]] = {
    "digits": lambda data: load_digits().data,
    "breast cancer": lambda data: load_breast_cancer().data,
    "MNIST 14 x 14": mnist,
    "Frey Face": lambda data: np.load(data / "frey_face.npz")["X"].astype(float),
    "adult, numeric": adult,
    "pendigits": lambda data: np.load(data / "adbench" / "28_pendigits.npz")["X"].astype(float),
}
PRIORS: dict[str, Callable[[int | None], PriorSpec]] = {
    "normal": lambda n_modes: Normal(),
    "mixture": lambda n_modes: Mixture() if n_modes is None else Mixture(n_modes),
    "vamp": lambda n_modes: Vamp() if n_modes is None else Vamp(n_modes),
}


def halves(X: Array, seed: int) -> tuple[Array, Array]:
    """Rows to train and to test on, without near-constant columns."""
    train, test = train_test_split(X, test_size=0.3, random_state=seed)
    kept = ~near_constant(train)
    scaler = StandardScaler().fit(train[:, kept])
    return scaler.transform(train[:, kept]), scaler.transform(test[:TEST_ROWS, kept])


def measure(X: Array, name: str, seed: int, args: argparse.Namespace) -> tuple[float, float]:
    """Nats of a test row, and the seconds of the fit."""
    train, test = halves(X, seed)
    start = time.perf_counter()
    vae = VAETransformer(args.latents, prior=PRIORS[name](args.modes), random_state=seed).fit(train)
    seconds = time.perf_counter() - start
    return vae.set_params(n_draws=DRAWS).score(test), seconds


def row(table: str, args: argparse.Namespace) -> tuple[list[str], bool]:
    """A line of the table, and whether the better of the learnt priors is ahead."""
    X = TABLES[table](args.data)
    found = np.array([[measure(X, name, seed, args) for name in PRIORS] for seed in range(args.seeds)])
    nats, seconds = found[..., 0], found[..., 1].mean(axis=0)
    gains = nats[:, 1:] - nats[:, :1]
    error = gains.std(axis=0, ddof=1) / np.sqrt(args.seeds) if args.seeds > 1 else np.full(2, np.nan)
    cells = [table, *map(str, X.shape), f"{nats[:, 0].mean():.2f}"]
    cells += [f"{gain:+.2f} +- {e:.2f}" for gain, e in zip(gains.mean(axis=0), error, strict=True)]
    return [*cells, *(f"{s:.0f}" for s in seconds)], bool(gains.mean(axis=0).max() > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist.npz, frey_face.npz, adult, adbench")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--latents", type=int, default=8)
    parser.add_argument("--modes", type=int, help="of the learnt priors; default: theirs")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    rows, ahead = [], []
    for table in args.tables:
        cells, better = row(table, args)
        print("  ".join(cells), flush=True)
        rows.append(cells)
        ahead.append(better)
    header = ["table", "N", "D", "N(0, I)", "mixture", "vamp", "s", "s", "s"]
    print()
    print_table(header, rows, args.markdown)
    print()
    print(verdict(f"A learnt prior ahead on {sum(ahead)} of {len(ahead)} tables", sum(ahead) > 0.8 * len(ahead)))


if __name__ == "__main__":
    main()
