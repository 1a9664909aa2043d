"""Pictures of fitted estimators, made through their public methods; matplotlib is imported when one is drawn."""

from ._anomaly import AnomalyDisplay
from ._manifold import ManifoldDisplay
from ._traversal import TraversalDisplay

__all__ = ["AnomalyDisplay", "ManifoldDisplay", "TraversalDisplay"]
