"""p(z) = N(0, I)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._math import log_normal
from ._base import Prior, PriorSpec

__all__ = ["Normal", "StandardNormal"]


class StandardNormal(Prior):
    """p(z) = N(0, I).

    Parameters
    ----------
    n_components : int
        J, the number of latents.
    """

    least_curvature = 1.0
    is_standard = True
    states_gradient = True

    def sample(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(n_samples, self.n_components, generator=rng, dtype=dtype, device=rng.device)

    def log_prob(self, z: Any) -> Any:
        return log_normal(z).sum(-1)

    def second_derivatives(self, z: Tensor) -> Tensor:
        return -torch.eye(z.shape[1], dtype=z.dtype, device=z.device).expand(len(z), -1, -1)

    def log_prob_per_latent(self, z: Any) -> Any:
        return log_normal(z)

    def log_prob_gradient(self, z: Any) -> tuple[Any, Callable[[Any], Any]]:
        """Of -log p it is z."""
        return log_normal(z), lambda counts: counts * z

    def kl(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """1/2 (mu^2 + sigma^2 - 1 - log sigma^2), one per latent (Kingma & Welling 2013, appendix B)."""
        return 0.5 * (mu.square() + log_var.exp() - 1 - log_var)

    def kl_gradient(self, mu: Any, log_var: Any, std: Any) -> tuple[Any, Any, Any]:
        """KL, d KL / d mu = mu and d KL / d log_var = (sigma^2 - 1) / 2."""
        slope = 0.5 * (std * std) - 0.5
        return 0.5 * (mu * mu - log_var) + slope, mu, slope


class Normal(PriorSpec):
    """Independent standard normal latents: p(z) = N(0, I)."""

    __module__ = "skvae.priors"

    def build(self, n_components: int, density: Any) -> Prior:
        return StandardNormal(n_components)
