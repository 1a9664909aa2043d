"""The bound of rows with gaps that the encoder sees filled, and the imputer's default model, which trains with it."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import seeded
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import VAEImputer, VAETransformer, imputer
from skvae._tables.batches import Batch
from skvae._training.stated import states_gradient
from skvae.objectives import Completed

NOISE = 0.3


@pytest.fixture(scope="module")
def factors():
    """Eight columns of three latents with noise of variance 0.09, and the same with 40 % of the cells missing."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 8)) + NOISE * rng.normal(size=(400, 8))
    return X, np.where(rng.random(X.shape) < 0.4, np.nan, X)


def quick(**parameters):
    parameters = {"n_components": 3, "max_iter": 30, "random_state": 0} | parameters
    return VAETransformer(**parameters)


@pytest.fixture(scope="module")
def fitted(factors):
    _, G = factors
    filled = quick(max_iter=1, n_draws=16).fit(G).impute(G)
    return quick(max_iter=80).fit(G), quick(objective=Completed(), max_iter=80).fit(G, filled)


def test_the_noise_is_the_data_s(factors, fitted):
    """Where gaps show the encoder the columns' means, what it cannot tell of z counts as noise."""
    X, G = factors
    by_means, by_filling = (np.mean(vae.noise_variance_) for vae in fitted)
    assert by_filling == pytest.approx(NOISE**2, rel=0.25)
    assert by_means > 1.25 * by_filling
    gaps = np.isnan(G)
    errors = [np.sqrt(np.mean((vae.impute(G) - X)[gaps] ** 2)) for vae in fitted]
    assert errors[1] < errors[0]
    assert fitted[1].score(G) > fitted[0].score(G)


def test_of_complete_rows_it_is_the_bound(factors):
    X, _ = factors
    plain, shown = quick().fit(X), quick(objective=Completed()).fit(X, X)
    np.testing.assert_allclose(shown.loss_curve_, plain.loss_curve_, rtol=1e-6)
    np.testing.assert_allclose(shown.transform(X), plain.transform(X), rtol=1e-4, atol=1e-5)


def test_the_encoder_sees_the_filling_and_the_decoder_answers_for_present_cells(fitted):
    model = fitted[1].module_
    rng = np.random.default_rng(0)
    x, filled, other = (torch.from_numpy(rng.normal(size=(6, 8))) for _ in range(3))
    mask = torch.from_numpy((rng.random((6, 8)) < 0.6).astype(float))
    batch = Batch(x * mask, mask, y=torch.where(mask > 0, x, filled))
    found = Completed()(model, batch, seeded(1), 1)["loss"]
    mu, log_var = model.encode(batch.y)
    z = mu + torch.exp(0.5 * log_var) * torch.randn(1, 6, 3, generator=seeded(1), dtype=torch.float64)[0]
    kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(-1)
    torch.testing.assert_close(found, kl - (model.log_prob(z, x) * mask).sum(-1))
    elsewhere = Batch(batch.x, mask, y=torch.where(mask > 0, x, other))
    assert (Completed()(model, elsewhere, seeded(1), 1)["loss"] != found).any()


@pytest.mark.parametrize("likelihood", ["gaussian", "log_normal", "negative_binomial", "auto"])
def test_a_step_without_a_graph_has_the_gradient_of_autograd(likelihood):
    rng = np.random.default_rng(0)
    X = rng.poisson(5.0, size=(60, 4)) + 1.0
    G = np.where(rng.random(X.shape) < 0.3, np.nan, X)
    settings = {"objective": Completed(), "likelihood": likelihood, "max_iter": 3, "learning_rate_init": 1e-2}
    filled = np.where(np.isnan(G), 4.5, G)  # no count: it is shown, and compared with nothing
    dense = quick(**settings).fit(G, filled)
    assert states_gradient(dense.module_, Completed())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skvae._training.engine.states_gradient", lambda *_: False)
        graph = quick(**settings).fit(G, filled)
    np.testing.assert_allclose(dense.loss_curve_, graph.loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(dense.validation_curve_, graph.validation_curve_, rtol=1e-4)


def test_a_filling_with_gaps_is_refused(factors):
    _, G = factors
    with pytest.raises(
        ValueError, match="y holds NaN or infinity, but objective=Completed\\(\\) shows the encoder all"
    ):
        quick(objective=Completed()).fit(G, G)
    with pytest.raises(ValueError, match="trained towards y; give fit a y"):
        quick(objective=Completed()).fit(G)


# The imputer's default model


def groups(n_rows):
    """Three groups in four columns, a fifth of the cells missing."""
    rng = np.random.default_rng(0)
    centres = rng.choice([-6.0, 0.0, 6.0], size=(n_rows, 1)) * [1, -1, 1, 1]
    X = centres + rng.normal(size=(n_rows, 4))
    return np.where(rng.random(X.shape) < 0.2, np.nan, X)


@pytest.fixture
def short(monkeypatch):
    """Default models of few epochs and units."""

    def few(*args, **parameters):
        return VAETransformer(*args, max_iter=8, hidden_layer_sizes=(10,), **parameters)

    monkeypatch.setattr(imputer, "VAETransformer", few)


@pytest.mark.parametrize(("n_columns", "n_latents"), [(1, 1), (4, 4), (30, 24)])
def test_there_is_a_latent_for_every_column(short, n_columns, n_latents):
    X = np.random.default_rng(0).normal(size=(30, n_columns))
    X[::7, 0] = np.nan
    assert VAEImputer(random_state=0).fit(X).estimator_.n_components_ == n_latents


@pytest.mark.parametrize(("n_rows", "n_columns", "prior"), [(20, 4, "mixture"), (19, 4, "normal"), (20, 24, "normal")])
def test_the_prior_is_learnt_where_there_are_rows_and_few_latents(short, n_rows, n_columns, prior):
    X = np.tile(groups(n_rows), n_columns // 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of so few epochs, and more latents than numbers
        assert VAEImputer(random_state=0).fit(X).estimator_.prior == prior


def test_a_model_with_that_objective_is_shown_filled_rows(factors):
    """And y, which a pipeline hands to every step, is not taken for them."""
    G = factors[1][:60]
    model = quick(objective=Completed())
    found = VAEImputer(model).fit(G, np.zeros(len(G))).transform(G)
    np.testing.assert_array_equal(
        found, quick(objective=Completed()).fit(G, quick(max_iter=1, n_draws=16).fit(G).impute(G)).impute(G)
    )


def test_several_imputers_stand_before_a_classifier(short):
    """Chained: one draw a seed, in pipelines that are cross-validated, and the same draw for the same seed."""
    X = groups(60)
    y = np.nan_to_num(X[:, 3]) > np.nanmean(X[:, 3])
    scores = [
        cross_val_score(
            make_pipeline(VAEImputer(sample_posterior=True, random_state=s), StandardScaler(), LogisticRegression()),
            X,
            y,
            cv=2,
        ).mean()
        for s in range(2)
    ]
    assert min(scores) > 0.7
    first, again, other = (VAEImputer(sample_posterior=True, random_state=s).fit_transform(X) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other)[np.isnan(X)].all()


def test_frames_of_mixed_types_keep_them(short):
    rng = np.random.default_rng(0)
    kind = rng.choice(["low", "high"], 80)
    X = pd.DataFrame(
        {"kind": pd.Categorical(kind), "n": rng.poisson(3, 80), "x": rng.normal(size=80) + (kind == "low")}
    )
    G = X.copy()
    G.loc[::6, "kind"], G.loc[::5, "x"] = None, np.nan
    filled = VAEImputer(sample_posterior=True, random_state=0).fit_transform(G)
    assert filled.notna().all(axis=None)
    assert filled.dtypes.equals(X.dtypes)
    pd.testing.assert_frame_equal(filled[G.notna().all(axis=1)], X[G.notna().all(axis=1)])
