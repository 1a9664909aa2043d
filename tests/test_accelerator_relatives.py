"""Relatives of the VAE on every device: what was fitted there answers on the CPU alike; without a GPU, on the CPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import by_turns
from sklearn.datasets import load_digits
from torch import nn

from skvae import VAEClassifier, VAETransformer
from skvae.networks import Conv, PixelCNN
from skvae.objectives import ALI, OBJECTIVES, Clustered, FeatureConsistent, Sparse
from skvae.priors import Mixture, Vamp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
on_every_device = pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))],
)

CONV = Conv((8, 8), channels=(2, 4), hidden_layer_sizes=(8,))
CASES = {
    **{name: {"objective": name} for name, make in OBJECTIVES.items() if name != "clustered" and make().target is None},
    "clustered": {"objective": Clustered(3, warmup=1)},
    "sparse codes": {"objective": Sparse(layer="code", code="relu")},
    "levels": {"objective": ALI(cycle_weight=1.0, levels=(2,))},
    "features": {"objective": FeatureConsistent(nn.Linear(64, 3))},
    "conv": {"encoder": CONV, "decoder": CONV},
    "conv, adversarial, mixture": {"encoder": CONV, "objective": "adversarial", "prior": Mixture(3)},
    "pixels": {"decoder": PixelCNN((8, 8), channels=2, n_layers=1), "likelihood": "bernoulli"},
    "vamp": {"prior": Vamp(4)},
    "mixture": {"prior": Mixture(3), "objective": "iwae"},
}
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 2, "n_draws": 4, "random_state": 0}
X = (load_digits().data[:60] > 7).astype(float)


def agree(estimator, methods):
    """Where the model is, and moved to the CPU; nothing of it is left where it was trained."""
    assert np.isfinite(estimator.history_["loss"]).all()
    moved = copy.deepcopy(estimator).set_params(device="cpu")
    for name in methods:
        if hasattr(estimator, name):
            here, there = getattr(estimator, name)(X[:20]), getattr(moved, name)(X[:20])
            assert np.isfinite(here).all(), name
            np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-6, err_msg=name)


@on_every_device
@pytest.mark.parametrize("name", CASES)
def test_every_relative_is_fitted_there_and_answers_elsewhere(name, device):
    vae = VAETransformer(3, device=device, **SMALL | CASES[name]).fit(X)
    agree(vae, ("transform", "score_samples", "reconstruct"))
    assert np.isfinite(vae.partial_fit(X).transform(X)).all()
    if hasattr(vae, "sample"):
        assert vae.sample(3, random_state=0).shape == (3, 64)


@on_every_device
@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
def test_a_classifier_is_fitted_there_and_answers_elsewhere(prior, device):
    agree(VAEClassifier(3, prior=prior, device=device, **SMALL).fit(X, by_turns(X)), ("transform", "predict_proba"))
