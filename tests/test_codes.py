"""Objectives that train codes without a spread: what each minimises, and what there is without a density."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pytest
import torch
from helpers import Watcher, by_skops, rows_of, scale_of, seeded, with_gaps
from scipy.linalg import subspace_angles
from scipy.stats import entropy
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skvae import (
    Categorical,
    Gaussian,
    JohnsonSU,
    LogNormal,
    Mixed,
    NegativeBinomial,
    VAETransformer,
)
from skvae.objectives import OBJECTIVES, Autoencoder, Batch, Contractive, Denoising, Sparse

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Every kind in settings that matter, and its registered name.
CODES = {
    "autoencoder": Autoencoder(),
    "sparse": Sparse(),
    "sparse code": Sparse(layer="code", weight=0.01),
    "sparse relu code": Sparse(layer="code", code="relu", weight=0.01),
    "kl": Sparse("kl", layer="code", code="sigmoid"),
    "denoising": Denoising(),
    "denoising, scales": Denoising(scale=list(np.linspace(0.0, 2.0, 64))),
    "mask": Denoising("mask"),
    "contractive": Contractive(),
}
NAMES = ["autoencoder", "sparse", "denoising", "contractive"]
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


# Sparse


def hidden_units(vae, X):
    """Activations of the encoder's hidden layers, (N, units)."""
    rows = rows_of(vae, X)
    found = vae.module_.hidden(vae.module_.seen(rows.x, rows.mask))
    return np.concatenate([layer.numpy() for layer in found], axis=1)


LAYERS = {"hidden": {}, "code": {"code": "sigmoid"}}


@pytest.mark.parametrize("layer", LAYERS)
def test_the_mean_activation_of_every_unit_becomes_rho(layer):
    X = load_digits().data
    X = X[:, X.std(axis=0) > 0.5]
    objective = Sparse("kl", layer=layer, weight=10.0, rho=0.1, **LAYERS[layer])
    settings = {"n_components": 60 if layer == "code" else 5, "max_iter": 100, "learning_rate_init": 1e-2}
    vae = estimator(objective, hidden_layer_sizes=(60,), activation="sigmoid", early_stopping=False, **settings).fit(X)
    units = vae.transform(X) if layer == "code" else hidden_units(vae, X)
    assert units.shape[1] == 60
    np.testing.assert_allclose(units.mean(axis=0), 0.1, atol=0.02)
    lost = np.square((vae.reconstruct(X) - X) / vae.scale_).mean()
    assert lost < 0.5  # it still says something of its rows


@pytest.mark.parametrize("weight", [None, np.linspace(0.5, 1.5, 30)])
def test_the_divergence_is_that_of_bernoulli_variables_of_the_batchs_means(weight):
    X, rho = digits(30), 0.2
    vae = estimator(Sparse("kl", rho=rho, weight=3.0), activation="sigmoid", hidden_layer_sizes=(7, 5)).fit(digits())
    terms = vae.objective(vae.module_, rows_of(vae, X, weight), seeded(), 1)
    mean = np.average(hidden_units(vae, X), axis=0, weights=weight)
    expected = entropy([[rho] * 12, [1 - rho] * 12], [mean, 1 - mean]).sum()
    assert float(terms["penalty"]) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(terms["loss"], terms["error"] + 3.0 * expected, rtol=1e-9)


@pytest.mark.parametrize("layer", ["hidden", "code"])
def test_l1_is_the_sum_of_absolute_activations(layer):
    X = digits(30)
    vae = estimator(Sparse(layer=layer, weight=0.3), activation="tanh", hidden_layer_sizes=(7, 5)).fit(digits())
    terms = vae.objective(vae.module_, rows_of(vae, X), seeded(), 1)
    units = vae.transform(X) if layer == "code" else hidden_units(vae, X)
    np.testing.assert_allclose(terms["penalty"], np.abs(units).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(terms["loss"], terms["error"] + 0.3 * terms["penalty"], rtol=1e-12)


def quiet_share(vae, X):
    """The share of code numbers below a tenth of their column's size: whatever the code's scale is."""
    Z = vae.transform(X)
    return (np.abs(Z) < 0.1 * np.sqrt(np.square(Z).mean(axis=0))).mean()


@pytest.mark.parametrize("code", ["identity", "relu"])
def test_l1_makes_codes_sparse_that_are_wider_than_the_rows(code):
    X = load_digits().data
    X = X[:, X.std(axis=0) > 0.5]
    settings = {"n_components": 60, "hidden_layer_sizes": (60,), "early_stopping": False}
    settings |= {"max_iter": 60, "learning_rate_init": 1e-3 if code == "identity" else 3e-3}
    plain, sparse = (
        estimator(Sparse(layer="code", code=code, weight=weight), **settings).fit(X) for weight in (0.0, 0.5)
    )
    assert X.shape[1] < 60
    assert quiet_share(sparse, X) > 1.4 * quiet_share(plain, X)
    assert np.square((sparse.reconstruct(X) - X) / sparse.scale_).mean() < 0.15


def test_l1_silences_hidden_units():
    quiet, loud = (estimator(Sparse(weight=w), max_iter=40, early_stopping=False).fit(digits()) for w in (0.1, 0.0))
    assert (hidden_units(quiet, digits()) == 0).mean() > (hidden_units(loud, digits()) == 0).mean() + 0.1


@pytest.mark.parametrize(
    ("objective", "settings", "words"),
    [
        (Sparse("kl"), {}, "and hidden ones leave them; use activation='sigmoid', or penalty='l1'"),
        (Sparse("kl"), {"activation": "tanh"}, "needs activations between 0 and 1"),
        (Sparse("kl"), {"activation": "softplus"}, "use activation='sigmoid'"),
        (Sparse("kl", layer="code"), {}, "and the code's leave them; use code='sigmoid', or penalty='l1'"),
        (Sparse("kl", layer="code", code="relu"), {}, "use code='sigmoid'"),
        (Sparse(), {"hidden_layer_sizes": ()}, "hidden activations, and it has none; give hidden_layer_sizes a layer"),
        (Sparse(), {"encoder": lambda n_in, n_out: nn.Linear(n_in, n_out)}, "only a skvae.networks.LinearPath shows"),
        (Sparse(weight=-1.0), {}, "'weight' parameter of Sparse"),
        (Sparse(rho=1.0), {}, "'rho' parameter of Sparse"),
        (Sparse(code="tanh"), {}, "'code' parameter of Sparse"),
        (Denoising(scale=[1.0, 2.0]), {}, "scale must be None, a number from 0 on, or one for each of the 64 columns"),
        (Denoising(scale=[-1.0] * 64), {}, "scale must be None, a number from 0 on"),
        (Denoising(scale=[np.nan] * 64), {}, "scale must be None, a number from 0 on"),
        (Denoising(scale=["a"] * 64), {}, "scale must be None, a number from 0 on"),
        (Denoising(scale=-1.0), {}, "'scale' parameter of Denoising"),
        (Denoising("mask", drop=1.0), {}, "'drop' parameter of Denoising"),
        (Denoising("salt"), {}, "'noise' parameter of Denoising"),
        (Denoising(), {"likelihood": "poisson"}, "hold set values .* use noise='mask', or a function of your own"),
        (Denoising(lambda X, rng: X[:, 1:]), {}, r"of the shape it gets, \(90, 64\); it returned \(90, 63\)"),
        (Denoising(lambda X, rng: X + np.inf), {}, "makes cells that are infinite or outside the likelihood's support"),
        (Denoising("paired"), {}, "is trained towards y; give fit a y"),
        (Contractive(weight=-0.1), {}, "'weight' parameter of Contractive"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence_before_training_and_the_last_model_stays(objective, settings, words):
    vae = estimator("autoencoder", max_iter=1).fit(digits(100))
    before, watcher = vae.transform(digits(100)), Watcher()
    vae.set_params(objective=objective, **settings).set_callbacks(watcher)
    with pytest.raises((TypeError, ValueError), match=words):
        vae.fit(digits(100) + 1)
    assert "epoch" not in watcher.ended
    np.testing.assert_array_equal(vae.transform(digits(100)), before)


def test_activations_of_ones_own_between_0_and_1_will_do():
    class Half(nn.Module):
        def forward(self, x):
            return torch.nn.functional.hardsigmoid(x)

    vae = estimator(Sparse("kl"), activation=Half).fit(digits(100))
    assert np.isfinite(vae.loss_curve_).all()


# Denoising


@pytest.mark.parametrize("likelihood", [Gaussian(), Gaussian("shared"), JohnsonSU()], ids=repr)
@pytest.mark.parametrize("objective", [Denoising(scale=0), Denoising(scale=[0.0] * 64), Denoising("mask", drop=0.0)])
def test_without_noise_it_is_the_plain_autoencoder_bit_for_bit(objective, likelihood):
    X = with_gaps(digits(), 0.05)
    still, plain = (estimator(o, likelihood=likelihood).fit(X) for o in (objective, Autoencoder()))
    assert still.history_ == plain.history_
    assert still.validation_curve_ == plain.validation_curve_
    for key, value in plain._weights.items():
        np.testing.assert_array_equal(still._weights[key], value)


def views_of(objective, X, likelihood="gaussian", n_copies=1, seed=0):
    """What the encoder sees of rows, repeated, in data units, and what the output is compared with."""
    vae = estimator("autoencoder", likelihood=likelihood, max_iter=1).fit(X)
    rows = rows_of(vae, np.repeat(X, n_copies, axis=0))
    seen, compared = objective.views(vae.module_.units, rows, seeded(seed))
    return seen, compared, scale_of(vae)


@pytest.mark.parametrize("scale", [3.0, [0.5, 0.0, 10.0]])
@pytest.mark.parametrize("likelihood", [Gaussian(), Gaussian("shared")], ids=repr)
def test_gaussian_noise_has_the_scale_it_is_given_in_the_units_of_the_data(scale, likelihood, any_seed):
    X = np.random.default_rng(0).normal(size=(50, 3)) * [1.0, 20.0, 300.0] + [0.0, 5.0, 1e4]
    seen, compared, units = views_of(Denoising(scale=scale), X, likelihood, 400, any_seed)
    clean = np.repeat(X, 400, axis=0)
    np.testing.assert_allclose(units.to_data(compared.x.numpy()), clean, rtol=1e-9, atol=1e-9)
    noise = units.to_data(seen.x.numpy()) - clean
    expected = np.broadcast_to(scale, 3)
    np.testing.assert_allclose(noise.std(axis=0), expected, rtol=5 / np.sqrt(2 * 20_000), atol=1e-9)
    assert (np.abs(noise.mean(axis=0)) < 5 * expected / np.sqrt(20_000) + 1e-9).all()
    apart = np.corrcoef(noise[:, [0, 2]].T)[0, 1]
    assert abs(apart) < 5 / np.sqrt(20_000)


def test_gaussian_noise_is_half_a_standard_deviation_where_none_is_given(any_seed):
    X = np.random.default_rng(0).normal(size=(50, 3)) * [1.0, 20.0, 300.0]
    seen, _, units = views_of(Denoising(), X, n_copies=400, seed=any_seed)
    noise = units.to_data(seen.x.numpy()) - np.repeat(X, 400, axis=0)
    np.testing.assert_allclose(noise.std(axis=0) / X.std(axis=0), 0.5, rtol=5 / np.sqrt(2 * 20_000))


def test_columns_of_categories_get_no_gaussian_noise_and_others_do():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=60), rng.integers(3, size=60), rng.integers(2, size=60)])
    seen, _, _ = views_of(Denoising(scale=1.0), X, Mixed([("gaussian", [0]), (Categorical(), [1, 2])]))
    np.testing.assert_array_equal(seen.x[:, 1:], X[:, 1:])
    assert float((seen.x[:, 0] - rows_like(X[:, 0])).abs().max()) > 0.1


def rows_like(column):
    return torch.tensor((column - column.mean()) / column.std())


def test_noise_on_amounts_leaves_them_positive():
    X = np.random.default_rng(0).lognormal(size=(200, 4))
    seen, _, _ = views_of(Denoising(), X, LogNormal())
    assert bool((seen.x > 0).all())
    vae = estimator("denoising", likelihood=LogNormal()).fit(X)
    assert np.isfinite(vae.loss_curve_).all()


def test_a_mask_hides_its_share_of_cells_as_if_they_were_missing(any_seed):
    X = with_gaps(digits(200), 0.2)
    vae = estimator("autoencoder", max_iter=1).fit(X)
    rows = rows_of(vae, X)
    seen, compared = Denoising("mask", drop=0.3).views(vae.module_.units, rows, seeded(any_seed))
    assert compared is rows
    assert seen.x is rows.x
    hidden = (seen.mask == 0).numpy() & (rows.mask > 0).numpy()
    assert not ((seen.mask > 0) & (rows.mask == 0)).any()  # what is missing stays so
    assert hidden.sum() / float(rows.mask.sum()) == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / 10_000))
    as_missing = rows_of(vae, np.where(hidden, np.nan, X))
    model = vae.module_
    assert torch.equal(model.seen(seen.x, seen.mask), model.seen(as_missing.x, as_missing.mask))


def blotted(X, rng):
    """A watermark in data units, over a random half of the rows, and a hidden corner."""
    X[rng.random(len(X)) < 0.5, 20:28] = 16.0
    X[:, :2] = np.nan
    return X


def test_a_corruption_of_ones_own_gets_rows_in_the_units_of_the_data():
    X = with_gaps(digits(100), 0.1)
    seen_by_user = []

    def noise(rows, rng):
        seen_by_user.append(rows.copy())
        assert isinstance(rng, np.random.Generator)
        return blotted(rows, rng)

    seen, compared, units = views_of(Denoising(noise), X)
    np.testing.assert_allclose(seen_by_user[0], X, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.where(compared.mask > 0, units.to_data(compared.x.numpy()), np.nan), X, atol=1e-9)
    shown = np.where(seen.mask > 0, units.to_data(seen.x.numpy()), np.nan)
    marked = np.isclose(shown[:, [20, 21, 26, 27]], 16).all(axis=1)
    assert 20 < marked.sum() < 80
    assert np.isnan(shown[:, :2]).all()
    np.testing.assert_allclose(shown[~marked, 2:], X[~marked, 2:], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(shown[marked, 28:], X[marked, 28:], rtol=1e-9, atol=1e-9)


def test_a_corruption_of_ones_own_repeats_with_the_seed():
    one, again = (estimator(Denoising(blotted)).fit(digits()) for _ in range(2))
    assert one.history_ == again.history_
    assert one.history_ != estimator(Denoising(blotted), random_state=1).fit(digits()).history_


def test_a_watermark_is_removed():
    X = digits(600)
    train, test = X[:500], X[500:]
    settings = {"n_components": 20, "hidden_layer_sizes": (64,), "max_iter": 60, "learning_rate_init": 3e-3}
    cleaner, plain = (estimator(o, **settings).fit(train) for o in (Denoising(blotted), Autoencoder()))
    marked = np.nan_to_num(blotted(test.copy(), np.random.default_rng(0)))
    errors = [np.square(vae.reconstruct(marked) - test).mean() for vae in (cleaner, plain)]
    assert errors[0] < 0.7 * errors[1]
    assert errors[0] < 0.7 * np.square(marked - test).mean()


def test_gaussian_noise_is_removed_better_than_by_a_plain_autoencoder():
    X = load_digits().data
    noisy = X + np.random.default_rng(0).normal(size=X.shape) * 4
    settings = {"n_components": 30, "hidden_layer_sizes": (64,), "max_iter": 40, "learning_rate_init": 3e-3}
    cleaner, plain = (estimator(o, **settings).fit(X[:1000]) for o in (Denoising(scale=4.0), Autoencoder()))
    errors = [np.square(vae.reconstruct(noisy[1000:]) - X[1000:]).mean() for vae in (cleaner, plain)]
    assert errors[0] < 0.8 * errors[1]


def test_pairs_are_noisy_rows_and_what_they_are_to_become():
    X = digits()
    noisy = X + np.random.default_rng(0).normal(size=X.shape) * 4
    settings = {"max_iter": 40, "learning_rate_init": 3e-3, "n_components": 20}
    paired = estimator(Denoising("paired"), **settings).fit(noisy, X)
    plain = estimator("autoencoder", **settings).fit(noisy)
    errors = [np.square(vae.reconstruct(noisy) - X).mean() for vae in (paired, plain)]
    assert errors[0] < 0.9 * errors[1]
    assert errors[0] < 0.9 * np.square(noisy - X).mean()


def test_pairs_are_compared_where_the_noisy_row_has_gaps():
    X = digits(100)[:, digits(100).std(axis=0) > 0]
    vae = estimator(Denoising("paired")).fit(with_gaps(X, 0.3), X)
    rows = rows_of(vae, with_gaps(X, 0.3))
    rows = Batch(rows.x, rows.mask, None, rows_of(vae, X).x)
    loss = vae.objective(vae.module_, rows, seeded(), 1)["loss"]
    wrong = (vae.reconstruct(with_gaps(X, 0.3)) - X) / scale_of(vae).scale
    np.testing.assert_allclose(loss, np.square(wrong).sum(axis=1), rtol=1e-6)


def test_hidden_cells_train_imputation():
    """Rows that were complete in `fit`: an encoder that saw hidden cells fills new gaps better."""
    X = load_breast_cancer().data
    gaps = with_gaps(X[300:], 0.3)
    settings = {"n_components": 8, "hidden_layer_sizes": (64,), "max_iter": 60}
    masked, plain = (estimator(o, **settings).fit(X[:300]) for o in (Denoising("mask"), Autoencoder()))
    errors = [np.square((vae.impute(gaps) - X[300:]) / vae.scale_).mean() for vae in (masked, plain)]
    assert errors[0] < 0.8 * errors[1]


# Contractive


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)], ids=len)
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_contraction_is_the_squared_norm_of_the_codes_derivatives(hidden, share):
    """By central differences, over the cells that are present."""
    X = with_gaps(digits(6)[:, 10:30], share)
    settings = {"hidden_layer_sizes": hidden, "activation": "tanh", "max_iter": 20, "learning_rate_init": 1e-2}
    vae = estimator(Contractive(), **settings).fit(digits()[:, 10:30])
    rows, step = rows_of(vae, X), 1e-5
    found = vae.objective(vae.module_, rows, seeded(), 1)["contraction"].detach().numpy()
    total = np.zeros(6)
    for column in range(20):
        moved = []
        for sign in (1, -1):
            x = rows.x.clone()
            x[:, column] += sign * step
            moved.append(vae.module_.encode_mean(x, rows.mask).numpy())
        total += np.square((moved[0] - moved[1]) / (2 * step)).sum(axis=1)
    np.testing.assert_allclose(found, total, rtol=1e-6)


def test_the_contraction_of_a_linear_encoder_is_its_weights_squared_norm():
    vae = estimator(Contractive(), hidden_layer_sizes=()).fit(digits())
    found = vae.objective(vae.module_, rows_of(vae, digits(4)), seeded(), 1)["contraction"].detach()
    np.testing.assert_allclose(found, float(vae.module_.encoder.linear.weight.square().sum()), rtol=1e-9)


def test_the_contraction_trains_the_encoder_by_its_second_derivatives():
    flat, steep = (
        estimator(Contractive(weight), max_iter=30, early_stopping=False).fit(digits()) for weight in (30.0, 0.0)
    )
    assert flat.history_["contraction"][-1] < 0.5 * steep.history_["contraction"][-1]
    assert steep.history_["loss"] == steep.history_["error"]


def test_rows_of_categories_have_a_contraction():
    rng = np.random.default_rng(0)
    X = rng.integers(3, size=(100, 4))
    curve = estimator(Contractive(), likelihood=Categorical()).fit(X).history_["contraction"]
    assert min(curve) > 0
