"""p(z) against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from skvae.priors import StandardNormal, log_normal


def values(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def test_log_normal_is_the_density_at_mu_plus_sigma_eps():
    mu, log_var, eps = values(5, 3), values(5, 3, seed=1), values(7, 5, 3, seed=2)
    sigma = torch.exp(log_var / 2)
    torch.testing.assert_close(log_normal(eps, log_var), Normal(mu, sigma).log_prob(mu + sigma * eps))


def test_log_prob_is_the_standard_normals_one_a_latent():
    z = values(4, 5, 3)
    torch.testing.assert_close(StandardNormal(3).log_prob(z), Normal(0.0, 1.0).log_prob(z))


def test_kl_is_the_closed_form_one_a_latent():
    mu, log_var = 3 * values(20, 3), 3 * values(20, 3, seed=1)
    one = torch.ones_like(mu)
    expected = kl_divergence(Normal(mu, torch.exp(log_var / 2)), Normal(0 * one, one))
    torch.testing.assert_close(StandardNormal(3).kl(mu, log_var), expected)


def test_kl_is_zero_at_the_prior_and_positive_elsewhere():
    prior = StandardNormal(2)
    zero = torch.zeros(1, 2)
    assert torch.equal(prior.kl(zero, zero), zero)
    assert bool((prior.kl(values(50, 2), values(50, 2, seed=1)) > 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_are_standard_normal_and_follow_the_generator(dtype):
    first, again, other = (StandardNormal(3).sample(50_000, torch.Generator().manual_seed(s), dtype) for s in (0, 0, 1))
    assert first.shape == (50_000, 3)
    assert first.dtype == dtype
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.mean(0).abs().max()) < 5 / 50_000**0.5
    torch.testing.assert_close(first.double().T.cov(), torch.eye(3, dtype=torch.float64), atol=0.03, rtol=0)
