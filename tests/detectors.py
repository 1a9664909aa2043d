"""Tables with anomalies, and small detectors fitted to them: what tests of the detector share."""

from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris, load_wine

from skvae import VAEAnomalyDetector
from skvae._inference.criteria import CRITERIA

DEFAULT = VAEAnomalyDetector().criterion
every_criterion = pytest.mark.parametrize("criterion", CRITERIA)


def make(**parameters):
    return VAEAnomalyDetector(**{"hidden_layer_sizes": (16,), "max_iter": 5, "random_state": 0, **parameters})


def shuffled(X, seed=0):
    return X[np.random.RandomState(seed).permutation(len(X))]


@cache
def normal_and_anomalous(name):
    """Rows of one class in random order, and all others."""
    X, y = {"wine": load_wine, "cancer": load_breast_cancer, "iris": load_iris}[name](return_X_y=True)
    kept = {"wine": 1, "cancer": 1, "iris": 0}[name]
    return shuffled(X[y == kept]), X[y != kept]


@cache
def correlated(n_rows, seed=0):
    """Eight columns of three factors and a little noise."""
    rng, mixing = np.random.default_rng(seed), np.random.default_rng(7).normal(size=(3, 8))
    return rng.normal(size=(n_rows, 3)) @ mixing + 0.5 * rng.normal(size=(n_rows, 8))


@cache
def fitted(criterion=DEFAULT):
    """One for all tests: who changes it takes a copy."""
    return make(criterion=criterion).fit(correlated(150))


def of_densities(detector):
    """The weight of criteria that are densities of rows, in data units."""
    names = zip(detector.criterion, detector.criterion_weights_, strict=True)
    return sum(weight for name, weight in names if name in ("aggregated", "neighbour"))


def state_of(detector):
    """A copy of everything the estimator holds, as comparable bytes."""
    return {name: pickle.dumps(value) for name, value in vars(detector).items()}
