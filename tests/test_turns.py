"""VAEGAN and ALI: what each player lowers, what critics are shown, and levels of latents."""

from __future__ import annotations

import copy
import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import rows_of, seeded
from members import MEMBERS, table
from sklearn.datasets import load_digits
from torch.nn.functional import softplus

from skvae import VAETransformer
from skvae._torch import build_seeded
from skvae.objectives import ALI, VAEGAN, Batch
from skvae.objectives._ali import FRESH, Level, Pushed
from skvae.objectives._critic import drawn
from skvae.objectives._mmd import mmd
from skvae.priors import Mixture
from skvae.priors._mixture import MixturePrior
from skvae.priors._normal import StandardNormal

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

GAMES = {
    "vaegan": VAEGAN(beta=2.0, gamma=3.0, width=8),
    "vaegan adversarial": VAEGAN("adversarial", beta=2.0, gamma=3.0, width=8),
    "ali": ALI(width=8),
    "alice": ALI(0.5, width=8),
    "hali": ALI(levels=(4, 2), width=8),
}
every_game = pytest.mark.parametrize("name", GAMES)


@cache
def fitted(name, prior="normal"):
    settings = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}
    prior = Mixture(3) if prior == "mixture" else prior
    return VAETransformer(3, objective=GAMES[name], prior=prior, **settings).fit(load_digits().data[:200])


def in_training(name, prior="normal"):
    vae = fitted(name, prior)
    model = copy.deepcopy(vae.module_).requires_grad_(True)
    rows = rows_of(vae, load_digits().data[:30])
    present = (torch.rand(rows.x.shape, generator=seeded()) < 0.9).double()
    return model, vae._specs["objective"], Batch(rows.x * present, present)


# What critics are shown


@pytest.mark.parametrize("member", MEMBERS)
def test_a_mean_is_shown_as_the_encoder_would_see_it_and_categories_by_their_probabilities(member):
    X = table(member)
    vae = VAETransformer(2, likelihood=MEMBERS[member], max_iter=1, random_state=0).fit(X)
    model = vae.module_
    density = model.likelihood
    outputs = model.params(torch.randn(20, 2, generator=seeded(), dtype=torch.float64)).requires_grad_()
    shown = model.shown(outputs)
    assert shown.shape == (20, density.encoding.n_inputs)
    assert bool((torch.autograd.grad(shown.sum(0).square().sum(), outputs)[0] != 0).any())
    x = density.mean(outputs).detach()
    # Of a normal score the mean is shown, which is not the score of the mean.
    same = density.encoding.n_inputs == density.n_features and member not in ("categorical", "normal_score")
    if same:
        torch.testing.assert_close(shown, density.encoding.encode(x))
    mask = torch.ones(20, density.n_features, dtype=torch.float64)
    mask[:, 0] = 0
    gone = model.shown(outputs, mask) == 0
    assert bool((gone == (density.encoding.per_input(mask) == 0) | (shown == 0)).all())


def test_errors_of_categories_are_those_of_what_is_shown():
    X = table("categorical")
    vae = VAETransformer(2, likelihood="categorical", max_iter=1, random_state=0).fit(X)
    model, rows = vae.module_, rows_of(vae, X[:20])
    outputs = model.params(model.encode_mean(rows.x))
    apart = (model.shown(outputs) - model.seen(rows.x, None)) * model.likelihood.encoding.pooled_std
    torch.testing.assert_close(model.squared_error(outputs, rows), apart.square().sum(-1))


# Turns


@every_game
@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_turns_move_disjoint_parameters_and_together_all_but_the_noise(name, prior):
    model, objective, rows = in_training(name, prior)
    turns = objective.players(model)
    groups = [{id(p) for p in turn.parameters} for turn in turns]
    everyone = {id(p) for key, p in model.named_parameters() if not key.startswith("likelihood")}
    assert sum(map(len, groups)) == len(everyone)
    assert set.union(*groups) == everyone
    assert len(turns) == (3 if name.startswith("vaegan") else 2) + (prior == "mixture" or name == "hali")
    for turn in turns:
        loss = turn.terms(model, rows, seeded(), 1)[turn.loss].mean()
        grads = torch.autograd.grad(loss, turn.parameters, allow_unused=True)
        assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
        assert max(float(grad.abs().max()) for grad in grads) > 0


@every_game
def test_a_critics_turn_has_no_graph_of_the_networks(name):
    model, objective, rows = in_training(name)
    critic = next(turn for turn in objective.players(model) if turn.loss == "critic")
    loss = critic.terms(model, rows, seeded(), 1)["critic"].mean()
    others = [p for key, p in model.named_parameters() if "critic" not in key]
    assert set(torch.autograd.grad(loss, others, allow_unused=True)) == {None}


@every_game
def test_a_step_of_a_turn_leaves_the_others_weights(name):
    model, objective, rows = in_training(name)
    for turn in objective.players(model):
        before = {key: value.clone() for key, value in model.state_dict().items()}
        optimiser = torch.optim.SGD(turn.parameters, lr=0.1)
        grads = torch.autograd.grad(turn.terms(model, rows, seeded(), 1)[turn.loss].mean(), turn.parameters)
        for parameter, grad in zip(turn.parameters, grads, strict=True):
            parameter.grad = grad
        optimiser.step()
        own = {key for key, p in model.named_parameters() if id(p) in set(map(id, turn.parameters))}
        moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert moved
        assert moved <= own


# VAEGAN


def features_apart(critic, x, rebuilt):
    hidden, other = critic.hidden(x), critic.hidden(rebuilt)
    return 0.5 * ((hidden - other).square() / (hidden.var(0, correction=0) + 1e-3)).sum(1)


def log_sigmoid(logit):
    return -softplus(-logit)


@pytest.mark.parametrize("latent", ["kl", "adversarial"])
def test_vaegans_three_losses_are_those_of_its_formula(latent):
    model, objective, rows = in_training("vaegan" if latent == "kl" else "vaegan adversarial")
    encoder, decoder, critics = objective.players(model)
    mu, log_var = model.encode(rows.x, rows.mask)
    critic, x = model.extras["critic"], model.seen(rows.x, rows.mask)

    def draws(rng, n):
        return [torch.randn(30, 3, generator=rng, dtype=torch.float64) for _ in range(n)]

    def made(eps):
        return model.shown(model.params(mu + torch.exp(0.5 * log_var) * eps), rows.mask)

    (eps,) = draws(seeded(), 1)
    z = mu + torch.exp(0.5 * log_var) * eps
    kl = model.prior.kl(mu, log_var).sum(1)
    apart = kl if latent == "kl" else -log_sigmoid(model.extras["code_critic"](z))
    found = encoder.terms(model, rows, seeded(), 1)
    torch.testing.assert_close(found["loss"], 2 * apart + features_apart(critic, x, made(eps)))

    eps, p = draws(seeded(), 2)
    new = model.shown(model.params(p), rows.mask)
    fooled = -log_sigmoid(critic(made(eps))) - log_sigmoid(critic(new))
    found = decoder.terms(model, rows, seeded(), 1)["decoder"]
    torch.testing.assert_close(found, 3 * features_apart(critic, x, made(eps)) + fooled)

    eps, p, again, other = draws(seeded(), 4)
    new = model.shown(model.params(p), rows.mask)
    expected = -log_sigmoid(critic(x)) - log_sigmoid(-critic(made(eps))) - log_sigmoid(-critic(new))
    if latent == "adversarial":
        judge, z = model.extras["code_critic"], mu + torch.exp(0.5 * log_var) * again
        expected = expected - log_sigmoid(judge(other)) - log_sigmoid(-judge(z))
    torch.testing.assert_close(critics.terms(model, rows, seeded(), 1)["critic"], expected)


def test_a_critic_that_grows_does_not_outweigh_the_kl():
    model, objective, rows = in_training("vaegan")
    small = objective(model, rows, seeded(), 1)["feature_error"].detach().mean()
    with torch.no_grad():
        for parameter in model.extras["critic"].hidden.parameters():
            parameter.mul_(100)
    large = objective(model, rows, seeded(), 1)["feature_error"].detach().mean()
    assert float(large) < 1.3 * float(small)


def test_less_gamma_is_worse_reconstructions():
    X = load_digits().data[:500]
    settings = {"hidden_layer_sizes": (32,), "max_iter": 15, "learning_rate_init": 3e-3, "init": "random"}
    settings |= {"random_state": 0}
    errors = [
        np.square(
            VAETransformer(5, objective=VAEGAN(gamma=gamma, width=64), **settings).fit(X).reconstruct(X) - X
        ).mean()
        for gamma in (1.0, 0.0)
    ]
    assert errors[0] < 0.95 * errors[1]


# ALI


def identical(objective, n=3):
    """A linear model whose encoder and decoder are the identity, and standard normal rows in its units."""
    X = np.random.default_rng(0).normal(size=(50, n))
    vae = VAETransformer(n, objective=objective, hidden_layer_sizes=(), max_iter=1, random_state=0).fit(X)
    model, eye = copy.deepcopy(vae.module_).requires_grad_(True), torch.eye(n, dtype=torch.float64)
    with torch.no_grad():
        model.encoder.linear.weight.copy_(torch.cat([eye, 0 * eye]))
        model.encoder.linear.bias.copy_(torch.cat([torch.zeros(n), torch.full((n,), -30.0)]))
        model.decoder.linear.weight.copy_(eye)
        model.decoder.linear.bias.zero_()
    return model, vae._specs["objective"], Batch(torch.randn(1000, n, generator=seeded(5), dtype=torch.float64))


def test_pairs_of_identities_are_alike_and_their_cycle_is_closed():
    model, objective, rows = identical(ALI(noise=0.0))
    rng, model = seeded(), model.requires_grad_(False)
    encoded = objective._encoded(model, rows, rng, model.encode_mean(rows.x))
    made = objective._made(model, rows, rng)
    torch.testing.assert_close(encoded[:, :3], encoded[:, 3:])
    torch.testing.assert_close(made[:, :3], made[:, 3:])
    assert abs(float(mmd(encoded, made))) < 0.003
    assert float(objective(model, rows, seeded(), 1)["error"].max()) < 1e-9
    with torch.no_grad():
        model.encoder.linear.weight[0, 0] = -1  # a code of the right distribution, and of the wrong row
    assert float(mmd(objective._encoded(model, rows, rng, model.encode_mean(rows.x)), made)) > 0.015


@pytest.mark.parametrize("cycle_weight", [0.0, 0.7])
def test_alis_losses_are_those_of_its_formula(cycle_weight):
    model, objective, rows = identical(ALI(cycle_weight, noise=0.0))
    critic = model.extras["critic"]
    rng = seeded()
    eps, p = (torch.randn(1000, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    x, z = rows.x, model.encode_mean(rows.x) + math.exp(-15) * eps
    says, other = critic(torch.cat([x, z], 1)), critic(torch.cat([p, p], 1))
    found = objective(model, rows, seeded(), 1)
    mixed_up = -log_sigmoid(-says) - log_sigmoid(other)
    torch.testing.assert_close(found["mixed_up"], mixed_up)
    torch.testing.assert_close(found["loss"], mixed_up + cycle_weight * (x - z).square().sum(1))
    judged = objective.critic(model, rows, seeded(), 1)["critic"].detach()
    assert float(judged.mean()) == pytest.approx(2 * math.log(2), abs=0.5)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.zero_()
    undecided = objective.critic(model, rows, seeded(), 1)["critic"]
    torch.testing.assert_close(undecided, torch.full_like(undecided, 2 * math.log(2)))


def test_noise_is_added_to_rows_and_not_to_codes(any_seed):
    model, objective, rows = identical(ALI(noise=2.0))
    model.requires_grad_(False)
    for pairs in (
        objective._made(model, rows, seeded(any_seed)),
        objective._encoded(model, rows, seeded(any_seed), model.encode_mean(rows.x)),
    ):
        added = pairs[:, :3] - pairs[:, 3:]
        assert float(added.std()) == pytest.approx(2.0, rel=5 / math.sqrt(2 * 3000))
        assert abs(float((added * pairs[:, 3:]).mean())) < 5 * 2 / math.sqrt(3000)


# Levels


def stacked(*sizes):
    return build_seeded(lambda: Pushed(sizes, StandardNormal(sizes[-1]), 8), seeded()).double()


@pytest.mark.parametrize("sizes", [(3, 3), (4, 2), (2, 4), (3, 2, 4)])
def test_levels_of_a_normal_start_normal_and_hang_together(sizes, any_seed):
    prior, n = stacked(*sizes), 20_000
    with torch.no_grad():
        levels = prior.levels(n, seeded(any_seed), torch.float64)
    assert [z.shape for z in levels] == [(n, size) for size in sizes]
    for z in levels:
        np.testing.assert_allclose(z.mean(0).numpy(), 0, atol=5 / math.sqrt(n))
        np.testing.assert_allclose(torch.cov(z.T).numpy().reshape(z.shape[1], -1), np.eye(z.shape[1]), atol=0.06)
    for lower, upper in pairwise(levels):
        both = min(lower.shape[1], upper.shape[1])
        hanging = (lower[:, :both] * upper[:, :both]).mean(0)
        np.testing.assert_allclose(hanging.numpy(), math.sqrt(1 - FRESH), atol=0.05)


def test_sampling_goes_down_the_levels():
    """Through maps set to a shift each, from the top."""
    prior = stacked(2, 2, 2)
    with torch.no_grad():
        for down, shift in zip(prior.downs, (10.0, 100.0), strict=True):
            down.path.linear.weight.copy_(torch.cat([2 * torch.eye(2), torch.zeros(2, 2)]))
            down.path.linear.bias.copy_(torch.tensor([shift, -shift, -60.0, -60.0]))  # no spread of its own
        levels = prior.levels(50, seeded(), torch.float64)
        eps = torch.randn(50, 2, generator=seeded(), dtype=torch.float64)
        shift = torch.tensor([1.0, -1.0], dtype=torch.float64)
        torch.testing.assert_close(levels[2], eps)
        torch.testing.assert_close(levels[1], 2 * eps + 100 * shift, rtol=0, atol=0.05)
        torch.testing.assert_close(levels[0], 2 * levels[1] + 10 * shift, rtol=0, atol=0.05)
        torch.testing.assert_close(prior.sample(50, seeded(), torch.float64), levels[0])


def test_rows_are_sampled_through_all_levels():
    """The estimator's draws follow a map between levels that is changed."""
    vae = VAETransformer(2, objective=ALI(levels=(2,), width=8), max_iter=1, random_state=0)
    model = vae.fit(load_digits().data[:100]).module_
    before = vae.sample(200, random_state=0, prior="model")
    with torch.no_grad():
        model.prior.downs[0].path.linear.bias[:2] += 3.0
        expected = model.prior.sample(1000, seeded(), torch.float64).mean(0)
    assert float(expected.min()) > 2
    assert np.abs(vae.sample(200, random_state=0, prior="model").mean(0) - before.mean(0)).max() > 1


def test_a_level_draws_its_neighbour_and_what_it_has_more_of_anew():
    level = build_seeded(lambda: Level(2, 3, 8), seeded()).double()
    z = torch.tensor([[5.0, -5.0]], dtype=torch.float64).expand(20_000, 2)
    with torch.no_grad():
        drawn_on = level(z, seeded())
    root = math.sqrt(1 - FRESH)
    np.testing.assert_allclose(drawn_on.mean(0), [5 * root, -5 * root, 0], atol=0.04)
    np.testing.assert_allclose(drawn_on.var(0), [FRESH, FRESH, 1], rtol=0.1)


def test_hali_has_the_users_prior_at_the_top_and_fits_it_to_the_codes_there():
    model, objective, rows = in_training("hali", "mixture")
    assert isinstance(model.prior.top, MixturePrior)
    assert model.prior.n_components == 3
    assert model.prior.top.n_components == 2
    assert len(model.extras["ups"]) == 2
    turn = objective.players(model)[-1]
    assert {id(p) for p in turn.parameters} == {id(p) for p in model.prior.parameters()}
    assert turn.terms(model, rows, seeded(), 1)["prior"].shape == (30,)


def test_levels_together_have_the_density_of_their_steps():
    prior = stacked(2, 3, 2)
    low, middle, high = levels = prior.levels(6, seeded(), torch.float64)
    expected = -0.5 * (high.square() + math.log(2 * math.pi)).sum(1)
    for down, lower, upper in zip(prior.downs, (low, middle), (middle, high), strict=True):
        mean, log_var = down.path(upper).chunk(2, -1)
        expected = expected + torch.distributions.Normal(mean, torch.exp(log_var / 2)).log_prob(lower).sum(1)
    torch.testing.assert_close(prior.log_joint(levels), expected)


def test_levels_are_drawn_as_the_prior_they_make():
    model, _, rows = in_training("hali", "mixture")
    assert drawn(model, rows, seeded()).shape == (30, 3)


def test_a_prior_of_the_encoders_latents_cannot_stand_at_the_top():
    with pytest.raises(ValueError, match=r"prior=Vamp\(\) is made of the encoder's latents, .* use prior='normal'"):
        VAETransformer(2, objective=ALI(levels=(2,)), prior="vamp", random_state=0).fit(load_digits().data[:50])


@pytest.mark.parametrize("levels", [(0,), (2, 2.5), ("a",)])
def test_levels_that_are_no_counts_are_refused(levels):
    with pytest.raises(ValueError, match="levels must hold integers of at least 1"):
        VAETransformer(2, objective=ALI(levels=levels), random_state=0).fit(load_digits().data[:50])


def blobs(seed, n_rows=500):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, 2)) @ rng.normal(size=(2, 5)) + 3 + 0.3 * rng.normal(size=(n_rows, 5))


class Deaf(ALI):
    """The critic never moves."""

    def players(self, model):
        return super().players(model)[:1]


def drawn_beside(objective, seed):
    """Of a model trained from random weights: means and deviations of its draws beside the table's."""
    X = blobs(seed)
    settings = {"hidden_layer_sizes": (32,), "learning_rate_init": 3e-3, "max_iter": 100, "init": "random"}
    vae = VAETransformer(2, objective=objective, batch_size=100, random_state=seed, **settings).fit(X)
    drawn = vae.sample(4000, random_state=0, prior="model")
    return (drawn.mean(0) - X.mean(0)) / X.std(0), drawn.std(0) / X.std(0)


def off(objective, seed):
    """How far draws are from the table, the worst column."""
    means, deviations = drawn_beside(objective, seed)
    return max(np.abs(means).max(), np.abs(deviations - 1).max())


def test_draws_through_levels_do_not_collapse(any_seed):
    """Half of the columns or more keep their spread; with a way down that plays against the critic hardly any does."""
    means, deviations = drawn_beside(ALI(levels=(2,)), any_seed)
    assert np.abs(means).max() < 0.8
    assert np.median(deviations) > 0.5


@pytest.mark.parametrize("objective", [ALI(), ALI(1.0)], ids=repr)
def test_draws_come_to_look_like_the_table(objective, any_seed):
    assert off(objective, any_seed) < 0.6


def test_draws_do_not_where_the_critic_never_moves(any_seed):
    assert off(Deaf(), any_seed) > 1.0
