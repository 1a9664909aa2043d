"""The outcomes of faults of the machine: memory, threads, processes, files, and the caller's own settings."""

from __future__ import annotations

import gc
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
import torch
from fault_procedures import Check, fitted_model_of, model_of
from helpers import assert_same, global_state
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from subjects import (
    KINDS,
    STREAMS,
    answers,
    assert_unfitted,
    looks,
    rows,
    small,
    with_hole,
)

HERE = Path(__file__).parent


# Memory


def peak_of(call: Callable[[], Any]) -> tuple[int, Any]:
    """The most bytes that numpy and Python held during a call, and its answer."""
    tracemalloc.start()
    try:
        found = call()
        return tracemalloc.get_traced_memory()[1], found
    finally:
        tracemalloc.stop()


def many_samples(kind: str, tmp_path: Path) -> None:
    peak, found = peak_of(lambda: small(kind).fit(rows()).sample(1_000_000, random_state=0))
    assert found.shape == (1_000_000, 4)
    assert peak < 5 * found.nbytes


# The caller's settings, threads, processes


def _told(kind: str) -> list[dict[str, np.ndarray]]:
    """What an estimator answers after a fit, and after a chunk more."""
    X = with_hole(rows())
    estimator = small(kind).fit(X)
    found = [answers(kind, estimator, X)]
    if kind in STREAMS:
        found.append(answers(kind, estimator.partial_fit(X), X))
    return found


_told_plainly = cache(_told)


def inside(caller: Callable[[], Any]) -> Check:
    def check(kind: str, tmp_path: Path) -> None:
        plain = _told_plainly(kind)
        with caller():
            within = _told(kind)
        for found, expected in zip(within, plain, strict=True):
            assert_same(found, expected)

    return check


def global_state_stays(kind: str, tmp_path: Path) -> None:
    X, before = with_hole(rows()), global_state()
    estimator = small(kind)
    calls: list[Callable[[], Any]] = [lambda: estimator.fit(X), lambda: answers(kind, estimator, X)]
    if kind in STREAMS:
        calls.append(lambda: estimator.partial_fit(X))
    calls += [lambda: pickle.loads(pickle.dumps(estimator)), lambda: clone(estimator), lambda: repr(estimator)]
    for call in calls:
        call()
        assert global_state() == before


def threads_look(kind: str, tmp_path: Path) -> None:
    X = with_hole(rows())
    estimator = pickle.loads(pickle.dumps(small(kind).fit(X)))  # nothing is cached yet
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: answers(kind, estimator, X), range(8)))
    expected = answers(kind, estimator, X)
    for one in found:
        assert_same(one, expected)


def threads_fit(kind: str, tmp_path: Path) -> None:
    def told(seed: int) -> dict[str, np.ndarray]:
        return answers(kind, small(kind, random_state=seed).fit(rows()), rows())

    serial = [told(seed) for seed in range(3)]
    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(told, [number % 3 for number in range(8)])):
            assert_same(found, serial[number % 3])


def mean_answer(estimator: Any, X: Any, y: Any = None) -> float:
    """A score that every estimator has: of what it says of rows, the mean."""
    found = estimator.score_samples(X) if hasattr(estimator, "score_samples") else estimator.transform(with_hole(X))
    return float(np.mean(found))


def cross_validated(backend: str) -> Check:
    """In parallel as one after the other; a candidate that cannot be fitted is named, and the others are compared."""

    def check(kind: str, tmp_path: Path) -> None:
        estimator = small(kind)
        name = "estimator__max_iter" if kind == "imputer" else "max_iter"
        search = GridSearchCV(estimator, {name: [0, 1, 2]}, cv=2, scoring=mean_answer, refit=False)
        serial = cross_val_score(estimator, rows(), cv=3, scoring=mean_answer)
        # scikit-learn's own threads put each other's warning filters back.
        with warnings.catch_warnings(), joblib.parallel_config(backend=backend):
            found = cross_val_score(estimator, rows(), cv=3, scoring=mean_answer, n_jobs=2)
            with pytest.warns() as caught:
                search.set_params(n_jobs=2).fit(rows())
        np.testing.assert_allclose(found, serial, rtol=1e-6)
        assert any(issubclass(w.category, FitFailedWarning) for w in caught)
        assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [True, False, False]

    return check


def cached_pipeline(kind: str, tmp_path: Path) -> None:
    def made(memory: str | None = None) -> Any:
        steps = [StandardScaler(), small(kind)] if kind == "detector" else [small(kind), StandardScaler()]
        return make_pipeline(*steps, memory=memory).fit(with_hole(rows()))

    method = "score_samples" if kind == "detector" else "transform"
    expected = getattr(made(), method)(rows())
    for _ in range(2):
        np.testing.assert_array_equal(getattr(made(str(tmp_path)), method)(rows()), expected)


FRESH = """
import os, random, warnings
import numpy as np, torch, torch._dynamo, scipy.stats.qmc, sklearn.callback
def state():
    return (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(), torch.get_num_threads(),
            torch.get_default_dtype(), list(warnings.filters), dict(os.environ))
before = state()
import skvae
print("import touched nothing:", state() == before)
from helpers import assert_same
from subjects import KINDS, answers, rows, small
for kind in KINDS:
    estimator = small(kind).fit(rows())
    expected = answers(kind, estimator, rows())
    child = os.fork()
    if child == 0:
        assert_same(answers(kind, estimator, rows()), expected)
        assert_same(answers(kind, small(kind).fit(rows()), rows()), expected)
        os._exit(0)
    print(kind, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def in_a_fresh_process(script: str, *arguments: str) -> str:
    """What a script prints, run beside the tests with one thread: with several, torch itself hangs in a child."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, timeout=200, env=env, cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _fresh() -> str:
    return in_a_fresh_process(FRESH)


def imported(kind: str, tmp_path: Path) -> None:
    assert "import touched nothing: True\n" in _fresh()


def forked(kind: str, tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    assert f"{kind} 0\n" in _fresh()


# Files


def saved(route: Callable[[Any, Path], Any]) -> Check:
    def check(kind: str, tmp_path: Path) -> None:
        X = with_hole(rows())
        fresh, estimator = small(kind), small(kind).fit(X)
        expected = answers(kind, estimator, X)
        assert_same(answers(kind, route(estimator, tmp_path), X), expected)
        back = route(fresh, tmp_path)
        assert_unfitted(kind, back, X)
        assert_same(answers(kind, back.fit(X), X), expected)

    return check


# What pickle, joblib and skops raise for a file that is none.
UNREADABLE = (ValueError, OSError, EOFError, IndexError, KeyError, struct.error, zlib.error)
UNREADABLE += (pickle.UnpicklingError, zipfile.BadZipFile)


def skops_loads(data: bytes) -> Any:
    names = skops.io.get_untrusted_types(data=data)
    return skops.io.loads(data, trusted=[name for name in names if name.startswith(("skvae.", "sklearn.", "helpers."))])


def truncated_file(kind: str, tmp_path: Path) -> None:
    estimator = small(kind).fit(rows())
    for data, load in ((pickle.dumps(estimator), pickle.loads), (skops.io.dumps(estimator), skops_loads)):
        for tenth in range(10):
            with pytest.raises(UNREADABLE):
                load(data[: len(data) * tenth // 10])


def flipped_bytes(kind: str, tmp_path: Path) -> None:
    """Formats with checksums: an error, or the flip changed nothing."""
    estimator = small(kind).fit(rows())
    expected = answers(kind, estimator, rows())
    joblib.dump(estimator, tmp_path / "model", compress=3)
    files = ((skops.io.dumps(estimator), skops_loads), ((tmp_path / "model").read_bytes(), _joblib_loads))
    for data, load in files:
        for place in np.linspace(0, len(data) - 1, 25).astype(int):
            broken = bytearray(data)
            broken[place] ^= 0x55
            try:
                found = load(bytes(broken))
            except Exception:
                continue
            assert_same(answers(kind, found, rows()), expected)


def _joblib_loads(data: bytes) -> Any:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return joblib.load(file.name)


FIRST = "encoder.linear.weight"
DAMAGE = {
    "NaN weights": lambda state: state["_weights"].update({FIRST: np.full_like(state["_weights"][FIRST], np.nan)}),
    "a row of weights less": lambda state: state["_weights"].update({FIRST: state["_weights"][FIRST][1:]}),
    "an extra weight": lambda state: state["_weights"].update(more=np.ones(3)),
    "a layer of a billion": lambda state: state["_specs"]["encoder"].set_params(hidden_layer_sizes=(10**9,)),
    "another format": lambda state: state.update(_format=999),
    "no order": lambda state: state.pop("_order"),
    "no seed": lambda state: state.pop("_seed"),
    "a negative seed": lambda state: state.update(_seed=-1),
    "draws that are none": lambda state: state.update(n_draws=-1),
    "a device that is none": lambda state: state.update(device=3),
    "no weights": lambda state: state.pop("_weights"),
}


def damaged_state(kind: str, tmp_path: Path) -> None:
    """Told when it is loaded, and in no memory."""
    model = fitted_model_of(kind, small(kind).fit(rows()))
    for name, damage in DAMAGE.items():
        state = pickle.loads(pickle.dumps(model.__getstate__()))
        damage(state)

        def load(state: Any = state) -> Any:
            with pytest.raises(ValueError, match=r"damaged: .* Load the file again or refit|was saved in format 999"):
                type(model).__new__(type(model)).__setstate__(state)

        assert peak_of(load)[0] < 2**24, name


READ = """
import pickle, sys
sys.modules["rich"] = None
with open(sys.argv[1], "rb") as file:
    saved = pickle.load(file)
from helpers import assert_same
from subjects import answers, rows
for kind, (data, expected) in saved.items():
    assert_same(answers(kind, pickle.loads(data), rows()), expected)
    print(kind, "read")
"""


@cache
def _read_without_rich() -> str:
    """All kinds in one process, which takes seconds to start."""
    saved = {}
    for kind in KINDS:
        estimator = small(kind)
        model_of(kind, estimator).set_callbacks(ProgressBar())
        estimator.fit(rows())
        saved[kind] = (pickle.dumps(estimator), answers(kind, estimator, rows()))
    with tempfile.NamedTemporaryFile() as file:
        file.write(pickle.dumps(saved))
        file.flush()
        return in_a_fresh_process(READ, file.name)


def callbacks_in_a_file(kind: str, tmp_path: Path) -> None:
    assert f"{kind} read\n" in _read_without_rich()


def no_gpu(kind: str, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    X = with_hole(rows())
    estimator = small(kind).fit(X)
    expected = answers(kind, estimator, X)
    fitted_model_of(kind, estimator).set_params(device="cuda")
    loaded = pickle.loads(pickle.dumps(estimator))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert_same(answers(kind, loaded, X), expected)
    assert [str(w.message).split(":")[0] for w in caught] == ["device='cuda' is not available on this machine"]


# Loops and sizes


def many_fits(kind: str, tmp_path: Path) -> None:
    estimator = small(kind, max_iter=1, hidden_layer_sizes=(100,), n_components=(1,) if kind == "search" else 1)
    threads, sizes = threading.active_count(), []
    tracemalloc.start()
    try:
        for _ in range(3):
            for _ in range(2):
                looks(kind, estimator.fit(rows()), rows())
            gc.collect()  # cycles that inspect.signature leaves go when they go
            sizes.append(tracemalloc.get_traced_memory()[0])
        assert sizes[2] - sizes[1] < 50_000  # the weights of one model take about as much
    finally:
        tracemalloc.stop()
    assert threading.active_count() <= threads


def many_rows(kind: str, tmp_path: Path) -> None:
    """Beside its answer an estimator holds blocks, and no copy of X."""
    few = rows(40, 20)
    estimator, X = small(kind).fit(few), np.tile(few, (2500, 1))
    method = "predict" if kind == "detector" else "transform"
    peak, found = peak_of(lambda: getattr(estimator, method)(X))
    assert peak < found.nbytes + X.nbytes / 2
    np.testing.assert_allclose(found[:40], getattr(estimator, method)(few), rtol=1e-9)
