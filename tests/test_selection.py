"""Which candidate VAETransformerCV chooses, by scores that are given."""

import numpy as np
import pytest

from skvae import VAETransformerCV


def choose(scores, sizes, selection="one_standard_error", **others):
    candidates = [{"n_components": size, **{k: v[i] for k, v in others.items()}} for i, size in enumerate(sizes)]
    return VAETransformerCV(selection=selection)._choose(np.array(scores, dtype=float), candidates)


def around(mean, spread):
    """Three scores of this mean and standard error."""
    return [mean - spread * 3**0.5, mean, mean + spread * 3**0.5]


def test_the_best_mean_is_chosen():
    scores = [around(-10.0, 0.2), around(-9.0, 3.0), around(-9.1, 0.0)]
    assert choose(scores, [1, 2, 3], "best") == 1


@pytest.mark.parametrize(
    ("second", "expected"), [(-10.45, 1), (-10.55, 2)], ids=["within one standard error", "farther away"]
)
def test_the_smallest_model_within_one_standard_error_is_chosen(second, expected):
    """It is the best candidate's own standard error: -10 with 0.5."""
    scores = [around(-11.0, 9.0), around(second, 0.01), around(-10.0, 0.5), around(-10.1, 0.5)]
    assert choose(scores, [1, 2, 4, 8]) == expected
    assert choose(scores, [1, 2, 4, 8], "best") == 2


def test_the_order_of_candidates_does_not_matter():
    scores, sizes = [around(-10.1, 0.5), around(-10.0, 0.5), around(-11, 0.5), around(-10.2, 0.5)], [8, 4, 1, 2]
    assert choose(scores, sizes) == 3
    assert choose(scores[::-1], sizes[::-1]) == 0


def test_among_models_of_one_size_the_best_is_chosen():
    scores = [around(-10.4, 0.1), around(-10.2, 0.1), around(-10.3, 0.1), around(-10.0, 0.5)]
    assert choose(scores, [2, 2, 2, 4], learning_rate_init=[1, 2, 3, 2]) == 1


def test_auto_counts_as_the_largest():
    scores = [around(-10.0, 0.5), around(-10.1, 0.5)]
    assert choose(scores, ["auto", 30]) == 1
    assert choose([scores[0], around(-12, 0.5)], ["auto", 30]) == 0


def test_one_fold_has_no_standard_error():
    assert choose([[-10.0], [-9.9]], [1, 2]) == 1


@pytest.mark.parametrize("selection", ["best", "one_standard_error"])
def test_a_score_that_is_no_number_is_never_chosen(selection):
    assert choose([[np.nan, -1.0], [-5.0, -5.1], [-9.0, -9.0]], [1, 2, 4], selection) == 1


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("selection", ["best", "one_standard_error"])
def test_some_candidate_is_chosen_where_none_has_a_finite_score(selection):
    """-inf is what a row too far out to be scored gets, from every candidate."""
    assert choose([[-np.inf, -1.0], [-np.inf, -2.0]], [1, 2], selection) in (0, 1)
