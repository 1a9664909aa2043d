"""Data frames and tables with categories: what goes in comes back, and errors name column, row and value."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io as sio
from helpers import load_state
from polars.testing import assert_frame_equal as assert_polars_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from skvae import Categorical, Mixed, VAEAnomalyDetector, VAETransformer, VAETransformerCV

N = 60


def make(**parameters):
    return VAETransformer(**{"n_components": 2, "likelihood": "auto", "max_iter": 2, "random_state": 0} | parameters)


def pandas_frame(seed=0):
    """A column of every type; each depends on the first latent a little."""
    rng = np.random.default_rng(seed)
    columns = {
        "text": pd.array(rng.choice(["a", "b", "c"], N), dtype="str"),
        "object": rng.choice(["x", "y"], N).astype(object),
        "category": pd.Categorical(rng.choice(["u", "v"], N), categories=["v", "u", "w"]),
        "ordered": pd.Categorical(rng.choice(["low", "mid"], N), categories=["low", "mid", "high"], ordered=True),
        "grade": pd.Categorical(rng.integers(1, 4, N), categories=[3, 2, 1]),
        "bool": rng.random(N) < 0.3,
        "boolean": pd.array(rng.random(N) < 0.3, dtype="boolean"),
        "int": rng.poisson(4, N),
        "Int": pd.array(rng.poisson(4, N) - 3, dtype="Int64"),
        "Float": pd.array(rng.normal(size=N), dtype="Float64"),
        "float32": rng.normal(size=N).astype(np.float32),
        "float64": rng.normal(size=N),
    }
    return pd.DataFrame(columns, index=np.arange(N) * 3 + 7)


def polars_frame(seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "string": rng.choice(["a", "b"], N).tolist(),
            "categorical": pl.Series(rng.choice(["x", "y"], N).tolist(), dtype=pl.Categorical),
            "enum": pl.Series(rng.choice(["x", "y"], N).tolist(), dtype=pl.Enum(["z", "y", "x"])),
            "boolean": (rng.random(N) < 0.4).tolist(),
            "int64": rng.poisson(4, N),
            "int8": pl.Series(rng.integers(-5, 5, N).tolist(), dtype=pl.Int8),
            "float64": rng.normal(size=N),
            "float32": rng.normal(size=N).astype(np.float32),
        }
    )


def with_gaps(X):
    """One missing cell in every column that can hold one, each in a row of its own."""
    if isinstance(X, pl.DataFrame):
        row = pl.int_range(pl.len())
        return X.with_columns(
            [pl.when(row == 2 * k).then(None).otherwise(pl.col(c)).alias(c) for k, c in enumerate(X.columns)]
        )
    X = X.copy()
    for k, name in enumerate(X.columns):
        if name not in ("bool", "int"):
            X.iloc[2 * k, k] = pd.NA if name in ("boolean", "Int", "Float") else None
    return X


FRAMES = {
    "pandas": pandas_frame,
    "polars": polars_frame,
    "pandas, gaps": lambda: with_gaps(pandas_frame()),
    "polars, gaps": lambda: with_gaps(polars_frame()),
}
CATEGORIES = ["text", "object", "category", "ordered", "grade", "string", "categorical", "enum"]
every_frame = pytest.mark.parametrize("kind", FRAMES)


@pytest.fixture(scope="module")
def fitted():
    """A model of each frame, and the frame."""
    return {kind: (make().fit(X := frame()), X) for kind, frame in FRAMES.items()}


def types(X):
    return dict(zip(X.columns, X.dtypes, strict=True))


def values(X, column):
    """A column's present values."""
    return X[column].dropna().tolist() if isinstance(X, pd.DataFrame) else X[column].drop_nulls().to_list()


def missing(X):
    return X.isna().to_numpy() if isinstance(X, pd.DataFrame) else X.select(pl.all().is_null()).to_numpy()


def test_there_is_a_missing_cell_in_every_column_that_can_hold_one():
    assert missing(FRAMES["polars, gaps"]()).sum(0).tolist() == [1] * 8
    assert missing(FRAMES["pandas, gaps"]()).sum(0).tolist() == [1, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1]


@every_frame
def test_samples_have_the_same_columns_and_types(fitted, kind):
    vae, X = fitted[kind]
    drawn = vae.sample(200, random_state=0)
    assert type(drawn) is type(X)
    assert types(drawn) == types(X)
    assert drawn.shape == (200, X.shape[1])
    assert not missing(drawn).any()
    for name in set(CATEGORIES) & set(X.columns):
        assert set(values(X, name)) <= set(values(drawn, name))
    if isinstance(drawn, pd.DataFrame):
        pd.testing.assert_index_equal(drawn.index, pd.RangeIndex(200))


@every_frame
def test_present_cells_come_back_untouched_and_missing_ones_filled(fitted, kind):
    vae, X = fitted[kind]
    gaps = missing(X)
    for filled in (vae.impute(X), *vae.impute(X, n_draws=2, random_state=0)):
        assert type(filled) is type(X)
        assert list(filled.columns) == list(X.columns)
        assert not missing(filled).any()
        for j, name in enumerate(X.columns):
            before, after = (
                [value for value, gap in zip(T[name], gaps[:, j], strict=True) if not gap] for T in (X, filled)
            )
            assert before == after
            if name in CATEGORIES:
                assert types(filled)[name] == types(X)[name]


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_a_whole_frame_comes_back_as_it_was(fitted, kind):
    vae, X = fitted[kind]
    for filled in (vae.impute(X), *vae.impute(X, n_draws=2, random_state=0)):
        (pd.testing.assert_frame_equal if kind == "pandas" else assert_polars_equal)(filled, X)


@every_frame
def test_draws_keep_every_type(fitted, kind):
    vae, X = fitted[kind]
    for filled in vae.impute(X, n_draws=2, random_state=0):
        assert types(filled) == types(X)


@every_frame
def test_reconstructions_are_frames_of_means_and_most_likely_categories(fitted, kind):
    vae, X = fitted[kind]
    for back in (vae.reconstruct(X), vae.inverse_transform(vae.transform(X))):
        assert type(back) is type(X)
        assert list(back.columns) == list(X.columns)
        assert not missing(back).any()
        for name, dtype in types(X).items():
            if name in CATEGORIES or name in ("float32", "float64", "Float"):
                assert types(back)[name] == dtype
            else:  # means of whole numbers are no whole numbers
                assert all(isinstance(value, float) for value in values(back, name))


@pytest.mark.parametrize("method", ["impute", "reconstruct"])
def test_the_index_of_a_pandas_frame_is_kept(fitted, method):
    vae, X = fitted["pandas, gaps"]
    pd.testing.assert_index_equal(getattr(vae, method)(X[::2]).index, X.index[::2])


@every_frame
def test_the_numbers_are_those_of_a_table_of_codes(fitted, kind):
    vae, X = fitted[kind]
    known = vae._fitted().schema.categories

    def code(column, value):
        if value is None or value is pd.NA or value != value:
            return np.nan
        return known[column].index(value) if column in known else value

    rows = X.rows() if isinstance(X, pl.DataFrame) else X.itertuples(index=False)
    codes = np.array([[code(c, value) for c, value in enumerate(row)] for row in rows], dtype=float)
    of_codes = make(likelihood=vae._specs["likelihood"]).fit(codes)
    np.testing.assert_array_equal(of_codes.transform(codes), vae.transform(X))
    np.testing.assert_array_equal(of_codes.score_samples(codes), vae.score_samples(X))
    assert vae.score(X) == pytest.approx(np.mean(vae.score_samples(X)))


@every_frame
def test_a_rows_numbers_depend_on_no_other_row(fitted, kind):
    vae, X = fitted[kind]
    some = X[7:9]
    np.testing.assert_allclose(vae.transform(some), vae.transform(X)[7:9], rtol=1e-7)
    np.testing.assert_allclose(vae.score_samples(some), vae.score_samples(X)[7:9], rtol=1e-7)


# Kinds of categories


def test_text_and_declared_categories_of_any_kind_are_categories(fitted):
    for kind, n_categories in {"pandas": [3, 2, 3, 3, 3], "polars": [2, 2, 3]}.items():
        vae, X = fitted[kind]
        member, columns = vae.likelihood_.members[0]
        assert member == "categorical"
        assert [len(known) for known in vae._fitted().schema.categories.values()] == n_categories
        assert columns == [name for name in X.columns if name in CATEGORIES]


def test_categories_of_a_type_keep_its_order_and_others_are_sorted(fitted):
    known = fitted["pandas"][0]._fitted().schema.categories
    assert list(known.values()) == [["a", "b", "c"], ["x", "y"], ["v", "u", "w"], ["low", "mid", "high"], [3, 2, 1]]
    assert fitted["polars"][0]._fitted().schema.categories[2] == ["z", "y", "x"]


@pytest.mark.parametrize("seed", [0, 1])
def test_every_category_of_a_type_can_be_drawn_and_shown(seed):
    """Also those that fit saw no row of."""
    vae = make().fit(pandas_frame(seed)[["ordered", "float64"]])
    unseen = pandas_frame(seed)[["ordered", "float64"]]
    unseen.iloc[:5, 0] = "high"
    assert np.isfinite(vae.score_samples(unseen)).all()
    assert set(vae.sample(2000, random_state=0)["ordered"]) == {"low", "mid", "high"}


def test_numbers_and_truths_are_categories_where_the_likelihood_says_so():
    X = pandas_frame()[["int", "bool", "Int", "boolean", "float64"]].assign(float64=lambda f: f.float64.round())
    vae = make(likelihood="categorical").fit(X)
    drawn = vae.sample(50, random_state=0)
    assert types(drawn) == types(X)
    for name in X:
        assert set(drawn[name]) <= set(X[name])
    pd.testing.assert_frame_equal(vae.impute(X), X)
    assert types(vae.reconstruct(X)) == types(X)


def test_polars_numbers_and_truths_are_categories_where_the_likelihood_says_so():
    X = polars_frame()["boolean", "int64", "int8"]
    vae = make(likelihood="categorical").fit(X)
    assert types(vae.sample(50, random_state=0)) == types(X)
    assert_polars_equal(vae.impute(X), X)


@pytest.mark.filterwarnings("ignore:.* alone, which tells nothing")
def test_a_column_of_one_category_is_drawn_and_reconstructed():
    X = pandas_frame()[["text", "float64"]].assign(text="a")
    vae = make(n_components=1).fit(X)
    assert set(vae.sample(20, random_state=0)["text"]) == set(vae.reconstruct(X)["text"]) == {"a"}


# Arrays and lists


def object_array():
    return pandas_frame()[["text", "float64", "object"]].to_numpy(dtype=object)


def test_an_object_array_comes_back_as_one():
    X = object_array()
    X[3, 0], X[4, 1], X[5, 2] = None, np.nan, np.nan
    vae = make().fit(X)
    assert repr(vae.likelihood_) == repr(Mixed([("categorical", [0, 2]), ("gaussian", [1])]))
    filled, drawn = vae.impute(X), vae.sample(30, random_state=0)
    assert filled.dtype == drawn.dtype == object
    assert set(drawn[:, 0]) <= {"a", "b", "c"}
    gaps = np.zeros(X.shape, dtype=bool)
    gaps[[3, 4, 5], [0, 1, 2]] = True
    assert (filled == X)[~gaps].all()
    assert filled[3, 0] in {"a", "b", "c"}
    assert isinstance(filled[4, 1], float)
    assert filled[5, 2] in {"x", "y"}


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA], ids=repr)
def test_every_mark_of_a_missing_category_is_one(missing):
    plain, X = object_array(), object_array()
    plain[::7, 0], X[::7, 0] = None, missing
    np.testing.assert_array_equal(make().fit(X).transform(X), make().fit(plain).transform(plain))
    frame = pd.DataFrame(X, columns=list("abc"))
    np.testing.assert_array_equal(make().fit(frame).transform(frame), make().fit(plain).transform(plain))


def test_an_array_of_strings_is_one_of_categories():
    X = object_array()[:, [0, 2]].astype(str)
    for likelihood in ("auto", "categorical"):
        vae = make(n_components=1, likelihood=likelihood).fit(X)
        np.testing.assert_array_equal(vae.impute(X), X.astype(object))
        np.testing.assert_array_equal(vae.transform(X), vae.transform(X.astype(object)))


def test_nested_lists_are_an_object_array():
    X = object_array()
    vae = make().fit(X)
    np.testing.assert_array_equal(vae.transform(X.tolist()), vae.transform(X))
    np.testing.assert_array_equal(make().fit(X.tolist()).transform(X), vae.transform(X))


def test_the_same_cells_in_an_array_give_a_frames_numbers(fitted):
    vae, X = fitted["pandas"]
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        found = vae.transform(X.to_numpy(dtype=object))
    np.testing.assert_array_equal(found, vae.transform(X))


def test_polars_and_pandas_frames_of_the_same_cells_give_the_same_numbers():
    X = polars_frame()
    frame = X.to_pandas()
    np.testing.assert_array_equal(make().fit(X).transform(frame), make().fit(X).transform(X))
    np.testing.assert_array_equal(make().fit(frame).transform(X), make().fit(X).transform(X))


# Errors


def test_an_unseen_category_is_named_with_its_column_and_row(fitted):
    vae, X = fitted["pandas"]
    for method in ("transform", "score_samples", "impute", "reconstruct"):
        with pytest.raises(
            ValueError,
            match="^column 'text' holds 'zz' in row 5, a category that fit has not seen; it knows 'a', 'b', 'c'\\.",
        ):
            getattr(vae, method)(X.assign(text=[*X.text[:5], "zz", *X.text[6:]]))


def test_an_unseen_category_of_a_polars_frame_is_named(fitted):
    vae, X = fitted["polars"]
    wrong = X.with_columns(pl.Series("string", [*X["string"][:-1], "zz"]))
    with pytest.raises(ValueError, match="^column 'string' holds 'zz' in row 59, a category .* it knows 'a', 'b'"):
        vae.transform(wrong)


@pytest.mark.parametrize("dtype", [object, str])
def test_an_unseen_category_of_an_array_is_named(dtype):
    X = object_array()[:, [0, 2]].astype(dtype)
    vae = make(n_components=1).fit(X)
    X[2, 1] = "q"
    with pytest.raises(ValueError, match="^column 1 holds 'q' in row 2, a category .* it knows 'x', 'y'"):
        vae.transform(X)


def test_of_many_categories_an_error_names_ten():
    X = pd.DataFrame({"id": [f"k{i:02}" for i in range(N)], "x": np.arange(N) * 1.0})
    with pytest.warns(UserWarning, match="column 'id' holds 60 different values"):
        vae = make(n_components=1).fit(X)
    with pytest.raises(ValueError, match="it knows 'k00', .*, 'k09' and 50 more"):
        vae.transform(X.assign(id="new"))


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_columns_in_another_order_are_refused_in_scikit_learns_words(fitted, kind):
    vae, X = fitted[kind]
    names = list(X.columns)[::-1]
    with pytest.raises(ValueError, match="(?s)feature names should match.*must be in the same order"):
        vae.transform(X[names] if kind == "pandas" else X.select(names))
    with pytest.raises(ValueError, match="(?s)feature names should match.*unseen at fit time"):
        vae.score(X.rename(columns={"text": "t"}) if kind == "pandas" else X.rename({"string": "t"}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda X: X[:, :2], "X has 2 features, but VAETransformer is expecting 3"),
        (lambda X: np.column_stack([X, X]), "X has 6 features, but VAETransformer is expecting 3"),
        (lambda X: X[:, :2].tolist(), "X has 2 features, but VAETransformer is expecting 3"),
        (lambda X: X[0], "Expected 2D array, got 1D array"),
        (lambda X: X[0].tolist(), "Expected 2D array, got 1D array"),
        (lambda X: X[:0], "0 sample"),
    ],
    ids=["narrow", "wide", "narrow list", "1-D", "1-D list", "no rows"],
)
def test_tables_of_another_shape_are_refused_in_scikit_learns_words(rows, message):
    X = object_array()
    with pytest.raises(ValueError, match=message):
        make().fit(X).transform(rows(X))


def test_a_column_without_any_category_is_named():
    with pytest.raises(ValueError, match="^column 'text' holds no value in 60 rows; drop it before fitting"):
        make().fit(pandas_frame().assign(text=None))


def test_text_under_a_likelihood_of_numbers_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="column 'text' holds '[abc]'. Set likelihood='auto' \\(or Mixed\\)"):
        make(likelihood="gaussian").fit(pandas_frame())


def test_a_failed_refit_on_another_frame_keeps_the_model(fitted):
    X = pandas_frame()
    vae = make().fit(X)
    codes = vae.transform(X)
    with pytest.raises(ValueError, match="holds no value"):
        vae.fit(pd.DataFrame({"other": ["p", "q"] * 30, "empty": [None] * 60}))
    np.testing.assert_array_equal(vae.transform(X), codes)
    assert types(vae.sample(3, random_state=0)) == types(X)


# Chunks


@pytest.mark.filterwarnings("ignore:.* alone, which tells nothing")
def test_a_category_that_the_first_chunk_lacks_is_an_error_unless_its_type_names_it():
    X = pandas_frame()[["text", "float64", "float32"]].assign(text=["a"] * 40 + ["b"] * 20)
    with pytest.raises(ValueError, match="column 'text' holds 'b' in row 10, a category that fit has not seen"):
        make().partial_fit(X[:30]).partial_fit(X[30:])
    typed = X.assign(text=X.text.astype("category"))
    vae = make().partial_fit(typed[:30]).partial_fit(typed[30:])
    assert np.isfinite(vae.score_samples(typed)).all()
    codes = np.column_stack([X.text == "b", X.float64, X.float32]).astype(float)
    numbered = Mixed([(Categorical(2), [0]), ("gaussian", [1, 2])])
    vae = make(likelihood=numbered).partial_fit(codes[:30]).partial_fit(codes[30:])
    assert np.isfinite(vae.score_samples(codes)).all()


def test_chunks_go_on_with_the_first_ones_columns(fitted):
    X = pandas_frame()
    vae = make().partial_fit(X[:30])
    likelihood = repr(vae.likelihood_)
    vae.partial_fit(X[30:])
    assert vae.n_iter_ == 2
    assert repr(vae.likelihood_) == likelihood
    assert types(vae.sample(3, random_state=0)) == types(X)


# Inside other estimators


def test_a_grid_search_and_a_cross_validation_take_a_frame():
    X = pandas_frame()
    search = GridSearchCV(make(), {"n_components": [1, 2]}, cv=2, error_score="raise").fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert types(search.best_estimator_.sample(3, random_state=0)) == types(X)
    assert np.isfinite(cross_val_score(make(), with_gaps(X), cv=2)).all()


@every_frame
def test_the_search_over_sizes_takes_a_frame(kind):
    X = FRAMES[kind]()
    search = VAETransformerCV((1, 2), likelihood="auto", cv=2, max_iter=2, random_state=0).fit(X)
    assert types(search.sample(3, random_state=0)) == types(X)
    assert search.transform(X).shape == (N, search.n_components_)
    assert repr(search.likelihood_) == repr(make().fit(X).likelihood_)
    assert not missing(search.impute(X)).any()


def test_pipelines_take_a_frame():
    X = with_gaps(pandas_frame())
    y = np.arange(N) % 2
    pipe = make_pipeline(make(), LogisticRegression()).fit(X, y)
    assert pipe.predict(X).shape == (N,)
    assert make_pipeline(make()).fit(X).score(X) == pytest.approx(make().fit(X).score(X))


@pytest.mark.parametrize("criterion", ["aggregated", "elbo", "log_likelihood", "reconstruction", "latent"])
def test_the_detector_takes_a_frame(criterion):
    X = with_gaps(pandas_frame())[["text", "boolean", "int", "float64"]]
    detector = VAEAnomalyDetector(likelihood="auto", criterion=criterion, max_iter=2, random_state=0).fit(X)
    assert np.isfinite(detector.score_samples(X)).all()
    assert set(detector.predict(X)) <= {-1, 1}
    odd = X.assign(float64=1e3)
    assert detector.score_samples(odd).max() < detector.score_samples(X).min()


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_set_output_names_the_latents(output):
    X = pandas_frame()
    codes = make().set_output(transform=output).fit_transform(X)
    assert list(codes.columns) == ["vaetransformer0", "vaetransformer1"]
    if output == "pandas":
        pd.testing.assert_index_equal(codes.index, X.index)


def test_weights_choose_the_rows_of_a_frame():
    X = pandas_frame()
    weight = (np.arange(N) % 3 > 0).astype(float)
    kept, removed = make().fit(X, sample_weight=weight), make().fit(X[weight > 0])
    np.testing.assert_array_equal(kept.transform(X), removed.transform(X))


def test_a_clone_knows_nothing_of_the_frame(fitted):
    vae, _ = fitted["pandas"]
    X = np.random.default_rng(0).normal(size=(40, 3))
    assert isinstance(clone(vae).fit(X).sample(2, random_state=0), np.ndarray)


# Saved models


def by_skops(vae):
    saved = sio.dumps(vae)
    return sio.loads(saved, trusted=[name for name in sio.get_untrusted_types(data=saved) if name.startswith("skvae.")])


@every_frame
@pytest.mark.parametrize("route", [lambda vae: pickle.loads(pickle.dumps(vae)), by_skops], ids=["pickle", "skops"])
def test_a_model_of_a_frame_comes_back_bit_for_bit(fitted, kind, route):
    vae, X = fitted[kind]
    back = route(vae)
    np.testing.assert_array_equal(back.transform(X), vae.transform(X))
    equal = pd.testing.assert_frame_equal if isinstance(X, pd.DataFrame) else assert_polars_equal
    equal(back.sample(20, random_state=0), vae.sample(20, random_state=0))
    equal(back.impute(X), vae.impute(X))


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_nothing_but_plain_python_says_what_the_columns_are(fitted, kind):
    def plain(value):
        if isinstance(value, dict):
            return all(plain(v) for pair in value.items() for v in pair)
        return all(map(plain, value)) if type(value) is list else type(value) in (str, int, float, bool, type(None))

    assert plain(fitted[kind][0].__getstate__()["_columns"])


TAMPERED = {
    "no schema": lambda s: s.pop("_columns"),
    "schema is a list": lambda s: s.update(_columns=[]),
    "schema with more": lambda s: s["_columns"].update(more=1),
    "another library": lambda s: s["_columns"].update(library="os"),
    "no library": lambda s: s["_columns"].update(library=None),
    "a name too few": lambda s: s["_columns"]["names"].pop(),
    "a type too few": lambda s: s["_columns"]["dtypes"].pop(),
    "no names": lambda s: s["_columns"].update(names=None),
    "categories are a list": lambda s: s["_columns"].update(categories=[["a"]]),
    "categories of no column": lambda s: s["_columns"]["categories"].update({99: ["a"]}),
    "a column without categories": lambda s: s["_columns"]["categories"].update({0: []}),
    "categories are a string": lambda s: s["_columns"]["categories"].update({0: "abc"}),
    "a category too many": lambda s: s["_columns"]["categories"][0].append("d"),
    "a category too few": lambda s: s["_columns"]["categories"][0].pop(),
    "numbers with categories": lambda s: s["_columns"]["categories"].update({11: ["a", "b"]}),
    "categories missing": lambda s: s["_columns"]["categories"].pop(0),
    "a likelihood of another table": lambda s: s["_specs"]["likelihood"].members.pop(),
    "a column twice": lambda s: s["_specs"]["likelihood"].members.append(("gaussian", [0])),
    "a column of no table": lambda s: s["_specs"]["likelihood"].members[-1][1].append(99),
    "columns are a string": lambda s: s["_specs"]["likelihood"].set_params(members=[("gaussian", "abc")]),
    "members are no pairs": lambda s: s["_specs"]["likelihood"].set_params(members=["gaussian"]),
    "a huge number of categories": lambda s: s["_specs"]["likelihood"].members[0][0].set_params(n_categories=10**9),
    "a likelihood of strings": lambda s: s["_specs"].update(likelihood=Mixed([("auto", list(range(12)))])),
}


@pytest.mark.parametrize("damage", TAMPERED)
def test_a_tampered_schema_is_refused(fitted, damage):
    state = pickle.loads(pickle.dumps(fitted["pandas"][0].__getstate__()))
    TAMPERED[damage](state)
    with pytest.raises(ValueError, match=r"^The saved state of this VAETransformer is damaged: .*Load the file again"):
        load_state(VAETransformer, state)
