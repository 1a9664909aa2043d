"""Counts: 3774 blood cells by 2000 genes, beside PCA, the linear model of the same likelihood, and SCVI.

Protocol: four fifths of the rows train, one fifth tests (`train_test_split(test_size=0.2, random_state=seed)`); 10
latents everywhere; one thread.
- nats: mean log-likelihood of a test row, by importance sampling with --draws draws of q(z|x), for skvae and SCVI
  alike (a lower bound in expectation, so both are a little too low). "ELBO" is SCVI's own number.
- skvae: VAETransformer(10, likelihood="poisson" or "negative_binomial") at its defaults, on the counts; "linear" has
  hidden_layer_sizes=(), a generalised linear factor model of the same rank.
- independent columns: one Poisson, or one negative binomial, a gene, by maximum likelihood; a gene's mean is
  (sum + 1/2) / (rows + 1), as a gene without any count in the training rows would otherwise make test rows impossible.
- PCA of log(1 + x), and of log(1 + x) after every row is brought to the median total.
- SCVI (--peers PYTHON, see requirements-scvi.txt): SCVI(n_latent=10) at its defaults (zero-inflated negative binomial,
  one hidden layer of 128 units, dropout, 400 epochs at this size, no early stopping) and with gene_likelihood="nb";
  --epochs caps the training.
  SCVI's likelihood is that of a row *given its total*, which it takes from the row it scores; skvae's model has to find
  the total out by its latents. The comparison favours SCVI by what the total tells of a row.
- 5-NN: accuracy of the cell type (10 kinds) by five neighbours in the latents, fitted on the training rows and counted
  on the test rows, with a standard error of about 0.011; "5-fold" counts it over all rows, the latents being those of
  the same model.
Prediction: every likelihood with latents is above independent columns of its kind, the negative binomial above the
Poisson, and the VAE above its linear model; the negative binomial VAE at least SCVI's default less 10 nats; its 5-NN
accuracy at least that of PCA of log(1 + x), and at least SCVI's less 0.02.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _measure import PAGE, rewrite, verdict
from _peers import run_job
from _tables import format_table, print_table
from numpy.typing import NDArray
from scipy import optimize, stats
from sklearn.decomposition import PCA
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

COMMAND = "python benchmarks/counts.py"
HEADER = ["blood cells, 10 latents", "nats per row", "ELBO", "5-NN accuracy", "5-fold", "s"]
FILE, LATENTS = "pbmc_facs_hvg2000.npz", 10
INDEPENDENT = {"poisson": "independent Poissons", "negative_binomial": "independent negative binomials"}
OURS = {
    "linear Poisson": {"likelihood": "poisson", "hidden_layer_sizes": ()},
    "linear negative binomial": {"likelihood": "negative_binomial", "hidden_layer_sizes": ()},
    "skvae, Poisson": {"likelihood": "poisson"},
    "skvae, negative binomial": {"likelihood": "negative_binomial"},
}
PCAS = ("PCA of log(1 + x)", "PCA of log(1 + x), equal totals")
SCVI = {"SCVI": "zinb", "SCVI, negative binomial": "nb"}
NATS_BELOW_SCVI, ACCURACY_BELOW_SCVI = 10.0, 0.02

Array = NDArray[Any]


class Split(NamedTuple):
    """Counts of the training and the test rows, and their cell types."""

    train: Array
    test: Array
    y_train: Array
    y_test: Array


class Result(NamedTuple):
    """What one model says of the test rows; not a number where it says nothing."""

    nats: float = np.nan
    elbo: float = np.nan
    accuracy: float = np.nan
    folds: float = np.nan
    seconds: float = np.nan


def load(data: Path, seed: int) -> Split:
    with np.load(data / FILE) as file:
        X, y = file["X"].astype(np.float32), file["celltype"]
    return Split(*train_test_split(X, y, test_size=0.2, random_state=seed))


# Models without skvae


def independent(name: str, part: Split) -> Result:
    """One distribution a column; a negative binomial's mean is that of the column, whatever its shape."""
    start = time.perf_counter()
    nats = np.zeros(len(part.test))
    for train, test in zip(part.train.T, part.test.T, strict=True):
        mean = (train.sum() + 0.5) / (len(train) + 1)
        values, times = np.unique(train, return_counts=True)
        if name == "poisson":
            nats += stats.poisson.logpmf(test, mean)
            continue

        def log_pmf(x: Array, log_r: float, mean: float = mean) -> Array:
            r = np.exp(log_r)
            return stats.nbinom.logpmf(x, r, r / (r + mean))

        found = optimize.minimize_scalar(
            lambda log_r, values=values, times=times, log_pmf=log_pmf: -times @ log_pmf(values, log_r),
            bounds=(-9.0, 9.0),
            method="bounded",
        )
        nats += log_pmf(test, found.x)
    return Result(nats=nats.mean(), seconds=time.perf_counter() - start)


def neighbours(part: Split, train: Array, test: Array) -> dict[str, float]:
    """Accuracy of five neighbours, from the latents of the training and the test rows."""
    knn = KNeighborsClassifier(5)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    Z, y = np.concatenate([train, test]), np.concatenate([part.y_train, part.y_test])
    return {
        "accuracy": knn.fit(train, part.y_train).score(test, part.y_test),
        "folds": cross_val_score(knn, Z, y, cv=folds).mean(),
    }


def principal(name: str, part: Split) -> Result:
    start = time.perf_counter()
    train, test = part.train, part.test
    if name.endswith("totals"):
        median = np.median(train.sum(axis=1))
        train, test = (X / X.sum(axis=1, keepdims=True) * median for X in (train, test))
    pca = PCA(LATENTS, random_state=0).fit(np.log1p(train))
    seconds = time.perf_counter() - start
    return Result(seconds=seconds, **neighbours(part, pca.transform(np.log1p(train)), pca.transform(np.log1p(test))))


# skvae


def ours(part: Split, seed: int, draws: int, parameters: dict[str, Any]) -> Result:
    from skvae import VAETransformer  # here, because SCVI's interpreter runs this file, too

    start = time.perf_counter()
    vae = VAETransformer(LATENTS, random_state=seed, **parameters).fit(part.train)
    seconds = time.perf_counter() - start
    nats = vae.set_params(n_draws=draws).score(part.test)
    return Result(nats=nats, seconds=seconds, **neighbours(part, vae.transform(part.train), vae.transform(part.test)))


# SCVI, in an interpreter of its own


def by_scvi(python: str, part: Split, seed: int, args: argparse.Namespace, likelihood: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        rows, found = Path(folder) / "rows.npz", Path(folder) / "found.npz"
        np.savez(rows, train=part.train, test=part.test)
        request = {"rows": str(rows), "found": str(found), "likelihood": likelihood, "seed": seed}
        seconds = run_job(python, __file__, {**request, "draws": args.draws, "epochs": args.epochs}, one_thread=True)
        with np.load(found) as answer:
            accuracies = neighbours(part, answer["train"], answer["test"])
            return Result(float(answer["nats"]), float(answer["elbo"]), seconds=seconds, **accuracies)


def scvi_job(request: dict[str, Any]) -> float:
    """Fit SCVI and save what it says; the seconds of its training."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    import anndata
    import scvi
    import torch

    torch.set_num_threads(1)
    scvi.settings.seed, scvi.settings.verbosity = request["seed"], logging.ERROR
    with np.load(request["rows"]) as rows:
        train, test = (anndata.AnnData(rows[name]) for name in ("train", "test"))
    scvi.model.SCVI.setup_anndata(train)
    model = scvi.model.SCVI(train, n_latent=LATENTS, gene_likelihood=request["likelihood"])
    start = time.perf_counter()
    quiet = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
    model.train(max_epochs=request["epochs"], accelerator="cpu", **quiet)
    seconds = time.perf_counter() - start
    np.savez(
        request["found"],
        train=model.get_latent_representation(train),
        test=model.get_latent_representation(test),
        elbo=float(model.get_elbo(test)),
        nats=float(model.get_marginal_ll(test, n_mc_samples=request["draws"])),
    )
    return seconds


# The table


def methods(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[Split, int], Result]]]:
    for name, title in INDEPENDENT.items():
        yield title, lambda part, seed, name=name: independent(name, part)
    for name in PCAS:
        yield name, lambda part, seed, name=name: principal(name, part)
    for name, parameters in OURS.items():
        yield name, lambda part, seed, parameters=parameters: ours(part, seed, args.draws, parameters)
    if args.peers:
        for name, likelihood in SCVI.items():
            yield name, lambda part, seed, kind=likelihood: by_scvi(args.peers, part, seed, args, kind)


def format_row(name: str, r: Result) -> list[str]:
    digits = {"nats": 1, "elbo": 1, "accuracy": 3, "folds": 3, "seconds": 0}
    return [name, *("" if np.isnan(v) else f"{v:.{digits[k]}f}" for k, v in r._asdict().items())]


def verdicts(found: dict[str, Result]) -> Iterator[str]:
    def above(name: str, other: str, least: float = 0.0) -> str:
        gain = found[name].nats - found[other].nats
        return verdict(f"{name}: {gain:+.1f} nats beside {other}, at least {least:+.1f}", gain >= least)

    nb = "skvae, negative binomial"
    for kind, likelihood in (("Poisson", "poisson"), ("negative binomial", "negative_binomial")):
        yield above(f"linear {kind}", INDEPENDENT[likelihood])
        yield above(f"skvae, {kind}", f"linear {kind}")
    yield above(nb, "skvae, Poisson")
    others = [(PCAS[0], 0.0)]
    if "SCVI" in found:
        yield above(nb, "SCVI", -NATS_BELOW_SCVI)
        others.append(("SCVI", ACCURACY_BELOW_SCVI))
    for other, less in others:
        ours, theirs = found[nb].accuracy, found[other].accuracy
        claim = f"{nb}: 5-NN accuracy {ours:.3f}, at least that of {other}, {theirs:.3f}, less {less}"
        yield verdict(claim, ours >= theirs - less)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {FILE}")
    parser.add_argument("--peers", help="the Python of an environment with scvi-tools")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--draws", type=int, default=512, help="draws per row for the likelihoods")
    parser.add_argument("--epochs", type=int, help="SCVI's epochs; default: its own choice")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args(argv)

    runs: dict[str, list[Result]] = {}
    with threadpool_limits(1):
        for seed in args.seeds:
            part = load(args.data, seed)
            for name, method in methods(args):
                runs.setdefault(name, []).append(method(part, seed))
                print("  ".join(format_row(name, runs[name][-1])), flush=True)
    found = {name: Result(*np.mean(results, axis=0)) for name, results in runs.items()}
    rows = [format_row(name, result) for name, result in found.items()]
    print()
    print_table(HEADER, rows, args.markdown)
    print()
    print("\n".join(verdicts(found)))
    if args.docs:
        rewrite(args.docs, "counts", COMMAND, format_table(HEADER, rows, markdown=True))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        print(scvi_job(json.loads(sys.argv[2])))
    else:
        main()
