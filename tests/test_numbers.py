"""Tables and weights whose numbers are out of the ordinary: one value, one column, many decades, other chunks."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from helpers import column_moments, make
from sklearn.exceptions import ConvergenceWarning

from skvae import ELBO, Gaussian, Mixed, VAEAnomalyDetector, VAEImputer, VAETransformer, VAETransformerCV
from skvae._tables.moments import ColumnSums, reduce_blocks
from skvae.priors import AggregatedPosterior

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

REAL = ["gaussian", Gaussian("shared"), Gaussian("decoder"), "johnson_su", "student_t", "laplace"]


@pytest.fixture
def table():
    return np.random.RandomState(0).randn(60, 4)


@pytest.fixture
def related():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(200, 4))


# One column


QUICK = {"early_stopping": False, "max_iter": 2, "random_state": 0}
QUICK_DETECTOR = {"likelihood": "gaussian", "max_iter": 2, "random_state": 0}
ONE_COLUMN = {
    "gaussian": lambda: VAETransformer(1, **QUICK),
    "auto": lambda: VAETransformer(1, likelihood="auto", **QUICK),
    "iwae": lambda: VAETransformer(1, objective="iwae", **QUICK),
    "a random start": lambda: VAETransformer(1, init="random", **QUICK),
    "search": lambda: VAETransformerCV([1], cv=3, **QUICK),
    "contamination": lambda: VAEAnomalyDetector(1, contamination=0.1, **QUICK_DETECTOR),
    "support": lambda: VAEAnomalyDetector(1, support_fraction=0.6, **QUICK_DETECTOR),
}


@pytest.mark.parametrize("name", ONE_COLUMN)
def test_one_column_with_gaps_trains(table, name):
    X = table[:, :1].copy()
    X[::5] = np.nan
    estimator = ONE_COLUMN[name]().fit(X)
    assert np.isfinite(estimator.score_samples(X)).all()


def test_one_column_with_gaps_is_imputed(table):
    X = table[:, :1].copy()
    X[::5] = np.nan
    filled = VAEImputer(VAETransformer(1, **QUICK)).fit(X).transform(X)
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[1::5], X[1::5])
    np.testing.assert_allclose(filled[::5], np.nanmean(X), atol=0.1)


# Weights


def decades(n_rows, n):
    return 10.0 ** np.random.default_rng(0).uniform(-n, 0, n_rows)


@pytest.mark.parametrize("n", [12, 30, 300])
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_weights_of_many_decades_fit(related, n, gaps, objective):
    X = related.copy()
    if gaps:
        X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    vae = make(objective=objective).fit(X, sample_weight=decades(len(X), n))
    assert np.isfinite(vae.score_samples(X)).all()
    assert np.isfinite(vae.noise_variance_).all()


@pytest.mark.parametrize("estimator", [VAETransformerCV([1, 2], cv=3, max_iter=2), VAEAnomalyDetector(max_iter=2)])
def test_importance_weights_fit(related, estimator):
    weight = np.exp(-((20 * related[:, 0]) ** 2) / 2)
    estimator.set_params(random_state=0).fit(related, sample_weight=weight)
    assert np.isfinite(estimator.score_samples(related)).all()


def test_a_row_of_next_to_no_weight_is_dropped(iris):
    weight = np.ones(len(iris))
    weight[::7] = 1e-13
    light = make().fit(iris, sample_weight=weight)
    dropped = make().fit(iris[weight == 1])
    np.testing.assert_array_equal(light.score_samples(iris), dropped.score_samples(iris))
    weight[::7] = 1e-11
    assert (make().fit(iris, sample_weight=weight).score_samples(iris) != dropped.score_samples(iris)).any()


def test_a_detector_of_rows_of_any_weight_survives_pickling(table):
    weight = np.full(60, 1e15)
    weight[3] = 1e-310
    detector = VAEAnomalyDetector(max_iter=2, random_state=0).fit(table, sample_weight=weight)
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.score_samples(table), detector.score_samples(table))


def test_a_search_takes_weights_whose_sum_is_no_number(related):
    weight = np.full(len(related), 1e308)
    search = VAETransformerCV([1, 2], cv=3, max_iter=2, random_state=0)
    expected = search.fit(related, sample_weight=np.ones(len(related))).scores_
    np.testing.assert_array_equal(search.fit(related, sample_weight=weight).scores_, expected)


@pytest.mark.parametrize("unit", [1, 0.1, 1e6])
@pytest.mark.parametrize("copies", [[1, 2, 3, 1, 1, 4, 1], [2, 3, 2, 2, 5, 3, 2]])
@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "bernoulli", "categorical", "gaussian"])
@pytest.mark.parametrize("gaps", [False, True])
def test_weights_that_count_copies_are_copies(likelihood, copies, unit, gaps):
    """Of few rows, which stay at the linear start: in training, batches of copies are others."""
    X = np.random.default_rng(0).integers(0, 2, (7, 4)).astype(float)
    if gaps:
        X[[0, 3], [1, 2]] = np.nan
    weighted = make(likelihood=likelihood).fit(X, sample_weight=np.multiply(copies, unit))
    copied = make(likelihood=likelihood).fit(np.repeat(X, copies, axis=0))
    np.testing.assert_allclose(weighted.score_samples(X), copied.score_samples(X), rtol=1e-5)


def test_weights_that_count_nothing_weigh_one_on_average():
    X = np.random.default_rng(0).integers(0, 3, (12, 3))
    weight = np.exp(np.random.default_rng(1).normal(size=12))
    scores = [make(likelihood="poisson").fit(X, sample_weight=w).score_samples(X) for w in (weight, 7 * weight)]
    np.testing.assert_allclose(*scores, rtol=1e-9)


# What is not finite


@pytest.mark.parametrize("solver", ["adam", "sgd", "adagrad", "rmsprop"])
@pytest.mark.parametrize("rate", [1e39, 1e300])
def test_a_step_that_float32_cannot_hold_diverges(table, solver, rate):
    with pytest.raises(ValueError, match=r"diverged in its first epoch at learning_rate_init=1e\+"):
        make(solver=solver, learning_rate_init=rate).fit(table)


@pytest.mark.parametrize("rate", [1e3, 1e30])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_model_whose_numbers_are_not_finite_is_refused(table, solver, rate):
    vae = make().fit(table)
    before = vae.score_samples(table)
    with pytest.raises(ValueError, match="learning_rate_init"):
        vae.set_params(solver=solver, learning_rate_init=rate, max_iter=1, early_stopping=False).fit(table)
    np.testing.assert_array_equal(vae.score_samples(table), before)


def test_input_noise_beyond_the_likelihood_is_refused(table):
    with pytest.raises(ValueError, match="input_noise"):
        make(likelihood="johnson_su", objective=ELBO(input_noise=1e6)).fit(table)


@pytest.mark.parametrize("noise", ["feature", "shared", "decoder"])
def test_the_noise_of_columns_of_any_size_is_a_number(table, noise):
    vae = make(likelihood=Gaussian(noise)).fit(table * 1e200)
    assert np.isfinite(vae.noise_variance_).all()
    assert np.isfinite(vae.sample(100, random_state=0)).all()


def test_a_criterion_that_scores_no_row_is_refused(table):
    with pytest.raises(ValueError, match="no training row a finite score"):
        VAEAnomalyDetector(criterion="reconstruction_data", max_iter=1, random_state=0).fit(table * [1, 1e160, 1, 1])


def test_whole_numbers_beyond_the_digits_of_a_float_are_no_counts(table):
    X = np.abs(np.round(table)) * 1e200
    vae = make(likelihood="auto", n_components=1).fit(X)
    assert "negative_binomial" not in repr(vae.likelihood_)
    assert np.isfinite(vae.score_samples(X)).all()
    with pytest.raises(ValueError, match="takes counts"):
        make(likelihood="poisson").fit(X)


def test_rows_far_out_among_those_to_leave_out_warn_of_nothing(table):
    X = np.vstack([table, 1e200 * table[:2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        detector = VAEAnomalyDetector(contamination=0.1, max_iter=2, random_state=0).fit(X)
    assert (detector.predict(X[-2:]) == -1).all()


# Moments


@pytest.mark.parametrize("n_blocks", [1, 7])
@pytest.mark.parametrize(("offset", "spread", "n_rows"), [(1.7e15, 1e3, 10_000), (1e15, 3.0, 300)])
def test_a_clock_keeps_what_it_varies_by(offset, spread, n_rows, n_blocks):
    X = offset + spread * np.random.default_rng(0).normal(size=(n_rows, 2))
    moments = reduce_blocks(np.array_split(X, n_blocks), ColumnSums.of).moments
    beyond = X - X[0]
    assert not moments.constant.any()
    np.testing.assert_allclose(moments.mean - X[0], beyond.mean(axis=0), atol=np.spacing(offset))
    np.testing.assert_allclose(moments.std, beyond.std(axis=0), rtol=1e-12)


def test_a_clock_trains_like_its_distances_from_an_hour(related):
    clock = 1.7e15 + np.round(1000 * related)
    plain, offset = make().fit(clock - 1.7e15), make().fit(clock)
    assert offset.score(clock) == pytest.approx(plain.score(clock - 1.7e15), abs=1e-2)


def test_a_block_without_a_value_leaves_the_others_moments():
    X = 1e15 + np.random.default_rng(0).normal(size=(90, 1)).round(1) * 10
    X[:30] = np.nan
    sums = reduce_blocks(np.array_split(X, 3), ColumnSums.of)
    np.testing.assert_array_equal(sums.moments.std, column_moments(X[30:]).std)


# Columns of one value


@pytest.mark.parametrize("value", [0.19, 1e-9, 0.0, -5.0, 1e12])
@pytest.mark.parametrize("likelihood", REAL, ids=repr)
def test_a_column_of_one_value_is_drawn_and_decoded_as_that_value(related, likelihood, value):
    X = np.column_stack([related, np.full(len(related), value)])
    X[::30, 4] = np.nan
    vae = make(likelihood=likelihood, n_components=2).fit(X)
    drawn = [vae.sample(100, random_state=0), vae.reconstruct(X), vae.inverse_transform(np.ones((3, 2))), vae.impute(X)]
    for rows in [*drawn, *vae.impute(X[::30], n_draws=2, random_state=0)]:
        np.testing.assert_array_equal(rows[:, 4], value)


@pytest.mark.filterwarnings("ignore:column 1 holds one value alone")
@pytest.mark.parametrize(("likelihood", "value"), [("log_normal", 5.0), ("poisson", 5), ("bernoulli", 0), ("auto", 7)])
def test_a_set_column_of_one_value_is_drawn_as_that_value(likelihood, value):
    X = np.random.default_rng(0).integers(0, 2, (80, 3)) + (likelihood == "log_normal")
    X[:, 1] = value
    vae = make(likelihood=likelihood, n_components=1).fit(X)
    np.testing.assert_array_equal(vae.sample(300, random_state=0)[:, 1], value)


@pytest.mark.parametrize("likelihood", [*REAL[:1], *REAL[2:]], ids=repr)
def test_the_score_of_a_column_of_one_value_moves_by_the_logarithm_of_its_unit(related, likelihood):
    X = np.column_stack([related, np.full(len(related), 3.0)])
    smaller = X / [1, 1, 1, 1, 1024]
    first, second = (make(likelihood=likelihood).fit(rows).score_samples(rows) for rows in (X, smaller))
    np.testing.assert_allclose(second - first, np.log(1024), rtol=1e-9)


@pytest.mark.parametrize("criterion", ["aggregated", "log_likelihood", "reconstruction"])
@pytest.mark.parametrize("unit", [1.0, 1e3, 1e-3, 1e-6])
def test_a_constant_that_doubles_is_an_anomaly_in_every_unit(related, criterion, unit):
    X = np.column_stack([related, np.full(len(related), 3 * unit)])
    detector = VAEAnomalyDetector(criterion=criterion, max_iter=3, random_state=0).fit(X)
    assert (detector.predict(X) == -1).mean() <= 0.02
    assert (detector.predict(X * [1, 1, 1, 1, 2]) == -1).all()
    assert np.isfinite(detector.score_samples(X * [1, 1, 1, 1, 2])).all()


# Chunks


def chunks(factor, value=0.0):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 5)) + 0.2 * rng.normal(size=(600, 5))
    varied = X[300:].copy()
    X[:, 4] = value
    varied[:, 4] = value + factor * varied[:, 4]
    return X[:300], varied


@pytest.mark.parametrize("factor", [1e2, 1e6, 1e9])
@pytest.mark.parametrize("estimator", [VAETransformer, VAEAnomalyDetector])
def test_a_column_that_leaves_its_first_value_far_behind_is_refused_by_name(estimator, factor):
    first, later = chunks(factor)
    model = estimator(random_state=0).partial_fit(first)
    before = model.score_samples(first)
    with pytest.raises(ValueError, match=r"^column 4 is .* Begin with a chunk that represents the table"):
        model.partial_fit(later)
    np.testing.assert_array_equal(model.score_samples(first), before)


def test_a_column_that_begins_to_vary_is_warned_of_once_and_drawn_with_its_variation():
    first, later = chunks(1.0, 50.0)
    vae = VAETransformer(3, random_state=0).partial_fit(first)
    with pytest.warns(UserWarning, match="column 4: one value in the first chunk"):
        vae.partial_fit(later)
    assert vae.sample(100, random_state=0)[:, 4].std() > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae.partial_fit(later)


def test_a_chunk_of_another_scale_is_refused_by_name(related):
    vae = VAETransformer(2, random_state=0).partial_fit(related)
    with pytest.raises(ValueError, match=r"^column 1 is .* times as large as the scale that the first chunk gave it"):
        vae.partial_fit(related * [1, 1e4, 1, 1])
    vae.partial_fit(related * [1, 10, 1, 1])


def test_flags_and_counts_of_one_value_may_begin_to_vary():
    rng = np.random.default_rng(0)
    first, later = rng.poisson(3, (300, 3)), rng.poisson(3, (300, 3))
    first[:, 1], later[:, 1] = 0, rng.poisson(1000, 300)
    vae = VAETransformer(1, likelihood="poisson", learning_rate_init=0.01, random_state=0).partial_fit(first)
    assert (vae.sample(50, random_state=0)[:, 1] == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            vae.partial_fit(later)
    assert vae.reconstruct(later)[:, 1].mean() == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize("value", [1.0, -1e15, 1e-300])
def test_a_column_that_is_constant_but_for_rounding_may_come_again(related, value):
    X = np.column_stack([related, value * (1 + 2e-16 * np.sign(related[:, 0]))])
    assert np.ptp(X[:, -1]) > 0
    vae = VAETransformer(1, max_iter=1, random_state=0).fit(X)
    assert np.isfinite(vae.partial_fit(X).partial_fit(X[::-1]).score_samples(X)).all()


def test_the_table_of_fit_is_a_chunk_whatever_the_rounding_of_a_constant_column():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=20), 1e18 * (1 + 1e-15 * rng.normal(size=20))])
    vae = VAETransformer(1, likelihood=Gaussian(noise="shared"), max_iter=2, random_state=0).fit(X)
    assert np.isfinite(vae.partial_fit(X).score(X))
    with pytest.raises(ValueError, match="^column 1 is"):
        vae.partial_fit(2 * X)


def test_a_fit_whose_draws_would_overflow_is_refused():
    X = np.array([[-1e-7, 5e2], [0.0, -1e172]])
    vae = VAETransformer(
        2, likelihood=Mixed([], remainder="gaussian"), learning_rate_init=1e3, max_iter=2, init="random", random_state=0
    )
    with pytest.raises(ValueError, match="ended with a model whose numbers are not finite"):
        vae.set_params(hidden_layer_sizes=(3,), activation="gelu", early_stopping=False, batch_size=7).fit(X)


def test_a_draw_beyond_all_floats_is_the_largest():
    """Draws that the check of a fit looked at were finite; among many more some are not."""
    X = np.sinh(4 * np.random.default_rng(0).normal(size=(6, 1)))
    wild = {"learning_rate_init": 655.0, "solver": "adagrad", "max_iter": 1, "hidden_layer_sizes": (1,)}
    vae = VAETransformer(7, likelihood="johnson_su", objective=ELBO(beta=0.1), random_state=0, **wild).fit(X)
    drawn = vae.partial_fit(X).sample(4000, random_state=0)
    assert np.abs(drawn).max() == np.finfo(float).max


def test_the_most_similar_row_is_finite_where_the_mean_of_amounts_is_beyond_all_floats():
    X = np.array([5.7e16, 1.0, 0.3, 1e-300, 1e2, 1.0, 1e2, 5.0, 1e300, 877.0, 900.0])[:, None]
    settings = {"likelihood": "log_normal", "criterion": "reconstruction_probability", "max_iter": 2, "random_state": 0}
    detector = VAEAnomalyDetector(1, hidden_layer_sizes=(), early_stopping=False, **settings).fit(X)
    assert np.isfinite(detector.similar(X)).all()


def test_codes_beyond_all_floats_in_their_own_widths_are_each_their_own():
    mean = torch.tensor([[0.0], [1.0], [1e200]], dtype=torch.float64)
    codes = AggregatedPosterior.of(mean, torch.full((3, 1), 1e-320, dtype=torch.float64), torch.ones(3))
    assert len(codes.mean) == 3
