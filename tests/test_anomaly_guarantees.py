"""The detector's guarantees: which rows to call at a false discovery rate, and thresholds that follow a stream."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from detectors import correlated, fitted, make, state_of


def calibrated(n_rows=199, seed=5):
    return copy.deepcopy(fitted()).calibrate(correlated(n_rows, seed=seed), false_alarm_rate=0.1)


def step_up(p, fdr):
    """Benjamini and Hochberg's rejections, by their own words: the largest k of which p_(k) <= k fdr / m."""
    order = np.argsort(p)
    below = [k for k in range(1, len(p) + 1) if p[order[k - 1]] <= k * fdr / len(p) + 1e-12]
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order[: max(below, default=0)]] = True
    return rejected


@pytest.mark.parametrize("fdr", [0.05, 0.1, 0.3, np.float32(0.5), 0.99])
def test_calls_are_benjamini_and_hochbergs(fdr, new_rows):
    detector = calibrated()
    found = detector.reject(new_rows, fdr=fdr)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, step_up(detector.p_values(new_rows), fdr))
    assert 10 < found.sum() <= len(new_rows)
    assert found.sum() < (detector.p_values(new_rows) <= fdr).sum() or fdr > 0.9


@pytest.mark.parametrize(("n_rows", "fdr", "n_alone"), [(9, 0.1, 1), (19, 0.1, 2), (99, 0.05, 5), (49, 0.3, 15)])
def test_a_rate_of_one_in_ten_is_met_exactly(n_rows, fdr, n_alone):
    """One row below all n calibration rows is called in company of up to fdr (n + 1) - 1 others, rounding or not."""
    detector, far = calibrated(n_rows), np.full((1, 8), 50.0)
    others = correlated(n_rows, seed=5)[np.argsort(detector.score_samples(correlated(n_rows, seed=5)))[::-1]]
    rows = np.vstack([far, others])
    assert detector.reject(rows[:n_alone], fdr=fdr).tolist() == [True, *[False] * (n_alone - 1)]
    with pytest.warns(UserWarning, match=f"1 of {n_alone + 1} score lower than all {n_rows} calibration rows"):
        assert not detector.reject(rows[: n_alone + 1], fdr=fdr).any()


def test_the_warning_says_how_many_rows_are_needed():
    detector, rows = calibrated(99), np.vstack([np.full((2, 8), 50.0), correlated(398, seed=9)])
    p = detector.p_values(rows)
    lowest = int((p < 0.0101).sum())
    needed = int(np.ceil(400 / (lowest * 0.05))) - 1
    with pytest.warns(UserWarning, match=f"Calibrate with at least {needed} rows"):
        detector.reject(rows, fdr=0.05)
    # A row that is certain is called with so many, and not with one fewer.
    for n_rows, called in ((needed, True), (needed - 1, False)):
        assert step_up(np.where(p < 0.0101, 1 / (n_rows + 1), 1.0), 0.05).any() == called


def test_nothing_to_call_is_no_warning():
    detector = calibrated()
    inner = correlated(199, seed=5)[np.argsort(detector.score_samples(correlated(199, seed=5)))[100:]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not detector.reject(inner).any()


def test_rows_without_a_number_for_their_score_are_called():
    assert calibrated().reject(np.vstack([np.full((3, 8), 1e200), correlated(20)]))[:3].all()


def test_the_false_discovery_rate_holds_on_average(any_seed):
    """200 deals of calibration and new rows, 10 of 60 anomalous: the mean share of normal rows among those called."""
    detector, fdr, n_normal = copy.deepcopy(fitted()), 0.2, 50
    normal = correlated(4000, seed=50 + any_seed)
    odd = correlated(200, seed=51) * [1, 1, -1, 1, 1, -1, 1, 1]
    known = {name: copy.deepcopy(fitted()).score_samples(rows) for name, rows in (("n", normal), ("o", odd))}
    rng, shares, power = np.random.default_rng(any_seed), [], []
    for _ in range(200):
        order = rng.permutation(len(normal))[: 100 + n_normal]
        detector.calibration_scores_ = np.sort(known["n"][order[:100]])
        scores = np.concatenate([known["n"][order[100:]], known["o"][rng.permutation(200)[:10]]])
        detector.score_samples = lambda X, scores=scores: scores
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            called = detector.reject(None, fdr=fdr)
        shares.append(called[:n_normal].sum() / max(1, called.sum()))
        power.append(called[n_normal:].mean())
    error = np.std(shares) / np.sqrt(200)
    bound = fdr * n_normal / (n_normal + 10)
    assert bound - 5 * error - 0.05 < np.mean(shares) <= bound + 5 * error
    assert np.mean(power) > 0.3


@pytest.mark.parametrize("fdr", [0, 1, 1.5, True, -0.1, np.nan, "0.1", None])
def test_reject_refuses_what_is_no_rate(fdr):
    with pytest.raises(ValueError, match=r"fdr=.* must be a number between 0 and 1"):
        calibrated().reject(correlated(20), fdr=fdr)


def test_reject_says_what_it_lacks():
    X = correlated(20)
    with pytest.raises(ValueError, match="reject needs the scores of normal rows; call calibrate first"):
        fitted().reject(X)
    with pytest.raises(ValueError, match=r"An fdr of 0.01 needs at least 99 calibration rows; the detector has 98"):
        calibrated(98).reject(X, fdr=0.01)
    with pytest.raises(ValueError, match="X has 3 features"):
        calibrated().reject(X[:, :3])


# A threshold that follows a stream


def test_the_window_holds_the_latest_rows():
    detector, chunks = copy.deepcopy(fitted()), np.array_split(correlated(300, seed=5), 6)
    for n_seen, chunk in enumerate(chunks, start=1):
        assert detector.partial_calibrate(chunk, false_alarm_rate=0.1, window=120) is detector
        latest = np.concatenate(chunks[:n_seen])[-120:]
        expected = copy.deepcopy(fitted()).calibrate(latest, false_alarm_rate=0.1)
        np.testing.assert_allclose(detector.calibration_scores_, expected.calibration_scores_, rtol=1e-12)
        assert detector.offset_ == pytest.approx(expected.offset_, rel=1e-12)
    size = len(pickle.dumps(detector))
    assert len(pickle.dumps(detector.partial_calibrate(chunks[0], false_alarm_rate=0.1, window=120))) == size
    assert len(detector.partial_calibrate(chunks[0], false_alarm_rate=0.1, window=40).calibration_scores_) == 40


def test_the_threshold_follows_the_model():
    """After partial_fit the window's rows are scored by the new model, and the threshold moves with it."""
    chunks, held_out = np.array_split(correlated(400), 4), correlated(100, seed=5)
    detector = make().partial_fit(chunks[0]).partial_calibrate(held_out, false_alarm_rate=0.1)
    for chunk in chunks[1:]:
        before = detector.offset_
        detector.partial_fit(chunk)
        assert detector.offset_ != before
        np.testing.assert_allclose(
            detector.calibration_scores_, np.sort(detector.score_samples(held_out)), rtol=1e-9, atol=1e-9
        )
        assert (detector.predict(held_out) == -1).sum() == 9
        assert detector.reject(np.vstack([held_out[:20], np.full((5, 8), 50.0)]))[20:].all()


def test_false_alarms_keep_to_their_rate_while_a_stream_drifts():
    """All columns move over the stream: a window follows, the first threshold does not."""
    X = correlated(1600, seed=9) + np.linspace(0, 1.5, 1600)[:, None]
    fixed = make().fit(correlated(300)).calibrate(X[:200], false_alarm_rate=0.1)
    moving, alarms = copy.deepcopy(fixed), {"fixed": [], "moving": []}
    for start in range(0, 1600, 50):
        chunk = X[start : start + 50]
        if start >= 200:
            alarms["fixed"].append((fixed.predict(chunk) == -1).mean())
            alarms["moving"].append((moving.predict(chunk) == -1).mean())
        moving.partial_calibrate(chunk, false_alarm_rate=0.1, window=200)
    assert np.mean(alarms["moving"]) < 0.16
    assert np.mean(alarms["fixed"]) > 2 * np.mean(alarms["moving"])


def test_a_window_of_a_frame_with_strings_and_gaps():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"size": rng.normal(size=300), "kind": rng.choice(["a", "b"], 300)})
    X.loc[::7, "size"] = np.nan
    detector = make(likelihood="auto").partial_fit(X[:100]).partial_calibrate(X[100:200], false_alarm_rate=0.1)
    detector.partial_fit(X[200:])
    np.testing.assert_allclose(detector.calibration_scores_, np.sort(detector.score_samples(X[100:200])), rtol=1e-9)


@pytest.mark.parametrize("window", [0, -1, 2.5, True, None, "all"])
def test_a_window_is_a_number_of_rows(window):
    detector = copy.deepcopy(fitted())
    before = state_of(detector)
    with pytest.raises(ValueError, match=r"window=.* must be an integer of at least 1"):
        detector.partial_calibrate(correlated(60, seed=5), false_alarm_rate=0.1, window=window)
    with pytest.raises(ValueError, match="needs at least 9 calibration rows; the window holds 8"):
        detector.partial_calibrate(correlated(60, seed=5), false_alarm_rate=0.1, window=8)
    with pytest.raises(ValueError, match="false_alarm_rate=2 must be a number between 0 and 1"):
        detector.partial_calibrate(correlated(60, seed=5), false_alarm_rate=2)
    assert state_of(detector) == before


def test_a_new_threshold_forgets_the_window():
    X = correlated(150)
    moving = copy.deepcopy(fitted()).partial_calibrate(correlated(60, seed=5), false_alarm_rate=0.1)
    for change in (
        lambda d: d.fit(X),
        lambda d: d.set_contamination(0.1),
        lambda d: d.calibrate(X, false_alarm_rate=0.1),
    ):
        detector = copy.deepcopy(moving)
        change(detector)
        assert not hasattr(detector, "_calibration")


FAULTS = {
    "rows are missing": lambda s: s["_calibration"].pop("X"),
    "rows of another width": lambda s: s["_calibration"].update(X=np.zeros((60, 3))),
    "rows hold infinity": lambda s: s["_calibration"]["X"].__setitem__((0, 0), np.inf),
    "a rate of 2": lambda s: s["_calibration"].update(false_alarm_rate=2.0),
    "a rate for more rows": lambda s: s["_calibration"].update(false_alarm_rate=0.001),
    "scores of other rows": lambda s: s.update(calibration_scores_=s["calibration_scores_"][1:]),
    "scores are missing": lambda s: s.pop("calibration_scores_"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_window_is_refused(name):
    moving = copy.deepcopy(fitted()).partial_calibrate(correlated(60, seed=5), false_alarm_rate=0.1)
    state = pickle.loads(pickle.dumps(vars(moving)))
    assert moving._fault(state) is None
    FAULTS[name](state)
    assert moving._fault(state) is not None


def test_a_saved_window_goes_on_as_the_detector_does():
    chunk = correlated(100, seed=6)
    moving = copy.deepcopy(fitted()).partial_calibrate(correlated(60, seed=5), false_alarm_rate=0.1)
    loaded = pickle.loads(pickle.dumps(moving))
    for detector in (moving, loaded):
        detector.partial_fit(chunk).partial_calibrate(correlated(30, seed=7), false_alarm_rate=0.1)
    assert moving.offset_ == loaded.offset_
    np.testing.assert_array_equal(moving.p_values(chunk), loaded.p_values(chunk))
