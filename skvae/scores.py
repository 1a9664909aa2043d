"""What a fitted model says of rows: one function each. `block_rows` says how many to pass at once."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import qmc
from torch import Tensor

from .data import Rows
from .model import VAE

__all__ = ["block_rows", "conditional_mean", "latent_kl", "log_likelihood", "quasi_normal"]

# Numbers a block may hold in its widest array (32 MB in float64).
BLOCK_NUMBERS = 4_000_000


def quasi_normal(n_draws: int, n_components: int, seed: int) -> Tensor:
    """(S, J) standard normal points that fill space evenly: a scrambled Sobol sequence through the normal quantile.

    All rows share them, so a row's score depends on no other row and is the same at every call.
    """
    sobol = qmc.Sobol(n_components, scramble=True, rng=np.random.default_rng(seed))
    points = sobol.random_base2(max(0, math.ceil(math.log2(n_draws))))[:n_draws]
    tiny = np.finfo(np.float64).eps
    return torch.tensor(ndtri(points.clip(tiny, 1 - tiny)), dtype=torch.float64, device="cpu")


def log_likelihood(model: VAE, rows: Rows, eps: Tensor) -> Tensor:
    """log p(x) >= log 1/S sum_s w(x, z_s), in nats of data units: (N,) (Burda et al. 2016, eq. 8).

    A row so far out that its weights are not numbers gets -inf: nothing is less likely.
    """
    bound = torch.logsumexp(model.log_weights(rows.x, eps[:, None], rows.mask), dim=0) - math.log(len(eps))
    return bound.nan_to_num(nan=-math.inf, neginf=-math.inf)


def conditional_mean(model: VAE, rows: Rows, eps: Tensor) -> Tensor:
    """E[x | the present cells], in model units: (N, D). Draws of z are weighted by w(x, z) (Mattei & Frellsen 2019)."""
    mu, log_var = model.encode(rows.x, rows.mask)
    z = mu + torch.exp(0.5 * log_var) * eps[:, None]
    weight = torch.softmax(model.log_weights(rows.x, eps[:, None], rows.mask), dim=0)
    return torch.einsum("sn,snd->nd", weight, model.mean(z))


def latent_kl(model: VAE, rows: Rows) -> tuple[Tensor, Tensor]:
    """KL(q(z_j|x) || p(z_j)) in nats, and the posterior mean: two (N, J)."""
    mu, log_var = model.encode(rows.x, rows.mask)
    return model.prior.kl(mu, log_var), mu


def block_rows(model: VAE, n_draws: int) -> int:
    """How many rows to look at in one go, so that no array holds more than `BLOCK_NUMBERS` numbers."""
    widest = max([model.likelihood.n_params, *(p.shape[0] for p in model.parameters() if p.dim() > 1)])
    return max(1, BLOCK_NUMBERS // (widest * n_draws))
