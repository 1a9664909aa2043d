"""How long a fit at the defaults takes, by the table's size, and a fast look; imputers on small tables.

Seconds are of the processor (`time.process_time`) with one thread, which other work on the machine disturbs least:
medians of --repeats fits of 10,000 rows and fewer, one fit of more.
- Fits: rows of a nonlinear map of 4 latents plus noise. PCA(5), IsolationForest(), VAETransformer(5) and the same with
  max_iter=10, a fast look, and VAEAnomalyDetector(). Nats a row of 2,000 other rows, where there is a likelihood.
- Imputers: a tenth of the cells of iris, wine and breast cancer missing, and 4,454 rows of 13 columns of which 9 are
  numbers and 4 are categories (a nonlinear map of 4 latents, cut); the size of a table of credit applications. Fit and
  transform. RMSE of hidden numbers in standard deviations, and the share of right categories, which scikit-learn's
  imputers see as codes. Last, how many times as long `score_samples` of VAEImputer's model takes for 2,000 rows with
  gaps as for the same rows whole.
Prediction: a fast look takes at most a tenth of a default fit of 10,000 rows and more, and is likelier than PCA. Rows
with gaps take at most 3 times as long as whole ones. VAEImputer takes longer than all others, by more than ten times on
small tables, with the lowest RMSE.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _measure import PAGE, latent_table, rewrite, verdict
from _tables import format_table, print_table
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skvae import VAEAnomalyDetector, VAEImputer, VAETransformer

COMMAND = "python benchmarks/defaults.py"
SIZES = ((1_000, 20), (10_000, 30), (100_000, 30))
LATENTS, FAST, SCORED, MOST_REPEATED = 5, 10, 2_000, 10_000
MODELS: dict[str, Callable[[], Any]] = {
    "PCA(5)": lambda: PCA(LATENTS),
    "IsolationForest()": lambda: IsolationForest(random_state=0),
    "VAEAnomalyDetector()": lambda: VAEAnomalyDetector(random_state=0),
    "VAETransformer(5)": lambda: VAETransformer(LATENTS, random_state=0),
    "VAETransformer(5, max_iter=10)": lambda: VAETransformer(LATENTS, max_iter=FAST, random_state=0),
}
IMPUTERS: dict[str, Callable[[], Any]] = {
    "KNNImputer()": KNNImputer,
    "IterativeImputer()": lambda: IterativeImputer(random_state=0),
    "VAEImputer()": lambda: VAEImputer(random_state=0),
    "VAEImputer(VAETransformer())": lambda: VAEImputer(VAETransformer(random_state=0)),
}
CREDIT = (4_454, 13, 9)
MISSING, MOST_RATIO = 0.1, 3.0

Array = NDArray[Any]


def seconds(call: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """The median processor time of a call, and what the last one returned."""
    took, found = [], None
    for _ in range(repeats):
        began = time.process_time()
        found = call()
        took.append(time.process_time() - began)
    return float(np.median(took)), found


def fits(sizes: Sequence[tuple[int, int]], repeats: int) -> tuple[list[list[str]], dict[tuple[str, int], Any]]:
    """Rows of the table, and (seconds, nats) by model and number of rows."""
    rows, found = [], {}
    for name, make in MODELS.items():
        cells = []
        for n_rows, n_columns in sizes:
            X = latent_table(n_rows + SCORED, n_columns)
            train, test = X[:n_rows], X[n_rows:]
            model = make()
            took, _ = seconds(lambda m=model, X=train: m.fit(X), repeats if n_rows <= MOST_REPEATED else 1)
            nats = model.score(test) if hasattr(model, "score") else np.nan
            found[name, n_rows] = took, nats
            cells.append(f"{took:.2f}" + ("" if np.isnan(nats) else f" ({nats:.2f})"))
            print(name, n_rows, cells[-1], flush=True)
        rows.append([name, *cells])
    return rows, found


def credit() -> pd.DataFrame:
    """Numbers and categories of the same latents."""
    n_rows, n_columns, n_numbers = CREDIT
    X = latent_table(n_rows, n_columns, seed=2)
    table = pd.DataFrame(X, columns=[f"x{i}" for i in range(n_columns)])
    for i, name in enumerate(table.columns[n_numbers:]):
        edges = np.quantile(X[:, n_numbers + i], np.linspace(0, 1, i + 4)[1:-1])
        table[name] = np.array(list("abcdefgh"))[np.digitize(X[:, n_numbers + i], edges)]
    return table


def tables() -> dict[str, pd.DataFrame]:
    names = ("iris", "wine", "breast_cancer")
    return {name: getattr(datasets, f"load_{name}")(as_frame=True).data for name in names} | {"credit": credit()}


def in_codes(table: pd.DataFrame) -> pd.DataFrame:
    """Standardised numbers, and codes of categories."""
    codes = table.apply(lambda c: c if c.dtype.kind == "f" else c.astype("category").cat.codes.replace(-1, np.nan))
    return pd.DataFrame(StandardScaler().fit_transform(codes), columns=table.columns)


def filled_by(imputer: Any, gappy: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """Seconds of fit and transform, and the table, in codes; skvae reads it as it is."""
    ours = isinstance(imputer, VAEImputer)
    took, found = seconds(lambda: imputer.fit_transform(gappy if ours else in_codes(gappy)))
    return took, found if ours else pd.DataFrame(found, columns=gappy.columns)


def errors(filled: pd.DataFrame, table: pd.DataFrame, gappy: pd.DataFrame) -> tuple[float, float]:
    """RMSE of hidden numbers in standard deviations, and the share of right categories, NaN where there are none."""
    off, right = [], []
    for name in table:
        hidden, cells = gappy[name].isna().to_numpy(), filled[name]
        if table[name].dtype.kind != "f":
            if cells.dtype.kind == "f":  # the nearest code
                seen = gappy[name].astype("category").cat
                codes = seen.codes.replace(-1, np.nan)
                places = (cells * codes.std(ddof=0) + codes.mean()).round().clip(0, len(seen.categories) - 1)
                cells = seen.categories[places.astype(int)].to_series()
            right.append(np.asarray(cells)[hidden] == table[name].to_numpy()[hidden])
            continue
        mean, std = gappy[name].mean(), gappy[name].std(ddof=0)
        truth = (table[name] - mean) / std
        own = (cells - mean) / std if cells.abs().max() > 0 and filled.attrs.get("units") else cells
        off.append((np.asarray(own) - truth.to_numpy())[hidden])
    return float(np.sqrt(np.mean(np.concatenate(off) ** 2))), float(np.mean(np.concatenate(right))) if right else np.nan


def imputers() -> tuple[list[list[str]], dict[tuple[str, str], Any]]:
    """Rows of the table, and (seconds, RMSE, right categories) by imputer and table."""
    rows, found = [], {}
    for name, make in IMPUTERS.items():
        for label, table in tables().items():
            if name.endswith("(VAETransformer())") and label == "credit":
                continue  # of numbers alone
            hidden = np.random.default_rng(0).random(table.shape) < MISSING
            gappy, imputer = table.mask(hidden), make()
            took, filled = filled_by(imputer, gappy)
            filled.attrs["units"] = isinstance(imputer, VAEImputer)
            rmse, right = errors(filled, table, gappy)
            ratio = ""
            if isinstance(imputer, VAEImputer):
                ratio = f"{of_gaps(imputer.estimator_, table, gappy):.1f}"
            found[name, label] = took, rmse, right, float(ratio or "nan")
            shown = "" if np.isnan(right) else f"{right:.3f}"
            rows.append([f"{label}, {name}", f"{took:.2f}", f"{rmse:.3f}", shown, ratio])
            print("  ".join(rows[-1]), flush=True)
    return sorted(rows, key=lambda row: list(tables()).index(row[0].split(",")[0])), found


def of_gaps(model: VAETransformer, table: pd.DataFrame, gappy: pd.DataFrame) -> float:
    """How many times as long a row with gaps takes to be scored as the same row whole, of many: rows are repeated."""
    place = np.resize(np.flatnonzero(gappy.isna().any(axis=1)), SCORED)
    model.score_samples(gappy.iloc[place[:100]])
    pair = (rows.iloc[place].reset_index(drop=True) for rows in (table, gappy))
    whole, gaps = (seconds(lambda r=rows: model.score_samples(r), 3)[0] for rows in pair)
    return gaps / whole


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most", type=int, default=100_000, help="leave out tables of more rows")
    parser.add_argument("--part", choices=["fits", "imputers"], help="default: both")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its tables in docs/benchmarks.md")
    args = parser.parse_args(argv)
    sizes = [size for size in SIZES if size[0] <= args.most]
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of epochs, and of categories seen as codes
        by_size = fits(sizes, args.repeats) if args.part != "imputers" else None
        of_imputers = imputers() if args.part != "fits" else None
    if by_size is not None:
        print()
        header = ["fit, s (held-out nats)", *(f"{n:,} x {d}" for n, d in sizes)]
        print_table(header, by_size[0], args.markdown)
        print()
        report_fits(by_size[1], sizes)
        if args.docs:
            rewrite(args.docs, "default fits", COMMAND, format_table(header, by_size[0], markdown=True))
    if of_imputers is not None:
        print()
        header = ["fit and transform", "s", "RMSE", "right categories", "gaps / whole"]
        print_table(header, of_imputers[0], args.markdown)
        print()
        report_imputers(of_imputers[1])
        if args.docs:
            rewrite(args.docs, "imputers", COMMAND, format_table(header, of_imputers[0], markdown=True))


def report_fits(found: dict[tuple[str, int], Any], sizes: Sequence[tuple[int, int]]) -> None:
    pca, _, _, whole, fast = MODELS
    for n_rows, _ in sizes:
        share, gain = (
            found[fast, n_rows][0] / found[whole, n_rows][0],
            found[fast, n_rows][1] - found[pca, n_rows][1],
        )
        claim = f"{n_rows:,} rows: a fast look takes {share:.2f} of a fit and is {gain:+.2f} nats from PCA"
        print(verdict(claim, (share <= 0.1 or n_rows < MOST_REPEATED) and gain > 0))


def report_imputers(found: dict[tuple[str, str], Any]) -> None:
    for label in tables():
        took, rmse, _, ratio = found["VAEImputer()", label]
        others = [values for (name, table), values in found.items() if table == label and "VAE" not in name]
        least, slowest = min(v[1] for v in others), max(v[0] for v in others)
        print(verdict(f"{label}: RMSE {rmse:.3f}, below scikit-learn's {least:.3f}", rmse < least), end="; ")
        print(f"{took / slowest:.0f} times the slower one's seconds")
        print(verdict(f"{label}: a row with gaps takes {ratio:.1f} times a whole one, at most 3", ratio <= MOST_RATIO))


if __name__ == "__main__":
    main()
