"""Many models side by side against each of them alone: the same gradients, the same training, no leak between rows."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from skvae import (
    ELBO,
    IWAE,
    MLP,
    Bernoulli,
    ContinuousBernoulli,
    Gaussian,
    JohnsonSU,
    Laplace,
    LogNormal,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from skvae._ensemble import Member, _padded, _Stack, can_stack, train_many
from skvae._solvers import Adam
from skvae._state import Blueprint
from skvae.data import Rows, Scale
from skvae.networks import Supplied
from skvae.training import AutogradStep, Plan, held_out_mean, make_players, train

D = 5
LIKELIHOODS = {
    "feature": Gaussian(),
    "shared": Gaussian("shared"),
    "decoder": Gaussian("decoder"),
    "bernoulli": Bernoulli(),
    "johnson_su": JohnsonSU(),
    "student_t": StudentT(3.0),
    "laplace": Laplace(),
    "log_normal": LogNormal(),
    "continuous_bernoulli": ContinuousBernoulli(),
    "poisson": Poisson(),
    "negative_binomial": NegativeBinomial(),
}
NETWORKS = {
    "linear": MLP(()),
    "tanh": MLP((6,), "tanh"),
    "relu": MLP((6,), "relu"),
    "two tanh": MLP((6, 4), "tanh"),
    "two relu": MLP((6, 4), "relu"),
}
# Three tables of different lengths; the last two models are of one table.
LENGTHS, TABLE_OF, SIZES = (7, 4, 6), (0, 1, 2, 2), (2, 1, 3, 2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def double():
    """A stack in float64, so that formulas can be told from rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_rows(n_rows, missing=False, weighted=False, seed=0, dtype=torch.float64):
    rng = seeded(seed)
    x = torch.rand(n_rows, D, generator=rng, dtype=dtype)
    mask = (torch.rand(n_rows, D, generator=rng) > 0.3).to(dtype) if missing else None
    weight = torch.rand(n_rows, generator=rng, dtype=dtype) if weighted else None
    return Rows(x if mask is None else x * mask, mask, None if weight is None else weight / weight.mean())


def make_model(rows, likelihood, n_components, network, seed=0, spread=0.5):
    """A model with weights anywhere, a scale and buffers of its own, and one noise below its floor."""
    scale = Scale(np.zeros(D), np.exp(np.arange(D) / 3 + seed))
    model = Blueprint(D, n_components, likelihood, ELBO(), network, network, scale).build(seeded(seed))
    model.to(rows.x.dtype).likelihood.fit(rows)
    rng = seeded(100 + seed)
    for parameter in model.parameters():
        parameter.data.normal_(generator=rng).mul_(spread)
    if hasattr(model.likelihood, "log_noise"):
        model.likelihood.log_noise.data[0] = -20.0 if seed == 1 else 0.3
    if hasattr(model.likelihood, "log_dispersion"):
        model.likelihood.log_dispersion.data[0] = -20.0 if seed == 1 else 0.3
    if hasattr(model.likelihood, "unit"):
        model.likelihood.unit.fill_(0.3 + 0.1 * seed)
    return model


def make_members(likelihood, network, missing=False, weighted=False, held_out=True, dtype=torch.float64):
    """Four models; gaps in all tables but the first, and weights in all but the second."""
    tables, held = [], []
    for k, length in enumerate(LENGTHS):
        tables.append(make_rows(length, missing and k > 0, weighted and k != 1, seed=k, dtype=dtype))
        held.append(make_rows(length - 1, missing and k > 0, weighted and k != 1, seed=20 + k, dtype=dtype))
    return [
        Member(make_model(tables[k], likelihood, J, network, seed), tables[k], held[k] if held_out else None)
        for seed, (k, J) in enumerate(zip(TABLE_OF, SIZES, strict=True))
    ]


def make_stack(members, objective):
    with torch.no_grad():
        return _Stack(members, objective, 1e-2, seeded(3))


def own_draws(eps, member, n_rows, n_draws):
    """A member's part of the stack's draws (S B, J): (S, its rows, its latents)."""
    return eps.unflatten(0, (n_draws, -1))[:, :n_rows, : member.model.prior.n_components]


def bound(model, rows, eps, beta):
    """E_q[log p(x|z)] and KL of each row, from the model's own methods."""
    mu, log_var = model.encode(rows.x, rows.mask)
    z = mu + torch.exp(0.5 * log_var) * eps
    return model.log_prob(z, rows.x, rows.mask).sum(-1).mean(0), model.prior.kl(mu, log_var).sum(-1)


def assert_same_gradients(members, objective, beta=0.7):
    """One step on whole tables. What a model lacks must get exactly 0."""
    stack = make_stack(members, objective)
    batch = _padded(stack.prepared).take(stack.table_of)
    shape = (len(members), objective.n_draws * batch.x.shape[1], max(SIZES))
    eps = torch.randn(shape, generator=seeded(9)) * stack.mask
    stack.matrix.grad.fill_(9.0)  # every entry must be set, not added to
    with torch.no_grad():
        stack.engine.gradient(batch, eps, beta)
    terms = stack.engine.take_means()
    for i, (member, player, place) in enumerate(zip(members, stack.players, stack.places, strict=True)):
        rows = member.rows
        draws = own_draws(eps[i], member, len(rows), objective.n_draws)
        player.vector.grad.zero_()
        reconstruction, kl = (rows.mean(values) for values in bound(member.model, rows, draws, beta))
        (beta * kl - reconstruction).backward()
        row = stack.matrix.grad[i]
        torch.testing.assert_close(row[place], player.vector.grad, rtol=1e-9, atol=1e-12)
        assert player.vector.grad.abs().max() > 1e-3
        absent = torch.ones(len(row), dtype=torch.bool)
        absent[place] = False
        assert bool((row[absent] == 0).all())
        assert bool(absent.any()) == (member.model.prior.n_components < max(SIZES))
        for name, value in {"reconstruction": reconstruction, "kl": kl, "loss": beta * kl - reconstruction}.items():
            torch.testing.assert_close(terms[name][i], value.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_model_of_a_stack_gets_its_own_gradient(likelihood, network):
    for missing, weighted in ((False, False), (True, True)):
        members = make_members(LIKELIHOODS[likelihood], NETWORKS[network], missing, weighted)
        assert_same_gradients(members, ELBO())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("n_draws", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gaps_weights_and_draws_are_each_models_own(likelihood, missing, weighted, n_draws):
    members = make_members(LIKELIHOODS[likelihood], NETWORKS["two tanh"], missing, weighted)
    assert_same_gradients(members, ELBO(n_draws=n_draws))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_float32_stack_gives_what_autograd_gives_one_model(likelihood):
    """The whole path of one step, draws included: `AutogradStep` sees the same generator."""
    rows = make_rows(30, missing=True, weighted=True, dtype=torch.float32)
    model = make_model(rows, LIKELIHOODS[likelihood], 3, NETWORKS["tanh"])
    (player,) = make_players(twin := copy.deepcopy(model), ELBO(), lambda parameters: None)
    AutogradStep(twin, ELBO(), [player])(rows, seeded(7), 1)
    stack = make_stack([Member(model, rows, None)], ELBO())
    eps = torch.randn(1, 30, 3, generator=seeded(7))
    with torch.no_grad():
        stack.engine.gradient(_padded(stack.prepared), eps, 1.0)
    expected = player.vector.grad
    torch.testing.assert_close(stack.matrix.grad[0], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def expected_held_out(stack, members, beta=1.0, n_draws=1):
    """The monitored mean of each member at its weights, with the stack's draws."""
    means = []
    for member, player in zip(members, stack.players, strict=True):
        rows, total = member.held_out, 0.0
        for eps in stack.draws:
            draws = eps[None, : len(rows), : member.model.prior.n_components]
            reconstruction, kl = bound(member.model, rows, draws.to(rows.x.dtype), beta)
            total = total + (reconstruction - beta * kl).detach()
        weight = torch.ones(len(rows)) if rows.weight is None else rows.weight
        means.append(float((weight * total / len(stack.draws)).sum() / weight.sum()))
        assert player.vector.isfinite().all()
    return means


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_held_out_mean_is_each_models_own(likelihood, missing, weighted, monkeypatch):
    members = make_members(LIKELIHOODS[likelihood], NETWORKS["two relu"], missing, weighted)
    stack = make_stack(members, ELBO(beta=0.6))
    expected = expected_held_out(stack, members, beta=0.6)
    before = stack.matrix.data.clone()
    with torch.no_grad():
        np.testing.assert_allclose(stack._held_out_means(), expected, rtol=1e-9)
        monkeypatch.setattr("skvae._ensemble.BLOCK_NUMBERS", 100)  # blocks of a few rows give the same mean
        np.testing.assert_allclose(stack._held_out_means(), expected, rtol=1e-9)
    assert torch.equal(stack.matrix.data, before)


@pytest.mark.usefixtures("double")
def test_held_out_weights_need_not_have_mean_one():
    """They are part of a table's weights; one model's monitored mean divides by their sum."""
    members = make_members(Gaussian(), NETWORKS["tanh"], weighted=True)
    for member in members:
        if member.held_out.weight is not None and float(member.held_out.weight.mean()) < 1.1:
            member.held_out.weight *= 3.0
    stack = make_stack(members, ELBO())
    with torch.no_grad():
        np.testing.assert_allclose(stack._held_out_means(), expected_held_out(stack, members), rtol=1e-9)


@pytest.mark.usefixtures("double")
def test_the_held_out_mean_with_more_draws_a_step():
    members = make_members(Gaussian(), NETWORKS["tanh"])
    stack = make_stack(members, ELBO(n_draws=2))
    with torch.no_grad():
        np.testing.assert_allclose(stack._held_out_means(), expected_held_out(stack, members), rtol=1e-9)


# Training


def plan(max_iter=5, batch_size=4, patience=math.inf):
    return Plan(lambda parameters: Adam(parameters, 1e-2), batch_size, max_iter, patience)


def weights(member):
    return {name: value.detach().clone() for name, value in member.model.state_dict().items()}


def assert_same_weights(one, other, equal=True):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one) == equal


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("network", ["linear", "two relu"])
def test_what_a_smaller_model_lacks_stays_zero(likelihood, network):
    members = make_members(LIKELIHOODS[likelihood], NETWORKS[network], missing=True, dtype=torch.float32)
    stack = make_stack(members, ELBO())
    start = stack.matrix.data.clone()
    with torch.no_grad():
        for number in range(1, 6):
            stack.one_epoch(number, 4)
    for i, place in enumerate(stack.places):
        absent = torch.ones(stack.matrix.shape[1], dtype=torch.bool)
        absent[place] = False
        for values in (stack.matrix.data, stack.average):
            assert bool((values[i, absent] == 0).all())
        moved = (stack.matrix.data[i] != start[i])[place]
        assert moved.float().mean() > 0.5
    assert sum(len(place) < stack.matrix.shape[1] for place in stack.places) == 3


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_stack_gives_back_the_weights_it_took(likelihood, network):
    members = make_members(LIKELIHOODS[likelihood], NETWORKS[network], dtype=torch.float32)
    before = [weights(member) for member in members]
    with torch.no_grad():
        make_stack(members, ELBO()).finish()
    for member, kept in zip(members, before, strict=True):
        assert_same_weights(weights(member), kept)
        assert not member.model.training


# One generator feeds both: with one model in the stack, and 16 held-out rows (randn fills blocks of 16), the draws are
# the very same, and float32 rounding is all that differs.


@pytest.mark.parametrize(
    ("batch_size", "held_out", "objective"),
    [
        (64, False, ELBO()),
        (20, False, ELBO(n_draws=2, beta=2.0)),
        (64, True, ELBO()),
        (20, True, ELBO(warmup=4)),
    ],
    ids=["whole table", "batches", "held out", "held out, batches"],
)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_stack_of_one_ends_where_one_model_ends(likelihood, batch_size, held_out, objective):
    rows = make_rows(64, missing=True, weighted=True, dtype=torch.float32)
    watched = make_rows(16, missing=True, seed=1, dtype=torch.float32) if held_out else None
    one = make_model(rows, LIKELIHOODS[likelihood], 2, NETWORKS["two tanh"], spread=0.3)
    other = copy.deepcopy(one)
    work = plan(12, batch_size, patience=3)
    expected = train(one, objective, rows, work, seeded(5), watched)
    (report,) = train_many([Member(other, rows, watched)], objective, work, 1e-2, seeded(5))
    assert (report.n_iter, report.best, report.diverged) == (expected.n_iter, expected.best, None)
    assert report.history.keys() == expected.history.keys()
    for name, values in expected.history.items():
        np.testing.assert_allclose(report.history[name], values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(report.held_out, expected.held_out, rtol=1e-4)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)
    x = make_rows(40, seed=2, dtype=torch.float32)
    reached = [held_out_mean(model, ELBO(), x, seed=0) for model in (one, other)]
    assert reached[1] == pytest.approx(reached[0], rel=1e-4)


def lively(n_models=4, length=64, dtype=torch.float32):
    """Tables that take different times to learn: from nothing but noise to three clear factors."""
    members = []
    for k in range(n_models):
        rng = seeded(40 + k)
        factors = torch.randn(length + 16, max(1, k), generator=rng) @ torch.randn(max(1, k), D, generator=rng)
        x = torch.randn(length + 16, D, generator=rng) * 0.3 + k * factors / 2
        rows, held_out = Rows(x[:length].to(dtype)), Rows(x[length:].to(dtype))
        members.append(Member(make_model(rows, Gaussian(), 2, NETWORKS["tanh"], spread=0.2), rows, held_out))
    return members


def test_every_model_stops_when_it_is_done():
    members, patience, most = lively(), 3, 40
    starts = [weights(member) for member in members]
    reports = train_many(members, ELBO(), plan(most, 16, patience), 5e-2, seeded(5))
    lasted = [report.n_iter for report in reports]
    assert len(set(lasted)) >= 3
    assert min(lasted) < max(lasted)
    seed = int(torch.randint(2**31 - 1, (), generator=seeded(5)))
    for member, start, report in zip(members, starts, reports, strict=True):
        assert report.diverged is None
        assert len(report.held_out) == report.n_iter + 1
        assert {name: len(values) for name, values in report.history.items()} == dict.fromkeys(
            ("loss", "reconstruction", "kl"), report.n_iter
        )
        assert report.held_out[report.best] == max(report.held_out)
        assert report.best == int(np.argmax(report.held_out))
        assert report.n_iter in (report.best + patience, most)
        # The weights it has are those of its best epoch: the same draws give the same number.
        again = held_out_mean(member.model, ELBO(), member.held_out, seed)
        assert again == pytest.approx(report.held_out[report.best], rel=1e-5)
        assert again > report.held_out[0] + 0.1
        assert_same_weights(weights(member), start, equal=False)


def test_letting_a_model_go_changes_nothing_for_the_others():
    """The same draws before and after: weights, averages, moments and the count of steps go on."""
    ends = []
    for drop in (False, True):
        stack = make_stack(lively(), ELBO())
        with torch.no_grad():
            stack.one_epoch(1, 4)
            keep = torch.tensor([0, 2, 3]) if drop else torch.arange(4)
            if drop:
                stack._keep_only(keep)
            batch = _padded(stack.tables).take(stack.table_of)
            eps = torch.randn(4, batch.x.shape[1], 2, generator=seeded(8))[keep]
            for _ in range(3):
                stack.engine.gradient(batch, eps, 1.0)
                stack.solver.step()
        assert stack.running == keep.tolist()
        ends.append((stack.matrix.data, stack.average))
    for whole, fewer in zip(*ends, strict=True):
        torch.testing.assert_close(fewer, whole[[0, 2, 3]], rtol=1e-5, atol=1e-6)


def test_without_held_out_rows_the_last_epoch_is_kept():
    members = [Member(m.model, m.rows, None) for m in lively(2)]
    reports = train_many(members, ELBO(), plan(6, 16), 1e-2, seeded())
    for report in reports:
        assert (report.n_iter, report.best, report.held_out) == (6, 6, [])
        assert report.history["loss"][-1] < report.history["loss"][0]


def test_patience_waits_for_the_ramp():
    """Steps that only do harm: while beta rises the model goes on all the same."""
    for warmup, lasts in ((0, 2), (9, 11)):
        (member,) = lively(1)
        (report,) = train_many([member], ELBO(warmup=warmup), plan(30, 64, patience=2), 5.0, seeded())
        assert (report.n_iter, report.best) == (lasts, 0)


def test_the_start_is_kept_where_nothing_is_better():
    members = lively(3)
    starts = [weights(member) for member in members]
    reports = train_many(members, ELBO(), plan(8, 16, patience=4), 5.0, seeded())  # steps that only do harm
    for member, start, report in zip(members, starts, reports, strict=True):
        assert report.best == 0
        assert report.n_iter == 4
        assert_same_weights(weights(member), start)


def test_a_run_is_set_by_its_seed():
    ends, reports = [], []
    for seed in (5, 5, 6):
        members = lively(3)
        reports.append(train_many(members, ELBO(), plan(6, 16, patience=3), 1e-2, seeded(seed)))
        ends.append([weights(member) for member in members])
    assert reports[0] == reports[1]
    for one, same, other in zip(*ends, strict=True):
        assert_same_weights(one, same)
        assert_same_weights(one, other, equal=False)


def test_torchs_own_generator_and_the_rows_are_left_alone():
    members = lively(2)
    before = [(m.rows.x.clone(), m.held_out.x.clone()) for m in members]
    state = torch.get_rng_state()
    train_many(members, ELBO(), plan(3, 16), 1e-2, seeded())
    assert torch.equal(torch.get_rng_state(), state)
    for member, (x, watched) in zip(members, before, strict=True):
        assert torch.equal(member.rows.x, x)
        assert torch.equal(member.held_out.x, watched)


# A model that diverges


def huge(member):
    """The same model on rows whose squares float32 cannot hold."""
    return Member(copy.deepcopy(member.model), Rows(member.rows.x * 1e30), member.held_out)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_model_that_diverges_keeps_its_start_and_leaves_the_others_alone(place):
    members = lively(3)
    members[place] = huge(members[place])
    starts = [weights(member) for member in members]
    reports = train_many(members, ELBO(), plan(6, 16, patience=6), 1e-2, seeded())
    for i, (member, start, report) in enumerate(zip(members, starts, reports, strict=True)):
        assert (report.diverged == 1) == (i == place)
        assert_same_weights(weights(member), start, equal=i == place)
        if i != place:
            assert report.n_iter == 6
            assert report.held_out[-1] > report.held_out[0]
            assert np.isfinite(report.held_out).all()
            assert np.isfinite(report.history["loss"]).all()
        else:
            assert (report.n_iter, report.best) == (0, 0)
            assert len(report.held_out) == 1


def test_the_others_take_the_very_steps_they_take_beside_a_sound_model():
    ends = []
    for change in (lambda member: member, huge):
        members = lively(3)
        members[1] = change(members[1])
        train_many(members, ELBO(), plan(1, 16), 1e-2, seeded())
        ends.append([weights(member) for member in members])
    assert_same_weights(ends[0][0], ends[1][0])
    assert_same_weights(ends[0][2], ends[1][2])
    assert_same_weights(ends[0][1], ends[1][1], equal=False)


@pytest.mark.parametrize("held_out", [True, False])
def test_all_models_may_diverge(held_out):
    members = [m if held_out else Member(m.model, m.rows, None) for m in lively(3)]
    starts = [weights(member) for member in members]
    reports = train_many(members, ELBO(), plan(4, 16), math.inf, seeded())
    for member, start, report in zip(members, starts, reports, strict=True):
        assert (report.diverged, report.best, report.n_iter, report.history) == (1, 0, 0, {})
        assert_same_weights(weights(member), start)


def test_a_model_that_diverges_later_keeps_its_best_epoch():
    """Its weights are spoilt between two epochs, by hand."""
    members = lively(2)
    stack, work = make_stack(members, ELBO()), plan(4, 64)
    with torch.no_grad():
        stack.judge(0, {}, work)
        stack.judge(1, stack.one_epoch(1, 4), work)
        kept = stack.kept.clone()
        stack.matrix.data[0] = torch.nan
        stack.judge(2, stack.one_epoch(2, 4), work)
        assert stack.running == [1]
        stack.judge(3, stack.one_epoch(3, 4), work)
        stack.finish()
    spoilt, sound = stack.reports
    assert (spoilt.diverged, spoilt.best, spoilt.n_iter) == (2, 1, 1)
    assert (sound.diverged, sound.n_iter) == (None, 3)
    assert torch.equal(stack.kept[0], kept[0])
    assert members[0].model.encoder.linear.weight.isfinite().all()


# Uneven tables


def test_an_epoch_passes_over_every_row_of_every_table_once():
    """A short table's batches are smaller; none of its rows is left out or seen twice."""
    members = make_members(Gaussian(), NETWORKS["linear"], dtype=torch.float32)
    stack = make_stack(members, ELBO())
    for k, length in enumerate(LENGTHS):
        for n_batches in (1, 2, 3):
            dealt = stack._deal(stack.tables[k], n_batches)
            assert len(dealt) == n_batches
            assert sorted(torch.cat(dealt).tolist()) == list(range(length))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_any_batch_size_trains_tables_of_any_length(batch_size):
    members = make_members(Gaussian(), NETWORKS["tanh"], dtype=torch.float32)
    reports = train_many(members, ELBO(), plan(3, batch_size), 1e-3, seeded())
    for member, report in zip(members, reports, strict=True):
        assert report.diverged is None
        assert np.isfinite(report.history["loss"]).all()
        assert all(value.isfinite().all() for value in member.model.state_dict().values())


# The choice


class OwnELBO(ELBO):
    """A user's variation."""


@pytest.mark.parametrize(
    ("objective", "encoder", "decoder", "expected"),
    [
        (ELBO(), MLP(), None, True),
        (ELBO(n_draws=3, beta=2.0, warmup=3), MLP((4,), "gelu"), MLP(()), True),
        (ELBO("sampled"), MLP(), None, False),
        (ELBO(free_bits=0.1), MLP(), None, False),
        (ELBO(input_noise=0.1), MLP(), None, False),
        (IWAE(), MLP(), None, False),
        (OwnELBO(), MLP(), None, False),
        (ELBO(), MLP(), Supplied(nn.Linear), False),
        (ELBO(), Supplied(nn.Linear), MLP(), False),
        (ELBO(), MLP((3,), nn.Hardtanh), None, False),
    ],
)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_what_can_be_stacked(likelihood, objective, encoder, decoder, expected):
    scale = Scale(np.zeros(D), np.ones(D))
    blueprint = Blueprint(D, 2, LIKELIHOODS[likelihood], objective, encoder, decoder or encoder, scale)
    assert can_stack(blueprint.build(seeded()), objective) is expected
