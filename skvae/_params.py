"""Rules for parameters, shared by the estimators and the objects they take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
from sklearn.utils._param_validation import Interval
from torch import nn

from ._hints import Hinting
from ._saved import damaged, fault_of_names

__all__ = [
    "Activation",
    "Count",
    "NetworkLike",
    "RandomState",
    "Share",
    "Spec",
    "check_count",
    "is_users_function",
    "may_make_modules",
    "named",
]

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


def check_count(name: str, value: Any) -> None:
    """Raise ValueError where a method's parameter is no number of things."""
    if not Count().is_satisfied_by(value):
        raise ValueError(f"{name}={value!r} must be an integer of at least 1.")


class Share(_Numbers):
    """Real numbers above 0 and up to `high`, or below it."""

    def __init__(self, high: float, closed: Literal["right", "neither"] = "right"):
        super().__init__(Real, 0, high, closed=closed)


class Spec(Hinting):
    """An object an estimator is given: a likelihood, an objective or a network. Hyperparameters only, no state.

    Attributes
    ----------
    known : bool
        Whether a saved model's arrays can be checked against the hyperparameters, which say all of their shapes.
    """

    known: ClassVar[bool] = True
    _parameter_constraints: ClassVar[dict] = {}

    def __init__(self) -> None:
        """Without parameters; here, so that the signature is this and not that of `Hinting.__new__`."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        kind = type(self)
        fault = fault_of_names(state, kind, {}) if isinstance(state, dict) else "it is no dict"
        if fault:
            raise damaged(kind.__name__, fault)
        super().__setstate__(state)


def named(value: Any, family: dict[str, Any]) -> Any:
    """The member of a family that a parameter names, or the value itself; an unknown name is for fit to refuse."""
    return family[value]() if isinstance(value, str) and value in family else value


def is_users_function(value: Any) -> bool:
    """Whether a callable may be one of a user's, told without calling it: no class, nothing of numpy's or skvae's."""
    while isinstance(value, partial):
        value = value.func
    owners = value, getattr(value, "__self__", None)
    foreign = all(type(owner).__module__.split(".")[0] not in ("numpy", "scipy", "skvae") for owner in owners)
    return callable(value) and foreign and not isinstance(value, type)


def may_make_modules(value: Any) -> bool:
    """Whether a callable may be one that makes an `nn.Module`."""
    while isinstance(value, partial):
        value = value.func
    return issubclass(value, nn.Module) if isinstance(value, type) else is_users_function(value)
