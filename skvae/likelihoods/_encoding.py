"""What the encoder sees of a row, and how noise is added to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._tables.batches import Batch, Table
from .._tables.moments import Array, ColumnSums, sum_rows

__all__ = ["Centred", "Encoding", "Identity", "OneHot", "Summand", "column_sums"]

# So many categories of a column, its most frequent ones, have a part in the linear start. The time of an eigenproblem
# grows with the cube of their number, and of rarer ones a covariance knows little.
MOST_AT_START = 256

# What is summed over rows, column by column: a function of x (N, D) in float64, which holds NaN in a missing cell.
Summand = Callable[[Tensor], Tensor]


class Encoding(nn.Module, ABC):
    """What the encoder sees of x (..., D), in model units: (..., n_inputs).

    Parameters
    ----------
    n_features : int
        D.
    n_inputs : int or None, default=None
        Numbers the encoder sees of a row; None: as many as features. More where a category has one of its own.
    takes_noise : bool or Tensor of shape (n_inputs,), default=True
        Which of these noise may be added to: x stays in its support.
    adds_in_seen : bool, default=True
        Whether `add_noise` does to a row what `add_to_seen` does to what the encoder sees of it.
    """

    n_features: int
    n_inputs: int
    takes_noise: Tensor

    def __init__(
        self,
        n_features: int,
        n_inputs: int | None = None,
        takes_noise: bool | Tensor = True,
        adds_in_seen: bool = True,
    ):
        super().__init__()
        self.adds_in_seen = adds_in_seen
        self.n_features = n_features
        self.n_inputs = n_features if n_inputs is None else n_inputs
        noise = torch.as_tensor(takes_noise, dtype=torch.float32, device="cpu").expand(self.n_inputs)
        self.n_noisy = int(noise.sum())
        self.register_buffer("takes_noise", noise.clone(), persistent=False)

    def summands(self) -> Sequence[Summand]:
        """What `fit_sums` wants summed."""
        return ()

    def fit_sums(self, *sums: ColumnSums) -> Tensor | None:
        """Set what depends on the rows, beyond their scale; return what the inputs vary by, (n_inputs,), if known."""
        return None

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """What the encoder sees; a missing cell is for the caller to blank."""

    def decode(self, seen: Tensor) -> Tensor:
        """x again, where noise may be added."""
        raise NotImplementedError(f"{type(self).__name__} cannot be undone.")

    def per_input(self, cells: Tensor) -> Tensor:
        """What belongs to each cell of x, (..., D), once for every number the encoder sees of it: (..., n_inputs)."""
        return cells

    def apart(self) -> np.ndarray:
        """Which of the numbers the encoder sees begin without a latent, (n_inputs,): those of too few rows, of many."""
        return np.zeros(self.n_inputs, dtype=bool)

    def is_given(self) -> np.ndarray:
        """Which of the numbers the encoder sees are conditions, (n_inputs,): the decoder reads them beside z."""
        return np.zeros(self.n_inputs, dtype=bool)

    def given(self, x: Tensor) -> Tensor:
        """These numbers, (..., n_given), of rows whose other cells may be unknown."""
        return self.encode(x)[..., torch.from_numpy(self.is_given())]

    def log_slope(self, xp: Any) -> Callable[[Any], Any] | None:
        """`log |d seen / dx|`, (N, D), as a function of what the encoder sees, an array of `xp`, numpy or torch.

        None where it is the same in all rows; who builds the encoding knows it then.
        """
        return None

    def mean(self, seen: Tensor, log_var: Tensor) -> Tensor:
        """E[x] where what the encoder sees is normal, of this mean and log variance."""
        return seen

    def add_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        """x with `noise` added in the units that the encoder sees: (N, D) both."""
        self.check_noise()
        return self.decode(self.encode(x) + noise)

    def add_to_seen(self, seen: Tensor, noise: Tensor) -> Tensor:
        """The same for a row that is encoded, and whatever stands behind its n_inputs numbers."""
        self.check_noise()
        added = self.per_input(noise)
        if self.n_noisy == self.n_inputs:
            return seen + added
        noisy = seen[..., : self.n_inputs] + added * self.takes_noise
        return torch.cat([noisy, seen[..., self.n_inputs :]], dim=-1)

    def check_noise(self) -> None:
        """Raise ValueError where no number takes noise."""
        if not self.n_noisy:
            raise ValueError(
                "These columns hold set values (0 and 1, shares, counts or categories), to which no noise can be "
                "added; use objective='elbo', or ELBO with input_noise=0."
            )


class Identity(Encoding):
    """The encoder sees x."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, seen: Tensor) -> Tensor:
        return seen


class Centred(Encoding):
    """`features` of x, centred column by column and divided by one number, their pooled standard deviation.

    Parameters
    ----------
    n_features : int
        D.
    n_inputs : int or None, default=None
    pseudo_mean, pseudo_count : float or Tensor of shape (n_inputs,), default=0.0
        Cells of this value and number are added to every column, so that no category is impossible.
    """

    column_mean: Tensor
    pooled_std: Tensor

    def __init__(
        self,
        n_features: int,
        n_inputs: int | None = None,
        pseudo_mean: float | Tensor = 0.0,
        pseudo_count: float = 0.0,
    ):
        super().__init__(n_features, n_inputs, takes_noise=False)
        self.pseudo_mean, self.pseudo_count = pseudo_mean, pseudo_count
        self.register_buffer("column_mean", torch.full((self.n_inputs,), 0.5, dtype=torch.float32))
        self.register_buffer("pooled_std", torch.ones((), dtype=torch.float32))

    def features(self, x: Tensor) -> Tensor:
        """What is centred: (..., n_inputs)."""
        return x

    def summands(self) -> Sequence[Summand]:
        return (lambda x: self.features(x).masked_fill(self.per_input(x.isnan()), torch.nan),)

    def fit_sums(self, *sums: ColumnSums) -> None:
        mass, (own, std, _) = torch.tensor(sums[0].mass), map(torch.tensor, sums[0].moments)
        mean = (mass * own + self.pseudo_count * self.pseudo_mean) / (mass + self.pseudo_count)
        var = (mass * (std.square() + (own - mean).square())).sum() / mass.sum()
        self.column_mean.copy_(mean)
        self.pooled_std.copy_(var.sqrt() if var > 0 else torch.ones((), dtype=torch.float32))

    def encode(self, x: Tensor) -> Tensor:
        return self.centred(self.features(x))

    def centred(self, features: Tensor) -> Tensor:
        """What the encoder sees of `features`."""
        return (features - self.column_mean).div_(self.pooled_std)

    @property
    def share(self) -> Array:
        """The features' means, (n_inputs,), float64."""
        return self.column_mean.double().numpy()


class OneHot(Centred):
    """Zeros and ones, one per category. One cell more, of all categories alike, is added to every column."""

    column: Tensor  # of every category
    code: Tensor  # of every category, within its column
    first: Tensor  # of every column: the place of its first category

    def __init__(self, sizes: Tensor):
        column = torch.repeat_interleave(torch.arange(len(sizes), device="cpu"), sizes)
        super().__init__(len(sizes), len(column), pseudo_mean=1 / sizes[column].double(), pseudo_count=1.0)
        self.sizes = sizes.tolist()
        self.register_buffer("column", column, persistent=False)
        first = torch.cumsum(sizes, 0) - sizes
        self.register_buffer("code", torch.arange(len(column), device="cpu") - first[column], persistent=False)
        self.register_buffer("first", first, persistent=False)

    def apart(self) -> np.ndarray:
        """The rarer categories of columns that have very many."""
        rarer = np.zeros(self.n_inputs, dtype=bool)
        for first, size in zip(self.first.tolist(), self.sizes, strict=True):
            if size > MOST_AT_START:
                order = np.argsort(-self.share[first : first + size], kind="stable")
                rarer[first + order[MOST_AT_START:]] = True
        return rarer

    def features(self, x: Tensor) -> Tensor:
        return (x.round().index_select(-1, self.column) == self.code).to(x.dtype)

    def per_input(self, cells: Tensor) -> Tensor:
        return cells.index_select(-1, self.column)


@torch.no_grad()
def column_sums(rows: Table, functions: Sequence[Summand], copies: float = 1.0) -> tuple[ColumnSums, ...]:
    """The column sums of some functions of x, in one pass through the rows, of which a weight of 1 means `copies`."""

    def partial(block: Batch) -> tuple[ColumnSums, ...]:
        x, weight = block.x.double(), None if block.weight is None else copies * block.weight.double().numpy()
        x = x if block.mask is None else x.masked_fill(block.mask == 0, torch.nan)
        return tuple(ColumnSums.of(function(x).numpy(), weight) for function in functions)

    return sum_rows(rows.blocks(), partial)
