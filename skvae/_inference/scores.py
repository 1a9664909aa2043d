"""What a fitted model says of rows: one function each. `block_rows` says how many to pass at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._math import log_normal
from .._tables.batches import Batch
from ..model import VAE
from .posterior import posterior
from .quadrature import Rule

__all__ = ["block_rows", "completed", "conditional_draws", "conditional_mean", "latent_information", "log_likelihood"]


# Numbers that a block may hold in its widest array: 2 MB in float64, so that a block stays in the processor's cache.
BLOCK_NUMBERS = 250_000


# Reconstructions that fill a gap of a model without a density, at most; less than this, and a row has settled.
FILLING_STEPS, FILLING_TOLERANCE = 30, 1e-4


def _weighted_points(model: VAE, rows: Batch, rule: Rule) -> tuple[Tensor, Tensor]:
    """Points z (S, N, J) of q(z|x), and log (rule's weight * w(x, z)), (S, N)."""
    mean, factor = posterior(model, rows)
    if rule.eps.shape[1] == 1:  # the same points for all rows
        z = mean + torch.einsum("njk,sk->snj", factor, rule.eps[:, 0])
    else:
        z = mean + torch.einsum("njk,snk->snj", factor, rule.eps)
    log_q = log_normal(rule.eps).sum(-1) - factor.diagonal(dim1=1, dim2=2).log().sum(-1)
    return z, model.log_weight(z, log_q, rows.x, rows.mask).total + rule.log_weight


def log_likelihood(model: VAE, rows: Batch, rule: Rule) -> Tensor:
    """log p(x) = log E_q[w(x, z)], the expectation by `rule`, in nats of data units: (N,).

    With independent draws it is a lower bound in expectation (Burda et al. 2016, eq. 8). A row so far out that its
    weights are not numbers gets -inf: nothing is less likely.
    """
    _, log_weight = _weighted_points(model, rows, rule)
    return torch.logsumexp(log_weight, dim=0).nan_to_num(nan=-math.inf, neginf=-math.inf)


def conditional_mean(model: VAE, rows: Batch, rule: Rule) -> Tensor:
    """E[x | the present cells], in model units: (N, D). Points are weighted by w(x, z) (Mattei & Frellsen 2019).

    The most likely category where x is one.
    """
    z, log_weight = _weighted_points(model, rows, rule)
    expected = model.likelihood.expected(model.params(z))
    return model.likelihood.collapse(torch.einsum("sn,snd->nd", torch.softmax(log_weight, dim=0), expected))


def conditional_draws(model: VAE, rows: Batch, n_points: int, n_draws: int, rng: torch.Generator) -> Tensor:
    """Draws of x given the present cells, in model units: (n_draws, N, D).

    Points z from q, of which each draw keeps one in proportion to w(x, z) (sampling importance resampling, Rubin 1987).
    """
    shape = (max(n_points, n_draws), len(rows), model.prior.n_components)
    eps = torch.randn(shape, generator=rng, dtype=torch.float64, device=rng.device)
    z, log_weight = _weighted_points(model, rows, Rule(eps, torch.zeros_like(eps[..., 0])))
    chosen = torch.multinomial(torch.softmax(log_weight, dim=0).T, n_draws, replacement=True, generator=rng).T
    kept = z.gather(0, chosen[..., None].expand(-1, -1, z.shape[-1]))
    return model.sample(kept, rng)


def completed(model: VAE, rows: Batch) -> Tensor:
    """x with its gaps filled by the reconstruction, in model units: (N, D) (AutoRec, Sedhain et al. 2015).

    For models without a density. Each row is reconstructed again with what filled its gaps, until that settles.
    """
    assert rows.mask is not None
    present = rows.mask > 0
    filled = torch.where(present, rows.x, model.mean(model.encode_mean(rows.x, rows.mask)))
    moving = ~present.all(dim=1)
    for _ in range(FILLING_STEPS):
        if not moving.any():
            break
        new = torch.where(present, rows.x, model.mean(model.encode_mean(filled)))
        change = (new - filled).abs().amax(dim=1)
        filled = torch.where(moving[:, None], new, filled)
        moving &= change > FILLING_TOLERANCE
    return filled


def latent_information(model: VAE, rows: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What each latent tells of a row, in nats, and the variance of its mean over rows, (J,); the means, (N, J).

    Its mean KL to the prior where that has one number a latent; else what a Gaussian channel carries,
    1/2 log(1 + Var[mu] / E[sigma^2]). For codes without a spread it is the variance alone, for want of nats.
    """
    mu, log_var = model.encode(rows.x, rows.mask)
    spread = rows.mean((mu - rows.mean(mu)).square())
    if log_var is None:
        return spread, spread, mu
    kl = model.prior.kl(mu, log_var)
    if kl is not None:
        return rows.mean(kl), spread, mu
    return 0.5 * torch.log1p(spread / rows.mean(log_var.exp())), spread, mu


def block_rows(model: VAE, n_draws: int, widest: int = 1, factors: bool = True) -> int:
    """How many rows to look at in one go, so that no array holds more than `BLOCK_NUMBERS` numbers.

    `factors` says whether posteriors are asked for, whose factor is a matrix per row.
    """
    widest = max(widest, model.likelihood.n_params, model.cost.width)
    return max(1, BLOCK_NUMBERS // max(widest * n_draws, model.prior.n_components**2 if factors else 1))
