"""What a fitted model says of rows: one function each. `block_rows` says how many to pass at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .._tables.batches import Batch
from ..model import VAE
from .cells import Lattice, cells, lies_elsewhere
from .posterior import NEAR, Posterior, laplace, posterior, posterior_mean, rows_with_gaps
from .quadrature import Rule

__all__ = [
    "block_rows",
    "completed",
    "conditional_mean",
    "latent_information",
    "likelihood_by_cells",
    "log_likelihood",
    "mean_by_cells",
    "squared_error",
    "weighed",
]


# Numbers that a block may hold in its widest array: 2 MB in float64, so that a block stays in the processor's cache.
BLOCK_NUMBERS = 250_000


# Points of q are doubted where the outermost nodes hold more than this and so many times what they hold where q is the
# posterior, both times the latents; or where fewer per latent are effective than this, or than this share of those that
# are where q is the posterior.
MOST_AT_EDGE, LEAST_POINTS = (1e-3, 10.0), (7.0, 0.8)


# Steps from one filling of a row's gaps towards the reconstruction, and which share of the way the first one goes.
STEPS, FIRST_STEP = 2, 0.5


def weighed(model: VAE, rows: Batch, q: Posterior, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Points of q(z|x), (S, N, J), for eps (S, 1 or N, J), and log w(x, z), (S, N)."""
    z = q.at(eps)
    return z, model.log_weight(z, q.log_density(eps), rows.x, rows.mask).total


class _Weighing:
    """Points of q(z|x) for every row by `rule`, their weights' sums, and how far these are to be trusted.

    Parameters
    ----------
    model : VAE
    rows : Batch
    rule : Rule
    lattice : Lattice or None
        What there is to do better with.
    ask_decoder : bool, default=False
        Whether q is Laplace's approximation for all rows, not only for those with gaps.
    """

    def __init__(self, model: VAE, rows: Batch, rule: Rule, lattice: Lattice | None, ask_decoder: bool = False):
        self.model, self.rows, self.rule, self.lattice = model, rows, rule, lattice
        first = model.encode_mean(rows.x, rows.mask) if ask_decoder else None
        self.q = posterior(model, rows, NEAR) if first is None else laplace(model, rows, first, NEAR)
        self.total = self.square = self.edge = self.q.mean.new_full((len(rows),), -math.inf)

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Points z (S, N, J) and log w(x, z) with the rule's weight, (S, N), as many at a time as a block may hold."""
        size = max(1, BLOCK_NUMBERS // (len(self.rows) * _widest(self.model)))
        for eps, log_share, edge in zip(*(values.split(size) for values in self.rule), strict=True):
            z, log_w = weighed(self.model, self.rows, self.q, eps)
            log_weight = log_w + log_share
            self.total = torch.logaddexp(self.total, torch.logsumexp(log_weight, dim=0))
            self.square = torch.logaddexp(self.square, torch.logsumexp(2 * log_weight, dim=0))
            self.edge = torch.logaddexp(self.edge, torch.logsumexp(log_weight + edge.log(), dim=0))
            yield z, log_weight

    def doubt(self) -> Tensor:
        """0, 1 where q is not where p(z | x) is, or 2 where q does not know of a part of it: (N,).

        Nodes of a quadrature reach far: a posterior that is wider than q, or beside it, weighs on the outermost, one
        that is narrower on a few. 0 for all where there is nothing to do better with.
        """
        if self.lattice is None or not bool(self.rule.edge.any()):
            return torch.zeros_like(self.total)
        share, n_axes = self.rule.log_weight.exp(), self.q.mean.shape[1]
        most = n_axes * (MOST_AT_EDGE[0] + MOST_AT_EDGE[1] * float((share * self.rule.edge).sum()))
        least = min(LEAST_POINTS[0], LEAST_POINTS[1] * float(share.square().sum()) ** (-1 / n_axes))
        effective = torch.exp(2 * self.total - self.square)
        found = ((torch.exp(self.edge - self.total) > most) | (effective < least**n_axes)).to(self.total)
        gaps = rows_with_gaps(self.rows)
        if len(gaps):
            some = Posterior(self.q.mean[gaps], self.q.factor[gaps])
            found[gaps[lies_elsewhere(self.model, self.rows.take(gaps), some, self.lattice)]] = 2.0
        return found


def log_likelihood(
    model: VAE, rows: Batch, rule: Rule, lattice: Lattice | None = None, ask_decoder: bool = False
) -> Tensor:
    """log p(x) = log E_q[w(x, z)], the expectation by `rule`, in nats of data units, and its doubt: (N, 2).

    With independent draws it is a lower bound in expectation (Burda et al. 2016, eq. 8). A row so far out that its
    weights are not numbers gets -inf: nothing is less likely.
    """
    weighing = _Weighing(model, rows, rule, lattice, ask_decoder)
    for _ in weighing.parts():
        pass
    value = weighing.total.nan_to_num(nan=-math.inf, neginf=-math.inf)
    return torch.stack([value, weighing.doubt()], dim=1)


def conditional_mean(
    model: VAE, rows: Batch, rule: Rule, lattice: Lattice | None = None, ask_decoder: bool = False
) -> Tensor:
    """E[x | the present cells] in a row's gaps, in model units, and its doubt: (N, D + 1).

    Points are weighted by w(x, z) (Mattei & Frellsen 2019). The most likely category where x is one.
    """
    weighing = _Weighing(model, rows, rule, lattice, ask_decoder)
    before, mean = weighing.total, weighing.total.new_zeros(())
    for z, log_weight in weighing.parts():
        expected = model.likelihood.expected_in_gaps(model.params(z, rows.x), rows.mask)
        part = torch.einsum("sn,snd->nd", torch.exp(log_weight - weighing.total), expected)
        mean = part + mean * torch.exp(before - weighing.total)[:, None]
        before = weighing.total
    return torch.cat([model.likelihood.collapse(mean), weighing.doubt()[:, None]], dim=1)


def likelihood_by_cells(model: VAE, rows: Batch, lattice: Lattice) -> Tensor:
    """`log_likelihood` by cells: (N, 1)."""
    return torch.logsumexp(cells(model, rows, lattice).log_mass, dim=0)[:, None]


def mean_by_cells(model: VAE, rows: Batch, lattice: Lattice) -> Tensor:
    """`conditional_mean` by cells: (N, D)."""
    found = cells(model, rows, lattice)
    share = torch.softmax(found.log_mass, dim=0)
    expected = (model.likelihood.expected(model.params(z, rows.x)) for z in found.z)
    return model.likelihood.collapse(sum(part[:, None] * values for part, values in zip(share, expected, strict=True)))


def completed(model: VAE, rows: Batch) -> Tensor:
    """x with its gaps filled by the reconstruction, in model units: (N, D) (AutoRec, Sedhain et al. 2015).

    For models without a density. First as in training, where gaps show the encoder columns' means; then a part of the
    way to the reconstruction of the row so filled, where its present cells are rebuilt better by that. Fed back freely,
    what fills the gaps would drift.
    """
    assert rows.mask is not None
    present, likelihood = rows.mask, model.likelihood

    def rebuilt(x: Tensor, mask: Tensor | None = None) -> Tensor:
        return model.params(model.encode_mean(x, mask), rows.known)

    def filled(expected: Tensor) -> Tensor:
        return torch.where(present > 0, rows.x, likelihood.collapse(expected))

    def error(outputs: Tensor) -> Tensor:
        return (likelihood.error(outputs, rows.x) * present).sum(-1, keepdim=True)

    expected = likelihood.expected(rebuilt(rows.x, rows.mask))
    outputs = rebuilt(filled(expected))
    least = error(outputs)
    step = torch.full_like(least, FIRST_STEP)
    for _ in range(STEPS):
        ahead = torch.lerp(expected, likelihood.expected(outputs), step)
        tried = rebuilt(filled(ahead))
        found = error(tried)
        better = found < least
        expected, outputs = torch.where(better, ahead, expected), torch.where(better, tried, outputs)
        least, step = torch.where(better, found, least), torch.where(better, step, step / 2)
    return filled(expected)


def squared_error(model: VAE, seen: Batch, compared: Batch) -> Tensor:
    """The likelihood's squared `error` of rows rebuilt from others over modelled cells, and how many there are: (N, 2).

    From the posterior mean; the rows that are seen and compared are the same, unless a model was trained otherwise.
    """
    cells = model.likelihood.error(model.params_given(posterior_mean(model, seen), compared.x), compared.x)
    present = torch.ones_like(cells) if compared.mask is None else compared.mask
    present = present * torch.as_tensor(~model.likelihood.given_columns, device=present.device)
    return torch.stack([(cells * present).sum(-1), present.sum(-1)], dim=1)


def latent_information(model: VAE, rows: Batch) -> tuple[Tensor, Tensor, Tensor]:
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

    `factors` says whether posteriors are asked for, whose factor is a matrix per row.
    """
    per_row = max(widest, _widest(model)) * n_draws
    return max(1, BLOCK_NUMBERS // max(per_row, model.prior.n_components**2 if factors else 1))


def _widest(model: VAE) -> int:
    """Numbers in the widest array that a row and one latent take."""
    return max(model.likelihood.n_params, model.cost.width)
