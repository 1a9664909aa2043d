"""Engines that start processes: a fit by parts and searches end as without them, and a table is sent once."""

import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

import skvae._race
from skvae import VAEAnomalyDetector, VAETransformer, VAETransformerCV

RECIPE = Path(__file__).parents[1] / "docs" / "recipes" / "fit_in_parts.py"
LIMIT = 600  # seconds until an engine has not ended
HOW = {"max_iter": 5, "hidden_layer_sizes": (8,), "random_state": 0}


def scores(X):
    grid = GridSearchCV(VAETransformer(**HOW), {"n_components": [1, 2]}, cv=2, n_jobs=2).fit(X)
    return grid.cv_results_["mean_test_score"], VAETransformerCV([1, 2], cv=2, n_jobs=2, **HOW).fit(X).scores_


@pytest.fixture
def _as_before():
    """Engines draw names for their processes from Python's generator, and leave variables."""
    drawn, variables = random.getstate(), dict(os.environ)
    os.environ.setdefault("RAY_worker_niceness", "0")  # or its processes wait for all others of a busy machine
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


def model_of_recipe(X, folder, engine):
    """What docs/recipes/fit_in_parts.py saves, with two processes."""
    file, model = folder / "table.f4", folder / f"{engine}.joblib"
    X.astype("f4").tofile(file)
    start = ["-m", "torch.distributed.run", "--nproc-per-node=2"] if engine == "torchrun" else []
    command = [sys.executable, *start, str(RECIPE), str(file), str(X.shape[1]), str(model), "--engine", engine]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=env, timeout=LIMIT, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return joblib.load(model)


@pytest.fixture(scope="module")
def by_torchrun(wine, tmp_path_factory):
    return model_of_recipe(wine, tmp_path_factory.mktemp("torchrun"), "torchrun")


def test_the_recipe_fits_to_all_rows(wine, by_torchrun):
    np.testing.assert_allclose(by_torchrun.mean_, wine.astype("f4").mean(axis=0, dtype=float), rtol=1e-12)


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize(("engine", "module"), [("ray", "ray.train"), ("spark", "pyspark")])
def test_the_recipe_ends_as_with_torchrun(wine, by_torchrun, tmp_path, engine, module):
    pytest.importorskip(module, reason=f"{module} is in the extra [distributed]")
    if engine == "spark" and shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Spark needs Java")
    assert joblib.hash(model_of_recipe(wine, tmp_path, engine)) == joblib.hash(by_torchrun)


def test_dask_ml_passes_its_blocks_on_as_a_loop_does(wine):
    wrappers = pytest.importorskip("dask_ml.wrappers", reason="dask-ml is in no extra")
    blocks = pytest.importorskip("dask.array").from_array(wine, chunks=(60, -1))
    loop = VAETransformer(2, **HOW)
    for chunk in np.split(wine, [60, 120]):
        loop.partial_fit(chunk)
    found = wrappers.Incremental(VAETransformer(2, **HOW), shuffle_blocks=False).fit(blocks)
    np.testing.assert_array_equal(found.transform(blocks), loop.transform(wine))
    detector = VAEAnomalyDetector(2, **HOW)
    found = wrappers.Incremental(detector, scoring=lambda estimator, X, y=None: 0.0, shuffle_blocks=False).fit(blocks)
    assert found.estimator_.n_iter_ == 3


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
