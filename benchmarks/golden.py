"""Numbers of fixed fits, to be the same before and after a change that should not move them.

Tables: iris, wine, breast cancer, digits (the columns that vary) and a mixed one (real, counts, yes or no, categories,
amounts). Of each, three quarters are fitted with random_state=0 on one thread, and the rest is looked at: likelihoods,
codes and reconstructions of VAETransformer (per likelihood and objective), scores of VAEAnomalyDetector, and cells
filled by VAEImputer in rows of which a tenth is hidden.

    python benchmarks/golden.py --record FILE    writes the numbers
    python benchmarks/golden.py --compare FILE   prints the largest difference of every array, relative to its size

Files of two machines differ by float32's rounding, which grows with the epochs: record and compare on one.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from threadpoolctl import threadpool_limits

from skvae import ELBO, IWAE, Gaussian, VAEAnomalyDetector, VAEImputer, VAETransformer

EPOCHS = 20
BAR = 1e-6


def mixed_table(n_rows: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n_rows, 2))
    return np.column_stack(
        [
            z @ [1.0, 0.5] + 0.3 * rng.normal(size=n_rows),
            z @ [-0.5, 1.0] + 0.3 * rng.normal(size=n_rows),
            rng.negative_binomial(2, 1 / (1 + np.exp(1 + z[:, 0]))),
            rng.random(n_rows) < 1 / (1 + np.exp(-2 * z[:, 1])),
            np.exp(z[:, 0] + 0.2 * rng.normal(size=n_rows)),
        ]
    )


def tables() -> dict[str, np.ndarray]:
    digits = load_digits().data
    found = {
        "iris": load_iris().data,
        "wine": load_wine().data,
        "breast_cancer": load_breast_cancer().data,
        "digits": digits[:600, digits.std(axis=0) > 0.5],
        "mixed": mixed_table(),
    }
    return {name: np.random.default_rng(0).permutation(X) for name, X in found.items()}


def settings(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if name == "mixed":
        yield "auto", {"likelihood": "auto"}
        return
    yield "default", {}
    yield "shared", {"likelihood": Gaussian(noise="shared")}
    yield "decoder", {"likelihood": Gaussian(noise="decoder")}
    yield "student_t", {"likelihood": "student_t"}
    yield "sampled", {"objective": ELBO("sampled", n_draws=2, warmup=5)}
    yield "free_bits", {"objective": ELBO(free_bits=0.2, beta=2.0)}
    yield "iwae", {"objective": IWAE(3)}
    if name == "digits":
        yield "bernoulli", {"likelihood": "bernoulli"}
        yield "continuous_bernoulli", {"likelihood": "continuous_bernoulli"}
        yield "poisson", {"likelihood": "poisson"}
        yield "negative_binomial", {"likelihood": "negative_binomial"}


def suited(X: np.ndarray, label: str) -> np.ndarray:
    if label == "bernoulli":
        return (X > 7).astype(float)
    return X / 16 if label == "continuous_bernoulli" else X


def measure() -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, table in tables().items():
        for label, options in settings(name):
            X = suited(table, label)
            cut = 3 * len(X) // 4
            vae = VAETransformer(3, max_iter=EPOCHS, random_state=0, **options).fit(X[:cut])
            found[f"{name}/{label}/score"] = vae.score_samples(X[cut:])
            found[f"{name}/{label}/codes"] = vae.transform(X[cut:])
            found[f"{name}/{label}/reconstructed"] = np.asarray(vae.reconstruct(X[cut:]), dtype=float)
            found[f"{name}/{label}/loss"] = np.array(vae.loss_curve_)
        holes = table.astype(float)
        holes[np.random.default_rng(1).random(table.shape) < 0.1] = np.nan
        likelihood = "auto" if name == "mixed" else "gaussian"
        model = VAETransformer(3, likelihood=likelihood, max_iter=EPOCHS, random_state=0)
        imputer = VAEImputer(model).fit(holes[:cut])
        found[f"{name}/imputed"] = np.asarray(imputer.transform(holes[cut:]), dtype=float)
        own = {"likelihood": "auto"} if name == "mixed" else {}
        for contamination in ("auto", 0.1):
            detector = VAEAnomalyDetector(contamination=contamination, max_iter=EPOCHS, random_state=0, **own)
            detector.fit(table[:cut])
            found[f"{name}/detector {contamination}"] = detector.score_samples(table[cut:])
            found[f"{name}/explained {contamination}"] = detector.explain(table[cut : cut + 20])
            found[f"{name}/offset {contamination}"] = np.array([detector.offset_])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--record", type=Path)
    chosen.add_argument("--compare", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with threadpool_limits(1):
        found = measure()
    if args.record:
        np.savez_compressed(args.record, **found)
        print(f"{len(found)} arrays written to {args.record}")
        return
    before = np.load(args.compare)
    worst = 0.0
    for key, values in found.items():
        size = np.abs(before[key]).max()
        gap = np.abs(values - before[key]).max() / size if values.shape == before[key].shape else np.inf
        worst = max(worst, gap)
        print(f"{gap:9.1e}  {key}{'' if gap <= BAR else '  !'}")
    print(f"largest difference, relative: {worst:.1e} (bar {BAR:.0e})")


if __name__ == "__main__":
    main()
