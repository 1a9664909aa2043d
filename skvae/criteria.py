"""What makes a row normal: one function each, and its exact split over the features.

A criterion maps complete rows to contributions (N, D + 1), one a feature and a last one for the latents, whose sum is
the score: higher is more normal. In `explained` the latents' part is shared out among the features too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .data import Rows
from .model import VAE
from .priors import AggregatedPosterior, log_normal
from .scores import Rule, posterior

__all__ = [
    "COMPLETIONS",
    "CRITERIA",
    "DRAWN",
    "NEEDS",
    "Criterion",
    "View",
    "contributions",
    "explained",
    "named_criterion",
    "nearest",
]

# Points of the path integral that shares the latents' part out.
PATH_POINTS = 8
# How far apart two cells can be, and among how many codes the most similar is looked for.
MOST_DIFFERENCE, MOST_SIMILAR = 2.0, 1000
# Completions of a row with gaps.
COMPLETIONS = 8


class View(NamedTuple):
    """What a criterion looks at beside the rows.

    Attributes
    ----------
    rule : Rule
        Points for expectations under q(z|x).
    codes : AggregatedPosterior
        Of the training rows. A row that is one of them is judged without its own code.
    completions : Tensor of shape (COMPLETIONS, J)
        Standard normal draws for rows with gaps.
    scale : Tensor of shape (D,)
        What a unit of x is in data units.
    known : Tensor of shape (N,) or None
        Which of the codes is the row's own, -1 for none, where that is known already; None: to be looked up.
    """

    rule: Rule
    codes: AggregatedPosterior
    completions: Tensor
    scale: Tensor
    known: Tensor | None = None

    def own(self, mu: Tensor) -> Tensor:
        """Which of the codes is the own one of rows with these posterior means."""
        return self.codes.own(mu) if self.known is None else self.known


Criterion = Callable[[VAE, Rows, View], Tensor]


def reconstruction(model: VAE, rows: Rows, view: View) -> Tensor:
    """-(x_d - E[x_d|z])^2 at the posterior mean, in standardised units; the latents have no part."""
    mu, _ = model.encode(rows.x)
    return _with_latents(-(rows.x - model.mean(mu)).square(), torch.zeros_like(mu[:, 0]))


def reconstruction_data(model: VAE, rows: Rows, view: View) -> Tensor:
    """`reconstruction` in data units: columns of large values count most."""
    return reconstruction(model, rows, view) * torch.cat([view.scale, view.scale[:1]]).square()


def reconstruction_probability(model: VAE, rows: Rows, view: View) -> Tensor:
    """E_q[log p(x_d|z)] (An & Cho 2015); the latents have no part."""
    log_prob, _, weight = _drawn(model, rows, view.rule)
    return _with_latents((weight * log_prob).sum(0), torch.zeros_like(rows.x[:, 0]))


def elbo(model: VAE, rows: Rows, view: View) -> Tensor:
    """E_q[log p(x_d|z)], and -KL(q(z|x) || p(z)) for the latents."""
    log_prob, log_ratio, weight = _drawn(model, rows, view.rule)
    kl = model.prior.kl(*model.encode(rows.x))
    latents = (weight[..., 0] * log_ratio).sum(0) if kl is None else -kl.sum(-1)
    return _with_latents((weight * log_prob).sum(0), latents)


def log_likelihood(model: VAE, rows: Rows, view: View) -> Tensor:
    """log p(x) = sum_d sum_s W_s log p(x_d|z_s) + sum_s W_s (log p(z_s) - log q(z_s|x) - log S W_s).

    W is the softmax over draws of the log importance weights (Burda et al. 2016, eq. 8).
    """
    log_prob, log_ratio, _ = _drawn(model, rows, view.rule)
    log_w = log_prob.sum(-1) + log_ratio + view.rule.log_weight
    log_share = torch.log_softmax(log_w, dim=0)
    share = log_share.exp()
    latents = share * (log_ratio + view.rule.log_weight - log_share)
    return _with_latents((share[..., None] * log_prob).sum(0), latents.sum(0))


def latent(model: VAE, rows: Rows, view: View) -> Tensor:
    """log q_agg(z) at the posterior mean: how far a row's code is from the codes of the training rows."""
    mu, _ = model.encode(rows.x)
    return _with_latents(torch.zeros_like(rows.x), view.codes.log_prob(mu, view.own(mu)))


def aggregated(model: VAE, rows: Rows, view: View) -> Tensor:
    """log p(x_d|z), and log q_agg(z) - log q(z|x) for the latents, at the posterior mean.

    The log importance weight with the training rows' mean posterior as the prior: real codes cluster, and N(0, I) knows
    nothing of that. Averaging over draws of z changes the ranking by less than a thousandth of AUROC.
    """
    mu, log_var = model.encode(rows.x)
    prior = view.codes.log_prob(mu, view.own(mu))
    return _with_latents(model.log_prob(mu, rows.x), prior - log_normal(torch.zeros_like(mu), log_var).sum(-1))


CRITERIA: dict[str, Criterion] = {
    "aggregated": aggregated,
    "elbo": elbo,
    "log_likelihood": log_likelihood,
    "reconstruction": reconstruction,
    "reconstruction_data": reconstruction_data,
    "reconstruction_probability": reconstruction_probability,
    "latent": latent,
}


# What the objective must offer for each; the others ask for nothing.
NEEDS: dict[str, frozenset[str]] = {
    "latent": frozenset({"posterior"}),
    **dict.fromkeys(
        ("aggregated", "elbo", "log_likelihood", "reconstruction_probability"), frozenset({"posterior", "density"})
    ),
}
# Those that average over draws of z.
DRAWN = {"elbo", "log_likelihood", "reconstruction_probability"}


def named_criterion(value: str | Criterion) -> Criterion:
    """The criterion that a parameter names, or the value itself."""
    return CRITERIA[value] if isinstance(value, str) else value


def _with_latents(features: Tensor, latents: Tensor) -> Tensor:
    return torch.cat([features, latents[:, None]], dim=1)


def _drawn(model: VAE, rows: Rows, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x_d|z), (S, N, D), log p(z) - log q(z|x), (S, N), and the points' weights, (S, 1, 1)."""
    mu, log_var = model.encode(rows.x)
    z = mu + torch.exp(0.5 * log_var) * rule.eps
    log_ratio = model.prior.log_prob(z) - log_normal(rule.eps, log_var).sum(-1)
    return model.log_prob(z, rows.x), log_ratio, rule.log_weight.exp()[..., None]


def contributions(criterion: Criterion, model: VAE, rows: Rows, view: View, typical: Tensor | None = None) -> Tensor:
    """The criterion's contributions, (N, D + 1), for rows that may have gaps.

    A gap makes no row more normal: the row is completed several times, its contributions are averaged, and a missing
    feature's is replaced by `typical`, (D + 1,), what it is for training rows.
    """
    if rows.mask is None:
        return criterion(model, rows, view)
    missing = rows.mask == 0
    result = rows.x.new_empty(len(rows), rows.x.shape[1] + 1)
    gaps = missing.any(dim=1)
    whole, part = (~gaps).nonzero()[:, 0], gaps.nonzero()[:, 0]
    if len(whole):
        result[whole] = criterion(model, Rows(rows.x[whole]), view)
    found = criterion(model, *_completed(model, rows.take(part), view)).unflatten(0, (-1, len(part))).mean(0)
    if typical is not None:
        found[:, :-1] = torch.where(missing[part], typical[:-1], found[:, :-1])
    result[part] = found
    return result


def _completed(model: VAE, rows: Rows, view: View) -> tuple[Rows, View]:
    """Every row `COMPLETIONS` times, its gaps filled by E[x|z] for draws z from p(z | the present cells)."""
    assert rows.mask is not None
    q = posterior(model, rows)
    z = q.mean + torch.einsum("njk,sk->snj", q.factor, view.completions)
    filled = torch.where(rows.mask > 0, rows.x, model.mean(z)).flatten(0, 1)
    # Training rows are known by their own codes, not by their completions'.
    return Rows(filled), view._replace(known=view.codes.own(q.mean).repeat(len(z)))


def nearest(model: VAE, rows: Rows, view: View) -> Tensor:
    """The decoded training code that is most like each row, in model units: (N, D).

    Differences count up to `MOST_DIFFERENCE` in the encoder's units, so that one absurd cell does not choose the code.
    A missing cell does not count.
    """
    every = -(-len(view.codes.mean) // MOST_SIMILAR)
    decoded = model.mean(view.codes.mean[::every])
    difference = model.likelihood.encode_input(rows.x)[:, None] - model.likelihood.encode_input(decoded)
    if rows.mask is not None:
        difference *= model.likelihood.per_input(rows.mask)[:, None]
    distance = difference.abs().clamp_max(MOST_DIFFERENCE).nan_to_num(nan=MOST_DIFFERENCE).square().sum(-1)
    own = view.own(model.encode(rows.x, rows.mask)[0])
    known = (own >= 0) & (own % every == 0)
    distance[known, own[known] // every] = torch.inf
    return decoded[distance.argmin(dim=1)]


def explained(
    criterion: Criterion,
    model: VAE,
    rows: Rows,
    view: View,
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


def _shared_out(criterion: Criterion, model: VAE, rows: Rows, view: View) -> Tensor:
    """The criterion's contributions of complete rows, and what its latents' part owes to each feature.

    Integrated gradients (Sundararajan et al. 2017) of that part along the line from the most similar normal row, which
    `nearest` gives, to the row itself; what they leave, that normal row's own part, stays with the latents.
    """
    found = criterion(model, rows, view)
    start = nearest(model, rows, view)
    way = rows.x - start
    points, weights = np.polynomial.legendre.leggauss(PATH_POINTS)
    shared = torch.zeros_like(way)
    for point, weight in zip(0.5 * (points + 1), 0.5 * weights, strict=True):
        with torch.enable_grad():
            x = (start + float(point) * way).requires_grad_()
            part = criterion(model, Rows(x), view)[:, -1]
            (slope,) = torch.autograd.grad(part.sum(), x) if part.requires_grad else (torch.zeros_like(x),)
        shared += float(weight) * slope * way
    return found + _with_latents(shared, -shared.sum(dim=1))
