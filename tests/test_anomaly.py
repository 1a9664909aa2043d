"""The detector: thresholds with guarantees, explanations, gaps, streams, and scores that depend on nothing else."""

from __future__ import annotations

import copy
import math
import pickle
import re
from functools import cache

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError

from skvae import ELBO, Gaussian, JohnsonSU, VAEAnomalyDetector, _normality
from skvae._inference.criteria import CRITERIA, DRAWN

every_criterion = pytest.mark.parametrize("criterion", CRITERIA)


def make(**parameters):
    return VAEAnomalyDetector(**{"hidden_layer_sizes": (16,), "max_iter": 5, "random_state": 0, **parameters})


def shuffled(X, seed=0):
    return X[np.random.RandomState(seed).permutation(len(X))]


@cache
def normal_and_anomalous(name):
    """Rows of one class in random order, and all others."""
    X, y = {"wine": load_wine, "cancer": load_breast_cancer, "iris": load_iris}[name](return_X_y=True)
    kept = {"wine": 1, "cancer": 1, "iris": 0}[name]
    return shuffled(X[y == kept]), X[y != kept]


@cache
def correlated(n_rows, seed=0):
    """Eight columns of three factors and a little noise."""
    rng, mixing = np.random.default_rng(seed), np.random.default_rng(7).normal(size=(3, 8))
    return rng.normal(size=(n_rows, 3)) @ mixing + 0.5 * rng.normal(size=(n_rows, 8))


@cache
def fitted(criterion="aggregated"):
    return make(criterion=criterion).fit(correlated(150))


@pytest.fixture(scope="module")
def new_rows():
    X = correlated(120, seed=1).copy()
    X[:20] += 4
    return X


def with_gaps(X, share, seed=0):
    return np.where(np.random.RandomState(seed).rand(*X.shape) < share, np.nan, X)


def state_of(detector):
    """A copy of everything the estimator holds, as comparable bytes."""
    return {name: pickle.dumps(value) for name, value in vars(detector).items()}


# Thresholds


def test_a_detector_tells_other_classes_from_its_own():
    for name, least in (("wine", 0.9), ("cancer", 0.9), ("iris", 0.99)):
        normal, anomalous = normal_and_anomalous(name)
        half = len(normal) // 2
        detector = VAEAnomalyDetector(random_state=0).fit(normal[:half])
        rows = np.vstack([normal[half:], anomalous])
        truth = np.repeat([0, 1], [len(normal) - half, len(anomalous)])
        assert roc_auc_score(truth, -detector.score_samples(rows)) > least, name


def test_fitted_attributes(new_rows):
    detector = fitted()
    assert detector.n_components_ == detector.n_features_in_ == 8
    assert detector.training_scores_.shape == (150,)
    assert detector.training_scores_.dtype == np.float64
    assert type(detector.offset_) is float
    assert detector.support_.tolist() == [True] * 150
    assert not hasattr(detector, "calibration_scores_")
    assert not hasattr(detector, "score")
    assert not hasattr(detector, "transform")
    assert detector.predict(new_rows).dtype == int
    assert detector.score_samples(new_rows).dtype == np.float64


@pytest.mark.parametrize(("n_columns", "n_components"), [(1, 1), (5, 5), (64, 64), (80, 64)])
def test_auto_takes_as_many_latents_as_columns_up_to_64(n_columns, n_components):
    X = np.random.RandomState(0).randn(100, n_columns)
    detector = make(max_iter=1).fit(X)
    assert detector.n_components_ == n_components
    assert np.isfinite(detector.training_scores_).all()


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
    for share, asked in ((None, 0.5), (0.5, 0.5), (0.7, 0.7), (1, 1.0)):
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
    assert detector.support_.sum() == 100
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
    assert detector.offset_ == pytest.approx(scores[place - 1], rel=1e-12)
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
def test_false_alarms_keep_to_their_rate_on_random_splits(load):
    """Calibration and test rows are dealt 200 times; each share of false alarms has its binomial error."""
    X = shuffled(load().data)
    detector, rest = make(max_iter=2).fit(X[:120]), X[120:]
    half = len(rest) // 2
    rates = (0.01, 0.05, 0.1)
    alarms = {rate: [] for rate in rates}
    for seed in range(200):
        X_new = shuffled(rest, seed)
        p = detector.calibrate(X_new[:half], false_alarm_rate=rates[seed % 3]).p_values(X_new[half:])
        np.testing.assert_array_equal(detector.predict(X_new[half:]) == -1, p <= rates[seed % 3])
        for rate in rates:
            alarms[rate].append((p <= rate).mean())
    for rate in rates:
        error = math.sqrt(rate * (1 - rate) * (1 / half + 1 / (len(rest) - half)) / 200)
        assert np.mean(alarms[rate]) <= rate + 3 * error, rate
        assert np.mean(alarms[rate]) > rate - 1 / (half + 1) - 3 * error, rate


def test_p_values_of_normal_rows_are_uniform():
    """One new row against each of 400 calibration sets; ties with the set's steps are broken at random."""
    detector, rng = copy.deepcopy(fitted()), np.random.RandomState(0)
    pool = correlated(400 * 20, seed=9).reshape(400, 20, 8)
    p = [detector.calibrate(rows[:19], false_alarm_rate=0.1).p_values(rows[19:])[0] for rows in pool]
    assert set(np.round(np.multiply(p, 20), 9)) == set(range(1, 21))
    assert stats.kstest(np.array(p) - rng.rand(400) / 20, "uniform").pvalue > 0.01


def test_p_values_count_calibration_rows_that_score_no_higher(new_rows):
    detector = copy.deepcopy(fitted()).calibrate(correlated(60, seed=5), false_alarm_rate=0.1)
    calibration, scores = detector.score_samples(correlated(60, seed=5)), detector.score_samples(new_rows)
    expected = (1 + (calibration <= scores[:, None] + 1e-12).sum(1)) / 61
    np.testing.assert_allclose(detector.p_values(new_rows), expected)
    assert detector.p_values(np.full((1, 8), 1e200))[0] == pytest.approx(1 / 61)


def test_a_new_fit_forgets_the_calibration():
    detector = copy.deepcopy(fitted()).calibrate(correlated(60, seed=5), false_alarm_rate=0.1)
    X = correlated(150)
    for again in (copy.deepcopy(detector).fit(X), copy.deepcopy(detector).partial_fit(X)):
        assert not hasattr(again, "calibration_scores_")
        with pytest.raises(ValueError, match="p_values needs the scores of normal rows; call calibrate first"):
            again.p_values(X)


# Scores depend on the row alone


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
    raw = VAEAnomalyDetector(random_state=0).fit(normal[:half]).score_samples(rows)
    standard = (
        VAEAnomalyDetector(random_state=0).fit(scaler.transform(normal[:half])).score_samples(scaler.transform(rows))
    )
    np.testing.assert_allclose(raw + np.log(scaler.scale_).sum(), standard, rtol=1e-6, atol=1e-6)
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


def without_code(detector, i):
    """The detector, had its codes never held that of training row i."""
    other = copy.deepcopy(detector)
    log_weight = detector._codes["log_weight"]
    other._codes = {name: np.delete(values, i, axis=0) for name, values in detector._codes.items()}
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


# Explanations


@every_criterion
@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_explanations_sum_to_the_score_less_the_mean_training_score(criterion, gaps, new_rows):
    detector = fitted(criterion)
    X = with_gaps(np.vstack([new_rows[:60], correlated(150)[:40]]), gaps)
    found = detector.explain(X)
    assert found.shape == (100, 9)
    expected = detector.score_samples(X) - detector.training_scores_.mean()
    np.testing.assert_allclose(found.sum(axis=1), expected, rtol=1e-9, atol=1e-9)


@every_criterion
def test_a_missing_cell_explains_nothing(criterion, new_rows):
    detector = fitted(criterion)
    X = with_gaps(new_rows, 0.3)
    found, spread = detector.explain(X)[:, :-1], detector.explain(new_rows)[20:, :-1].std(axis=0)
    missing = np.isnan(X)
    np.testing.assert_allclose((found / spread)[missing], 0, atol=0.75)


PLANTED = {
    "correlated": lambda: (correlated(500), correlated(100, seed=1)),
    "wine": lambda: np.split(normal_and_anomalous("wine")[0], [50]),
    "cancer": lambda: np.split(normal_and_anomalous("cancer")[0], [250]),
}


@pytest.mark.parametrize("criterion", ["aggregated", "elbo", "reconstruction"])
@pytest.mark.parametrize("name", PLANTED)
def test_the_lowest_contribution_names_a_planted_anomaly(name, criterion):
    """Six standard deviations up or down in one column, in every row and (of many, some) columns."""
    train, rows = PLANTED[name]()
    detector = VAEAnomalyDetector(criterion=criterion, random_state=0).fit(train)
    n, (n_rows, D) = 250, rows.shape
    rng = np.random.RandomState(0)
    column, X = rng.randint(D, size=n), rows[np.arange(n) % n_rows].copy()
    X[np.arange(n), column] += rng.choice([-6, 6], n) * train.std(axis=0)[column]
    assert (detector.explain(X)[:, :-1].argmin(axis=1) == column).mean() >= 0.95


@pytest.mark.parametrize("name", PLANTED)
def test_similar_is_a_normal_row_in_data_units(name):
    train, rows = PLANTED[name]()
    detector = VAEAnomalyDetector(random_state=0).fit(train)
    found, scale = detector.similar(rows), train.std(axis=0)
    assert found.shape == rows.shape
    typical = np.sqrt((((rows[:, None] - train) / scale) ** 2).mean(axis=2)).mean()
    assert np.sqrt((((found - rows) / scale) ** 2).mean()) < 0.8 * typical
    assert (detector.predict(found) == 1).mean() > 0.95
    odd = rows.copy()
    odd[:, 1] += 6 * scale[1]
    off = np.abs(odd - detector.similar(odd)) / scale
    assert (off.argmax(axis=1) == 1).mean() > 0.8


def test_similar_looks_past_gaps():
    """A row with a few gaps is like about the same rows as the whole one."""
    train, rows = PLANTED["correlated"]()
    detector, scale = VAEAnomalyDetector(random_state=0).fit(train), train.std(axis=0)

    def error(X):
        return np.sqrt((((detector.similar(X) - rows) / scale) ** 2).mean())

    assert error(with_gaps(rows, 0.15)) < 1.5 * error(rows)


def test_explanations_and_similar_rows_come_in_the_asked_container(new_rows):
    X = pd.DataFrame(correlated(150)).add_prefix("c").set_index(np.arange(150) + 1000)
    detector = make().fit(X)
    names = [*X.columns, "latent"]
    plain, similar = detector.explain(X), detector.similar(X)
    assert isinstance(plain, np.ndarray)
    assert detector.set_output(transform="pandas") is detector
    frame = detector.explain(X)
    assert frame.columns.tolist() == names
    assert frame.index.equals(X.index)
    np.testing.assert_array_equal(frame, plain)
    np.testing.assert_allclose(
        frame.sum(axis=1), detector.score_samples(X) - detector.training_scores_.mean(), rtol=1e-9
    )
    assert detector.similar(X).columns.tolist() == X.columns.tolist()
    assert detector.similar(X).index.equals(X.index)
    frame = detector.set_output(transform="polars").explain(pl.DataFrame(X))
    assert isinstance(frame, pl.DataFrame)
    assert frame.columns == names
    np.testing.assert_array_equal(frame.to_numpy(), plain)
    np.testing.assert_array_equal(detector.set_output(transform="default").similar(X), similar)
    detector.set_output()
    assert isinstance(detector.explain(X), np.ndarray)


def test_scikit_learns_configuration_chooses_the_container(new_rows):
    with sklearn.config_context(transform_output="pandas"):
        assert fitted().explain(new_rows).columns.tolist() == [*(f"x{i}" for i in range(8)), "latent"]
        assert isinstance(fitted().score_samples(new_rows), np.ndarray)


def test_an_unknown_container_is_refused_and_forgotten(new_rows):
    detector = copy.deepcopy(fitted())
    with pytest.raises(ValueError, match="nope"):
        detector.set_output(transform="nope")
    assert isinstance(detector.explain(new_rows), np.ndarray)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_a_column_may_be_called_latent(container):
    X = pd.DataFrame(correlated(60)[:, :3], columns=["a", "latent", "b"])
    frame = make(max_iter=1).fit(X).set_output(transform=container).explain(X)
    assert frame.shape == (60, 4)
    assert len(set(frame.columns)) == 4
    assert list(frame.columns)[:3] == ["a", "latent", "b"]


# Bad input


def refused(change, words, kind=ValueError):
    """What `change` does to a fitted detector is one clear sentence, and leaves it as it was."""
    detector = copy.deepcopy(fitted())
    X = correlated(60, seed=5)
    before, scores = state_of(detector), detector.score_samples(X)
    with pytest.raises(kind, match=words):
        change(detector, X)
    assert state_of(detector) == before
    np.testing.assert_array_equal(detector.score_samples(X), scores)


@pytest.mark.parametrize("value", [0, 0.6, True, False, -0.1, np.nan, "auto", "0.1", None, 1])
def test_set_contamination_refuses_what_is_no_share(value):
    refused(lambda d, X: d.set_contamination(value), r"contamination=.* must be a number above 0 and at most 0.5")


@pytest.mark.parametrize("value", [0, 1, 1.5, True, False, -0.1, np.nan, np.inf, "0.1", None])
def test_calibrate_refuses_what_is_no_rate(value):
    refused(
        lambda d, X: d.calibrate(X, false_alarm_rate=value), r"false_alarm_rate=.* must be a number between 0 and 1"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contamination", 0),
        ("contamination", 0.6),
        ("contamination", True),
        ("contamination", "none"),
        ("support_fraction", 0),
        ("support_fraction", 1.1),
        ("criterion", "elbow"),
        ("criterion", None),
        ("likelihood", "poison"),
        ("objective", "smooth"),
        ("n_components", 0),
    ],
)
def test_fit_refuses_wrong_parameters_and_keeps_the_previous_model(name, value):
    detector, X = copy.deepcopy(fitted()), correlated(60, seed=5)
    scores = detector.score_samples(X)
    detector.set_params(**{name: value})
    for method in (detector.fit, detector.partial_fit):
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of VAEAnomalyDetector must be"):
            method(X)
    detector.set_params(**{name: getattr(fitted(), name)})
    np.testing.assert_array_equal(detector.score_samples(X), scores)
    assert detector.offset_ == fitted().offset_


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X: X[:, :5], "X has 5 features, but VAEAnomalyDetector is expecting 8 features"),
        (lambda X: np.where(X.max() == X, np.inf, X), "Input X contains infinity: column"),
        (lambda X: X.astype(str).astype(object) + "a", "could not convert string to float"),
        (lambda X: X[0], "Expected 2D array, got 1D array"),
        (lambda X: X[:0], "0 sample"),
        (lambda X: X + 1j, "Complex data not supported"),
    ],
)
def test_rows_that_are_none_are_refused_by_every_method(change, words):
    for method in ("score_samples", "decision_function", "predict", "explain", "similar"):
        refused(lambda d, X, method=method: getattr(d, method)(change(X)), words)
    refused(lambda d, X: d.calibrate(change(X), false_alarm_rate=0.1), words)
    if "expecting" not in words:
        refused(lambda d, X: d.fit(change(X)), words)
    refused(lambda d, X: d.partial_fit(change(X)), words)


def test_p_values_ask_for_a_calibration():
    refused(lambda d, X: d.p_values(X), "p_values needs the scores of normal rows; call calibrate first")


def test_bernoulli_and_the_smoothed_objective_do_not_go_together():
    binary = (correlated(60) > 0).astype(float)
    detector = make(likelihood="bernoulli")
    with pytest.raises(ValueError, match="to which no noise can be added; use objective='elbo'"):
        detector.fit(binary)
    with pytest.raises(NotFittedError):
        detector.predict(binary)
    detector.set_params(objective="elbo").fit(binary)
    kept = detector.score_samples(binary)
    with pytest.raises(ValueError, match="use objective='elbo'"):
        detector.set_params(objective="smoothed").fit(binary)
    np.testing.assert_array_equal(detector.score_samples(binary), kept)


def test_bernoulli_finds_odd_combinations_and_explains_them():
    """Columns in three pairs of copies; an anomaly breaks one pair."""
    rng = np.random.RandomState(0)
    X = np.repeat(rng.rand(400, 3) < 0.5, 2, axis=1).astype(float)
    detector = make(likelihood="bernoulli", objective="elbo", max_iter=60, hidden_layer_sizes=(32,)).fit(X)
    odd = X[:40].copy()
    odd[:, 3] = 1 - odd[:, 3]
    assert roc_auc_score(np.repeat([0, 1], 40), -detector.score_samples(np.vstack([X[40:80], odd]))) > 0.99
    found = detector.explain(odd)
    assert np.isin(found[:, :-1].argmin(axis=1), [2, 3]).mean() > 0.95
    expected = detector.score_samples(odd) - detector.training_scores_.mean()
    np.testing.assert_allclose(found.sum(axis=1), expected, rtol=1e-9, atol=1e-9)


def test_a_detector_must_be_fitted_first():
    X = correlated(60)
    calls = [
        lambda d: d.score_samples(X), lambda d: d.decision_function(X), lambda d: d.predict(X), lambda d: d.explain(X),
        lambda d: d.similar(X), lambda d: d.p_values(X), lambda d: d.set_contamination(0.1),
        lambda d: d.calibrate(X, false_alarm_rate=0.1),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(NotFittedError):
            call(make())


def test_a_criterion_set_after_fit_is_refused_or_takes_a_threshold_of_its_own():
    """A threshold belongs to the criterion that it was learnt with."""
    detector, X = copy.deepcopy(fitted()), correlated(150)
    labels = detector.predict(X)
    detector.set_params(criterion="reconstruction")
    try:
        found = detector.predict(X)
    except ValueError as error:
        assert "criterion" in str(error)  # noqa: PT017
    else:
        assert (found == -1).sum() == (labels == -1).sum()


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
    for found in (detector.explain(rows), detector.similar(rows)):
        assert not np.isnan(found[-2:]).any()


def test_a_training_table_with_a_row_far_out_gives_a_threshold():
    X = correlated(150).copy()
    X[3, 2], X[5] = 1e39, 1e30
    for parameters in ({}, {"contamination": 0.1}, {"criterion": "elbo"}):
        detector = make(**parameters).fit(X)
        assert np.isfinite(detector.offset_)
        assert not np.isnan(detector.training_scores_).any()
        assert np.isfinite(detector.explain(X[10:20])).all()


# A criterion of one's own


def first_column(model, rows, view):
    """How near the first column is to its mean."""
    found = torch.zeros(len(rows), rows.x.shape[1] + 1, dtype=rows.x.dtype)
    found[:, 0] = -rows.x[:, 0].square()
    return found


def test_a_criterion_of_ones_own_scores_and_explains(new_rows):
    X = correlated(150)
    detector = make(criterion=first_column, contamination=0.1).fit(X)
    expected = -(((new_rows - detector.mean_) / detector.scale_)[:, 0] ** 2)
    np.testing.assert_allclose(detector.score_samples(new_rows), expected, rtol=1e-9)
    assert (detector.predict(X) == -1).sum() == 15
    found = detector.explain(new_rows)
    np.testing.assert_allclose(found[:, 1:-1], 0, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), expected - detector.training_scores_.mean(), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(detector)).explain(new_rows), found)


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


# Among other estimators


def test_a_detector_stands_in_a_pipeline_and_a_grid_search(new_rows):
    X = correlated(150)
    pipe = make_pipeline(StandardScaler(), make()).fit(X)
    np.testing.assert_allclose(
        pipe.score_samples(new_rows) - np.log(pipe[0].scale_).sum(), fitted().score_samples(new_rows), rtol=1e-5
    )
    truth = np.where(np.arange(120) < 20, -1, 1)
    search = GridSearchCV(
        make(),
        {"criterion": ["aggregated", "reconstruction"], "n_components": [2, "auto"]},
        scoring="roc_auc",
        cv=2,
        error_score="raise",
    ).fit(shuffled(new_rows), shuffled(truth))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_labels_are_ignored():
    X = correlated(150)
    np.testing.assert_array_equal(make().fit(X, np.arange(150)).score_samples(X), fitted().score_samples(X))


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(VAEAnomalyDetector()) == "VAEAnomalyDetector()"
    detector = VAEAnomalyDetector(4, criterion="elbo", likelihood=JohnsonSU(3), objective=ELBO(input_noise=0.1))
    assert repr(eval(repr(detector))) == repr(detector)
    assert "JohnsonSU(tail=3)" in repr(detector)


def test_names_of_columns_are_checked(new_rows):
    X = pd.DataFrame(correlated(150)).add_prefix("c")
    detector = make().fit(X)
    with pytest.raises(ValueError, match="feature names should match"):
        detector.predict(X.add_suffix("x"))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        scores = detector.score_samples(new_rows)
    np.testing.assert_array_equal(scores, fitted().score_samples(new_rows))


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_rows_of_any_dtype_have_float64_scores(dtype):
    X = np.round(10 * correlated(150)).astype(dtype)
    detector = make().fit(X)
    assert detector.score_samples(X).dtype == detector.explain(X).dtype == np.float64
    np.testing.assert_allclose(detector.score_samples(X), make().fit(X.astype(float)).score_samples(X.astype(float)))


def test_any_network_and_objective_can_be_judged(new_rows):
    for parameters in (
        {"objective": "iwae"},
        {"objective": ELBO(beta=2)},
        {"likelihood": Gaussian("decoder"), "init": "random"},
        {"hidden_layer_sizes": ()},
        {"encoder": lambda n_in, n_out: torch.nn.Linear(n_in, n_out), "init": "random"},
    ):
        detector = make(**parameters).fit(correlated(150))
        found = detector.explain(new_rows).sum(axis=1)
        expected = detector.score_samples(new_rows) - detector.training_scores_.mean()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


# Streams


def stream(detector, chunks, passes=1):
    for _ in range(passes):
        for chunk in chunks:
            detector.partial_fit(chunk)
    return detector


@pytest.mark.parametrize("passes", [1, 5])
@pytest.mark.parametrize("name", ["cancer", "correlated"])
def test_a_stream_of_chunks_ranks_about_as_well_as_fit(name, passes):
    if name == "cancer":
        normal, anomalous = normal_and_anomalous("cancer")
    else:
        normal, anomalous = correlated(600), correlated(200, seed=1) * [1, 1, -1, 1, 1, -1, 1, 1]
    half = len(normal) // 2
    rows = np.vstack([normal[half:], anomalous])
    truth = np.repeat([0, 1], [len(normal) - half, len(anomalous)])
    whole = VAEAnomalyDetector(random_state=0).fit(normal[:half])
    chunks = np.array_split(normal[:half], 4)
    streamed = stream(VAEAnomalyDetector(random_state=0), chunks, passes)
    assert streamed.n_iter_ == 4 * passes
    found = [roc_auc_score(truth, -detector.score_samples(rows)) for detector in (whole, streamed)]
    assert found[1] > found[0] - 0.03


@pytest.mark.parametrize("passes", [1, 3])
def test_a_streams_threshold_holds_for_new_rows(passes):
    """Rows that came in every pass are known, and judged without all their copies."""
    chunks = np.array_split(correlated(400), 4)
    detector = stream(make(), chunks, passes).set_contamination(0.1)
    assert 0.02 < (detector.predict(correlated(400, seed=3)) == -1).mean() < 0.25
    found = detector.explain(chunks[0]).sum(axis=1)
    expected = detector.score_samples(chunks[0]) - detector.training_scores_.mean()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def size_of(detector):
    return len(pickle.dumps(detector))


def test_a_stream_keeps_a_bounded_sample_of_all_its_rows(monkeypatch):
    monkeypatch.setattr(_normality, "CODES", 100)
    detector, X = make(), correlated(1200)
    X = X.copy()
    # Column 0 counts the rows, so that a code tells which chunk it came from.
    X[:, 0] = np.arange(1200)
    sizes = []
    for chunk in np.array_split(X, 12):
        detector.partial_fit(chunk)
        sizes.append(size_of(detector))
        assert len(detector._codes["mean"]) <= 100
    assert max(sizes[2:]) < 1.2 * sizes[1]
    kept = np.sort(detector._reservoir["X"][:, 0])
    assert len(np.unique(kept)) == 100
    assert stats.kstest(kept / 1200, "uniform").pvalue > 0.01


def test_a_stream_is_set_by_its_seed_and_does_not_depend_on_copies():
    chunks = np.array_split(correlated(300), 3)
    one = stream(make(), chunks)
    other = make()
    for chunk in chunks:
        other = pickle.loads(pickle.dumps(other.partial_fit(chunk)))
    np.testing.assert_array_equal(one.score_samples(chunks[0]), other.score_samples(chunks[0]))
    assert one.offset_ == other.offset_
    assert not np.array_equal(
        stream(make(random_state=1), chunks).score_samples(chunks[0]), one.score_samples(chunks[0])
    )


def test_a_stream_goes_on_from_a_fit():
    X = correlated(300)
    detector = make().fit(X[:150])
    n_iter, before = detector.n_iter_, detector.score_samples(X[:150])
    detector.partial_fit(X[150:])
    assert detector.n_iter_ == n_iter + 1
    assert np.isfinite(detector.offset_)
    after = detector.score_samples(X)
    assert not np.array_equal(after[:150], before)
    assert (after < detector.offset_).mean() < 0.1


def test_a_chunk_with_weights_and_gaps_is_learnt(new_rows):
    X = with_gaps(correlated(200), 0.1)
    weight = np.random.RandomState(0).rand(200)
    weight[:20] = 0
    detector = make()
    for i in range(0, 200, 50):
        detector.partial_fit(X[i : i + 50], sample_weight=weight[i : i + 50])
    assert np.isfinite(detector.training_scores_).all()
    assert roc_auc_score(np.arange(120) < 20, -detector.score_samples(new_rows)) > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X: X[:, :3], "X has 3 features, but VAEAnomalyDetector is expecting 8"),
        (lambda X: np.where(X.max() == X, -np.inf, X), "contains infinity"),
    ],
)
def test_a_bad_chunk_leaves_the_stream_as_it_was(change, words):
    chunks = np.array_split(correlated(300), 3)
    detector, clean = stream(make(), chunks[:2]), stream(make(), chunks)
    before = state_of(detector)
    with pytest.raises(ValueError, match=words):
        detector.partial_fit(change(chunks[2]))
    assert state_of(detector) == before
    np.testing.assert_array_equal(
        detector.partial_fit(chunks[2]).score_samples(chunks[0]), clean.score_samples(chunks[0])
    )


def test_digits_of_one_kind_among_others():
    X, y = load_digits(return_X_y=True)
    zeros = X[y == 0]
    detector = VAEAnomalyDetector(random_state=0).fit(zeros[:120])
    rows, truth = np.vstack([zeros[120:], X[y != 0][:300]]), np.repeat([0, 1], [len(zeros) - 120, 300])
    assert roc_auc_score(truth, -detector.score_samples(rows)) > 0.97


@pytest.mark.parametrize("likelihood", ["johnson_su", "gaussian"])
def test_more_latents_than_columns_find_the_rows_to_train_on(likelihood):
    detector = make(n_components=20, likelihood=likelihood, contamination=0.1).fit(correlated(100))
    assert detector.support_.mean() == 0.5
    assert np.isfinite(detector.training_scores_).all()
