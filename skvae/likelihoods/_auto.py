"""A likelihood for every column, by what the column holds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from scipy.stats import nbinom

from .._tables.doubts import warn_of_constants
from .._tables.facts import ColumnFacts, column_facts
from .._tables.frames import label_of
from .._tables.moments import MOST_EXPONENT, Array, Moments, Scale
from ._base import Assigned, Likelihood, LikelihoodModule
from ._bernoulli import Bernoulli
from ._categorical import Categorical
from ._counts import NegativeBinomial
from ._gaussian import Gaussian
from ._marginal import Column, Trial, tried
from ._normal_score import NormalScore
from ._warped import LogNormal

__all__ = ["Auto"]

# Nats a cell by which a likelihood must describe other rows of a column better than a plainer one, and standard errors
# of that: of few rows the best of several is often so by chance.
LEAD, SURE = 0.02, 2.0


class Auto(Likelihood):
    """A likelihood for every column by its type and values; the fitted estimator's `likelihood_` says which.

    - anything but numbers (strings, pandas categories): :class:`~skvae.Categorical`
    - True and False, 0 and 1: :class:`~skvae.Bernoulli`
    - other numbers: :class:`~skvae.Gaussian`, unless another makes a column's values likelier:
      :class:`~skvae.LogNormal` where all are above 0, :class:`~skvae.NegativeBinomial` of whole numbers from 0 on that
      are not all multiples of one, as amounts are, and at last :class:`~skvae.NormalScore`

    How likely is found by fitting the column alone to either half of its rows and looking at the other half; each must
    be ahead of those before it by 0.02 nats a cell and two standard errors. At most 10,000 rows are looked at, evenly
    spaced, and fewer of wide tables; whether all numbers are whole is seen in all rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> rng = np.random.default_rng(0)
    >>> X = np.column_stack([rng.normal(size=200), rng.random(200) < 0.3, rng.exponential(size=200) ** 3])
    >>> VAETransformer(1, likelihood="auto", random_state=0).fit(X).likelihood_
    Mixed(members=[('gaussian', [0]), ('bernoulli', [1]), ('log_normal', [2])])
    """

    __module__ = "skvae.likelihoods"

    reads_cells = True

    def assign(self, X: Any, columns: list[int] | None = None) -> list[Assigned]:
        facts = column_facts(X)
        wanted = list(range(X.shape[1])) if columns is None else columns
        if len(X) > 1:
            warn_of_constants([label_of(X, column) for column in wanted if _is_constant(facts[column])])
        chosen: dict[type[Likelihood], list[int]] = {}
        for column in wanted:
            chosen.setdefault(_best(facts[column]), []).append(column)
        # Real columns alone need no Mixed; others would refuse the input noise that a Mixed spares them.
        if columns is None and len(chosen) == 1 and set(chosen) <= {Gaussian, LogNormal}:
            return [(kind(), None) for kind in chosen]
        return [(kind(), own) for kind, own in chosen.items()]

    def scale(self, moments: Moments) -> Scale:
        raise NotImplementedError("Auto chooses likelihoods in fit; it is none itself.")

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        raise NotImplementedError("Auto chooses likelihoods in fit; it is none itself.")


def _is_constant(facts: ColumnFacts) -> bool:
    """Whether a column holds one number; of one category it is said elsewhere."""
    return not facts.is_category and len(facts.values) > 0 and facts.low == facts.high


def _best(facts: ColumnFacts) -> type[Likelihood]:
    """The class that suits a column."""
    if facts.is_category:
        return Categorical
    if facts.whole and facts.low >= 0 and facts.high <= 1:
        return Bernoulli
    if not -np.inf < facts.low < facts.high < np.inf or not len(facts.values):
        return Gaussian  # infinity is refused where rows are checked
    # In units of a power of two, in which 1e-300 and 1e300 are ordinary numbers.
    exponent = int(np.frexp(np.abs(facts.values[[0, -1]]).max())[1].clip(-MOST_EXPONENT, MOST_EXPONENT))
    column = Column.of(np.ldexp(facts.values, -exponent), None, 0.0, np.ldexp(1.0, exponent))
    found = tried(column)
    if not found:
        return Gaussian
    trials: dict[type[Likelihood], Trial] = {Gaussian: found.pop("normal")}
    if "log-normal" in found:
        trials[LogNormal] = found.pop("log-normal")
    # Multiples of ten are amounts: no count leaves nine numbers of ten out.
    if facts.whole and facts.low >= 0 and (column.grid is None or column.grid.step == 1):
        trials[NegativeBinomial] = Trial.of(column, partial(_log_p_of_counts, column, 2.0**exponent))
    trials[NormalScore] = max(found.values(), key=lambda trial: trial.mean)
    best: type[Likelihood] = Gaussian
    for kind, trial in trials.items():
        lead, error = trial.lead(trials[best], column.weight.sum())
        best = kind if lead > LEAD + SURE * error else best
    return best


def _log_p_of_counts(column: Column, scale: float, weight: Array) -> Array:
    """Of the column's values under the negative binomial of so weighing values' moments."""
    counts = column.values * scale
    mean = np.average(counts, weights=weight) + 1e-6
    excess = np.average((counts - mean) ** 2, weights=weight) - mean
    r = mean * min(mean / max(excess, 1e-12), 1e6)
    return nbinom.logpmf(counts, r, r / (r + mean)) + np.log(scale)
