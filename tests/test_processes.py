"""Threads, processes and signals: the same numbers as alone, no hang, and an interrupt costs nothing."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import EACH, SMALL, answers, assert_same, with_gaps
from joblib import parallel_config
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from skvae import VAEImputer, VAETransformer, VAETransformerCV

TESTS = Path(__file__).parent
X = with_gaps(load_iris().data, 0.05)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def fill_error(imputer, X, y=None):
    """How far an imputer's means are from the cells of complete columns; a score that every process computes alike."""
    return -float(np.nanmean(np.square(imputer.transform(X) - np.nanmean(X, axis=0))))


def mean_score(detector, X, y=None):
    return float(np.mean(detector.score_samples(X)))


SEARCHES = {
    "transformer": lambda: GridSearchCV(EACH["transformer"](), {"n_components": [1, 2]}, cv=2),
    "detector": lambda: GridSearchCV(EACH["detector"](), {"n_components": [1, 2]}, cv=2, scoring=mean_score),
    "search": lambda: GridSearchCV(VAETransformerCV((1, 2), cv=2, **SMALL), {"max_iter": [2, 3]}, cv=2),
    "imputer": lambda: GridSearchCV(
        VAEImputer(VAETransformer(**SMALL)), {"estimator__n_components": [1, 2]}, cv=2, scoring=fill_error
    ),
    "classifier": lambda: GridSearchCV(EACH["classifier"](), {"n_components": [1, 2]}, cv=2, scoring=mean_score),
}


def test_a_grid_search_in_parallel_finds_what_one_after_the_other_does():
    for search in SEARCHES.values():
        alone = search().fit(X)
        with parallel_config(backend="loky", n_jobs=2):
            found = search().fit(X)
        np.testing.assert_allclose(
            found.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-6
        )
        assert found.best_params_ == alone.best_params_
        assert_same(answers(found.best_estimator_, X), answers(alone.best_estimator_, X))


def test_a_search_of_its_own_in_two_processes_is_that_of_one():
    alone, found = (VAETransformerCV((1, 2), cv=2, n_jobs=n_jobs, **SMALL).fit(X) for n_jobs in (None, 2))
    assert_same(answers(found, X), answers(alone, X))
    np.testing.assert_array_equal(found.scores_, alone.scores_)


def test_searches_in_threads_leave_the_warning_filters_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda seed: EACH["search"]().set_params(random_state=seed).fit(X), range(8)))
        assert list(warnings.filters) == before


def run(script, folder, *arguments, timeout=300):
    """A script in a fresh process of one thread: torch hangs in a forked child where its parent has used several."""
    file = folder / "script.py"
    file.write_text(textwrap.dedent(script))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", str(file), *arguments]
    return subprocess.run(command, timeout=timeout, env=env, capture_output=True, text=True, check=False)


POOL = """
    import multiprocessing, sys
    import numpy as np
    from sklearn.datasets import load_iris
    from helpers import EACH, answers, assert_same

    X = load_iris().data

    def look(model):
        return answers(model, X)

    def fit(name):
        return EACH[name]().fit(X)

    if __name__ == "__main__":
        models = {name: fit(name) for name in EACH}
        said = {name: look(model) for name, model in models.items()}
        for method in sys.argv[1:]:
            with multiprocessing.get_context(method).Pool(1) as pool:
                for name, model in models.items():
                    assert_same(pool.apply(look, (model,)), said[name])
                    assert_same(look(pool.apply(fit, (name,))), said[name])
                    print(name, "is the same by", method)
"""


def test_another_process_gives_the_same_bits(tmp_path):
    methods = ["spawn", *(["forkserver"] if hasattr(os, "fork") else [])]  # fork: fault 47
    done = run(POOL, tmp_path, *methods)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} is the same by {method}" for method in methods for name in EACH]


INTERRUPTED = """
    import os, signal, sys, threading
    from sklearn.datasets import load_iris, load_wine
    from helpers import EACH, answers, assert_same

    for name, make in EACH.items():
        estimator = make().fit(load_iris().data)
        before = answers(estimator, load_iris().data)
        model = getattr(estimator, "estimator", estimator)
        model.set_params(max_iter=10**6, n_iter_no_change=10**6)
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            estimator.fit(load_wine().data)
            assert 0 < getattr(estimator, "estimator_", estimator).n_iter_ < 10**6
            answers(estimator, load_wine().data)
            print(name, "is the best so far")
        except KeyboardInterrupt:
            assert_same(answers(estimator, load_iris().data), before)
            print(name, "is as before")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name != "posix", reason="needs signals")
def test_ctrl_c_ends_a_fit_and_keeps_a_model(tmp_path):
    done = run(INTERRUPTED, tmp_path)
    assert done.returncode == 0, done.stderr
    ends = {name: "as before" if name == "search" else "the best so far" for name in EACH}
    assert done.stdout.splitlines() == [f"{name} is {end}" for name, end in ends.items()]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_nothing_grows_over_many_fits_epochs_and_chunks(capsys):
    """A short form of the benchmark."""
    endurance = runpy.run_path(str(TESTS.parent / "benchmarks" / "endurance.py"))
    grown = endurance["main"](["--fits", "20", "--epochs", "100", "--chunks", "40"])
    assert grown.keys() == {"fits", "epochs", "chunks"}
    for memory, threads, files in grown.values():
        assert memory < 8
        assert (threads, files) == (0, 0)
