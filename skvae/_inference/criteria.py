"""What makes a row normal: one function each, and its exact split over the features.

A criterion maps complete rows to contributions (N, D + 1), one per feature and a last one for the latents, whose sum is
the score: higher is more normal. In `explained` the latents' part is shared out among the features too. Several
criteria give one verdict by their weighted mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._math import log_normal
from .._tables.batches import Batch
from ..model import VAE
from ..priors import AggregatedPosterior
from .quadrature import Rule

__all__ = [
    "CRITERIA",
    "DRAWN",
    "NEEDS",
    "Criteria",
    "Criterion",
    "ScoringContext",
    "as_one",
    "names_of",
    "refuse_criterion",
    "side_by_side",
    "unit",
    "with_latents",
]


class ScoringContext(NamedTuple):
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
    look : Look or None
        What another criterion has computed of the same rows.
    """

    rule: Rule
    codes: AggregatedPosterior
    completions: Tensor
    scale: Tensor
    known: Tensor | None = None
    look: Look | None = None

    def own(self, mu: Tensor) -> Tensor:
        """Which of the codes is the own one of rows with these posterior means."""
        return self.codes.own(mu) if self.known is None else self.known

    def at(self, model: VAE, rows: Batch) -> Look:
        """What is computed of these rows, once for all criteria that look at them."""
        return Look(model, rows, self) if self.look is None else self.look


Kept = TypeVar("Kept")


class _once(Generic[Kept]):  # noqa: N801 - named as the decorator it is
    """A property that is computed when first asked. Python 3.11's own would let one thread at a time compute it."""

    def __init__(self, compute: Callable[[Any], Kept]):
        self.compute = compute

    def __get__(self, look: Any, owner: type) -> Kept:
        value = vars(look)[self.compute.__name__] = self.compute(look)
        return value


class Look:
    """What criteria that judge a row at its posterior mean compute of it, when first asked.

    Parameters
    ----------
    model : VAE
    rows : Batch
    view : ScoringContext
    near : bool, default=False
        Whether `neighbour` will be asked for, beside `prior`: the terms of both are the same.
    """

    def __init__(self, model: VAE, rows: Batch, view: ScoringContext, near: bool = False):
        self.model, self.rows, self.view, self.near = model, rows, view, near

    @_once
    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x)."""
        return self.model.encode(self.rows.x)

    @_once
    def log_prob(self) -> Tensor:
        """log p(x_d|z) at the posterior mean: (N, D)."""
        return self.model.log_prob(self.posterior[0], self.rows.x)

    @_once
    def log_q(self) -> Tensor:
        """log q(z|x) at its mean: (N,)."""
        mu, log_var = self.posterior
        return log_normal(torch.zeros_like(mu), log_var).sum(-1)

    @_once
    def prior(self) -> Tensor:
        """log q_agg(z) at the posterior mean: (N,)."""
        mu = self.posterior[0]
        return self._near[:, 0] if self.near else self.view.codes.log_prob(mu, self.view.own(mu))

    @property
    def neighbour(self) -> Tensor:
        """The term in q_agg(z) of the tenth nearest code: (N,)."""
        return self._near[:, 1]

    @_once
    def _near(self) -> Tensor:
        mu = self.posterior[0]
        return self.view.codes.log_prob_and_neighbour(mu, self.view.own(mu))


Criterion = Callable[[VAE, Batch, ScoringContext], Tensor]
Criteria = str | Criterion | Sequence[str]


def reconstruction(model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    """-(x_d - E[x_d|z])^2 at the posterior mean, in standardised units; the latents have no part."""
    mu, _ = model.encode(rows.x)
    return with_latents(-(rows.x - model.mean(mu, rows.x)).square(), torch.zeros_like(mu[:, 0]))


def reconstruction_data(model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    """`reconstruction` in data units: columns of large values count most."""
    return reconstruction(model, rows, view) * torch.cat([view.scale, view.scale[:1]]).square()


def reconstruction_probability(model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    """E_q[log p(x_d|z)] (An & Cho 2015); the latents have no part."""
    log_prob = model.log_weights(rows.x, view.rule.eps).log_prob
    return with_latents((view.rule.weight * log_prob).sum(0), torch.zeros_like(rows.x[:, 0]))


def elbo(model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    """E_q[log p(x_d|z)], and -KL(q(z|x) || p(z)) for the latents."""
    log_w, weight = model.log_weights(rows.x, view.rule.eps), view.rule.weight
    kl = model.prior.kl(*model.encode(rows.x))
    latents = (weight[..., 0] * (log_w.log_prior - log_w.log_q)).sum(0) if kl is None else -kl.sum(-1)
    return with_latents((weight * log_w.log_prob).sum(0), latents)


def log_likelihood(model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    """log p(x) = sum_d sum_s W_s log p(x_d|z_s) + sum_s W_s (log p(z_s) - log q(z_s|x) - log S W_s).

    W is the softmax over draws of the log importance weights (Burda et al. 2016, eq. 8).
    """
    log_w = model.log_weights(rows.x, view.rule.eps)
    log_share = torch.log_softmax(log_w.total + view.rule.log_weight, dim=0)
    share = log_share.exp()
    latents = share * (log_w.log_prior - log_w.log_q + view.rule.log_weight - log_share)
    return with_latents((share[..., None] * log_w.log_prob).sum(0), latents.sum(0))


def latent(model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    """log q_agg(z) at the posterior mean: how far a row's code is from the codes of the training rows."""
    return with_latents(torch.zeros_like(rows.x), view.at(model, rows).prior)


def aggregated(model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    """log p(x_d|z), and log q_agg(z) - log q(z|x) for the latents, at the posterior mean.

    The log importance weight with the training rows' mean posterior as the prior: real codes cluster, and N(0, I) knows
    nothing of that. Averaging over draws of z changes the ranking by less than a thousandth of AUROC.
    """
    look = view.at(model, rows)
    return with_latents(look.log_prob, look.prior - look.log_q)


def neighbour(model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    """`aggregated` with one term of q_agg(z) in its place, that of the tenth nearest code.

    The distance to a neighbour, as k nearest neighbours judge rows: nine others nearby do not make a row normal.
    """
    look = view.at(model, rows)
    return with_latents(look.log_prob, look.neighbour - look.log_q)


CRITERIA: dict[str, Criterion] = {
    "aggregated": aggregated,
    "elbo": elbo,
    "log_likelihood": log_likelihood,
    "reconstruction": reconstruction,
    "reconstruction_data": reconstruction_data,
    "reconstruction_probability": reconstruction_probability,
    "latent": latent,
    "neighbour": neighbour,
}


# What the objective must offer for each; the others ask for nothing.
NEEDS: dict[str, frozenset[str]] = {
    "latent": frozenset({"posterior"}),
    **dict.fromkeys(
        ("aggregated", "elbo", "log_likelihood", "neighbour", "reconstruction_probability"),
        frozenset({"posterior", "density"}),
    ),
}


# Squares of differences this small, in standard deviations, are rounding.
LEAST_SQUARE = 1e-3


def unit(criterion: Criteria, scale: Any) -> float:
    """What counts as a difference between scores at all: a nat per column, where they are nats."""
    first = names_of(criterion)[:1]
    if not first:
        return 0.0
    if first == ("reconstruction_data",):
        with np.errstate(over="ignore"):  # of units whose squares no float holds
            return LEAST_SQUARE * min(float(np.square(scale).sum()), np.finfo(float).max)
    return LEAST_SQUARE * len(scale) if first == ("reconstruction",) else float(len(scale))


# Those that average over draws of z.
DRAWN = {"elbo", "log_likelihood", "reconstruction_probability"}


def names_of(criterion: Criteria) -> tuple[str, ...]:
    """The names of one criterion or several; none for a user's function."""
    if isinstance(criterion, str):
        return (criterion,)
    return () if callable(criterion) else tuple(criterion)


def refuse_criterion(criterion: Criteria, objective: Any) -> None:
    """Raise ValueError where a criterion needs what the objective does not offer."""
    for name in names_of(criterion):
        if lacking := NEEDS.get(name, frozenset()) - objective.offers:
            raise ValueError(
                f"criterion={name!r} needs an objective that offers a {' and a '.join(sorted(lacking))}; "
                f"{objective!r} does not. Use criterion='reconstruction', or another objective."
            )


def as_one(criterion: Criteria, weights: Sequence[float] = ()) -> Criterion:
    """The criterion that a parameter names, the user's own, or the weighted sum of several."""
    if isinstance(criterion, str):
        return CRITERIA[criterion]
    return criterion if callable(criterion) else partial(_weighted, tuple(criterion), tuple(weights))


def side_by_side(names: Sequence[str]) -> Criterion:
    """Every criterion's contributions, one after the other: (N, C (D + 1))."""
    return lambda model, rows, view: torch.cat(_each(names, model, rows, view), dim=1)


def _weighted(names: Sequence[str], weights: Sequence[float], model: VAE, rows: Batch, view: ScoringContext) -> Tensor:
    found = _each(names, model, rows, view)
    total = weights[0] * found[0]
    for weight, values in zip(weights[1:], found[1:], strict=True):
        total = total + weight * values
    return total


def _each(names: Sequence[str], model: VAE, rows: Batch, view: ScoringContext) -> list[Tensor]:
    """The contributions of several criteria, which compute together what more than one of them asks for."""
    view = view._replace(look=Look(model, rows, view, near="neighbour" in names))
    return [CRITERIA[name](model, rows, view) for name in names]


def with_latents(features: Tensor, latents: Tensor) -> Tensor:
    return torch.cat([features, latents[:, None]], dim=1)
