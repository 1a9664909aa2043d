"""Scores of reconstructions, and searches that compare families of models by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import make, with_gaps
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import Gaussian, VAEAnomalyDetector, VAETransformer, VAETransformerCV
from skvae.metrics import reconstruction_error
from skvae.objectives import Autoencoder, Denoising, OnePass

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def digits():
    X = load_digits().data[:300]
    return X[:, X.std(axis=0) > 1]


@pytest.mark.parametrize("objective", [Autoencoder(), "elbo"], ids=repr)
def test_it_is_minus_the_mean_square_of_what_reconstruct_misses_in_standard_deviations(digits, objective):
    vae = make(objective=objective).fit(digits[:200])
    rest = digits[200:]
    expected = -np.mean(((vae.reconstruct(rest) - rest) / digits[:200].std(axis=0)) ** 2)
    assert reconstruction_error(vae, rest) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("objective", [Autoencoder(), "elbo"], ids=repr)
def test_missing_cells_have_no_error(digits, objective):
    X = with_gaps(digits, 0.2)
    vae = make(objective=objective).fit(X)
    expected = -np.nanmean(((vae.reconstruct(X) - X) / vae.scale_) ** 2)
    assert reconstruction_error(vae, X) == pytest.approx(expected, rel=1e-9)


def test_a_linear_autoencoder_scores_what_pca_leaves(digits):
    Z = StandardScaler().fit_transform(digits)
    linear = {"likelihood": Gaussian("shared"), "hidden_layer_sizes": (), "early_stopping": False, "max_iter": 100}
    vae = make(n_components=5, objective=Autoencoder(), learning_rate_init=3e-3, **linear).fit(Z)
    left = 1 - PCA(5).fit(Z).explained_variance_ratio_.sum()
    assert reconstruction_error(vae, Z) == pytest.approx(-left, rel=1e-3)


def test_column_means_score_minus_one(digits):
    class Flat(OnePass):
        def terms(self, emitted, batch, model, rng, epoch):
            return {"loss": (emitted.outputs.square() + 0 * emitted.z.sum(-1, keepdim=True)).sum(-1)}

    vae = make(
        objective=Flat(), hidden_layer_sizes=(), max_iter=400, learning_rate_init=0.05, early_stopping=False
    ).fit(digits)
    assert reconstruction_error(vae, digits) == pytest.approx(-1, abs=1e-3)


def test_categories_score_the_brier_score_of_their_probabilities():
    rng = np.random.default_rng(0)
    X = np.where(rng.random((200, 3)) < 0.3, "a", "b").astype(object)
    X[:, 2] = X[:, 0]
    vae = make(likelihood="categorical", objective=Autoencoder(), max_iter=20).fit(X)
    model = vae.module_
    codes = vae.transform(X)[:, np.argsort(vae._order)]
    p = model.likelihood.expected(model.params(torch.tensor(codes))).detach().numpy()
    own = np.stack([X == "a", X == "b"], axis=-1).reshape(200, 6)
    expected = -((p - own) ** 2).sum() / X.size
    assert reconstruction_error(vae, X) == pytest.approx(expected, rel=1e-9)


def test_a_model_of_pairs_is_compared_with_its_targets(digits):
    noisy = digits + 8 * np.random.default_rng(0).normal(size=digits.shape)
    vae = make(objective=Denoising("paired"), max_iter=20).fit(noisy, digits)
    expected = -np.mean(((vae.reconstruct(noisy) - digits) / vae.scale_) ** 2)
    assert reconstruction_error(vae, noisy, digits) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(
        ValueError, match=r"objective=Denoising\(.*\) is trained towards y; give reconstruction_error a y"
    ):
        reconstruction_error(vae, noisy)


def test_other_targets_are_of_no_account(digits):
    vae = make(objective=Autoencoder()).fit(digits)
    assert reconstruction_error(vae, digits, np.arange(300)) == reconstruction_error(vae, digits)


def test_a_row_adds_the_same_in_any_company(digits):
    vae = make(objective=Autoencoder()).fit(digits)
    one_by_one = [reconstruction_error(vae, digits[[i]]) for i in range(50)]
    assert reconstruction_error(vae, digits[:50]) == pytest.approx(np.mean(one_by_one), rel=1e-9)


def test_the_last_step_of_a_pipeline_is_scored(digits):
    pipe = make_pipeline(PCA(8, random_state=0), make(objective=Autoencoder())).fit(digits)
    expected = reconstruction_error(pipe[-1], pipe[0].transform(digits))
    assert reconstruction_error(pipe, digits) == expected
    alone = Pipeline([("vae", make(objective=Autoencoder()))]).fit(digits)
    assert reconstruction_error(alone, digits) == reconstruction_error(alone[-1], digits)


def test_a_detector_and_a_search_are_scored(digits):
    for fitted in (
        VAEAnomalyDetector(2, max_iter=2, random_state=0),
        VAETransformerCV((1, 2), cv=2, max_iter=2, random_state=0),
    ):
        assert -1.5 < reconstruction_error(fitted.fit(digits), digits) < 0


@pytest.mark.parametrize(
    ("estimator", "X", "error", "words"),
    [
        (PCA(1), [[1.0]], TypeError, "reconstruction_error scores skvae's models, .* it got a PCA"),
        (VAETransformer(1), [[1.0]], NotFittedError, "not fitted yet"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(estimator, X, error, words):
    with pytest.raises(error, match=words):
        reconstruction_error(estimator, X)


def test_a_table_without_a_cell_is_refused_in_words(digits):
    vae = make(objective=Autoencoder()).fit(digits)
    with pytest.raises(ValueError, match="X holds no present cell"):
        reconstruction_error(vae, np.full((3, digits.shape[1]), np.nan))
    with pytest.raises(ValueError, match="features, but VAETransformer is expecting"):
        reconstruction_error(vae, digits[:, 1:])


# Searches


def test_families_are_compared_in_one_search(digits):
    grid = {"objective": ["elbo", "autoencoder", "denoising", "clustered"], "n_components": [1, 4]}
    search = GridSearchCV(make(), grid, scoring=reconstruction_error, cv=3).fit(digits)
    scores = search.cv_results_["mean_test_score"].reshape(2, 4)  # sizes, then families
    assert np.isfinite(scores).all()
    assert (scores[0] < scores[1]).all()
    assert search.best_params_["n_components"] == 4
    train, test = next(KFold(3).split(digits))
    vae = make(objective=Autoencoder(), n_components=4).fit(digits[train])
    assert search.cv_results_["split0_test_score"][5] == reconstruction_error(vae, digits[test])
    assert search.score(digits) == reconstruction_error(search.best_estimator_, digits)


def test_cross_validation_and_pipelines_take_the_scorer(digits):
    scores = cross_val_score(make(objective=Autoencoder()), digits, scoring=reconstruction_error, cv=3)
    assert scores.shape == (3,)
    assert (scores < 0).all()
    pipe = make_pipeline(StandardScaler(), make())
    grid = {"vaetransformer__objective": ["elbo", Autoencoder()]}
    found = GridSearchCV(pipe, grid, scoring=reconstruction_error, cv=3).fit(digits)
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()


def test_without_scoring_a_search_over_families_says_what_to_pass(digits):
    grid = {"objective": ["elbo", Autoencoder()]}
    with (
        pytest.warns(UserWarning, match="scoring=skvae.metrics.reconstruction_error does in a search"),
        pytest.warns(UserWarning, match="test scores are non-finite"),
    ):
        search = GridSearchCV(make(), grid, cv=3).fit(digits)
    assert np.isnan(search.cv_results_["mean_test_score"][1])


def test_a_search_for_the_number_of_latents_says_what_to_use(digits):
    search = VAETransformerCV((1, 2), objective=Autoencoder(), random_state=0)
    with pytest.raises(ValueError, match=r"use GridSearchCV\(VAETransformer\(\), .*metrics.reconstruction_error"):
        search.fit(digits)
