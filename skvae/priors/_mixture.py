"""p(z) as a learnt mixture of Gaussians."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._math import log_normal
from .._params import Count
from ._base import Prior, PriorSpec

__all__ = ["Mixture", "MixturePrior"]


# Log variances of a mixture's modes are kept within plus and minus this; modes start so far from the origin.
MODE_LOG_VAR, MODE_SPREAD = 7.0, 1.5


class MixturePrior(Prior):
    """p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2), all of it learnt with the model (Jiang et al. 2017).

    Parameters
    ----------
    n_components : int
        J, the number of latents.
    n_modes : int
        K, the number of Gaussians.
    """

    least_curvature = math.exp(-MODE_LOG_VAR)

    def __init__(self, n_components: int, n_modes: int):
        super().__init__(n_components)
        shape = n_modes, n_components
        self.mean = nn.Parameter(MODE_SPREAD * torch.randn(shape, dtype=torch.float32))
        self.log_var = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        self.logit = nn.Parameter(torch.zeros(n_modes, dtype=torch.float32))

    def _log_var(self) -> Tensor:
        return self.log_var.clamp(-MODE_LOG_VAR, MODE_LOG_VAR)

    def log_terms(self, z: Tensor) -> Tensor:
        """log w_k + log N(z; mu_k, sigma_k^2): (..., K) for latents (..., J)."""
        log_var = self._log_var()
        eps = (z[..., None, :] - self.mean) * torch.exp(-0.5 * log_var)
        return log_normal(eps, log_var).sum(-1) + torch.log_softmax(self.logit, dim=0)

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self.log_terms(z), dim=-1)

    def sample(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        mode = torch.multinomial(torch.softmax(self.logit, dim=0), n_samples, replacement=True, generator=rng)
        eps = torch.randn(n_samples, self.n_components, generator=rng, dtype=dtype, device=rng.device)
        return (self.mean[mode] + torch.exp(0.5 * self._log_var()[mode]) * eps).to(dtype)


class Mixture(PriorSpec):
    """p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2), with weights, means and variances learnt with the model.

    Rows that form groups need not be squeezed into one Gaussian (Jiang et al. 2017, variational deep embedding; Tomczak
    & Welling 2018 compare it as MoG). The KL has no closed form and is averaged over the objective's draws.

    Parameters
    ----------
    n_modes : int, default=10
        K, the number of Gaussians.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer
    >>> from skvae.priors import Mixture
    >>> vae = VAETransformer(2, prior=Mixture(3), max_iter=20, random_state=0).fit(load_iris().data)
    >>> vae.sample(5, random_state=0).shape
    (5, 4)
    """

    __module__ = "skvae.priors"

    _parameter_constraints: ClassVar[dict] = {"n_modes": [Count()]}

    def __init__(self, n_modes: int = 10) -> None:
        self.n_modes = n_modes

    def build(self, n_components: int, density: Any) -> Prior:
        return MixturePrior(n_components, self.n_modes)
