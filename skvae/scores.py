"""What a fitted model says of rows: one function each. `block_rows` says how many to pass at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtri, roots_hermitenorm
from scipy.stats import qmc
from torch import Tensor

from .data import Rows
from .model import VAE
from .priors import log_normal

__all__ = [
    "Posterior",
    "Rule",
    "block_rows",
    "completed",
    "conditional_draws",
    "conditional_mean",
    "latent_information",
    "log_likelihood",
    "normal_rule",
    "posterior",
    "posterior_mean",
    "quasi_normal",
]

# Numbers a block may hold in its widest array: 2 MB in float64, so that a block stays in the processor's cache.
BLOCK_NUMBERS = 250_000
# Quadrature nodes a latent: fewer than this are no better than draws, and more than this bring nothing.
FEWEST_NODES, MOST_NODES = 5, 128
# Newton's steps towards the mode of p(z | the present cells); one is enough where the decoder is linear.
NEWTON_STEPS, NEWTON_TOLERANCE = 8, 1e-9
# Reconstructions that fill a gap of a model without a density, at most; less than this, and a row has settled.
FILLING_STEPS, FILLING_TOLERANCE = 30, 1e-4
# The largest precision of a latent given a row.
MOST_CURVATURE = 1e12


def quasi_normal(n_draws: int, n_components: int, seed: int) -> Tensor:
    """(S, J) standard normal points that fill space evenly: a scrambled Sobol sequence through the normal quantile.

    All rows share them, so a row's score depends on no other row and is the same at every call. It also means that
    their sampling error does not average out over rows, so their moments are set to the normal's: pairs (eps, -eps),
    whose mean is 0, and, where there are enough of them, a covariance of exactly I.
    """
    half = -(-n_draws // 2)
    sobol = qmc.Sobol(n_components, scramble=True, rng=np.random.default_rng(seed))
    points = sobol.random_base2(math.ceil(math.log2(half)))[:half]
    tiny = np.finfo(np.float64).eps
    eps = ndtri(points.clip(tiny, 1 - tiny))
    if half > n_components:
        eps = np.linalg.solve(np.linalg.cholesky(eps.T @ eps / half), eps.T).T
    pairs = np.stack([eps, -eps], axis=1).reshape(2 * half, n_components)
    return torch.tensor(pairs[:n_draws], dtype=torch.float64, device="cpu")


class Rule(NamedTuple):
    """Points and weights for expectations under N(0, I): E[f(eps)] is about sum_s exp(log_weight_s) f(eps_s).

    Attributes
    ----------
    eps : Tensor of shape (S, 1 or N, J)
    log_weight : Tensor of shape (S, 1 or N)
        Logarithms of weights that sum to 1.
    """

    eps: Tensor
    log_weight: Tensor

    def to(self, device: torch.device) -> Rule:
        """The same rule on `device`."""
        return Rule(self.eps.to(device), self.log_weight.to(device))


def normal_rule(n_draws: int, n_components: int, seed: int) -> Rule:
    """At most `n_draws` points: Gauss-Hermite quadrature for one or two latents, quasi-random draws for more.

    Quadrature centred and scaled by each row's q(z|x) (Liu & Pierce 1994) reaches into the tails that draws from q
    miss, and needs few points; their number grows as nodes^J, so beyond two latents draws do better.
    """
    nodes = min(int(n_draws ** (1 / n_components) + 1e-9), MOST_NODES)
    if n_components > 2 or nodes < FEWEST_NODES:
        eps = quasi_normal(n_draws, n_components, seed)
        log_weight = torch.full((n_draws,), -math.log(n_draws), dtype=torch.float64, device="cpu")
    else:
        points, weights = roots_hermitenorm(nodes)
        with np.errstate(divide="ignore"):
            logs = np.log(weights / weights.sum())
        eps = torch.tensor(_grid(points, n_components), dtype=torch.float64, device="cpu")
        log_weight = torch.tensor(_grid(logs, n_components).sum(axis=1), dtype=torch.float64, device="cpu")
    return Rule(eps[:, None], log_weight[:, None])


def _grid(values: np.ndarray, n_axes: int) -> np.ndarray:
    """Every combination of `values` on `n_axes` axes: (len(values)^n_axes, n_axes)."""
    return np.stack(np.meshgrid(*[values] * n_axes, indexing="ij"), axis=-1).reshape(-1, n_axes)


class Posterior(NamedTuple):
    """q(z|x) of every row: z = mean + factor eps.

    Attributes
    ----------
    mean : Tensor of shape (N, J)
    factor : Tensor of shape (N, J, J)
        Lower triangular.
    """

    mean: Tensor
    factor: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of each latent: (N, J)."""
        return self.factor.square().sum(-1).sqrt()


def posterior(model: VAE, rows: Rows) -> Posterior:
    """The encoder's q(z|x); for a row with gaps, Laplace's approximation to p(z | the present cells).

    A model without a density has no such posterior: it shows the encoder its columns' means in the gaps.

    The encoder was trained on rows as they come and cannot know how much less a row with gaps says of z: its q would be
    off-centre and too narrow. Newton's steps on log p(x_present, z) ask the decoder instead, and are exact where it is
    linear.
    """
    mu, log_var = model.encode(rows.x, rows.mask)
    factor = torch.diag_embed(torch.zeros_like(mu) if log_var is None else torch.exp(0.5 * log_var))
    gaps = _rows_with_gaps(rows)
    if len(gaps) and model.is_density:
        mean, gap_factor = _laplace(model, rows.take(gaps), mu[gaps])
        mu, factor = mu.index_copy(0, gaps, mean), factor.index_copy(0, gaps, gap_factor)
    return Posterior(mu, factor)


def posterior_mean(model: VAE, rows: Rows) -> Tensor:
    """`posterior`'s mean alone: (N, J)."""
    mu = model.encode_mean(rows.x, rows.mask)
    gaps = _rows_with_gaps(rows)
    if not (len(gaps) and model.is_density):
        return mu
    return mu.index_copy(0, gaps, _laplace(model, rows.take(gaps), mu[gaps]).mean)


def _rows_with_gaps(rows: Rows) -> Tensor:
    """The numbers of the rows that lack a cell."""
    if rows.mask is None:
        return torch.empty(0, dtype=torch.long)
    return (rows.mask == 0).any(dim=1).nonzero()[:, 0]


def _laplace(model: VAE, rows: Rows, z: Tensor) -> Posterior:
    """The mode of p(z | the present cells), by Newton's method from `z`, and the curvature there."""
    value, step, factor = _newton_step(model, rows, z)
    length = torch.ones_like(value)
    for _ in range(NEWTON_STEPS):
        if float((length[:, None] * step).abs().max()) < NEWTON_TOLERANCE:
            break
        tried = z + length[:, None] * step
        new_value, new_step, new_factor = _newton_step(model, rows, tried)
        better = new_value > value
        value = torch.where(better, new_value, value)
        z, step = (torch.where(better[:, None], new, old) for new, old in ((tried, z), (new_step, step)))
        factor = torch.where(better[:, None, None], new_factor, factor)
        length = torch.where(better, 1.0, length / 4)
    return Posterior(z, factor)


def _newton_step(model: VAE, rows: Rows, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x, z), Newton's step from z, and a factor of the inverse curvature: (N,), (N, J), (N, J, J)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = model.log_joint(z, rows.x, rows.mask)
        (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        columns = [torch.autograd.grad(s.sum(), z, retain_graph=True)[0] for s in slope.unbind(dim=1)]
    curvature = -torch.stack(columns, dim=1).nan_to_num().clamp(-1e150, 1e150)
    # Less than the prior alone curves by is where the likelihood is not log-concave. The upper bound is for
    # rows so far out that no number stands for them: they get a likelihood of -inf, not an error.
    values, vectors = torch.linalg.eigh(0.5 * (curvature + curvature.mT))
    half = vectors / values.clamp(model.prior.least_curvature, MOST_CURVATURE).sqrt()[:, None]
    step = (half @ (half.mT @ slope.detach().nan_to_num()[..., None]))[..., 0]
    factor = torch.linalg.qr(half.mT).R.mT
    signs = torch.where(factor.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)
    return value.detach(), step, factor * signs[:, None]


def _weighted_points(model: VAE, rows: Rows, rule: Rule) -> tuple[Tensor, Tensor]:
    """Points z (S, N, J) of q(z|x), and log (rule's weight * w(x, z)), (S, N)."""
    mean, factor = posterior(model, rows)
    if rule.eps.shape[1] == 1:  # the same points for all rows
        z = mean + torch.einsum("njk,sk->snj", factor, rule.eps[:, 0])
    else:
        z = mean + torch.einsum("njk,snk->snj", factor, rule.eps)
    log_q = log_normal(rule.eps).sum(-1) - factor.diagonal(dim1=1, dim2=2).log().sum(-1)
    return z, model.log_joint(z, rows.x, rows.mask) - log_q + rule.log_weight


def log_likelihood(model: VAE, rows: Rows, rule: Rule) -> Tensor:
    """log p(x) = log E_q[w(x, z)], the expectation by `rule`, in nats of data units: (N,).

    With independent draws it is a lower bound in expectation (Burda et al. 2016, eq. 8). A row so far out that its
    weights are not numbers gets -inf: nothing is less likely.
    """
    _, log_weight = _weighted_points(model, rows, rule)
    return torch.logsumexp(log_weight, dim=0).nan_to_num(nan=-math.inf, neginf=-math.inf)


def conditional_mean(model: VAE, rows: Rows, rule: Rule) -> Tensor:
    """E[x | the present cells], in model units: (N, D). Points are weighted by w(x, z) (Mattei & Frellsen 2019).

    The most likely category where x is one.
    """
    z, log_weight = _weighted_points(model, rows, rule)
    expected = model.likelihood.expected(model.params(z))
    return model.likelihood.collapse(torch.einsum("sn,snd->nd", torch.softmax(log_weight, dim=0), expected))


def conditional_draws(model: VAE, rows: Rows, n_points: int, n_draws: int, rng: torch.Generator) -> Tensor:
    """Draws of x given the present cells, in model units: (n_draws, N, D).

    Points z from q, of which each draw keeps one in proportion to w(x, z) (sampling importance resampling, Rubin 1987).
    """
    shape = (max(n_points, n_draws), len(rows), model.prior.n_components)
    eps = torch.randn(shape, generator=rng, dtype=torch.float64, device=rng.device)
    z, log_weight = _weighted_points(model, rows, Rule(eps, torch.zeros_like(eps[..., 0])))
    chosen = torch.multinomial(torch.softmax(log_weight, dim=0).T, n_draws, replacement=True, generator=rng).T
    kept = z.gather(0, chosen[..., None].expand(-1, -1, z.shape[-1]))
    return model.sample(kept, rng)


def completed(model: VAE, rows: Rows) -> Tensor:
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


def latent_information(model: VAE, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
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

    `factors` says whether posteriors are asked for, whose factor is a matrix a row.
    """
    widest = max(widest, model.likelihood.n_params, model.cost.width)
    return max(1, BLOCK_NUMBERS // max(widest * n_draws, model.prior.n_components**2 if factors else 1))
