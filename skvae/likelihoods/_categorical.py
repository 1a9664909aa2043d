"""Columns of categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .._params import Count
from ..data import Array, Scale
from ._base import Cells, Centred, Density, NLLGradient, Unscaled

__all__ = ["Categorical"]


# The part of a category's probability that is its share of the training rows, whatever its logit. Without it a held-out
# row with a category that no training row has would become impossible in the course of training, and end it early.
FLOOR = 1e-4
# Exponentials of logits up to this size can be summed in float32 as they are.
LARGEST_EXPONENT = 80.0
# Sums over a column's categories are a product with zeros and ones while that matrix is no larger than this: small
# tables' segments cost numpy more than the zeros.
SMALL_MATRIX = 100_000


class Categorical(Unscaled):
    """p(x|z) = softmax(logits(z)): columns of categories, as strings, pandas categories, or numbers.

    The encoder sees a column of zeros and ones for each category. `transform` and `score_samples` refuse a category
    that `fit` has not seen. Reconstructions are the most likely category.

    Parameters
    ----------
    n_categories : int, sequence of int, or None, default=None
        Categories are 0, 1, ..., n_categories - 1, for every column or column by column. None: the values that a column
        holds in `fit`, or those of its pandas type.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> X = np.random.default_rng(0).integers(3, size=(200, 4))
    >>> vae = VAETransformer(1, likelihood="categorical", random_state=0).fit(X)
    >>> sorted(set(vae.sample(100, random_state=0).ravel().tolist()))
    [0.0, 1.0, 2.0]
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {"n_categories": [None, Count(), "array-like"]}

    def __init__(self, n_categories=None):
        self.n_categories = n_categories

    def sizes(self, n_columns: int) -> list[int | None]:
        """How many categories each of so many columns has; None where their values say."""
        if self.n_categories is None or np.ndim(self.n_categories) == 0:
            return [self.n_categories] * n_columns
        if len(self.n_categories) != n_columns:
            raise ValueError(
                f"Categorical has n_categories for {len(self.n_categories)} columns and stands for {n_columns}; give "
                "one number for each, one for all, or None."
            )
        return list(self.n_categories)

    def for_categories(self, n_categories: Sequence[int]) -> Categorical:
        """The same likelihood for columns of so many categories each."""
        return Categorical([int(n) for n in n_categories])

    def build(self, n_features: int, scale: Scale) -> Density:
        return _CategoricalDensity(self.sizes(n_features))


def _per_logit(values: np.ndarray, column: np.ndarray) -> np.ndarray:
    """What belongs to each column, (N, D), once for each of its categories. Columns are picked as whole pieces."""
    return values.T.take(column, axis=0).T


class _CategoricalDensity(Centred):
    """Logits of all columns stand side by side, (..., sum of K_d); `padded` makes them (..., D, K)."""

    most_swing = 1.0
    column: Tensor  # of every logit
    code: Tensor  # of every logit, within its column
    slots: Tensor  # where a padded category's logit stands
    empty: Tensor  # the padded categories that a column lacks
    first: Tensor  # where each column's logits begin

    def __init__(self, n_categories: Any):
        sizes = torch.as_tensor(np.array(n_categories), device="cpu")
        super().__init__(len(sizes), int(sizes.sum()), int(sizes.sum()))
        column = torch.repeat_interleave(torch.arange(len(sizes), device="cpu"), sizes)
        first = torch.cumsum(sizes, 0) - sizes
        codes = torch.arange(int(sizes.max()), device="cpu")
        lacking = codes >= sizes[:, None]
        for name, value in {
            "column": column,
            "code": torch.arange(len(column), device="cpu") - first[column],
            "slots": (first[:, None] + torch.where(lacking, 0, codes)).reshape(-1),
            "empty": lacking,
            "first": first,
        }.items():
            self.register_buffer(name, value, persistent=False)
        self.prior_mean, self.prior_weight = 1 / sizes[column].double(), 1.0  # one cell more, of all categories alike

    def features(self, x: Tensor) -> Tensor:
        """Zeros and ones, one a category."""
        return (x.round().index_select(-1, self.column) == self.code).to(x.dtype)

    def per_input(self, cells: Tensor) -> Tensor:
        return cells.index_select(-1, self.column)

    def padded(self, values: Tensor) -> Tensor:
        """(..., sum of K_d) as (..., D, K), minus infinity where a column has no such category."""
        found = values.index_select(-1, self.slots).unflatten(-1, self.empty.shape)
        return found.masked_fill(self.empty, -torch.inf)

    def side_by_side(self, values: Tensor) -> Tensor:
        """The inverse of `padded`."""
        return values[..., self.column, self.code]

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return self._of(x, self.expected(outputs)).log()

    def nll_gradient(self, outputs: Tensor, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        """The softmax' gradient, times its part in the probability of x."""
        softmax = self._softmax(outputs)
        p = self._of(x, self._mixed(softmax))
        nll = -(cells.mass * p.log()).sum((-2, -1))
        mass = cells.mass * ((1 - FLOOR) * self._of(x, softmax) / p)
        return nll, (softmax - self.features(x)) * self.per_input(mass)

    def gradient_of_seen(self, xp: Any) -> NLLGradient:
        """In numpy only: torch's kernels for columns of different sizes want x itself."""
        if xp is torch:
            return self._torch_gradient
        first, column, mean, unit = (v.numpy() for v in (self.first, self.column, self.column_mean, self.pooled_std))
        per_column = self._sums()

        def nll_gradient(outputs: np.ndarray, rows: np.ndarray, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
            own = np.rint(mean + unit * rows)  # 1 for the row's own category, 0 for others
            if not np.abs(outputs).max() < LARGEST_EXPONENT:
                outputs = outputs - _per_logit(np.maximum.reduceat(outputs, first, axis=-1), column)
            growth = np.exp(outputs)
            softmax = growth / _per_logit(per_column(growth), column)
            chosen = (1 - FLOOR) * per_column(own * softmax)
            p = chosen + FLOOR * per_column(own * mean)
            mass = cells.mass * (chosen / p)
            return -cells.mass * np.log(p), (softmax - own) * _per_logit(mass, column)

        return nll_gradient

    def _sums(self) -> Callable[[np.ndarray], np.ndarray]:
        """The function from one number a category, (N, sum of K_d), to their sums by column, (N, D)."""
        first, n_logits = self.first.numpy(), len(self.column)
        if n_logits * self.n_features > SMALL_MATRIX:
            return lambda values: np.asfortranarray(np.add.reduceat(values, first, axis=-1))
        member = torch.zeros(self.n_features, n_logits, dtype=self.column_mean.dtype)
        member[self.column, torch.arange(n_logits)] = 1.0
        return lambda values: torch.mm(member, torch.from_numpy(values.T)).numpy().T

    def _torch_gradient(self, outputs: Tensor, rows: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        own = self.column_mean + self.pooled_std * rows
        x = self.collapse(own)
        nll, grad = self.nll_gradient(outputs, x, cells)
        return nll[..., None, None], grad

    def expected(self, outputs: Tensor) -> Tensor:
        """The categories' probabilities."""
        return self._mixed(self._softmax(outputs))

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        """sum_k (p_k - [x = k])^2 over a column's categories (Brier 1950)."""
        squares = (self.expected(outputs) - self.features(x)).square()
        return torch.zeros_like(squares[..., : self.n_features]).index_add(-1, self.column, squares)

    def _softmax(self, outputs: Tensor) -> Tensor:
        return self.side_by_side(torch.softmax(self.padded(outputs), dim=-1))

    def _mixed(self, softmax: Tensor) -> Tensor:
        """With a little of the categories' shares: one that no training row has keeps a probability."""
        return (1 - FLOOR) * softmax + FLOOR * self.column_mean

    def _of(self, x: Tensor, probabilities: Tensor) -> Tensor:
        """The probability of each cell's own category."""
        place = self.first + x.round().long()
        return probabilities.gather(-1, place.expand(*probabilities.shape[:-1], -1))

    def collapse(self, expected: Tensor) -> Tensor:
        """The most likely category."""
        return self.padded(expected).argmax(-1).to(expected.dtype)

    def mean(self, outputs: Tensor) -> Tensor:
        return self.collapse(self.expected(outputs))

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        """The largest of the log probabilities with Gumbel noise."""
        u = torch.rand(outputs.shape, generator=rng, dtype=outputs.dtype, device=outputs.device)
        return self.collapse(self.expected(outputs).log() - torch.log(-torch.log1p(-u)))

    def link(self) -> tuple[Array, Array]:
        """The information that a category's share p carries is 1 / p: sum dp^2 / p over the categories."""
        return self.share, self.share

    def bias(self, square: Array) -> Array:
        """E[exp(w z)] = exp(w^2 / 2): so a rare category keeps its share."""
        return np.log(self.share) - 0.5 * square
