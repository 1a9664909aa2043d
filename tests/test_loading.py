"""Files that are cut off, changed or made up: one clear error or the same model, little memory, and no code is run."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import re
import time
import tracemalloc
import warnings
import zipfile
from functools import cache, partial
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from helpers import EACH, answers, assert_same, by_skops, by_turns, load_state
from sklearn.callback import ProgressBar
from sklearn.datasets import load_iris
from skops.io.exceptions import UntrustedTypesFoundException
from torch import nn

import skvae
from skvae import (
    ELBO,
    MLP,
    TRUSTED_TYPES,
    Gaussian,
    VAEAnomalyDetector,
    VAEClassifier,
    VAEImputer,
    VAETransformer,
    VAETransformerCV,
)
from skvae._saved import stamp, unstamp

each = pytest.mark.parametrize("name", EACH)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X = load_iris().data


def dumped(dump, **how):
    file = io.BytesIO()
    dump(file, **how)
    return file.getvalue()


def load_mapped(data, folder):
    (folder / "model").write_bytes(data)
    return joblib.load(folder / "model", mmap_mode="r")


def load_skops(data, folder=None):
    """As the guide does: with skvae's names alone."""
    return skops.io.loads(data, trusted=TRUSTED_TYPES)


def load_joblib(data, folder=None):
    return joblib.load(io.BytesIO(data))


WAYS = {
    "pickle": (pickle.dumps, lambda data, folder: pickle.loads(data)),
    "cloudpickle": (cloudpickle.dumps, lambda data, folder: pickle.loads(data)),
    "joblib": (lambda e: dumped(partial(joblib.dump, e)), load_joblib),
    "joblib compressed": (lambda e: dumped(partial(joblib.dump, e), compress=3), load_joblib),
    "joblib mapped": (lambda e: dumped(partial(joblib.dump, e)), load_mapped),
    "skops": (skops.io.dumps, load_skops),
}
every_way = pytest.mark.parametrize("way", WAYS)


def made(name):
    """An unfitted one, of a class that users have."""
    estimator = EACH[name]()
    return VAEClassifier(**estimator.get_params()) if name == "classifier" else estimator


@cache
def fitted(name):
    estimator = made(name).fit(X, by_turns(X))
    return estimator.calibrate(X[:60], false_alarm_rate=0.1) if name == "detector" else estimator


@cache
def said(name):
    return answers(fitted(name), X)


@cache
def saved(name, way):
    return WAYS[way][0](fitted(name))


def peak(call):
    """What a call returns or raises, and the most memory that it held."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(), None, tracemalloc.get_traced_memory()[1]
    except Exception as error:
        return None, error, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@each
@every_way
def test_a_file_that_is_cut_off_does_not_load(name, way, tmp_path):
    data = saved(name, way)
    for share in np.linspace(0.02, 0.98, 13):
        cut = data[: int(share * len(data))]
        found, error, memory = peak(lambda cut=cut: WAYS[way][1](cut, tmp_path))
        assert found is None
        assert error is not None
        assert memory < 20e6


@each
@every_way
def test_a_changed_byte_is_found_or_changes_nothing(name, way, tmp_path):
    """Nothing in between: no other numbers, no NaN, no crash."""
    data, rng = saved(name, way), np.random.default_rng(0)
    for place in np.sort(rng.integers(len(data), size=40)):
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        found, error, memory = peak(lambda changed=changed: WAYS[way][1](bytes(changed), tmp_path))
        # What unpickling reserves for a length that was hit is not skvae's to say.
        if error is None or "damaged" in str(error) or way == "skops":
            assert memory < 20e6
        # Nor that a program that was hit, as a pickle is one, makes something else than an estimator.
        if type(found) is type(fitted(name)):
            assert_same(answers(found, X), said(name))


@each
@every_way
def test_a_whole_file_says_what_the_model_said(name, way, tmp_path):
    assert_same(answers(WAYS[way][1](saved(name, way), tmp_path), X), said(name))


def test_every_array_of_a_raw_pickle_is_covered_by_the_checksum():
    """In an uncompressed file most bytes are arrays, and nothing but the checksum would miss a bit of theirs."""
    data = saved("detector", "pickle")
    codes = fitted("detector")._codes["mean"].tobytes()
    start = data.index(codes)
    for place in range(start, start + len(codes), len(codes) // 25):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(ValueError, match="damaged: its checksum is not that of what it holds"):
            pickle.loads(bytes(changed))


def test_the_checksum_takes_little_time_beside_saving():
    state = {"codes": np.random.default_rng(0).normal(size=(5000, 64)), "history_": {"loss": [0.5] * 10_000}}
    began = time.perf_counter()
    stamp(state)
    assert time.perf_counter() - began < 1


# States that somebody has made up. They carry a right checksum, as whoever writes one can.


def refused(name, change):
    """Whether a change of a good state is refused in the documented words, taking no memory."""
    kind = type(fitted(name))
    state = copy.deepcopy(unstamp(fitted(name).__getstate__(), name))
    change(state)
    found, error, memory = peak(lambda: load_state(kind, state))
    assert isinstance(error, ValueError), f"{found!r} {error!r}"
    assert str(error).startswith(f"The saved state of this {kind.__name__} is damaged: "), error
    assert str(error).endswith("Load the file again or refit."), error
    assert memory < 5e6
    return str(error)


def put(**values):
    return lambda state: state.update(values)


@each
def test_no_attribute_takes_a_methods_place(name):
    kind = type(fitted(name))
    own = [own for own in dir(kind) if not own.startswith("__") and own not in kind._get_param_names()]
    own = [own for own in own if own not in kind._leaves]
    assert {"fit", "get_params"} <= set(own)
    for attribute in [*own, "__sklearn_tags__", "__repr__", "__getstate__"]:
        assert attribute in refused(name, put(**{attribute: np.exp}))


@each
@pytest.mark.parametrize("attribute", ["predict_proba", "_anything", "more_", "classes_"])
def test_no_function_comes_in_by_another_name(name, attribute):
    refused(name, put(**{attribute: np.exp}))
    refused(name, put(**{attribute: [{"deep": np.exp}]}))


@each
def test_notes_of_a_user_stay(name):
    estimator = copy.deepcopy(fitted(name))
    estimator.note, estimator.columns_used_ = {"made": [2026, "by me"]}, np.arange(3)
    for route in (lambda e: pickle.loads(pickle.dumps(e)), by_skops, copy.deepcopy):
        back = route(estimator)
        assert back.note == estimator.note
        np.testing.assert_array_equal(back.columns_used_, estimator.columns_used_)


ODD = [None, -1, 3, 2.5, True, "x", "", b"x", [], [1], {}, {"a": 1}, np.zeros(0), np.arange(4), np.exp, int, object()]
ODD += [np.full(4, np.nan), np.full((4, 4), 1e300), np.arange(4.0).astype(">f8"), np.array(["a"] * 4), [np.zeros(4)]]


@each
def test_a_fitted_attribute_of_any_other_kind_is_refused_or_does_no_harm(name):
    """Whatever stands in an attribute's place, loading refuses it, or the model answers as before."""
    kind, good = type(fitted(name)), unstamp(fitted(name).__getstate__(), name)
    # A transformer's rules are looked at with the transformer.
    known = {} if name == "transformer" else VAETransformer._leaves
    for attribute in {a for a, rule in kind._leaves.items() if a not in known or rule is not known[a]} & set(good):
        for odd in ODD:
            state = {**good, attribute: odd}
            found, error, memory = peak(lambda state=state: load_state(kind, state))
            assert memory < 5e6
            if error is None:
                finite_answers(found, attribute, odd)
            else:
                assert "damaged" in str(error), (attribute, odd, error)


def finite_answers(estimator, attribute, odd):
    """No method fails, and none answers with something undefined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method, values in answers(estimator, X[:5]).items():
            assert not np.isnan(values).any(), (method, attribute, odd)


LABELS = {
    "words": ["a", "b", "c", "d"],
    "numbers": range(4),
    "dates": pd.date_range("2026-01-01", periods=4),
    "two levels": pd.MultiIndex.from_product([["a", "b"], [0, 1]], names=["letter", "number"]),
}


@pytest.mark.parametrize("labels", LABELS)
def test_what_a_frames_columns_are_is_checked_or_does_no_harm(labels):
    frame = pd.DataFrame(X, columns=LABELS[labels])
    good = unstamp(VAETransformer(2, max_iter=1, random_state=0).fit(frame).__getstate__(), "it")
    axis = good["_columns"]["axis"]
    for part in axis:
        for odd in ODD:
            columns = {**good["_columns"], "axis": {**axis, part: odd}}
            state = {**good, "_columns": columns}
            found, error, memory = peak(lambda state=state: load_state(VAETransformer, state))
            assert memory < 5e6
            if error is None and part not in ("type", "freq", "categories"):
                assert found.reconstruct(frame).shape == frame.shape
            elif error is not None:
                assert "damaged" in str(error), (part, odd, error)


@each
def test_an_attribute_that_is_missing_is_missed(name):
    kind, good = type(fitted(name)), unstamp(fitted(name).__getstate__(), name)
    optional = {"feature_names_in_", "likelihood_", "latent_information_", "active_components_", "noise_variance_"}
    optional |= {"support_", "_reservoir", "calibration_scores_", "_constant"}
    optional |= set() if name == "detector" else {"_codes"}  # keep_codes=False keeps none
    for attribute in (kind._leaves.keys() & good.keys()) - optional:
        assert f"{attribute} is missing" in refused(name, lambda state, a=attribute: state.pop(a)), attribute
    for attribute in kind._get_param_names():
        assert f"its parameter {attribute} is missing" in refused(name, lambda state, a=attribute: state.pop(a))


@each
def test_a_parameter_that_breaks_its_rule_is_refused(name):
    kind = type(fitted(name))
    for parameter in kind._get_param_names():
        assert parameter in refused(name, put(**{parameter: 1j}))


@pytest.mark.parametrize("values", [0, -1, 2.5, "many", None, True, [64]])
def test_n_draws_is_checked_when_a_model_is_loaded(values):
    assert "n_draws" in refused("transformer", put(n_draws=values))


@each
def test_a_parameter_that_breaks_its_rule_is_told_when_saving(name):
    """Or what was learnt would be lost when it is loaded."""
    estimator = copy.deepcopy(fitted(name)).set_params(random_state="none")
    with pytest.raises(ValueError, match="The 'random_state' parameter"):
        pickle.dumps(estimator)
    unfitted = made(name).set_params(random_state="none")
    assert pickle.loads(pickle.dumps(unfitted)).random_state == "none"


def swapped(first, second):
    def change(state):
        arrays = state["_weights"]
        arrays[first], arrays[second] = arrays[second], arrays[first]

    return change


MADE_UP = {
    "names are a number": lambda s: s["_columns"].update(names=-1),
    "a library that is an array": lambda s: s["_columns"].update(library=np.arange(2)),
    "categories without order": lambda s: s["_columns"].update(categories={0: {1, 2}}),
    "a category twice": lambda s: s["_columns"].update(categories={0: ["a", "a"]}),
    "categories of a column named by text": lambda s: s["_columns"].update(categories={"0": ["a"]}),
    "names of columns that are numbers": put(feature_names_in_=np.arange(4)),
    "a name too many": put(feature_names_in_=np.array(list("abcde"), dtype=object)),
    "a seed below zero": put(_seed=-1),
    "a seed that is a float": put(_seed=0.5),
    "weights of other bytes": lambda s: s.update(_weights={k: v.astype(">f4") for k, v in s["_weights"].items()}),
    "swapped weights": swapped("encoder.linear.weight", "decoder.linear.weight"),
    "a part without its attributes": lambda s: s["_specs"].update(encoder=MLP.__new__(MLP)),
    "a part that is a class": lambda s: s["_specs"].update(objective=ELBO),
    "an activation of numpy": lambda s: s["_specs"]["encoder"].set_params(activation=np.exp),
    "an activation that multiplies": lambda s: s["_specs"]["encoder"].set_params(
        activation=partial(np.multiply.outer, np.ones(10**5), np.ones(10**5))
    ),
    "an activation that is a class of skvae": lambda s: s["_specs"]["decoder"].set_params(activation=Gaussian),
    "an activation that raises": lambda s: s["_specs"]["decoder"].set_params(activation=raising),
    "an activation that returns nothing": lambda s: s["_specs"]["decoder"].set_params(activation=lambda: None),
    "modes without end": lambda s: s["_specs"].update(prior=skvae.priors.Mixture(10**9)),
    "an output config that is a function": put(_sklearn_output_config=np.exp),
    "callbacks that are a number": put(_skl_callbacks=3),
    "a solver without a name": lambda s: s.update(_solver_state=[{"solver": np.zeros(2)}]),
    "a solver's state of words": lambda s: s.update(_solver_state=[{"solver": "Adam", "step": "x"}]),
    "a solver's state of two lengths": lambda s: s.update(
        _solver_state=[{"solver": "Adam", "exp_avg": np.zeros(2), "exp_avg_sq": np.zeros(3)}]
    ),
}


def raising():
    raise ZeroDivisionError("in an activation")


@pytest.mark.parametrize("case", MADE_UP)
def test_a_state_that_fit_cannot_have_written_is_refused(case):
    refused("transformer", MADE_UP[case])


CODES = {
    "codes of integers": lambda s: s.update(_codes={k: np.rint(v).astype(int) + 1 for k, v in s["_codes"].items()}),
    "codes of other bytes": lambda s: s.update(_codes={k: v.astype(">f8") for k, v in s["_codes"].items()}),
    "a criterion of numpy": put(_criterion=np.exp),
    "support of numbers": put(support_=np.ones(150)),
}


@pytest.mark.parametrize("case", CODES)
def test_what_a_detector_cannot_have_learnt_is_refused(case):
    refused("detector", CODES[case])


@pytest.mark.parametrize("state", [None, 3, [], "state", {1: 2}, ({}, {}), np.arange(3)], ids=repr)
@each
def test_a_state_that_is_no_state_is_refused(name, state):
    kind = type(fitted(name))
    with pytest.raises(ValueError, match=f"The saved state of this {kind.__name__} is damaged"):
        kind.__new__(kind).__setstate__(state)


@each
def test_another_class_in_the_place_of_a_part_is_refused(name):
    for part in ("_specs", "estimator_", "_codes", "_weights"):
        if part in vars(fitted(name)):
            refused(name, put(**{part: Gaussian()}))
            refused(name, put(**{part: EACH["transformer"]()}))


@each
@pytest.mark.parametrize("number", [0, 2, 10**9, "1", None, 1.0, True])
def test_another_format_says_so(name, number):
    kind, state = type(fitted(name)), fitted(name).__getstate__()
    with pytest.raises(ValueError, match=r"saved in format .*; this version of skvae reads format 1"):
        kind.__new__(kind).__setstate__({**state, "_format": number})


# Parts by themselves


@pytest.mark.parametrize("part", [Gaussian(), ELBO(), MLP(), skvae.priors.Normal()], ids=repr)
def test_a_part_holds_its_parameters_and_nothing_else(part):
    state = part.__getstate__()
    with pytest.raises(ValueError, match=f"saved state of this {type(part).__name__} is damaged"):
        type(part).__new__(type(part)).__setstate__({**state, "build": np.exp})
    for parameter in part.get_params():
        with pytest.raises(ValueError, match=f"its parameter {parameter} is missing"):
            type(part).__new__(type(part)).__setstate__({k: v for k, v in state.items() if k != parameter})
    assert repr(pickle.loads(pickle.dumps(part))) == repr(part)


# skops: what a stranger's file may hold


def rewritten(data, change):
    """A skops file whose description is changed."""
    file, result = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    schema = json.loads(file.read("schema.json"))
    change(schema["content"])
    with zipfile.ZipFile(result, "w") as new:
        for entry in file.namelist():
            new.writestr(entry, json.dumps(schema) if entry == "schema.json" else file.read(entry))
    return result.getvalue()


# The module that numpy names for its functions, and skops trusts, is not one over numpy's versions.
EXP = json.loads(zipfile.ZipFile(io.BytesIO(skops.io.dumps(np.exp))).read("schema.json"))


@pytest.mark.parametrize("attribute", ["transform", "score_samples", "n_draws", "_weights", "extra"])
def test_a_function_in_a_skops_file_does_not_come_in(attribute):
    data = saved("transformer", "skops")
    assert_same(answers(load_skops(rewritten(data, lambda state: None)), X), said("transformer"))
    with pytest.raises(ValueError, match="damaged"):
        load_skops(rewritten_state(data, attribute, EXP))


def rewritten_state(data, attribute, node):
    def change(state):
        if attribute not in state["content"]:
            state["key_types"]["content"].append(copy.deepcopy(state["key_types"]["content"][0]))
        state["content"][attribute] = node

    return rewritten(data, change)


def own_function():
    raise AssertionError("code of the file's was run")


FOREIGN = {
    "activation": [nn.Tanh, own_function, partial(nn.LeakyReLU, 0.2)],
    "solver": [own_function, partial(own_function)],
    "encoder": [nn.Linear, own_function],
    "decoder": [own_function],
}


@pytest.mark.parametrize("parameter", FOREIGN)
def test_functions_and_networks_as_parameters_are_outside_the_trusted_names(parameter):
    for value in FOREIGN[parameter]:
        data = skops.io.dumps(VAETransformer(2, **{parameter: value}))
        with pytest.raises(UntrustedTypesFoundException):
            load_skops(data)


def test_a_module_as_a_parameter_is_outside_the_trusted_names():
    data = skops.io.dumps(VAETransformer(2, encoder=nn.Identity()))
    with pytest.raises(UntrustedTypesFoundException):
        load_skops(data)


def test_a_criterion_of_ones_own_is_outside_the_trusted_names():
    with pytest.raises(UntrustedTypesFoundException):
        load_skops(skops.io.dumps(VAEAnomalyDetector(criterion=own_function)))


def test_a_model_of_supplied_networks_is_outside_the_trusted_names():
    model = VAETransformer(2, encoder=own_network, max_iter=1, early_stopping=False, random_state=0).fit(X)
    with pytest.raises(UntrustedTypesFoundException):
        load_skops(skops.io.dumps(model))


def own_network(n_in, n_out):
    return nn.Linear(n_in, n_out)


# What fit can leave, can be saved and loaded


KINDS = {
    "transformer": VAETransformer,
    "detector": VAEAnomalyDetector,
    "search": VAETransformerCV,
    "imputer": VAEImputer,
    "classifier": VAEClassifier,
}


@each
def test_a_refit_that_is_watched_can_be_saved(name, capsys):
    estimator = copy.deepcopy(fitted(name))
    getattr(estimator, "estimator", estimator).set_callbacks(ProgressBar())
    assert_same(answers(pickle.loads(pickle.dumps(estimator.fit(X, by_turns(X)))), X), answers(estimator, X))
    assert type(estimator) is KINDS[name]


# Saving, as the guide says


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    """The block of docs/guide/deploy.md, with the process dying half way through."""
    guide = (Path(skvae.__file__).parents[1] / "docs" / "guide" / "deploy.md").read_text()
    (block,) = [code for code in re.findall(r"^```python\n(.*?)^```$", guide, re.M | re.S) if "os.replace" in code]
    monkeypatch.chdir(tmp_path)
    exec(block, {"vae": fitted("transformer"), "X": X})
    old = (tmp_path / "wine.joblib").read_bytes()
    assert os.listdir(tmp_path) == ["wine.joblib"]

    def half(value, name):
        Path(name).write_bytes(old[: len(old) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(joblib, "dump", half)
    with pytest.raises(KeyboardInterrupt):
        exec(block, {"vae": EACH["detector"]().fit(X), "X": X})
    assert (tmp_path / "wine.joblib").read_bytes() == old
    assert_same(answers(joblib.load(tmp_path / "wine.joblib"), X), said("transformer"))


class Remembering(torch.optim.SGD):
    """A solver that keeps more than numbers and arrays."""

    def step(self, closure=None):
        self.state[self.param_groups[0]["params"][0]]["log"] = ["a step", {"of": "mine"}]
        return super().step(closure)


def remembering(parameters):
    return Remembering(parameters, lr=1e-4)


def test_what_a_users_solver_keeps_is_saved_with_the_stream():
    model = VAETransformer(2, solver=remembering, random_state=0).partial_fit(X)
    assert "log" in model._solver_state[0]
    back = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(back.partial_fit(X).transform(X), model.partial_fit(X).transform(X))


class WithMore(VAETransformer):
    """A user's estimator with an attribute and a method's default of its own."""

    threshold_ = 0.5

    def fit(self, X, y=None, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.threshold_, self.made_by_ = 0.7, own_function
        return self


def test_an_estimator_of_a_users_own_may_keep_what_it_likes():
    model = WithMore(2, max_iter=1, random_state=0).fit(X)
    for back in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert (back.threshold_, back.made_by_) == (0.7, own_function)
        assert_same(answers(back, X), answers(model, X))
