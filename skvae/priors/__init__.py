"""p(z): what the latents look like before any data is seen, one file a member.

A `PriorSpec` holds hyperparameters only; for J latents it builds a `Prior`, the torch module with draws and log p(z).
"""

from __future__ import annotations

from collections.abc import Callable

from ._aggregated import AggregatedPosterior
from ._base import Prior, PriorSpec
from ._mixture import Mixture, MixturePrior
from ._normal import Normal, StandardNormal
from ._vamp import Vamp, VampPrior

__all__ = [
    "PRIORS",
    "AggregatedPosterior",
    "Mixture",
    "MixturePrior",
    "Normal",
    "Prior",
    "PriorSpec",
    "StandardNormal",
    "Vamp",
    "VampPrior",
]


def __dir__() -> list[str]:
    return __all__


PRIORS: dict[str, Callable[[], PriorSpec]] = {"mixture": Mixture, "normal": Normal, "vamp": Vamp}
