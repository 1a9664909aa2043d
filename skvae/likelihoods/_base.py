"""The contract of p(x|z): hyperparameters in a `Likelihood`, and formulas in the `LikelihoodModule` that it builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor, nn

from .._linear import Covariance, LinearGaussian
from .._params import Spec
from .._tables.batches import Batch, Table
from .._tables.moments import Array, ColumnSums, Moments, Scale
from ._curvature import by_bends, by_columns, by_latents
from ._encoding import Centred, Encoding, Identity, Summand, column_sums

__all__ = [
    "Assigned",
    "CellWeights",
    "Likelihood",
    "LikelihoodModule",
    "Linked",
    "NLLGradient",
    "Standardised",
    "Unscaled",
    "as_arrays",
    "autograd_gradient",
    "by_scipy",
    "refuse",
    "weighed",
]

# The unit of a column of one value, as a share of it.
CONSTANT_SHARE = 0.1


class CellWeights(NamedTuple):
    """What every cell of a batch counts in a mean, as tensors or as numpy arrays.

    Attributes
    ----------
    mass : array of shape (..., N or 1, D or 1)
        0 where a cell is missing; 1 in place of N where all rows count alike.
    total : array of shape (..., 1, D or 1)
        Its sum over the rows.
    """

    mass: Any
    total: Any


# Rows that `fit_values` is shown: as many as hold so many numbers, between these bounds.
MOST_VALUES, LEAST_ROWS, MOST_ROWS = 2_000_000, 2_000, 50_000


# From outputs, rows and cells to minus the log-likelihood, to be summed over its last two axes, and its slope over the
# outputs.
NLLGradient = Callable[[Any, Any, CellWeights], tuple[Any, Any]]


class Likelihood(Spec, ABC):
    """Hyperparameters of a p(x|z).

    Attributes
    ----------
    positive_only : bool
        Whether negative values are outside the support.
    reads_cells : bool
        Whether cells are looked at as they came, strings and all, and not as numbers.
    is_given : bool
        Whether its columns are conditions: read by both networks, and modelled by none.
    yes_or_no : bool
        Whether cells are 0 or 1, so that their mean is the chance of 1.
    """

    positive_only: ClassVar[bool] = False
    reads_cells: ClassVar[bool] = False
    is_given: ClassVar[bool] = False
    yes_or_no: ClassVar[bool] = False

    @abstractmethod
    def scale(self, moments: Moments) -> Scale:
        """The map between data units and the model's units."""

    @abstractmethod
    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        """The module for a table of `n_features` columns."""

    def check(self, X: Array, names: Sequence[str]) -> None:
        """Raise ValueError, naming the column, where X (N, D) leaves the support."""
        return

    def categories(self, n_columns: int) -> list[int | None]:
        """How many categories each of so many columns has (None: those that it holds), where it has any."""
        return []

    def for_categories(self, n_categories: Sequence[int] | None) -> Likelihood:
        """The same likelihood for columns of so many categories each; None: those that they hold."""
        return clone(self)

    def assign(self, X: Any, columns: list[int] | None = None) -> list[Assigned]:
        """The likelihood of these columns of a table, None for all, as the user gave it: members and their columns."""
        return [(self, columns)]

    def assigned(self, n_columns: int) -> list[tuple[Likelihood, list[int]]]:
        """The same of a likelihood that says so by itself: members and the numbers of their columns."""
        return [(self, list(range(n_columns)))]


# A likelihood, and the numbers of its columns; None for all.
Assigned = tuple[Likelihood, list[int] | None]


class Standardised(Likelihood):
    """A likelihood of columns of mean 0 and standard deviation 1; the unit of a constant one is a tenth of its size."""

    def scale(self, moments: Moments) -> Scale:
        return Scale(moments.mean, np.where(moments.std > 0, moments.std, _constant_unit(moments.mean)))


def _constant_unit(value: Array) -> Array:
    """A unit for columns that hold one value: in proportion to it, so that units do not matter, and 1 for zeros."""
    return np.where(value == 0, 1.0, np.maximum(CONSTANT_SHARE * np.abs(value), np.finfo(float).tiny))


class Unscaled(Likelihood):
    """A likelihood whose model has the data's own units."""

    def scale(self, moments: Moments) -> Scale:
        return Scale(np.zeros_like(moments.mean), np.ones_like(moments.mean))


@dataclass(frozen=True)
class LinearStart:
    """How a linear model of what the encoder sees becomes a decoder's.

    Attributes
    ----------
    least, most : array of shape (n_inputs,)
        Noise variances that the likelihood can have; equal where it leaves no choice.
    from_linear : callable
        Sets the module's noise to that of a `LinearGaussian`; returns the decoder's weight, (n_params, J), and bias,
        (n_params,).
    max_loading : array of shape (n_inputs,) or float, default=infinity
        The largest size of loadings for which the link is near enough to linear.
    model : callable or None, default=None
        Finds the linear model, of a covariance and a number of latents; None: factor analysis.
    log_volume : callable or None, default=None
        Where p(x|z) is normal in what the encoder sees: from that, (N, D), to the logarithm of its slope over X, in
        nats. The linear model's density is the baseline then, and that of independent columns elsewhere.
    """

    least: Array
    most: Array
    from_linear: Callable[[LinearGaussian], tuple[Array, Array]]
    max_loading: Array | float = np.inf
    model: Callable[[Covariance, int], LinearGaussian] | None = None
    log_volume: Callable[[Tensor], Tensor] | None = None


class LikelihoodModule(nn.Module, ABC):
    """p(x|z) for one table. Outputs are the decoder's numbers, (..., N, n_params); x is (N, D) in model units.

    Write `log_prob`, `mean` and `sample`; the rest has defaults.

    Parameters
    ----------
    n_features : int
        D.
    n_params : int
        How many numbers the decoder emits for a row.
    encoding : Encoding or None, default=None
        What the encoder sees of a row; None: x.

    Attributes
    ----------
    shared_noise : bool
        Whether `variance` is one number for the whole table.
    shared_unit : bool
        Whether it is so in data units, too.
    for_pictures : str or None
        The likelihood that shares a few latents more evenly among the columns, as it is written; None for such a one.
    columns_apart : bool
        Whether log p of a column depends on its own outputs alone, of which all have as many, in the order of
        `columns_of_outputs`. Second derivatives are found faster then.
    """

    shared_noise: ClassVar[bool] = False
    shared_unit: ClassVar[bool] = False
    for_pictures: ClassVar[str | None] = None
    columns_apart: ClassVar[bool] = False
    encoding: Encoding

    def __init__(self, n_features: int, n_params: int, encoding: Encoding | None = None):
        super().__init__()
        self.n_features = n_features
        self.n_params = n_params
        self.encoding = Identity(n_features) if encoding is None else encoding

    def fit(self, rows: Table, copies: float = 1.0) -> None:
        """Set what depends on the rows, beyond their scale, in one pass through them at most, and a look at some.

        A row of weight 1 stands for so many `copies`.
        """
        if functions := self.summands():
            self.fit_sums(*column_sums(rows, functions, copies))
        if self.reads_values:
            self.fit_values(rows.subsample(min(MOST_ROWS, max(LEAST_ROWS, MOST_VALUES // self.n_features))), copies)

    def summands(self) -> Sequence[Summand]:
        """What `fit_sums` wants summed."""
        return self.encoding.summands()

    def fit_sums(self, *sums: ColumnSums) -> None:
        """Set what depends on the rows, from the column sums of the `summands`."""
        self.encoding.fit_sums(*sums)

    @property
    def reads_values(self) -> bool:
        """Whether some of the rows are to be shown to `fit_values`: sums say too little of them."""
        return False

    def fit_values(self, rows: Batch, copies: float) -> None:
        """Set what depends on the rows, from some of them, of which a weight of 1 stands for so many `copies`."""
        return

    def reach(self, high: Tensor) -> None:
        """Take note of what a later chunk of rows holds at most, (D,) in model units, where values were bounded."""
        return

    def columns_of_inputs(self) -> np.ndarray:
        """Which column every number that the encoder sees belongs to: (n_inputs,)."""
        return self.encoding.per_input(torch.arange(self.n_features, device="cpu")).numpy()

    @property
    def n_given(self) -> int:
        """How many numbers the decoder reads beside z."""
        return int(self.encoding.is_given().sum())

    @property
    def given_columns(self) -> np.ndarray:
        """Which columns are conditions, and not modelled: (D,)."""
        return np.isin(np.arange(self.n_features), self.columns_of_inputs()[self.encoding.is_given()])

    def columns_of_outputs(self) -> np.ndarray:
        """Which column every number of the decoder belongs to, (n_params,): all columns' first ones, then the next."""
        return np.resize(np.arange(self.n_features), self.n_params)

    @abstractmethod
    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        """log p(x_d|z) in nats of data units, one per row and feature: (..., N, D)."""

    def bends(self, outputs: Tensor, x: Tensor) -> Tensor | None:
        """Second derivatives of each column's log p over its only output, (N or 1, D), where they have a formula."""
        return None

    def second_derivatives(self, outputs: Tensor, x: Tensor, mask: Tensor | None, slope: Tensor) -> Tensor:
        """Of log p of a row's present cells over latents: (N, J, J). Outputs (N, P) have the slopes (N, P, J)."""
        bends = self.bends(outputs, x)
        if bends is not None:
            return by_bends(bends if mask is None else bends * mask, slope)

        def log_prob(outputs: Tensor) -> Tensor:
            terms = self.log_prob(outputs, x)
            return terms if mask is None else terms * mask

        if self.columns_apart:
            return by_columns(log_prob, outputs, slope, self.n_features)
        return by_latents(log_prob, outputs, slope)

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """E[x|z] in model units, the most likely category where x is one: (..., N, D)."""

    @abstractmethod
    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        """A draw of x given z, in model units: (..., N, D)."""

    def mean_given(self, outputs: Tensor, x: Tensor) -> Tensor:
        """`mean` for rows x of which something is given, as a column or a total: with that as it is in x.

        An unknown cell of x is NaN.
        """
        return self.mean(outputs)

    def sample_given(self, outputs: Tensor, x: Tensor, rng: torch.Generator) -> Tensor:
        """`sample` for such rows."""
        return self.sample(outputs, rng)

    def cdf(self, outputs: Tensor, x: Tensor) -> Tensor:
        """P(a cell is at most x_d | z): (..., N, D). Not a number where there is no formula: draws stand in for it."""
        return x.new_full((*outputs.shape[:-1], self.n_features), torch.nan)

    def variance(self, outputs: Tensor) -> Tensor | None:
        """Var[x|z] in model units where it is a noise the model has learnt; None elsewhere."""
        return None

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        """What stands for the squared error of x given z, one per row and feature: (..., N, D).

        The mean's, in the units that the encoder sees: the columns' standard deviations, log counts.
        """
        return (self.encoded_mean(outputs) - self.encoding.encode(x)).square()

    def encoded_mean(self, outputs: Tensor) -> Tensor:
        """What the encoder sees of a row whose cells are their means, with a slope: (..., N, n_inputs)."""
        return self.encoding.encode(self.mean(outputs))

    def expected(self, outputs: Tensor) -> Tensor:
        """What may be averaged over draws of z before it is turned into x by `collapse`: (..., N, n_inputs)."""
        return self.mean(outputs)

    def expected_in_gaps(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """`expected` where a cell is missing, and any numbers where `mask`, (N, D), is 1, if that takes less time."""
        return self.expected(outputs)

    def collapse(self, expected: Tensor) -> Tensor:
        """x, (..., N, D), from averages of `expected`."""
        return expected

    def linear_start(self) -> LinearStart | None:
        """How training starts at a linear model of what the encoder sees; None: at random."""
        return None

    # A training step without a graph.

    def gradient(self, xp: Any) -> NLLGradient | None:
        """A function that returns -cells.mass * log_prob and its slope over the outputs; None: autograd finds them.

        It takes arrays of `xp`, numpy or torch: `outputs` (N, n_params), which it may overwrite, and in place of x the
        `step_input`. It sets the `.grad` of the module's own parameters, in the memory they have at this call, and
        leaves `encoding.log_slope` out of the value.
        """
        return None

    def error_gradient(self, xp: Any) -> NLLGradient:
        """The same for cells.mass * `error`, where `states_error` says so."""
        raise NotImplementedError(f"{type(self).__name__} states no gradient of its error.")

    def more(self, x: Tensor) -> Tensor:
        """What `gradient` reads of x beside what the encoder sees: (N, any number)."""
        return x[..., :0]

    def step_input(self, x: Tensor) -> Tensor:
        """What a step reads of x, made once for a table: what the encoder sees, then `more`."""
        seen, more = self.encoding.encode(x), self.more(x)
        return torch.cat([seen, more], dim=-1) if more.shape[-1] else seen

    def n_more(self) -> int:
        """How many numbers `more` has for a row."""
        return self.more(self.encoding.takes_noise.new_zeros(1, self.n_features)).shape[-1]

    @property
    def states_gradient(self) -> bool:
        """Whether `gradient` does without autograd."""
        return type(self).gradient is not LikelihoodModule.gradient

    @property
    def states_error(self) -> bool:
        """Whether `error_gradient` is there."""
        return False


def autograd_gradient(module: LikelihoodModule) -> NLLGradient:
    """`gradient` for tensors, by autograd of `log_prob`; it reads x."""
    parameters = [p for p in module.parameters() if p.requires_grad]

    def nll_gradient(outputs: Tensor, x: Tensor, cells: CellWeights) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            nll = -(cells.mass * module.log_prob(outputs, x)).sum()
            wanted = [outputs, *parameters]
            slopes = torch.autograd.grad(nll, wanted, materialize_grads=True, allow_unused=True)
        for parameter, slope in zip(parameters, slopes[1:], strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(slope)
        return nll.detach().reshape(1, 1), slopes[0]

    return nll_gradient


class Linked(LikelihoodModule):
    """p(x|z) of set values, whose outputs have a bent link to the mean; the encoder sees `Centred` features.

    Attributes
    ----------
    max_swing : float
        Standard deviation over the latents, at most, that an output starts with: a linear model of rare categories or
        counts asks for more, and is far off where it does.
    """

    encoding: Centred
    max_swing: ClassVar[float] = 2.0

    @abstractmethod
    def link(self) -> tuple[Array, Array]:
        """At the columns' means, of every feature: its slope over the decoder's output, and its variance."""

    @abstractmethod
    def bias(self, square: Array) -> Array:
        """The outputs whose means are the columns' if the latents add a normal variable of variance `square`."""

    def linear_start(self) -> LinearStart:
        slope, variance = self.link()
        unit = float(self.encoding.pooled_std)

        def from_linear(linear: LinearGaussian) -> tuple[Array, Array]:
            weight = linear.loadings * unit / slope[:, None]
            return weight, self.bias((weight**2).sum(axis=1))

        noise = variance / unit**2
        return LinearStart(noise, noise, from_linear, self.max_swing * slope / unit)


def as_arrays(xp: Any, *tensors: Any) -> list[Any]:
    """The tensors themselves for torch, numpy arrays of the same memory for numpy; without a graph."""
    return [tensor.detach() if xp is torch else tensor.detach().numpy() for tensor in tensors]


def weighed(values: Any, mass: Any) -> Any:
    """Values, (N, D), times what their cells count: to be summed. Tensors are wide here, and are summed by row first
    where a row's cells count alike.
    """
    if isinstance(values, Tensor) and mass.shape[-1] == 1:
        return mass * values.sum(-1, keepdim=True)
    return mass * values


def by_scipy(function: Callable[..., Array], *values: Any) -> Tensor:
    """A function that torch lacks, without a graph; the last of the values is a tensor where the result is to lie."""
    arrays = (value.detach().cpu().numpy() if isinstance(value, Tensor) else value for value in values)
    return torch.as_tensor(function(*arrays)).to(values[-1])


def refuse(X: Array, outside: np.ndarray, names: Sequence[str], rule: str) -> None:
    """Raise ValueError for a cell of X that is `outside`, naming its column; a negative one first."""
    if not outside.any():
        return
    negative = outside & (X < 0)
    row, column = np.argwhere(negative if negative.any() else outside)[0]
    # scikit-learn's checks and its own estimators open with these words.
    opening = "Negative values in data: " if negative.any() else ""
    raise ValueError(f"{opening}{names[column]} holds {X[row, column]}; {rule}.")
