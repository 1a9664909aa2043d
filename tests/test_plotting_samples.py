"""SamplesDisplay: what is drawn is the table and what `sample` gives."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.decomposition import PCA

from skvae import VAETransformer
from skvae.objectives import Autoencoder
from skvae.plotting import SamplesDisplay

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")
N = 300


def make(**parameters):
    return VAETransformer(
        2, **{"likelihood": "auto", "max_iter": 3, "hidden_layer_sizes": (8,), "random_state": 0} | parameters
    )


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    size = rng.normal(size=N)
    found = pd.DataFrame({"size": size, "city": rng.choice(["Bonn", "Lima", "Oslo"], N, p=[0.2, 0.5, 0.3])})
    found["n"], found["late"] = rng.poisson(2, N), size > 0
    found.loc[:59, ["size", "city"]] = None
    return found


@pytest.fixture(scope="module")
def model(table):
    return make().fit(table)


def heights(artist):
    return artist.get_data().values


def test_columns_are_the_tables_and_the_samples(model, table):
    display = SamplesDisplay.from_estimator(model, table, random_state=0)
    drawn = model.sample(N, random_state=0, gaps=True)
    assert display.features == ["size", "city", "n", "late"]
    assert display.categories == [None, ["Lima", "Oslo", "Bonn"], None, None]
    for found, frame in ((display.real, table), (display.drawn, drawn)):
        np.testing.assert_array_equal(found[:, [0, 2, 3]], frame[["size", "n", "late"]].astype(float))
        names = np.array([*display.categories[1], None], dtype=object)
        place = np.where(np.isnan(found[:, 1]), -1, found[:, 1]).astype(int)
        assert names[place].tolist() == frame["city"].astype(object).where(frame["city"].notna(), None).tolist()
    assert np.isnan(display.drawn[:, 0]).sum() > 20
    assert not np.isnan(SamplesDisplay.from_estimator(model, table, prior="model", random_state=0).drawn).any()


def test_marginals_are_shares_and_pairs_are_rows(model, table):
    display = SamplesDisplay.from_estimator(model, table, features=["city", 0], random_state=0)
    assert display.ax_.shape == (2, 2)
    for name, values in (("real", display.real), ("drawn", display.drawn)):
        bars = heights(display.artists_[name][0, 0])
        np.testing.assert_allclose(bars, [(values[:, 0] == k).mean() for k in range(3)])
        np.testing.assert_allclose(heights(display.artists_[name][1, 1]).sum(), 1 - np.isnan(values[:, 1]).mean())
        points = display.artists_[name][1, 0].get_offsets()
        places = np.sort(np.round(np.ma.filled(points[:, 0], np.nan)))
        np.testing.assert_array_equal(places, np.sort(values[:, 0]))
        np.testing.assert_allclose(np.sort(np.ma.filled(points[:, 1], np.nan)), np.sort(values[:, 1]))
    assert display.ax_[0, 0].get_title() == f"missing 20%, drawn {np.isnan(display.drawn[:, 0]).mean():.0%}"
    assert [text.get_text() for text in display.artists_["legend"].get_texts()] == ["real", "drawn"]
    assert display.ax_[1, 0].get_xlabel() == "city"
    assert not display.ax_[0, 1].axison


def test_rare_categories_share_a_bar():
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"k": rng.choice([f"c{i:02}" for i in range(15)], N), "x": rng.normal(size=N)})
    display = SamplesDisplay.from_estimator(make().fit(table), table, features=["k"], random_state=0)
    names = display.categories[0]
    assert len(names) == 10
    assert names[-1] == "others"
    assert (display.real[:, 0] == 9).sum() == (~table["k"].isin(names)).sum() > 0


def test_arrays_polars_and_sizes(model, table):
    X = np.random.default_rng(0).normal(size=(50, 6))
    display = SamplesDisplay.from_estimator(make(likelihood="gaussian").fit(X), X, random_state=0, s=33)
    assert display.features == ["x0", "x1", "x2", "x3"]
    assert display.artists_["drawn"][1, 0].get_sizes() == [33]
    frame = pl.from_pandas(table)
    found = SamplesDisplay.from_estimator(make().fit(frame), frame, features=[1], random_state=0)
    np.testing.assert_array_equal(
        found.real, SamplesDisplay.from_estimator(model, table, features=[1], random_state=0).real
    )


def test_it_is_drawn_where_it_is_told_to(model, table):
    _, (left, right) = plt.subplots(1, 2)
    display = SamplesDisplay.from_estimator(model, table, features=[0, 1], random_state=0, ax=right)
    assert display.figure_ is right.figure
    assert not right.axison
    assert left.axison
    _, four = plt.subplots(2, 2)
    assert display.plot(four).ax_.tolist() == four.tolist()
    with pytest.raises(ValueError, match=r"SamplesDisplay draws in 4 axes; ax holds 3\."):
        display.plot(four.ravel()[:3])


def test_rows_of_another_method(model, table):
    drawn = model.sample(N, random_state=0, gaps=True)
    own = SamplesDisplay.from_estimator(model, table, features=["city", 0], random_state=0)
    found = SamplesDisplay.from_predictions(table, drawn, features=["city", 0])
    np.testing.assert_array_equal(found.drawn, own.drawn)
    np.testing.assert_array_equal(found.real, own.real)
    assert SamplesDisplay.from_predictions(np.eye(3), np.ones((5, 3))).drawn.shape == (5, 3)
    with pytest.raises(ValueError, match="The columns of X_drawn are not those of X"):
        SamplesDisplay.from_predictions(table, drawn[["city", "size", "n", "late"]])


@pytest.mark.parametrize("features", [[], ["nobody"], [7], [True]])
def test_columns_that_are_not_there_are_refused(model, table, features):
    with pytest.raises(ValueError, match="feature"):
        SamplesDisplay.from_estimator(model, table, features=features, random_state=0)


@pytest.mark.parametrize("other", [PCA(2), VAETransformer(2, objective=Autoencoder(), max_iter=1, random_state=0)])
def test_an_estimator_that_draws_no_rows_is_refused(other):
    X = np.random.default_rng(0).normal(size=(30, 3))
    with pytest.raises(ValueError, match="has no sample; take an estimator"):
        SamplesDisplay.from_estimator(other.fit(X), X)
