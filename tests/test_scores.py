"""What a fitted model says of rows, against closed forms of the linear model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import rows_of, scale_of
from scipy.stats import multivariate_normal

from skvae import Gaussian, VAETransformer
from skvae._inference.posterior import MOST_CURVATURE, _curvature, _inverse_factor
from skvae._inference.quadrature import normal_rule, quasi_normal
from skvae._inference.scores import BLOCK_NUMBERS, block_rows, conditional_mean, latent_information, log_likelihood
from skvae.objectives import Batch

D, J = 5, 2


def table(n_rows=80, noise=0.5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_rows, J)) @ rng.normal(size=(J, D)) + noise * rng.normal(size=(n_rows, D))


def linear_vae(noise="feature", X=None, **params):
    """A linear model at its start, where q(z|x) is the exact posterior of full rows."""
    X = table() if X is None else X
    shared = {"hidden_layer_sizes": (), "max_iter": 1, "learning_rate_init": 1e-12, "early_stopping": False}
    return VAETransformer(J, likelihood=Gaussian(noise=noise), random_state=0, **{**shared, **params}).fit(X)


def moments_in_model_units(vae):
    """Mean and covariance of p(x)."""
    unit = getattr(vae.module_.likelihood, "unit", torch.ones(1)).numpy()
    W = unit[:, None] * vae.module_.decoder.linear.weight.numpy()
    noise = np.broadcast_to(vae.noise_variance_, (D,)) / vae.scale_**2
    return unit * vae.module_.decoder.linear.bias.numpy(), W @ W.T + np.diag(noise)


# Draws


@pytest.mark.parametrize("n_draws", [1, 5, 64, 100])
@pytest.mark.parametrize("n_components", [1, 3, 40])
def test_quasi_normal_has_the_asked_shape_is_finite_and_the_same_at_every_call(n_draws, n_components):
    draws = quasi_normal(n_draws, n_components, 0)
    assert draws.shape == (n_draws, n_components)
    assert draws.dtype == torch.float64
    assert bool(draws.isfinite().all())
    assert torch.equal(draws, quasi_normal(n_draws, n_components, 0))
    assert not torch.equal(draws, quasi_normal(n_draws, n_components, 1))


@pytest.mark.parametrize("n_components", [1, 3, 20])
def test_quasi_normal_has_the_moments_of_a_standard_normal(n_components, any_seed):
    draws = quasi_normal(1024, n_components, any_seed)
    assert float(draws.mean(0).abs().max()) < 0.02
    torch.testing.assert_close(
        draws.T.cov().reshape(n_components, -1), torch.eye(n_components).double(), atol=0.06, rtol=0
    )
    # The outermost of 512 pairs lies at up to 4.7 deviations in 400 columns, whose fourth power is 1 in the mean.
    assert float((draws.pow(4).mean(0) - 3).abs().max()) < 1


@pytest.mark.parametrize(("n_draws", "n_components"), [(64, 1), (64, 3), (64, 31), (1000, 20)])
def test_quasi_normal_has_exactly_mean_zero_and_covariance_one(n_draws, n_components):
    """All rows share the points, so that their error would not average out over rows."""
    draws = quasi_normal(n_draws, n_components, 0)
    torch.testing.assert_close(draws.mean(0), torch.zeros_like(draws[0]), atol=1e-12, rtol=0)
    torch.testing.assert_close(draws.T @ draws / n_draws, torch.eye(n_components).double(), atol=1e-9, rtol=0)


def test_quasi_normal_fills_space_more_evenly_than_random_draws():
    errors = [abs(float(quasi_normal(64, 2, seed).mean())) for seed in range(20)]
    assert max(errors) < 1 / math.sqrt(2 * 64)


# Likelihood


@pytest.mark.parametrize("noise", ["feature", "shared", "decoder"])
def test_likelihood_of_a_linear_model_is_the_normal_density(noise):
    vae = linear_vae(noise)
    mean, cov = moments_in_model_units(vae) if noise != "decoder" else _decoder_moments(vae)
    X = table()
    expected = multivariate_normal(mean, cov).logpdf(scale_of(vae).to_model(X)) - np.log(vae.scale_).sum()
    np.testing.assert_allclose(vae.score_samples(X), expected, atol=1e-5)


def _decoder_moments(vae):
    linear = vae.module_.decoder.linear
    W, bias = linear.weight.numpy()[:D], linear.bias.numpy()
    return bias[:D], W @ W.T + np.diag(np.exp(bias[D:]))


def marginal(vae, X):
    """log p of the present cells of X, which miss column 3, under a linear model: (N,)."""
    mean, cov = moments_in_model_units(vae)
    kept = [0, 1, 2, 4]
    x = scale_of(vae).to_model(X)
    return multivariate_normal(mean[kept], cov[np.ix_(kept, kept)]).logpdf(x[:, kept]) - np.log(vae.scale_[kept]).sum()


def test_likelihood_with_gaps_is_the_marginal_of_the_present_cells():
    X = table(noise=2.0)
    vae = linear_vae("shared", X, n_draws=4096)
    X[:, 3] = np.nan
    np.testing.assert_allclose(vae.score_samples(X), marginal(vae, X), atol=1e-5)


def test_likelihood_with_gaps_is_near_the_marginal_where_noise_is_small():
    X = table()
    vae = linear_vae("shared", X)
    X[:, 3] = np.nan
    assert vae.score_samples(X).mean() == pytest.approx(marginal(vae, X).mean(), abs=1e-5)


@pytest.mark.parametrize("noise", ["feature", "shared"])
def test_codes_of_rows_with_gaps_are_the_posterior_means_given_the_other_cells(noise):
    """The encoder has seen whole rows only and cannot know; without any cell the code is the prior's mean."""
    vae = linear_vae(noise)
    X = table(30)
    X[np.random.default_rng(0).random(X.shape) < 0.4] = np.nan
    X[0] = np.nan
    mean, cov = moments_in_model_units(vae)
    weight = vae.module_.decoder.linear.weight.numpy()[:, vae._order]
    W = getattr(vae.module_.likelihood, "unit", torch.ones(1)).numpy()[:, None] * weight
    found = vae.transform(X)
    for row, x in zip(found, scale_of(vae).to_model(X), strict=True):
        here = ~np.isnan(x)
        expected = W[here].T @ np.linalg.solve(cov[np.ix_(here, here)], (x - mean)[here])
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_likelihood_is_the_log_of_the_mean_weight():
    vae = linear_vae(hidden_layer_sizes=(8,), max_iter=5, learning_rate_init=1e-2)
    rows, rule = rows_of(vae, table()), normal_rule(32, 2, 0)
    weights = vae.module_.log_weights(rows.x, rule.eps).total
    expected = (rule.log_weight.exp() * weights.exp()).sum(0).log()
    torch.testing.assert_close(log_likelihood(vae.module_, rows, rule)[:, 0], expected)


def test_a_row_too_far_out_has_likelihood_minus_infinity():
    vae = linear_vae()
    far = Batch(torch.full((1, D), 1e200, dtype=torch.float64))
    assert log_likelihood(vae.module_, far, normal_rule(4, J, 0))[:, 0].tolist() == [-math.inf]


# Conditional means


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_conditional_mean_of_a_linear_model_is_the_closed_form(noise):
    X = table(noise=noise)
    vae = linear_vae("shared", X)
    X[:, 3] = np.nan
    X[::2, 0] = np.nan
    mean, cov = moments_in_model_units(vae)
    rows = rows_of(vae, X)
    found = conditional_mean(vae.module_, rows, normal_rule(64, J, 0))[:, :-1].numpy()
    for row, present, values in zip(rows.x.numpy(), rows.mask.numpy() > 0, found, strict=True):
        gain = cov[np.ix_(~present, present)] @ np.linalg.inv(cov[np.ix_(present, present)])
        expected = mean[~present] + gain @ (row[present] - mean[present])
        np.testing.assert_allclose(values[~present], expected, atol=1e-5)


def test_imputed_cells_are_the_conditional_means_in_data_units():
    vae = linear_vae()
    X = table()
    gaps = X[:10].copy()
    gaps[:, 3] = np.nan
    filled = vae.set_params(n_draws=1024).impute(gaps)
    means = conditional_mean(vae.module_, rows_of(vae, gaps), vae._inference().rule).numpy()
    np.testing.assert_allclose(filled[:, 3], means[:, 3] * vae.scale_[3] + scale_of(vae).shift[3])
    np.testing.assert_array_equal(filled[:, :3], X[:10, :3])


# Latents and blocks


@pytest.mark.parametrize("weight", [None, np.linspace(0.1, 1.9, 80)], ids=["equal", "weighted"])
def test_latent_information_is_the_kl_of_the_posterior_to_the_prior(weight):
    vae = linear_vae()
    rows = rows_of(vae, table(), weight)
    information, spread, mu = latent_information(vae.module_, rows)
    means, log_var = vae.module_.encode(rows.x)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(means, torch.exp(log_var / 2)), normal(0.0, 1.0))
    np.testing.assert_allclose(information, np.average(expected, axis=0, weights=weight), rtol=1e-7)
    about = means - torch.tensor(np.average(means, axis=0, weights=weight))
    np.testing.assert_allclose(spread, np.average(about.square(), axis=0, weights=weight), rtol=1e-7)
    assert torch.equal(mu, means)


def test_numbers_do_not_depend_on_the_size_of_the_blocks(monkeypatch):
    vae = linear_vae(hidden_layer_sizes=(8,))
    X = table()
    X[::4, 1] = np.nan
    whole = [vae.score_samples(X), vae.transform(X), vae.impute(X), vae.reconstruct(X)]
    monkeypatch.setattr("skvae._inference.scores.BLOCK_NUMBERS", 64 * 8 * 7)
    assert block_rows(vae.module_, 64) == 7
    blocks = [vae.score_samples(X), vae.transform(X), vae.impute(X), vae.reconstruct(X)]
    for one, other in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n_draws", [1, 64, 10**9])
def test_blocks_hold_at_least_one_row(n_draws):
    assert block_rows(linear_vae().module_, n_draws) >= 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # a mixture takes more epochs
@pytest.mark.parametrize("prior", ["normal", "mixture"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
@pytest.mark.parametrize("likelihood", [Gaussian("decoder"), "student_t", "poisson", "categorical"], ids=str)
def test_the_posteriors_curvature_is_that_of_the_joint_density(likelihood, activation, prior):
    X = np.random.default_rng(0).poisson(2.0, size=(60, 4)).clip(0, 4).astype(float)
    shape = {"hidden_layer_sizes": (6, 5), "activation": activation, "likelihood": likelihood, "prior": prior}
    vae = VAETransformer(3, max_iter=3, random_state=0, **shape).fit(X)
    X[::2, 1] = np.nan
    model, rows = vae.module_, rows_of(vae, X[:9])
    z = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = _curvature(model, rows, z)
    for i in range(9):
        x, mask = rows.x[i : i + 1], rows.mask[i : i + 1]
        expected = -torch.autograd.functional.hessian(
            lambda z, x=x, mask=mask: model.log_joint(z[None], x, mask).sum(), z[i]
        )
        torch.testing.assert_close(found[i], expected, rtol=1e-8, atol=1e-8)


def test_factors_of_inverse_curvatures_are_held_within_bounds():
    model = linear_vae().module_
    roots = torch.randn(4, J, J, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curvature = roots @ roots.mT + torch.eye(J)
    curvature[1] = torch.diag(torch.tensor([-3.0, 5.0]))
    curvature[2] = torch.diag(torch.tensor([2.0, 1e15]))
    expected = curvature.clone()
    expected[1, 0, 0], expected[2, 1, 1] = model.prior.least_curvature, MOST_CURVATURE
    factor = _inverse_factor(model, curvature)
    torch.testing.assert_close(factor @ factor.mT, torch.linalg.inv(expected), rtol=1e-9, atol=1e-14)
    assert bool((factor.triu(1) == 0).all())
    assert bool((factor.diagonal(dim1=1, dim2=2) > 0).all())


@pytest.mark.parametrize("look", ["score_samples", "impute"])
def test_many_draws_of_a_row_are_taken_some_at_a_time(look):
    X = table()
    X[:3, 1] = np.nan
    vae = VAETransformer(3, hidden_layer_sizes=(20,), max_iter=2, n_draws=50_000, random_state=0).fit(X)
    sizes = []
    hook = vae.module_.decoder.register_forward_hook(lambda module, inputs, outputs: sizes.append(len(outputs)))
    many = getattr(vae, look)(X[:3])
    hook.remove()
    assert sum(sizes) >= 150_000
    assert max(sizes) * 20 <= BLOCK_NUMBERS
    np.testing.assert_allclose(many, getattr(vae.set_params(n_draws=4096), look)(X[:3]), atol=0.05)


def test_a_row_with_gaps_and_hundreds_of_latents_has_a_code():
    X = np.random.default_rng(0).normal(size=(40, 10))
    vae = VAETransformer(400, max_iter=1, random_state=0).fit(X)
    X[0, 0] = np.nan
    assert np.isfinite(vae.transform(X[:1])).all()
    assert np.isfinite(vae.score_samples(X[:1])).all()
