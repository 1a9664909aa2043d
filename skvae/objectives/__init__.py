"""What training minimises, one file a family.

Reconstruction and KL are sums over features and latents and means over rows; any other weight is the user's `beta`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .._tables.batches import Batch
from ..model import Emitted
from ._adversarial import Adversarial
from ._ali import ALI
from ._autoencoder import Autoencoder
from ._base import Objective, OnePass, Slopes, Turn
from ._classified import Classified
from ._clustered import Clustered
from ._completed import Completed
from ._contractive import Contractive
from ._denoising import Denoising
from ._elbo import ELBO
from ._feature_consistent import FeatureConsistent
from ._iwae import IWAE
from ._sparse import Sparse
from ._vaegan import VAEGAN
from ._wae import WAE

__all__ = [
    "ALI",
    "ELBO",
    "IWAE",
    "OBJECTIVES",
    "VAEGAN",
    "WAE",
    "Adversarial",
    "Autoencoder",
    "Batch",
    "Classified",
    "Clustered",
    "Completed",
    "Contractive",
    "Denoising",
    "Emitted",
    "FeatureConsistent",
    "Objective",
    "OnePass",
    "Slopes",
    "Sparse",
    "Turn",
]


def __dir__() -> list[str]:
    return __all__


# "input_noise" is the anomaly detector's: its prior is made of training rows, which must have some width.
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "elbo": ELBO,
    "iwae": IWAE,
    "input_noise": partial(ELBO, input_noise=0.05),
    "autoencoder": Autoencoder,
    "sparse": Sparse,
    "denoising": Denoising,
    "contractive": Contractive,
    "clustered": Clustered,
    "completed": Completed,
    "wae": WAE,
    "adversarial": Adversarial,
    "classified": Classified,
    "vaegan": VAEGAN,
    "ali": ALI,
}
