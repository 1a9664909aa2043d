"""A fit by several processes, each with some of the rows: the one that a process with all of them would make."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import ranks
import torch
from helpers import Watcher, with_gaps
from ranks import Dies, Fails, Ranks
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_wine

from skvae import Checkpoint, VAEAnomalyDetector, VAEClassifier, VAEImputer, VAETransformer, VAETransformerCV, _fit
from skvae._tables.batches import Table, joined
from skvae._tables.shared import _cut, _even, _in_proportion
from skvae._torch import make_generator, seed_from

X, y = load_wine(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(X))
X, y = X[ORDER], y[ORDER]
FIRST = 60  # rows of rank 0, a third of all
SMALL = {"n_components": 2, "hidden_layer_sizes": 16, "max_iter": 20, "random_state": 0}
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def group():
    """Two processes, for all tests of this file."""
    started = Ranks()
    yield started
    started.close()


def parts(values, first=FIRST):
    """What either rank has of the rows."""
    return values[:first], values[first:]


def bytes_of(estimator):
    """All that an estimator holds; one by one, as pickle notes which of them are one object."""
    return {k: bytes_of(v) if isinstance(v, BaseEstimator) else pickle.dumps(v) for k, v in vars(estimator).items()}


def fitted(group, estimator, *data, first=FIRST):
    """The estimator that both ranks end with, of their parts of the data."""
    found = group(
        ranks.fit, *((estimator, *part) for part in zip(*(parts(values, first) for values in data), strict=True))
    )
    assert not any(isinstance(answer, Exception) for answer in found), found
    assert bytes_of(found[0]) == bytes_of(found[1])
    return found[0]


def assert_close(found, expected, rtol):
    """Arrays alike, relative to the largest number of each."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            assert found[name].shape == value.shape
            np.testing.assert_allclose(found[name], value, rtol=0, atol=rtol * np.abs(value).max(), err_msg=name)
        else:
            assert found[name] == value, name


# The one-process fit


def mixed_table(n=200):
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"amount": np.exp(rng.normal(size=n)), "count": rng.poisson(3, n)})
    table["kind"] = np.where(np.arange(n) < 20, "only in the first part", rng.choice(["a", "b"], n))
    table["gaps"] = np.where(np.arange(n) < FIRST, 1.5, np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)))
    return table.astype({"count": "int64"})


@pytest.mark.parametrize("likelihood", ["auto", "gaussian", "normal_score"])
def test_statistics_are_those_of_all_rows(group, likelihood):
    table = mixed_table() if likelihood == "auto" else pd.DataFrame(with_gaps(X, 0.1))
    estimator, weight = VAETransformer(2, likelihood=likelihood), np.repeat([1.0, 3.0], [50, len(table) - 50])
    alone = ranks.statistics(estimator, table, weight)
    own = [(estimator, part, w) for part, w in zip(parts(table), parts(weight), strict=True)]
    for found in group(ranks.statistics, *own):
        assert_close(found.pop("density"), alone["density"], 1e-6)  # float32
        assert_close(found, {name: value for name, value in alone.items() if name != "density"}, 1e-12)


@pytest.mark.parametrize("n_columns", [300, 2100])
def test_eigenvectors_of_many_columns_are_those_of_all_rows(group, n_columns):
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(90, 2)) @ rng.normal(size=(2, n_columns)) + 0.1 * rng.normal(size=(90, n_columns))
    alone = ranks.leading(wide, 0.1)
    for found in group(ranks.leading, *((part, 0.1) for part in parts(wide))):
        np.testing.assert_allclose(found[0], alone[0], rtol=1e-7)
        np.testing.assert_allclose(found[1], alone[1], atol=1e-7)


def test_one_batch_of_all_rows_gives_the_fit_of_one_process(group):
    # At the linear start the loss' slope is rounding, of which Adam makes steps of its own size.
    settings = {**SMALL, "objective": "autoencoder", "init": "random", "early_stopping": False, "batch_size": len(X)}
    alone, found = VAETransformer(**settings).fit(X), fitted(group, VAETransformer(**settings), X)
    assert_close(found._weights, alone._weights, 1e-5)
    np.testing.assert_allclose(found.loss_curve_, alone.loss_curve_, rtol=1e-6)
    np.testing.assert_allclose(found.reconstruct(X), alone.reconstruct(X), rtol=1e-5)


class Parts(Table):
    """The rows of both ranks in one process, whose batches and draws are those that the ranks have together."""

    generators, sizes = (), ()

    def __init__(self, own):
        self.own, self.all = own, joined(own)

    def __len__(self):
        return len(self.all)

    n_features = property(lambda self: self.all.n_features)
    device, weight = property(lambda self: self.all.device), None

    def take(self, index):
        return self.all.take(index)

    def blocks(self, size=None):
        return self.all.blocks(size)

    def to(self, device):
        return self

    def mapped(self, change, target=False):
        return Parts([part.mapped(change, target) for part in self.own])

    def part(self, index):
        raise NotImplementedError

    def split_off(self, n_rows, rng):
        shares = _in_proportion(n_rows, tuple(map(len, self.own)))
        seed = seed_from(rng)
        pairs = [
            part.split_off(n, make_generator(seed + r))
            for r, (part, n) in enumerate(zip(self.own, shares, strict=True))
        ]
        return Parts([kept for kept, _ in pairs]), joined([taken for _, taken in pairs])

    def batches(self, batch_size, rng):
        seed, n_batches = seed_from(rng), -(-len(self) // batch_size)
        sizes = [_even(len(part), n_batches) for part in self.own]
        Parts.generators = [make_generator(seed + r) for r in range(len(self.own))]
        cut = [
            _cut(part.batches(max(own), g), own, part.take(torch.arange(0)))
            for part, own, g in zip(self.own, sizes, Parts.generators, strict=True)
        ]
        for Parts.sizes in zip(*sizes, strict=True):
            yield joined([next(batches) for batches in cut])
        Parts.sizes = ()


@pytest.fixture
def as_of_two_ranks(monkeypatch):
    """Fits in this process that take the batches, the held-out rows and the draws that two ranks would."""
    randn = torch.randn
    with torch.device("meta"):
        torch.empty(0)  # torch notes, once, which functions take its device: `randn`, not what replaces it

    def drawn(*shape, **how):
        if not Parts.sizes:
            return randn(*shape, **how)
        (shape,) = shape
        pairs = zip(Parts.sizes, Parts.generators, strict=True)
        return torch.cat([randn((n, *shape[1:]), **{**how, "generator": g}) for n, g in pairs])

    monkeypatch.setattr(torch, "randn", drawn)
    monkeypatch.setattr(_fit, "of_all_ranks", lambda rows: Parts(list(rows.split([FIRST, len(rows) - FIRST]))))


@pytest.mark.parametrize(("objective", "stops"), [("elbo", False), ("autoencoder", True)])
def test_the_same_batches_give_the_fit_of_one_process(group, as_of_two_ranks, objective, stops):
    settings = {**SMALL, "objective": objective, "batch_size": 32, "early_stopping": stops, "keep_codes": False}
    alone, found = VAETransformer(**settings).fit(X), fitted(group, VAETransformer(**settings), X)
    assert len(found.loss_curve_) == len(alone.loss_curve_) == 20
    assert_close(found._weights, alone._weights, 1e-5)
    np.testing.assert_allclose(found.loss_curve_, alone.loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(found.validation_curve_, alone.validation_curve_, rtol=1e-5)
    if not stops:
        np.testing.assert_allclose(found.score_samples(X), alone.score_samples(X), rtol=1e-5)


# Estimators


def test_a_detector_knows_the_rows_of_all_ranks(group):
    # Training hardly leaves the linear start, which both find: what is normal is then the same.
    settings = {**SMALL, "max_iter": 1, "contamination": 0.1, "learning_rate_init": 1e-9, "early_stopping": False}
    alone, found = VAEAnomalyDetector(**settings).fit(X), fitted(group, VAEAnomalyDetector(**settings), X)
    np.testing.assert_array_equal(found.support_, alone.support_)
    np.testing.assert_allclose(found.training_scores_, alone.training_scores_, rtol=1e-4)
    np.testing.assert_allclose(found.offset_, alone.offset_, rtol=1e-4)
    np.testing.assert_array_equal(found.predict(X), alone.predict(X))


def test_every_estimator_ends_alike_on_all_ranks(group):
    settings = {**SMALL, "max_iter": 3}
    gappy = with_gaps(X, 0.1)
    fitted(group, VAEAnomalyDetector(**settings), gappy, first=150)
    fitted(group, VAEImputer(VAETransformer(**settings)), gappy, first=150)
    fitted(group, VAETransformer(**settings, prior="mixture", objective="iwae"), gappy, first=177)
    fitted(group, VAETransformer(**settings, prior="vamp", likelihood="normal_score"), gappy)
    fitted(group, VAETransformer(**settings, objective="clustered"), X)
    labels = np.where(np.arange(len(y)) % 3, y, -1)
    one_class = np.where(y == y[0], y, -1)
    found = fitted(group, VAEClassifier(**settings), X, np.append(one_class[:FIRST], labels[FIRST:]))
    np.testing.assert_array_equal(found.classes_, [0, 1, 2])


def test_a_seed_that_nobody_gave_is_one_for_all(group):
    fitted(group, VAETransformer(**{**SMALL, "random_state": None, "max_iter": 2}), X)


def test_files_and_large_tables_are_read_in_parts(group, tmp_path):
    table = np.random.default_rng(0).normal(size=(45_000, 30)).astype("f4")
    table[:, 1] += table[:, 0]
    files = [tmp_path / "first", tmp_path / "second"]
    own = []
    for file, part in zip(files, parts(table, 20_000), strict=True):
        part.tofile(file)
        own.append(np.memmap(file, "f4", "r", shape=part.shape))
    settings = {**SMALL, "max_iter": 1, "batch_size": 2000}
    found = group(ranks.fit, *((VAETransformer(**settings), part) for part in (own[0], parts(table, 20_000)[1])))
    assert bytes_of(found[0]) == bytes_of(found[1])
    np.testing.assert_allclose(found[0].mean_, table.mean(axis=0, dtype=float), atol=1e-12)
    assert found[0].validation_curve_[1] > found[0].validation_curve_[0] - 0.1


def test_one_rank_speaks(group):
    table = with_gaps(X, 0.1)
    how = VAETransformer(**{**SMALL, "max_iter": 2, "verbose": 1, "learning_rate_init": 1e-9, "init": "random"})
    assert group(ranks.printed_by_fit, *((how, part) for part in parts(table))) == [(True, True), (False, False)]


# Fits that go on from a file


def test_a_killed_process_is_taken_over_by_another(tmp_path):
    path, own = tmp_path / "fit.ckpt", VAETransformer(**{**SMALL, "max_iter": 8})
    alone = Ranks(1)
    (dead,) = alone(ranks.fit_with_file, (own, X, path, 5, True))
    alone.close()
    assert isinstance(dead, EOFError)
    found = clone(own).set_callbacks(Checkpoint(path, 2), watcher := Watcher()).fit(X)
    assert watcher.began.count("epoch") == 8 - 4
    assert bytes_of(found.set_callbacks()) == bytes_of(own.fit(X))


def with_file(group, paths, last=None, rows=X):
    """What the ranks answer that fit with a file, or are broken off in an epoch."""
    own = VAETransformer(**{**SMALL, "max_iter": 8})
    return group(ranks.fit_with_file, *((own, part, path, last) for part, path in zip(parts(rows), paths, strict=True)))


def test_a_group_goes_on_from_the_first_ranks_file(group, tmp_path):
    paths = first, second = tmp_path / "first", tmp_path / "second"
    assert all("broken off" in str(error) for error in with_file(group, paths, last=3))
    assert first.exists()
    assert not second.exists()
    shutil.copy(first, second)
    with_file(group, paths, last=3)  # of the epochs that were left
    for found in with_file(group, paths):
        assert isinstance(found, ValueError)
        assert "is of epoch 4 on rank 0, which reads and writes it for all, and of epoch 2 on rank 1" in str(found)
    shutil.move(first, tmp_path / "kept")
    assert all("is missing on rank 0" in str(error) for error in with_file(group, paths))
    shutil.move(tmp_path / "kept", first)
    second.unlink()
    whole = fitted(group, VAETransformer(**{**SMALL, "max_iter": 8}), X)
    for found, n_epochs in with_file(group, paths):
        assert n_epochs == 8 - 4
        assert bytes_of(found) == bytes_of(whole)
    assert not first.exists()


def test_another_fit_of_a_group_is_refused(group, tmp_path):
    path = tmp_path / "fit.ckpt"
    with_file(group, [path] * 2, last=3)
    changed = np.where(np.arange(len(X)) == len(X) - 1, 0, X.T).T  # of rank 1
    assert all("holds another fit: The table was" in str(error) for error in with_file(group, [path] * 2, rows=changed))
    own = VAETransformer(**{**SMALL, "max_iter": 8})
    with pytest.raises(ValueError, match="holds another fit: The table was"):
        clone(own).set_callbacks(Checkpoint(path)).fit(X)
    found = group(ranks.fit, *zip([clone(own).set_callbacks(Checkpoint(path)), own], parts(X), strict=True))
    assert all("The number of Checkpoints is 1 on rank 0 and 0 on rank 1" in str(error) for error in found)


def test_a_file_that_cannot_be_written_is_an_error_of_all(group, tmp_path):
    paths = tmp_path / "no folder" / "fit.ckpt", tmp_path / "fit.ckpt"
    assert all("No such file" in str(error) for error in with_file(group, paths))


# Faults


def refused(group, *by_rank, kind=ValueError, task=ranks.fit):
    """The errors' texts: both ranks raise."""
    found = group(task, *by_rank)
    assert all(isinstance(error, kind) for error in found), found
    return [str(error) for error in found]


def can_fit(group):
    fitted(group, VAETransformer(**{**SMALL, "max_iter": 1}), X)


def test_what_differs_between_ranks_is_named(group):
    first, second = parts(X)
    own = VAETransformer(**SMALL)
    for name, value in {"max_iter": 21, "random_state": 1, "hidden_layer_sizes": (16, 16), "n_components": 3}.items():
        other = VAETransformer(**{**SMALL, name: value})
        for text in refused(group, (own, first), (other, second)):
            assert f"{name} is {SMALL[name]!r} on rank 0 and {value!r} on rank 1" in text
    assert (
        "The estimator is VAETransformer on rank 0"
        in refused(group, (own, first), (VAEAnomalyDetector(**SMALL), second))[0]
    )
    assert "number of columns is 13 on rank 0 and 12 on rank 1" in refused(group, (own, first), (own, second[:, 1:]))[0]
    named, others = pd.DataFrame(first), pd.DataFrame(second, columns=list("abcdefghijklm"))
    assert "list of columns is [0, 1, 2" in refused(group, (own, named), (own, others))[0]
    assert (
        "sample_weight is None on rank 0" in refused(group, (own, first), (own, second, None, np.ones(len(second))))[0]
    )
    can_fit(group)


def test_an_error_of_one_rank_is_one_of_all(group):
    first, second = parts(X)
    own = VAETransformer(**SMALL)
    infinite = np.where(np.arange(13) == 4, np.inf, second)
    for found in (refused(group, (own, first), (own, infinite)), refused(group, (own, infinite), (own, second))[::-1]):
        assert all("infinity: column 4, row 0" in text for text in found)
        assert "(rank " in found[0]
        assert "(rank " not in found[1]
    assert "Rank 1 of 2 has no rows" in refused(group, (own, X), (own, X[:0]))[0]
    assert "max_iter" in refused(group, (own, first), (VAETransformer(**{**SMALL, "max_iter": 0}), second))[0]
    words = np.where(second == second[0, 0], "word", second.astype(object))
    assert "word" in refused(group, (own, first), (own, words))[0]
    can_fit(group)


def test_an_error_amid_an_epoch_is_one_of_all(group):
    own = VAETransformer(**SMALL, objective=Fails())
    found = refused(group, *((own, part) for part in parts(X)), kind=(RuntimeError, ZeroDivisionError))
    assert all("divides by zero" in text for text in found)
    can_fit(group)


def test_what_knows_one_process_refuses(group):
    first, second = parts(X)
    for task, estimator in ((ranks.partial_fit, VAETransformer(**SMALL)), (ranks.fit, VAETransformerCV([1, 2]))):
        assert "rank 0 of 2" in refused(group, (estimator, first), (estimator, second), task=task)[0]


def test_a_rank_that_dies_leaves_an_error():
    group = Ranks()
    try:
        survivor, dead = group(ranks.fit, *((VAETransformer(**SMALL, objective=Dies()), part) for part in parts(X)))
        assert isinstance(dead, EOFError)
        assert type(survivor).__name__ == "RankLostError"
        assert "another process of this fit has ended" in str(survivor)
    finally:
        group.close()
