"""Faults and extremes: the result is finite, or a ValueError that says why; and the previous model stays as it was."""

import gc
import hashlib
import os
import re
import subprocess
import sys
import threading
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import Gaussian, VAETransformer
from skvae.likelihoods import Likelihood

POOR = "ignore:VAETransformer stopped at:sklearn.exceptions.ConvergenceWarning"
METHODS = ["transform", "score_samples", "reconstruct", "impute"]


def make(**parameters):
    return VAETransformer(**{"n_components": 2, "max_iter": 3, "random_state": 0, **parameters})


@pytest.fixture(scope="module")
def fitted(iris):
    return make().fit(iris)


def all_finite(vae, X):
    weights = vae.module_.state_dict().values()
    outputs = [vae.transform(X), vae.score_samples(X), vae.reconstruct(X), vae.sample(5, random_state=0)]
    return all(bool(w.isfinite().all()) for w in weights) and all(np.isfinite(output).all() for output in outputs)


# Scales


@pytest.mark.parametrize("likelihood", [Gaussian(), Gaussian("shared"), Gaussian("decoder")], ids=repr)
@pytest.mark.parametrize("power", [-1000, -530, -130, 130, 660, 1000])
def test_a_table_of_any_scale_gives_the_same_model(iris, likelihood, power):
    plain, scaled = make(likelihood=likelihood).fit(iris), make(likelihood=likelihood).fit(np.ldexp(iris, power))
    assert all_finite(scaled, np.ldexp(iris, power))
    np.testing.assert_allclose(scaled.transform(np.ldexp(iris, power)), plain.transform(iris), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaled.scale_, np.ldexp(plain.scale_, power), rtol=1e-9)


def test_denormal_numbers_train(iris):
    X = np.round(10 * iris) * 5e-324
    vae = make().fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    assert vae.transform(X).std() > 0.1


EXTREME_TABLES = {
    "a cell float32 cannot hold": lambda X: np.where(X.max() == X, 1e39, X),
    "a cell of 1e300": lambda X: np.where(X.max() == X, 1e300, X),
    "a large offset": lambda X: np.column_stack([X, 1e12 + 1e-3 * X[:, 0]]),
    "a constant column": lambda X: np.column_stack([X, np.full(len(X), 3.0)]),
    "constant columns only": lambda X: np.ones_like(X) * [1, 0, -1e300, 1e-300],
    "identical rows": lambda X: np.repeat(X[:1], len(X), axis=0),
    "an outlier of a million": lambda X: np.vstack([X, X.mean(axis=0) + 1e6]),
    "columns of all scales": lambda X: X * [1e-300, 1e-5, 1e5, 1e300],
    "a column twice": lambda X: X[:, [0, 0, 1, 2]],
    "a column with one value": lambda X: np.column_stack([X, np.r_[1.0, np.full(len(X) - 1, np.nan)]]),
    "mostly missing": lambda X: np.where(np.random.RandomState(0).rand(*X.shape) < 0.9, np.nan, X),
}


@pytest.mark.filterwarnings(POOR)
@pytest.mark.parametrize("noise", ["feature", "shared", "decoder"])
@pytest.mark.parametrize("table", EXTREME_TABLES)
def test_an_extreme_table_trains_to_finite_numbers(iris, table, noise):
    X = EXTREME_TABLES[table](iris)
    assert all_finite(make(likelihood=Gaussian(noise), n_components=1).fit(X), X)


@pytest.mark.filterwarnings(POOR)
def test_constant_columns_are_reproduced(iris):
    X = EXTREME_TABLES["constant columns only"](iris)
    vae = make().fit(X)
    np.testing.assert_array_equal(vae.mean_, X[0])
    np.testing.assert_allclose(vae.reconstruct(X)[:, [0, 1, 3]], X[:, [0, 1, 3]], atol=0.1)


def transform_or_refusal(vae, row):
    """The codes, or nothing where transform says that the row is too far out."""
    try:
        return vae.transform(row)
    except ValueError as error:
        if "Row 0 of X is too far from the training data" not in str(error):
            raise
        return np.empty(0)


@pytest.mark.parametrize("value", [1e39, 1e160, 1e300, 1.7e308, -1.7e308])
def test_a_row_far_out_is_unlikely_and_never_undefined(fitted, value):
    row = np.full((1, 4), value)
    assert fitted.score_samples(row)[0] < -1e10
    assert np.isfinite(transform_or_refusal(fitted, row)).all()


def test_the_further_out_a_row_the_less_likely(fitted, iris):
    scores = [fitted.score_samples(iris[:1] * factor)[0] for factor in (1, 3, 10, 1e3, 1e6)]
    assert (np.diff(scores) < 0).all()


# Containers and dtypes


@pytest.mark.parametrize(
    "dtype", ["int8", "int64", "uint64", "float16", "float32", "longdouble", ">f8", ">f4", ">i2", "object", "str"]
)
def test_any_dtype_of_the_same_numbers_gives_the_same_model(iris, dtype):
    X = np.round(iris)
    given = X.astype(dtype)
    vae = make().fit(given)
    assert vae.transform(given).dtype == ("float32" if dtype == "float32" else "float64")
    np.testing.assert_allclose(vae.score_samples(given), make().fit(X).score_samples(X), rtol=1e-6)


def test_the_largest_integers_do_not_overflow(iris):
    X = np.column_stack([iris, np.where(np.arange(150) % 2, np.iinfo(np.uint64).max, 0)]).astype(np.uint64)
    vae = make().fit(X)
    np.testing.assert_allclose(vae.mean_[4], 2.0**63, rtol=1e-9)
    assert all_finite(vae, X)


def test_booleans_are_numbers(binary):
    np.testing.assert_array_equal(
        make(likelihood="bernoulli").fit(binary > 0).transform(binary > 0),
        make(likelihood="bernoulli").fit(binary).transform(binary),
    )


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "negative strides": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "every other": lambda X: np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
    "big-endian": lambda X: X.astype(">f8"),
    "tensor": torch.tensor,
    "polars": lambda X: pl.DataFrame(X, schema=list("abcd")),
    "nested lists": lambda X: X.tolist(),
    "pandas nullable": lambda X: pd.DataFrame(X, columns=list("abcd")).astype("Float64"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits(iris, fitted, layout):
    X = LAYOUTS[layout](iris)
    vae = make().fit(X)
    for method in METHODS:
        np.testing.assert_array_equal(getattr(vae, method)(X), getattr(fitted, method)(iris))


def test_a_read_only_memory_map_is_read_and_not_written(iris, fitted, tmp_path):
    path = tmp_path / "X.npy"
    np.save(path, iris)
    before = hashlib.sha256(path.read_bytes()).digest()
    X = np.load(path, mmap_mode="r")
    vae = make().fit(X)
    for method in METHODS:
        np.testing.assert_array_equal(getattr(vae, method)(X), getattr(fitted, method)(iris))
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_no_method_changes_its_input(iris):
    X = np.where(np.arange(600).reshape(150, 4) % 17 == 0, np.nan, iris)
    before, weight = X.copy(), np.arange(150.0)
    vae = make().fit(X, sample_weight=weight).partial_fit(X, sample_weight=weight)
    for method in METHODS:
        getattr(vae, method)(X)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(weight, np.arange(150.0))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA], ids=repr)
def test_every_mark_of_a_missing_cell_is_one(iris, missing):
    cells = iris.astype(object)
    cells[::7, 1] = missing
    X = pd.DataFrame(cells, columns=list("abcd"))
    if missing is pd.NA:
        X = X.astype("Float64")
    gaps = iris.copy()
    gaps[::7, 1] = np.nan
    np.testing.assert_array_equal(make().fit(X).transform(X), make().fit(gaps).transform(gaps))


@pytest.mark.parametrize("container", [scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.coo_array])
def test_sparse_rows_are_rows(binary, container):
    dense, sparse = (make(likelihood="bernoulli").fit(X) for X in (binary, container(binary)))
    for method in ("transform", "score_samples", "reconstruct", "impute"):
        expected = getattr(dense, method)(binary)
        np.testing.assert_array_equal(getattr(sparse, method)(container(binary)), expected)
        np.testing.assert_array_equal(getattr(sparse, method)(binary), expected)


def test_np_matrix_is_refused(iris):
    with warnings.catch_warnings(action="ignore", category=PendingDeprecationWarning):
        X = np.matrix(iris)
    with pytest.raises(TypeError, match=r"np\.matrix is not supported"):
        make().fit(X)


def test_column_names_of_two_kinds_are_refused(iris, fitted):
    before = fitted.transform(iris)
    with pytest.raises(TypeError, match="Feature names are only supported if all input features have string names"):
        fitted.fit(pd.DataFrame(iris, columns=["a", "b", 0, 1]))
    np.testing.assert_array_equal(fitted.transform(iris), before)


# State after an error


BAD_REFITS = {
    "other columns and infinity": lambda X: pd.DataFrame(np.where(X > 7, np.inf, X), columns=list("wxyz")),
    "an empty column": lambda X: pd.DataFrame(X * [1, np.nan, 1, 1], columns=list("wxyz")),
    "a wider table with strings": lambda X: np.full((20, 9), "a"),
    "no rows": lambda X: X[:0],
}


@pytest.mark.parametrize("bad", BAD_REFITS)
def test_a_failed_refit_keeps_every_bit_of_the_previous_model(iris, bad):
    X = pd.DataFrame(iris, columns=list("abcd"))
    vae = make().fit(X)
    before, codes = vars(vae).copy(), vae.transform(X)
    with pytest.raises(ValueError, match=r"infinity|holds no value|could not convert|0 sample"):
        vae.fit(BAD_REFITS[bad](iris))
    assert vars(vae).keys() == before.keys()
    assert all(vars(vae)[name] is before[name] for name in before)
    np.testing.assert_array_equal(vae.transform(X), codes)


class Failing(Likelihood):
    """A user's likelihood with a fault."""

    def scale(self, moments):
        raise ZeroDivisionError("in the user's likelihood")

    def build(self, n_features, scale):
        raise NotImplementedError


def test_an_error_in_a_users_likelihood_propagates(iris):
    vae = make().fit(iris)
    before = vae.score_samples(iris)
    with pytest.raises(ZeroDivisionError, match="in the user's likelihood"):
        vae.set_params(likelihood=Failing()).fit(iris)
    np.testing.assert_array_equal(vae.set_params(likelihood="gaussian").score_samples(iris), before)
    with pytest.raises(ZeroDivisionError):
        (fresh := make(likelihood=Failing())).fit(iris)
    with pytest.raises(NotFittedError):
        fresh.transform(iris)


def test_parameters_changed_after_fit_do_not_break_the_fitted_model(iris):
    vae = make().fit(iris)
    codes, scores = vae.transform(iris), vae.score_samples(iris)
    vae.set_params(n_components=3, hidden_layer_sizes=(3,), activation="tanh", random_state=9, init="random")
    np.testing.assert_array_equal(vae.transform(iris), codes)
    np.testing.assert_array_equal(vae.score_samples(iris), scores)


# Processes, memory, threads


FRESH_PROCESS = """
import os, random, warnings
import numpy as np, torch, torch._dynamo, scipy.stats.qmc, sklearn.callback
def state():
    return (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(), torch.get_num_threads(),
            torch.get_default_dtype(), list(warnings.filters), dict(os.environ))
before = state()
from skvae import VAETransformer
print("import touched nothing:", state() == before)
X = np.random.RandomState(0).randn(30, 3)
vae = VAETransformer(1, max_iter=2, random_state=0).fit(X)
codes = vae.transform(X)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(vae.transform(X), codes) else 3)
print("fork:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture(scope="module")
def fresh_process():
    """With one thread: after training with several, torch itself hangs in a forked child."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FRESH_PROCESS]
    return subprocess.run(command, timeout=200, env=env, check=True, capture_output=True, text=True).stdout


def test_importing_touches_nothing(fresh_process):
    assert "import touched nothing: True" in fresh_process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fitted_model_works_after_a_fork(fresh_process):
    assert "fork: 0" in fresh_process


def test_fits_in_a_loop_leave_no_memory_and_no_thread_behind(iris):
    vae = make(max_iter=1, hidden_layer_sizes=(200,))
    threads, sizes = threading.active_count(), []
    tracemalloc.start()
    try:
        for _ in range(3):
            for _ in range(12):
                vae.fit(iris).transform(iris)
            gc.collect()  # cycles that inspect.signature leaves go when they go
            sizes.append(tracemalloc.get_traced_memory()[0])
        assert sizes[2] - sizes[1] < 50_000  # the weights of one model take 20,000
    finally:
        tracemalloc.stop()
    assert threading.active_count() <= threads


def test_looking_at_many_rows_takes_memory_for_a_block_only(iris, fitted):
    X = np.tile(iris, (1000, 1))
    tracemalloc.start()
    try:
        fitted.transform(X)
        assert tracemalloc.get_traced_memory()[1] < 8 * X.nbytes
    finally:
        tracemalloc.stop()


def test_scores_of_many_rows_are_those_of_few(iris, fitted):
    few = fitted.score_samples(iris)
    np.testing.assert_allclose(fitted.score_samples(np.tile(iris, (20, 1))), np.tile(few, 20), rtol=1e-9)


def test_a_cached_pipeline_gives_the_same_numbers(iris, tmp_path):
    plain = make_pipeline(make(), StandardScaler()).fit(iris)
    for _ in range(2):
        cached = make_pipeline(make(), StandardScaler(), memory=str(tmp_path)).fit(iris)
        np.testing.assert_array_equal(cached.transform(iris), plain.transform(iris))


# Any table at all: finite numbers, or a ValueError with words


ERRORS = (
    "infinity|holds no value|validation set is too small|diverged in its first epoch|too far from the training data"
)
NUMBERS = st.one_of(
    st.floats(-1e3, 1e3),
    st.floats(1e-300, 1e300),
    st.floats(-1e300, -1e-300),
    st.sampled_from([0.0, 1.0, -1.0, 5e-324, 1e300, -1e-300]),
)


def tables(elements, rows=(1, 40), columns=(1, 6)):
    return hnp.arrays(
        np.float64, st.tuples(st.integers(*rows), st.integers(*columns)), elements=elements, fill=st.nothing()
    )


def finite_or_documented(vae, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            vae.fit(X)
            return all_finite(vae, X)
        except ValueError as error:
            if not re.search(ERRORS, str(error)):
                raise
            return not hasattr(vae, "module_")


@given(X=tables(NUMBERS), noise=st.sampled_from(["feature", "shared", "decoder"]))
def test_any_table_gives_finite_numbers_or_a_documented_error(X, noise):
    assert finite_or_documented(make(likelihood=Gaussian(noise), hidden_layer_sizes=(4,), max_iter=2), X)


@given(
    X=tables(st.one_of(st.floats(-10, 10), st.just(np.nan))), noise=st.sampled_from(["feature", "shared", "decoder"])
)
def test_any_gaps_give_finite_numbers_or_a_documented_error(X, noise):
    assert finite_or_documented(make(likelihood=Gaussian(noise), hidden_layer_sizes=(4,), max_iter=2), X)


@given(X=tables(st.floats(0, 1), rows=(1, 30)))
def test_any_table_of_fractions_trains_a_bernoulli(X):
    assert finite_or_documented(make(likelihood="bernoulli", hidden_layer_sizes=(4,), max_iter=2), X)


@given(
    scale=st.integers(-990, 990),
    dtype=st.sampled_from(["f4", "f8", ">f8"]),
    order=st.sampled_from("CF"),
    columns=st.integers(1, 4),
)
def test_scale_dtype_and_layout_do_not_change_the_codes(iris, scale, dtype, order, columns):
    if dtype == "f4":
        scale = scale // 10
    plain = iris[:40, :columns].astype("f4").astype("f8")
    X = np.ldexp(plain, scale).astype(dtype, order=order)
    codes, expected = (make(n_components=1, max_iter=2).fit(table).transform(table) for table in (X, plain))
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-5)


@given(row=hnp.arrays(np.float64, (1, 4), elements=st.one_of(NUMBERS, st.just(np.nan))))
def test_any_row_is_scored(fitted, row):
    score = fitted.score_samples(row)
    assert score.dtype == np.float64
    assert not np.isnan(score).any()
    assert not np.isposinf(score).any()


@given(X=hnp.arrays(np.float64, (20, 4), elements=st.floats(allow_nan=True, allow_infinity=True, width=64)))
def test_a_refit_on_anything_leaves_a_usable_model(iris, X):
    vae = make(max_iter=1).fit(iris)
    before = vae.transform(iris)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            vae.fit(X)
        except ValueError:
            np.testing.assert_array_equal(vae.transform(iris), before)
        else:
            assert np.isfinite(vae.score(iris)) or vae.score(iris) == -np.inf
