"""Columns of categories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .._params import Count
from .._tables.moments import Array, Scale
from ._base import CellWeights, LikelihoodModule, Linked, NLLGradient, Unscaled, as_arrays
from ._encoding import OneHot

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
    """Columns of categories, as strings, pandas categories or numbers: p(x|z) = softmax(logits(z)).

    The encoder sees a column of zeros and ones for each category. `transform` and `score_samples` refuse a category
    that `fit` has not seen. Reconstructions are the most likely category.

    Parameters
    ----------
    n_categories : int, sequence of int, or None, default=None
        Categories are 0, 1, ..., n_categories - 1, for every column or column by column. None: the values that a column
        holds in `fit`, or those of its pandas type.

    See Also
    --------
    Mixed : Categories beside other columns.
    Bernoulli : Columns of 0 and 1.

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

    def __init__(self, n_categories: int | Sequence[int] | None = None) -> None:
        self.n_categories = n_categories

    reads_cells = True

    def categories(self, n_columns: int) -> list[int | None]:
        given: Any = self.n_categories
        if given is None or np.ndim(given) == 0:
            return [given] * n_columns
        if len(given) != n_columns:
            raise ValueError(
                f"Categorical has n_categories for {len(given)} columns and stands for {n_columns}; give "
                "one number for each, one for all, or None."
            )
        return list(given)

    def for_categories(self, n_categories: Sequence[int] | None) -> Categorical:
        return Categorical(None if n_categories is None else [int(n) for n in n_categories])

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        return _CategoricalModule(self.categories(n_features))


class _CategoricalModule(Linked):
    """Logits of all columns stand side by side, (..., sum of K_d); `padded` makes them (..., D, K)."""

    max_swing = 1.0
    encoding: OneHot
    slots: Tensor  # where a padded category's logit stands
    empty: Tensor  # the padded categories that a column lacks

    def __init__(self, n_categories: Any):
        sizes = torch.as_tensor(np.array(n_categories), device="cpu")
        super().__init__(len(sizes), int(sizes.sum()), OneHot(sizes))
        codes = torch.arange(int(sizes.max()), device="cpu")
        lacking = codes >= sizes[:, None]
        slots = self.encoding.first[:, None] + torch.where(lacking, 0, codes)
        self.register_buffer("slots", slots.reshape(-1), persistent=False)
        self.register_buffer("empty", lacking, persistent=False)

    def columns_of_outputs(self) -> np.ndarray:
        return self.columns_of_inputs()

    def padded(self, values: Tensor, fill: float = -torch.inf) -> Tensor:
        """(..., sum of K_d) as (..., D, K), filled where a column has no such category."""
        return values.index_select(-1, self.slots).unflatten(-1, self.empty.shape).masked_fill(self.empty, fill)

    def column_sums(self, values: Tensor) -> Tensor:
        """Sums over each column's categories: (..., D)."""
        return self.padded(values, 0.0).sum(-1)

    def softmax(self, outputs: Tensor) -> Tensor:
        """Over each column's categories."""
        return torch.softmax(self.padded(outputs), dim=-1)[..., self.encoding.column, self.encoding.code]

    def expected(self, outputs: Tensor) -> Tensor:
        """The categories' probabilities: a little of each is its share, so that one no training row has keeps some."""
        return (1 - FLOOR) * self.softmax(outputs) + FLOOR * self.encoding.column_mean

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        place = self.encoding.first + x.round().long()
        probabilities = self.expected(outputs)
        return probabilities.gather(-1, place.expand(*probabilities.shape[:-1], -1)).log()

    def second_derivatives(self, outputs: Tensor, x: Tensor, mask: Tensor | None, slope: Tensor) -> Tensor:
        """In closed form: of log(a s_c + f), s the softmax and c the row's category.

        With w = a s_c / (a s_c + f), and v the zeros and the one of c less s, over a column's logits it is
        w (1 - w) v v' - w (diag(s) - s s').
        """
        encoding, shares = self.encoding, self.softmax(outputs)
        place = encoding.first + x.round().long()
        part = (1 - FLOOR) * shares.gather(-1, place)
        weight = part / self.expected(outputs).gather(-1, place)
        bend = weight * (1 - weight)
        if mask is not None:
            weight, bend = weight * mask, bend * mask
        weighed = shares[..., None] * slope
        mean = slope.new_zeros(len(slope), self.n_features, slope.shape[2]).index_add(1, encoding.column, weighed)
        beyond = slope.gather(1, place[..., None].expand(-1, -1, slope.shape[2])) - mean
        spread = (encoding.per_input(weight)[..., None] * weighed).mT @ slope
        return (bend[..., None] * beyond).mT @ beyond + (weight[..., None] * mean).mT @ mean - spread

    def gradient(self, xp: Any) -> NLLGradient:
        """The softmax' gradient, times its part in the probability of x."""
        encoding = self.encoding
        mean, unit = as_arrays(xp, encoding.column_mean, encoding.pooled_std)
        numpy = self._numpy_functions() if xp is np else None
        softmax, sums, spread = numpy or (self.softmax, self.column_sums, encoding.per_input)

        def nll_gradient(outputs: Any, rows: Any, cells: CellWeights) -> tuple[Any, Any]:
            own = xp.round(mean + unit * rows)  # 1 for the row's own category, 0 for others
            found = softmax(outputs)
            chosen = (1 - FLOOR) * sums(own * found)
            p = chosen + FLOOR * sums(own * mean)
            mass = cells.mass * (chosen / p)
            return -cells.mass * xp.log(p), (found - own) * spread(mass)

        return nll_gradient

    def _numpy_functions(self) -> tuple[Any, Any, Any]:
        """`softmax`, `column_sums` and `per_input` of numpy arrays, which hold column after column of their table."""
        first, column = as_arrays(np, self.encoding.first, self.encoding.column)
        member = None
        if len(column) * self.n_features <= SMALL_MATRIX:
            member = torch.zeros(self.n_features, len(column), dtype=self.encoding.column_mean.dtype)
            member[column, np.arange(len(column))] = 1.0

        def spread(values: np.ndarray) -> np.ndarray:
            return values.T.take(column, axis=0).T

        def sums(values: np.ndarray) -> np.ndarray:
            if member is None:
                return np.asfortranarray(np.add.reduceat(values, first, axis=-1))
            return torch.mm(member, torch.from_numpy(values.T)).numpy().T

        def softmax(outputs: np.ndarray) -> np.ndarray:
            if not np.abs(outputs).max() < LARGEST_EXPONENT:
                outputs = outputs - spread(np.maximum.reduceat(outputs, first, axis=-1))
            growth = np.exp(outputs)
            return growth / spread(sums(growth))

        return softmax, sums, spread

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        """sum_k (p_k - [x = k])^2 over a column's categories (Brier 1950)."""
        return self.column_sums((self.expected(outputs) - self.encoding.features(x)).square())

    def encoded_mean(self, outputs: Tensor) -> Tensor:
        """Of the probabilities, not of the most likely category, which has no slope."""
        return self.encoding.centred(self.expected(outputs))

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
        return self.encoding.share, self.encoding.share

    def bias(self, square: Array) -> Array:
        """E[exp(w z)] = exp(w^2 / 2): so a rare category keeps its share."""
        return np.log(self.encoding.share) - 0.5 * square
