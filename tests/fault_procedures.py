"""The outcomes of faults that are more than a table which trains or is refused: each is a check of one estimator."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from detectors import of_densities
from helpers import Breaks, Watcher, assert_same
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils._param_validation import InvalidParameterError
from subjects import (
    BLIND,
    LOOKS,
    SCORES,
    STREAMS,
    answers,
    assert_finite,
    assert_unfitted,
    fitted,
    looks,
    rows,
    said,
    small,
    unharmed,
    with_hole,
)

from skvae import VAEImputer, VAETransformer
from skvae.likelihoods import Likelihood

Check = Callable[[str, Path], None]


def sized(kind: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters with the number of latents as a search takes it."""
    if kind == "search" and "n_components" in parameters:
        return {**parameters, "n_components": (parameters["n_components"],)}
    return parameters


def model_of(kind: str, estimator: Any) -> Any:
    """The estimator that is the model: an imputer's is a parameter."""
    return estimator.estimator if kind == "imputer" else estimator


def fitted_model_of(kind: str, estimator: Any) -> Any:
    return estimator.estimator_ if kind == "imputer" else estimator


def fails(kind: str, error: type[BaseException], words: str = "", other: Any = None, **parameters: Any) -> None:
    """A first fit with these parameters fails and leaves nothing; a refit does and leaves the former model.

    Afterwards the estimator can be fitted as if nothing had been.
    """
    X, other = rows(), rows(50, 5, seed=1) if other is None else other
    fresh, estimator = small(kind, **parameters), fitted(kind)
    with pytest.raises(error, match=words):
        fresh.fit(other)
    assert_unfitted(kind, fresh, X)
    model, before = model_of(kind, estimator), model_of(kind, small(kind)).get_params(deep=False)
    with unharmed(kind, estimator, X, but=(*parameters, "estimator"), told=said(kind)):
        model.set_params(**parameters)
        with pytest.raises(error, match=words):
            estimator.fit(other)
    model.set_params(**{name: before[name] for name in parameters})
    assert_same(answers(kind, estimator.fit(X), X), said(kind))


# Tables


def infinite_category(kind: str, tmp_path: Path) -> None:
    whole = np.round(np.abs(rows())).clip(0, 3)
    endless = np.where(np.arange(whole.size).reshape(whole.shape) == 5, np.inf, whole)
    fails(kind, ValueError, "infinity", other=endless, likelihood="categorical")
    for likelihood in ("categorical", "auto"):
        mixed = endless.astype(object)
        mixed[::3, 1] = "a"
        with pytest.raises(ValueError, match="infinity"):
            small(kind, likelihood=likelihood).fit(mixed)


# What is in data units, and how many cells a score has the units of, of a row with one missing cell.
IN_UNITS = {"reconstruct", "impute", "draws", "similar"}


def rescaled(factor: float) -> Check:
    """The model of the table in other units."""

    def check(kind: str, tmp_path: Path) -> None:
        X, nats = rows(), np.log(factor)
        plain = fitted(kind)
        scaled = small(kind).fit(X * factor)
        expected, found = looks(kind, plain, with_hole(X)), looks(kind, scaled, with_hole(X * factor))
        cells = (~np.isnan(with_hole(X))).sum(axis=1)
        if kind == "detector":
            cells = np.full(len(X), of_densities(plain) * X.shape[1])
        for name, values in found.items():
            if name in IN_UNITS or kind == "imputer":
                values = values / factor
            elif name in ("score_samples", "score"):
                values = values + nats * (cells if name == "score_samples" else cells.mean())
            np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)

    return check


def denormal(kind: str, tmp_path: Path) -> None:
    X = np.round(10 * rows()) * 5e-324
    estimator = small(kind).fit(X)
    found = answers(kind, estimator, X)
    assert_finite(found)
    assert_finite(looks(kind, estimator, with_hole(X)))
    if kind != "imputer":
        assert found.get("transform", found.get("score_samples")).std() > 0.1


def constant(change: Callable[[np.ndarray], np.ndarray]) -> Check:
    """A column that never varies is known to the last digits, wherever it is decoded."""

    def check(kind: str, tmp_path: Path) -> None:
        X = change(rows())
        estimator = small(kind).fit(X)
        still = (X[0] == X).all(axis=0)
        gaps = X.copy()
        gaps[3, still.argmax()] = np.nan
        assert_finite(answers(kind, estimator, X))
        found = looks(kind, estimator, gaps)
        decoded = [values for name, values in found.items() if name in IN_UNITS or kind == "imputer"]
        if hasattr(estimator, "sample"):
            decoded.append(estimator.sample(20, random_state=0))
        for values in decoded:
            expected = np.broadcast_to(X[0, still], (len(values), still.sum()))
            np.testing.assert_allclose(values[:, still], expected, rtol=1e-9, atol=1e-300)

    return check


def outlier(kind: str, tmp_path: Path) -> None:
    """It is far below all others; these stay in order where it does not swallow their differences."""
    X = rows()
    for sigmas in (1e3, 1e6):
        far = X.mean(axis=0) + sigmas * X.std(axis=0)
        estimator = small(kind).fit(np.vstack([X, far]))
        assert_finite(answers(kind, estimator, X))
        if kind == "imputer":
            continue
        scores = estimator.score_samples(X)
        assert estimator.score_samples(100 * far[None])[0] < scores.min() - 10
        if sigmas == 1e3:
            assert spearmanr(scores, said(kind)["score_samples"]).statistic > 0.5


def far_out(value: float) -> Check:
    """A number, minus infinity as a score, or a sentence that names the row: never NaN, and an anomaly."""

    def check(kind: str, tmp_path: Path) -> None:
        X = rows()
        estimator = fitted(kind)
        with unharmed(kind, estimator, X, told=said(kind)):
            for far in (np.full((1, 4), value), np.array([[np.nan, *[value] * 3]])):
                for name, look in LOOKS[kind].items():
                    try:
                        found = np.asarray(look(estimator, far))
                    except ValueError as error:
                        if "Row 0 of X is too far from the training data" not in str(error):
                            raise
                    else:
                        finite = np.isfinite(found) | ((name in SCORES) & np.isneginf(found))
                        assert finite.all(), f"{name} is {found}"
                if kind == "detector":
                    assert estimator.predict(far).tolist() == [-1]
                elif kind != "imputer":
                    assert estimator.score_samples(far)[0] < -1e5

    return check


def frame_then_array(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(rows(), columns=list("abcd"))
    estimator = small(kind).fit(frame)
    for look in LOOKS[kind].values():
        with pytest.warns(UserWarning, match="X does not have valid feature names, but VAE.* was fitted with"):
            found = np.asarray(look(estimator, rows()))
        np.testing.assert_array_equal(found, np.asarray(look(estimator, frame)))


def untouched_array(kind: str, tmp_path: Path) -> None:
    X, weight = with_hole(rows()), np.arange(40.0)
    before = X.tobytes(), weight.tobytes()
    for writeable in (False, True):
        X.setflags(write=writeable)
        weight.setflags(write=writeable)
        estimator = small(kind).fit(X, sample_weight=weight)
        if kind in STREAMS:
            estimator.partial_fit(X, sample_weight=weight)
        answers(kind, estimator, X)
    assert (X.tobytes(), weight.tobytes()) == before


def untouched_map(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "X.npy"
    np.save(path, rows())
    before = hashlib.sha256(path.read_bytes()).digest()
    X = np.load(path, mmap_mode="r")
    assert_same(answers(kind, small(kind).fit(X), X), said(kind))
    if kind in STREAMS:
        for make in (lambda: small(kind), lambda: fitted(kind)):
            chunk, expected = make().partial_fit(X), make().partial_fit(rows())
            assert_same(answers(kind, chunk, X), answers(kind, expected, rows()))
    assert hashlib.sha256(path.read_bytes()).digest() == before


# Weights


BAD_WEIGHTS = {
    "negative": (np.full(40, -1.0), "Negative"),
    "NaN": (np.full(40, np.nan), "NaN"),
    "infinity": (np.full(40, np.inf), "infinity"),
    "all zero": (np.zeros(40), "zero|sample_weight 0"),
    "another length": (np.ones(39), "shape"),
    "two dimensions": (np.ones((40, 1)), "1D"),
}


def bad_weights(weight: np.ndarray, words: str) -> Check:
    def check(kind: str, tmp_path: Path) -> None:
        X, fresh, estimator = rows(), small(kind), fitted(kind)
        with unharmed(kind, estimator, X, told=said(kind)):
            calls = [fresh.fit, estimator.fit]
            calls += [fresh.partial_fit, estimator.partial_fit] if kind in STREAMS else []
            for call in calls:
                with pytest.raises(ValueError, match=words):
                    call(X, sample_weight=weight)
        assert_unfitted(kind, fresh, X)

    return check


def weightless_rows(kind: str, tmp_path: Path) -> None:
    weight = (np.arange(40) % 3 > 0).astype(float)
    kept = weight > 0
    first, second = (np.where(kept[:, None], rows(), filling) for filling in (1e6, rows(seed=3)))
    found = answers(kind, small(kind).fit(first, sample_weight=weight), rows())
    assert_same(answers(kind, small(kind).fit(second, sample_weight=weight), rows()), found)
    if kind != "search":  # its folds are parts of all rows
        for name, values in answers(kind, small(kind).fit(rows()[kept]), rows()).items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-8, err_msg=name)


def scaled_weights(kind: str, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).random(40)
    found, expected = (
        looks(kind, small(kind).fit(rows(), sample_weight=w), with_hole(rows())) for w in (1e6 * weight, weight)
    )
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-6, err_msg=name)


UNEVEN_WEIGHTS = {
    "one row in fifty decades": lambda n: np.where(np.arange(n) == 0, 1.0, 1e-50),
    "importance weights": lambda n: np.exp(-((40 * rows(n)[:, 0]) ** 2) / 2) + 1e-323,
    "a row that all but counts nothing": lambda n: np.where(np.arange(n) == 3, 1e-310, 1e15),
}


def uneven_weights(kind: str, tmp_path: Path) -> None:
    """A model that can be saved, or a sentence about the weights."""
    for weight in UNEVEN_WEIGHTS.values():
        for X in (rows(), with_hole(rows())):
            try:
                estimator = small(kind).fit(X, sample_weight=weight(40))
            except ValueError as error:
                # The one row that counts has a gap, or is of one class.
                if not re.search("weight|holds no value in 1 rows|only 1 class", str(error)):
                    raise
                continue
            found = answers(kind, estimator, X)
            assert_finite({name: values for name, values in found.items() if name not in SCORES})
            assert not any(np.isnan(values).any() for name, values in found.items() if name in SCORES)
            assert_same(answers(kind, pickle.loads(pickle.dumps(estimator)), X), found)


# Parameters


BAD_PARAMETERS = {
    "max_iter": [0, -1, 2.0, True, None],
    "batch_size": [0, True, "all"],
    "learning_rate_init": [0, np.nan, "auto"],
    "n_draws": [0, 2.5, True],
    "n_components": [0, 1.5, True, "all"],
    "likelihood": ["poison", None],
    "validation_fraction": [0, 1, np.nan],
}
OWN_PARAMETERS: dict[str, dict[str, list]] = {
    "transformer": {},
    "detector": {"contamination": [0, 0.6, True, "x"], "criterion": ["x", None], "support_fraction": [0, 1.5, True]},
    "search": {"cv": [1, "x"], "selection": ["worst"], "race": ["yes"], "n_jobs": [1.5], "param_grid": [[1]]},
    "imputer": {"estimator": [3, "x"], "sample_posterior": [1, "yes"]},
    "classifier": {"objective": ["elbo"], "unlabeled": [[]]},
}


def bad_parameters(kind: str, tmp_path: Path) -> None:
    X = rows()
    estimator = fitted(kind)
    own = OWN_PARAMETERS[kind]
    for name, values in {**BAD_PARAMETERS, **own}.items():
        for value in values:
            good = small(kind)
            (good if name in own else model_of(kind, good)).set_params(**{name: value})
            with pytest.raises(ValueError, match=f"'?{name}|n_splits|number of folds"):
                good.fit(X)
            assert_unfitted(kind, good, X)
            with unharmed(kind, estimator, X, but=(name, "estimator"), told=said(kind)):
                owner = estimator if name in own else model_of(kind, estimator)
                former = owner.get_params(deep=False)[name]
                owner.set_params(**{name: value})
                with pytest.raises(ValueError, match=f"'?{name}|n_splits|number of folds"):
                    estimator.fit(X)
                owner.set_params(**{name: former})


def numpy_integers(kind: str, tmp_path: Path) -> None:
    whole = {"max_iter": 2, "batch_size": 10, "n_draws": 8, "n_iter_no_change": 3, "random_state": 0}
    found = small(kind, **{name: np.int64(value) for name, value in whole.items()}).fit(rows())
    assert_same(answers(kind, found, rows()), answers(kind, small(kind, **whole).fit(rows()), rows()))


def seeded(kind: str, seed: Any) -> Any:
    """An estimator with this seed; an imputer hands its own to its model."""
    if kind == "imputer":
        return VAEImputer(VAETransformer(2, max_iter=2, hidden_layer_sizes=(6,)), random_state=seed)
    return small(kind, random_state=seed, early_stopping=False)


def bad_seeds(kind: str, tmp_path: Path) -> None:
    for seed in (np.random.default_rng(0), -1, "0"):
        with pytest.raises(InvalidParameterError, match="'random_state' parameter"):
            (estimator := seeded(kind, seed)).fit(rows())
        assert_unfitted(kind, estimator, rows())


def consumed_seed(kind: str, tmp_path: Path) -> None:
    estimator, again = (seeded(kind, np.random.RandomState(0)) for _ in range(2))
    X = with_hole(rows())
    first, second = (answers(kind, estimator.fit(X), X) for _ in range(2))
    for expected in (first, second):
        assert_same(answers(kind, again.fit(X), X), expected)
    assert any(not np.array_equal(first[name], second[name]) for name in first)


# Training


def diverges_at_once(kind: str, tmp_path: Path) -> None:
    fails(kind, ValueError, "diverged", learning_rate_init=1e30, batch_size=10, init="random")


def overflowing_step(kind: str, tmp_path: Path) -> None:
    for solver in ("adam", "adagrad", "rmsprop", "sgd"):
        fails(kind, ValueError, "learning_rate_init|diverged", solver=solver, learning_rate_init=1e300, init="random")


def _breaks(parameters: Any) -> Any:
    return Breaks(parameters, after=3)


def diverges_later(kind: str, tmp_path: Path) -> None:
    estimator = small(kind, solver=_breaks, batch_size=1000, max_iter=6, early_stopping=False)
    with pytest.warns(ConvergenceWarning, match="the loss was not finite in epoch 4; the weights of epoch 3 are kept"):
        estimator.fit(rows())
    assert_finite(answers(kind, estimator, rows()))
    assert fitted_model_of(kind, estimator).n_iter_ == 3


class Failing(Likelihood):
    """A user's likelihood with a fault."""

    def scale(self, moments: Any) -> Any:
        raise ZeroDivisionError("in the user's likelihood")

    def build(self, n_features: int, scale: Any) -> Any:
        raise NotImplementedError


def failing_likelihood(kind: str, tmp_path: Path) -> None:
    fails(kind, ZeroDivisionError, "in the user's likelihood", likelihood=Failing())


STEP_ERRORS = [KeyboardInterrupt, MemoryError, torch.OutOfMemoryError, RuntimeError]


def failing_step(error: type[BaseException]) -> Check:
    def solver(parameters: Any) -> Any:
        optimiser = torch.optim.SGD(parameters, lr=1e-6)
        optimiser.register_step_post_hook(fail)
        return optimiser

    def fail(*_: Any) -> None:
        raise error("inside a step")

    return lambda kind, tmp_path: fails(kind, error, "inside a step", solver=solver)


class Stop(Exception):
    """An error of a callback."""


HOOKS = ["setup", "on_fit_task_begin", "on_fit_task_end", "teardown"]


def failing_hook(hook: str) -> Check:
    def check(kind: str, tmp_path: Path) -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise Stop

        setattr(watcher := Watcher(), hook, fail)
        _watched_fits_fail(kind, watcher, Stop)

    return check


def interrupted(kind: str, tmp_path: Path) -> None:
    def act(epoch: int, *_: Any) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    if kind == "search":
        _watched_fits_fail(kind, Watcher(act), KeyboardInterrupt)
        return
    estimator = small(kind, max_iter=5)
    model_of(kind, estimator).set_callbacks(Watcher(act))
    with pytest.warns(UserWarning, match="training interrupted by user after 3 epochs; the best weights so far"):
        estimator.fit(rows())
    assert fitted_model_of(kind, estimator).n_iter_ == 3
    assert_finite(answers(kind, estimator, rows()))


def _watched_fits_fail(kind: str, watcher: Any, error: type[BaseException]) -> None:
    """A first fit and a refit to other rows, under the eyes of a callback that stops them."""
    X, other = rows(), rows(50, 5, seed=1)
    fresh, refitted = small(kind, max_iter=5), small(kind, max_iter=5).fit(X)
    model_of(kind, fresh).set_callbacks(watcher)
    with pytest.raises(error):
        fresh.fit(other)
    assert_unfitted(kind, fresh, X)
    with unharmed(kind, refitted, X, but=("_skl_callbacks", "estimator")):
        model_of(kind, refitted).set_callbacks(watcher)
        with pytest.raises(error):
            refitted.fit(other)
        model_of(kind, refitted).set_callbacks()
    for estimator in (fresh, refitted, model_of(kind, fresh)):
        assert not [name for name in vars(estimator) if name.startswith("_callback")]


# What an estimator was


BAD_REFITS = {
    "other columns and infinity": lambda X: pd.DataFrame(np.where(X > 2, np.inf, X), columns=list("wxyz")),
    "an empty column": lambda X: pd.DataFrame(X * [1, np.nan, 1, 1], columns=list("wxyz")),
    "a wider table with strings": lambda X: np.full((20, 9), "a"),
    "no rows": lambda X: X[:0],
}


def bad_refit(kind: str, tmp_path: Path) -> None:
    X = pd.DataFrame(rows(), columns=list("abcd"))
    estimator = small(kind).fit(X)
    before = dict(vars(estimator))
    with unharmed(kind, estimator, X):
        for bad in BAD_REFITS.values():
            with pytest.raises(ValueError, match=r"infinity|holds no value|could not convert|0 sample"):
                estimator.fit(bad(rows()))
    assert all(vars(estimator)[name] is value for name, value in before.items())


def not_fitted(kind: str, tmp_path: Path) -> None:
    fresh = small(kind)
    assert_unfitted(kind, fresh, rows())
    for look in BLIND[kind].values():
        with pytest.raises((NotFittedError, AttributeError)):
            look(fresh)


def bad_samples(kind: str, tmp_path: Path) -> None:
    estimator = fitted(kind)
    with unharmed(kind, estimator, rows(), told=said(kind)):
        for number in (0, -1, 2.5, True, "3", None):
            with pytest.raises(ValueError, match=r"n_samples=.* must be an integer of at least 1"):
                estimator.sample(number)


def changed_between_chunks(kind: str, tmp_path: Path) -> None:
    X = rows()
    estimator = small(kind, n_components=2).partial_fit(X)
    assert_unfitted(kind, clone(estimator), X)
    for name, value in (("n_components", 3), ("hidden_layer_sizes", (4,)), ("likelihood", "laplace")):
        former = estimator.get_params(deep=False)[name]
        with unharmed(kind, estimator, X, but=(name,)):
            estimator.set_params(**{name: value})
            with pytest.raises(ValueError, match="changed since the first partial_fit"):
                estimator.partial_fit(X)
            estimator.set_params(**{name: former})
    estimator.set_params(solver="sgd").partial_fit(X)
    assert_finite(answers(kind, estimator.fit(X).partial_fit(X), X))
