"""The names of skvae's own classes that saved estimators consist of."""

from __future__ import annotations

import inspect

from sklearn.base import BaseEstimator

from . import anomaly, classifier, imputer, likelihoods, model_selection, networks, objectives, priors, transformer
from ._params import Spec

__all__ = ["TRUSTED_TYPES"]

_ROOMS = (transformer, anomaly, classifier, imputer, model_selection, likelihoods, objectives, priors, networks)

# Networks that a user supplies are wrapped by a class under a private name, which is not among these.
TRUSTED_TYPES = sorted(
    {
        f"{found.__module__}.{found.__qualname__}"
        for room in _ROOMS
        for found in (getattr(room, name) for name in room.__all__)
        if inspect.isclass(found) and issubclass(found, (BaseEstimator, Spec)) and "._" not in found.__module__
    }
)
