"""Fitted estimators of each class, as files that this version wrote and every later one must read.

python tests/golden.py writes those of the present version. Those of a version that was released are never written
again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

import numpy as np
import pandas as pd
import skops.io
from helpers import by_turns, with_gaps
from sklearn.datasets import load_iris

from skvae import VAEAnomalyDetector, VAEClassifier, VAEImputer, VAETransformer, VAETransformerCV, __version__
from skvae.priors import Mixture

FOLDER = Path(__file__).parent / "data"
SMALL = {"max_iter": 2, "random_state": 0, "hidden_layer_sizes": (4,)}
ROWS = with_gaps(load_iris().data[::3], 0.05)
FRAME = pd.DataFrame(
    {"length": ROWS[:, 0], "kind": np.array(["a", "b", "c"])[np.arange(len(ROWS)) % 3], "n": np.arange(len(ROWS)) % 7}
)
MADE: dict[str, tuple[Callable[[], Any], Any]] = {
    "transformer": (lambda: VAETransformer(2, **SMALL), ROWS),
    "mixture": (lambda: VAETransformer(2, prior=Mixture(2), objective="iwae", likelihood="student_t", **SMALL), ROWS),
    "frame": (lambda: VAETransformer(1, likelihood="auto", **SMALL), FRAME),
    "search": (lambda: VAETransformerCV((1, 2), cv=2, **SMALL), ROWS),
    "detector": (lambda: VAEAnomalyDetector(**SMALL), ROWS),
    "imputer": (lambda: VAEImputer(VAETransformer(1, **SMALL), random_state=0), ROWS),
    "classifier": (lambda: VAEClassifier(2, **SMALL), ROWS),
}


def answers(estimator: Any, X: Any) -> dict[str, np.ndarray]:
    """What it says of rows, as numbers, by method."""
    methods = ("transform", "score_samples", "decision_function", "predict", "reconstruct", "explain")
    found = {method: getattr(estimator, method)(X) for method in methods if hasattr(estimator, method)}
    numbers = {
        m: values.select_dtypes("number") if hasattr(values, "columns") else values for m, values in found.items()
    }
    return {method: np.asarray(values, dtype=np.float64) for method, values in numbers.items()}


def write() -> None:
    """The files of this version: the estimators, and what they answered."""
    folder, said = FOLDER / __version__, {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, X) in MADE.items():
        estimator = make().fit(X, by_turns(X))
        skops.io.dump(estimator, folder / f"{name}.skops", compression=ZIP_DEFLATED, compresslevel=9)
        said |= {f"{name} {method}": values.astype(np.float32) for method, values in answers(estimator, X).items()}
    np.savez_compressed(folder / "answers.npz", **said)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write()
