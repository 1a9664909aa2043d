"""The importance-weighted bound."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from .._params import Count
from .._tables.batches import Batch
from ..model import VAE
from ._base import Objective

__all__ = ["IWAE"]


class IWAE(Objective):
    """The importance-weighted bound (Burda et al. 2016): maximise E[log 1/S sum_s w(x, z_s)].

    Tighter than the ELBO and rising with the number of draws; one draw gives the ELBO with a sampled KL.

    Parameters
    ----------
    n_draws : int, default=5
        S.

    See Also
    --------
    ELBO : The bound of one draw, with the KL in closed form.

    References
    ----------
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted autoencoders. arXiv:1509.00519.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer, IWAE
    >>> vae = VAETransformer(1, objective=IWAE(8), max_iter=20, random_state=0).fit(load_iris().data)
    >>> vae.n_components_
    1
    """

    __module__ = "skvae"

    offers = frozenset({"posterior", "prior", "density"})

    _parameter_constraints: ClassVar[dict] = {"n_draws": [Count()]}

    def __init__(self, n_draws: int = 5) -> None:
        self.n_draws = n_draws

    @property
    def is_bound(self) -> bool:
        return True

    def bound(self, model: VAE, batch: Batch, rng: torch.Generator) -> Tensor:
        """log 1/S sum_s w(x, z_s), (N,), in nats."""
        shape = (self.n_draws, len(batch), model.prior.n_components)
        eps = torch.randn(shape, generator=rng, dtype=batch.x.dtype, device=batch.x.device)
        return torch.logsumexp(model.log_weights(batch.x, eps, batch.mask).total, dim=0) - math.log(self.n_draws)

    def __call__(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        return {"loss": -self.bound(model, batch, rng)}

    def monitor(self, model: VAE, batch: Batch, rng: torch.Generator) -> Tensor:  # type: ignore[override]
        return self.bound(model, batch, rng)
