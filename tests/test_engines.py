"""Searches on other engines than this machine's processes: the same scores, and a table that is sent once."""

import os
import pickle
import random

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

import skvae._race
from skvae import VAETransformer, VAETransformerCV

HOW = {"max_iter": 5, "hidden_layer_sizes": (8,), "random_state": 0}


def scores(X):
    grid = GridSearchCV(VAETransformer(**HOW), {"n_components": [1, 2]}, cv=2, n_jobs=2).fit(X)
    return grid.cv_results_["mean_test_score"], VAETransformerCV([1, 2], cv=2, n_jobs=2, **HOW).fit(X).scores_


@pytest.fixture
def _as_before():
    """Engines draw names for their processes from Python's generator, and leave variables."""
    drawn, variables = random.getstate(), dict(os.environ)
    yield
    random.setstate(drawn)
    os.environ.clear()
    os.environ.update(variables)


@pytest.mark.usefixtures("_as_before")
def test_dask_gives_the_same_scores(wine):
    engine = pytest.importorskip("dask.distributed", reason="dask is in the extra [distributed]")
    expected = scores(wine)
    with (
        engine.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        engine.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        np.testing.assert_equal(scores(wine), expected)


@pytest.mark.usefixtures("_as_before")
def test_ray_gives_the_same_scores(wine):
    ray = pytest.importorskip("ray", reason="ray is in the extra [distributed]")
    engine = pytest.importorskip("ray.util.joblib", reason="ray is in the extra [distributed]")
    expected = scores(wine)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    engine.register_ray()
    with joblib.parallel_config("ray"):
        np.testing.assert_equal(scores(wine), expected)
    ray.shutdown()


def test_the_table_is_an_argument_of_its_own(monkeypatch):
    tables, rest = [], []

    class Here(joblib.Parallel):
        def __call__(self, calls):
            for _, args, _ in calls:
                tables.extend(id(arg) for arg in args if isinstance(arg, np.ndarray))
                rest.extend(len(pickle.dumps(arg)) for arg in args if not isinstance(arg, np.ndarray))
            return [work(*args, **more) for work, args, more in calls]

    monkeypatch.setattr(skvae._race, "Parallel", Here)
    X = np.random.default_rng(0).normal(size=(500, 100))
    VAETransformerCV([1, 2], cv=2, **{**HOW, "max_iter": 1}).fit(X)
    assert len(tables) == 4
    assert len(set(tables)) == 1
    assert max(rest) < X.nbytes / 2
