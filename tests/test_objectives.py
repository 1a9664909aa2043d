"""The contract of training losses, run over every built-in objective in many settings."""

from __future__ import annotations

import copy
import math
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from helpers import rows_of, seeded
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import InvalidParameterError

from skvae import ELBO, IWAE, Gaussian, JohnsonSU, VAETransformer
from skvae.model import Dims
from skvae.objectives import OBJECTIVES, Batch, Clustered, Objective

VARIANTS = {
    "elbo": ELBO(),
    "sampled": ELBO("sampled"),
    "many draws": ELBO(n_draws=4),
    "sampled, many draws": ELBO("sampled", n_draws=4),
    "beta": ELBO(beta=4.0),
    "no kl": ELBO(beta=0.0),
    "warmup": ELBO(beta=2.0, warmup=5),
    "free bits": ELBO(free_bits=0.3),
    "input noise": ELBO(input_noise=0.2),
    "iwae": IWAE(),
    "iwae 1": IWAE(1),
}
every_variant = pytest.mark.parametrize("name", VARIANTS)
N, D, J = 12, 4, 2


def table(n_rows=N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, J)) @ rng.normal(size=(J, D)) + 0.3 * rng.normal(size=(n_rows, D))


@cache
def fitted():
    return VAETransformer(
        J,
        hidden_layer_sizes=(3,),
        activation="tanh",
        max_iter=30,
        learning_rate_init=1e-2,
        early_stopping=False,
        random_state=0,
    ).fit(table(100))


def model_and_rows(missing=False, weight=None, n_rows=N):
    X = table(n_rows, seed=1)
    if missing:
        X[np.random.default_rng(2).random(X.shape) < 0.3] = np.nan
    vae = fitted()
    rows = rows_of(vae, X, weight)
    return copy.deepcopy(vae.module_).requires_grad_(True), rows


def test_a_short_name_is_that_of_a_class_at_its_defaults():
    made = {name: make() for name, make in OBJECTIVES.items()}
    assert repr(made.pop("input_noise")) == "ELBO(input_noise=0.05)"
    for name, objective in made.items():
        assert type(objective).__name__.lower() == name
        assert repr(objective) == f"{type(objective).__name__}()"


@every_variant
def test_hooks_have_their_types(name):
    objective = VARIANTS[name]
    model, _ = model_and_rows()
    before = copy.deepcopy(model.state_dict())
    assert isinstance(objective, Objective)
    assert objective.offers == {"posterior", "prior", "density"}
    assert objective.target is None
    assert objective.modules(Dims(D, J, D, D)) == {}
    assert objective.start(model, model_and_rows()[1], seeded()) is None
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    [turn] = objective.players(model)
    assert {id(p) for p in turn.parameters} == {id(p) for p in model.parameters()}
    assert turn.terms is objective
    assert turn.loss == "loss"
    assert callable(objective.monitor)
    assert objective.ramp == getattr(objective, "warmup", 0)


@every_variant
def test_frozen_parameters_are_left_to_no_player(name):
    model, _ = model_and_rows()
    model.decoder.requires_grad_(False)
    [turn] = VARIANTS[name].players(model)
    frozen = {id(p) for p in model.decoder.parameters()}
    assert not frozen & {id(p) for p in turn.parameters}


@every_variant
@pytest.mark.parametrize("missing", [False, True])
def test_terms_are_finite_and_one_a_row(name, missing):
    model, rows = model_and_rows(missing)
    terms = VARIANTS[name](model, rows, seeded(), 1)
    expected = {"loss"} if name.startswith("iwae") else {"loss", "reconstruction", "kl"}
    assert terms.keys() == expected
    for key, term in terms.items():
        # Free bits are a property of the batch, so their loss is one number.
        assert term.shape == (() if (name, key) == ("free bits", "loss") else (N,)), key
        assert bool(term.isfinite().all()), key


@every_variant
@pytest.mark.parametrize("missing", [False, True])
def test_monitor_is_one_finite_number_a_row(name, missing):
    model, rows = model_and_rows(missing)
    values = VARIANTS[name].monitor(model, rows, seeded())
    assert values.shape == (N,)
    assert bool(values.isfinite().all())


@every_variant
def test_draws_follow_the_generator(name):
    model, rows = model_and_rows()
    first, again, other = (VARIANTS[name](model, rows, seeded(s), 1)["loss"] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "free bits"])
def test_a_row_alone_has_the_loss_it_has_among_others(name, any_seed):
    """In distribution: the mean over many draws of one row, alone and as copies in one batch."""
    model, rows = model_and_rows(n_rows=1)
    copies = rows.take(torch.zeros(4000, dtype=torch.int64))
    rng = seeded(any_seed)
    with torch.no_grad():
        alone = torch.stack([VARIANTS[name](model, rows, rng, 1)["loss"][0] for _ in range(400)])
        among = VARIANTS[name](model, copies, rng, 1)["loss"]
    error = math.sqrt(float(alone.var() / 400 + among.var() / 4000))
    assert abs(float(alone.mean() - among.mean())) < 5 * error + 1e-9


@pytest.mark.parametrize("name", ["elbo", "sampled", "many draws", "beta", "warmup"])
def test_loss_is_the_weighted_sum_of_its_terms(name):
    objective = VARIANTS[name]
    model, rows = model_and_rows()
    terms = objective(model, rows, seeded(), 3)
    beta = objective.beta * (3 / 5 if objective.warmup else 1)
    torch.testing.assert_close(terms["loss"], beta * terms["kl"] - terms["reconstruction"])


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.2), (2, 0.4), (5, 1.0), (6, 1.0), (100, 1.0)])
def test_beta_rises_linearly_over_the_warmup_and_stays(epoch, share):
    model, rows = model_and_rows()
    terms = ELBO(beta=2.0, warmup=5)(model, rows, seeded(), epoch)
    torch.testing.assert_close(terms["loss"], 2.0 * share * terms["kl"] - terms["reconstruction"])


@pytest.mark.parametrize("objective", [Clustered(2, warmup=3), ELBO(warmup=4)], ids=repr)
def test_an_objective_that_never_comes_to_its_final_form_is_told(iris, objective):
    with pytest.warns(ConvergenceWarning, match="its final form from epoch 4 on, and max_iter=3. Raise"):
        VAETransformer(1, objective=objective, max_iter=3, random_state=0).fit(iris)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VAETransformer(1, objective=objective, max_iter=4, random_state=0).fit(iris)


def test_monitor_during_warmup_is_at_the_final_beta():
    model, rows = model_and_rows()
    objective = ELBO(beta=2.0, warmup=50)
    terms = objective(model, rows, seeded(), 1)
    torch.testing.assert_close(
        objective.monitor(model, rows, seeded()), terms["reconstruction"] - 2.0 * terms["kl"], rtol=1e-12, atol=1e-12
    )


def test_monitor_of_the_elbo_is_minus_its_loss_free_bits_included():
    model, rows = model_and_rows()
    objective = ELBO(free_bits=3.0)
    loss = objective(model, rows, seeded(), 1)["loss"]
    torch.testing.assert_close(objective.monitor(model, rows, seeded()).mean(), -loss)
    assert not objective.is_bound


def test_monitor_of_the_iwae_is_its_bound():
    model, rows = model_and_rows()
    loss = IWAE(7)(model, rows, seeded(), 1)["loss"]
    assert torch.equal(IWAE(7).monitor(model, rows, seeded()), -loss)


@pytest.mark.parametrize("missing", [False, True])
def test_bound_of_the_iwae_is_the_logarithm_of_the_mean_weight(missing):
    """Burda et al. 2016, eq. 8: a sum in place of the mean would be log S higher, and no bound."""
    model, rows = model_and_rows(missing)
    eps = torch.randn(7, N, J, generator=seeded(), dtype=torch.float64)
    expected = model.log_weights(rows.x, eps, rows.mask).total.exp().mean(0).log()
    torch.testing.assert_close(IWAE(7).bound(model, rows, seeded()), expected, rtol=1e-10, atol=1e-10)


def test_more_draws_average_the_reconstruction():
    model, rows = model_and_rows()
    with torch.no_grad():
        many = ELBO(n_draws=3)(model, rows, seeded(), 1)["reconstruction"]
        rng = seeded()
        eps = torch.randn(3, N, J, generator=rng, dtype=torch.float64)
        mu, log_var = model.encode(rows.x)
        each = [model.log_prob(mu + torch.exp(0.5 * log_var) * e, rows.x).sum(-1) for e in eps]
    torch.testing.assert_close(many, torch.stack(each).mean(0))


@pytest.mark.parametrize("likelihood", ["gaussian", Gaussian("shared"), Gaussian("decoder"), JohnsonSU()], ids=repr)
@pytest.mark.parametrize("missing", [False, True])
def test_input_noise_is_the_plain_bound_of_rows_with_that_noise(likelihood, missing):
    """Noise of a share of the variance, in the units that the encoder sees, drawn before the latents' draws."""
    X = table(100)
    X[np.random.default_rng(2).random(X.shape) < (0.3 if missing else 0.0)] = np.nan
    vae = VAETransformer(J, likelihood=likelihood, hidden_layer_sizes=(3,), max_iter=3, random_state=0).fit(X)
    model, rows = vae.module_, rows_of(vae, X)
    rng = seeded()
    noise = math.sqrt(0.2) * torch.randn(rows.x.shape, generator=rng, dtype=torch.float64)
    noisy = Batch(model.likelihood.encoding.add_noise(rows.x, noise), rows.mask)
    seen = [model.likelihood.encoding.encode(r.x) for r in (noisy, rows)]
    torch.testing.assert_close(seen[0] - seen[1], noise, rtol=1e-9, atol=1e-9)
    expected = ELBO()(model, noisy, rng, 1)
    found = ELBO(input_noise=0.2)(model, rows, seeded(), 1)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def test_input_noise_has_the_variance_it_is_given(any_seed):
    model, _ = model_and_rows()
    rows = Batch(torch.zeros(40_000, D, dtype=torch.float64))
    noisy, compared = ELBO(input_noise=0.3).views(model.units, rows, seeded(any_seed))
    assert compared is noisy
    np.testing.assert_allclose(noisy.x.var(0).numpy(), 0.3, rtol=5 * math.sqrt(2 / 40_000))
    assert float(noisy.x.mean(0).abs().max()) < 5 * math.sqrt(0.3 / 40_000)
    assert float(rows.x.abs().max()) == 0


def test_without_input_noise_rows_and_draws_are_as_ever():
    model, rows = model_and_rows()
    rng = seeded()
    assert all(view is rows for view in ELBO().views(model.units, rows, rng))
    assert torch.equal(rng.get_state(), seeded().get_state())


def test_input_noise_leaves_the_batchs_weights_and_targets():
    model, rows = model_and_rows(missing=True, weight=np.linspace(0.5, 1.5, N))
    noisy, compared = ELBO(input_noise=0.3).views(model.units, rows, seeded())
    assert compared is noisy
    assert noisy.mask is rows.mask
    assert noisy.weight is rows.weight


def test_the_bound_of_noisy_rows_is_no_bound_on_the_likelihood_of_rows():
    assert ELBO().is_bound
    assert not ELBO(input_noise=0.1).is_bound


def test_input_noise_starts_at_the_linear_model_of_noisy_rows():
    """Of standardised columns: the noise's variance is added to the diagonal of their covariance."""
    X = table(200)
    shared = {"hidden_layer_sizes": (), "max_iter": 1, "learning_rate_init": 1e-12, "early_stopping": False}
    for likelihood in (Gaussian(), Gaussian("shared"), JohnsonSU()):
        vae = VAETransformer(J, likelihood=likelihood, objective=ELBO(input_noise=0.4), random_state=0, **shared)
        density = vae.fit(X).module_.likelihood
        rows = rows_of(vae, X)
        seen = density.encoding.encode(rows.x).numpy()
        cov = np.cov(seen.T, bias=True) + 0.4 * np.eye(D)
        unit = getattr(density, "unit", torch.ones(1)).numpy()
        W = unit[:, None] * vae.module_.decoder.linear.weight.numpy()
        implied = W @ W.T + np.diag(np.broadcast_to(density.log_noise.detach().exp().numpy(), (D,)))
        np.testing.assert_allclose(np.trace(implied), np.trace(cov), rtol=1e-4)
        if likelihood.get_params().get("noise") != "feature":
            values = np.linalg.eigvalsh(cov)[::-1]
            np.testing.assert_allclose(np.linalg.eigvalsh(implied)[::-1][:J], values[:J], rtol=1e-4)
            assert density.log_noise.exp().item() == pytest.approx(values[J:].mean(), rel=1e-4)


def test_input_noise_makes_a_model_of_the_smoothed_table(any_seed):
    """The variance that the model draws is the table's and the noise's."""
    X = np.random.default_rng(any_seed).normal(size=(2000, 3)) * [1.0, 5.0, 0.2]
    vae = VAETransformer(1, objective=ELBO(input_noise=0.5), max_iter=5, random_state=any_seed).fit(X)
    drawn = vae.sample(20_000, random_state=any_seed).var(axis=0)
    np.testing.assert_allclose(drawn / X.var(axis=0), 1.5, rtol=0.08)


def test_bernoulli_refuses_input_noise_and_the_previous_model_stays():
    X = (table(60) > 0).astype(float)
    vae = VAETransformer(1, likelihood="bernoulli", max_iter=2, random_state=0).fit(X)
    before = vae.transform(X)
    with pytest.raises(ValueError, match="to which no noise can be added; use objective='elbo'"):
        vae.set_params(objective="input_noise").fit(X)
    np.testing.assert_array_equal(vae.transform(X), before)


@pytest.mark.parametrize("weight", [None, np.linspace(0.25, 1.75, N)])
def test_free_bits_equal_a_hand_computation(weight):
    """sum_j max(lambda, mean over the batch of KL_j): each latent's own average, then the floor, then the sum."""
    model, rows = model_and_rows(weight=weight)
    with torch.no_grad():
        model.encoder.linear.weight[1] = 0
        model.encoder.linear.weight[J + 1] = 0
        model.encoder.body[-1].weight[1] = 0
        model.encoder.body[-1].weight[J + 1] = 0
        emitted = model.emit(rows, rows, seeded())
        reconstruction, kl = model.reconstruction(emitted.outputs, rows), model.kl(emitted)
    mean = np.average(kl.numpy(), axis=0, weights=weight)
    expected_reconstruction = np.average(reconstruction.numpy(), weights=weight)
    bits = float(mean.mean())
    assert mean.min() < bits < mean.max()
    penalty = np.maximum(mean, bits).sum()
    found = ELBO(free_bits=bits)(model, rows, seeded(), 1)["loss"].detach()
    np.testing.assert_allclose(found.numpy(), penalty - expected_reconstruction, rtol=1e-10)


def test_free_bits_leave_a_latent_below_them_without_a_slope():
    model, rows = model_and_rows()
    loss = ELBO(free_bits=1000.0)(model, rows, seeded(), 1)
    penalty = (loss["loss"] + loss["reconstruction"]).mean()
    grads = torch.autograd.grad(penalty, list(model.encoder.parameters()), allow_unused=True)
    assert all(g is None or float(g.abs().max()) < 1e-12 for g in grads)


@every_variant
@pytest.mark.parametrize("missing", [False, True])
def test_gradients_equal_finite_differences(name, missing):
    weight = np.linspace(0.5, 1.5, N)
    model, rows = model_and_rows(missing, weight)

    def loss():
        return rows.mean(VARIANTS[name](model, rows, seeded(), 2)["loss"])

    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss(), parameters)
    step, rng = 1e-6, np.random.default_rng(0)
    for parameter, grad in zip(parameters, grads, strict=True):
        for flat in rng.choice(parameter.numel(), min(3, parameter.numel()), replace=False):
            i = np.unravel_index(flat, parameter.shape)
            values = []
            for sign in (1, -1):
                parameter.data[i] += sign * step
                with torch.no_grad():
                    values.append(loss().item())
                parameter.data[i] -= sign * step
            assert grad[i].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-6)


@every_variant
def test_missing_cells_add_nothing(name):
    """What stands in a masked cell is of no account."""
    model, rows = model_and_rows(missing=True)
    other = Batch(torch.where(rows.mask > 0, rows.x, torch.full_like(rows.x, 99.0)), rows.mask)
    one, two = (VARIANTS[name](model, r, seeded(), 1)["loss"] for r in (rows, other))
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@every_variant
def test_gradients_with_whole_rows_and_columns_missing_are_finite(name):
    model, rows = model_and_rows(missing=True)
    rows.mask[0] = 0
    rows.mask[:, 1] = 0
    rows.x *= rows.mask
    loss = rows.mean(VARIANTS[name](model, rows, seeded(), 1)["loss"])
    grads = torch.autograd.grad(loss, list(model.parameters()))
    assert all(bool(g.isfinite().all()) for g in grads)


@pytest.mark.parametrize("kl", ["analytic", "sampled"])
def test_a_row_without_any_cell_has_no_reconstruction_term(kl):
    model, rows = model_and_rows(missing=True)
    rows.mask[0] = 0
    terms = ELBO(kl)(model, rows, seeded(), 1)
    assert terms["reconstruction"][0] == 0
    torch.testing.assert_close(terms["loss"][0], terms["kl"][0])


def test_bound_of_the_iwae_is_finite_where_weights_underflow():
    model, rows = model_and_rows()
    far = Batch(rows.x * 1e3)
    bound = IWAE(5).bound(model, far, seeded()).detach()
    assert bool(bound.isfinite().all())
    assert float(bound.max()) < -1000


@pytest.mark.parametrize(
    "objective",
    [
        ELBO("exact"),
        ELBO(n_draws=0),
        ELBO(beta=-1.0),
        ELBO(warmup=-1),
        ELBO(free_bits=-0.1),
        ELBO(input_noise=-0.1),
        IWAE(0),
    ],
    ids=repr,
)
def test_wrong_hyperparameters_are_refused_in_fit(objective):
    with pytest.raises(InvalidParameterError, match=type(objective).__name__):
        VAETransformer(1, objective=objective, random_state=0).fit(table())


@every_variant
def test_every_variant_trains_through_the_estimator_and_scores(name):
    vae = VAETransformer(
        1, objective=clone(VARIANTS[name]), hidden_layer_sizes=(), max_iter=5, early_stopping=False, random_state=0
    ).fit(table(60))
    assert np.isfinite(vae.loss_curve_).all()
    assert math.isfinite(vae.score(table(60)))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_small_beta_leaves_latents_more_informative_than_a_large_one():
    found = {}
    for beta in (0.1, 20.0):
        vae = VAETransformer(2, objective=ELBO(beta=beta), max_iter=60, early_stopping=False, random_state=0)
        found[beta] = vae.fit(table(100)).latent_information_.sum()
    assert found[0.1] > found[20.0] + 1
