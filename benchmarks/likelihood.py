"""Held-out likelihood of VAETransformer beside the linear model of the same family.

Protocol: 70 % of the rows train, 30 % test; mean log-likelihood of a test row in nats and data units ("std": in units
of the columns' standard deviations in the training rows). Every model at its defaults, on the same rows:
- PCA(J).score beside VAETransformer(J, likelihood=Gaussian(noise="shared")). PCA has no noise floor; ours is 1e-3 of
  the smallest variance among the columns that vary, and should not bind.
- FactorAnalysis(J) beside VAETransformer(J), whose noise is one variance per column. Both at the floor of 1e-3 of a
  column's variance: FactorAnalysis is fitted on standardised columns (constant ones are divided by 1), its noise is
  clipped there, and its density brought back to data units.
- GaussianMixture, 5 full covariances, 1e-3 added to the variances of standardised columns.
Every table with all its columns and, where it has any, without the near-constant ones: those of no variance in the
training rows, or with one value in more than 95 % of them. Such columns decide the numbers where they stay. ADBench
tables (--data): normal rows only, at most 3000. With --seeds K every number is the mean over K splits.
Prediction: the VAE is never below the linear model less 0.05 nat and 1 % ("!" marks the rows where it is), and more
than 0.5 nat above it where the data are not Gaussian.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _measure import PAGE, near_constant, rewrite
from _tables import format_table, print_table
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skvae import Gaussian, VAETransformer

SKLEARN = ("iris", "wine", "breast_cancer", "diabetes", "digits")
ADBENCH = ("6_cardio", "25_musk", "28_pendigits", "38_thyroid", "40_vowels", "43_WDBC")
NOISE_FLOOR = 1e-3
MAX_ROWS = 3000
COMMAND = "python benchmarks/likelihood.py"
HEADER = ["table", "N", "D", "J", "PCA", "VAE shared", "diff", "FactorAnalysis", "VAE feature", "diff", "GMM", "s"]

Array = NDArray[np.float64]


class Result(NamedTuple):
    """Mean test log-likelihoods, and the seconds of one fit of the VAE with one noise variance per column."""

    pca: float
    shared: float
    fa: float
    feature: float
    gmm: float
    seconds: float


def load(name: str, data: Path | None) -> Array:
    if name in SKLEARN:
        return getattr(datasets, f"load_{name}")().data.astype(float)
    assert data is not None
    file = np.load(data / "adbench" / f"{name}.npz")
    X = file["X"][file["y"] == 0].astype(float)
    return np.random.default_rng(0).permutation(X)[:MAX_ROWS]


def factor_analysis(train: Array, test: Array, J: int) -> float:
    """Mean log-density of test rows in units of the data, the noise at least `NOISE_FLOOR` of a column's variance."""
    scaler = StandardScaler().fit(train)
    model = FactorAnalysis(J, svd_method="lapack", tol=1e-4, max_iter=5000).fit(scaler.transform(train))
    model.noise_variance_ = np.maximum(model.noise_variance_, NOISE_FLOOR)
    return model.score(scaler.transform(test)) - np.log(scaler.scale_).sum()


def mixture(train: Array, test: Array, seed: int) -> float:
    scaler = StandardScaler().fit(train)
    model = GaussianMixture(5, reg_covar=NOISE_FLOOR, random_state=seed).fit(scaler.transform(train))
    return model.score(scaler.transform(test)) - np.log(scaler.scale_).sum()


def compare(train: Array, test: Array, J: int, seed: int) -> Result:
    start = time.perf_counter()
    feature = VAETransformer(J, random_state=seed).fit(train)
    seconds = time.perf_counter() - start
    shared = VAETransformer(J, likelihood=Gaussian(noise="shared"), random_state=seed).fit(train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        linear = PCA(J).fit(train).score(test), factor_analysis(train, test, J), mixture(train, test, seed)
    return Result(linear[0], shared.score(test), linear[1], feature.score(test), linear[2], seconds)


def variants(X: Array, seed: int, units: list[str], columns: list[str]) -> Iterator[tuple[str, Array, Array]]:
    """(label, training rows, test rows) in each unit, with all columns and without the near-constant ones."""
    train, test = train_test_split(X, test_size=0.3, random_state=seed)
    flat = near_constant(train)
    for unit in units:
        scaler = StandardScaler(with_mean=unit == "std", with_std=unit == "std").fit(train)
        a, b = scaler.transform(train), scaler.transform(test)
        if "all" in columns or not flat.any():
            yield unit, a, b
        if "varying" in columns and flat.any():
            yield f"{unit}, varying", a[:, ~flat], b[:, ~flat]


def below(vae: float, linear: float) -> bool:
    return vae < linear - 0.05 - 0.01 * abs(linear)


def format_row(label: str, sizes: tuple[int, int, int], r: Result) -> list[str]:
    def beside(linear: float, vae: float) -> list[str]:
        return [f"{linear:.2f}", f"{vae:.2f}", f"{vae - linear:+.2f}{' !' if below(vae, linear) else ''}"]

    likelihoods = [*beside(r.pca, r.shared), *beside(r.fa, r.feature), f"{r.gmm:.2f}"]
    return [label, *map(str, sizes), *likelihoods, f"{r.seconds:.1f}"]


def counts(name: str, pairs: list[tuple[float, float]]) -> str:
    worse = sum(below(vae, linear) for vae, linear in pairs)
    better = sum(vae - linear > 0.5 for vae, linear in pairs)
    return f"{name}: {worse} worse, {len(pairs) - worse - better} within, {better} better by more than 0.5 nat"


def measure(args: argparse.Namespace) -> Iterator[tuple[list[str], Result]]:
    """One row of the table after the other, with the numbers it was made from."""
    for name in args.tables:
        X = load(name, args.data)
        found: dict[tuple[str, int], list[tuple[int, Result]]] = {}
        for seed in range(args.seeds):
            for variant, train, test in variants(X, seed, args.units, args.columns):
                for J in (j for j in args.latents if j < train.shape[1]):
                    found.setdefault((variant, J), []).append((train.shape[1], compare(train, test, J, seed)))
        for (variant, J), runs in found.items():
            mean = Result(*np.mean([result for _, result in runs], axis=0))
            yield format_row(f"{name} ({variant})", (len(X), runs[0][0], J), mean), mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with adbench/*.npz: adds six of its tables")
    parser.add_argument("--tables", nargs="+", help="names; default: scikit-learn's, and with --data six more")
    parser.add_argument("--latents", nargs="+", type=int, default=[2, 5])
    parser.add_argument("--units", nargs="+", choices=["raw", "std"], default=["raw", "std"])
    parser.add_argument("--columns", nargs="+", choices=["all", "varying"], default=["all", "varying"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args()
    args.tables = args.tables or [*SKLEARN, *(ADBENCH if args.data else ())]
    if args.docs:
        args.tables, args.units, args.columns = list(SKLEARN), ["std"], ["varying"]

    rows, results = [], []
    for row, result in measure(args):
        print("  ".join(row), flush=True)
        rows.append(row)
        results.append(result)
    print()
    print_table(HEADER, rows, args.markdown)
    print()
    print(counts("PCA and shared noise", [(r.shared, r.pca) for r in results]))
    print(counts("FactorAnalysis and one noise per column", [(r.feature, r.fa) for r in results]))
    if args.docs:
        rewrite(args.docs, "likelihood", COMMAND, format_table(HEADER, rows, markdown=True))


if __name__ == "__main__":
    main()
