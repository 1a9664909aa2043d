"""Pictures of fitted estimators, made through their public methods; matplotlib is imported when one is drawn."""

from ._anomaly import AnomalyDisplay
from ._latent import LatentDisplay
from ._manifold import ManifoldDisplay
from ._reconstruction import ReconstructionDisplay
from ._samples import SamplesDisplay
from ._traversal import TraversalDisplay

__all__ = [
    "AnomalyDisplay",
    "LatentDisplay",
    "ManifoldDisplay",
    "ReconstructionDisplay",
    "SamplesDisplay",
    "TraversalDisplay",
]
