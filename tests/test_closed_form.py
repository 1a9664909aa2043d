"""Oracles: numbers known from outside skvae that a right implementation must meet."""

from __future__ import annotations

import copy
import math
import warnings
from functools import cache, partial

import numpy as np
import pytest
import torch
from helpers import rows_of, scale_of, seeded
from scipy.linalg import subspace_angles
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import binary_cross_entropy_with_logits

from skvae import ELBO, IWAE, Bernoulli, Gaussian, VAETransformer

# Maximum of the mean log-likelihood per row of probabilistic PCA, in nats (float64, from the eigenvalues).
MAXIMA = {
    ("digits", 2): 0.005707,
    ("digits", 5): 8.907637,
    ("digits", 10): 17.451947,
    ("digits", 20): 27.277300,
    ("wine", 2): -16.155260,
    ("wine", 5): -15.212645,
    ("wine", 10): -14.688000,
    ("cancer", 2): -31.684860,
    ("cancer", 5): -24.625057,
    ("cancer", 10): -18.185031,
    ("cancer", 20): -11.313716,
}
every_maximum = pytest.mark.parametrize(("name", "n_components"), MAXIMA)


@cache
def table(name):
    if name == "digits":
        return load_digits().data / 16
    X = {"wine": load_wine, "cancer": load_breast_cancer}[name]().data
    return StandardScaler().fit_transform(X)


def linear(n_components, noise="shared", **params):
    """A linear VAE that trains on all rows."""
    return VAETransformer(
        n_components,
        likelihood=Gaussian(noise=noise),
        hidden_layer_sizes=(),
        early_stopping=False,
        random_state=0,
        **params,
    )


@cache
def at_start(name, n_components, noise="shared"):
    """The start itself: a step of 1e-12 is below float32's resolution."""
    return linear(n_components, noise, max_iter=1, learning_rate_init=1e-12).fit(table(name))


@cache
def trained(name, n_components, noise="shared"):
    return linear(n_components, noise, max_iter=50).fit(table(name))


def affine_maps(vae):
    """Weight and bias of a linear model's decoder and encoder, as numpy arrays."""
    decoder, encoder = vae.module_.decoder.linear, vae.module_.encoder.linear
    unit = getattr(vae.module_.likelihood, "unit", torch.ones(1))
    return [p.numpy() for p in (unit * decoder.weight, unit * decoder.bias, encoder.weight, encoder.bias)]


def exact_bound_and_likelihood(vae, X):
    """Mean ELBO and mean log p(x) of a linear model, both without sampling.

    E_q[log p(x|z)] = log p(x|mu) - 1/2 sum_jd W_dj^2 sigma_j^2 / psi_d.
    """
    W, b, E, c = affine_maps(vae)
    x = scale_of(vae).to_model(X)
    psi = np.broadcast_to(vae.noise_variance_ / vae.scale_**2, b.shape)
    mu, log_var = np.split(x @ E.T + c, 2, axis=1)
    distance = ((x - mu @ W.T - b) ** 2 / psi).sum(1) + (np.exp(log_var) @ (W.T**2 / psi)).sum(1)
    reconstruction = -0.5 * (np.log(2 * np.pi * psi).sum() + distance)
    kl = 0.5 * (mu**2 + np.exp(log_var) - 1 - log_var).sum(1)
    likelihood = multivariate_normal(b, W @ W.T + np.diag(psi)).logpdf(x)
    jacobian = np.log(vae.scale_).sum()
    return (reconstruction - kl).mean() - jacobian, likelihood.mean() - jacobian


# Probabilistic PCA


@every_maximum
def test_start_is_at_the_maximum_of_probabilistic_pca(name, n_components):
    assert at_start(name, n_components).score(table(name)) == pytest.approx(MAXIMA[name, n_components], abs=1e-5)


@every_maximum
def test_bound_at_the_start_is_tight(name, n_components):
    bound, likelihood = exact_bound_and_likelihood(at_start(name, n_components), table(name))
    assert bound == pytest.approx(likelihood, abs=1e-5)
    assert likelihood == pytest.approx(MAXIMA[name, n_components], abs=1e-5)


@every_maximum
def test_start_is_not_above_pca_by_more_than_its_divisor_explains(name, n_components):
    X = table(name)
    pca = PCA(n_components, svd_solver="full").fit(X).score(X)
    assert 0 < at_start(name, n_components).score(X) - pca < 2e-3


@every_maximum
def test_training_from_pca_stays_at_the_maximum(name, n_components):
    score = trained(name, n_components).score(table(name))
    assert score == pytest.approx(MAXIMA[name, n_components], abs=0.02)


@every_maximum
def test_trained_bound_and_likelihood_never_exceed_the_maximum(name, n_components):
    bound, likelihood = exact_bound_and_likelihood(trained(name, n_components), table(name))
    assert bound <= likelihood + 1e-9
    assert likelihood <= MAXIMA[name, n_components] + 1e-6


@every_maximum
def test_trained_score_never_exceeds_the_maximum(name, n_components):
    assert trained(name, n_components).score(table(name)) <= MAXIMA[name, n_components] + 1e-6


class DecayingAdam(torch.optim.Adam):
    """A step size that falls to a thousandth over `n_steps`: large steps find the maximum, small ones stay there."""

    def __init__(self, params, lr, n_steps):
        super().__init__(params, lr=lr)
        self.decay = 0.001 ** (1 / n_steps)

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["lr"] *= self.decay


# Breast cancer's columns are nearly collinear, so its last latents take long to find.
FROM_RANDOM = [(*case, 8000 if case == ("cancer", 20) else 3000) for case in MAXIMA]


@pytest.mark.parametrize(("name", "n_components", "n_steps"), FROM_RANDOM)
def test_training_from_random_weights_reaches_the_maximum(name, n_components, n_steps):
    X = table(name)
    n_epochs = -(-n_steps // -(-len(X) // 200))
    solver = partial(DecayingAdam, lr=0.1, n_steps=n_steps)
    vae = linear(n_components, init="random", batch_size=200, max_iter=n_epochs, solver=solver).fit(X)
    bound, likelihood = exact_bound_and_likelihood(vae, X)
    maximum = MAXIMA[name, n_components]
    assert maximum - 0.05 < bound <= likelihood <= maximum + 1e-6
    assert vae.score(X) == pytest.approx(maximum, abs=0.05)


@every_maximum
def test_start_decoder_spans_the_principal_subspace(name, n_components):
    W = affine_maps(at_start(name, n_components))[0]
    components = PCA(n_components, svd_solver="full").fit(table(name)).components_
    assert subspace_angles(W, components.T).max() < 1e-3


@pytest.mark.parametrize(("name", "n_components"), [("digits", 5), ("wine", 2), ("cancer", 5)])
def test_trained_decoder_spans_the_principal_subspace(name, n_components):
    W = affine_maps(trained(name, n_components))[0]
    components = PCA(n_components, svd_solver="full").fit(table(name)).components_
    assert np.rad2deg(subspace_angles(W, components.T).max()) < 3


@every_maximum
def test_transform_at_the_start_is_the_closed_form_posterior_mean(name, n_components):
    """E[z|x] = (W'W + s2 I)^-1 W'(x - m): each principal score times sqrt(l - s2) / l, up to sign."""
    X = table(name)
    values, vectors = np.linalg.eigh(np.cov(X.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[n_components:].mean()
    kept = values[:n_components]
    expected = (X - X.mean(0)) @ vectors[:, :n_components] * (np.sqrt(kept - noise) / kept)
    found = at_start(name, n_components).transform(X)
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, atol=2e-4)


@every_maximum
def test_noise_variance_at_the_start_is_the_mean_of_the_discarded_eigenvalues(name, n_components):
    values = np.linalg.eigvalsh(np.cov(table(name).T, bias=True))[::-1]
    assert at_start(name, n_components).noise_variance_ == pytest.approx(values[n_components:].mean(), rel=1e-5)


# Factor analysis


@cache
def factor_analysis_score(name, n_components, floor=1e-3, held_out=False):
    """scikit-learn's model of standardised rows with its noise at the same floor: its score of the rows, or of every
    second one when fitted to the others."""
    X, scored = (table(name)[1::2], table(name)[::2]) if held_out else (table(name), table(name))
    with warnings.catch_warnings():  # a Heywood case creeps for ever; 2000 steps are a long run
        warnings.simplefilter("ignore", ConvergenceWarning)
        fa = FactorAnalysis(n_components, tol=1e-3, max_iter=2000, svd_method="lapack").fit(X)
    cov = fa.components_.T @ fa.components_ + np.diag(np.maximum(fa.noise_variance_, floor))
    return multivariate_normal(fa.mean_, cov).logpdf(scored).mean()


every_factor_analysis = pytest.mark.parametrize(
    ("name", "n_components"), [("wine", 2), ("wine", 5), ("cancer", 2), ("cancer", 5), ("cancer", 10)]
)


@every_factor_analysis
def test_feature_noise_starts_no_lower_than_factor_analysis(name, n_components):
    X = table(name)
    assert at_start(name, n_components, "feature").score(X) >= factor_analysis_score(name, n_components) - 1e-3


@every_factor_analysis
def test_feature_noise_trained_ends_no_lower_than_factor_analysis(name, n_components):
    X = table(name)
    bound, likelihood = exact_bound_and_likelihood(trained(name, n_components, "feature"), X)
    assert bound <= likelihood + 1e-9
    assert likelihood >= factor_analysis_score(name, n_components) - 0.05


@every_factor_analysis
def test_defaults_end_no_lower_than_factor_analysis_on_rows_neither_has_seen(name, n_components):
    """On average over seeds: single fits to half of breast cancer differ by nats, stopped by 28 held-out rows."""
    train, test = table(name)[1::2], table(name)[::2]
    scores = [VAETransformer(n_components, random_state=seed).fit(train).score(test) for seed in range(3)]
    reference = factor_analysis_score(name, n_components, held_out=True)
    assert np.mean(scores) >= reference - 0.05 - 0.01 * abs(reference)


def test_a_start_that_nothing_beats_knows_the_held_out_rows_too():
    """Early stopping judges every epoch on rows the start has not seen; the start that is kept has seen all."""
    X = table("wine")
    kept = linear(2, "shared", max_iter=3).set_params(early_stopping=True, learning_rate_init=1e-12).fit(X)
    assert kept.best_iter_ == 0
    assert kept.score(X) == pytest.approx(MAXIMA["wine", 2], abs=1e-5)


# Quadrature


def curve(n_components, n_rows=300, seed=0):
    """Noisy points on a curve (one latent) or a curved sheet (two), 4 columns of unequal scale."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(n_rows, n_components))
    a, b = u[:, 0], u[:, -1]
    X = np.column_stack([a, np.sin(2 * a), b**2 / 2, np.cos(a + b)]) + 0.2 * rng.normal(size=(n_rows, 4))
    return X * [1.0, 5.0, 0.2, 1.0]


def fitted_curve(n_components, likelihood, seed=0):
    X = curve(n_components, seed=seed)
    if isinstance(likelihood, Bernoulli):
        X = (np.hstack([X, -X[:, ::-1]]) > np.median(X)).astype(float)
    vae = VAETransformer(
        n_components,
        likelihood=likelihood,
        hidden_layer_sizes=(20,),
        activation="tanh",
        max_iter=60,
        learning_rate_init=1e-2,
        early_stopping=False,
        random_state=0,
    )
    return vae.fit(X), X[:60]


def decoded_log_prob(vae, X, z):
    """log p(x|z) in data units of rows X (N, D) at latents z (G, J), from torch-free formulas: (G, N)."""
    outputs = vae.module_.decoder(torch.tensor(z)).numpy()
    if isinstance(vae.likelihood, Bernoulli):
        logits = torch.tensor(outputs)[:, None].expand(-1, *X.shape)
        return (
            -binary_cross_entropy_with_logits(logits, torch.tensor(X).expand_as(logits), reduction="none")
            .sum(-1)
            .numpy()
        )
    n_features = X.shape[1]
    unit = getattr(vae.module_.likelihood, "unit", torch.ones(1)).numpy()
    mean = scale_of(vae).to_data(unit * outputs[:, :n_features])
    if vae.likelihood.noise == "decoder":
        variance = np.maximum(np.exp(outputs[:, n_features:]), vae.likelihood.noise_floor) * vae.scale_**2
    else:
        variance = np.broadcast_to(vae.noise_variance_, mean.shape)
    distance = (X**2) @ (1 / variance).T - 2 * X @ (mean / variance).T + (mean**2 / variance).sum(1)
    return -0.5 * (distance + np.log(2 * np.pi * variance).sum(1)).T


def quadrature(vae, X):
    """log p(x) by the trapezoidal rule on [-7, 7]^J: (N,)."""
    axis = np.linspace(-7, 7, 4001 if vae.n_components_ == 1 else 281)
    z = np.stack(np.meshgrid(*[axis] * vae.n_components_), axis=-1).reshape(-1, vae.n_components_)
    log_prior = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
    joint = decoded_log_prob(vae, X, z) + log_prior[:, None]
    return logsumexp(joint, axis=0) + vae.n_components_ * math.log(axis[1] - axis[0])


LIKELIHOODS = [Gaussian(), Gaussian(noise="shared"), Gaussian(noise="decoder"), Bernoulli()]
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=["feature", "shared", "decoder", "bernoulli"])


@cache
def curve_errors(n_components, index):
    """Errors of score_samples against quadrature, a row: with 64 draws and with 512."""
    vae, X = fitted_curve(n_components, LIKELIHOODS[index])
    truth = quadrature(vae, X)
    errors = {}
    for n_draws in (64, 512):
        errors[n_draws] = vae.set_params(n_draws=n_draws).score_samples(X) - truth
    return errors


@pytest.mark.parametrize("n_components", [1, 2])
@pytest.mark.parametrize("index", range(4), ids=["feature", "shared", "decoder", "bernoulli"])
class TestQuadrature:
    def test_score_with_512_draws_equals_the_integral(self, n_components, index):
        assert abs(curve_errors(n_components, index)[512].mean()) < 0.01

    def test_score_with_the_default_draws_equals_the_integral(self, n_components, index):
        assert abs(curve_errors(n_components, index)[64].mean()) < 0.01

    def test_more_draws_come_closer(self, n_components, index):
        errors = curve_errors(n_components, index)
        assert np.abs(errors[512]).mean() < np.abs(errors[64]).mean() + 1e-6


# The bounds and their gradients


def model_and_rows(likelihood=None, n_components=2, n_rows=200, missing=0.0):
    """A trained nonlinear model with gradients, in float64, and rows to evaluate it on."""
    vae, X = fitted_curve(n_components, likelihood or Gaussian(), seed=1)
    X = (curve(n_components, n_rows, seed=2) if not isinstance(vae.likelihood, Bernoulli) else X).copy()
    if missing:
        X[np.random.default_rng(0).random(X.shape) < missing] = np.nan
    model = copy.deepcopy(vae.module_).requires_grad_(True)
    return model, rows_of(vae, X)


@every_likelihood
def test_iwae_with_one_draw_is_the_elbo_with_a_sampled_kl(likelihood):
    model, rows = model_and_rows(likelihood)
    iwae = IWAE(1)(model, rows, seeded(), 1)["loss"]
    elbo = ELBO("sampled")(model, rows, seeded(), 1)["loss"]
    torch.testing.assert_close(iwae, elbo, rtol=1e-12, atol=1e-12)


def test_importance_weighted_bounds_rise_with_the_number_of_draws(any_seed):
    model, rows = model_and_rows()
    rng = seeded(any_seed)
    with torch.no_grad():
        bounds = {s: torch.stack([IWAE(s).bound(model, rows, rng).mean() for _ in range(40)]) for s in (1, 5, 50)}
    for fewer, more in [(1, 5), (5, 50)]:
        error = math.sqrt((bounds[fewer].var() + bounds[more].var()).item() / 40)
        assert bounds[more].mean() - bounds[fewer].mean() > 3 * error


@every_likelihood
def test_analytic_and_sampled_kl_agree_in_the_mean(likelihood, any_seed):
    model, rows = model_and_rows(likelihood)
    with torch.no_grad():
        analytic, rng = ELBO()(model, rows, seeded(), 1)["kl"], seeded(any_seed)
        sampled = torch.stack([ELBO("sampled")(model, rows, rng, 1)["kl"].mean() for _ in range(400)])
    error = (sampled.std() / math.sqrt(len(sampled))).item()
    assert abs(sampled.mean() - analytic.mean()).item() < 4 * error


def gradients(loss, model):
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: 0.0 if grad is None else grad.abs().max().item() for name, grad in zip(names, found, strict=True)}


@every_likelihood
def test_reconstruction_moves_every_parameter(likelihood):
    model, rows = model_and_rows(likelihood)
    reach = gradients(ELBO()(model, rows, seeded(), 1)["reconstruction"].mean(), model)
    assert min(reach.values()) > 1e-8, reach
    noise = {"feature", "shared"} & {getattr(likelihood, "noise", "")}
    assert ("likelihood.log_noise" in reach) == bool(noise)


@every_likelihood
@pytest.mark.parametrize("kl", ["analytic", "sampled"])
def test_kl_moves_the_encoder_and_nothing_else(likelihood, kl):
    model, rows = model_and_rows(likelihood)
    reach = gradients(ELBO(kl)(model, rows, seeded(), 1)["kl"].mean(), model)
    assert min(v for k, v in reach.items() if k.startswith("encoder")) > 1e-8, reach
    assert max(v for k, v in reach.items() if not k.startswith("encoder")) == 0


def test_loss_weighs_kl_and_reconstruction_one_to_one_as_sums_over_their_dimensions():
    """Neither an average over pixels (a KL weight of D) nor one over latents (1 / J)."""
    model, rows = model_and_rows()
    with torch.no_grad():
        terms = ELBO()(model, rows, seeded(), 1)
        mu, log_var = model.encoder(rows.x).chunk(2, dim=1)
        z = mu + torch.exp(log_var / 2) * torch.randn(mu.shape, generator=seeded(), dtype=mu.dtype)
        outputs = model.decoder(z)
        noise = torch.distributions.Normal(outputs, torch.exp(model.likelihood.log_noise / 2))
        prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
        posterior = torch.distributions.Normal(mu, torch.exp(log_var / 2))
        kl = torch.distributions.kl_divergence(posterior, prior)
        reconstruction = noise.log_prob(rows.x).sum(1) - model.likelihood.log_scale.sum()
    torch.testing.assert_close(terms["reconstruction"], reconstruction)
    torch.testing.assert_close(terms["kl"], kl.sum(1))
    torch.testing.assert_close(terms["loss"], kl.sum(1) - reconstruction)


def test_logged_loss_is_the_mean_over_rows_of_the_sum_over_dimensions():
    X = curve(2)
    vae = VAETransformer(2, max_iter=1, learning_rate_init=1e-12, early_stopping=False, random_state=0).fit(X)
    bound = -vae.loss_curve_[0]
    assert bound == pytest.approx(vae.score(X), abs=0.5)
    assert vae.history_["kl"][0] == pytest.approx(vae.latent_information_.sum(), rel=1e-4)


def test_draws_of_the_posterior_have_its_standard_deviation(any_seed):
    """log_var is a log variance: the spread of z is exp(log_var / 2), not exp(log_var)."""
    model, rows = model_and_rows(n_rows=5)
    eps = torch.randn(200_000, 1, 2, generator=seeded(any_seed), dtype=torch.float64)
    with torch.no_grad():
        mu, log_var = model.encode(rows.x)
        variance = (mu + torch.exp(0.5 * log_var) * eps).var(0)
        weights = model.log_weights(rows.x[:1], eps[:2000]).total
        z = mu[:1] + torch.exp(0.5 * log_var[:1]) * eps[:2000]
        q = torch.distributions.Normal(mu[:1], torch.exp(0.5 * log_var[:1])).log_prob(z).sum(-1)
        p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(variance, log_var.exp(), rtol=0.02, atol=0)
    torch.testing.assert_close(weights, model.log_prob(z, rows.x[:1]).sum(-1).detach() + p - q)
