"""q(z|x): the encoder's, and the decoder's own for rows with gaps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .._tables.batches import Batch
from ..model import VAE

__all__ = ["Posterior", "laplace", "mean_and_std", "posterior", "posterior_mean"]


# Newton's steps towards the mode of p(z | the present cells); one is enough where the decoder is linear.
NEWTON_STEPS, NEWTON_TOLERANCE = 8, 1e-9


# The largest precision of a latent given a row.
MOST_CURVATURE = 1e12


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


def posterior(model: VAE, rows: Batch) -> Posterior:
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
        mean, gap_factor = laplace(model, rows.take(gaps), mu[gaps])
        mu, factor = mu.index_copy(0, gaps, mean), factor.index_copy(0, gaps, gap_factor)
    return Posterior(mu, factor)


def posterior_mean(model: VAE, rows: Batch) -> Tensor:
    """`posterior`'s mean alone: (N, J)."""
    mu = model.encode_mean(rows.x, rows.mask)
    gaps = _rows_with_gaps(rows)
    if not (len(gaps) and model.is_density):
        return mu
    return mu.index_copy(0, gaps, laplace(model, rows.take(gaps), mu[gaps]).mean)


def _rows_with_gaps(rows: Batch) -> Tensor:
    """The numbers of the rows that lack a cell."""
    if rows.mask is None:
        return torch.empty(0, dtype=torch.long)
    return (rows.mask == 0).any(dim=1).nonzero()[:, 0]


def laplace(model: VAE, rows: Batch, z: Tensor) -> Posterior:
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


def _newton_step(model: VAE, rows: Batch, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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


def mean_and_std(model: VAE, rows: Batch) -> Tensor:
    """Of the latents given each row: (N, J, 2). Nothing is known of a code's spread, for which 1 stands."""
    if rows.mask is not None and model.is_density:
        q = posterior(model, rows)
        return torch.stack([q.mean, q.std], dim=-1)
    mean, log_var = model.encode(rows.x, rows.mask)
    return torch.stack([mean, torch.ones_like(mean) if log_var is None else torch.exp(0.5 * log_var)], dim=-1)
