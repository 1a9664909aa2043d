"""Convolutions: shapes, which pixel is where, the linear start, errors, and what estimators make of them."""

from __future__ import annotations

import copy
import pickle
import re
import time
from functools import cache

import numpy as np
import pytest
import torch
from helpers import answers, assert_same, by_skops, default_dtype, load_state, seeded, with_gaps
from members import MEMBERS, table
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skvae import ELBO, MLP, Categorical, Gaussian, VAEAnomalyDetector, VAETransformer
from skvae._saved import unstamp
from skvae._torch import build_seeded
from skvae._training.engine import understands
from skvae.networks import Columns, Conv
from skvae.networks._image import Planes, ToImage, ToRow
from skvae.objectives import OnePass

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def build(make, seed=0):
    return build_seeded(make, seeded(seed))


def convolutions(network):
    return [layer for layer in network.body if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]


def digits(n_rows=200):
    return load_digits().data[:n_rows]


SMALL = Conv((8, 8), (4, 6), hidden_layer_sizes=(10,))


def estimator(**parameters):
    shared = {"encoder": SMALL, "decoder": SMALL, "max_iter": 3, "n_draws": 8, "random_state": 0}
    return VAETransformer(3, **{**shared, **parameters})


@cache
def fitted():
    return estimator().fit(digits())


# Shapes


@pytest.mark.parametrize("image_shape", [(1, 1), (2, 3), (7, 5), (9, 4), (6, 6, 3), (1, 8)])
@pytest.mark.parametrize(
    ("kernel_sizes", "strides"), [(3, 2), (1, 1), (3, 1), (5, 3), ((3, 5), (2, 4)), ((5, 3), (1, 3)), (9, 7)]
)
@pytest.mark.parametrize("n_rows", [1, 3])
def test_every_size_goes_to_the_latents_and_back(image_shape, kernel_sizes, strides, n_rows):
    conv = Conv(image_shape, (4, 5), kernel_sizes=kernel_sizes, strides=strides, hidden_layer_sizes=(6,))
    conv._validate_params()
    n_pixels = int(np.prod(image_shape))
    encoder = build(lambda: conv.build_encoder(n_pixels, 4))
    decoder = build(lambda: conv.build_decoder(2, n_pixels))
    assert encoder(torch.randn(n_rows, n_pixels, generator=seeded())).shape == (n_rows, 4)
    assert decoder(torch.randn(n_rows, 2, generator=seeded())).shape == (n_rows, n_pixels)


@pytest.mark.parametrize("side", range(4, 14))
@pytest.mark.parametrize("kernel", [2, 4, 6])
def test_even_kernels_come_back_to_every_size(side, kernel):
    conv = Conv((side, side + 3), (2,), kernel_sizes=kernel)
    conv._validate_params()
    n_pixels = side * (side + 3)
    assert build(lambda: conv.build_encoder(n_pixels, 4))(torch.zeros(2, n_pixels)).shape == (2, 4)
    assert build(lambda: conv.build_decoder(2, n_pixels))(torch.zeros(2, 2)).shape == (2, n_pixels)


def test_a_stride_of_2_halves_an_image_and_rounds_up():
    encoder = build(lambda: Conv((28, 13), (3, 3)).build_encoder(28 * 13, 4))
    sizes, x = [], torch.zeros(1, 28 * 13)
    for layer in encoder.body:
        x = layer(x)
        sizes += [tuple(x.shape[2:])] if isinstance(layer, nn.Conv2d) else []
    assert sizes == [(14, 7), (7, 4)]


def test_the_documented_network_of_28_x_28_pixels():
    encoder, decoder = map(eval, re.findall(r"`..coder=(Conv.*?)`", Conv.__doc__))
    there, back = build(lambda: encoder.build_encoder(784, 4)), build(lambda: decoder.build_decoder(2, 784))
    found = [(type(m), *m.weight.shape[:2], m.stride[0]) for m in [*there.body, *back.body] if hasattr(m, "stride")]
    assert found == [
        (nn.Conv2d, 32, 1, 1),
        (nn.Conv2d, 64, 32, 2),
        (nn.Conv2d, 64, 64, 1),
        (nn.Conv2d, 64, 64, 1),
        (nn.ConvTranspose2d, 64, 32, 2),
        (nn.ConvTranspose2d, 32, 1, 1),
    ]
    found = [(m.in_features, m.out_features) for m in [*there.body, *back.body] if isinstance(m, nn.Linear)]
    assert found == [(64 * 14 * 14, 32), (32, 4), (2, 64 * 14 * 14)]


def test_weights_are_float32_under_another_default_dtype_and_follow_the_generator():
    with default_dtype(torch.float64):
        first = build(lambda: SMALL.build_decoder(2, 64))
    assert {p.dtype for p in first.parameters()} == {torch.float32}
    again, other = (build(lambda: SMALL.build_decoder(2, 64), seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(first.state_dict()[key], again[key]) for key in again)
    assert not any(torch.equal(other[key], again[key]) for key in again)


# Which number is where


def test_pixels_lie_as_reshape_puts_them():
    images = np.random.default_rng(0).normal(size=(3, 4, 5, 2))
    rows = torch.tensor(images.reshape(3, -1))
    planes = Planes((4, 5, 2), np.arange(40))
    np.testing.assert_array_equal(ToImage(planes)(rows), np.moveaxis(images, -1, 1))
    assert torch.equal(ToRow(planes)(ToImage(planes)(rows)), rows)
    np.testing.assert_array_equal(ToImage(Planes((4, 10), np.arange(40)))(rows), images.reshape(3, 1, 4, 10))


def test_a_column_of_several_numbers_has_as_many_planes():
    """Whatever the order of the numbers; columns of fewer have zeros there."""
    columns = np.array([5, 0, 0, 1, 2, 3, 4, 3, 3])
    planes = Planes((2, 3), columns)
    image = ToImage(planes)(torch.arange(1.0, 10)[None])[0]
    first = [[2, 4, 5], [6, 7, 1]]
    second = [[3, 0, 0], [8, 0, 0]]
    third = [[0, 0, 0], [9, 0, 0]]
    assert image.tolist() == [first, second, third]
    assert ToRow(planes)(image[None]).tolist() == [list(range(1, 10))]


@pytest.mark.parametrize("member", MEMBERS)
def test_every_likelihood_says_which_column_its_outputs_are_of(member):
    model = VAETransformer(2, likelihood=MEMBERS[member], max_iter=1, random_state=0).fit(table(member)).module_
    density, n_columns = model.likelihood, model.likelihood.n_features
    x = torch.tensor(table(member)[:1])
    outputs = model.params(torch.ones(1, 2, dtype=torch.float64))
    for column in range(n_columns):
        slope = torch.autograd.functional.jacobian(lambda o, d=column: density.log_prob(o, x)[0, d], outputs)
        reached = np.flatnonzero(slope[0].numpy())
        assert set(density.columns_of_outputs()[reached]) == {column}


@pytest.mark.parametrize("member", MEMBERS)
def test_every_likelihood_says_which_column_its_inputs_are_of(member):
    X = table(member)
    model = VAETransformer(2, likelihood=MEMBERS[member], max_iter=1, random_state=0).fit(X).module_
    encoding, columns = model.likelihood.encoding, model.likelihood.columns_of_inputs()
    assert len(columns) == encoding.n_inputs
    for column in range(X.shape[1]):
        x = torch.tensor(X)
        x[:, column] = x.flip(0)[:, column]
        changed = (encoding.encode(x) != encoding.encode(torch.tensor(X))).any(0).numpy()
        assert set(columns[changed]) == {column}


class Spy(Conv):
    """Remembers what it is told of the table."""

    told: list = []

    def build_encoder(self, n_in, n_out, columns=None):
        self.told.append(columns)
        return super().build_encoder(n_in, n_out, columns)


def test_networks_that_ask_are_told_of_the_columns():
    Spy.told.clear()
    X = np.random.default_rng(0).integers(3, size=(60, 6))
    VAETransformer(2, likelihood=Categorical(3), encoder=Spy((2, 3), (4,)), max_iter=1, random_state=0).fit(X)
    assert isinstance(Spy.told[0], Columns)
    for columns in Spy.told[0]:
        np.testing.assert_array_equal(columns, np.repeat(np.arange(6), 3))


LIKELIHOODS = {
    "shared": Gaussian("shared"),
    "decoder": Gaussian("decoder"),
    "categories": Categorical(),
    "bernoulli": "bernoulli",
    "poisson": "poisson",
}


def images(likelihood, n_rows=120):
    """Rows of 3 x 4 pixels, as the likelihood wants them; of categories, columns hold two to four."""
    X = np.random.default_rng(0).integers(4, size=(n_rows, 12))
    if likelihood == "bernoulli":
        return (X > 1).astype(float)
    return np.minimum(X, 1 + np.arange(12) % 3) if likelihood == "categories" else X.astype(float)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_has_convolutions_on_both_sides(likelihood):
    X, conv = images(likelihood), Conv((3, 4), (4, 4))
    vae = VAETransformer(
        2, likelihood=LIKELIHOODS[likelihood], encoder=conv, decoder=conv, max_iter=3, random_state=0, n_draws=8
    ).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    assert vae.sample(3, random_state=0).shape == (3, 12)
    assert vae.reconstruct(X[:1]).shape == (1, 12)


# The linear start


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2)])
def test_start_at_makes_both_networks_exactly_linear(shape):
    conv, n_pixels = Conv(shape, (4, 6), hidden_layer_sizes=(5,)), int(np.prod(shape))
    for network, n_in, n_out in (
        (build(lambda: conv.build_encoder(n_pixels, 4)), n_pixels, 4),
        (build(lambda: conv.build_decoder(3, n_pixels)), 3, n_pixels),
    ):
        weight, bias = torch.randn(n_out, n_in, generator=seeded(1)), torch.randn(n_out, generator=seeded(2))
        network.start_at(weight, bias)
        x = torch.randn(20, n_in, generator=seeded(3))
        torch.testing.assert_close(network(x), nn.functional.linear(x, weight, bias))
        network(x).sum().backward()
        assert all(float(p.detach().abs().max()) > 0 for p in convolutions(network)[0].parameters())
        last = [layer for layer in network.body if list(layer.parameters())][-1]
        assert float(last.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_training_starts_where_a_perceptrons_does(likelihood):
    X, conv = images(likelihood), Conv((3, 4), (4, 4))
    scores = [
        VAETransformer(
            2,
            likelihood=LIKELIHOODS[likelihood],
            encoder=network,
            decoder=network,
            max_iter=1,
            learning_rate_init=1e-12,
            random_state=0,
        )
        .fit(X)
        .score(X)
        for network in (conv, MLP((8,)))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_leading_outputs_are_those_of_the_whole():
    network = build(lambda: SMALL.build_encoder(64, 6))
    x = torch.randn(5, 64, generator=seeded())
    torch.testing.assert_close(network.leading(x, 3), network(x)[:, :3])


def test_hidden_activations_are_rows():
    network = build(lambda: SMALL.build_encoder(64, 6))
    assert [tuple(a.shape) for a in network.hidden(torch.zeros(5, 64))] == [(5, 4 * 16), (5, 6 * 4), (5, 10)]


# Cost


def test_what_a_row_costs_is_measured():
    """64 x 32 kernels of 4 x 4 at 7 x 7 places; 32 channels of 14 x 14."""
    conv = Conv((28, 28), (32, 64), kernel_sizes=4, hidden_layer_sizes=(64,))
    X = np.random.default_rng(0).normal(size=(30, 784))
    model = VAETransformer(2, encoder=conv, decoder=conv, max_iter=1, random_state=0, init="random").fit(X).module_
    assert model.cost.product == 64 * 32 * 16 * 49 == 1_605_632
    assert model.cost.width == 32 * 14 * 14 == 6_272


# What it learns


def test_it_learns_what_is_the_same_everywhere():
    """A cross that may be anywhere: the perceptron must learn it at every place."""
    rng = np.random.default_rng(0)
    X = 0.1 * rng.normal(size=(500, 12, 12))
    for image, (i, j) in zip(X, rng.integers(1, 11, size=(500, 2)), strict=True):
        image[i - 1 : i + 2, j] = image[i, j - 1 : j + 2] = 1.0
    X = X.reshape(500, -1)
    conv = Conv((12, 12), (8, 16), hidden_layer_sizes=(32,))
    fits = [
        VAETransformer(
            4,
            likelihood=Gaussian("shared"),
            encoder=network,
            decoder=network,
            max_iter=25,
            batch_size=50,
            learning_rate_init=3e-3,
            random_state=0,
            n_draws=32,
        ).fit(X[:400])
        for network in (conv, MLP((64,)))
    ]
    by_convolutions, by_perceptron = (vae.score(X[400:]) for vae in fits)
    assert by_convolutions > by_perceptron + 1


# Errors before training


BROKEN = {
    "'image_shape' parameter": [{"image_shape": 28}],
    "image_shape must be": [{"image_shape": (8,)}, {"image_shape": (2, 2, 2, 2)}],
    "image_shape must hold integers": [{"image_shape": (8, 0)}, {"image_shape": (8.0, 8)}, {"image_shape": (-1, 8)}],
    "holds 72 numbers and X has 64 columns": [{"image_shape": (8, 9)}],
    "holds 192 numbers and X has 64 columns": [{"image_shape": (8, 8, 3)}],
    "channels is empty": [{"channels": ()}],
    "channels must hold integers": [{"channels": (8, 0)}, {"channels": (True,)}],
    "'channels' parameter": [{"channels": 8}],
    r"kernel_sizes holds 3 numbers for 2 layers": [{"kernel_sizes": (3, 3, 3)}],
    "kernel_sizes must hold integers": [{"kernel_sizes": (3, "x")}],
    "'kernel_sizes' parameter": [{"kernel_sizes": 0}, {"kernel_sizes": 2.5}],
    r"strides holds 1 numbers for 2 layers": [{"strides": (2,)}],
    "'strides' parameter": [{"strides": 0}],
    r"strides\[1\]=4 skips pixels between kernels of size 3": [{"strides": (2, 4)}],
    r"kernel_sizes\[3\]=2 leaves nothing of the 1 x 1 pixels": [{"channels": (4,) * 4, "kernel_sizes": 2}],
    "hidden_layer_sizes must hold integers": [{"hidden_layer_sizes": (8, 0.5)}],
    "activation": [{"activation": "step"}, {"activation": int}],
}


@pytest.mark.parametrize(("message", "parameters"), [(m, p) for m, cases in BROKEN.items() for p in cases])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_what_cannot_be_is_an_error_that_says_so(message, parameters, side):
    conv = Conv(**{"image_shape": (8, 8), "channels": (4, 4), **parameters})
    vae = copy.deepcopy(fitted()).set_params(**{side: conv})
    with pytest.raises(ValueError, match=message):
        vae.fit(digits(60))
    np.testing.assert_array_equal(vae.transform(digits(5)), fitted().transform(digits(5)))


# What estimators make of it


@pytest.mark.parametrize("way", ["pickle", "skops", "deepcopy", "clone"])
def test_it_is_saved_copied_and_fitted_again_to_the_same_bits(way):
    ways = {
        "pickle": lambda e: pickle.loads(pickle.dumps(e)),
        "skops": by_skops,
        "deepcopy": copy.deepcopy,
        "clone": lambda e: clone(e).fit(digits()),
    }
    assert_same(answers(ways[way](fitted()), digits(20)), answers(fitted(), digits(20)))


def test_partial_fit_goes_on():
    stream = estimator().partial_fit(digits()).partial_fit(digits()[:50])
    assert stream.n_iter_ == 2
    loaded = pickle.loads(pickle.dumps(stream)).partial_fit(digits())
    assert_same(answers(loaded, digits(20)), answers(stream.partial_fit(digits()), digits(20)))


def test_a_search_compares_networks_and_their_parameters():
    search = GridSearchCV(estimator(max_iter=2), {"encoder": [SMALL, MLP((8,)), None]}, cv=2).fit(digits(100))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    grid = {"encoder__channels": [(2,), (4, 4)], "decoder__strides": [1, 2]}
    search = GridSearchCV(estimator(max_iter=2, early_stopping=False), grid, cv=2, error_score="raise").fit(digits(100))
    assert len(np.unique(search.cv_results_["mean_test_score"])) == 4


def test_it_stands_in_a_pipeline_and_a_detector():
    X, y = load_digits(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), estimator(), LogisticRegression(max_iter=500)).fit(X[:200], y[:200])
    assert pipeline.predict(X[:5]).shape == (5,)
    detector = VAEAnomalyDetector(encoder=SMALL, decoder=SMALL, max_iter=2, random_state=0).fit(X[:150])
    assert np.isfinite(detector.explain(X[:2])).all()


def test_missing_pixels_are_filled():
    X = with_gaps(digits(), 0.1)
    vae = estimator(max_iter=2, n_draws=16).fit(X)
    filled = vae.impute(X[:10])
    present = ~np.isnan(X[:10])
    np.testing.assert_array_equal(filled[present], X[:10][present])
    assert np.isfinite(filled).all()


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_beside_a_perceptron_only_one_side_goes_through_autograd(side):
    """The engine's loss is autograd's."""

    class Plain(ELBO):
        def __call__(self, *args):
            return OnePass.__call__(self, *args)

    parameters = {"encoder": None, "decoder": None, "hidden_layer_sizes": (8,), side: SMALL, "batch_size": 40}
    by_engine, by_autograd = (
        estimator(**parameters, objective=objective, early_stopping=False).fit(digits())
        for objective in (ELBO(), Plain())
    )
    model = copy.deepcopy(by_engine.module_).requires_grad_()
    assert understands(model, ELBO())
    assert not understands(model, Plain())
    np.testing.assert_allclose(by_engine.loss_curve_, by_autograd.loss_curve_, rtol=1e-5)


def test_inference_in_float64_says_what_float32_does():
    model, X = fitted().module_, fitted()._reader().read(digits(20))
    rows = fitted()._inference().scale.to_model(X)
    single = copy.deepcopy(model).to(torch.float32)
    with torch.no_grad():
        for network, x in ((model.encoder, torch.tensor(rows)), (model.decoder, torch.ones(5, 3))):
            expected = network(x.double())
            found = getattr(single, "encoder" if network is model.encoder else "decoder")(x.float())
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_row_is_the_same_alone_and_in_company():
    together = fitted().transform(digits(30))
    alone = np.concatenate([fitted().transform(row[None]) for row in digits(30)])
    np.testing.assert_allclose(alone, together, rtol=1e-12, atol=1e-12)


# A saved file cannot make us allocate


@pytest.mark.parametrize(
    "parameters",
    [
        {"image_shape": (10**9, 10**9)},
        {"image_shape": (8, 8, 10**12)},
        {"channels": (10**9, 6)},
        {"channels": (10**12, 10**12)},
        {"channels": (4,) * 10**4},
        {"kernel_sizes": 10**6 + 1},
        {"hidden_layer_sizes": (10**12,)},
        {"hidden_layer_sizes": [1] * 10**5},
        {"strides": 1},
        {"channels": (4, 7)},
    ],
)
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_made_up_file_is_refused_without_allocating(parameters, side):
    state = copy.deepcopy(unstamp(fitted().__getstate__(), "it"))
    state["_specs"][side].set_params(**parameters)
    began = time.perf_counter()
    with pytest.raises(ValueError, match="damaged"):
        load_state(VAETransformer, state)
    assert time.perf_counter() - began < 5
