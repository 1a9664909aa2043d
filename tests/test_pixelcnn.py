"""A decoder that predicts pixel by pixel: a distribution, in the right order, and what estimators make of it."""

from __future__ import annotations

import copy
import itertools
import pickle
from functools import cache

import numpy as np
import pytest
import torch
from helpers import answers, assert_same, by_skops, load_state, seeded, with_gaps
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from skvae import Categorical, Gaussian, VAEAnomalyDetector, VAEImputer, VAETransformer
from skvae._saved import unstamp
from skvae._torch import build_seeded
from skvae.networks import Columns, Conv, PixelCNN
from skvae.objectives import OBJECTIVES, OnePass

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SMALL = PixelCNN((2, 3), 6, n_layers=3)


def binary(n_rows=120, n_pixels=6, seed=0):
    """Pixels that are mostly as the one before them."""
    rng = np.random.default_rng(seed)
    X = (rng.random((n_rows, n_pixels)) < 0.5).astype(float)
    for pixel in range(1, n_pixels):
        X[:, pixel] = np.where(rng.random(n_rows) < 0.8, X[:, pixel - 1], X[:, pixel])
    return X


def estimator(n_components=2, **parameters):
    shared = {"likelihood": "bernoulli", "decoder": SMALL, "max_iter": 5, "random_state": 0, "n_draws": 32}
    return VAETransformer(n_components, **{**shared, **parameters})


@cache
def fitted(n_components=2):
    return estimator(n_components, max_iter=30).fit(binary())


def every_image(n_values, n_pixels):
    return np.array(list(itertools.product(range(n_values), repeat=n_pixels)), dtype=float)


def decoder_of(network, n_in, n_out, columns=None, seed=0):
    """A decoder at random weights, in float64."""
    return build_seeded(lambda: network.build_decoder(n_in, n_out, columns), seeded(seed)).double()


# A distribution


@pytest.mark.parametrize("n_latents", [1, 2, 5])
def test_binary_images_have_probabilities_that_sum_to_1_given_the_latents(n_latents):
    model, X = fitted(n_latents).module_, every_image(2, 6)
    for seed in range(3):
        z = torch.randn(1, n_latents, generator=seeded(seed), dtype=torch.float64).expand(64, -1)
        log_prob = model.log_prob(z, torch.tensor(X)).sum(-1)
        assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)
        assert log_prob.exp().std().item() > 1e-3


@pytest.mark.parametrize("n_latents", [1, 2])
def test_scores_of_all_binary_images_sum_to_1(n_latents):
    assert np.exp(fitted(n_latents).score_samples(every_image(2, 6))).sum() == pytest.approx(1, abs=1e-3)


CATEGORIES = {"all alike": [3, 3, 3, 3], "of several numbers": [2, 4, 3, 1]}


@pytest.mark.parametrize("sizes", CATEGORIES)
def test_images_of_categories_have_probabilities_that_sum_to_1(sizes):
    sizes = CATEGORIES[sizes]
    X = np.random.default_rng(0).integers(sizes, size=(100, 4))
    decoder = PixelCNN((2, 2), 6)
    vae = estimator(likelihood=Categorical(sizes), decoder=decoder, max_iter=10, learning_rate_init=1e-2).fit(X)
    images = np.array(list(itertools.product(*map(range, sizes))), dtype=float)
    z = torch.ones(len(images), 2, dtype=torch.float64)
    log_prob = vae.module_.log_prob(z, torch.tensor(images)).sum(-1)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)  # shares of categories are float32
    assert np.exp(vae.score_samples(images)).sum() == pytest.approx(1, abs=1e-3)


def test_images_of_several_channels_have_probabilities_that_sum_to_1():
    vae = estimator(decoder=PixelCNN((1, 2, 3), 7), max_iter=20).fit(binary())
    log_prob = vae.module_.log_prob(torch.ones(64, 2, dtype=torch.float64), torch.tensor(every_image(2, 6))).sum(-1)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_samples_are_as_frequent_as_their_probabilities(any_seed):
    model, images = fitted().module_, every_image(2, 6)
    z = torch.ones(4000, 2, dtype=torch.float64)
    drawn = model.sample(z, seeded(any_seed)).numpy()
    number = (drawn @ 2.0 ** np.arange(5, -1, -1)).astype(int)
    expected = 4000 * model.log_prob(z[:64], torch.tensor(images)).sum(-1).exp().numpy()
    found = np.bincount(number, minlength=64)
    # A sum of 64 squared deviations, each of mean 1 and variance 2 and a little more.
    assert ((found - expected) ** 2 / expected).sum() < 64 + 5 * np.sqrt((2 + 1 / expected).sum())


# The order


LAYOUTS = {
    "binary": (PixelCNN((3, 4), 5, n_layers=3), 1),
    "wide kernels": (PixelCNN((4, 3), 4, n_layers=2, kernel_size=5), 1),
    "one layer": (PixelCNN((3, 4), 4, n_layers=1, kernel_size=1), 1),
    "channels": (PixelCNN((2, 3, 2), 5, n_layers=3), 1),
    "many channels": (PixelCNN((2, 2, 3), 4, n_layers=2, hidden_layer_sizes=(7,), activation="tanh"), 1),
    "two outputs a pixel": (PixelCNN((3, 4), 5, n_layers=3), 2),
    "channels of two outputs": (PixelCNN((2, 3, 2), 8, n_layers=3, activation="tanh"), 2),
}


def slopes(network, n_each):
    """The decoder's slopes over x, by column: 12 columns after 12 columns."""
    columns = Columns(np.arange(12), np.resize(np.arange(12), 12 * n_each))
    decoder = decoder_of(network, 2, 12 * n_each, columns)
    x = torch.randn(12, generator=seeded(1), dtype=torch.float64)
    z = torch.ones(1, 2, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(lambda x: decoder(z, x[None])[0], x)
    return slope.abs().unflatten(0, (n_each, 12)).sum(0).numpy()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pixel_never_sees_itself_or_a_later_one(layout):
    found = slopes(*LAYOUTS[layout])
    np.testing.assert_array_equal(np.triu(found), 0)
    assert (np.diag(found, -1) > 0).mean() > 0.6  # all but a row's first pixels see the one before


def test_a_pixel_sees_its_neighbours_above_and_to_the_left():
    found = slopes(*LAYOUTS["binary"]).reshape(3, 4, 3, 4)
    for i, j in itertools.product(range(3), range(4)):
        above = [(i - 1, j + k) for k in (-1, 0, 1)]
        for other in [*above, (i, j - 1), (i, j - 2), (i - 2, j)]:
            if other[0] >= 0 and 0 <= other[1] < 4:
                assert found[i, j][other] > 0, (i, j, other)


def test_a_channel_sees_those_before_it_in_its_pixel():
    found = slopes(*LAYOUTS["many channels"])
    assert (np.tril(found, -1) > 0).sum() == 12 * 11 / 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changed_later_pixels_change_no_output_before_them(layout):
    network, n_each = LAYOUTS[layout]
    decoder = decoder_of(network, 2, 12 * n_each, Columns(np.arange(12), np.resize(np.arange(12), 12 * n_each)))
    z, x = (torch.randn(5, n, generator=seeded(n), dtype=torch.float64) for n in (2, 12))
    before = decoder(z, x).unflatten(1, (n_each, 12))
    for pixel in range(12):
        changed = x.clone()
        changed[:, pixel:] = torch.randn(5, 12 - pixel, generator=seeded(pixel), dtype=torch.float64)
        after = decoder(z, changed).unflatten(1, (n_each, 12))
        assert torch.equal(after[..., : pixel + 1], before[..., : pixel + 1])


def test_all_pixels_depend_on_the_latents():
    decoder = decoder_of(LAYOUTS["binary"][0], 2, 12)
    slope = torch.autograd.functional.jacobian(
        lambda z: decoder(z[None], torch.zeros(1, 12, dtype=torch.float64))[0], torch.ones(2, dtype=torch.float64)
    )
    assert bool((slope != 0).all())


# The start, and what is learnt


def test_it_starts_at_the_linear_model():
    decoder = decoder_of(PixelCNN((3, 4), 5), 2, 12)
    weight, bias = (torch.randn(*shape, generator=seeded(), dtype=torch.float64) for shape in ((12, 2), (12,)))
    decoder.start_at(weight, bias)
    z, x = (torch.randn(5, n, generator=seeded(n), dtype=torch.float64) for n in (2, 12))
    torch.testing.assert_close(decoder(z, x), z @ weight.T + bias)
    decoder(z, x).sum().backward()
    assert float(decoder.last[-1].weight.grad.abs().max()) > 0


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_training_starts_where_a_perceptrons_does(likelihood):
    scores = [
        estimator(likelihood=likelihood, decoder=decoder, max_iter=1, learning_rate_init=1e-12)
        .fit(binary())
        .score(binary())
        for decoder in (SMALL, None)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_it_learns_what_neighbours_tell():
    """Pixels that are as the one before them but for one in ten: log 2 for the first, then 0.325 nats each."""
    rng = np.random.default_rng(0)
    flips = rng.random((2000, 25)) < 0.1
    flips[:, 0] = rng.random(2000) < 0.5
    X = (flips.cumsum(axis=1) % 2).astype(float)
    best = -(np.log(2) + 24 * (0.1 * np.log(10) - 0.9 * np.log(0.9)))
    plain, by_pixel = (
        estimator(decoder=decoder, max_iter=25, learning_rate_init=3e-3, batch_size=50).fit(X[:1500]).score(X[1500:])
        for decoder in (None, PixelCNN((1, 25), 8, n_layers=2))
    )
    assert best - 0.3 < by_pixel < best + 0.3
    assert plain < by_pixel - 0.5


@pytest.mark.parametrize("likelihood", [Gaussian("shared"), Gaussian("decoder"), "poisson", "student_t"])
def test_it_takes_pixels_of_any_likelihood(likelihood):
    X = np.random.default_rng(0).integers(5, size=(80, 6)).astype(float)
    vae = estimator(likelihood=likelihood).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    assert np.isfinite(vae.sample(3, random_state=0)).all()


def test_means_feed_each_pixel_with_the_means_before_it():
    model = fitted().module_
    z = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    x = model.mean(z)
    torch.testing.assert_close(model.likelihood.mean(model.params(z, x)), x, rtol=0, atol=0)


# What cannot be


def densities():
    return [name for name, kind in OBJECTIVES.items() if "density" in kind().offers]


class Copy(OnePass):
    """||x - g(f(x))||^2."""

    offers = frozenset({"posterior", "prior"})

    def terms(self, emitted, batch, model, rng, epoch):
        return {"loss": model.squared_error(emitted.outputs, batch)}


@pytest.mark.parametrize("objective", [*(name for name in OBJECTIVES if name not in densities()), Copy()])
def test_an_objective_without_a_density_is_refused_before_training(objective):
    vae = copy.deepcopy(fitted()).set_params(objective=objective)
    with pytest.raises(ValueError, match=r"trains no density, and decoder=PixelCNN\(.*\) reads the row it predicts"):
        vae.fit(binary())
    np.testing.assert_array_equal(vae.transform(binary()), fitted().transform(binary()))


@pytest.mark.parametrize("objective", densities())
def test_an_objective_with_a_density_trains(objective):
    y = {"label": binary()[:, 0], "row": binary(), "filled": binary()}.get(OBJECTIVES[objective]().target)
    vae = estimator(objective=objective, likelihood=Gaussian(), max_iter=2).fit(binary(), y)
    assert np.isfinite(vae.score(binary()))


GAPS = with_gaps(binary(), 0.02)


@pytest.mark.parametrize(
    "call",
    [
        lambda: estimator().fit(GAPS),
        lambda: estimator(early_stopping=False).fit(GAPS),
        lambda: estimator().partial_fit(GAPS),
        lambda: copy.deepcopy(fitted()).partial_fit(GAPS),
        lambda: fitted().transform(GAPS),
        lambda: fitted().score_samples(GAPS),
        lambda: fitted().reconstruct(GAPS),
        lambda: VAEAnomalyDetector(likelihood="bernoulli", objective="elbo", decoder=SMALL, random_state=0).fit(GAPS),
    ],
)
def test_rows_with_gaps_are_refused(call):
    with pytest.raises(ValueError, match="needs complete rows; X has missing cells"):
        call()


@pytest.mark.parametrize("row", [0, 60, 119])
def test_gaps_are_refused_before_the_first_step(row):
    X, steps = binary(), []
    X[row, 2] = np.nan

    class Told(torch.optim.Adam):
        def step(self, closure=None):
            steps.append(1)
            return super().step(closure)

    with pytest.raises(ValueError, match="needs complete rows"):
        estimator(solver=Told, early_stopping=False, batch_size=5).fit(X)
    assert not steps


@pytest.mark.parametrize("vae", [estimator(), fitted(), estimator(decoder=decoder_of(SMALL, 2, 6).float())])
def test_there_is_no_impute(vae):
    assert not hasattr(vae, "impute")
    with pytest.raises(AttributeError) as caught:
        _ = vae.impute
    assert "reads the row it predicts, which must be complete" in str(caught.value.__cause__)


def test_an_imputer_refuses_it_in_fit():
    with pytest.raises(ValueError, match="reads the row it predicts, which must be complete: nothing can be filled"):
        VAEImputer(estimator()).fit(binary())


BROKEN = {
    "image_shape must be": [{"image_shape": (6,)}],
    "image_shape must hold integers": [{"image_shape": (2, 0)}],
    "holds 8 numbers and X has 6 columns": [{"image_shape": (2, 4)}],
    "'channels' parameter": [{"channels": 0}, {"channels": (8,)}],
    "channels=2 are fewer than the image's 3": [{"image_shape": (1, 2, 3), "channels": 2}],
    "'n_layers' parameter": [{"n_layers": 0}],
    "'kernel_size' parameter": [{"kernel_size": 0}],
    "kernel_size=4 has no middle pixel": [{"kernel_size": 4}],
    "hidden_layer_sizes must hold integers": [{"hidden_layer_sizes": (0,)}],
    "activation": [{"activation": "step"}],
}


@pytest.mark.parametrize(("message", "parameters"), [(m, p) for m, cases in BROKEN.items() for p in cases])
def test_wrong_parameters_are_errors_that_say_so(message, parameters):
    with pytest.raises(ValueError, match=message):
        estimator(decoder=clone(SMALL).set_params(**parameters)).fit(binary())


def test_it_is_no_encoder():
    with pytest.raises(TypeError, match="PixelCNN has no encoder; pass it as decoder="):
        estimator(encoder=SMALL).fit(binary())


# What estimators make of it


WAYS = {
    "pickle": lambda e: pickle.loads(pickle.dumps(e)),
    "skops": by_skops,
    "clone": lambda e: clone(e).fit(binary()),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_saved_and_fitted_again_to_the_same_bits(way):
    assert_same(answers(WAYS[way](fitted()), binary(20)), answers(fitted(), binary(20)))


def test_partial_fit_and_searches():
    stream = estimator().partial_fit(binary()).partial_fit(binary(seed=1))
    assert stream.n_iter_ == 2
    grid = {"decoder__channels": [2, 4], "decoder__n_layers": [1, 2]}
    search = GridSearchCV(estimator(max_iter=2, early_stopping=False), grid, cv=2, error_score="raise").fit(binary())
    assert len(np.unique(search.cv_results_["mean_test_score"])) == 4


def test_it_stands_behind_any_encoder():
    X = (load_digits().data[:150] > 7).astype(float)
    parameters = {"encoder": Conv((8, 8), (4,)), "decoder": PixelCNN((8, 8), 4, n_layers=2), "max_iter": 2}
    vae = estimator(**parameters, n_draws=4).fit(X)
    assert np.isfinite(vae.score_samples(X[:1])).all()
    assert set(np.unique(vae.sample(1, random_state=0))) <= {0.0, 1.0}


def test_float32_says_what_float64_does():
    decoder = fitted().module_.decoder
    z, x = (torch.randn(5, n, generator=seeded(n), dtype=torch.float64) for n in (2, 6))
    single = copy.deepcopy(decoder).float()(z.float(), x.float())
    torch.testing.assert_close(single.double(), decoder(z, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "parameters",
    [
        {"image_shape": (10**9, 10**9)},
        {"channels": 10**9},
        {"n_layers": 10**9},
        {"kernel_size": 10**9 + 1},
        {"hidden_layer_sizes": (10**12,)},
        {"channels": 5},
        {"n_layers": 2},
    ],
)
def test_a_made_up_file_is_refused_without_allocating(parameters):
    state = copy.deepcopy(unstamp(fitted().__getstate__(), "it"))
    state["_specs"]["decoder"].set_params(**parameters)
    with pytest.raises(ValueError, match="damaged"):
        load_state(VAETransformer, state)


def test_a_made_up_objective_is_refused():
    state = copy.deepcopy(unstamp(fitted().__getstate__(), "it"))
    state["_specs"]["objective"] = Copy()
    with pytest.raises(ValueError, match=r"damaged.*trains no density"):
        load_state(VAETransformer, state)
