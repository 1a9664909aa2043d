"""Where training starts: the linear start of every likelihood, and the baseline that a fit is measured by."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from members import KINDS, MEMBERS, SIZES, columns_of, density_of, oracle, table, unit_of
from scipy import special, stats

from skvae import Categorical, Mixed, NegativeBinomial, VAETransformer, _linear
from skvae._linear import Covariance, PartCovariance
from skvae.likelihoods import (
    baseline,
    baseline_samples,
    covariance,
    linear_model,
    start_linear,
)
from skvae.likelihoods._counts import FIRST_DISPERSION, SUMMED_MEAN, log1p_moments

D = 3
GAUSSIANS = ["feature", "shared", "decoder"]
REAL = [*GAUSSIANS, "johnson_su"]
NUMBERS = [*REAL, "student_t", "laplace", "log_normal"]  # columns that x + noise stays in
SET_VALUES = ["bernoulli", "continuous_bernoulli", "poisson", "negative_binomial", "categorical"]
every_member = pytest.mark.parametrize("name", MEMBERS)
every_real = pytest.mark.parametrize("name", REAL)


@every_real
def test_start_is_the_linear_models_posterior(name):
    X = table(name, 200)
    X[:, 1] = X[:, 0] * 3 + X[:, 1] / 4
    density, _, rows = density_of(name, X)
    start = start_linear(density, covariance(density, rows), 1)
    noise = density.log_noise.detach().exp().numpy() if name != "decoder" else np.exp(start.decoder_bias[D:])
    W, psi = unit_of(density) * start.decoder_weight[:D], np.broadcast_to(noise, (D,))
    precision = np.eye(1) + W.T @ (W / psi[:, None])
    np.testing.assert_allclose(start.encoder_weight, np.linalg.solve(precision, (W / psi[:, None]).T), rtol=1e-5)
    np.testing.assert_allclose(start.posterior_var, 1 / np.diag(precision), rtol=1e-5)
    np.testing.assert_allclose(start.decoder_weight[D:], 0)


def start_of(name, X, n_components, weight=None):
    density, scale, rows = density_of(name, X, weight)
    start = start_linear(density, covariance(density, rows), n_components)
    n_components = len(start.posterior_var)
    assert start.decoder_weight.shape == (density.n_params, n_components)
    assert start.decoder_bias.shape == (density.n_params,)
    assert start.encoder_weight.shape == (n_components, density.encoding.n_inputs)
    assert ((start.posterior_var > 0) & (start.posterior_var <= 1)).all()
    return density, scale, start


def location(name, X):
    """Where a member's distribution starts: smoothed means, and means of what is Gaussian."""
    if name in ("bernoulli", "continuous_bernoulli", "poisson", "negative_binomial"):
        return (X.sum(0) + 0.5) / (len(X) + 1)
    if name == "log_normal":
        return np.exp(np.log(X).mean(0))
    if name == "johnson_su":
        return X.mean(0) + 2 * X.std(0) * np.sinh(np.arcsinh((X - X.mean(0)) / X.std(0) / 2).mean(0))
    return X.mean(0)


def median_or_mean(name, density, scale, outputs):
    """The same of p(x|z), from the decoder's numbers."""
    found = oracle(MEMBERS[name], density, scale, outputs)
    if name == "log_normal":
        return scale.scale * np.exp((density.encoding.centre + density.encoding.spread * outputs).numpy())
    if name == "johnson_su":
        return scale.to_data(density.encoding.decode(density.unit.detach() * outputs).numpy())
    return found.mean


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in ("categorical", "mixed", "normal_score")])
def test_a_start_without_latents_stands_at_the_columns_means(name):
    X = table(name)
    density, scale, start = start_of(name, X, 0)
    found = median_or_mean(name, density, scale, torch.tensor(start.decoder_bias)[None])
    np.testing.assert_allclose(found[0], location(name, X), rtol=2e-3 if name == "continuous_bernoulli" else 1e-5)


def test_a_categorys_start_without_latents_has_the_smoothed_shares():
    X = table("categorical")
    density, _, start = start_of("categorical", X, 0)
    share = density.expected(torch.tensor(start.decoder_bias)).numpy()
    expected = [(np.bincount(X[:, d].astype(int)) + 1 / size) / (len(X) + 1) for d, size in enumerate(SIZES)]
    np.testing.assert_allclose(share, np.concatenate(expected), rtol=1e-6)


@every_member
@pytest.mark.parametrize("constant", ["first value", "zero", "one"])
def test_a_start_with_constant_columns_is_finite(name, constant):
    X = table(name)
    X[:, 0] = {"first value": X[0, 0], "zero": 0.0, "one": 1.0}[constant] if KINDS[name][0] != "positive" else 3.0
    for part in (X, np.repeat(X[:1], len(X), axis=0)):
        density, _, start = start_of(name, part, 1)
        assert all(np.isfinite(value).all() for value in vars(start).values())
        assert all(bool(p.isfinite().all()) for p in density.parameters())


@pytest.mark.parametrize("name", ["feature", "shared"])
@pytest.mark.parametrize("weighted", [False, True])
def test_baseline_of_a_gaussian_is_the_linear_models_density(name, weighted):
    X = table(name)
    weight = np.linspace(0.5, 1.5, len(X)) if weighted else None
    density, scale, rows = density_of(name, X, weight)
    cov = Covariance.of(rows.x.numpy(), weight=weight)
    start = start_linear(density, cov, 1)
    W = unit_of(density) * start.decoder_weight[:D]
    noise = np.broadcast_to(density.log_noise.detach().exp().numpy(), (D,))
    model = stats.multivariate_normal(scale.shift, (W @ W.T + np.diag(noise)) * np.outer(scale.scale, scale.scale))
    expected = np.average(model.logpdf(X), weights=weight)
    assert baseline(density, rows, cov, 1) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", [*SET_VALUES, "student_t", "laplace", "mixed"])
def test_the_baseline_takes_columns_as_independent(name):
    X = table(name)
    X[3, 1], X[5] = np.nan, np.nan
    density, scale, rows = density_of(name, X)
    cov = covariance(density, rows)
    alone = copy.deepcopy(density)
    bias = start_linear(alone, cov, 0).decoder_bias
    cells = oracle(MEMBERS[name], alone, scale, np.tile(bias, (len(X), 1))).log_p(np.nan_to_num(X, nan=1.0))
    found = baseline_samples(density, rows, cov, 2)
    np.testing.assert_allclose(found, np.where(np.isnan(X), 0, cells).sum(1), rtol=1e-6)
    assert found[5] == 0


def test_the_baseline_of_a_bernoulli_is_that_of_the_smoothed_means():
    X = table("bernoulli")
    X[3, 1] = np.nan
    density, _, rows = density_of("bernoulli", X)
    mean = (np.nansum(X, 0) + 0.5) / ((~np.isnan(X)).sum(0) + 1)
    expected = np.nansum(stats.bernoulli(mean).logpmf(np.nan_to_num(X)) * ~np.isnan(X)) / len(X)
    assert baseline(density, rows, covariance(density, rows), 1) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["student_t", "laplace"])
def test_the_baseline_of_outliers_has_the_columns_means_and_variances(name):
    X = table(name)
    density, _, rows = density_of(name, X)
    mean, std = X.mean(0), X.std(0)
    model = stats.t(5, mean, std * math.sqrt(3 / 5)) if name == "student_t" else stats.laplace(mean, std / math.sqrt(2))
    found = baseline_samples(density, rows, covariance(density, rows), 2)
    np.testing.assert_allclose(found, model.logpdf(X).sum(1), rtol=1e-5)


def test_the_baseline_of_log_normal_columns_is_the_linear_models_density_of_their_logarithms():
    X = table("log_normal", 200)
    X[:, 1] = X[:, 0] * np.sqrt(X[:, 1])
    density, _, rows = density_of("log_normal", X)
    cov = covariance(density, rows)
    linear = linear_model(density.linear_start(), cov, 1)
    spread, logs = np.log(X).std(0), np.log(X)
    sigma = (linear.loadings @ linear.loadings.T + np.diag(linear.noise)) * np.outer(spread, spread)
    expected = stats.multivariate_normal(logs.mean(0), sigma).logpdf(logs) - logs.sum(1)
    np.testing.assert_allclose(baseline_samples(density, rows, cov, 1), expected, rtol=1e-5)


# The start on data whose linear predictor is known: eta = offset + slope z


LINK = {"poisson": "counts", "negative_binomial": "counts", "bernoulli": "logits", "continuous_bernoulli": "logits"}
OFFSETS = {"counts": np.linspace(0.0, 3.5, 10), "logits": np.linspace(-1.5, 1.5, 10)}
SLOPES = np.array([0.5, -0.4, 0.3, 0.5, -0.5, 0.4, 0.3, -0.3, 0.5, 0.4])
# A bit says less of z than a number does.
STRETCH = {"bernoulli": 2.0, "continuous_bernoulli": 4.0}


def simulated(name, n_rows=20_000, seed=0):
    """Rows of ten columns, their offsets and slopes in the decoder's terms, and the latent."""
    rng = np.random.default_rng(seed)
    offset, slope, z = OFFSETS[LINK.get(name, "logits")], STRETCH.get(name, 1.0) * SLOPES, rng.normal(size=(n_rows, 1))
    eta = offset + slope * z
    noise = 0.5 * rng.normal(size=eta.shape)
    X = {
        "poisson": lambda: rng.poisson(np.exp(eta)),
        "negative_binomial": lambda: rng.poisson(np.exp(eta) * rng.gamma(3.0, 1 / 3, eta.shape)),
        "bernoulli": lambda: rng.random(eta.shape) < special.expit(eta),
        "continuous_bernoulli": lambda: np.log1p(rng.random(eta.shape) * np.expm1(eta)) / eta,
        "log_normal": lambda: np.exp(eta + noise),
        "student_t": lambda: eta + noise * np.sqrt(3 / rng.chisquare(5, eta.shape)),
        "laplace": lambda: eta + rng.laplace(size=eta.shape) * math.sqrt(0.125),
    }.get(name, lambda: eta + noise)()
    return X.astype(float), offset, slope, z[:, 0]


@pytest.mark.parametrize("name", [*NUMBERS, "poisson", "negative_binomial", "bernoulli", "continuous_bernoulli"])
def test_the_start_finds_the_slopes_and_offsets_of_a_rank_one_model(name, any_seed):
    X, offset, slope, z = simulated(name, seed=any_seed)
    density, scale, rows = columns_of(MEMBERS[name], X)
    start = start_linear(density, covariance(density, rows), 1)
    weight, bias = start.decoder_weight[:10, 0], start.decoder_bias[:10]
    weight = weight * np.sign(weight[0])
    if name not in LINK:  # the decoder speaks in the columns' units
        unit = unit_of(density) * getattr(density.encoding, "spread", torch.ones(1)).numpy()
        weight = weight * unit * (1.0 if name == "log_normal" else scale.scale)
        found = median_or_mean(name, density, scale, torch.tensor(start.decoder_bias)[None])[0]
        bias = np.log(found) if name == "log_normal" else found
    tolerance = 0.3 * np.abs(slope) if name in STRETCH else 0.05
    assert (np.abs(weight - slope) < tolerance + 0.03).all(), weight / slope
    assert (np.abs(bias - offset) < tolerance + 0.03).all(), bias - offset
    with torch.no_grad():
        code = (density.encoding.encode(rows.x).numpy() @ start.encoder_weight.T)[:, 0]
    # What the code leaves of z's variance is what the posterior says.
    assert np.corrcoef(code, z)[0, 1] ** 2 == pytest.approx(1 - start.posterior_var[0], abs=0.1)


@every_member
@pytest.mark.parametrize("n_components", [1, 2])
def test_a_start_keeps_the_columns_means_over_the_latents(name, n_components):
    """E[x] of the model it starts at, though links are bent; rows that come often make columns vary together."""
    X = table(name, 3000)
    common = X[np.random.default_rng(1).integers(20, size=len(X))]
    X = np.where(np.random.default_rng(2).random((len(X), 1)) < 0.3, common, X)
    started, alone = start_of(name, X, n_components), start_of(name, X, 0)
    z = np.random.default_rng(3).normal(size=(20_000, n_components))
    with torch.no_grad():
        outputs = torch.tensor(z @ started[2].decoder_weight.T + started[2].decoder_bias)
        found = started[0].expected(outputs).mean(0).numpy()
        expected = alone[0].expected(torch.tensor(alone[2].decoder_bias)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.02)


def test_a_rare_category_keeps_its_share_where_columns_start_together(any_seed):
    """Rows that have it have it in all columns: their logits vary much, and E[exp(w z)] exceeds exp(0)."""
    rng = np.random.default_rng(any_seed)
    rare = rng.random((5000, 1)) < 0.04
    X = np.where(rare & (rng.random((5000, 6)) < 0.8), 2, rng.integers(2, size=(5000, 6))).astype(float)
    density, _, rows = columns_of(Categorical([3] * 6), X)
    start = start_linear(density, covariance(density, rows), 1)
    assert np.abs(start.decoder_weight[2::3]).min() > 0.7
    outputs = torch.tensor(rng.normal(size=(40_000, 1)) @ start.decoder_weight.T + start.decoder_bias)
    np.testing.assert_allclose(density.expected(outputs).mean(0)[2::3], (X == 2).mean(0), rtol=0.15)


def test_a_categorys_start_has_the_slopes_of_a_rank_one_model(any_seed):
    """Logits are known up to one number per column, which the start takes so that their mean slope is 0."""
    rng = np.random.default_rng(any_seed)
    sizes, z = [2, 3, 4] * 5, rng.normal(size=(20_000, 1))
    offset, slope = 0.4 * rng.normal(size=(2, sum(sizes)))
    ends = np.cumsum(sizes)[:-1]
    logits = np.split(offset + z * slope, ends, axis=1)
    X = np.column_stack([(part + rng.gumbel(size=part.shape)).argmax(1) for part in logits]).astype(float)
    density, _, rows = columns_of(Categorical(sizes), X)
    start = start_linear(density, covariance(density, rows), 1)
    share = np.split(density.encoding.column_mean.numpy(), ends)
    expected = np.concatenate([own - p @ own for own, p in zip(np.split(slope, ends), share, strict=True)])
    found = start.decoder_weight[:, 0] * np.sign(start.decoder_weight[:, 0] @ expected)
    assert np.corrcoef(found, expected)[0, 1] > 0.97
    assert found @ expected / (expected @ expected) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli", "categorical"])
def test_around_the_columns_means_probabilities_move_by_the_loadings(name):
    """d E[x|z] / dz is what the linear model says."""
    X = table(name, 2000)
    X[::3] = X[:1]
    density, _, rows = density_of(name, X)
    cov = covariance(density, rows)
    linear = linear_model(density.linear_start(), cov, 1).limited(density.linear_start().max_loading)
    weight, h = start_linear(density, cov, 1).decoder_weight[:, 0], 1e-6
    bias = start_of(name, X, 0)[2].decoder_bias
    above, below = (density.expected(torch.tensor(bias + sign * h * weight)).numpy() for sign in (1, -1))
    expected = linear.loadings[:, 0] * float(density.encoding.pooled_std)
    assert np.abs(expected).max() > 0.05
    # A category's share of its column's mean slope comes from the smoothing of shares and the limit on loadings.
    np.testing.assert_allclose((above - below) / (2 * h), expected, rtol=1e-2, atol=0.02)


@pytest.mark.parametrize("dispersion", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("mean", [1.0, 10.0, 200.0])
def test_the_start_finds_a_negative_binomials_dispersion(mean, dispersion, any_seed):
    rng = np.random.default_rng(any_seed)
    X = rng.poisson(mean * rng.gamma(1 / dispersion, dispersion, size=(20_000, 4))).astype(float)
    density, _, rows = columns_of(NegativeBinomial(), X)
    start_linear(density, covariance(density, rows), 0)
    found = density.log_dispersion.detach().exp().numpy()
    assert (np.abs(np.log(found / dispersion)) < math.log(4 if mean == 1 else 2)).all(), found


def test_the_start_of_poisson_columns_has_the_least_dispersion(any_seed):
    X = np.random.default_rng(any_seed).poisson(5.0, size=(20_000, 4)).astype(float)
    density, _, rows = columns_of(NegativeBinomial(), X)
    start_linear(density, covariance(density, rows), 1)
    torch.testing.assert_close(density.log_dispersion.exp(), torch.full((4,), FIRST_DISPERSION).double())


@pytest.mark.parametrize("mean", [1e-4, 0.3, 2.0, 17.0, 0.99 * SUMMED_MEAN, 1.01 * SUMMED_MEAN, 1e3, 1e5])
def test_moments_of_the_logarithm_of_a_count_are_those_by_summing(mean):
    def moments(rate):
        x = np.arange(max(0, int(rate - 40 * math.sqrt(rate))), int(rate + 40 * math.sqrt(rate)) + 60)
        p = stats.poisson.pmf(x, rate)
        first = p @ np.log1p(x)
        return first, p @ (np.log1p(x) - first) ** 2

    slope = (moments(mean * (1 + 1e-4))[0] - moments(mean * (1 - 1e-4))[0]) / 2e-4
    found = log1p_moments(np.array([mean]))
    rtol = 1e-6 if mean < SUMMED_MEAN else 3 / mean  # of the limit
    np.testing.assert_allclose([value[0] for value in found], [slope, moments(mean)[1]], rtol=rtol, atol=1e-12)


@every_member
@pytest.mark.parametrize("weighted", [False, True])
def test_baseline_is_the_mean_over_its_rows(name, weighted):
    X = table(name)
    X[3, 1] = np.nan
    weight = np.linspace(0.5, 1.5, len(X)) if weighted else None
    density, _, rows = density_of(name, X, weight)
    cov = covariance(density, rows)
    each = baseline_samples(density, rows, cov, 1)
    assert each.shape == (len(X),)
    assert baseline(density, rows, cov, 1) == pytest.approx(np.average(each, weights=weight), rel=1e-6)
    alone = baseline_samples(density, rows.take(torch.tensor([3])), cov, 1)
    np.testing.assert_allclose(alone, each[3:4], rtol=1e-9)


# Columns of very many categories


def with_many_categories(n_rows=1500, n_categories=400, seed=0):
    """One column of categories, the first ones the most frequent, and two of numbers that differ between them."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1.0, n_categories + 1)
    codes = np.r_[np.arange(n_categories), rng.choice(n_categories, n_rows - n_categories, p=share / share.sum())]
    return np.column_stack([codes, rng.normal(size=(n_categories, 2))[codes] + 0.3 * rng.normal(size=(n_rows, 2))])


MANY = Mixed([(Categorical(400), [0]), ("gaussian", [1, 2])])


def test_no_eigenproblem_grows_with_a_columns_categories(monkeypatch):
    sizes, eigh = [], _linear.linalg.eigh
    monkeypatch.setattr(_linear.linalg, "eigh", lambda a, **kw: (sizes.append(len(a)), eigh(a, **kw))[1])
    X = with_many_categories()
    vae = VAETransformer(3, likelihood=MANY, max_iter=1, random_state=0).fit(X)
    gapped = np.where(np.random.default_rng(1).random(X.shape) < 0.1, np.nan, X)
    VAETransformer(3, likelihood=MANY, max_iter=1, random_state=0).fit(gapped)
    VAETransformer(300, likelihood=MANY, max_iter=1, hidden_layer_sizes=(), random_state=0).fit(X)
    assert max(sizes) == 256 + 2
    assert np.isfinite(vae.score(X))


def test_the_most_frequent_categories_begin_with_loadings():
    X = with_many_categories()
    vae = VAETransformer(2, likelihood=MANY, max_iter=1, learning_rate_init=1e-30, random_state=0).fit(X)
    loadings = vae._weights["decoder.linear.weight"][:400]
    counts = np.bincount(X[:, 0].astype(int))
    frequent = np.argsort(-counts, kind="stable")[:256]
    assert (np.abs(loadings[frequent]).max(axis=1) > 0).all()
    assert not np.delete(loadings, frequent, axis=0).any()


def test_a_covariance_of_a_part_is_that_of_the_columns_kept():
    X = np.random.default_rng(0).normal(size=(50, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    kept, rest = np.array([0, 2, 3]), np.array([1, 4, 5])
    part = PartCovariance(lambda: iter([(X, None, None)]), 50, np.full(6, 0.1), kept)
    values, vectors = part.leading(4, np.full(6, 2.0))
    among = Covariance(lambda: iter([(X[:, kept], None, None)]), 50, 3, np.full(3, 0.1))
    expected = among.leading(3, np.full(3, 2.0))
    np.testing.assert_allclose(values, [*expected[0], 0.0])
    np.testing.assert_allclose(vectors[kept, :3], expected[1])
    assert not vectors[rest].any()
    np.testing.assert_allclose(part.diagonal, (X**2).mean(axis=0) + 0.1)
