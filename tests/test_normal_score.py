"""Columns through the map that makes them normal: what it learns of a column, and what comes back of one."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from helpers import seeded
from members import columns_of
from scipy import stats
from sklearn.datasets import load_wine

from skvae import Gaussian, LogNormal, Mixed, NegativeBinomial, NormalScore, VAEAnomalyDetector, VAETransformer
from skvae.likelihoods import _base, covariance, start_linear
from skvae.likelihoods._cell_mass import log_mass, mass_bend, mass_slopes
from skvae.likelihoods._marginal import Column, Trial, best, fitted, of_values, tried

RNG = np.random.default_rng(0)
N = 2000
COLUMNS = {
    "normal": RNG.normal(size=N),
    "log-normal": np.exp(RNG.normal(size=N)),
    "uniform": RNG.random(N),
    "two groups": np.where(RNG.random(N) < 0.3, -3.0, 3.0) + RNG.normal(size=N),
    "zeros and amounts": np.where(RNG.random(N) < 0.7, 0.0, np.round(np.exp(6 + RNG.normal(size=N)))),
    "hours": np.where(RNG.random(N) < 0.5, 40.0, np.clip(np.round(RNG.normal(40, 12, N)), 1, 99)),
    "counts": RNG.negative_binomial(3, 0.2, N).astype(float),
    "cents": np.round(RNG.gamma(3.0, 20.0, N), 2),
}


@pytest.fixture
def rng():
    """Of a test's own: tests come in any order."""
    return np.random.default_rng(0)


def alone(member, x):
    """The density of one column whose latents tell nothing, and its outputs."""
    density, scale, rows = columns_of(member, x[:, None])
    start = start_linear(density, covariance(density, rows), 0)
    return density, scale, torch.as_tensor(start.decoder_bias)[None]


def log_p(member, train, test):
    """Of a column's test rows, in nats of data units."""
    density, scale, outputs = alone(member, train)
    with torch.no_grad():
        return density.log_prob(outputs.expand(len(test), -1), torch.tensor(scale.to_model(test[:, None])))[
            :, 0
        ].numpy()


# The mass of a cell


@pytest.mark.parametrize("w", [1e-12, 1e-6, 0.9e-5, 1.1e-5, 1e-3, 0.3, 5.0, 200.0])
@pytest.mark.parametrize("u", [0.0, 1e-3, -0.5, 3.0, -40.0, 1e4])
def test_the_mass_of_a_cell_and_its_slopes_have_all_digits(u, w):
    mpmath.mp.dps = 60
    a, b = mpmath.mpf(u) - mpmath.mpf(w), mpmath.mpf(u) + mpmath.mpf(w)
    # From the side on which the tail is small.
    mass = (mpmath.erfc(a / mpmath.sqrt(2)) - mpmath.erfc(b / mpmath.sqrt(2))) / 2
    if u < 0:
        mass = (mpmath.erfc(-b / mpmath.sqrt(2)) - mpmath.erfc(-a / mpmath.sqrt(2))) / 2
    if mass <= 0:
        pytest.skip("beyond what sixty digits tell")
    at = [mpmath.npdf(end) / mass for end in (a, b)]
    slopes = [float(at[1] - at[0]), float(b * at[1] - a * at[0])]
    for array in (np.array([[u], [u]]), torch.tensor([[u], [u]], dtype=torch.float64)):
        width = array * 0 + w
        found = log_mass(array, width)
        assert float(found[0, 0]) == pytest.approx(float(mpmath.log(mass)), rel=1e-9, abs=1e-9)
        own = [float(slope[0, 0]) for slope in mass_slopes(array, width, found)]
        assert own == pytest.approx(slopes, rel=1e-4, abs=1e-4)
        bend = float(a * at[0] - b * at[1] - (at[1] - at[0]) ** 2)
        assert float(mass_bend(array, width)[0, 0]) == pytest.approx(bend, abs=1e-4)


# What is learnt of a column


@pytest.mark.parametrize(
    ("X", "step"),
    [
        ([3.0, 1.0, 2.0, 7.0], 1.0),
        ([1000.0, 250.0, 500.0], 250.0),
        ([0.3, 0.1, 0.2], 0.1),
        ([17.25, 17.75, 19.25], 0.5),
        ([1e-5, 3e-5, 4e-5], 1e-5),
        ([2.0**30, 2.0**30 + 64.0], 64.0),
        ([7.0], 1.0),
    ],
)
def test_the_grid_is_the_coarsest_that_holds_all_values(X, step):
    grid = Column.of(np.array(X)).grid
    assert grid.step / grid.parts == pytest.approx(step, rel=1e-12)
    whole = (np.array(X) * grid.parts - grid.offset) / grid.step
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_numbers_with_many_digits_have_no_grid(scale, rng):
    assert Column.of(rng.normal(size=200) * scale + 0.1 * scale).grid is None


def test_whole_numbers_that_somebody_standardised_have_the_grid_they_had(rng):
    x = stats.zscore(rng.integers(0, 30, 500))
    grid = Column.of(x).grid
    assert grid.step == pytest.approx(np.diff(np.unique(x)).min(), rel=1e-9)


def test_the_map_is_the_one_that_makes_other_rows_likeliest():
    found = {name: best(Column.of(x)) for name, x in COLUMNS.items()}
    assert {name: how for name, how in found.items() if isinstance(how, str)} == {
        "normal": "normal",
        "log-normal": "log-normal",
        "counts": "gamma",
        "cents": "gamma",
    }
    assert found["zeros and amounts"] >= 4


def test_held_out_likelihood_is_the_densitys():
    column = Column.of(COLUMNS["hours"])
    for how in ("normal", "log-normal", "gamma", 2, 16):
        found = fitted(column, how)
        x = column.values[:, None]
        low, high = (found.score(x[:, 0] + side * 0.5) for side in (-1, 1))
        expected = np.log(stats.norm.cdf(high) - stats.norm.cdf(low))
        np.testing.assert_allclose(of_values(column, found), expected, rtol=1e-3)


def test_more_knots_are_no_better_where_values_are_few(rng):
    x = rng.normal(size=100)
    found = {how: trial.mean for how, trial in tried(Column.of(x)).items()}
    assert found[16] < max(found.values())
    assert best(Column.of(x)) in ("normal", 2, 4, 8)
    assert set(tried(Column.of(np.array([1.0, 1.0])))) == set()


def test_a_lead_is_the_mean_of_its_rows_and_has_their_standard_error(rng):
    x = rng.normal(size=400)
    column = Column.of(x)
    one, other = (Trial.of(column, lambda weight, k=k: column.values**k + 0 * weight) for k in (2, 1))
    ahead = np.clip(x**2 - x, -2, 2)  # no row counts for more
    assert one.lead(other, len(x)) == pytest.approx((ahead.mean(), ahead.std() / 20), rel=1e-9)


def nats(column):
    return {how: trial.mean for how, trial in tried(column).items()}


def test_rows_in_any_order_units_and_copies_are_the_same_column(rng):
    x = COLUMNS["hours"]
    plain = nats(Column.of(x))
    assert nats(Column.of(rng.permutation(x))) == plain
    scaled = nats(Column.of(np.ldexp(x, 40)))
    np.testing.assert_allclose(list(scaled.values()), np.array(list(plain.values())) - 40 * math.log(2))
    values, counts = np.unique(x, return_counts=True)
    assert nats(Column.of(values, counts.astype(float))) == plain


def test_a_common_value_has_its_share_and_none_is_impossible():
    x = COLUMNS["zeros and amounts"]
    share = np.exp(log_p(NormalScore(), x, np.array([0.0])))
    assert share[0] == pytest.approx((x == 0).mean(), abs=2 / N)
    never = log_p(NormalScore(), x, np.array([-1.0, 3.0, x.max() + 100]))
    assert (never > -25).all()
    assert (never < -8).all()


@pytest.mark.parametrize("name", COLUMNS)
def test_the_distribution_sums_to_one_over_its_grid(name):
    density, scale, outputs = alone(NormalScore(), COLUMNS[name])
    low, high = density.encoding.kept("ends")[0].numpy()
    edges = density.encoding.kept("edges")[0].numpy()
    cell, outputs = float(density.encoding.kept("cell")[0]), outputs + 0.3
    if (high - low) / cell < 1e6:
        reach = int(8 * (high - low) / cell)
        x, weight = low + cell * np.arange(-reach, reach), np.full(2 * reach, cell)
    else:  # a density, smooth between knots
        points, weights = np.polynomial.legendre.leggauss(40)
        inner = edges[(edges > edges[0] - 1) & (np.append(np.diff(edges), 1) > 0)]
        ends = np.linspace(inner[:-1], inner[1:], 20)
        start, width = ends[:-1].ravel(), np.diff(ends, axis=0).ravel()
        x = (start[:, None] + width[:, None] * (points + 1) / 2).ravel()
        weight = (width[:, None] * weights / 2).ravel()
    with torch.no_grad():
        found = density.log_prob(outputs.expand(len(x), -1), torch.tensor(x)[:, None])[:, 0].exp().numpy()
    assert found @ weight * scale.scale[0] == pytest.approx(1, abs=1e-5)


def test_a_normal_column_has_the_density_of_a_gaussian(rng):
    x, test = COLUMNS["normal"], rng.normal(size=50)
    np.testing.assert_allclose(log_p(NormalScore(), x, test), log_p(Gaussian(), x, test), atol=1e-5)


@pytest.mark.parametrize("name", COLUMNS)
def test_held_out_rows_are_as_likely_as_under_the_best_other(name):
    """In nats of the same units: a density of whole numbers is compared by its probabilities."""
    x = COLUMNS[name]
    train, test = x[::2], x[1::2]
    others = [Gaussian()]
    if x.min() > 0:
        others.append(LogNormal())
    if (x % 1 == 0).all():
        others.append(NegativeBinomial())
    found = log_p(NormalScore(), train, test)
    expected = max(log_p(other, train, test).mean() for other in others)
    assert found.mean() > expected - 0.015
    assert np.isfinite(found).all()


# What comes back


def test_what_was_recorded_comes_back():
    X = np.column_stack(list(COLUMNS.values()))
    density, scale, rows = columns_of(NormalScore(), X)
    back = scale.to_data(density.encoding.decode(density.encoding.encode(rows.x)).numpy())
    np.testing.assert_allclose(back, X, rtol=1e-5, atol=1e-5)
    for name in ("zeros and amounts", "hours", "counts", "cents"):
        column = list(COLUMNS).index(name)
        np.testing.assert_array_equal(back[:, column], X[:, column])


def test_the_column_that_is_drawn_is_the_column_that_was_seen():
    """Of the start without latents: Kolmogorov's distance is what the numbers of rows and draws allow."""
    X = np.column_stack(list(COLUMNS.values()))
    density, scale, rows = columns_of(NormalScore(), X)
    bias = torch.as_tensor(start_linear(density, covariance(density, rows), 0).decoder_bias)
    with torch.no_grad():
        drawn = scale.to_data(density.sample(bias.expand(20_000, -1), seeded()).numpy())
    for seen, own in zip(X.T, drawn.T, strict=True):
        assert stats.ks_2samp(seen, own).statistic < 1.63 * math.sqrt(1 / N + 1 / len(drawn))
        assert seen.min() - 1e-12 <= own.min()
        assert own.max() <= seen.max() + 1e-12
    for name in ("zeros and amounts", "hours", "counts", "cents"):
        own = drawn[:, list(COLUMNS).index(name)]
        np.testing.assert_array_equal(own, np.round(own, 2 if name == "cents" else 0))


@pytest.mark.parametrize("shift", [0.0, 1.0, -2.0])
def test_the_mean_is_that_of_the_draws(shift):
    """Knots without a bend may stand before those with one, as beyond the least value of a short column."""
    for column in [*COLUMNS.values(), *load_wine().data.T]:
        density, _, rows = columns_of(NormalScore(), column[:, None])
        bias = shift + torch.as_tensor(start_linear(density, covariance(density, rows), 0).decoder_bias)
        with torch.no_grad():
            drawn = density.sample(bias.expand(20_000, -1), seeded()).numpy()
            mean = float(density.mean(bias[None]))
        error = float(drawn.std()) / math.sqrt(len(drawn)) + 0.05 * float(density.encoding.kept("cell"))
        assert abs(drawn.mean() - mean) < 5 * error


WIDE = {
    "tiny": lambda x: 1e-300 * x,
    "huge": lambda x: 1e300 * x,
    "tiny and huge": lambda x: np.where(x > 0, 1e300, 1e-300),
    "constant": lambda x: np.full_like(x, 7.25),
    "zero": np.zeros_like,
    "two values": lambda x: np.where(x > 0, 5.0, -3.0),
    "long whole numbers": lambda x: np.round(1e9 * x),
    "far from zero": lambda x: 1e12 + np.round(x, 2),
    "one far out": lambda x: np.where(x == x.max(), 1e9, x),
}


@pytest.mark.filterwarnings("ignore:VAETransformer stopped at")
@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_any_column_fits_and_comes_back(kind, dtype, rng):
    x = rng.normal(size=60)
    with np.errstate(over="ignore"):
        column = WIDE[kind](x).astype(dtype)
    if not np.isfinite(column).all():
        column = np.clip(column, -1e38, 1e38).astype(dtype)
    X = np.column_stack([x, column, -column]).astype(dtype)
    X[3, 1] = np.nan
    vae = VAETransformer(1, likelihood="normal_score", max_iter=2, random_state=0).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    assert np.isfinite(vae.transform(X)).all()
    drawn = vae.sample(50, random_state=0)
    beyond = 1e-6 * np.abs(X[:, 2]).max()
    assert (drawn[:, 2] >= X[:, 2].min() - beyond).all()
    assert (drawn[:, 2] <= X[:, 2].max() + beyond).all()
    filled = vae.impute(X)
    assert np.isfinite(filled).all()
    if kind in ("constant", "zero", "two values"):
        assert set(drawn[:, 2]) <= set(X[:, 2])
    if kind == "long whole numbers" and dtype == np.float64:
        np.testing.assert_array_equal(drawn[:, 2] % 1, 0)


def test_a_large_table_is_learnt_from_rows_all_over_it(monkeypatch):
    monkeypatch.setattr(_base, "MOST_ROWS", 100)
    x = np.sort(COLUMNS["normal"])[:1990]
    found, part = (columns_of(NormalScore(n_knots=4), rows[:, None])[0] for rows in (x, x[::20]))
    torch.testing.assert_close(found.encoding.kept("edges"), part.encoding.kept("edges"), rtol=0.02, atol=0.02)


def test_a_mixture_of_members_shows_each_its_own_columns():
    X = np.column_stack([COLUMNS["hours"], COLUMNS["normal"], COLUMNS["cents"]])
    X[::3, 2] = np.nan
    mixed = columns_of(Mixed([("normal_score", [2, 0]), ("gaussian", [1])]), X)[0]
    own = columns_of(NormalScore(), X[:, [2, 0]])[0]
    for found, expected in zip(mixed.members[0].buffers(), own.buffers(), strict=True):
        assert torch.equal(found, expected)


def test_later_chunks_keep_the_knots_of_the_first_one():
    X = np.column_stack([COLUMNS["hours"], COLUMNS["cents"]])
    vae = VAETransformer(1, likelihood="normal_score", random_state=0).partial_fit(X[:500])
    first = vae._weights["likelihood.encoding.edges"].copy()
    vae.partial_fit(1.2 * X[500:])
    np.testing.assert_array_equal(vae._weights["likelihood.encoding.edges"], first)
    assert np.isfinite(vae.score(1.2 * X[500:]))


def test_a_detector_takes_it_and_finds_what_is_rare():
    X = np.column_stack([COLUMNS["hours"], COLUMNS["zeros and amounts"]])
    detector = VAEAnomalyDetector(n_components=1, likelihood="normal_score", max_iter=2, random_state=0).fit(X)
    usual, rare = detector.score_samples(np.array([[40.0, 0.0], [97.0, 1.0]]))
    assert rare < usual - 3


def test_what_the_network_learns_beats_independent_columns(rng):
    z = rng.normal(size=(600, 1))
    X = np.round(np.exp(2 + z + 0.3 * rng.normal(size=(600, 4))))
    vae = VAETransformer(1, likelihood="normal_score", max_iter=20, random_state=0).fit(X[:400])
    independent = sum(log_p(NormalScore(), X[:400, d], X[400:, d]).mean() for d in range(4))
    assert vae.score(X[400:]) > independent + 2


def test_values_as_far_apart_as_floats_can_be_have_no_grid():
    far = np.array([-7e299, -1.0, -3e-206, 0.0, 5e-324, 3e-158, 0.02, 1.0, 4e16, 6e299, 1e300])
    assert Column.of(np.repeat(far, 2)).grid is None
