"""Two latents as a picture: neighbours, clusters and held-out likelihood beside PCA and UMAP.

Data: scikit-learn's iris, wine, breast cancer and digits; with --data penguins.csv, three tables of ADBench whose
anomalies are a class of their own (all rows, two classes), and the normal rows of three others, which have no classes.
At most 1000 rows, drawn at random; labels serve for judging alone.
Protocol: 70 % of the rows are the picture, 30 % are held out; columns standardised by the former, constant ones left
out. All models have two latents and their defaults:
- PCA(2); VAETransformer(2); VAETransformer(2, likelihood=Gaussian("scaled")), one noise for all scaled columns;
- UMAP(), where umap-learn is installed (extra `bench`): it has no likelihood.
Of the picture: 5-NN accuracy (five-fold cross-validation), NMI of k-means with as many clusters as classes, and
trustworthiness (10 neighbours), which needs no labels. Of the held-out rows: mean log-likelihood in nats, columns in
standard deviations. Means over the seeds. "told" counts the fits of the default that warned of the picture.
Prediction: with one noise for scaled columns the picture is at least PCA's in the mean of every measure; the default
is likelier on most tables, and the poorer picture; where its trustworthiness is more than 0.005 below PCA's, every
fit says so; UMAP is ahead in neighbours.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _measure import PAGE, rewrite, verdict
from _tables import format_table, print_table
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from skvae import Gaussian, VAETransformer

COMMAND = "python benchmarks/pictures.py"
SKLEARN = ("iris", "wine", "breast_cancer", "digits")
CLASSED = ("4_breastw", "18_Ionosphere", "29_Pima")
NORMAL = ("6_cardio", "28_pendigits", "40_vowels")
MAX_ROWS, NEIGHBOURS, CLEARLY = 1000, 10, 0.005
METHODS = ("PCA", "default", "scaled", "UMAP")
MEASURES = ("5-NN accuracy", "k-means NMI", "trustworthiness", "held-out nats")

Array = NDArray[np.float64]


class Seen(NamedTuple):
    """One picture's numbers by measure, NaN where there is none, and whether the fit warned of it."""

    numbers: dict[str, float]
    told: bool


def load(name: str, data: Path | None) -> tuple[Array, NDArray[Any] | None]:
    if name in SKLEARN:
        return getattr(datasets, f"load_{name}")(return_X_y=True)
    assert data is not None
    if name == "penguins":
        return penguins(data / "penguins.csv")
    file = np.load(data / "adbench" / f"{name}.npz")
    X, y = file["X"].astype(float), file["y"].astype(int)
    return (X, y) if name in CLASSED else (X[y == 0], None)


def penguins(path: Path) -> tuple[Array, NDArray[Any]]:
    """The four measurements and the species of all penguins that were measured."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name.startswith(("bill", "flipper", "body"))]
    whole = [row for row in rows if all(row[name] not in ("", "NA") for name in columns)]
    return np.array([[float(row[name]) for name in columns] for row in whole]), np.array([r["species"] for r in whole])


def codes_of(name: str, train: Array, test: Array, seed: int) -> tuple[Array, float, bool]:
    """A picture of the training rows, the held-out rows' log-likelihood, and whether the fit warned of the picture."""
    if name == "PCA":
        pca = PCA(2).fit(train)
        return pca.transform(train), pca.score(test), False
    if name == "UMAP":
        from umap import UMAP

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return UMAP(random_state=seed).fit_transform(train), np.nan, False
    likelihood = "gaussian" if name == "default" else Gaussian("scaled")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vae = VAETransformer(2, likelihood=likelihood, random_state=seed).fit(train)
    told = any("fewer of the rows' neighbours" in str(warning.message) for warning in caught)
    return vae.transform(train), vae.score(test), told


def judged(Z: Array, train: Array, y: NDArray[Any] | None, nats: float, seed: int) -> dict[str, float]:
    found = dict.fromkeys(MEASURES, np.nan)
    found |= {"held-out nats": nats, "trustworthiness": trustworthiness(train, Z, n_neighbors=NEIGHBOURS)}
    if y is None:
        return found
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    clusters = KMeans(len(np.unique(y)), n_init=10, random_state=seed).fit_predict(Z)
    found["5-NN accuracy"] = cross_val_score(KNeighborsClassifier(5), Z, y, cv=folds).mean()
    found["k-means NMI"] = normalized_mutual_info_score(y, clusters)
    return found


def pictures(name: str, data: Path | None, methods: Sequence[str], seed: int) -> tuple[dict[str, Seen], str]:
    """Every method's picture of a table, and its size in words."""
    X, y = load(name, data)
    some = np.random.default_rng(0).permutation(len(X))[:MAX_ROWS]
    train, test = train_test_split(some, test_size=0.3, random_state=seed, stratify=None if y is None else y[some])
    varying = X[train].std(axis=0) > 0
    scaler = StandardScaler().fit(X[train][:, varying])
    a, b = (scaler.transform(X[rows][:, varying]) for rows in (train, test))
    found, size = {}, f"{len(some)} x {(X[some].std(axis=0) > 0).sum()}"
    for method in methods:
        Z, nats, told = codes_of(method, a, b, seed)
        found[method] = Seen(judged(Z, a, None if y is None else y[train], nats, seed), told)
    return found, size


def shown(measure: str, found: dict[str, list[dict[str, Seen]]], methods: Sequence[str]) -> list[list[str]]:
    """The table of a measure: one line for each table that has it, and their mean."""
    rows, digits = [], 2 if measure == "held-out nats" else 3
    for name, runs in found.items():
        values = [float(np.mean([run[m].numbers[measure] for run in runs])) for m in methods]
        told = f"{sum(run['default'].told for run in runs)} of {len(runs)}"
        if not np.isnan(values[0]):
            rows.append((name, values, told))
    mean = np.mean([values for _, values, _ in rows], axis=0).tolist()
    lines = [*rows, ("mean", mean, "")]
    return [[n, *("" if np.isnan(v) else f"{v:.{digits}f}" for v in values), told] for n, values, told in lines]


def report(found: dict[str, list[dict[str, Seen]]]) -> None:
    runs = [run for of_table in found.values() for run in of_table]

    def mean(method: str, measure: str) -> float:
        return float(np.nanmean([run[method].numbers[measure] for run in runs]))

    for measure in MEASURES:
        ours, pca = mean("scaled", measure), mean("PCA", measure)
        print(verdict(f"scaled: mean {measure} {ours:.3f}, at least PCA's {pca:.3f}", ours >= pca))
    likelier = [
        name
        for name, runs in found.items()
        if np.mean([run["default"].numbers["held-out nats"] - run["scaled"].numbers["held-out nats"] for run in runs])
        > 0
    ]
    claim = f"the default is likelier than scaled on {len(likelier)} of {len(found)} tables, which is most"
    print(verdict(claim, 2 * len(likelier) > len(found)))
    worse = [r for r in runs if r["default"].numbers[MEASURES[2]] < r["PCA"].numbers[MEASURES[2]] - CLEARLY]
    told = sum(run["default"].told for run in worse)
    print(verdict(f"of {len(worse)} clearly poorer pictures of the default {told} were told of", told == len(worse)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with penguins.csv and adbench/*.npz: adds seven tables")
    parser.add_argument("--tables", nargs="+", help="names; default: all there are")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its tables in docs/benchmarks.md")
    args = parser.parse_args(argv)
    names = args.tables or [*SKLEARN, *(("penguins", *CLASSED, *NORMAL) if args.data else ())]
    methods = [method for method in METHODS if method != "UMAP" or has_umap()]
    found: dict[str, list[dict[str, Seen]]] = {}
    for name in names:
        for seed in range(args.seeds):
            run, size = pictures(name, args.data, methods, seed)
            found.setdefault(f"{name} ({size})", []).append(run)
            for method, seen in run.items():
                numbers = "  ".join(f"{v:.3f}" for v in seen.numbers.values())
                print(f"{name}, seed {seed}, {method}: {numbers}{', told' if seen.told else ''}", flush=True)
    for measure in MEASURES:
        print()
        print_table([measure, *methods, "told"], shown(measure, found, methods), args.markdown)
    print()
    report(found)
    if args.docs:
        tables = [format_table([m, *methods, "told"], shown(m, found, methods), markdown=True) for m in MEASURES]
        rewrite(args.docs, "pictures", COMMAND, "\n\n".join(tables))


def has_umap() -> bool:
    try:
        import umap  # noqa: F401
    except ImportError:
        print("UMAP is left out: umap-learn is not installed.", flush=True)
        return False
    return True


if __name__ == "__main__":
    main()
