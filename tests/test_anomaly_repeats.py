"""The detector on tables whose rows are repeated, discrete, idle or rounded, and on rows of uneven weights."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from detectors import every_criterion, make, normal_and_anomalous
from sklearn.datasets import load_breast_cancer, load_wine

from skvae import VAEAnomalyDetector

WITH_CODES = pytest.mark.parametrize("criterion", ["aggregated", "latent"])
MIXING = np.random.default_rng(0).normal(size=(2, 6))


def plane(n_rows, seed):
    """Rows near a plane in six dimensions."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, 2)) @ MIXING + 0.3 * rng.normal(size=(n_rows, 6))


def flags(n_rows, seed):
    """Three flags that are hardly ever set: nine rows in ten are equal."""
    return (np.random.default_rng(seed).random((n_rows, 3)) < 0.1 / 3).astype(float)


def alarms(detector, X):
    return float((detector.predict(X) == -1).mean())


# Repeated rows


@WITH_CODES
@pytest.mark.parametrize(
    "copies", [np.full(200, 2), np.full(200, 3), 1 + np.arange(200) % 2], ids=["twice", "thrice", "half of them twice"]
)
def test_copies_of_rows_count_as_weights_do(criterion, copies):
    X, new = plane(200, 1), plane(500, 2)
    by_copies = make(criterion=criterion).fit(np.repeat(X, copies, axis=0))
    by_weight = make(criterion=criterion).fit(X, sample_weight=copies)
    assert alarms(by_copies, new) == pytest.approx(alarms(by_weight, new), abs=0.02)
    assert alarms(by_copies, new) < 0.05
    for detector in (by_copies, by_weight):
        detector.set_contamination(0.1)
    assert alarms(by_copies, new) == pytest.approx(alarms(by_weight, new), abs=0.02)
    assert 0.05 < alarms(by_copies, new) < 0.25


@pytest.mark.parametrize("times", [2, 3])
def test_copies_in_the_chunks_of_a_stream_raise_no_false_alarms(times):
    detector = make()
    for chunk in np.array_split(plane(300, 1), 3):
        detector.partial_fit(np.repeat(chunk, times, axis=0))
    assert alarms(detector, plane(500, 2)) < 0.05
    assert len(detector._reservoir["X"]) == 300


@pytest.mark.parametrize("times", [1, 2, 5])
def test_an_anomaly_in_the_training_table_is_found_also_where_it_was_copied(times):
    normal, anomalous = normal_and_anomalous("cancer")
    X = np.vstack([normal[:250], np.repeat(anomalous[:1], times, axis=0)])
    detector = make().fit(X)
    rank = (detector.score_samples(X[:250]) < detector.score_samples(X[250:]).max()).sum()
    assert rank <= 3
    # The threshold is the first percentile: five equal rows are more than that, and share its score.
    assert times == 5 or (detector.predict(X[250:]) == -1).all()


# The same row, written otherwise


@every_criterion
@pytest.mark.parametrize("load", [load_wine, load_breast_cancer], ids=["wine", "cancer"])
def test_a_row_in_single_precision_or_rounded_is_the_same_row(criterion, load):
    X = load().data
    detector = make(criterion=criterion).fit(X).set_contamination(0.1)
    for copied in (X.astype(np.float32), np.round(X, 6), X.astype(np.float32).astype(np.float64)):
        np.testing.assert_array_equal(detector.predict(copied), detector.predict(X))
        np.testing.assert_allclose(detector.score_samples(copied), detector.score_samples(X), rtol=1e-3, atol=0.02)
    other = make(criterion=criterion).fit(X.astype(np.float32)).set_contamination(0.1)
    np.testing.assert_array_equal(other.predict(X), other.predict(X.astype(np.float32)))


# Ties


def idle(n_rows, seed):
    """Five sensors that hardly ever move."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((n_rows, 1)) < 0.97, 21.7, rng.normal(21.7, 2, (n_rows, 5)))


TIED = {
    "flags": flags,
    "flags as 0 and 16": lambda n, seed: 16 * flags(n, seed),
    "counts": lambda n, seed: np.random.default_rng(seed).poisson(0.2, (n, 4)).astype(float),
    "rounded": lambda n, seed: np.round(plane(n, seed)),
    "idle": idle,
    "repeated": lambda n, seed: np.repeat(plane(n // 2, seed), 2, axis=0),
}


@every_criterion
@pytest.mark.parametrize("name", TIED)
def test_a_verdict_does_not_depend_on_company_or_order(name, criterion):
    """For the training rows and for new ones, at a percentile and calibrated; p-values likewise."""
    train, held, new = (TIED[name](120, seed) for seed in (0, 1, 2))
    detector = make(criterion=criterion, max_iter=1).fit(train)
    order = np.random.default_rng(0).permutation(120)

    def agree(of, X):
        whole = of(X)
        np.testing.assert_array_equal(of(X[order]), whole[order])
        np.testing.assert_array_equal([of(row[None])[0] for row in X[:4]], whole[:4])
        np.testing.assert_array_equal(np.concatenate([of(X[i : i + 17]) for i in range(0, 120, 17)]), whole)
        # Equal rows, equal answers.
        _, first, group = np.unique(X, axis=0, return_index=True, return_inverse=True)
        np.testing.assert_array_equal(whole, whole[first][group.reshape(-1)])

    for share in (0.01, 0.2):
        detector.set_contamination(share)
        agree(detector.predict, train)
        agree(detector.predict, new)
        assert alarms(detector, train) <= share + 1 / 120
    for rate in (0.05, 0.1):
        detector.calibrate(held, false_alarm_rate=rate)
        agree(detector.predict, new)
        agree(detector.p_values, new)
        np.testing.assert_array_equal(detector.predict(new) == -1, detector.p_values(new) <= rate)
        assert alarms(detector, held) <= rate


def test_the_most_common_row_is_as_normal_as_can_be():
    detector = VAEAnomalyDetector(max_iter=3, random_state=0).fit(flags(300, 0))
    detector.calibrate(flags(300, 1), false_alarm_rate=0.1)
    usual = np.zeros((1, 3))
    assert detector.p_values(usual)[0] == 1
    assert detector.predict(usual)[0] == 1
    assert alarms(detector, flags(300, 2)) == pytest.approx(0.06, abs=0.04)


def test_a_few_patterns_far_apart_are_more_normal_than_what_lies_between():
    """Half of the rows each: judged by the others alone, they would be odder than a mix of both."""
    X = np.repeat([[0.0, 0, 0], [1, 1, 1]], [160, 140], axis=0)
    detector = make().fit(X)
    between = np.array([[1.0, 0, 0], [0, 1, 1], [0.5, 0.5, 0.5]])
    assert detector.score_samples(X[[0, -1]]).min() > detector.score_samples(between).max()


# Weights


@pytest.mark.parametrize("contamination", ["auto", 0.1, 0.25])
def test_the_threshold_is_a_share_of_the_weight(contamination):
    X = np.vstack([plane(180, 1), 3 * plane(20, 2) + 4])
    weight = np.repeat([5, 1], [180, 20])
    by_weight = make(contamination=contamination, hidden_layer_sizes=()).fit(X, sample_weight=weight)
    by_copies = make(contamination=contamination, hidden_layer_sizes=()).fit(np.repeat(X, weight, axis=0))
    called = by_weight.predict(X) == -1
    assert np.average(called, weights=weight) == pytest.approx(
        0.01 if contamination == "auto" else contamination, abs=0.02
    )
    copied = by_copies.predict(X) == -1
    assert np.average(called, weights=weight) == pytest.approx(np.average(copied, weights=weight), abs=0.02)


def test_set_contamination_counts_weights_and_only_their_ratios():
    X, weight = plane(200, 1), np.random.default_rng(0).integers(1, 9, 200)
    one, other = (make().fit(X, sample_weight=w) for w in (weight, 1e6 * weight))
    for share in (0.05, 0.3):
        called = one.set_contamination(share).predict(X) == -1
        assert np.average(called, weights=weight) == pytest.approx(share, abs=0.02)
        np.testing.assert_array_equal(other.set_contamination(share).predict(X) == -1, called)


def test_rows_of_hardly_any_weight_do_not_use_the_threshold_up():
    X = np.vstack([plane(180, 1), 3 * plane(20, 2) + 4])
    weight = np.repeat([1, 0.001], [180, 20])
    detector = make(contamination=0.05, support_fraction=1.0).fit(X, sample_weight=weight)
    assert (detector.predict(X[:180]) == -1).mean() == pytest.approx(0.05, abs=0.02)


def test_the_support_is_a_share_of_the_weight():
    X, weight = plane(200, 1), np.random.default_rng(0).integers(1, 9, 200)
    detector = make(support_fraction=0.5).fit(X, sample_weight=weight)
    assert np.average(detector.support_, weights=weight) == pytest.approx(0.5, abs=9 / weight.sum())


# Too far out


def explanation_or_error(detector, X):
    try:
        return detector.explain(X)
    except ValueError as error:
        return str(error)


@every_criterion
@pytest.mark.parametrize("likelihood", ["johnson_su", "gaussian"])
@pytest.mark.parametrize("size", [1e100, 1e155, 1e200, 1.7e308])
def test_a_row_is_explained_to_its_sum_or_refused_by_its_number(criterion, likelihood, size):
    detector, X = make(criterion=criterion, likelihood=likelihood, max_iter=2).fit(plane(60, 0)), plane(3, 1)
    X[1] = size
    score = detector.score_samples(X)[1]
    assert detector.predict(X)[1] == -1
    found = explanation_or_error(detector, X)
    if isinstance(found, str):
        assert "Row 1 of X is too far from the training data to be explained" in found
        assert score < -1e100
    else:
        assert found[1].sum() == pytest.approx(score - detector.training_scores_.mean(), rel=1e-6)


@pytest.mark.parametrize(("size", "apart"), [(10.0, 1e-9), (1e3, 1e-9), (1e5, 1e-6), (2e9, 1e-6)])
def test_scores_far_out_are_equal_to_six_digits_and_others_to_nine(size, apart):
    """Of a row with gaps that is far out, the last digits follow the company it is scored in."""
    normality = make(max_iter=2).fit(plane(60, 0))._normality()
    typical = normality.margin / 1e-9
    score, more = -size * typical, np.array([0.3, 3.0]) * apart * size * typical
    assert list(score + more > normality.above(score)) == [False, True]


def test_a_criterion_without_a_finite_score_says_so_and_leaves_the_detector():
    X = plane(60, 0)
    detector = make(criterion="reconstruction_data", max_iter=1).fit(X)
    before = pickle.dumps(detector)
    with pytest.raises(ValueError, match="criterion='reconstruction_data' gives no training row a finite score"):
        detector.fit(X * [1, 1e160, 1, 1, 1, 1])
    assert pickle.dumps(detector) == before


def test_a_stream_may_come_from_a_file(tmp_path):
    X = plane(200, 0)
    np.save(tmp_path / "rows.npy", X)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    one, other = make(), make()
    for part in (slice(0, 100), slice(100, 200)):
        one.partial_fit(X[part])
        other.partial_fit(mapped[part])
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))
    assert one.offset_ == other.offset_


def test_thresholds_survive_a_copy():
    detector = copy.deepcopy(make().fit(plane(100, 0), sample_weight=np.arange(100) % 3 + 1))
    loaded = pickle.loads(pickle.dumps(detector))
    assert loaded.set_contamination(0.2).offset_ == detector.set_contamination(0.2).offset_
