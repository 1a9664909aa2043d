"""The contract of p(x|z), run over every likelihood, in data units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import expit
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from skvae import Bernoulli, Gaussian, VAETransformer
from skvae._linear import Covariance
from skvae.data import Scale, column_moments, to_rows
from skvae.likelihoods import LIKELIHOODS

D = 3
MEMBERS = {
    "feature": Gaussian(),
    "shared": Gaussian(noise="shared"),
    "decoder": Gaussian(noise="decoder"),
    "bernoulli": Bernoulli(),
}
GAUSSIANS = ["feature", "shared", "decoder"]
every_member = pytest.mark.parametrize("name", MEMBERS)
every_gaussian = pytest.mark.parametrize("name", GAUSSIANS)


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
    log_var = np.maximum(o[..., D:], math.log(0.001)) if name == "decoder" else density.log_noise.detach().numpy()
    return stats.norm(o[..., :D] * scale.scale + scale.shift, np.exp(0.5 * log_var) * scale.scale)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_registry_names_these_likelihoods():
    assert {"gaussian": Gaussian, "bernoulli": Bernoulli} == LIKELIHOODS


@every_member
def test_log_prob_equals_scipy_in_data_units(name):
    X = table(name)
    density, scale, rows = density_of(name, X)
    outputs = outputs_for(density, 4, len(X))
    found = density.log_prob(outputs, rows.x).detach().numpy()
    oracle = distribution(name, density, scale, outputs)
    expected = oracle.logpmf(X) if name == "bernoulli" else oracle.logpdf(X)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@every_gaussian
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
    found = scale.to_data(density.mean(outputs).numpy())
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


@every_gaussian
def test_encoder_of_a_gaussian_sees_centred_columns(name):
    density, _, rows = density_of(name, table(name))
    seen = density.encode_input(rows.x)
    torch.testing.assert_close(seen.mean(0), torch.zeros(D, dtype=torch.float64), atol=1e-10, rtol=0)


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


@pytest.mark.parametrize("name", ["feature", "shared"])
@pytest.mark.parametrize(("error", "moves"), [(0.0, False), (5.0, True)])
def test_noise_below_the_floor_moves_only_upwards(name, error, moves):
    """With errors far above the floor the gradient asks for more noise and passes; with none it asks for less."""
    density, _, rows = density_of(name, table(name))
    density.log_noise.data.fill_(-50.0)
    loss = -density.log_prob(rows.x + error, rows.x).sum()
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


@every_gaussian
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


@every_gaussian
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
