"""The detector: what it finds, what it refuses, and how it stands among other estimators."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from detectors import correlated, fitted, make, normal_and_anomalous, of_densities, shuffled, state_of
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError

from skvae import ELBO, Gaussian, JohnsonSU, VAEAnomalyDetector


def test_a_detector_tells_other_classes_from_its_own(any_seed):
    for name, least in (("wine", 0.9), ("cancer", 0.9), ("iris", 0.99)):
        normal, anomalous = normal_and_anomalous(name)
        half = len(normal) // 2
        detector = VAEAnomalyDetector(random_state=any_seed).fit(normal[:half])
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
        ("criterion", []),
        ("criterion", ["aggregated", "elbow"]),
        ("criterion", ["latent", "latent"]),
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
        detector.set_params(objective="input_noise").fit(binary)
    np.testing.assert_array_equal(detector.score_samples(binary), kept)


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


# Among other estimators


def test_a_detector_stands_in_a_pipeline_and_a_grid_search(new_rows):
    X = correlated(150)
    pipe = make_pipeline(StandardScaler(), make()).fit(X)
    shift = of_densities(pipe[1]) * np.log(pipe[0].scale_).sum()
    np.testing.assert_allclose(pipe.score_samples(new_rows) - shift, fitted().score_samples(new_rows), rtol=1e-5)
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


def test_digits_of_one_kind_among_others(any_seed):
    X, y = load_digits(return_X_y=True)
    zeros = X[y == 0]
    detector = VAEAnomalyDetector(random_state=any_seed).fit(zeros[:120])
    rows, truth = np.vstack([zeros[120:], X[y != 0][:300]]), np.repeat([0, 1], [len(zeros) - 120, 300])
    assert roc_auc_score(truth, -detector.score_samples(rows)) > 0.97
