"""Cells given others against the closed form: draws, their number of points, quantiles and probabilities."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import scale_of
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning

from skvae import VAETransformer
from skvae._inference.draws import points_until_enough
from skvae._inference.posterior import Posterior, posterior
from skvae._inference.proposals import Around, Noise

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning")

N_DRAWS = 200


@cache
def linear(n_components):
    """A linear model, and 100 rows of which half of the columns are missing."""
    n_features = {2: 10, 8: 30, 30: 60}[n_components]
    rng = np.random.default_rng(0)
    z = rng.normal(size=(600, n_components))
    X = z @ rng.normal(size=(n_components, n_features)) + rng.normal(size=(600, n_features))
    X = 3 + X * rng.uniform(0.1, 10, n_features)
    vae = VAETransformer(n_components, hidden_layer_sizes=(), max_iter=1, random_state=0).fit(X)
    gaps = X[:100].copy()
    gaps[np.argsort(rng.random(gaps.shape), axis=1) < n_features // 2] = np.nan
    return vae, gaps


@cache
def exactly(n_components):
    """Means and standard deviations of the missing cells, by the model's own covariance."""
    vae, gaps = linear(n_components)
    z = torch.cat([torch.zeros(1, n_components), torch.eye(n_components)]).double()
    mean, *columns = scale_of(vae).to_data(vae.module_.mean(z).detach().numpy())
    W = (np.array(columns) - mean).T
    cov = W @ W.T + np.diag(vae.noise_variance_)
    found = np.full((2, *gaps.shape), np.nan)
    for n, row in enumerate(gaps):
        gap = np.isnan(row)
        gain = np.linalg.solve(cov[np.ix_(~gap, ~gap)], cov[np.ix_(~gap, gap)]).T
        found[0, n, gap] = mean[gap] + gain @ (row - mean)[~gap]
        found[1, n, gap] = np.sqrt(np.diag(cov[np.ix_(gap, gap)] - gain @ cov[np.ix_(~gap, gap)]))
    return found


@pytest.mark.parametrize("n_components", [2, 8, 30])
def test_draws_of_a_linear_model_are_as_good_as_perfect_ones(n_components):
    """Their means err as those of independent draws do, without repeats; 90 % intervals of 200 such hold .891."""
    vae, gaps = linear(n_components)
    mean, std = exactly(n_components)
    draws = (np.stack(vae.impute(gaps, n_draws=N_DRAWS, random_state=0)) - mean) / std
    missing = np.isnan(gaps)
    error = np.sqrt((draws.mean(axis=0)[missing] ** 2).mean())
    assert error < 1.07 / np.sqrt(N_DRAWS)
    assert draws.var(axis=0)[missing].mean() == pytest.approx(1.0, abs=0.02)
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    mass = (norm.cdf(high) - norm.cdf(low))[missing].mean()
    print(n_components, error * np.sqrt(N_DRAWS), mass)
    assert 0.88 < mass < 0.90


# How many points there are


def test_points_are_doubled_for_the_rows_whose_weights_are_uneven():
    """Weighted, they have the posterior's mean all the same."""
    vae, gaps = linear(2)
    inference = vae._inference()
    rows = inference.rows(gaps[:4])
    q = posterior(inference.model, rows)
    wide = torch.tensor([1.0, 3.0, 1.0, 3.0], dtype=torch.float64)[:, None, None]
    proposal = Around(Posterior(q.mean, wide * q.factor))
    found = {}
    noise = Noise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, points, n_effective in points_until_enough(inference.model, rows, proposal, 256, 150, noise):
            weight = torch.softmax(points.log_weight, dim=0)
            mean = torch.einsum("sn,snj->nj", weight, points.z)
            for i, row in enumerate(number.tolist()):
                found[row] = len(points.z), float(n_effective[i])
                assert (mean[i] - q.mean[row]).abs().max() < 5 * q.std[row].max() / float(n_effective[i]) ** 0.5
    effective_share = 17 / 81  # (2 c^2 - 1)^(J / 2) / c^(2 J) where the points lie c times as wide
    assert [found[row][0] for row in range(4)] == [256, 1024, 256, 1024]
    assert found[0][1] == pytest.approx(256)
    assert found[1][1] == pytest.approx(1024 * effective_share, rel=0.2)


@cache
def of_counts():
    """Six counts of three latents with steep rates."""
    X = np.random.default_rng(0).poisson(3.0, size=(100, 6)).astype(float)
    vae = VAETransformer(
        3, likelihood="poisson", hidden_layer_sizes=(), max_iter=1, learning_rate_init=1e-12, random_state=0
    ).fit(X)
    weight = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    vae._weights = vae._weights | {"decoder.linear.weight": weight, "decoder.linear.bias": np.ones(6, np.float32)}
    return vae


def test_rows_whose_draws_rest_on_a_few_points_are_named():
    """No rates that the latents can make fit such counts, and what fits best lies far out in p(z)."""
    vae, usual, odd = of_counts(), [2, np.nan, 3, 3, 4, np.nan], [1000, 0, 1000, 0, 1000, np.nan]
    with pytest.warns(UserWarning, match=r"Draws of row\(s\) 1, 3 rest on fewer than 10 effective points"):
        vae.impute(np.array([usual, odd, usual, odd]), n_draws=100, random_state=0)
    with pytest.warns(UserWarning, match=r"row\(s\) 0 rest on"):
        vae.sample(20, given=dict(enumerate(odd)), random_state=0)
    with pytest.warns(UserWarning, match=r"row\(s\) 0, 1, 2, 3, 4 and 2 more"):
        vae.impute(np.array([odd] * 7), n_draws=20, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae.impute(np.array([usual] * 3), n_draws=100, random_state=0)


# Categories


@cache
def of_categories(n_components):
    """Three categories, a column that they shift, and columns of two more latents."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 3))
    kind = (z[:, :1] * [[2.0, 0.0, -2.0]] + rng.gumbel(size=(300, 3))).argmax(1)
    X = pd.DataFrame(z @ rng.normal(size=(3, 4)) + 0.5 * rng.normal(size=(300, 4)), columns=list("abcd"))
    X["kind"] = np.array(["low", "mid", "top"])[kind]
    X.index = range(1000, 1300)
    return VAETransformer(n_components, likelihood="auto", max_iter=10, random_state=0).fit(X), X


@pytest.mark.parametrize("n_components", [1, 3])
def test_probabilities_of_categories_are_those_by_integration(n_components):
    """By draws from the prior, of which enough are as likely as the row for errors below .01."""
    vae, X = of_categories(n_components)
    gaps = X.iloc[:6].copy()
    gaps.loc[1001, ["a", "b"]] = np.nan
    gaps.loc[1002, ["a", "b", "c", "d"]] = np.nan
    found = vae.impute_proba(gaps, "kind")
    assert list(found.columns) == ["low", "mid", "top"]
    assert list(found.index) == list(gaps.index)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    rows = vae._inference().rows(vae._reader().read(gaps.assign(kind=None)))
    model = vae.module_
    z = torch.randn(60_000, n_components, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        weight = torch.softmax(model.log_joint_everywhere(z, rows.x, rows.mask) - model.prior.log_prob(z)[:, None], 0)
        proba = torch.softmax(model.params(z)[:, model.likelihood.columns_of_outputs() == 4], -1)
    np.testing.assert_allclose(found, (weight.T @ proba).numpy(), atol=0.03)


def test_what_a_cell_says_itself_is_left_out_of_its_probabilities():
    vae, X = of_categories(1)
    missing, other = X.iloc[:9].assign(kind=None), X.iloc[:9].assign(kind="mid")
    expected = vae.impute_proba(X.iloc[:9], "kind")
    pd.testing.assert_frame_equal(vae.impute_proba(missing, "kind"), expected)
    pd.testing.assert_frame_equal(vae.impute_proba(other, "kind"), expected)
    pd.testing.assert_frame_equal(vae.impute_proba(X.iloc[4:5], "kind"), expected.iloc[4:5])
    assert (vae.impute(missing)["kind"] == expected.idxmax(axis=1)).all()


def test_of_arrays_and_polars_frames_probabilities_are_such():
    vae, X = of_categories(1)
    expected = vae.impute_proba(X, "kind").to_numpy()
    parameters = vae.get_params() | {"max_iter": 2}
    array = VAETransformer(**parameters).fit(X.to_numpy())
    assert array.impute_proba(X.to_numpy(), 4).shape == (300, 3)
    assert array.impute_proba(X.to_numpy(), 4)[:, 0].mean() == pytest.approx(expected[:, 0].mean(), abs=0.05)
    frame = pl.from_pandas(X.reset_index(drop=True))
    assert VAETransformer(**parameters).fit(frame).impute_proba(frame, "kind").columns == ["low", "mid", "top"]


def test_columns_without_categories_have_no_probabilities():
    vae, X = of_categories(1)
    with pytest.raises(ValueError, match="column 'a' holds numbers; impute_proba is for categories"):
        vae.impute_proba(X, "a")
    with pytest.raises(ValueError, match="column='kinds' is none that fit has seen; did you mean 'kind'"):
        vae.impute_proba(X, "kinds")
    autoencoder = VAETransformer(1, likelihood="auto", objective="autoencoder", max_iter=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match="trains no density; use impute"):
        autoencoder.impute_proba(X, "kind")
