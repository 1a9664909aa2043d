"""An autoencoder whose code changes little with the row."""

from __future__ import annotations

import math
from numbers import Real
from typing import ClassVar

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor

from .._tables.batches import Batch
from ..model import VAE
from ._base import Objective

__all__ = ["Contractive"]


class Contractive(Objective):
    """A contractive autoencoder (Rifai et al. 2011): minimise ||x - g(f(x))||^2 + weight * ||df/dx||_F^2.

    The penalty is the sum of the squares of all J D derivatives of the code, exact, over the present cells in standard
    deviations of the columns (indicators, where they hold categories). Directions in which rows do not vary fade from
    the code; those that the reconstruction needs stay. The error is that of a plain autoencoder. There is no p(x), so
    `score`, `score_samples`, `posterior` and `sample` are absent.

    A step takes a backward pass through the encoder for every latent, and one through all of these.

    Parameters
    ----------
    weight : float, default=0.1
        The penalty's. A unit of it is the squared error of one cell that is a standard deviation off.

    See Also
    --------
    skvae.ELBO : The spread of its codes has the decoder ignore small changes.

    References
    ----------
    Rifai, S. et al. (2011). Contractive auto-encoders: explicit invariance during feature extraction.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> X = load_wine().data
    >>> vae = VAETransformer(2, objective="contractive", max_iter=20, random_state=0).fit(X)
    >>> sorted(vae.history_)
    ['contraction', 'error', 'loss']
    """

    __module__ = "skvae.objectives"

    _parameter_constraints: ClassVar[dict] = {"weight": [Interval(Real, 0, None, closed="left")]}

    def __init__(self, weight: float = 0.1) -> None:
        self.weight = weight

    def __call__(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        seen = model.seen(batch.x, batch.mask).detach().requires_grad_()
        code, _ = model.encode_seen(seen)
        each = torch.eye(code.shape[1], dtype=code.dtype, device=code.device)[:, None].expand(-1, len(code), -1)
        (slopes,) = torch.autograd.grad(code, seen, each, create_graph=True, is_grads_batched=True)  # (J, N, n_inputs)
        present = 1.0 if batch.mask is None else model.likelihood.encoding.per_input(batch.mask)
        contraction = (slopes * present).square().sum(dim=(0, 2))
        error = model.squared_error(model.params(code, batch.x), batch)
        return {"loss": error + self.weight * contraction, "error": error, "contraction": contraction}

    @torch.enable_grad()
    def monitor(self, model: VAE, batch: Batch, rng: torch.Generator) -> Tensor:  # type: ignore[override]
        """Minus the loss: (N,)."""
        return -self(model, batch, rng, math.inf)["loss"].detach()
