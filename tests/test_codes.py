"""Objectives that train codes without a spread: what each minimises, and what there is without a density."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pytest
from helpers import by_skops, rows_of, scale_of, seeded, with_gaps
from scipy.linalg import subspace_angles
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import Categorical, Gaussian, NegativeBinomial, VAETransformer
from skvae.objectives import OBJECTIVES, Autoencoder

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Every kind in settings that matter, and its registered name.
CODES = {
    "autoencoder": Autoencoder(),
}
NAMES = ["autoencoder"]
every_code = pytest.mark.parametrize("name", CODES)


def digits(n_rows=300):
    return load_digits().data[:n_rows]


def estimator(objective, **params):
    shared = {"n_components": 3, "hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0}
    return VAETransformer(objective=objective, **{**shared, **params})


@cache
def fitted(name):
    return estimator(CODES[name]).fit(digits())


# What all of them have and lack


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_the_object(name):
    named, given = estimator(name).fit(digits(100)), estimator(OBJECTIVES[name]()).fit(digits(100))
    np.testing.assert_array_equal(named.transform(digits()), given.transform(digits()))


@every_code
def test_training_lowers_the_loss(name):
    curve = estimator(CODES[name], max_iter=8).fit(digits()).loss_curve_
    assert np.isfinite(curve).all()
    assert curve[-1] < curve[0]


@every_code
@pytest.mark.parametrize("method", ["posterior", "sample", "score", "score_samples"])
def test_what_has_no_meaning_is_absent_and_says_why(name, method):
    for vae in (estimator(CODES[name]), fitted(name)):
        assert not hasattr(vae, method)
        assert method not in dir(vae)
        with pytest.raises(AttributeError) as caught:
            getattr(vae, method)
        assert f"objective={CODES[name]!r}" in str(caught.value.__cause__)


@pytest.mark.parametrize("name", NAMES)
def test_the_reason_names_the_objective_as_the_user_did(name):
    with pytest.raises(AttributeError) as caught:
        estimator(name).score  # noqa: B018
    assert f"objective='{name}' trains no density of X" in str(caught.value.__cause__)


@every_code
def test_attributes_without_a_meaning_are_absent(name):
    for attribute in ("noise_variance_", "latent_information_", "active_components_"):
        assert not hasattr(fitted(name), attribute)


@every_code
def test_latents_are_ordered_by_their_codes_variance(name):
    variances = fitted(name).transform(digits()).var(axis=0)
    assert (np.diff(variances) <= 1e-6 * variances[0]).all()


@every_code
def test_reconstructions_are_decoded_codes(name):
    vae, X = fitted(name), digits(30)
    Z = vae.transform(X)
    assert Z.shape == (30, 3)
    np.testing.assert_array_equal(vae.reconstruct(X), vae.inverse_transform(Z))


@every_code
def test_a_fit_repeats_bit_for_bit_and_so_do_clones_and_saved_models(name):
    vae, X = fitted(name), digits(30)
    for again in (clone(vae).fit(digits()), pickle.loads(pickle.dumps(vae)), by_skops(vae)):
        np.testing.assert_array_equal(again.transform(X), vae.transform(X))
        np.testing.assert_array_equal(again.reconstruct(X), vae.reconstruct(X))


@every_code
def test_partial_fit_continues(name):
    vae = estimator(CODES[name])
    for _ in range(4):
        vae.partial_fit(digits(100))
    assert vae.n_iter_ == 4
    assert vae.loss_curve_[-1] < vae.loss_curve_[0]


def mean_error(pipe, X, y=None):
    return -np.square(pipe.inverse_transform(pipe.transform(X)) - X).mean()


@every_code
def test_it_works_in_a_pipeline_and_in_a_search(name):
    pipe = make_pipeline(StandardScaler(), estimator(CODES[name]))
    search = GridSearchCV(pipe, {"vaetransformer__n_components": [1, 4]}, cv=2, scoring=mean_error, error_score="raise")
    assert search.fit(digits(100)).best_params_ == {"vaetransformer__n_components": 4}


@every_code
def test_missing_cells_add_nothing_to_the_loss_and_are_imputed(name):
    X = with_gaps(digits(), 0.1)
    vae = estimator(CODES[name]).fit(X)
    assert np.isfinite(vae.loss_curve_).all()
    filled = vae.impute(X)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    with pytest.raises(ValueError, match="trains no density to draw from; use n_draws=None"):
        vae.impute(X, n_draws=2)


# The plain autoencoder


def test_the_loss_is_the_squared_error_of_the_present_cells_in_standard_deviations():
    vae, X = fitted("autoencoder"), with_gaps(digits(30), 0.2)
    model, rows = vae.module_, rows_of(fitted("autoencoder"), X)
    found = Autoencoder()(model, rows, seeded(), 1)["loss"]
    wrong = (vae.inverse_transform(vae.transform(X)) - X) / scale_of(vae).scale
    np.testing.assert_allclose(found, np.nansum(np.square(wrong), axis=1), rtol=1e-6)


@pytest.mark.parametrize("init", ["linear", "random"])
def test_a_linear_autoencoder_spans_the_principal_subspace(init):
    """Bourlard & Kamp 1988; with one scale for all columns it is PCA's of the rows as they are."""
    X = load_digits().data
    X = X[:, X.std(axis=0) > 0.5][:1000]
    settings = {"hidden_layer_sizes": (), "max_iter": 150 if init == "linear" else 400, "early_stopping": False}
    settings |= {"learning_rate_init": 1e-3 if init == "linear" else 3e-3, "likelihood": Gaussian("shared")}
    vae = VAETransformer(5, objective="autoencoder", init=init, random_state=0, **settings).fit(X)
    pca = PCA(5).fit(X)
    loadings = vae.module_.decoder.linear.weight.numpy()
    assert subspace_angles(loadings, pca.components_.T).max() < 1e-3
    error, least = (np.square(back - X).sum() for back in (vae.reconstruct(X), pca.inverse_transform(pca.transform(X))))
    assert 1 <= error / least < 1.0001


def test_a_linear_autoencoder_of_standardised_columns_is_their_pca():
    X = StandardScaler().fit_transform(digits()[:, [10, 18, 19, 20, 27, 28, 35, 36]]) * np.geomspace(0.01, 100, 8)
    settings = {"hidden_layer_sizes": (), "max_iter": 300, "early_stopping": False, "learning_rate_init": 3e-3}
    vae = VAETransformer(3, objective="autoencoder", random_state=0, **settings).fit(X)
    pca = PCA(3).fit(X / X.std(axis=0))
    assert subspace_angles(vae.module_.decoder.linear.weight.numpy(), pca.components_.T).max() < 2e-3


@pytest.mark.parametrize("n_components", [1, 12])
def test_a_code_may_be_narrower_or_wider_than_the_rows(n_components):
    X = digits()[:, [10, 18, 19, 20, 27, 28, 35, 36]]
    vae = estimator("autoencoder", n_components=n_components, max_iter=30, early_stopping=False).fit(X)
    assert vae.transform(X).shape == (300, n_components)
    lost = np.square(vae.reconstruct(X) - X).sum() / np.square(X - X.mean(0)).sum()
    assert (lost < 0.1) == (n_components > 8)


def test_categories_and_counts_have_an_error_to_lower():
    rng = np.random.default_rng(0)
    kind = rng.integers(3, size=400)
    categories = np.where(rng.random((400, 4)) < 0.9, kind[:, None], rng.integers(3, size=(400, 4)))
    counts = rng.poisson(np.array([2.0, 20.0, 200.0])[kind][:, None] * [1.0, 2.0, 0.5])
    settings = {"max_iter": 30, "early_stopping": False, "learning_rate_init": 1e-2}
    for X, likelihood in ((categories, Categorical()), (counts.astype(float), NegativeBinomial())):
        curve = estimator("autoencoder", n_components=2, likelihood=likelihood, **settings).fit(X).loss_curve_
        assert curve[-1] < 0.7 * curve[0]
    back = estimator("autoencoder", n_components=2, likelihood=Categorical(), **settings).fit(categories)
    assert (back.reconstruct(categories) == kind[:, None]).mean() > 0.85


def test_ratings_that_nobody_gave_are_filled_better_than_by_column_means():
    """AutoRec (Sedhain et al. 2015): rows of users (`fit(R)`) or of items (`fit(R.T)`), the loss on what there is."""
    rng = np.random.default_rng(0)
    ratings = np.clip(np.round(3 + rng.normal(size=(200, 3)) @ rng.normal(size=(3, 30))), 1, 5)
    seen = with_gaps(ratings, 0.3)
    gaps = np.isnan(seen)
    settings = {"max_iter": 100, "learning_rate_init": 3e-3}
    by_user = estimator("autoencoder", **settings).fit(seen).impute(seen)
    by_item = estimator("autoencoder", **settings).fit(seen.T).impute(seen.T).T
    means = np.broadcast_to(np.nanmean(seen, axis=0), seen.shape)
    errors = [np.sqrt(np.square(guess - ratings)[gaps].mean()) for guess in (by_user, by_item, means)]
    assert max(errors[:2]) < 0.7 * errors[2]
