"""The contract of p(x|z), run over every likelihood, in data units."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from members import KINDS, MEMBERS, SIZES, density_of, johnson_su, oracle, outputs_for, table, unit_of
from scipy import integrate, special, stats
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from skvae import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    JohnsonSU,
    Laplace,
    LogNormal,
    NegativeBinomial,
    Poisson,
    StudentT,
    VAETransformer,
)
from skvae._linear import Covariance
from skvae._tables.batches import to_rows
from skvae._tables.moments import Scale, column_moments
from skvae.likelihoods import (
    LIKELIHOODS,
    CellWeights,
    autograd_gradient,
    baseline,
    baseline_samples,
    covariance,
    linear_model,
    start_linear,
)
from skvae.likelihoods._categorical import FLOOR
from skvae.likelihoods._counts import FIRST_DISPERSION, SUMMED_MEAN, log1p_moments, rising_and_slope

D = 3
GAUSSIANS = ["feature", "shared", "decoder"]
REAL = [*GAUSSIANS, "johnson_su"]
NUMBERS = [*REAL, "student_t", "laplace", "log_normal"]  # columns that x + noise stays in
SET_VALUES = ["bernoulli", "continuous_bernoulli", "poisson", "negative_binomial", "categorical"]
every_member = pytest.mark.parametrize("name", MEMBERS)
every_gaussian = pytest.mark.parametrize("name", GAUSSIANS)
every_real = pytest.mark.parametrize("name", REAL)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_registry_names_these_likelihoods():
    assert sorted(LIKELIHOODS) == [
        "auto",
        "bernoulli",
        "categorical",
        "continuous_bernoulli",
        "gaussian",
        "johnson_su",
        "laplace",
        "log_normal",
        "negative_binomial",
        "poisson",
        "student_t",
    ]


@every_member
def test_log_prob_equals_scipy_in_data_units(name):
    X = table(name)
    density, scale, rows = density_of(name, X)
    outputs = outputs_for(density, 4, len(X))
    found = density.log_prob(outputs, rows.x).detach().numpy()
    expected = oracle(MEMBERS[name], density, scale, outputs).log_p(X)
    assert found.shape == (4, *X.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def quadrature(kind, mean, std):
    """Values of a column in data units, and weights by which its density sums to one."""
    if isinstance(kind, int):
        return np.arange(kind), np.ones(kind)
    if kind == "count":
        return np.arange(3000), np.ones(3000)
    if kind == "unit":
        points, weights = np.polynomial.legendre.leggauss(60)
        return (points + 1) / 2, weights / 2
    # x = exp(t - exp(-t)) makes a half-line's integrand fall off fast on both sides.
    t = np.arange(-6, 12, 0.01)
    x, slope = np.exp(t - np.exp(-t)), (1 + np.exp(-t)) * np.exp(t - np.exp(-t)) * 0.01
    if kind == "positive":
        return mean * x, mean * slope
    return np.r_[mean - std * x, mean + std * x], np.r_[std * slope, std * slope]


@every_member
def test_density_integrates_to_one_in_data_units(name):
    X = table(name)
    density, scale, _ = density_of(name, X)
    outputs = outputs_for(density, 1)
    expected = oracle(MEMBERS[name], density, scale, outputs)
    for d, kind in enumerate(KINDS[name]):
        points, weights = quadrature(kind, expected.mean[0, d], np.broadcast_to(expected.std, (1, X.shape[1]))[0, d])
        rows = np.repeat(X[:1], len(points), axis=0)
        rows[:, d] = points
        x = torch.tensor(scale.to_model(rows))
        values = density.log_prob(outputs.expand(len(points), -1), x)[:, d].exp().detach().numpy()
        assert values @ weights == pytest.approx(1, abs=1e-9)


@every_member
def test_log_prob_has_a_gradient_in_outputs_and_parameters(name):
    density, _, rows = density_of(name, table(name, 6))
    outputs = outputs_for(density, len(rows)).requires_grad_()
    inputs = (outputs, *density.parameters())
    assert torch.autograd.gradcheck(lambda *_: density.log_prob(outputs, rows.x), inputs)


@every_member
def test_samples_have_the_moments_and_the_quantiles_of_the_distribution(name):
    density, scale, _ = density_of(name, table(name))
    outputs = outputs_for(density, 1)
    n = 40_000
    with torch.no_grad():
        draws = scale.to_data(density.sample(outputs.expand(n, -1), seeded()).numpy())
    expected = oracle(MEMBERS[name], density, scale, outputs)
    mean, std = np.broadcast_arrays(expected.mean, expected.std)
    assert (np.abs(draws.mean(0) - mean[0]) < 5 * std[0] / math.sqrt(n)).all()
    np.testing.assert_allclose(draws.std(0), std[0], rtol=0.05)
    share = [np.searchsorted(np.sort(column), column, side="right") / n for column in draws.T]
    assert np.abs(np.stack(share, 1) - expected.cdf(draws)).max() < 2 / math.sqrt(n)


@every_member
def test_samples_are_within_the_support(name):
    density, scale, _ = density_of(name, table(name))
    with torch.no_grad():
        draws = scale.to_data(density.sample(3 * outputs_for(density, 1000), seeded()).numpy())
    MEMBERS[name].check(draws, [str(d) for d in range(draws.shape[1])])
    for kind, column in zip(KINDS[name], draws.T, strict=True):
        assert np.isfinite(column).all()
        if isinstance(kind, int):
            assert set(column) == set(range(kind))


@every_member
def test_samples_follow_the_generator_they_are_given(name):
    density, _, _ = density_of(name, table(name))
    outputs = outputs_for(density, 20)
    with torch.no_grad():
        first, again, other = (density.sample(outputs, seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@every_member
def test_mean_is_the_distributions_in_data_units(name):
    """The most likely category where a column holds some."""
    X = table(name)
    density, scale, _ = density_of(name, X)
    outputs = outputs_for(density, 2, 7)
    found = scale.to_data(density.mean(outputs).detach().numpy())
    expected = oracle(MEMBERS[name], density, scale, outputs)
    for d, kind in enumerate(KINDS[name]):
        if name == "categorical" or kind == 3:
            each = np.repeat(X[:1], 7, axis=0)
            log_p = np.stack(
                [expected.log_p(np.where(np.arange(X.shape[1]) == d, k, each))[..., d] for k in range(kind)]
            )
            np.testing.assert_array_equal(found[..., d], log_p.argmax(0))
        else:
            np.testing.assert_allclose(found[..., d], expected.mean[..., d], rtol=1e-10)


@every_member
def test_expected_values_collapse_to_the_mean(name):
    density, _, _ = density_of(name, table(name))
    outputs = outputs_for(density, 5, 7)
    expected = density.expected(outputs)
    assert expected.shape == (5, 7, density.encoding.n_inputs)
    assert torch.equal(density.collapse(expected), density.mean(outputs))


def test_expected_values_of_numbers_average_and_those_of_categories_are_probabilities():
    density, _, _ = density_of("mixed", table("mixed"))
    outputs = outputs_for(density, 9, 7)
    average = density.expected(outputs).mean(0)
    found = density.collapse(average)
    alike = density.mean(outputs).mean(0)
    torch.testing.assert_close(found[:, 1:], alike[:, 1:])
    share = torch.softmax(outputs[..., 4:7], -1).mean(0)  # the decoder's noise takes the first four numbers
    torch.testing.assert_close(average[:, 2:5], share, rtol=0, atol=FLOOR)
    assert torch.equal(found[:, 0], share.argmax(-1).double())


@pytest.mark.parametrize("name", [*GAUSSIANS, "student_t", "laplace"])
def test_variance_is_the_distributions(name):
    density, scale, _ = density_of(name, table(name))
    outputs = outputs_for(density, 7)
    found = density.variance(outputs).detach().numpy() * scale.scale**2
    expected = oracle(MEMBERS[name], density, scale, outputs).std ** 2
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-10)


@pytest.mark.parametrize("name", [*SET_VALUES, "johnson_su", "log_normal", "mixed"])
def test_other_columns_report_no_learnt_noise(name):
    density, _, _ = density_of(name, table(name))
    assert density.variance(outputs_for(density, 2)) is None


@every_member
def test_missing_cells_add_nothing_and_leave_the_others_alone(name):
    X = table(name)
    vae = VAETransformer(
        1, likelihood=clone(MEMBERS[name]), max_iter=1, learning_rate_init=1e-12, early_stopping=False, random_state=0
    ).fit(X)
    gaps = X.copy()
    gaps[::2, 1] = np.nan
    scale = Scale(vae._shift, vae.scale_)
    full, rows = (to_rows(T, scale, dtype=torch.float64) for T in (X, gaps))
    z = torch.zeros(len(X), 1, dtype=torch.float64)
    with torch.no_grad():
        expected = vae.module_.log_prob(z, full.x)
        found = vae.module_.log_prob(z, rows.x, rows.mask)
    expected[::2, 1] = 0
    assert torch.equal(found, expected)


@every_real
def test_encoder_of_real_columns_sees_them_centred(name):
    density, _, rows = density_of(name, table(name))
    seen = density.encoding.encode(rows.x)
    atol = 1e-6 if name == "johnson_su" else 1e-10  # its centre is a buffer of the model, in float32
    torch.testing.assert_close(seen.mean(0), torch.zeros(D, dtype=torch.float64), atol=atol, rtol=0)


@pytest.mark.parametrize("name", ["feature", "decoder"])
def test_encoder_sees_unit_variance_where_noise_is_per_feature(name):
    density, _, rows = density_of(name, table(name))
    std = density.encoding.encode(rows.x).std(0, correction=0)
    torch.testing.assert_close(std, torch.ones(D, dtype=torch.float64))


def test_encoder_sees_one_scale_where_noise_is_shared():
    X = table("shared")
    density, scale, rows = density_of("shared", X)
    assert len(set(scale.scale)) == 1
    assert scale.scale[0] == pytest.approx(math.sqrt(X.var(0).mean()))
    np.testing.assert_allclose(density.encoding.encode(rows.x).numpy() * scale.scale, X - X.mean(0), atol=1e-9)


def test_encoder_of_a_bernoulli_sees_columns_near_zero_of_pooled_variance_one():
    density, _, rows = density_of("bernoulli", table("bernoulli", 2000))
    seen = density.encoding.encode(rows.x)
    assert seen.mean(0).abs().max() < 0.01
    assert seen.square().mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("member", [Gaussian(), JohnsonSU(), StudentT(), Laplace()], ids=repr)
def test_real_columns_take_any_finite_value(member):
    member.check(np.array([[-1e300, 0.0, 1e300]]), ["a", "b", "c"])
    assert not member.positive_only


UNIT, COUNTS = r"takes values in \[0, 1\]", r"takes counts: 0, 1, 2, \.\.\."


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        (Bernoulli(), -1.0, f"^Negative values in data passed to VAE: b holds -1.0; likelihood='bernoulli' {UNIT}"),
        (Bernoulli(), 2.0, f"^b holds 2.0; likelihood='bernoulli' {UNIT}"),
        (ContinuousBernoulli(), -0.1, f"^Negative values .*: b holds -0.1; likelihood='continuous_bernoulli' {UNIT}"),
        (ContinuousBernoulli(), 1.1, f"^b holds 1.1; likelihood='continuous_bernoulli' {UNIT}"),
        (Poisson(), -2.0, f"^Negative values in data passed to VAE: b holds -2.0; likelihood='poisson' {COUNTS}"),
        (Poisson(), 0.5, f"^b holds 0.5; likelihood='poisson' {COUNTS}"),
        (NegativeBinomial(), -2.0, f"^Negative values .*: b holds -2.0; likelihood='negative_binomial' {COUNTS}"),
        (NegativeBinomial(), 1e-9, f"^b holds 1e-09; likelihood='negative_binomial' {COUNTS}"),
        (LogNormal(), 0.0, "^b holds 0.0; likelihood='log_normal' takes values above 0"),
        (LogNormal(), -3.0, "^Negative values .*: b holds -3.0; likelihood='log_normal' takes values above 0"),
    ],
)
def test_a_value_outside_the_support_is_named_with_its_column(member, value, message):
    assert member.positive_only
    X = np.array([[1.0, 1.0], [1.0, value]])
    with pytest.raises(ValueError, match=message):
        member.check(X, ["a", "b"])
    member.check(X[:1], ["a", "b"])
    member.check(np.array([[1.0, np.nan]]), ["a", "b"])


def test_a_negative_value_is_named_first():
    with pytest.raises(ValueError, match="^Negative values in data passed to VAE: c holds -1.0"):
        Poisson().check(np.array([[0.5, 1.0, 2.0], [1.0, 1.5, -1.0]]), ["a", "b", "c"])


def test_mixed_names_the_column_by_its_own_name():
    X = table("mixed")
    names = list("abcdef")
    MEMBERS["mixed"].check(X, names)
    X[4, 3] = 2.5
    with pytest.raises(ValueError, match="^d holds 2.5; likelihood='negative_binomial'"):
        MEMBERS["mixed"].check(X, names)


def test_bernoulli_and_continuous_bernoulli_take_fractions_and_counts_take_large_numbers():
    Bernoulli().check(np.array([[0.0, 0.5], [1.0, np.nan]]), ["a", "b"])
    ContinuousBernoulli().check(np.array([[0.0, 0.5], [1.0, np.nan]]), ["a", "b"])
    Poisson().check(np.array([[0.0, 1e15]]), ["a", "b"])


@pytest.mark.parametrize("value", [3, -1, 0.5])
def test_a_code_that_is_no_category_is_named(value):
    X = table("categorical")
    X[5, 1] = value
    with pytest.raises(ValueError, match=f"^column 1 holds {float(value)} in row 5, a category .* it knows 0, 1, 2"):
        VAETransformer(1, likelihood=Categorical(SIZES), random_state=0).fit(X)


def test_bernoulli_reports_the_column_through_the_estimator():
    with pytest.raises(ValueError, match="column 2 holds 7"):
        VAETransformer(1, likelihood="bernoulli", random_state=0).fit([[0, 1, 0], [1, 0, 7]])


@pytest.mark.parametrize("params", [{"noise": "diagonal"}, {"noise_floor": 0.0}, {"noise_floor": 1.0}])
def test_wrong_hyperparameters_are_refused_in_fit(params):
    with pytest.raises(InvalidParameterError, match=next(iter(params))):
        VAETransformer(1, likelihood=Gaussian(**params), random_state=0).fit(table("feature"))


# The noise floor


@every_gaussian
def test_noise_below_the_floor_counts_as_the_floor(name):
    density, _, rows = density_of(name, table(name))
    outputs = outputs_for(density, len(rows))
    if name == "decoder":
        outputs[..., D:] = -50.0
    else:
        density.log_noise.data.fill_(-50.0)
    floor = density.log_floor.exp() if name != "shared" else density.log_floor[:1].exp()
    variance = density.variance(outputs)
    torch.testing.assert_close(variance, floor.double().expand_as(variance), rtol=1e-6, atol=0)


def test_floor_is_a_share_of_each_columns_variance():
    X = table("feature")
    density, scale, _ = density_of("feature", X)
    np.testing.assert_allclose(density.log_floor.exp().numpy() * scale.scale**2, 1e-3 * X.var(0), rtol=1e-5)


def test_shared_floor_is_a_share_of_the_smallest_variance_among_columns_that_vary():
    X = table("shared")
    X[:, 1] = 4.0
    density, scale, _ = density_of("shared", X)
    floor = density.log_floor[0].exp().item() * scale.scale[0] ** 2
    assert floor == pytest.approx(1e-3 * X[:, [0, 2]].var(0).min(), rel=1e-5)


@pytest.mark.parametrize("name", ["feature", "shared", "johnson_su"])
@pytest.mark.parametrize(("error", "moves"), [(0.0, False), (5.0, True)])
def test_noise_below_the_floor_moves_only_upwards(name, error, moves):
    """With errors far above the floor the gradient asks for more noise and passes; with none it asks for less."""
    density, _, rows = density_of(name, table(name))
    density.log_noise.data.fill_(-50.0)
    outputs = (density.encoding.encode(rows.x) + error) / unit_of(density)
    loss = -density.log_prob(outputs, rows.x).sum()
    (grad,) = torch.autograd.grad(loss, density.log_noise)
    assert bool((grad < 0).all()) is moves
    assert bool((grad == 0).all()) is not moves


def test_decoder_noise_below_the_floor_moves_only_upwards():
    density, _, rows = density_of("decoder", table("decoder"))
    for error, moves in [(0.0, False), (5.0, True)]:
        outputs = torch.cat([rows.x + error, torch.full_like(rows.x, -50.0)], dim=1).requires_grad_()
        (grad,) = torch.autograd.grad(-density.log_prob(outputs, rows.x).sum(), outputs)
        assert bool((grad[:, D:] < 0).all()) is moves
        assert bool((grad[:, D:] == 0).all()) is not moves


@every_real
def test_noise_above_the_floor_has_the_ordinary_gradient(name):
    density, _, rows = density_of(name, table(name))
    outputs = outputs_for(density, len(rows)).requires_grad_()
    inputs = (outputs,) if name == "decoder" else (outputs, density.log_noise)
    outputs.data[..., D:] = outputs.data[..., D:].clamp_min(-2)
    assert torch.autograd.gradcheck(lambda *_: density.log_prob(outputs, rows.x), inputs)


@pytest.mark.parametrize("noise", GAUSSIANS)
def test_floor_binds_in_a_fitted_model(noise):
    X = table("feature", 60)
    X[:, 2] = X[:, 0] * 60 + 1000
    vae = VAETransformer(
        2, likelihood=Gaussian(noise, noise_floor=0.1), hidden_layer_sizes=(8,), max_iter=20, random_state=0
    ).fit(X)
    smallest = X.var(0).min() if noise == "shared" else X.var(0)
    assert (np.asarray(vae.noise_variance_) >= 0.0999 * smallest).all()


# The start and the baseline


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


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in ("categorical", "mixed")])
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


def test_weights_count_as_repeated_rows_in_the_bernoulli_column_means():
    X = table("bernoulli", 10)
    copies = np.arange(10) % 3 + 1
    repeated = density_of("bernoulli", np.repeat(X, copies, axis=0))[0].encoding.column_mean
    rows = to_rows(X, Scale(np.zeros(D), np.ones(D)), copies.astype(float))
    density = Bernoulli().build(D, Scale(np.zeros(D), np.ones(D)))
    density.fit(rows)
    torch.testing.assert_close(density.encoding.column_mean.double(), repeated, rtol=1e-6, atol=0)


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


def columns_of(member, X):
    """A density for a table of any width with its own start, in float64."""
    scale = member.scale(column_moments(X))
    rows = to_rows(X, scale, dtype=torch.float64)
    density = member.build(X.shape[1], scale).double()
    density.fit(rows)
    return density, scale, rows


@pytest.mark.parametrize("name", [*NUMBERS, "poisson", "negative_binomial", "bernoulli", "continuous_bernoulli"])
def test_the_start_finds_the_slopes_and_offsets_of_a_rank_one_model(name):
    X, offset, slope, z = simulated(name)
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


def test_a_rare_category_keeps_its_share_where_columns_start_together():
    """Rows that have it have it in all columns: their logits vary much, and E[exp(w z)] exceeds exp(0)."""
    rng = np.random.default_rng(0)
    rare = rng.random((5000, 1)) < 0.04
    X = np.where(rare & (rng.random((5000, 6)) < 0.8), 2, rng.integers(2, size=(5000, 6))).astype(float)
    density, _, rows = columns_of(Categorical([3] * 6), X)
    start = start_linear(density, covariance(density, rows), 1)
    assert np.abs(start.decoder_weight[2::3]).min() > 0.7
    outputs = torch.tensor(rng.normal(size=(40_000, 1)) @ start.decoder_weight.T + start.decoder_bias)
    np.testing.assert_allclose(density.expected(outputs).mean(0)[2::3], (X == 2).mean(0), rtol=0.15)


def test_a_categorys_start_has_the_slopes_of_a_rank_one_model():
    """Logits are known up to one number per column, which the start takes so that their mean slope is 0."""
    rng = np.random.default_rng(0)
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
    assert np.corrcoef(found, expected)[0, 1] > 0.98
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
def test_the_start_finds_a_negative_binomials_dispersion(mean, dispersion):
    rng = np.random.default_rng(0)
    X = rng.poisson(mean * rng.gamma(1 / dispersion, dispersion, size=(20_000, 4))).astype(float)
    density, _, rows = columns_of(NegativeBinomial(), X)
    start_linear(density, covariance(density, rows), 0)
    found = density.log_dispersion.detach().exp().numpy()
    assert (np.abs(np.log(found / dispersion)) < math.log(4 if mean == 1 else 2)).all(), found


def test_the_start_of_poisson_columns_has_the_least_dispersion():
    X = np.random.default_rng(0).poisson(5.0, size=(20_000, 4)).astype(float)
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


@pytest.mark.parametrize("r", [1e-3, 1.0, 49.9, 50.1, 300.0, 1e4])
@pytest.mark.parametrize("x", [0.0, 1.0, 7.0, 1e3])
def test_quotients_of_gamma_functions_keep_their_digits(x, r):
    """Beside the sum log r + log(r + 1) + ... + log(r + x - 1), and its derivative; also in float32."""
    factors = r + np.arange(int(x))
    for dtype, rtol in [(torch.float64, 1e-11), (torch.float32, 1e-5)]:
        given = torch.tensor([x], dtype=dtype), torch.tensor([r], dtype=dtype)
        for values in (given, tuple(value.numpy() for value in given)):
            found, slope = rising_and_slope(values[0][:, None], values[1])
            assert found.item() == pytest.approx(np.log(factors).sum(), rel=rtol, abs=rtol)
            assert slope.item() == pytest.approx((1 / factors).sum(), rel=rtol, abs=1e-12)


def test_a_category_that_no_row_has_keeps_its_share_of_a_floor():
    density, _, _ = columns_of(Categorical([3]), np.zeros((9, 1)))
    outputs = torch.tensor([[50.0, -50.0, -50.0]], dtype=torch.float64)
    found = density.expected(outputs)[0]
    torch.testing.assert_close(found[1:], torch.full((2,), FLOOR / 30).double(), rtol=1e-6, atol=0)
    assert found.sum().item() == pytest.approx(1)
    assert density.log_prob(outputs, torch.ones(1, 1).double()).item() > -13


# Extremes


EXTREMES = {
    "poisson": ([0.0, 1e6, 1e12], [-1e4, 1e4, 0.0]),
    "negative_binomial": ([0.0, 1e6, 1e12], [-1e4, 1e4, 0.0]),
    "bernoulli": ([1.0, 0.0, 1.0], [-1e4, 1e4, 0.0]),
    "continuous_bernoulli": ([1.0, 0.0, 0.3], [-1e4, 1e4, 0.0]),
    "categorical": ([1.0, 2.0, 3.0], [1e4, -1e4, 1e4, -1e4, 0.0, 1e4, 1e4, 1e4, -1e4]),
    "student_t": ([-1e15, 1e15, 0.0], [-1e4, 1e4, 0.0]),
    "laplace": ([-1e15, 1e15, 0.0], [-1e4, 1e4, 0.0]),
    "log_normal": ([1e-300, 1e300, 1.0], [-5.0, 5.0, 0.0]),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite_and_so_are_their_gradients(name, dtype):
    density = density_of(name, table(name))[0].to(dtype)
    values, outputs = EXTREMES[name]
    x = torch.tensor([values], dtype=torch.float64).clamp(-1e30, 1e30).to(dtype)
    outputs = torch.tensor([outputs], dtype=dtype)
    assert bool(density.log_prob(outputs, x).isfinite().all())
    assert bool(density.mean(outputs).isfinite().all())
    assert bool(density.sample(outputs, seeded()).isfinite().all())
    cells = CellWeights(torch.ones(1, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype))
    for p in density.parameters():
        p.grad = torch.zeros_like(p)
    for method, rows in [(density.gradient(torch), density.step_input(x)), (autograd_gradient(density), x)]:
        found = [*method(outputs.clone(), rows, cells), *[p.grad for p in density.parameters()]]
        assert all(bool(value.isfinite().all()) for value in found)


def test_a_continuous_bernoulli_is_smooth_through_a_logit_of_zero():
    density, _, _ = density_of("continuous_bernoulli", table("continuous_bernoulli"))
    logit = torch.tensor([0.0, 1e-9, -1e-5, 0.0499, 0.0501, -0.0499, -0.0501], dtype=torch.float64)
    for x in (0.0, 0.3, 1.0):
        found = density.log_prob(logit, torch.full_like(logit, x)).numpy()
        o = logit.numpy()
        with np.errstate(invalid="ignore"):
            expected = np.where(o == 0, 0.0, o * x - np.log(np.expm1(o) / o))
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    near = 0.5 + logit.numpy() / 12 - logit.numpy() ** 3 / 720
    np.testing.assert_allclose(density.mean(logit).numpy(), near, atol=1e-10)
    with torch.no_grad():
        draws = density.sample(torch.zeros(20_000, dtype=torch.float64), seeded()).numpy()
    assert stats.kstest(draws, "uniform").pvalue > 1e-3


AMOUNTS = {"all magnitudes": [-300, 300], "small": [-300, -299], "large": [299, 300]}


@pytest.mark.filterwarnings("ignore:VAETransformer stopped at")
@pytest.mark.parametrize("powers", AMOUNTS)
def test_amounts_of_any_magnitude_fit(powers):
    rng = np.random.default_rng(0)
    X = 10 ** rng.uniform(*AMOUNTS[powers], size=(60, 3))
    vae = VAETransformer(1, likelihood="log_normal", max_iter=3, random_state=0).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    assert np.isfinite(vae.transform(X)).all()
    assert (vae.sample(20, random_state=0) > 0).all()


@pytest.mark.parametrize("power", [-1000, -130, 130, 900])
def test_amounts_of_any_unit_are_the_same_model(power):
    X = table("log_normal")
    shared = {"likelihood": "log_normal", "max_iter": 3, "random_state": 0}
    plain, scaled = VAETransformer(1, **shared).fit(X), VAETransformer(1, **shared).fit(np.ldexp(X, power))
    found = scaled.score_samples(np.ldexp(X, power))
    np.testing.assert_allclose(found, plain.score_samples(X) - D * power * math.log(2), rtol=1e-6)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_counts_of_a_million_fit(name):
    X = np.random.default_rng(0).poisson([1.0, 1e3, 1e6], size=(60, 3)).astype(float)
    vae = VAETransformer(1, likelihood=name, max_iter=3, random_state=0).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    np.testing.assert_allclose(vae.reconstruct(X).mean(0), X.mean(0), rtol=0.2)


@every_member
def test_weights_count_as_repeated_rows_in_what_a_density_learns_of_its_table(name):
    X = table(name, 30)
    copies = np.arange(30) % 3 + 1
    weighted, scale, _ = density_of(name, X, copies.astype(float))
    repeated, same, _ = density_of(name, np.repeat(X, copies, axis=0))
    np.testing.assert_allclose(scale, same, rtol=1e-10)
    for (key, one), other in zip(weighted.named_buffers(), repeated.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7, msg=key)


@every_member
def test_a_gap_takes_no_part_in_what_a_density_learns_of_its_table(name):
    X = table(name, 40)
    gaps = X.copy()
    gaps[::2, 1] = np.nan
    found, full, kept = (dict(density_of(name, T)[0].named_buffers()) for T in (gaps, X, X[1::2]))
    for key in ("encoding.column_mean", "log_mean", "encoding.centre"):
        if key in found and name != "categorical":
            torch.testing.assert_close(found[key][[0, 2]], full[key][[0, 2]], atol=1e-6, rtol=1e-5)
            if name != "johnson_su":  # whose units are those of all rows
                unit = found["log_scale"][1] - kept["log_scale"][1] if name == "log_normal" else 0.0
                torch.testing.assert_close(found[key][1] + unit, kept[key][1], atol=1e-6, rtol=1e-5)


# Johnson's SU


def heavy_tailed(n_rows=200, seed=0):
    """A normal column, one of Student's t with 2 degrees of freedom, and one of a few huge values."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(size=n_rows), rng.standard_t(2, n_rows), rng.normal(size=n_rows)])
    X[:3, 2] = [1e4, -3e4, 1e5]
    return X * [0.5, 200.0, 1.0] + [1.0, -5.0, 1000.0]


def johnson(X, tail=2.0, log_noise=-0.7, unit=1.0, weight=None):
    member = JohnsonSU(tail)
    scale = member.scale(column_moments(X, weight))
    rows = to_rows(X, scale, weight, dtype=torch.float64)
    density = member.build(X.shape[1], scale).double()
    density.fit(rows)
    density.log_noise.data.fill_(log_noise)
    density.unit.fill_(unit)
    return density, scale, rows


TAILS = pytest.mark.parametrize("tail", [0.3, 2.0, 50.0])


@TAILS
@pytest.mark.parametrize("unit", [1.0, 0.3])
def test_johnson_su_is_scipys_to_the_last_digits(tail, unit):
    X = heavy_tailed()
    density, scale, rows = johnson(X, tail, unit=unit)
    outputs = outputs_for(density, 4, len(X))
    found = density.log_prob(outputs, rows.x).detach().numpy()
    np.testing.assert_allclose(found, johnson_su(density, scale, outputs.numpy()).logpdf(X), rtol=1e-10, atol=1e-10)


@TAILS
def test_johnson_su_integrates_to_one_far_into_its_tails(tail):
    density, scale, _ = johnson(heavy_tailed(), tail, log_noise=0.5)
    outputs = outputs_for(density, 1)

    def value(t, d):
        """In t = arcsinh of the standardised column, where the density is as short as a normal's."""
        x = torch.zeros(1, D, dtype=torch.float64)
        x[0, d] = tail * math.sinh(t)
        jacobian = scale.scale[d] * tail * math.cosh(t)
        return math.exp(density.log_prob(outputs, x)[0, d].item()) * jacobian

    for d in range(D):
        mean, spread = (
            float((density.encoding.centre + density.encoding.spread * outputs)[0, d]) / tail,
            float(density.encoding.spread[d]) / tail,
        )
        std = spread * math.exp(0.25)
        area, _ = integrate.quad(value, mean - 10 * std, mean + 10 * std, args=(d,), epsabs=1e-12, limit=200)
        assert area == pytest.approx(1, abs=1e-9)


@TAILS
@pytest.mark.parametrize("log_noise", [-4.0, -0.7])
def test_johnson_sus_mean_is_that_of_its_density_by_quadrature(tail, log_noise):
    density, scale, _ = johnson(table("johnson_su"), tail, log_noise)
    outputs = outputs_for(density, 5)
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    oracle = johnson_su(density, scale, outputs.numpy())
    # X = loc + scale sinh((t - a) / b) for a standard normal t.
    a, b = (np.asarray(value) for value in oracle.args)
    values = oracle.kwds["loc"] + oracle.kwds["scale"] * np.sinh((points[:, None, None] - a) / b)
    expected = np.tensordot(weights, values, 1) / weights.sum()
    found = scale.to_data(density.mean(outputs).detach().numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(found, oracle.mean(), rtol=1e-9)


@TAILS
def test_johnson_sus_samples_have_its_quantiles_and_moments(tail):
    density, scale, _ = johnson(table("johnson_su"), tail, log_noise=-1.5)
    outputs, n = outputs_for(density, 1), 40_000
    with torch.no_grad():
        draws = scale.to_data(density.sample(outputs.expand(n, -1), seeded()).numpy())
    oracle = johnson_su(density, scale, outputs.numpy())
    for d in range(D):
        one = stats.johnsonsu(*(np.ravel(p)[d] for p in oracle.args), **{k: v[d] for k, v in oracle.kwds.items()})
        assert stats.kstest(draws[:, d], one.cdf).pvalue > 1e-3
        assert abs(draws[:, d].mean() - one.mean()) < 5 * one.std() / math.sqrt(n)
        assert draws[:, d].std() == pytest.approx(one.std(), rel=0.1 if tail < 1 else 0.03)


def test_johnson_su_of_a_large_tail_is_gaussian_with_shared_noise_of_scaled_columns():
    X = table("johnson_su")
    density, scale, rows = johnson(X, tail=1e6)
    outputs = outputs_for(density, len(X))
    spread = density.encoding.spread.numpy()
    std = np.exp(0.5 * density.log_noise.detach().numpy()) * spread * scale.scale
    mean = (outputs.numpy() * spread + density.encoding.centre.numpy()) * scale.scale + scale.shift
    found = density.log_prob(outputs, rows.x).detach().numpy()
    np.testing.assert_allclose(found, stats.norm(mean, std).logpdf(X), rtol=1e-6, atol=1e-6)


def test_johnson_sus_encoder_sees_centred_columns_of_mean_variance_one():
    density, _, rows = johnson(heavy_tailed())
    seen = density.encoding.encode(rows.x).numpy()
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-6)
    assert seen.var(0).mean() == pytest.approx(1, rel=1e-6)


def test_johnson_sus_spread_is_the_geometric_mean_of_deviation_and_range():
    X = heavy_tailed()
    density, scale, _ = johnson(X)
    bent = 2 * np.arcsinh(scale.to_model(X) / 2)
    expected = np.sqrt(bent.std(0) * np.ptp(bent, axis=0))
    ratio = density.encoding.spread.numpy() / expected
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_weights_count_as_repeated_rows_in_johnson_sus_columns():
    X = heavy_tailed(30)
    copies = np.arange(30) % 3 + 1
    weighted = johnson(X, weight=copies.astype(float))[0]
    repeated = johnson(np.repeat(X, copies, axis=0))[0]
    for key in ("encoding.centre", "encoding.spread", "log_floor"):
        one, other = (density.get_buffer(key) for density in (weighted, repeated))
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_johnson_sus_columns_are_those_of_the_present_cells():
    X = heavy_tailed(60)
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    found = johnson(gaps)[0]
    scale = JohnsonSU().scale(column_moments(gaps))
    for d in range(D):
        x = (gaps[:, d] - scale.shift[d]) / scale.scale[d]
        bent = 2 * np.arcsinh(x[~np.isnan(x)] / 2)
        assert float(found.encoding.centre[d]) == pytest.approx(bent.mean(), abs=1e-6)
    bent = 2 * np.arcsinh(scale.to_model(gaps) / 2)
    ratio = found.encoding.spread.numpy() / np.sqrt(np.nanstd(bent, 0) * (np.nanmax(bent, 0) - np.nanmin(bent, 0)))
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


@pytest.mark.parametrize("name", NUMBERS)
def test_smoothing_adds_the_noise_to_what_the_encoder_sees(name):
    density, _, rows = density_of(name, table(name))
    noise = torch.randn(rows.x.shape, generator=seeded(), dtype=torch.float64)
    seen = density.encoding.encode(density.encoding.add_noise(rows.x, noise))
    torch.testing.assert_close(seen, density.encoding.encode(rows.x) + noise, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(density.encoding.takes_noise.numpy(), np.ones(D))


@pytest.mark.parametrize("name", SET_VALUES)
def test_columns_of_set_values_refuse_noise(name):
    density, _, rows = density_of(name, table(name))
    with pytest.raises(ValueError, match="no noise can be added.*ELBO with input_noise=0"):
        density.encoding.add_noise(rows.x, torch.zeros_like(rows.x))
    np.testing.assert_array_equal(density.encoding.takes_noise.numpy(), np.zeros(density.encoding.n_inputs))


def test_mixed_passes_over_columns_of_set_values():
    density, _, rows = density_of("mixed", table("mixed"))
    noise = torch.randn(rows.x.shape, generator=seeded(), dtype=torch.float64)
    smooth = density.encoding.add_noise(rows.x, noise)
    moved = ["real", "positive"]
    for d, kind in enumerate(KINDS["mixed"]):
        assert bool((smooth[:, d] != rows.x[:, d]).all()) is (kind in moved)
    numbers = [1, 1, 0, 0, 0, 0, 1, 0]  # two real columns, three categories, counts, amounts, yes or no
    np.testing.assert_array_equal(density.encoding.takes_noise.numpy(), numbers)
    added = density.encoding.add_to_seen(density.step_input(rows.x), noise)
    torch.testing.assert_close(added[:, : density.encoding.n_inputs], density.encoding.encode(smooth))
    torch.testing.assert_close(density.step_input(smooth), added)
    seen = density.encoding.encode(smooth) - density.encoding.encode(rows.x)
    torch.testing.assert_close(seen[:, [0, 1, 6]], noise[:, [4, 1, 2]], rtol=1e-9, atol=1e-9)


MASSES = {
    "all alike": lambda n, d, rng: torch.full((1, 1), 1 / n, dtype=torch.float64),
    "weights": lambda n, d, rng: torch.rand(n, 1, generator=rng, dtype=torch.float64),
    "gaps": lambda n, d, rng: (torch.rand(n, d, generator=rng) > 0.3).double(),
    "gaps and weights": lambda n, d, rng: (
        (torch.rand(n, d, generator=rng) > 0.3) * torch.rand(n, 1, generator=rng, dtype=torch.float64)
    ),
}


def by_formula(density, xp):
    """The stated gradient as a function of x and tensors, with what a warp adds to the value."""
    for p in density.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    gradient, log_slope = density.gradient(xp), density.encoding.log_slope(xp)
    as_array = torch.Tensor.numpy if xp is np else lambda values: values

    def found(outputs, x, cells):
        rows = as_array(density.step_input(x))
        weights = CellWeights(*map(as_array, cells))
        nll, slope = gradient(as_array(outputs), rows, weights)
        volume = 0.0 if log_slope is None else (weights.mass * log_slope(rows[:, : density.encoding.n_inputs])).sum()
        return torch.as_tensor(nll.sum() - volume), torch.as_tensor(slope)

    return found


@every_member
@pytest.mark.parametrize("mass", MASSES)
@pytest.mark.parametrize("beyond", [False, True], ids=["inside", "beyond the bounds"])
def test_the_stated_gradient_is_the_default_by_autograd(name, mass, beyond):
    """With parameters on either side of their bounds, too."""
    X = table(name)
    density, _, rows = density_of(name, X)
    outputs = outputs_for(density, len(rows))
    if beyond:
        outputs = 5 * outputs
        for p in density.parameters():
            p.data = torch.linspace(-30, 30, p.numel(), dtype=torch.float64)
    values = MASSES[mass](*X.shape, seeded(3))
    x = rows.x if values.shape[1] == 1 else rows.x * (values > 0)
    cells = CellWeights(values, values.expand(len(x), -1).sum(0, keepdim=True))
    found = []
    assert density.states_gradient
    by = partial(by_formula, density)
    for method in (partial(by, torch), partial(by, np), partial(autograd_gradient, density)):
        for p in density.parameters():
            p.grad = torch.full_like(p, 9.0)  # every entry must be set, not added to
        views = [p.grad for p in density.parameters()]
        with torch.no_grad():
            nll, slope = method()(outputs.clone(), x, cells)
        assert all(p.grad is view for p, view in zip(density.parameters(), views, strict=True))
        found.append([nll.sum(), slope, *[grad.clone() for grad in views]])
    for *stated, default in zip(*found, strict=True):
        for values in stated:
            torch.testing.assert_close(values, default, rtol=1e-9, atol=1e-7 if beyond else 1e-10)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_a_log_mean_beyond_any_count_comes_back(name):
    """The slope is that of a mean too large by far, in training with autograd and without."""
    density, _, rows = density_of(name, table(name))
    cells = CellWeights(
        torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), float(len(rows)), dtype=torch.float64)
    )
    for p in density.parameters():
        p.grad = torch.zeros_like(p)
    outputs = torch.full((len(rows), D), 45.0, dtype=torch.float64)
    _, stated = by_formula(density, torch)(outputs.clone(), rows.x, cells)
    _, default = autograd_gradient(density)(outputs.clone(), rows.x, cells)
    assert bool((stated > 0).all())
    torch.testing.assert_close(default, stated)


@every_member
def test_error_is_a_squared_distance_with_a_slope_for_every_output(name):
    density, _, rows = density_of(name, table(name))
    outputs = outputs_for(density, 1, len(rows))[0].requires_grad_()
    error = density.error(outputs, rows.x)
    assert error.shape == rows.x.shape
    assert bool((error >= 0).all())
    (slope,) = torch.autograd.grad(error.sum(), outputs)
    assert bool(slope.isfinite().all())
    assert float(slope.abs().max()) > 0


def test_error_of_categories_is_that_of_their_probabilities():
    density, _, rows = density_of("categorical", table("categorical"))
    outputs = outputs_for(density, 1, len(rows))[0]
    parts = density.expected(outputs).split([*SIZES], dim=-1)
    expected = [
        (p - torch.nn.functional.one_hot(x.long(), p.shape[-1])).square().sum(-1)
        for p, x in zip(parts, rows.x.unbind(-1), strict=True)
    ]
    torch.testing.assert_close(density.error(outputs, rows.x), torch.stack(expected, dim=-1))


def test_error_of_counts_is_that_of_their_logarithms():
    density, _, rows = density_of("poisson", table("poisson"))
    outputs = outputs_for(density, 1, len(rows))[0]
    expected = (torch.log1p(density.mean(outputs)) - torch.log1p(rows.x)) / density.encoding.pooled_std
    torch.testing.assert_close(density.error(outputs, rows.x), expected.square())


def test_baseline_of_johnson_su_is_the_density_of_its_linear_model():
    """Gaussian in y, times the Jacobian of the columns."""
    X = heavy_tailed()
    weight = np.linspace(0.5, 1.5, len(X))
    density, scale, rows = johnson(X, weight=weight)
    seen = density.encoding.encode(rows.x).numpy()
    cov = Covariance.of(seen, weight=weight)
    start = start_linear(density, cov, 1)
    W = unit_of(density) * start.decoder_weight
    model = stats.multivariate_normal(np.zeros(D), W @ W.T + density.log_noise.exp().item() * np.eye(D))
    slope = 1 / (np.sqrt(1 + (scale.to_model(X) / 2) ** 2) * density.encoding.spread.numpy() * scale.scale)
    expected = np.average(model.logpdf(seen) + np.log(slope).sum(1), weights=weight)
    assert baseline(density, rows, cov, 1) == pytest.approx(expected, abs=1e-6)


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


@pytest.mark.parametrize("missing", [False, True])
def test_johnson_su_starts_at_its_baseline(missing):
    """As many nats as the linear model has: the bound at the start is exact, but for the gaps."""
    X = table("johnson_su", 300)
    X[:, 1] = X[:, 0] * 3 + X[:, 1] / 4
    X[np.random.default_rng(0).random(X.shape) < (0.1 if missing else 0)] = np.nan
    vae = VAETransformer(
        1, likelihood="johnson_su", hidden_layer_sizes=(), max_iter=1, learning_rate_init=1e-12, random_state=0
    ).fit(X)
    rows = to_rows(X, vae._inference().scale)
    density = copy.deepcopy(vae.module_.likelihood).float()
    expected = baseline(density, rows, covariance(density, rows), 1)
    assert vae.score(X) == pytest.approx(expected, abs=0.1 if missing else 1e-3)


def test_johnson_su_fits_heavy_tails_better_than_a_gaussian():
    X = heavy_tailed(600)
    shared = {"hidden_layer_sizes": (8,), "max_iter": 30, "random_state": 0}
    heavy = VAETransformer(1, likelihood=JohnsonSU(), **shared).fit(X[:300]).score(X[300:])
    gaussian = VAETransformer(1, likelihood=Gaussian("shared"), **shared).fit(X[:300]).score(X[300:])
    assert heavy > gaussian + 1


def test_a_johnson_su_model_has_no_noise_variance():
    vae = VAETransformer(1, likelihood="johnson_su", max_iter=1, random_state=0).fit(table("johnson_su"))
    assert not hasattr(vae, "noise_variance_")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_johnson_su_keeps_the_dtype_and_gives_the_same_numbers(dtype):
    X = table("johnson_su").astype(np.float32)
    vae = VAETransformer(2, likelihood="johnson_su", max_iter=3, random_state=0).fit(X.astype(dtype))
    assert vae.transform(X.astype(dtype)).dtype == dtype
    assert vae.reconstruct(X.astype(dtype)).dtype == dtype
    assert vae.score_samples(X.astype(dtype)).dtype == np.float64
    double = VAETransformer(2, likelihood="johnson_su", max_iter=3, random_state=0).fit(X.astype(np.float64))
    np.testing.assert_allclose(vae.score_samples(X), double.score_samples(X), rtol=1e-5)


CONSTANTS = {
    "one": lambda X: np.column_stack([X, np.full(len(X), 3.0)]),
    "zero": lambda X: np.column_stack([X, np.zeros(len(X))]),
    "all": lambda X: np.ones_like(X) * [1.0, 0.0, -1e300],
    "but for rounding": lambda X: np.column_stack([X, 1e12 + 1e-4 * X[:, 0]]),
    "but for rounding, tiny": lambda X: np.column_stack([X, np.where(X[:, 0] > 0, 1e-40, np.nextafter(1e-40, 1))]),
    "one value": lambda X: np.column_stack([X, np.r_[7.0, np.full(len(X) - 1, np.nan)]]),
    "rows alike": lambda X: np.repeat(X[:1], len(X), axis=0),
}


@pytest.mark.filterwarnings("ignore:VAETransformer stopped at")
@pytest.mark.parametrize("table_of", CONSTANTS)
def test_johnson_su_takes_columns_that_do_not_vary(table_of):
    X = CONSTANTS[table_of](table("johnson_su"))
    vae = VAETransformer(1, likelihood="johnson_su", max_iter=3, random_state=0).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    flat = np.nanmax(X, axis=0) == np.nanmin(X, axis=0)
    back = vae.reconstruct(X)
    assert np.isfinite(back).all()
    constant = np.broadcast_to(np.nanmax(X, axis=0)[flat], (len(X), flat.sum()))
    np.testing.assert_allclose(back[:, flat], constant, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("value", [1e6, 1e39, 1e150, 1e300, 1.7e308])
@pytest.mark.parametrize("sign", [-1, 1])
def test_johnson_sus_tails_fall_off_and_are_never_undefined(value, sign):
    X = table("johnson_su")
    vae = VAETransformer(1, likelihood="johnson_su", max_iter=3, random_state=0).fit(X)
    near, far = vae.score_samples(X).min(), vae.score_samples(np.full((1, D), sign * value))[0]
    assert not np.isnan(far)
    assert far < near - 30


@pytest.mark.parametrize("power", [-1000, -130, 130, 1000])
def test_johnson_su_of_a_table_of_any_scale_is_the_same_model(power):
    X = table("johnson_su")
    shared = {"likelihood": "johnson_su", "max_iter": 3, "random_state": 0}
    plain, scaled = VAETransformer(1, **shared).fit(X), VAETransformer(1, **shared).fit(np.ldexp(X, power))
    found = scaled.score_samples(np.ldexp(X, power))
    np.testing.assert_allclose(found, plain.score_samples(X) - D * power * math.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    "params", [{"tail": 0.0}, {"tail": -1}, {"tail": "a"}, {"noise_floor": 0.0}, {"noise_floor": 1.0}]
)
def test_wrong_hyperparameters_of_johnson_su_are_refused_in_fit(params):
    with pytest.raises(InvalidParameterError, match=next(iter(params))):
        VAETransformer(1, likelihood=JohnsonSU(**params), random_state=0).fit(table("johnson_su"))
