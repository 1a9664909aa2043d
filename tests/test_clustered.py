"""Codes that are pulled to the centres of their clusters."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import by_skops, load_state, make, rows_of, seeded, with_gaps
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skvae import VAEAnomalyDetector, VAETransformer
from skvae.metrics import reconstruction_error
from skvae.objectives import Batch, Clustered

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def groups(n_rows=300, seed=0):
    """Three groups of rows in eight columns, and which is whose."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_rows) % 3
    return 4 * np.random.default_rng(1).normal(size=(3, 8))[y] + rng.normal(size=(n_rows, 8)), y


def cluster(X, **settings):
    objective = Clustered(**{"n_clusters": 3, "warmup": 2, **settings.pop("objective", {})})
    return make(objective=objective, **settings).fit(X)


@pytest.fixture(scope="module")
def fitted():
    return cluster(groups()[0])


def labels(vae, X):
    return pairwise_distances_argmin(vae.transform(X), vae.cluster_centers_)


def within(vae, X):
    """How far codes lie from their centres, of how far the centres lie from each other: squared."""
    Z, centers = vae.transform(X), vae.cluster_centers_
    return np.mean(((Z - centers[labels(vae, X)]) ** 2).sum(1)) / centers.var(axis=0).sum()


def test_the_loss_is_the_formula(fitted):
    X, model = groups()[0], fitted.module_
    rows = rows_of(fitted, X)
    found = Clustered(3, weight=0.7, warmup=2)(model, rows, seeded(), 3)
    Z, centers = model.encode(rows.x)[0].numpy(), model.extras["centers"].weight.numpy()
    distance = ((Z[:, None] - centers) ** 2).sum(-1).min(1)
    pull = distance / ((Z - centers.mean(0)) ** 2).sum(1).mean()
    error = (((fitted.reconstruct(X) - X) / fitted.scale_) ** 2).sum(1)
    np.testing.assert_allclose(found["error"].numpy(), error, rtol=1e-9)
    np.testing.assert_allclose(found["pull"].numpy(), pull, rtol=1e-9)
    np.testing.assert_allclose(found["loss"].numpy(), error + 0.7 * 8 * pull, rtol=1e-9)


@pytest.mark.parametrize(("epoch", "pulls"), [(1, False), (2, False), (3, True), (np.inf, True)])
def test_nothing_is_pulled_during_the_warmup_and_the_monitor_is_at_the_final_loss(fitted, epoch, pulls):
    objective, rows = Clustered(3, warmup=2), rows_of(fitted, groups()[0])
    found = objective(fitted.module_, rows, seeded(), epoch)
    assert torch.equal(found["loss"], found["error"]) != pulls
    final = objective(fitted.module_, rows, seeded(), np.inf)["loss"]
    assert torch.equal(objective.monitor(fitted.module_, rows, seeded()), -final)
    assert objective.ramp == 3


def test_the_pull_does_not_depend_on_the_size_of_codes(fitted):
    """So that it is not met by codes that shrink."""
    model, rows = copy.deepcopy(fitted.module_), rows_of(fitted, groups()[0])
    before = Clustered(3)(model, rows, seeded(), np.inf)["pull"]
    for part in (model.encoder.linear, model.encoder.body[-1], model.extras["centers"]):
        for parameter in part.parameters():
            parameter.data *= 0.01
    torch.testing.assert_close(Clustered(3)(model, rows, seeded(), np.inf)["pull"], before)


def test_weights_count_in_what_the_pull_is_a_share_of(fitted):
    rows = rows_of(fitted, groups()[0])
    twice = rows.take(torch.cat([torch.arange(300), torch.arange(100)]))
    weight = torch.ones(300, dtype=torch.float64)
    weight[:100] = 2
    weighed = Batch(rows.x, None, weight * 300 / 400)
    found, copies = (Clustered(3)(fitted.module_, batch, seeded(), np.inf)["pull"] for batch in (weighed, twice))
    torch.testing.assert_close(found, copies[:300])


def test_one_row_alone_has_a_loss(fitted):
    rows = Batch(rows_of(fitted, groups()[0]).x[:1])
    assert bool(Clustered(3)(fitted.module_, rows, seeded(), np.inf)["loss"].isfinite())


def test_gradients_equal_finite_differences(fitted):
    model, rows = copy.deepcopy(fitted.module_).requires_grad_(True), rows_of(fitted, groups(30)[0])
    centers = model.extras["centers"].weight

    def loss():
        return Clustered(3)(model, rows, seeded(), np.inf)["loss"].mean()

    (grad,) = torch.autograd.grad(loss(), [centers])
    for k, j in ((0, 0), (1, 1), (2, 0)):
        values = []
        for step in (1e-6, -2e-6):
            centers.data[k, j] += step
            values.append(loss().item())
        centers.data[k, j] += 1e-6
        assert grad[k, j].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_centers_start_where_k_means_finds_them_among_the_first_codes():
    X, _ = groups()
    vae = cluster(X, max_iter=1, learning_rate_init=1e-9, early_stopping=False)
    expected = KMeans(3, n_init=10, random_state=0).fit(vae.transform(X)).cluster_centers_
    found = vae.cluster_centers_[pairwise_distances_argmin(expected, vae.cluster_centers_)]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_centers_are_found_anew_when_the_warmup_ends(monkeypatch):
    epochs = []
    place = Clustered._place
    monkeypatch.setattr(Clustered, "_place", lambda self, *args: (epochs.append(1), place(self, *args))[1])
    X, _ = groups()
    for warmup, expected in ((0, 1), (1, 2), (4, 2), (5, 1), (9, 1)):
        epochs.clear()
        cluster(X, objective={"warmup": warmup}, max_iter=5, early_stopping=False)
        assert len(epochs) == expected, warmup


def test_groups_of_rows_are_found_and_centers_tell_them_apart():
    X, y = groups()
    new, of_new = groups(seed=5)
    vae = cluster(X, max_iter=30)
    assert adjusted_rand_score(y, labels(vae, X)) > 0.98
    assert adjusted_rand_score(of_new, labels(vae, new)) > 0.98
    pipe = make_pipeline(VAETransformer(2, objective=Clustered(3, warmup=2), max_iter=5), KMeans(3, n_init=4))
    pipe.set_params(vaetransformer__random_state=0, kmeans__random_state=0)
    assert adjusted_rand_score(y, pipe.fit_predict(X)) > 0.98


def test_the_pull_draws_codes_to_their_centers():
    X = load_digits().data
    spread = [
        within(cluster(X, n_components=5, objective={"n_clusters": 10, "weight": w}, max_iter=15), X)
        for w in (0, 0.1, 1)
    ]
    assert spread[0] > 1.2 * spread[1] > 1.2 * 1.2 * spread[2]


def test_centers_lie_among_the_codes_of_transform(fitted):
    """In public order: with the latents in training order most rows would be nearer to another centre."""
    X = groups()[0]
    assert fitted.cluster_centers_.shape == (3, 2)
    assert fitted.cluster_centers_.dtype == np.float64
    training = fitted.module_.extras["centers"].weight.numpy()
    np.testing.assert_array_equal(fitted.cluster_centers_, training[:, fitted._order])
    means = [fitted.transform(X)[labels(fitted, X) == k].mean(0) for k in range(3)]
    away = np.abs(means - fitted.cluster_centers_).max()
    assert away < 0.5 * np.abs(fitted.cluster_centers_[:, None] - fitted.cluster_centers_).max()


def test_methods_are_those_of_codes(fitted):
    assert not any(hasattr(fitted, name) for name in ("score", "posterior", "sample", "latent_information_"))
    X = with_gaps(groups()[0], 0.1)
    assert not np.isnan(fitted.impute(X)).any()
    assert reconstruction_error(fitted, X) < 0


def test_copies_and_repeated_fits_are_the_same_bit_for_bit(fitted):
    X = groups()[0]
    again = clone(fitted).fit(X)
    for other in (again, pickle.loads(pickle.dumps(fitted)), by_skops(fitted), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(other.transform(X), fitted.transform(X))
        np.testing.assert_array_equal(other.cluster_centers_, fitted.cluster_centers_)


def test_centers_of_another_shape_are_damaged(fitted):
    for wrong in (fitted.cluster_centers_[:, ::-1], fitted.cluster_centers_[:2], None):
        with pytest.raises(ValueError, match="cluster_centers_ is not what its weights say"):
            load_state(VAETransformer, vars(fitted) | {"cluster_centers_": wrong})


def test_it_works_in_streams_searches_and_detectors():
    X, y = groups()
    stream = make(objective=Clustered(3, warmup=1)).partial_fit(X[:150]).partial_fit(X[150:]).partial_fit(X[:150])
    assert stream.n_iter_ == 3
    assert adjusted_rand_score(y, labels(stream, X)) > 0.9
    grid = {"objective": ["elbo", "autoencoder", "clustered"], "n_components": [1, 2]}
    search = GridSearchCV(make(), grid, scoring=reconstruction_error, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.set_params(param_grid={"objective__n_clusters": [2, 3]}, estimator=make(objective=Clustered())).fit(X)
    detector = VAEAnomalyDetector(2, objective=Clustered(3), criterion="reconstruction", max_iter=2, random_state=0)
    assert detector.fit(X).cluster_centers_.shape == (3, 2)


def test_weights_gaps_and_repeated_rows_are_taken():
    X, y = groups(60)
    weighed = make(objective=Clustered(2)).fit(X, sample_weight=np.where(y == 0, 0.0, 1.0))
    dropped = make(objective=Clustered(2)).fit(X[y > 0])
    np.testing.assert_allclose(weighed.cluster_centers_, dropped.cluster_centers_)
    assert np.isfinite(make(objective=Clustered(3)).fit(with_gaps(X, 0.3)).cluster_centers_).all()
    few = make(objective=Clustered(5), max_iter=3, early_stopping=False).fit(np.repeat(X[:2], 20, axis=0))
    assert len(np.unique(few.cluster_centers_.round(3), axis=0)) == 2


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (Clustered(1), "The 'n_clusters' parameter of Clustered must be an int in the range .2, inf"),
        (Clustered(3, weight=-1.0), "The 'weight' parameter of Clustered"),
        (Clustered(3, warmup=-1), "The 'warmup' parameter of Clustered"),
        (Clustered(61), "n_clusters=61 takes as many training rows; there are 54"),
    ],
)
def test_a_broken_rule_is_an_error_in_words(objective, words):
    with pytest.raises(ValueError, match=words):
        make(objective=objective).fit(groups(60)[0])
