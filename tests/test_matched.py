"""Codes that follow a prior: WAE, the adversarial autoencoder, and the two ways to tell samples apart."""

from __future__ import annotations

import copy
from functools import cache, partial

import numpy as np
import pytest
import torch
from helpers import rows_of, seeded
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch import nn

from skvae import VAETransformer
from skvae._torch import build_seeded
from skvae._training import engine
from skvae._training.loop import average_weight
from skvae._training.parameters import Player, make_players
from skvae._training.solvers import Adam
from skvae._training.steps import AutogradStep, make_step
from skvae.objectives import WAE, Adversarial, Autoencoder, Batch, Turn
from skvae.objectives._critic import Critic
from skvae.objectives._mmd import mmd
from skvae.priors import Mixture, Normal, Prior, PriorSpec

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

MATCHED = {
    "wae": "wae",
    "wae rbf": WAE(kernel="rbf"),
    "wae gan": WAE("gan"),
    "adversarial": "adversarial",
}
CRITICS = ["wae gan", "adversarial"]
PRIORS = {"normal": Normal(), "mixture": Mixture(3)}
every_member = pytest.mark.parametrize("name", MATCHED)
every_prior = pytest.mark.parametrize("prior", PRIORS)


def digits(n_rows=300):
    return load_digits().data[:n_rows]


def estimator(name, prior="normal", **parameters):
    shared = {"hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0, "prior": PRIORS.get(prior, prior)}
    return VAETransformer(3, **{**shared, "objective": MATCHED.get(name, name), **parameters})


@cache
def fitted(name, prior="normal"):
    return estimator(name, prior).fit(digits())


def in_training(name, prior="normal", weight=None, n_rows=40):
    """A copy of the fitted model with gradients, its objective, and a batch in its units."""
    vae = fitted(name, prior)
    model = copy.deepcopy(vae.module_).requires_grad_(True)
    return model, vae._specs["objective"], rows_of(vae, digits(n_rows), weight)


# The maximum mean discrepancy


def kernel(a, b, kind):
    squares = float(np.square(a - b).sum())
    scales = [2 * len(a) * multiple for multiple in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
    return np.mean([c / (c + squares) if kind == "imq" else np.exp(-squares / c) for c in scales])


def by_two_loops(z, p, kind, weight):
    """The U-statistic as a double sum over rows, and their weights."""
    within = [(weight[i] * weight[j], kernel(z[i], z[j], kind)) for i in range(len(z)) for j in range(len(z)) if i != j]
    drawn = [kernel(p[i], p[j], kind) for i in range(len(p)) for j in range(len(p)) if i != j]
    across = [(weight[i], kernel(z[i], p[j], kind)) for i in range(len(z)) for j in range(len(p))]
    means = [sum(w * k for w, k in terms) / sum(w for w, _ in terms) for terms in (within, across)]
    return means[0] + np.mean(drawn) - 2 * means[1]


@pytest.mark.parametrize("kind", ["imq", "rbf"])
@pytest.mark.parametrize("weighted", [False, True])
def test_mmd_is_the_double_sum(kind, weighted):
    rng = np.random.default_rng(0)
    z, p, weight = rng.normal(size=(15, 3)) + 0.5, rng.normal(size=(20, 3)), rng.uniform(0.2, 2, 15)
    found = mmd(torch.tensor(z), torch.tensor(p), kind, torch.tensor(weight) if weighted else None)
    assert found.item() == pytest.approx(by_two_loops(z, p, kind, weight if weighted else np.ones(15)), abs=1e-14)


@pytest.mark.parametrize("kind", ["imq", "rbf"])
def test_mmd_has_no_bias_where_samples_are_alike_and_sees_where_they_are_not(kind, any_seed):
    rng = seeded(any_seed)
    draws = partial(torch.randn, 40, 100, 3, generator=rng, dtype=torch.float64)
    alike = torch.stack([mmd(z, p, kind) for z, p in zip(draws(), draws(), strict=True)])
    assert abs(float(alike.mean())) < 5 * float(alike.std()) / 40**0.5
    for change in (lambda z: z + 1, lambda z: 2 * z, lambda z: 0.5 * z, lambda z: z.sign()):
        apart = torch.stack([mmd(change(z), p, kind) for z, p in zip(draws(), draws(), strict=True)])
        assert float(apart.mean()) > 5 * float(alike.std())


def test_mmd_of_a_row_that_counts_twice_is_that_of_its_copy_but_for_the_pair_they_make():
    z, p = torch.randn(2, 50, 2, generator=seeded(), dtype=torch.float64)
    twice = mmd(torch.cat([z, z[:1]]), p)
    weighed = mmd(z, p, weight=torch.cat([torch.full((1,), 2.0), torch.ones(49)]).double())
    assert abs(float(twice - weighed)) < 2 / (51 * 50)


def test_mmd_is_finite_for_one_row_extreme_weights_and_codes_far_out():
    z, p = torch.randn(2, 5, 2, generator=seeded())
    assert mmd(z[:1], p[:1]) == 0
    z = z.requires_grad_()
    for codes, weight in ((z, torch.tensor([1.0, 1e-30, 1e-30, 1e-30, 1e-30])), (1e18 * z, None), (0 * z, None)):
        found = mmd(codes, p, weight=weight)
        assert bool(found.isfinite())
        assert bool(torch.autograd.grad(found, z)[0].isfinite().all())


def test_mmd_does_not_lose_digits_where_both_samples_lie_far_out():
    z, p = torch.randn(2, 50, 2, generator=seeded())
    near = mmd(z, p)
    assert mmd(z + 1000, p + 1000).item() == pytest.approx(near.item(), abs=1e-4)


# The critic


def trained_critic(real, fake, seed, n_steps=800):
    """By the package's own player: its losses, Adam, and the average of the weights."""
    critic = build_seeded(lambda: Critic(1, 64), seeded(seed))
    player, rng = Player(Turn(list(critic.parameters()), critic.loss), partial(Adam, lr=3e-3)), seeded(seed + 1)
    for step in range(n_steps):
        draws = torch.randn(2, 512, 1, generator=rng, dtype=torch.float32)
        player.backward(critic.loss(real(draws[0]), fake(draws[1])).mean(), only=True)
        with torch.no_grad():
            player.step(average_weight(step + 1))
    player.swap_average()
    return critic.requires_grad_(False)


def test_a_trained_critic_is_the_log_ratio_of_two_gaussians(any_seed):
    critic = trained_critic(lambda eps: eps, lambda eps: 1 + 0.7 * eps, any_seed)
    x = torch.linspace(-1, 2.5, 71)
    expected = torch.distributions.Normal(0, 1).log_prob(x) - torch.distributions.Normal(1, 0.7).log_prob(x)
    assert float((critic(x[:, None]) - expected).abs().mean()) < 0.05
    assert float(expected.max() - expected.min()) > 3


def test_critics_losses_are_minus_the_logarithms_of_the_two_verdicts():
    critic = build_seeded(lambda: Critic(2, 8), seeded())
    v = torch.randn(6, 2, generator=seeded(), dtype=torch.float32)
    says_real = torch.sigmoid(critic(v))
    torch.testing.assert_close(critic.real_loss(v), -says_real.log())
    torch.testing.assert_close(critic.fake_loss(v), -(1 - says_real).log())
    torch.testing.assert_close(critic.loss(v, v), -(says_real * (1 - says_real)).log())


# The objectives


@every_member
@pytest.mark.parametrize("weight", [0.0, 2.5, "auto"])
def test_loss_is_the_autoencoders_and_the_weighted_penalty(name, weight):
    model, objective, rows = in_training(name)
    objective = clone(objective).set_params(weight=weight)
    terms = objective(model, rows, seeded(), 1)
    torch.testing.assert_close(terms["error"], Autoencoder()(model, rows, seeded(), 1)["loss"])
    by_critic = name in CRITICS
    factor = (6.4 if by_critic else 64.0) if weight == "auto" else weight
    penalty = terms["gan" if by_critic else "mmd"]
    torch.testing.assert_close(terms["loss"], terms["error"] + factor * penalty)
    codes = model.encode_mean(rows.x)
    if by_critic:
        torch.testing.assert_close(penalty, -torch.sigmoid(model.extras["critic"](codes)).log())
    else:
        drawn = torch.randn(40, 3, generator=seeded(), dtype=torch.float64)
        torch.testing.assert_close(penalty, mmd(codes, drawn, objective.kernel))


@every_member
def test_monitor_is_the_error_and_the_mmd_whoever_the_critic_is(name):
    model, objective, rows = in_training(name)
    terms = Autoencoder()(model, rows, seeded(), 1)
    drawn = torch.randn(40, 3, generator=seeded(), dtype=torch.float64)
    apart = mmd(model.encode_mean(rows.x), drawn, objective.get_params().get("kernel", "imq"))
    found = objective.monitor(model, rows, seeded())
    torch.testing.assert_close(found, -terms["loss"] - 64 * apart)
    assert found.shape == (40,)
    many = objective.monitor(model, rows.take(torch.arange(40).repeat(30)), seeded())
    assert many.shape == (1200,)
    assert len(many[[0, 500, 1000]].round(decimals=6).unique()) == 3  # parts have draws of their own


def test_an_adversarial_autoencoder_is_waes_penalty_gan():
    X = digits(100)
    one, two = (estimator(name, max_iter=2).fit(X) for name in CRITICS)
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    assert one.history_ == two.history_


@every_member
@every_prior
def test_players_move_disjoint_parameters_and_each_reaches_its_own_alone(name, prior):
    model, objective, rows = in_training(name, prior)
    turns = objective.players(model)
    groups = [{id(p) for p in turn.parameters} for turn in turns]
    parts = [model.encoder, model.decoder, model.likelihood, model.prior, model.extras]
    assert sum(map(len, groups)) == len(set.union(*groups)) == sum(len(list(part.parameters())) for part in parts)
    expected = 1 + (name in CRITICS) + (prior == "mixture")
    assert len(turns) == expected
    for turn, own in zip(turns[1:], groups[1:], strict=True):
        loss = turn.terms(model, rows, seeded(), 1)[turn.loss]
        assert loss.shape == (40,)
        grads = torch.autograd.grad(loss.mean(), list(model.parameters()), allow_unused=True)
        reached = {id(p) for p, grad in zip(model.parameters(), grads, strict=True) if grad is not None}
        assert reached == own
    loss = turns[0].terms(model, rows, seeded(), 1)["loss"].mean()
    if prior == "mixture":
        grads = torch.autograd.grad(loss, list(model.prior.parameters()), allow_unused=True)
        assert set(grads) == {None}


def test_a_prior_is_fitted_to_the_codes_by_their_likelihood():
    model, objective, rows = in_training("wae", "mixture")
    turn = objective.players(model)[-1]
    codes = model.encode_mean(rows.x)
    torch.testing.assert_close(turn.terms(model, rows, seeded(), 1)["prior"], -model.prior.log_prob(codes))
    start = estimator("wae", "mixture", max_iter=1, learning_rate_init=1e-12).fit(digits())
    for key in ("prior.mean", "prior.log_var", "prior.logit"):
        assert np.abs(fitted("wae", "mixture")._weights[key] - start._weights[key]).max() > 1e-3


class Scaled(Prior):
    """A prior that can only be drawn from, with a parameter."""

    def __init__(self, n_components):
        super().__init__(n_components)
        self.scale = nn.Parameter(torch.full((), 2.0))

    def sample(self, n_samples, rng, dtype=torch.float32):
        return self.scale.to(dtype) * torch.randn(n_samples, self.n_components, generator=rng, dtype=dtype)


class OnlyDrawn(PriorSpec):
    def build(self, n_components, density):
        return Scaled(n_components)


@pytest.mark.parametrize("name", ["wae", "adversarial"])
def test_a_prior_without_a_density_stays_as_it_started(name):
    vae = estimator(name, OnlyDrawn(), max_iter=40, early_stopping=False).fit(digits())
    assert vae._weights["prior.scale"] == 2.0
    assert vae.transform(digits()).std(axis=0).mean() > 1.4


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_engine_trains_wae_as_autograd_would(missing, weighted):
    model, objective, rows = in_training("wae", weight=np.linspace(0.5, 1.5, 40) if weighted else None)
    if missing:
        present = (torch.rand(rows.x.shape, generator=seeded()) < 0.8).double()
        rows = Batch(rows.x * present, present, rows.weight)
    (player,) = make_players(model, objective, lambda parameters: None)
    found = []
    for step in (AutogradStep(model, objective, [player]), make_step(model, objective, [player])):
        with torch.no_grad():
            step(rows, seeded(), 1, player)
        found.append((player.vector.grad.clone(), step.take_means()))
    assert isinstance(step, engine.DenseStep)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-9)
    for key, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], value)


@pytest.mark.parametrize(("name", "prior"), [("wae gan", "normal"), ("adversarial", "normal"), ("wae", "mixture")])
def test_the_engine_leaves_several_players_to_autograd(name, prior):
    model, objective, _ = in_training(name, prior)
    assert not engine.understands(model, objective)


def test_the_engine_leaves_a_player_who_moves_a_part_to_autograd():
    class Half(WAE):
        def players(self, model):
            (turn,) = super().players(model)
            return [turn._replace(parameters=list(model.encoder.parameters()))]

    class Whole(WAE):
        def players(self, model):
            return super().players(model)

    model, _, _ = in_training("wae")
    assert engine.understands(model, Whole())
    assert not engine.understands(model, Half())


# What they are for


def curved(seed, n_rows=500):
    """Rows around a bent sheet, whose coordinates are uniform."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(-1, 1, size=(n_rows, 2))
    sheet = np.c_[u, u[:, :1] ** 2, u[:, :1] * u[:, 1:], np.sin(3 * u)]
    return sheet + 0.01 * rng.normal(size=sheet.shape)


class DeafCritic(Adversarial):
    """The critic never moves."""

    def players(self, model):
        return super().players(model)[:1]


def far_from_prior(vae, X):
    """The largest error of the codes' first two moments: means, and the covariance matrix."""
    Z = vae.transform(X)
    return max(np.abs(Z.mean(0)).max(), np.abs(np.cov(Z.T) - np.eye(Z.shape[1])).max())


def matched(objective, X, prior="normal", seed=0, n_components=2):
    settings = {"hidden_layer_sizes": (32,), "learning_rate_init": 3e-3, "max_iter": 60, "init": "random"}
    settings |= {"early_stopping": False, "batch_size": 100, "random_state": seed}
    return VAETransformer(n_components, objective=objective, prior=prior, **settings).fit(X)


@pytest.mark.parametrize("objective", [WAE(weight=60.0), WAE("gan", weight=2.0), Adversarial(2.0)], ids=repr)
def test_training_brings_the_codes_moments_to_the_priors(objective, any_seed):
    X = curved(any_seed)
    assert far_from_prior(matched(objective, X, seed=any_seed), X) < 0.4


@pytest.mark.parametrize("broken", [DeafCritic(2.0), WAE(weight=0.0)], ids=repr)
def test_without_a_critic_that_learns_or_a_penalty_the_moments_are_others(broken, any_seed):
    X = curved(any_seed)
    assert far_from_prior(matched(broken, X, seed=any_seed), X) > 0.8


def test_samples_follow_the_table(any_seed):
    X = curved(any_seed)
    vae = matched(Adversarial(2.0), X, seed=any_seed)
    drawn = vae.sample(4000, random_state=any_seed)
    np.testing.assert_allclose(drawn.mean(0), X.mean(0), atol=0.3 * X.std(0).max())
    np.testing.assert_allclose(drawn.std(0), X.std(0), rtol=0.4)


def groups(seed, n_rows=600):
    """Three groups of rows far apart."""
    rng = np.random.default_rng(seed)
    return 4 * np.eye(3, 6)[rng.integers(3, size=n_rows)] + 0.3 * rng.normal(size=(n_rows, 6))


@pytest.mark.parametrize("objective", [WAE(weight=60.0), Adversarial(2.0)], ids=repr)
@pytest.mark.parametrize("prior", [Normal(), Mixture(6)], ids=repr)
def test_codes_of_groups_match_a_normal_prior_and_a_mixture(objective, prior, any_seed):
    X = groups(any_seed)

    def apart(objective):
        vae = matched(objective, X, prior, any_seed)
        codes = torch.tensor(vae.transform(X)[:, np.argsort(vae._order)])
        return float(mmd(codes, vae.module_.prior.sample(len(X), seeded(1), torch.float64)))

    assert apart(objective) < 0.012
    assert apart(DeafCritic(2.0)) > 0.03
