"""One answer from the analyses of several completed tables: Rubin's rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

__all__ = ["Pooled", "pool"]


@dataclass(frozen=True)
class Pooled:
    """What `pool` found; a number, or an array of the shape of one table's estimates, in every place.

    Parameters
    ----------
    estimate : float or ndarray
        Mean of the tables' estimates.
    variance : float or ndarray
        Of the estimate: within + (1 + 1 / m) between.
    within : float or ndarray
        Mean of the tables' variances: what would be left if no cell were missing.
    between : float or ndarray
        Variance of the tables' estimates.
    df : float or ndarray
        Degrees of freedom of the t distribution that intervals and p-values are taken from.
    fraction_missing : float or ndarray
        Share of the information about the estimate that went with the missing cells (Rubin 1987, eq. 3.1.10).
    n_tables : int
        How many completed tables there were, m.
    """

    estimate: Any
    variance: Any
    within: Any
    between: Any
    df: Any
    fraction_missing: Any
    n_tables: int

    @property
    def standard_error(self) -> Any:
        """The square root of the variance."""
        return np.sqrt(self.variance)

    def interval(self, level: float = 0.95) -> tuple[Any, Any]:
        """Both ends of the confidence interval.

        Parameters
        ----------
        level : float, default=0.95
            How often intervals made like this hold the truth; between 0 and 1.

        Returns
        -------
        low, high : float or ndarray
            The estimate, less and plus the standard error times the t distribution's quantile.

        Raises
        ------
        ValueError
            If `level` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level!r} must be between 0 and 1; 0.95 asks for a 95 % interval.")
        reach = special.stdtrit(self.df, (1 + level) / 2) * self.standard_error
        return self.estimate - reach, self.estimate + reach

    def p_value(self, null: Any = 0.0) -> Any:
        """How likely an estimate is that lies at least as far from `null` as this one, if `null` were true.

        Parameters
        ----------
        null : float or array-like, default=0
            The value, or one for every estimate.

        Returns
        -------
        p_value : float or ndarray
            Two-sided.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(self.estimate - np.asarray(null)) / self.standard_error
        return 2 * special.stdtr(self.df, -np.nan_to_num(distance, nan=0.0, posinf=np.inf))


def pool(estimates: Any, variances: Any, *, dfcom: float | None = None) -> Pooled:
    """Pool the results of one analysis, done on several completed tables, by Rubin's rules.

    Run the analysis on every table that multiple imputation gave, and hand over what it said of each: an estimate (a
    mean, a vector or matrix of coefficients) and its squared standard error. The pooled variance is what the tables say
    of it on average, and how much they differ, which is what the missing cells leave open.

    Parameters
    ----------
    estimates : array-like of shape (m, ...)
        The tables' estimates, m of them, 2 or more. Each is a number or an array, of any shape.
    variances : array-like of shape (m, ...)
        Their squared standard errors, estimate by estimate.
    dfcom : float, default=None
        Degrees of freedom that the analysis has where no cell is missing: of a regression, rows minus coefficients.
        None: so many that it does not matter; intervals are too narrow then on small tables.

    Returns
    -------
    pooled : Pooled
        With `estimate`, `variance`, `standard_error`, `df` and `fraction_missing`, and methods `interval(level)` and
        `p_value(null)`.

    Raises
    ------
    ValueError
        If there are fewer than 2 tables, the shapes differ, a number is not finite, a variance is below 0 or `dfcom` is
        not above 0.

    See Also
    --------
    VAETransformer.impute : Completed tables, with `n_draws`.
    VAEImputer : The same as a step of a pipeline, with `sample_posterior=True`.

    References
    ----------
    Rubin, D. B. (1987). Multiple imputation for nonresponse in surveys. Wiley.

    Barnard, J. and Rubin, D. B. (1999). Small-sample degrees of freedom with multiple imputation. Biometrika 86.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer, pool
    >>> X = load_wine().data
    >>> X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    >>> tables = VAETransformer(random_state=0).fit(X).impute(X, n_draws=10, random_state=0)
    >>> means = [table.mean(axis=0) for table in tables]
    >>> squared_errors = [table.var(axis=0, ddof=1) / len(table) for table in tables]
    >>> pooled = pool(means, squared_errors, dfcom=len(X) - 1)
    >>> low, high = pooled.interval(0.95)
    >>> bool((low < load_wine().data.mean(axis=0)).all())
    True
    """
    Q, U = (_checked(values, name) for values, name in ((estimates, "estimates"), (variances, "variances")))
    if Q.shape != U.shape:
        raise ValueError(
            f"estimates has shape {Q.shape}, variances {U.shape}: every estimate has a variance of its own."
        )
    if (U < 0).any():
        raise ValueError(f"variances holds {U.min()}; a squared standard error is at least 0.")
    if dfcom is not None and not dfcom > 0:
        raise ValueError(f"dfcom={dfcom!r} must be above 0: the degrees of freedom of the analysis without gaps.")
    m, within, between = len(Q), U.mean(axis=0), Q.var(axis=0, ddof=1)
    added = (1 + 1 / m) * between
    variance = within + added
    share = np.divide(added, variance, out=np.zeros_like(variance), where=variance > 0)
    with np.errstate(divide="ignore", over="ignore"):
        df = (m - 1) / np.square(share)
    fraction = share + (1 - share) * 2 / (df + 3)
    if dfcom is not None:
        of_present = (dfcom + 1) / (dfcom + 3) * dfcom * (1 - share)
        # 1 / (1 / a + 1 / b), where a may be infinite; an estimate without a variance of its own has no such degrees.
        df = np.where(share < 1, of_present / (1 + of_present / df), df)[()]
    return Pooled(Q.mean(axis=0), variance, within, between, df, fraction, m)


def _checked(values: Any, name: str) -> np.ndarray:
    """Numbers of m tables, as an array."""
    try:
        found = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers, of the same shape for every table: {error}") from error
    if found.ndim == 0 or len(found) < 2:
        n_tables = f"{len(found)} of them" if found.ndim else "a single number"
        raise ValueError(
            f"{name} must hold one entry per completed table, for 2 tables or more; it holds {n_tables}. How much the "
            "tables differ says what the gaps leave open: impute(X, n_draws=20) gives 20."
        )
    if not np.isfinite(found).all():
        raise ValueError(f"{name} holds a number that is not finite; leave out analyses that failed.")
    return found
