"""Draws of missing cells given the present ones: points z of a proposal, of which each draw keeps one.

Sampling importance resampling (Rubin 1987): a point is kept in proportion to p(x, z) / proposal(z). The better the
proposal, the more evenly, and where it is the posterior the draws are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._tables.batches import Batch
from .._tables.moments import Scale
from .._torch import make_generator
from ..model import VAE
from .proposals import Noise, Proposal, chosen, lost, shares

__all__ = ["FEW_EFFECTIVE", "MOST_POINTS", "decodes_to_numbers", "draws", "points_for"]


# Points from the prior, which all rows of a block share, beside those around the modes, at least: no place with a part
# of the posterior is out of reach, though no mode lies there.
BY_PRIOR = 1024
# Points of a proposal for each draw, at first, and for all, at least and at most; they are doubled while fewer than so
# many for each draw are effective, or fewer than the last in all.
POINTS_PER_DRAW, LEAST_POINTS, MOST_POINTS, EFFECTIVE_PER_DRAW, FEW_EFFECTIVE = 4, 256, 4096, 2, 10
# Numbers in the widest array while points are looked at.
POINT_NUMBERS = 1_000_000
# Points z at which a model is to decode to numbers.
DECODED = 16


@dataclass
class Points:
    """Points of N rows: z (S, N, J), log p(x, z) and how densely a proposal puts points there, two (S, N).

    Attributes
    ----------
    log_prior : Tensor of shape (S, N) or None
        The same of the prior, where some of the points are from it.
    n_prior : int
        How many are.
    """

    z: Tensor
    log_joint: Tensor
    log_density: Tensor
    log_prior: Tensor | None = None
    n_prior: int = 0

    @property
    def log_weight(self) -> Tensor:
        """log p(x, z), less how densely points lie there: (S, N)."""
        if self.log_prior is None:
            return self.log_joint - self.log_density
        share = 1 - self.n_prior / len(self.z)
        by_both = torch.logaddexp(math.log(share) + self.log_density, math.log(1 - share) + self.log_prior)
        return self.log_joint - by_both

    def resampled(self, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """So many of the points, (n, N, J), as often as they weigh; and rows that are too far out, (N,), at 0."""
        log_weight = self.log_weight
        far = lost(log_weight)
        kept = chosen(shares(log_weight), n, noise)[..., None].expand(-1, -1, self.z.shape[2])
        return self.z.gather(0, kept).masked_fill(far[:, None], 0.0), far

    def of(self, rows: Tensor) -> Points:
        """Those of some of the rows."""
        log_prior = None if self.log_prior is None else self.log_prior[:, rows]
        return Points(self.z[:, rows], self.log_joint[:, rows], self.log_density[:, rows], log_prior, self.n_prior)

    def and_more(self, other: Points) -> Points:
        """These points, and others of the same proposal."""
        log_prior = None
        if self.log_prior is not None and other.log_prior is not None:
            log_prior = torch.cat([self.log_prior, other.log_prior])
        return Points(
            torch.cat([self.z, other.z]),
            torch.cat([self.log_joint, other.log_joint]),
            torch.cat([self.log_density, other.log_density]),
            log_prior,
            self.n_prior + other.n_prior,
        )


def effective(log_weight: Tensor) -> Tensor:
    """How many equal weights are worth these, (S, N): (N,)."""
    return torch.exp(2 * torch.logsumexp(log_weight, dim=0) - torch.logsumexp(2 * log_weight, dim=0))


def points_for(n_draws: int, least: int) -> int:
    """How many points of a proposal each row has at first."""
    return max(least, LEAST_POINTS, n_draws, min(POINTS_PER_DRAW * n_draws, MOST_POINTS))


def points_until_enough(
    model: VAE, rows: Batch, proposal: Proposal, n_points: int, n_wanted: int, noise: Noise
) -> Iterator[tuple[Tensor, Points, Tensor]]:
    """Numbers of rows, their points, and how many of these are effective, as soon as enough are for these rows."""
    number = torch.arange(len(rows), device=rows.device)
    found = _new_points(model, rows, proposal, n_points, max(n_points, BY_PRIOR), noise)
    while len(number):
        n_effective = effective(found.log_weight)
        short = n_effective < n_wanted
        if 2 * n_points > MOST_POINTS or not bool(short.any()):
            yield number, found, n_effective
            return
        if not bool(short.all()):
            yield number[~short], found.of(~short), n_effective[~short]
            number, proposal, found = number[short], proposal.of(short), found.of(short)
        n_more = max(0, 2 * n_points - max(n_points, BY_PRIOR))
        found = found.and_more(_new_points(model, rows.take(number), proposal, n_points, n_more, noise))
        n_points *= 2


def _new_points(model: VAE, rows: Batch, proposal: Proposal, n_points: int, n_prior: int, noise: Noise) -> Points:
    """Points of the proposal, and from the prior where it wants some."""
    z, log_density = proposal.draw(n_points, noise)
    log_joint = _in_parts(model, len(rows), z, lambda part: model.log_joint(part, rows.x, rows.mask))
    if not proposal.with_prior:
        return Points(z, log_joint, log_density)
    found = Points(z, log_joint, log_density, model.prior.log_prob(z))
    if not n_prior:
        return found
    z = model.prior.sample(n_prior, noise.rng, torch.float64)
    log_joint = _in_parts(model, len(rows), z, lambda part: model.log_joint_everywhere(part, rows.x, rows.mask))
    log_prior = model.prior.log_prob(z)[:, None].expand(-1, len(rows))
    z = z[:, None].expand(-1, len(rows), -1)
    return found.and_more(Points(z, log_joint, proposal.log_density(z), log_prior, n_prior))


def _in_parts(model: VAE, n_rows: int, z: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of points, some at a time."""
    size = max(1, POINT_NUMBERS // (n_rows * max(model.cost.width, model.likelihood.n_params)))
    return torch.cat([function(part) for part in z.split(size)])


def draws(
    model: VAE, rows: Batch, proposal: Proposal, n_points: int, n_draws: int, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Draws of x given the present cells, in model units, (n_draws, N, D), and of how many effective points, (N,).

    Not a number for a row so far out that its weights are none.
    """
    found = rows.x.new_empty(n_draws, len(rows), rows.x.shape[1])
    n_effective = rows.x.new_empty(len(rows))
    n_wanted = max(EFFECTIVE_PER_DRAW * n_draws, FEW_EFFECTIVE)
    for number, points, own in points_until_enough(model, rows, proposal, n_points, n_wanted, noise):
        z, far = points.resampled(n_draws, noise)
        drawn = model.sample(z, noise.rng, rows.take(number).known)
        found[:, number] = drawn.masked_fill(far[:, None], math.nan)
        n_effective[number] = own
    return found, n_effective


def decodes_to_numbers(model: VAE, scale: Scale) -> bool:
    """Whether means of p(x|z) are finite, at 0 and at some z around it, and draws too, in the data's own units."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    z = torch.randn(DECODED, model.prior.n_components, generator=make_generator(0), dtype=dtype)
    z[0] = 0
    outputs = model.params_given(z, z.new_zeros(DECODED, model.likelihood.n_features))
    if not model.likelihood.mean(outputs).isfinite().all():
        return False
    if not model.is_density:
        return True
    drawn = model.likelihood.sample(outputs, make_generator(0))
    return bool(np.isfinite(scale.to_data(drawn.double().numpy())).all())
