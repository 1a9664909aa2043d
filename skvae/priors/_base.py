"""p(z) as a family: what every prior offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._math import second_derivatives
from .._params import Spec
from .._tables.batches import Table

__all__ = ["Prior", "PriorSpec"]


class Prior(nn.Module, ABC):
    """p(z) over J latents. Write `sample`, and `log_prob` unless p(z) can only be drawn from; the rest is optional.

    Parameters
    ----------
    n_components : int
        J, the number of latents.

    Attributes
    ----------
    least_curvature : float
        What -log p(z) curves by at least, or a small positive number where it is not log-concave: the posterior of a
        row with gaps is never taken to be wider.
    is_standard : bool
        Whether p(z) is N(0, I), the linear models' own.
    reads_encoder : bool
        Whether `log_prob` calls the encoder that `bind` hands over.
    states_gradient : bool
        Whether `log_prob_gradient` is there, and `kl_gradient` where the KL has a closed form.
    """

    least_curvature: float = 1e-3
    is_standard: ClassVar[bool] = False
    reads_encoder: ClassVar[bool] = False
    states_gradient: ClassVar[bool] = False

    def __init__(self, n_components: int):
        super().__init__()
        self.n_components = n_components

    @property
    def has_density(self) -> bool:
        """Whether there is a `log_prob`, so that p(z) can do more than be drawn from."""
        return type(self).log_prob is not Prior.log_prob

    def bind(self, encode: Callable[[Tensor], tuple[Tensor, Any]]) -> None:
        """Receive the encoder: from what it sees, (N, n_inputs), to means and log variances, (N, J) each."""
        return

    def start(self, model: Any, rows: Table, rng: torch.Generator) -> None:
        """Prepare p(z) for `model` (a VAE) at its start, on the table of training rows, before the first epoch.

        `rows` may be too many to hold: `next(iter(rows.batches(n, rng)))` is about n of them, at random.
        """
        return

    @abstractmethod
    def sample(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw (n_samples, J) latents."""

    def log_prob(self, z: Any) -> Any:
        """log p(z) in nats, of all latents together: (...,) for (..., J)."""
        raise NotImplementedError(f"{type(self).__name__} can be drawn from, but has no density.")

    def second_derivatives(self, z: Tensor) -> Tensor:
        """Of log p at latents (N, J), over these: (N, J, J)."""
        return second_derivatives(self.log_prob, z)

    def log_prob_per_latent(self, z: Any) -> Any:
        """log p(z_j) in nats where the latents are independent, of the array's own kind: (..., J). None elsewhere."""
        return None

    def log_prob_gradient(self, z: Any) -> tuple[Any, Callable[[Any], Any]]:
        """log p(z) of (N, J) latents without a graph, (N, J) latent by latent or (N, 1), and the way back.

        That is a function from what each -log p counts, of the same shape, to the slope over z, (N, J), of their sum.
        It also sets the `.grad` of the prior's own parameters. Arrays are numpy's or torch's.
        """
        raise NotImplementedError(f"{type(self).__name__} states no gradient.")

    def kl(self, mu: Tensor, log_var: Tensor) -> Tensor | None:
        """KL(N(mu, sigma^2) || p) in nats, one per latent, (..., J), where it has a closed form; None elsewhere."""
        return None

    def kl_gradient(self, mu: Any, log_var: Any, std: Any) -> Any:
        """KL, d KL / d mu and d KL / d log_var without a graph: three (..., J), of the arrays' own kind.

        None where the KL has no closed form.
        """
        return None


class PriorSpec(Spec, ABC):
    """Hyperparameters of a p(z)."""

    @abstractmethod
    def build(self, n_components: int, density: Any) -> Prior:
        """The module for `n_components` latents; `density` (the likelihood's) knows how much the encoder sees."""
