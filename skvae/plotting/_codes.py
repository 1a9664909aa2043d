"""What pictures ask an estimator about its codes, all of it public: any transformer with an inverse can answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._params import Count
from ._base import Array, checked_place, number

__all__ = ["Codes", "check_codes", "check_count", "checked_pair", "last_step"]

# The unit square's grid, and the latents' of a linear one: what lies beyond has little mass under N(0, 1).
SHARES, SPAN = (0.05, 0.95), (-3.0, 3.0)
BOTH_WAYS = ("transform", "inverse_transform")
# By how much, of their size, codes differ that are one.
ROUNDING = 1e-9


def last_step(estimator: Any) -> Any:
    """The last step of a pipeline, or the estimator itself."""
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def check_count(name: str, value: Any, low: int = 1) -> None:
    """Raise for what is no integer from `low` on."""
    if not Count(low).is_satisfied_by(value):
        raise ValueError(f"{name}={value!r} must be an integer of at least {low}.")


def check_codes(estimator: Any, needs: tuple[str, ...] = BOTH_WAYS) -> None:
    """Raise for an estimator that is not fitted, or has no codes."""
    check_is_fitted(estimator)
    lacking = [method for method in needs if not hasattr(estimator, method)]
    if lacking:
        name = type(last_step(estimator)).__name__
        raise ValueError(f"{name} has no {' and no '.join(lacking)}; take an estimator that has codes.")


def checked_pair(components: Any, n: int, owner: str) -> tuple[int, int]:
    """The places of two of n latents, if there are two."""
    if n < 2:
        raise ValueError(f"A plane needs two latents; {owner} has one.")
    places = [checked_place("components", place, n, "a latent") for place in np.ravel(np.asarray(components, object))]
    if len(places) != 2 or places[0] == places[1]:
        raise ValueError(f"components={components!r} must be two different latents.")
    return places[0], places[1]


class Codes:
    """An estimator's latents: their names, where rows' codes lie, and rows made of codes.

    Parameters
    ----------
    estimator : transformer, or Pipeline of such
        Fitted.
    X : table or None
        Rows whose codes say where codes lie. None: N(0, 1) does, if the estimator can draw from it.
    needs : tuple of str, default=("transform", "inverse_transform")
        The methods that are asked.
    """

    def __init__(self, estimator: Any, X: Any = None, needs: tuple[str, ...] = BOTH_WAYS) -> None:
        check_codes(estimator, needs)
        self.last = last_step(estimator)
        self.names = [str(latent) for latent in self.last.get_feature_names_out()]
        self.rows = None if X is None else np.asarray(estimator.transform(X), dtype=np.float64)

    def place(self, component: Any) -> int:
        """The place of a latent, if it is one."""
        return checked_place("component", component, len(self.names), "a latent")

    def pair(self, components: Any) -> tuple[int, int]:
        """The places of two latents, if there are two."""
        return checked_pair(components, len(self.names), type(self.last).__name__)

    def values(self, component: int, n: int, grid: str = "linear") -> Array:
        """n values of a latent, rising: equally spaced, or so that equal shares of codes lie between them."""
        if self.rows is None and not hasattr(self.last, "sample"):
            raise ValueError(
                f"This {type(self.last).__name__} draws no rows (it has no `sample`), so nothing says where codes lie; "
                "give X, rows whose codes do."
            )
        codes = None if self.rows is None else self.rows[:, component]
        if grid == "quantile":
            shares = np.linspace(*SHARES, n)
            values = norm.ppf(shares) if codes is None else np.quantile(codes, shares)
        else:
            low, high = SPAN if codes is None else np.quantile(codes, norm.cdf(SPAN))
            values = np.linspace(low, high, n)
        if values[-1] - values[0] <= ROUNDING * np.abs(values).max():
            raise ValueError(
                f"The codes of X are all {number(values[0])} in {self.names[component]}; give more rows, or another "
                "latent."
            )
        return values

    def centre(self, row: int | None = None) -> tuple[Array, str]:
        """Where the latents lie that do not move, and how to say so."""
        if row is not None and self.rows is not None:
            return self.rows[row], f"as in row {row}"
        if self.rows is not None:
            return np.median(self.rows, axis=0), "at the codes' medians"
        return np.zeros(len(self.names)), "at 0"
