"""Saving, loading, copying, sharing between threads; and what a damaged file does."""

import copy
import io
import pickle
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import joblib
import numpy as np
import pytest
import skops.io
import torch
from helpers import ROUTES, load_state
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skvae import Gaussian, VAEAnomalyDetector, VAETransformer
from skvae._saved import SavedModelWarning


def make(**parameters):
    return VAETransformer(
        **{"n_components": 2, "max_iter": 3, "random_state": 0, "hidden_layer_sizes": (8,), **parameters}
    )


route = pytest.mark.parametrize("route", ROUTES)


@pytest.fixture(scope="module")
def fitted(wine):
    return make().fit(wine)


@route
@pytest.mark.parametrize(
    ("parameters", "binary_rows"),
    [
        ({}, False),
        ({"likelihood": Gaussian("shared")}, False),
        ({"objective": "iwae"}, False),
        ({"likelihood": "bernoulli"}, True),
    ],
    ids=["default", "shared", "iwae", "bernoulli"],
)
def test_a_fitted_model_comes_back_bit_for_bit(wine, binary, tmp_path, route, parameters, binary_rows):
    X = binary if binary_rows else wine
    vae = make(**parameters).fit(X)
    back = ROUTES[route](vae, tmp_path)
    np.testing.assert_array_equal(back.transform(X), vae.transform(X))
    np.testing.assert_array_equal(back.score_samples(X), vae.score_samples(X))
    np.testing.assert_array_equal(back.sample(3, random_state=0), vae.sample(3, random_state=0))
    assert back.history_ == vae.history_


def make_detector(**parameters):
    return VAEAnomalyDetector(**{"max_iter": 3, "random_state": 0, "hidden_layer_sizes": (8,), **parameters})


@cache
def holed_and_detector(**parameters):
    """Rows with gaps, a detector of them, and what it says."""
    X = load_wine().data
    X[::5, 3] = np.nan
    detector = make_detector(**parameters).fit(X).calibrate(X[:60], false_alarm_rate=0.1)
    methods = ("score_samples", "predict", "p_values", "explain", "similar")
    return X, detector, {method: getattr(detector, method)(X) for method in methods}


@pytest.fixture(scope="module")
def detector(wine):
    return make_detector().fit(wine).calibrate(wine[:60], false_alarm_rate=0.1)


@route
@pytest.mark.parametrize(
    "parameters",
    [{}, {"criterion": "log_likelihood", "n_draws": 8}, {"contamination": 0.1, "likelihood": Gaussian()}],
    ids=["default", "log_likelihood", "contamination"],
)
def test_a_fitted_detector_comes_back_bit_for_bit(tmp_path, route, parameters):
    X, detector, said = holed_and_detector(**parameters)
    back = ROUTES[route](detector, tmp_path)
    for method, expected in said.items():
        np.testing.assert_array_equal(getattr(back, method)(X), expected, err_msg=method)
    assert back.offset_ == detector.offset_
    np.testing.assert_array_equal(back.support_, detector.support_)
    np.testing.assert_array_equal(back.training_scores_, detector.training_scores_)
    expected = copy.copy(detector).set_contamination(0.2).offset_
    assert back.set_contamination(0.2).offset_ == expected != detector.offset_


@route
def test_a_detectors_stream_goes_on_after_loading_as_if_never_saved(wine, tmp_path, route):
    detector = make_detector().partial_fit(wine[:90])
    back = ROUTES[route](detector, tmp_path)
    np.testing.assert_array_equal(
        back.partial_fit(wine[90:]).score_samples(wine), detector.partial_fit(wine[90:]).score_samples(wine)
    )
    assert back.offset_ == detector.offset_


@route
def test_an_unfitted_estimator_comes_back_unfitted(wine, tmp_path, route):
    back = ROUTES[route](make(n_draws=7), tmp_path)
    assert back.get_params() == make(n_draws=7).get_params()
    with pytest.raises(NotFittedError):
        back.transform(wine)


@route
def test_a_pipeline_comes_back_bit_for_bit(wine, tmp_path, route):
    pipe = make_pipeline(StandardScaler(), make()).fit(wine)
    np.testing.assert_array_equal(ROUTES[route](pipe, tmp_path).score_samples(wine), pipe.score_samples(wine))


@route
def test_training_goes_on_after_loading_as_if_never_saved(wine, tmp_path, route):
    vae = make().partial_fit(wine)
    back = ROUTES[route](vae, tmp_path)
    np.testing.assert_array_equal(back.partial_fit(wine).transform(wine), vae.partial_fit(wine).transform(wine))


def test_skops_needs_to_trust_our_classes_only(fitted, wine):
    def untrusted(estimator):
        return skops.io.get_untrusted_types(data=skops.io.dumps(estimator))

    names = ["skvae.ELBO", "skvae.Gaussian", "skvae.MLP", "skvae.VAETransformer", "skvae.priors.Normal"]
    assert untrusted(make()) == ["skvae.VAETransformer"]
    assert untrusted(fitted) == names
    assert untrusted(make_pipeline(StandardScaler(), make()).fit(wine)) == names
    assert untrusted(make().partial_fit(wine)) == names
    names = ["skvae.ELBO", "skvae.JohnsonSU", "skvae.MLP", "skvae.VAEAnomalyDetector", "skvae.priors.Normal"]
    assert untrusted(make_detector()) == ["skvae.VAEAnomalyDetector"]
    assert untrusted(make_detector().fit(wine)) == names
    assert untrusted(make_detector().partial_fit(wine)) == names


def things(value):
    """Everything inside nested containers and estimators."""
    yield value
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "get_params"):
        value = list(vars(value).values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from things(part)


@pytest.mark.parametrize("solver", ["adagrad", "adam", "rmsprop", "sgd"])
def test_a_fitted_estimator_holds_no_torch_object(wine, solver):
    vae = make(solver=solver, learning_rate_init=1e-5).fit(wine).partial_fit(wine)
    vae.module_, vae.score(wine)
    found = [type(thing) for thing in things(vars(vae)) if type(thing).__module__.split(".")[0] == "torch"]
    assert not found


def test_looking_at_rows_changes_nothing_in_the_estimator(fitted, wine):
    before = joblib.hash(vars(fitted))
    for method in ("transform", "score_samples", "score", "reconstruct", "impute", "posterior"):
        getattr(fitted, method)(wine)
    fitted.sample(3, random_state=0), fitted.inverse_transform(np.zeros((1, 2))), fitted.module_, repr(fitted)
    assert joblib.hash(vars(fitted)) == before


def test_the_module_is_cached_outside_the_estimator_and_follows_a_refit(wine):
    vae = make().fit(wine)
    module = vae.module_
    assert vae.module_ is module
    assert not any(isinstance(value, nn.Module) for value in vars(vae).values())
    assert not module.training
    assert {p.dtype for p in module.parameters()} == {torch.float64}
    before = vae.transform(wine)
    vae.set_params(random_state=1, early_stopping=False).fit(wine)
    assert vae.module_ is not module
    assert not np.array_equal(vae.transform(wine), before)


def test_a_copy_has_a_module_of_its_own(fitted, wine):
    twin = copy.deepcopy(fitted)
    twin.partial_fit(wine)
    assert twin.module_ is not fitted.module_
    assert not np.array_equal(twin.transform(wine), fitted.transform(wine))
    assert not hasattr(clone(fitted), "module_")


@pytest.mark.parametrize("fresh", [False, True], ids=["warm cache", "cold cache"])
def test_eight_threads_share_one_model(fitted, wine, fresh):
    expected = fitted.transform(wine), fitted.score_samples(wine)
    vae = pickle.loads(pickle.dumps(fitted)) if fresh else fitted
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: vae.transform(wine), range(24)))
        scores = list(pool.map(lambda _: vae.score_samples(wine), range(24)))
    for code, score in zip(codes, scores, strict=True):
        np.testing.assert_array_equal(code, expected[0])
        np.testing.assert_array_equal(score, expected[1])


class Encoder(nn.Module):
    """A user's network, with a layer that must be in evaluation mode after fit."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_in, 6), nn.Tanh(), nn.BatchNorm1d(6), nn.Linear(6, n_out))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.filterwarnings("ignore:VAETransformer stopped at")
@pytest.mark.parametrize("how", ["callable", "module"])
def test_a_model_with_a_users_network_pickles(wine, how):
    if how == "module":
        with torch.random.fork_rng():
            network = Encoder(13, 4)
    else:
        network = Encoder
    vae = make(encoder=network, early_stopping=False).fit(wine)
    back = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(back.score_samples(wine), vae.score_samples(wine))
    np.testing.assert_allclose(vae.transform(wine[:1]), vae.transform(wine)[:1], rtol=1e-7)


@pytest.mark.filterwarnings("ignore:VAETransformer stopped at")
def test_a_users_module_is_copied(wine):
    with torch.random.fork_rng():
        network = Encoder(13, 4)
    before = copy.deepcopy(network.state_dict())
    make(encoder=network, init="random", learning_rate_init=0.1, max_iter=5).fit(wine)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


# Versions


@pytest.mark.parametrize("package", ["skvae", "scikit-learn"])
def test_another_version_is_a_warning(fitted, wine, package):
    state = fitted.__getstate__()
    state["_versions"] = {**state["_versions"], package: "0.0.1"}
    vae = VAETransformer.__new__(VAETransformer)
    with pytest.warns(SavedModelWarning, match=f"saved with {package} 0.0.1 and is loaded with {package}"):
        vae.__setstate__(state)
    assert issubclass(SavedModelWarning, InconsistentVersionWarning)
    np.testing.assert_array_equal(vae.transform(wine), fitted.transform(wine))


@pytest.mark.parametrize("number", [0, 2, 999, "1", None])
def test_another_format_is_an_error(fitted, number):
    with pytest.raises(ValueError, match=r"saved in format .*; this version of skvae reads format 1"):
        VAETransformer.__new__(VAETransformer).__setstate__({**fitted.__getstate__(), "_format": number})


@pytest.mark.parametrize("versions", [None, 3, "0.1", []])
def test_versions_that_are_no_dict_are_an_error(fitted, versions):
    with pytest.raises(ValueError, match="The versions saved with this VAETransformer are not a dict"):
        VAETransformer.__new__(VAETransformer).__setstate__({**fitted.__getstate__(), "_versions": versions})


# Damage. Each function makes one change to a good state.

BIG = 10**9
FIRST, NOISE = "encoder.linear.weight", "likelihood.log_noise"


def weights(change):
    return lambda s: s.update(_weights={**s["_weights"], **change(s["_weights"])})


def part(name, **parameters):
    return lambda s: s["_specs"][name].set_params(**parameters)


DAMAGE = {
    "NaN weight": weights(lambda w: {FIRST: np.full_like(w[FIRST], np.nan)}),
    "infinite weight": weights(lambda w: {FIRST: np.full_like(w[FIRST], np.inf)}),
    "weight of another shape": weights(lambda w: {FIRST: w[FIRST][:-1]}),
    "transposed weight": weights(lambda w: {FIRST: w[FIRST].T}),
    "weight is an int": weights(lambda w: {NOISE: 3}),
    "weight is a list": weights(lambda w: {NOISE: [0.0] * 13}),
    "weight of strings": weights(lambda w: {NOISE: np.full(13, "a")}),
    "weight of objects": weights(lambda w: {NOISE: np.full(13, None)}),
    "extra weight": weights(lambda w: {"encoder.linear.more": np.ones(3)}),
    "weight named by a number": weights(lambda w: {3: np.ones(3)}),
    "missing weight": lambda s: s.update(_weights={k: v for k, v in s["_weights"].items() if k != FIRST}),
    "no weights": lambda s: s.update(_weights={}),
    "weights are a list": lambda s: s.update(_weights=[1, 2]),
    "order repeats": lambda s: s.update(_order=np.array([0, 0])),
    "order too long": lambda s: s.update(_order=np.array([0, 1, 2])),
    "order is a list": lambda s: s.update(_order=[0, 1]),
    "order of floats": lambda s: s.update(_order=np.array([0.0, 1.0])),
    "order in two dimensions": lambda s: s.update(_order=np.array([[0], [1]])),
    "order without dimensions": lambda s: s.update(_order=np.array(0)),
    "order missing": lambda s: s.pop("_order"),
    "mean missing": lambda s: s.pop("mean_"),
    "scale missing": lambda s: s.pop("scale_"),
    "shift missing": lambda s: s.pop("_shift"),
    "parts missing": lambda s: s.pop("_specs"),
    "seed missing": lambda s: s.pop("_seed"),
    "width missing": lambda s: s.pop("n_features_in_"),
    "n_components missing": lambda s: s.pop("n_components_"),
    "scale of zero": lambda s: s.update(scale_=np.zeros(13)),
    "negative scale": lambda s: s.update(scale_=-s["scale_"]),
    "scale too short": lambda s: s.update(scale_=s["scale_"][:5]),
    "mean is NaN": lambda s: s.update(mean_=np.full(13, np.nan)),
    "seed is a string": lambda s: s.update(_seed="0"),
    "width is an array": lambda s: s.update(n_features_in_=np.array([13])),
    "width is negative": lambda s: s.update(n_features_in_=-13),
    "width is huge": lambda s: s.update(n_features_in_=BIG),
    "another n_components": lambda s: s.update(n_components_=3, _order=np.arange(3)),
    "n_components is true": lambda s: s.update(n_components_=True),
    "n_components is huge": lambda s: s.update(n_components_=10**7),
    "huge layer": part("encoder", hidden_layer_sizes=(BIG,)),
    "huge layers": part("encoder", hidden_layer_sizes=(10 * BIG, 10 * BIG)),
    "huge decoder layer": part("decoder", hidden_layer_sizes=[BIG]),
    "many layers": part("encoder", hidden_layer_sizes=(8,) * 100),
    "negative layer": part("encoder", hidden_layer_sizes=(-8,)),
    "layer is a string": part("encoder", hidden_layer_sizes=("a",)),
    "layers are another number": part("encoder", hidden_layer_sizes=9),
    "unknown activation": part("encoder", activation="nope"),
    "unknown noise": part("likelihood", noise="nope"),
    "negative noise floor": part("likelihood", noise_floor=-1.0),
    "other noise": part("likelihood", noise="shared"),
    "part missing": lambda s: s["_specs"].pop("decoder"),
    "part of another kind": lambda s: s["_specs"].update(decoder=Gaussian()),
    "part is a dict": lambda s: s["_specs"].update(encoder={"hidden_layer_sizes": (8,)}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_an_error_and_takes_no_memory(fitted, damage):
    state = copy.deepcopy(fitted.__getstate__())
    DAMAGE[damage](state)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"state of this VAETransformer is damaged: .* Load the file again"):
            load_state(VAETransformer, state)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def codes(**change):
    return lambda s: s.update(_codes={**s["_codes"], **{k: f(s["_codes"][k]) for k, f in change.items()}})


DETECTOR_DAMAGE = {
    "codes missing": lambda s: s.pop("_codes"),
    "codes are a list": lambda s: s.update(_codes=[1, 2]),
    "codes are empty": lambda s: s.update(_codes={}),
    "codes without weights": lambda s: s["_codes"].pop("log_weight"),
    "more codes": lambda s: s["_codes"].update(more=np.ones(3)),
    "no codes": codes(mean=lambda v: v[:0], var=lambda v: v[:0], log_weight=lambda v: v[:0]),
    "a code less": codes(mean=lambda v: v[1:]),
    "codes of other latents": codes(mean=lambda v: v[:, 1:], var=lambda v: v[:, 1:]),
    "codes in one dimension": codes(mean=np.ravel),
    "NaN code": codes(mean=lambda v: v * np.nan),
    "infinite variance": codes(var=lambda v: v * np.inf),
    "negative variance": codes(var=lambda v: -v),
    "variance of zero": codes(var=np.zeros_like),
    "NaN weight": codes(log_weight=lambda v: v * np.nan),
    "codes of strings": codes(mean=lambda v: v.astype(str)),
    "codes of objects": codes(mean=lambda v: np.full(v.shape, None)),
    "typical missing": lambda s: s.pop("_typical"),
    "typical is NaN": lambda s: s.update(_typical=s["_typical"] * np.nan),
    "typical too short": lambda s: s.update(_typical=s["_typical"][1:]),
    "typical is a list": lambda s: s.update(_typical=s["_typical"].tolist()),
    "explanation missing": lambda s: s.pop("_typical_explanation"),
    "explanation too long": lambda s: s.update(_typical_explanation=np.ones(15)),
    "offset missing": lambda s: s.pop("offset_"),
    "offset is a string": lambda s: s.update(offset_="0"),
    "offset is NaN": lambda s: s.update(offset_=np.nan),
    "training scores missing": lambda s: s.pop("training_scores_"),
    "training scores are NaN": lambda s: s.update(training_scores_=s["training_scores_"] * np.nan),
    "calibration scores in disorder": lambda s: s.update(calibration_scores_=s["calibration_scores_"][::-1]),
    "calibration scores are strings": lambda s: s.update(calibration_scores_="abc"),
    "NaN model weight": weights(lambda w: {FIRST: np.full_like(w[FIRST], np.nan)}),
}


@pytest.mark.parametrize("damage", DETECTOR_DAMAGE)
def test_a_damaged_detector_is_an_error(detector, damage):
    state = copy.deepcopy(detector.__getstate__())
    DETECTOR_DAMAGE[damage](state)
    with pytest.raises(ValueError, match=r"state of this VAEAnomalyDetector is damaged: .* Load the file again"):
        load_state(VAEAnomalyDetector, state)


@pytest.mark.parametrize(
    "damage",
    {
        "rows are a list": lambda s: s.update(_reservoir=[1]),
        "rows without keys": lambda s: s["_reservoir"].pop("key"),
        "rows of another width": lambda s: s["_reservoir"].update(X=s["_reservoir"]["X"][:, 1:]),
        "a key less": lambda s: s["_reservoir"].update(key=s["_reservoir"]["key"][1:]),
        "a negative weight": lambda s: s["_reservoir"].update(weight=-s["_reservoir"]["weight"]),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_damaged_stream_is_an_error(wine, damage):
    state = copy.deepcopy(make_detector().partial_fit(wine).__getstate__())
    damage[1](state)
    with pytest.raises(ValueError, match=r"state of this VAEAnomalyDetector is damaged: .* Load the file again"):
        load_state(VAEAnomalyDetector, state)


def test_a_truncated_file_is_an_error(fitted):
    for data, load in ((pickle.dumps(fitted), pickle.loads), (skops.io.dumps(fitted), skops.io.loads)):
        with pytest.raises((ValueError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)):
            load(data[: len(data) // 2])


def test_skops_checks_what_it_loads(fitted):
    """skops hands any attributes to a trusted class: ours checks them."""
    broken = copy.deepcopy(fitted)
    broken._weights[FIRST][0, 0] = np.nan
    data = skops.io.dumps(broken)
    with pytest.raises(ValueError, match=f"{FIRST} is not an array of finite numbers"):
        skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))


def test_joblib_reads_a_compressed_file(fitted, wine):
    file = io.BytesIO()
    joblib.dump(fitted, file, compress=3)
    file.seek(0)
    np.testing.assert_array_equal(joblib.load(file).transform(wine), fitted.transform(wine))
