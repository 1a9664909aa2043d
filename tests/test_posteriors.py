"""Posteriors of any shape: likelihoods, conditional means and draws against a dense grid over the latents."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from helpers import rows_of, scale_of, seeded
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from skvae import ELBO, VAEImputer, VAETransformer

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning")


def parabola(n_rows=1500, seed=0):
    """x, x^2 and x again, each with a little noise: x^2 alone leaves two values for the others."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, n_rows)
    noise = rng.normal(size=(2, n_rows))
    return np.column_stack([x, x**2 + 0.05 * noise[0], x + 0.1 * noise[1]])


@cache
def fitted_parabola(n_components):
    vae = VAETransformer(n_components, max_iter=100, hidden_layer_sizes=(50,), random_state=0)
    return vae.fit(parabola())


def grid(n_components, reach, n_axis):
    """Latents (C, J), and the logarithm of a cell's volume."""
    axis = np.linspace(-reach, reach, n_axis)
    z = np.stack(np.meshgrid(*[axis] * n_components, indexing="ij"), axis=-1).reshape(-1, n_components)
    return torch.tensor(z), n_components * np.log(axis[1] - axis[0])


def log_joints(vae, X, reach, n_axis):
    """log p(x, z) of the rows of X, times a cell's volume, a part of a dense grid at a time."""
    model, rows = vae.module_, rows_of(vae, X)
    points, log_volume = grid(
        model.n_components if hasattr(model, "n_components") else vae.n_components_, reach, n_axis
    )
    with torch.no_grad():
        for z in points.split(max(1, 2_000_000 // rows.x.numel())):
            outputs = model.params(z)
            terms = model.likelihood.log_prob(outputs[:, None].expand(-1, len(rows), -1), rows.x)
            terms = terms if rows.mask is None else terms * rows.mask
            yield z, outputs, terms.sum(-1) + model.prior.log_prob(z)[:, None] + log_volume


def log_likelihood(vae, X, reach=7.0, n_axis=None):
    """log p of the present cells of the rows of X."""
    n_axis = n_axis or (20_001 if vae.n_components_ == 1 else 701)
    parts = [torch.logsumexp(joint, 0) for _, _, joint in log_joints(vae, X, reach, n_axis)]
    return torch.logsumexp(torch.stack(parts), 0).numpy()


def moments(vae, row, column):
    """Mean, standard deviation and P(> 0) of a normal cell of a row given the present ones, in data units."""
    n_axis = 20_001 if vae.n_components_ == 1 else 701
    found = list(log_joints(vae, row, 7.0, n_axis))
    weight = torch.softmax(torch.cat([joint[:, 0] for *_, joint in found]), 0).numpy()
    outputs = torch.cat([outputs for _, outputs, _ in found])
    with torch.no_grad():
        centre = scale_of(vae).to_data(vae.module_.likelihood.mean(outputs).numpy())[:, column]
    mean, noise = weight @ centre, vae.noise_variance_[column]
    above = weight @ torch.special.ndtr(torch.tensor(centre / np.sqrt(noise))).numpy()
    return mean, np.sqrt(weight @ (centre - mean) ** 2 + noise), above


def moments_by_draws(vae, row, column):
    """`moments` by a million draws from the prior, of any number of latents."""
    model, rows = vae.module_, rows_of(vae, row)
    z = torch.randn(1_000_000, vae.n_components_, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        weight = torch.softmax(
            torch.cat([model.log_prob(part[:, None], rows.x, rows.mask).sum(-1) for part in z.split(50_000)]), 0
        )
        kept = z[torch.multinomial(weight[:, 0], 100_000, replacement=True, generator=seeded())]
        x = scale_of(vae).to_data(model.sample(kept, seeded()).numpy())[:, column]
    return x.mean(), x.std(), (x > 0).mean()


# Several modes


@pytest.mark.parametrize(("n_components", "height"), [(1, 0.5), (1, 2.25), (1, 3.5), (2, 2.25)])
def test_draws_come_from_every_mode_in_proportion(n_components, height):
    vae, n = fitted_parabola(n_components), 4000 // n_components**2
    row = np.array([[np.nan, height, np.nan]])
    mean, std, above = moments(vae, row, 0)
    several = np.array([table[0, 0] for table in vae.impute(row, n_draws=n, random_state=0)])
    single = vae.impute(np.repeat(row, n, axis=0), n_draws=1, random_state=0)[0][:, 0]
    for draws in (several, single):
        assert draws.mean() == pytest.approx(mean, abs=5 * std / np.sqrt(n))
        assert draws.std() == pytest.approx(std, rel=0.06)
        assert (draws > 0).mean() == pytest.approx(above, abs=0.03)
        assert len(np.unique(draws)) == n
    assert 0.3 < above < 0.7
    assert vae.impute(row)[0, 0] == pytest.approx(mean, abs=2e-3)


def test_tables_filled_from_a_curve_keep_its_shape():
    vae, X = fitted_parabola(1), parabola(seed=1)
    gaps = X.copy()
    gaps[::2, [0, 2]] = np.nan
    tables = vae.impute(gaps, n_draws=5, random_state=0)
    for table in tables:
        assert np.corrcoef(table[:, 0], table[:, 1])[0, 1] == pytest.approx(0.0, abs=0.1)
        assert table[:, 0].mean() == pytest.approx(0.0, abs=0.12)


def test_the_imputers_draws_come_from_both_branches():
    X = parabola()
    model = VAETransformer(1, max_iter=100, hidden_layer_sizes=(50,), random_state=0)
    imputer = VAEImputer(model, sample_posterior=True, random_state=0).fit(X)
    gaps = parabola(seed=1)
    gaps[:, [0, 2]] = np.nan
    assert (imputer.transform(gaps)[:, 0] > 0).mean() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("n_components", [1, 2])
def test_the_likelihood_of_rows_with_gaps_is_the_integral_over_all_modes(n_components):
    vae = fitted_parabola(n_components)
    X = parabola(40, seed=2)
    X[::2, [0, 2]] = np.nan
    X[1::4, 2] = np.nan
    X = np.vstack([X, [[np.nan, 2.25, np.nan], [np.nan, 3.9, np.nan], [np.nan] * 3]])
    error = vae.score_samples(X) - log_likelihood(vae, X)
    assert abs(error.mean()) < 1e-3
    assert np.abs(error).max() < 2e-2
    assert np.abs(error[-3:]).max() < 1e-3


def test_draws_of_many_latents_come_from_every_mode():
    X = np.column_stack([parabola(), np.random.default_rng(0).normal(size=(1500, 2))])
    vae = VAETransformer(4, max_iter=100, hidden_layer_sizes=(50,), random_state=0).fit(X)
    rows = np.full((2000, 5), np.nan)
    rows[:, 1] = 2.25
    mean, std, above = moments_by_draws(vae, rows[:1], 0)
    draws = vae.impute(rows, n_draws=1, random_state=0)[0][:, 0]
    assert draws.mean() == pytest.approx(mean, abs=0.1)
    assert draws.std() == pytest.approx(std, rel=0.05)
    assert (draws > 0).mean() == pytest.approx(above, abs=0.03)
    assert 0.3 < above < 0.7


# Encoders that do not know the posterior


TABLES = {"iris": load_iris, "wine": load_wine}


@pytest.mark.parametrize("beta", [0.01, 0.3, 4.0])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("n_components", [1, 2])
def test_score_is_the_likelihood_whatever_the_objective_made_of_the_encoder(name, n_components, beta):
    train, test = train_test_split(TABLES[name]().data, random_state=0)
    vae = VAETransformer(n_components, objective=ELBO(beta=beta), random_state=0).fit(train)
    score, truth = vae.score_samples(test).mean(), log_likelihood(vae, test, 12.0, 20_001 if n_components == 1 else 601)
    assert score == pytest.approx(truth.mean(), abs=1e-3)
    if n_components == 1:
        far = train.mean(axis=0) + 3 * (test - train.mean(axis=0))
        np.testing.assert_allclose(vae.score_samples(far), log_likelihood(vae, far, 60.0, 60_001), atol=1e-2)
