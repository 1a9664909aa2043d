"""p(z) as the mean posterior of known rows."""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .._math import LOG_2PI

__all__ = ["ROWS_TO_WIDEN", "WIDTHS", "AggregatedPosterior"]


def _log_sum(terms: Tensor) -> Tensor:
    """log sum_m exp(terms), (N,), for terms (N, M), which are overwritten.

    Exponentials that float64 cannot hold take five times as long as others, and far from all codes there is little
    else: they stop at a size that adds nothing to the largest.
    """
    largest = terms.detach().amax(dim=1, keepdim=True)
    total = terms.sub_(largest.clamp_min(torch.finfo(terms.dtype).min)).clamp_min_(LEAST_EXPONENT).exp_().sum(dim=1)
    return torch.where(largest[:, 0] == -math.inf, -math.inf, largest[:, 0] + total.log())


# By how much the aggregated posterior may widen the codes' variances, and how many codes choose among these.
WIDTHS = (1.0, 1.5, 2.0, 3.0, 5.0, 9.0, 17.0)


ROWS_TO_WIDEN = 250


# Two codes whose entries differ by less than this, relative to their size, are of the same row.
SAME_CODE = 1e-9


# Exponents below this are as good as minus infinity beside one of 0.
LEAST_EXPONENT = -600.0


class _Codes(NamedTuple):
    mean: Tensor
    var: Tensor
    log_weight: Tensor


class AggregatedPosterior(_Codes):
    """p(z) = sum_i w_i q(z|x_i), the mean posterior of known rows: where codes really lie (Hoffman & Johnson 2016).

    Of all priors it gives those rows the highest ELBO (Tomczak & Welling 2018, eq. 6).

    Attributes
    ----------
    mean, var : Tensors of shape (M, J)
        Of q(z|x_i); the variances are widened already.
    log_weight : Tensor of shape (M,)
        Logarithms of weights that sum to 1.
    """

    # What follows from the codes alone is kept: rows come in many blocks.

    @cached_property
    def _log_norm(self) -> Tensor:
        return self.log_weight - 0.5 * (self.var.log() + LOG_2PI).sum(-1)

    @cached_property
    def _quadratic(self) -> tuple[Tensor, Tensor]:
        """`log_terms` multiplied out: its constant (M,), and what z^2 and z are multiplied by, (2 J, M)."""
        precision = 1 / self.var
        constant = self._log_norm - 0.5 * (self.mean.square() * precision).sum(-1)
        return constant, torch.cat([-0.5 * precision, self.mean * precision], dim=1).T

    @cached_property
    def _register(self) -> tuple[Tensor, Tensor, Tensor]:
        """One number a code in rising order, (M,), whose code each is, and the combination that they are.

        The combination is a random one, or codes on a grid would share their numbers.
        """
        generator = torch.Generator().manual_seed(0)
        weights = torch.rand(self.mean.shape[1], generator=generator, dtype=torch.float64).to(self.mean)
        return *torch.sort(self.mean @ weights), weights

    def log_prob(self, z: Tensor, left_out: Tensor | None = None) -> Tensor:
        """log p(z), (N,), for codes (N, J); component `left_out[n]` (-1: none) is not there for row n."""
        terms = self.log_terms(z)
        return _log_sum(terms) if left_out is None else self._log_sum_of_others(terms, left_out)

    def _log_sum_of_others(self, terms: Tensor, left_out: Tensor) -> Tensor:
        """The logarithm of the sum of the terms, (N, M), but for the left out ones; `terms` is overwritten."""
        rows = (left_out >= 0).nonzero()[:, 0]
        index = left_out[rows]
        lost = torch.zeros_like(terms[:, 0]).index_put((rows,), self.log_weight[index].exp())
        terms[rows, index] = -math.inf
        return _log_sum(terms) - torch.log1p(-lost)

    def log_terms(self, z: Tensor) -> Tensor:
        """log w_i + log N(z; mean_i, var_i), as one product: (N, M)."""
        constant, weights = self._quadratic
        return torch.addmm(constant, torch.cat([z.square(), z], dim=1), weights)

    def own(self, z: Tensor) -> Tensor:
        """Which component each code is the mean of, -1 for none or where there is no other: (N,)."""
        if len(self.mean) < 2:
            return torch.full((len(z),), -1, dtype=torch.int64, device=z.device)
        known, order, weights = self._register
        value = z @ weights
        tolerance = SAME_CODE * (1 + z.abs() @ weights)
        place = torch.searchsorted(known, value - tolerance).clamp_max(len(known) - 1)
        index = order[place]
        same = ((self.mean[index] - z).abs().amax(dim=1) <= tolerance).nan_to_num()
        return torch.where(same, index, -1)

    def widened(self, seed: int) -> AggregatedPosterior:
        """The same codes, with all variances times the factor that makes the others' codes most likely.

        Some of the codes, each without its own component, are the judges: with few rows, or rows in many dimensions,
        the posteriors of single rows leave gaps between them.
        """
        if len(self.mean) < 2:
            return self
        generator = torch.Generator().manual_seed(seed)
        some = torch.randperm(len(self.mean), generator=generator)[:ROWS_TO_WIDEN].to(self.mean.device)
        near, log_norm = self.log_terms(self.mean[some]) - self._log_norm, self._log_norm

        def others_find_likely(width: float) -> float:
            terms = torch.add(log_norm - 0.5 * self.mean.shape[1] * math.log(width), near, alpha=1 / width)
            return float(self._log_sum_of_others(terms, some).mean())

        return self._replace(var=self.var * max(WIDTHS, key=others_find_likely))
