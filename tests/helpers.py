"""What several test files share."""

from __future__ import annotations

import copy
import os
import pickle
import random
import warnings
from contextlib import contextmanager

import cloudpickle
import joblib
import numpy as np
import skops.io
import torch

from skvae import (
    TRUSTED_TYPES,
    Mixed,
    VAEAnomalyDetector,
    VAEClassifier,
    VAEImputer,
    VAETransformer,
    VAETransformerCV,
)
from skvae._saved import stamp
from skvae._tables.batches import to_rows
from skvae._tables.moments import sum_columns
from skvae.objectives import Objective


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(**parameters):
    """A small transformer."""
    return VAETransformer(**{"n_components": 2, "max_iter": 5, "random_state": 0, **parameters})


def with_gaps(X, share, seed=0):
    """X, each cell of which is missing with this probability."""
    return np.where(np.random.RandomState(seed).rand(*X.shape) < share, np.nan, X)


def column_moments(X, weight=None):
    """Weighted mean and standard deviation of every column, over its present cells."""
    return sum_columns(X, weight).moments


def scale_of(estimator):
    """The map between data units and those of its model."""
    return estimator.module_.units.scale


def rows_of(estimator, X, weight=None):
    """X as a fitted model takes it: in its units, in float64."""
    return to_rows(X, scale_of(estimator), weight, dtype=torch.float64)


def by_skops(estimator):
    """Saved and loaded."""
    data = skops.io.dumps(estimator)
    own = [name for name in skops.io.get_untrusted_types(data=data) if name.startswith("helpers.")]
    return skops.io.loads(data, trusted=[*TRUSTED_TYPES, *own])


def by_joblib(estimator, path, mmap_mode=None):
    """Saved in a folder and loaded."""
    joblib.dump(estimator, path / "model.joblib")
    return joblib.load(path / "model.joblib", mmap_mode=mmap_mode)


# Ways to save an estimator, or to copy it: functions of it and of a folder.
ROUTES = {
    "pickle": lambda e, path: pickle.loads(pickle.dumps(e)),
    "cloudpickle": lambda e, path: pickle.loads(cloudpickle.dumps(e)),
    "deepcopy": lambda e, path: copy.deepcopy(e),
    "joblib": by_joblib,
    "joblib mmap": lambda e, path: by_joblib(e, path, "r"),
    "skops": lambda e, path: by_skops(e),
}

# By pytest for every test, by torch's compiler when first looked at, and by polars when it is imported.
SET_BY_OTHERS = {"PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "_RJEM_MALLOC_CONF"}


def global_state():
    """Everything a library could change behind its user's back."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch generator": torch.get_rng_state().numpy().tobytes(),
        "numpy generator": (kind, keys.tobytes(), *rest),
        "python generator": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warning filters": list(warnings.filters),
        "environment": {k: v for k, v in os.environ.items() if k not in SET_BY_OTHERS},
    }


class Watcher:
    """A callback that calls `act(epoch, estimator, fitted_estimator)` after every epoch."""

    def __init__(self, act=lambda epoch, estimator, fitted: False):
        self.act, self.began, self.ended = act, [], []

    def setup(self, estimator, context):
        self.began.append("setup")

    def teardown(self, estimator, context):
        self.ended.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.began.append(context.task_name)

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.ended.append(context.task_name)
        if context.task_name == "epoch":
            return self.act(context.task_id + 1, estimator, fitted_estimator)
        return False


class Breaks(torch.optim.Adam):
    """Gradient steps whose weights turn into NaN after some of them."""

    def __init__(self, parameters, after):
        super().__init__(parameters, lr=1e-5)
        self.left = after

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        self.left -= 1
        if self.left < 0:
            self.param_groups[0]["params"][0].fill_(torch.nan)


class Silent:
    """A callback that does nothing before a task has ended. Write `on_fit_task_end`."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass


class CountTasks(Silent):
    """A callback that counts the tasks it sees."""

    def __init__(self):
        self.tasks = 0

    def on_fit_task_begin(self, estimator, context, **kwargs):
        self.tasks += 1

    def on_fit_task_end(self, estimator, context, **kwargs):
        return False


class Reconstruction(Objective):
    """A plain autoencoder: no density, nothing to watch."""

    def __call__(self, model, batch, rng, epoch):
        return {"loss": (model.mean(model.encode(batch.x)[0]) - batch.x).square().sum(-1)}


def load_state(kind, state):
    """An estimator of a saved state with the right stamp: what is wrong with it is to be found in what it says."""
    estimator = kind.__new__(kind)
    estimator.__setstate__(stamp({name: value for name, value in state.items() if name not in stamp({})}))
    return estimator


def by_turns(X, weight=None):
    """Labels for rows: of three that count, two are of classes 0 and 1, and the last one has none."""
    n_rows = X.shape[0] if getattr(X, "shape", ()) else len(X) if hasattr(X, "__len__") else 1
    counts = np.ones(n_rows, dtype=bool)
    if weight is not None and np.shape(weight) == (n_rows,):
        counts = np.asarray(weight) > 0
    return np.array([0, 1, -1])[(np.cumsum(counts) - 1).clip(0) % 3]


class VAEByTurns(VAEClassifier):
    """A classifier that goes where no y is given: rows are then labelled by turns."""

    def fit(self, X, y=None, sample_weight=None):
        return super().fit(X, by_turns(X, sample_weight) if y is None else y, sample_weight)

    def partial_fit(self, X, y=None, classes=None, sample_weight=None):
        y = by_turns(X, sample_weight) if y is None else y
        return super().partial_fit(X, y, [0, 1] if classes is None else classes, sample_weight)


# One small estimator of each kind.
SMALL = {"max_iter": 3, "random_state": 0, "hidden_layer_sizes": (8,)}
EACH = {
    "transformer": lambda: VAETransformer(2, **SMALL),
    "detector": lambda: VAEAnomalyDetector(**SMALL),
    "search": lambda: VAETransformerCV((1, 2), cv=2, **SMALL),
    "imputer": lambda: VAEImputer(VAETransformer(2, **SMALL), sample_posterior=True, random_state=0),
    "classifier": lambda: VAEByTurns(2, **SMALL),
}
LOOKS = ("transform", "score_samples", "reconstruct", "impute", "predict", "predict_proba", "explain", "similar")


def answers(estimator, X):
    """What an estimator says of rows, by method."""
    found = {name: getattr(estimator, name)(X) for name in LOOKS if hasattr(estimator, name)}
    if hasattr(estimator, "sample"):
        keeps_codes = {"_codes", "_reservoir"} & vars(estimator).keys()  # not before a fit has ended
        prior = "aggregated" if keeps_codes else "model"
        found["sample"] = estimator.sample(3, random_state=0, prior=prior)
    return found


def assert_same(found, expected):
    """Answers by name, bit for bit."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def of_one_latent(max_iter):
    """A model of categories, counts, amounts, yes or no, and numbers, which all follow one latent; and the table."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 1))
    X = np.column_stack(
        [
            (z * [[2.0, 0.0, -2.0]] + rng.gumbel(size=(400, 3))).argmax(1),
            rng.poisson(np.exp(1 + 0.6 * z)),
            np.exp(0.5 * z + 0.4 * rng.normal(size=z.shape)),
            rng.random((400, 1)) < 1 / (1 + np.exp(-1.5 * z)),
            2 * z + rng.normal(size=z.shape),
        ]
    )
    likelihood = Mixed(
        [("categorical", [0]), ("poisson", [1]), ("log_normal", [2]), ("bernoulli", [3]), ("gaussian", [4])]
    )
    return VAETransformer(1, likelihood=likelihood, max_iter=max_iter, random_state=0).fit(X), X


@torch.no_grad()
def on_a_line(vae, row):
    """The decoder's outputs all along one latent, and how likely each is given the row's present cells."""
    model = vae.module_
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    present = torch.tensor(~np.isnan(row))
    x = torch.tensor(scale_of(vae).to_model(np.nan_to_num(row, nan=1.0)))
    log_weight = (model.log_prob(z, x[None]) * present).sum(-1) + model.prior.log_prob(z)
    return model.params(z), torch.softmax(log_weight, 0)


@contextmanager
def default_dtype(dtype):
    """A scope in which torch makes tensors of this type where none is named."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# What torch may be set to where an estimator is called.
CALLERS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "meta device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu"),
    "float64 by default": lambda: default_dtype(torch.float64),
    "float16 by default": lambda: default_dtype(torch.float16),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
}
