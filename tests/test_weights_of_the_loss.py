"""What the terms of the bound weigh: mistakes that are often made in writing a VAE down, which ours does not make."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import rows_of, seeded
from sklearn.datasets import load_digits
from torch.nn import functional as F

from skvae import ELBO, VAETransformer

M, D, J = 100, 64, 2  # rows of a batch, pixels, latents


def pixels(n_rows=M):
    return load_digits().data[:n_rows] / 16


@pytest.fixture(scope="module")
def fitted():
    return VAETransformer(J, likelihood="bernoulli", hidden_layer_sizes=(16,), max_iter=5, random_state=0).fit(pixels())


def cross_entropy_and_kl(model, rows, rng):
    """Cell by cell, (M, D), and latent by latent, (M, J): what every loss below is made of."""
    mu, log_var = model.encode(rows.x)
    z = mu + torch.exp(0.5 * log_var) * torch.randn(mu.shape, generator=rng, dtype=mu.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(model.params(z), rows.x, reduction="none")
    return cross_entropy, -0.5 * (1 + log_var - mu.square() - log_var.exp())


def by_hand(reduce_cross_entropy, reduce_kl):
    def loss(model, rows, rng):
        cross_entropy, kl = cross_entropy_and_kl(model, rows, rng)
        return reduce_cross_entropy(cross_entropy) + reduce_kl(kl)

    return loss


def ours(objective):
    return lambda model, rows, rng: rows.mean(objective(model, rows, rng, 1)["loss"])


def effective_beta(fitted, loss):
    """b of a loss a (sum of a row's cross entropy + b * sum of its KL): its slopes over the encoder's biases say it."""
    model, rows = fitted.module_.requires_grad_(True), rows_of(fitted, pixels())
    bias = model.encoder.linear.bias

    def slope(value):
        return torch.autograd.grad(value, bias, retain_graph=True)[0]

    total = slope(loss(model, rows, seeded()))
    cross_entropy, kl = cross_entropy_and_kl(model, rows, seeded())
    parts = torch.stack([slope(cross_entropy.sum() / M), slope(kl.sum(1).mean())], dim=1)
    weights = torch.linalg.lstsq(parts, total[:, None]).solution[:, 0]
    torch.testing.assert_close(parts @ weights, total)  # it is such a loss
    return float(weights[1] / weights[0])


def test_cross_entropy_is_a_sum_over_pixels_like_the_kl(fitted):
    """Averaged over rows and pixels, beside a KL that is summed over everything, the KL weighs M D times as much."""
    mistaken = by_hand(torch.mean, torch.sum)
    assert effective_beta(fitted, mistaken) == pytest.approx(M * D)
    assert effective_beta(fitted, ours(ELBO())) == pytest.approx(1)


def test_the_kl_is_a_sum_over_latents_whose_weight_is_beta(fitted):
    """Averaged over latents and times 5e-4, beside a mean over pixels: of images of 28 x 28 a beta of 0.196."""
    mistaken = by_hand(torch.mean, lambda kl: 5e-4 * kl.mean())
    assert effective_beta(fitted, mistaken) == pytest.approx(5e-4 * D / J)  # 0.196 at D = 784, J = 2
    assert effective_beta(fitted, ours(ELBO())) == pytest.approx(1)
    assert effective_beta(fitted, ours(ELBO(beta=0.196))) == pytest.approx(0.196)


def test_codes_are_drawn_with_the_standard_deviation_not_the_variance(fitted, any_seed):
    """z = mu + exp(log_var / 2) eps: drawn with exp(log_var) their spread would be the square."""
    model, rows = fitted.module_, rows_of(fitted, pixels(1))
    with torch.no_grad():
        emitted = model.emit(rows, rows, seeded(any_seed), n_draws=40_000)
    found, log_var = emitted.z.std(0).numpy(), emitted.log_var[0].numpy()
    error = 5 / math.sqrt(2 * 40_000)
    np.testing.assert_allclose(found, np.exp(log_var / 2), rtol=error)
    assert (np.abs(found / np.exp(log_var) - 1) > 3 * error).all()  # the two are told apart here
    np.testing.assert_allclose(fitted.posterior(pixels(1))[1][0], np.exp(log_var / 2)[fitted._order], rtol=1e-9)


def test_beta_vae_with_beta_1_is_the_elbo_bit_for_bit():
    X, settings = pixels(), {"hidden_layer_sizes": (16,), "max_iter": 5, "random_state": 0}
    for kl in ("analytic", "sampled"):
        one, plain = (VAETransformer(J, objective=o, **settings).fit(X) for o in (ELBO(kl, beta=1), ELBO(kl)))
        assert one.history_ == plain.history_
        assert one.validation_curve_ == plain.validation_curve_
        for name, value in plain._weights.items():
            np.testing.assert_array_equal(one._weights[name], value)
        other = VAETransformer(J, objective=ELBO(kl, beta=4), **settings).fit(X)
        assert other.history_ != plain.history_
