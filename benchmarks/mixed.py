"""Mixed tables: every column's likelihood beside independent columns, and whether sampled rows stand for real ones.

Tables of strings, numbers and gaps go in as data frames, target included: adult (32,561 people of the 1994 US census, 9
of 15 columns categories) and penguins (344 birds, 3 of 8). 70 % of the rows train, 30 % are held out. "defaults" is
VAETransformer(likelihood="auto"); "recipe" has whole numbers that no normal or negative binomial distribution follows
(few values, most 0, heaps at round numbers) as categories, and flippers as normal (they vary little).
- Likelihood in nats, higher is better. "Alone": the column by itself, in the family that the model has for it, fitted
  to the training rows: shares of categories with one row more for each, maximum likelihood for numbers. "Given the
  others": log p(x_d | the row's other columns) = log p(row) - log p(row without cell d), by score_samples at `--draws`
  draws. For a column of at most 20 categories the latter is the sum over them of p(row with this category), which is
  never less than p(row). For others it is p(row with a gap), a bound that can be less tight than the row's: what is
  given for these is too high by the difference. "Gain" is given the others less alone. "Joint" is the mean of
  score_samples beside the sum over independent columns; the columns' gains do not add up to its gain, what one column
  tells of another counts for both. Means over present cells of held-out rows, `--scored` of them at most; a category
  that no training row has counts as missing.
- Sampled rows: a classifier (HistGradientBoostingClassifier at its defaults, categories told) learns the target, the
  last column of adult (income) and the first of penguins (species), from as many sampled rows as there are training
  rows, and is tested on the held-out real rows, beside one that learns from the real training rows. "Independent" rows,
  each column shuffled for itself, say what it is worth to have nothing but the columns right.
- The types of sampled columns are those of the table.
Means over seeds, which deal the rows anew; seconds are those of fit.
Prediction: no joint likelihood below that of independent columns, and no gain of a categorical or binary column below
-0.01; on adult a classifier of the recipe's rows has an ROC AUC at most 0.03 below that of one of real rows.
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
from _measure import PAGE, rewrite, verdict
from _tables import format_table, print_table
from scipy import optimize, stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OrdinalEncoder

from skvae import Mixed, VAETransformer

ADULT = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation", "relationship"),
    *("race", "sex", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income"),
]
TARGETS = {"adult": "income", "penguins": "species"}
SEEDS = {"adult": 1, "penguins": 3}
COUNTS = ["age", "education-num", "capital-gain", "capital-loss", "hours-per-week"]
RECIPES: dict[str, dict[str, Any]] = {
    "adult": {"likelihood": Mixed([("categorical", COUNTS)], remainder="auto")},
    "penguins": {
        "likelihood": Mixed([("categorical", ["year"]), ("gaussian", ["flipper_length_mm"])], remainder="auto")
    },
}
MOST_SUMMED = 20
MOST_LOSS, MOST_AUC_LOST = 0.01, 0.03
COMMAND = "python benchmarks/mixed.py"

LogProb = Callable[[np.ndarray], np.ndarray]


class Found(NamedTuple):
    """Of one table, model and seed: nats by column and joint, classifiers' scores by their training rows, seconds."""

    families: dict[str, str]
    alone: pd.Series
    given: pd.Series
    joint: tuple[float, float]
    accuracy: dict[str, float]
    auc: dict[str, float]
    seconds: float
    n_latents: int
    sampled: pd.DataFrame


def load(name: str, data: Path) -> pd.DataFrame:
    if name == "penguins":
        return pd.read_csv(data / "penguins.csv")
    return pd.read_csv(
        data / "adult-train.csv.gz",
        names=ADULT,
        header=None,
        na_values="?",
        skipinitialspace=True,
        keep_default_na=False,
    )


def known_cells(test: pd.DataFrame, train: pd.DataFrame, kinds: dict[str, str]) -> pd.DataFrame:
    """Held-out rows without the categories that no training row has."""
    columns = [column for column, kind in kinds.items() if kind == "categorical"]
    return test.assign(**{column: test[column].where(test[column].isin(train[column].unique())) for column in columns})


def families(vae: VAETransformer) -> dict[str, str]:
    """The name of every column's likelihood."""
    named = {}
    for member, columns in vae.likelihood_.members:
        kind = member if isinstance(member, str) else type(member).__name__.lower()
        named |= dict.fromkeys(columns, kind)
    return named


def negative_binomial(x: np.ndarray) -> LogProb:
    """By maximum likelihood, over the logarithms of its size and its mean."""
    values, counts = np.unique(x, return_counts=True)

    def density(at: np.ndarray) -> Any:
        size, mean = np.exp(at)
        return stats.nbinom(size, size / (size + mean))

    def loss(at: np.ndarray) -> float:
        return -float(counts @ density(at).logpmf(values))

    best = optimize.minimize(loss, [0.0, np.log(x.mean() + 1e-9)], method="Nelder-Mead", options={"maxiter": 2000})
    return density(best.x).logpmf


def independent(family: str, train: pd.Series) -> LogProb:
    """log p of a column by itself, fitted to its present training cells."""
    values = train.dropna().to_numpy()
    if family in ("categorical", "bernoulli"):
        counts = pd.Series(values).value_counts() + 1
        share = np.log(counts / counts.sum())
        return lambda x: share[x].to_numpy()
    if family == "negative_binomial":
        return negative_binomial(values)
    if family == "poisson":
        return stats.poisson(values.mean()).logpmf
    if family == "log_normal":
        logs = np.log(values)
        return lambda x: stats.norm(logs.mean(), logs.std()).logpdf(np.log(x)) - np.log(x)
    if family == "normal_score":  # a model of one column, whose latent has nothing to tell
        alone = VAETransformer(1, likelihood=family, hidden_layer_sizes=(), max_iter=1, random_state=0)
        fitted = alone.fit(values[:, None].astype(float))
        return lambda x: fitted.score_samples(np.asarray(x, dtype=float)[:, None])
    kinds = {"gaussian": stats.norm, "laplace": stats.laplace, "student_t": stats.t, "johnson_su": stats.johnsonsu}
    return kinds[family](*kinds[family].fit(values)).logpdf


def others(vae: VAETransformer, rows: pd.DataFrame, column: str, known: pd.Series | None) -> Iterator[np.ndarray]:
    """Parts whose sum is p(a row's cells outside of the column), as logarithms."""
    if known is None:
        yield vae.score_samples(rows.assign(**{column: np.nan}))
        return
    for value in known.dropna().unique():
        filled = np.full(len(rows), value, dtype=known.dtype if known.dtype.kind in "biuf" else object)
        yield vae.score_samples(rows.assign(**{column: pd.Series(filled, index=rows.index, dtype=known.dtype)}))


def likelihoods(
    vae: VAETransformer, train: pd.DataFrame, test: pd.DataFrame
) -> tuple[pd.Series, pd.Series, tuple[float, float]]:
    """Nats per present cell by itself, and given the row's others; then both joint, nats per row."""
    rows = vae.score_samples(test)
    alone, given, total = {}, {}, 0.0
    for column, family in families(vae).items():
        present = test[column].notna().to_numpy()
        own = independent(family, train[column])(test[column][present].to_numpy())
        finite = family in ("categorical", "bernoulli") and train[column].nunique() <= MOST_SUMMED
        without = np.logaddexp.reduce(list(others(vae, test[present], column, train[column] if finite else None)))
        given[column] = float(np.mean(rows[present] - without))
        alone[column] = float(own.mean())
        total += own.sum() / len(test)
    return pd.Series(alone)[train.columns], pd.Series(given)[train.columns], (total, float(rows.mean()))


def classify(rows: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame, target: str) -> tuple[float, float]:
    """Accuracy, and ROC AUC for two classes, on real held-out rows of a classifier that learnt from `rows`."""
    texts = [c for c in train.columns.drop(target) if not pd.api.types.is_numeric_dtype(train[c])]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan).fit(train[texts])

    def encoded(frame: pd.DataFrame) -> pd.DataFrame:
        X = frame.drop(columns=target)
        return X.assign(**dict(zip(texts, encoder.transform(X[texts]).T, strict=True))).astype(float)

    model = HistGradientBoostingClassifier(categorical_features=texts, random_state=0)
    model.fit(encoded(rows), rows[target])
    found = model.predict_proba(encoded(test))
    y = test[target].to_numpy()
    auc = (
        roc_auc_score(y == model.classes_[1], found[:, 1])
        if train[target].nunique() == 2 == len(model.classes_)
        else np.nan
    )
    return accuracy_score(y, model.classes_[found.argmax(axis=1)]), auc


def one(name: str, frame: pd.DataFrame, seed: int, params: dict[str, Any], args: argparse.Namespace) -> Found:
    train, test = train_test_split(frame, test_size=0.3, random_state=seed)
    vae = VAETransformer(**{"likelihood": "auto"} | params, random_state=seed)
    start = time.perf_counter()
    vae.fit(train)
    seconds = time.perf_counter() - start
    vae.set_params(n_draws=args.draws)
    alone, given, joint = likelihoods(vae, train, known_cells(test.iloc[: args.scored], train, families(vae)))
    sampled = vae.sample(len(train), random_state=seed)
    shuffled = train.apply(lambda column: column.sample(frac=1, random_state=seed + len(column.name)).to_numpy())
    tables = {"real": train, "sampled": sampled, "independent": shuffled}
    scores = {kind: classify(rows, train, test, TARGETS[name]) for kind, rows in tables.items()}
    accuracy, auc = ({kind: pair[i] for kind, pair in scores.items()} for i in (0, 1))
    return Found(families(vae), alone, given, joint, accuracy, auc, seconds, vae.n_components_, sampled)


def mean(values: list) -> Any:
    """Of numbers, Series or dictionaries of numbers."""
    return dict(pd.DataFrame(values).mean()) if isinstance(values[0], dict) else sum(values) / len(values)


def column_rows(frame: pd.DataFrame, runs: dict[str, list[Found]]) -> Iterator[list[str]]:
    """Every column's likelihoods, then the joint ones."""
    alone = [mean([run.alone for run in found]) for found in runs.values()]
    given = [mean([run.given for run in found]) for found in runs.values()]
    joint = [np.mean([run.joint for run in found], axis=0) for found in runs.values()]

    def cells(pairs: list[tuple[float, float]]) -> list[str]:
        return [text for own, ours in pairs for text in (f"{own:.3f}", f"{ours:.3f}", f"{ours - own:+.3f}")]

    for column in frame.columns:
        kinds = ", ".join(dict.fromkeys(found[0].families[column] for found in runs.values()))
        pairs = [(a[column], g[column]) for a, g in zip(alone, given, strict=True)]
        yield [str(column), str(frame[column].dtype), kinds, *cells(pairs)]
    yield ["joint", "", "", *cells(joint)]


def summary(name: str, frame: pd.DataFrame, runs: dict[str, list[Found]]) -> Iterator[list[str]]:
    """One line per model: joint likelihoods, and the classifiers of real, sampled and independent rows."""
    for model, found in runs.items():
        independent_, ours = np.mean([run.joint for run in found], axis=0)
        accuracy, auc = mean([run.accuracy for run in found]), mean([run.auc for run in found])
        kinds = ("real", "sampled", "independent")
        cells = [f"{accuracy[kind]:.3f}" for kind in kinds]
        cells += ["" if np.isnan(auc["real"]) else f"{auc[kind]:.3f}" for kind in kinds]
        latents = "/".join(sorted({str(run.n_latents) for run in found}))
        size = f"{len(frame):,} x {frame.shape[1]}"
        yield [
            name,
            size,
            model,
            latents,
            f"{independent_:.2f}",
            f"{ours:.2f}",
            *cells,
            f"{mean([r.seconds for r in found]):.0f}",
        ]


def judge(name: str, runs: dict[str, list[Found]]) -> Iterator[str]:
    for model, found in runs.items():
        independent_, ours = np.mean([run.joint for run in found], axis=0)
        yield verdict(
            f"{name}, {model}: joint {ours:.2f} nats, independent columns {independent_:.2f}", ours >= independent_
        )
        gain = mean([run.given - run.alone for run in found])
        gain = gain[[c for c in gain.index if found[0].families[c] in ("categorical", "bernoulli")]]
        claim = f"{name}, {model}: smallest gain of a categorical or binary column {gain.min():+.3f} ({gain.idxmin()})"
        yield verdict(f"{claim}, at least {-MOST_LOSS}", gain.min() >= -MOST_LOSS)
        auc = mean([run.auc for run in found])
        if not np.isnan(auc["real"]):
            lost = auc["real"] - auc["sampled"]
            claim = f"{name}, {model}: ROC AUC from sampled rows {lost:.3f} below that from real ones"
            yield verdict(f"{claim}, at most {MOST_AUC_LOST}", lost <= MOST_AUC_LOST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with adult-train.csv.gz and penguins.csv")
    parser.add_argument("--tables", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--models", nargs="+", choices=["defaults", "recipe"], default=["defaults", "recipe"])
    parser.add_argument("--seeds", type=int, help=f"default: {SEEDS}")
    parser.add_argument("--draws", type=int, default=64, help="draws in score_samples")
    parser.add_argument("--scored", type=int, default=300, help="held-out rows whose likelihood is taken, at most")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)

    lines, verdicts = [], []
    for name in args.tables:
        frame = load(name, args.data)
        params: dict[str, dict] = {model: RECIPES[name] if model == "recipe" else {} for model in args.models}
        seeds = range(args.seeds or SEEDS[name])
        runs = {model: [one(name, frame, seed, params[model], args) for seed in seeds] for model in args.models}
        print(f"\n{name}: nats per cell; recipe: {RECIPES[name]}\n")
        header = [name, "type", "likelihood"]
        header += [text for model in args.models for text in (f"{model}: alone", "given the others", "gain")]
        print_table(header, list(column_rows(frame, runs)), args.markdown)
        sampled = runs[args.models[-1]][0].sampled
        print(
            f"\n{sampled.head(8).to_string()}\n\nthe types of the table: {sampled.dtypes.equals(frame.dtypes)}\n",
            flush=True,
        )
        lines += summary(name, frame, runs)
        verdicts += judge(name, runs)
        verdicts.append(verdict(f"{name}: sampled rows have the table's types", sampled.dtypes.equals(frame.dtypes)))
    header = ["table", "size", "model", "J", "independent", "joint", "accuracy: real rows", "sampled", "independent"]
    header += ["ROC AUC: real rows", "sampled", "independent", "fit, s"]
    print_table(header, lines, args.markdown)
    print()
    print("\n".join(verdicts))
    if args.docs:
        rewrite(args.docs, "mixed", COMMAND, format_table(header, lines, markdown=True))


if __name__ == "__main__":
    main()
