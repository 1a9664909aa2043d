"""A likelihood for every column, by what the column holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._tables.facts import ColumnFacts, column_facts
from .._tables.moments import Moments, Scale
from ._base import Assigned, Likelihood, LikelihoodModule
from ._bernoulli import Bernoulli
from ._categorical import Categorical
from ._counts import NegativeBinomial
from ._gaussian import Gaussian
from ._warped import LogNormal

__all__ = ["Auto"]

# Nats per cell by which a log-normal distribution must describe a column better to be chosen.
LOG_GAIN = 0.05
# Whole numbers beyond this mean are counts where their variance is so many times the mean: the columns beside it may
# explain much of it, and no count's noise is below its mean.
LARGE_MEAN, LARGE_SPREAD = 30.0, 3.0


class Auto(Likelihood):
    """A likelihood for every column by its type and values; the fitted estimator's `likelihood_` says which.

    - anything but numbers (strings, pandas categories): :class:`Categorical`
    - True and False, 0 and 1: :class:`Bernoulli`
    - whole numbers from 0 on whose variance exceeds their mean, three times if that is above 30:
      :class:`NegativeBinomial`
    - positive numbers that are closer to a log-normal distribution than to a normal one: :class:`LogNormal`
    - other numbers: :class:`Gaussian`

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> rng = np.random.default_rng(0)
    >>> X = np.column_stack([rng.normal(size=200), rng.random(200) < 0.3, rng.exponential(size=200) ** 3])
    >>> VAETransformer(1, likelihood="auto", random_state=0).fit(X).likelihood_
    Mixed(members=[('gaussian', [0]), ('bernoulli', [1]), ('log_normal', [2])])
    """

    __module__ = "skvae"

    reads_cells = True

    def assign(self, X: Any, columns: list[int] | None = None) -> list[Assigned]:
        facts = column_facts(X)
        chosen: dict[type[Likelihood], list[int]] = {}
        for column in range(X.shape[1]) if columns is None else columns:
            chosen.setdefault(_best(facts[column]), []).append(column)
        # Real columns alone need no Mixed; others would refuse the input noise that a Mixed spares them.
        if columns is None and len(chosen) == 1 and set(chosen) <= {Gaussian, LogNormal}:
            return [(kind(), None) for kind in chosen]
        return [(kind(), own) for kind, own in chosen.items()]

    def scale(self, moments: Moments) -> Scale:
        raise NotImplementedError("Auto chooses likelihoods in fit; it is none itself.")

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        raise NotImplementedError("Auto chooses likelihoods in fit; it is none itself.")


def _best(facts: ColumnFacts) -> Any:
    """The class that suits a column."""
    if facts.is_category:
        return Categorical
    if facts.whole and facts.low >= 0:
        if facts.high <= 1:
            return Bernoulli
        # A product of quotients: the square of 1e200 is no number.
        spread = facts.std / max(facts.mean, np.finfo(float).tiny) * facts.std
        if spread > LARGE_SPREAD or (spread > 1 and facts.mean < LARGE_MEAN):
            return NegativeBinomial
    return LogNormal if facts.log_gain > LOG_GAIN else Gaussian
