"""What a wrong parameter may have been meant to be."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import InvalidParameterError, StrOptions, make_constraint

__all__ = ["Hinting", "Names"]


class Names(StrOptions):
    """Names of a family, which an error lists in order."""

    def __str__(self) -> str:
        return f"a str among {{{', '.join(map(repr, sorted(self.options)))}}}"


class Hinting(BaseEstimator):
    """An object whose errors of parameters say what may have been meant."""

    def _validate_params(self) -> None:
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            name = re.findall(r"^The '(\w+)' parameter", str(error))
            hint = _hint(name[0], getattr(self, name[0]), self._parameter_constraints[name[0]]) if name else None
            if hint is None:
                raise
            raise InvalidParameterError(f"{error} {hint}") from None


def _hint(name: str, value: Any, constraints: list[Any]) -> str | None:
    """What a parameter that broke its rule may have been meant to be; None where nothing is like it."""
    rules = [make_constraint(rule) for rule in constraints]
    if isinstance(value, str):
        known = sorted(option for rule in rules if isinstance(rule, StrOptions) for option in rule.options)
        near = get_close_matches(value.lower().replace("-", "_").replace(" ", "_"), known, n=1)
        return f"Did you mean {near[0]!r}?" if near else None
    if isinstance(value, type):
        kinds = tuple(rule for rule in constraints if isinstance(rule, type))
        return f"This is a class; give an object: {name}={value.__name__}()." if issubclass(value, kinds) else None
    if name == "n_components" and isinstance(value, (float, np.floating)) and 0 < value < 1:
        return "A share of the variance is not taken, as it is by PCA; 'auto' chooses a number of latents by it."
    return None
