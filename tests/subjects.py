"""The public estimators as subjects of a test: small ones, all they can say, and what must stay as it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import VAEByTurns, assert_same
from sklearn.exceptions import NotFittedError

from skvae import VAEAnomalyDetector, VAEImputer, VAETransformer, VAETransformerCV

KINDS = ["transformer", "detector", "search", "imputer", "classifier"]
STREAMS = ["transformer", "detector", "classifier"]
SMALL = {"hidden_layer_sizes": (6,), "max_iter": 2, "n_draws": 8, "random_state": 0}


def small(kind: str, **parameters: Any) -> Any:
    """A small estimator; an imputer hands its parameters to its model."""
    own = {name: parameters.pop(name) for name in ("sample_posterior", "cv", "criterion") if name in parameters}
    parameters = {**SMALL, **parameters}
    if kind == "detector":
        return VAEAnomalyDetector(**parameters, **own)
    if kind == "search":
        sizes = parameters.pop("n_components", (1, 2))
        return VAETransformerCV(sizes, **{"cv": 2, **own}, **parameters)
    if kind == "classifier":
        return VAEByTurns(**{"n_components": 2, **parameters})
    vae = VAETransformer(**{"n_components": 2, **parameters})
    return vae if kind == "transformer" else VAEImputer(vae, random_state=0, **own)


@cache
def rows(n_rows: int = 40, n_columns: int = 4, seed: int = 0) -> np.ndarray:
    """Columns of two factors and some noise, between -8 and 8."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 2)) @ np.random.default_rng(7).normal(size=(2, n_columns))
    X = np.clip(X + 0.3 * rng.normal(size=X.shape) + np.linspace(-1, 1, n_columns), -8, 8)
    X.setflags(write=False)
    return X


def with_hole(X: np.ndarray) -> np.ndarray:
    """X as numbers, with a missing cell in every fifth row."""
    X = np.array(X, dtype=np.float64)
    X[::5, 0] = np.nan
    return X


# What an estimator can say of rows, and without any


TRANSFORMER: dict[str, Callable[[Any, Any], Any]] = {
    "transform": lambda e, X: e.transform(X),
    "posterior": lambda e, X: np.stack(e.posterior(X)),
    "reconstruct": lambda e, X: e.reconstruct(X),
    "impute": lambda e, X: e.impute(X),
    "draws": lambda e, X: e.impute(X, n_draws=1, random_state=0)[0],
    "score_samples": lambda e, X: e.score_samples(X),
    "score": lambda e, X: e.score(X),
}
LOOKS: dict[str, dict[str, Callable[[Any, Any], Any]]] = {
    "transformer": TRANSFORMER,
    "search": TRANSFORMER,
    "detector": {
        "score_samples": lambda e, X: e.score_samples(X),
        "decision_function": lambda e, X: e.decision_function(X),
        "predict": lambda e, X: e.predict(X),
        "explain": lambda e, X: e.explain(X),
        "similar": lambda e, X: e.similar(X),
    },
    "imputer": {"transform": lambda e, X: e.transform(X)},
    "classifier": {
        **{name: look for name, look in TRANSFORMER.items() if name != "score"},
        "predict": lambda e, X: e.predict(X),
        "predict_proba": lambda e, X: e.predict_proba(X),
        "decision": lambda e, X: e.decision_function(X),
    },
}
BLIND: dict[str, dict[str, Callable[[Any], Any]]] = {
    "transformer": {
        "sample": lambda e: e.sample(3, random_state=0),
        "inverse_transform": lambda e: e.inverse_transform(np.zeros((1, e.n_components_))),
    },
    "detector": {"offset": lambda e: e.offset_, "training scores": lambda e: e.training_scores_},
    "imputer": {"names": lambda e: e.get_feature_names_out()},
}
BLIND["search"] = BLIND["classifier"] = BLIND["transformer"]
# Those that may say -inf of a row far out.
SCORES = {"score_samples", "score", "decision_function"}


def looks(kind: str, estimator: Any, X: Any) -> dict[str, np.ndarray]:
    """What every method says of the rows of X."""
    return {name: numbers(look(estimator, X)) for name, look in LOOKS[kind].items()}


def answers(kind: str, estimator: Any, X: Any) -> dict[str, np.ndarray]:
    """The same, and what the estimator says by itself."""
    return looks(kind, estimator, X) | {name: numbers(look(estimator)) for name, look in BLIND[kind].items()}


def numbers(answer: Any) -> np.ndarray:
    """An answer as an array, whatever container it came in."""
    return answer.to_numpy(dtype=np.float64) if isinstance(answer, pd.DataFrame) else np.asarray(answer)


@cache
def _saved(kind: str) -> bytes:
    return pickle.dumps(small(kind).fit(rows()))


def fitted(kind: str) -> Any:
    """`small(kind).fit(rows())`, fitted once: who asks loads a copy, which is the same to the last bit (fault 48)."""
    return pickle.loads(_saved(kind))


@cache
def _said(kind: str) -> dict[str, np.ndarray]:
    return answers(kind, small(kind).fit(rows()), rows())


def said(kind: str) -> dict[str, np.ndarray]:
    """What it answers about these rows."""
    return dict(_said(kind))


def assert_finite(found: dict[str, np.ndarray]) -> None:
    for name, values in found.items():
        if values.dtype.kind == "f":
            assert np.isfinite(values).all(), f"{name} is not finite"


# What must stay


def fitted_names(estimator: Any) -> list[str]:
    """The attributes that a fit has left."""
    return [name for name in vars(estimator) if name.endswith("_") and not name.startswith("__")]


def state_of(estimator: Any, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """All that an estimator holds but these attributes, as comparable bytes."""
    return {name: pickle.dumps(value) for name, value in vars(estimator).items() if name not in but}


@contextmanager
def unharmed(
    kind: str, estimator: Any, X: Any, but: tuple[str, ...] = (), told: dict[str, np.ndarray] | None = None
) -> Iterator[None]:
    """A scope after which a fitted estimator is, bit for bit, what it was; `but` names parameters that may change.

    `told` is what it answers about X, where that is known.
    """
    state, told = state_of(estimator, but), answers(kind, estimator, X) if told is None else told
    yield
    kept = state_of(estimator, but)
    changed = [name for name in kept.keys() | state.keys() if kept.get(name) != state.get(name)]
    assert not changed, f"{changed} changed"
    assert_same(answers(kind, estimator, X), told)


def assert_unfitted(kind: str, estimator: Any, X: Any) -> None:
    """As if fit had never been called."""
    assert not fitted_names(estimator)
    for look in LOOKS[kind].values():
        with pytest.raises(NotFittedError):
            look(estimator, X)
