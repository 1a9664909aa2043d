"""Extremes beyond the table of faults: every noise, any numbers; the result is finite, or an error that says why."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from scipy.stats import norm
from sklearn.utils._param_validation import InvalidParameterError

from skvae import Gaussian, StudentT, VAEAnomalyDetector, VAEImputer, VAETransformer, VAETransformerCV

POOR = "ignore:VAETransformer stopped at:sklearn.exceptions.ConvergenceWarning"


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


def test_the_further_out_a_row_the_less_likely(fitted, iris):
    scores = [fitted.score_samples(iris[:1] * factor)[0] for factor in (1, 3, 10, 1e3, 1e6)]
    assert (np.diff(scores) < 0).all()


def test_one_column_is_all_noise_of_its_own_and_shared_noise_leaves_a_latent_its_part():
    rng = np.random.default_rng(0)
    X = np.r_[rng.normal(-4, 1, 200), rng.normal(4, 1, 200)][:, None]
    own = make(n_components=1).fit(X)
    assert own.active_components_.tolist() == [False]
    assert own.score(X) == pytest.approx(norm(X.mean(), X.std()).logpdf(X).mean(), abs=0.02)
    shared = make(n_components=1, likelihood=Gaussian("shared")).fit(X)
    assert shared.active_components_.tolist() == [True]
    assert 0.5 < shared.transform(X).std() < 1.5


def test_what_float32_cannot_hold_is_its_largest_number():
    """Draws of heavy tails, of a table of numbers near the end of the type."""
    X = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    X[:, 1] = 3e38 * np.tanh(X[:, 1])
    X[::2, 1] = np.nan
    vae = make(n_components=1, likelihood=StudentT(df=2.5)).fit(X)
    tables = vae.impute(X, n_draws=20, random_state=0)
    assert {table.dtype.name for table in tables} == {"float32"}
    assert np.abs(tables).max() == np.finfo(np.float32).max
    assert np.isfinite(vae.inverse_transform(np.float32([[50.0]]))).all()


def test_a_candidate_with_rows_too_far_out_to_be_scored_can_be_chosen():
    X = np.array([[1e299, 0.0], [-1e16, 500.0]])
    search = VAETransformerCV((1, 2), cv=2, max_iter=1, selection="one_standard_error", random_state=0)
    assert search.fit(X).n_components_ == 1
    assert np.isneginf(search.scores_).any()


# Containers and dtypes


def test_booleans_are_numbers(binary):
    np.testing.assert_array_equal(
        make(likelihood="bernoulli").fit(binary > 0).transform(binary > 0),
        make(likelihood="bernoulli").fit(binary).transform(binary),
    )


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


# State after an error


def test_parameters_changed_after_fit_do_not_break_the_fitted_model(iris):
    vae = make().fit(iris)
    codes, scores = vae.transform(iris), vae.score_samples(iris)
    vae.set_params(n_components=3, hidden_layer_sizes=(3,), activation="tanh", random_state=9, init="random")
    np.testing.assert_array_equal(vae.transform(iris), codes)
    np.testing.assert_array_equal(vae.score_samples(iris), scores)


@pytest.mark.parametrize(("name", "value"), [("n_draws", 0), ("n_draws", -1), ("n_draws", "x"), ("device", None)])
@pytest.mark.parametrize("kind", [VAETransformer, VAEAnomalyDetector, VAETransformerCV])
def test_a_parameter_that_is_read_after_fit_is_checked_there_as_in_fit(iris, kind, name, value):
    sizes = [1, 2] if kind is VAETransformerCV else 2
    estimator = kind(sizes, max_iter=2, random_state=0).fit(iris).set_params(**{name: value})
    for look in (estimator.score_samples, estimator.fit):
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of {kind.__name__} must be"):
            look(iris)


@pytest.mark.parametrize("changed", [{"sample_posterior": "yes"}, {"random_state": -1}, {"estimator": "vae"}], ids=str)
def test_a_parameter_of_the_imputer_is_checked_after_fit(iris, changed):
    imputer = VAEImputer(make(), random_state=0).fit(iris).set_params(**changed)
    for look in (imputer.transform, imputer.fit):
        with pytest.raises(InvalidParameterError, match=f"The '{next(iter(changed))}' parameter of VAEImputer must be"):
            look(iris)


# Processes, memory, threads


def test_scores_of_many_rows_are_those_of_few(iris, fitted):
    few = fitted.score_samples(iris)
    np.testing.assert_allclose(fitted.score_samples(np.tile(iris, (20, 1))), np.tile(few, 20), rtol=1e-9)
