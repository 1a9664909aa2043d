"""Accuracy on rows without a label where few rows have one, beside scikit-learn's classifiers.

- MNIST (--data): 10,000 training and 2,000 test digits of 14 x 14 pixels, the means of 2 x 2; 100, 600 and 1000 labels.
- Adult census (--data): 6,000 and 2,000 rows, income above 50K; categories as zeros and ones, amounts as logarithms.
- Cells (--data): 10x Genomics' sorted blood cells, the 300 genes that vary most, as logarithms of counts per cell.
- Digits, breast cancer: scikit-learn's own.
Every table is split once. The seed chooses which training rows are labelled, at random, such that every class is; the
others are given without. Classifiers that read labels alone see those rows only. Columns are standardised for all
(digits and MNIST by one number, the largest deviation). LogisticRegression, SelfTrainingClassifier around it and
LabelSpreading (7 neighbours) are at their defaults otherwise; features are 30 principal components or latents of all
training rows. VAEClassifier has 30 latents.
Accuracies are means over the seeds; seconds are one fit with 100 labels, on a machine that may do other things.
Prediction: VAEClassifier is ahead of LogisticRegression at 100 labels, and of all others where columns are many and
noisy; where near rows are of one class, as images are, LabelSpreading is ahead of it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _tables import print_table
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from skvae import VAEClassifier, VAETransformer

LABELS = (100, 600, 1000)
LATENTS = 30


class Split(NamedTuple):
    """Rows to learn from and rows to judge by, standardised."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def split(X: np.ndarray, y: np.ndarray, n_train: int, n_test: int, one_scale: bool = False) -> Split:
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[:n_train], order[n_train : n_train + n_test]
    mean, std = X[train].mean(axis=0), X[train].std(axis=0)
    # A column that hardly varies would else hold one huge number.
    X = np.clip((X - mean) / (std.max() if one_scale else np.maximum(std, 1e-9)), -5, 5)
    return Split(X[train], y[train], X[test], y[test])


def mnist(data: Path) -> Split:
    file = np.load(data / "mnist.npz")
    X = file["X_train"][:12_000].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(12_000, -1)
    return split(X, file["y_train"][:12_000].astype(int), 10_000, 2_000, one_scale=True)


def adult(data: Path) -> Split:
    frame = pd.read_csv(data / "adult-train.csv.gz", header=None).sample(8_000, random_state=0)
    X = pd.get_dummies(frame.drop(columns=[3, 14]), dtype=float)  # 3 repeats 4 in numbers
    X[[10, 11]] = np.log1p(X[[10, 11]])
    return split(X.to_numpy(), frame[14].str.contains(">").to_numpy().astype(int), 6_000, 2_000)


def cells(data: Path) -> Split:
    file = np.load(data / "pbmc_facs_hvg2000.npz")
    X = np.log1p(1e4 * file["X"] / file["library_size"][:, None])
    _, y, count = np.unique(file["celltype"], return_inverse=True, return_counts=True)
    common = count[y] >= 60
    X, y = X[common][:, np.argsort(-X.var(axis=0))[:300]], np.unique(y[common], return_inverse=True)[1]
    return split(X, y, 3 * len(X) // 4, len(X) // 4)


def bundled(load: Callable[..., Any], one_scale: bool) -> Split:
    X, y = load(return_X_y=True)
    return split(X, y, 3 * len(X) // 4, len(X) // 4, one_scale)


def tables(data: Path | None) -> Iterator[tuple[str, Split]]:
    yield "digits", bundled(load_digits, True)
    yield "breast cancer", bundled(load_breast_cancer, False)
    if data is not None:
        yield "cells", cells(data)
        yield "adult", adult(data)
        yield "MNIST", mnist(data)


def with_few(y: np.ndarray, n_labels: int, seed: int) -> np.ndarray:
    """Labels of random rows such that every class has one; -1 elsewhere."""
    rng = np.random.default_rng(seed)
    while True:  # until every class has one
        chosen = rng.permutation(len(y))[:n_labels]
        if len(np.unique(y[chosen])) == len(np.unique(y)):
            return np.where(np.isin(np.arange(len(y)), chosen), y, -1)


def judged(rows: Split, n_labels: int, n_seeds: int, max_iter: int) -> dict[str, list[float]]:
    """Every method's accuracies, and last the seconds of its last fit."""
    views = {"raw": (rows.X, rows.X_test)}
    n_features = min(LATENTS, rows.X.shape[1] - 1)
    vae = VAETransformer(n_features, likelihood="johnson_su", max_iter=max_iter, random_state=0)
    for name, features in (("PCA", PCA(n_features, random_state=0)), ("VAE", vae)):
        views[name] = features.fit_transform(rows.X), features.transform(rows.X_test)

    logistic = LogisticRegression(max_iter=2000)
    methods: list[tuple[str, Any, str, bool]] = [
        ("VAEClassifier", VAEClassifier(LATENTS, max_iter=max_iter, random_state=0), "raw", True),
        *((f"LogisticRegression, {view}", logistic, view, False) for view in views),
        ("SelfTrainingClassifier, raw", SelfTrainingClassifier(logistic), "raw", True),
        *((f"LabelSpreading, {view}", LabelSpreading(kernel="knn", max_iter=200), view, True) for view in views),
    ]
    found: dict[str, list[float]] = {name: [] for name, *_ in methods}
    for seed in range(n_seeds):
        few = with_few(rows.y, n_labels, seed)
        for name, method, view, reads_all in methods:
            X, X_test = views[view]
            used = slice(None) if reads_all else few >= 0
            begin = time.perf_counter()
            method.fit(X[used], few[used])
            seconds = time.perf_counter() - begin
            found[name] = [*found[name][:seed], method.score(X_test, rows.y_test), seconds]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of mnist.npz, adult-train.csv.gz and pbmc_facs_hvg2000.npz")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS)
    parser.add_argument("--tables", nargs="+", help="only these")
    parser.add_argument("--max-iter", type=int, default=50)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    for name, rows in tables(options.data):
        if options.tables is not None and name not in options.tables:
            continue
        fitting = [n for n in options.labels if n < len(rows.y)]
        found = {n: judged(rows, n, options.seeds, options.max_iter) for n in fitting}
        print(f"\n{name}: {rows.X.shape[0]} rows, {rows.X.shape[1]} columns, {len(np.unique(rows.y))} classes")
        print_table(
            ["accuracy", *(f"{n} labels" for n in fitting), "seconds"],
            [
                [method, *(f"{np.mean(found[n][method][:-1]):.3f}" for n in fitting), f"{values[-1]:.1f}"]
                for method, values in found[fitting[0]].items()
            ],
        )


if __name__ == "__main__":
    main()
