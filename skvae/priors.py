"""p(z): what the latents look like before any data is seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["LOG_2PI", "StandardNormal", "log_normal"]

LOG_2PI = math.log(2 * math.pi)


def log_normal(eps: Tensor, log_var: Tensor | float = 0.0) -> Tensor:
    """log N(mu + sigma * eps; mu, sigma^2) = -(log 2 pi + log sigma^2 + eps^2) / 2, element by element."""
    return -0.5 * (LOG_2PI + log_var + eps.square())


class StandardNormal(nn.Module):
    """p(z) = N(0, I).

    Parameters
    ----------
    n_components : int
        J, the number of latents.
    """

    minus_half: Tensor

    def __init__(self, n_components: int):
        super().__init__()
        self.n_components = n_components
        self.register_buffer("minus_half", torch.tensor(-0.5, dtype=torch.float32), persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z_j) in nats, one a latent: (..., J)."""
        return log_normal(z)

    def log_prob_gradient(self, z: Tensor) -> Tensor:
        """d log p(z) / dz: (..., J)."""
        return -z

    def kl(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """KL(N(mu, sigma^2) || p) in nats, one a latent (Kingma & Welling 2013, appendix B): (..., J).

        1/2 (mu^2 + sigma^2 - 1 - log sigma^2)
        """
        return 0.5 * (mu.square() + log_var.exp() - 1 - log_var)

    def kl_gradient(self, mu: Tensor, log_var: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """KL, d KL / d mu = mu and d KL / d log_var = (sigma^2 - 1) / 2: three (..., J)."""
        slope = torch.addcmul(self.minus_half, std, std, value=0.5)
        kl = torch.sub(slope, log_var, alpha=0.5).addcmul_(mu, mu, value=0.5)
        return kl, mu, slope

    def sample(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw (n_samples, J) latents."""
        return torch.randn(n_samples, self.n_components, generator=rng, dtype=dtype, device=rng.device)
