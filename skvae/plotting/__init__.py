"""Pictures of fitted estimators, made through their public methods; matplotlib is imported when one is drawn."""

from ._anomaly_explanation import AnomalyExplanationDisplay
from ._anomaly_image import AnomalyImageDisplay
from ._anomaly_scores import AnomalyScoresDisplay
from ._information import InformationDisplay
from ._latent import LatentDisplay
from ._learning_curve import LearningCurveDisplay
from ._manifold import ManifoldDisplay
from ._reconstruction import ReconstructionDisplay
from ._samples import SamplesDisplay
from ._traversal import TraversalDisplay

__all__ = [
    "AnomalyExplanationDisplay",
    "AnomalyImageDisplay",
    "AnomalyScoresDisplay",
    "InformationDisplay",
    "LatentDisplay",
    "LearningCurveDisplay",
    "ManifoldDisplay",
    "ReconstructionDisplay",
    "SamplesDisplay",
    "TraversalDisplay",
]


def __dir__() -> list[str]:
    return __all__
