"""Reasons in words: the numbers in them are those of p(cell | others), and they sum to the score."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from detectors import correlated, fitted, make
from scipy import stats
from sklearn.exceptions import NotFittedError

from skvae import VAEAnomalyDetector
from skvae._words import number, reason
from skvae.networks import PixelCNN

ELSE = "everything else"
COLUMNS = ["row", "column", "contribution", "value", "expected", "deviations", "chance", "similar", "reason"]


def test_a_cells_deviation_is_that_of_the_conditional_normal():
    """Of a linear Gaussian model: (x_d - E[x_d | others]) / sd(x_d | others), by the precision matrix."""
    rng = np.random.default_rng(0)
    X = 3 * rng.normal(size=(300, 2)) @ rng.normal(size=(2, 5)) + 0.7 * rng.normal(size=(300, 5)) + [10, 0, 5, -3, 100]
    detector = make(n_components=2, hidden_layer_sizes=(), likelihood="gaussian", objective="elbo").fit(X)
    decoder = detector.module_.decoder.linear
    weight = decoder.weight.numpy() * detector.scale_[:, None]
    center = decoder.bias.numpy() * detector.scale_ + detector._shift
    precision = np.linalg.inv(weight @ weight.T + np.diag(detector.noise_variance_))
    rows = X[:8] + 4 * np.eye(8, 5)
    for line in detector.describe(rows, n_columns=5):
        if line["column"] == ELSE:
            continue
        d, x = int(line["column"][1:]), rows[line["row"]]
        std = precision[d, d] ** -0.5
        z = std * (precision @ (x - center))[d]
        assert line["value"] == x[d]
        assert line["expected"] == pytest.approx(x[d] - z * std, abs=0.1 * std)
        assert line["deviations"] == pytest.approx(z, abs=0.1, rel=0.05)
        if abs(z) > 1.2:
            words = f"x{d} is {abs(line['deviations']):.1f} standard deviations {'above' if z > 0 else 'below'} what"
            assert line["reason"].startswith(words)
            assert line["reason"].endswith(f"({number(x[d])}; normal: {number(line['expected'])})")


@pytest.fixture(scope="module")
def frame():
    """What a thing is made by says nearly all of its other cells."""
    rng = np.random.default_rng(0)
    maker = rng.choice(["a", "b", "c"], 400)
    amount = pd.Series(maker).map({"a": 3.0, "b": 6.0, "c": 20.0}).to_numpy() + 0.5 * rng.normal(size=400)
    X = pd.DataFrame(
        {"maker": maker, "amount": amount, "count": rng.poisson(amount), "flag": maker == "a", "unit": 7.0}
    )
    return X.set_index(np.array([f"id{i}" for i in range(400)]))


@pytest.fixture(scope="module")
def of_frame(frame):
    with pytest.warns(UserWarning, match="'unit' holds one value alone"):
        return VAEAnomalyDetector(likelihood="auto", max_iter=15, random_state=0).fit(frame)


@pytest.fixture(scope="module")
def odd(frame):
    X = frame[frame["maker"] == "a"][:5].copy()
    X.iloc[0, 1] = 31.8
    X.iloc[1, 0] = "c"
    X.iloc[2, 4] = 5.5
    X.iloc[3, 1] = np.nan
    return X


def test_lines_sum_to_the_score_and_are_the_worst_of_explain(of_frame, odd):
    found, parts = of_frame.describe(odd), of_frame.explain(odd)
    assert found.columns.tolist() == COLUMNS
    assert found.index.tolist() == [label for label in odd.index for _ in range(4)]
    np.testing.assert_allclose(
        found.groupby("row")["contribution"].sum(),
        of_frame.score_samples(odd) - of_frame.training_scores_.mean(),
        rtol=1e-9,
        atol=1e-9,
    )
    for row, lines in found.groupby("row"):
        assert lines["column"].tolist() == [*odd.columns[np.argsort(parts[row, :-1])[:3]], ELSE]
        np.testing.assert_array_equal(lines["contribution"][:3], np.sort(parts[row, :-1])[:3])


def test_what_was_planted_is_said(of_frame, odd):
    found = of_frame.describe(odd, n_columns=5).set_index(["row", "column"])
    amount = found.loc[(0, "amount")]
    assert amount["value"] == 31.8
    assert amount["expected"] == pytest.approx(3, abs=1)
    assert amount["deviations"] > 10
    assert "standard deviations above what its other columns suggest (31.8; normal: " in amount["reason"]
    maker = found.loc[(1, "maker")]
    assert (maker["value"], maker["expected"]) == ("c", "a")
    assert maker["chance"] < 0.05
    assert maker["reason"].startswith("maker is 'c' (")
    assert "where rows like this have 'a' (" in maker["reason"]
    assert found.loc[(2, "unit"), "reason"] == "unit is 5.5, where rows like this have 7"
    assert found.loc[(3, "amount"), "reason"] == "amount is missing"
    assert found.loc[(3, "amount"), "value"] is None
    assert found.loc[(4, "flag"), "value"] is True
    assert found.loc[(4, "flag"), "reason"].startswith("flag is True, as in ")
    assert isinstance(found.loc[(4, "count"), "value"], int)
    assert found.loc[(4, "maker"), "reason"].startswith("maker is 'a', as in ")
    similar = of_frame.similar(odd)
    assert found.loc[(1, "maker"), "similar"] == similar["maker"].iloc[1]
    assert amount["similar"] == pytest.approx(similar["amount"].iloc[0])


@pytest.mark.parametrize(("column", "values"), [("maker", list("abc")), ("flag", [False, True])])
def test_a_category_is_as_likely_as_the_model_says(of_frame, odd, column, values):
    """P(cell | others) by Bayes, from scores that hold each of its values in turn: p(x) over its sum."""
    found = of_frame.describe(odd[1:2], n_columns=5).set_index("column").loc[column]
    each = pd.concat([odd[1:2].assign(**{column: value}) for value in values])
    log_p = of_frame._inference().log_likelihood(of_frame._reader().read(each))
    chances = np.exp(log_p - np.logaddexp.reduce(log_p))
    assert found["expected"] == values[chances.argmax()]
    assert found["chance"] == pytest.approx(chances[values.index(odd[column].iloc[1])], rel=0.5, abs=1e-3)
    assert np.isnan(found["deviations"])


def test_a_fraction_among_zeros_and_ones_is_a_number_and_a_missing_one_has_no_chance():
    z = np.random.default_rng(0).normal(size=(200, 1))
    X = (z + 0.5 * np.random.default_rng(1).normal(size=(200, 4)) > 0).astype(float)
    X[0, 0], X[1, 0] = 0.5, np.nan
    detector = VAEAnomalyDetector(2, likelihood="bernoulli", objective="elbo", max_iter=5, random_state=0).fit(X)
    fraction, missing, one = (r for r in detector.describe(X[:3], n_columns=4) if r["column"] == "x0")
    assert np.isnan(fraction["chance"])
    assert fraction["reason"].startswith("x0 is 0.5, where rows like this have ")
    assert np.isnan(missing["chance"])
    assert missing["reason"] == "x0 is missing"
    assert 0 < one["chance"] < 1
    assert (one["expected"] == one["value"]) == (one["chance"] > 0.5)


def test_reasons_do_not_depend_on_company(of_frame, odd):
    whole = of_frame.describe(odd)
    for row in (0, 3):
        alone = of_frame.describe(odd[row : row + 1])
        own = whole[whole["row"] == row]
        assert alone["column"].tolist() == own["column"].tolist()
        for name in ("contribution", "deviations", "chance"):
            np.testing.assert_allclose(alone[name], own[name], rtol=1e-6, atol=1e-9)


def test_the_container_is_that_of_the_rows_or_the_one_asked_for(of_frame, odd, new_rows):
    lines = fitted().describe(new_rows[:2], n_columns=2)
    assert isinstance(lines, list)
    assert [list(line) for line in lines] == [COLUMNS] * 6
    assert [line["column"] for line in lines[2::3]] == [ELSE] * 2
    detector = make().fit(correlated(100))
    found = detector.set_output(transform="pandas").describe(new_rows[:2], n_columns=2)
    pd.testing.assert_frame_equal(
        found, pd.DataFrame(detector.set_output(transform="default").describe(new_rows[:2], n_columns=2))
    )
    rows = pl.DataFrame({"size": correlated(100)[:, 0], "kind": ["a", "b"] * 50})
    found = make(likelihood="auto").fit(rows).describe(rows[:2])
    assert isinstance(found, pl.DataFrame)
    assert found.columns == COLUMNS
    assert found["column"].to_list().count(ELSE) == 2


def test_without_a_density_the_reconstruction_is_what_is_expected(new_rows):
    detector = make(objective="autoencoder", criterion="reconstruction", likelihood="gaussian", n_components=3)
    lines = detector.fit(correlated(150)).describe(new_rows[:1], n_columns=1)
    hidden = new_rows[:1].copy()
    hidden[0, int(lines[0]["column"][1:])] = np.nan
    assert np.isnan(lines[0]["deviations"])
    assert ", where rows like this have " in lines[0]["reason"]
    assert np.isfinite(lines[0]["expected"])


def test_describe_says_what_it_lacks(new_rows):
    with pytest.raises(NotFittedError):
        make().describe(new_rows)
    for n_columns in (0, -1, 2.5, True, "all", None):
        with pytest.raises(ValueError, match=r"n_columns=.* must be an integer of at least 1"):
            fitted().describe(new_rows, n_columns=n_columns)
    with pytest.raises(ValueError, match="Row 1 of X is too far from the training data to be explained"):
        fitted("reconstruction").describe(np.vstack([new_rows[:1], np.full((1, 8), 1e200)]))
    with pytest.raises(ValueError, match="X has 3 features"):
        fitted().describe(new_rows[:, :3])
    assert len(fitted().describe(new_rows[:1], n_columns=99)) == 9


def test_a_row_far_out_is_described():
    line = fitted().describe(np.full((1, 8), 1e100), n_columns=1)[0]
    assert "more than 1000 standard deviations" in line["reason"] or line["reason"].endswith(
        "so far out does the row lie"
    )


def test_a_decoder_that_reads_the_row_gives_no_reasons():
    detector = VAEAnomalyDetector(likelihood="bernoulli", objective="elbo", decoder=PixelCNN((2, 2)))
    assert not hasattr(detector, "describe")
    assert hasattr(make(), "describe")


SENTENCES = [
    ((31.8, 3.2, 3.0, 9.04, None), "9.0 standard deviations above what its other columns suggest (31.8; normal: 3.2)"),
    (
        (2, 3.2, 3.0, -1e9, None),
        "more than 1000 standard deviations below what its other columns suggest (2; normal: 3.2)",
    ),
    (
        (3.1, 3.2, 1.0, -0.3, None),
        "3.1, about what its other columns suggest (3.2); the most similar normal row has 1",
    ),
    ((5, 7, 7, np.nan, None), "5, where rows like this have 7"),
    ((True, True, True, np.nan, None), "True, as rows like this have"),
    ((None, 7, 7, np.nan, None), "missing"),
    ((5, None, 7, np.nan, None), "5; its other columns suggest nothing, so far out does the row lie"),
    (
        ("b", "a", "a", np.nan, (0.0004, 0.931)),
        "'b' (less than 0.1 % of rows like this), where rows like this have 'a' (93 %)",
    ),
    (
        ("b", "a", "a", np.nan, (0.021, 0.999)),
        "'b' (2.1 % of rows like this), where rows like this have 'a' (more than 99 %)",
    ),
    (("a", "a", "b", np.nan, (0.62, 0.62)), "'a', as in 62 % of rows like this"),
]


@pytest.mark.parametrize(("parts", "sentence"), SENTENCES)
def test_sentences(parts, sentence):
    assert reason("v", *parts) == f"v is {sentence}"


def test_a_heavy_tails_deviation_is_by_quantiles(any_seed):
    """Of independent columns p(cell | others) is the column's own: Student's t with 4 degrees of freedom."""
    X = stats.t(4).rvs((2000, 3), random_state=any_seed) * [1, 10, 100]
    detector = make(n_components=1, likelihood="student_t", objective="elbo", max_iter=3).fit(X[:1000])
    rows = np.array([[0.0, 60.0, 0.0]])
    line = next(line for line in detector.describe(rows, n_columns=3) if line["column"] == "x1")
    low, middle, high = np.quantile(X[:, 1], stats.norm.cdf([-1, 0, 1]))
    assert line["deviations"] == pytest.approx((60 - middle) / (0.5 * (high - low)), rel=0.35)
