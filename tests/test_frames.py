"""Types, labels and cells of data frames: what goes in comes back, whatever the library keeps them in."""

from __future__ import annotations

import datetime
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from helpers import VAEByTurns, by_skops

from skvae import Mixed, VAEAnomalyDetector, VAEImputer, VAETransformer, VAETransformerCV

N = 60
ARROW_TYPES = {
    "int": pa.int64(),
    "small": pa.uint8(),
    "real": pa.float64(),
    "single": pa.float32(),
    "half": pa.float16(),
    "yes": pa.bool_(),
    "text": pa.string(),
    "long": pa.large_string(),
    "price": pa.decimal128(12, 2),
    "code": pa.dictionary(pa.int32(), pa.string()),
}


def make(**parameters):
    return VAETransformer(**{"n_components": 1, "likelihood": "auto", "max_iter": 2, "random_state": 0} | parameters)


def arrow_frame(gaps=False):
    """A pandas frame of pyarrow's types; with one missing cell in every column, each in a row of its own."""
    rng = np.random.default_rng(0)
    cells = {
        "int": rng.integers(18, 90, N).tolist(),
        "small": rng.integers(0, 256, N).tolist(),
        "real": rng.normal(size=N).tolist(),
        "single": rng.normal(size=N).tolist(),
        "half": rng.normal(size=N).astype(np.float16),
        "yes": (rng.random(N) < 0.3).tolist(),
        "text": rng.choice(["a", "b"], N).tolist(),
        "long": rng.choice(["c", "d"], N).tolist(),
        "price": [Decimal(f"{v:.2f}") for v in rng.exponential(size=N) ** 3 + 1],
        "code": rng.choice(["x", "y"], N).tolist(),
    }
    frame = {name: pd.Series(values, dtype=pd.ArrowDtype(ARROW_TYPES[name])) for name, values in cells.items()}
    X = pd.DataFrame(frame, index=np.arange(N) + 7)
    if gaps:
        for column in range(X.shape[1]):
            X.iloc[3 * column, column] = pd.NA
    return X


def same_where_present(before, after):
    """Whether cells that were there are bit for bit what they were, and none is missing."""
    assert not after.isna().any(axis=None)
    for name in before.columns:
        there = before[name].notna()
        assert before[name][there].tolist() == after[name][there].tolist()
        assert list(map(type, before[name][there])) == list(map(type, after[name][there]))


# pyarrow's types


@pytest.mark.parametrize("gaps", [False, True])
def test_pandas_frames_of_arrow_types_come_back_in_these_types(gaps):
    X = arrow_frame(gaps)
    vae = make().fit(X)
    drawn = vae.sample(100, random_state=0)
    assert drawn.dtypes.tolist() == X.dtypes.tolist()
    for filled in (vae.impute(X), *vae.impute(X, n_draws=2, random_state=0)):
        assert filled.dtypes.tolist() == X.dtypes.tolist()
        pd.testing.assert_index_equal(filled.index, X.index)
        same_where_present(X, filled)
    for sampled in (False, True):
        filled = VAEImputer(make(), sample_posterior=sampled, random_state=0).fit_transform(X)
        assert filled.dtypes.tolist() == X.dtypes.tolist()
        same_where_present(X, filled)


def test_means_of_arrow_types_are_arrow_types():
    X = arrow_frame()
    vae = make().fit(X)
    wanted = [pd.ArrowDtype(pa.float64()) if name in ("int", "small", "yes") else X[name].dtype for name in X]
    for back in (vae.reconstruct(X), vae.inverse_transform(vae.transform(X))):
        assert back.dtypes.tolist() == wanted
        assert not back.isna().any(axis=None)


@pytest.mark.parametrize("backend", ["pyarrow", "numpy_nullable"])
def test_converted_frames_can_be_sampled_and_imputed(backend):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=N), "n": rng.integers(18, 90, N)}).convert_dtypes(dtype_backend=backend)
    vae = VAETransformer(1, max_iter=3, random_state=0).fit(X)
    assert vae.sample(3, random_state=0).dtypes.tolist() == X.dtypes.tolist()
    pd.testing.assert_frame_equal(vae.impute(X), X)


@pytest.mark.parametrize("route", [lambda vae: pickle.loads(pickle.dumps(vae)), by_skops], ids=["pickle", "skops"])
def test_a_model_of_arrow_types_is_saved_in_plain_words(route):
    X = arrow_frame(gaps=True)
    vae = make().fit(X)
    back = route(vae)
    pd.testing.assert_frame_equal(back.sample(9, random_state=0), vae.sample(9, random_state=0))
    pd.testing.assert_frame_equal(back.impute(X), vae.impute(X))


def test_strings_come_back_in_the_storage_they_had():
    names = ["a", "b"] * (N // 2)
    types = [pd.StringDtype("python"), pd.StringDtype("pyarrow"), pd.StringDtype("python", na_value=np.nan), "object"]
    X = pd.DataFrame({i: pd.Series(names, dtype=dtype) for i, dtype in enumerate(types)}).assign(x=np.arange(N) * 0.1)
    X.columns = list("abcde")
    vae = make().fit(X)
    for found in (vae.sample(5, random_state=0), vae.reconstruct(X), vae.impute(X)):
        assert found.dtypes.tolist() == X.dtypes.tolist()


# Present cells


IDS = np.random.default_rng(0).integers(2**60, 2**61, N)
LARGE = {
    "int64": lambda: IDS,
    "int64, its limits": lambda: np.r_[np.full(N // 2, 2**63 - 1), np.full(N // 2, -(2**63))],
    "uint64": lambda: IDS.astype(np.uint64) + np.uint64(2**63),
    "Int64": lambda: pd.array(IDS, dtype="Int64"),
    "Int64 with NA": lambda: pd.array([pd.NA, *IDS[1:]], dtype="Int64"),
    "int64[pyarrow] with NA": lambda: pd.array([pd.NA, *IDS[1:]], dtype="int64[pyarrow]"),
    "Python's, beyond 64 bits": lambda: np.array([int(i) * 10**6 for i in IDS], dtype=object),
    "Python's with None": lambda: np.array([None, *map(int, IDS[1:])], dtype=object),
}


def numbers_with_gaps():
    rng = np.random.default_rng(1)
    a = rng.normal(size=N)
    return {"a": a, "gap": np.where(np.arange(N) % 5 == 0, np.nan, a + 0.1 * rng.normal(size=N))}


@pytest.mark.parametrize("likelihood", ["gaussian", "auto"])
@pytest.mark.parametrize("kind", LARGE)
def test_large_whole_numbers_that_are_present_are_untouched(kind, likelihood):
    X = pd.DataFrame(numbers_with_gaps() | {"id": LARGE[kind]()})
    vae = make(likelihood=likelihood).fit(X)
    imputer = VAEImputer(make(likelihood=likelihood)).fit(X)
    drawing = VAEImputer(make(likelihood=likelihood), sample_posterior=True, random_state=0).fit(X)
    for filled in (
        vae.impute(X),
        *vae.impute(X, n_draws=2, random_state=0),
        imputer.transform(X),
        drawing.transform(X),
    ):
        assert filled.dtypes.tolist() == X.dtypes.tolist()
        same_where_present(X, filled)


@pytest.mark.parametrize("dtype", [pl.Int64, pl.UInt64, pl.Int128])
def test_large_whole_numbers_of_polars_are_untouched(dtype):
    X = pl.DataFrame(numbers_with_gaps()).with_columns(
        pl.col("gap").fill_nan(None), pl.Series("id", [None, *IDS[1:].tolist()], dtype=dtype)
    )
    vae = make(likelihood="gaussian").fit(X)
    for filled in (vae.impute(X), *vae.impute(X, n_draws=2, random_state=0)):
        assert filled.schema == X.schema
        assert filled["id"][1:].to_list() == X["id"][1:].to_list()
        assert filled.null_count().sum_horizontal().item() == 0


def test_large_whole_numbers_of_an_array_given_to_a_frames_model_are_untouched():
    X = pd.DataFrame({"a": IDS[::-1], "id": IDS})
    vae = make(likelihood="gaussian").fit(X)
    with pytest.warns(UserWarning, match="valid feature names"):
        filled = vae.impute(X.to_numpy())
    pd.testing.assert_frame_equal(filled, X)


def test_large_whole_numbers_of_an_object_array_beside_text_are_untouched():
    texts, sizes = "ab" * 30, [None if i == 4 else i % 2 + 0.5 for i in range(60)]
    X = np.array([[int(i), *cells] for i, *cells in zip(IDS, texts, sizes, strict=True)], object)
    for filled in (make().fit(X).impute(X), *make().fit(X).impute(X, n_draws=2, random_state=0)):
        assert filled[:, 0].tolist() == X[:, 0].tolist()
        assert isinstance(filled[4, 2], float)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64", "int64[pyarrow]"])
def test_large_whole_numbers_are_categories_of_their_own(dtype):
    values = np.tile([2**60, 2**60 + 1, 2**60 + 2], N // 3)
    X = pd.DataFrame({"id": pd.array(values, dtype=dtype), "x": np.arange(N) % 2})
    vae = make(likelihood="categorical").fit(X)
    assert vae._fitted().schema.categories[0] == [2**60, 2**60 + 1, 2**60 + 2]
    drawn = vae.sample(200, random_state=0)
    assert drawn.id.dtype == X.id.dtype
    assert set(drawn.id) == {2**60, 2**60 + 1, 2**60 + 2}


# Types that impute keeps


def test_filled_whole_numbers_and_truths_keep_their_type():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "Int64": pd.array([pd.NA, *rng.poisson(4, N - 1)], dtype="Int64"),
            "UInt8": pd.array([1, pd.NA, *rng.poisson(4, N - 2)], dtype="UInt8"),
            "boolean": pd.array([True, False, pd.NA, *(rng.random(N - 3) < 0.3)], dtype="boolean"),
            "Float32": pd.array([1, 2, 3, pd.NA, *rng.normal(size=N - 4)], dtype="Float32"),
            "float16": np.r_[[1, 2, 3, 4, np.nan], rng.normal(size=N - 5)].astype(np.float16),
            "float": np.r_[[np.nan], rng.normal(size=N - 1)],
        }
    )
    vae = make().fit(X)
    for filled in (vae.impute(X), VAEImputer(make()).fit_transform(X)):
        assert filled.dtypes.tolist() == X.dtypes.tolist()
        same_where_present(X, filled)


def test_polars_whole_numbers_and_truths_keep_their_type():
    rng = np.random.default_rng(0)
    X = pl.DataFrame(
        {
            "n": pl.Series([None, *rng.poisson(4, N - 1).tolist()], dtype=pl.Int8),
            "yes": pl.Series([True, None, *(rng.random(N - 2) < 0.3).tolist()]),
            "price": pl.Series([None, *map(Decimal, rng.poisson(9, N - 1).tolist())], dtype=pl.Decimal(10, 2)),
            "x": rng.normal(size=N),
        }
    )
    vae = make().fit(X)
    for found in (vae.impute(X), vae.sample(5, random_state=0), *vae.impute(X, n_draws=1, random_state=0)):
        assert found.schema == X.schema
        assert found.null_count().sum_horizontal().item() == 0
    assert vae.impute(X)[2:].equals(X[2:])


def test_a_row_whose_gaps_are_of_another_type_is_filled_in_the_types_of_fit():
    X = pd.DataFrame({"x": np.arange(N) * 0.5, "n": np.arange(N), "text": ["a", "b"] * 30})
    vae = make().fit(X)
    for gap in (None, np.nan, pd.NA):
        filled = vae.impute(pd.DataFrame({"x": [3.5, 1.5], "n": [gap, gap], "text": [gap, gap]}))
        assert filled.x.tolist() == [3.5, 1.5]
        assert set(filled.text) <= {"a", "b"}
        assert filled.text.dtype == X.text.dtype
        assert filled.n.dtype.kind in "if"


def test_what_impute_returns_shares_no_memory_with_what_it_was_given():
    X = pd.DataFrame({"x": np.arange(N) * 0.5, "n": np.arange(N), "text": ["a", "b"] * 30})
    before = X.copy(deep=True)
    filled = make().fit(X).impute(X)
    filled.iloc[:, :] = filled.iloc[::-1].to_numpy()
    pd.testing.assert_frame_equal(X, before)


# Types of what is drawn


WIDE = {
    "uint8": lambda rng: rng.choice([0, 1, 254, 255], N).astype(np.uint8),
    "int8": lambda rng: rng.choice([-128, -127, 126, 127], N).astype(np.int8),
    "int64": lambda rng: rng.choice([2**63 - 1, -(2**63)], N),
    "uint64": lambda rng: rng.choice(np.array([2**64 - 1, 0], dtype=np.uint64), N),
    "bool": lambda rng: rng.random(N) < 0.5,
    "UInt8": lambda rng: pd.array(rng.choice([0, 255], N), dtype="UInt8"),
    "boolean": lambda rng: pd.array(rng.random(N) < 0.5, dtype="boolean"),
    "uint8[pyarrow]": lambda rng: pd.array(rng.choice([0, 255], N), dtype="uint8[pyarrow]"),
    "float16": lambda rng: rng.choice([-65500, 65500], N).astype(np.float16),
    "float32": lambda rng: rng.choice([-3.4e38, 3.4e38], N).astype(np.float32),
}
POLARS_WIDE = {
    "UInt8": ([0, 255], pl.UInt8),
    "Int8": ([-128, 127], pl.Int8),
    "Int64": ([2**63 - 1, -(2**63)], pl.Int64),
    "Boolean": ([True, False], pl.Boolean),
    "Int128": ([2**127 - 1, -(2**127)], pl.Int128),
    "Decimal": ([Decimal("-99.99"), Decimal("99.99")], pl.Decimal(4, 2)),
}


@pytest.mark.parametrize("kind", WIDE)
def test_drawn_columns_have_their_type_however_many_are_drawn(kind):
    """A normal distribution around a type's limits leaves the type by half."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": WIDE[kind](rng), "y": WIDE[kind](rng), "z": rng.normal(size=N)})
    vae = make(likelihood="gaussian").fit(X)
    for n in (1, 3, 500):
        assert vae.sample(n, random_state=0).dtypes.tolist() == X.dtypes.tolist()
    drawn = vae.sample(500, random_state=0)
    if not kind.startswith("float"):
        assert {X.x.min(), X.x.max()} <= set(drawn.x)
    assert np.isfinite(drawn.x.astype(float)).all()
    gapped = X.assign(z=np.where(np.arange(N) == 3, np.nan, X.z))
    for table in vae.impute(gapped, n_draws=3, random_state=0):
        assert table.dtypes.tolist() == X.dtypes.tolist()


@pytest.mark.parametrize("kind", ["UInt8", "boolean", "uint8[pyarrow]", "Int8"])
def test_drawn_cells_are_within_a_types_limits(kind):
    rng = np.random.default_rng(0)
    values = rng.random(N) < 0.5 if kind == "boolean" else rng.choice([0, 127], N)
    X = pd.DataFrame({"x": pd.array(values, dtype=kind), "z": rng.normal(size=N)})
    gapped = X.copy()
    gapped.iloc[:30, 0] = pd.NA
    for table in make(likelihood="gaussian").fit(gapped).impute(gapped, n_draws=5, random_state=0):
        assert table.dtypes.tolist() == X.dtypes.tolist()
        assert table.x.notna().all()


@pytest.mark.parametrize("kind", POLARS_WIDE)
def test_drawn_polars_columns_have_their_type_however_many_are_drawn(kind):
    values, dtype = POLARS_WIDE[kind]
    X = pl.DataFrame({"x": pl.Series(values * 30, dtype=dtype), "z": np.random.default_rng(0).normal(size=N)})
    vae = make(likelihood="gaussian").fit(X)
    for n in (1, 3, 500):
        assert vae.sample(n, random_state=0).schema == X.schema
    assert set(vae.sample(500, random_state=0)["x"]) >= set(values)
    gapped = X.with_columns(x=pl.Series([None, *values[1:], *values * 29], dtype=dtype))
    for table in vae.impute(gapped, n_draws=20, random_state=0):
        assert table.schema == X.schema


def test_means_of_whole_numbers_are_no_whole_numbers_even_where_all_happen_to_be():
    X = pd.DataFrame({"n": np.full(N, 3), "x": np.arange(N) * 0.1})
    vae = make(likelihood="gaussian").fit(X)
    assert vae.reconstruct(X).n.dtype == np.float64
    assert vae.sample(3, random_state=0).n.tolist() == [3, 3, 3]


def test_declared_categories_that_are_numbers_to_the_likelihood_are_drawn_as_numbers():
    grades = pd.Categorical(np.random.default_rng(0).integers(1, 4, N), categories=[3, 2, 1])
    X = pd.DataFrame({"grade": grades, "x": np.arange(N) * 0.1})
    vae = make(likelihood="gaussian").fit(X)
    assert vae.sample(5, random_state=0).grade.dtype == np.float64
    assert vae.impute(X).grade.tolist() == X.grade.tolist()
    assert vae.sample(300, random_state=0).grade.nunique() == 300


# Objects


def test_truths_in_a_column_of_objects_come_back_as_truths():
    rng = np.random.default_rng(0)
    truths = (rng.random(N) < 0.4).tolist()
    X = pd.DataFrame({"yes": pd.Series([None, *truths[1:]], dtype=object), "x": rng.normal(size=N)})
    for likelihood in ("auto", Mixed([("categorical", ["yes"]), ("gaussian", ["x"])])):
        vae = make(likelihood=likelihood).fit(X)
        for found in (vae.sample(20, random_state=0), vae.impute(X), *vae.impute(X, n_draws=1, random_state=0)):
            assert found.yes.dtype == object
            assert set(map(type, found.yes)) == {bool}
        assert vae.impute(X).yes[1:].tolist() == truths[1:]
    filled = VAEImputer(make()).fit_transform(X)
    assert set(map(type, filled.yes)) == {bool}


def test_truths_in_an_object_array_beside_text_come_back_as_truths():
    X = np.array([[i % 3 == 0, "ab"[i % 2], 0.1 * i] for i in range(N)], dtype=object)
    vae = make().fit(X)
    gapped = X.copy()
    gapped[5, 0] = None
    for found in (vae.sample(20, random_state=0), vae.impute(gapped)):
        assert set(map(type, found[:, 0])) == {bool}


def test_one_and_true_are_two_categories():
    X = pd.DataFrame({"k": pd.Series([1, True, "a"] * 20, dtype=object), "x": np.arange(N) * 0.1})
    vae = make().fit(X)
    known = vae._fitted().schema.categories[0]
    assert [(type(value), value) for value in known] == [(bool, True), (int, 1), (str, "a")]
    assert set(map(type, vae.sample(50, random_state=0).k)) == {bool, int, str}
    filled = vae.impute(X)
    assert list(map(type, filled.k)) == list(map(type, X.k))
    assert vae.reconstruct(X).k.map(type).isin([bool, int, str]).all()


def test_half_floats_come_back_as_half_floats():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(N, 3)).astype(np.float16), columns=list("abc"))
    vae = make(likelihood="gaussian").fit(X)
    for found in (vae.sample(3, random_state=0), vae.reconstruct(X), vae.impute(X)):
        assert found.dtypes.tolist() == [np.float16] * 3


@pytest.mark.parametrize("likelihood", ["gaussian", "auto", "student_t"])
def test_missing_cells_of_object_columns_are_missing(likelihood):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.normal(size=N), "b": rng.normal(size=N)})
    gapped = X.astype(object)
    gapped.iloc[3, 0], gapped.iloc[4, 1] = pd.NA, None
    plain = X.copy()
    plain.iloc[3, 0], plain.iloc[4, 1] = np.nan, np.nan
    vae, same = make(likelihood=likelihood).fit(gapped), make(likelihood=likelihood).fit(plain)
    np.testing.assert_array_equal(vae.transform(gapped), same.transform(plain))
    cells = gapped.to_numpy(dtype=object)
    np.testing.assert_array_equal(make(likelihood=likelihood).fit(cells).transform(cells), same.transform(plain))
    assert not vae.impute(gapped).isna().any(axis=None)


# Decimals


AMOUNTS = [Decimal(f"{v:.2f}") for v in np.exp(np.random.default_rng(0).normal(size=200)) + 0.01]
OTHERS = (1 + np.arange(200) * 0.25).tolist()
DECIMALS = {
    "objects": lambda: pd.DataFrame({"x": pd.Series(AMOUNTS, dtype=object), "y": OTHERS}),
    "decimal128[pyarrow]": lambda: pd.DataFrame(
        {"x": pd.Series(AMOUNTS, dtype=pd.ArrowDtype(pa.decimal128(10, 2))), "y": OTHERS}
    ),
    "an object array": lambda: np.array(list(zip(AMOUNTS, OTHERS, strict=True)), dtype=object),
    "a list": lambda: [list(row) for row in zip(AMOUNTS, OTHERS, strict=True)],
    "polars": lambda: pl.DataFrame({"x": pl.Series(AMOUNTS, dtype=pl.Decimal(10, 2)), "y": OTHERS}),
    "fractions": lambda: pd.DataFrame({"x": pd.Series(list(map(Fraction, AMOUNTS)), dtype=object), "y": OTHERS}),
}


@pytest.mark.parametrize("likelihood", ["auto", "gaussian", "log_normal"])
@pytest.mark.parametrize("kind", DECIMALS)
def test_decimals_are_numbers(kind, likelihood):
    X, plain = DECIMALS[kind](), np.column_stack([list(map(float, AMOUNTS)), OTHERS])
    vae, same = make(likelihood=likelihood).fit(X), make(likelihood=likelihood).fit(plain)
    np.testing.assert_array_equal(vae.score_samples(X), same.score_samples(plain))
    if likelihood == "auto":
        kinds = dict(vae.likelihood_.members)
        assert kinds["log_normal"] == (["x"] if hasattr(X, "columns") else [0])


@pytest.mark.parametrize("dtype", [object, pd.ArrowDtype(pa.decimal128(3, 1))])
def test_decimals_are_categories_where_the_likelihood_says_so(dtype):
    prices = pd.Series([Decimal("1.5"), Decimal("2.0"), Decimal("9.9")] * 20, dtype=dtype)
    X = pd.DataFrame({"price": prices, "k": ["a", "b"] * 30})
    vae = by_skops(make(likelihood="categorical").fit(X))
    drawn = vae.sample(50, random_state=0)
    assert drawn.price.dtype == dtype
    assert set(drawn.price) == set(prices)
    assert set(map(type, drawn.price)) == {Decimal}
    pd.testing.assert_frame_equal(vae.impute(X), X)


def test_a_new_amount_is_no_unseen_category():
    X = DECIMALS["objects"]()
    new = X.assign(x=[Decimal("3.14159"), *AMOUNTS[1:]])
    assert np.isfinite(make().fit(X).score_samples(new)).all()


def test_decimals_in_a_column_of_objects_come_back_as_decimals():
    X = DECIMALS["objects"]()
    X.iloc[3, 0] = None
    vae = make().fit(X)
    for found in (vae.sample(20, random_state=0), vae.reconstruct(X), vae.impute(X)):
        assert set(map(type, found.x)) == {Decimal}
        assert all(value.as_tuple().exponent >= -2 for value in found.x)
    assert vae.impute(X).x.drop(3).tolist() == X.x.drop(3).tolist()
    detector = VAEAnomalyDetector(likelihood="auto", max_iter=2, random_state=0).set_output(transform="pandas").fit(X)
    assert (X - detector.similar(X)).drop(3).notna().all(axis=None)


def test_decimals_are_within_their_types_precision():
    X = pd.DataFrame({"x": pd.Series([Decimal("-9.9"), Decimal("9.9")] * 30, dtype=pd.ArrowDtype(pa.decimal128(2, 1)))})
    X["y"] = np.arange(N) * 0.1
    drawn = make(likelihood="gaussian").fit(X).sample(200, random_state=0)
    assert {Decimal("-9.9"), Decimal("9.9")} <= set(drawn.x)
    assert max(drawn.x) == Decimal("9.9")


# What is no number and no category


DATES = {
    "date": datetime.date(2026, 1, 5),
    "datetime": datetime.datetime(2026, 1, 5),
    "Timestamp": pd.Timestamp("2026-01-05", tz="UTC"),
    "timedelta": datetime.timedelta(1),
    "Timedelta": pd.Timedelta("1D"),
    "time": datetime.time(3),
    "Period": pd.Period("2026-01", "M"),
    "datetime64": np.datetime64("2026-01-05"),
}


def every_container(value):
    """Tables of two columns, the second of which holds this value among others that are missing."""
    cells = [[0.1 * i, value if i % 2 else None] for i in range(N)]
    objects = pd.DataFrame({"x": [row[0] for row in cells]})
    objects["when"] = pd.Series([row[1] for row in cells], dtype=object)
    return {"column 'when'": objects, "column 1": np.array(cells, dtype=object), "column 1 ": cells}


@pytest.mark.parametrize("likelihood", ["auto", "gaussian", "categorical"])
@pytest.mark.parametrize("kind", DATES)
def test_dates_in_cells_are_refused_by_name(kind, likelihood):
    for label, X in every_container(DATES[kind]).items():
        with pytest.raises(ValueError, match=f"^{label.strip()} holds dates or time spans; turn them into numbers"):
            make(likelihood=likelihood).fit(X)


@pytest.mark.parametrize(
    "column",
    [
        pd.period_range("2020", periods=N, freq="D"),
        pd.Series(pd.date_range("2020", periods=N)).astype(pd.ArrowDtype(pa.date32())),
        pd.Series(pd.date_range("2020", periods=N)).astype(pd.ArrowDtype(pa.timestamp("s"))),
        pd.timedelta_range("1D", periods=N),
    ],
    ids=["Period", "date32", "timestamp", "timedelta64"],
)
def test_columns_of_dates_are_refused_by_name(column):
    X = pd.DataFrame({"x": np.arange(N) * 0.1, "when": column})
    for likelihood in ("auto", "gaussian"):
        with pytest.raises(ValueError, match="^column 'when' holds dates or time spans; turn them into numbers"):
            make(likelihood=likelihood).fit(X)


def test_a_missing_date_is_a_missing_cell():
    X = pd.DataFrame({"x": np.arange(N) * 0.1, "k": pd.Series(["a", "b", pd.NaT] * 20, dtype=object)})
    vae = make().fit(X)
    assert set(vae.impute(X).k) == {"a", "b"}


@pytest.mark.parametrize("likelihood", ["auto", "gaussian", "categorical"])
def test_complex_numbers_are_refused_by_name(likelihood):
    for label, X in every_container(1j).items():
        with pytest.raises(ValueError, match=f"^Complex data not supported: {label.strip()} holds complex numbers"):
            make(likelihood=likelihood).fit(X)
    X = pd.DataFrame({"n": np.arange(N), "z": np.arange(N) * 1j})
    with pytest.raises(ValueError, match="^Complex data not supported: column 'z' holds complex numbers; give their"):
        make(likelihood=likelihood).fit(X)


NO_NUMBERS = {
    "a tuple": ((1, 2), TypeError, r"holds \(1, 2\), but float\(\) argument must be"),
    "a dict": ({"a": 1}, TypeError, "holds {'a': 1}, but float\\(\\) argument must be"),
    "text": ("old", ValueError, "holds 'old'. Set likelihood='auto'"),
    "an integer beyond float64": (10**400, ValueError, "too large for a number in float64"),
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_a_cell_that_is_no_number_is_named_with_its_column(kind):
    value, error, words = NO_NUMBERS[kind]
    vae = make(likelihood="gaussian").fit(np.random.default_rng(0).normal(size=(N, 2)))
    for label, X in every_container(value).items():
        with pytest.raises(error, match=f"{label.strip()} {words}|{label.strip()} holds 1000.*{words}"):
            make(likelihood="gaussian").fit(X)
        if not hasattr(X, "columns"):
            with pytest.raises(error, match=words):
                vae.transform(X)


def test_a_number_too_large_is_no_category():
    with pytest.raises(ValueError, match="column 'when' holds 1000.* too large for a number in float64"):
        make().fit(every_container(10**400)["column 'when'"])


@pytest.mark.parametrize("likelihood", ["auto", "categorical"])
def test_categories_that_cannot_be_sorted_are_refused_by_name(likelihood):
    X = pd.DataFrame({"k": pd.Series([(1, "a"), ("a", 1), (2, "b")] * 20, dtype=object), "x": np.arange(60.0)})
    with pytest.raises(TypeError, match="^column 'k' holds categories without an order, as .*; make strings of them"):
        make(likelihood=likelihood).fit(X)


@pytest.mark.parametrize("likelihood", ["auto", "gaussian", "categorical"])
def test_columns_of_lists_are_refused_by_name(likelihood):
    X = pl.DataFrame({"x": np.arange(N) * 0.1, "l": [[1, 2], [3]] * 30})
    for table in (X, X.to_pandas(), X.to_pandas(use_pyarrow_extension_array=True)):
        with pytest.raises(TypeError, match="^column 'l' holds .*[Gg]ive every item a column"):
            make(likelihood=likelihood).fit(table)


NO_TABLES = {
    "a LazyFrame": (lambda: pl.DataFrame({"x": [1.0, 2.0]}).lazy(), r"X is a polars LazyFrame.*pass X\.collect\(\)"),
    "a dict": (lambda: {"x": [1.0, 2.0]}, r"X is a dict, not a table .*pass pandas\.DataFrame\(X\)"),
    "a generator": (lambda: ([float(i)] for i in range(3)), "X is a generator, not a table .*a list of rows"),
    "None": (lambda: None, "X is None, not a table of rows and columns"),
    "a string": (lambda: "table.csv", "X is a str, not a table of rows and columns"),
    "a set": (lambda: {1.0, 2.0}, "X is a set, not a table of rows and columns"),
}
FITTED = {
    "transformer": (make, ["fit", "partial_fit", "transform", "score_samples", "score", "reconstruct", "impute"]),
    "detector": (
        lambda: VAEAnomalyDetector(max_iter=2, random_state=0),
        ["fit", "partial_fit", "predict", "score_samples", "decision_function", "explain", "similar", "fit_predict"],
    ),
    "search": (
        lambda: VAETransformerCV((1,), cv=2, max_iter=2, random_state=0),
        ["fit", "transform", "score", "impute", "posterior"],
    ),
    "imputer": (lambda: VAEImputer(make()), ["fit", "transform", "fit_transform"]),
    "classifier": (
        lambda: VAEByTurns(max_iter=2, random_state=0),
        ["fit", "partial_fit", "predict", "predict_proba", "decision_function", "transform"],
    ),
}


@pytest.mark.parametrize("estimator", FITTED)
@pytest.mark.parametrize("kind", NO_TABLES)
def test_what_is_no_table_is_refused_with_advice(kind, estimator):
    made, (new, methods) = NO_TABLES[kind], FITTED[estimator]
    fitted = new().fit(np.random.default_rng(0).normal(size=(N, 1)))
    for method in methods:
        with pytest.raises(ValueError, match=made[1]):
            getattr(fitted, method)(made[0]())


@pytest.mark.parametrize("estimator", FITTED)
def test_a_series_is_refused_in_scikit_learns_words(estimator):
    new, methods = FITTED[estimator]
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(N, 2)), columns=["a", "b"])
    fitted = new().fit(X)
    for series in (X["a"], X.iloc[0], X["a"].astype("Float64"), X["a"].astype("double[pyarrow]")):
        for method in methods:
            with pytest.raises(ValueError, match="Expected a 2-dimensional container but got .*Series.* instead. Pass"):
                getattr(fitted, method)(series)
    if hasattr(fitted, "calibrate"):
        with pytest.raises(ValueError, match="Expected a 2-dimensional container but got"):
            fitted.calibrate(X["a"], false_alarm_rate=0.1)
    if hasattr(fitted, "inverse_transform"):
        with pytest.raises(ValueError, match="Expected a 2-dimensional container but got"):
            fitted.inverse_transform(X["a"])


# Infinity


@pytest.mark.parametrize("likelihood", ["categorical", "auto", "gaussian", "student_t"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, Decimal("Infinity")])
def test_infinity_is_no_category(likelihood, value):
    cells = [[float(i % 4), i % 3] for i in range(N)]
    cells[7][1] = value
    tables = {"column 1": np.array(cells, dtype=object), "column 'k'": pd.DataFrame(cells, columns=["x", "k"])}
    tables["column 'k' "] = tables["column 'k'"].assign(k=tables["column 'k'"].k.astype(object))
    if isinstance(value, float):
        tables["column 1 "] = np.array(cells)
    vae = make(likelihood=likelihood).fit(np.where(np.isinf(np.array(cells, float)), 1.0, np.array(cells, float)))
    for label, X in tables.items():
        message = f"Input X contains infinity: {label.strip()}, row 7"
        with pytest.raises(ValueError, match=message):
            make(likelihood=likelihood).fit(X)
        if not hasattr(X, "columns"):
            with pytest.raises(ValueError, match=message):
                vae.transform(X)


def test_infinity_beside_text_is_no_category():
    X = pd.DataFrame({"k": pd.Series(["a", "b", np.inf] * 20, dtype=object), "x": np.arange(N) * 0.1})
    with pytest.raises(ValueError, match="Input X contains infinity: column 'k', row 2"):
        make().fit(X)


# Labels


def labelled():
    """Frames of the same numbers with labels of every kind."""
    levels = [["s1", "s1", "s2", "s2"], ["mean", "sd", "mean", "sd"]]
    dates = pd.date_range("2026-01-01", periods=4, tz="UTC")
    return {
        "strings": pd.Index(list("abcd"), name="sensor"),
        "range": pd.RangeIndex(4),
        "range with a step": pd.RangeIndex(2, 10, 2, name="Hz"),
        "integers": pd.Index([3, 1, 2, 0], name="pixel"),
        "floats": pd.Index([0.5, 1.5, 2.5, 3.5]),
        "dates": dates,
        "periods": pd.period_range("2026-01", periods=4, freq="M", name="month"),
        "time spans": pd.timedelta_range("1D", periods=4),
        "categories": pd.CategoricalIndex(list("abcd"), categories=list("dcbae"), ordered=True),
        "levels": pd.MultiIndex.from_arrays(levels, names=["sensor", None]),
        "levels of dates": pd.MultiIndex.from_product([["a", "b"], dates[:2]], names=["k", "day"]),
        "tuples": pd.Index([("a", 1), ("a", 2), ("b", 1), ("b", 2)], tupleize_cols=False),
        "mixed": pd.Index([0.5, 1, ("b", 2), None], dtype=object, tupleize_cols=False),
    }


@pytest.fixture(scope="module")
def table():
    z = np.random.default_rng(0).normal(size=(N, 1))
    return z @ [[1.0, 2.0, -1.0, 0.5]] + 0.3 * np.random.default_rng(1).normal(size=(N, 4))


@pytest.mark.parametrize("kind", labelled())
def test_labels_of_every_kind_survive(table, kind):
    labels = labelled()[kind]
    X = pd.DataFrame(table, columns=labels)
    X.iloc[3, 2] = np.nan
    vae = pickle.loads(pickle.dumps(VAETransformer(1, max_iter=2, random_state=0).fit(X)))
    imputer = VAEImputer(VAETransformer(1, max_iter=2, random_state=0)).fit(X)
    for found in (
        vae.sample(3, random_state=0),
        vae.reconstruct(X),
        vae.impute(X),
        *vae.impute(X, n_draws=1, random_state=0),
        vae.inverse_transform(vae.transform(X)),
        imputer.transform(X),
    ):
        pd.testing.assert_index_equal(found.columns, labels, exact=True)
    assert not (X - vae.reconstruct(X)).drop(3).isna().any(axis=None)


@pytest.mark.parametrize("kind", labelled())
def test_the_most_similar_row_can_be_taken_from_a_frame_with_labels_of_any_kind(table, kind):
    X = pd.DataFrame(table, columns=labelled()[kind], index=np.arange(N) + 5)
    detector = VAEAnomalyDetector(max_iter=2, random_state=0).set_output(transform="pandas").fit(X)
    off = X - detector.similar(X)
    assert off.shape == X.shape
    assert not off.isna().any(axis=None)
    pd.testing.assert_index_equal(off.columns, X.columns, exact=True)
    np.testing.assert_allclose(off.to_numpy(), table - detector.set_output(transform="default").similar(X))


@pytest.mark.parametrize("kind", labelled())
def test_parts_of_a_score_and_what_is_off_by_how_much_stand_side_by_side(table, kind):
    labels = labelled()[kind]
    X = pd.DataFrame(table, columns=labels)
    detector = VAEAnomalyDetector(max_iter=2, random_state=0).set_output(transform="pandas").fit(X)
    parts = detector.explain(X).iloc[0]
    both = pd.concat({"part": parts, "off by": (X - detector.similar(X)).iloc[0]}, axis=1)
    assert len(both) == 5
    assert both.isna().sum().tolist() == [0, 1]
    assert list(parts.index)[:4] == list(labels)
    assert parts.index[4] == "latent" or parts.index[4][0] == "latent"
    assert detector.explain(X).columns.names == list(labels.names)


def test_a_model_of_many_levels_is_saved_in_plain_words(table):
    X = pd.DataFrame(table, columns=labelled()["levels"])
    vae = VAETransformer(1, max_iter=2, random_state=0).fit(X)
    pd.testing.assert_frame_equal(by_skops(vae).sample(3, random_state=0), vae.sample(3, random_state=0))


def test_mixed_names_a_column_of_several_levels_by_its_tuple(table):
    X = pd.DataFrame(table, columns=labelled()["levels"])
    likelihood = Mixed([("student_t", ("s1", "mean"))], remainder="gaussian")
    members = VAETransformer(1, likelihood=likelihood, max_iter=2, random_state=0).fit(X).likelihood_.members
    assert members[0] == ("student_t", [("s1", "mean")])
    assert len(members[1][1]) == 3
    flat = X.set_axis(list("abcd"), axis=1)
    two = Mixed([("student_t", ("a", "b"))], remainder="gaussian")
    assert VAETransformer(1, likelihood=two, max_iter=2, random_state=0).fit(flat).likelihood_.members[0][1] == [
        "a",
        "b",
    ]


# Sparse columns


@pytest.mark.parametrize("likelihood", ["gaussian", "auto"])
@pytest.mark.parametrize("some", [["a", "b", "c"], ["a"]])
def test_sparse_columns_of_a_frame_are_columns(likelihood, some):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.poisson(0.5, N) * 1.0, "b": rng.poisson(0.5, N), "c": rng.random(N) < 0.2})
    sparse = X.astype({name: pd.SparseDtype(X[name].dtype) for name in some})
    vae, same = make(likelihood=likelihood).fit(sparse), make(likelihood=likelihood).fit(X)
    np.testing.assert_array_equal(vae.transform(sparse), same.transform(X))
    np.testing.assert_array_equal(vae.transform(X), same.transform(X))
    assert vae.sample(5, random_state=0).dtypes.tolist() == sparse.dtypes.tolist()
    pd.testing.assert_frame_equal(vae.impute(sparse), sparse)
    np.testing.assert_array_equal(vae.reconstruct(sparse), same.reconstruct(X))


# Ids


def test_a_column_of_ids_is_warned_of_by_name():
    X = pd.DataFrame({"id": [f"k{i}" for i in range(N)], "x": np.arange(N) * 0.1})
    with pytest.warns(UserWarning, match="^column 'id' holds 60 different values in 60 rows.*drop the column"):
        make().fit(X)
    with pytest.warns(UserWarning, match="^column 0 holds 60 different values"):
        make().fit(X.to_numpy(dtype=object))


def test_categories_with_a_few_rows_each_are_not_warned_of(recwarn):
    make().fit(pd.DataFrame({"k": [f"k{i % 25}" for i in range(N)], "x": np.arange(N) * 0.1}))
    few = [f"k{i}" for i in range(12)]
    make().fit(pd.DataFrame({"k": few, "x": np.arange(12) * 0.1}))
    typed = pd.Categorical(["a", "b"] * 30, categories=[*"ab", *map(str, range(50))])
    make().fit(pd.DataFrame({"k": typed, "x": np.arange(N) * 0.1}))
    assert not [w for w in recwarn if "different values" in str(w.message)]
