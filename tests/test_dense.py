"""The dense engine against autograd: the same terms and the same gradients, for everything it understands."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from helpers import seeded
from members import MEMBERS, table
from torch import nn

from skvae import (
    ELBO,
    IWAE,
    MLP,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    Given,
    JohnsonSU,
    LogNormal,
    Mixed,
    Multinomial,
    NegativeBinomial,
    Poisson,
    StudentT,
    VAETransformer,
)
from skvae import Laplace as LaplaceNoise
from skvae._flat import FlatParameters, block
from skvae._state import Blueprint
from skvae._tables.batches import ArrayTable, Batch, to_rows
from skvae._tables.moments import Scale
from skvae._torch import SINGLE_THREAD_PRODUCT, build_seeded
from skvae._training import engine
from skvae._training.held_out import held_out_values
from skvae._training.parameters import make_players
from skvae._training.steps import AutogradStep, make_step
from skvae.likelihoods import CellWeights, LikelihoodModule
from skvae.likelihoods._location_scale import FeatureNoise
from skvae.networks import ACTIVATIONS, Supplied
from skvae.objectives import Autoencoder, Denoising, OnePass
from skvae.priors import Mixture, Normal

D, J = 5, 3
LIKELIHOODS = {
    "feature": Gaussian(),
    "shared": Gaussian("shared"),
    "decoder": Gaussian("decoder"),
    "bernoulli": Bernoulli(),
    "johnson_su": JohnsonSU(tail=0.5),
    "student_t": StudentT(3.0),
    "laplace": LaplaceNoise(),
    "log_normal": LogNormal(),
    "continuous_bernoulli": ContinuousBernoulli(),
    "poisson": Poisson(),
    "multinomial": Multinomial(),
    "negative_binomial": NegativeBinomial(),
    "categorical": Categorical([2, 3, 4, 2, 5]),
    "mixed": Mixed(
        [(Gaussian("decoder"), [3]), ("negative_binomial", [0]), (Categorical([3, 2]), [4, 1]), ("laplace", [2])]
    ),
    "given": Mixed([(Given([3]), [3]), ("laplace", [0, 1]), (Given(), [4]), ("poisson", [2])]),
}
WITHOUT_NOISE = ["bernoulli", "continuous_bernoulli", "poisson", "negative_binomial", "categorical"]
DEPTHS = [(), (6,), (6, 4), (6, 5, 4)]
OBJECTIVES = {
    "elbo": ELBO(),
    "beta": ELBO(beta=4.0),
    "warm-up": ELBO(warmup=4),
    "free bits": ELBO(free_bits=0.3),
    "draws": ELBO(n_draws=3),
    "sampled": ELBO("sampled"),
    "all": ELBO("sampled", n_draws=3, beta=0.7, warmup=4, free_bits=0.3),
    "input noise": ELBO(input_noise=0.2),
    "autoencoder": Autoencoder(),
    "hidden cells": Denoising("mask"),
    "cells with noise": Denoising(scale=0.4),
    "all, with noise": ELBO("sampled", n_draws=3, beta=0.7, warmup=4, free_bits=0.3, input_noise=0.2),
}
PAIRS = [
    (n, k)
    for n, k in product(sorted(OBJECTIVES), sorted(LIKELIHOODS))
    if ("noise" not in n or k not in WITHOUT_NOISE)
    and ("noise" not in n or k != "multinomial")
    and (k != "given" or "density" in OBJECTIVES[n].offers)
]
# Of a network, what a likelihood is does not depend on its activations: some see all of them.
NETWORKS = [
    (k, a)
    for k, a in product(sorted(LIKELIHOODS), sorted(ACTIVATIONS))
    if a == "tanh" or k in ("feature", "shared", "decoder", "bernoulli", "johnson_su", "mixed")
]


def make_model(likelihood, objective, encoder, decoder=None, prior=None):
    """A float64 model with weights anywhere, some noises below their floor and some codes out of range."""
    scale = Scale(np.zeros(D), np.exp(np.arange(D) / 3))
    blueprint = Blueprint(D, J, likelihood, objective, prior or Normal(), encoder, decoder or encoder, scale)
    model = blueprint.build(seeded(1)).to(torch.float64)
    rng = seeded(2)
    for parameter in model.parameters():
        parameter.data.normal_(generator=rng).mul_(0.5)
    for part in getattr(model.likelihood, "members", [model.likelihood]):
        for name in ("log_noise", "log_dispersion"):
            if hasattr(part, name):
                getattr(part, name).data[0] = -20.0
        if getattr(part, "shared_noise", False):
            part.unit.fill_(0.3)
        if hasattr(part.encoding, "spread"):
            part.encoding.centre.copy_(torch.linspace(-0.3, 0.4, part.n_features))
            part.encoding.spread.copy_(torch.linspace(0.4, 1.6, part.n_features))
        if hasattr(part.encoding, "pooled_std"):
            part.encoding.column_mean.copy_(torch.linspace(0.2, 0.7, part.encoding.n_inputs))
            part.encoding.pooled_std.fill_(0.4)
    return model


def make_rows(n_rows, missing=False, weighted=False):
    rng = seeded(n_rows)
    x = torch.rand(n_rows, D, generator=rng, dtype=torch.float64)
    mask = (torch.rand(n_rows, D, generator=rng) > 0.3).double() if missing else None
    weight = torch.rand(n_rows, generator=rng, dtype=torch.float64) if weighted else None
    return Batch(x if mask is None else x * mask, mask, None if weight is None else weight / weight.mean())


def assert_same_step(model, objective, rows, epoch=2):
    """As autograd's, with numpy between the products and with torch."""
    (player,) = make_players(model, objective, lambda parameters: None)
    reference = AutogradStep(model, objective, [player])
    reference(rows, seeded(5), epoch, player)
    expected, wanted = player.vector.grad.clone(), reference.take_means()
    for size in (0, SINGLE_THREAD_PRODUCT):
        dense = engine.DenseStep(model, objective, player.vector.data, player.vector.grad)
        dense.largest_product = lambda n_rows, size=size: size
        player.vector.grad.fill_(9.0)  # every entry must be set, not added to
        with torch.no_grad():
            dense(dense.prepared(rows), seeded(5), epoch)
        (work,) = dense.workspaces.values()
        assert work.xp is (np if dense.pure and size == 0 else torch)
        torch.testing.assert_close(player.vector.grad, expected, rtol=1e-9, atol=1e-12)
        terms = dense.take_means()
        assert terms.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(terms[name], wanted[name], rtol=1e-10, atol=1e-11, msg=name)


@pytest.mark.parametrize("hidden", DEPTHS, ids=len)
@pytest.mark.parametrize(("likelihood", "activation"), NETWORKS)
def test_every_network_gives_autograds_gradient(likelihood, activation, hidden):
    model = make_model(LIKELIHOODS[likelihood], ELBO(), MLP(hidden, activation))
    for missing, weighted in product((False, True), repeat=2):
        assert_same_step(model, ELBO(), make_rows(7, missing, weighted))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("name", "likelihood"), PAIRS)
def test_every_objective_gives_autograds_gradient(name, likelihood, missing, weighted):
    objective = OBJECTIVES[name]
    model = make_model(LIKELIHOODS[likelihood], objective, MLP((6,), "tanh"))
    for n_rows in (1, 2, 33):
        assert_same_step(model, objective, make_rows(n_rows, missing, weighted))


@pytest.mark.parametrize("likelihood", ["feature", "poisson", "mixed"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_mixture_states_autograds_gradient(name, likelihood):
    """Numpy's and torch's, of weighted rows with gaps; a mode that is wider than it may be passes none to its width."""
    if "noise" in name and likelihood in WITHOUT_NOISE:
        return
    objective = OBJECTIVES[name]
    model = make_model(LIKELIHOODS[likelihood], objective, MLP((6,), "tanh"), prior=Mixture(4))
    model.prior.log_var.data[0, 0] = 9.0
    for n_rows, weighted in ((1, False), (33, True)):
        assert_same_step(model, objective, make_rows(n_rows, missing=weighted, weighted=weighted))
    dense = engine.DenseStep(model, objective, *(torch.zeros(1) for _ in range(2)))
    assert dense.pure or not isinstance(objective, ELBO)


class SquaredError(OnePass):
    """A plain autoencoder, with a pull of its code towards what the prior draws."""

    def terms(self, emitted, batch, model, rng, epoch):
        drawn = model.prior.sample(len(batch), rng, emitted.z.dtype)
        pull = (emitted.z.mean(0) - drawn.mean(0)).square().sum()
        return {"loss": model.squared_error(emitted.outputs, batch) + pull, "pull": pull}


class Headed(ELBO):
    """A module of its own on the posterior mean, a second look at the encoder, and no stated gradient."""

    def modules(self, dims):
        return {"head": nn.Linear(dims.n_components, 2)}

    def terms(self, emitted, batch, model, rng, epoch):
        terms = super().terms(emitted, batch, model, rng, epoch)
        seen_again = model.encode_mean(batch.x, batch.mask)
        extra = model.extras["head"](emitted.mu).square().sum(-1) + (emitted.z[: len(batch)] * seen_again).sum(-1)
        return {**terms, "loss": terms["loss"] + epoch * extra, "extra": extra}


ONE_PASS = {
    "code": (SquaredError(), Normal()),
    "head": (Headed(n_draws=2, input_noise=0.1), Normal()),
    "mixture": (ELBO(n_draws=2, beta=0.7), Mixture(3)),
    "code, mixture": (SquaredError(), Mixture(3)),
    "free bits, mixture": (ELBO(free_bits=5.0), Mixture(3)),
}


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("likelihood", ["feature", "johnson_su", "mixed", "categorical"])
@pytest.mark.parametrize("name", ONE_PASS)
def test_an_objective_or_prior_without_a_gradient_gives_autograds(name, likelihood, missing):
    objective, prior = ONE_PASS[name]
    if name == "head" and likelihood == "categorical":
        objective = Headed(n_draws=2)
    model = make_model(LIKELIHOODS[likelihood], objective, MLP((6,), "tanh"), prior=prior)
    assert engine.understands(model, objective)
    assert_same_step(model, objective, make_rows(9, missing, weighted=True))


def test_codes_beyond_the_range_pass_no_gradient():
    model = make_model(Gaussian(), ELBO(), MLP((6,)))
    model.encoder.linear.bias.data[J:] = torch.tensor([-40.0, 30.0, 0.0])
    assert_same_step(model, ELBO(), make_rows(9))


class Cubic(nn.Module):
    """A network of a user's own."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.inner = nn.Linear(n_in, n_out)
        self.frozen = nn.Parameter(torch.ones(n_out), requires_grad=False)

    def forward(self, x):
        return self.inner(x).pow(3) * self.frozen


@pytest.mark.parametrize("place", ["encoder", "decoder"])
@pytest.mark.parametrize("likelihood", sorted(LIKELIHOODS))
def test_a_users_module_is_a_block_inside_the_step(likelihood, place):
    parts = {"encoder": MLP((6,)), "decoder": MLP((6,)), place: Supplied(Cubic)}
    model = make_model(LIKELIHOODS[likelihood], ELBO(n_draws=2), parts["encoder"], parts["decoder"])
    assert_same_step(model, ELBO(n_draws=2), make_rows(8, missing=True))


class LaplaceDensity(LikelihoodModule):
    """A likelihood that states no gradient of its own."""

    def __init__(self, n_features):
        super().__init__(n_features, n_features)
        self.log_noise = nn.Parameter(torch.zeros(n_features))

    def log_prob(self, outputs, x):
        return -(x - outputs).abs() * torch.exp(-self.log_noise) - self.log_noise - np.log(2)

    def mean(self, outputs):
        return outputs

    def sample(self, outputs, rng):
        raise NotImplementedError


class Laplace(Gaussian):
    def build(self, n_features, scale):
        return LaplaceDensity(n_features)


def test_a_likelihood_without_a_gradient_goes_through_autograd():
    model = make_model(Laplace(), ELBO(), MLP((6,)))
    assert_same_step(model, ELBO(), make_rows(8, missing=True, weighted=True))


class HalfDensity(FeatureNoise):
    """Half of a Gaussian's log density, and its own gradient of it."""

    def log_prob(self, outputs, x):
        return 0.5 * super().log_prob(outputs, x)

    def gradient(self, xp):
        of_gaussian = super().gradient(xp)
        return lambda outputs, x, cells: of_gaussian(outputs, x, CellWeights(0.5 * cells.mass, 0.5 * cells.total))


class Half(Gaussian):
    def build(self, n_features, scale):
        return HalfDensity(scale, self.noise_floor)


def test_a_subclass_that_states_a_gradient_is_asked_for_it():
    model = make_model(Half(), ELBO(), MLP((6,)))
    assert_same_step(model, ELBO(), make_rows(8, missing=True, weighted=True))


class AbsoluteDensity(FeatureNoise):
    """An error of its own."""

    def error(self, outputs, x):
        return (outputs - x).abs()


class Absolute(Gaussian):
    def build(self, n_features, scale):
        return AbsoluteDensity(scale, self.noise_floor)


def test_a_subclass_with_another_error_is_not_asked_for_its_parents_gradient():
    model = make_model(Absolute(), Autoencoder(), MLP((6,)))
    assert_same_step(model, Autoencoder(), make_rows(8, missing=True, weighted=True))


class Cubed(Autoencoder):
    """Another formula, under a gradient that is not its own."""

    def terms(self, emitted, batch, model, rng, epoch):
        return {"loss": super().terms(emitted, batch, model, rng, epoch)["loss"] ** 3}


def test_an_objective_with_another_formula_is_not_asked_for_its_parents_gradient():
    assert_same_step(make_model(Gaussian(), Cubed(), MLP((6,))), Cubed(), make_rows(8, missing=True))


@pytest.mark.parametrize("likelihood", ["feature", "shared", "student_t", "laplace"])
def test_the_error_of_plain_columns_needs_no_autograd(likelihood):
    model = make_model(LIKELIHOODS[likelihood], Autoencoder(), MLP((6,)))
    (player,) = make_players(model, Autoencoder(), lambda parameters: None)
    assert engine.DenseStep(model, Autoencoder(), player.vector.data, player.vector.grad).pure


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("name", "likelihood"), PAIRS)
def test_held_out_rows_are_judged_as_the_objective_would(name, likelihood, missing, weighted, monkeypatch):
    objective = OBJECTIVES[name]
    model = make_model(LIKELIHOODS[likelihood], objective, MLP((6,), "tanh"))
    (player,) = make_players(model, objective, lambda parameters: None)
    step = engine.DenseStep(model, objective, player.vector.data, player.vector.grad)
    rows = make_rows(33, missing, weighted)
    expected = held_out_values(model, objective, rows, 3)
    assert expected.shape == (33,)
    judge = step.held_out_values(rows, 3)
    np.testing.assert_array_equal(judge(), judge())
    np.testing.assert_allclose(judge(), expected, rtol=1e-9)
    monkeypatch.setattr(engine, "HELD_OUT_NUMBERS", 0)  # tables too large to keep their draws
    np.testing.assert_array_equal(step.held_out_values(rows, 3)(), judge())
    player.vector.data.mul_(1.1)  # the weights of the moment
    np.testing.assert_allclose(judge(), held_out_values(model, objective, rows, 3), rtol=1e-9)


def test_a_large_table_is_put_in_the_encoders_form_batch_by_batch():
    X = np.random.default_rng(0).standard_t(3, (40, D))
    scale = Scale(np.zeros(D), np.ones(D))
    density = JohnsonSU().build(D, scale)
    density.fit(to_rows(X, scale))
    small, large = (rows.mapped(density.step_input) for rows in (to_rows(X, scale), ArrayTable(X, scale)))
    assert len(large) == 40
    for one, other in zip(small.batches(7, seeded()), large.batches(7, seeded()), strict=True):
        torch.testing.assert_close(one.x, other.x)
    torch.testing.assert_close(large.take(torch.tensor([3, 5])).x, small.x[[3, 5]])
    torch.testing.assert_close(small.x, density.encoding.encode(to_rows(X, scale).x))


@pytest.mark.parametrize("objective", ["elbo", "draws", "input noise"])
@pytest.mark.parametrize("likelihood", ["feature", "johnson_su", "log_normal", "mixed warp"])
def test_an_epoch_of_uneven_batches_has_the_same_means(likelihood, objective):
    """What a warp adds to the loss is that of the table, or of rows that get noise in every step."""
    objective = OBJECTIVES[objective]
    likelihood = {**LIKELIHOODS, "mixed warp": Mixed([("gaussian", [3, 0]), ("log_normal", [4, 1]), ("poisson", [2])])}[
        likelihood
    ]
    model = make_model(likelihood, objective, MLP((6,)))
    (player,) = make_players(model, objective, lambda parameters: None)
    steps = [AutogradStep(model, objective, [player]), make_step(model, objective, [player])]
    rows = make_rows(33, missing=True, weighted=True)
    means = []
    for step in steps:
        rng = seeded(3)
        with torch.no_grad():
            for batch in step.prepared(rows).batches(10, rng):
                step(batch, rng, 1, player)
        means.append(step.take_means())
    for name, value in means[0].items():
        torch.testing.assert_close(means[1][name], value)


def test_a_layer_whose_parts_lie_apart_is_no_block():
    """What encoder and decoder agree on with training is owned, and asserted, by one function."""
    network = build_seeded(lambda: MLP((3,)).build_encoder(4, 2), seeded())
    first, last = network.body[0], network.body[2]
    vector = FlatParameters(list(network.parameters())).vector.data
    assert block(vector, [first]).shape == (5, 3)
    both = block(vector, [last, network.linear])
    torch.testing.assert_close(
        both, torch.cat([last.weight.t(), last.bias[None], network.linear.weight.t(), network.linear.bias[None]])
    )
    both.fill_(7.0)
    assert bool((network.linear.bias == 7).all())
    with pytest.raises(AssertionError, match="side by side"):
        block(vector, [first, network.linear])
    plain = build_seeded(lambda: nn.Linear(4, 3), seeded())
    with pytest.raises(AssertionError, match="inputs by outputs"):
        block(FlatParameters(list(plain.parameters())).vector.data, [plain])


# The choice


def chosen(objective, encoder, decoder=None):
    model = make_model(Gaussian(), objective, encoder, decoder)
    return type(make_step(model, objective, make_players(model, objective, lambda parameters: None)))


class OwnELBO(ELBO):
    """A user's variation: nobody knows its gradient."""

    def __call__(self, model, batch, rng, epoch):
        return super().__call__(model, batch, rng, epoch)


@pytest.mark.parametrize(
    ("objective", "encoder", "decoder", "expected"),
    [
        (ELBO(), MLP(), None, engine.DenseStep),
        (ELBO(), MLP((3,), "logistic"), None, engine.DenseStep),
        (ELBO(input_noise=0.1), MLP(), None, engine.DenseStep),
        (ELBO(), MLP(), Supplied(Cubic), engine.DenseStep),
        (ELBO(), Supplied(Cubic), Supplied(Cubic), AutogradStep),
        (ELBO(), MLP((3,), lambda: nn.ELU(alpha=0.5)), None, AutogradStep),
        (ELBO(), MLP((3,), nn.Hardtanh), None, AutogradStep),
        (IWAE(), MLP(), None, AutogradStep),
        (OwnELBO(), MLP(), None, AutogradStep),
    ],
)
def test_the_engine_takes_what_it_knows(objective, encoder, decoder, expected):
    assert chosen(objective, encoder, decoder) is expected


def test_parts_that_share_a_parameter_go_through_autograd():
    model = make_model(Gaussian(), ELBO(), MLP(()))
    model.decoder.linear.bias = nn.Parameter(model.decoder.linear.bias.data)
    assert engine.understands(model, ELBO())
    model.likelihood.log_noise = model.decoder.linear.bias
    assert not engine.understands(model, ELBO())


def test_verbose_names_the_step(capsys):
    X = np.random.default_rng(0).standard_normal((40, 3))
    for objective, word in ((ELBO(), "dense engine"), (IWAE(2), "autograd")):
        VAETransformer(1, objective=objective, max_iter=1, verbose=2, random_state=0).fit(X)
        assert word in capsys.readouterr().out.splitlines()[0]


# Whole fits


def fits_by_both(vae, X, monkeypatch):
    """A fit without a graph and one by autograd: scores and losses of both."""
    found = []
    for understands in (engine.understands, lambda model, objective: False):
        monkeypatch.setattr(engine, "understands", understands)
        found.append((vae.fit(X).score_samples(X), vae.loss_curve_))
    return found


@pytest.mark.parametrize("likelihood", [*WITHOUT_NOISE, "student_t", "laplace", "log_normal", "normal_score", "mixed"])
def test_a_fit_of_rows_in_the_support_ends_at_the_same_model(likelihood, monkeypatch):
    X = table(likelihood, 120)
    X[::9, 1] = np.nan
    vae = VAETransformer(2, likelihood=MEMBERS[likelihood], max_iter=4, early_stopping=False, random_state=0)
    (scores, losses), (expected, curve) = fits_by_both(vae, X, monkeypatch)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(losses, curve, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("input_noise", [0.0, 0.1])
@pytest.mark.parametrize("likelihood", ["feature", "shared", "decoder", "johnson_su"])
def test_a_fit_by_autograd_ends_at_the_same_model(likelihood, input_noise, monkeypatch):
    """Both steps see the same batches and the same draws; float32 rounding is all that differs."""
    X = np.random.default_rng(0).standard_normal((120, 4)) @ np.random.default_rng(1).standard_normal((4, 4))
    vae = VAETransformer(
        2,
        likelihood=LIKELIHOODS[likelihood],
        objective=ELBO(input_noise=input_noise),
        max_iter=4,
        early_stopping=False,
        random_state=0,
    )
    (scores, losses), (expected, curve) = fits_by_both(vae, X, monkeypatch)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(losses, curve, rtol=1e-4)
