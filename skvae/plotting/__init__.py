"""Pictures of fitted estimators, made through their public methods; matplotlib is imported when one is drawn."""

from ._anomaly import AnomalyDisplay

__all__ = ["AnomalyDisplay"]
