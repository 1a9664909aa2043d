"""Every criterion against a few lines of scipy and torch.distributions, and its split over features against its sum."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import rows_of, scale_of
from scipy import stats
from scipy.special import expit, log_softmax, logsumexp
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from skvae import Bernoulli, Gaussian, JohnsonSU, VAEAnomalyDetector
from skvae._inference.criteria import CRITERIA, DRAWN, Look
from skvae._inference.explain import COMPLETIONS, MOST_DIFFERENCE, contributions, explained, nearest
from skvae._inference.posterior import posterior
from skvae._inference.quadrature import normal_rule, quasi_normal
from skvae._inference.scores import log_likelihood
from skvae._tables.batches import Batch, to_rows

D = 5
LIKELIHOODS = {
    "johnson_su": JohnsonSU(),
    "feature": Gaussian(),
    "shared": Gaussian("shared"),
    "decoder": Gaussian("decoder"),
    "bernoulli": Bernoulli(),
}
every_criterion = pytest.mark.parametrize("name", CRITERIA)
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


def table(n_rows=80, seed=0, binary=False):
    rng, mixing = np.random.default_rng(seed), np.random.default_rng(42).normal(size=(2, D))
    X = rng.normal(size=(n_rows, 2)) @ mixing + 0.4 * rng.normal(size=(n_rows, D))
    return (X > 0).astype(float) if binary else X * [0.1, 1.0, 5.0, 30.0, 1.0] + [0, 5, -20, 1000, 0]


@cache
def fitted(likelihood="johnson_su", criterion="aggregated", n_components=3):
    """A small smooth model that training has moved away from its linear start."""
    return VAEAnomalyDetector(
        n_components,
        criterion=criterion,
        likelihood=LIKELIHOODS[likelihood],
        objective="elbo",
        hidden_layer_sizes=(6,),
        activation="tanh",
        max_iter=20,
        learning_rate_init=1e-2,
        early_stopping=False,
        n_draws=36,
        random_state=0,
    ).fit(table(binary=likelihood == "bernoulli"))


def new_rows(likelihood, n_rows=25):
    """Rows unlike the known ones, the first of them far out."""
    if likelihood == "bernoulli":
        return np.random.default_rng(1).random((n_rows, D))
    X = table(n_rows, seed=1)
    X[0] += 8 * X.std(0)
    return X


def encoded(detector, X):
    """Mean and standard deviation of q(z|x) by the encoder: two arrays (N, J)."""
    x = rows_of(detector, X).x
    mu, log_var = detector.module_.encode(x)
    return mu.numpy(), np.exp(0.5 * log_var.numpy())


def decoded(detector, z):
    """p(x|z) as a frozen scipy distribution in data units, for latents (..., J)."""
    density, shift, scale = detector.module_.likelihood, scale_of(detector).shift, detector.scale_
    outputs = detector.module_.params(torch.tensor(z)).numpy()
    kind = type(detector.likelihood).__name__
    if kind == "Bernoulli":
        return stats.bernoulli(expit(outputs))
    if detector.likelihood.get_params().get("noise") == "decoder":
        log_var = np.maximum(outputs[..., D:], density.log_floor.numpy())
        return stats.norm(outputs[..., :D] * scale + shift, np.exp(0.5 * log_var) * scale)
    n = len(density.log_noise)
    std = np.exp(0.5 * np.maximum(density.log_noise.numpy(), density.log_floor.numpy()[:n]))
    mean = outputs * (density.unit.numpy() if hasattr(density, "unit") else 1.0)
    if kind == "Gaussian":
        return stats.norm(mean * scale + shift, std * scale)
    centre, spread = density.encoding.centre.numpy(), density.encoding.spread.numpy()
    return stats.johnsonsu(-(centre + spread * mean) / (spread * std), 2 / (spread * std), loc=shift, scale=2 * scale)


def log_prob(detector, z, X):
    oracle = decoded(detector, z)
    if isinstance(oracle.dist, stats.rv_discrete):
        return X * oracle.logpmf(1) + (1 - X) * oracle.logpmf(0)
    return oracle.logpdf(X)


def log_aggregated(detector, z):
    """log q_agg of codes (N, J)."""
    codes = {name: torch.tensor(value) for name, value in detector._codes.items()}
    components = Independent(Normal(codes["mean"], codes["var"].sqrt()), 1)
    return MixtureSameFamily(Categorical(logits=codes["log_weight"]), components).log_prob(torch.tensor(z)).numpy()


def log_terms(detector, z):
    """What log q_agg of codes (N, J) is the logarithm of the sum of the exponentials of: (N, M)."""
    codes = detector._codes
    return stats.norm(codes["mean"], np.sqrt(codes["var"])).logpdf(z[:, None]).sum(-1) + codes["log_weight"]


def points(detector, X):
    """z (S, N, J), the points' weights (S, 1) and log p(z) - log q(z|x), (S, N)."""
    mu, sigma = encoded(detector, X)
    rule = normal_rule(detector.n_draws, detector.n_components_, detector._seed)
    z = mu + sigma * rule.eps.numpy()
    ratio = (stats.norm.logpdf(z) - stats.norm(mu, sigma).logpdf(z)).sum(-1)
    return z, rule.log_weight.exp().numpy(), ratio


# What each criterion says of a row: its features' part, (N, D), and its latents'


def reconstruction_oracle(detector, X):
    return reconstruction_data_oracle(detector, X)[0] / detector.scale_**2, 0.0


def reconstruction_data_oracle(detector, X):
    return -((X - decoded(detector, encoded(detector, X)[0]).mean()) ** 2), 0.0


def reconstruction_probability_oracle(detector, X):
    z, weight, _ = points(detector, X)
    return (weight[..., None] * log_prob(detector, z, X)).sum(0), 0.0


def elbo_oracle(detector, X):
    mu, sigma = map(torch.tensor, encoded(detector, X))
    kl = kl_divergence(Normal(mu, sigma), Normal(torch.zeros_like(mu), torch.ones_like(mu))).sum(-1)
    return reconstruction_probability_oracle(detector, X)[0], -kl.numpy()


def log_likelihood_oracle(detector, X):
    """The whole is log mean w; the features' part is each one's mean by the softmax of log w."""
    z, weight, ratio = points(detector, X)
    terms = log_prob(detector, z, X)
    log_w = terms.sum(-1) + ratio + np.log(weight)
    features = (np.exp(log_softmax(log_w, axis=0))[..., None] * terms).sum(0)
    return features, logsumexp(log_w, axis=0) - features.sum(1)


def latent_oracle(detector, X):
    return np.zeros_like(X), log_aggregated(detector, encoded(detector, X)[0])


def aggregated_oracle(detector, X):
    mu, sigma = encoded(detector, X)
    at_the_mean = stats.norm(mu, sigma).logpdf(mu).sum(1)
    return log_prob(detector, mu, X), log_aggregated(detector, mu) - at_the_mean


def neighbour_oracle(detector, X):
    """The tenth largest term of q_agg in its place."""
    mu, sigma = encoded(detector, X)
    at_the_mean = stats.norm(mu, sigma).logpdf(mu).sum(1)
    return log_prob(detector, mu, X), np.sort(log_terms(detector, mu), axis=1)[:, -10] - at_the_mean


ORACLES = {
    "aggregated": aggregated_oracle,
    "elbo": elbo_oracle,
    "log_likelihood": log_likelihood_oracle,
    "reconstruction": reconstruction_oracle,
    "reconstruction_data": reconstruction_data_oracle,
    "reconstruction_probability": reconstruction_probability_oracle,
    "latent": latent_oracle,
    "neighbour": neighbour_oracle,
}


def test_the_registry_names_these_criteria():
    assert CRITERIA.keys() == ORACLES.keys()
    assert {"elbo", "log_likelihood", "reconstruction_probability"} == DRAWN


@pytest.mark.parametrize("n_components", [1, 2, 3])
@every_likelihood
@every_criterion
def test_a_criterion_is_its_formula(name, likelihood, n_components):
    """Of new rows, in data units, with one and two latents by quadrature and with three by draws."""
    detector, X = fitted(likelihood, n_components=n_components), new_rows(likelihood)
    view = detector._normality().view(detector._inference())
    # With one latent a new row's code may be a known one's by chance.
    X = X[view.own(torch.tensor(encoded(detector, X)[0])).numpy() < 0]
    assert len(X) > 20
    rows = rows_of(detector, X)
    found = CRITERIA[name](detector.module_, rows, view).numpy()
    features, latents = ORACLES[name](detector, X)
    np.testing.assert_allclose(found[:, :-1], features, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(found[:, -1], latents, rtol=1e-7, atol=1e-7)


@every_criterion
def test_the_detectors_score_is_its_criterions_formula(name):
    detector, X = fitted(criterion=name), new_rows("johnson_su")
    features, latents = ORACLES[name](detector, X)
    np.testing.assert_allclose(detector.score_samples(X), features.sum(1) + latents, rtol=1e-9, atol=1e-9)


@every_likelihood
@every_criterion
def test_contributions_sum_to_the_score(name, likelihood):
    detector, X = fitted(likelihood, name), new_rows(likelihood)
    found = detector._normality().contributions(detector._inference(), X)
    assert found.shape == (len(X), D + 1)
    np.testing.assert_allclose(found.sum(1), detector.score_samples(X), rtol=1e-9, atol=1e-9)
    shared = detector._normality().explanations(detector._inference(), X)
    np.testing.assert_allclose(shared.sum(1), detector.score_samples(X), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("likelihood", ["johnson_su", "feature"])
def test_the_likelihood_criterion_is_score_samples_of_the_transformer(likelihood):
    detector, X = fitted(likelihood, "log_likelihood"), new_rows(likelihood)
    rows = rows_of(detector, X)
    rule = normal_rule(detector.n_draws, 3, detector._seed)
    expected = log_likelihood(detector.module_, rows, rule)[:, 0].numpy()
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["elbo", "reconstruction_probability"])
def test_draws_stand_for_the_mean_over_the_posterior(name):
    """The points are not what makes these numbers: 20,000 others give the same means."""
    detector, X = fitted("johnson_su", name), new_rows("johnson_su")
    mu, sigma = encoded(detector, X)
    z = mu + sigma * np.random.default_rng(0).normal(size=(20_000, *mu.shape))
    mean = log_prob(detector, z, X).sum(-1).mean(0)
    kl = 0.5 * (mu**2 + sigma**2 - 1 - 2 * np.log(sigma)).sum(1) if name == "elbo" else 0.0
    found = CRITERIA[name](
        detector.module_,
        rows_of(detector, X),
        detector._normality().view(detector._inference()),
    )
    np.testing.assert_allclose(found.sum(1).numpy()[1:], (mean - kl)[1:], atol=0.2)


def test_the_order_of_bounds():
    """The likelihood is above its bound, which is the reconstruction less what the latents cost."""
    scores = {name: fitted(criterion=name).score_samples(table(200, seed=2)) for name in ORACLES}
    assert (scores["log_likelihood"] >= scores["elbo"] - 1e-9).all()
    assert (scores["elbo"] <= scores["reconstruction_probability"]).all()
    assert (scores["reconstruction"] <= 0).all()


# Known rows


@pytest.mark.parametrize("name", ["aggregated", "latent", "neighbour"])
def test_a_known_row_is_judged_by_the_others_codes(name):
    """Exactly as by a detector whose codes never held this row's."""
    detector, X = fitted(criterion=name), table()
    features, latents = ORACLES[name](detector, X)
    mu, _ = encoded(detector, X)
    terms = log_terms(detector, mu)
    others = np.log1p(-np.exp(detector._codes["log_weight"]))

    def of(terms):
        return np.sort(terms, axis=1)[:, -10] if name == "neighbour" else logsumexp(terms, axis=1)

    latents = latents - of(terms)
    np.fill_diagonal(terms, -np.inf)
    latents = latents + of(terms) - others
    np.testing.assert_allclose(detector.training_scores_, features.sum(1) + latents, rtol=1e-9, atol=1e-9)


def test_a_code_weighs_what_its_row_does():
    X, weight = table(), np.random.default_rng(0).uniform(0.1, 5, len(table()))
    detector = VAEAnomalyDetector(max_iter=2, random_state=0).fit(X, sample_weight=weight)
    shares = np.exp(detector._codes["log_weight"])
    np.testing.assert_allclose(np.sort(shares), np.sort(weight / weight.sum()), rtol=1e-6)


def test_other_criteria_know_no_codes():
    for name in CRITERIA.keys() - {"aggregated", "latent", "neighbour"}:
        detector, X = fitted(criterion=name), new_rows("johnson_su")
        rows = rows_of(detector, X)
        view = detector._normality().view(detector._inference())
        moved = view._replace(codes=view.codes._replace(mean=view.codes.mean + 1))
        found = [CRITERIA[name](detector.module_, rows, v) for v in (view, moved)]
        assert torch.equal(*found), name


# Gaps


def with_gaps(X, share=0.3, seed=0):
    gaps = np.random.default_rng(seed).random(X.shape) < share
    gaps[0], gaps[1] = False, True
    return np.where(gaps, np.nan, X)


@every_criterion
def test_a_row_with_gaps_is_the_mean_of_its_completions_and_typical_where_they_are(name):
    detector, X = fitted(criterion=name), with_gaps(new_rows("johnson_su"))
    model, view = detector.module_, detector._normality().view(detector._inference())
    rows = rows_of(detector, X)
    typical = torch.arange(D + 1.0, dtype=torch.float64)
    found = contributions(CRITERIA[name], model, rows, view, typical)
    draws = quasi_normal(COMPLETIONS, 3, detector._seed)
    for i in range(len(X)):
        row = rows.take(torch.tensor([i]))
        missing = np.isnan(X[i])
        q = posterior(model, row)
        guesses = [model.mean(q.mean + (q.factor @ eps)) for eps in draws]
        copies = [torch.where(torch.tensor(missing), guess, row.x) for guess in guesses]
        expected = torch.stack([CRITERIA[name](model, Batch(copy), view)[0] for copy in copies]).mean(0)
        expected[:-1][missing] = typical[:-1][missing]
        torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-9)


@every_criterion
@pytest.mark.parametrize("share_out", [False, True])
def test_a_block_may_hold_rows_with_gaps_only_or_none(name, share_out):
    detector, X = fitted(criterion=name), with_gaps(new_rows("johnson_su"))

    def look(rows):
        normality, inference = detector._normality(), detector._inference()
        return (normality.explanations if share_out else normality.contributions)(inference, rows)

    whole = look(X)
    assert np.isfinite(whole).all()
    for part in (np.flatnonzero(np.isnan(X).any(axis=1)), np.flatnonzero(~np.isnan(X).any(axis=1)), [1]):
        np.testing.assert_allclose(look(X[part]), whole[part], atol=1e-7)


# Explanations


def test_the_nearest_row_is_that_of_the_smallest_capped_distance():
    detector, X = fitted(), new_rows("johnson_su")
    model, scale = detector.module_, scale_of(detector)
    rows = to_rows(X, scale, dtype=torch.float64)
    mean = model.mean(torch.tensor(detector._codes["mean"]))
    seen, codes = (model.likelihood.encoding.encode(x).numpy() for x in (rows.x, mean))
    distance = (np.minimum(np.abs(seen[:, None] - codes), MOST_DIFFERENCE) ** 2).sum(axis=-1)
    expected = mean[distance.argmin(axis=1)]
    torch.testing.assert_close(
        nearest(model, rows, detector._normality().view(detector._inference())), expected, rtol=1e-12, atol=1e-12
    )


def test_one_absurd_cell_does_not_choose_the_nearest_row():
    detector, X = fitted(), new_rows("johnson_su")
    model, scale, view = (
        detector.module_,
        scale_of(detector),
        detector._normality().view(detector._inference()),
    )
    far, farther = X.copy(), X.copy()
    far[:, 0], farther[:, 0] = 1e6, 1e30
    found = [nearest(model, to_rows(rows, scale, dtype=torch.float64), view) for rows in (far, farther)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_known_rows_nearest_is_another():
    detector = fitted()
    rows = rows_of(detector, table())
    found = nearest(detector.module_, rows, detector._normality().view(detector._inference()))
    own = detector.module_.mean(torch.tensor(detector._codes["mean"]))
    assert (found - own).abs().amax(dim=1).min() > 1e-6


@every_likelihood
@every_criterion
def test_what_is_shared_out_is_the_rise_from_the_nearest_row(name, likelihood):
    """Integrated gradients are complete: the latents keep what they say of the nearest row itself."""
    detector, X = fitted(likelihood), new_rows(likelihood)[1:]
    rows, model, view = (
        rows_of(detector, X),
        detector.module_,
        detector._normality().view(detector._inference()),
    )
    criterion = CRITERIA[name]
    plain, found = criterion(model, rows, view), explained(criterion, model, rows, view)
    torch.testing.assert_close(found.sum(1), plain.sum(1), rtol=1e-9, atol=1e-9)
    start = criterion(model, Batch(nearest(model, rows, view)), view)[:, -1]
    # Eight points of a path through a mixture of 80 codes are good to a few per cent of a nat or of the rise, and to
    # more where it passes from one tenth nearest code to the next.
    torch.testing.assert_close(found[:, -1], start, rtol=0.2 if name == "neighbour" else 0.05, atol=0.3)


def test_what_is_shared_out_is_the_integral_of_the_gradient():
    """By finite differences at 400 points of the path."""
    detector, X = fitted("feature", "elbo"), new_rows("feature")[1:6]
    rows, model, view = (
        rows_of(detector, X),
        detector.module_,
        detector._normality().view(detector._inference()),
    )
    criterion = CRITERIA["elbo"]
    found = (explained(criterion, model, rows, view) - criterion(model, rows, view))[:, :-1]
    start = nearest(model, rows, view)
    way, step, expected = rows.x - start, 1e-5, torch.zeros_like(rows.x)
    for t in (np.arange(400) + 0.5) / 400:
        x = start + t * way
        for d in range(D):
            up, down = x.clone(), x.clone()
            up[:, d] += step
            down[:, d] -= step
            rise = criterion(model, Batch(up), view)[:, -1] - criterion(model, Batch(down), view)[:, -1]
            expected[:, d] += rise / (2 * step) * way[:, d] / 400
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["reconstruction", "reconstruction_data", "reconstruction_probability"])
def test_without_a_latent_part_there_is_nothing_to_share_out(name):
    detector, X = fitted(), new_rows("johnson_su")
    rows, view = (
        rows_of(detector, X),
        detector._normality().view(detector._inference()),
    )
    plain = CRITERIA[name](detector.module_, rows, view)
    torch.testing.assert_close(explained(CRITERIA[name], detector.module_, rows, view), plain, rtol=0, atol=0)
    assert torch.equal(plain[:, -1], torch.zeros(len(X), dtype=torch.float64))


@every_criterion
def test_explanations_do_not_depend_on_other_rows(name):
    detector, X = fitted(criterion=name), with_gaps(new_rows("johnson_su"))
    whole, order = detector.explain(X), np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(detector.explain(X[order]), whole[order], rtol=1e-7, atol=1e-7)


def test_blocks_of_rows_in_two_threads_do_not_wait_for_each_other():
    both = Barrier(2)
    model = SimpleNamespace(encode=lambda x: both.wait(timeout=20))
    with ThreadPoolExecutor(2) as pool:
        looks = [Look(model, SimpleNamespace(x=None), None) for _ in range(2)]
        assert sorted(pool.map(lambda look: look.posterior, looks)) == [0, 1]
