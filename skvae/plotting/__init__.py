"""Pictures of fitted estimators, made through their public methods; matplotlib is imported when one is drawn."""

from ._anomaly import AnomalyDisplay
from ._base import Picture
from ._explanation import Explanation
from ._image import Image
from ._scores import Scores

__all__ = ["AnomalyDisplay", "Explanation", "Image", "Picture", "Scores"]
