"""A likelihood for every column: how columns are named, what "auto" chooses, and the density of the parts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import column_moments
from members import density_of, outputs_for, table
from sklearn.base import clone
from sklearn.compose import make_column_selector
from sklearn.model_selection import GridSearchCV
from sklearn.utils._param_validation import InvalidParameterError

from skvae import (
    Bernoulli,
    Categorical,
    Gaussian,
    JohnsonSU,
    Mixed,
    NegativeBinomial,
    Poisson,
    StudentT,
    VAEAnomalyDetector,
    VAETransformer,
)
from skvae._tables.batches import to_rows
from skvae._tables.moments import Scale
from skvae.likelihoods import Likelihood, baseline, covariance, fits_schema, linear_model, start_linear

N = 80


def make(likelihood, **parameters):
    return VAETransformer(
        **{"n_components": 1, "likelihood": likelihood, "max_iter": 2, "random_state": 0} | parameters
    )


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "a": rng.normal(size=N),
            "b": rng.poisson(3, N),
            "c": rng.normal(size=N).astype(np.float32),
            "d": rng.choice(["u", "v", "w"], N),
            "e": rng.random(N) < 0.4,
        }
    )


# How columns are named: as in scikit-learn's ColumnTransformer


COUNTS_AND_REST = {
    "names": [("gaussian", ["a", "c"]), ("poisson", ["b"]), ("categorical", ["d"]), ("bernoulli", ["e"])],
    "one name": [("gaussian", ["a", "c"]), ("poisson", "b"), ("categorical", "d"), ("bernoulli", "e")],
    "numbers": [("gaussian", [0, 2]), ("poisson", [1]), ("categorical", [3]), ("bernoulli", [-1])],
    "one number": [("gaussian", [0, 2]), ("poisson", 1), ("categorical", np.int64(3)), ("bernoulli", 4)],
    "arrays": [
        ("gaussian", np.array([0, 2])),
        ("poisson", np.array(["b"])),
        ("categorical", ("d",)),
        ("bernoulli", pd.Index(["e"])),
    ],
    "slices": [
        ("gaussian", slice(0, 3, 2)),
        ("poisson", slice("b", "b")),
        ("categorical", slice(3, 4)),
        ("bernoulli", slice(4, None)),
    ],
    "masks": [
        ("gaussian", [True, False, True, False, False]),
        ("poisson", np.array([0, 1, 0, 0, 0], dtype=bool)),
        ("categorical", [False, False, False, True, False]),
        ("bernoulli", [False, False, False, False, True]),
    ],
    "selectors": [
        ("gaussian", make_column_selector(dtype_include=np.floating)),
        ("poisson", make_column_selector(dtype_include=np.integer)),
        ("categorical", make_column_selector(dtype_include=["str", object])),
        ("bernoulli", make_column_selector(dtype_include=bool)),
    ],
    "callables": [
        ("gaussian", lambda X: [c for c in X if X[c].dtype.kind == "f"]),
        ("poisson", lambda X: "b"),
        ("categorical", lambda X: [3]),
        ("bernoulli", lambda X: slice(4, 5)),
    ],
    "instances": [(Gaussian(), ["a", "c"]), (Poisson(), ["b"]), (Categorical(), ["d"]), (Bernoulli(), ["e"])],
    "nothing for one": [*[("laplace", [])], ("gaussian", [0, 2]), ("poisson", 1), ("categorical", 3), ("bernoulli", 4)],
}
AS_WRITTEN = (
    "Mixed(members=[('gaussian', ['a', 'c']), ('poisson', ['b']), ('categorical', ['d']), ('bernoulli', ['e'])])"
)


def words(likelihood):
    """How it prints, in one line."""
    return " ".join(repr(likelihood).split())


@pytest.mark.parametrize("how", COUNTS_AND_REST)
def test_columns_are_named_in_any_way_of_a_column_transformer(frame, how):
    mixed = Mixed(COUNTS_AND_REST[how])
    vae = make(mixed).fit(frame)
    assert words(vae.likelihood_) == AS_WRITTEN
    by_name = make(Mixed(COUNTS_AND_REST["names"])).fit(frame)
    np.testing.assert_array_equal(vae.transform(frame), by_name.transform(frame))


def test_columns_of_arrays_and_lists_are_numbers(frame):
    X = frame.to_numpy(dtype=object)
    members = COUNTS_AND_REST["numbers"]
    expected = AS_WRITTEN
    for number, name in enumerate("abcde"):
        expected = expected.replace(f"'{name}'", str(number))
    for table_of in (X, X.tolist()):
        assert words(make(Mixed(members)).fit(table_of).likelihood_) == expected


def test_columns_of_a_polars_frame_have_names(frame):
    X = pl.from_pandas(frame)
    for how in ("names", "numbers", "masks", "slices"):
        assert words(make(Mixed(COUNTS_AND_REST[how])).fit(X).likelihood_) == AS_WRITTEN


@pytest.mark.parametrize(
    ("remainder", "expected"),
    [
        ("gaussian", "('gaussian', ['a', 'c', 'e'])"),
        (StudentT(df=3), "(StudentT(df=3), ['a', 'c', 'e'])"),
        ("auto", "('gaussian', ['a', 'c']), ('bernoulli', ['e'])"),
    ],
    ids=["name", "instance", "auto"],
)
def test_the_remainder_takes_what_no_member_names(frame, remainder, expected):
    mixed = Mixed([("poisson", ["b"]), ("categorical", ["d"])], remainder=remainder)
    found = words(make(mixed).fit(frame).likelihood_)
    assert found == f"Mixed(members=[('poisson', ['b']), ('categorical', ['d']), {expected}])"


def test_without_members_the_remainder_takes_all(frame):
    found = make(Mixed([], remainder="auto")).fit(frame)
    np.testing.assert_array_equal(found.transform(frame), make("auto").fit(frame).transform(frame))


ERRORS = {
    "a column twice": (
        Mixed([("gaussian", ["a", "c"]), ("poisson", ["b", "a"])], remainder="auto"),
        r"Mixed gives column 'a' to both Gaussian\(\) and Poisson\(\); name it once\.",
    ),
    "a column twice in one": (
        Mixed([("gaussian", ["a", "a"])], remainder="auto"),
        r"Mixed gives column 'a' to both Gaussian\(\) and Gaussian\(\); name it once\.",
    ),
    "a column too few": (
        Mixed([("gaussian", ["a", "c"]), ("poisson", ["b"]), ("categorical", ["d"])]),
        r"Mixed has no likelihood for column 'e'; name the column, or set remainder='auto'\.",
    ),
    "an unknown likelihood": (
        Mixed([("normal", ["a"])], remainder="auto"),
        r"Mixed holds 'normal'.*'auto', 'bernoulli'",
    ),
    "an unknown remainder": (Mixed([("gaussian", ["a"])], remainder="normal"), "normal"),
    "no likelihood": (Mixed([(3, ["a"])], remainder="auto"), "Mixed holds 3 where a likelihood is wanted"),
    "a class": (Mixed([(Gaussian, ["a"])], remainder="auto"), "where a likelihood is wanted"),
    "a Mixed in a Mixed": (
        Mixed([(Mixed([("gaussian", [0])]), ["a"])], remainder="auto"),
        "where a likelihood is wanted",
    ),
    "an unknown column": (
        Mixed([("gaussian", ["z"])], remainder="auto"),
        r"Mixed cannot find the columns \['z'\] in X",
    ),
    "a number too large": (Mixed([("gaussian", [9])], remainder="auto"), r"Mixed cannot find the columns \[9\] in X"),
    "a mask too short": (Mixed([("gaussian", [True])], remainder="auto"), r"Mixed cannot find the columns \[True\]"),
    "a number with a point": (Mixed([("gaussian", [0.5])], remainder="auto"), r"Mixed cannot find the columns \[0.5\]"),
    "no columns": (Mixed([("gaussian", None)], remainder="auto"), "Mixed cannot find the columns None in X"),
    "no pairs": (
        Mixed([("gaussian", ["a"], 3)], remainder="auto"),
        "Mixed takes pairs of a likelihood and its columns",
    ),
    "a name for a pair": (Mixed(["gaussian"], remainder="auto"), "Mixed takes pairs .* it holds 'gaussian'"),
    "wrong parameters within": (Mixed([(Gaussian("nope"), ["a"])], remainder="auto"), "noise"),
    "wrong parameters of the rest": (Mixed([], remainder=Gaussian("nope")), "noise"),
    "values outside a support": (
        Mixed([("bernoulli", ["b"])], remainder="auto"),
        r"column 'b' holds \d+.0; likelihood='bernoulli' takes values in \[0, 1\]",
    ),
    "text for numbers": (Mixed([("gaussian", ["d"])], remainder="auto"), "column 'd' holds '[uvw]'"),
    "sizes for other columns": (
        Mixed([(Categorical([3, 2]), ["d"])], remainder="auto"),
        "Categorical has n_categories for 2 columns and stands for 1",
    ),
}


@pytest.mark.parametrize("what", ERRORS)
def test_a_mistake_is_named(frame, what):
    mixed, message = ERRORS[what]
    with pytest.raises(ValueError, match=message):
        make(mixed).fit(frame)


@pytest.mark.parametrize("members", [None, 3, "gaussian"])
def test_members_are_a_sequence(frame, members):
    with pytest.raises((InvalidParameterError, ValueError), match="members|Mixed takes pairs"):
        make(Mixed(members)).fit(frame)


def test_errors_of_arrays_name_columns_by_number():
    X = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(ValueError, match="Mixed has no likelihood for column 1;"):
        make(Mixed([("gaussian", [0, 2])])).fit(X)
    with pytest.raises(ValueError, match="Mixed gives column 2 to both"):
        make(Mixed([("gaussian", [0, 2]), ("laplace", [1, 2])])).fit(X)


# What "auto" chooses


RNG = np.random.default_rng(0)
RULES = {
    "reals": (RNG.normal(size=N), "gaussian"),
    "positive, close to normal": (50 + RNG.normal(size=N), "gaussian"),
    "amounts": (np.exp(RNG.normal(size=N)), "log_normal"),
    "amounts with a zero": (np.r_[0.0, np.exp(RNG.normal(size=N - 1))], "normal_score"),
    "negative amounts": (-np.exp(RNG.normal(size=N)), "normal_score"),
    "zeros and ones": (RNG.integers(2, size=N), "bernoulli"),
    "zeros and ones as floats": (RNG.integers(2, size=N).astype(float), "bernoulli"),
    "True and False": (RNG.random(N) < 0.5, "bernoulli"),
    "zeros": (np.zeros(N), "bernoulli"),
    "counts": (RNG.poisson(RNG.gamma(1.0, 5.0, N)), "negative_binomial"),
    "counts as floats": (RNG.poisson(RNG.gamma(1.0, 5.0, N)).astype(float), "negative_binomial"),
    "whole numbers of few values": (RNG.integers(100, 103, 400), "normal_score"),
    "whole numbers below zero": (np.round(20 * RNG.normal(size=N)), "gaussian"),
    "hours": (np.where(RNG.random(N) < 0.5, 40, RNG.integers(1, 80, N)), "normal_score"),
    "two groups": (RNG.normal(size=400) + 4 * RNG.choice([-1, 1], 400), "normal_score"),
    "mostly zeros": (np.where(RNG.random(N) < 0.5, 0.0, np.exp(RNG.normal(size=N))), "normal_score"),
    "numbers of 1e-300 and 1e300": (np.where(RNG.random(N) < 0.5, 1e-300, 1e300), "gaussian"),
    "three rows": (np.array([1.5, 1e9, -4.0]), "gaussian"),
    "counts with gaps": (
        np.where(RNG.random(N) < 0.2, np.nan, RNG.poisson(RNG.gamma(1.0, 5.0, N))),
        "negative_binomial",
    ),
    "amounts with gaps": (np.where(RNG.random(N) < 0.2, np.nan, np.exp(RNG.normal(size=N))), "log_normal"),
    "zeros and ones with gaps": (np.where(RNG.random(N) < 0.2, np.nan, RNG.integers(2, size=N)), "bernoulli"),
    "fractions": (RNG.random(N), "gaussian"),
    "one real number": (np.full(N, 2.5), "gaussian"),
    "text": (RNG.choice(["p", "q"], N), "categorical"),
    "categories": (pd.Categorical(RNG.choice(["p", "q"], N)), "categorical"),
    "debts in tens, most of them none": (10 * np.maximum(0, np.rint(RNG.normal(-80, 100, 400))), "normal_score"),
    "text and numbers": (np.array(["p", 3] * (N // 2), dtype=object), "categorical"),
}


@pytest.mark.filterwarnings("ignore:column 'x' holds one value alone")
@pytest.mark.parametrize("what", RULES)
def test_auto_goes_by_what_a_column_holds(what):
    values, expected = RULES[what]
    X = pd.DataFrame({"x": values, "other": np.random.default_rng(1).normal(size=len(values))})
    members = make("auto").fit(X).likelihood_.members if expected != "gaussian" else [("gaussian", ["x", "other"])]
    found = {column: member for member, columns in members for column in columns}
    assert found["x"] == expected
    if expected == "gaussian":
        assert words(make("auto").fit(X).likelihood_) == "Gaussian()"


@pytest.mark.parametrize("columns", [["x"], ["x", "y"]])
def test_auto_speaks_once_of_columns_of_one_value_and_takes_them_for_gaussian(columns):
    X = pd.DataFrame({"a": np.random.default_rng(1).normal(size=N), **dict.fromkeys(columns, 2.5)})
    X.loc[3, "x"] = np.nan
    said = "^column 'x', column 'y' hold one value each" if len(columns) > 1 else "^column 'x' holds one value alone"
    with pytest.warns(UserWarning, match=said) as caught:
        likelihood = make("auto").fit(X).likelihood_
    assert len(caught) == 1
    assert words(likelihood) == "Gaussian()"
    make("gaussian").fit(X)  # who asked for it is not told


def test_auto_of_an_array_is_that_of_a_frame(frame):
    X = frame[["a", "b", "c", "e"]]
    arrays = (X.to_numpy(dtype=float), X.to_numpy(dtype=object))
    expected = make("auto").fit(X).score_samples(X)
    for array in arrays:
        vae = make("auto").fit(array)
        np.testing.assert_array_equal(vae.score_samples(array), expected)


def test_auto_of_real_columns_alone_is_the_gaussian_itself():
    X = np.random.default_rng(0).normal(size=(60, 3))
    auto, plain = make("auto").fit(X), make("gaussian").fit(X)
    np.testing.assert_array_equal(auto.transform(X), plain.transform(X))
    np.testing.assert_allclose(auto.noise_variance_, plain.noise_variance_)


@pytest.mark.parametrize("likelihood", ["auto", "categorical", Mixed([("categorical", ["f", "d"])], remainder="auto")])
def test_what_was_chosen_can_be_given_to_another_model(frame, likelihood):
    X = frame.assign(f=np.arange(N) % 4)
    X = X[["b", "d", "e", "f"]] if likelihood == "categorical" else X
    chosen = make(likelihood).fit(X)
    again = make(chosen.likelihood_).fit(X)
    np.testing.assert_array_equal(again.score_samples(X), chosen.score_samples(X))
    assert words(again.likelihood_) == words(chosen.likelihood_)
    assert words(clone(chosen.likelihood_)) == words(chosen.likelihood_)


def test_numbers_of_categories_are_told_where_categories_are_codes():
    X = np.column_stack([np.arange(N) % 3, np.arange(N) % 2, np.linspace(-1, 1, N)])
    found = make(Mixed([("categorical", [0]), ("categorical", [1])], remainder="gaussian")).fit(X).likelihood_
    assert words(found) == (
        "Mixed(members=[(Categorical(n_categories=[3]), [0]), (Categorical(n_categories=[2]), [1]), ('gaussian', [2])])"
    )
    assert words(make("categorical").fit(X[:, :2]).likelihood_) == "Categorical(n_categories=[3, 2])"
    assert words(make("categorical").fit(X[:, :2] + 1).likelihood_) == "Categorical()"


def test_a_refit_chooses_anew():
    rng = np.random.default_rng(0)
    vae = make("auto").fit(rng.normal(size=(50, 2)))
    assert words(vae.likelihood_) == "Gaussian()"
    assert "bernoulli" in words(vae.fit(rng.integers(2, size=(50, 2))).likelihood_)
    assert vae.likelihood == "auto"


# The density


def parts_of(X, members):
    mixed = Mixed(members)
    scale = mixed.scale(column_moments(X))
    rows = to_rows(X, scale, dtype=torch.float64)
    density = mixed.build(X.shape[1], scale).double()
    density.fit(rows)
    return density, scale, rows


def test_mixed_of_gaussians_is_a_gaussian():
    """The same columns in another order, under two members: the same density, start and baseline."""
    X = table("feature", 100)
    X[:, 1] = X[:, 0] * 3 + X[:, 1] / 4
    X = np.hstack([X, X[:, ::-1] ** 2])
    mixed, scale, rows = parts_of(X, [(Gaussian(), [4, 0, 3]), (Gaussian(), [5, 1, 2])])
    plain = Gaussian()
    alone = plain.build(6, plain.scale(column_moments(X))).double()
    np.testing.assert_allclose(scale[:2], plain.scale(column_moments(X))[:2])
    order = [4, 0, 3, 5, 1, 2]
    start, expected = (start_linear(d, covariance(d, rows), 2) for d in (mixed, alone))
    sign = np.sign((start.decoder_weight * expected.decoder_weight[order]).sum(0))
    np.testing.assert_allclose(start.decoder_weight * sign, expected.decoder_weight[order], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(start.posterior_var, expected.posterior_var, rtol=1e-3)
    with torch.no_grad():
        for part, columns in zip(mixed.members, ([4, 0, 3], [5, 1, 2]), strict=True):
            part.log_noise.copy_(alone.log_noise[columns])
        outputs = outputs_for(alone, len(X))
        found, target = mixed.log_prob(outputs[:, order], rows.x), alone.log_prob(outputs, rows.x)
        torch.testing.assert_close(found, target, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mixed.mean(outputs[:, order]), alone.mean(outputs))
        torch.testing.assert_close(mixed.encoding.encode(rows.x), alone.encoding.encode(rows.x)[:, order])
    cov = covariance(alone, rows)
    independent = baseline(alone, rows, cov, 0)
    assert baseline(mixed, rows, covariance(mixed, rows), 2) == pytest.approx(independent, rel=1e-4)


def test_a_shared_noise_within_a_mixed_starts_at_its_columns_geometric_mean():
    X = table("feature", 300)
    X[:, 1] = X[:, 0] * 3 + X[:, 1] / 2
    density, _, rows = parts_of(X, [(StudentT(), [2]), (Gaussian("shared"), [0, 1])])
    linear = linear_model(density.linear_start(), covariance(density, rows), 1)
    start_linear(density, covariance(density, rows), 1)
    part = density.members[1]
    assert part.log_noise.exp().item() == pytest.approx(np.sqrt(linear.noise[1:].prod()), rel=1e-6)
    assert part.unit.item() == pytest.approx(part.log_noise.exp().item() ** 0.5, rel=1e-6)
    assert linear.noise[1] != pytest.approx(linear.noise[2], rel=0.1)


def test_a_model_of_mixed_gaussians_scores_as_one_of_gaussians(wine):
    settings = {"n_components": 2, "max_iter": 30}
    mixed = make(Mixed([("gaussian", slice(0, 6)), ("gaussian", slice(6, 13))]), **settings).fit(wine)
    assert mixed.score(wine) == pytest.approx(make("gaussian", **settings).fit(wine).score(wine), abs=0.5)


def test_every_column_of_a_mixed_has_the_density_of_its_own_member():
    X = table("mixed")
    density, _, rows = density_of("mixed", X)
    outputs = outputs_for(density, 4, len(X))
    found = density.log_prob(outputs, rows.x)
    places = [[4, 1], [0], [3], [2], [5]]
    for part, columns, own in zip(
        density.members, places, outputs.split([d.n_params for d in density.members], -1), strict=True
    ):
        torch.testing.assert_close(found[..., columns], part.log_prob(own, rows.x[:, columns]))


@pytest.mark.parametrize(
    "member", [JohnsonSU(), Gaussian("shared"), Gaussian("decoder"), StudentT(), NegativeBinomial()]
)
def test_any_likelihood_can_be_a_member(member, frame):
    X = frame[["a", "b", "c", "e"]].assign(a=frame.b + 1)
    columns = ["a", "b"] if isinstance(member, NegativeBinomial) else ["a", "c"]
    vae = make(Mixed([(member, columns)], remainder="auto"), max_iter=5).fit(X)
    assert np.isfinite(vae.score_samples(X)).all()
    assert vae.sample(5, random_state=0).shape == (5, 4)
    assert not hasattr(vae, "noise_variance_")


def test_no_column_says_anything_of_one_that_is_independent(any_seed):
    """Imputing a column that follows no latent gives its marginal, beside columns that do."""
    rng = np.random.default_rng(any_seed)
    z = rng.normal(size=(2000, 1))
    X = np.column_stack([z + 0.3 * rng.normal(size=(2000, 3)), rng.choice(3, 2000, p=[0.2, 0.5, 0.3])])
    vae = make(Mixed([("gaussian", [0, 1, 2]), ("categorical", [3])]), max_iter=20).fit(X)
    gaps = X[:400].copy()
    gaps[:, 3] = np.nan
    (filled,) = vae.impute(gaps, n_draws=1, random_state=0)
    np.testing.assert_allclose(np.bincount(filled[:, 3].astype(int)) / 400, [0.2, 0.5, 0.3], atol=0.08)


def test_learning_relations_between_kinds_of_columns(any_seed):
    """A category, a count and a truth tell a number, better than its mean does."""
    rng = np.random.default_rng(any_seed)
    group = rng.integers(3, size=1500)
    X = pd.DataFrame(
        {
            "group": np.array(["a", "b", "c"])[group],
            "count": rng.poisson(np.array([1, 5, 25])[group]),
            "yes": rng.random(1500) < np.array([0.05, 0.5, 0.95])[group],
            "x": 3.0 * group + rng.normal(size=1500),
        }
    )
    vae = make("auto", max_iter=40, n_components=2).fit(X[:1000])
    gaps = X[1300:].assign(x=np.nan)
    error = np.sqrt(np.mean((vae.impute(gaps).x - X.x[1300:]) ** 2))
    assert error < 1.3
    assert X.x[1000:].std() > 2.4


def test_auto_draws_no_toll_below_zero_and_no_part_of_a_passenger():
    """Columns as of taxis: amounts that were never below 0, and whole numbers."""
    rng = np.random.default_rng(0)
    distance = rng.gamma(1.5, 2.0, 2000).round(2)
    tip = np.where(rng.random(2000) < 0.3, 0.0, (0.2 * distance + rng.gamma(2.0, 0.5, 2000)).round(2))
    amounts = {"distance": distance, "toll": np.where(rng.random(2000) < 0.9, 0.0, 5.76), "tip": tip}
    X = pd.DataFrame({**amounts, "passengers": 1 + rng.poisson(0.6, 2000)})
    drawn = make("auto").fit(X).sample(5000, random_state=0)
    assert (drawn[[*amounts]].min() >= X[[*amounts]].min()).all()
    assert (drawn[[*amounts]].max() <= X[[*amounts]].max()).all()
    assert drawn.passengers.dtype == X.passengers.dtype
    assert drawn.passengers.min() >= 0


# As a hyperparameter


def test_mixed_can_be_cloned_searched_and_printed(frame):
    mixed = Mixed([("gaussian", ["a", "c"]), (Poisson(), ["b"])], remainder="auto")
    copy = clone(mixed)
    assert words(copy) == words(mixed)
    assert copy.members[1][0] is not mixed.members[1][0] or copy.members is mixed.members
    grid = {"likelihood": ["auto", mixed], "likelihood__remainder": ["auto"]}
    search = GridSearchCV(make(mixed), [{"likelihood": grid["likelihood"]}], cv=2, error_score="raise").fit(frame)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    search = GridSearchCV(make(mixed), {"likelihood__remainder": ["auto"]}, cv=2, error_score="raise").fit(frame)
    assert search.best_params_ == {"likelihood__remainder": "auto"}


def test_fit_leaves_the_users_likelihoods_alone(frame):
    inner, columns = Categorical(), ["d"]
    mixed = Mixed([(inner, columns)], remainder="auto")
    make(mixed).fit(frame)
    assert mixed.members == [(inner, columns)]
    assert inner.n_categories is None
    assert columns == ["d"]


def test_partial_fit_refuses_another_mixed(frame):
    vae = make(Mixed([("gaussian", ["a", "c"])], remainder="auto")).partial_fit(frame)
    vae.partial_fit(frame)
    vae.set_params(likelihood=Mixed([("laplace", ["a", "c"])], remainder="auto"))
    with pytest.raises(ValueError, match="likelihood changed since the first partial_fit"):
        vae.partial_fit(frame)


def test_detectors_and_input_noise_take_a_mixed(frame):
    mixed = Mixed([("student_t", ["a", "c"])], remainder="auto")
    detector = VAEAnomalyDetector(likelihood=mixed, max_iter=3, random_state=0).fit(frame)
    assert np.isfinite(detector.score_samples(frame)).all()
    explained = detector.explain(frame.assign(a=1e3)[:3])
    assert explained.shape == (3, 6)
    assert (np.asarray(explained)[:, 0] == np.asarray(explained).min(axis=1)).all()


@pytest.mark.parametrize(
    ("likelihood", "sizes", "fits"),
    [
        (Gaussian(), [0, 0], True),
        (Gaussian(), [0, 3], False),
        (Categorical([2, 3]), [2, 3], True),
        (Categorical([2, 3]), [3, 2], False),
        (Categorical([2, 3]), [0, 0], False),
        (Mixed([(Gaussian(), [1]), (Categorical([3]), [0])]), [3, 0], True),
        (Mixed([(Gaussian(), [0]), (Categorical([3]), [1])]), [3, 0], False),
        (Mixed([(Gaussian(), [0]), (Categorical([3]), [0])]), [3, 0], False),
        (Mixed([(Gaussian(), [0])]), [0, 0], False),
    ],
    ids=str,
)
def test_a_resolved_likelihood_is_one_of_the_schemas_columns(likelihood, sizes, fits):
    assert fits_schema(likelihood, sizes) is fits


def test_every_name_makes_a_member(frame):
    X = frame[["e"]].assign(f=frame.e * 1.0, g=frame.e * 2.0 - 1)
    for name in ("bernoulli", "continuous_bernoulli", "poisson", "negative_binomial", "categorical"):
        assert isinstance(make(Mixed([(name, ["e", "f"]), ("gaussian", "g")])).fit(X).likelihood_, Likelihood)


def test_scales_are_the_members_own():
    X = table("mixed")
    _, scale, _ = density_of("mixed", X)
    assert isinstance(scale, Scale)
    np.testing.assert_allclose(scale.shift, [0, X[:, 1].mean(), 0, 0, X[:, 4].mean(), 0])
    np.testing.assert_allclose(scale.scale, [1, X[:, 1].std(), X[:, 2].mean(), 1, X[:, 4].std(), 1])


def test_auto_chooses_for_the_columns_that_a_member_gives_it():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=60), rng.random(60) < 0.5, rng.negative_binomial(1, 0.2, 60)])
    mixed = Mixed([("auto", [1, 2]), ("laplace", [0])])
    found = VAETransformer(1, likelihood=mixed, max_iter=1, random_state=0).fit(X).likelihood_
    assert found.members == [("bernoulli", [1]), ("negative_binomial", [2]), ("laplace", [0])]
