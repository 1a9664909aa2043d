"""Counts of a row given their total: words of a text, items of a basket, what a user has looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._tables.moments import Array, ColumnSums, Scale
from .._torch import double
from ._base import CellWeights, LikelihoodModule, Linked, NLLGradient, Unscaled
from ._counts import check_counts
from ._encoding import Centred, Summand

__all__ = ["Multinomial"]

# Totals below the first are told apart; larger ones up to the last by so many ranges an octave.
EXACT_TOTALS, STEPS, LARGEST_TOTAL = 32, 4, 2**32
TINY = 1e-30


class Multinomial(Unscaled):
    """A row's counts given their total n: p(x|z, n) = n! prod_d softmax(logits(z))_d^x_d / x_d! (Mult-VAE).

    What is modelled is what was counted, not how much: `score` is the likelihood of a row among all rows of its total.
    The encoder sees every row over its length, x / ||x||. The decoder emits a logit for every column. `reconstruct` and
    `impute` return n times the columns' probabilities with the row's own n, `inverse_transform` with the mean total of
    the training rows; `sample` draws totals like those of the training rows, exactly below 32 and to within 19 % above.
    A row lacks all of its counts or none: a missing count is no zero, and without it there is no total.

    See Also
    --------
    Poisson : Counts whose total is modelled with them.
    NegativeBinomial : Such counts that vary more.

    References
    ----------
    Liang, D., Krishnan, R. G., Hoffman, M. D. and Jebara, T. (2018). Variational autoencoders for collaborative
    filtering. Proceedings of the 2018 World Wide Web Conference, 689-698.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> rng = np.random.default_rng(0)
    >>> shares = rng.dirichlet([0.3] * 6, size=2)[rng.integers(2, size=200)]
    >>> X = np.array([rng.multinomial(20, share) for share in shares])
    >>> vae = VAETransformer(1, likelihood="multinomial", random_state=0).fit(X)
    >>> sorted(set(vae.sample(100, random_state=0).sum(axis=1).tolist()))
    [20.0]
    """

    __module__ = "skvae"

    positive_only = True

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        return _MultinomialModule(n_features)

    def check(self, X: Array, names: Sequence[str]) -> None:
        check_counts(X, names, "multinomial")
        gaps = np.isnan(X)
        if (part := gaps.any(axis=1) & ~gaps.all(axis=1)).any():
            column = int(gaps[part].any(axis=0).argmax())
            raise ValueError(
                f"{names[column]} lacks a count that other columns of the row have, so that the row has no total; "
                "likelihood='multinomial' needs all counts of a row, or none. Fill it (0 if nothing was counted), or "
                "use 'poisson' or 'negative_binomial'."
            )


class _Directions(Centred):
    """Rows over their length. A row without counts has none."""

    def features(self, x: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(TINY)


class _MultinomialModule(Linked):
    """log n! is shared out among the cells in proportion to their counts: x (log p + log n! / n) - log x! each."""

    max_swing = 1.0
    encoding: _Directions
    share: Tensor  # of every column in all that was counted
    noise: Tensor  # what a column of directions varies by around its mean given z
    totals: Tensor  # the share of rows whose total lies in each range
    mean_total: Tensor

    def __init__(self, n_features: int):
        super().__init__(n_features, n_features, _Directions(n_features))
        self.low, self.width = _ranges()
        for name, size in (("share", n_features), ("noise", n_features), ("totals", len(self.low))):
            self.register_buffer(name, torch.full((size,), 1 / size, dtype=torch.float32))
        self.register_buffer("mean_total", torch.ones((), dtype=torch.float32))

    def summands(self) -> Sequence[Summand]:
        def noise(x: Tensor) -> Tensor:
            return x / x.square().sum(-1, keepdim=True).clamp_min(TINY)

        def totals(x: Tensor) -> Tensor:
            total = x.sum(-1, keepdim=True)
            place = torch.searchsorted(torch.from_numpy(self.low), total.nan_to_num(), right=True) - 1
            return torch.zeros(len(x), len(self.low), dtype=x.dtype).scatter_(1, place, 1.0) + 0 * total

        return *super().summands(), lambda x: x, noise, totals

    def fit_sums(self, *sums: ColumnSums) -> None:
        """Half a row more has all columns alike: one in which nothing was counted keeps a chance, and a noise."""
        *own, counts, noise, totals = sums
        super().fit_sums(*own)
        mass = counts.mass[0]
        mean, spread = (mass * found.moments.mean for found in (counts, noise))
        self.mean_total.fill_(float(mean.sum() / max(mass, TINY)))
        self.share.copy_(torch.tensor((mean + 0.5 / len(mean)) / (mean.sum() + 0.5)))
        self.noise.copy_(torch.tensor((spread + 0.5 * max(spread.mean(), TINY)) / (mass + 0.5)))
        self.totals.copy_(torch.tensor(totals.moments.mean))

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        log_p, x = torch.log_softmax(double(outputs), dim=-1), double(x)
        return (x * log_p + _coefficient(x)).to(outputs.dtype)

    def more(self, x: Tensor) -> Tensor:
        """The counts, and what of log p no output changes, with the digits that one number would lose."""
        exact = _coefficient(double(x))
        rounded = exact.to(x.dtype)
        return torch.cat([x, rounded, (exact - rounded).to(x.dtype)], dim=-1)

    def gradient(self, xp: Any) -> NLLGradient:
        n = self.n_features

        def nll_gradient(outputs: Any, rows: Any, cells: CellWeights) -> tuple[Any, Any]:
            x, constant = double(rows[:, n : 2 * n]), double(rows[:, 2 * n : 3 * n]) + rows[:, 3 * n :]
            logits = double(outputs)
            logits = logits - xp.amax(logits, -1)[:, None]
            growth = xp.exp(logits)
            total = growth.sum(-1)[:, None]
            nll = -cells.mass * (x * (logits - xp.log(total)) + constant)
            weighed = cells.mass * x
            outputs[...] = growth * (weighed.sum(-1)[:, None] / total) - weighed
            return nll, outputs

        return nll_gradient

    def mean(self, outputs: Tensor) -> Tensor:
        return self.mean_total * torch.softmax(outputs, dim=-1)

    def mean_given(self, outputs: Tensor, x: Tensor) -> Tensor:
        total = x.sum(-1, keepdim=True)
        return torch.where(total.isnan(), self.mean_total, total) * torch.softmax(outputs, dim=-1)

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        """A total, and one column after the other: each takes its share of what is left."""
        shape = outputs.shape[:-1]
        place = torch.multinomial(self.totals, math.prod(shape), replacement=True, generator=rng).cpu().numpy()
        low, width = (torch.as_tensor(v[place], device=outputs.device).reshape(shape) for v in (self.low, self.width))
        u = torch.rand(shape, generator=rng, dtype=torch.float64, device=outputs.device)
        return self._counts(outputs, low + torch.floor(u * width), rng)

    def sample_given(self, outputs: Tensor, x: Tensor, rng: torch.Generator) -> Tensor:
        total = x.sum(-1).expand(outputs.shape[:-1])
        drawn = self.sample(outputs, rng)
        return torch.where(total.isnan()[..., None], drawn, self._counts(outputs, total.nan_to_num(), rng))

    def _counts(self, outputs: Tensor, total: Tensor, rng: torch.Generator) -> Tensor:
        p = torch.softmax(outputs.double(), dim=-1)
        rest = p.flip(-1).cumsum(-1).flip(-1)
        left, found = total.double(), torch.zeros_like(p)
        for column in range(self.n_features):
            chance = (p[..., column] / rest[..., column].clamp_min(TINY)).clamp(0, 1)
            chance = torch.ones_like(chance) if column == self.n_features - 1 else chance
            found[..., column] = torch.binomial(left, chance, generator=rng)
            left = left - found[..., column]
        return found.to(outputs.dtype)

    def link(self) -> tuple[Array, Array]:
        """A share that grows by a tenth makes a direction grow by a tenth."""
        direction = self.encoding.share
        return direction + 1e-3 * direction.mean() + TINY, self.noise.double().numpy()

    def bias(self, square: Array) -> Array:
        """E[exp(w z)] = exp(w^2 / 2)."""
        return np.log(self.share.double().numpy()) - 0.5 * square


def _coefficient(x: Tensor) -> Tensor:
    """log n! - sum log x!, cell by cell: a cell's part in log n! is its part in n."""
    total = x.sum(-1, keepdim=True)
    return x * (torch.lgamma(total + 1) / total.clamp_min(1.0)) - torch.lgamma(x + 1)


def _ranges() -> tuple[np.ndarray, np.ndarray]:
    """The least total of every range, and how many totals it holds."""
    octaves = np.arange(1, STEPS * (math.log2(LARGEST_TOTAL) - math.log2(EXACT_TOTALS)) + 1) / STEPS
    low = np.concatenate([np.arange(EXACT_TOTALS + 1), np.ceil(EXACT_TOTALS * 2.0**octaves)])
    return low[:-1], np.diff(low)
