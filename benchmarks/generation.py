"""Sampled rows judged: do they have the table's dependence, teach as real rows do, and are they copies of none?

70 % of the rows of a table train, 30 % are held out; every method draws as many rows as it was given. Tables, target
included and rows with gaps left out: adult (UCI), bank (UCI bank marketing, 41,188 calls, from ADBench's file with its
dummies joined to categories and its numbers whole again; not looked at while the defaults were chosen), penguins, and
scikit-learn's iris, wine and breast cancer. "adult-10k" is 10,000 rows of adult against 10,000 others, for the held-out
likelihood.

Measures, of drawn rows beside training rows; means over seeds, which deal the rows anew. At most `--most` rows of each
kind are compared where rows are compared with rows.
- trend: mean over pairs of columns of 1 - |difference of Pearson's correlations| / 2 (two numbers), 1 - total variation
  of the joint table (two categories; of a mixed pair the number is cut into 10 equal parts of the training range).
- C2ST: 1 - mean over 3 folds of 2 max(AUC - 1/2, 0) of a HistGradientBoostingClassifier that tells drawn rows from
  training rows; 1 where it cannot. Says nothing below some 300 rows, where even independent columns pass.
- MLE: ROC AUC (one against the rest) on the held-out rows of one that learnt the target from drawn rows.
- beta: integrated beta-recall of the training rows (Alaa et al. 2022): 1 - sum |beta(a) - a| / sum a, where beta(a) is
  the share of training rows whose nearest drawn row is no farther than the nearest other training row and lies within
  the ball around the drawn rows' mean that holds a share a of those nearest rows. 1/2 for real rows.
- coverage: the share of held-out rows with a drawn row within the distance of their third neighbour among the held-out
  rows (Naeem et al. 2020).
- DCR: the share of drawn rows nearer to training than to held-out rows, by odds corrected for how many there are; 1/2
  for new real rows, 1 for copies. Copies and near copies win every other measure: read those beside this one.
- copies: the share of drawn rows that equal a training row in every cell.
Distances are between numbers over their training range and ones of categories: Euclidean, for DCR the sum (L1).

Beside skvae, at its defaults for tables of mixed types, `VAETransformer(likelihood="auto", random_state=seed)`, with
`sample()` and `sample(prior="model")`:
- other real rows: the held-out ones; its C2ST and trend are what can be had at that size;
- independent columns: each column's values dealt anew;
- Gaussian copula: correlations of normal scores, categories by intervals of their shares;
- shallow mixture: classes of independent columns by EM, normal scores of numbers Gaussian, categories by their shares;
  the number of classes by the likelihood of a tenth of the rows;
- TVAE (Xu et al. 2019) at its defaults, with `--tvae PYTHON`, the interpreter of an environment with ctgan
  (requirements-tvae.txt).
Prediction: see `BARS`; on the four small tables trend, beta and MLE at least the shallow mixture's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _peers import run_job
from scipy.special import logsumexp, ndtr, ndtri
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

TARGETS = {
    **{"adult": "income", "adult-10k": "income", "bank": "subscribed", "penguins": "species"},
    **{"iris": "target", "wine": "target", "cancer": "target"},
}
SMALL = ("penguins", "iris", "wine", "cancer")
# What skvae's defaults are to reach on the large tables: at least, but of DCR, copies and seconds at most.
BARS = {"trend": 0.975, "C2ST": 0.60, "MLE": 0.900, "beta": 0.42, "DCR": 0.55, "copies": 0.0, "seconds": 60.0}
AT_MOST = ("DCR", "copies", "seconds")
SMALL_DCR, LEAST_NATS = 0.57, -29.9
BINS, STEPS, FOLDS, NEIGHBOURS = 10, 30, 3, 3
CLASSES = (1, 2, 3, 4, 6, 8, 12, 16, 25, 50, 100, 200)
MOST_STEPS, ENOUGH = 200, 1e-4


class Measures(NamedTuple):
    """What is said of drawn rows."""

    trend: float
    C2ST: float
    MLE: float
    beta: float
    coverage: float
    DCR: float
    copies: float
    seconds: float = np.nan
    nats: float = np.nan


# Tables


def load(name: str, data: Path | None) -> pd.DataFrame:
    """A table without gaps; categories are strings."""
    if name in ("iris", "wine", "cancer"):
        from sklearn import datasets

        found = {"iris": datasets.load_iris, "wine": datasets.load_wine, "cancer": datasets.load_breast_cancer}[name]
        table = found(as_frame=True)
        return table.frame.assign(target=table.target_names[table.target])
    if data is None:
        raise SystemExit(f"{name} needs --data DIR.")
    if name == "bank":
        return bank(data)
    from mixed import load as load_mixed

    table = load_mixed(name.split("-")[0], data)
    return table.fillna("?") if name.startswith("adult") else table.dropna(ignore_index=True)


def in_steps(x: np.ndarray) -> np.ndarray:
    """A column of whole numbers again, which the file holds scaled to [0, 1] and rounded to 6 decimals."""
    values = np.unique(x)
    for n_steps in range(1, 10_000):
        if np.abs(values * n_steps - np.round(values * n_steps)).max() <= 6e-7 * n_steps:
            return np.round(x * n_steps)
    return x


def bank(data: Path) -> pd.DataFrame:
    """Bank marketing: runs of columns of zeros and ones of which each row has a single one are one category."""
    with np.load(data / "adbench/5_campaign.npz") as file:
        X, y = file["X"], file["y"]
    columns: dict[str, Any] = {}
    first = 0
    while first < X.shape[1]:
        last = first + 1
        if set(np.unique(X[:, first])) <= {0.0, 1.0}:
            total = X[:, first].copy()
            while last < X.shape[1] and total.min() < 1 and set(np.unique(X[:, last])) <= {0.0, 1.0}:
                total += X[:, last]
                last += 1
            columns[f"c{first}"] = np.array([f"v{k}" for k in X[:, first:last].argmax(axis=1)], dtype=object)
        else:
            columns[f"x{first}"] = in_steps(X[:, first])
        first = last
    return pd.DataFrame(columns).assign(subscribed=np.where(y == 1, "yes", "no"))


def deal(name: str, table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and held-out rows."""
    if name == "adult-10k":
        table = table.sample(20_000, random_state=seed)
        return table[:10_000].reset_index(drop=True), table[10_000:].reset_index(drop=True)
    train, test = train_test_split(table, test_size=0.3, random_state=seed, stratify=table[TARGETS[name]])
    return train.reset_index(drop=True), test.reset_index(drop=True)


def numbers_of(table: pd.DataFrame) -> list[str]:
    return [c for c in table if pd.api.types.is_numeric_dtype(table[c])]


# Measures


def trend(real: pd.DataFrame, drawn: pd.DataFrame) -> float:
    numbers = numbers_of(real)
    codes, cut = {}, {}
    for c in real:
        if c in numbers:
            edges = np.linspace(real[c].min(), real[c].max(), BINS + 1)[1:-1]
            cut[c] = [np.searchsorted(edges, t[c], side="right") for t in (real, drawn)]
        else:
            names = pd.Index(pd.concat([real[c], drawn[c]]).unique())
            codes[c] = [names.get_indexer(t[c]) for t in (real, drawn)]
    with np.errstate(invalid="ignore"):
        correlations = [np.nan_to_num(np.corrcoef(t[numbers].to_numpy(float), rowvar=False)) for t in (real, drawn)]
    scores = []
    for one, other in combinations(real, 2):
        if one in numbers and other in numbers:
            i, j = numbers.index(one), numbers.index(other)
            scores.append(1 - abs(correlations[0][i, j] - correlations[1][i, j]) / 2)
            continue
        a, b = ((cut if c in numbers else codes)[c] for c in (one, other))
        width = 1 + max(part.max() for part in b)
        joint = [x * width + y for x, y in zip(a, b, strict=True)]
        n = 1 + max(part.max() for part in joint)
        shares = [np.bincount(part, minlength=n) / len(part) for part in joint]
        scores.append(1 - np.abs(shares[0] - shares[1]).sum() / 2)
    return float(np.mean(scores))


def by_frequency(table: pd.DataFrame, like: pd.DataFrame) -> np.ndarray:
    """Numbers as they are, categories by their place among those of `like`, the most frequent first."""
    numbers = numbers_of(like)
    ranks = {c: {v: k for k, v in enumerate(like[c].value_counts().index)} for c in like if c not in numbers}
    return np.column_stack([table[c] if c in numbers else table[c].map(ranks[c]).fillna(-1) for c in like]).astype(
        float
    )


def c2st(real: pd.DataFrame, drawn: pd.DataFrame, seed: int) -> float:
    X = by_frequency(pd.concat([real, drawn]), real)
    y = np.repeat([0, 1], [len(real), len(drawn)])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    shares = cross_val_predict(
        HistGradientBoostingClassifier(random_state=seed), X, y, cv=folds, method="predict_proba"
    )
    found = [roc_auc_score(y[test], shares[test, 1]) for _, test in folds.split(X, y)]
    return float(1 - np.mean([2 * max(auc - 0.5, 0) for auc in found]))


def mle(drawn: pd.DataFrame, test: pd.DataFrame, like: pd.DataFrame, target: str, seed: int) -> float:
    """NaN where a class was never drawn."""
    if drawn[target].nunique() < like[target].nunique():
        return np.nan
    inputs = like.drop(columns=target)
    X, X_test = (by_frequency(t.drop(columns=target), inputs) for t in (drawn, test))
    model = HistGradientBoostingClassifier(random_state=seed).fit(X, drawn[target].astype(str))
    shares = model.predict_proba(X_test)
    y = test[target].astype(str)
    if len(model.classes_) == 2:
        return float(roc_auc_score(y == model.classes_[1], shares[:, 1]))
    return float(roc_auc_score(y, shares, multi_class="ovr", labels=model.classes_))


def points(table: pd.DataFrame, like: pd.DataFrame) -> np.ndarray:
    """Numbers over their range in `like`, and ones of the categories there."""
    numbers = numbers_of(like)
    low, high = like[numbers].min(), like[numbers].max()
    parts = [((table[numbers] - low) / (high - low).replace(0, 1)).to_numpy(float)]
    for c in like:
        if c not in numbers:
            known = np.asarray(like[c].unique(), dtype=object)
            parts.append((table[c].to_numpy(dtype=object)[:, None] == known).astype(float))
    return np.concatenate(parts, axis=1)


def nearest(known: np.ndarray, rows: np.ndarray, k: int = 1, p: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the k-th nearest of the known rows, and its place."""
    metric = {1: "manhattan", 2: "euclidean"}[p]
    distance, place = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(known).kneighbors(rows)
    return distance[:, -1], place[:, -1]


def beta_recall(real: np.ndarray, drawn: np.ndarray) -> float:
    own, _ = nearest(real, real, 2)
    distance, place = nearest(drawn, real)
    from_centre = np.linalg.norm(drawn[place] - drawn.mean(axis=0), axis=1)
    alphas = np.linspace(0, 1, STEPS)
    radii = np.quantile(from_centre, alphas)
    curve = [((distance <= own) & (from_centre <= radius)).mean() for radius in radii]
    return float(1 - np.abs(alphas - curve).sum() / alphas.sum())


def dcr(train: np.ndarray, test: np.ndarray, drawn: np.ndarray) -> float:
    to_train, to_test = nearest(train, drawn, p=1)[0], nearest(test, drawn, p=1)[0]
    share = float(np.mean((to_train < to_test) + 0.5 * (to_train == to_test)))
    odds = share / max(1 - share, 1e-9) * len(test) / len(train)
    return odds / (1 + odds)


def copies(train: pd.DataFrame, drawn: pd.DataFrame) -> float:
    known = set(train.itertuples(index=False, name=None))
    return float(np.mean([row in known for row in drawn.itertuples(index=False, name=None)]))


def judge(
    train: pd.DataFrame, test: pd.DataFrame, drawn: pd.DataFrame, target: str, seed: int, most: int, **more: float
) -> Measures:
    # Neighbours depend on how many there are: equally many training and drawn rows, and at most so many held-out ones.
    some = [t.sample(min(most, len(t)), random_state=seed) for t in (train, test, drawn)]
    a, b, c = (points(t, train) for t in some)
    return Measures(
        trend(train, drawn),
        c2st(train, drawn, seed),
        mle(drawn, test, train, target, seed),
        beta_recall(a, c),
        float(np.mean(nearest(c, b)[0] <= nearest(b, b, NEIGHBOURS + 1)[0])),
        dcr(a, b, c),
        copies(train, drawn),
        **more,
    )


# Peers


class Scores:
    """A table as normal scores and categories' places, and the way back."""

    def __init__(self, table: pd.DataFrame):
        self.columns, self.numbers = list(table), numbers_of(table)
        self.types = table.dtypes
        self.sorted = {c: np.sort(table[c].to_numpy()) for c in self.numbers}
        self.shares = {c: table[c].value_counts(normalize=True) for c in table if c not in self.numbers}

    def normal(self, table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
        """Normal scores of the numbers, ties anywhere in the interval that they share: (N, D)."""
        found = []
        for c in self.numbers:
            known, x = self.sorted[c], table[c].to_numpy()
            low, high = (np.searchsorted(known, x, side=side) / len(known) for side in ("left", "right"))
            found.append(ndtri((low + rng.random(len(x)) * (high - low)).clip(1e-4, 1 - 1e-4)))
        return np.array(found).T.reshape(len(table), -1)

    def values(self, normal: np.ndarray) -> dict[str, np.ndarray]:
        return {
            c: self.sorted[c][(ndtr(normal[:, i]) * len(self.sorted[c])).astype(int).clip(0, len(self.sorted[c]) - 1)]
            for i, c in enumerate(self.numbers)
        }

    def frame(self, columns: dict[str, np.ndarray]) -> pd.DataFrame:
        return pd.DataFrame(columns)[self.columns].astype(self.types)


def independent(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return train.apply(lambda column: column.to_numpy()[rng.permutation(len(column))]).astype(train.dtypes)


def copula(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    rng, scores = np.random.default_rng(seed), Scores(train)
    parts = [scores.normal(train, rng)]
    for c, shares in scores.shares.items():
        ends = np.concatenate([[0], shares.cumsum()])
        place = shares.index.get_indexer(train[c])
        uniform = ends[place] + rng.random(len(train)) * np.diff(ends)[place]
        parts.append(ndtri(uniform.clip(1e-4, 1 - 1e-4))[:, None])
    Z = np.concatenate(parts, axis=1)
    drawn = rng.multivariate_normal(np.zeros(Z.shape[1]), np.corrcoef(Z, rowvar=False), len(train), method="eigh")
    columns = scores.values(drawn)
    for i, (c, shares) in enumerate(scores.shares.items()):
        place = np.searchsorted(shares.cumsum(), ndtr(drawn[:, len(scores.numbers) + i])).clip(0, len(shares) - 1)
        columns[c] = shares.index.to_numpy()[place]
    return scores.frame(columns)


class Mixture:
    """Classes of independent columns: numbers Gaussian, categories by shares with half a row spread over them."""

    def __init__(self, n_classes: int, sizes: list[int], seed: int):
        self.n_classes, self.sizes, self.rng = n_classes, sizes, np.random.default_rng(seed)

    def fit(self, Z: np.ndarray, C: np.ndarray) -> Mixture:
        near = Z[self.rng.choice(len(Z), self.n_classes, replace=len(Z) < self.n_classes)]
        distance = ((Z[:, None] - near) ** 2).sum(-1) if len(Z) * self.n_classes * Z.shape[1] < 5e7 else None
        shares = self.rng.dirichlet(np.ones(self.n_classes), len(Z)) if distance is None else None
        if shares is None:
            shares = np.exp(-0.5 * distance + 0.5 * distance.min(axis=1, keepdims=True)) + 1e-3
        shares /= shares.sum(axis=1, keepdims=True)
        last = -np.inf
        for _ in range(MOST_STEPS):
            self._maximise(Z, C, shares)
            log = self.joint(Z, C)
            total = logsumexp(log, axis=1)
            shares = np.exp(log - total[:, None])
            if total.mean() - last < ENOUGH:
                break
            last = total.mean()
        return self

    def _maximise(self, Z: np.ndarray, C: np.ndarray, shares: np.ndarray) -> None:
        size = shares.sum(axis=0) + 1e-9
        self.weight = size / size.sum()
        self.mean = shares.T @ Z / size[:, None]
        self.var = (shares.T @ Z**2 / size[:, None] - self.mean**2).clip(1e-2)
        self.tables = []
        for column, n in zip(C.T, self.sizes, strict=True):
            counts = np.zeros((n, self.n_classes))
            np.add.at(counts, column, shares)
            counts += 0.5 * np.bincount(column, minlength=n)[:, None] / len(column)
            self.tables.append((counts / counts.sum(axis=0)).T)

    def joint(self, Z: np.ndarray, C: np.ndarray) -> np.ndarray:
        """log p(class, row): (N, classes)."""
        log = np.log(self.weight) - 0.5 * (np.log(2 * np.pi * self.var) + self.mean**2 / self.var).sum(axis=1)
        log = log + Z @ (self.mean / self.var).T - 0.5 * Z**2 @ (1 / self.var).T
        for column, table in zip(C.T, self.tables, strict=True):
            log += np.log(table.T[column])
        return log

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        k = self.rng.choice(self.n_classes, n, p=self.weight)
        Z = self.mean[k] + np.sqrt(self.var[k]) * self.rng.standard_normal((n, self.mean.shape[1]))
        cells = [(self.rng.random(n)[:, None] > table[k].cumsum(axis=1)[:, :-1]).sum(axis=1) for table in self.tables]
        return Z, np.array(cells, dtype=int).T.reshape(n, -1)


def mixture(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    scores = Scores(train)
    Z = scores.normal(train, np.random.default_rng(seed))
    places = [shares.index.get_indexer(train[c]) for c, shares in scores.shares.items()]
    C = np.array(places, dtype=int).T.reshape(len(train), -1)
    sizes = [len(shares) for shares in scores.shares.values()]
    kept, held_out = train_test_split(np.arange(len(train)), test_size=0.1, random_state=seed)
    best, likeliest = 1, -np.inf
    for n_classes in CLASSES:
        if n_classes > len(train) // 10:
            break
        found = Mixture(n_classes, sizes, seed).fit(Z[kept], C[kept])
        nats = logsumexp(found.joint(Z[held_out], C[held_out]), axis=1).mean()
        if nats > likeliest:
            best, likeliest = n_classes, nats
    Z, C = Mixture(best, sizes, seed).fit(Z, C).draw(len(train))
    columns = scores.values(Z)
    columns |= {c: shares.index.to_numpy()[C[:, i]] for i, (c, shares) in enumerate(scores.shares.items())}
    return scores.frame(columns)


def tvae(python: str, train: pd.DataFrame, seed: int, epochs: int) -> tuple[pd.DataFrame, float]:
    with tempfile.TemporaryDirectory() as folder:
        rows, found = Path(folder) / "rows.csv", Path(folder) / "found.csv"
        train.to_csv(rows, index=False)
        request = {"rows": str(rows), "found": str(found), "numbers": numbers_of(train), "seed": seed, "epochs": epochs}
        seconds = run_job(python, __file__, request, one_thread=True)
        drawn = pd.read_csv(found, keep_default_na=False, na_values=[""])
    for c in train:
        kind = train[c].dtype
        values = drawn[c].round() if kind.kind in "iu" else drawn[c]
        drawn[c] = values.astype(kind) if c in numbers_of(train) else values.astype(str).astype(object)
    return drawn[list(train)], seconds


def tvae_job(request: dict[str, Any]) -> float:
    """Fit TVAE and save what it draws; the seconds of its training."""
    warnings.simplefilter("ignore")
    import torch
    from ctgan import TVAE

    torch.set_num_threads(1)
    torch.manual_seed(request["seed"])
    np.random.seed(request["seed"])  # noqa: NPY002 - TVAE draws from it
    table = pd.read_csv(request["rows"], keep_default_na=False)
    start = time.perf_counter()
    model = TVAE(epochs=request["epochs"])
    model.fit(table, [c for c in table if c not in request["numbers"]])
    seconds = time.perf_counter() - start
    model.sample(len(table)).to_csv(request["found"], index=False)
    return seconds


# The table

Draw = Callable[[pd.DataFrame, int], pd.DataFrame]
PEERS: dict[str, Draw] = {
    "independent columns": independent,
    "Gaussian copula": copula,
    "shallow mixture": mixture,
}
OURS = {"skvae": {}, "skvae, prior='model'": {"prior": "model"}}


def ours(
    train: pd.DataFrame, test: pd.DataFrame, seed: int, parameters: dict[str, Any], nats: bool
) -> Iterator[tuple[str, pd.DataFrame, dict[str, float]]]:
    """One fit, and rows of every way to draw from it."""
    from skvae import VAETransformer

    start = time.perf_counter()
    vae = VAETransformer(likelihood="auto", random_state=seed).set_params(**parameters).fit(train)
    more = {"seconds": time.perf_counter() - start}
    if nats:
        scored = test.copy()
        for c in test:
            if c not in numbers_of(train):
                scored[c] = test[c].where(test[c].isin(train[c].unique()))
        more["nats"] = vae.score(scored)
    for name, options in OURS.items():
        yield name, vae.sample(len(train), random_state=seed, **options), more


def rows_of(
    args: argparse.Namespace, name: str, train: pd.DataFrame, test: pd.DataFrame, seed: int
) -> Iterator[tuple[str, pd.DataFrame, dict[str, float]]]:
    """Rows by every method, and what else is known of it."""
    yield "other real rows", test, {}
    for title, draw in PEERS.items():
        start = time.perf_counter()
        drawn = draw(train, seed)
        yield title, drawn, {"seconds": time.perf_counter() - start}
    if args.tvae:
        drawn, seconds = tvae(args.tvae, train, seed, args.epochs)
        yield "TVAE", drawn, {"seconds": seconds}
    yield from ours(train, test, seed, args.parameters, name == "adult-10k")


def format_row(name: str, found: Measures) -> list[str]:
    digits = {"seconds": 1, "nats": 2}
    return [name, *("" if np.isnan(v) else f"{v:.{digits.get(k, 3)}f}" for k, v in found._asdict().items())]


def verdicts(table: str, found: dict[str, Measures]) -> Iterator[str]:
    from _measure import verdict

    own = found["skvae"]._asdict()
    if table in SMALL:
        peer = found["shallow mixture"]._asdict()
        for name in ("trend", "beta", "MLE"):
            yield verdict(f"{table}: {name} {own[name]:.3f}, the mixture's {peer[name]:.3f}", own[name] >= peer[name])
        yield verdict(f"{table}: DCR {own['DCR']:.3f}, at most {SMALL_DCR}", own["DCR"] <= SMALL_DCR)
    elif table == "adult-10k":
        yield verdict(f"{table}: {own['nats']:.2f} nats, at least {LEAST_NATS}", own["nats"] >= LEAST_NATS)
    else:
        for name, bar in BARS.items():
            holds = own[name] <= bar if name in AT_MOST else own[name] >= bar
            yield verdict(f"{table}: {name} {own[name]:.3f}, at {'most' if name in AT_MOST else 'least'} {bar}", holds)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with adult-train.csv.gz, penguins.csv and adbench/")
    parser.add_argument("--tables", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tvae", help="the Python of an environment with ctgan; without it TVAE is left out")
    parser.add_argument("--epochs", type=int, default=300, help="TVAE's epochs")
    parser.add_argument("--most", type=int, default=6000, help="rows that are compared with rows, at most")
    parser.add_argument("--parameters", type=json.loads, default={}, help="skvae's, as JSON, in place of its defaults")
    parser.add_argument("--only", nargs="+", help="methods to run, by their names in the table; default: all")
    parser.add_argument("--quick", action="store_true", help="iris alone, one seed")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args(argv)
    if args.quick:
        args.tables, args.seeds = ["iris"], [0]

    from _tables import print_table

    said = []
    with threadpool_limits(1):
        for name in args.tables:
            table, runs = load(name, args.data), {}
            for seed in args.seeds:
                train, test = deal(name, table, seed)
                for title, drawn, more in rows_of(args, name, train, test, seed):
                    if args.only and title not in args.only:
                        continue
                    found = judge(train, test, drawn, TARGETS[name], seed, args.most, **more)
                    if drawn is test:
                        found = found._replace(coverage=np.nan, DCR=np.nan)
                    runs.setdefault(title, []).append(found)
                    print("  ".join([name, str(seed), *format_row(title, found)]), flush=True)
            found = {title: Measures(*np.mean(each, axis=0)) for title, each in runs.items()}
            print()
            print_table([name, *Measures._fields], [format_row(*item) for item in found.items()], args.markdown)
            print()
            if "skvae" in found and (name not in SMALL or "shallow mixture" in found):
                said += verdicts(name, found)
    print("\n".join(said))
    if not args.tvae:
        print("TVAE was left out: give --tvae PYTHON.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        print(tvae_job(json.loads(sys.argv[2])))
    else:
        main()
