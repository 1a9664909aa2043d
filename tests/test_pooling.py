"""Rubin's rules: values worked out by hand, limits, and intervals that hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from skvae import VAETransformer, pool


def test_three_numbers_by_hand():
    """Estimates 1, 2, 3 and variances .5, .4, .6: within 1/2, between 1, so T = 1/2 + 4/3."""
    pooled = pool([1.0, 2.0, 3.0], [0.5, 0.4, 0.6])
    assert (pooled.estimate, pooled.n_tables) == (2.0, 3)
    assert pooled.within == pytest.approx(1 / 2)
    assert pooled.between == pytest.approx(1)
    assert pooled.variance == pytest.approx(11 / 6)
    assert pooled.standard_error == pytest.approx(np.sqrt(11 / 6))
    # Of the variance, 8 / 11 come from the gaps; r = 8 / 3, and the degrees of freedom are 2 (1 + 1 / r)^2.
    assert pooled.df == pytest.approx(121 / 32)
    assert pooled.fraction_missing == pytest.approx((8 / 3 + 2 / (121 / 32 + 3)) / (1 + 8 / 3))
    low, high = pooled.interval(0.9)
    assert (low, high) == pytest.approx(stats.t(121 / 32, 2, np.sqrt(11 / 6)).interval(0.9))
    assert pooled.p_value(1.0) == pytest.approx(2 * stats.t(121 / 32).sf(np.sqrt(6 / 11)))


def test_degrees_of_freedom_of_a_small_table():
    """Barnard & Rubin 1999: 1 / (1 / old + 1 / observed)."""
    pooled = pool([1.0, 2.0, 3.0], [0.5, 0.4, 0.6], dfcom=20)
    observed = 21 / 23 * 20 * 3 / 11
    assert pooled.df == pytest.approx(1 / (32 / 121 + 1 / observed))
    assert pooled.df < 20
    assert pool([1.0, 2.0, 3.0], [0.5, 0.4, 0.6], dfcom=1e12).df == pytest.approx(121 / 32)


def test_tables_that_agree_are_one_table():
    pooled = pool([3.0, 3.0], [4.0, 4.0])
    assert (pooled.variance, pooled.df, pooled.fraction_missing) == (4.0, np.inf, 0.0)
    assert pooled.interval() == pytest.approx(stats.norm(3, 2).interval(0.95))
    assert pool([3.0, 3.0], [4.0, 4.0], dfcom=50).df == pytest.approx(51 / 53 * 50)


def test_many_tables_add_no_more_than_their_variance():
    rng = np.random.default_rng(0)
    pooled = pool(rng.normal(size=100_000), np.full(100_000, 3.0), dfcom=None)
    assert pooled.variance == pytest.approx(4.0, rel=0.02)
    assert pooled.fraction_missing == pytest.approx(0.25, rel=0.02)
    assert pooled.df > 1e5


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_every_estimate_is_pooled_by_itself(shape):
    rng = np.random.default_rng(0)
    Q, U = rng.normal(size=(5, *shape)), rng.chisquare(3, size=(5, *shape))
    pooled = pool(Q, U, dfcom=30)
    found = [pooled.estimate, pooled.standard_error, pooled.df, pooled.fraction_missing, *pooled.interval()]
    found.append(pooled.p_value())
    for index in np.ndindex(shape):
        alone = pool(Q[(slice(None), *index)], U[(slice(None), *index)], dfcom=30)
        expected = [alone.estimate, alone.standard_error, alone.df, alone.fraction_missing, *alone.interval()]
        assert [value[index] for value in found] == pytest.approx([*expected, alone.p_value()])
    assert all(np.shape(value) == shape for value in found)


def test_no_variance_at_all_is_no_error():
    pooled = pool([[1.0, 1.0], [1.0, 2.0]], np.zeros((2, 2)), dfcom=10)
    assert pooled.df.tolist() == [11 / 13 * 10, 1.0]
    assert pooled.p_value([1.0, 1.0]).tolist() == [1.0, pytest.approx(2 * stats.t(1).sf(0.5 / np.sqrt(0.75)))]
    assert pooled.p_value()[0] == 0.0


@pytest.mark.parametrize(
    ("estimates", "variances", "words"),
    [
        ([1.0], [1.0], "estimates must hold one entry per completed table, for 2 tables or more; it holds 1 of them"),
        (1.0, 1.0, "it holds a single number"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"estimates has shape \(2,\), variances \(3,\)"),
        ([1.0, np.nan], [1.0, 1.0], "estimates holds a number that is not finite"),
        ([1.0, 2.0], [1.0, -1.0], "variances holds -1.0; a squared standard error is at least 0"),
        ([[1.0], [1.0, 2.0]], [1.0, 1.0], "estimates must hold numbers, of the same shape for every table"),
    ],
)
def test_what_cannot_be_pooled_is_refused(estimates, variances, words):
    with pytest.raises(ValueError, match=words):
        pool(estimates, variances)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="dfcom=0 must be above 0"):
        pool([1.0, 2.0], [1.0, 1.0], dfcom=0)
    with pytest.raises(ValueError, match="level=95 must be between 0 and 1"):
        pool([1.0, 2.0], [1.0, 1.0]).interval(95)


@pytest.mark.parametrize("m", [3, 20])
def test_intervals_hold_the_truth_as_often_as_they_say(m):
    """Means of 15 values of which a third is missing, with draws from their predictive distribution (Rubin 1987)."""
    rng, held, n = np.random.default_rng(m), [], 15
    for _ in range(2000):
        present = rng.normal(size=10)
        # Mean and variance from their posterior, then the missing cells: proper imputation of a normal sample.
        var = 9 * present.var(ddof=1) / rng.chisquare(9, size=m)
        mean = present.mean() + np.sqrt(var / 10) * rng.normal(size=m)
        missing = mean[:, None] + np.sqrt(var)[:, None] * rng.normal(size=(m, 5))
        tables = np.hstack([np.tile(present, (m, 1)), missing])
        low, high = pool(tables.mean(axis=1), tables.var(axis=1, ddof=1) / n, dfcom=n - 1).interval(0.9)
        held.append(low < 0 < high)
    assert np.mean(held) == pytest.approx(0.9, abs=0.025)


def test_slopes_after_imputation():
    """The slope of a regression whose predictor lacks 40 % of its cells: draws keep it, and say how uncertain it is."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    X = np.column_stack([x, 0.5 * x + rng.normal(size=300), x + rng.normal(size=300)])
    X[rng.random(300) < 0.4, 0] = np.nan
    vae = VAETransformer(2, hidden_layer_sizes=(), max_iter=20, random_state=0).fit(X)
    fits = [stats.linregress(table[:, 0], table[:, 1]) for table in vae.impute(X, n_draws=10, random_state=0)]
    pooled = pool([fit.slope for fit in fits], [fit.stderr**2 for fit in fits], dfcom=298)
    low, high = pooled.interval()
    assert low < 0.5 < high
    assert 0.1 < pooled.fraction_missing < 0.7
    assert pooled.standard_error > max(fit.stderr for fit in fits)
