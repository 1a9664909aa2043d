"""Distribution functions of the likelihoods, and quantiles of missing cells: by scipy, closed forms and dense grids."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import of_one_latent, on_a_line, scale_of
from members import KINDS, MEMBERS, density_of, oracle, outputs_for, table
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from test_conditional import exactly, linear
from test_posteriors import fitted_parabola

from skvae import VAETransformer
from skvae.likelihoods import LikelihoodModule

pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning")

LEVELS = [0.05, 0.5, 0.95]
CATEGORIES = {"categorical": [0, 1, 2], "mixed": [0]}


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_cdf_is_scipys(name):
    X = table(name)
    density, scale, rows = density_of(name, X)
    outputs = outputs_for(density, 4, 50)
    with torch.no_grad():
        found = density.cdf(outputs, rows.x).numpy()
        beside = density.cdf(outputs, rows.x + 1e-3).numpy()
    numbers = np.setdiff1d(np.arange(X.shape[1]), CATEGORIES.get(name, []))
    expected = oracle(MEMBERS[name], density, scale, outputs).cdf(X)
    np.testing.assert_allclose(found[..., numbers], expected[..., numbers], atol=1e-8)
    assert np.isnan(found[..., CATEGORIES.get(name, [])]).all()
    whole = [d for d in numbers if KINDS[name][d] in ("count", 2)]
    np.testing.assert_array_equal(beside[..., whole], found[..., whole])
    assert (beside[..., numbers] >= found[..., numbers]).all()


@pytest.mark.parametrize("n_components", [2, 8, 30])
def test_quantiles_of_a_linear_model_are_the_normals(n_components):
    """Of a cell's standard deviation they err by .02, as the mean of 2500 draws does."""
    vae, gaps = linear(n_components)
    mean, std = exactly(n_components)
    error = (np.stack(vae.impute(gaps[:30], quantiles=LEVELS)) - mean[:30]) / std[:30]
    error -= norm.ppf(LEVELS)[:, None, None]
    assert (np.sqrt(np.nanmean(error**2, axis=(1, 2))) < 0.03).all()
    assert (np.abs(np.nanmean(error, axis=(1, 2))) < 0.01).all()


# With one latent, any likelihood's conditionals are integrals over a line.


def reached(vae, row, values):
    """P(a cell is at most its value | the row's present cells), and just below it, by a sum over z: two (D,)."""
    outputs, weight = on_a_line(vae, row)
    at = torch.tensor(scale_of(vae).to_model(np.stack([values, values - 1e-3 * np.abs(values) - 1e-6])))
    with torch.no_grad():
        return [(weight @ vae.module_.likelihood.cdf(outputs, own[None])).numpy() for own in at]


@pytest.mark.parametrize("gaps", [[1, 3], [2], [0, 1, 2, 3, 4]], ids=str)
def test_of_any_likelihood_quantiles_are_those_by_integration(gaps):
    """A whole number is the first to reach its level; other numbers reach it within a hundredth."""
    vae, X = of_one_latent(max_iter=10)
    row = X[7].copy()
    row[gaps] = np.nan
    for level, filled in zip(LEVELS, vae.impute(row[None], quantiles=LEVELS), strict=True):
        at, below = reached(vae, row, filled[0])
        for column in set(gaps) - {0}:
            if column in (1, 3):
                assert filled[0, column] % 1 == 0
                assert below[column] - 0.01 < level < at[column] + 0.01
            else:
                assert at[column] == pytest.approx(level, abs=0.01)
        if 0 in gaps:
            assert np.isnan(filled[0, 0])


def test_where_there_are_two_branches_quantiles_lie_on_them():
    vae, row = fitted_parabola(1), np.array([np.nan, 2.25, np.nan])
    low, below, above, high = (t[0, 0] for t in vae.impute(row[None], quantiles=[0.05, 0.4, 0.6, 0.95]))
    assert low < below < -1 < 1 < above < high
    for level, value in zip([0.05, 0.4, 0.6, 0.95], [low, below, above, high], strict=True):
        assert reached(vae, row, np.array([value, 1.0, 1.0]))[0][0] == pytest.approx(level, abs=0.02)


def test_without_a_distribution_function_draws_stand_in_for_it(monkeypatch):
    vae, gaps = linear(2)
    mean, std = exactly(2)
    monkeypatch.setattr(type(vae.module_.likelihood), "cdf", LikelihoodModule.cdf)
    error = (np.stack(vae.impute(gaps[:30], quantiles=LEVELS)) - mean[:30]) / std[:30] - norm.ppf(LEVELS)[:, None, None]
    assert np.nanmax(np.abs(error)) < 0.4
    assert (np.sqrt(np.nanmean(error**2, axis=(1, 2))) < 0.15).all()


# What comes back


def test_quantiles_are_tables_with_the_present_cells_untouched():
    vae, gaps = linear(8)
    X = gaps[:6].astype(np.float32)
    before = X.copy()
    tables = vae.impute(X, quantiles=[0.9, 0.1, 0.5, 0.11])
    assert len(tables) == 4
    for filled in tables:
        assert filled.dtype == np.float32
        np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    high, low, middle, above_low = (filled[np.isnan(X)] for filled in tables)
    assert ((low <= above_low) & (above_low < middle) & (middle < high)).all()
    np.testing.assert_array_equal(X, before)
    for filled in vae.impute(np.nan_to_num(X), quantiles=[0.1, 0.9]):
        np.testing.assert_array_equal(filled, np.nan_to_num(X))


@pytest.mark.parametrize("n_components", [2, 8])
def test_a_row_s_quantiles_do_not_depend_on_its_company(n_components):
    vae, gaps = linear(n_components)
    together = vae.impute(gaps[:40], quantiles=[0.2])[0]
    np.testing.assert_allclose(vae.impute(gaps[7:8], quantiles=[0.2])[0], together[7:8], rtol=1e-7)
    np.testing.assert_allclose(vae.impute(gaps[:40][::-1], quantiles=[0.2])[0], together[::-1], rtol=1e-7)


def test_of_a_frame_numbers_keep_their_type_and_categories_stay_missing():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"n": rng.integers(0, 50, 100), "x": rng.normal(size=100), "who": rng.choice(["a", "b"], 100)})
    vae = VAETransformer(1, likelihood="auto", max_iter=2, random_state=0).fit(X)
    gaps = pd.DataFrame({"n": pd.array([None, 3], dtype="Int64"), "x": [0.5, np.nan], "who": [None, "b"]}, index=[5, 9])
    for filled in vae.impute(gaps, quantiles=[0.3, 0.7]):
        assert list(filled.index) == [5, 9]
        assert filled["n"].dtype == "Int64"
        assert filled["n"].notna().all()
        assert filled.loc[9, ["n", "who"]].tolist() == [3, "b"]
        assert pd.isna(filled.loc[5, "who"])
        assert filled.loc[5, "x"] == 0.5
        assert np.isfinite(filled.loc[9, "x"])
    array = vae.fit(X.to_numpy()).impute(gaps.astype(object).where(gaps.notna(), None).to_numpy(), quantiles=[0.5])[0]
    assert array[0, 2] is None
    assert array[1].tolist()[::2] == [3, "b"]


@pytest.mark.parametrize("quantiles", [0.5, [], [0.5, 1.0], [0.0], [-0.1], ["a"], [[0.5]], [np.nan], "median"])
def test_wrong_levels_are_refused(quantiles):
    vae, gaps = linear(2)
    with pytest.raises(ValueError, match="must be a list of numbers between 0 and 1"):
        vae.impute(gaps, quantiles=quantiles)


def test_draws_and_quantiles_exclude_each_other():
    vae, gaps = linear(2)
    with pytest.raises(ValueError, match="n_draws and quantiles ask for different tables"):
        vae.impute(gaps, n_draws=2, quantiles=[0.5])


def test_without_a_density_there_are_no_quantiles():
    X = np.random.default_rng(0).normal(size=(50, 3))
    vae = VAETransformer(1, objective="autoencoder", max_iter=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match="trains no density to draw from; use quantiles=None"):
        vae.impute([[0.0, np.nan, 1.0]], quantiles=[0.5])
