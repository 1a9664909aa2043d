"""Rows of which some columns are given: what `sample(given=)` takes and gives back, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skvae import VAETransformer
from skvae.networks import PixelCNN


def people(n_rows=300):
    """Whole numbers, strings, numbers, categories of pandas and nullable numbers, which follow one latent."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=n_rows)
    return pd.DataFrame(
        {
            "age": (45 + 10 * z + 3 * rng.normal(size=n_rows)).round().clip(0).astype(int),
            "sex": np.where(z + 0.5 * rng.normal(size=n_rows) > 0, "F", "M"),
            "size": 2 * z + 0.3 * rng.normal(size=n_rows),
            "city": pd.Categorical(rng.choice(["Bonn", "Lima"], n_rows), categories=["Bonn", "Lima", "Oslo"]),
            "cars": pd.array(rng.integers(0, 3, n_rows), dtype="Int64"),
        },
        index=pd.RangeIndex(1000, 1000 + n_rows),
    )


@pytest.fixture(scope="module")
def of_people():
    return VAETransformer(1, likelihood="auto", max_iter=20, random_state=0).fit(people())


@pytest.fixture(scope="module")
def of_numbers():
    X = people()[["size", "age"]].to_numpy()
    return VAETransformer(1, max_iter=5, random_state=0).fit(X)


# What comes back


@pytest.mark.parametrize("given", [{"age": 40, "sex": "F"}, pd.Series({"age": 40, "sex": "F"})], ids=["dict", "series"])
def test_of_one_row_there_are_as_many_draws_as_are_asked_for(of_people, given):
    drawn = of_people.sample(30, given=given, random_state=0)
    assert isinstance(drawn, pd.DataFrame)
    assert list(drawn.index) == list(range(30))
    pd.testing.assert_series_equal(drawn.dtypes, people().dtypes)
    assert (drawn["age"] == 40).all()
    assert (drawn["sex"] == "F").all()
    assert drawn["size"].nunique() == 30
    assert drawn.notna().all(axis=None)


def test_of_rows_each_has_its_draws_in_order_and_its_label(of_people):
    given = people()[["size", "sex"]].iloc[[5, 5, 7]]
    drawn = of_people.sample(4, given=given, random_state=0)
    assert list(drawn.columns) == list(people().columns)
    assert list(drawn.index) == [1005] * 8 + [1007] * 4
    pd.testing.assert_series_equal(drawn.dtypes, people().dtypes)
    pd.testing.assert_frame_equal(drawn[["size", "sex"]], given.iloc[np.repeat(range(3), 4)])
    assert not drawn.iloc[:4]["cars"].equals(drawn.iloc[4:8]["cars"]) or drawn.iloc[:8]["age"].nunique() > 1


def test_a_row_of_a_table_is_a_series_to_be_given(of_people):
    row = people().iloc[3][["age", "city"]]
    drawn = of_people.sample(given=row, random_state=0)
    assert drawn.loc[0, ["age", "city"]].tolist() == row.tolist()
    pd.testing.assert_series_equal(drawn.dtypes, people().dtypes)


def test_missing_cells_are_not_given(of_people):
    plain = of_people.sample(5, given={"sex": "M"}, random_state=0)
    pd.testing.assert_frame_equal(of_people.sample(5, given={"sex": "M", "age": None}, random_state=0), plain)
    pd.testing.assert_frame_equal(of_people.sample(5, given={"sex": "M", "size": np.nan}, random_state=0), plain)
    assert len(of_people.sample(5, given={}, random_state=0)) == 5


def test_polars_frames_come_back_as_such():
    table = pl.from_pandas(people().drop(columns="city"))
    vae = VAETransformer(1, likelihood="auto", max_iter=2, random_state=0).fit(table)
    for given in ({"age": 40}, pl.DataFrame({"age": [40]}), pd.DataFrame({"age": [40]})):
        drawn = vae.sample(3, given=given, random_state=0)
        assert drawn.schema == table.schema
        assert drawn["age"].to_list() == [40] * 3
    drawn = vae.sample(2, given=table[["sex", "size"]][:2], random_state=0)
    assert drawn["size"].to_list() == np.repeat(table["size"][:2].to_list(), 2).tolist()


def test_columns_without_names_are_given_by_number_or_all_of_them(of_numbers):
    for given in ({1: 40}, [[np.nan, 40]], np.array([[np.nan, 40]]), pd.DataFrame({1: [40]})):
        drawn = of_numbers.sample(3, given=given, random_state=0)
        assert drawn.dtype == np.float64
        assert (drawn[:, 1] == 40).all()
        np.testing.assert_array_equal(drawn, of_numbers.sample(3, given={1: 40}, random_state=0))
    whole = np.array([[0.5, 41.0], [1.5, 42.0]])
    np.testing.assert_array_equal(of_numbers.sample(2, given=whole), np.repeat(whole, 2, axis=0))


def test_arrays_of_strings_keep_their_cells():
    X = people()[["size", "sex"]].to_numpy()
    vae = VAETransformer(1, likelihood="auto", max_iter=2, random_state=0).fit(X)
    for given in ({1: "F"}, [[None, "F"]]):
        drawn = vae.sample(3, given=given, random_state=0)
        assert list(drawn[:, 1]) == ["F"] * 3
        assert all(isinstance(value, float) for value in drawn[:, 0])


def test_draws_are_those_that_impute_makes_of_a_row_with_gaps(of_people):
    given = people().iloc[:6][["sex"]]
    gaps = people().iloc[:6].astype({"age": float}).assign(age=np.nan, size=np.nan, city=None, cars=None)
    tables = of_people.impute(gaps, n_draws=4, random_state=0)
    drawn = of_people.sample(4, given=given, random_state=0)
    for number, table in enumerate(tables):
        np.testing.assert_array_equal(drawn.iloc[number::4]["size"], table["size"])


def test_given_cells_tell_of_the_others(of_people):
    """P(F | large) and the mean age of the large, within five standard errors of the rule that made the table."""
    drawn = of_people.sample(1000, given={"size": 3.0}, random_state=0)
    assert (drawn["sex"] == "F").mean() > 0.95
    assert drawn["age"].mean() == pytest.approx(60, abs=2)
    drawn = of_people.sample(1000, given={"size": 0.0}, random_state=0)
    assert (drawn["sex"] == "F").mean() == pytest.approx(0.5, abs=0.2)


def test_the_same_seed_draws_the_same(of_people):
    first, again, other = (of_people.sample(3, given={"age": 40}, random_state=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


# What is refused


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"agee": 3}, ValueError, "a column 'agee', which fit has not seen; did you mean 'age'"),
        (
            {"zzz": 3},
            ValueError,
            "a column 'zzz', which fit has not seen; it knows 'age', 'sex', 'size', 'city', 'cars'",
        ),
        (pd.DataFrame({"Sex": ["F"]}), ValueError, "a column 'Sex', which fit has not seen; did you mean 'sex'"),
        (
            {"sex": "f"},
            ValueError,
            "column 'sex' holds 'f' in row 0, a category that fit has not seen; it knows 'F', 'M'",
        ),
        ({"age": "old"}, ValueError, "column 'age' holds 'old'"),
        ({"size": np.inf}, ValueError, "contains infinity: column 'size'"),
        ({"age": [30, 40]}, TypeError, "a list for column 'age'; give one value, or a data frame for several rows"),
        (pd.Series([1, 2], ["age", "age"]), ValueError, "the column 'age' twice"),
        (pd.DataFrame([[1, 2]], columns=["age", "age"]), ValueError, "the column 'age' twice"),
        (pd.DataFrame({"age": []}), ValueError, "given has no rows"),
        ([[1, 2]], ValueError, "given has 2 columns without names, but the model has 5"),
        ([1, 2, 3, 4, 5], ValueError, r"given has 1 dimension\(s\)"),
    ],
    ids=str,
)
def test_what_cannot_be_given_is_named(of_people, given, error, message):
    with pytest.raises(error, match=message):
        of_people.sample(given=given, random_state=0)


def test_numbers_of_columns_that_are_not_there_are_named(of_numbers):
    for label in (2, "age"):
        with pytest.raises(
            ValueError, match=f"column {label!r}, which fit has not seen; its columns are the numbers 0 to 1"
        ):
            of_numbers.sample(given={label: 1.0}, random_state=0)


def test_a_misspelt_category_of_many_is_shown_the_one_it_resembles():
    names = [f"name {i}" for i in range(30)]
    X = pd.DataFrame({"who": np.resize(names, 300), "x": np.arange(300.0)})
    vae = VAETransformer(1, likelihood="auto", max_iter=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match=r"holds 'nam 27' .* it knows .*'name 27'.* and 20 more"):
        vae.sample(given={"who": "nam 27"}, random_state=0)


def test_what_has_no_density_given_cells_is_refused():
    X = np.random.default_rng(0).random((60, 4))
    vae = VAETransformer(1, objective="wae", max_iter=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match=r"objective=WAE\(\) trains no density to draw from; use given=None"):
        vae.sample(given={0: 0.5}, random_state=0)
    images = VAETransformer(
        1, likelihood="bernoulli", decoder=PixelCNN((2, 2), 2, n_layers=1), max_iter=1, random_state=0
    ).fit(X > 0.5)
    with pytest.raises(ValueError, match=r"decoder=PixelCNN.* reads the row it predicts.*; use given=None"):
        images.sample(given={0: 1.0}, random_state=0)
