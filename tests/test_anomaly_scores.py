"""The detector's scores depend on the row alone, gaps included, and are finite for any table."""

from __future__ import annotations

import copy
import pickle
import re

import joblib
import numpy as np
import pytest
from detectors import DEFAULT, correlated, every_criterion, fitted, make, normal_and_anomalous, of_densities
from helpers import with_gaps
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from skvae import Gaussian, JohnsonSU, VAEAnomalyDetector
from skvae._inference.criteria import CRITERIA, DRAWN


@every_criterion
def test_scores_are_the_same_at_every_call_in_any_batch_and_order(criterion, new_rows):
    detector = fitted(criterion)
    X = np.vstack([new_rows, correlated(150), with_gaps(new_rows, 0.2)])
    whole, order = detector.score_samples(X), np.random.RandomState(0).permutation(len(X))
    np.testing.assert_array_equal(detector.score_samples(X), whole)
    np.testing.assert_allclose(detector.score_samples(X[order]), whole[order], rtol=1e-7, atol=1e-9)
    for size in (1, 7, 100):
        parts = [detector.score_samples(X[i : i + size]) for i in range(0, 3 * size, size)]
        np.testing.assert_allclose(np.concatenate(parts), whole[: 3 * size], rtol=1e-7, atol=1e-9)


@every_criterion
def test_scores_do_not_depend_on_the_size_of_the_blocks(criterion, new_rows, monkeypatch):
    detector, X = fitted(criterion), np.vstack([new_rows[:40], with_gaps(new_rows[:20], 0.2)])
    whole = [detector.score_samples(X), detector.explain(X), detector.similar(X)]
    monkeypatch.setattr("skvae._inference.scores.BLOCK_NUMBERS", 150 * (64 * 7 if criterion in DRAWN else 7))
    for one, other in zip(whole, [detector.score_samples(X), detector.explain(X), detector.similar(X)], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("criterion", ["aggregated", "elbo", "latent"])
def test_scores_survive_pickling_and_threads(criterion, new_rows):
    detector = copy.deepcopy(fitted(criterion)).calibrate(correlated(60, seed=5), false_alarm_rate=0.1)
    scores = detector.score_samples(new_rows)
    back = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(back.score_samples(new_rows), scores)
    np.testing.assert_array_equal(back.explain(new_rows), detector.explain(new_rows))
    np.testing.assert_array_equal(back.p_values(new_rows), detector.p_values(new_rows))
    jobs = (joblib.delayed(detector.score_samples)(new_rows[i % 4 :]) for i in range(16))
    for i, found in enumerate(joblib.Parallel(n_jobs=8, require="sharedmem")(jobs)):
        np.testing.assert_allclose(found, scores[i % 4 :], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["wine", "cancer", "iris"])
def test_units_do_not_matter(name):
    """A density in data units differs by a constant, the logarithm of the scales; ranks do not."""
    normal, anomalous = normal_and_anomalous(name)
    half = len(normal) // 2
    scaler = StandardScaler().fit(normal[:half])
    rows = np.vstack([normal[half:], anomalous])
    detector = VAEAnomalyDetector(random_state=0).fit(normal[:half])
    raw = detector.score_samples(rows)
    standard = (
        VAEAnomalyDetector(random_state=0).fit(scaler.transform(normal[:half])).score_samples(scaler.transform(rows))
    )
    shift = of_densities(detector) * np.log(scaler.scale_).sum()
    np.testing.assert_allclose(raw + shift, standard, rtol=1e-6, atol=1e-6)
    truth = np.repeat([0, 1], [len(normal) - half, len(anomalous)])
    assert roc_auc_score(truth, -raw) == pytest.approx(roc_auc_score(truth, -standard), abs=0.005)
    assert stats.spearmanr(raw, standard).statistic > 1 - 1e-6


@pytest.mark.parametrize("criterion", sorted(CRITERIA.keys() - {"reconstruction_data"}))
def test_units_of_the_columns_do_not_matter_to_any_criterion_but_one(criterion):
    X, factors = correlated(150), 2.0 ** np.array([-30, 0, 5, 200, -3, 1, 40, -100])
    plain = fitted(criterion).score_samples(X)
    scaled = make(criterion=criterion).fit(X * factors).score_samples(X * factors)
    density = criterion not in ("reconstruction", "latent")
    np.testing.assert_allclose(scaled + density * np.log(factors).sum(), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("criteria", [DEFAULT, ["reconstruction", "elbo", "neighbour"]])
def test_several_criteria_are_the_mean_of_each_in_the_first_ones_spread(criteria, new_rows):
    single = [fitted(name) for name in criteria]
    spread = np.array([np.subtract(*np.percentile(one.training_scores_, [75, 25])) for one in single])
    assert (spread > spread[0] / 3).all()
    weights = spread[0] / spread / len(criteria)
    several = make(criterion=criteria).fit(correlated(150))
    np.testing.assert_allclose(several.criterion_weights_, weights, rtol=1e-9)
    expected = sum(weight * one.score_samples(new_rows) for weight, one in zip(weights, single, strict=True))
    np.testing.assert_allclose(several.score_samples(new_rows), expected, rtol=1e-9)


def test_criteria_that_hardly_vary_in_the_training_rows_do_not_outweigh_the_first():
    """Of sixteen patterns the tenth nearest is nearly as far for all."""
    detector = make().fit((np.random.default_rng(0).random((400, 4)) < 0.5).astype(float))
    assert detector.criterion_weights_.max() == pytest.approx(1)


def without_code(detector, i):
    """The detector, had its codes never held that of training row i."""
    other = copy.deepcopy(detector)
    log_weight = detector._codes["log_weight"]
    each = {name: values for name, values in detector._codes.items() if values.ndim}
    other._codes = detector._codes | {name: np.delete(values, i, axis=0) for name, values in each.items()}
    other._codes["log_weight"] = other._codes["log_weight"] - np.log1p(-np.exp(log_weight[i]))
    return other


@pytest.mark.parametrize("criterion", ["aggregated", "latent"])
@pytest.mark.parametrize("gaps", [False, True])
def test_a_training_row_is_scored_without_its_own_code(criterion, gaps):
    X = correlated(100)
    X = with_gaps(X, 0.1) if gaps else X
    detector = make(criterion=criterion).fit(X)
    for i in range(25):
        expected = without_code(detector, i).score_samples(X[i : i + 1])[0]
        assert detector.score_samples(X[i : i + 1])[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert detector.training_scores_[i] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_training_rows_with_gaps_set_a_threshold_that_new_rows_with_gaps_keep_to():
    X = with_gaps(correlated(600), 0.1)
    detector = make().fit(X[:300]).set_contamination(0.1)
    assert (detector.predict(X[300:]) == -1).mean() < 0.2


def test_training_rows_on_a_grid_are_scored_without_their_codes():
    """Codes of the linear start of a grid lie on a grid, where different codes have equal sums."""
    grid = np.stack(np.meshgrid(range(4), range(4)), axis=-1).reshape(16, 2).astype(float)
    for likelihood in (Gaussian("shared"), JohnsonSU(), Gaussian()):
        scores = make(likelihood=likelihood).fit(grid).training_scores_.reshape(4, 4)
        # Rows that are one by symmetry: turned by a quarter, or mirrored.
        np.testing.assert_allclose(scores, scores[::-1], atol=1e-3)
        np.testing.assert_allclose(scores, scores[:, ::-1], atol=1e-3)


# Missing cells


@every_criterion
def test_gaps_make_normal_rows_no_more_normal(criterion):
    """On average over rows, whatever the share of gaps. What a typical training row says is put into the gaps."""
    normal, _ = normal_and_anomalous("cancer")
    detector = make(criterion=criterion, max_iter=10).fit(normal[:200])
    whole = detector.score_samples(normal[200:])
    for share in (0.05, 0.2, 0.5, 1.0):
        gaps = detector.score_samples(with_gaps(normal[200:], share))
        assert np.isfinite(gaps).all()
        assert gaps.mean() <= max(whole.mean(), detector.training_scores_.mean()) + 0.15 * whole.std(), share


def test_an_anomaly_whose_telling_cell_is_missing_is_normal_and_is_not_where_it_is_there():
    X = correlated(50, seed=3).copy()
    X[:, 2] += 10 * X[:, 2].std()
    detector = fitted()
    assert (detector.predict(X) == -1).all()
    hidden = X.copy()
    hidden[:, 2] = np.nan
    assert (detector.predict(hidden) == 1).mean() > 0.9
    other = X.copy()
    other[:, 5] = np.nan
    assert (detector.predict(other) == -1).all()


@every_criterion
def test_an_empty_row_is_scored(criterion):
    detector = fitted(criterion)
    empty = np.full((2, 8), np.nan)
    scores = detector.score_samples(empty)
    assert np.isfinite(scores).all()
    assert scores[0] == pytest.approx(scores[1], rel=1e-12)
    assert detector.predict(empty).tolist() == [1, 1]
    assert detector.explain(empty).shape == (2, 9)
    assert np.isfinite(detector.similar(empty)).all()


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_training_with_gaps_works(share, new_rows):
    X = with_gaps(correlated(200), share)
    X[0] = np.nan
    detector = make(max_iter=20).fit(X)
    assert np.isfinite(detector.training_scores_).all()
    truth = np.arange(120) < 20
    assert roc_auc_score(truth, -detector.score_samples(new_rows)) > (0.95 if share < 0.5 else 0.8)
    assert np.isfinite(make(contamination=0.1).fit(X).training_scores_).all()


FAR = [1e39, -1e39, 1e160, 1e200, 1.7e308, -1.7e308]


@pytest.mark.parametrize("likelihood", ["johnson_su", "gaussian"])
@every_criterion
def test_a_row_far_out_is_an_anomaly_and_never_undefined(criterion, likelihood):
    detector = fitted(criterion) if likelihood == "johnson_su" else make(likelihood=likelihood, criterion=criterion)
    if likelihood == "gaussian":
        detector.fit(correlated(150))
    rows = np.vstack([np.full((1, 8), value) for value in FAR] + [correlated(150)[:8]])
    rows[range(len(FAR), len(FAR) + 6), range(6)] = FAR
    scores = detector.score_samples(rows)[:-2]
    assert not np.isnan(scores).any()
    assert (scores < np.inf).all()
    assert detector.predict(rows)[:-2].tolist() == [-1] * 12
    assert np.isfinite(detector.explain(rows[-2:])).all()
    assert not np.isnan(detector.similar(rows)[-2:]).any()


def test_a_training_table_with_a_row_far_out_gives_a_threshold():
    X = correlated(150).copy()
    X[3, 2], X[5] = 1e39, 1e30
    for parameters in ({}, {"contamination": 0.1}, {"criterion": "elbo"}):
        detector = make(**parameters).fit(X)
        assert np.isfinite(detector.offset_)
        assert not np.isnan(detector.training_scores_).any()
        assert np.isfinite(detector.explain(X[10:20])).all()


# Small, flat and repetitive tables


@pytest.mark.parametrize("contamination", ["auto", 0.1, 0.5])
@pytest.mark.parametrize("n_rows", [1, 2, 3, 5, 19, 21])
def test_a_table_of_few_rows_trains_or_says_how_many_it_needs(n_rows, contamination):
    X = correlated(60)[:n_rows]
    detector = make(contamination=contamination)
    try:
        detector.fit(X)
    except ValueError as error:
        assert n_rows < 3
        assert re.search(r"sample|row", str(error))  # noqa: PT017
    else:
        assert np.isfinite(detector.offset_)
        assert not np.isnan(detector.score_samples(correlated(60))).any()
        assert detector.explain(X).shape == (n_rows, 9)


FLAT = {
    "a constant column": lambda X: np.column_stack([X, np.full(len(X), 3.0)]),
    "constant columns only": lambda X: np.ones_like(X) * [1, 0, -5, 1e6, 0, 0, 2, 3],
    "identical rows": lambda X: np.repeat(X[:1], len(X), axis=0),
    "every row twice": lambda X: np.repeat(X[:75], 2, axis=0),
    "a column twice": lambda X: np.column_stack([X, X[:, 0]]),
    "few values": lambda X: np.round(X / 3),
    "one column": lambda X: X[:, :1],
    "wide": lambda X: np.column_stack([X[:20], np.random.RandomState(0).randn(20, 100)]),
}


@every_criterion
@pytest.mark.parametrize("name", FLAT)
def test_any_table_gives_finite_scores_and_explanations(name, criterion):
    X = FLAT[name](correlated(150))
    detector = make(criterion=criterion, max_iter=2).fit(X)
    assert np.isfinite(detector.training_scores_).all()
    assert np.isfinite(detector.explain(X)).all()
    assert np.isfinite(detector.similar(X)).all()
    assert (detector.predict(X) == -1).mean() < 0.2


@pytest.mark.parametrize("value", [4.0, 1e6])
def test_a_new_value_in_a_constant_column_is_an_anomaly(value):
    X = np.column_stack([correlated(150), np.full(150, 3.0)])
    detector, rows = make().fit(X), X[:20].copy()
    rows[:, 8] = 3 + value
    assert (detector.predict(rows) == -1).all()
    assert (detector.explain(rows)[:, :-1].argmin(axis=1) == 8).all()
