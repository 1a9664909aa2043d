"""Columns that are given: conditions of the model, which both networks read and nobody models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .._linear import LinearGaussian
from .._params import Count
from .._tables.facts import column_facts
from .._tables.moments import Array, Moments, Scale
from ._base import Assigned, CellWeights, LikelihoodModule, LinearStart, NLLGradient, Standardised
from ._encoding import Encoding, Identity, OneHot

__all__ = ["Given"]


class Given(Standardised):
    """Columns that the model is given, as a batch, a site or a sex: the others' density is p(x | z, given).

    For a :class:`Mixed`, beside columns that are modelled. Encoder and decoder both read these columns, so that latents
    need not tell what they explain: as far as the decoder can explain it, it is taken out of `transform`; nothing makes
    latents independent of them beyond that. `score` is the log-likelihood of the other columns given these. Columns of
    strings or categories are zeros and ones to the networks, one for each category, centred; numbers are standardised.
    Every row needs its value: a gap is an error.

    Parameters
    ----------
    n_categories : int, sequence of int, or None, default=None
        Whole numbers 0, 1, ..., n_categories - 1 are categories, for every column or column by column; 0 for columns of
        numbers. None: columns of strings and pandas categories hold categories, others are numbers.

    See Also
    --------
    Mixed : Holds these columns beside those that are modelled.

    References
    ----------
    Sohn, K., Lee, H. and Yan, X. (2015). Learning structured output representation using deep conditional generative
    models. Advances in Neural Information Processing Systems 28.

    Lopez, R. et al. (2018). Deep generative modeling for single-cell transcriptomics. Nature Methods 15, 1053-1058.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from skvae import VAETransformer, Mixed
    >>> rng = np.random.default_rng(0)
    >>> batch = rng.choice(["a", "b"], size=200)
    >>> x = rng.normal(size=(200, 1)) + rng.normal(size=(200, 3)) + 5.0 * (batch == "b")[:, None]
    >>> table = pd.DataFrame(x, columns=["x", "y", "z"]).assign(batch=batch)
    >>> likelihood = Mixed([("given", ["batch"])], remainder="gaussian")
    >>> vae = VAETransformer(1, likelihood=likelihood, random_state=0).fit(table)
    >>> codes = vae.transform(table)[:, 0]
    >>> bool(abs(codes[batch == "a"].mean() - codes[batch == "b"].mean()) < 0.3)
    True
    >>> as_a = vae.inverse_transform(vae.transform(table), given={"batch": "a"})  # the same rows, as of batch a
    >>> bool(as_a["x"].mean() < table["x"].mean() - 1)
    True
    """

    __module__ = "skvae"

    is_given = True
    reads_cells = True

    _parameter_constraints: ClassVar[dict] = {"n_categories": [None, Count(0), "array-like"]}

    def __init__(self, n_categories: int | Sequence[int] | None = None) -> None:
        self.n_categories = n_categories

    def assign(self, X: Any, columns: list[int] | None = None) -> list[Assigned]:
        """Columns of categories, and those of numbers: apart."""
        if columns is None:
            raise ValueError(
                "likelihood='given' leaves no column to model; use Mixed([('given', columns)], remainder='auto') with "
                "some of the columns."
            )
        sizes = self._sizes(len(columns))
        if sizes is None:
            facts = column_facts(X)
            sizes = [None if facts[column].is_category else 0 for column in columns]
        pairs = list(zip(columns, sizes, strict=True))
        kinds = [(column, size) for column, size in pairs if size != 0]
        own = Given([size for _, size in kinds]) if self.n_categories is not None else _Categories()
        found = (Given(), [column for column, size in pairs if size == 0]), (own, [column for column, _ in kinds])
        return [(member, own) for member, own in found if own]

    def _sizes(self, n_columns: int) -> list[Any] | None:
        """How many categories each of so many columns has, 0 of numbers; None where the table decides."""
        given: Any = self.n_categories
        if given is None:
            return None
        if np.ndim(given) and len(given) != n_columns:
            raise ValueError(
                f"Given has n_categories for {len(given)} columns and stands for {n_columns}; give one number for "
                "each, one for all, or None."
            )
        return [int(size) for size in np.broadcast_to(given, n_columns)]

    def categories(self, n_columns: int) -> list[int | None]:
        """Of columns that `assign` has set apart: numbers have none."""
        return self._sizes(n_columns) or []

    def for_categories(self, n_categories: Sequence[int] | None) -> Given:
        return Given(None if n_categories is None else [int(n) for n in n_categories])

    def scale(self, moments: Moments) -> Scale:
        codes = Scale(np.zeros_like(moments.mean), np.ones_like(moments.mean))
        return codes if self.n_categories else super().scale(moments)

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        sizes = self.categories(n_features)
        return _GivenModule(_OneHotConditions(torch.tensor(sizes, device="cpu")) if sizes else _Conditions(n_features))

    def check(self, X: Array, names: Sequence[str]) -> None:
        gaps = np.isnan(X)
        if gaps.any():
            raise ValueError(
                f"{names[int(gaps.any(axis=0).argmax())]} is given to the model, and {gaps.any(axis=1).sum()} row(s) "
                "lack its value: fill it, leave these rows out, or let the column be modelled."
            )


class _Categories(Given):
    """Columns of the categories that a table holds, before these are known."""

    def categories(self, n_columns: int) -> list[int | None]:
        return [None] * n_columns


class _AllGiven(Encoding):
    """Every number the encoder sees is a condition."""

    def is_given(self) -> np.ndarray:
        return np.ones(self.n_inputs, dtype=bool)

    def given(self, x: Tensor) -> Tensor:
        return self.encode(x)


class _Conditions(_AllGiven, Identity):
    """Standardised numbers, to which no noise is added."""

    def __init__(self, n_features: int):
        super().__init__(n_features, takes_noise=False)


class _OneHotConditions(_AllGiven, OneHot):
    """Zeros and ones, centred."""


class _GivenModule(LikelihoodModule):
    """No outputs and no density: log p is 0, and rows keep their cells."""

    columns_apart = True

    def __init__(self, encoding: Encoding):
        super().__init__(encoding.n_features, 0, encoding)

    def _zeros(self, outputs: Tensor, width: int) -> Tensor:
        return outputs.new_zeros(*outputs.shape[:-1], width)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return self._zeros(outputs, self.n_features)

    def mean(self, outputs: Tensor) -> Tensor:
        return self._zeros(outputs, self.n_features)

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        return self._zeros(outputs, self.n_features)

    def mean_given(self, outputs: Tensor, x: Tensor) -> Tensor:
        return self._zeros(outputs, self.n_features) + x

    def sample_given(self, outputs: Tensor, x: Tensor, rng: torch.Generator) -> Tensor:
        return self.mean_given(outputs, x)

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        return self._zeros(outputs, self.n_features)

    def expected(self, outputs: Tensor) -> Tensor:
        return self._zeros(outputs, self.encoding.n_inputs)

    def encoded_mean(self, outputs: Tensor) -> Tensor:
        return self._zeros(outputs, self.encoding.n_inputs)

    def collapse(self, expected: Tensor) -> Tensor:
        return self._zeros(expected, self.n_features)

    def linear_start(self) -> LinearStart:
        """Nothing is left of these columns once they are regressed on themselves."""
        one, n_inputs = np.ones(self.encoding.n_inputs), self.encoding.n_inputs

        def from_linear(linear: LinearGaussian) -> tuple[Array, Array]:
            return np.empty((0, linear.loadings.shape[1])), np.empty(0)

        return LinearStart(one, one, from_linear, np.full(n_inputs, np.inf))

    def gradient(self, xp: Any) -> NLLGradient:
        def nll_gradient(outputs: Any, rows: Any, cells: CellWeights) -> tuple[Any, Any]:
            return xp.zeros((1, 1), dtype=outputs.dtype), outputs

        return nll_gradient
