"""What every p(x|z) offers: hyperparameters in a `Likelihood`, formulas in the `Density` that it builds for a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .._linear import Block, Covariance
from .._params import Part
from ..data import Array, Moments, Rows, Scale, Table

__all__ = ["Cells", "Density", "Likelihood", "LinearStart", "above", "column_sums"]


class Cells(NamedTuple):
    """What every cell of a batch counts in a mean.

    Attributes
    ----------
    mass : Tensor of shape (..., N or 1, D or 1)
        0 where a cell is missing; 1 in place of N where all rows count alike.
    total : Tensor of shape (..., 1, D or 1)
        Its sum over the rows.
    """

    mass: Tensor
    total: Tensor


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

    @abstractmethod
    def scale(self, moments: Moments) -> Scale:
        """The map between data units and the model's units."""

    @abstractmethod
    def build(self, n_features: int, scale: Scale) -> Density:
        """The module for a table of `n_features` columns."""

    def check(self, X: Array, names: Sequence[str]) -> None:
        """Raise ValueError, naming the column, where X (N, D) leaves the support."""
        return


class Density(nn.Module, ABC):
    """p(x|z) for one table. Outputs are the decoder's numbers, (..., N, n_params); x is (N, D) in model units.

    Parameters
    ----------
    n_features : int
        D.
    n_params : int
        How many numbers the decoder emits for a row.

    Attributes
    ----------
    shared_noise : bool
        Whether `variance` is one number for the whole table.
    stackable : bool
        Whether the formulas hold as they stand for M models side by side: rows and outputs have a leading axis, and
        every parameter and buffer has the shape (M, 1, K), where K is the number of its entries.
    """

    shared_noise: ClassVar[bool] = False
    stackable: ClassVar[bool] = False

    def __init__(self, n_features: int, n_params: int):
        super().__init__()
        self.n_features = n_features
        self.n_params = n_params

    def fit(self, rows: Rows | Table) -> None:
        """Set what depends on the rows, beyond their scale."""
        return

    def encode_input(self, x: Tensor) -> Tensor:
        """What the encoder sees of x, 0 where a cell is missing."""
        return x

    def smooth(self, x: Tensor, noise: Tensor) -> Tensor:
        """x with `noise` added in the units that the encoder sees: (N, D) both."""
        return x + noise

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

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """E[x|z] in model units: (..., N, D)."""

    @abstractmethod
    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        """A draw of x given z, in model units: (..., N, D)."""

    def variance(self, outputs: Tensor) -> Tensor | None:
        """Var[x|z] in model units where it is a noise the model has learnt; None elsewhere."""
        return None

    def covariance(self, rows: Rows | Table, noise: float = 0.0) -> Covariance:
        """The covariance of `rows` as the encoder sees them, with input noise of this variance."""

        @torch.no_grad()
        def blocks() -> Iterator[Block]:
            for block in rows.blocks():
                x = self.encode_input(block.x)
                yield (
                    (x if block.mask is None else x * block.mask).numpy(),
                    None if block.mask is None else block.mask.numpy(),
                    None if block.weight is None else block.weight.numpy(),
                )

        return Covariance(blocks, len(rows), self.n_features, noise)

    def start(self, cov: Covariance, n_components: int) -> LinearStart | None:
        """Set the noise to the linear model's and return its maps; None where the link allows no such start."""
        return None

    @abstractmethod
    def baseline(self, rows: Rows, cov: Covariance, n_components: int) -> float:
        """Mean log-likelihood of `rows`, in nats of data units, under the family's linear model of `cov`."""

    def baseline_samples(self, rows: Rows, cov: Covariance, n_components: int) -> Array:
        """`baseline`'s log-likelihood of every row, (N,): what ranks rows before there is a model."""
        raise ValueError(
            f"support_fraction below 1 needs a likelihood that can score rows by its linear model; "
            f"{type(self).__name__} cannot. Set support_fraction=1."
        )


def above(value: Tensor, bound: Tensor, grad: Tensor) -> Tensor:
    """The gradient that passes `_LowerBound`."""
    return torch.where(value >= bound, grad, grad.clamp_max(0.0))


def column_sums(rows: Rows | Table, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Weighted sums over the present cells of each column of `function` of x, and of 1: two (D,), float64."""
    sums, mass = (sum(parts) for parts in zip(*(_block_sums(b, function) for b in rows.blocks()), strict=True))
    return sums, mass


def _block_sums(block: Rows, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    mass = block.mass
    return (mass * function(block.x.double())).sum(dim=0), mass.sum(dim=0)
