"""The detector's thresholds: by a share of the training rows, by a rate of false alarms; which rows are trained on."""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest
from detectors import correlated, every_criterion, fitted, make, shuffled, state_of
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import roc_auc_score

from skvae import VAEAnomalyDetector, _normality


@every_criterion
@pytest.mark.parametrize("contamination", [0.05, 0.2, 0.5])
def test_the_offset_is_the_percentile_of_the_training_scores(criterion, contamination):
    X = correlated(151)
    detector = make(criterion=criterion, contamination=contamination).fit(X)
    np.testing.assert_allclose(detector.score_samples(X), detector.training_scores_, rtol=1e-9, atol=1e-9)
    assert detector.offset_ == pytest.approx(np.percentile(detector.training_scores_, 100 * contamination))
    found = (detector.predict(X) == -1).sum()
    assert abs(found - contamination * len(X)) <= 1
    assert len(set(detector.training_scores_)) == 151


def test_auto_is_the_first_percentile():
    X = correlated(300)
    detector = make().fit(X)
    assert detector.offset_ == pytest.approx(np.percentile(detector.score_samples(X), 1))
    assert (detector.predict(X) == -1).sum() == 3


def test_decision_is_the_score_less_the_offset_and_prediction_its_sign(new_rows):
    detector = fitted()
    scores, decision = detector.score_samples(new_rows), detector.decision_function(new_rows)
    np.testing.assert_array_equal(decision, scores - detector.offset_)
    np.testing.assert_array_equal(detector.predict(new_rows), np.where(decision < 0, -1, 1))
    assert set(detector.predict(new_rows)) == {-1, 1}


@pytest.mark.parametrize("contamination", ["auto", 0.1])
def test_fit_predict_is_fit_then_predict(contamination):
    X = correlated(150)
    detector = make(contamination=contamination)
    np.testing.assert_array_equal(detector.fit_predict(X), clone(detector).fit(X).predict(X))


@pytest.mark.parametrize("contamination", [0.02, 0.1, np.float64(0.3), 0.5])
def test_set_contamination_moves_the_threshold_and_nothing_else(contamination):
    X = correlated(150)
    detector = copy.deepcopy(fitted())
    before = state_of(detector)
    assert detector.set_contamination(contamination) is detector
    assert abs((detector.predict(X) == -1).sum() - contamination * 150) <= 1
    after = state_of(detector)
    assert {name for name in after if after[name] != before.get(name)} == {"offset_"}


def test_set_contamination_equals_a_fit_with_it():
    """Where all rows are trained on: the threshold is all that contamination sets."""
    X = correlated(150)
    moved = make(support_fraction=1.0).fit(X).set_contamination(0.2)
    assert moved.offset_ == pytest.approx(make(support_fraction=1.0, contamination=0.2).fit(X).offset_)


def test_the_threshold_of_many_rows_comes_from_some(monkeypatch):
    monkeypatch.setattr(_normality, "SCORED", 50)
    monkeypatch.setattr(_normality, "CODES", 30)
    X = correlated(150)
    detector = make().fit(X)
    assert detector.training_scores_.shape == (50,)
    scores = detector.score_samples(X)
    assert np.isin(np.round(detector.training_scores_, 9), np.round(scores, 9)).all()
    assert len(make(contamination=0.1).fit(X).training_scores_) == 150


# Which rows are trained on


def dirty(n_rows=300, share=0.2, seed=0):
    """Rows of which a share lies elsewhere, close together."""
    X = correlated(n_rows, seed).copy()
    bad = np.arange(n_rows) < share * n_rows
    X[bad] = 0.3 * X[bad] + 6
    order = np.random.RandomState(0).permutation(n_rows)
    return X[order], bad[order]


def test_support_holds_the_asked_share_of_the_most_normal_rows():
    X, bad = dirty()
    for share, asked in ((None, 0.7), (0.5, 0.5), (0.7, 0.7), (1, 1.0)):
        detector = make(contamination=0.2, support_fraction=share).fit(X)
        assert detector.support_.dtype == bool
        assert detector.support_.sum() == math.ceil(asked * 300)
        if asked < 0.8:
            assert not (detector.support_ & bad).any()


def test_a_table_with_anomalies_is_cleaned_by_its_contamination():
    X, bad = dirty()
    found = {
        share: roc_auc_score(bad, -make(contamination=0.2, support_fraction=share).fit(X).training_scores_)
        for share in (None, 1.0)
    }
    assert found[None] > 0.99
    assert found[None] >= found[1.0]
    detector = make(contamination=0.2).fit(X)
    assert (detector.predict(X) == -1)[bad].mean() > 0.95


def test_a_table_of_zeros_and_ones_is_cleaned_too():
    rng = np.random.RandomState(0)
    X = (rng.rand(200, 6) < [0.05, 0.1, 0.05, 0.9, 0.95, 0.1]).astype(float)
    X[:20] = 1 - X[:20]
    detector = make(likelihood="bernoulli", objective="elbo", contamination=0.1).fit(X)
    assert detector.support_.sum() == 140
    assert not detector.support_[:20].any()
    assert roc_auc_score(np.arange(200) < 20, -detector.training_scores_) > 0.95


def test_rows_of_weight_zero_are_not_there():
    X = correlated(150)
    weight = (np.arange(150) % 3 > 0).astype(float)
    kept, removed = make(contamination=0.2).fit(X, sample_weight=weight), make(contamination=0.2).fit(X[weight > 0])
    np.testing.assert_array_equal(kept.score_samples(X), removed.score_samples(X))
    np.testing.assert_array_equal(kept.support_, removed.support_)
    assert kept.offset_ == removed.offset_


# Calibration


@pytest.mark.parametrize(
    ("rate", "n_rows", "place"),
    [
        (0.05, 19, 1), (0.05, 38, 1), (0.05, 39, 2), (0.05, 99, 5), (0.1, 9, 1), (0.1, 10, 1), (0.1, 29, 3),
        (0.01, 99, 1), (0.01, 120, 1), (0.29, 99, 29), (1 / 3, 2, 1), (0.5, 1, 1), (0.99, 99, 99), (0.3, 9, 3),
        (0.07, 99, 7), (np.float32(0.5), 3, 2),
    ],
)  # fmt: skip
def test_the_calibrated_threshold_is_the_conformal_one(rate, n_rows, place, new_rows):
    detector = copy.deepcopy(fitted())
    X = correlated(n_rows, seed=5)
    assert detector.calibrate(X, false_alarm_rate=rate) is detector
    scores = np.sort(detector.score_samples(X))
    # Just below: the score that sets it, however its terms were summed, is no alarm.
    assert detector.offset_ == pytest.approx(scores[place - 1], rel=1e-8)
    assert detector.offset_ < scores[place - 1]
    np.testing.assert_allclose(detector.calibration_scores_, scores, rtol=1e-12)
    assert (detector.predict(X) == -1).sum() == place - 1
    rows = np.vstack([new_rows, X])
    np.testing.assert_array_equal(detector.predict(rows) == -1, detector.p_values(rows) <= rate)


@pytest.mark.parametrize(("rate", "n_rows", "needed"), [(0.05, 18, 19), (0.1, 8, 9), (0.01, 98, 99), (0.5, 0, None)])
def test_too_few_calibration_rows_are_refused_and_the_threshold_stays(rate, n_rows, needed):
    detector = copy.deepcopy(fitted())
    before = state_of(detector)
    text = f"A false alarm rate of {rate} needs at least {needed} calibration rows; X_normal has {n_rows}"
    with pytest.raises(ValueError, match=re.escape(text) if needed else "0 sample"):
        detector.calibrate(correlated(200)[:n_rows], false_alarm_rate=rate)
    assert state_of(detector) == before


@pytest.mark.parametrize("load", [load_breast_cancer, load_diabetes], ids=["cancer", "diabetes"])
def test_false_alarms_keep_to_their_rate_on_random_splits(load, any_seed):
    """Calibration and test rows are dealt 200 times; the mean share of false alarms is right within 4.5 errors."""
    X = shuffled(load().data)
    detector, rest = make(max_iter=2).fit(X[:120]), X[120:]
    half = len(rest) // 2
    rates = (0.01, 0.05, 0.1)
    alarms = {rate: [] for rate in rates}
    for seed in range(200):
        X_new = shuffled(rest, 200 * any_seed + seed)
        p = detector.calibrate(X_new[:half], false_alarm_rate=rates[seed % 3]).p_values(X_new[half:])
        np.testing.assert_array_equal(detector.predict(X_new[half:]) == -1, p <= rates[seed % 3])
        for rate in rates:
            alarms[rate].append((p <= rate).mean())
    for rate in rates:
        error = math.sqrt(rate * (1 - rate) * (1 / half + 1 / (len(rest) - half)) / 200)
        assert np.mean(alarms[rate]) <= rate + 4.5 * error, rate
        assert np.mean(alarms[rate]) > rate - 1 / (half + 1) - 4.5 * error, rate


def test_p_values_of_normal_rows_are_uniform(any_seed):
    """One new row against each of 400 calibration sets; ties with the set's steps are broken at random."""
    detector, rng = copy.deepcopy(fitted()), np.random.RandomState(any_seed)
    pool = correlated(400 * 20, seed=100 + any_seed).reshape(400, 20, 8)
    p = [detector.calibrate(rows[:19], false_alarm_rate=0.1).p_values(rows[19:])[0] for rows in pool]
    assert set(np.round(np.multiply(p, 20), 9)) == set(range(1, 21))
    assert stats.kstest(np.array(p) - rng.rand(400) / 20, "uniform").pvalue > 1e-6


def test_p_values_count_calibration_rows_that_score_no_higher(new_rows):
    detector = copy.deepcopy(fitted()).calibrate(correlated(60, seed=5), false_alarm_rate=0.1)
    calibration, scores = detector.score_samples(correlated(60, seed=5)), detector.score_samples(new_rows)
    expected = (1 + (calibration <= scores[:, None] + 1e-12).sum(1)) / 61
    np.testing.assert_allclose(detector.p_values(new_rows), expected)
    assert detector.p_values(np.full((1, 8), 1e200))[0] == pytest.approx(1 / 61)


def test_a_new_fit_or_threshold_forgets_the_calibration():
    detector = copy.deepcopy(fitted()).calibrate(correlated(60, seed=5), false_alarm_rate=0.1)
    X = correlated(150)
    changes = [lambda d: d.fit(X), lambda d: d.partial_fit(X), lambda d: d.set_contamination(0.1)]
    for again in (change(copy.deepcopy(detector)) for change in changes):
        assert not hasattr(again, "calibration_scores_")
        with pytest.raises(ValueError, match="p_values needs the scores of normal rows; call calibrate first"):
            again.p_values(X)


@pytest.mark.parametrize("likelihood", ["johnson_su", "gaussian"])
def test_more_latents_than_columns_find_the_rows_to_train_on(likelihood):
    detector = make(n_components=20, likelihood=likelihood, contamination=0.1).fit(correlated(100))
    assert detector.support_.mean() == 0.7
    assert np.isfinite(detector.training_scores_).all()


def test_rows_far_out_that_are_equal_have_one_p_value_alone_and_in_company():
    """Scores of 1e17 nats are numbers 16 apart, which is more than what sets ordinary scores apart."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(20, 3)), 2, axis=0)
    X[:2, 0] = 1e9
    detector = VAEAnomalyDetector(2, likelihood="gaussian", criterion="elbo", random_state=0).fit(X[10:])
    whole = detector.calibrate(X, false_alarm_rate=0.5).p_values(X)
    scores = detector.score_samples(X)
    assert scores[0] < -1e16
    nudged = detector._normality().above(scores[:1] - 4 * np.spacing(np.abs(scores[:1])))
    assert nudged > scores[0]
    np.testing.assert_array_equal([detector.p_values(row[None])[0] for row in X], whole)
