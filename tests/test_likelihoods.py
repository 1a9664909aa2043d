"""The contract of p(x|z), run over every likelihood, in data units."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import scale_of, seeded
from members import KINDS, MEMBERS, SIZES, columns_of, density_of, oracle, outputs_for, table, unit_of
from scipy import stats
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from skvae import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    JohnsonSU,
    Laplace,
    LogNormal,
    NegativeBinomial,
    Poisson,
    StudentT,
    VAETransformer,
)
from skvae._tables.batches import to_rows
from skvae._tables.moments import Scale
from skvae.likelihoods import (
    LIKELIHOODS,
    CellWeights,
    autograd_gradient,
)
from skvae.likelihoods._categorical import FLOOR
from skvae.likelihoods._counts import rising_and_slope
from skvae.likelihoods._curvature import by_latents

D = 3
GAUSSIANS = ["feature", "shared", "decoder"]
REAL = [*GAUSSIANS, "johnson_su"]
NUMBERS = [*REAL, "student_t", "laplace", "log_normal"]  # columns that x + noise stays in
SET_VALUES = ["bernoulli", "continuous_bernoulli", "poisson", "negative_binomial", "categorical"]
every_member = pytest.mark.parametrize("name", MEMBERS)
every_gaussian = pytest.mark.parametrize("name", GAUSSIANS)
every_real = pytest.mark.parametrize("name", REAL)


def test_the_registry_names_these_likelihoods():
    assert sorted(LIKELIHOODS) == [
        "auto",
        "bernoulli",
        "categorical",
        "continuous_bernoulli",
        "gaussian",
        "given",
        "johnson_su",
        "laplace",
        "log_normal",
        "multinomial",
        "negative_binomial",
        "normal_score",
        "poisson",
        "student_t",
    ]


def test_every_named_likelihood_has_a_table_and_an_oracle():
    """Tests over every member find a new one by its entry in members.py; "auto" chooses among others, what is
    "given" has no p(x|z), and "multinomial" has one of rows: test_multinomial.py.
    """
    tried = {type(member) for member in MEMBERS.values()}
    assert {type(make()) for name, make in LIKELIHOODS.items() if name not in ("auto", "given", "multinomial")} <= tried


@every_member
def test_log_prob_equals_scipy_in_data_units(name):
    X = table(name)
    density, scale, rows = density_of(name, X)
    outputs = outputs_for(density, 4, len(X))
    found = density.log_prob(outputs, rows.x).detach().numpy()
    expected = oracle(MEMBERS[name], density, scale, outputs).log_p(X)
    assert found.shape == (4, *X.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def quadrature(kind, mean, std):
    """Values of a column in data units, and weights by which its density sums to one."""
    if isinstance(kind, int):
        return np.arange(kind), np.ones(kind)
    if kind == "count":
        return np.arange(3000), np.ones(3000)
    if isinstance(kind, float):  # from whole cells far out to others as far
        return np.arange(-4000, 4000) * kind + std, np.full(8000, kind)
    if kind == "unit":
        points, weights = np.polynomial.legendre.leggauss(60)
        return (points + 1) / 2, weights / 2
    # x = exp(t - exp(-t)) makes a half-line's integrand fall off fast on both sides.
    t = np.arange(-6, 12, 0.01)
    x, slope = np.exp(t - np.exp(-t)), (1 + np.exp(-t)) * np.exp(t - np.exp(-t)) * 0.01
    if kind == "positive":
        return mean * x, mean * slope
    return np.r_[mean - std * x, mean + std * x], np.r_[std * slope, std * slope]


@every_member
def test_density_integrates_to_one_in_data_units(name):
    X = table(name)
    density, scale, _ = density_of(name, X)
    outputs = outputs_for(density, 1)
    expected = oracle(MEMBERS[name], density, scale, outputs)
    for d, kind in enumerate(KINDS[name]):
        points, weights = quadrature(kind, expected.mean[0, d], np.broadcast_to(expected.std, (1, X.shape[1]))[0, d])
        rows = np.repeat(X[:1], len(points), axis=0)
        rows[:, d] = points
        x = torch.tensor(scale.to_model(rows))
        values = density.log_prob(outputs.expand(len(points), -1), x)[:, d].exp().detach().numpy()
        assert values @ weights == pytest.approx(1, abs=1e-9)


@every_member
def test_log_prob_has_a_gradient_in_outputs_and_parameters(name):
    density, _, rows = density_of(name, table(name, 6))
    outputs = outputs_for(density, len(rows)).requires_grad_()
    inputs = (outputs, *density.parameters())
    assert torch.autograd.gradcheck(lambda *_: density.log_prob(outputs, rows.x), inputs)


def by_formula(density, xp):
    """The stated gradient as a function of x and tensors, with what a warp adds to the value."""
    for p in density.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    gradient, log_slope = density.gradient(xp), density.encoding.log_slope(xp)
    as_array = torch.Tensor.numpy if xp is np else lambda values: values

    def found(outputs, x, cells):
        rows = as_array(density.step_input(x))
        weights = CellWeights(*map(as_array, cells))
        nll, slope = gradient(as_array(outputs), rows, weights)
        volume = 0.0 if log_slope is None else (weights.mass * log_slope(rows[:, : density.encoding.n_inputs])).sum()
        return torch.as_tensor(nll.sum() - volume), torch.as_tensor(slope)

    return found


@every_member
def test_samples_have_the_moments_and_the_quantiles_of_the_distribution(name, any_seed):
    """Means within five standard errors; quantiles within what Kolmogorov's bound allows once in ten million."""
    density, scale, _ = density_of(name, table(name))
    outputs = outputs_for(density, 1)
    n = 40_000
    with torch.no_grad():
        draws = scale.to_data(density.sample(outputs.expand(n, -1), seeded(any_seed)).numpy())
    expected = oracle(MEMBERS[name], density, scale, outputs)
    mean, std = np.broadcast_arrays(expected.mean, expected.std)
    assert (np.abs(draws.mean(0) - mean[0]) < 5 * std[0] / math.sqrt(n)).all()
    np.testing.assert_allclose(draws.std(0), std[0], rtol=0.05)
    share = [np.searchsorted(np.sort(column), column, side="right") / n for column in draws.T]
    assert np.abs(np.stack(share, 1) - expected.cdf(draws)).max() < math.sqrt(0.5 * math.log(2 / 1e-7) / n)


@every_member
def test_samples_are_within_the_support(name):
    density, scale, _ = density_of(name, table(name))
    with torch.no_grad():
        draws = scale.to_data(density.sample(3 * outputs_for(density, 1000), seeded()).numpy())
    MEMBERS[name].check(draws, [str(d) for d in range(draws.shape[1])])
    for kind, column in zip(KINDS[name], draws.T, strict=True):
        assert np.isfinite(column).all()
        if isinstance(kind, int):
            assert set(column) == set(range(kind))


@every_member
def test_samples_follow_the_generator_they_are_given(name):
    density, _, _ = density_of(name, table(name))
    outputs = outputs_for(density, 20)
    with torch.no_grad():
        first, again, other = (density.sample(outputs, seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@every_member
def test_mean_is_the_distributions_in_data_units(name):
    """The most likely category where a column holds some."""
    X = table(name)
    density, scale, _ = density_of(name, X)
    outputs = outputs_for(density, 2, 7)
    found = scale.to_data(density.mean(outputs).detach().numpy())
    expected = oracle(MEMBERS[name], density, scale, outputs)
    for d, kind in enumerate(KINDS[name]):
        if name == "categorical" or kind == 3:
            each = np.repeat(X[:1], 7, axis=0)
            log_p = np.stack(
                [expected.log_p(np.where(np.arange(X.shape[1]) == d, k, each))[..., d] for k in range(kind)]
            )
            np.testing.assert_array_equal(found[..., d], log_p.argmax(0))
        else:
            np.testing.assert_allclose(found[..., d], expected.mean[..., d], rtol=1e-10)


@every_member
def test_expected_values_collapse_to_the_mean(name):
    density, _, _ = density_of(name, table(name))
    outputs = outputs_for(density, 5, 7)
    expected = density.expected(outputs)
    assert expected.shape == (5, 7, density.encoding.n_inputs)
    assert torch.equal(density.collapse(expected), density.mean(outputs))


def test_expected_values_of_numbers_average_and_those_of_categories_are_probabilities():
    density, _, _ = density_of("mixed", table("mixed"))
    outputs = outputs_for(density, 9, 7)
    average = density.expected(outputs).mean(0)
    found = density.collapse(average)
    alike = density.mean(outputs).mean(0)
    torch.testing.assert_close(found[:, 1:], alike[:, 1:])
    share = torch.softmax(outputs[..., 4:7], -1).mean(0)  # the decoder's noise takes the first four numbers
    torch.testing.assert_close(average[:, 2:5], share, rtol=0, atol=FLOOR)
    assert torch.equal(found[:, 0], share.argmax(-1).double())


@pytest.mark.parametrize("name", [*GAUSSIANS, "student_t", "laplace"])
def test_variance_is_the_distributions(name):
    density, scale, _ = density_of(name, table(name))
    outputs = outputs_for(density, 7)
    found = density.variance(outputs).detach().numpy() * scale.scale**2
    expected = oracle(MEMBERS[name], density, scale, outputs).std ** 2
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-10)


@pytest.mark.parametrize("name", [*SET_VALUES, "johnson_su", "log_normal", "normal_score", "mixed"])
def test_other_columns_report_no_learnt_noise(name):
    density, _, _ = density_of(name, table(name))
    assert density.variance(outputs_for(density, 2)) is None


@every_member
def test_missing_cells_add_nothing_and_leave_the_others_alone(name):
    X = table(name)
    vae = VAETransformer(
        1, likelihood=clone(MEMBERS[name]), max_iter=1, learning_rate_init=1e-12, early_stopping=False, random_state=0
    ).fit(X)
    gaps = X.copy()
    gaps[::2, 1] = np.nan
    scale = scale_of(vae)
    full, rows = (to_rows(T, scale, dtype=torch.float64) for T in (X, gaps))
    z = torch.zeros(len(X), 1, dtype=torch.float64)
    with torch.no_grad():
        expected = vae.module_.log_prob(z, full.x)
        found = vae.module_.log_prob(z, rows.x, rows.mask)
    expected[::2, 1] = 0
    assert torch.equal(found, expected)


@every_real
def test_encoder_of_real_columns_sees_them_centred(name):
    density, _, rows = density_of(name, table(name))
    seen = density.encoding.encode(rows.x)
    atol = 1e-6 if name == "johnson_su" else 1e-10  # its centre is a buffer of the model, in float32
    torch.testing.assert_close(seen.mean(0), torch.zeros(D, dtype=torch.float64), atol=atol, rtol=0)


@pytest.mark.parametrize("name", ["feature", "decoder"])
def test_encoder_sees_unit_variance_where_noise_is_per_feature(name):
    density, _, rows = density_of(name, table(name))
    std = density.encoding.encode(rows.x).std(0, correction=0)
    torch.testing.assert_close(std, torch.ones(D, dtype=torch.float64))


def test_encoder_sees_one_scale_where_noise_is_shared():
    X = table("shared")
    density, scale, rows = density_of("shared", X)
    assert len(set(scale.scale)) == 1
    assert scale.scale[0] == pytest.approx(math.sqrt(X.var(0).mean()))
    np.testing.assert_allclose(density.encoding.encode(rows.x).numpy() * scale.scale, X - X.mean(0), atol=1e-9)


def test_encoder_of_a_bernoulli_sees_columns_near_zero_of_pooled_variance_one():
    density, _, rows = density_of("bernoulli", table("bernoulli", 2000))
    seen = density.encoding.encode(rows.x)
    assert seen.mean(0).abs().max() < 0.01
    assert seen.square().mean().item() == pytest.approx(1, abs=0.01)


@every_member
@pytest.mark.parametrize("gaps", [False, True])
def test_second_derivatives_over_latents_are_those_of_the_log_density(name, gaps):
    density, _, rows = density_of(name, table(name, 9))
    rng = seeded(1)
    outputs = outputs_for(density, len(rows.x))
    slope = torch.randn(len(rows.x), density.n_params, 4, generator=rng, dtype=torch.float64)
    mask = (torch.rand(rows.x.shape, generator=rng) < 0.6).double() if gaps else None

    def log_prob(outputs):
        terms = density.log_prob(outputs, rows.x)
        return terms if mask is None else terms * mask

    expected = by_latents(log_prob, outputs, slope)
    found = density.second_derivatives(outputs, rows.x, mask, slope)
    assert found.abs().max() > 0 or name == "laplace"  # a straight energy
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("member", [Gaussian(), JohnsonSU(), StudentT(), Laplace()], ids=repr)
def test_real_columns_take_any_finite_value(member):
    member.check(np.array([[-1e300, 0.0, 1e300]]), ["a", "b", "c"])
    assert not member.positive_only


UNIT, COUNTS = r"takes values in \[0, 1\]", r"takes counts: 0, 1, 2, \.\.\."


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        (Bernoulli(), -1.0, f"^Negative values in data: b holds -1.0; likelihood='bernoulli' {UNIT}"),
        (Bernoulli(), 2.0, f"^b holds 2.0; likelihood='bernoulli' {UNIT}"),
        (ContinuousBernoulli(), -0.1, f"^Negative values .*: b holds -0.1; likelihood='continuous_bernoulli' {UNIT}"),
        (ContinuousBernoulli(), 1.1, f"^b holds 1.1; likelihood='continuous_bernoulli' {UNIT}"),
        (Poisson(), -2.0, f"^Negative values in data: b holds -2.0; likelihood='poisson' {COUNTS}"),
        (Poisson(), 0.5, f"^b holds 0.5; likelihood='poisson' {COUNTS}"),
        (NegativeBinomial(), -2.0, f"^Negative values .*: b holds -2.0; likelihood='negative_binomial' {COUNTS}"),
        (NegativeBinomial(), 1e-9, f"^b holds 1e-09; likelihood='negative_binomial' {COUNTS}"),
        (LogNormal(), 0.0, "^b holds 0.0; likelihood='log_normal' takes values above 0"),
        (LogNormal(), -3.0, "^Negative values .*: b holds -3.0; likelihood='log_normal' takes values above 0"),
    ],
)
def test_a_value_outside_the_support_is_named_with_its_column(member, value, message):
    assert member.positive_only
    X = np.array([[1.0, 1.0], [1.0, value]])
    with pytest.raises(ValueError, match=message):
        member.check(X, ["a", "b"])
    member.check(X[:1], ["a", "b"])
    member.check(np.array([[1.0, np.nan]]), ["a", "b"])


def test_a_negative_value_is_named_first():
    with pytest.raises(ValueError, match="^Negative values in data: c holds -1.0"):
        Poisson().check(np.array([[0.5, 1.0, 2.0], [1.0, 1.5, -1.0]]), ["a", "b", "c"])


def test_mixed_names_the_column_by_its_own_name():
    X = table("mixed")
    names = list("abcdef")
    MEMBERS["mixed"].check(X, names)
    X[4, 3] = 2.5
    with pytest.raises(ValueError, match="^d holds 2.5; likelihood='negative_binomial'"):
        MEMBERS["mixed"].check(X, names)


def test_bernoulli_and_continuous_bernoulli_take_fractions_and_counts_take_large_numbers():
    Bernoulli().check(np.array([[0.0, 0.5], [1.0, np.nan]]), ["a", "b"])
    ContinuousBernoulli().check(np.array([[0.0, 0.5], [1.0, np.nan]]), ["a", "b"])
    Poisson().check(np.array([[0.0, 1e15]]), ["a", "b"])


@pytest.mark.parametrize("value", [3, -1, 0.5])
def test_a_code_that_is_no_category_is_named(value):
    X = table("categorical")
    X[5, 1] = value
    with pytest.raises(ValueError, match=f"^column 1 holds {float(value)} in row 5, a category .* it knows 0, 1, 2"):
        VAETransformer(1, likelihood=Categorical(SIZES), random_state=0).fit(X)


def test_bernoulli_reports_the_column_through_the_estimator():
    with pytest.raises(ValueError, match="column 2 holds 7"):
        VAETransformer(1, likelihood="bernoulli", random_state=0).fit([[0, 1, 0], [1, 0, 7]])


@pytest.mark.parametrize("params", [{"noise": "diagonal"}, {"noise_floor": 0.0}, {"noise_floor": 1.0}])
def test_wrong_hyperparameters_are_refused_in_fit(params):
    with pytest.raises(InvalidParameterError, match=next(iter(params))):
        VAETransformer(1, likelihood=Gaussian(**params), random_state=0).fit(table("feature"))


# The noise floor


@every_gaussian
def test_noise_below_the_floor_counts_as_the_floor(name):
    density, _, rows = density_of(name, table(name))
    outputs = outputs_for(density, len(rows))
    if name == "decoder":
        outputs[..., D:] = -50.0
    else:
        density.log_noise.data.fill_(-50.0)
    floor = density.log_floor.exp() if name != "shared" else density.log_floor[:1].exp()
    variance = density.variance(outputs)
    torch.testing.assert_close(variance, floor.double().expand_as(variance), rtol=1e-6, atol=0)


def test_floor_is_a_share_of_each_columns_variance():
    X = table("feature")
    density, scale, _ = density_of("feature", X)
    np.testing.assert_allclose(density.log_floor.exp().numpy() * scale.scale**2, 1e-3 * X.var(0), rtol=1e-5)


def test_shared_floor_is_a_share_of_the_smallest_variance_among_columns_that_vary():
    X = table("shared")
    X[:, 1] = 4.0
    density, scale, _ = density_of("shared", X)
    floor = density.log_floor[0].exp().item() * scale.scale[0] ** 2
    assert floor == pytest.approx(1e-3 * X[:, [0, 2]].var(0).min(), rel=1e-5)


@pytest.mark.parametrize("name", ["feature", "shared", "johnson_su"])
@pytest.mark.parametrize(("error", "moves"), [(0.0, False), (5.0, True)])
def test_noise_below_the_floor_moves_only_upwards(name, error, moves):
    """With errors far above the floor the gradient asks for more noise and passes; with none it asks for less."""
    density, _, rows = density_of(name, table(name))
    density.log_noise.data.fill_(-50.0)
    outputs = (density.encoding.encode(rows.x) + error) / unit_of(density)
    loss = -density.log_prob(outputs, rows.x).sum()
    (grad,) = torch.autograd.grad(loss, density.log_noise)
    assert bool((grad < 0).all()) is moves
    assert bool((grad == 0).all()) is not moves


def test_decoder_noise_below_the_floor_moves_only_upwards():
    density, _, rows = density_of("decoder", table("decoder"))
    for error, moves in [(0.0, False), (5.0, True)]:
        outputs = torch.cat([rows.x + error, torch.full_like(rows.x, -50.0)], dim=1).requires_grad_()
        (grad,) = torch.autograd.grad(-density.log_prob(outputs, rows.x).sum(), outputs)
        assert bool((grad[:, D:] < 0).all()) is moves
        assert bool((grad[:, D:] == 0).all()) is not moves


@every_real
def test_noise_above_the_floor_has_the_ordinary_gradient(name):
    density, _, rows = density_of(name, table(name))
    outputs = outputs_for(density, len(rows)).requires_grad_()
    inputs = (outputs,) if name == "decoder" else (outputs, density.log_noise)
    outputs.data[..., D:] = outputs.data[..., D:].clamp_min(-2)
    assert torch.autograd.gradcheck(lambda *_: density.log_prob(outputs, rows.x), inputs)


@pytest.mark.parametrize("noise", GAUSSIANS)
def test_floor_binds_in_a_fitted_model(noise):
    X = table("feature", 60)
    X[:, 2] = X[:, 0] * 60 + 1000
    vae = VAETransformer(
        2, likelihood=Gaussian(noise, noise_floor=0.1), hidden_layer_sizes=(8,), max_iter=20, random_state=0
    ).fit(X)
    smallest = X.var(0).min() if noise == "shared" else X.var(0)
    assert (np.asarray(vae.noise_variance_) >= 0.0999 * smallest).all()


def test_weights_count_as_repeated_rows_in_the_bernoulli_column_means():
    X = table("bernoulli", 10)
    copies = np.arange(10) % 3 + 1
    repeated = density_of("bernoulli", np.repeat(X, copies, axis=0))[0].encoding.column_mean
    rows = to_rows(X, Scale(np.zeros(D), np.ones(D)), copies.astype(float))
    density = Bernoulli().build(D, Scale(np.zeros(D), np.ones(D)))
    density.fit(rows)
    torch.testing.assert_close(density.encoding.column_mean.double(), repeated, rtol=1e-6, atol=0)


@pytest.mark.parametrize("r", [1e-3, 1.0, 49.9, 50.1, 300.0, 1e4])
@pytest.mark.parametrize("x", [0.0, 1.0, 7.0, 1e3])
def test_quotients_of_gamma_functions_keep_their_digits(x, r):
    """Beside the sum log r + log(r + 1) + ... + log(r + x - 1), and its derivative; also in float32."""
    factors = r + np.arange(int(x))
    for dtype, rtol in [(torch.float64, 1e-11), (torch.float32, 1e-5)]:
        given = torch.tensor([x], dtype=dtype), torch.tensor([r], dtype=dtype)
        for values in (given, tuple(value.numpy() for value in given)):
            found, slope = rising_and_slope(values[0][:, None], values[1])
            assert found.item() == pytest.approx(np.log(factors).sum(), rel=rtol, abs=rtol)
            assert slope.item() == pytest.approx((1 / factors).sum(), rel=rtol, abs=1e-12)


def test_a_category_that_no_row_has_keeps_its_share_of_a_floor():
    density, _, _ = columns_of(Categorical([3]), np.zeros((9, 1)))
    outputs = torch.tensor([[50.0, -50.0, -50.0]], dtype=torch.float64)
    found = density.expected(outputs)[0]
    torch.testing.assert_close(found[1:], torch.full((2,), FLOOR / 30).double(), rtol=1e-6, atol=0)
    assert found.sum().item() == pytest.approx(1)
    assert density.log_prob(outputs, torch.ones(1, 1).double()).item() > -13


# Extremes


EXTREMES = {
    "poisson": ([0.0, 1e6, 1e12], [-1e4, 1e4, 0.0]),
    "negative_binomial": ([0.0, 1e6, 1e12], [-1e4, 1e4, 0.0]),
    "bernoulli": ([1.0, 0.0, 1.0], [-1e4, 1e4, 0.0]),
    "continuous_bernoulli": ([1.0, 0.0, 0.3], [-1e4, 1e4, 0.0]),
    "categorical": ([1.0, 2.0, 3.0], [1e4, -1e4, 1e4, -1e4, 0.0, 1e4, 1e4, 1e4, -1e4]),
    "student_t": ([-1e15, 1e15, 0.0], [-1e4, 1e4, 0.0]),
    "laplace": ([-1e15, 1e15, 0.0], [-1e4, 1e4, 0.0]),
    "log_normal": ([1e-300, 1e300, 1.0], [-5.0, 5.0, 0.0]),
    "normal_score": ([-1e15, 1e15, 0.0], [-1e4, 1e4, 0.0]),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite_and_so_are_their_gradients(name, dtype):
    density = density_of(name, table(name))[0].to(dtype)
    values, outputs = EXTREMES[name]
    x = torch.tensor([values], dtype=torch.float64).clamp(-1e30, 1e30).to(dtype)
    outputs = torch.tensor([outputs], dtype=dtype)
    assert bool(density.log_prob(outputs, x).isfinite().all())
    assert bool(density.mean(outputs).isfinite().all())
    assert bool(density.sample(outputs, seeded()).isfinite().all())
    cells = CellWeights(torch.ones(1, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype))
    for p in density.parameters():
        p.grad = torch.zeros_like(p)
    for method, rows in [(density.gradient(torch), density.step_input(x)), (autograd_gradient(density), x)]:
        found = [*method(outputs.clone(), rows, cells), *[p.grad for p in density.parameters()]]
        assert all(bool(value.isfinite().all()) for value in found)


@pytest.mark.parametrize("name", [name for name in EXTREMES if name != "log_normal"])  # its log x is float32's
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_extremes_are_the_same_for_a_step_in_numpy(name, dtype):
    density = density_of(name, table(name))[0].to(dtype)
    values, outputs = EXTREMES[name]
    x = torch.tensor([values], dtype=torch.float64).clamp(-1e30, 1e30).to(dtype)
    outputs = torch.tensor([outputs], dtype=dtype)
    cells = CellWeights(torch.ones(1, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype))
    found = []
    for xp in (torch, np):
        with np.errstate(all="ignore"):
            nll, slope = by_formula(density, xp)(outputs.clone(), x, cells)
        assert slope.dtype == dtype
        found.append([nll.to(dtype), slope, *[p.grad.clone() for p in density.parameters()]])
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4 if dtype == torch.float32 else 1e-7, atol=1e-6)


@pytest.mark.parametrize("size", [3.0, 1e3, 1e5, 1e6])
@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
@torch.no_grad()
def test_a_step_in_numpy_keeps_the_digits_of_large_counts(name, size):
    """In float32, against float64: nats of a cell are differences of millions."""
    rng = seeded(3)
    X = torch.poisson(torch.full((50, D), size), generator=rng).double()
    exact = density_of(name, X.numpy())[0]
    coarse = copy.deepcopy(exact).float()
    outputs = X.mean(0).log().float().expand(50, -1) + 0.1 * torch.randn(50, D, generator=rng)
    cells = CellWeights(torch.full((1, 1), 0.02), torch.ones(1, 1))
    nll, slope = by_formula(coarse, np)(outputs.clone(), X.float(), cells)
    expected = by_formula(exact, torch)(outputs.double(), X, CellWeights(*(c.double() for c in cells)))
    torch.testing.assert_close(nll.double(), expected[0], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(slope.double(), expected[1], rtol=1e-5, atol=1e-7 * size)


def test_a_continuous_bernoulli_is_smooth_through_a_logit_of_zero(any_seed):
    density, _, _ = density_of("continuous_bernoulli", table("continuous_bernoulli"))
    logit = torch.tensor([0.0, 1e-9, -1e-5, 0.0499, 0.0501, -0.0499, -0.0501], dtype=torch.float64)
    for x in (0.0, 0.3, 1.0):
        found = density.log_prob(logit, torch.full_like(logit, x)).numpy()
        o = logit.numpy()
        with np.errstate(invalid="ignore"):
            expected = np.where(o == 0, 0.0, o * x - np.log(np.expm1(o) / o))
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    near = 0.5 + logit.numpy() / 12 - logit.numpy() ** 3 / 720
    np.testing.assert_allclose(density.mean(logit).numpy(), near, atol=1e-10)
    with torch.no_grad():
        draws = density.sample(torch.zeros(20_000, dtype=torch.float64), seeded(any_seed)).numpy()
    assert stats.kstest(draws, "uniform").pvalue > 1e-7


AMOUNTS = {"all magnitudes": [-300, 300], "small": [-300, -299], "large": [299, 300]}


@pytest.mark.filterwarnings("ignore:VAETransformer stopped at")
@pytest.mark.parametrize("powers", AMOUNTS)
def test_amounts_of_any_magnitude_fit(powers):
    rng = np.random.default_rng(0)
    X = 10 ** rng.uniform(*AMOUNTS[powers], size=(60, 3))
    vae = VAETransformer(1, likelihood="log_normal", max_iter=3, random_state=0).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    assert np.isfinite(vae.transform(X)).all()
    assert (vae.sample(20, random_state=0) > 0).all()


@pytest.mark.parametrize(
    ("name", "power"),
    [("log_normal", power) for power in (-1000, -130, 130, 900)]
    + [("johnson_su", power) for power in (-1000, -130, 130, 1000)],
)
def test_columns_of_any_unit_are_the_same_model(name, power):
    X = table(name)
    shared = {"likelihood": name, "max_iter": 3, "random_state": 0}
    plain, scaled = VAETransformer(1, **shared).fit(X), VAETransformer(1, **shared).fit(np.ldexp(X, power))
    found = scaled.score_samples(np.ldexp(X, power))
    np.testing.assert_allclose(found, plain.score_samples(X) - D * power * math.log(2), rtol=1e-6)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_counts_of_a_million_fit(name):
    X = np.random.default_rng(0).poisson([1.0, 1e3, 1e6], size=(60, 3)).astype(float)
    vae = VAETransformer(1, likelihood=name, max_iter=3, random_state=0).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    np.testing.assert_allclose(vae.reconstruct(X).mean(0), X.mean(0), rtol=0.2)


@every_member
def test_weights_count_as_repeated_rows_in_what_a_density_learns_of_its_table(name):
    X = table(name, 30)
    copies = np.arange(30) % 3 + 1
    weighted, scale, _ = density_of(name, X, copies.astype(float))
    repeated, same, _ = density_of(name, np.repeat(X, copies, axis=0))
    np.testing.assert_allclose(scale[:2], same[:2], rtol=1e-10)
    for (key, one), other in zip(weighted.named_buffers(), repeated.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7, msg=key)


@every_member
def test_a_gap_takes_no_part_in_what_a_density_learns_of_its_table(name):
    X = table(name, 40)
    gaps = X.copy()
    gaps[::2, 1] = np.nan
    found, full, kept = (dict(density_of(name, T)[0].named_buffers()) for T in (gaps, X, X[1::2]))
    for key in ("encoding.column_mean", "log_mean", "encoding.centre"):
        if key in found and name != "categorical":
            torch.testing.assert_close(found[key][[0, 2]], full[key][[0, 2]], atol=1e-6, rtol=1e-5)
            if name != "johnson_su":  # whose units are those of all rows
                unit = found["log_scale"][1] - kept["log_scale"][1] if name == "log_normal" else 0.0
                torch.testing.assert_close(found[key][1] + unit, kept[key][1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", NUMBERS)
def test_smoothing_adds_the_noise_to_what_the_encoder_sees(name):
    density, _, rows = density_of(name, table(name))
    noise = torch.randn(rows.x.shape, generator=seeded(), dtype=torch.float64)
    seen = density.encoding.encode(density.encoding.add_noise(rows.x, noise))
    torch.testing.assert_close(seen, density.encoding.encode(rows.x) + noise, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(density.encoding.takes_noise.numpy(), np.ones(D))


@pytest.mark.parametrize("name", SET_VALUES)
def test_columns_of_set_values_refuse_noise(name):
    density, _, rows = density_of(name, table(name))
    with pytest.raises(ValueError, match="no noise can be added.*ELBO with input_noise=0"):
        density.encoding.add_noise(rows.x, torch.zeros_like(rows.x))
    np.testing.assert_array_equal(density.encoding.takes_noise.numpy(), np.zeros(density.encoding.n_inputs))


def test_mixed_passes_over_columns_of_set_values():
    density, _, rows = density_of("mixed", table("mixed"))
    noise = torch.randn(rows.x.shape, generator=seeded(), dtype=torch.float64)
    smooth = density.encoding.add_noise(rows.x, noise)
    moved = ["real", "positive"]
    for d, kind in enumerate(KINDS["mixed"]):
        assert bool((smooth[:, d] != rows.x[:, d]).all()) is (kind in moved)
    numbers = [1, 1, 0, 0, 0, 0, 1, 0]  # two real columns, three categories, counts, amounts, yes or no
    np.testing.assert_array_equal(density.encoding.takes_noise.numpy(), numbers)
    added = density.encoding.add_to_seen(density.step_input(rows.x), noise)
    torch.testing.assert_close(added[:, : density.encoding.n_inputs], density.encoding.encode(smooth))
    torch.testing.assert_close(density.step_input(smooth), added)
    seen = density.encoding.encode(smooth) - density.encoding.encode(rows.x)
    torch.testing.assert_close(seen[:, [0, 1, 6]], noise[:, [4, 1, 2]], rtol=1e-9, atol=1e-9)


MASSES = {
    "all alike": lambda n, d, rng: torch.full((1, 1), 1 / n, dtype=torch.float64),
    "weights": lambda n, d, rng: torch.rand(n, 1, generator=rng, dtype=torch.float64),
    "gaps": lambda n, d, rng: (torch.rand(n, d, generator=rng) > 0.3).double(),
    "gaps and weights": lambda n, d, rng: (
        (torch.rand(n, d, generator=rng) > 0.3) * torch.rand(n, 1, generator=rng, dtype=torch.float64)
    ),
}


@every_member
@pytest.mark.parametrize("mass", MASSES)
@pytest.mark.parametrize("beyond", [False, True], ids=["inside", "beyond the bounds"])
def test_the_stated_gradient_is_the_default_by_autograd(name, mass, beyond):
    """With parameters on either side of their bounds, too."""
    X = table(name)
    density, _, rows = density_of(name, X)
    outputs = outputs_for(density, len(rows))
    if beyond:
        outputs = 5 * outputs
        for p in density.parameters():
            p.data = torch.linspace(-30, 30, p.numel(), dtype=torch.float64)
    values = MASSES[mass](*X.shape, seeded(3))
    x = rows.x if values.shape[1] == 1 else rows.x * (values > 0)
    cells = CellWeights(values, values.expand(len(x), -1).sum(0, keepdim=True))
    found = []
    assert density.states_gradient
    by = partial(by_formula, density)
    for method in (partial(by, torch), partial(by, np), partial(autograd_gradient, density)):
        for p in density.parameters():
            p.grad = torch.full_like(p, 9.0)  # every entry must be set, not added to
        views = [p.grad for p in density.parameters()]
        with torch.no_grad():
            nll, slope = method()(outputs.clone(), x, cells)
        assert all(p.grad is view for p, view in zip(density.parameters(), views, strict=True))
        found.append([nll.sum(), slope, *[grad.clone() for grad in views]])
    for *stated, default in zip(*found, strict=True):
        for values in stated:
            torch.testing.assert_close(values, default, rtol=1e-9, atol=1e-7 if beyond else 1e-10)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_a_log_mean_beyond_any_count_comes_back(name):
    """The slope is that of a mean too large by far, in training with autograd and without."""
    density, _, rows = density_of(name, table(name))
    cells = CellWeights(
        torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), float(len(rows)), dtype=torch.float64)
    )
    for p in density.parameters():
        p.grad = torch.zeros_like(p)
    outputs = torch.full((len(rows), D), 45.0, dtype=torch.float64)
    _, stated = by_formula(density, torch)(outputs.clone(), rows.x, cells)
    _, default = autograd_gradient(density)(outputs.clone(), rows.x, cells)
    assert bool((stated > 0).all())
    torch.testing.assert_close(default, stated)


@every_member
def test_error_is_a_squared_distance_with_a_slope_for_every_output(name):
    density, _, rows = density_of(name, table(name))
    outputs = outputs_for(density, 1, len(rows))[0].requires_grad_()
    error = density.error(outputs, rows.x)
    assert error.shape == rows.x.shape
    assert bool((error >= 0).all())
    (slope,) = torch.autograd.grad(error.sum(), outputs)
    assert bool(slope.isfinite().all())
    assert float(slope.abs().max()) > 0


def test_error_of_categories_is_that_of_their_probabilities():
    density, _, rows = density_of("categorical", table("categorical"))
    outputs = outputs_for(density, 1, len(rows))[0]
    parts = density.expected(outputs).split([*SIZES], dim=-1)
    expected = [
        (p - torch.nn.functional.one_hot(x.long(), p.shape[-1])).square().sum(-1)
        for p, x in zip(parts, rows.x.unbind(-1), strict=True)
    ]
    torch.testing.assert_close(density.error(outputs, rows.x), torch.stack(expected, dim=-1))


def test_error_of_counts_is_that_of_their_logarithms():
    density, _, rows = density_of("poisson", table("poisson"))
    outputs = outputs_for(density, 1, len(rows))[0]
    expected = (torch.log1p(density.mean(outputs)) - torch.log1p(rows.x)) / density.encoding.pooled_std
    torch.testing.assert_close(density.error(outputs, rows.x), expected.square())
