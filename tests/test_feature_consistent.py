"""Rows compared in the layers of a frozen network."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from helpers import make, rows_of, seeded, with_gaps
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from skvae import Gaussian, JohnsonSU
from skvae.metrics import reconstruction_error
from skvae.objectives import FeatureConsistent
from skvae.priors import Mixture

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def seeded_module(make_module):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_module()


def network(n_in=13):
    """A perceptron whose batch normalisation would move in training mode."""
    return seeded_module(
        lambda: nn.Sequential(
            nn.Linear(n_in, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4)
        ).double()
    )


def terms(vae, X, objective=None):
    """Of a batch at the fitted weights, in float64, by name; and the rows' decoded means, in data units."""
    rows = rows_of(vae, X)
    model = vae.module_
    objective = objective or vae.objective
    found = objective(model, rows, seeded(), 1)
    emitted = model.emit(rows, rows, seeded())
    return found, model.units.to_data(model.likelihood.mean(emitted.outputs)).numpy()


@pytest.mark.parametrize("likelihood", ["gaussian", Gaussian("shared"), JohnsonSU()], ids=repr)
def test_with_the_identity_it_is_the_squared_error_in_data_units(wine, likelihood):
    vae = make(objective=FeatureConsistent(nn.Identity()), likelihood=likelihood).fit(wine)
    found, rebuilt = terms(vae, wine)
    np.testing.assert_allclose(found["feature_error"].numpy(), ((wine - rebuilt) ** 2).sum(1), rtol=1e-9)
    torch.testing.assert_close(found["loss"], found["feature_error"] + found["kl"])


def test_a_linear_network_compares_its_products(wine):
    layer = seeded_module(lambda: nn.Linear(13, 3).double())
    vae = make(objective=FeatureConsistent(layer, beta=0.3)).fit(wine)
    found, rebuilt = terms(vae, wine)
    expected = (((wine - rebuilt) @ layer.weight.detach().numpy().T) ** 2).sum(1)
    np.testing.assert_allclose(found["feature_error"].numpy(), expected, rtol=1e-6)  # weights travel in float32
    torch.testing.assert_close(found["loss"], found["feature_error"] + 0.3 * found["kl"])


def test_layers_are_compared_by_name(wine):
    net = network()
    vae = make(objective=FeatureConsistent(net, ["0", "2"])).fit(wine)
    found, rebuilt = terms(vae, wine)
    net = net.eval().float().double()
    with torch.no_grad():
        seen = [[net[:1](x), net[:3](x)] for x in (torch.tensor(wine), torch.tensor(rebuilt))]
    expected = sum((a - b).square().sum(1) for a, b in zip(*seen, strict=True))
    torch.testing.assert_close(found["feature_error"], expected, rtol=1e-6, atol=1e-9)


def test_missing_cells_have_no_error_of_their_own(wine):
    X = with_gaps(wine, 0.2)
    vae = make(objective=FeatureConsistent(nn.Identity())).fit(X)
    found, rebuilt = terms(vae, X)
    np.testing.assert_allclose(found["feature_error"].numpy(), np.nansum((X - rebuilt) ** 2, axis=1), rtol=1e-9)


def test_the_network_is_a_copy_that_training_leaves_alone(wine):
    net = network()
    before = copy.deepcopy(net.state_dict())
    vae = make(objective=FeatureConsistent(net), max_iter=3).fit(wine)
    for state in (net.state_dict(), vae.module_.extras["network"].state_dict()):
        for name, value in before.items():
            assert torch.equal(state[name], value.float().to(state[name]) if value.is_floating_point() else value), name
    assert net.training
    assert net[0].weight.requires_grad
    assert vae.module_.extras["network"] is not net


def test_training_lowers_the_loss_and_rebuilds_what_the_network_sees(wine):
    """The first column alone, whose error falls, while the others' does not count."""
    first = seeded_module(lambda: nn.Linear(13, 1, bias=False))
    nn.init.zeros_(first.weight)
    first.weight.data[0, 0] = 10 / wine[:, 0].std()
    vae = make(objective=FeatureConsistent(first), n_components=1, max_iter=60, init="random").fit(wine)
    assert vae.loss_curve_[-1] < 0.5 * vae.loss_curve_[0]
    missed = ((vae.reconstruct(wine) - wine) ** 2).mean(0) / wine.var(0)
    assert missed[0] < 0.1
    assert missed[1:].min() > 0.3


def test_methods_are_those_of_a_posterior_and_a_prior(wine):
    vae = make(objective=FeatureConsistent(network())).fit(wine)
    having = {name for name in ("posterior", "sample", "score", "score_samples") if hasattr(vae, name)}
    assert having == {"posterior", "sample"}
    assert vae.sample(3, random_state=0).shape == (3, 13)
    assert vae.latent_information_.shape == (2,)
    assert not hasattr(vae, "noise_variance_")


def test_copies_and_repeated_fits_are_the_same_bit_for_bit(wine):
    vae = make(objective=FeatureConsistent(network(), ["2"]))
    expected = vae.fit(wine).transform(wine)
    again = clone(vae).fit(wine)
    loaded = pickle.loads(pickle.dumps(vae))
    for other in (again, loaded, copy.deepcopy(vae)):
        np.testing.assert_array_equal(other.transform(wine), expected)
    np.testing.assert_array_equal(loaded.fit(wine).transform(wine), expected)


def test_it_works_in_streams_searches_and_with_other_priors(wine):
    vae = make(objective=FeatureConsistent(network()))
    stream = clone(vae).partial_fit(wine[:100]).partial_fit(wine[100:])
    assert stream.n_iter_ == 2
    grid = {"objective__beta": [0.1, 1.0], "objective__layers": [["0"], []]}
    search = GridSearchCV(vae, grid, scoring=reconstruction_error, cv=2).fit(wine)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert np.isfinite(clone(vae).set_params(prior=Mixture(3)).fit(wine).sample(5, random_state=0)).all()


class Fails(nn.Module):
    def forward(self, x):
        raise KeyError("nothing here")


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Blind(nn.Module):
    def forward(self, x):
        return x.detach()


class Pooled(nn.Module):
    def forward(self, x):
        return x.sum(0, keepdim=True)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (
            FeatureConsistent(nn.Linear(5, 2)),
            "must turn 13 columns into a tensor of as many rows; on two rows it failed",
        ),
        (FeatureConsistent(Fails()), "on two rows it failed: 'nothing here'"),
        (FeatureConsistent(Pair()), "on two rows it failed"),
        (FeatureConsistent(Blind()), "into a tensor of as many rows, with gradients"),
        (FeatureConsistent(Pooled()), "into a tensor of as many rows, with gradients"),
        (
            FeatureConsistent(network(), ["0", "hidden"]),
            re.escape("layers must hold names of layers of the network, ['0', '1', '2', '3', '4']; it holds 'hidden'."),
        ),
        (FeatureConsistent(network(), "0"), "The 'layers' parameter of FeatureConsistent must be an array-like"),
        (FeatureConsistent(len), "The 'network' parameter of FeatureConsistent must be an instance of"),
        (FeatureConsistent(network(), beta=-1.0), "The 'beta' parameter of FeatureConsistent"),
    ],
)
def test_a_broken_rule_is_an_error_before_training_and_the_previous_model_stays(wine, objective, words):
    vae = make().fit(wine)
    before = vae.transform(wine)
    with pytest.raises(ValueError, match=words):
        vae.set_params(objective=objective, verbose=0).fit(wine)
    np.testing.assert_array_equal(vae.transform(wine), before)


def test_categories_have_no_mean_to_show_a_network():
    X = np.array([["a", "b"], ["b", "a"]] * 20, dtype=object)
    with pytest.raises(ValueError, match="compares means of p.x.z., which categories do not have"):
        make(objective=FeatureConsistent(nn.Identity()), likelihood="categorical").fit(X)
