"""Missing cells: conditional means and draws against the closed form, and the imputer as a step of a pipeline."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import of_one_latent, on_a_line, scale_of
from sklearn.base import clone
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils._param_validation import InvalidParameterError

from skvae import Gaussian, VAEImputer, VAETransformer
from skvae.objectives import Denoising


@pytest.fixture(scope="module")
def correlated():
    """Five columns of two latents."""
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(200, 2)) @ rng.normal(size=(2, 5)) * [1, 10, 1, 0.1, 3] + 0.3 * rng.normal(size=(200, 5)) + 4
    )


def linear(noise, X):
    return VAETransformer(2, likelihood=Gaussian(noise), hidden_layer_sizes=(), max_iter=5, random_state=0).fit(X)


def covariance_of(vae):
    """Mean and covariance of a linear model's X."""
    z = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
    mean = scale_of(vae).to_data(vae.module_.mean(z).numpy())
    W = (mean[1:] - mean[0]).T
    return mean[0], W @ W.T + np.diag(np.broadcast_to(vae.noise_variance_, len(W)))


def conditional(mean, cov, row):
    """Mean and covariance of a row's missing cells given the others."""
    gap = np.isnan(row)
    gain = np.linalg.solve(cov[np.ix_(~gap, ~gap)], cov[np.ix_(~gap, gap)]).T
    return mean[gap] + gain @ (row - mean)[~gap], cov[np.ix_(gap, gap)] - gain @ cov[np.ix_(~gap, gap)]


GAPS = [[1], [0, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("noise", ["shared", "feature"])
@pytest.mark.parametrize("gaps", GAPS, ids=len)
def test_of_a_linear_model_means_and_draws_have_the_closed_forms_moments(correlated, noise, gaps, any_seed):
    """All within five standard errors; a share of two variances errs by sqrt(2 / n) at most."""
    vae = linear(noise, correlated)
    row = correlated[:1].copy()
    row[0, gaps] = np.nan
    mean, cov = conditional(*covariance_of(vae), row[0])
    std, n = np.sqrt(np.diag(cov)), 14_000
    assert (np.abs(vae.impute(row)[0, gaps] - mean) < 1e-5 * std).all()
    draws = np.stack(vae.impute(row, n_draws=n, random_state=any_seed))[:, 0, gaps]
    assert (np.abs(draws.mean(0) - mean) < 5 * std / np.sqrt(n)).all()
    found = np.cov(draws.T, bias=True).reshape(cov.shape) / np.outer(std, std)
    np.testing.assert_allclose(found, cov / np.outer(std, std), atol=5 * np.sqrt(2 / n))


def test_draws_of_different_rows_are_independent(correlated, any_seed):
    """Their correlation is 0 within five standard errors."""
    vae = linear("shared", correlated)
    rows = np.repeat(correlated[:1], 2, axis=0)
    rows[:, 1] = np.nan
    draws = np.stack(vae.impute(rows, n_draws=7000, random_state=any_seed))[:, :, 1]
    assert abs(np.corrcoef(draws.T)[0, 1]) < 5 / np.sqrt(7000)


# With one latent, any likelihood's conditionals are integrals over a line.


@pytest.fixture(scope="module")
def mixed_model():
    return of_one_latent(max_iter=20)


def expected_given(vae, row):
    """E[x | the row's present cells] in data units: means, and each category's probability, by a sum over z."""
    outputs, weight = on_a_line(vae, row)
    expected = (weight @ vae.module_.likelihood.expected(outputs)).numpy()
    return expected[:3], scale_of(vae).to_data(np.r_[np.nan, expected[3:]])


@pytest.mark.parametrize("gaps", [[0], [1, 3], [0, 2], [0, 1, 2, 3], [4, 0]], ids=str)
def test_of_any_likelihood_means_and_draws_are_those_by_integration(mixed_model, gaps, any_seed):
    vae, X = mixed_model
    row, n = X[7].copy(), 5200
    row[gaps] = np.nan
    share, mean = expected_given(vae, row)
    filled = vae.impute(row[None])[0]
    draws = np.stack(vae.impute(row[None], n_draws=n, random_state=any_seed))[:, 0]
    for column in gaps:
        if column == 0:
            assert filled[0] == share.argmax()
            found = np.bincount(draws[:, 0].astype(int), minlength=3) / n
            np.testing.assert_allclose(found, share, atol=5 * 0.5 / np.sqrt(n))
        else:
            assert filled[column] == pytest.approx(mean[column], rel=1e-3)
            spread = 5 * draws[:, column].std() / np.sqrt(n)
            assert draws[:, column].mean() == pytest.approx(mean[column], abs=spread)


def test_draws_are_weighted_where_the_posterior_is_far_from_normal():
    """A count of 0 says that the latent is low, and not how low; the other count grows like its exponential."""
    X = np.random.default_rng(0).poisson(3.0, size=(60, 2)).astype(float)
    vae = VAETransformer(
        1, likelihood="poisson", hidden_layer_sizes=(), max_iter=1, learning_rate_init=1e-12, random_state=0
    ).fit(X)
    changed = {"decoder.linear.weight": [[2.5], [0.8]], "decoder.linear.bias": [0.5, 1.0]}
    vae._weights = vae._weights | {name: np.array(value, dtype=np.float32) for name, value in changed.items()}
    row, n = np.array([0.0, np.nan]), 20_000
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * z**2 - torch.exp(2.5 * z + 0.5), 0)
    rate = torch.exp(0.8 * z + 1.0)
    mean = float(weight @ rate)
    std = float(weight @ (rate + rate**2) - mean**2) ** 0.5
    draws = np.stack(vae.impute(row[None], n_draws=n, random_state=0))[:, 0, 1]
    assert draws.mean() == pytest.approx(mean, abs=6 * std / np.sqrt(n))
    assert draws.std() == pytest.approx(std, rel=0.05)
    assert vae.set_params(n_draws=1024).impute(row[None])[0, 1] == pytest.approx(mean, rel=1e-4)


def test_drawn_cells_are_within_the_support(mixed_model):
    vae, X = mixed_model
    (filled,) = vae.impute(np.full((300, 5), np.nan), n_draws=1, random_state=0)
    assert set(filled[:, 0]) == {0, 1, 2}
    assert (filled[:, 1] % 1 == 0).all()
    assert (filled[:, [1]] >= 0).all()
    assert (filled[:, 2] > 0).all()
    assert set(filled[:, 3]) == {0, 1}
    for column in range(5):  # rows without any value are new rows
        assert filled[:, column].mean() == pytest.approx(X[:, column].mean(), abs=6 * X[:, column].std() / np.sqrt(300))


def test_categories_are_imputed_by_the_most_likely_one():
    rng = np.random.default_rng(0)
    group = rng.choice(["low", "mid", "high"], 300)
    centre = np.array([{"low": -4.0, "mid": 0.0, "high": 4.0}[name] for name in group])
    X = pd.DataFrame({"group": group, "x": centre + rng.normal(size=300), "y": centre + rng.normal(size=300)})
    gaps = X.copy()
    gaps.loc[::10, "group"] = None
    filled = VAEImputer(VAETransformer(1, likelihood="auto", random_state=0)).fit_transform(gaps)
    assert (filled.group[::10] == X.group[::10]).mean() > 0.9
    assert filled.group.isna().sum() == 0
    pd.testing.assert_frame_equal(filled[["x", "y"]], X[["x", "y"]])


# What `impute` gives back


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_draws_are_tables_with_the_present_cells_untouched(correlated, dtype):
    X = correlated.astype(dtype)
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    before, present = X.copy(), ~np.isnan(X)
    vae = linear("feature", X)
    tables = vae.impute(X, n_draws=3, random_state=0)
    assert isinstance(tables, list)
    assert len(tables) == 3
    for table in tables:
        assert table.dtype == dtype
        assert np.isfinite(table).all()
        np.testing.assert_array_equal(table[present], X[present])
    assert not (tables[0] == tables[1])[~present].any()
    tables[0][:] = 7.0  # no other table, and not X
    assert (tables[1] != 7.0).all()
    np.testing.assert_array_equal(X, before)


def test_a_table_without_gaps_comes_back_as_copies(correlated):
    vae = linear("feature", correlated)
    for table in [vae.impute(correlated), *vae.impute(correlated, n_draws=2, random_state=0)]:
        np.testing.assert_array_equal(table, correlated)
        assert not np.shares_memory(table, correlated)


def test_draws_follow_the_random_state(correlated):
    X = correlated.copy()
    X[::2, 1] = np.nan
    vae = linear("feature", X)
    first, again, other = (vae.impute(X, n_draws=2, random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.stack(first) != np.stack(other))[:, ::2, 1].all()
    rng = np.random.RandomState(0)
    np.testing.assert_array_equal(vae.impute(X, n_draws=2, random_state=rng), first)
    assert (vae.impute(X, n_draws=2, random_state=rng)[0] != first[0])[::2, 1].all()


@pytest.mark.parametrize("n_draws", [0, -1, 1.5, True, "2"])
def test_a_wrong_number_of_draws_is_refused(correlated, n_draws):
    with pytest.raises(ValueError, match=f"n_draws={n_draws!r} must be an integer of at least 1, or None"):
        linear("feature", correlated).impute(correlated, n_draws=n_draws)


def test_numpys_integers_are_numbers_of_draws(correlated):
    assert len(linear("feature", correlated).impute(correlated, n_draws=np.int64(2), random_state=0)) == 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("likelihood", ["gaussian", "student_t", "auto"])
@pytest.mark.parametrize("n_components", [1, 3])
def test_a_row_too_far_out_is_refused_with_draws_as_with_means(likelihood, n_components):
    X = np.random.default_rng(0).normal(3.0, 2.0, size=(60, 4))
    vae = VAETransformer(n_components, likelihood=likelihood, max_iter=2, random_state=0).fit(X)
    G = np.vstack([X[:1], X[:3] * 1e200 + 1e200])
    G[:, 0] = np.nan
    for parameters in ({}, {"n_draws": 2, "random_state": 0}):
        with pytest.raises(ValueError, match="Row 1 of X is too far from the training data"):
            vae.impute(G, **parameters)
    imputer = VAEImputer(vae, sample_posterior=True, random_state=0)
    with pytest.raises(ValueError, match="Row 1 of X is too far from the training data"):
        imputer.fit(X).transform(G)


def test_gaps_of_a_table_with_one_enormous_column_are_drawn():
    X = np.random.default_rng(0).normal(size=(60, 4)) * [1, 1e200, 1, 1]
    vae = VAETransformer(2, max_iter=2, random_state=0).fit(X)
    G = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)
    assert all(np.isfinite(table).all() for table in vae.impute(G, n_draws=3, random_state=0))


def test_multiple_imputation_covers_the_truth(correlated, any_seed):
    """The truth lies within the draws' central 80 % about 80 % of the time: conditional means alone cannot say so."""
    gaps = np.random.default_rng(any_seed).random(correlated.shape) < 0.2
    X = np.where(gaps, np.nan, correlated)
    tables = np.stack(linear("feature", X).impute(X, n_draws=100, random_state=any_seed))
    low, high = np.quantile(tables, [0.1, 0.9], axis=0)
    inside = ((low < correlated) & (correlated < high))[gaps]
    assert inside.mean() == pytest.approx(0.8, abs=0.12)


# The imputer


@pytest.fixture(scope="module")
def gapped(wine):
    X = wine.copy()
    X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    return X


def quick(**parameters):
    return VAEImputer(VAETransformer(2, max_iter=5, random_state=0), **parameters)


def test_the_imputer_is_the_models_impute(gapped):
    imputer = quick().fit(gapped)
    vae = VAETransformer(2, max_iter=5, random_state=0).fit(gapped)
    np.testing.assert_array_equal(imputer.transform(gapped), vae.impute(gapped))
    np.testing.assert_array_equal(quick().fit_transform(gapped), vae.impute(gapped))
    assert imputer.n_features_in_ == 13
    assert isinstance(imputer.estimator_, VAETransformer)


def test_the_imputer_beats_the_means(wine, gapped):
    gaps, std = np.isnan(gapped), wine.std(axis=0)
    errors = [
        np.sqrt((((imputer.fit_transform(gapped) - wine) / std)[gaps] ** 2).mean())
        for imputer in (VAEImputer(random_state=0), SimpleImputer())
    ]
    assert errors[0] < 0.85 * errors[1]


def test_its_default_model_takes_any_column():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.choice(["p", "q"], 60), "b": rng.poisson(3, 60), "c": rng.normal(size=60)})
    X.loc[::5, "a"] = None
    X.loc[::7, "c"] = np.nan
    filled = VAEImputer(random_state=0).fit_transform(X)
    assert filled.notna().all(axis=None)
    assert set(filled.a) == {"p", "q"}


def test_sampling_the_posterior_gives_draws_of_its_random_state(gapped):
    gaps = np.isnan(gapped)
    first, again, other = (quick(sample_posterior=True, random_state=seed).fit_transform(gapped) for seed in (0, 0, 1))
    mean = quick().fit_transform(gapped)
    np.testing.assert_array_equal(first, again)
    assert not (first == other)[gaps].any()
    assert not (first == mean)[gaps].any()
    np.testing.assert_array_equal(first[~gaps], gapped[~gaps])
    imputer = quick(sample_posterior=True, random_state=np.random.RandomState(0)).fit(gapped)
    assert not (imputer.transform(gapped) == imputer.transform(gapped))[gaps].any()


def test_its_random_state_is_the_models_where_that_has_none(gapped):
    def fit(own, models):
        return VAEImputer(VAETransformer(2, max_iter=2, random_state=models), random_state=own).fit_transform(gapped)

    np.testing.assert_array_equal(fit(0, None), fit(5, 0))
    assert (fit(1, None) != fit(0, None)).any()


def test_the_given_estimator_is_left_alone(gapped):
    model = VAETransformer(2, max_iter=2)
    imputer = VAEImputer(model, random_state=0).fit(gapped)
    assert model.random_state is None
    assert not hasattr(model, "module_")
    assert imputer.estimator is model
    assert imputer.estimator_ is not model


def test_weights_reach_the_model(gapped):
    weight = np.arange(len(gapped)) % 3.0
    weighted = quick().fit(gapped, sample_weight=weight).transform(gapped)
    removed = VAETransformer(2, max_iter=5, random_state=0).fit(gapped, sample_weight=weight).impute(gapped)
    np.testing.assert_array_equal(weighted, removed)
    assert (weighted != quick().fit_transform(gapped)).any()


def test_a_clone_is_unfitted_and_fits_alike(gapped):
    imputer = quick(sample_posterior=True, random_state=3).fit(gapped)
    copy = clone(imputer)
    with pytest.raises(NotFittedError):
        copy.transform(gapped)
    assert copy.get_params(deep=False).keys() == {"estimator", "sample_posterior", "random_state"}
    np.testing.assert_array_equal(copy.fit_transform(gapped), imputer.transform(gapped))


def test_names_go_through_unchanged(gapped):
    names = [f"c{i}" for i in range(13)]
    X = pd.DataFrame(gapped, columns=names, index=np.arange(178) + 5)
    imputer = quick().fit(X)
    assert imputer.get_feature_names_out().tolist() == imputer.feature_names_in_.tolist() == names
    filled = imputer.transform(X)
    assert filled.columns.tolist() == names
    pd.testing.assert_index_equal(filled.index, X.index)
    np.testing.assert_array_equal(filled.to_numpy(), quick().fit_transform(gapped))
    assert quick().fit(gapped).get_feature_names_out().tolist() == [f"x{i}" for i in range(13)]
    assert not hasattr(imputer.fit(gapped), "feature_names_in_")
    with pytest.raises(ValueError, match="feature names should match"):
        quick().fit(X).transform(X[names[::-1]])
    with pytest.raises(ValueError, match="X has 12 features"):
        quick().fit(gapped).transform(gapped[:, 1:])


@pytest.mark.parametrize("output", ["pandas", "polars"])
@pytest.mark.parametrize("frame", [False, True])
def test_set_output_chooses_the_container(gapped, output, frame):
    names = [f"c{i}" for i in range(13)]
    X = pd.DataFrame(gapped, columns=names) if frame else gapped
    filled = quick().set_output(transform=output).fit_transform(X)
    assert type(filled).__module__.split(".")[0] == output
    assert list(filled.columns) == (names if frame else [f"x{i}" for i in range(13)])
    np.testing.assert_array_equal(filled.to_numpy(), quick().fit_transform(gapped))


def test_it_stands_before_a_classifier(gapped):
    y = np.repeat([0, 1, 2], [59, 71, 48])
    pipe = make_pipeline(quick(), StandardScaler(), LogisticRegression())
    assert cross_val_score(pipe, gapped, y, cv=3).mean() > 0.85
    search = GridSearchCV(pipe, {"vaeimputer__estimator__n_components": [1, 2]}, cv=2, error_score="raise")
    assert search.fit(gapped, y).best_params_["vaeimputer__estimator__n_components"] in (1, 2)


def test_it_stands_before_other_steps_of_a_mixed_frame():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=120)
    X = pd.DataFrame(
        {"kind": np.where(rng.random(120) < 0.8, y, 1 - y), "x": y + rng.normal(size=120), "n": rng.poisson(3, 120)}
    )
    X["kind"] = X.kind.map({0: "no", 1: "yes"})
    X.loc[::6, "kind"] = None
    X.loc[::5, "x"] = np.nan
    encode = make_column_transformer(
        (OneHotEncoder(), make_column_selector(dtype_exclude=np.number)), remainder="passthrough"
    )
    impute = VAEImputer(VAETransformer(1, likelihood="auto", max_iter=5, random_state=0))
    pipe = make_pipeline(impute, encode, RandomForestClassifier(20, random_state=0)).fit(X, y)
    assert pipe.score(X, y) > 0.8


@pytest.mark.parametrize(
    "parameters", [{"estimator": SimpleImputer()}, {"sample_posterior": "yes"}, {"random_state": -1}], ids=str
)
def test_wrong_parameters_are_refused_in_fit(gapped, parameters):
    with pytest.raises(InvalidParameterError, match=next(iter(parameters))):
        VAEImputer(**parameters).fit(gapped)


def test_a_failed_refit_keeps_the_previous_model(gapped):
    imputer = quick().fit(gapped)
    before = imputer.transform(gapped)
    with pytest.raises(ValueError, match="holds no value"):
        imputer.fit(np.where(np.arange(3) == 1, np.nan, gapped[:, :3]))
    assert imputer.n_features_in_ == 13
    np.testing.assert_array_equal(imputer.transform(gapped), before)


def test_an_objective_with_a_target_is_given_y(correlated):
    noisy = correlated + np.random.default_rng(0).normal(size=correlated.shape)
    vae = VAETransformer(2, objective=Denoising("paired"), max_iter=2, random_state=0)
    imputer = VAEImputer(vae).fit(noisy, correlated)
    gaps = np.where(np.eye(*correlated.shape) == 1, np.nan, correlated)
    np.testing.assert_array_equal(imputer.transform(gaps), vae.fit(noisy, correlated).impute(gaps))
