"""The contract of p(x|z), run over every likelihood, in data units."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import expit
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from skvae import Bernoulli, Gaussian, JohnsonSU, VAETransformer
from skvae._linear import Covariance
from skvae.data import Scale, column_moments, to_rows
from skvae.likelihoods import LIKELIHOODS, Cells

D = 3
MEMBERS = {
    "feature": Gaussian(),
    "shared": Gaussian(noise="shared"),
    "decoder": Gaussian(noise="decoder"),
    "bernoulli": Bernoulli(),
    "johnson_su": JohnsonSU(),
}
GAUSSIANS = ["feature", "shared", "decoder"]
REAL = [*GAUSSIANS, "johnson_su"]
every_member = pytest.mark.parametrize("name", MEMBERS)
every_gaussian = pytest.mark.parametrize("name", GAUSSIANS)
every_real = pytest.mark.parametrize("name", REAL)


def table(name, n_rows=50, seed=0):
    rng = np.random.default_rng(seed)
    if name == "bernoulli":
        return (rng.random((n_rows, D)) < [0.2, 0.5, 0.8]).astype(float)
    return rng.normal(size=(n_rows, D)) * [0.5, 2.0, 30.0] + [1.0, -5.0, 1000.0]


def density_of(name, X, weight=None):
    """The density for table X in float64 with noise away from its start, its scale, and the rows in model units."""
    member = MEMBERS[name]
    scale = member.scale(column_moments(X, weight))
    rows = to_rows(X, scale, weight, dtype=torch.float64)
    density = member.build(D, scale).double()
    density.fit(rows)
    for p in density.parameters():
        p.data = torch.linspace(-1.5, 0.5, p.numel(), dtype=torch.float64)
    return density, scale, rows


def outputs_for(density, *shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, density.n_params, generator=rng, dtype=torch.float64)


def distribution(name, density, scale, outputs):
    """The same p(x|z) as a frozen scipy distribution in data units."""
    o = outputs.numpy()
    if name == "bernoulli":
        return stats.bernoulli(expit(o))
    if name == "johnson_su":
        return johnson_su(density, scale, o)
    log_var = np.maximum(o[..., D:], math.log(0.001)) if name == "decoder" else density.log_noise.detach().numpy()
    return stats.norm(o[..., :D] * scale.scale + scale.shift, np.exp(0.5 * log_var) * scale.scale)


def johnson_su(density, scale, outputs):
    """scipy's Johnson SU: a + b arcsinh((X - loc) / scale) is standard normal."""
    centre, spread, unit = (getattr(density, key).numpy() for key in ("centre", "spread", "unit"))
    std = np.exp(0.5 * np.maximum(density.log_noise.detach().numpy(), density.log_floor[:1].numpy()))
    b = density.tail / (spread * std)
    a = -(centre + spread * unit * outputs) / (spread * std)
    return stats.johnsonsu(a, b, loc=scale.shift, scale=density.tail * scale.scale)


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
    oracle = distribution(name, density, scale, outputs)
    expected = oracle.logpmf(X) if name == "bernoulli" else oracle.logpdf(X)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@every_real
def test_density_integrates_to_one_in_data_units(name):
    density, scale, _ = density_of(name, table(name))
    outputs = outputs_for(density, 1)
    oracle = distribution(name, density, scale, outputs)

    def value(t, d):
        X = np.array(scale.shift, dtype=float)[None]
        X[0, d] = t
        x = torch.tensor(scale.to_model(X))
        return math.exp(density.log_prob(outputs, x)[0, d].item())

    for d in range(D):
        centre, spread = oracle.mean()[0, d], oracle.std()[0, d]
        area, _ = integrate.quad(value, centre - 10 * spread, centre + 10 * spread, args=(d,), points=[centre])
        assert area == pytest.approx(1, abs=1e-5)


def test_bernoulli_sums_to_one():
    density, _, _ = density_of("bernoulli", table("bernoulli"))
    outputs = outputs_for(density, 10)
    values = [density.log_prob(outputs, torch.full((10, D), v, dtype=torch.float64)).exp() for v in (0.0, 1.0)]
    torch.testing.assert_close(values[0] + values[1], torch.ones_like(values[0]))


def test_bernoulli_at_extreme_logits_is_finite():
    density, _, _ = density_of("bernoulli", table("bernoulli"))
    outputs = torch.tensor([[-1e4, 1e4, 0.0]], dtype=torch.float64)
    assert density.log_prob(outputs, torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)).tolist() == [
        [-1e4, -1e4, -math.log(2)]
    ]


@every_member
def test_samples_have_the_moments_of_the_distribution(name):
    density, scale, _ = density_of(name, table(name))
    outputs = outputs_for(density, 1)
    n = 40_000
    with torch.no_grad():
        draws = scale.to_data(density.sample(outputs.expand(n, -1), seeded()).numpy())
    oracle = distribution(name, density, scale, outputs)
    mean, std = oracle.mean()[0], oracle.std()[0]
    assert (np.abs(draws.mean(0) - mean) < 5 * std / math.sqrt(n)).all()
    np.testing.assert_allclose(draws.std(0), std, rtol=0.03)


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
    density, scale, _ = density_of(name, table(name))
    outputs = outputs_for(density, 2, 7)
    found = scale.to_data(density.mean(outputs).detach().numpy())
    np.testing.assert_allclose(found, distribution(name, density, scale, outputs).mean(), rtol=1e-12)


@every_gaussian
def test_variance_is_the_distributions(name):
    density, scale, _ = density_of(name, table(name))
    outputs = outputs_for(density, 7)
    found = density.variance(outputs).detach().numpy() * scale.scale**2
    expected = distribution(name, density, scale, outputs).var()
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-6)


def test_bernoulli_reports_no_learnt_noise():
    density, _, _ = density_of("bernoulli", table("bernoulli"))
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
    seen = density.encode_input(rows.x)
    atol = 1e-6 if name == "johnson_su" else 1e-10  # its centre is a buffer of the model, in float32
    torch.testing.assert_close(seen.mean(0), torch.zeros(D, dtype=torch.float64), atol=atol, rtol=0)


@pytest.mark.parametrize("name", ["feature", "decoder"])
def test_encoder_sees_unit_variance_where_noise_is_per_feature(name):
    density, _, rows = density_of(name, table(name))
    std = density.encode_input(rows.x).std(0, correction=0)
    torch.testing.assert_close(std, torch.ones(D, dtype=torch.float64))


def test_encoder_sees_one_scale_where_noise_is_shared():
    X = table("shared")
    density, scale, rows = density_of("shared", X)
    assert len(set(scale.scale)) == 1
    assert scale.scale[0] == pytest.approx(math.sqrt(X.var(0).mean()))
    np.testing.assert_allclose(density.encode_input(rows.x).numpy() * scale.scale, X - X.mean(0), atol=1e-9)


def test_encoder_of_a_bernoulli_sees_columns_near_zero_of_pooled_variance_one():
    density, _, rows = density_of("bernoulli", table("bernoulli", 2000))
    seen = density.encode_input(rows.x)
    assert seen.mean(0).abs().max() < 0.01
    assert seen.square().mean().item() == pytest.approx(1, abs=0.01)


def test_gaussian_takes_any_finite_value():
    Gaussian().check(np.array([[-1e300, 0.0, 1e300]]), ["a", "b", "c"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, r"Negative values in data passed to VAE: b holds -1.0; likelihood='bernoulli' takes values in \[0, 1\]"),
        (2, r"^b holds 2.0; likelihood='bernoulli' takes values in \[0, 1\]"),
    ],
)
def test_bernoulli_names_the_column_that_leaves_its_support(value, message):
    with pytest.raises(ValueError, match=message):
        Bernoulli().check(np.array([[0.0, 1.0], [0.5, value]]), ["a", "b"])


def test_bernoulli_takes_fractions_and_gaps():
    Bernoulli().check(np.array([[0.0, 0.5], [1.0, np.nan]]), ["a", "b"])


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
    outputs = (density.encode_input(rows.x) + error) / unit_of(density)
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


def unit_of(density):
    """What the decoder's means are multiplied by, in model units."""
    return float(getattr(density, "unit", 1.0))


def covariance(density, rows):
    with torch.no_grad():
        return Covariance.of(density.encode_input(rows.x).numpy())


@every_real
def test_start_is_the_linear_models_posterior(name):
    X = table(name, 200)
    X[:, 1] = X[:, 0] * 3 + X[:, 1] / 4
    density, _, rows = density_of(name, X)
    start = density.start(covariance(density, rows), 1)
    noise = density.log_noise.detach().exp().numpy() if name != "decoder" else np.exp(start.decoder_bias[D:])
    W, psi = unit_of(density) * start.decoder_weight[:D], np.broadcast_to(noise, (D,))
    precision = np.eye(1) + W.T @ (W / psi[:, None])
    np.testing.assert_allclose(start.encoder_weight, np.linalg.solve(precision, (W / psi[:, None]).T), rtol=1e-5)
    np.testing.assert_allclose(start.posterior_var, 1 / np.diag(precision), rtol=1e-5)
    np.testing.assert_allclose(start.decoder_weight[D:], 0)


def test_bernoulli_start_has_the_log_odds_of_the_smoothed_column_means():
    X = table("bernoulli")
    density, _, rows = density_of("bernoulli", X)
    start = density.start(covariance(density, rows), 2)
    mean = (X.sum(0) + 0.5) / (len(X) + 1)
    np.testing.assert_allclose(start.decoder_bias, np.log(mean / (1 - mean)), rtol=1e-6)
    assert start.decoder_weight.shape == (D, 2)
    assert start.encoder_weight.shape == (2, D)
    assert ((start.posterior_var > 0) & (start.posterior_var <= 1)).all()


def test_bernoulli_start_of_a_constant_column_is_finite():
    X = table("bernoulli")
    X[:, 0] = 1.0
    density, _, rows = density_of("bernoulli", X)
    start = density.start(covariance(density, rows), 2)
    assert all(np.isfinite(value).all() for value in vars(start).values())


@pytest.mark.parametrize("name", ["feature", "shared"])
@pytest.mark.parametrize("weighted", [False, True])
def test_baseline_of_a_gaussian_is_the_linear_models_density(name, weighted):
    X = table(name)
    weight = np.linspace(0.5, 1.5, len(X)) if weighted else None
    density, scale, rows = density_of(name, X, weight)
    cov = Covariance.of(rows.x.numpy(), weight=weight)
    start = density.start(cov, 1)
    W = unit_of(density) * start.decoder_weight[:D]
    noise = np.broadcast_to(density.log_noise.detach().exp().numpy(), (D,))
    model = stats.multivariate_normal(scale.shift, (W @ W.T + np.diag(noise)) * np.outer(scale.scale, scale.scale))
    expected = np.average(model.logpdf(X), weights=weight)
    assert density.baseline(rows, cov, 1) == pytest.approx(expected, abs=1e-6)


def test_baseline_of_a_bernoulli_takes_columns_as_independent():
    X = table("bernoulli")
    X[3, 1] = np.nan
    density, _, rows = density_of("bernoulli", X)
    mean = (np.nansum(X, 0) + 0.5) / ((~np.isnan(X)).sum(0) + 1)
    expected = np.nansum(stats.bernoulli(mean).logpmf(np.nan_to_num(X)) * ~np.isnan(X)) / len(X)
    cov = Covariance.of(rows.x.numpy())
    assert density.baseline(rows, cov, 1) == pytest.approx(expected, abs=1e-5)


def test_weights_count_as_repeated_rows_in_the_bernoulli_column_means():
    X = table("bernoulli", 10)
    copies = np.arange(10) % 3 + 1
    repeated = density_of("bernoulli", np.repeat(X, copies, axis=0))[0].column_mean
    rows = to_rows(X, Scale(np.zeros(D), np.ones(D)), copies.astype(float))
    density = Bernoulli().build(D, Scale(np.zeros(D), np.ones(D)))
    density.fit(rows)
    torch.testing.assert_close(density.column_mean.double(), repeated, rtol=1e-6, atol=0)


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
        mean, spread = float((density.centre + density.spread * outputs)[0, d]) / tail, float(density.spread[d]) / tail
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
    spread = density.spread.numpy()
    std = np.exp(0.5 * density.log_noise.detach().numpy()) * spread * scale.scale
    mean = (outputs.numpy() * spread + density.centre.numpy()) * scale.scale + scale.shift
    found = density.log_prob(outputs, rows.x).detach().numpy()
    np.testing.assert_allclose(found, stats.norm(mean, std).logpdf(X), rtol=1e-6, atol=1e-6)


def test_johnson_sus_encoder_sees_centred_columns_of_mean_variance_one():
    density, _, rows = johnson(heavy_tailed())
    seen = density.encode_input(rows.x).numpy()
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-6)
    assert seen.var(0).mean() == pytest.approx(1, rel=1e-6)


def test_johnson_sus_spread_is_the_geometric_mean_of_deviation_and_range():
    X = heavy_tailed()
    density, scale, _ = johnson(X)
    bent = 2 * np.arcsinh(scale.to_model(X) / 2)
    expected = np.sqrt(bent.std(0) * np.ptp(bent, axis=0))
    ratio = density.spread.numpy() / expected
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_weights_count_as_repeated_rows_in_johnson_sus_columns():
    X = heavy_tailed(30)
    copies = np.arange(30) % 3 + 1
    weighted = johnson(X, weight=copies.astype(float))[0]
    repeated = johnson(np.repeat(X, copies, axis=0))[0]
    for key in ("centre", "spread", "log_floor"):
        torch.testing.assert_close(getattr(weighted, key), getattr(repeated, key), rtol=1e-6, atol=1e-7)


def test_johnson_sus_columns_are_those_of_the_present_cells():
    X = heavy_tailed(60)
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    found = johnson(gaps)[0]
    scale = JohnsonSU().scale(column_moments(gaps))
    for d in range(D):
        x = (gaps[:, d] - scale.shift[d]) / scale.scale[d]
        bent = 2 * np.arcsinh(x[~np.isnan(x)] / 2)
        assert float(found.centre[d]) == pytest.approx(bent.mean(), abs=1e-6)
    bent = 2 * np.arcsinh(scale.to_model(gaps) / 2)
    ratio = found.spread.numpy() / np.sqrt(np.nanstd(bent, 0) * (np.nanmax(bent, 0) - np.nanmin(bent, 0)))
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_smoothing_adds_the_noise_to_what_the_encoder_sees():
    for name in REAL:
        density, _, rows = density_of(name, table(name))
        noise = torch.randn(rows.x.shape, generator=seeded(), dtype=torch.float64)
        seen = density.encode_input(density.smooth(rows.x, noise))
        torch.testing.assert_close(seen, density.encode_input(rows.x) + noise, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="input_noise=0"):
        density_of("bernoulli", table("bernoulli"))[0].smooth(rows.x, noise)


@every_member
@pytest.mark.parametrize("missing", [False, True])
def test_the_stated_gradient_is_autograds(name, missing):
    density, _, rows = density_of(name, table(name))
    outputs = outputs_for(density, len(rows)).requires_grad_()
    mask = (torch.rand(rows.x.shape, generator=seeded(3)) > 0.3).double() if missing else torch.ones(len(rows), 1)
    cells = Cells(mask.double(), mask.double().sum(0, keepdim=True))
    nll = -(cells.mass * density.log_prob(outputs, rows.x)).sum()
    wanted = [outputs, *density.parameters()]
    expected = torch.autograd.grad(nll, wanted)
    for parameter in density.parameters():
        parameter.grad = torch.full_like(parameter, 9.0)
    with torch.no_grad():
        found, slope = density.nll_gradient(outputs.detach().clone(), rows.x, cells)
    torch.testing.assert_close(found, nll.detach(), rtol=1e-10, atol=1e-10)
    for one, other in zip([slope, *(p.grad for p in density.parameters())], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_baseline_of_johnson_su_is_the_density_of_its_linear_model():
    """Gaussian in y, times the Jacobian of the columns."""
    X = heavy_tailed()
    weight = np.linspace(0.5, 1.5, len(X))
    density, scale, rows = johnson(X, weight=weight)
    seen = density.encode_input(rows.x).numpy()
    cov = Covariance.of(seen, weight=weight)
    start = density.start(cov, 1)
    W = unit_of(density) * start.decoder_weight
    model = stats.multivariate_normal(np.zeros(D), W @ W.T + density.log_noise.exp().item() * np.eye(D))
    slope = 1 / (np.sqrt(1 + (scale.to_model(X) / 2) ** 2) * density.spread.numpy() * scale.scale)
    expected = np.average(model.logpdf(seen) + np.log(slope).sum(1), weights=weight)
    assert density.baseline(rows, cov, 1) == pytest.approx(expected, abs=1e-6)


@every_member
@pytest.mark.parametrize("weighted", [False, True])
def test_baseline_is_the_mean_over_its_rows(name, weighted):
    X = table(name)
    X[3, 1] = np.nan
    weight = np.linspace(0.5, 1.5, len(X)) if weighted else None
    density, _, rows = density_of(name, X, weight)
    cov = density.covariance(rows)
    each = density.baseline_samples(rows, cov, 1)
    assert each.shape == (len(X),)
    assert density.baseline(rows, cov, 1) == pytest.approx(np.average(each, weights=weight), rel=1e-6)
    alone = density.baseline_samples(rows.take(torch.tensor([3])), cov, 1)
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
    rows = to_rows(X, vae._scale())
    density = copy.deepcopy(vae.module_.likelihood).float()
    baseline = density.baseline(rows, density.covariance(rows), 1)
    assert vae.score(X) == pytest.approx(baseline, abs=0.1 if missing else 1e-3)


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
