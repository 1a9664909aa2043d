"""Rules for parameters, shared by the estimators and the objects they take."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import nn

__all__ = ["Activation", "Count", "NetworkLike", "RandomState", "Share", "Spec", "named"]

# What users pass. Tables are of Any type: arrays, data frames, tensors, lists of rows, files of arrays.
Activation = str | Callable[[], nn.Module]
NetworkLike = nn.Module | Callable[[int, int], nn.Module]
RandomState = int | np.random.RandomState | None


class _Numbers(Interval):
    """An interval that True and False are not in."""

    def is_satisfied_by(self, val: Any) -> bool:
        return not isinstance(val, (bool, np.bool_)) and super().is_satisfied_by(val)


class Count(_Numbers):
    """Integers from `low` on."""

    def __init__(self, low: int = 1):
        super().__init__(Integral, low, None, closed="left")


class Share(_Numbers):
    """Real numbers above 0 and up to `high`, or below it."""

    def __init__(self, high: float, closed: Literal["right", "neither"] = "right"):
        super().__init__(Real, 0, high, closed=closed)


class Spec(BaseEstimator):
    """An object an estimator is given: a likelihood, an objective or a network. Hyperparameters only, no state."""

    _parameter_constraints: ClassVar[dict] = {}


def named(value: Any, family: dict[str, Any]) -> Any:
    """The member of a family that a parameter names, or the value itself; an unknown name is for fit to refuse."""
    return family[value]() if isinstance(value, str) and value in family else value
