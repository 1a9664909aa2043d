"""Points and weights for expectations over q(z|x), shared by all rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtri, roots_hermitenorm
from scipy.stats import qmc
from torch import Tensor

__all__ = ["Rule", "normal_rule", "quasi_normal"]


# Quadrature nodes per latent: fewer than this are no better than draws, and more than this bring nothing.
FEWEST_NODES, MOST_NODES = 5, 128


def quasi_normal(n_draws: int, n_components: int, seed: int) -> Tensor:
    """(S, J) standard normal points that fill space evenly: a scrambled Sobol sequence through the normal quantile.

    All rows share them, so a row's score depends on no other row and is the same at every call. It also means that
    their sampling error does not average out over rows, so their moments are set to the normal's: pairs (eps, -eps),
    whose mean is 0, and, where there are enough of them, a covariance of exactly I.
    """
    half = -(-n_draws // 2)
    sobol = qmc.Sobol(n_components, scramble=True, seed=np.random.default_rng(seed))  # rng= came with scipy 1.15
    points = sobol.random_base2(math.ceil(math.log2(half)))[:half]
    tiny = np.finfo(np.float64).eps
    eps = ndtri(points.clip(tiny, 1 - tiny))
    if half > n_components:
        eps = np.linalg.solve(np.linalg.cholesky(eps.T @ eps / half), eps.T).T
    pairs = np.stack([eps, -eps], axis=1).reshape(2 * half, n_components)
    return torch.tensor(pairs[:n_draws], dtype=torch.float64, device="cpu")


class Rule(NamedTuple):
    """Points and weights for expectations under N(0, I): E[f(eps)] is about sum_s exp(log_weight_s) f(eps_s).

    Attributes
    ----------
    eps : Tensor of shape (S, 1 or N, J)
    log_weight : Tensor of shape (S, 1 or N)
        Logarithms of weights that sum to 1.
    edge : Tensor of shape (S, 1)
        1 for the outermost nodes of a quadrature, 0 for others and for draws.
    """

    eps: Tensor
    log_weight: Tensor
    edge: Tensor

    @property
    def weight(self) -> Tensor:
        """The weights themselves, beside one more axis: (S, 1 or N, 1)."""
        return self.log_weight.exp()[..., None]

    def to(self, device: torch.device) -> Rule:
        """The same rule on `device`."""
        return Rule(*(values.to(device) for values in self))


def normal_rule(n_draws: int, n_components: int, seed: int) -> Rule:
    """At most `n_draws` points: Gauss-Hermite quadrature for one or two latents, quasi-random draws for more.

    Quadrature centred and scaled by each row's q(z|x) (Liu & Pierce 1994) reaches into the tails that draws from q
    miss, and needs few points; their number grows as nodes^J, so beyond two latents draws do better.
    """
    nodes = min(int(n_draws ** (1 / n_components) + 1e-9), MOST_NODES)
    if n_components > 2 or nodes < FEWEST_NODES:
        eps = quasi_normal(n_draws, n_components, seed)
        log_weight = torch.full((n_draws,), -math.log(n_draws), dtype=torch.float64, device="cpu")
        edge = torch.zeros_like(log_weight)
    else:
        points, weights = roots_hermitenorm(nodes)
        with np.errstate(divide="ignore"):
            logs = np.log(weights / weights.sum())
        eps = torch.tensor(_grid(points, n_components), dtype=torch.float64, device="cpu")
        log_weight = torch.tensor(_grid(logs, n_components).sum(axis=1), dtype=torch.float64, device="cpu")
        edge = (eps.abs().amax(dim=1) >= 0.999 * points[-1]).to(eps)
    return Rule(eps[:, None], log_weight[:, None], edge[:, None])


def _grid(values: np.ndarray, n_axes: int) -> np.ndarray:
    """Every combination of `values` on `n_axes` axes: (len(values)^n_axes, n_axes)."""
    return np.stack(np.meshgrid(*[values] * n_axes, indexing="ij"), axis=-1).reshape(-1, n_axes)
