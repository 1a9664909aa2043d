"""p(z) as a sum of Gaussians: what mixtures share, whatever their Gaussians come from."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from .._math import LOG_2PI
from .._tables.batches import Batch, Table
from .._torch import double, namespace
from ._base import Prior

__all__ = ["Modes", "codes", "drawn_rows", "log_terms", "quadratic"]

# Rows that a start looks at, at most.
START_ROWS = 5000


def quadratic(mean: Any, log_var: Any, log_weight: Any) -> tuple[Any, Any]:
    """log w_k + log N(z; mean_k, var_k) multiplied out: a constant, (K,), and factors of z^2 and z, (2 J, K).

    As one product it takes neither the time nor the memory of an array over latents and modes. Where variances are
    small its terms are large, so they want double precision. Tensors, or numpy arrays in their place.
    """
    xp = namespace(mean)
    precision = xp.exp(-log_var)
    slope = mean * precision
    constant = log_weight - 0.5 * (log_var + LOG_2PI + mean * slope).sum(-1)
    return constant, xp.concat([-0.5 * precision, slope], -1).T


def log_terms(z: Tensor, constant: Tensor, weights: Tensor) -> Tensor:
    """log w_k + log N(z; mean_k, var_k) by `quadratic`, for latents (N, J): (N, K)."""
    return torch.addmm(constant, torch.cat([z.square(), z], dim=1), weights)


def drawn_rows(rows: Table, rng: torch.Generator) -> Batch:
    """Some of the rows at random, `START_ROWS` or so at most."""
    return rows.some(START_ROWS, rng)


def codes(model: Any, rows: Batch) -> tuple[Tensor, Tensor]:
    """Means and variances of q(z|x), (N, J) each; a code has a variance of 0."""
    mean, log_var = model.encode(rows.x, rows.mask)
    return mean, torch.zeros_like(mean) if log_var is None else log_var.exp()


class Modes(Prior):
    """p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2). Write `modes`."""

    @abstractmethod
    def modes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Means and log variances, (K, J) each, and logarithms of weights that sum to 1, (K,)."""

    @property
    def least_curvature(self) -> float:  # type: ignore[override]
        """That of the widest mode, beside which and between which -log p may curve by less, and the other way."""
        return float(torch.exp(-self.modes()[1].detach().max()))

    def log_prob(self, z: Tensor) -> Tensor:
        terms = log_terms(double(z).reshape(-1, self.n_components), *quadratic(*map(double, self.modes())))
        return torch.logsumexp(terms, dim=1).reshape(z.shape[:-1]).to(z.dtype)

    def second_derivatives(self, z: Tensor) -> Tensor:
        """Minus the modes' precisions by their shares of p(z), and the spread of their slopes."""
        mean, log_var, log_weight = map(double, self.modes())
        exact, precision = double(z), torch.exp(-log_var)
        share = torch.softmax(log_terms(exact, *quadratic(mean, log_var, log_weight)), dim=1)
        slope = (mean - exact[:, None]) * precision
        slope = slope - (share[:, None] @ slope)
        spread = (share[..., None] * slope).mT @ slope
        return (spread - torch.diag_embed(share @ precision)).to(z.dtype)

    def sample(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        mean, log_var, log_weight = self.modes()
        mode = torch.multinomial(log_weight.detach().exp(), n_samples, replacement=True, generator=rng)
        eps = torch.randn(n_samples, self.n_components, generator=rng, dtype=dtype, device=rng.device)
        return (mean[mode] + torch.exp(0.5 * log_var[mode]) * eps).to(dtype)
