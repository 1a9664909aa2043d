"""How a fit ends, and what is said of it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from skvae import VAETransformer, VAETransformerCV
from skvae._race import still_gains
from skvae._training.loop import STILL_RISING, TrainingResult

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
    assert caught(lambda: VAETransformer(2, random_state=0).fit(iris)) == []
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
