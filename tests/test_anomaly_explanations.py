"""What makes a row odd: explanations, similar rows, and a criterion of one's own."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import torch
from detectors import correlated, every_criterion, fitted, make, normal_and_anomalous
from helpers import with_gaps
from sklearn.metrics import roc_auc_score

from skvae import VAEAnomalyDetector


@every_criterion
@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_explanations_sum_to_the_score_less_the_mean_training_score(criterion, gaps, new_rows):
    detector = fitted(criterion)
    X = with_gaps(np.vstack([new_rows[:60], correlated(150)[:40]]), gaps)
    found = detector.explain(X)
    assert found.shape == (100, 9)
    expected = detector.score_samples(X) - detector.training_scores_.mean()
    np.testing.assert_allclose(found.sum(axis=1), expected, rtol=1e-9, atol=1e-9)


@every_criterion
def test_a_missing_cell_explains_nothing(criterion, new_rows):
    detector = fitted(criterion)
    X = with_gaps(new_rows, 0.3)
    found, spread = detector.explain(X)[:, :-1], detector.explain(new_rows)[20:, :-1].std(axis=0)
    missing = np.isnan(X)
    np.testing.assert_allclose((found / spread)[missing], 0, atol=0.75)


PLANTED = {
    "correlated": lambda: (correlated(500), correlated(100, seed=1)),
    "wine": lambda: np.split(normal_and_anomalous("wine")[0], [50]),
    "cancer": lambda: np.split(normal_and_anomalous("cancer")[0], [250]),
}


@pytest.mark.parametrize("criterion", ["aggregated", "elbo", "reconstruction"])
@pytest.mark.parametrize("name", PLANTED)
def test_the_lowest_contribution_names_a_planted_anomaly(name, criterion, any_seed):
    """Six standard deviations up or down in one column, in every row and (of many, some) columns."""
    train, rows = PLANTED[name]()
    detector = VAEAnomalyDetector(criterion=criterion, random_state=any_seed).fit(train)
    n, (n_rows, D) = 250, rows.shape
    rng = np.random.RandomState(any_seed)
    column, X = rng.randint(D, size=n), rows[np.arange(n) % n_rows].copy()
    X[np.arange(n), column] += rng.choice([-6, 6], n) * train.std(axis=0)[column]
    assert (detector.explain(X)[:, :-1].argmin(axis=1) == column).mean() >= 0.95


@pytest.mark.parametrize("name", PLANTED)
def test_similar_is_a_normal_row_in_data_units(name):
    train, rows = PLANTED[name]()
    detector = VAEAnomalyDetector(random_state=0).fit(train)
    found, scale = detector.similar(rows), train.std(axis=0)
    assert found.shape == rows.shape
    typical = np.sqrt((((rows[:, None] - train) / scale) ** 2).mean(axis=2)).mean()
    assert np.sqrt((((found - rows) / scale) ** 2).mean()) < 0.8 * typical
    assert (detector.predict(found) == 1).mean() > 0.95
    odd = rows.copy()
    odd[:, 1] += 6 * scale[1]
    off = np.abs(odd - detector.similar(odd)) / scale
    assert (off.argmax(axis=1) == 1).mean() > 0.8


def test_similar_looks_past_gaps():
    """A row with a few gaps is like about the same rows as the whole one."""
    train, rows = PLANTED["correlated"]()
    detector, scale = VAEAnomalyDetector(random_state=0).fit(train), train.std(axis=0)

    def error(X):
        return np.sqrt((((detector.similar(X) - rows) / scale) ** 2).mean())

    assert error(with_gaps(rows, 0.15)) < 1.5 * error(rows)


def test_explanations_and_similar_rows_come_in_the_asked_container(new_rows):
    X = pd.DataFrame(correlated(150)).add_prefix("c").set_index(np.arange(150) + 1000)
    detector = make().fit(X)
    names = [*X.columns, "latent"]
    plain, similar = detector.explain(X), detector.similar(X)
    assert isinstance(plain, np.ndarray)
    assert detector.set_output(transform="pandas") is detector
    frame = detector.explain(X)
    assert frame.columns.tolist() == names
    assert frame.index.equals(X.index)
    np.testing.assert_array_equal(frame, plain)
    np.testing.assert_allclose(
        frame.sum(axis=1), detector.score_samples(X) - detector.training_scores_.mean(), rtol=1e-9
    )
    assert detector.similar(X).columns.tolist() == X.columns.tolist()
    assert detector.similar(X).index.equals(X.index)
    frame = detector.set_output(transform="polars").explain(pl.DataFrame(X))
    assert isinstance(frame, pl.DataFrame)
    assert frame.columns == names
    np.testing.assert_array_equal(frame.to_numpy(), plain)
    np.testing.assert_array_equal(detector.set_output(transform="default").similar(X), similar)
    detector.set_output()
    assert isinstance(detector.explain(X), np.ndarray)


def test_scikit_learns_configuration_chooses_the_container(new_rows):
    with sklearn.config_context(transform_output="pandas"):
        assert fitted().explain(new_rows).columns.tolist() == [*(f"x{i}" for i in range(8)), "latent"]
        assert isinstance(fitted().score_samples(new_rows), np.ndarray)


def test_an_unknown_container_is_refused_and_forgotten(new_rows):
    detector = copy.deepcopy(fitted())
    with pytest.raises(ValueError, match="nope"):
        detector.set_output(transform="nope")
    assert isinstance(detector.explain(new_rows), np.ndarray)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_a_column_may_be_called_latent(container):
    X = pd.DataFrame(correlated(60)[:, :3], columns=["a", "latent", "b"])
    frame = make(max_iter=1).fit(X).set_output(transform=container).explain(X)
    assert frame.shape == (60, 4)
    assert len(set(frame.columns)) == 4
    assert list(frame.columns)[:3] == ["a", "latent", "b"]


def test_bernoulli_finds_odd_combinations_and_explains_them(any_seed):
    """Columns in three pairs of copies; an anomaly breaks one pair."""
    rng = np.random.RandomState(any_seed)
    X = np.repeat(rng.rand(400, 3) < 0.5, 2, axis=1).astype(float)
    detector = make(
        likelihood="bernoulli", objective="elbo", max_iter=60, hidden_layer_sizes=(32,), random_state=any_seed
    ).fit(X)
    odd = X[:40].copy()
    odd[:, 3] = 1 - odd[:, 3]
    assert roc_auc_score(np.repeat([0, 1], 40), -detector.score_samples(np.vstack([X[40:80], odd]))) > 0.99
    found = detector.explain(odd)
    assert np.isin(found[:, :-1].argmin(axis=1), [2, 3]).mean() > 0.95
    expected = detector.score_samples(odd) - detector.training_scores_.mean()
    np.testing.assert_allclose(found.sum(axis=1), expected, rtol=1e-9, atol=1e-9)


# A criterion of one's own


def first_column(model, rows, view):
    """How near the first column is to its mean."""
    found = torch.zeros(len(rows), rows.x.shape[1] + 1, dtype=rows.x.dtype)
    found[:, 0] = -rows.x[:, 0].square()
    return found


def test_a_criterion_of_ones_own_scores_and_explains(new_rows):
    X = correlated(150)
    detector = make(criterion=first_column, contamination=0.1).fit(X)
    expected = -(((new_rows - detector.mean_) / detector.scale_)[:, 0] ** 2)
    np.testing.assert_allclose(detector.score_samples(new_rows), expected, rtol=1e-9)
    assert (detector.predict(X) == -1).sum() == 15
    found = detector.explain(new_rows)
    np.testing.assert_allclose(found[:, 1:-1], 0, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), expected - detector.training_scores_.mean(), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(detector)).explain(new_rows), found)
