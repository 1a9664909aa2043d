"""Rows drawn around the codes of training rows, and what is kept of these."""

import pickle
import re
from functools import cache

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import by_skops, load_state, seeded
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.datasets import load_wine
from sklearn.utils import check_random_state

from skvae import VAETransformer, VAETransformerCV, _codes
from skvae._codes import BANDWIDTHS, Codes
from skvae._tables.sources import as_source


def make(n_components=2, **parameters):
    settings = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}
    return VAETransformer(n_components, **settings | parameters)


@cache
def fitted(**parameters):
    return make(**parameters).fit(load_wine().data)


def apart(n=300, seed=0):
    """Two groups of rows, far from each other."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) % 2
    return 10.0 * group[:, None] + rng.normal(size=(n, 3)), group


def between(X):
    """The share of rows in the middle, where there are none."""
    return np.mean(np.abs(X.mean(axis=1) - 5) < 2)


def codes_of(vae):
    return Codes(**vae._codes)


def test_draws_have_the_weighted_codes_moments():
    rng = np.random.default_rng(0)
    mean, var = rng.normal(size=(5, 2)).astype(np.float32), rng.uniform(0.1, 2, (5, 2)).astype(np.float32)
    weight = np.array([1.0, 2.0, 3.0, 4.0, 0.5])
    n, share = 200_000, weight / weight.sum()
    z, place = Codes(mean, var, weight).draw(n, seeded())
    assert_allclose(np.bincount(place) / n, share, atol=5 * np.sqrt(0.25 / n))
    assert_allclose(z.mean(0), share @ mean, atol=0.02)
    assert_allclose(z.square().mean(0), share @ (var + mean**2), atol=0.05)
    for k in range(5):
        assert_allclose(z.numpy()[place == k].std(0), np.sqrt(var[k]), rtol=0.03)


def test_rows_are_drawn_around_codes():
    vae, codes = fitted(), codes_of(fitted())
    rng = seeded(int(check_random_state(3).randint(np.iinfo(np.int32).max)))
    z, _ = codes.draw(7, rng)
    expected = vae.module_.sample(z, rng).numpy() * vae.scale_ + vae._shift
    assert_allclose(vae.sample(7, random_state=3), expected)
    mean, std = vae.posterior(load_wine().data)
    assert_allclose(codes.mean[:, vae._order], mean, atol=1e-5)
    assert_allclose(codes.var[:, vae._order], std**2, rtol=1e-4)
    assert codes.bandwidth in BANDWIDTHS


def test_draws_around_wider_codes_keep_the_moments():
    """Those of q(z|x) over all rows; each row's draws lie nearer to the mean, and are wider."""
    rng = np.random.default_rng(1)
    mean, weight = rng.normal(3, [1.0, 2.0], (40, 2)).astype(np.float32), rng.uniform(1, 3, 40)
    var = np.full((40, 2), 0.04, dtype=np.float32)
    n, share = 200_000, weight / weight.sum()
    plain, wide = (Codes(mean, var, weight, bandwidth=h).draw(n, seeded())[0].numpy() for h in (0.0, 0.5))
    centre = share @ mean
    spread = share @ (mean - centre) ** 2
    for z in (plain, wide):
        assert_allclose(z.mean(0), centre, atol=0.02)
        assert_allclose(z.var(0), spread + 0.04, rtol=0.02)
    z, place = Codes(mean, var, weight, bandwidth=0.5).draw(n, seeded())
    shrunk = (spread + 0.04) / (1.5 * spread + 0.04)
    own = z.numpy()[place == 7]
    assert_allclose(own.var(0), shrunk * (0.04 + 0.5 * spread), rtol=0.1)
    assert_allclose(own.mean(0), centre + np.sqrt(shrunk) * (mean[7] - centre), atol=0.15)


def test_the_bandwidth_is_the_likeliest_without_a_rows_own_code(monkeypatch):
    """Of sixty rows everyone is a judge: by hand, at the same draws."""
    rng = np.random.default_rng(2)
    mean, var, weight = rng.normal(size=(60, 2)), rng.uniform(0.01, 0.1, (60, 2)), rng.integers(1, 4, 60).astype(float)
    generator = torch.Generator().manual_seed(5)
    order = torch.randperm(60, generator=generator).numpy()
    z = mean[order] + np.sqrt(var[order]) * torch.randn(60, 2, generator=generator, dtype=torch.float64).numpy()
    share = weight / weight.sum()
    spread = share @ (mean - share @ mean) ** 2

    def by_hand(h):
        logs = []
        for row, own in zip(z, order, strict=True):
            terms = np.log(share) + norm(mean, np.sqrt(var + h * spread)).logpdf(row).sum(axis=1)
            left = min(share[own], max(0.05, 5 / weight.sum()))
            terms[own] += np.log1p(-left / share[own]) if left < share[own] else -np.inf
            logs.append(logsumexp(terms) - np.log1p(-left))
        return share[order] @ logs

    parts = [torch.tensor(part) for part in (mean, var, weight)]
    best = max(BANDWIDTHS, key=by_hand)
    assert 0 < best < 0.8
    gain = by_hand(best) - by_hand(0.0)
    monkeypatch.setattr(_codes, "WORTH", gain - 1e-6)
    assert _codes._bandwidth(*parts, 5) == best
    monkeypatch.setattr(_codes, "WORTH", gain + 1e-6)
    assert _codes._bandwidth(*parts, 5) == 0


def test_nothing_is_drawn_where_there_are_no_rows():
    X, _ = apart()
    vae = make(1, likelihood="gaussian", hidden_layer_sizes=()).fit(X)
    assert between(vae.sample(1000, random_state=0)) < 0.05
    assert between(vae.sample(1000, random_state=0, prior="model")) > 0.15


def test_heavier_rows_are_drawn_more_often():
    X, group = apart()
    vae = make(1).fit(X, sample_weight=np.where(group == 1, 3.0, 1.0))
    share = np.mean(vae.sample(2000, random_state=0)[:, 0] > 5)
    assert abs(share - 0.75) < 0.05
    counted = make(1).fit(X, sample_weight=np.where(group == 1, 0.0, 1.0))
    assert len(counted._codes["weight"]) == np.sum(group == 0)


def test_a_table_given_twice_is_no_reason_to_draw_nearer_to_codes():
    mean = torch.tensor(np.random.default_rng(3).normal(size=(60, 2)))
    once, twice = (_codes._bandwidth(z, 1e-3 + 0 * z, torch.ones(len(z)).double(), 0) for z in (mean, mean.tile(2, 1)))
    assert twice >= once > 0


def test_codes_that_are_not_kept_cannot_be_drawn_around():
    X = load_wine().data
    vae = make(keep_codes=False).fit(X)
    for fit in (vae.fit, vae.partial_fit, vae.partial_fit):
        fit(X)
        assert not {"_codes", "_reservoir"} & vars(vae).keys()
        with pytest.raises(ValueError, match=re.escape("use sample(prior='model')")):
            vae.sample(2, random_state=0)
        assert vae.sample(2, random_state=0, prior="model").shape == (2, 13)
    same = make().fit(X)
    assert_array_equal(make(keep_codes=False).fit(X).transform(X), same.transform(X))


@pytest.mark.parametrize("prior", ["normal", None, 3])
def test_another_source_is_refused(prior):
    with pytest.raises(ValueError, match=r"prior=.* must be 'aggregated' or 'model'"):
        fitted().sample(2, random_state=0, prior=prior)


def test_autoencoders_keep_none():
    assert "_codes" not in vars(make(objective="autoencoder").fit(load_wine().data))


def test_codes_without_a_spread_are_a_kernel_density():
    vae = make(objective="wae").fit(load_wine().data)
    assert_allclose(vae._codes["var"], _codes.LEAST_VAR)
    assert vae._codes["bandwidth"] > 0
    assert vae.sample(3, random_state=0).shape == (3, 13)


# Gaps


def with_gaps_of_a_group():
    """The second group's rows lack one cell more often than not, and no row lacks the first column's."""
    X, group = apart(400)
    rng = np.random.default_rng(1)
    gaps = np.zeros(X.shape, dtype=bool)
    gaps[:, 1] = (group == 1) & (rng.random(len(X)) < 0.6)
    gaps[:, 2] = rng.random(len(X)) < 0.2
    return np.where(gaps, np.nan, X), group


def assert_gaps_follow(drawn, X, group):
    gaps, own = np.isnan(X), drawn[:, 0] > 5
    assert not np.isnan(drawn[:, 0]).any()
    for kind in (0, 1):
        found = np.isnan(drawn[own == kind])
        assert_allclose(found.mean(axis=0), gaps[group == kind].mean(axis=0), atol=0.06)
        both = (found[:, 1] & found[:, 2]).mean()
        assert_allclose(both, (gaps[group == kind][:, 1] & gaps[group == kind][:, 2]).mean(), atol=0.05)


def test_gaps_are_those_of_the_rows_drawn_around():
    X, group = with_gaps_of_a_group()
    vae = make(1).fit(X)
    assert_gaps_follow(vae.sample(2000, random_state=0, gaps=True), X, group)
    whole = vae.sample(2000, random_state=0)
    assert not np.isnan(whole).any()
    left = vae.sample(2000, random_state=0, gaps=True)
    assert_array_equal(left[~np.isnan(left)], whole[~np.isnan(left)])


def test_a_streams_gaps_are_those_of_its_rows():
    X, group = with_gaps_of_a_group()
    vae = make(1).partial_fit(X[:200]).partial_fit(X[200:])
    assert_gaps_follow(vae.sample(2000, random_state=0, gaps=True), X, group)


def test_a_complete_table_lacks_nothing():
    assert not np.isnan(fitted().sample(20, random_state=0, gaps=True)).any()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_gaps_of_a_frame_are_of_its_types(library):
    X, group = with_gaps_of_a_group()
    table = pd.DataFrame(X, columns=["a", "b", "c"]).assign(group=np.where(group == 1, "late", "early"))
    table["n"] = pd.array(np.where(np.isnan(X[:, 1]), 0, np.round(X[:, 1])), dtype="Int64")
    table.loc[np.isnan(X[:, 1]), ["n", "group"]] = None
    table = table if library == "pandas" else pl.from_pandas(table)
    vae = make(1, likelihood="auto").fit(table)
    drawn = vae.sample(500, random_state=0, gaps=True)
    assert list(drawn.dtypes) == list(table.dtypes)
    drawn = drawn if library == "pandas" else drawn.to_pandas()
    lacks = drawn["b"].isna()
    assert 0.15 < lacks.mean() < 0.45
    assert (drawn["n"].isna() == lacks).all()
    assert (drawn["group"].isna() == lacks).all()
    assert drawn["c"].isna().sum() > 50
    assert set(drawn["group"].dropna()) == {"late", "early"}


@pytest.mark.parametrize("how", [{"prior": "model"}, {"given": {0: 1.0}}])
def test_gaps_are_training_rows(how):
    with pytest.raises(ValueError, match="gaps=True leaves out what a training row lacks; use prior='aggregated'"):
        fitted().sample(2, random_state=0, gaps=True, **how)


# A stream's


def test_a_stream_keeps_an_even_sample_of_its_rows(monkeypatch):
    monkeypatch.setattr(_codes, "CODES", 100)
    X, group = apart(400)
    vae = make(1)
    for part in (slice(0, 100), group == 0, group == 1):
        vae.partial_fit(X[part])
    known = vae._reservoir["X"]
    assert known.shape == (100, 3)
    assert 30 < np.sum(known[:, 0] > 5) < 70
    assert 0.3 < np.mean(vae.sample(500, random_state=0)[:, 0] > 5) < 0.7
    assert_array_equal(pickle.loads(pickle.dumps(vae)).sample(5, random_state=0), vae.sample(5, random_state=0))


def test_a_stream_of_wide_rows_keeps_fewer(monkeypatch):
    monkeypatch.setattr(_codes, "KEPT_NUMBERS", 60)
    assert make(1).partial_fit(apart()[0])._reservoir["X"].shape == (20, 3)


def test_a_stream_that_goes_on_from_a_fit_knows_its_rows():
    X, group = apart()
    X[3, 1] = np.nan
    vae = make(1).fit(X).partial_fit(X[group == 0])
    known = vae._reservoir["X"]
    assert len(known) == 450
    assert_allclose(np.mean(known[:, 0] > 5), 1 / 3)
    assert abs(np.mean(vae.sample(1000, random_state=0)[:, 0] > 5) - 1 / 3) < 0.05
    assert np.isnan(known).sum() == 1


# Large tables


def test_of_a_large_table_a_sample_is_encoded(monkeypatch):
    monkeypatch.setattr(_codes, "CODES", 50)
    X, group = apart()
    vae = make(1).fit(X, sample_weight=np.where(group == 1, 3.0, 1.0))
    assert vae._codes["mean"].shape == (50, 1)
    assert_allclose(vae._codes["weight"].max() / vae._codes["weight"].min(), 3)
    assert 10 < np.sum(vae._codes["mean"] > 0) < 40


def test_of_a_file_runs_of_rows_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr(_codes, "CODES", 320)
    X = np.lib.format.open_memmap(tmp_path / "X.npy", mode="w+", dtype=np.float64, shape=(3000, 2))
    X[:] = np.arange(6000).reshape(3000, 2)
    X.flush()
    source = as_source(np.load(tmp_path / "X.npy", mmap_mode="r"))
    table = _codes.TrainingRows(source, None, np.arange(1.0, 3001.0))
    some = _codes._some(table, 0)
    assert some.X.shape == (320, 2)
    assert_array_equal(some.X[:, 0] / 2 + 1, some.weight)
    runs = some.weight.reshape(64, 5)
    assert_array_equal(np.diff(runs, axis=1), 1)
    assert runs.min() < 300
    assert runs.max() > 2700


# Saved


@pytest.mark.parametrize("back", [lambda vae: pickle.loads(pickle.dumps(vae)), by_skops], ids=["pickle", "skops"])
def test_saved_codes_draw_the_same_rows(back):
    X = load_wine().data.copy()
    X[::3, 2] = np.nan
    vae = make().fit(X)
    assert_array_equal(back(vae).sample(4, random_state=1), vae.sample(4, random_state=1))


BROKEN = {
    "a list": lambda codes: [1, 2],
    "no weights": lambda codes: {k: v for k, v in codes.items() if k != "weight"},
    "a code less": lambda codes: codes | {"mean": codes["mean"][1:]},
    "a latent more": lambda codes: codes | {k: np.tile(codes[k], (1, 2)) for k in ("mean", "var")},
    "not a number": lambda codes: codes | {"mean": codes["mean"] * np.nan},
    "no spread": lambda codes: codes | {"var": 0 * codes["var"]},
    "a negative weight": lambda codes: codes | {"weight": -codes["weight"]},
    "gaps of fewer columns": lambda codes: codes | {"gaps": np.zeros((len(codes["weight"]), 1), dtype=np.uint8)},
    "a negative bandwidth": lambda codes: codes | {"bandwidth": -0.1},
    "no bandwidth": lambda codes: codes | {"bandwidth": None},
    "gaps that are numbers": lambda codes: codes | {"gaps": np.zeros((len(codes["weight"]), 2))},
}


@pytest.mark.parametrize("how", BROKEN)
def test_damaged_codes_are_refused(how):
    state = {**vars(fitted()), "_codes": BROKEN[how](fitted()._codes)}
    with pytest.raises(ValueError, match="damaged: _codes is"):
        load_state(VAETransformer, state)


def test_a_search_keeps_its_winners_codes():
    X = load_wine().data
    found = VAETransformerCV([1, 2], cv=2, max_iter=2, hidden_layer_sizes=(8,), random_state=0).fit(X)
    assert found._codes["mean"].shape == (len(X), found.n_components_)
    assert not hasattr(found.set_params(n_components=[1], max_iter=1, keep_codes=False).fit(X), "_codes")
