"""Autoencoders few of whose units are active at a time."""

from __future__ import annotations

import math
from numbers import Real
from typing import ClassVar

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from .._params import Share
from .._tables.batches import Batch, Table
from ..model import VAE, Emitted
from ._base import OnePass

__all__ = ["Sparse"]

# Activations are looked at far from the rows, where none stays between 0 and 1 that need not: some rows, so many times.
LOOKED_AT, FAR = 100, 100.0
# Mean activations are kept so far from 0 and 1, where the KL is infinite.
MARGIN = 1e-6


class Sparse(OnePass):
    """A sparse autoencoder (Olshausen & Field 1996; Ng 2011): minimise ||x - g(f(x))||^2 + weight * penalty.

    The penalty is `sum_i |a_i|`, one per row, or sum_i KL(rho || mean a_i), of means over a batch, where
    KL(rho || m) = rho log(rho / m) + (1 - rho) log((1 - rho) / (1 - m)). The a_i are the encoder's hidden activations,
    or the code, whose J numbers may be more than the columns. The error is that of a plain autoencoder: summed over the
    present cells of a row, in standard deviations of the columns. There is no p(x), so `score`, `score_samples`,
    `posterior` and `sample` are absent.

    Parameters
    ----------
    penalty : {"l1", "kl"}, default="l1"
        The sum of absolute activations, or how far each unit's mean activation is from rho. "kl" needs activations
        between 0 and 1: the estimator's `activation="sigmoid"`, or `code="sigmoid"` for a penalty on the code.
    layer : {"hidden", "code"}, default="hidden"
        What is penalised: all hidden activations of a built-in encoder, or the code.
    weight : float, default=0.1
        The penalty's. A unit of it is the squared error of one cell that is a standard deviation off.
    rho : float, default=0.05
        The mean activation that "kl" asks for, between 0 and 1.
    code : {"identity", "relu", "sigmoid"}, default="identity"
        The activation of the code. "relu" makes numbers that are exactly 0.

    See Also
    --------
    skvae.ELBO : With beta above 1 it switches whole latents off.

    References
    ----------
    Olshausen, B. A. and Field, D. J. (1996). Emergence of simple-cell receptive field properties by learning a sparse
    code for natural images.

    Ng, A. (2011). Sparse autoencoder. CS294A lecture notes.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.objectives import Sparse
    >>> X = load_wine().data
    >>> wide = VAETransformer(20, objective=Sparse(layer="code", code="relu"), max_iter=20, random_state=0).fit(X)
    >>> bool((wide.transform(X) == 0).mean() > 0.2)
    True
    """

    __module__ = "skvae.objectives"

    _parameter_constraints: ClassVar[dict] = {
        "penalty": [StrOptions({"l1", "kl"})],
        "layer": [StrOptions({"hidden", "code"})],
        "weight": [Interval(Real, 0, None, closed="left")],
        "rho": [Share(1, closed="neither")],
        "code": [StrOptions({"identity", "relu", "sigmoid"})],
    }

    def __init__(
        self,
        penalty: str = "l1",
        *,
        layer: str = "hidden",
        weight: float = 0.1,
        rho: float = 0.05,
        code: str = "identity",
    ) -> None:
        self.penalty = penalty
        self.layer = layer
        self.weight = weight
        self.rho = rho
        self.code = code

    @property
    def reads_hidden(self) -> bool:  # type: ignore[override]
        return self.layer == "hidden"

    def start(self, model: VAE, rows: Table, rng: torch.Generator) -> None:
        """Refuse an encoder without hidden units to penalise, or with ones that cannot have the mean rho."""
        some = rows.subsample(LOOKED_AT)
        far = FAR * model.seen(some.x, some.mask)
        with torch.no_grad():
            units = [model.encode_seen(far)[0]] if self.layer == "code" else model.hidden(far)
        if not units:
            raise ValueError(
                f"objective={self!r} penalises the encoder's hidden activations, and it has none; "
                "give hidden_layer_sizes a layer, or use layer='code'."
            )
        if self.penalty == "kl" and not all(bool(((a >= 0) & (a <= 1)).all()) for a in units):
            own = ("the code's", "code='sigmoid'") if self.layer == "code" else ("hidden ones", "activation='sigmoid'")
            raise ValueError(
                f"objective={self!r} needs activations between 0 and 1, and {own[0]} leave them; use {own[1]}, or "
                "penalty='l1'."
            )

    def terms(
        self, emitted: Emitted, batch: Batch, model: VAE, rng: torch.Generator, epoch: float
    ) -> dict[str, Tensor]:
        """||x - g(f(x))||^2 + weight * penalty, and both apart."""
        activations = emitted.z if self.layer == "code" else torch.cat([a.flatten(1) for a in emitted.hidden], dim=-1)
        penalty = activations.abs() if self.penalty == "l1" else self.divergence(batch.mean(activations))
        penalty, error = penalty.sum(-1), model.squared_error(emitted.outputs, batch)
        return {"loss": error + self.weight * penalty, "error": error, "penalty": penalty}

    def divergence(self, mean: Tensor) -> Tensor:
        """KL(rho || mean) of Bernoulli variables, (units,)."""
        mean, rho = mean.clamp(MARGIN, 1 - MARGIN), self.rho
        return rho * (math.log(rho) - mean.log()) + (1 - rho) * (math.log1p(-rho) - torch.log1p(-mean))
