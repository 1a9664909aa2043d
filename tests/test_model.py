"""The model as a torch module: encode, params, log weights, and its linear start."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import rows_of, seeded
from torch import nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal
from torch.nn.utils import skip_init

from skvae import ELBO, MLP, Bernoulli, Gaussian, VAETransformer, priors
from skvae._linear import LinearMaps
from skvae._state import Blueprint
from skvae._tables.moments import Scale
from skvae.model import LOG_VAR_RANGE, Cost, Dims

D, J = 5, 2
MEMBERS = {
    "feature": Gaussian(),
    "shared": Gaussian(noise="shared"),
    "decoder": Gaussian(noise="decoder"),
    "bernoulli": Bernoulli(),
}
every_member = pytest.mark.parametrize("name", MEMBERS)


def table(name="feature", n_rows=40):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, J)) @ rng.normal(size=(J, D)) + 0.5 * rng.normal(size=(n_rows, D))
    return (X > 0).astype(float) if name == "bernoulli" else X * [1, 2, 3, 4, 5] + 10


def model_and_rows(name="feature", missing=False):
    X = table(name)
    vae = VAETransformer(
        J, likelihood=MEMBERS[name], hidden_layer_sizes=(6,), max_iter=20, early_stopping=False, random_state=0
    ).fit(X)
    if missing:
        X = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    rows = rows_of(vae, X)
    return copy.deepcopy(vae.module_), rows


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def oracle(name, model, outputs):
    """p(x|z) of torch.distributions, in model units."""
    if name == "bernoulli":
        return TorchBernoulli(logits=outputs)
    log_var = outputs[..., D:].clamp_min(np.log(1e-3)) if name == "decoder" else model.likelihood.log_noise
    unit = getattr(model.likelihood, "unit", 1.0)
    return Normal(unit * outputs[..., :D], torch.exp(log_var / 2))


@every_member
@pytest.mark.parametrize("missing", [False, True])
def test_log_weights_equal_torch_distributions(name, missing):
    """log w = log p(x|z) + log p(z) - log q(z|x), with the Jacobian of the columns' scale."""
    model, rows = model_and_rows(name, missing)
    eps = noise(3, len(rows), J)
    mu, log_var = model.encode(rows.x, rows.mask)
    posterior = Normal(mu, torch.exp(log_var / 2))
    z = mu + torch.exp(log_var / 2) * eps
    outputs = model.decoder(z.reshape(-1, J)).reshape(3, len(rows), -1)
    likelihood = oracle(name, model, outputs).log_prob(rows.x)
    if name != "bernoulli":
        likelihood = likelihood - model.likelihood.log_scale
    if missing:
        likelihood = likelihood * rows.mask
    expected = likelihood.sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1) - posterior.log_prob(z).sum(-1)
    torch.testing.assert_close(model.log_weights(rows.x, eps, rows.mask).total, expected, rtol=1e-6, atol=1e-6)


def test_log_weights_share_one_block_of_noise_between_rows():
    model, rows = model_and_rows()
    eps = noise(4, 1, J)
    shared = model.log_weights(rows.x, eps).total
    torch.testing.assert_close(shared, model.log_weights(rows.x, eps.expand(4, len(rows), J)).total)
    torch.testing.assert_close(shared[:, 3:4], model.log_weights(rows.x[3:4], eps).total)


@every_member
def test_encode_is_the_encoders_two_halves(name):
    model, rows = model_and_rows(name)
    mu, log_var = model.encode(rows.x)
    outputs = model.encoder(model.likelihood.encoding.encode(rows.x))
    assert torch.equal(torch.cat([mu, log_var], 1), outputs)


@every_member
def test_a_missing_cell_shows_the_encoder_zero(name):
    model, rows = model_and_rows(name, missing=True)
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.encode(rows.x, rows.mask)
    assert bool((seen[0][rows.mask == 0] == 0).all())
    present = rows.mask > 0
    assert torch.equal(seen[0][present], model.likelihood.encoding.encode(rows.x)[present])


def test_log_variances_stay_where_float32_can_hold_their_exponential():
    model, rows = model_and_rows()
    _, log_var = model.encode(rows.x * 1e6)
    assert float(log_var.min()) >= LOG_VAR_RANGE[0]
    assert float(log_var.max()) <= LOG_VAR_RANGE[1]
    limits = torch.exp(torch.tensor(LOG_VAR_RANGE, dtype=torch.float32))
    assert bool((limits > 0).all())
    assert bool(limits.square().isfinite().all())


@every_member
def test_params_mean_and_log_prob_take_any_leading_shape(name):
    model, rows = model_and_rows(name)
    z = noise(3, len(rows), J)
    params = model.params(z)
    assert params.shape == (3, len(rows), model.likelihood.n_params)
    torch.testing.assert_close(params[1, 4], model.params(z[1, 4:5])[0])
    torch.testing.assert_close(model.mean(z), model.likelihood.mean(params))
    assert model.log_prob(z, rows.x).shape == (3, len(rows), D)


@every_member
def test_sample_is_a_draw_of_the_likelihood_at_the_decoders_output(name, any_seed):
    model, _ = model_and_rows(name)
    z = noise(1, J).expand(20_000, J)
    draws = model.sample(z, seeded(any_seed))
    distribution = oracle(name, model, model.decoder(z[:1]))
    error = 5 * distribution.stddev / 20_000**0.5
    assert bool(((draws.mean(0) - distribution.mean).abs() < error).all())


# The start


def start_of(n_latents, seed=0):
    rng = np.random.default_rng(seed)
    return LinearMaps(
        rng.normal(size=(D, n_latents)),
        rng.normal(size=D),
        rng.normal(size=(n_latents, D)),
        rng.uniform(0.1, 0.9, n_latents),
        np.zeros((D, 0)),
    )


def fresh(n_components, sizes=(6,)):
    network = MLP(sizes)
    scale = Scale(np.zeros(D), np.ones(D))
    return (
        Blueprint(D, n_components, Gaussian(), ELBO(), priors.Normal(), network, network, scale)
        .build(seeded())
        .double()
    )


@pytest.mark.parametrize("sizes", [(), (6,), (4, 3)])
def test_started_model_is_the_linear_model(sizes):
    model, start = fresh(J, sizes), start_of(J)
    model.start_at(start, seeded())
    x, z = noise(7, D), noise(7, J, seed=1)
    mu, log_var = model.encode(x)
    np.testing.assert_allclose(mu.detach(), x.numpy() @ start.encoder_weight.T, atol=1e-12)
    np.testing.assert_allclose(log_var.exp().detach(), np.broadcast_to(start.posterior_var, (7, J)), rtol=1e-12)
    np.testing.assert_allclose(
        model.params(z).detach(), z.numpy() @ start.decoder_weight.T + start.decoder_bias, atol=1e-12
    )


def test_latents_beyond_the_linear_model_get_small_weights_on_both_sides():
    """Zero in both maps is a saddle: neither side's gradient would ever be other than zero."""
    model, start = fresh(J + 2), start_of(J)
    model.start_at(start, seeded())
    decoder, encoder = model.decoder.linear.weight[:, J:], model.encoder.linear.weight[J : J + 2]
    for weight in (decoder.detach(), encoder.detach()):
        assert 0 < float(weight.abs().max()) < 0.1
        assert bool((weight != 0).all())
    _, log_var = model.encode(torch.zeros(1, D, dtype=torch.float64))
    torch.testing.assert_close(log_var[:, J:], torch.zeros(1, 2, dtype=torch.float64))


def test_latents_that_the_linear_model_leaves_at_the_prior_can_still_learn():
    model, start = fresh(J), start_of(J)
    start.decoder_weight[:, 1] = 0
    start.encoder_weight[1] = 0
    start.posterior_var[1] = 1.0
    model.start_at(start, seeded())
    assert bool((model.decoder.linear.weight[:, 1] != 0).all())
    assert bool((model.encoder.linear.weight[1] != 0).all())


def test_a_model_has_a_linear_path_only_if_both_networks_do():
    model = fresh(J)
    assert model.has_linear_path
    model.decoder = torch.nn.Sequential(torch.nn.Identity())
    assert not model.has_linear_path


# The blueprint


class Counting(ELBO):
    """Remembers the sizes it was asked for."""

    def modules(self, dims):
        self.asked = dims
        return {}


@pytest.mark.parametrize(("likelihood", "n_params"), [(Gaussian(), D), (Gaussian("decoder"), 2 * D), (Bernoulli(), D)])
def test_objectives_are_told_the_sizes(likelihood, n_params):
    objective, network = Counting(), MLP(())
    scale = Scale(np.zeros(D), np.ones(D))
    model = Blueprint(D, J, likelihood, objective, priors.Normal(), network, network, scale).build(seeded())
    assert objective.asked == Dims(D, J, n_params, D)
    assert model.decoder.linear.out_features == n_params
    assert model.encoder.linear.out_features == 2 * J


def test_without_a_generator_networks_have_shapes_and_no_memory():
    scale = Scale(np.zeros(D), np.ones(D))
    network = MLP((10**6,))
    model = Blueprint(D, J, Gaussian(), ELBO(), priors.Normal(), network, network, scale).build(None)
    assert {p.device.type for p in model.encoder.parameters()} == {"meta"}
    assert model.encoder.body[0].weight.shape == (10**6, D)


def test_largest_product_is_the_widest_layers():
    assert fresh(J, (50, 40)).largest_product(10) == 10 * 50 * 40


def test_cost_counts_every_place_that_a_convolution_looks_at():
    model = fresh(J)
    conv, linear = skip_init(nn.Conv1d, 1, 7, 3, padding=1), skip_init(nn.Linear, 7 * D, 2 * J)
    model.encoder = nn.Sequential(nn.Unflatten(1, (1, D)), conv, nn.Flatten(), linear).double()
    model.check_widths()
    assert model.cost == Cost(max(7 * 3 * D, 7 * D * 2 * J), 7 * D)


def test_cost_of_a_rebuilt_model_is_that_of_the_trained_one():
    vae = VAETransformer(2, hidden_layer_sizes=(9,), max_iter=1, random_state=0).fit(np.eye(12)[:, :D])
    assert vae.module_.cost == Cost(9 * max(D, 4), max(9, D))
