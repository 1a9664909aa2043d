"""Encoders and decoders: the built-in perceptron, and users' modules and callables in its place."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from helpers import default_dtype, seeded
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn

from skvae import MLP, VAETransformer
from skvae._torch import build_seeded
from skvae.model import AutoregressiveVAE
from skvae.networks import ACTIVATIONS, AutoregressiveDecoder, LinearPath, Network, Supplied

SIZES = [(), (5,), (7, 3)]
every_size = pytest.mark.parametrize("sizes", SIZES)
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def build(make, seed=0):
    return build_seeded(make, seeded(seed))


def rows(n_rows=60, n_features=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, 2)) @ rng.normal(size=(2, n_features)) + 0.3 * rng.normal(size=(n_rows, n_features))


def widths(module):
    return [layer.out_features for layer in module.body if isinstance(layer, nn.Linear)] if module.body else []


@every_size
def test_encoder_and_decoder_have_the_asked_shapes(sizes):
    network = MLP(sizes)
    encoder, decoder = build(lambda: network.build_encoder(6, 4)), build(lambda: network.build_decoder(2, 12))
    assert encoder(torch.zeros(3, 6)).shape == (3, 4)
    assert decoder(torch.zeros(3, 2)).shape == (3, 12)


def test_decoder_mirrors_the_encoder():
    network = MLP((7, 3))
    assert widths(build(lambda: network.build_encoder(6, 4))) == [7, 3, 4]
    assert widths(build(lambda: network.build_decoder(2, 6))) == [3, 7, 6]


def test_without_hidden_layers_the_network_is_one_linear_map():
    encoder = build(lambda: MLP(()).build_encoder(6, 4))
    assert {name: tuple(p.shape) for name, p in encoder.named_parameters()} == {
        "linear.weight": (4, 6),
        "linear.bias": (4,),
    }


@every_activation
def test_every_activation_stands_between_layers_and_not_after_the_last(activation):
    encoder = build(lambda: MLP((7, 3), activation).build_encoder(6, 4))
    kinds = [type(layer) for layer in encoder.body]
    nonlinear = type(ACTIVATIONS[activation]())
    assert kinds == [nn.Linear, nonlinear, nn.Linear, nonlinear, nn.Linear]


def test_activation_may_be_a_callable_that_returns_a_module():
    encoder = build(lambda: MLP((7,), nn.Mish).build_encoder(6, 4))
    assert isinstance(encoder.body[1], nn.Mish)


@every_activation
@every_size
def test_start_at_makes_the_network_exactly_linear(sizes, activation):
    network = build(lambda: MLP(sizes, activation).build_encoder(6, 4))
    weight = torch.randn(4, 6, generator=seeded(1))
    bias = torch.randn(4, generator=seeded(2))
    network.start_at(weight, bias)
    x = 5 * torch.randn(20, 6, generator=seeded(3))
    torch.testing.assert_close(network(x), nn.functional.linear(x, weight, bias))


@pytest.mark.parametrize("sizes", [(5,), (7, 3)])
def test_started_network_can_leave_the_linear_model(sizes):
    network = build(lambda: MLP(sizes, "tanh").build_encoder(6, 4))
    network.start_at(torch.zeros(4, 6), torch.zeros(4))
    network(torch.randn(20, 6, generator=seeded())).sum().backward()
    assert float(network.body[-1].weight.grad.abs().max()) > 0
    assert float(network.body[0].weight.detach().abs().max()) > 0


def test_output_is_the_linear_path_plus_the_body():
    network = build(lambda: MLP((5,)).build_encoder(6, 4))
    x = torch.randn(3, 6, generator=seeded())
    torch.testing.assert_close(network(x), network.linear(x) + network.body(x))


def test_weights_are_float32_under_another_default_dtype():
    with default_dtype(torch.float64):
        network = build(lambda: MLP((5,)).build_encoder(6, 4))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("params", [{"hidden_layer_sizes": 0}, {"activation": "step"}])
def test_wrong_hyperparameters_are_refused_in_fit(params):
    with pytest.raises(InvalidParameterError, match=next(iter(params))):
        VAETransformer(1, encoder=MLP(**params), random_state=0).fit(rows())


# Seeds


@every_size
def test_weights_follow_the_generator_and_leave_torchs_own_alone(sizes):
    before = torch.get_rng_state()
    first, again, other = (build(lambda: MLP(sizes).build_encoder(6, 4), seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


LAYERS = {
    "linear": lambda: nn.Linear(3, 4),
    "convolution": lambda: nn.Conv2d(1, 2, 3),
    "transposed convolution": lambda: nn.ConvTranspose2d(1, 2, 3),
    "embedding": lambda: nn.Embedding(5, 3),
    "bilinear": lambda: nn.Bilinear(2, 3, 4),
    "recurrent": lambda: nn.GRU(3, 4),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "orthogonal": lambda: _initialised(nn.init.orthogonal_),
    "truncated normal": lambda: _initialised(nn.init.trunc_normal_),
    "xavier normal": lambda: _initialised(nn.init.xavier_normal_),
    "kaiming normal": lambda: _initialised(nn.init.kaiming_normal_),
    "sparse": lambda: _initialised(lambda weight: nn.init.sparse_(weight, 0.5)),
    "random parameter": lambda: nn.ParameterList([torch.rand(3), torch.randn(3), torch.randint(9, (3,)).float()]),
    "like": lambda: nn.ParameterList([torch.randn_like(torch.zeros(3)), torch.rand_like(torch.zeros(3))]),
}


def _initialised(initialise):
    layer = nn.Linear(4, 4)
    initialise(layer.weight)
    return layer


@pytest.mark.parametrize("layer", LAYERS)
def test_every_kind_of_layer_is_seeded_and_leaves_torchs_own_generator_alone(layer):
    before = torch.get_rng_state()
    first, again, other = (list(build(LAYERS[layer], seed).parameters()) for seed in (0, 0, 1))
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    assert torch.equal(before, after)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


# Networks of the user's own


def plain(n_in, n_out):
    return nn.Sequential(nn.Linear(n_in, 8), nn.Tanh(), nn.Linear(8, n_out))


class Tower(nn.Module):
    """A module of fixed sizes: 6 features, 2 latents."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        return self.net(x)


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, x):
        return self.value.expand(len(x), -1)


def own(**params):
    return VAETransformer(2, **{"encoder": plain, "decoder": plain, "max_iter": 3, "random_state": 0, **params})


def tower():
    """Built in a scope of its own, so that no test moves torch's generator."""
    return build(Tower)


@quiet
def test_callables_get_the_sizes_of_the_table():
    asked = []

    def spy(n_in, n_out):
        asked.append((n_in, n_out))
        return plain(n_in, n_out)

    own(encoder=spy, decoder=spy).fit(rows())
    assert set(asked) == {(6, 4), (2, 6)}


@quiet
def test_callables_are_seeded_by_random_state_alone():
    before = torch.get_rng_state()
    first, again, other = (own(random_state=seed).fit(rows()).module_.state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["encoder.0.weight"], other["encoder.0.weight"])


@quiet
def test_a_module_is_copied_with_its_weights_and_left_untouched():
    module = tower()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    vae = own(encoder=module, max_iter=1, learning_rate_init=1e-12).fit(rows())
    for key, value in before.items():
        assert torch.equal(module.state_dict()[key], value)
        np.testing.assert_allclose(vae._weights[f"encoder.{key}"], value.numpy(), atol=1e-9)
    assert vae.encoder is module
    assert all(p.grad is None for p in module.parameters())


@quiet
def test_a_module_trains():
    module = tower()
    vae = own(encoder=module).fit(rows())
    assert np.abs(vae._weights["encoder.net.0.weight"] - module.net[0].weight.detach().numpy()).max() > 1e-4


@quiet
def test_a_frozen_module_stays_as_it_is():
    module = tower().requires_grad_(False)
    vae = own(encoder=module).fit(rows())
    np.testing.assert_array_equal(vae._weights["encoder.net.0.weight"], module.net[0].weight.numpy())


@quiet
@pytest.mark.parametrize("network", [plain, Tower], ids=["callable", "module"])
def test_own_networks_transform_score_sample_clone_and_pickle(network):
    encoder = tower() if network is Tower else network
    vae = own(encoder=encoder).fit(rows())
    again = pickle.loads(pickle.dumps(vae))
    assert vae.transform(rows()).shape == (60, 2)
    assert np.isfinite(vae.score(rows()))
    assert vae.sample(3, random_state=0).shape == (3, 6)
    np.testing.assert_array_equal(again.transform(rows()), vae.transform(rows()))
    np.testing.assert_array_equal(clone(vae).fit(rows()).transform(rows()), vae.transform(rows()))


@quiet
def test_networks_without_a_linear_path_start_at_their_own_weights():
    weights = own(max_iter=1, learning_rate_init=1e-12).fit(rows()).module_.state_dict()
    random = own(max_iter=1, learning_rate_init=1e-12, init="random").fit(rows()).module_.state_dict()
    np.testing.assert_allclose(weights["encoder.0.weight"], random["encoder.0.weight"], atol=1e-9)


def test_a_mean_is_found_by_a_decoder_that_ignores_its_latents():
    X = rows() + 100
    vae = own(decoder=Constant(torch.zeros(1, 6)), early_stopping=False, max_iter=200, learning_rate_init=1e-2)
    with pytest.warns():
        vae.fit(X)
    np.testing.assert_allclose(vae.inverse_transform(np.zeros((1, 2)))[0], X.mean(0), atol=0.1)


@pytest.mark.parametrize("returned", [None, 3, "a network", nn.Linear])
def test_a_callable_that_returns_no_module_is_an_error_that_says_so(returned):
    message = rf"must return a torch\.nn\.Module; it returned {type(returned).__name__}"
    with pytest.raises(TypeError, match=message):
        own(encoder=lambda n_in, n_out: returned).fit(rows())


def test_supplied_network_builds_the_same_thing_for_both_sides():
    network = Supplied(plain)
    assert isinstance(network, Network)
    assert build(lambda: network.build_encoder(6, 4))(torch.zeros(1, 6)).shape == (1, 4)
    assert build(lambda: network.build_decoder(2, 6))(torch.zeros(1, 2)).shape == (1, 6)


def test_encoder_and_decoder_may_be_networks_of_different_sizes():
    vae = VAETransformer(2, encoder=MLP((9,)), decoder=MLP(()), max_iter=1, learning_rate_init=1e-12, random_state=0)
    model = vae.fit(rows()).module_
    assert widths(model.encoder) == [9, 4]
    assert widths(model.decoder) == []
    assert isinstance(model.decoder, LinearPath)


class Cumulative(AutoregressiveDecoder):
    """Feature d's mean is z's first entry plus the sum of the features before d."""

    def forward(self, z, x):
        return z[:, :1] + x.cumsum(1) - x


@quiet
def test_autoregressive_mean_feeds_each_feature_with_the_means_before_it():
    vae = own(decoder=Cumulative(), max_iter=1).fit(rows())
    assert isinstance(vae.module_, AutoregressiveVAE)
    z = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 2, 4, 8, 16, 32]], dtype=torch.float64) * z[:, :1]
    torch.testing.assert_close(vae.module_.mean(z), expected)
    torch.testing.assert_close(vae.module_.mean(z.expand(3, 2, 2)), expected.expand(3, 2, 6))
