"""How a fit ends, and what is said of it."""

from __future__ import annotations

import math
import pickle
import signal
import warnings

import numpy as np
import pytest
import torch
from helpers import EACH, Silent, answers, assert_same
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import VAEImputer, VAETransformer, VAETransformerCV
from skvae._race import still_gains
from skvae._training.held_out import Judge
from skvae._training.loop import STILL_RISING, Training, TrainingResult

RISING = "VAETransformer reached max_iter={} while its held-out bound was still rising; raise max_iter"
LARGEST = "chose n_components={}, the largest of its candidates; give it larger ones too"


def caught(fit):
    """Warnings of a call, as texts."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit()
    return [str(warning.message) for warning in found]


def steps(gains):
    """A curve that begins at 0 and gains these."""
    return [0.0, *np.cumsum(gains).tolist()]


@pytest.mark.parametrize(
    ("held_out", "max_iter", "rises"),
    [
        (steps([0.06] * 20), 20, True),  # 0.12 in the last two epochs
        (steps([0.04] * 20), 20, False),
        (steps([0.06] * 20), 30, False),  # something else ended it
        (steps([0.06] * 18 + [-1, 0.9]), 20, False),  # its best lies before
        (steps([0.06] * 18 + [-1, 1.2]), 20, True),
        (steps([0.2]), 1, True),
        (steps([2 * STILL_RISING] * 9), 9, True),
        (steps([0.0] * 9), 9, False),
        ([-math.inf, -math.inf], 1, False),
        ([-math.inf, -3.0], 1, True),
        ([], 5, False),
    ],
)
def test_a_bound_still_rises_that_gained_in_the_last_tenth_of_the_epochs(held_out, max_iter, rises):
    result = TrainingResult(n_iter=max(0, len(held_out) - 1) or max_iter, held_out=held_out)
    assert result.still_rises(max_iter) is rises


def test_a_fit_that_ends_too_early_says_so_and_one_that_has_converged_does_not(digits, iris):
    with pytest.warns(ConvergenceWarning, match=RISING.format(10)):
        vae = VAETransformer(10, max_iter=10, random_state=0).fit(digits)
    assert vae.n_iter_ == 10
    assert vae.validation_curve_[10] - max(vae.validation_curve_[:10]) > STILL_RISING
    assert caught(lambda: VAETransformer(1, random_state=0).fit(iris)) == []
    assert caught(lambda: VAETransformer(10, max_iter=10, early_stopping=False, random_state=0).fit(digits)) == []


def test_neither_a_chunk_nor_a_number_that_is_no_bound_is_said_to_rise(digits):
    def stream():
        vae = VAETransformer(10, random_state=0)
        for _ in range(3):
            vae.partial_fit(digits)

    assert caught(stream) == []
    assert caught(lambda: VAETransformer(10, objective="autoencoder", max_iter=5, random_state=0).fit(digits)) == []


def test_a_search_is_told_once(digits):
    search = GridSearchCV(VAETransformer(max_iter=2, random_state=0), {"n_components": [5, 10]}, cv=2)
    assert len(set(caught(lambda: search.fit(digits)))) == 1
    said = caught(lambda: VAETransformerCV([5, 10], cv=2, max_iter=10, random_state=0).fit(digits))
    assert sum("still rising" in text for text in said) == 1


# The largest candidate

FOLDS = np.array([[-3.0, -3.2, -3.1], [-2.0, -2.2, -2.1], [-1.0, -1.3, -1.2]])


@pytest.mark.parametrize(
    ("scores", "sizes", "best", "gains"),
    [
        (FOLDS, [1, 2, 4], 2, True),
        (FOLDS, [1, 4, 2], 2, False),  # a larger one was worse
        (FOLDS[[0, 1, 1]] + [[0], [0], [1e-9]], [1, 2, 4], 2, True),
        (FOLDS[[0, 1, 1]] + [[0], [0], [0.1]] * np.array([1, -1, 1]), [1, 2, 4], 2, False),  # within the folds' spread
        (FOLDS[:, :1], [1, 2, 4], 2, True),
        (np.array([[np.nan, np.nan], [-1.0, -2.0]]), [1, 2], 1, True),  # the smaller one diverged
        (FOLDS[[2, 2]], [4, 4], 0, False),
        (FOLDS, [1, 2, np.inf], 2, True),
    ],
)
def test_the_largest_candidate_gains_that_is_ahead_by_more_than_a_standard_error(scores, sizes, best, gains):
    assert still_gains(scores, sizes, best) == gains


def test_a_search_whose_best_candidate_is_the_largest_says_so(digits):
    with pytest.warns(UserWarning, match=LARGEST.format(4)):
        VAETransformerCV([1, 4], cv=3, max_iter=2, hidden_layer_sizes=(), random_state=0).fit(digits)


def test_no_larger_model_is_asked_for_where_there_is_none_or_nothing_to_gain(iris):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(90, 6))
    for X, sizes in [(iris, [1, 4]), (noise, [1, 3])]:
        said = caught(lambda: VAETransformerCV(sizes, cv=3, max_iter=2, random_state=0).fit(X))  # noqa: B023
        assert not [text for text in said if "largest" in text]


# Ctrl-C


def press():
    signal.raise_signal(signal.SIGINT)


def interrupt():
    raise KeyboardInterrupt


class At(Silent):
    """Acts after an epoch, and ends training there if that returns True."""

    def __init__(self, epoch, act):
        self.epoch, self.act = epoch, act

    def on_fit_task_end(self, estimator, context):
        return self.act() if context.task_name == "epoch" and context.task_id + 1 == self.epoch else False


def watched(name, callback):
    """An estimator whose model has this callback."""
    estimator = EACH[name]()
    getattr(estimator, "estimator", estimator).set_params(max_iter=6, early_stopping=True).set_callbacks(callback)
    return estimator


def ended(estimator):
    """What there is to know of a fitted model."""
    return vars(getattr(estimator, "estimator_", estimator))


def same_ends(found, expected, X):
    assert_same(answers(found, X), answers(expected, X))
    for name in ("n_iter_", "best_iter_", "history_", "validation_curve_"):
        assert ended(found)[name] == ended(expected)[name]


@pytest.mark.parametrize("name", [name for name in EACH if name != "search"])
@pytest.mark.parametrize("act", [press, interrupt])
def test_ctrl_c_leaves_the_model_of_a_fit_that_was_asked_to_stop_there(name, act, iris):
    stopped = watched(name, At(3, lambda: True)).fit(iris)
    estimator = watched(name, At(3, act))
    with pytest.warns(
        UserWarning, match="training interrupted by user after 3 epochs; the best weights so far, of epoch"
    ):
        estimator.fit(iris)
    same_ends(estimator, stopped, iris)
    assert not [attribute for attribute in ended(estimator) if attribute.startswith("_callback")]
    assert_same(answers(pickle.loads(pickle.dumps(estimator)), iris), answers(stopped, iris))


class Interrupted(torch.optim.SGD):
    """Steps, one of which the user interrupts."""

    def __init__(self, parameters, at):
        super().__init__(parameters, lr=1e-5)
        self.left = at

    def step(self, closure=None):
        self.left -= 1
        if self.left == 0:
            press()
        return super().step(closure)


def stepping(at, **parameters):
    """A fit of five steps an epoch, one of which is interrupted."""
    return VAETransformer(
        2, solver=lambda p: Interrupted(p, at), batch_size=27, max_iter=4, random_state=0, **parameters
    )


@pytest.mark.parametrize("early_stopping", [True, False])
def test_an_interrupted_epoch_leaves_no_trace(early_stopping, iris):
    whole = stepping(10**6, early_stopping=early_stopping).set_params(max_iter=2).fit(iris)
    vae = stepping(13 if early_stopping else 15, early_stopping=early_stopping)
    with pytest.warns(UserWarning, match="after 2 epochs"):
        vae.fit(iris)
    same_ends(vae, whole, iris)
    assert len(vae.loss_curve_) == vae.n_iter_ == 2


@pytest.mark.parametrize("moment", ["log", "_snapshot", "keep"])
def test_an_interrupt_between_two_notes_of_an_epoch_leaves_them_agreeing(moment, wine, monkeypatch):
    calls = []
    owner = {"log": TrainingResult, "_snapshot": Training, "keep": Judge}[moment]
    original = getattr(owner, moment)

    def interrupted(self, *args):
        found = original(self, *args)
        calls.append(moment)
        if len(calls) == 3:
            press()
        return found

    monkeypatch.setattr(owner, moment, interrupted)
    with pytest.warns(UserWarning, match="training interrupted by user"):
        vae = VAETransformer(2, max_iter=8, early_stopping=True, random_state=0).fit(wine)
    monkeypatch.undo()
    assert len(vae.loss_curve_) == vae.n_iter_ == len(vae.validation_curve_) - 1
    assert vae.validation_curve_[vae.best_iter_] == max(vae.validation_curve_)
    same_ends(vae, VAETransformer(2, max_iter=vae.n_iter_, early_stopping=True, random_state=0).fit(wine), wine)


def test_ctrl_c_before_the_first_epoch_is_over_is_an_error_and_leaves_what_there_was(iris, wine):
    with pytest.raises(KeyboardInterrupt):
        stepping(2).fit(iris)
    vae = stepping(10**6).fit(iris)
    before = answers(vae, iris)
    vae.set_params(solver=lambda p: Interrupted(p, 2))
    for call in (vae.fit, vae.partial_fit):
        with pytest.raises(KeyboardInterrupt):
            call(iris)
        assert_same(answers(vae, iris), before)


SEARCHES = {
    "GridSearchCV": lambda vae: GridSearchCV(vae, {"n_components": [1, 2]}, cv=2),
    "a pipeline in GridSearchCV": lambda vae: GridSearchCV(
        make_pipeline(StandardScaler(), vae), {"vaetransformer__n_components": [1, 2]}, cv=2
    ),
    "an imputer in GridSearchCV": lambda vae: GridSearchCV(
        VAEImputer(vae), {"estimator__n_components": [1, 2]}, scoring=lambda *_: 0.0, cv=2
    ),
    "VAETransformerCV": lambda vae: VAETransformerCV((1, 2), cv=2, max_iter=4, solver=vae.solver, random_state=0),
}


@pytest.mark.parametrize("search", SEARCHES)
def test_ctrl_c_ends_a_search_as_a_whole(search, iris):
    with pytest.raises(KeyboardInterrupt):
        SEARCHES[search](stepping(13)).fit(iris)


def test_ctrl_c_in_a_pipeline_keeps_what_its_model_has_learnt(iris):
    pipe = make_pipeline(StandardScaler(), stepping(13))
    with pytest.warns(UserWarning, match="after 2 epochs"):
        pipe.fit(iris)
    assert pipe[-1].n_iter_ == 2


@pytest.mark.filterwarnings("error:.*training interrupted by user")
def test_an_interrupt_whose_warning_is_an_error_leaves_what_there_was(iris):
    vae = stepping(13)
    with pytest.raises(UserWarning, match="training interrupted by user"):
        vae.fit(iris)
    assert not hasattr(vae, "n_iter_")
