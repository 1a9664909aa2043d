"""What every feature adds to a row's score, and the normal row it is held beside."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from .._tables.batches import Batch
from ..model import VAE
from .criteria import Criterion, ScoringContext, with_latents
from .posterior import posterior

__all__ = ["COMPLETIONS", "MOST_DIFFERENCE", "MOST_SIMILAR", "contributions", "explained", "nearest"]


# Points of the path integral that shares the latents' part out, and the rule of Gauss for a path from 0 to 1.
PATH_POINTS = 8
NODES, SHARES = np.polynomial.legendre.leggauss(PATH_POINTS)
GAUSS = 0.5 * (NODES + 1), 0.5 * SHARES


# Numbers that the differences to similar rows take at once: 2 MB.
DIFFERENCES_AT_ONCE = 250_000


# How far apart two cells can be, and among how many codes the most similar is looked for.
MOST_DIFFERENCE, MOST_SIMILAR = 2.0, 1000


# Completions of a row with gaps.
COMPLETIONS = 8


def contributions(
    criterion: Criterion, model: VAE, rows: Batch, view: ScoringContext, typical: Tensor | None = None
) -> Tensor:
    """The criterion's contributions, (N, D + 1), for rows that may have gaps.

    A gap makes no row more normal: the row is completed several times, its contributions are averaged, and a missing
    feature's is replaced by `typical`, (D + 1,), what it is for training rows.
    """
    if rows.mask is None:
        return criterion(model, rows, view)
    missing = rows.mask == 0
    gaps = missing.any(dim=1)
    whole, part = (~gaps).nonzero()[:, 0], gaps.nonzero()[:, 0]
    found = criterion(model, *_completed(model, rows.take(part), view)).unflatten(0, (-1, len(part))).mean(0)
    result = found.new_empty(len(rows), found.shape[1])
    if len(whole):
        result[whole] = criterion(model, Batch(rows.x[whole]), view)
    if typical is not None:
        found[:, :-1] = torch.where(missing[part], typical[:-1], found[:, :-1])
    result[part] = found
    return result


def _completed(model: VAE, rows: Batch, view: ScoringContext) -> tuple[Batch, ScoringContext]:
    """Every row `COMPLETIONS` times, its gaps filled by E[x|z] for draws z from p(z | the present cells)."""
    assert rows.mask is not None
    q = posterior(model, rows)
    z = q.at(view.completions[:, None])
    filled = torch.where(rows.mask > 0, rows.x, model.mean(z, rows.known)).flatten(0, 1)
    # Training rows are known by their own codes, not by their completions'.
    return Batch(filled), view._replace(known=view.codes.own(q.mean).repeat(len(z)))


def nearest(model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    """The decoded training code that is most like each row, in model units: (N, D).

    Differences count up to `MOST_DIFFERENCE` in the encoder's units, so that one absurd cell does not choose the code.
    A missing cell does not count.
    """
    every = -(-len(view.codes.mean) // MOST_SIMILAR)
    decoded = model.mean(view.codes.mean[::every, None], rows.known)  # one for all rows, or one for each
    encoding = model.likelihood.encoding
    seen, mask = encoding.encode(rows.x), None if rows.mask is None else encoding.per_input(rows.mask)
    parts = encoding.encode(decoded).split(max(1, DIFFERENCES_AT_ONCE // max(1, seen.numel())))
    distance = torch.cat([_distance(seen, part, mask) for part in parts])
    own = view.own(model.encode(rows.x, rows.mask)[0])
    known = (own >= 0) & (own % every == 0)
    distance[own[known] // every, known] = torch.inf
    return decoded.expand(-1, len(rows), -1)[distance.argmin(dim=0), torch.arange(len(rows), device=distance.device)]


def _distance(seen: Tensor, others: Tensor, mask: Tensor | None) -> Tensor:
    """Sums of squares of differences up to `MOST_DIFFERENCE` between rows (N, K) and others (M, 1 or N, K): (M, N)."""
    difference = seen - others
    if mask is not None:
        difference *= mask
    return difference.abs_().clamp_max_(MOST_DIFFERENCE).nan_to_num_(nan=MOST_DIFFERENCE).square_().sum(-1)


def explained(
    criterion: Criterion,
    model: VAE,
    rows: Batch,
    view: ScoringContext,
    typical: Tensor | None = None,
    typical_explanation: Tensor | None = None,
) -> Tensor:
    """`contributions` with the latents' part shared out among the features: (N, D + 1), of the same sum.

    A missing feature's is replaced by `typical_explanation`, (D + 1,).
    """
    total = contributions(criterion, model, rows, view, typical).sum(dim=1)
    shared = contributions(partial(_shared_out, criterion), model, rows, view, typical_explanation)
    shared[:, -1] = total - shared[:, :-1].sum(dim=1)
    return shared


def _shared_out(criterion: Criterion, model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    """The criterion's contributions of complete rows, and what its latents' part owes to each feature.

    Integrated gradients (Sundararajan et al. 2017) of that part along the line from the most similar normal row, which
    `nearest` gives, to the row itself; what they leave, that normal row's own part, stays with the latents. All of the
    line is judged without the row's own code.
    """
    own = view.own(model.encode(rows.x)[0])
    view, on_path = view._replace(known=own), view._replace(known=own.repeat(PATH_POINTS))
    found = criterion(model, rows, view)
    start = nearest(model, rows, view)
    way = rows.x - start
    points, weights = (torch.tensor(v, device=way.device)[:, None, None] for v in GAUSS)
    with torch.enable_grad():
        x = (start + points * way).flatten(0, 1).requires_grad_()
        part = criterion(model, Batch(x), on_path)[:, -1]
        (slope,) = torch.autograd.grad(part.sum(), x) if part.requires_grad else (torch.zeros_like(x),)
    shared = (weights * slope.unflatten(0, (PATH_POINTS, -1))).sum(dim=0) * way
    return found + with_latents(shared, -shared.sum(dim=1))
