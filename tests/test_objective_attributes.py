"""Fitted attributes that an objective adds: made of a model's arrays, and held to them when a model is loaded."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import skops.io
import torch
from helpers import Watcher, load_state, make
from torch import nn

from skvae import VAEAnomalyDetector, VAETransformer, VAETransformerCV
from skvae.objectives import ELBO

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Anchored(ELBO):
    """An ELBO with a point among the latents that they are drawn to."""

    def modules(self, dims):
        return {"anchor": nn.Linear(dims.n_components, 1, bias=False, dtype=torch.float32)}

    def attributes(self, weights, order):
        return {"anchor_": weights["extras.anchor.weight"][0, order].astype(float)}

    def terms(self, emitted, batch, model, rng, epoch):
        found = super().terms(emitted, batch, model, rng, epoch)
        away = (emitted.z - model.extras["anchor"].weight[0]).square().sum(-1)
        return {**found, "loss": found["loss"] + 0.1 * away}


@pytest.fixture(scope="module")
def fitted(wine):
    return make(n_components=3, objective=Anchored()).fit(wine)


def anchor(vae):
    return vae.module_.extras["anchor"].weight[0].numpy()[vae._order]


@pytest.mark.parametrize("kind", [VAETransformer, VAEAnomalyDetector, VAETransformerCV], ids=lambda kind: kind.__name__)
def test_every_estimator_has_them_in_public_order(wine, kind):
    settings = {"cv": 2} if kind is VAETransformerCV else {}
    sizes = [3] if kind is VAETransformerCV else 3
    vae = kind(sizes, objective=Anchored(), max_iter=3, random_state=0, **settings).fit(wine)
    np.testing.assert_array_equal(vae.anchor_, anchor(vae))
    assert vae.anchor_.shape == (3,)
    assert np.ptp(vae.anchor_) > 0


def test_they_follow_every_chunk_of_a_stream(wine):
    vae = make(n_components=3, objective=Anchored()).partial_fit(wine)
    before = vae.anchor_
    vae.partial_fit(wine)
    assert not np.array_equal(vae.anchor_, before)
    np.testing.assert_array_equal(vae.anchor_, anchor(vae))


def test_another_objective_leaves_none_behind(wine):
    vae = make(objective=Anchored()).fit(wine)
    assert not hasattr(vae.set_params(objective="elbo").fit(wine), "anchor_")


def test_a_callback_sees_them(wine):
    seen = []
    watcher = Watcher(lambda epoch, estimator, fitted: seen.append(fitted.anchor_) or False)
    make(objective=Anchored(), max_iter=2).set_callbacks(watcher).fit(wine)
    assert [value.shape for value in seen] == [(2,), (2,)]


def test_they_are_saved_and_loaded(fitted):
    for loaded in (pickle.loads(pickle.dumps(fitted)), by_skops_of_ours(fitted)):
        np.testing.assert_array_equal(loaded.anchor_, fitted.anchor_)


def by_skops_of_ours(vae):
    """skops with this file's class trusted, too."""
    data = skops.io.dumps(vae)
    return skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))


@pytest.mark.parametrize("change", [lambda a: a + 1e-6, lambda a: a[:2], lambda a: None, lambda a: [[]]])
def test_what_the_weights_do_not_say_is_damaged(fitted, change):
    state = vars(fitted) | {"anchor_": change(fitted.anchor_)}
    with pytest.raises(ValueError, match="damaged: anchor_ is not what its weights say"):
        load_state(VAETransformer, state)


def test_what_is_missing_is_damaged(fitted):
    state = {name: value for name, value in vars(fitted).items() if name != "anchor_"}
    with pytest.raises(ValueError, match="damaged: anchor_ is not what its weights say"):
        load_state(VAETransformer, state)
