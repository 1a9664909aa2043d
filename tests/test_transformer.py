"""The public surface of VAETransformer: every method, every fitted attribute, and the estimators it stands among."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from helpers import Reconstruction, make, rows_of, scale_of
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import ELBO, IWAE, MLP, Bernoulli, Gaussian, VAETransformer

POOR = "ignore:VAETransformer stopped at:sklearn.exceptions.ConvergenceWarning"
LIKELIHOODS = [Gaussian(), Gaussian("shared"), Gaussian("decoder")]


@pytest.fixture(scope="module")
def fitted(wine):
    return make().fit(wine)


@pytest.fixture(scope="module")
def linear(wine):
    """A linear model, whose decoder mean is W z + mean."""
    vae = make(hidden_layer_sizes=()).fit(wine)
    zero = vae.inverse_transform(np.zeros((1, 2)))[0]
    return vae, (vae.inverse_transform(np.eye(2)) - zero).T, zero


# Methods


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_shapes_and_dtypes(wine, likelihood, dtype):
    X = wine.astype(dtype)
    vae = make(likelihood=likelihood).fit(X)
    Z = vae.transform(X)
    mean, std = vae.posterior(X)
    assert Z.shape == mean.shape == std.shape == (178, 2)
    assert (
        Z.dtype
        == std.dtype
        == vae.inverse_transform(Z).dtype
        == vae.reconstruct(X).dtype
        == vae.impute(X).dtype
        == dtype
    )
    assert vae.reconstruct(X).shape == vae.impute(X).shape == X.shape
    assert vae.score_samples(X).shape == (178,)
    assert vae.score_samples(X).dtype == vae.sample(4, random_state=0).dtype == np.float64
    assert vae.sample(4, random_state=0).shape == (4, 13)
    np.testing.assert_array_equal(Z, mean)
    assert (std > 0).all()
    assert (std < 1.5).all()


def test_fitted_attributes(fitted, wine):
    assert fitted.n_components_ == 2
    assert fitted.n_features_in_ == 13
    assert not hasattr(fitted, "feature_names_in_")
    np.testing.assert_allclose(fitted.mean_, wine.mean(axis=0))
    np.testing.assert_allclose(fitted.scale_, wine.std(axis=0))
    assert fitted.noise_variance_.shape == (13,)
    assert (fitted.noise_variance_ <= 1.1 * wine.var(axis=0)).all()
    assert fitted.loss_curve_ == fitted.history_["loss"]
    assert set(fitted.history_) == {"loss", "reconstruction", "kl"}
    assert fitted.active_components_.tolist() == [True, True]
    assert all(type(value) is float for values in fitted.history_.values() for value in values)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_noise_variance_is_in_data_units_squared(iris, likelihood):
    plain, scaled = (make(likelihood=likelihood).fit(X).noise_variance_ for X in (iris, 1024 * iris))
    np.testing.assert_allclose(scaled, 1024**2 * plain)
    assert isinstance(plain, float) == (likelihood.noise == "shared")


def test_bernoulli_has_no_noise_variance(binary):
    assert not hasattr(make(likelihood="bernoulli").fit(binary), "noise_variance_")


@pytest.fixture(scope="module")
def sorted_anew(wine):
    """A model whose latents training has left in another order, one that is not its own inverse."""
    settings = {"init": "random", "early_stopping": False, "learning_rate_init": 1e-2, "random_state": 2}
    with warnings.catch_warnings(action="ignore"):
        vae = make(n_components=4, max_iter=20, hidden_layer_sizes=(8,), **settings).fit(wine)
    trained = vae.module_.encode(rows_of(vae, wine).x)[0].numpy()
    order = (np.abs(vae.transform(wine)[:, :, None] - trained[:, None]).max(axis=0) < 1e-6).argmax(axis=1)
    assert not np.array_equal(order[order], np.arange(4))
    return vae


def test_latents_are_ordered_by_the_information_they_carry(sorted_anew, wine):
    vae = sorted_anew
    mean, std = vae.posterior(wine)
    kl = 0.5 * (mean**2 + std**2 - 1 - 2 * np.log(std)).mean(axis=0)
    np.testing.assert_allclose(vae.latent_information_, kl, rtol=1e-3, atol=1e-5)
    assert (np.diff(vae.latent_information_) <= 0).all()
    np.testing.assert_array_equal(vae.active_components_, mean.var(axis=0) > 0.01)


@pytest.mark.parametrize("bound", [0.1, 0.5, 0.9])
def test_a_latent_is_active_whose_mean_varies_by_more_than_a_bound(sorted_anew, wine, bound, monkeypatch):
    """By the variance of its mean, and not by what it tells of a row."""
    monkeypatch.setattr("skvae._fit.ACTIVE_VARIANCE", bound)
    with warnings.catch_warnings(action="ignore"):
        vae = clone(sorted_anew).fit(wine)
    np.testing.assert_array_equal(vae.active_components_, vae.transform(wine).var(axis=0) > bound)


def test_posterior_is_the_linear_models(linear, wine):
    """Precision 1 + W' psi^-1 W, diagonal; mean precision^-1 W' psi^-1 (x - mean)."""
    vae, W, center = linear
    precision = np.eye(2) + W.T @ (W / vae.noise_variance_[:, None])
    mean = np.linalg.solve(precision, W.T @ ((wine - center) / vae.noise_variance_).T).T
    np.testing.assert_allclose(vae.transform(wine), mean, atol=0.05)
    np.testing.assert_allclose(vae.posterior(wine)[1], np.broadcast_to(np.diag(precision) ** -0.5, (178, 2)), rtol=0.05)


def test_score_samples_is_a_tight_lower_bound_on_the_exact_likelihood(linear, wine):
    vae, W, center = linear
    exact = multivariate_normal(center, W @ W.T + np.diag(vae.noise_variance_)).logpdf(wine)
    np.testing.assert_allclose(vae.score_samples(wine), exact, atol=0.1)
    assert vae.score(wine) <= exact.mean() + 0.01


def test_sample_has_the_models_moments(linear, any_seed):
    """Within five standard errors, of shares of two variances sqrt(2 / n) at most."""
    vae, W, center = linear
    X = vae.sample(50_000, random_state=any_seed, prior="model")
    cov = W @ W.T + np.diag(vae.noise_variance_)
    std = np.sqrt(np.diag(cov))
    np.testing.assert_allclose((X.mean(axis=0) - center) / std, 0, atol=5 / np.sqrt(50_000))
    np.testing.assert_allclose(np.cov(X.T) / np.outer(std, std), cov / np.outer(std, std), atol=5 * np.sqrt(2 / 50_000))


def test_sample_is_set_by_its_seed_and_new_without_one(fitted):
    np.testing.assert_array_equal(fitted.sample(5, random_state=3), fitted.sample(5, random_state=3))
    assert not np.array_equal(fitted.sample(5, random_state=3), fitted.sample(5, random_state=4))
    rng = np.random.RandomState(0)
    assert not np.array_equal(fitted.sample(5, random_state=rng), fitted.sample(5, random_state=rng))


def test_sample_without_a_seed_draws_anew(fitted):
    state = np.random.get_state()
    first, second = fitted.sample(), fitted.sample()
    np.random.set_state(state)
    assert first.shape == (1, 13)
    assert not np.array_equal(first, second)


def test_sample_of_bernoulli_is_binary(binary):
    X = make(likelihood="bernoulli").fit(binary).sample(200, random_state=0)
    assert set(np.unique(X)) == {0.0, 1.0}
    np.testing.assert_allclose(X.mean(axis=0), binary.mean(axis=0), atol=0.2)


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, True, "3", None, np.nan])
def test_sample_refuses_what_is_no_count(fitted, n_samples):
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        fitted.sample(n_samples)


def test_sample_takes_numpy_integers_and_many_rows(fitted):
    assert fitted.sample(np.int64(3), random_state=0).shape == (3, 13)
    assert np.isfinite(fitted.sample(100_000, random_state=0)).all()


def test_codes_come_back_in_the_order_they_have_outside(sorted_anew, wine):
    rows = rows_of(sorted_anew, wine)
    means = sorted_anew.module_.mean(sorted_anew.module_.encode(rows.x)[0]).numpy()
    expected = scale_of(sorted_anew).to_data(means)
    np.testing.assert_allclose(sorted_anew.inverse_transform(sorted_anew.transform(wine)), expected, rtol=1e-6)


def test_reconstruct_is_there_and_back(fitted, wine):
    np.testing.assert_array_equal(fitted.reconstruct(wine), fitted.inverse_transform(fitted.transform(wine)))
    residual = ((wine - fitted.reconstruct(wine)) ** 2).mean(axis=0)
    assert (residual / wine.var(axis=0)).mean() < 0.7


@pytest.mark.parametrize(
    ("Z", "words"),
    [
        (np.zeros((2, 3)), "X has 3 columns, but inverse_transform takes this model's 2 latents"),
        (np.zeros(2), "Expected 2D array, got 1D array"),
        (np.full((1, 2), np.nan), "NaN"),
        (np.full((1, 2), np.inf), "infinity"),
        (np.zeros((0, 2)), "0 sample"),
    ],
)
def test_inverse_transform_refuses_what_is_no_code(fitted, Z, words):
    with pytest.raises(ValueError, match=words):
        fitted.inverse_transform(Z)


def test_score_is_the_mean_of_score_samples(fitted, wine):
    assert type(fitted.score(wine)) is float
    assert fitted.score(wine) == fitted.score(wine, np.zeros(178)) == fitted.score_samples(wine).mean()


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
@pytest.mark.parametrize("factor", [1024.0, 2.0**-40])
def test_scores_are_densities_in_data_units(iris, likelihood, factor):
    """The density of c X is that of X divided by c^D."""
    plain, scaled = (make(likelihood=likelihood).fit(X).score_samples(X) for X in (iris, factor * iris))
    np.testing.assert_allclose(scaled, plain - 4 * np.log(factor), rtol=1e-6)


def test_columns_may_have_units_of_their_own(iris):
    factors, shift = 2.0 ** np.array([-30, 0, 5, 200]), np.array([0.0, 100.0, 0.0, 0.0])
    plain, scaled = make().fit(iris), make().fit(factors * iris + shift)
    np.testing.assert_allclose(
        scaled.score_samples(factors * iris + shift), plain.score_samples(iris) - np.log(factors).sum(), rtol=1e-4
    )
    np.testing.assert_allclose(scaled.transform(factors * iris + shift), plain.transform(iris), atol=1e-4)
    np.testing.assert_allclose(
        (scaled.reconstruct(factors * iris + shift) - shift) / factors, plain.reconstruct(iris), rtol=1e-4
    )


def test_more_draws_bring_the_score_closer_from_below(wine):
    few, many = (make(n_draws=n, max_iter=30).fit(wine).score(wine) for n in (1, 256))
    assert few < many < few + 5


def test_setting_n_draws_after_fit_takes_effect(fitted, wine):
    again = clone(fitted).fit(wine)
    assert again.set_params(n_draws=2).score(wine) != fitted.score(wine)


# Objectives without a density


def test_without_a_density_there_is_no_score(wine):
    vae = make(objective=Reconstruction()).fit(wine)
    for name in ("score", "score_samples"):
        assert not hasattr(vae, name)
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'") as caught:
            getattr(vae, name)
        assert "trains no density of X" in str(caught.value.__cause__)
    assert vae.transform(wine).shape == (178, 2)
    assert vae.reconstruct(wine).shape == wine.shape


@pytest.mark.parametrize(
    "objective", ["elbo", "iwae", ELBO(beta=4), ELBO("sampled"), ELBO(free_bits=0.1), IWAE(3)], ids=repr
)
def test_every_density_objective_scores(iris, objective):
    assert np.isfinite(make(objective=objective).fit(iris).score(iris))


# Missing values


@pytest.fixture(scope="module")
def correlated():
    """300 rows of 6 columns driven by two factors, some cells hidden."""
    rng = np.random.RandomState(0)
    X = rng.randn(300, 2) @ rng.randn(2, 6) + 0.1 * rng.randn(300, 6) + 5
    hidden = rng.rand(300, 6) < 0.15
    hidden[hidden.all(axis=1), 0] = False
    return X, hidden, np.where(hidden, np.nan, X)


def test_impute_beats_the_mean_and_leaves_present_cells_alone(correlated):
    X, hidden, gaps = correlated
    filled = make(max_iter=30).fit(gaps).impute(gaps)
    np.testing.assert_array_equal(filled[~hidden], X[~hidden])
    error = np.mean((filled - X)[hidden] ** 2)
    mean_error = np.mean((np.broadcast_to(np.nanmean(gaps, axis=0), X.shape) - X)[hidden] ** 2)
    assert error < 0.3 * mean_error


def test_impute_of_an_empty_row_is_the_models_mean(correlated):
    gaps = correlated[2]
    filled = make(max_iter=30).fit(gaps).impute(np.full((1, 6), np.nan))
    np.testing.assert_allclose(filled[0], np.nanmean(gaps, axis=0), atol=0.5)


def test_impute_returns_a_new_array(fitted, wine):
    X = wine.copy()
    filled = fitted.impute(X)
    np.testing.assert_array_equal(filled, wine)
    assert not np.shares_memory(filled, X)


def test_every_method_takes_missing_cells(correlated):
    gaps = correlated[2]
    vae = make().fit(gaps)
    for method in ("transform", "score_samples", "reconstruct", "impute"):
        assert np.isfinite(getattr(vae, method)(gaps)).all()
    assert np.isfinite(vae.partial_fit(gaps).score(gaps))


def test_a_row_s_missing_cells_leave_the_density_of_the_others(linear, wine):
    vae, W, center = linear
    cov = W @ W.T + np.diag(vae.noise_variance_)
    gaps, seen = wine.copy(), np.arange(13) % 3 > 0
    gaps[:, ~seen] = np.nan
    exact = multivariate_normal(center[seen], cov[np.ix_(seen, seen)]).logpdf(wine[:, seen])
    assert vae.score(gaps) <= exact.mean() + 0.02
    assert vae.score(gaps) > exact.mean() - 1.5
    assert vae.set_params(n_draws=4096).score(gaps) == pytest.approx(exact.mean(), abs=0.3)
    vae.set_params(n_draws=64)


def test_the_score_of_an_empty_row_is_a_bound_on_certainty(fitted):
    """log p of nothing is 0."""
    score = fitted.score_samples(np.full((1, 13), np.nan))
    assert -3 < score < 0.1


# Shapes at the edges


@pytest.mark.filterwarnings(POOR)
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
@pytest.mark.parametrize(
    ("n_rows", "n_columns", "n_components"),
    [(40, 3, 5), (40, 3, 3), (40, 1, 1), (40, 1, 2), (1, 3, 2), (1, 1, 1), (2, 3, 2), (3, 10, 5), (33, 2, 1)],
)
def test_any_shape_of_table_trains(likelihood, n_rows, n_columns, n_components):
    X = np.random.RandomState(0).randn(n_rows, n_columns)
    vae = make(n_components=n_components, likelihood=likelihood, max_iter=3).fit(X)
    assert vae.transform(X).shape == (n_rows, n_components)
    assert np.isfinite(vae.transform(X)).all()
    assert np.isfinite(vae.score(X))
    assert vae.latent_information_.shape == (n_components,)
    assert vae.sample(2, random_state=0).shape == (2, n_columns)


@pytest.mark.filterwarnings(POOR)
def test_more_latents_than_the_rank_trains(wine):
    X = wine[:, [0, 0, 1, 1, 1]]
    assert np.isfinite(make(n_components=4).fit(X).score(X))


@pytest.mark.parametrize(("n_rows", "batch_size"), [(5, 200), (33, 32), (32, 32), (41, 8)])
@pytest.mark.filterwarnings(POOR)
def test_any_last_batch_trains(wine, n_rows, batch_size):
    vae = make(batch_size=batch_size, early_stopping=False).fit(wine[:n_rows])
    assert np.isfinite(vae.loss_curve_).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_a_constant_column_is_reproduced(iris, likelihood):
    X = np.column_stack([iris, np.full(150, 7.0), np.zeros(150)])
    vae = make(likelihood=likelihood).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    np.testing.assert_array_equal(vae.reconstruct(X)[:, 4:], X[:, 4:])
    np.testing.assert_allclose(vae.mean_[4:], [7, 0])


# Among other estimators


def manifold(n_rows, seed):
    """A curved surface of three dimensions in ten columns."""
    mixing, rng = np.random.RandomState(42), np.random.RandomState(seed)
    Z = rng.randn(n_rows, 3)
    return np.column_stack([Z, 0.3 * np.sin(1.5 * Z)]) @ mixing.randn(6, 10) + 0.1 * rng.randn(n_rows, 10)


def test_a_grid_search_finds_the_dimension_of_a_curved_surface():
    search = GridSearchCV(
        make(max_iter=80, learning_rate_init=5e-3, n_draws=32, batch_size=100, hidden_layer_sizes=(64,)),
        {"n_components": [1, 2, 3, 4, 6]},
        cv=2,
        error_score="raise",
    )
    assert search.fit(manifold(1500, 0)).best_params_ == {"n_components": 3}


def test_a_grid_search_is_the_same_in_two_processes(wine):
    def search(n_jobs):
        grid = {"n_components": [1, 2], "likelihood__noise": ["feature", "shared"]}
        return GridSearchCV(
            make(likelihood=Gaussian(), max_iter=3), grid, cv=2, n_jobs=n_jobs, error_score="raise"
        ).fit(wine)

    one, two = search(1), search(2)
    np.testing.assert_allclose(two.cv_results_["mean_test_score"], one.cv_results_["mean_test_score"], rtol=1e-6)
    assert len(np.unique(one.cv_results_["mean_test_score"])) == 4
    assert two.best_params_ == one.best_params_


def test_a_grid_search_reports_a_failed_fit_and_goes_on(wine):
    search = GridSearchCV(make(early_stopping=True), {"validation_fraction": [0.1, 1e-9]}, cv=2)
    with pytest.warns() as caught:
        search.fit(wine)
    assert any("fits failed" in str(warning.message) for warning in caught)
    assert search.best_params_ == {"validation_fraction": 0.1}


def test_a_pipeline_clusters_and_classifies_the_codes():
    X, y = load_iris(return_X_y=True)
    clusters = make_pipeline(StandardScaler(), make(), KMeans(3, random_state=0, n_init=1)).fit_predict(X)
    assert set(clusters) == {0, 1, 2}
    assert make_pipeline(make(), LogisticRegression()).fit(X, y).score(X, y) > 0.85


def test_a_pipeline_reconstructs_in_data_units(wine):
    pipe = make_pipeline(StandardScaler(), make()).fit(wine)
    back = pipe.inverse_transform(pipe.transform(wine))
    assert (((back - wine) ** 2).mean(axis=0) / wine.var(axis=0)).mean() < 0.7


def test_pandas_output_names_rows_and_columns(wine):
    X = pd.DataFrame(wine).add_prefix("c").set_index(np.arange(178) + 1000)
    vae = make().set_output(transform="pandas")
    codes = vae.fit_transform(X)
    assert codes.columns.tolist() == ["vaetransformer0", "vaetransformer1"]
    assert codes.index.equals(X.index)
    assert vae.feature_names_in_.tolist() == X.columns.tolist()
    pd.testing.assert_frame_equal(vae.transform(X), codes)
    assert vae.inverse_transform(codes).index.equals(X.index)
    assert vae.inverse_transform(codes.to_numpy()).columns.equals(X.columns)
    assert vae.reconstruct(X).shape == X.shape


def test_other_column_names_are_refused(wine):
    X = pd.DataFrame(wine).add_prefix("c")
    vae = make().fit(X)
    for renamed in (X.add_suffix("x"), X[X.columns[::-1]]):
        with pytest.raises(ValueError, match="feature names should match"):
            vae.transform(renamed)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        codes = vae.transform(wine)
    np.testing.assert_array_equal(codes, vae.transform(X))


def test_sample_weight_is_routed_through_a_pipeline(wine):
    weight = np.arange(178.0)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = make_pipeline(StandardScaler(), make().set_fit_request(sample_weight=True))
        routed[0].set_fit_request(sample_weight=True)
        codes = routed.fit(wine, sample_weight=weight).transform(wine)
    plain = make_pipeline(StandardScaler(), make())
    given = plain.fit(wine, standardscaler__sample_weight=weight, vaetransformer__sample_weight=weight).transform(wine)
    np.testing.assert_array_equal(codes, given)
    assert not np.array_equal(codes, plain.fit(wine).transform(wine))


# What a notebook shows


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(VAETransformer()) == "VAETransformer()"
    vae = VAETransformer(3, likelihood=Gaussian("shared"), encoder=MLP((5,)), random_state=0)
    text = (
        "VAETransformer(encoder=MLP(hidden_layer_sizes=(5,)), likelihood=Gaussian(noise='shared'), "
        "n_components=3, random_state=0)"
    )
    assert re.sub(r"\s+", " ", repr(vae)) == text
    assert repr(eval(text)) == repr(vae)


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS, Bernoulli()], ids=repr)
def test_html_is_clean_before_and_after_fit(binary, likelihood):
    vae = make(likelihood=likelihood)
    assert "VAETransformer" in vae._repr_html_()
    html = vae.fit(binary + 0.0)._repr_html_()
    assert "latent_information_" in html
    assert "n_components_" in html


def test_parts_can_be_set_and_searched_by_name():
    vae = VAETransformer(objective=ELBO(), likelihood=Gaussian(), encoder=MLP())
    vae.set_params(objective__beta=4, likelihood__noise="shared", encoder__activation="tanh")
    assert (vae.objective.beta, vae.likelihood.noise, vae.encoder.activation) == (4, "shared", "tanh")
    twin = clone(vae)
    assert twin.get_params()["objective__beta"] == 4
    assert twin.objective is not vae.objective


def test_parts_by_name_become_objects_where_their_parameters_are_set():
    vae = VAETransformer().set_params(likelihood__noise="scaled", objective="iwae", objective__n_draws=3)
    assert (vae.likelihood.noise, vae.objective.n_draws, vae.prior) == ("scaled", 3, "normal")
    with pytest.raises(ValueError, match=r"Invalid parameter 'nois' for estimator Gaussian"):
        VAETransformer().set_params(likelihood__nois="scaled")


def test_a_fit_leaves_its_parameters_alone(wine):
    vae = make(objective=ELBO(), likelihood=Gaussian(), encoder=MLP((4,)))
    before = {name: (value, repr(value)) for name, value in vae.get_params(deep=False).items()}
    vae.fit(wine)
    for name, value in vae.get_params(deep=False).items():
        assert value is before[name][0]
        assert repr(value) == before[name][1]


def test_a_clone_of_a_fitted_estimator_is_unfitted(fitted):
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params()
    assert not [name for name in vars(twin) if name.endswith("_")]
