"""The detector on a stream of chunks."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from detectors import correlated, make, normal_and_anomalous, state_of
from helpers import with_gaps
from scipy import stats
from sklearn.metrics import roc_auc_score

from skvae import VAEAnomalyDetector, _codes, _normality


def stream(detector, chunks, passes=1):
    for _ in range(passes):
        for chunk in chunks:
            detector.partial_fit(chunk)
    return detector


@pytest.mark.parametrize("passes", [1, 5])
@pytest.mark.parametrize("name", ["cancer", "correlated"])
def test_a_stream_of_chunks_ranks_about_as_well_as_fit(name, passes, any_seed):
    if name == "cancer":
        normal, anomalous = normal_and_anomalous("cancer")
    else:
        normal, anomalous = correlated(600), correlated(200, seed=1) * [1, 1, -1, 1, 1, -1, 1, 1]
    half = len(normal) // 2
    rows = np.vstack([normal[half:], anomalous])
    truth = np.repeat([0, 1], [len(normal) - half, len(anomalous)])
    whole = VAEAnomalyDetector(random_state=any_seed).fit(normal[:half])
    chunks = np.array_split(normal[:half], 4)
    streamed = stream(VAEAnomalyDetector(random_state=any_seed), chunks, passes)
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


def test_a_stream_keeps_a_bounded_sample_of_all_its_rows(monkeypatch, any_seed):
    for module in (_codes, _normality):
        monkeypatch.setattr(module, "CODES", 100)
    detector, X = make(random_state=any_seed), correlated(1200)
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
    assert stats.kstest(kept / 1200, "uniform").pvalue > 1e-6


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
