"""q(z|x): the encoder's, and the decoder's own for rows with gaps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._math import log_normal, second_derivatives
from .._tables.batches import Batch
from ..model import VAE
from ..networks import LinearPath

__all__ = ["NEAR", "Posterior", "laplace", "mean_and_std", "posterior", "posterior_mean", "rows_with_gaps"]


# Newton's steps towards the mode of p(z | the present cells); one is enough where the decoder is linear. A row has
# arrived where a step is as short as this.
NEWTON_STEPS, NEWTON_TOLERANCE = 8, 1e-9


# Where points around the mode are weighed, a step that gains, or promises, so few nats is the last: a mode missed by a
# tenth of a standard deviation does as well.
NEAR = 1e-2


# The largest precision of a latent given a row.
MOST_CURVATURE = 1e12


# Numbers in the widest array while second derivatives are found, for which rows are copied once a latent.
CURVATURE_NUMBERS = 250_000


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

    def at(self, eps: Tensor) -> Tensor:
        """Points z = mean + factor eps, (S, N, J), for eps (S, 1 or N, J)."""
        if eps.shape[1] == 1:  # the same points for all rows
            return self.mean + torch.einsum("njk,sk->snj", self.factor, eps[:, 0])
        return self.mean + torch.einsum("njk,snk->snj", self.factor, eps)

    def log_density(self, eps: Tensor) -> Tensor:
        """log q at these points: (S, N)."""
        return log_normal(eps).sum(-1) - self.log_det

    @property
    def log_det(self) -> Tensor:
        """The logarithm of the factor's determinant: (N,)."""
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def posterior(model: VAE, rows: Batch, near: float = 0.0) -> Posterior:
    """The encoder's q(z|x); for a row with gaps, Laplace's approximation to p(z | the present cells).

    A model without a density has no such posterior: it shows the encoder its columns' means in the gaps.

    The encoder was trained on rows as they come and cannot know how much less a row with gaps says of z: its q would be
    off-centre and too narrow. Newton's steps on log p(x_present, z) ask the decoder instead, and are exact where it is
    linear. For `near` see `laplace`.
    """
    mu, log_var = model.encode(rows.x, rows.mask)
    factor = torch.diag_embed(torch.zeros_like(mu) if log_var is None else torch.exp(0.5 * log_var))
    gaps = rows_with_gaps(rows)
    if len(gaps) and model.is_density:
        mean, gap_factor = laplace(model, rows.take(gaps), mu[gaps], near)
        mu, factor = mu.index_copy(0, gaps, mean), factor.index_copy(0, gaps, gap_factor)
    return Posterior(mu, factor)


def posterior_mean(model: VAE, rows: Batch) -> Tensor:
    """`posterior`'s mean alone: (N, J)."""
    mu = model.encode_mean(rows.x, rows.mask)
    gaps = rows_with_gaps(rows)
    if not (len(gaps) and model.is_density):
        return mu
    return mu.index_copy(0, gaps, laplace(model, rows.take(gaps), mu[gaps]).mean)


def rows_with_gaps(rows: Batch) -> Tensor:
    """The numbers of the rows that lack a cell."""
    if rows.mask is None:
        return torch.empty(0, dtype=torch.long)
    return (rows.mask == 0).any(dim=1).nonzero()[:, 0]


def laplace(model: VAE, rows: Batch, z: Tensor, near: float = 0.0) -> Posterior:
    """The mode of p(z | the present cells), by Newton's method from `z`, and the curvature there.

    The curvature costs more than all else, so it is found only where a row has come to and goes on from, and a row that
    has arrived takes no part in further steps; it has, too, after one that gains, or promises, less than `near` nats.
    """
    z = z.clone()
    value, slope = _height_and_slope(model, rows, z)
    factor = _inverse_factor(model, _curvature(model, rows, z))
    step, length = _newton_step(factor, slope), torch.ones_like(value)
    promised = 0.5 * (step * slope).sum(1)
    moving = torch.arange(len(z), device=z.device)
    for _ in range(NEWTON_STEPS):
        ahead = length[moving, None] * step[moving]
        moving, ahead = (found[ahead.abs().amax(dim=1) >= NEWTON_TOLERANCE] for found in (moving, ahead))
        if not len(moving):
            break
        tried = z[moving] + ahead
        new_value, new_slope = _height_and_slope(model, rows.take(moving), tried)
        gain, last = new_value - value[moving], promised[moving] < near
        better = gain > 0
        length[moving] = torch.where(better, 1.0, length[moving] / 4)
        there = moving[better]
        z[there], value[there] = tried[better], new_value[better]
        far = ~last & (gain > near)
        there = moving[far]
        if len(there):
            factor[there] = _inverse_factor(model, _curvature(model, rows.take(there), z[there]))
            step[there] = _newton_step(factor[there], new_slope[far])
            promised[there] = 0.5 * (step[there] * new_slope[far]).sum(1)
        moving = moving[far | ~(better | last)]
    return Posterior(z, factor)


def _height_and_slope(model: VAE, rows: Batch, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) over the present cells, (N,), and its slope over z, (N, J)."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = model.log_joint(z, rows.x, rows.mask)
        (slope,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), slope


def _curvature(model: VAE, rows: Batch, z: Tensor) -> Tensor:
    """Minus the second derivatives of log p(x, z): (N, J, J), some rows at a time."""
    n_components = z.shape[1]
    size = max(1, CURVATURE_NUMBERS // (n_components * max(model.cost.width, model.likelihood.n_params)))
    numbers = torch.arange(len(z), device=z.device).split(size)
    found = -torch.cat([_second_derivatives(model, rows.take(some), z[some]) for some in numbers])
    found = found.nan_to_num().clamp(-1e150, 1e150)
    return 0.5 * (found + found.mT)


def _second_derivatives(model: VAE, rows: Batch, z: Tensor) -> Tensor:
    """Of log p(x, z), (N, J, J): in one pass over a copy of the rows for each latent.

    Where the decoder is linear piece by piece, it has no second derivatives, and its first ones are products: only the
    likelihood is left, whose columns, where each has outputs of its own, need fewer passes.
    """
    slope = _piecewise_slope(model.decoder, model.decoder_input(z, rows.x), z.shape[1])
    if slope is None:
        return second_derivatives(lambda z: model.log_joint(z, rows.x, rows.mask), z)
    outputs = model.params(z, rows.x)
    bent = model.likelihood.second_derivatives(outputs, rows.x, rows.mask, slope)
    return bent + model.prior.second_derivatives(z)


def _piecewise_slope(decoder: nn.Module, x: Tensor, n_components: int) -> Tensor | None:
    """The slopes of a decoder's outputs over its first inputs, the latents, where it is linear piece by piece.

    (N, n_params, J) for inputs (N, J or more); None elsewhere.
    """
    if type(decoder) is not LinearPath:
        return None
    # Latents first, (N or 1, J, K): then a layer is one product for all rows.
    slope = torch.eye(n_components, x.shape[1], dtype=x.dtype, device=x.device)[None]
    for layer in decoder.body or ():
        if type(layer) is nn.Linear:
            slope = slope @ layer.weight.T
        elif type(layer) is nn.ReLU:
            slope = slope * (x > 0)[:, None]
        elif type(layer) is not nn.Identity:
            return None
        x = layer(x)
    straight = decoder.linear.weight[:, :n_components].T
    return (straight if decoder.body is None else straight + slope).expand(len(x), -1, -1).mT


def _inverse_factor(model: VAE, curvature: Tensor) -> Tensor:
    """The lower triangular factor of the inverse of curvatures (N, J, J), held between the prior's least and the most.

    Less than the prior alone curves by is where the likelihood is not log-concave. The upper bound is for rows so far
    out that no number stands for them: they get a likelihood of -inf, not an error.
    """
    least = model.prior.least_curvature
    identity = torch.eye(curvature.shape[1], dtype=curvature.dtype, device=curvature.device)
    # Cholesky's factor of what exceeds the least exists where no bound is broken, and costs a tenth of eigenvalues.
    short = torch.linalg.cholesky_ex(curvature - (1 - 1e-9) * least * identity).info > 0
    out = short | (curvature.diagonal(dim1=1, dim2=2).sum(-1) > MOST_CURVATURE)
    # Lower triangular factors of inverses come from upper triangular factors: those of the matrix turned about.
    upper = torch.linalg.cholesky_ex(torch.where(out[:, None, None], identity, curvature).flip(1, 2)).L.flip(1, 2)
    factor = torch.linalg.solve_triangular(upper.mT, identity.expand_as(upper), upper=False)
    if bool(out.any()):
        values, vectors = torch.linalg.eigh(curvature[out])
        half = vectors / values.clamp(least, MOST_CURVATURE).sqrt()[:, None]
        bounded = torch.linalg.qr(half.mT).R.mT
        signs = torch.where(bounded.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0)
        factor[out] = bounded * signs[:, None]
    return factor


def _newton_step(factor: Tensor, slope: Tensor) -> Tensor:
    """The inverse curvature times the slope: (N, J)."""
    return (factor @ (factor.mT @ slope.nan_to_num()[..., None]))[..., 0]


def mean_and_std(model: VAE, rows: Batch) -> Tensor:
    """Of the latents given each row: (N, J, 2). Nothing is known of a code's spread, for which 1 stands."""
    if rows.mask is not None and model.is_density:
        q = posterior(model, rows)
        return torch.stack([q.mean, q.std], dim=-1)
    mean, log_var = model.encode(rows.x, rows.mask)
    return torch.stack([mean, torch.ones_like(mean) if log_var is None else torch.exp(0.5 * log_var)], dim=-1)
