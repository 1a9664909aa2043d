"""A refit is all or nothing: an error, an interrupt or another thread meets the previous model or the new one."""

from __future__ import annotations

import inspect
import pickle
import sys
import threading
import warnings
from functools import cache, partial

import numpy as np
import pytest
import torch
from helpers import EACH, SMALL, Silent, VAEByTurns, answers, assert_same, with_gaps
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import NotFittedError

from skvae import VAEAnomalyDetector, VAEImputer, VAETransformer, VAETransformerCV

each = pytest.mark.parametrize("name", EACH)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@cache
def tables():
    """Two of the same width, and one of another; the first two differ in what fits find."""
    iris, wine = with_gaps(load_iris().data, 0.05), load_wine().data
    return iris, np.where(np.isnan(iris), np.nan, iris @ np.diag([1, 3, 9, 0.2]) + wine[:150, :4]), wine


@cache
def learnt(name, which):
    """The answers of an estimator fitted once to one of the tables."""
    return answers(EACH[name]().fit(tables()[which]), tables()[which])


def watched(name, *callbacks):
    """An unfitted estimator whose fit callbacks see; the imputer's is its model's."""
    estimator = EACH[name]()
    getattr(estimator, "estimator", estimator).set_callbacks(*callbacks)
    return estimator


def leftovers(estimator):
    models = [estimator, getattr(estimator, "estimator", estimator)]
    return [
        attribute
        for model in models
        for attribute in vars(model)
        if attribute.startswith(("_callback", "_skl_callbacks_"))
    ]


class Stop(Exception):
    """An error of a callback."""


class Failing:
    """A callback that raises `error` in one of its hooks."""

    def __init__(self, hook=None, task="fit", error=Stop):
        self.hook, self.task, self.error = hook, task, error

    def _fail(self, hook, context):
        if hook == self.hook and (context.task_name == self.task or hook in ("setup", "teardown")):
            raise self.error

    def setup(self, estimator, context):
        self._fail("setup", context)

    def teardown(self, estimator, context):
        self._fail("teardown", context)

    def on_fit_task_begin(self, estimator, context):
        self._fail("begin", context)

    def on_fit_task_end(self, estimator, context):
        self._fail("end", context)


HOOKS = [("setup", "fit"), ("begin", "fit"), ("begin", "epoch"), ("end", "epoch"), ("end", "fit"), ("teardown", "fit")]
# A user's error in every hook, and an interrupt in those before and after training, which it would end.
CUT_SHORT = [(*hook, Stop) for hook in HOOKS] + [(*hook, KeyboardInterrupt) for hook in HOOKS if hook[1] == "fit"]
every_cut = pytest.mark.parametrize(("hook", "task", "error"), CUT_SHORT)


@cache
def model_of(name, which):
    """An estimator fitted once to one of the tables, to be copied."""
    return pickle.dumps(EACH[name]().fit(tables()[which]))


@each
@every_cut
def test_an_error_in_any_hook_leaves_the_previous_model(name, hook, task, error):
    first, _, other = tables()
    estimator = pickle.loads(model_of(name, 0))
    before = dict(vars(estimator))
    getattr(estimator, "estimator", estimator).set_callbacks(Failing(hook, task, error))
    with pytest.raises(error):
        estimator.fit(other)
    assert not leftovers(estimator)
    assert {k: v for k, v in vars(estimator).items() if k != "_skl_callbacks"}.keys() == before.keys()
    assert all(vars(estimator)[key] is value for key, value in before.items())
    assert_same(answers(estimator, first), learnt(name, 0))
    if error is Stop:
        getattr(estimator, "estimator", estimator).set_callbacks()
        assert_same(answers(estimator.fit(other), other), learnt(name, 2))


@each
@every_cut
def test_an_error_in_any_hook_of_a_first_fit_leaves_the_estimator_unfitted(name, hook, task, error):
    estimator = watched(name, Failing(hook, task, error))
    before = vars(estimator).keys()
    with pytest.raises(error):
        estimator.fit(tables()[0])
    assert vars(estimator).keys() == before
    assert not leftovers(estimator)
    for method in ("transform", "predict"):
        if hasattr(estimator, method):
            with pytest.raises(NotFittedError):
                getattr(estimator, method)(tables()[0])


class Seen(Silent):
    """A callback that keeps the models it is shown."""

    def __init__(self):
        self.models = []

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        self.models.append((context.task_name, fitted_estimator))


@pytest.mark.parametrize("name", ["transformer", "detector", "search"])
def test_a_callback_of_a_refit_sees_nothing_of_the_previous_model(name):
    first, _, other = tables()
    once, again = Seen(), Seen()
    estimator = watched(name, once).fit(other)
    estimator.set_callbacks().fit(first)
    if name == "detector":
        estimator.calibrate(first, false_alarm_rate=0.1)
    estimator.set_callbacks(again).fit(other)
    assert len(again.models) == len(once.models) > 2
    for (task, seen), (_, alone) in zip(again.models, once.models, strict=True):
        assert vars(seen).keys() == vars(alone).keys()
        if task == "epoch" and name != "detector":
            assert_same(answers(seen, other), answers(alone, other))
    # Codes of training rows are kept when the fit has ended: until then rows are drawn from p(z).
    last, ended = ({**found, "sample": 0} for found in (answers(again.models[-1][1], other), learnt(name, 2)))
    assert_same(last, ended)
    checkpoint = pickle.loads(pickle.dumps(again.models[0][1].set_callbacks()))
    np.testing.assert_array_equal(checkpoint.module_.likelihood.n_features, 13)


def test_a_callback_that_scores_a_detector_before_its_fit_has_ended_is_told():
    class Scores(Seen):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            fitted_estimator.score_samples(tables()[2])

    estimator = watched("detector").fit(tables()[0])
    with pytest.raises(NotFittedError, match="what is normal is learnt when training has ended"):
        estimator.set_callbacks(Scores()).fit(tables()[2])
    assert_same(answers(estimator, tables()[0]), learnt("detector", 0))


# Interrupts and memory errors, at the n-th call of any function of skvae


class Calls:
    """Counts the calls of skvae's functions in a scope, and raises `error` at the n-th."""

    def __init__(self, stop_at=None, error=KeyboardInterrupt):
        self.stop_at, self.error, self.names = stop_at, error, []

    def __call__(self, frame, event, arg):
        # Not generators: they are also entered to be thrown away, where an error would be lost.
        code, module = frame.f_code, frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("skvae.") and not code.co_flags & inspect.CO_GENERATOR:
            self.names.append(code.co_name)
            if len(self.names) == self.stop_at:
                raise self.error

    def __enter__(self):
        self.before = sys.getprofile()
        sys.setprofile(self)
        return self

    def __exit__(self, *_):
        sys.setprofile(self.before)


class After(Failing):
    """A callback that ends training after so many epochs."""

    def __init__(self, n_epochs):
        super().__init__()
        self.n_epochs = n_epochs

    def on_fit_task_end(self, estimator, context):
        return context.task_name == "epoch" and context.task_id + 1 == self.n_epochs


def fitted_model(estimator):
    return getattr(estimator, "estimator_", estimator)


def fit_until(n, error, estimator, X):
    with Calls(n, error):
        estimator.fit(X)


def ends_with(error, call):
    """Whether a call raises this error."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*training interrupted by user")
            call()
    except error:
        return True
    return False


@each
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_anywhere_leaves_the_previous_model_or_the_new_one(name, error):
    first, second, _ = tables()
    estimator = EACH[name]().fit(second)
    with Calls() as calls:
        estimator.fit(first)
    last = len(calls.names)
    assert last > 100
    estimator.fit(second)
    for n in sorted({1, 2, *np.linspace(3, last, 6, dtype=int).tolist()}):
        before = dict(vars(estimator))
        if not ends_with(error, lambda n=n: fit_until(n, error, estimator, first)):
            # Ctrl-C between the first epoch and the last: the model of a fit that was asked to stop there.
            assert error is KeyboardInterrupt
            assert name != "search"
            stopped = watched(name, After(fitted_model(estimator).n_iter_)).fit(first)
            assert_same(answers(estimator, first), answers(stopped, first))
            estimator.fit(second)
            continue
        assert not leftovers(estimator)
        kept = [vars(estimator).get(key) is value for key, value in before.items()]
        if all(kept):
            assert vars(estimator).keys() == before.keys()
        else:
            assert n == last, f"call {n} of {last} left something between the models"
            assert_same(answers(estimator, first), learnt(name, 0))
    assert_same(answers(estimator.fit(second), second), learnt(name, 1))


@pytest.mark.parametrize("name", ["transformer", "detector", "classifier"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_anywhere_in_partial_fit_leaves_the_previous_model(name, error):
    first = tables()[0]
    estimator = EACH[name]().fit(first)
    twin = pickle.loads(pickle.dumps(estimator))
    twin.score_samples(first)
    with Calls() as calls:
        twin.partial_fit(first)
    swap = calls.names.index("become") + 1
    for n in np.linspace(1, swap, 7, dtype=int).tolist():
        with pytest.raises(error), Calls(n, error):
            estimator.partial_fit(first)
    assert_same(answers(estimator, first), learnt(name, 0))
    assert_same(answers(estimator.partial_fit(first), first), answers(twin, first))


# Other threads


READS = {
    "transformer": ("transform", "score_samples", "reconstruct", "impute"),
    "detector": ("predict", "score_samples", "explain", "similar", "decision_function"),
    "search": ("transform", "score_samples", "impute"),
    "imputer": ("transform",),
    "classifier": ("transform", "predict_proba"),
}
# With "auto" the two tables' models differ in their latents.
AUTO = {
    "transformer": lambda: VAETransformer("auto", **SMALL),
    "detector": lambda: VAEAnomalyDetector(contamination=0.1, **SMALL),
    "search": lambda: VAETransformerCV(("auto",), cv=2, **SMALL),
    "imputer": lambda: VAEImputer(VAETransformer("auto", **SMALL)),
    "classifier": lambda: VAEByTurns("auto", **SMALL),
}


def while_refitted(estimator, first, second, times, *work):
    """Refit an estimator to two tables in turn, so many times, while threads do their work again and again."""
    stop = threading.Event()

    def again(act):
        while not stop.is_set():
            act()

    threads = [threading.Thread(target=again, args=(act,)) for act in work]
    for thread in threads:
        thread.start()
    try:
        for _ in range(times):
            estimator.fit(second)
            estimator.fit(first)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def read_all(estimator, X, methods, found):
    """Ask every method; keep every distinct answer, and every error."""
    for method in methods:
        try:
            found.setdefault(method, {}).setdefault(getattr(estimator, method)(X).tobytes(), 0)
        except BaseException as error:
            found.setdefault(method, {})[repr(error)] = 0


@each
def test_while_an_estimator_is_refitted_other_threads_are_answered_by_the_old_model_or_the_new(name):
    first, second, _ = tables()
    rows = first[:40]
    models = [AUTO[name]().fit(X) for X in (first, second)]
    allowed = {method: {getattr(model, method)(rows).tobytes() for model in models} for method in READS[name]}
    assert all(len(answers) == 2 for answers in allowed.values())
    estimator, found = clone(models[0]).fit(first), [{} for _ in range(3)]
    work = [partial(read_all, estimator, rows, READS[name], own) for own in found]
    while_refitted(estimator, first, second, 2, *work)
    for own in found:
        assert own.keys() == set(READS[name])
        for method, given in own.items():
            assert set(given) <= allowed[method], f"{method} was neither the old model's answer nor the new one's"


def test_a_frame_of_codes_has_the_columns_of_the_model_that_answers():
    first, second, _ = tables()
    models = [AUTO["transformer"]().fit(X) for X in (first, second)]
    assert models[0].n_components_ != models[1].n_components_
    estimator, found = clone(models[0]).set_output(transform="pandas").fit(first), []

    def read():
        try:
            found.append(estimator.transform(first).shape[1])
        except BaseException as error:
            found.append(repr(error))

    while_refitted(estimator, first, second, 4, read)
    assert set(found) <= {model.n_components_ for model in models}
    assert list(estimator.transform(first).columns) == list(estimator.get_feature_names_out())


def test_an_estimator_can_be_saved_while_it_is_refitted():
    first, second, _ = tables()
    estimator, saved = EACH["detector"]().fit(first), []
    while_refitted(estimator, first, second, 3, lambda: saved.append(pickle.dumps(estimator)))
    allowed = {
        learnt("detector", 0)["score_samples"].tobytes(),
        EACH["detector"]().fit(second).score_samples(first).tobytes(),
    }
    assert saved
    assert {pickle.loads(data).score_samples(first).tobytes() for data in saved[:: max(1, len(saved) // 20)]} <= allowed


def test_a_threshold_is_moved_at_once(monkeypatch):
    """Another thread sees the threshold and what it came from together, or neither."""
    X = tables()[0]
    detector = EACH["detector"]().fit(X)
    held = dict(vars(detector))
    detector.calibrate(X, false_alarm_rate=0.1)
    assert held["offset_"] != detector.offset_
    assert "calibration_scores_" not in held
    seen = vars(detector)
    detector.set_contamination(0.2)
    assert "calibration_scores_" in seen
    assert seen["offset_"] != detector.offset_
    assert "calibration_scores_" not in vars(detector)


# A device that is not there


def warnings_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught if "is not available" in str(warning.message)]


def on_cuda(name):
    estimator = EACH[name]()
    getattr(estimator, "estimator", estimator).set_params(device="cuda")
    return estimator


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@each
def test_a_missing_device_is_told_once_for_each_fit_and_each_load(name):
    X, estimator = tables()[0], on_cuda(name)
    assert len(warnings_of(lambda: estimator.fit(X))) == 1
    assert not warnings_of(lambda: [answers(estimator, X), answers(estimator, X)])
    assert len(warnings_of(lambda: estimator.fit(X))) == 1
    loaded = pickle.loads(pickle.dumps(estimator))
    assert len(warnings_of(lambda: [answers(loaded, X), answers(loaded, X)])) == 1
    assert_same(answers(loaded, X), learnt(name, 0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("name", ["transformer", "detector"])
def test_a_missing_device_is_told_once_for_a_stream(name):
    X, estimator = tables()[0], on_cuda(name)
    assert len(warnings_of(lambda: estimator.partial_fit(X))) == 1
    assert not warnings_of(lambda: [estimator.partial_fit(X), answers(estimator, X), estimator.partial_fit(X)])
