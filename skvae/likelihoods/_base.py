"""What every p(x|z) offers: hyperparameters in a `Likelihood`, formulas in the `Density` that it builds for a table."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .._linear import Block, Covariance, LinearGaussian, factor_analysis
from .._params import Part
from ..data import Array, Moments, Rows, Scale, Walk

__all__ = [
    "Cells",
    "Centred",
    "Density",
    "Likelihood",
    "LinearStart",
    "LowerBound",
    "NLLGradient",
    "Natural",
    "Unscaled",
    "above",
    "as_arrays",
    "at_most",
    "below",
    "blocked",
    "column_sums",
    "refuse",
    "weighed",
]


class Cells(NamedTuple):
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


# From outputs, rows and cells to minus the log-likelihood and its slope over the outputs.
NLLGradient = Callable[[Any, Any, Cells], tuple[Any, Any]]


@dataclass
class LinearStart:
    """A linear encoder and decoder, and the noise that goes with them: where training begins.

    Attributes
    ----------
    decoder_weight, decoder_bias : arrays of shape (n_params, J) and (n_params,)
    encoder_weight : array of shape (J, D)
        From the encoder's input to the posterior mean; the posterior mean of a row of column means is 0.
    posterior_var : array of shape (J,)
    """

    decoder_weight: Array
    decoder_bias: Array
    encoder_weight: Array
    posterior_var: Array


class Likelihood(Part, ABC):
    """Hyperparameters of a p(x|z).

    Attributes
    ----------
    positive_only : bool
        Whether negative values are outside the support.
    """

    positive_only: ClassVar[bool] = False

    def assign(self, X: Any) -> list[tuple[Likelihood, list[int] | None]]:
        """The likelihood of every column of a table, as the user gave it: members, and the numbers of their columns.

        None stands for all columns.
        """
        return [(self, None)]

    @abstractmethod
    def scale(self, moments: Moments) -> Scale:
        """The map between data units and the model's units."""

    @abstractmethod
    def build(self, n_features: int, scale: Scale) -> Density:
        """The module for a table of `n_features` columns."""

    def check(self, X: Array, names: Sequence[str]) -> None:
        """Raise ValueError, naming the column, where X (N, D) leaves the support."""
        return


class Unscaled(Likelihood):
    """A likelihood whose model has the data's own units."""

    def scale(self, moments: Moments) -> Scale:
        return Scale(np.zeros_like(moments.mean), np.ones_like(moments.mean))


class Density(nn.Module, ABC):
    """p(x|z) for one table. Outputs are the decoder's numbers, (..., N, n_params); x is (N, D) in model units.

    Parameters
    ----------
    n_features : int
        D.
    n_params : int
        How many numbers the decoder emits for a row.
    n_inputs : int or None
        How many the encoder sees of one; None: as many as features. More where a category has a number of its own.

    Attributes
    ----------
    takes_noise : bool
        Whether x + noise is in the support, so that `smooth` can add some.
    smooths_seen : bool
        Whether `smooth` adds the noise, as it is, to what the encoder sees.
    shared_noise : bool
        Whether `variance` is one number for the whole table.
    """

    takes_noise: ClassVar[bool] = True
    smooths_seen: ClassVar[bool] = True
    shared_noise: ClassVar[bool] = False

    def __init__(self, n_features: int, n_params: int, n_inputs: int | None = None):
        super().__init__()
        self.n_features = n_features
        self.n_params = n_params
        self.n_inputs = n_features if n_inputs is None else n_inputs

    def fit(self, rows: Walk) -> None:
        """Set what depends on the rows, beyond their scale."""
        return

    def encode_input(self, x: Tensor) -> Tensor:
        """What the encoder sees of x, (..., n_inputs); a missing cell is for the caller to blank."""
        return x

    def per_input(self, cells: Tensor) -> Tensor:
        """What belongs to each cell of x, (..., D), once for every number the encoder sees of it: (..., n_inputs)."""
        return cells

    def smooth(self, x: Tensor, noise: Tensor) -> Tensor:
        """x with `noise` added in the units that the encoder sees: (N, D) both."""
        if self.takes_noise:
            return x + noise
        raise ValueError(
            f"{type(self).__name__.strip('_')}: these columns' values are set apart, and no noise can be added to "
            "them; use objective='elbo', or ELBO with input_noise=0."
        )

    @abstractmethod
    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        """log p(x_d|z) in nats of data units, one a row and feature: (..., N, D)."""

    def nll_gradient(self, outputs: Tensor, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        """The total of -cells.mass * log_prob, and its gradient with respect to the outputs.

        Sets the `.grad` of this module's own parameters to the same gradient. Members of the family whose gradient is
        a formula override this; it must agree with `log_prob`. `outputs` may be overwritten.

        Parameters
        ----------
        outputs, x : Tensors of shape (..., N, n_params) and (..., N, D)
        cells : Cells

        Returns
        -------
        nll : Tensor of shape (...)
        gradient : Tensor of the shape of outputs
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            nll = -(cells.mass * self.log_prob(outputs, x)).sum((-2, -1))
            wanted = [outputs, *parameters]
            grads = torch.autograd.grad(nll.sum(), wanted, materialize_grads=True, allow_unused=True)
        for parameter, grad in zip(parameters, grads[1:], strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(grad)
        return nll.detach(), grads[0]

    def step_input(self, x: Tensor) -> Tensor:
        """What a step without a graph reads of x, made once for a table: what the encoder sees, (..., n_inputs), and
        behind it whatever else `gradient_of_seen` wants to know of x.
        """
        return self.encode_input(x)

    def n_step_inputs(self) -> int:
        """How many numbers `step_input` makes of a row."""
        device = next((buffer.device for buffer in self.buffers()), None)
        return self.step_input(torch.zeros(1, self.n_features, device=device)).shape[-1]

    def gradient_of_seen(self, xp: Any) -> NLLGradient | None:
        """`nll_gradient` with `step_input(x)` in place of x; None where it needs x itself.

        It takes arrays of `xp`, numpy or torch, and computes in this module's own memory, which must not move after
        this call. The first of what it returns is still to be summed over its last two axes, (..., 1 or N, 1 or D).
        A table is then put in the form that the encoder sees once, not in every step; and on the CPU the arithmetic of
        small steps is numpy's.
        """
        return None

    def stated_gradient_of_seen(self, xp: Any) -> NLLGradient | None:
        """`gradient_of_seen`, unless a subclass states another gradient and not this form of it."""
        stated = [vars(kind) for kind in type(self).__mro__]
        of_seen, of_x = (
            next(depth for depth, own in enumerate(stated) if name in own)
            for name in ("gradient_of_seen", "nll_gradient")
        )
        return self.gradient_of_seen(xp) if of_seen <= of_x else None

    @property
    def states_gradient(self) -> bool:
        """Whether `nll_gradient` does without autograd."""
        return type(self).nll_gradient is not Density.nll_gradient

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """E[x|z] in model units, the most likely category where x is one: (..., N, D)."""

    def error(self, outputs: Tensor, x: Tensor) -> Tensor:
        """What stands for the squared error of x given z, one a row and feature: (..., N, D).

        The mean's, in the units that the encoder sees: the columns' standard deviations, log counts.
        """
        return (self.encode_input(self.mean(outputs)) - self.encode_input(x)).square()

    def expected(self, outputs: Tensor) -> Tensor:
        """What may be averaged over draws of z before it is turned into x by `collapse`: (..., N, n_inputs)."""
        return self.mean(outputs)

    def collapse(self, expected: Tensor) -> Tensor:
        """x, (..., N, D), from averages of `expected`."""
        return expected

    @abstractmethod
    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        """A draw of x given z, in model units: (..., N, D)."""

    def variance(self, outputs: Tensor) -> Tensor | None:
        """Var[x|z] in model units where it is a noise the model has learnt; None elsewhere."""
        return None

    def covariance(self, rows: Walk, noise: float = 0.0) -> Covariance:
        """The covariance of `rows` as the encoder sees them, with input noise of this variance."""

        @torch.no_grad()
        def blocks() -> Iterator[Block]:
            for block in rows.blocks():
                x, mask = self.encode_input(block.x), None if block.mask is None else self.per_input(block.mask)
                yield (
                    (x if mask is None else x * mask).numpy(),
                    None if mask is None else mask.numpy(),
                    None if block.weight is None else block.weight.numpy(),
                )

        return Covariance(blocks, len(rows), self.n_inputs, noise * self.noisy_inputs())

    def noisy_inputs(self) -> Array:
        """1 for every number the encoder sees that `smooth` adds noise to, 0 for the others: (n_inputs,)."""
        return np.full(self.n_inputs, float(self.takes_noise))

    # Where training starts: factor analysis of what the encoder sees, carried over to the decoder by the link's slope.

    def noise_range(self) -> tuple[Array, Array] | None:
        """Least and largest noise variance of every number the encoder sees: two (n_inputs,).

        Equal where the likelihood leaves no choice. None: there is no linear start.
        """
        return None

    def most_loading(self) -> Array:
        """The largest size of loadings for which the link is near enough to linear: (n_inputs,)."""
        return np.full(self.n_inputs, np.inf)

    def from_linear(self, linear: LinearGaussian) -> tuple[Array, Array]:
        """Set the noise to a linear model's; return its decoder's weight, (n_params, J), and bias, (n_params,)."""
        raise NotImplementedError(f"{type(self).__name__} states a noise_range, and so must have a from_linear.")

    def linear_model(self, cov: Covariance, n_components: int) -> LinearGaussian | None:
        """The linear model with a noise that this likelihood can have."""
        bounds = self.noise_range()
        return None if bounds is None else factor_analysis(cov, n_components, *bounds)

    def start(self, cov: Covariance, n_components: int) -> LinearStart | None:
        """Set the noise to the linear model's and return its maps; None where the link allows no such start."""
        linear = self.linear_model(cov, n_components)
        if linear is None:
            return None
        linear = linear.limited(self.most_loading())
        weight, bias = self.from_linear(linear)
        return LinearStart(weight, bias, linear.encoder, 1.0 / linear.precision)

    def baseline(self, rows: Rows, cov: Covariance, n_components: int) -> float:
        """Mean log-likelihood of `rows`, in nats of data units, under the family's linear model of `cov`."""
        total = self.baseline_samples(rows, cov, n_components)
        return float(np.average(total, weights=None if rows.weight is None else rows.weight.cpu().numpy()))

    @torch.no_grad()
    def baseline_samples(self, rows: Rows, cov: Covariance, n_components: int) -> Array:
        """`baseline`'s log-likelihood of every row, (N,): what ranks rows before there is a model.

        Unless a member knows better, that of the columns taken as independent.
        """
        alone = copy.deepcopy(self)
        start = alone.start(cov, 0)
        if start is None:
            raise ValueError(
                f"{type(self).__name__} has no linear model to score rows by; define noise_range and from_linear, or "
                "baseline_samples, and leave support_fraction at 1."
            )
        bias = torch.as_tensor(start.decoder_bias, dtype=rows.x.dtype, device=rows.x.device)
        terms = alone.log_prob(bias.expand(len(rows), -1), rows.x)
        return (terms if rows.mask is None else terms * rows.mask).sum(-1).double().cpu().numpy()


class Centred(Density):
    """The encoder sees `features` of x, centred column by column and divided by one number, their pooled deviation.

    Their means are smoothed by `prior_weight` cells of the value `prior_mean`, so that no category is impossible.
    """

    takes_noise = smooths_seen = False
    column_mean: Tensor
    pooled_std: Tensor
    prior_mean: float | Tensor = 0.0
    prior_weight: float | Tensor = 0.0
    # Standard deviation over the latents, at most, that an output starts with: a linear model of rare categories or
    # counts asks for more, and is far off where it does.
    most_swing: ClassVar[float] = 2.0

    def __init__(self, n_features: int, n_params: int, n_inputs: int | None = None):
        super().__init__(n_features, n_params, n_inputs)
        self.register_buffer("column_mean", torch.full((self.n_inputs,), 0.5, dtype=torch.float32))
        self.register_buffer("pooled_std", torch.ones((), dtype=torch.float32))

    def features(self, x: Tensor) -> Tensor:
        """What is centred: (..., n_inputs)."""
        return x

    def fit(self, rows: Walk) -> None:
        sums, mass = column_sums(rows, self.features, self.per_input)
        mean = (sums + self.prior_weight * self.prior_mean) / (mass + self.prior_weight)
        squares, _ = column_sums(rows, lambda x: (self.features(x) - mean).square(), self.per_input)
        var = squares.sum() / mass.sum()
        self.column_mean.copy_(mean)
        self.pooled_std.copy_(var.sqrt() if var > 0 else torch.ones(()))

    def encode_input(self, x: Tensor) -> Tensor:
        return (self.features(x) - self.column_mean).div_(self.pooled_std)

    @abstractmethod
    def link(self) -> tuple[Array, Array]:
        """At the columns' means, of every feature: its slope over the decoder's output, and its variance."""

    @abstractmethod
    def bias(self, square: Array) -> Array:
        """The outputs whose means are the columns' if the latents add a normal variable of variance `square`."""

    @property
    def share(self) -> Array:
        """The features' means, (n_inputs,), float64."""
        return self.column_mean.double().numpy()

    def noise_range(self) -> tuple[Array, Array]:
        noise = self.link()[1] / float(self.pooled_std) ** 2
        return noise, noise

    def most_loading(self) -> Array:
        return self.most_swing * self.link()[0] / float(self.pooled_std)

    def from_linear(self, linear: LinearGaussian) -> tuple[Array, Array]:
        weight = linear.loadings * float(self.pooled_std) / self.link()[0][:, None]
        return weight, self.bias((weight**2).sum(axis=1))


class Natural(Centred):
    """A family whose outputs are natural parameters: the gradient of -log p is E[x|z] - x, whatever the family."""

    def nll_gradient(self, outputs: Tensor, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        nll = (cells.mass * self.log_prob(outputs, x)).sum((-2, -1)).neg_()
        return nll, self.mean(outputs).sub_(x).mul_(cells.mass)


class LowerBound(torch.autograd.Function):
    """max(value, bound), whose gradient passes wherever a step against it would not go below the bound.

    A plain clamp has no gradient below the bound, so a parameter that once slipped under it never comes back.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(value, bound)
        return torch.maximum(value, bound)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return above(*ctx.saved_tensors, *grads), None


def as_arrays(xp: Any, *tensors: Any) -> list[Any]:
    """The tensors themselves for torch, numpy arrays of the same memory for numpy."""
    return list(tensors) if xp is torch else [tensor.numpy() for tensor in tensors]


def weighed(values: Any, mass: Any) -> Any:
    """Values, (N, D), times what their cells count: to be summed. Tensors are wide here, and are summed by row first
    where a row's cells count alike.
    """
    if isinstance(values, Tensor) and mass.shape[-1] == 1:
        return mass * values.sum(-1, keepdim=True)
    return mass * values


def blocked(value: Any, bound: Any, grad: Any) -> Any:
    """Where `LowerBound` lets no gradient pass: three tensors, or three numpy arrays."""
    return (value < bound) & (grad > 0)


def above(value: Tensor, bound: Tensor, grad: Tensor) -> Tensor:
    """The gradient that passes `LowerBound`."""
    return torch.where(blocked(value, bound, grad), 0.0, grad)


def at_most(value: Tensor, bound: Tensor) -> Tensor:
    """min(value, bound), as `LowerBound` from the other side."""
    return -LowerBound.apply(-value, -bound)


def below(value: Tensor, bound: Tensor, grad: Tensor) -> Tensor:
    """The gradient that passes `at_most`."""
    return -above(-value, -bound, -grad)


def column_sums(
    rows: Walk, function: Callable[[Tensor], Tensor], spread: Callable[[Tensor], Tensor] = lambda mass: mass
) -> tuple[Tensor, Tensor]:
    """Weighted sums over the present cells of each column of `function` of x, and of 1: two (D,), float64.

    `spread` turns a cell's weight into those of the numbers that `function` makes of it.
    """
    sums, mass = (sum(parts) for parts in zip(*(_block_sums(b, function, spread) for b in rows.blocks()), strict=True))
    return sums, mass


def _block_sums(block: Rows, function: Callable, spread: Callable) -> tuple[Tensor, Tensor]:
    mass = spread(block.mass)
    return (mass * function(block.x.double())).sum(dim=0), mass.sum(dim=0)


def refuse(X: Array, outside: np.ndarray, names: Sequence[str], rule: str) -> None:
    """Raise ValueError for a cell of X that is `outside`, naming its column; a negative one first."""
    if not outside.any():
        return
    negative = outside & (X < 0)
    row, column = np.argwhere(negative if negative.any() else outside)[0]
    # scikit-learn's checks and its own estimators open with these words.
    opening = "Negative values in data passed to VAE: " if negative.any() else ""
    raise ValueError(f"{opening}{names[column]} holds {X[row, column]}; {rule}.")
