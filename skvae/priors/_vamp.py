"""p(z) as the mean posterior of learnt rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._params import Count
from .._tables.batches import Table
from ._base import Prior, PriorSpec
from ._modes import Modes, drawn_rows

__all__ = ["Vamp", "VampPrior"]


# A single code has no width.
LEAST_VAR = 1e-3


class VampPrior(Modes):
    """p(z) = 1/K sum_k q(z|u_k), with pseudo-inputs u_k learnt with the model (Tomczak & Welling 2018).

    Where the encoder emits codes without a spread, their Gaussians have the width of Scott's rule (1992): p(z) is then
    a kernel density estimate.

    Parameters
    ----------
    n_components : int
        J, the number of latents.
    n_inputs : int
        How many numbers the encoder sees of a row.
    n_modes : int
        K, the number of pseudo-inputs.
    """

    reads_encoder = True

    def __init__(self, n_components: int, n_inputs: int, n_modes: int):
        super().__init__(n_components)
        self.seen = nn.Parameter(torch.randn(n_modes, n_inputs, dtype=torch.float32))
        self._held: tuple[Tensor, Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}  # a copy's parameters may become others

    def bind(self, encode: Callable[[Tensor], tuple[Tensor, Any]]) -> None:
        self.encode = encode

    def modes(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.seen.requires_grad:
            return self._encoded()
        # A fitted model's stay where they are, and are asked for with every block of rows.
        if self._held is None or (self._held[0].dtype, self._held[0].device) != (self.seen.dtype, self.seen.device):
            with torch.inference_mode(False), torch.no_grad():
                self._held = self._encoded()
        return self._held

    def _encoded(self) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encode(self.seen)
        if log_var is None:
            var = mean.var(dim=0, correction=0) * len(mean) ** (-2 / (self.n_components + 4))
            log_var = var.clamp_min(LEAST_VAR).log().expand_as(mean)
        return mean, log_var, mean.new_full((len(mean),), -math.log(len(mean)))

    @torch.no_grad()
    def start(self, model: Any, rows: Table, rng: torch.Generator) -> None:
        """At random training rows, as the encoder sees them."""
        some = drawn_rows(rows, rng)
        weight = torch.ones(len(some), dtype=torch.float32) if some.weight is None else some.weight
        n_modes = len(self.seen)
        chosen = torch.multinomial(weight, min(n_modes, int((weight > 0).sum())), generator=rng)
        # Of fewer rows than pseudo-inputs each is several.
        self.seen.copy_(model.seen(some.x, some.mask)[chosen.repeat(-(-n_modes // len(chosen)))[:n_modes]])


class Vamp(PriorSpec):
    """The mean posterior of learnt rows: p(z) = 1/K sum_k q(z|u_k), with pseudo-inputs u_k, a VampPrior.

    The best prior for given rows is the mean of their posteriors; this is a mean over fewer rows, which start as random
    rows of the training table (Tomczak & Welling 2018, section 2). The KL has no closed form and is averaged over the
    objective's draws. Every step encodes the pseudo-inputs, too.

    Parameters
    ----------
    n_modes : int, default=50
        K, the number of pseudo-inputs.

    See Also
    --------
    Mixture : Gaussians with parameters of their own, which cost less.

    References
    ----------
    Tomczak, J. M. and Welling, M. (2018). VAE with a VampPrior. arXiv:1705.07120.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import VAETransformer
    >>> vae = VAETransformer(8, prior="vamp", max_iter=10, random_state=0).fit(load_digits().data)
    >>> vae.sample(5, random_state=0).shape
    (5, 64)
    """

    __module__ = "skvae.priors"

    _parameter_constraints: ClassVar[dict] = {"n_modes": [Count()]}

    def __init__(self, n_modes: int = 50) -> None:
        self.n_modes = n_modes

    def build(self, n_components: int, density: Any) -> Prior:
        return VampPrior(n_components, density.encoding.n_inputs, self.n_modes)
