"""Fits on an accelerator: everything runs there, and what was fitted there answers on the CPU alike."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from detectors import correlated, every_criterion
from members import MEMBERS, table
from probes import Adversarial, Autoencoder, Contractive, Groups, PixelCNN, Sparse

from skvae import ELBO, IWAE, VAEAnomalyDetector, VAEImputer, VAETransformer, VAETransformerCV
from skvae._training.solvers import SOLVERS
from skvae.priors import PRIORS

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

OBJECTIVES = {
    "elbo": ELBO(),
    "sampled": ELBO("sampled", n_draws=3),
    "free bits": ELBO(free_bits=0.1, warmup=2),
    "iwae": IWAE(5),
    "autoencoder": Autoencoder(),
    "sparse": Sparse(),
    "contractive": Contractive(),
    "adversarial": Adversarial(),
}
PRIORS_TOO = {**{name: name for name in PRIORS}, "groups": Groups()}


def fitted(X, **parameters):
    defaults = {"hidden_layer_sizes": (16,), "max_iter": 3, "random_state": 0, "device": "cuda"}
    return VAETransformer(2, **defaults | parameters).fit(X)


def moved(estimator):
    """The same fitted model, to answer on the CPU."""
    return copy.deepcopy(estimator).set_params(device="cpu")


def agree(estimator, X, methods=("transform", "score_samples", "reconstruct"), within=1e-7):
    other = moved(estimator)
    for name in methods:
        if hasattr(estimator, name):
            here, there = getattr(estimator, name)(X), getattr(other, name)(X)
            np.testing.assert_allclose(here, there, rtol=within, atol=within, err_msg=name)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_every_likelihood(name, gaps):
    X = table(name, 120)
    if gaps:
        X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
        X[:2] = table(name, 2)
    vae = fitted(X, likelihood=MEMBERS[name])
    # Of rows with gaps a last digit may decide which points are looked at: their scores are right to 1e-3.
    agree(vae, X, within=1e-3 if gaps else 1e-7)
    assert np.isfinite(vae.sample(5, random_state=0)).all()
    assert np.isfinite(vae.impute(X)).all()
    if gaps:
        assert np.isfinite(vae.impute(X[:10], n_draws=2, random_state=0)).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective(name):
    X = correlated(120)
    agree(fitted(X, objective=OBJECTIVES[name]), X)


@pytest.mark.parametrize("prior", PRIORS_TOO)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_prior_and_solver(prior, solver):
    X = correlated(120)
    agree(fitted(X, prior=PRIORS_TOO[prior], solver=solver), X)


def test_a_network_of_ones_own():
    X = (np.random.default_rng(0).random((60, 6)) < 0.5).astype(float)
    agree(fitted(X, likelihood="bernoulli", decoder=PixelCNN((2, 3)), early_stopping=False), X, ("transform",))


@every_criterion
def test_every_criterion(criterion):
    X = correlated(150)
    detector = VAEAnomalyDetector(criterion=criterion, max_iter=3, random_state=0, device="cuda").fit(X)
    agree(detector, X, ("score_samples", "explain", "similar"))
    np.testing.assert_array_equal(detector.predict(X), moved(detector).predict(X))
    detector.partial_fit(correlated(50, 1))
    agree(detector, X, ("score_samples",))


def test_searches_imputers_and_streams():
    X = correlated(150)
    search = VAETransformerCV([1, 2], cv=2, max_iter=3, random_state=0, device="cuda").fit(X)
    agree(search, X)
    gapped = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    imputer = VAEImputer(VAETransformer(2, max_iter=3, random_state=0, device="cuda"))
    assert np.isfinite(imputer.fit_transform(gapped)).all()
    stream = VAETransformer(2, random_state=0, device="cuda")
    for chunk in np.array_split(X, 3):
        stream.partial_fit(chunk)
    agree(stream, X)


def test_a_fit_is_the_same_twice_and_saved_models_too():
    X = correlated(150)
    one, other = fitted(X), fitted(X)
    np.testing.assert_allclose(one.transform(X), other.transform(X), rtol=1e-5, atol=1e-5)
    loaded = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(loaded.transform(X), one.transform(X))


def test_an_accelerators_fit_is_as_good_as_the_cpus():
    X = correlated(600)
    scores = [fitted(X, device=device, max_iter=30).score(X) for device in ("cpu", "cuda")]
    assert scores[0] == pytest.approx(scores[1], abs=0.1)
