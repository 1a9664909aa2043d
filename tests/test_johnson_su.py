"""Johnson's SU, the likelihood of heavy tails."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from helpers import column_moments, seeded
from members import columns_of, johnson_su, outputs_for, table, unit_of
from scipy import integrate, stats
from sklearn.utils._param_validation import InvalidParameterError

from skvae import Gaussian, JohnsonSU, VAETransformer
from skvae._linear import Covariance
from skvae._tables.batches import to_rows
from skvae.likelihoods import (
    baseline,
    covariance,
    start_linear,
)

D = 3


def heavy_tailed(n_rows=200, seed=0):
    """A normal column, one of Student's t with 2 degrees of freedom, and one of a few huge values."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(size=n_rows), rng.standard_t(2, n_rows), rng.normal(size=n_rows)])
    X[:3, 2] = [1e4, -3e4, 1e5]
    return X * [0.5, 200.0, 1.0] + [1.0, -5.0, 1000.0]


def johnson(X, tail=2.0, log_noise=-0.7, unit=1.0, weight=None):
    density, scale, rows = columns_of(JohnsonSU(tail), X, weight)
    density.log_noise.data.fill_(log_noise)
    density.unit.fill_(unit)
    return density, scale, rows


TAILS = pytest.mark.parametrize("tail", [0.3, 2.0, 50.0])


@TAILS
@pytest.mark.parametrize("unit", [1.0, 0.3])
def test_johnson_su_is_scipys_to_the_last_digits(tail, unit):
    X = heavy_tailed()
    density, scale, rows = johnson(X, tail, unit=unit)
    outputs = outputs_for(density, 4, len(X))
    found = density.log_prob(outputs, rows.x).detach().numpy()
    np.testing.assert_allclose(found, johnson_su(density, scale, outputs.numpy()).logpdf(X), rtol=1e-10, atol=1e-10)


@TAILS
def test_johnson_su_integrates_to_one_far_into_its_tails(tail):
    density, scale, _ = johnson(heavy_tailed(), tail, log_noise=0.5)
    outputs = outputs_for(density, 1)

    def value(t, d):
        """In t = arcsinh of the standardised column, where the density is as short as a normal's."""
        x = torch.zeros(1, D, dtype=torch.float64)
        x[0, d] = tail * math.sinh(t)
        jacobian = scale.scale[d] * tail * math.cosh(t)
        return math.exp(density.log_prob(outputs, x)[0, d].item()) * jacobian

    for d in range(D):
        mean, spread = (
            float((density.encoding.centre + density.encoding.spread * outputs)[0, d]) / tail,
            float(density.encoding.spread[d]) / tail,
        )
        std = spread * math.exp(0.25)
        area, _ = integrate.quad(value, mean - 10 * std, mean + 10 * std, args=(d,), epsabs=1e-12, limit=200)
        assert area == pytest.approx(1, abs=1e-9)


@TAILS
@pytest.mark.parametrize("log_noise", [-4.0, -0.7])
def test_johnson_sus_mean_is_that_of_its_density_by_quadrature(tail, log_noise):
    density, scale, _ = johnson(table("johnson_su"), tail, log_noise)
    outputs = outputs_for(density, 5)
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    oracle = johnson_su(density, scale, outputs.numpy())
    # X = loc + scale sinh((t - a) / b) for a standard normal t.
    a, b = (np.asarray(value) for value in oracle.args)
    values = oracle.kwds["loc"] + oracle.kwds["scale"] * np.sinh((points[:, None, None] - a) / b)
    expected = np.tensordot(weights, values, 1) / weights.sum()
    found = scale.to_data(density.mean(outputs).detach().numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(found, oracle.mean(), rtol=1e-9)


@TAILS
def test_johnson_sus_samples_have_its_quantiles_and_moments(tail, any_seed):
    density, scale, _ = johnson(table("johnson_su"), tail, log_noise=-1.5)
    outputs, n = outputs_for(density, 1), 40_000
    with torch.no_grad():
        draws = scale.to_data(density.sample(outputs.expand(n, -1), seeded(any_seed)).numpy())
    oracle = johnson_su(density, scale, outputs.numpy())
    for d in range(D):
        one = stats.johnsonsu(*(np.ravel(p)[d] for p in oracle.args), **{k: v[d] for k, v in oracle.kwds.items()})
        assert stats.kstest(draws[:, d], one.cdf).pvalue > 1e-7
        assert abs(draws[:, d].mean() - one.mean()) < 5 * one.std() / math.sqrt(n)
        assert draws[:, d].std() == pytest.approx(one.std(), rel=0.1 if tail < 1 else 0.03)


def test_johnson_su_of_a_large_tail_is_gaussian_with_shared_noise_of_scaled_columns():
    X = table("johnson_su")
    density, scale, rows = johnson(X, tail=1e6)
    outputs = outputs_for(density, len(X))
    spread = density.encoding.spread.numpy()
    std = np.exp(0.5 * density.log_noise.detach().numpy()) * spread * scale.scale
    mean = (outputs.numpy() * spread + density.encoding.centre.numpy()) * scale.scale + scale.shift
    found = density.log_prob(outputs, rows.x).detach().numpy()
    np.testing.assert_allclose(found, stats.norm(mean, std).logpdf(X), rtol=1e-6, atol=1e-6)


def test_johnson_sus_encoder_sees_centred_columns_of_mean_variance_one():
    density, _, rows = johnson(heavy_tailed())
    seen = density.encoding.encode(rows.x).numpy()
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-6)
    assert seen.var(0).mean() == pytest.approx(1, rel=1e-6)


def test_johnson_sus_spread_is_the_geometric_mean_of_deviation_and_range():
    X = heavy_tailed()
    density, scale, _ = johnson(X)
    bent = 2 * np.arcsinh(scale.to_model(X) / 2)
    expected = np.sqrt(bent.std(0) * np.ptp(bent, axis=0))
    ratio = density.encoding.spread.numpy() / expected
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_the_unit_of_a_column_of_two_values_is_its_range_however_rare_one_is():
    X = np.column_stack([np.arange(200) < 100, np.arange(200) < 6, np.arange(200) == 0, heavy_tailed(200)[:, 0]])
    density, scale, _ = johnson(X.astype(float))
    bent = 2 * np.arcsinh(scale.to_model(X.astype(float)) / 2)
    unit = np.append(np.ptp(bent[:, :3], axis=0), np.sqrt(bent[:, 3].std() * np.ptp(bent[:, 3])))
    ratio = density.encoding.spread.numpy() / unit
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_weights_count_as_repeated_rows_in_johnson_sus_columns():
    X = heavy_tailed(30)
    copies = np.arange(30) % 3 + 1
    weighted = johnson(X, weight=copies.astype(float))[0]
    repeated = johnson(np.repeat(X, copies, axis=0))[0]
    for key in ("encoding.centre", "encoding.spread", "log_floor"):
        one, other = (density.get_buffer(key) for density in (weighted, repeated))
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_johnson_sus_columns_are_those_of_the_present_cells():
    X = heavy_tailed(60)
    gaps = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    found = johnson(gaps)[0]
    scale = JohnsonSU().scale(column_moments(gaps))
    for d in range(D):
        x = (gaps[:, d] - scale.shift[d]) / scale.scale[d]
        bent = 2 * np.arcsinh(x[~np.isnan(x)] / 2)
        assert float(found.encoding.centre[d]) == pytest.approx(bent.mean(), abs=1e-6)
    bent = 2 * np.arcsinh(scale.to_model(gaps) / 2)
    ratio = found.encoding.spread.numpy() / np.sqrt(np.nanstd(bent, 0) * (np.nanmax(bent, 0) - np.nanmin(bent, 0)))
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_baseline_of_johnson_su_is_the_density_of_its_linear_model():
    """Gaussian in y, times the Jacobian of the columns."""
    X = heavy_tailed()
    weight = np.linspace(0.5, 1.5, len(X))
    density, scale, rows = johnson(X, weight=weight)
    seen = density.encoding.encode(rows.x).numpy()
    cov = Covariance.of(seen, weight=weight)
    start = start_linear(density, cov, 1)
    W = unit_of(density) * start.decoder_weight
    model = stats.multivariate_normal(np.zeros(D), W @ W.T + density.log_noise.exp().item() * np.eye(D))
    slope = 1 / (np.sqrt(1 + (scale.to_model(X) / 2) ** 2) * density.encoding.spread.numpy() * scale.scale)
    expected = np.average(model.logpdf(seen) + np.log(slope).sum(1), weights=weight)
    assert baseline(density, rows, cov, 1) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("missing", [False, True])
def test_johnson_su_starts_at_its_baseline(missing):
    """As many nats as the linear model has: the bound at the start is exact, but for the gaps."""
    X = table("johnson_su", 300)
    X[:, 1] = X[:, 0] * 3 + X[:, 1] / 4
    X[np.random.default_rng(0).random(X.shape) < (0.1 if missing else 0)] = np.nan
    vae = VAETransformer(
        1, likelihood="johnson_su", hidden_layer_sizes=(), max_iter=1, learning_rate_init=1e-12, random_state=0
    ).fit(X)
    rows = to_rows(X, vae._inference().scale)
    density = copy.deepcopy(vae.module_.likelihood).float()
    expected = baseline(density, rows, covariance(density, rows), 1)
    assert vae.score(X) == pytest.approx(expected, abs=0.1 if missing else 1e-3)


def test_johnson_su_fits_heavy_tails_better_than_a_gaussian():
    X = heavy_tailed(600)
    shared = {"hidden_layer_sizes": (8,), "max_iter": 30, "random_state": 0}
    heavy = VAETransformer(1, likelihood=JohnsonSU(), **shared).fit(X[:300]).score(X[300:])
    gaussian = VAETransformer(1, likelihood=Gaussian("shared"), **shared).fit(X[:300]).score(X[300:])
    assert heavy > gaussian + 1


def test_a_johnson_su_model_has_no_noise_variance():
    vae = VAETransformer(1, likelihood="johnson_su", max_iter=1, random_state=0).fit(table("johnson_su"))
    assert not hasattr(vae, "noise_variance_")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_johnson_su_keeps_the_dtype_and_gives_the_same_numbers(dtype):
    X = table("johnson_su").astype(np.float32)
    vae = VAETransformer(2, likelihood="johnson_su", max_iter=3, random_state=0).fit(X.astype(dtype))
    assert vae.transform(X.astype(dtype)).dtype == dtype
    assert vae.reconstruct(X.astype(dtype)).dtype == dtype
    assert vae.score_samples(X.astype(dtype)).dtype == np.float64
    double = VAETransformer(2, likelihood="johnson_su", max_iter=3, random_state=0).fit(X.astype(np.float64))
    np.testing.assert_allclose(vae.score_samples(X), double.score_samples(X), rtol=1e-5)


CONSTANTS = {
    "one": lambda X: np.column_stack([X, np.full(len(X), 3.0)]),
    "zero": lambda X: np.column_stack([X, np.zeros(len(X))]),
    "all": lambda X: np.ones_like(X) * [1.0, 0.0, -1e300],
    "but for rounding": lambda X: np.column_stack([X, 1e12 + 1e-4 * X[:, 0]]),
    "but for rounding, tiny": lambda X: np.column_stack([X, np.where(X[:, 0] > 0, 1e-40, np.nextafter(1e-40, 1))]),
    "one value": lambda X: np.column_stack([X, np.r_[7.0, np.full(len(X) - 1, np.nan)]]),
    "rows alike": lambda X: np.repeat(X[:1], len(X), axis=0),
}


@pytest.mark.filterwarnings("ignore:VAETransformer stopped at")
@pytest.mark.parametrize("table_of", CONSTANTS)
def test_johnson_su_takes_columns_that_do_not_vary(table_of):
    X = CONSTANTS[table_of](table("johnson_su"))
    vae = VAETransformer(1, likelihood="johnson_su", max_iter=3, random_state=0).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    flat = np.nanmax(X, axis=0) == np.nanmin(X, axis=0)
    back = vae.reconstruct(X)
    assert np.isfinite(back).all()
    constant = np.broadcast_to(np.nanmax(X, axis=0)[flat], (len(X), flat.sum()))
    np.testing.assert_array_equal(back[:, flat], constant)


@pytest.mark.parametrize("value", [1e6, 1e39, 1e150, 1e300, 1.7e308])
@pytest.mark.parametrize("sign", [-1, 1])
def test_johnson_sus_tails_fall_off_and_are_never_undefined(value, sign):
    X = table("johnson_su")
    vae = VAETransformer(1, likelihood="johnson_su", max_iter=3, random_state=0).fit(X)
    near, far = vae.score_samples(X).min(), vae.score_samples(np.full((1, D), sign * value))[0]
    assert not np.isnan(far)
    assert far < near - 30


@pytest.mark.parametrize(
    "params", [{"tail": 0.0}, {"tail": -1}, {"tail": "a"}, {"noise_floor": 0.0}, {"noise_floor": 1.0}]
)
def test_wrong_hyperparameters_of_johnson_su_are_refused_in_fit(params):
    with pytest.raises(InvalidParameterError, match=next(iter(params))):
        VAETransformer(1, likelihood=JohnsonSU(**params), random_state=0).fit(table("johnson_su"))
