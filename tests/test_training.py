"""The one training loop: players, averaging, early stopping, history."""

from __future__ import annotations

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from helpers import column_moments, seeded
from torch import nn

from skvae import ELBO, IWAE, MLP, Gaussian
from skvae._state import Blueprint
from skvae._tables.batches import Batch, to_rows
from skvae._training import parameters as trained
from skvae._training.held_out import Judge, held_out_mean, winsorised_mean
from skvae._training.loop import DivergedError, Training, TrainingSettings, average_weight, train
from skvae._training.parameters import Player, make_players
from skvae._training.solvers import SOLVERS
from skvae.objectives import Objective, Turn
from skvae.priors import Normal

ADAM = partial(SOLVERS["adam"], lr=1e-2)
SGD = partial(torch.optim.SGD, lr=0.1)


def parameters(*shapes, seed=0):
    rng = seeded(seed)
    return [nn.Parameter(torch.randn(*shape, generator=rng)) for shape in shapes]


def model_and_rows(objective=None, n_rows=60, seed=0, weight=None):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(n_rows, 4))
    scale = Gaussian().scale(column_moments(X))
    network = MLP((6,), "tanh")
    model = (
        Blueprint(4, 2, Gaussian(), objective or ELBO(), Normal(), network, network, scale).build(seeded(seed)).float()
    )
    return model, to_rows(X, scale, weight)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def plan(max_iter, **kw):
    return TrainingSettings(**{"solver": ADAM, "batch_size": 20, "max_iter": max_iter, **kw})


class Scripted(Objective):
    """Every epoch adds about one to each parameter; the monitored value follows a script, one entry an evaluation."""

    def __init__(self, script, ramp_epochs=0):
        self.script = list(script)
        self.ramp_epochs = ramp_epochs

    @property
    def ramp(self):
        return self.ramp_epochs

    def __call__(self, model, batch, rng, epoch):
        return {"loss": -sum(p.sum() for p in model.parameters())}

    def monitor(self, model, batch, rng):
        return torch.full((len(batch),), float(self.script.pop(0)))


def scripted(script, ramp_epochs=0, patience=math.inf, max_iter=None, average=False):
    """The report, the model's states at every epoch and its state at the end."""
    model, rows = model_and_rows()
    held_out = Batch(torch.zeros(2000, 4))  # one evaluation an epoch
    states = [state(model)]
    report = train(
        model,
        Scripted(script, ramp_epochs),
        rows,
        TrainingSettings(SGD, len(rows), max_iter or len(script) - 1, patience=patience, average=average),
        seeded(),
        held_out,
        lambda epoch: states.append(state(model)) or False,
    )
    return report, states, state(model)


# Players


def test_parameters_and_gradients_are_views_into_one_vector():
    group = parameters((3, 2), (3,))
    before = [p.detach().clone() for p in group]
    player = Player(Turn(group, None), SGD)
    assert player.vector.shape == (9,)
    assert all(torch.equal(p, b) for p, b in zip(group, before, strict=True))
    with torch.no_grad():
        player.vector.fill_(7.0)
    player.vector.grad.fill_(3.0)
    assert all(bool((p == 7).all()) and bool((p.grad == 3).all()) for p in group)


def test_a_step_on_the_vector_is_a_step_on_each_parameter():
    flat, apart = parameters((3, 2), (3,)), parameters((3, 2), (3,))
    player, solver = Player(Turn(flat, None), ADAM), torch.optim.Adam(apart, lr=1e-2)
    for _ in range(5):
        player.backward(sum(p.pow(4).sum() for p in flat), only=True)
        player.step(1.0)
        solver.zero_grad()
        sum(p.pow(4).sum() for p in apart).backward()
        solver.step()
    for one, other in zip(flat, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


class Shared(Scripted):
    def players(self, model):
        everything = list(model.parameters())
        return [Turn(everything, self), Turn(everything[:1], self)]


def test_groups_that_share_a_parameter_are_refused():
    model, _ = model_and_rows()
    with pytest.raises(
        ValueError, match=r"Shared\.players gives one parameter to two players; groups must be disjoint"
    ):
        make_players(model, Shared([]), SGD)


class Opposed(Objective):
    """The encoder's player lowers the sum of all weights, the decoder's raises it."""

    def __call__(self, model, batch, rng, epoch):
        total = sum(p.sum() for net in (model.encoder, model.decoder) for p in net.parameters())
        return {"loss": total, "rise": -total}

    def players(self, model):
        return [
            Turn(list(model.encoder.parameters()), self),
            Turn(list(model.decoder.parameters()), self, "rise"),
        ]


def test_players_with_opposed_losses_move_only_their_own_parameters():
    model, rows = model_and_rows(Opposed())
    before = state(model)
    train(model, Opposed(), rows, TrainingSettings(SGD, len(rows), 1, average=False), seeded())
    for name, value in state(model).items():
        moved = {"encoder": -0.1, "decoder": 0.1}.get(name.split(".")[0], 0.0)
        torch.testing.assert_close(value - before[name], torch.full_like(value, moved), rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", ["adam", "adagrad", "rmsprop", "sgd"])
def test_every_solver_moves_each_player_down_its_own_loss(solver):
    model, rows = model_and_rows(Opposed())
    before = state(model)
    train(
        model,
        Opposed(),
        rows,
        TrainingSettings(partial(SOLVERS[solver], lr=1e-3), len(rows), 1, average=False),
        seeded(),
    )
    for name, value in state(model).items():
        if name.startswith(("encoder", "decoder")):
            assert bool((torch.sign(value - before[name]) == (-1 if name.startswith("encoder") else 1)).all()), name


class Selfish(Opposed):
    """Both players' gradients are non-zero for both groups; only the group's own may arrive."""

    def __call__(self, model, batch, rng, epoch):
        total = sum(p.square().sum() for net in (model.encoder, model.decoder) for p in net.parameters())
        return {"loss": total, "rise": -total}


def test_two_players_equal_two_separate_optimisers():
    """One Adam over both groups would add the losses and cancel every gradient."""
    model, rows = model_and_rows(Selfish())
    twin, _ = model_and_rows(Selfish())
    train(model, Selfish(), rows, TrainingSettings(ADAM, len(rows), 4, average=False), seeded())
    for network, sign in [(twin.encoder, 1), (twin.decoder, -1)]:
        solver = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(4):
            solver.zero_grad()
            (sign * sum(p.square().sum() for p in network.parameters())).backward()
            solver.step()
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


# Averaging


def test_average_is_a_power_weighted_mean_of_the_steps():
    """w_1 = p_1 and w_t = w_{t-1} + 10 / (9 + t) (p_t - w_{t-1})."""
    model, rows = model_and_rows()
    twin, _ = model_and_rows()
    train(model, ELBO(), rows, TrainingSettings(ADAM, 20, 3), seeded())

    path = []

    class Recording(torch.optim.Adam):
        def step(self, closure=None):
            super().step(closure)
            path.append(self.param_groups[0]["params"][0].detach().clone())

    train(
        twin,
        ELBO(),
        rows,
        TrainingSettings(lambda p: Recording(p, lr=1e-2, fused=True), 20, 3, average=False),
        seeded(),
    )
    average = torch.zeros_like(path[0])
    for t, vector in enumerate(path, start=1):
        average += min(1.0, 10 / (9 + t)) * (vector - average)
    found = torch.cat([p.detach().t().reshape(-1) if p.dim() == 2 else p.detach() for p in model.parameters()])
    assert len(path) == 9
    torch.testing.assert_close(found, average, rtol=1e-6, atol=1e-7)


def test_a_long_vector_is_averaged_every_few_steps(monkeypatch):
    """The weights of one step stand in for those since the last: the average stays near that of all steps."""
    found = {}
    for length in (trained.LONG_VECTOR, 0):
        monkeypatch.setattr(trained, "LONG_VECTOR", length)
        (player,) = make_players(model_and_rows()[0], ELBO(), ADAM)
        rng, path = seeded(), []
        for t in range(1, 101):
            player.vector.data += 0.1 * torch.randn(player.vector.shape, generator=rng)
            path.append(player.vector.detach().clone())
            player.step(average_weight(t))
        player.swap_average()
        found[length] = player.vector.detach().clone()
        assert (player.steps_an_average == 1) is (length > 0)
    every, few = found.values()
    spread = (torch.stack(path) - every).square().mean().sqrt()
    assert not torch.equal(every, few)
    assert (every - few).square().mean().sqrt() < 0.2 * spread
    # All of the weight is given out by an epoch's end, whatever the number of its steps.
    (player,) = make_players(model_and_rows()[0], ELBO(), ADAM)
    player.vector.data.fill_(3.0)
    player.vector.grad.zero_()
    player.step(average_weight(1))
    player.swap_average()
    torch.testing.assert_close(player.vector.detach(), torch.full_like(player.vector, 3.0))


def test_averaging_changes_what_is_kept_and_not_the_path():
    runs = []
    for average in (True, False):
        model, rows = model_and_rows()
        report = train(model, ELBO(), rows, plan(5, average=average), seeded())
        runs.append((report.history["loss"], state(model)))
    assert runs[0][0] == runs[1][0]
    assert not same(runs[0][1], runs[1][1])


# Early stopping


@pytest.mark.parametrize("best", [0, 1, 3, 4])
@pytest.mark.parametrize("average", [False, True])
def test_best_epoch_is_restored_bit_by_bit(best, average):
    script = [-5.0, -4.0, -6.0, -3.0, -7.0]
    script[best] = 1.0
    report, states, final = scripted(script, average=average)
    assert report.best == best
    assert report.n_iter == 4
    assert same(final, states[best])
    assert best == 4 or not same(final, states[4])


def test_held_out_curve_starts_with_the_untrained_model():
    report, _, _ = scripted([-5.0, -4.0, -6.0])
    assert report.held_out == [-5.0, -4.0, -6.0]


def test_patience_counts_epochs_since_the_best():
    report, _, _ = scripted([0, 1, 2, 1, 1, 1, 5], patience=3)
    assert (report.n_iter, report.best) == (5, 2)


def test_patience_starts_after_the_ramp():
    report, _, _ = scripted([9, 1, 1, 1, 1, 1, 1, 1], patience=2, ramp_epochs=4)
    assert report.n_iter == 6


def test_an_equal_value_is_no_improvement():
    report, _, _ = scripted([1, 1, 1], patience=2)
    assert (report.n_iter, report.best) == (2, 0)


def test_an_undefined_held_out_value_is_never_the_best():
    report, _, _ = scripted([0, math.nan, math.inf, -1])
    assert report.best == 0
    assert report.held_out[1:3] == [-math.inf, -math.inf]


def test_without_held_out_rows_the_last_epoch_is_kept():
    model, rows = model_and_rows()
    seen = []
    report = train(model, ELBO(), rows, plan(4), seeded(), on_epoch=lambda epoch: seen.append(state(model)))
    assert (report.n_iter, report.best, report.held_out) == (4, 4, [])
    assert same(state(model), seen[-1])


def test_on_epoch_stops_training_by_returning_true():
    model, rows = model_and_rows()
    numbers = []
    report = train(
        model, ELBO(), rows, plan(9), seeded(), on_epoch=lambda epoch: numbers.append(epoch.number) or epoch.number == 3
    )
    assert numbers == [1, 2, 3]
    assert report.n_iter == 3


def judged(*epochs, weight=None):
    """The levels of epochs of which each has one value for every row, and the epoch that is kept."""
    left, levels, best = [np.array(values, dtype=float) for values in epochs], [], 0
    judge = Judge(lambda: left.pop(0), weight)
    for epoch in range(len(epochs)):
        levels.append(judge.level(levels[best] if levels else None))
        if epoch and levels[epoch] > levels[best]:
            best = epoch
            judge.keep()
    return levels, best


@pytest.mark.parametrize("lost", [1.0, 1e3, 1e300, np.inf, np.nan])
@pytest.mark.parametrize("n_rows", [3, 20, 143])
def test_one_held_out_row_does_not_decide(n_rows, lost):
    start = np.random.default_rng(0).normal(size=n_rows)
    later = start + 1
    later[1] -= lost
    levels, best = judged(start, later)
    assert best == 1
    assert levels[1] == pytest.approx(start.mean() + 1)
    assert judged(later, start)[1] == 0


def test_a_group_of_held_out_rows_does_decide():
    start = np.zeros(100)
    later = np.where(np.arange(100) < 5, -100.0, 1.0)
    assert judged(start, later)[1] == 0


def test_a_held_out_row_without_a_value_from_the_start_has_no_say():
    start = np.r_[-np.inf, np.zeros(40)]
    levels, best = judged(start, start + 1, start + 0.5)
    assert best == 1
    assert np.isfinite(levels).all()


def test_held_out_rows_that_agree_are_judged_by_their_mean():
    start = np.random.default_rng(0).normal(size=60)
    levels, best = judged(start, start + 0.3, start - 0.1, start + 0.5)
    np.testing.assert_allclose(levels, start.mean() + np.array([0, 0.3, -0.1, 0.5]))
    assert best == 3


def test_a_winsorised_mean_moves_the_outermost_values_to_the_nearest_of_the_others():
    values = np.random.default_rng(0).permutation(np.r_[-1e9, -5.0, np.linspace(-1, 1, 97), 7.0])
    assert winsorised_mean(values) == pytest.approx(np.clip(values, -1, np.linspace(-1, 1, 97)[-2]).mean(), abs=1e-12)
    assert winsorised_mean(values[:2]) == values[:2].mean()
    assert winsorised_mean(np.array([1.0, 2.0, 90.0])) == 2


def test_a_row_of_weight_two_is_judged_like_two_rows():
    rng = np.random.default_rng(0)
    values, copies = rng.standard_cauchy(80), rng.integers(1, 4, 80)
    weighted = winsorised_mean(values, copies.astype(float))
    assert weighted == pytest.approx(winsorised_mean(np.repeat(values, copies)))


def test_held_out_mean_is_weighted_and_the_same_at_every_call():
    model, rows = model_and_rows(n_rows=2000)
    first, again = (held_out_mean(model, ELBO(), rows, 3) for _ in range(2))
    assert first == again
    weight = torch.rand(2000, generator=seeded())
    weighted = Batch(rows.x, weight=weight)
    with torch.no_grad():
        values = ELBO().monitor(model, rows, seeded(3)).double()
    assert held_out_mean(model, ELBO(), weighted, 3) == pytest.approx(float((weight * values).sum() / weight.sum()))


# Loss and history


class RowLoss(Objective):
    """A loss of known values: the first column of x, without a slope worth naming."""

    def __call__(self, model, batch, rng, epoch):
        nothing = 0.0 * sum(p.sum() for p in model.parameters())
        return {"loss": batch.x[:, 0] + nothing, "scalar": nothing + epoch, "squares": batch.x[:, 0].square()}


@pytest.mark.parametrize("weighted", [False, True])
def test_history_holds_the_weighted_mean_of_every_term_over_all_rows(weighted):
    weight = np.linspace(0.1, 1.9, 57) if weighted else None
    model, rows = model_and_rows(n_rows=57, weight=weight)
    report = train(model, RowLoss(), rows, plan(3), seeded())
    x = rows.x[:, 0].double().numpy()
    assert report.history.keys() == {"loss", "scalar", "squares"}
    np.testing.assert_allclose(report.history["loss"], [np.average(x, weights=weight)] * 3, atol=1e-6)
    np.testing.assert_allclose(report.history["squares"], [np.average(x**2, weights=weight)] * 3, rtol=1e-5)
    np.testing.assert_allclose(report.history["scalar"], [1, 2, 3], rtol=1e-6)


def test_gradient_of_a_weighted_batch_is_that_of_its_weighted_mean():
    weight = np.array([3.0, 0.5, 0.25, 0.25])
    model, rows = model_and_rows(n_rows=4, weight=weight)
    twin, _ = model_and_rows(n_rows=4)
    repeated = rows.take(torch.tensor([0] * 12 + [1] * 2 + [2, 3]))
    repeated.weight = None
    for m, r in [(model, rows), (twin, repeated)]:
        train(m, Weightless(), r, TrainingSettings(SGD, 99, 1, average=False), seeded())
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Weightless(Objective):
    """Reconstruction error of the mean code: no draws, so that batches of other sizes compare."""

    def __call__(self, model, batch, rng, epoch):
        return {"loss": -model.log_prob(model.encode(batch.x)[0], batch.x).sum(-1)}


def test_training_lowers_the_loss():
    model, rows = model_and_rows()
    losses = train(model, ELBO(), rows, plan(40), seeded()).history["loss"]
    assert losses[-1] < losses[0] - 0.5


def test_model_is_left_in_evaluation_mode():
    model, rows = model_and_rows()
    train(model, ELBO(), rows, plan(1), seeded())
    assert not model.training


# Failure and continuation


class Explosive(Objective):
    def __init__(self, bad_epoch):
        self.bad_epoch = bad_epoch

    def __call__(self, model, batch, rng, epoch):
        total = sum(p.square().sum() for p in model.parameters())
        return {"loss": total * (math.nan if epoch == self.bad_epoch else 1.0)}


def test_a_first_epoch_that_diverges_is_an_error():
    model, rows = model_and_rows()
    with pytest.raises(DivergedError):
        train(model, Explosive(1), rows, plan(3), seeded())


def test_a_later_epoch_that_diverges_ends_training_with_the_last_good_weights():
    model, rows = model_and_rows()
    seen = []
    report = train(model, Explosive(3), rows, plan(9), seeded(), on_epoch=lambda epoch: seen.append(state(model)))
    assert (report.diverged, report.n_iter, report.best) == (3, 2, 2)
    assert len(report.history["loss"]) == 2
    assert same(state(model), seen[-1])


@pytest.mark.parametrize("solver", ["adam", "adagrad", "rmsprop", "sgd"])
def test_solver_state_carried_over_equals_an_uninterrupted_run(solver):
    make = partial(SOLVERS[solver], lr=1e-3)
    whole, rows = model_and_rows()
    parts, _ = model_and_rows()
    one = TrainingSettings(make, len(rows), 4, average=False)
    train(whole, Weightless(), rows, one, seeded())
    carried = None
    for _ in range(4):
        report = train(
            parts,
            Weightless(),
            rows,
            TrainingSettings(make, len(rows), 1, average=False),
            seeded(),
            solver_state=carried,
        )
        carried = report.solver_state
        assert all(isinstance(v, (np.ndarray, float, int, str, type(None))) for s in carried for v in s.values())
    for one_p, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one_p, other, rtol=1e-5, atol=1e-6)


def test_the_same_generator_gives_the_same_model():
    ends = []
    for seed in (0, 0, 1):
        model, rows = model_and_rows()
        train(model, ELBO(), rows, plan(3), seeded(seed))
        ends.append(state(model))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


# Stopping and going on


class Fresh:
    """A new model each time, of other weights than the last: all that it knows of the past is what it is given."""

    def __init__(self, objective, solver=ADAM, average=True, patience=math.inf, held_out=True):
        self.objective, self.seed = objective, 0
        _, rows = model_and_rows(objective, n_rows=80)
        self.rows, self.held_out = rows.take(torch.arange(60)), rows.take(torch.arange(60, 80)) if held_out else None
        self.settings = TrainingSettings(solver, 20, 12, average=average, patience=patience)

    def __call__(self, progress=None):
        self.seed += progress is not None
        model, _ = model_and_rows(self.objective)
        rng = seeded(5 + self.seed)
        if progress is not None:
            for parameter in model.parameters():
                parameter.data.normal_(generator=rng)
        return Training(model, self.objective, self.rows, self.settings, rng, self.held_out, progress=progress)


def in_parts(fresh, ends):
    """Training that stops after each of `ends`, is pickled, and goes on with another model and generator."""
    training = fresh()
    for end in ends:
        training.run(end)
        if not training.over:
            training = fresh(pickle.loads(pickle.dumps(training.progress())))
    training.run()
    return training


def assert_same_end(parts, whole):
    assert parts.over
    assert whole.over
    one, other = parts.finish(), whole.finish()
    assert same(state(parts.model), state(whole.model))
    for name in ("n_iter", "best", "history", "held_out", "diverged"):
        assert getattr(one, name) == getattr(other, name), name
    assert torch.equal(parts.rng.get_state(), whole.rng.get_state())
    for a, b in zip(one.solver_state, other.solver_state, strict=True):
        assert repr(a) == repr(b)


RUNS = {
    "dense": {"objective": ELBO()},
    "several draws": {"objective": ELBO(n_draws=2, beta=2.0, warmup=5)},
    "autograd": {"objective": IWAE(2)},
    "nothing held out": {"objective": ELBO(), "held_out": False},
    "last weights": {"objective": ELBO(), "average": False},
    "adagrad": {"objective": ELBO(), "solver": partial(SOLVERS["adagrad"], lr=1e-2)},
    "rmsprop": {"objective": ELBO(), "solver": partial(SOLVERS["rmsprop"], lr=1e-3)},
    "sgd": {"objective": ELBO(), "solver": partial(SOLVERS["sgd"], lr=1e-3)},
    "torch's adam": {"objective": ELBO(), "solver": partial(torch.optim.AdamW, lr=1e-2, amsgrad=True)},
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("ends", [[5], [1, 2, 11]], ids=str)
def test_training_that_stops_and_goes_on_ends_as_if_it_had_not(name, ends):
    whole = Fresh(**RUNS[name])()
    whole.run()
    assert_same_end(in_parts(Fresh(**RUNS[name]), ends), whole)


def test_two_players_stop_and_go_on():
    whole = Fresh(Selfish(), held_out=False)()
    whole.run()
    assert_same_end(in_parts(Fresh(Selfish(), held_out=False), [4]), whole)


def test_patience_counts_on_where_training_stopped():
    """The best epoch lies before the stop, and the patience ends after it."""
    settings = {"objective": ELBO(), "solver": partial(SOLVERS["adam"], lr=0.5), "patience": 6}
    whole = Fresh(**settings)()
    whole.run()
    best = whole.result.best
    assert whole.epoch == best + 6 < 12
    parts = in_parts(Fresh(**settings), [best + 2, best + 5])
    assert parts.epoch == whole.epoch
    assert_same_end(parts, whole)


def test_a_stop_changes_nothing_of_what_was_there_before():
    fresh = Fresh(ELBO())
    first = fresh()
    first.run(4)
    progress = first.progress()
    kept = pickle.dumps(progress)
    ends = []
    for _ in range(2):  # from the same progress
        training = fresh(progress)
        training.run()
        training.finish()
        ends.append(state(training.model))
    assert same(*ends)
    assert pickle.dumps(progress) == kept


def test_the_weights_kept_so_far_can_be_looked_at_in_between():
    seen = []
    fresh = Fresh(ELBO())
    training = fresh()
    training.run(4, on_epoch=lambda epoch: seen.append((epoch.best, state(training.model))) and False)
    best = seen[-1][0]
    assert training.finish().best == best
    assert same(state(training.model), seen[best - 1][1])


class Buffered(Objective):
    """A running count kept in a buffer, as batch normalisation keeps its mean."""

    offers = ELBO.offers

    def __init__(self, script=()):
        self.script = list(script)

    def modules(self, dims):
        module = nn.Module()
        module.register_buffer("count", torch.zeros(()))
        return {"counter": module}

    def __call__(self, model, batch, rng, epoch):
        model.extras["counter"].count += 1
        return {"loss": ELBO()(model, batch, rng, epoch)["loss"]}

    def monitor(self, model, batch, rng):
        return torch.full((len(batch),), float(self.script.pop(0)))


def test_buffers_are_restored_with_the_best_weights():
    script = [0, 1, 9, 1, 1]
    objective = Buffered(script)
    model, rows = model_and_rows(objective)
    train(model, objective, rows, plan(4, batch_size=len(rows)), seeded(), Batch(torch.zeros(2000, 4)))
    assert model.extras["counter"].count == 2


def test_buffers_go_on_from_where_they_stopped():
    fresh = Fresh(Buffered(), held_out=False)
    whole = fresh()
    whole.run()
    parts = in_parts(fresh, [5])
    assert parts.model.extras["counter"].count == whole.model.extras["counter"].count == 36
