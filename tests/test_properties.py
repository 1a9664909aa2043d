"""Whatever the table and the options: finite numbers or an error in words, the same twice, and nothing else changes.

`pytest -n auto tests/test_properties.py --hypothesis-profile=thorough` looks at ten thousand fits in place of sixty.
"""

import copy
import pickle
import re
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from helpers import assert_same, global_state
from hypothesis import event, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.utils import _safe_indexing
from strategies import NUMBERS, examples
from subjects import BLIND, KINDS, LOOKS, SCORES, STREAMS, assert_unfitted, fitted_names, rows, small, unharmed

# What skvae and scikit-learn say of tables, weights and parameters that cannot be learnt from or looked at.
TOLD_BY_FIT = re.compile(
    "infinity|holds no value|validation set is too small|diverged|takes (whole|values|numbers|fractions)"
    "|no noise can be added|needs an objective that offers|n_splits|sample_weight|at least one non-zero number"
    "|Negative values in data|gives no training row a finite score"
    "|at least 2 classes|of one kind|Unknown label type|inconsistent numbers of samples|holds the text"
)
# A detector may have left rows out of its fit.
TOLD_BY_CHUNK = re.compile(f"{TOLD_BY_FIT.pattern}|times as large as the scale")
TOLD_BY_LOOKS = re.compile("too far from the training data|a category that fit has not seen")


@contextmanager
def documented_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FitFailedWarning)
        warnings.filterwarnings("ignore", "column .* (alone|value each|so each of|different values)", UserWarning)
        warnings.filterwarnings("ignore", ".*keep fewer of the rows' neighbours", UserWarning)
        warnings.filterwarnings("ignore", ".*is more than the [0-9]+ number", UserWarning)
        warnings.filterwarnings("ignore", ".* one row says nothing", UserWarning)
        yield


def in_words(error, words):
    """The error's text, where it is one of those that users are told."""
    if not words.search(str(error)):
        raise error
    return str(error)


def cells(answer):
    """An answer as an array, whatever container it came in."""
    if isinstance(answer, pd.DataFrame):
        answer = answer.to_numpy(dtype=object, na_value=np.nan)
        return answer.astype(np.float64) if all(isinstance(v, (int, float)) for v in answer.ravel()) else answer
    return np.asarray(answer)


def told(kind, estimator, X):
    """What every method says: numbers, or its refusal."""
    found = {}
    for name, look in [*LOOKS[kind].items(), *BLIND[kind].items()]:
        try:
            found[name] = cells(look(estimator, X) if name in LOOKS[kind] else look(estimator))
        except ValueError as error:
            found[name] = np.array(in_words(error, TOLD_BY_LOOKS))
    return found


def assert_sound(found):
    """Finite; a score may be minus infinity, for a row too far out to be scored."""
    for name, values in found.items():
        if values.dtype.kind == "f":
            may = np.isneginf(values) if name in SCORES | {"training scores"} else False
            assert (np.isfinite(values) | may).all(), f"{name}: {values}"


# Scores of rows, which may be minus infinity.
SCORE_ATTRIBUTES = {"training_scores_", "validation_curve_", "scores_", "best_score_"}


def assert_attributes_are_finite(estimator):
    for name in set(fitted_names(estimator)) - SCORE_ATTRIBUTES:
        value = getattr(estimator, name)
        if isinstance(value, (float, list, np.ndarray)):
            assert np.asarray(value).dtype.kind != "f" or np.isfinite(value).all(), f"{name}: {value}"


def fitted_or_refused(example):
    """A fitted estimator; None where fit refuses in words, and leaves no trace."""
    estimator = example.estimator()
    try:
        estimator.fit(example.table(), example.y(), sample_weight=example.weight())
    except (ValueError, TypeError) as error:
        event("refused: " + TOLD_BY_FIT.search(in_words(error, TOLD_BY_FIT)).group())
        assert_unfitted(example.kind, estimator, example.table())
        return None
    return estimator


def assert_untouched(X, before):
    """The caller's table or weights are what they were."""
    if hasattr(X, "columns"):
        assert X.equals(before)
    elif X is not None:
        dense = (table.toarray() if issparse(table) else table for table in (X, before))
        np.testing.assert_array_equal(*(np.asarray(table, dtype=np.float64) for table in dense))


def check(example):
    """All the rules for one fit."""
    kind, X, y, weight = example.kind, example.table(), example.y(), example.weight()
    state, X_before, weight_before = global_state(), copy.deepcopy(X), copy.deepcopy(weight)
    estimator = fitted_or_refused(example)
    if estimator is None:
        return
    said = told(kind, estimator, X)
    assert_sound(said)
    assert_attributes_are_finite(estimator)
    assert_same(told(kind, estimator, X), said)
    assert_same(told(kind, pickle.loads(pickle.dumps(estimator)), X), said)
    assert_same(told(kind, clone(estimator).fit(X, y, sample_weight=weight), X), said)
    with pytest.raises((ValueError, TypeError)):
        estimator.fit(np.full((5, 3), np.inf))
    assert_same(told(kind, estimator, X), said)
    assert_untouched(X, X_before)
    assert_untouched(weight, weight_before)
    assert global_state() == state
    if kind == "detector":
        assert_verdicts_are_the_rows_own(estimator, example.rows())
    if kind in STREAMS:
        assert_takes_a_chunk(kind, estimator, X, y, weight, said)


def assert_verdicts_are_the_rows_own(detector, X):
    """In company, alone, in twos and in another order; calibrated, too."""
    order, detector = np.random.default_rng(0).permutation(len(X)), copy.deepcopy(detector)
    for name in ("predict", "p_values") if len(X) > 1 else ("predict",):
        if name == "p_values":
            detector.calibrate(X, false_alarm_rate=0.5)
        say = getattr(detector, name)
        whole = say(X)
        for size, stop in ((1, min(len(X), 8)), (2, len(X))):
            parts = [say(X[i : i + size]) for i in range(0, stop, size)]
            np.testing.assert_array_equal(np.concatenate(parts), whole[:stop])
        np.testing.assert_array_equal(say(_safe_indexing(X, order)), whole[order])


def assert_takes_a_chunk(kind, estimator, X, y, weight, said):
    """One more chunk is learnt, or refused in words, and then the model stays."""
    try:
        estimator.partial_fit(X, y, sample_weight=weight)
    except ValueError as error:
        in_words(error, TOLD_BY_CHUNK if kind == "detector" else TOLD_BY_FIT)
        assert_same(told(kind, estimator, X), said)
    else:
        assert_sound(told(kind, estimator, X))


@given(example=examples("transformer"))
def test_a_transformer_keeps_the_rules(profile_part, example):
    with documented_warnings():
        check(example)


@given(example=examples("detector"))
def test_a_detector_keeps_the_rules(profile_part, example):
    with documented_warnings():
        check(example)


@given(example=examples("search"))
def test_a_search_keeps_the_rules(profile_part, example):
    with documented_warnings():
        check(example)


@given(example=examples("imputer"))
def test_an_imputer_keeps_the_rules(profile_part, example):
    with documented_warnings():
        check(example)


@given(example=examples("classifier"))
def test_a_classifier_keeps_the_rules(profile_part, example):
    with documented_warnings():
        check(example)


@pytest.fixture(scope="module")
def fitted():
    return {kind: small(kind).fit(rows()) for kind in KINDS}


@given(kind=st.sampled_from(KINDS), row=hnp.arrays(np.float64, (1, 4), elements=NUMBERS))
def test_any_row_is_answered_or_refused_in_words(fitted, kind, row):
    assert_sound(told(kind, fitted[kind], row))


@given(
    kind=st.sampled_from(KINDS),
    X=hnp.arrays(np.float64, (20, 4), elements=st.floats(allow_nan=True, allow_infinity=True, width=64)),
)
def test_a_refit_on_anything_leaves_a_usable_model(kind, X):
    estimator = small(kind).fit(rows())
    before = told(kind, estimator, rows())
    with documented_warnings():
        try:
            estimator.fit(X)
        except ValueError:
            assert_same(told(kind, estimator, rows()), before)
        else:
            assert_sound(told(kind, estimator, rows()))


@given(
    scale=st.integers(-990, 990),
    dtype=st.sampled_from(["f4", "f8", ">f8"]),
    order=st.sampled_from("CF"),
    n_columns=st.integers(1, 4),
)
def test_scale_dtype_and_layout_do_not_change_the_codes(iris, scale, dtype, order, n_columns):
    if dtype == "f4":
        scale = scale // 10
    plain = iris[:40, :n_columns].astype("f4").astype("f8")
    X = np.ldexp(plain, scale).astype(dtype, order=order)
    codes, expected = (small("transformer", n_components=1).fit(table).transform(table) for table in (X, plain))
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-5)


def test_a_broken_estimator_is_caught(fitted):
    """The rules can be broken: an answer that is not a number, a verdict by the row's place, a model that moves."""
    with pytest.raises(AssertionError, match="explain"):
        assert_sound({"explain": np.array([np.nan])})
    with pytest.raises(AssertionError), unharmed("detector", fitted["detector"], rows()):
        fitted["detector"].offset_ += 1.0
    fitted["detector"].offset_ -= 1.0

    class ByPlace:
        def predict(self, X):
            return np.arange(len(X))

    with pytest.raises(AssertionError):
        assert_verdicts_are_the_rows_own(ByPlace(), rows())
