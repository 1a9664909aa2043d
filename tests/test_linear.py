"""The linear model in closed form, against scikit-learn and scipy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale

from skvae import _linear
from skvae._linear import Covariance, LinearGaussian, factor_analysis, probabilistic_pca

FLOOR = 1e-3


def wine():
    return scale(load_wine().data)


def cancer():
    return scale(load_breast_cancer().data)


def digits():
    X = load_digits().data / 16
    return X - X.mean(0)


def mean_score(linear, X):
    return linear.score_samples(X, np.ones_like(X)).mean()


def random_model(n_features=5, n_components=2, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.2, 2, n_features)
    q, _ = np.linalg.qr(rng.normal(size=(n_features, n_components)))
    return LinearGaussian(np.sqrt(noise)[:, None] * q * [3.0, 1.5], noise)


@pytest.mark.parametrize("table", [wine, cancer, digits])
@pytest.mark.parametrize("n_components", [1, 2, 5, 10])
def test_probabilistic_pca_equals_pca_up_to_its_divisor(table, n_components):
    """PCA divides by n - 1: its covariance is ours times n / (n - 1), which costs it a little likelihood."""
    X = table()
    pca = PCA(n_components, svd_solver="full").fit(X)
    linear = probabilistic_pca(Covariance.of(X), n_components, 1e-9)
    n = len(X)
    np.testing.assert_allclose(linear.noise * n / (n - 1), pca.noise_variance_, rtol=1e-9)
    stretched = LinearGaussian(linear.loadings * np.sqrt(n / (n - 1)), linear.noise * n / (n - 1))
    assert mean_score(stretched, X) == pytest.approx(pca.score(X), abs=1e-8)
    assert mean_score(linear, X) > pca.score(X)


def test_probabilistic_pca_noise_keeps_to_its_floor():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 1)) @ rng.normal(size=(1, 4))
    linear = probabilistic_pca(Covariance.of(X - X.mean(0)), 1, 0.01)
    np.testing.assert_array_equal(linear.noise, 0.01)


def factor_analysis_score(X, n_components):
    """scikit-learn's model of standardised rows with its noise at the same floor, scored in full."""
    with warnings.catch_warnings():  # a Heywood case creeps for ever; 2000 steps are a long run
        warnings.simplefilter("ignore", ConvergenceWarning)
        fa = FactorAnalysis(n_components, tol=1e-3, max_iter=2000, svd_method="lapack").fit(X)
    cov = fa.components_.T @ fa.components_ + np.diag(np.maximum(fa.noise_variance_, FLOOR))
    return multivariate_normal(fa.mean_, cov).logpdf(X).mean()


@pytest.mark.parametrize("table", [wine, cancer])
@pytest.mark.parametrize("n_components", [1, 2, 5])
def test_factor_analysis_is_no_worse_than_a_long_run_of_scikit_learns(table, n_components):
    X = table()
    found = mean_score(factor_analysis(Covariance.of(X), n_components, FLOOR), X)
    assert found >= factor_analysis_score(X, n_components) - 1e-3


def test_factor_analysis_equals_scikit_learns_where_the_optimum_is_plain():
    X = wine()
    fa = FactorAnalysis(2, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(X)
    linear = factor_analysis(Covariance.of(X), 2, FLOOR)
    np.testing.assert_allclose(linear.noise, fa.noise_variance_, atol=2e-3)
    theirs = fa.components_.T @ fa.components_
    np.testing.assert_allclose(linear.loadings @ linear.loadings.T, theirs, atol=5e-3)


@pytest.mark.parametrize("table", [wine, cancer, digits])
def test_factor_analysis_is_no_worse_than_probabilistic_pca_and_keeps_to_its_floor(table):
    X = table()
    cov = Covariance.of(X)
    linear = factor_analysis(cov, 4, FLOOR)
    assert mean_score(linear, X) >= mean_score(probabilistic_pca(cov, 4, FLOOR), X) - 1e-6
    assert linear.noise.min() >= FLOOR * (1 - 1e-12)


@pytest.mark.parametrize("fit", [probabilistic_pca, factor_analysis])
def test_posterior_precision_is_diagonal(fit):
    linear = fit(Covariance.of(wine()), 4, FLOOR)
    inner = linear.loadings.T @ (linear.loadings / linear.noise[:, None])
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-8)
    np.testing.assert_allclose(linear.precision, 1 + np.diag(inner))


@pytest.mark.parametrize("fit", [probabilistic_pca, factor_analysis])
def test_no_latents_is_the_independent_model(fit):
    X = wine()
    linear = fit(Covariance.of(X), 0, FLOOR)
    assert linear.loadings.shape == (13, 0)
    np.testing.assert_allclose(linear.noise, 1, rtol=1e-4)


def test_score_equals_scipys_multivariate_normal():
    linear = random_model()
    X = np.random.default_rng(1).normal(size=(20, 5))
    cov = linear.loadings @ linear.loadings.T + np.diag(linear.noise)
    expected = multivariate_normal(np.zeros(5), cov).logpdf(X)
    np.testing.assert_allclose(linear.score_samples(X, np.ones_like(X)), expected, rtol=1e-10)


def test_score_with_gaps_equals_the_marginal_of_the_present_cells():
    linear = random_model()
    rng = np.random.default_rng(1)
    X = rng.normal(size=(30, 5))
    present = rng.random(X.shape) < 0.6
    present[0] = False
    cov = linear.loadings @ linear.loadings.T + np.diag(linear.noise)
    found = linear.score_samples(X * present, present.astype(float))
    assert found[0] == 0
    for row, here, value in zip(X[1:], present[1:], found[1:], strict=True):
        if here.any():
            marginal = multivariate_normal(np.zeros(here.sum()), cov[np.ix_(here, here)])
            assert value == pytest.approx(marginal.logpdf(row[here]), rel=1e-9)


def test_encoder_is_the_posterior_mean():
    linear = random_model()
    W, psi = linear.loadings, linear.noise
    x = np.random.default_rng(1).normal(size=(3, 5))
    cov = W @ W.T + np.diag(psi)
    np.testing.assert_allclose(x @ linear.encoder.T, x @ np.linalg.solve(cov, W), rtol=1e-9)


def test_covariance_of_full_rows_is_numpys():
    X = wine()
    cov = Covariance.of(X)
    np.testing.assert_allclose(cov.matrix, np.cov(X.T, bias=True), atol=1e-12)
    np.testing.assert_allclose(cov.diagonal, X.var(0), atol=1e-12)


def noisy(X, noise):
    return Covariance(lambda: iter([(X, None, None)]), *X.shape, noise=noise)


def test_noise_is_added_to_every_columns_variance_and_to_no_covariance():
    X = wine()
    cov, plain = noisy(X, 0.3), Covariance.of(X)
    np.testing.assert_allclose(cov.matrix, plain.matrix + 0.3 * np.eye(13), atol=1e-12)
    np.testing.assert_allclose(cov.diagonal, plain.diagonal + 0.3, atol=1e-12)


def test_noise_of_rows_with_gaps_is_added_once():
    rng = np.random.default_rng(0)
    X, present = rng.normal(size=(50, 3)), (rng.random((50, 3)) < 0.6).astype(float)
    weight = rng.random(50)
    plain = Covariance.of(X * present, present, weight)
    cov = Covariance(lambda: iter([(X * present, present, weight)]), 50, 3, 0.3)
    np.testing.assert_allclose(cov.matrix, plain.matrix + 0.3 * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(cov.diagonal, plain.diagonal + 0.3, atol=1e-12)


def test_noise_equals_that_of_many_noisy_copies_of_the_rows():
    X = wine()
    copies = np.repeat(X, 2000, axis=0)
    copies += np.sqrt(0.3) * np.random.default_rng(0).normal(size=copies.shape)
    np.testing.assert_allclose(noisy(X, 0.3).matrix, Covariance.of(copies).matrix, atol=0.02)


@pytest.mark.parametrize("fit", [probabilistic_pca, factor_analysis])
def test_the_linear_models_noise_holds_the_added_noise(fit):
    assert (fit(noisy(wine(), 0.3), 3, FLOOR).noise > 0.3).all()


def test_noise_on_the_randomised_path_is_that_on_the_exact_path(monkeypatch):
    X, spread = digits(), np.linspace(0.5, 2, 64)
    exact = noisy(X, 0.05).leading(5, spread)
    monkeypatch.setattr(_linear, "EXACT_COLUMNS", 10)
    plain = Covariance.of(X).leading(5, np.ones(64))[0]
    np.testing.assert_allclose(noisy(X, 0.05).leading(5, np.ones(64))[0], plain + 0.05, rtol=1e-9)
    # After a rescaling noise turns the eigenvectors, which this path leaves as they are.
    np.testing.assert_allclose(noisy(X, 0.05).leading(5, spread)[0], exact[0], rtol=0.12)


@pytest.mark.parametrize("gaps", [False, True])
def test_weights_count_as_repeated_rows(gaps):
    rng = np.random.default_rng(0)
    X, copies = rng.normal(size=(20, 4)), rng.integers(1, 5, 20)
    present = (rng.random(X.shape) < 0.7).astype(float) if gaps else None
    X = X * present if gaps else X
    repeated = Covariance.of(np.repeat(X, copies, axis=0), np.repeat(present, copies, axis=0) if gaps else None)
    weighted = Covariance.of(X, present, copies.astype(float))
    np.testing.assert_allclose(weighted.matrix, repeated.matrix, atol=1e-12)
    np.testing.assert_allclose(weighted.diagonal, repeated.diagonal, atol=1e-12)


def test_pairs_of_columns_are_averaged_over_the_rows_that_hold_both():
    rng = np.random.default_rng(0)
    X, present = rng.normal(size=(50, 3)), rng.random((50, 3)) < 0.5
    matrix = Covariance.of(X * present, present.astype(float)).matrix
    for i in range(3):
        for j in range(3):
            both = present[:, i] & present[:, j]
            assert matrix[i, j] == pytest.approx((X[both, i] * X[both, j]).mean())


def test_leading_eigenvectors_are_of_the_rescaled_covariance_in_falling_order():
    X, spread = wine(), np.linspace(0.5, 2, 13)
    values, vectors = Covariance.of(X).leading(5, spread)
    scaled = np.cov((X / spread).T, bias=True)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(scaled)[::-1][:5])
    np.testing.assert_allclose(scaled @ vectors, vectors * values, atol=1e-10)
    largest = np.abs(vectors).argmax(0)
    assert (vectors[largest, range(5)] > 0).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_many_columns_take_the_randomised_path_to_the_same_model(monkeypatch, weighted):
    X = digits()
    weight = np.linspace(0.5, 1.5, len(X)) if weighted else None
    exact = Covariance.of(X, weight=weight)
    monkeypatch.setattr(_linear, "EXACT_COLUMNS", 10)
    randomised = Covariance.of(X, weight=weight)
    np.testing.assert_allclose(randomised.diagonal, exact.diagonal)
    one = np.ones(64)
    values, vectors = exact.leading(5, one)
    found, found_vectors = randomised.leading(5, one)
    np.testing.assert_allclose(found, values, rtol=1e-3)
    np.testing.assert_allclose(np.abs((found_vectors * vectors).sum(0)), 1, atol=5e-3)
    scores = [mean_score(probabilistic_pca(cov, 5, 1e-6), X) for cov in (exact, randomised)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-2)


def test_randomised_path_is_the_same_at_every_call(monkeypatch):
    monkeypatch.setattr(_linear, "EXACT_COLUMNS", 10)
    cov = Covariance.of(digits())
    first, again = (cov.leading(5, np.ones(64)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


# Rows with gaps


def gappy(n_rows=600, share=0.4, seed=0):
    """Rows of `random_model`'s with cells missing at random, which of them are present, and the model."""
    model = random_model(8, 2)
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 2)) @ model.loadings.T + rng.normal(size=(n_rows, 8)) * np.sqrt(model.noise)
    present = (rng.random(X.shape) >= share).astype(float)
    return X * present, present, model


def present_score(linear, X, present):
    return linear.score_samples(X, present).mean()


@pytest.mark.parametrize("fit", [factor_analysis, probabilistic_pca])
def test_gaps_take_little_from_the_likelihood_of_rows_not_seen(fit):
    """Beside the model the rows were drawn from, and beside that of the covariance averaged pair by pair."""
    X, present, truth = gappy()
    others, there, _ = gappy(seed=1)
    found = present_score(fit(Covariance.of(X, present), 2, FLOOR), others, there)
    best = present_score(truth, others, there)
    if fit is factor_analysis:
        assert best - 0.15 < found < best + 0.02
    else:
        assert found > best - 0.6


@pytest.mark.parametrize("fit", [factor_analysis, probabilistic_pca])
def test_one_missing_cell_changes_next_to_nothing(fit):
    X = wine()
    present = np.ones_like(X)
    present[0, 0] = 0
    whole = mean_score(fit(Covariance.of(X), 2, FLOOR), X)
    assert mean_score(fit(Covariance.of(X * present, present), 2, FLOOR), X) == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize("fit", [factor_analysis, probabilistic_pca])
def test_the_model_of_rows_with_gaps_is_the_same_however_they_come(fit):
    X, present, _ = gappy(200)
    copies = np.arange(200) % 3 + 1
    weighted = fit(Covariance.of(X, present, copies.astype(float)), 2, FLOOR)
    repeated = fit(Covariance.of(np.repeat(X, copies, axis=0), np.repeat(present, copies, axis=0)), 2, FLOOR)
    blocks = fit(
        Covariance(lambda: ((X[i : i + 7], present[i : i + 7], copies[i : i + 7]) for i in range(0, 200, 7)), *X.shape),
        2,
        FLOOR,
    )
    for other in (repeated, blocks):
        np.testing.assert_allclose(other.loadings, weighted.loadings, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(other.noise, weighted.noise, rtol=1e-9)


def test_the_posterior_of_rows_with_gaps_has_a_diagonal_precision_and_noise_within_bounds():
    X, present, _ = gappy(100, 0.6)
    ceiling = np.array([0.3, *[np.inf] * 7])
    linear = factor_analysis(Covariance.of(X, present), 3, np.full(8, 0.2), ceiling)
    inner = linear.loadings.T @ (linear.loadings / linear.noise[:, None])
    np.testing.assert_allclose(inner, np.diag(inner.diagonal()), atol=1e-9 * inner.max())
    assert (linear.noise >= 0.2).all()
    assert (linear.noise <= ceiling).all()


def test_a_covariance_with_gaps_has_no_negative_eigenvalue_and_keeps_its_variances():
    X, present, _ = gappy(15, 0.5)
    cov = Covariance.of(X, present)
    assert np.linalg.eigvalsh(cov.matrix).min() > -1e-12
    np.testing.assert_allclose(cov.matrix.diagonal(), cov.diagonal)
    pairs = X.T @ X / np.maximum(present.T @ present, 1e-9)
    assert np.linalg.eigvalsh(pairs).min() < -0.01


def test_rows_are_left_out_evenly_where_they_are_many(monkeypatch):
    X, present, _ = gappy(3000)
    whole = factor_analysis(Covariance.of(X, present), 2, FLOOR)
    monkeypatch.setattr(_linear, "EM_PRODUCTS", 3000 * 8 * 4 // 3)
    subsample = factor_analysis(Covariance.of(X, present), 2, FLOOR)
    third = factor_analysis(Covariance.of(X[::3], present[::3]), 2, FLOOR)
    assert present_score(subsample, X, present) == pytest.approx(present_score(whole, X, present), abs=0.02)
    assert not np.allclose(subsample.loadings, whole.loadings)
    np.testing.assert_allclose(subsample.noise, third.noise, rtol=0.2)


# Limits on loadings and noise


def test_limited_loadings_keep_every_columns_variance():
    model = random_model(6, 2)
    most = np.array([0.1, np.inf, 0.5, np.inf, np.inf, 0.2])
    found = model.limited(most)
    assert (np.sqrt((found.loadings**2).sum(axis=1)) <= most + 1e-12).all()
    variance = [(m.loadings**2).sum(axis=1) + m.noise for m in (model, found)]
    np.testing.assert_allclose(*variance)
    free = np.isinf(most)
    np.testing.assert_allclose(*[(m.loadings @ m.loadings.T)[np.ix_(free, free)] for m in (model, found)])
    inner = found.loadings.T @ (found.loadings / found.noise[:, None])
    np.testing.assert_allclose(inner, np.diag(inner.diagonal()), atol=1e-9)
    assert model.limited(np.full(6, np.inf)) is model


def test_factor_analysis_of_known_noise_is_the_closed_form():
    X = cancer()
    noise = np.linspace(0.1, 0.4, X.shape[1])
    found = factor_analysis(Covariance.of(X), 3, noise, noise)
    np.testing.assert_array_equal(found.noise, noise)
    values = np.linalg.eigvalsh(np.cov(X.T, bias=True) / np.sqrt(np.outer(noise, noise)))[::-1][:3]
    np.testing.assert_allclose(found.precision, values, rtol=1e-9)


def test_factor_analysis_stays_between_its_bounds():
    X = cancer()
    free = factor_analysis(Covariance.of(X), 3, FLOOR)
    floor, ceiling = np.full(30, 0.1), np.full(30, 0.3)
    bound = factor_analysis(Covariance.of(X), 3, floor, ceiling)
    assert (bound.noise >= floor - 1e-12).all()
    assert (bound.noise <= ceiling + 1e-12).all()
    assert mean_score(bound, X) < mean_score(free, X)


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("weighted", [False, True])
def test_of_few_rows_and_many_columns_the_eigenvectors_are_the_covariances(noise, weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 6)) @ rng.normal(size=(6, 220)) + 0.3 * rng.normal(size=(60, 220))
    X[:, 3] = 0
    weight = rng.random(60) if weighted else np.ones(60)
    scale = np.exp(rng.normal(size=220))
    cov = Covariance(lambda: iter([(X, None, weight if weighted else None)]), 60, 220, np.full(220, noise))
    values, vectors = cov.leading(20, scale)
    S = (X.T * weight) @ X / weight.sum() + noise * np.eye(220)
    expected, turned = np.linalg.eigh(S / scale / scale[:, None])
    np.testing.assert_allclose(values, expected[::-1][:20], rtol=1e-9)
    np.testing.assert_allclose(np.abs((vectors * turned[:, ::-1][:, :20]).sum(axis=0)), 1, rtol=1e-6)


def test_more_eigenvectors_than_rows_vary_along_are_zero():
    X = np.random.default_rng(0).normal(size=(3, 300))
    values, vectors = Covariance.of(X - X.mean(axis=0)).leading(5, np.ones(300))
    assert (values[:2] > 1).all()
    np.testing.assert_array_equal(values[2:], 0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), [1, 1, 0, 0, 0], atol=1e-12)
