"""A batch that is given to the model, and taken out: `Mixed([("given", ["batch"])], ...)`.

- Synthetic: 20 columns of 3 latents in 4 groups, linear in them ("straight") or not ("bent"); batch b scales and shifts
  every column, and the groups have 30 to 70 % of their rows in it, so that batches differ by more than their effect.
  2000 rows train (600 epochs), 1000 test. What rows of b would have been in batch a is known: the RMSE to that, in
  standard deviations, of
    untouched       the rows as they are,
    aligned         mean and standard deviation of every column in b set to those in a, by the training rows,
    skvae, decoded  `inverse_transform(transform(rows), given={"batch": "a"})`,
    skvae, moved    the rows plus what that differs by from `reconstruct(rows)`: their own noise, in a's units, stays.
- Blood cells (--data DIR: pbmc_facs_hvg2000.npz, the --genes of most variance): in a random half of the cells every
  gene loses a share of its counts of its own, between none and --lost, by binomial thinning.
- 5-NN: accuracy of the group or the cell type, 15-NN: of the batch, by neighbours in the latents, five folds over all
  rows; a batch that cannot be read has the accuracy "by chance" (of the larger batch; of the group alone, where they
  go together). 10 latents for cells, 3 for the synthetic table.
- PCA of the columns, or of log(1 + x); with "aligned", after mean and scale of every column are set alike in batches.
Prediction: decoded rows are nearer to the truth than aligned ones; of cells, types keep the accuracy of the model that
is not given the batch, less 0.01, and the batch is harder to read than from PCA.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _measure import PAGE, rewrite, verdict
from _tables import format_table, print_table
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from skvae import Mixed, VAETransformer

COMMAND = "python benchmarks/covariates.py"
HEADER = ["latents of", "batch, 15-NN", "group, 5-NN", "s"]
CENTRES = 3.0 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
BENDS = {"straight": 1e6, "bent": 3.0}
LATENTS, COLUMNS, NOISE, EPOCHS = 3, 20, 0.3, 600
OF_B = np.array([0.3, 0.43, 0.57, 0.7])
PLAIN, GIVEN, PRINCIPAL, ALIGNED = "skvae", "skvae, given the batch", "PCA", "PCA, aligned"

Array = NDArray[Any]


def synthetic(n_rows: int, seed: int, bend: float) -> tuple[pd.DataFrame, Array, Array]:
    """Rows with their batch, what they were before its effect, and their groups; the effect is that of the seed."""
    of_world, rng = np.random.default_rng([0, seed]), np.random.default_rng([n_rows, seed])
    W, factor = of_world.normal(size=(LATENTS, COLUMNS)), np.exp(0.4 * of_world.normal(size=COLUMNS))
    shift = 2 * of_world.normal(size=COLUMNS)
    group = rng.integers(len(CENTRES), size=n_rows)
    is_b = rng.random(n_rows) < OF_B[group]
    z = CENTRES[group] + rng.normal(size=(n_rows, LATENTS))
    before = bend * np.tanh(z @ W / bend) + NOISE * rng.normal(size=(n_rows, COLUMNS))
    rows = np.where(is_b[:, None], factor * before + shift, before)
    table = pd.DataFrame(rows, columns=[f"x{i}" for i in range(COLUMNS)])
    return table.assign(batch=np.where(is_b, "b", "a")), before, group


def cells(data: Path, n_genes: int, lost: float, seed: int) -> tuple[pd.DataFrame, Array]:
    """Counts with their batch, and cell types."""
    rng = np.random.default_rng(seed)
    with np.load(data / "pbmc_facs_hvg2000.npz") as file:
        X, types = file["X"].astype(np.int64), file["celltype"]
    X = X[:, np.argsort(-np.log1p(X).var(axis=0), kind="stable")[:n_genes]]
    is_b = np.zeros(len(X), dtype=bool)
    is_b[rng.permutation(len(X))[: len(X) // 2]] = True
    kept = 1 - lost * rng.random(n_genes)
    X[is_b] = rng.binomial(X[is_b], kept)
    table = pd.DataFrame(X, columns=[f"g{i}" for i in range(n_genes)])
    return table.assign(batch=np.where(is_b, "b", "a")), types


def aligned(numbers: Array, is_b: Array, source: Array | None = None, source_b: Array | None = None) -> Array:
    """Mean and scale of every column in b set to those in a, as they are among the rows of `source`."""
    source, source_b = (numbers, is_b) if source is None else (source, source_b)
    mean = [source[source_b == which].mean(axis=0) for which in (False, True)]
    std = [np.maximum(source[source_b == which].std(axis=0), 1e-12) for which in (False, True)]
    return np.where(is_b[:, None], (numbers - mean[1]) / std[1] * std[0] + mean[0], numbers)


def read_from(codes: Array, is_b: Array, group: Array) -> list[float]:
    """Accuracy of the batch by 15 neighbours, and of the group by 5."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    pairs = ((15, is_b), (5, group))
    return [float(cross_val_score(KNeighborsClassifier(k), codes, y, cv=folds).mean()) for k, y in pairs]


def models(
    table: pd.DataFrame, logs: Array, likelihood: str, n_components: int, seed: int, **parameters: Any
) -> Iterator[tuple[str, Any, float]]:
    """Codes by every method, or a fitted model, and the seconds that it took."""
    numbers, is_b = table.drop(columns="batch"), (table["batch"] == "b").to_numpy()
    for name, rows in ((PRINCIPAL, logs), (ALIGNED, aligned(logs, is_b))):
        start = time.perf_counter()
        codes = PCA(n_components, random_state=0).fit_transform(rows)
        yield name, codes, time.perf_counter() - start
    given = Mixed([("given", ["batch"])], remainder=likelihood)
    for name, kind, rows in ((PLAIN, likelihood, numbers), (GIVEN, given, table)):
        start = time.perf_counter()
        vae = VAETransformer(n_components, likelihood=kind, random_state=seed, **parameters).fit(rows)
        yield name, (vae, vae.transform(rows)), time.perf_counter() - start


def compare(title: str, table: pd.DataFrame, logs: Array, group: Array, chance: float, found: Iterator) -> dict:
    """Print a row for every method; its accuracies, and fitted models by name."""
    is_b = (table["batch"] == "b").to_numpy()
    rows, accuracies, fitted = [], {}, {}
    for name, result, seconds in found:
        fitted[name], codes = result if isinstance(result, tuple) else (None, result)
        accuracies[name] = read_from(codes, is_b, group)
        rows.append([name, *(f"{value:.3f}" for value in accuracies[name]), f"{seconds:.1f}"])
    rows.append(["by chance", f"{chance:.3f}", f"{np.unique(group, return_counts=True)[1].max() / len(group):.3f}", ""])
    print(f"\n{title}\n")
    print_table([HEADER[0], *HEADER[1:]], rows, False)
    return {"accuracies": accuracies, "fitted": fitted, "rows": rows}


def counterfactual(vae: VAETransformer, train: pd.DataFrame, seed: int, bend: float) -> dict[str, float]:
    """RMSE of new rows of b as if of a, in standard deviations of the columns."""
    table, before, _ = synthetic(1000, seed, bend)
    is_b = (table["batch"] == "b").to_numpy()
    unit, numbers = before.std(axis=0), table.drop(columns="batch").to_numpy()
    own = train.drop(columns="batch").to_numpy(), (train["batch"] == "b").to_numpy()
    decoded = vae.inverse_transform(vae.transform(table), given={"batch": "a"}).drop(columns="batch").to_numpy()
    rebuilt = vae.reconstruct(table).drop(columns="batch").to_numpy()
    guesses = {
        "untouched": numbers,
        "aligned": aligned(numbers, is_b, *own),
        "skvae, decoded": decoded,
        "skvae, moved": numbers - rebuilt + decoded,
    }
    return {k: float(np.sqrt(np.mean(((v - before)[is_b] / unit) ** 2))) for k, v in guesses.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with pbmc_facs_hvg2000.npz; without it, the synthetic table")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--lost", type=float, default=0.7)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args(argv)
    errors: dict[str, list[dict[str, float]]] = {name: [] for name in BENDS}
    read, tables = [], []
    with threadpool_limits(1):
        for seed in args.seeds:
            for name, bend in BENDS.items():
                table, _, group = synthetic(2000, seed, bend)
                logs = table.drop(columns="batch").to_numpy()
                of_models = models(table, logs, "gaussian", LATENTS, seed, max_iter=EPOCHS)
                chance = float(np.maximum(OF_B, 1 - OF_B)[group].mean())
                found = compare(f"{name}, seed {seed}", table, logs, group, chance, of_models)
                errors[name].append(counterfactual(found["fitted"][GIVEN], table, seed, bend))
                numbers = ", ".join(f"{k} {v:.3f}" for k, v in errors[name][-1].items())
                print(f"\nrows of b as if of a: {numbers}", flush=True)
            if args.data is None:
                continue
            table, types = cells(args.data, args.genes, args.lost, seed)
            logs = np.log1p(table.drop(columns="batch").to_numpy())
            of_models = models(table, logs, "negative_binomial", 10, seed, max_iter=args.epochs)
            found = compare(f"blood cells, seed {seed}", table, logs, types, 0.5, of_models)
            read.append(found["accuracies"])
            tables.append(found["rows"])
    print()
    for name, found in errors.items():
        ours, theirs = (float(np.mean([e[k] for e in found])) for k in ("skvae, decoded", "aligned"))
        claim = f"{name}: decoded rows of b have an RMSE of {ours:.3f}, below that of aligned ones, {theirs:.3f}"
        print(verdict(claim, ours < theirs))
    if read:
        batch, kind = ({name: float(np.mean([r[name][place] for r in read])) for name in read[0]} for place in (0, 1))
        claim = f"cell types: {kind[GIVEN]:.3f} given the batch, at least {kind[PLAIN]:.3f} of {PLAIN}, less 0.01"
        print(verdict(claim, kind[GIVEN] >= kind[PLAIN] - 0.01))
        claim = f"batch of cells: {batch[GIVEN]:.3f}, harder to read than from PCA, {batch[PRINCIPAL]:.3f}"
        print(verdict(claim, batch[GIVEN] < batch[PRINCIPAL]))
        if args.docs:
            rewrite(args.docs, "covariates", COMMAND, format_table(HEADER, tables[0], markdown=True))


if __name__ == "__main__":
    main()
