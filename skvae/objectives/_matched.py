"""Codes without a spread that follow p(z), as a whole and not each by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._tables.batches import Batch
from ..model import VAE, Dims, Emitted
from ._base import OnePass, Turn
from ._critic import Critic, all_but, critic_of, drawn, prior_turns
from ._mmd import mmd

__all__ = ["MatchedCodes"]

# What a nat of a critic's penalty is worth in MMD: so much of either leaves codes of images as far from N(0, I).
MMD_OF_A_NAT = 10
# The monitor's rows are compared with p(z) in parts: all pairs of more rows would take longer than an epoch.
ROWS_AT_ONCE = 500


class MatchedCodes(OnePass):
    """||x - g(f(x))||^2 + weight * how far the codes f(x) of all rows lie from p(z).

    By their MMD, or by what a critic finds: -log sigmoid(c(f(x))), c trained to tell draws of p(z) from codes. Either
    asks for draws of p(z) alone.

    Attributes
    ----------
    penalty : {"mmd", "gan"}
    kernel : {"imq", "rbf"}
        Of the MMD.
    weight : float or "auto"
    width : int
        Of the critic.
    """

    offers = frozenset({"prior"})
    penalty: str
    kernel: str
    weight: Any
    width: int

    def modules(self, dims: Dims) -> dict[str, nn.Module]:
        """The critic, where there is one."""
        return {"critic": Critic(dims.n_components, self.width)} if self.penalty == "gan" else {}

    def terms(
        self, emitted: Emitted, batch: Batch, model: VAE, rng: torch.Generator, epoch: float
    ) -> dict[str, Tensor]:
        """The squared error, and the penalty of the codes."""
        error = model.squared_error(emitted.outputs, batch)
        if self.penalty == "gan":
            apart = critic_of(model).real_loss(emitted.z)
        else:
            apart = self._mmd(emitted.z, batch, model, rng)
        return {"loss": error + self._weight(model) * apart, "error": error, self.penalty: apart}

    def critic(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        """The critic's loss: draws of p(z) are real, codes are not."""
        with torch.no_grad():
            codes = model.encode_mean(batch.x, batch.mask)
        return {"critic": critic_of(model).loss(drawn(model, batch, rng), codes)}

    def players(self, model: VAE) -> list[Turn]:
        """The networks, the critic, and a prior that has something to learn."""
        turns = [Turn(all_but(model, "extras", "prior"), self)]
        if self.penalty == "gan":
            turns.append(Turn(list(model.extras.parameters()), self.critic, "critic"))
        return turns + prior_turns(model.prior)

    def monitor(self, model: VAE, batch: Batch, rng: torch.Generator) -> Tensor:  # type: ignore[override]
        """Minus the error and the codes' MMD, (N,): a critic that is still learning is no referee."""
        codes = model.encode_mean(batch.x, batch.mask)
        error = model.squared_error(model.params(codes, batch.x), batch)
        parts = zip(codes.split(ROWS_AT_ONCE), batch.blocks(ROWS_AT_ONCE), strict=True)
        apart = torch.cat([self._mmd(z, part, model, rng).expand(len(part)) for z, part in parts])
        return -error - self._weight(model) * (MMD_OF_A_NAT if self.penalty == "gan" else 1) * apart

    def _mmd(self, codes: Tensor, batch: Batch, model: VAE, rng: torch.Generator) -> Tensor:
        return mmd(codes, drawn(model, batch, rng), self.kernel, batch.weight)

    def _weight(self, model: VAE) -> float:
        """With "auto" as much as all columns' errors could be, for an MMD of 1."""
        if self.weight != "auto":
            return self.weight
        return model.likelihood.n_features / (MMD_OF_A_NAT if self.penalty == "gan" else 1)
