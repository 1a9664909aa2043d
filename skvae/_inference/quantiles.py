"""Quantiles of missing cells given the present ones: of p(x|z), mixed over points z as their weights say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._tables.batches import Batch
from .._torch import make_generator
from ..model import VAE
from .draws import points_until_enough
from .proposals import Common, Proposal

__all__ = ["quantiles"]


# Points of a proposal at first, how many of all are to be effective, and how many are kept, of equal weight.
POINTS, EFFECTIVE, KEPT = 512, 256, 512
# Between values that differ in probability by at most so many parts of `KEPT` the distribution function is straight.
# It takes at most so many steps there.
STRAIGHT, STEPS = 4, 30
# A level is reached at a value itself where it is not yet so close below, as a share of the way from the one before.
CLOSE = 1e-6


def quantiles(model: VAE, rows: Batch, proposal: Proposal, levels: Sequence[float], seed: int) -> tuple[Tensor, Tensor]:
    """Quantiles of x given the present cells, in model units, (L, N, D), and of how many effective points, (N,).

    For levels in rising order. The points are the same for all rows and calls. Not a number for a row so far out that
    its weights are none.
    """
    noise = Common(seed, rows.device)
    found = rows.x.new_empty(len(levels), len(rows), rows.x.shape[1])
    n_effective = rows.x.new_empty(len(rows))
    for number, points, own in points_until_enough(model, rows, proposal, POINTS, EFFECTIVE, noise):
        z, far = points.resampled(KEPT, Common(seed, rows.device))
        found[:, number] = _mixed(model, rows.take(number), z, levels, seed).masked_fill(far[:, None], math.nan)
        n_effective[number] = own
    return found, n_effective


def _mixed(model: VAE, rows: Batch, z: Tensor, levels: Sequence[float], seed: int) -> Tensor:
    """Quantiles of x for points z (S, N, J) of equal weight: (L, N, D)."""
    outputs = model.params(z, rows.x)
    # Each row's from a generator of its own, so that no row depends on another.
    each = zip(outputs.unbind(1), rows.known, strict=True)
    drawn = [model.likelihood.sample_given(own, x, make_generator(seed, z.device)) for own, x in each]
    values = torch.stack(drawn, dim=1).sort(dim=0).values

    def reached(x: Tensor) -> Tensor:
        return model.likelihood.cdf(outputs, x).mean(0)

    # Without a formula, the values that were drawn are all there is.
    stated = reached(values[0]).isfinite()
    found = [
        torch.where(stated, _quantile(reached, values, level), values[min(int(level * len(values)), len(values) - 1)])
        for level in levels
    ]
    return torch.stack(found).cummax(dim=0).values


def _quantile(reached: Callable[[Tensor], Tensor], values: Tensor, level: float) -> Tensor:
    """The least x at which a distribution function reaches a level, (N, D), between sorted values (S, N, D)."""
    low, high, at_low, at_high = _neighbours(reached, values, level)
    # An atom, of a whole number say, reaches all its levels at once.
    atom = reached(high - CLOSE * (high - low)) < level
    for _ in range(STEPS):
        wide = ~atom & (at_high - at_low > STRAIGHT / KEPT)
        if not bool(wide.any()):
            break
        middle = 0.5 * (low + high)
        at_middle = reached(middle)
        above, below = wide & (at_middle >= level), wide & (at_middle < level)
        high, at_high = torch.where(above, middle, high), torch.where(above, at_middle, at_high)
        low, at_low = torch.where(below, middle, low), torch.where(below, at_middle, at_low)
    share = ((level - at_low) / (at_high - at_low)).nan_to_num(nan=1.0).clamp(0.0, 1.0)
    return torch.where(atom, high, low + share * (high - low))


def _neighbours(reached: Callable[[Tensor], Tensor], values: Tensor, level: float) -> tuple[Tensor, ...]:
    """The last of the sorted values that falls short of the level, the first that does not, and what they reach."""
    span = (values[-1] - values[0]).clamp_min(1.0)
    values = torch.cat([values[:1] - span, values, values[-1:] + span])
    low = torch.zeros_like(values[0], dtype=torch.long)
    high = torch.full_like(low, len(values) - 1)
    at_low, at_high = torch.zeros_like(span), torch.ones_like(span)
    for _ in range(math.ceil(math.log2(len(values)))):
        middle = (low + high) // 2
        at_middle = reached(values.gather(0, middle[None])[0])
        above = at_middle >= level
        high, at_high = torch.where(above, middle, high), torch.where(above, at_middle, at_high)
        low, at_low = torch.where(above, low, middle), torch.where(above, at_low, at_middle)
    return values.gather(0, low[None])[0], values.gather(0, high[None])[0], at_low, at_high
