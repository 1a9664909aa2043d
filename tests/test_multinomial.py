"""Counts given their total: a likelihood of whole rows."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROUTES, seeded
from members import columns_of
from scipy import sparse, stats
from scipy.special import softmax

from skvae import Mixed, Multinomial, VAETransformer
from skvae.likelihoods import CellWeights, autograd_gradient


def baskets(n_rows=300, n_columns=6, seed=0):
    """Counts of rows of two kinds, with totals of their own."""
    rng = np.random.default_rng(seed)
    shares = np.random.default_rng(7).dirichlet([0.5] * n_columns, size=2)
    totals = rng.poisson(15, size=n_rows) + 1
    return np.array([rng.multinomial(n, shares[k]) for n, k in zip(totals, rng.integers(2, size=n_rows), strict=True)])


@pytest.fixture(scope="module")
def fitted():
    return VAETransformer(2, likelihood="multinomial", max_iter=10, random_state=0).fit(baskets())


def module(X):
    density, _, rows = columns_of(Multinomial(), X.astype(float))
    return density, rows


def outputs_of(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


# p(x|z, n)


def test_the_density_of_a_row_is_scipys():
    X = baskets(20)
    density, rows = module(X)
    outputs = outputs_of(4, 20, 6)
    found = density.log_prob(outputs, rows.x).sum(-1).numpy()
    p = softmax(outputs.numpy(), axis=-1)
    np.testing.assert_allclose(found, stats.multinomial(X.sum(axis=1), p).logpmf(X), rtol=1e-10)


@pytest.mark.parametrize("total", [0, 1, 5])
def test_probabilities_of_all_rows_of_a_total_sum_to_one(total):
    X = np.array([row for row in product(range(total + 1), repeat=3) if sum(row) == total])
    density, _ = module(baskets(10, 3))
    log_p = density.log_prob(outputs_of(1, 3), torch.tensor(X, dtype=torch.float64)).sum(-1)
    assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_the_score_of_all_rows_of_a_total_sums_to_one():
    vae = VAETransformer(1, likelihood="multinomial", max_iter=10, random_state=0).fit(baskets(200, 3))
    X = np.array([row for row in product(range(7), repeat=3) if sum(row) == 6])
    assert np.exp(vae.score_samples(X)).sum() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("xp", [np, torch])
@pytest.mark.parametrize("alike", [True, False])
def test_the_stated_gradient_is_autograds(xp, alike):
    """Cells that count differently, large counts and large logits."""
    X = baskets(30)
    X[0], X[1] = 0, X[1] * 1_000_000
    density, rows = module(X)
    outputs = 20 * outputs_of(30, 6)
    mass = torch.full((1, 1), 1 / 30, dtype=torch.float64) if alike else torch.rand(30, 6, generator=seeded(3)).double()
    cells = CellWeights(mass, mass.sum(-2, keepdim=True))
    expected, slope = autograd_gradient(density)(outputs, rows.x, cells)
    seen = density.step_input(rows.x)
    own = [v if xp is torch else v.numpy() for v in (outputs.clone(), seen, *cells)]
    found, own_slope = density.gradient(xp)(own[0], own[1], CellWeights(own[2], own[3]))
    np.testing.assert_allclose(np.asarray(found).sum(), float(expected), rtol=1e-9)
    np.testing.assert_allclose(np.asarray(own_slope), slope.numpy(), rtol=1e-7, atol=1e-9)


def test_training_has_no_graph(capsys):
    VAETransformer(1, likelihood="multinomial", max_iter=1, verbose=2, random_state=0).fit(baskets(60))
    assert "dense engine" in capsys.readouterr().out


def test_training_starts_better_than_columns_that_are_independent():
    """Two kinds of rows: the linear start tells them apart."""
    X = baskets(400)
    vae = VAETransformer(2, likelihood="multinomial", max_iter=1, learning_rate_init=1e-12, random_state=0).fit(X)
    share = (X.sum(axis=0) + 0.5 / 6) / (X.sum() + 0.5)
    alone = stats.multinomial(X.sum(axis=1), share).logpmf(X).mean()
    assert vae.score(X) > alone + 2


# Means and draws


def test_reconstructions_have_the_rows_own_totals(fitted):
    X = baskets(20, seed=3)
    np.testing.assert_allclose(fitted.reconstruct(X).sum(axis=1), X.sum(axis=1), rtol=1e-6)
    decoded = fitted.inverse_transform(fitted.transform(X))
    np.testing.assert_allclose(decoded.sum(axis=1), baskets().sum(axis=1).mean(), rtol=1e-6)
    shares = decoded / decoded.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.reconstruct(X) / X.sum(axis=1, keepdims=True), shares, rtol=1e-6)


def test_drawn_rows_have_totals_of_training_rows_and_the_means_of_the_model(fitted):
    X, drawn = baskets(), fitted.sample(2000, random_state=0)
    assert (drawn % 1 == 0).all()
    assert (drawn >= 0).all()
    assert set(drawn.sum(axis=1)) <= set(X.sum(axis=1))
    np.testing.assert_allclose(drawn.sum(axis=1).mean(), X.sum(axis=1).mean(), atol=0.4)
    np.testing.assert_allclose(drawn.mean(axis=0), X.mean(axis=0), atol=0.6)


def test_draws_of_one_latent_are_multinomial():
    density, _ = module(np.tile([[3, 2, 5]], (10, 1)))
    outputs = outputs_of(1, 3)
    drawn = density.sample(outputs.expand(20_000, -1), seeded(1)).numpy()
    assert (drawn.sum(axis=1) == 10).all()
    expected = stats.multinomial(10, softmax(outputs.numpy()[0]))
    np.testing.assert_allclose(drawn.mean(axis=0), 10 * expected.p, atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), expected.cov(), atol=0.08)


def test_large_totals_are_drawn_from_their_range():
    density, _ = module(np.tile([[600, 400]], (10, 1)))
    totals = density.sample(outputs_of(1, 2).expand(500, -1), seeded(1)).sum(-1)
    assert totals.min() >= 1000 / 1.19
    assert totals.max() <= 1000 * 1.19


# Tables


def test_sparse_and_weighted_tables_and_columns_without_counts():
    X = baskets(100)
    X[:, 2] = 0
    kinds = [
        VAETransformer(1, likelihood="multinomial", max_iter=3, random_state=0).fit(table)
        for table in (X, sparse.csr_matrix(X), pd.DataFrame(X))
    ]
    assert kinds[0].score(X) == kinds[1].score(sparse.csr_matrix(X)) == pytest.approx(kinds[2].score(pd.DataFrame(X)))
    twice = VAETransformer(1, likelihood="multinomial", max_iter=3, random_state=0)
    assert np.isfinite(twice.fit(X, sample_weight=np.arange(1, 101)).score(X))


def test_a_missing_count_is_refused_and_a_row_without_any_is_drawn(fitted):
    X = baskets(30).astype(float)
    X[4, 1] = np.nan
    with pytest.raises(ValueError, match="column 1 lacks a count"):
        VAETransformer(1, likelihood="multinomial", random_state=0).fit(X)
    with pytest.raises(ValueError, match="column 2 holds 0.5"):
        fitted.score(np.full((1, 6), [1, 1, 0.5, 1, 1, 1]))
    X[4] = np.nan
    filled = fitted.impute(X)
    np.testing.assert_allclose(filled[4].sum(), baskets().sum(axis=1).mean(), rtol=1e-6)
    drawn = fitted.impute(X, n_draws=1, random_state=0)[0][4]
    assert drawn.sum() in baskets().sum(axis=1)


def test_beside_other_columns_and_given_ones():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(baskets(200), columns=list("abcdef"))
    table = table.assign(age=rng.normal(40, 10, 200), site=rng.choice(["x", "y"], 200))
    likelihood = Mixed([("multinomial", list("abcdef")), ("given", ["site"])], remainder="gaussian")
    vae = VAETransformer(2, likelihood=likelihood, max_iter=3, random_state=0).fit(table)
    assert np.isfinite(vae.score(table))
    table.loc[3, "age"] = np.nan
    assert vae.impute(table).notna().all(axis=None)
    moved = vae.inverse_transform(vae.transform(table), given={"site": "x"})
    assert (moved["site"] == "x").all()
    drawn = vae.sample(5, given={"site": "y"}, random_state=0)
    assert set(drawn[list("abcdef")].sum(axis=1)) <= set(table[list("abcdef")].sum(axis=1))


@pytest.mark.parametrize("route", ["pickle", "skops"])
def test_saved_models_answer_alike(fitted, route, tmp_path):
    loaded = ROUTES[route](fitted, tmp_path)
    np.testing.assert_array_equal(loaded.sample(5, random_state=0), fitted.sample(5, random_state=0))
    np.testing.assert_array_equal(loaded.score_samples(baskets()), fitted.score_samples(baskets()))
