"""Draws of missing cells given the present ones: points z of a proposal, of which each draw keeps one.

Sampling importance resampling (Rubin 1987): a point is kept in proportion to p(x, z) / proposal(z). The better the
proposal, the more evenly, and where it is the posterior the draws are exact.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._math import log_normal
from .._tables.batches import Batch
from .._tables.moments import Scale
from .._torch import make_generator
from ..model import VAE
from .cells import Lattice, cells
from .posterior import laplace, posterior
from .scores import weighed

__all__ = ["Starts", "decodes_to_numbers", "draws_around", "draws_by_cells", "draws_by_modes", "starts_of"]


# Draws from the prior among which modes are looked for, how many of them one is the highest of, and how many of such
# peaks Newton's method starts from, beside the encoder's mean.
STARTS, NEIGHBOURS, PEAKS = 256, 8, 2


# Points around the modes, at least, and from the prior, which all rows of a block share: no place with a part of the
# posterior is out of reach, though no mode lies there.
BY_MODES, BY_PRIOR = 256, 1024
# Points z at which a model is to decode to numbers.
DECODED = 16


class Starts(NamedTuple):
    """Places over the prior: z (C, J), and the numbers of the nearest others of each, (C, NEIGHBOURS)."""

    z: Tensor
    neighbours: Tensor


def starts_of(model: VAE, device: torch.device) -> Starts:
    """The same for all rows and calls."""
    z = model.prior.sample(STARTS, make_generator(0, device), torch.float64)
    nearest = torch.cdist(z, z).topk(NEIGHBOURS + 1, largest=False).indices
    return Starts(z, nearest[:, 1:])


def draws_around(model: VAE, rows: Batch, n_points: int, n_draws: int, rng: torch.Generator) -> Tensor:
    """Draws of x given the present cells, in model units: (n_draws, N, D). Points come from q(z|x) alone."""
    q = posterior(model, rows)
    eps = torch.randn(max(n_points, n_draws), *q.mean.shape, generator=rng, dtype=torch.float64, device=rng.device)
    return _drawn(model, *weighed(model, rows, q, eps), n_draws, rng)


def draws_by_cells(
    model: VAE, rows: Batch, lattice: Lattice, n_points: int, n_draws: int, rng: torch.Generator
) -> Tensor:
    """`draws_around`, but from anywhere in the cells that the posterior fills."""
    found = cells(model, rows, lattice)
    log_share = torch.log_softmax(found.log_mass, dim=0)
    size = max(n_points, n_draws)
    chosen = _chosen(_shares(found.log_mass), size, rng)
    n_axes = found.z.shape[-1]
    z = found.z.gather(0, chosen[..., None].expand(-1, -1, n_axes))
    within = torch.rand(z.shape, generator=rng, dtype=z.dtype, device=rng.device) - 0.5
    width = found.width.gather(0, chosen)
    z = z + within * width[..., None]
    log_density = log_share.gather(0, chosen) - n_axes * width.log()
    return _drawn(model, z, model.log_joint(z, rows.x, rows.mask) - log_density, n_draws, rng)


def draws_by_modes(
    model: VAE, rows: Batch, starts: Starts, n_points: int, n_draws: int, rng: torch.Generator
) -> Tensor:
    """`draws_around`, but around several modes of the posterior, and from all over the prior."""
    mean, factor, log_share = _modes(model, rows, starts)
    size = max(n_points, n_draws, BY_MODES)
    share = size / (size + BY_PRIOR)
    log_share = math.log(share) + _shares(log_share).log()
    which = _chosen(log_share.exp() / share, size, rng)
    eps = torch.randn(size, *mean.shape[1:], generator=rng, dtype=mean.dtype, device=rng.device)
    around = torch.zeros_like(eps)
    for k in range(len(mean)):
        there = mean[k] + torch.einsum("njk,snk->snj", factor[k], eps)
        around = torch.where((which == k)[..., None], there, around)
    anywhere = model.prior.sample(BY_PRIOR, rng, torch.float64)
    height = [model.log_joint(around, rows.x, rows.mask), model.log_joint_everywhere(anywhere, rows.x, rows.mask)]
    z = torch.cat([around, anywhere[:, None].expand(-1, len(rows), -1)])
    terms = [math.log(1 - share) + model.prior.log_prob(z)]
    for k in range(len(mean)):
        u = torch.linalg.solve_triangular(factor[k], (z - mean[k]).permute(1, 2, 0), upper=False)
        log_det = factor[k].diagonal(dim1=1, dim2=2).log().sum(-1)
        terms.append(log_share[k] + log_normal(u).sum(1).T - log_det)
    return _drawn(model, z, torch.cat(height) - torch.logsumexp(torch.stack(terms), dim=0), n_draws, rng)


def _modes(model: VAE, rows: Batch, starts: Starts) -> tuple[Tensor, Tensor, Tensor]:
    """Modes of p(z | x), factors of the covariances there, and logarithms of what each holds, but for a constant.

    (K, N, J), (K, N, J, J) and (K, N), by Newton's method from the encoder's mean and from the highest peaks among the
    starts. A mode may be found more than once.
    """
    height = model.log_joint_everywhere(starts.z, rows.x, rows.mask)
    peak = height >= height[starts.neighbours].amax(dim=1)
    highest = height.masked_fill(~peak, -math.inf).nan_to_num(nan=-math.inf).topk(PEAKS, dim=0).indices
    first = torch.cat([model.encode_mean(rows.x, rows.mask)[None], starts.z[highest]])
    index = torch.arange(len(rows), device=rows.device).repeat(len(first))
    found = laplace(model, rows.take(index), first.flatten(0, 1))
    mean, factor = (values.unflatten(0, (len(first), -1)) for values in found)
    held = model.log_joint(mean, rows.x, rows.mask) + factor.diagonal(dim1=2, dim2=3).log().sum(-1)
    return mean, factor, held


def _drawn(model: VAE, z: Tensor, log_weight: Tensor, n_draws: int, rng: torch.Generator) -> Tensor:
    """A draw of x for each of `n_draws` of the points (S, N, J), kept in proportion to their weights.

    Not a number for a row so far out that its weights are none.
    """
    lost = ~torch.logsumexp(log_weight, dim=0).isfinite()
    chosen = _chosen(_shares(log_weight), n_draws, rng)
    kept = z.gather(0, chosen[..., None].expand(-1, -1, z.shape[-1])).masked_fill(lost[:, None], 0.0)
    return model.sample(kept, rng).masked_fill(lost[:, None], math.nan)


def decodes_to_numbers(model: VAE, scale: Scale) -> bool:
    """Whether means of p(x|z) are finite, at 0 and at some z around it, and draws too, in the data's own units."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    z = torch.randn(DECODED, model.prior.n_components, generator=make_generator(0), dtype=dtype)
    z[0] = 0
    outputs = model.params(z)
    if not model.likelihood.mean(outputs).isfinite().all():
        return False
    if not model.is_density:
        return True
    drawn = model.likelihood.sample(outputs, make_generator(0))
    return bool(np.isfinite(scale.to_data(drawn.double().numpy())).all())


def _chosen(shares: Tensor, n_draws: int, rng: torch.Generator) -> Tensor:
    """Numbers of points in proportion to their shares (S, N), one from every part of 1 / n_draws: (n_draws, N).

    In random order: each is a draw of its own, and together they have the shares more nearly than independent draws.
    """
    n_rows = shares.shape[1]
    noise = torch.rand(n_draws, n_rows, generator=rng, dtype=shares.dtype, device=rng.device)
    order = torch.rand(n_draws, n_rows, generator=rng, dtype=shares.dtype, device=rng.device).argsort(dim=0)
    upto = shares.cumsum(0).T.contiguous()
    place = (order + noise) / n_draws * upto[:, -1]
    return torch.searchsorted(upto, place.T.contiguous(), right=True).T.clamp_max(len(shares) - 1)


def _shares(log_weight: Tensor) -> Tensor:
    """Weights that sum to 1 over the points of a row, (S, N); equal ones where they are no numbers."""
    lost = ~torch.logsumexp(log_weight, dim=0).isfinite()
    return torch.softmax(log_weight.masked_fill(lost, 0.0), dim=0)
