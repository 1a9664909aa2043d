"""p(z) as the mean posterior of known rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from .._math import LOG_2PI
from .._torch import exp_, make_generator
from ._modes import log_terms, quadratic

__all__ = ["ROWS_TO_WIDEN", "WIDTHS", "AggregatedPosterior"]


def _log_sum(terms: Tensor) -> Tensor:
    """log sum_m exp(terms), (N,), for terms (N, M), which are overwritten.

    Exponentials that float64 cannot hold take five times as long as others, and far from all codes there is little
    else: they stop at a size that adds nothing to the largest.
    """
    largest = terms.detach().amax(dim=1, keepdim=True)
    below = terms.sub_(largest.clamp_min(torch.finfo(terms.dtype).min)).clamp_min_(LEAST_EXPONENT)
    return torch.where(largest[:, 0] == -math.inf, -math.inf, largest[:, 0] + exp_(below).sum(dim=1).log())


def _neighbour(terms: Tensor) -> tuple[Tensor, Tensor]:
    """The `NEIGHBOUR`-th largest of the terms (N, M), the smallest but one where there are so few, and its place."""
    found = terms.topk(min(NEIGHBOUR, max(1, terms.shape[1] - 1)), dim=1)
    return found.values[:, -1], found.indices[:, -1]


# By how much the aggregated posterior may widen the codes' variances, and how many codes choose among these.
WIDTHS = (1.0, 1.5, 2.0, 3.0, 5.0, 9.0, 17.0)


ROWS_TO_WIDEN = 250


# Two codes that differ by less than this in every latent, in typical standard deviations of q(z|x), are of the same
# row: a copy in float32, or rounded to six digits, is as close, and the model knows no code as exactly.
SAME_CODE = 1e-3


# Codes are first sorted into cells of this share of `SAME_CODE`, so that one row's thousands of copies make no pairs.
CELL = 0.25


# A row is judged without its own code, up to this share of all rows and at least so many: what is rarer may be an
# anomaly that was copied; what is more common is normal by itself.
RARE, FEW = 0.05, 5


# Which of the nearest codes says how many there are.
NEIGHBOUR = 10


# Terms of a sum over the codes that are held at once: 4 MB.
TERMS_AT_ONCE = 500_000


# Exponents below this are as good as minus infinity beside one of 0.
LEAST_EXPONENT = -600.0


class _Codes(NamedTuple):
    mean: Tensor
    var: Tensor
    log_weight: Tensor
    own_share: Tensor


class AggregatedPosterior(_Codes):
    """p(z) = sum_i w_i q(z|x_i), the mean posterior of known rows: where codes really lie (Hoffman & Johnson 2016).

    Of all priors it gives those rows the highest ELBO (Tomczak & Welling 2018, eq. 6).

    Attributes
    ----------
    mean, var : Tensors of shape (M, J)
        Of q(z|x_i); the variances are widened already.
    log_weight : Tensor of shape (M,)
        Logarithms of weights that sum to 1.
    own_share : Tensor of shape ()
        How much of its own component's weight a row is judged without, at most.
    """

    @classmethod
    def of(cls, mean: Tensor, var: Tensor, weight: Tensor) -> AggregatedPosterior:
        """The posteriors of rows of these weights, copies of a row as one code of the sum of their weights."""
        total = weight.sum()
        every = cls(mean, var, (weight / total).log(), (FEW / total).clamp_min(RARE))
        return every._merged() if len(mean) > 1 else every

    # What follows from the codes alone is kept: rows come in many blocks.

    @cached_property
    def _log_norm(self) -> Tensor:
        return self.log_weight - 0.5 * (self.var.log() + LOG_2PI).sum(-1)

    @cached_property
    def _quadratic(self) -> tuple[Tensor, Tensor]:
        """`log_terms` multiplied out."""
        return quadratic(self.mean, self.var.log(), self.log_weight)

    @cached_property
    def _linear(self) -> tuple[Tensor, Tensor] | None:
        """Where all codes have the same variances, as a linear encoder's have: factors of z^2, (J,), and of z and 1.

        The latter are (J + 1, M): half of what `_quadratic` multiplies.
        """
        if torch.compiler.is_exporting() or not bool((self.var == self.var[:1]).all()):
            return None  # a graph's operators do not depend on values
        constant, weights = self._quadratic
        square, slope = weights.split(self.mean.shape[1])
        return square[:, 0], torch.cat([slope, constant[None]])

    @cached_property
    def _width(self) -> Tensor:
        """Typical standard deviations of q(z|x): (J,)."""
        return (0.5 * self.var.log().mean(dim=0)).exp()

    @cached_property
    def _register(self) -> KDTree:
        """The codes in these widths."""
        return KDTree(_finite_array(self.mean / self._width))

    def _merged(self) -> AggregatedPosterior:
        points = self._register.data
        with np.errstate(over="ignore"):  # a code that far out has no other in its cell
            cells = np.round(points / (CELL * SAME_CODE))
        _, first, cell = np.unique(cells, axis=0, return_index=True, return_inverse=True)
        keeper = np.arange(len(first))
        pairs = _pairs(points[first])
        for one, other in pairs[np.lexsort(pairs.T[::-1])]:
            if keeper[one] == one and keeper[other] == other:
                keeper[other] = one
        kept = np.sort(first[np.unique(keeper)])
        weight = np.zeros(len(points))
        np.add.at(weight, first[keeper[cell.reshape(-1)]], self.log_weight.exp().cpu().numpy())
        place = torch.from_numpy(kept).to(self.mean.device)
        log_weight = torch.from_numpy(np.log(weight[kept])).to(self.mean)
        return self._replace(mean=self.mean[place], var=self.var[place], log_weight=log_weight)

    def log_prob(self, z: Tensor, left_out: Tensor | None = None) -> Tensor:
        """log p(z), (N,), for codes (N, J); row n is judged without its own component `left_out[n]` (-1: none)."""
        return self._looked_at(z, left_out, near=False)[:, 0]

    def log_prob_and_neighbour(self, z: Tensor, left_out: Tensor | None = None) -> Tensor:
        """`log_prob`, and the logarithm of the `NEIGHBOUR`-th largest of the terms that it sums: (N, 2).

        One code nearby makes p(z) large; it takes as many to make that term large.
        """
        return self._looked_at(z, left_out, near=True)

    def _looked_at(self, z: Tensor, left_out: Tensor | None, near: bool) -> Tensor:
        if torch.compiler.is_exporting():
            return self._summary(z, left_out, near)[0]
        if z.requires_grad:
            return _Summary.apply(z, self, left_out, near)
        return torch.cat([self._summary(*part, near)[0] for part in self._parts(z, left_out)])

    def _parts(self, z: Tensor, left_out: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Some rows at a time, whose terms stay in the processor's cache."""
        size = max(1, TERMS_AT_ONCE // len(self.mean))
        left: Any = itertools.repeat(None) if left_out is None else left_out.split(size)
        return zip(z.split(size), left, strict=False)

    def _summary(self, z: Tensor, left_out: Tensor | None, near: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """log p(z), and the neighbour's term if asked: (N, 1 or 2); with what their gradients are made of.

        These are the components' shares of p(z) but for a factor, (N, M), and which one the neighbour is, (N,).
        """
        terms, rest = self.log_terms(z), torch.zeros_like(z[:, :1])
        if left_out is not None:
            terms, rest = self._of_others(terms, left_out)
        value, place = _neighbour(terms) if near else (None, None)
        total = _log_sum(terms)  # overwrites the terms
        found = total[:, None] if value is None else torch.stack([total, value], dim=1)
        return found - rest, terms, place

    def _slopes(self, z: Tensor, share: Tensor, place: Tensor | None) -> Tensor:
        """The gradients of `_summary`, (N, 1 or 2, J)."""
        share = share / share.sum(dim=1, keepdim=True)
        square, slope = self._quadratic[1].split(self.mean.shape[1])
        by_square = share @ square.T if self._linear is None else self._linear[0]
        found = [torch.addcmul(share @ slope.T, z, by_square, value=2)]
        if place is not None:
            found.append(torch.addcmul(slope.T[place], z, square.T[place], value=2))
        return torch.stack(found, dim=1)

    def _of_others(self, terms: Tensor, left_out: Tensor) -> tuple[Tensor, Tensor]:
        """The terms, (N, M), less what is left out, and the logarithm of the weight that remains, (N, 1)."""
        index, lacks = left_out.clamp_min(0)[:, None], left_out < 0
        weight = self.log_weight[index[:, 0]].exp()
        taken = weight.minimum(self.own_share).masked_fill(lacks, 0.0)
        terms = terms.scatter_add_(1, index, torch.log1p(-taken / weight)[:, None])
        return terms, torch.log1p(-taken)[:, None]

    def log_terms(self, z: Tensor) -> Tensor:
        """log w_i + log N(z; mean_i, var_i), as one product: (N, M)."""
        if self._linear is not None:
            square, factors = self._linear
            return torch.addmm(
                (z.square() @ square)[:, None], torch.cat([z, torch.ones_like(z[:, :1])], dim=1), factors
            )
        return log_terms(z, *self._quadratic)

    def own(self, z: Tensor) -> Tensor:
        """Which component each code is the mean of, -1 for none or where there is no other: (N,)."""
        if len(self.mean) < 2:
            return torch.full((len(z),), -1, dtype=torch.int64, device=z.device)
        points = _finite_array(z.detach() / self._width)
        distance, index = self._register.query(points, p=math.inf, distance_upper_bound=SAME_CODE)
        return torch.from_numpy(np.where(np.isfinite(distance), index, -1)).to(z.device)

    def nearest_own(self, z: Tensor) -> Tensor:
        """`own` by comparing every code with all others: no tree, so that it can be traced."""
        if len(self.mean) < 2:
            return torch.full_like(z[:, 0], -1, dtype=torch.int64)
        distance, index = ((z / self._width)[:, None] - self.mean / self._width).abs().amax(dim=2).min(dim=1)
        return torch.where(distance <= SAME_CODE, index, -1)

    def judges(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The numbers of some of the codes, at random, and their weights, summing to 1. The generator is the CPU's."""
        some = torch.randperm(len(self.mean), generator=rng)[:ROWS_TO_WIDEN].to(self.mean.device)
        return some, torch.softmax(self.log_weight[some], dim=0)

    def widened(self, seed: int) -> AggregatedPosterior:
        """The same codes, with all variances times the factor that makes the others' codes most likely.

        Some of the codes, each without its own component, are the judges: with few rows, or rows in many dimensions,
        the posteriors of single rows leave gaps between them.
        """
        if len(self.mean) < 2:
            return self
        some, weight = self.judges(make_generator(seed))
        near, log_norm = self.log_terms(self.mean[some]) - self._log_norm, self._log_norm

        def others_find_likely(width: float) -> float:
            terms = torch.add(log_norm - 0.5 * self.mean.shape[1] * math.log(width), near, alpha=1 / width)
            others, rest = self._of_others(terms, some)
            return float(weight @ (_log_sum(others) - rest[:, 0]))

        return self._replace(var=self.var * max(WIDTHS, key=others_find_likely))


class _Summary(torch.autograd.Function):
    """`AggregatedPosterior._summary` with the gradients at hand: no terms are kept for the way back."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, prior: AggregatedPosterior, left_out: Tensor | None, near: bool) -> Tensor:
        values, slopes = [], []
        for rows, own in prior._parts(z, left_out):
            value, share, place = prior._summary(rows, own, near)
            values.append(value)
            slopes.append(prior._slopes(rows, share, place))
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return torch.einsum("nk,nkj->nj", grad, ctx.saved_tensors[0]), None, None, None


def _pairs(points: np.ndarray) -> np.ndarray:
    """The numbers of points, (K, 2), that `SAME_CODE` holds for one: mostly there are none, which is soon known."""
    nearest, _ = KDTree(points).query(points, k=[2], p=math.inf, distance_upper_bound=2 * SAME_CODE)
    some = np.flatnonzero(np.isfinite(nearest[:, 0]))
    if not len(some):
        return np.empty((0, 2), dtype=int)
    return some[KDTree(points[some]).query_pairs(SAME_CODE, p=math.inf, output_type="ndarray")]


def _finite_array(codes: Tensor) -> np.ndarray:
    """Codes for a tree, which takes no other numbers; one that is not finite is far from all others."""
    return codes.nan_to_num(nan=torch.finfo(codes.dtype).max).cpu().numpy()
