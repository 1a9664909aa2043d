"""ADBench's tables, two protocols, and detectors beside skvae's: a call each, higher scores for anomalies.

A detector is called with the training rows, the test rows and a seed. Without test rows it scores the training rows
themselves, and whatever would find the row itself nearby (nearest neighbours, a kernel density) leaves that row out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.covariance import MinCovDet
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

__all__ = [
    "BASELINES",
    "CUTS",
    "PROTOCOLS",
    "VARIANTS",
    "Array",
    "Detector",
    "Labels",
    "Split",
    "cut",
    "load",
    "skvae",
    "split",
    "standardised",
]

PROTOCOLS = ("one-class", "unsupervised")
MOST_TRAIN, MOST_TEST = 5000, 10_000
MOST_CUT, FEWEST_PATTERNS = 1000, 8
BANDWIDTHS = np.geomspace(0.05, 2, 9)
BLOCK = 1000

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Detector = Callable[[Array, Array | None, int], Array]


class Split(NamedTuple):
    """Training rows, test rows (None: the training rows themselves), and the labels of those scored."""

    train: Array
    test: Array | None
    y: Labels


def load(data: Path) -> dict[str, tuple[Array, Labels]]:
    """Rows and labels of every table, in the order of their numbers; `data` may be the folder of the tables itself."""
    paths = list((data / "adbench").glob("*.npz")) or list(data.glob("[0-9]*_*.npz"))
    tables = {}
    for path in sorted(paths, key=lambda path: int(path.stem.split("_")[0])):
        with np.load(path) as file:
            tables[path.stem] = file["X"].astype(float), file["y"].astype(int)
    return tables


def split(X: Array, y: Labels, protocol: str, seed: int) -> Split:
    """Half of the normal rows against the other half and all anomalies, or all rows against themselves."""
    rng = np.random.default_rng(seed)
    if protocol == "unsupervised":
        rows = rng.permutation(len(X))[:MOST_TRAIN]
        return Split(X[rows], None, y[rows])
    normal = rng.permutation(np.flatnonzero(y == 0))
    half = len(normal) // 2
    test = rng.permutation(np.concatenate([normal[half:], np.flatnonzero(y == 1)]))[:MOST_TEST]
    return Split(X[normal[:half][:MOST_TRAIN]], X[test], y[test])


def standardised(raw: Split) -> Split:
    """Both parts in units of the training rows' standard deviations; constant columns are divided by 1."""
    mean, scale = raw.train.mean(axis=0), raw.train.std(axis=0)
    scale[raw.train.max(axis=0) == raw.train.min(axis=0)] = 1  # rounding leaves some a deviation of 1e-15
    test = None if raw.test is None else (raw.test - mean) / scale
    return raw._replace(train=(raw.train - mean) / scale, test=test)


def binarised(part: Split, rng: np.random.Generator) -> Split:
    """Every column as 0 and 1, cut at a quantile of the training rows between the median and 95 %."""
    levels = rng.uniform(0.5, 0.95, part.train.shape[1])
    edges = np.array([np.quantile(column, level) for column, level in zip(part.train.T, levels, strict=True)])
    return each(part, lambda X: (edges < X).astype(float))


def one_hot(part: Split, rng: np.random.Generator) -> Split:
    """Ten columns at random, each as up to four indicators, cut at the training rows' quartiles."""
    some = rng.permutation(part.train.shape[1])[:10]
    edges = [np.unique(np.quantile(part.train[:, d], [0.25, 0.5, 0.75])) for d in some]

    def indicators(X: Array) -> Array:
        cuts = [np.digitize(X[:, d], edge)[:, None] for d, edge in zip(some, edges, strict=True)]
        return np.hstack([cut == np.arange(len(edge) + 1) for cut, edge in zip(cuts, edges, strict=True)]).astype(float)

    return each(part, indicators)


def few_columns(part: Split, rng: np.random.Generator) -> Split:
    some = rng.permutation(part.train.shape[1])[: rng.integers(3, 6)]
    return each(part, lambda X: X[:, some])


def few_rows(part: Split, rng: np.random.Generator) -> Split:
    return part._replace(train=part.train[: rng.integers(33, 101)])


def cut(part: Split, kind: str, seed: int) -> Split | None:
    """Another table of this one; None where too few of its training rows differ."""
    found = CUTS[kind](part._replace(train=part.train[:MOST_CUT]), np.random.default_rng(seed))
    return found if len(np.unique(found.train, axis=0)) >= FEWEST_PATTERNS else None


def each(part: Split, change: Callable[[Array], Array]) -> Split:
    return part._replace(train=change(part.train), test=None if part.test is None else change(part.test))


# Tables made of these, of the kinds where neighbours do well.
CUTS: dict[str, Callable[[Split, np.random.Generator], Split]] = {
    "binary": binarised,
    "one-hot": one_hot,
    "columns": few_columns,
    "rows": few_rows,
}


def skvae(train: Array, test: Array | None, seed: int, **settings: Any) -> Array:
    from skvae import VAEAnomalyDetector  # only when asked for: the other detectors do without

    if test is None:  # a table that holds anomalies: the same guess of their share for all
        return -VAEAnomalyDetector(contamination=0.1, random_state=seed, **settings).fit(train).training_scores_
    return -VAEAnomalyDetector(random_state=seed, **settings).fit(train).score_samples(test)


def nearest(train: Array, test: Array | None, seed: int) -> Array:
    """Distance to the fifth neighbour; given no rows, `kneighbors` leaves a training row itself out."""
    return NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1]


def kernel_density(train: Array, test: Array | None, seed: int) -> Array:
    """Gaussian kernels, as wide as makes a fifth of the training rows likeliest given the others."""
    rows = np.random.default_rng(seed).permutation(train)
    held_out, kept = np.split(rows, [len(rows) // 5])
    squared, D = euclidean_distances(held_out, kept, squared=True), train.shape[1]
    likelihood = [logsumexp(-squared / (2 * h**2), axis=1).mean() - D * np.log(h) for h in BANDWIDTHS]
    width = BANDWIDTHS[np.argmax(likelihood)]
    scored = train if test is None else test
    log_density = np.empty(len(scored))
    for start in range(0, len(scored), BLOCK):
        exponent = -euclidean_distances(scored[start : start + BLOCK], train, squared=True) / (2 * width**2)
        if test is None:
            own = np.arange(len(exponent))
            exponent[own, start + own] = -np.inf
        log_density[start : start + BLOCK] = logsumexp(exponent, axis=1)
    return -log_density


def outlier_factor(train: Array, test: Array | None, seed: int) -> Array:
    model = LocalOutlierFactor(novelty=test is not None).fit(train)
    return -(model.negative_outlier_factor_ if test is None else model.score_samples(test))


def by_samples(make: Callable[[Array, int], Any]) -> Detector:
    """A detector by an estimator's `score_samples`, the estimator made for the training rows and a seed."""

    def detect(train: Array, test: Array | None, seed: int) -> Array:
        return -make(train, seed).fit(train).score_samples(train if test is None else test)

    return detect


def mixture(train: Array, seed: int) -> GaussianMixture:
    return GaussianMixture(min(8, len(train) // 2), reg_covar=1e-3, random_state=seed)


def covariance(train: Array, test: Array | None, seed: int) -> Array:
    """Distances by the minimum covariance determinant."""
    return MinCovDet(random_state=seed).fit(train).mahalanobis(train if test is None else test)


def components(train: Array, seed: int) -> PCA:
    """Half as many components as columns, at most 8; with all of them a constant column leaves no density."""
    return PCA(min(8, max(1, train.shape[1] // 2)), random_state=seed)


def norm(train: Array, test: Array | None, seed: int) -> Array:
    return np.linalg.norm(train if test is None else test, axis=1)


# One setting changed at a time.
VARIANTS: dict[str, Detector] = {
    "skvae-aggregated": partial(skvae, criterion="aggregated"),
    "skvae-neighbour": partial(skvae, criterion="neighbour"),
    "skvae-elbo": partial(skvae, criterion="elbo"),
    "skvae-log_likelihood": partial(skvae, criterion="log_likelihood"),
    "skvae-reconstruction": partial(skvae, criterion="reconstruction"),
    "skvae-reconstruction_probability": partial(skvae, criterion="reconstruction_probability"),
    "skvae-latent": partial(skvae, criterion="latent"),
    "skvae-gaussian": partial(skvae, likelihood="gaussian"),
    "skvae-all_rows": partial(skvae, support_fraction=1.0),
}

BASELINES: dict[str, Detector] = {
    "kNN": nearest,
    "KDE": kernel_density,
    "GaussianMixture": by_samples(mixture),
    "PCA": by_samples(components),
    "IsolationForest": by_samples(lambda train, seed: IsolationForest(random_state=seed)),
    "LocalOutlierFactor": outlier_factor,
    "MCD": covariance,
    "OneClassSVM": by_samples(lambda train, seed: OneClassSVM()),
    "norm": norm,
}
