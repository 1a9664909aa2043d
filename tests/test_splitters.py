"""What splitters ask VAETransformerCV for: groups, labels, and splits made beforehand."""

import re

import numpy as np
import pytest
from helpers import SMALL
from sklearn import config_context
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)
from sklearn.pipeline import make_pipeline

from skvae import VAETransformerCV

pytestmark = pytest.mark.filterwarnings("ignore:VAETransformer stopped at:sklearn.exceptions.ConvergenceWarning")


def make(**parameters):
    return VAETransformerCV((1, 2), **{**SMALL, **parameters})


@pytest.fixture(scope="module")
def table(wine):
    return wine[np.random.RandomState(0).permutation(178)[:90]]


def groups_of(X, n=6):
    return np.arange(len(X)) % n


def test_groups_stay_together(table):
    groups = groups_of(table)
    vae = make(cv=GroupKFold(3)).fit(table, groups=groups)
    same = make(cv=list(GroupKFold(3).split(table, groups=groups))).fit(table)
    np.testing.assert_array_equal(vae.scores_, same.scores_)
    np.testing.assert_array_equal(vae.transform(table), same.transform(table))
    assert not np.array_equal(vae.scores_, make(cv=3).fit(table).scores_)


def test_groups_come_through_a_pipeline(table):
    groups = groups_of(table)
    alone = make(cv=GroupKFold(3)).fit(table, groups=groups)
    piped = make_pipeline(make(cv=GroupKFold(3))).fit(table, vaetransformercv__groups=groups)
    np.testing.assert_array_equal(piped[-1].scores_, alone.scores_)
    with config_context(enable_metadata_routing=True):
        routed = make_pipeline(make(cv=GroupKFold(3)).set_fit_request(groups=True)).fit(table, groups=groups)
        np.testing.assert_array_equal(routed[-1].scores_, alone.scores_)


@pytest.mark.parametrize(
    ("cv", "lacking"),
    [
        (GroupKFold(3), ["groups"]),
        (LeaveOneGroupOut(), ["groups"]),
        (StratifiedKFold(3), ["y"]),
        (StratifiedShuffleSplit(3), ["y"]),
        (StratifiedGroupKFold(3), ["y", "groups"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_splitter_lacks_is_named_with_the_way_out(table, cv, lacking):
    call = ", ".join(f"{name}=..." for name in lacking)
    words = f"cv={cv!r} splits by {' and '.join(lacking)}; call fit(X, {call})."
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        make(cv=cv).fit(table)


def test_a_splitters_own_error_is_kept_where_nothing_lacks(table):
    with pytest.raises(ValueError, match="n_splits=100 greater than the number of samples"):
        make(cv=KFold(100)).fit(table)
    with pytest.raises(ValueError, match="n_splits=9 greater than the number of groups"):
        make(cv=GroupKFold(9)).fit(table, groups=groups_of(table))


def test_a_splitter_by_labels_gets_them(table):
    y = groups_of(table, 2)
    folds = list(StratifiedKFold(3).split(table, y))
    np.testing.assert_array_equal(make(cv=StratifiedKFold(3)).fit(table, y).scores_, make(cv=folds).fit(table).scores_)


def test_groups_of_another_length_are_refused(table):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make(cv=GroupKFold(3)).fit(table, groups=groups_of(table)[1:])


def test_a_generator_of_splits_serves_one_fit_and_the_next_says_so(table):
    vae = make(cv=(fold for fold in KFold(3).split(table))).fit(table)
    scores = vae.scores_
    with pytest.raises(ValueError, match=r"A generator gives its splits to one fit only: pass list\(\.\.\.\)"):
        vae.fit(table)
    np.testing.assert_array_equal(vae.scores_, scores)
