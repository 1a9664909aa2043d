"""Priors that are learnt with the model: their starts, their densities, and what estimators do with them."""

from __future__ import annotations

import copy
import math
import pickle
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers import ROUTES, answers, assert_same, make, rows_of, seeded, with_gaps
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from skvae import ELBO, IWAE, VAEAnomalyDetector, VAEImputer, VAETransformerCV
from skvae._tables.batches import ArrayTable, FileTable, Table, as_table
from skvae._tables.moments import Scale
from skvae._tables.sources import as_source
from skvae._torch import build_seeded
from skvae.objectives import Batch, OnePass
from skvae.priors import Mixture, MixturePrior, Vamp, VampPrior

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

LEARNT = {"mixture": Mixture(4), "vamp": Vamp(6)}
every_learnt = pytest.mark.parametrize("name", LEARNT)


@cache
def fitted(name, n_components=2, gaps=False):
    X = load_wine().data
    vae = make(n_components=n_components, prior=LEARNT[name], max_iter=15, hidden_layer_sizes=(16,))
    return vae.fit(with_gaps(X, 0.1) if gaps else X)


@cache
def gapped():
    return with_gaps(load_wine().data[::3], 0.2)


@cache
def said(name):
    return answers(fitted(name, gaps=True), gapped())


@torch.no_grad()
def by_torch(prior):
    """The same density by torch's own classes."""
    mean, log_var, log_weight = prior.modes()
    return MixtureSameFamily(Categorical(logits=log_weight), Independent(Normal(mean, torch.exp(log_var / 2)), 1))


def bare(n_components=2, n_modes=5, n_inputs=3):
    """A prior of pseudo-inputs, and the encoder it is bound to."""
    prior = build_seeded(lambda: VampPrior(n_components, n_inputs, n_modes), seeded(0)).double()
    weight = torch.randn(2 * n_components, n_inputs, generator=seeded(1), dtype=torch.float64)
    prior.bind(lambda seen: (seen @ weight.T).chunk(2, dim=1))
    return prior, weight


# Densities


def test_pseudo_inputs_of_a_fitted_model_are_encoded_once(monkeypatch):
    """However many blocks of rows are looked at, on whatever device and in whatever type the model lies."""
    X = np.random.RandomState(0).randn(60, 3)
    vae = make(prior=Vamp(4), n_components=3, max_iter=1).fit(X)
    expected, calls, encoded = vae.score_samples(X), [], VampPrior._encoded
    monkeypatch.setattr(VampPrior, "_encoded", lambda self: calls.append(1) or encoded(self))
    again = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(again.score_samples(X), expected)
    again.sample(3, random_state=0), again.score_samples(X[:7])
    assert len(calls) == 1
    module, origin = again.module_.float(), torch.zeros(1, 3)
    before = module.prior.log_prob(origin)
    module.requires_grad_(True).prior.seen.data += 1.0  # of a model that is trained the modes move
    assert module.prior.log_prob(origin) != before


@torch.no_grad()
def test_the_density_of_pseudo_inputs_is_the_mixture_of_their_posteriors():
    """By hand: 1/K sum_k N(z; mu(u_k), sigma^2(u_k))."""
    prior, weight = bare()
    z = 3 * torch.randn(50, 2, generator=seeded(2), dtype=torch.float64)
    mean, log_var = (prior.seen @ weight.T).chunk(2, dim=1)
    terms = Normal(mean, torch.exp(log_var / 2)).log_prob(z[:, None]).sum(-1)
    torch.testing.assert_close(prior.log_prob(z), torch.logsumexp(terms, 1) - math.log(5), rtol=1e-10, atol=1e-10)
    assert prior.kl(z, z) is None


@every_learnt
@torch.no_grad()
def test_the_density_is_torchs_mixture_with_narrow_modes_too(name):
    """In single precision, as in training, and far from all modes."""
    prior = copy.deepcopy(fitted(name).module_.prior).float()
    if name == "mixture":
        prior.log_var.fill_(-7)
        prior.mean.mul_(10)
    else:
        prior, _ = bare()
        prior.bind(lambda seen: (30 * seen[:, :2], -9 + seen[:, 1:]))
        prior = prior.float()
    z = torch.cat([prior.modes()[0], 40 * torch.randn(20, 2, generator=seeded(3), dtype=torch.float32)])
    exact = by_torch(copy.deepcopy(prior).double()).log_prob(z.double())
    found = prior.log_prob(z.reshape(1, -1, 2))
    assert found.shape == (1, len(z))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-5, atol=1e-3)


@torch.no_grad()
def test_pseudo_inputs_integrate_to_one_and_their_draws_have_the_moments(any_seed):
    prior, _ = bare()
    axis = torch.linspace(-30, 30, 1501, dtype=torch.float64)
    mass = prior.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=1e-6)
    z, expected = prior.sample(200_000, seeded(any_seed), torch.float64), by_torch(prior)
    error = (expected.variance / 200_000).sqrt()
    assert bool(((z.mean(0) - expected.mean).abs() < 5 * error).all())
    torch.testing.assert_close(z.var(0), expected.variance, rtol=0.05, atol=0)


@torch.no_grad()
def test_codes_without_a_spread_have_gaussians_of_scotts_width():
    prior, _ = bare(n_modes=40)
    prior.bind(lambda seen: (seen[:, :2], None))
    found = prior.modes()[1].exp()
    torch.testing.assert_close(found[0], prior.seen[:, :2].var(0, correction=0) * 40 ** (-2 / 6))
    assert bool((found == found[0]).all())


@every_learnt
@torch.no_grad()
def test_the_least_curvature_is_the_widest_modes(name):
    prior = fitted(name).module_.prior
    widest = prior.modes()[1].exp().max()
    assert prior.least_curvature == pytest.approx(1 / widest.item())


# Starts


class Codes:
    """A model whose encoder's means are the rows, with a spread that is given."""

    def __init__(self, var):
        self.var = var

    def seen(self, x, mask):
        return x if mask is None else x * mask

    def encode(self, x, mask=None):
        return self.seen(x, mask), None if self.var is None else torch.full_like(x, math.log(self.var))


def groups(n_rows=3000, seed=0):
    """Three groups in two dimensions, of shares .5, .3 and .2 and standard deviations .1, .2 and .3."""
    rng = np.random.default_rng(seed)
    group = rng.choice(3, n_rows, p=[0.5, 0.3, 0.2])
    centre, width = np.array([[-3.0, 0.0], [0.0, 3.0], [3.0, -3.0]]), np.array([0.1, 0.2, 0.3])
    return centre[group] + width[group][:, None] * rng.normal(size=(n_rows, 2))


def mixture(n_modes):
    return MixturePrior(2, n_modes)


def vamp(n_modes):
    return VampPrior(2, 2, n_modes)


def started(kind, n_modes, rows, var=0.04, seed=0):
    """A prior of two latents after its start."""
    prior = build_seeded(lambda: kind(n_modes), seeded(0))
    prior.bind(Codes(var).encode)
    prior.start(Codes(var), rows, seeded(seed))
    return prior


@pytest.mark.parametrize("var", [None, 0.04])
def test_a_mixture_starts_at_the_clusters_of_the_codes(any_seed, var):
    X = torch.tensor(groups(seed=any_seed), dtype=torch.float32)
    prior = started(mixture, 3, Batch(X), var, any_seed)
    order = prior.mean[:, 0].argsort()
    mean, log_var, log_weight = (values.detach()[order] for values in prior.modes())
    torch.testing.assert_close(mean, torch.tensor([[-3.0, 0.0], [0.0, 3.0], [3.0, -3.0]]), rtol=0, atol=0.08)
    torch.testing.assert_close(log_weight.exp(), torch.tensor([0.5, 0.3, 0.2]), rtol=0, atol=0.05)
    expected = torch.tensor([0.1, 0.2, 0.3])[:, None].expand(3, 2).square() + (var or 0)
    torch.testing.assert_close(log_var.exp(), expected, rtol=0.25, atol=0.005)


def test_weights_count_as_copies_of_rows_do():
    X = torch.tensor(groups(600), dtype=torch.float32)
    weight = torch.where(X[:, 0] < -1.5, 4.0, 1.0)
    prior = started(mixture, 3, Batch(X, weight=weight / weight.mean()))
    share = prior.modes()[2].exp().max().item()
    assert share == pytest.approx((weight * (X[:, 0] < -1.5)).sum().item() / weight.sum().item(), abs=1e-4)


def test_rows_without_weight_and_codes_that_are_no_numbers_make_no_clusters():
    X = torch.tensor(groups(60), dtype=torch.float32)
    odd = torch.cat([X, torch.tensor([[math.nan, 0.0], [900.0, 900.0]])])
    weight = torch.cat([torch.ones(61), torch.zeros(1)])
    torch.testing.assert_close(
        started(mixture, 3, Batch(odd, weight=weight)).modes(), started(mixture, 3, Batch(X)).modes()
    )


def test_codes_that_are_no_numbers_leave_the_start_alone():
    fresh = build_seeded(lambda: mixture(3), seeded(0))
    prior = started(mixture, 3, Batch(torch.full((9, 2), math.nan)))
    torch.testing.assert_close(prior.modes(), fresh.modes(), rtol=0, atol=0)


@pytest.mark.parametrize("var", [None, 0.04])
@pytest.mark.parametrize(("n_rows", "n_distinct"), [(2, 2), (50, 1), (50, 3)])
def test_fewer_rows_than_modes_are_enough(var, n_rows, n_distinct):
    X = torch.tensor(groups(n_distinct)[np.arange(n_rows) % n_distinct], dtype=torch.float32)
    for kind in (mixture, vamp):
        prior = started(kind, 7, Batch(X), var)
        mean, log_var, log_weight = prior.modes()
        assert len(torch.unique(mean.detach(), dim=0)) == n_distinct
        assert bool(log_var.isfinite().all())
        assert log_weight.exp().sum().item() == pytest.approx(1, abs=1e-6)
        assert bool(prior.log_prob(X).isfinite().all())


def test_pseudo_inputs_start_at_training_rows_as_the_encoder_sees_them():
    x = torch.tensor(groups(40), dtype=torch.float32)
    mask = (torch.rand(x.shape, generator=seeded(4), dtype=torch.float32) > 0.3).float()
    prior = started(vamp, 10, Batch(x, mask))
    known = {tuple(row) for row in (x * mask).tolist()}
    chosen = [tuple(row) for row in prior.seen.tolist()]
    assert set(chosen) <= known
    assert len(set(chosen)) == 10
    assert chosen != [tuple(row) for row in started(vamp, 10, Batch(x, mask), seed=1).seen.tolist()]


@pytest.mark.parametrize("kind", [mixture, vamp])
@pytest.mark.parametrize("where", ["memory", "elsewhere"])
def test_a_start_asks_for_a_part_of_a_long_table(kind, where, monkeypatch):
    X, taken = np.tile(groups(40_000), (60, 1)), []
    scale = Scale(np.zeros(2), np.ones(2))
    table = as_table(X if where == "memory" else as_source(sp.csr_array(X)), scale, None, None)
    assert type(table) is {"memory": ArrayTable, "elsewhere": FileTable}[where]
    monkeypatch.setattr(Table, "whole", lambda self: pytest.fail("the whole table was asked for"))
    convert = ArrayTable._converted
    monkeypatch.setattr(
        ArrayTable, "_converted", lambda self, X, *more: taken.append(len(X)) or convert(self, X, *more)
    )
    prior = started(kind, 3, table)
    assert sum(taken) < len(X) / 2
    if kind is mixture:
        assert sorted(prior.mean[:, 0].round().tolist()) == [-3, 0, 3]


@every_learnt
def test_a_start_that_is_kept_is_of_all_rows(name):
    """Where no epoch beats it the linear model is fitted anew to all rows, and the prior with it: its modes lie where
    the codes do."""
    X = load_iris().data
    kept = make(prior=LEARNT[name], max_iter=3, learning_rate_init=1.0).fit(X)
    assert kept.best_iter_ == 0
    with torch.no_grad():
        mean = kept.module_.prior.modes()[0]
        codes = kept.module_.encode(rows_of(kept, X).x)[0]
    distance = torch.cdist(mean, codes).amin(1)
    assert float(distance.max()) < (1e-5 if name == "vamp" else 0.3)
    plain = make(prior=LEARNT[name], max_iter=2, learning_rate_init=1e-9, early_stopping=False).fit(X)
    assert kept.score(X) == pytest.approx(plain.score(X), abs=0.02)


# In estimators


@every_learnt
def test_every_parameter_of_the_prior_is_trained(name):
    before, after = (
        make(prior=LEARNT[name], max_iter=n, early_stopping=False).fit(load_iris().data)._weights for n in (1, 5)
    )
    keys = [key for key in after if key.startswith("prior")]
    assert keys == (["prior.seen"] if name == "vamp" else ["prior.mean", "prior.log_var", "prior.logit"])
    assert not [key for key in keys if np.array_equal(before[key], after[key])]


@every_learnt
def test_copies_have_a_prior_of_their_own(name):
    model = copy.deepcopy(fitted(name).module_)
    z = torch.zeros(1, 2, dtype=torch.float64)
    before = model.prior.log_prob(z)
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.data.mul_(1.5)
    assert torch.equal(model.prior.log_prob(z), before)
    assert not torch.equal(twin.prior.log_prob(z), before)
    if name == "vamp":
        assert twin.prior.encode.__self__ is twin


@every_learnt
@pytest.mark.parametrize("route", ROUTES)
def test_saved_models_answer_the_same(name, route, tmp_path):
    assert_same(answers(ROUTES[route](fitted(name, gaps=True), tmp_path), gapped()), said(name))


@every_learnt
@pytest.mark.parametrize(
    "objective", [ELBO(), ELBO("sampled", n_draws=2), ELBO(free_bits=0.5), ELBO(warmup=3), IWAE(3)]
)
def test_fits_repeat_bit_for_bit_and_streams_go_on(name, objective):
    X = load_wine().data
    first, again = (make(prior=LEARNT[name], objective=objective).fit(X) for _ in range(2))
    assert_same(answers(first, X[::6]), answers(again, X[::6]))
    streams = [make(prior=LEARNT[name], objective=objective) for _ in range(2)]
    for stream in streams:
        for part in np.array_split(X, 2):
            stream.partial_fit(part)
    assert_same(answers(streams[0], X[::6]), answers(streams[1], X[::6]))
    assert np.isfinite(streams[0].score(X))


@every_learnt
def test_searches_detectors_and_imputers_take_one(name):
    X = load_wine().data
    search = VAETransformerCV((1, 2), cv=2, param_grid={"prior": ["normal", LEARNT[name]]}, max_iter=4, random_state=0)
    assert np.isfinite(search.fit(X).scores_[:, 0]).all()
    gaps = with_gaps(X, 0.1)
    for criterion in ("aggregated", "elbo", "log_likelihood", "latent"):
        detector = VAEAnomalyDetector(2, prior=LEARNT[name], criterion=criterion, max_iter=3, random_state=0).fit(X)
        scores = detector.score_samples(gaps)
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(
            detector.explain(X[:3]).sum(1), detector.score_samples(X[:3]) - detector.training_scores_.mean()
        )
    for draws in (False, True):
        imputer = VAEImputer(make(prior=LEARNT[name]), sample_posterior=draws, random_state=0)
        filled = imputer.fit_transform(gaps)
        assert np.isfinite(filled).all()
        assert np.array_equal(filled[~np.isnan(gaps)], gaps[~np.isnan(gaps)])


class Coded(OnePass):
    """Codes without a spread that are pulled towards draws of p(z): a small Wasserstein autoencoder."""

    offers = frozenset({"prior"})

    def terms(self, emitted, batch, model, rng, epoch):
        z = model.prior.sample(len(batch), rng, emitted.z.dtype)
        apart = (z.mean(0) - emitted.z.mean(0)).square().sum() + (z.var(0) - emitted.z.var(0)).square().sum()
        return {"loss": model.squared_error(emitted.outputs, batch) + apart}


@every_learnt
def test_codes_may_follow_one(name):
    X = load_wine().data
    vae = make(prior=LEARNT[name], objective=Coded(), max_iter=20).fit(X)
    drawn = vae.sample(2000, random_state=0, prior="model")
    assert np.abs(drawn.mean(0) - X.mean(0)).max() < 1.0 * X.std(0).max()
    z = vae.module_.prior.sample(5000, seeded(), torch.float64)
    codes = torch.tensor(vae.transform(X))[:, np.argsort(vae._order)]
    torch.testing.assert_close(z.mean(0), codes.mean(0), rtol=0, atol=0.5)


@pytest.mark.filterwarnings("error")
def test_a_fit_that_ends_below_the_linear_model_says_so():
    """A learnt prior does not start there, so that rows that are held out do not see to it."""
    X = StandardScaler().fit_transform(load_breast_cancer().data)
    with pytest.warns(ConvergenceWarning, match=r"nats per row, below the .* of the linear model"):
        make(n_components=8, prior=Vamp(20), max_iter=3).fit(X)
    make(n_components=8, max_iter=3).fit(X)


# What a fitted model says of rows


def by_grid(vae, X, reach, n_axis):
    """log p of the present cells of the rows of X, summed over a dense grid."""
    model, rows, n = vae.module_, rows_of(vae, X), vae.n_components_
    axis = torch.linspace(-reach, reach, n_axis, dtype=torch.float64)
    z, log_volume = torch.cartesian_prod(*[axis] * n).reshape(-1, n), n * math.log(axis[1] - axis[0])
    with torch.no_grad():
        parts = [
            torch.logsumexp(model.log_joint_everywhere(some, rows.x, rows.mask), 0) + log_volume
            for some in z.split(20_000)
        ]
    return torch.logsumexp(torch.stack(parts), 0).numpy()


@every_learnt
@pytest.mark.parametrize("n_components", [1, 2])
def test_score_is_the_likelihood_by_quadrature(name, n_components):
    vae = fitted(name, n_components).set_params(n_draws=400)
    X = load_wine().data[::12]
    exact = by_grid(vae, X, 9.0, 5_001 if n_components == 1 else 301)
    assert vae.score(X) == pytest.approx(exact.mean(), abs=1e-4)


@every_learnt
@pytest.mark.parametrize("n_components", [1, 2])
def test_rows_with_gaps_have_the_likelihood_of_their_cells(name, n_components):
    vae, X = fitted(name, n_components, gaps=True), load_wine().data[::12].copy()
    X[::2, ::2], X[1::2, :8], X[-1] = np.nan, np.nan, np.nan
    exact = by_grid(vae, X, 9.0, 5_001 if n_components == 1 else 301)
    found = vae.score_samples(X)
    np.testing.assert_allclose(found, exact, atol=2e-2)
    assert found.mean() == pytest.approx(exact.mean(), abs=1e-3)
    assert found[-1] == pytest.approx(0.0, abs=1e-3)
    assert np.isfinite(vae.impute(X)).all()


@pytest.mark.parametrize("n_components", [1, 2])
@pytest.mark.parametrize("log_var", [3.0, 6.0])
def test_a_posterior_may_be_as_wide_as_a_wide_mode(n_components, log_var):
    """N(0, I) curves by 1 everywhere, and nothing else may be held to that: a wide mode says less of z."""
    vae = copy.deepcopy(fitted("mixture", n_components))
    width = math.exp(log_var / 2)
    vae._weights = {
        **vae._weights,
        "prior.mean": np.array([[-width], [0], [0], [width]]).repeat(n_components, 1).astype(np.float32),
        "prior.log_var": np.full((4, n_components), log_var, np.float32),
    }
    X = load_wine().data[:8].copy()
    X[:6, 1:], X[6, 0], X[7] = np.nan, np.nan, np.nan
    exact = by_grid(vae, X, 8 * width, 20_001 if n_components == 1 else 1001)
    np.testing.assert_allclose(vae.score_samples(X), exact, atol=2e-2)
    _, spread = vae.posterior(X)
    assert spread[7].max() > 0.8 * width


@every_learnt
def test_information_is_what_a_gaussian_channel_carries_where_the_kl_has_no_closed_form(name):
    """1/2 log(1 + Var[mu] / E[sigma^2]), by hand from the posterior."""
    vae = fitted(name)
    mean, std = vae.posterior(load_wine().data)
    expected = 0.5 * np.log1p(mean.var(axis=0) / np.square(std).mean(axis=0))
    np.testing.assert_allclose(vae.latent_information_, expected, rtol=1e-4)
    assert (np.diff(vae.latent_information_) <= 0).all()
