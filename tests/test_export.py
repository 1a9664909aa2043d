"""ONNX graphs: the numbers of the estimator, in another runtime."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import Mixed, VAEAnomalyDetector, VAEImputer, VAETransformer
from skvae.export import to_onnx
from skvae.networks import PixelCNN

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = load_wine().data
TABLE = np.column_stack(
    [X[:, :2], np.round(X[:, 3]), X[:, 4] > 100, np.arange(len(X)) % 3, np.full(len(X), 7.0), X[:, 9], X[:, 5] > 2]
)
EVERY_KIND = Mixed(
    [
        ("johnson_su", [0]),
        ("gaussian", [1, 5]),
        ("negative_binomial", [2]),
        ("bernoulli", [3]),
        ("categorical", [4]),
        ("normal_score", [6]),
        ("given", [7]),
    ]
)


def small(kind, X, **parameters):
    return kind(**{"n_components": 2, "max_iter": 3, "random_state": 0, "hidden_layer_sizes": (8,), **parameters}).fit(
        X
    )


@pytest.fixture(scope="module")
def mixed():
    """Columns of every kind, one of them constant and one given; latents whose public order is not that of training."""
    vae = small(VAETransformer, TABLE, likelihood=EVERY_KIND, prior="mixture", n_components=3, init="random")
    assert list(vae._order) != [0, 1, 2]
    return vae


def session(estimator, folder, method):
    to_onnx(estimator, folder / "model.onnx", method)
    return onnxruntime.InferenceSession(folder / "model.onnx")


def answer(estimator, folder, method, X):
    return session(estimator, folder, method).run([method], {"X": X})[0]


@pytest.mark.parametrize("method", ["transform", "reconstruct", "score_samples"])
def test_a_graph_computes_what_the_method_does(mixed, method, tmp_path):
    rows, expected = TABLE, getattr(mixed, method)(TABLE)
    run = session(mixed, tmp_path, method)
    for some in (slice(None), slice(1)):
        np.testing.assert_allclose(run.run([method], {"X": rows[some]})[0], expected[some], rtol=1e-5, atol=1e-5)


def test_latents_come_in_public_order(tmp_path):
    vae = small(VAETransformer, X, n_components=3, init="random")
    assert list(vae._order) != [0, 1, 2]
    Z = vae.transform(X)
    np.testing.assert_allclose(answer(vae, tmp_path, "inverse_transform", Z), vae.inverse_transform(Z), rtol=1e-9)


def test_a_detectors_graph_leaves_out_a_training_rows_own_code(tmp_path):
    detector = small(VAEAnomalyDetector, X[:100])
    found, expected = answer(detector, tmp_path, "decision_function", X), detector.decision_function(X)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_pipeline_is_one_graph(tmp_path):
    pipeline = make_pipeline(StandardScaler(), VAETransformer(2, max_iter=3, random_state=0)).fit(X)
    np.testing.assert_allclose(answer(pipeline, tmp_path, "transform", X), pipeline.transform(X), rtol=1e-9)


def test_a_file_says_what_it_takes_and_a_gap_makes_a_row_no_number(tmp_path):
    frame = pd.DataFrame({"size": X[:, 0], "colour": np.array(["red", "blue"])[np.arange(len(X)) % 2]})
    vae = small(VAETransformer, frame, likelihood="auto")
    run = session(vae, tmp_path, "transform")
    told = run.get_modelmeta().custom_metadata_map
    assert json.loads(told["columns"]) == ["size", "colour"]
    assert json.loads(told["categories"]) == {"1": ["blue", "red"]}
    assert told["method"] == "transform"
    codes = np.column_stack([frame["size"], (frame.colour == "red").astype(float)])
    codes[1, 0] = np.nan
    expected = np.where(np.isnan(codes[:, :1]), np.nan, vae.transform(frame))
    np.testing.assert_allclose(run.run(None, {"X": codes})[0], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("estimator", "method", "message"),
    [
        (lambda: small(VAETransformer, X), "predict", "method='predict' must be one that this VAETransformer has"),
        (lambda: small(VAETransformer, X, objective="autoencoder"), "score_samples", "method='score_samples' must be"),
        (
            lambda: small(VAETransformer, TABLE, likelihood=Mixed([("given", [7])], remainder="gaussian")),
            "inverse_transform",
            "This model is given some columns",
        ),
        (lambda: StandardScaler().fit(X), "transform", "to_onnx takes a fitted VAETransformer.*StandardScaler"),
        (lambda: VAEImputer(), "transform", "to_onnx takes a fitted VAETransformer.*export `estimator_`"),
        (
            lambda: make_pipeline(StandardScaler(), VAETransformer(1, max_iter=1, random_state=0)).fit(X),
            "inverse_transform",
            "export its last step",
        ),
        (
            lambda: small(VAETransformer, (X[:, :4] > 1) * 1.0, likelihood="bernoulli", decoder=PixelCNN((2, 2))),
            "reconstruct",
            "reads the row it predicts",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_in_words(estimator, method, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        to_onnx(estimator(), tmp_path / "model.onnx", method)
    assert not list(tmp_path.iterdir())


def test_a_model_must_be_fitted(tmp_path):
    with pytest.raises(NotFittedError):
        to_onnx(VAETransformer(), tmp_path / "model.onnx")


def test_a_missing_package_is_named(mixed, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"to_onnx needs onnxscript: pip install skvae\[onnx\]"):
        to_onnx(mixed, tmp_path / "model.onnx")
