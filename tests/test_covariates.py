"""Columns that a model is given: the density of the others given these, rows for other values, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROUTES, by_skops, rows_of, with_gaps
from scipy import stats

from skvae import IWAE, Given, Mixed, VAEAnomalyDetector, VAEClassifier, VAEImputer, VAETransformer, VAETransformerCV
from skvae._linear import Regression
from skvae.networks import PixelCNN

LIKELIHOOD = Mixed([("given", ["batch", "age"])], remainder="gaussian")
OTHERS = ["u", "v", "w"]


def people(n_rows=300, seed=0):
    """Three columns of one latent, to which a batch adds and which grow with age."""
    rng = np.random.default_rng(seed)
    batch, age = rng.choice(["a", "b", "c"], n_rows, p=[0.5, 0.3, 0.2]), rng.normal(40, 10, n_rows)
    x = rng.normal(size=(n_rows, 1)) * [1.0, 2.0, -1.0] + 0.5 * rng.normal(size=(n_rows, 3))
    x += np.where(batch == "b", 3.0, 0.0)[:, None] + 0.1 * age[:, None] * [1.0, 0.0, -1.0]
    table = pd.DataFrame(x, columns=OTHERS)
    table.insert(1, "batch", batch)
    return table.assign(age=age)


def fitted(n_components=1, **parameters):
    defaults = {"likelihood": LIKELIHOOD, "max_iter": 3, "random_state": 0}
    return VAETransformer(n_components, **(defaults | parameters)).fit(people())


@pytest.fixture(scope="module")
def linear():
    return fitted(hidden_layer_sizes=())


@pytest.fixture(scope="module")
def curved():
    return fitted(likelihood=Mixed([("given", ["batch", "age"])], remainder="auto"), max_iter=20)


def conditional(vae, table):
    """Mean and covariance of the other columns given batch and age, from what a linear model decodes."""
    n, J = len(table), vae.n_components_

    def decoded(z):
        return vae.inverse_transform(np.tile(z, (n, 1)), given=table)[OTHERS].to_numpy()

    mean = decoded(np.zeros(J))
    loadings = np.stack([(decoded(unit) - mean)[0] for unit in np.eye(J)], axis=1)
    own = [part for part in vae.module_.likelihood.members if part.n_params]
    noise = np.exp(torch.maximum(own[0].log_noise, own[0].log_floor).numpy())
    places = [table.columns.get_loc(name) for name in OTHERS]
    return mean, loadings @ loadings.T + np.diag(noise * vae.scale_[places] ** 2)


# p(others | given)


@pytest.mark.parametrize("n_components", [1, 2])
def test_a_linear_models_score_is_the_conditional_likelihood_in_closed_form(n_components):
    vae, table = fitted(n_components, hidden_layer_sizes=()), people(50, seed=1)
    mean, cov = conditional(vae, table)
    expected = stats.multivariate_normal(np.zeros(3), cov).logpdf(table[OTHERS] - mean)
    np.testing.assert_allclose(vae.score_samples(table), expected, atol=1e-6)


def test_training_starts_at_the_maximum_of_the_conditional_likelihood(linear):
    """Least squares, and factor analysis of what they leave; one latent and three columns leave no constraint."""
    table = people()
    design = pd.get_dummies(table["batch"], dtype=float).assign(age=table["age"]).to_numpy()
    found = VAETransformer(1, likelihood=LIKELIHOOD, hidden_layer_sizes=(), early_stopping="auto", random_state=0)
    found.set_params(max_iter=1, learning_rate_init=1e-12).fit(table)
    mean, cov = conditional(found, table)
    solution = np.linalg.lstsq(design, table[OTHERS].to_numpy(), rcond=None)[0]
    np.testing.assert_allclose(mean, design @ solution, atol=0.05)
    np.testing.assert_allclose(cov, np.cov((table[OTHERS] - design @ solution).T, bias=True), rtol=0.05, atol=0.01)


def test_the_density_of_the_others_sums_to_one_for_every_value_that_is_given(curved):
    grid = np.linspace(-12, 22, 171)
    for batch in "abc":
        rows = pd.DataFrame({"u": grid, "batch": batch, "v": np.nan, "w": np.nan, "age": 45.0})
        assert np.trapezoid(np.exp(curved.score_samples(rows)), grid) == pytest.approx(1.0, abs=1e-3)


def test_missing_cells_are_filled_given_batch_and_age(linear):
    table = people(40, seed=2)
    mean, cov = conditional(linear, table)
    rest = table[["v", "w"]].to_numpy() - mean[:, 1:]
    expected = mean[:, 0] + rest @ np.linalg.solve(cov[1:, 1:], cov[1:, 0])
    np.testing.assert_allclose(linear.impute(table.assign(u=np.nan))["u"], expected, atol=1e-6)


def test_codes_hold_nothing_of_what_is_given(linear):
    table, plain = people(), VAETransformer(1, max_iter=3, random_state=0).fit(people()[OTHERS])
    is_b = table["batch"] == "b"

    def apart(codes):
        return abs(codes[is_b].mean() - codes[~is_b].mean()) / codes.std()

    assert apart(plain.transform(table[OTHERS])) > 0.5
    assert apart(linear.transform(table)) < 0.2


# Rows for other values


def test_rows_are_decoded_as_if_of_another_batch(linear):
    """The truth is known: a batch adds 3 to every column."""
    table = people()
    of_b = table[table["batch"] == "b"]
    codes = linear.transform(of_b)
    as_a = linear.inverse_transform(codes, given=of_b.assign(batch="a"))
    moved = linear.reconstruct(of_b)[OTHERS].to_numpy() - as_a[OTHERS]
    np.testing.assert_allclose(moved, 3.0, atol=0.3)
    assert (as_a["batch"] == "a").all()
    np.testing.assert_array_equal(as_a["age"], of_b["age"])
    assert list(as_a.index) == list(range(len(of_b)))


def test_one_row_stands_for_all_in_every_form(linear):
    codes = np.array([[0.5], [-1.0]])
    cells = {"batch": "c", "age": 30.0}
    expected = linear.inverse_transform(codes, given=pd.DataFrame([cells] * 2))
    for given in (cells, pd.Series(cells), pd.DataFrame([cells]), pd.DataFrame([cells | {"u": 1.0}])):
        pd.testing.assert_frame_equal(linear.inverse_transform(codes, given=given), expected)


def test_arrays_may_hold_what_is_given():
    X = np.column_stack([people()[OTHERS], (people()["batch"] == "b") * 1.0])
    vae = VAETransformer(1, likelihood=Mixed([("given", [3])], remainder="gaussian"), max_iter=2, random_state=0).fit(X)
    codes = vae.transform(X)
    rows = np.full((len(X), 4), np.nan)
    rows[:, 3] = 1.0
    found = vae.inverse_transform(codes, given=rows)
    np.testing.assert_array_equal(found, vae.inverse_transform(codes, given={3: 1.0}))
    assert (found[:, 3] == 1.0).all()


def test_reconstructions_keep_the_cells_that_are_given(curved):
    table = people(20, seed=3)
    found = curved.reconstruct(table)
    pd.testing.assert_frame_equal(found[["batch", "age"]], table[["batch", "age"]])
    expected = curved.inverse_transform(curved.transform(table), given=table)
    pd.testing.assert_frame_equal(found, expected)


def test_whole_numbers_are_categories_where_that_is_said():
    X = np.column_stack([people()[OTHERS], people()["batch"].map({"a": 0, "b": 1, "c": 2})])
    numbers, codes = (
        VAETransformer(1, likelihood=Mixed([(member, [3])], remainder="gaussian"), max_iter=1, random_state=0).fit(X)
        for member in ("given", Given(3))
    )
    assert numbers.module_.n_given == 1
    assert codes.module_.n_given == 3
    assert codes.score(X) > numbers.score(X) + 0.1
    with pytest.raises(ValueError, match="n_categories for 2 columns"):
        VAETransformer(likelihood=Mixed([(Given([3, 2]), [3])], remainder="gaussian")).fit(X)


# Draws


def test_new_rows_have_the_given_cells_of_training_rows(curved):
    table, drawn = people(), curved.sample(500, random_state=0)
    known = set(zip(table["batch"], table["age"], strict=True))
    assert set(zip(drawn["batch"], drawn["age"], strict=True)) <= known
    assert (drawn["batch"] == "a").mean() == pytest.approx((table["batch"] == "a").mean(), abs=0.1)
    model = curved.sample(500, random_state=0, prior="model")
    for batch in "ab":
        own, real = model[model["batch"] == batch], table[table["batch"] == batch]
        assert own["u"].mean() == pytest.approx(real["u"].mean(), abs=0.5)


def test_new_rows_have_the_given_cells_of_the_rows_whose_codes_they_are_around():
    """A batch whose rows vary four times as much does so in new rows."""
    table = people()
    is_b = (table["batch"] == "b").to_numpy()
    table[OTHERS] *= np.where(is_b, 4.0, 1.0)[:, None]
    vae = VAETransformer(1, likelihood=LIKELIHOOD, hidden_layer_sizes=(), max_iter=3, random_state=0).fit(table)
    drawn = vae.sample(600, random_state=0)
    of_b, others = (drawn["v"][(drawn["batch"] == "b") == wanted].std() for wanted in (True, False))
    assert of_b > 2 * others


def test_drawn_rows_may_be_given_all_some_or_more_than_the_models_columns(curved):
    both = curved.sample(200, given={"batch": "b", "age": 20.0}, random_state=0)
    assert (both["batch"] == "b").all()
    assert (both["age"] == 20.0).all()
    assert both["u"].mean() == pytest.approx(3 + 2, abs=0.6)
    some = curved.sample(200, given={"batch": "b"}, random_state=0)
    assert (some["batch"] == "b").all()
    assert some["age"].nunique() > 20
    assert set(some["age"]) <= set(people().query("batch == 'b'")["age"])
    more = curved.sample(5, given=pd.DataFrame({"batch": ["b", "a"], "u": [1.0, 2.0]}), random_state=0)
    assert list(more["u"]) == [1.0] * 5 + [2.0] * 5
    assert list(more["batch"]) == ["b"] * 5 + ["a"] * 5
    assert more.notna().all(axis=None)


def test_draws_given_the_models_columns_have_the_models_moments(linear):
    mean, cov = conditional(linear, people(1, seed=4))
    drawn = linear.sample(4000, given=people(1, seed=4)[["batch", "age"]], random_state=0)[OTHERS]
    np.testing.assert_allclose(drawn.mean(), mean[0], atol=0.15)
    np.testing.assert_allclose(np.cov(drawn.T), cov, atol=0.35)


def test_weights_count_among_the_given_cells_that_are_kept():
    table = people()
    weight = np.where(table["batch"] == "c", 1e-3, 1.0)
    vae = VAETransformer(1, likelihood=LIKELIHOOD, max_iter=1, random_state=0).fit(table, sample_weight=weight)
    assert (vae.sample(300, random_state=0)["batch"] == "c").mean() < 0.02


# What is refused


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batch": "q"}, "column 'batch' holds 'q'"),
        ({"batch": None}, "column 'batch' is given to the model"),
        ({"age": np.nan}, "column 'age' is given to the model, and 300 row.s. lack its value"),
        ({"age": np.inf}, "column 'age', row 0"),
        ({"age": [np.nan] + [40.0] * 299}, "column 'age' is given to the model, and 1 row.s. lack its value"),
    ],
)
def test_a_given_cell_that_is_missing_or_unknown_is_named(linear, change, text):
    table = people().assign(**change)
    calls = [linear.transform, linear.score, linear.reconstruct, linear.impute]
    calls += [lambda X: linear.inverse_transform(np.zeros((300, 1)), given=X)]
    calls += [lambda X: linear.partial_fit(X)] if change.get("batch") != "q" else []
    before = dict(vars(linear))
    for call in calls:
        with pytest.raises(ValueError, match=text):
            call(table)
    assert vars(linear) == before


def test_decoding_asks_for_what_is_given_and_for_nothing_else(linear):
    codes = np.zeros((3, 1))
    with pytest.raises(ValueError, match="column 'batch', column 'age': say what to decode for, by given="):
        linear.inverse_transform(codes)
    with pytest.raises(ValueError, match="2 rows for 3 latents"):
        linear.inverse_transform(codes, given=people(2))
    with pytest.raises(ValueError, match="column 'age' is given"):
        linear.inverse_transform(codes, given={"batch": "a"})
    with pytest.raises(ValueError, match="has a column 'site'"):
        linear.inverse_transform(codes, given={"site": 1})
    plain = VAETransformer(1, max_iter=1, random_state=0).fit(people()[OTHERS])
    with pytest.raises(ValueError, match="given no columns"):
        plain.inverse_transform(codes, given={"u": 1.0})


def test_models_that_cannot_be_given_columns_say_so_before_training():
    table = people()
    for parameters, text in [
        ({"likelihood": "given"}, "leaves no column to model"),
        ({"likelihood": Mixed([("given", list(table.columns))])}, "no column to model"),
        ({"objective": "autoencoder"}, "objective=Autoencoder.* cannot be given columns"),
        ({"decoder": PixelCNN((1, 5))}, "decoder=PixelCNN.* cannot be given columns"),
    ]:
        with pytest.raises(ValueError, match=text):
            VAETransformer(1, **({"likelihood": LIKELIHOOD, "max_iter": 10**9, "random_state": 0} | parameters)).fit(
                table
            )


# Everything else takes them


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": IWAE(3)},
        {"objective": "input_noise"},
        {"prior": "mixture"},
        {"prior": "vamp"},
        {"n_components": 3},
        {"likelihood": Mixed([("given", ["batch"])], remainder="student_t")},
    ],
    ids=str,
)
def test_objectives_priors_and_sizes_train_and_answer(parameters):
    table = people(100)
    table.loc[::7, "u"] = np.nan
    vae = VAETransformer(
        **({"n_components": 1, "likelihood": LIKELIHOOD, "max_iter": 2, "random_state": 0} | parameters)
    )
    vae.fit(table)
    assert np.isfinite(vae.score(table))
    assert vae.impute(table).notna().all(axis=None)
    assert np.isfinite(vae.partial_fit(table).score(table))
    assert len(vae.impute(table, n_draws=2, random_state=0)) == 2
    assert vae.sample(3, given={"batch": "a"}, random_state=0).notna().all(axis=None)


def test_detectors_explain_rows_by_the_columns_that_are_modelled():
    table = people(150)
    detector = VAEAnomalyDetector(1, likelihood=LIKELIHOOD, max_iter=2, random_state=0).fit(table)
    odd = people(4, seed=5).assign(batch=["a", "b", "c", "b"])
    odd.loc[0, "u"] += 30
    assert detector.predict(odd)[0] == -1
    found = detector.explain(odd)
    places = [table.columns.get_loc(name) for name in ("batch", "age")]
    np.testing.assert_array_equal(found[:, places], np.zeros((4, 2)))
    assert found[0, :5].argmin() == 0
    similar = detector.similar(odd)
    pd.testing.assert_frame_equal(similar[["batch", "age"]], odd[["batch", "age"]])
    odd.loc[1, "v"] = np.nan
    assert np.isfinite(detector.partial_fit(table).score_samples(odd)).all()


def test_searches_imputers_and_classifiers_take_them(curved):
    table = people(90)
    search = VAETransformerCV([1, 2], likelihood=LIKELIHOOD, max_iter=2, cv=2, random_state=0).fit(table)
    assert np.isfinite(search.score(table))
    holes = table.assign(u=with_gaps(table[["u"]].to_numpy(), 0.2)[:, 0])
    filled = VAEImputer(VAETransformer(1, likelihood=LIKELIHOOD, max_iter=2, random_state=0)).fit_transform(holes)
    assert filled.notna().all(axis=None)
    y = np.where(table["v"] > table["v"].median(), "high", "low")
    model = VAEClassifier(1, likelihood=LIKELIHOOD, max_iter=5, random_state=0).fit(table, y)
    assert model.predict_proba(table).shape == (90, 2)


# What is kept


@pytest.mark.parametrize("route", ROUTES)
def test_saved_models_answer_alike(linear, route, tmp_path):
    loaded = ROUTES[route](linear, tmp_path)
    pd.testing.assert_frame_equal(loaded.sample(5, random_state=0), linear.sample(5, random_state=0))
    np.testing.assert_array_equal(loaded.score_samples(people()), linear.score_samples(people()))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda given: None, "no cells of the 2 columns"),
        (lambda given: given[:, :1], "no cells of the 2 columns"),
        (lambda given: given + 9, "no column can hold"),
        (lambda given: given * np.nan, "no cells of the 2 columns"),
    ],
)
def test_given_cells_of_a_saved_model_are_looked_at(change, text):
    vae = fitted(max_iter=1)
    vae._codes["given"] = change(vae._codes["given"])
    with pytest.raises(ValueError, match=text):
        by_skops(vae)


def test_chunks_add_to_the_given_cells_that_are_kept():
    first, second = people(100), people(100, seed=6)
    vae = VAETransformer(1, likelihood=LIKELIHOOD, random_state=0).partial_fit(first).partial_fit(second)
    drawn = set(vae.sample(300, random_state=0)["age"])
    assert drawn <= set(first["age"]) | set(second["age"])
    assert drawn & set(first["age"])
    assert drawn & set(second["age"])


def test_models_that_keep_no_codes_keep_no_given_cells():
    vae = fitted(keep_codes=False)
    with pytest.raises(ValueError, match="say by given="):
        vae.sample(3, prior="model", random_state=0)
    assert len(vae.sample(3, given={"batch": "a", "age": 30.0}, random_state=0)) == 3


def test_the_likelihood_reads_as_it_was_written(curved):
    again = VAETransformer(1, likelihood=curved.likelihood_, max_iter=20, random_state=0).fit(people())
    assert again.module_.n_given == curved.module_.n_given == 4
    assert repr(curved.likelihood_).count("'given'") == 2


def test_a_category_that_is_none_of_a_given_column_cannot_be_left_out(linear):
    table = people(20).replace({"batch": {"a": "z"}})
    with pytest.raises(ValueError, match=r"column 'batch' holds 'z' .* Leave such rows out, or fit to rows that have"):
        linear.transform(table)


@pytest.mark.parametrize("given", [{"batch": "z"}, {"u": np.inf}, {"age": np.inf, "u": 1.0}])
def test_a_refused_draw_asks_the_generator_for_nothing(linear, given):
    rng, before = np.random.RandomState(0), np.random.RandomState(0).get_state()[1]
    with pytest.raises(ValueError, match="not seen|infinity"):
        linear.sample(3, given=given, random_state=rng)
    np.testing.assert_array_equal(rng.get_state()[1], before)


def test_pictures_decode_for_what_is_given(linear):
    pytest.importorskip("matplotlib")
    from skvae.plotting import ReconstructionDisplay, TraversalDisplay

    table, given = people(20), {"batch": "b", "age": 50.0}
    found = TraversalDisplay.from_estimator(linear, table, n=3, n_features=3, given=given)
    decoded = linear.inverse_transform(found.values[:, None], given=given)
    name = found.features[0]
    np.testing.assert_allclose(found.decoded[:, 0], (decoded[name] - table[name].mean()) / table[name].std(ddof=0))
    with pytest.raises(ValueError, match="say what to decode for, by given="):
        TraversalDisplay.from_estimator(linear, table)
    rows = ReconstructionDisplay.from_estimator(linear, table, rows=[2])
    own = linear.reconstruct(table[2:3])[rows.features].to_numpy()
    spread = table[rows.features].std(ddof=0).to_numpy()
    np.testing.assert_allclose(rows.rebuilt, (own - table[rows.features].mean().to_numpy()) / spread)


# The regression that training starts with


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_column_is_regressed_on_the_rows_that_hold_it(gaps, weighted):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5))
    present = np.column_stack([rng.random((60, 3)) < 0.6, np.ones((60, 2), dtype=bool)]) if gaps else None
    weight = rng.random(60) if weighted else None
    blocks = [(part * (1 if here is None else here), here, w) for part, here, w in _halves(x, present, weight)]
    found = Regression(lambda: iter(blocks), np.array([3, 4]))
    design = np.column_stack([x[:, 3:], np.ones(60)])
    for column in range(3):
        root = np.sqrt((1.0 if weight is None else weight) * (1.0 if present is None else present[:, column]))
        rows = np.vstack([design * np.broadcast_to(root, 60)[:, None], np.eye(3)])  # and the prior
        expected = np.linalg.lstsq(rows, np.append(x[:, column] * root, np.zeros(3)), rcond=None)[0]
        np.testing.assert_allclose(found.coefficients[column], expected[:2], atol=1e-10)
        np.testing.assert_allclose(found.intercept[column], expected[2], atol=1e-10)
    left = np.concatenate([block[0] for block in found.rest()])
    assert not left[:, 3:].any()
    root, inverse = found.root
    cov = np.cov(x[:, 3:].T, bias=True, aweights=weight)
    np.testing.assert_allclose(root @ root.T, cov, atol=1e-10)
    np.testing.assert_allclose(inverse @ root, np.eye(2), atol=1e-10)


def _halves(*arrays):
    return [[None if a is None else a[part] for a in arrays] for part in (slice(25), slice(25, None))]


def test_a_category_of_all_rows_but_one_and_columns_of_one_value_are_no_trouble():
    table = people(60).assign(batch=["a"] * 59 + ["b"], age=3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae = VAETransformer(1, likelihood=LIKELIHOOD, max_iter=2, random_state=0).fit(table)
    assert np.isfinite(vae.score(table))
    found = vae.inverse_transform(np.zeros((1, 1)), given={"batch": "a", "age": 4.0})
    assert found["age"][0] == 4.0


def test_what_is_given_is_read_from_rows_whose_other_cells_are_unknown(linear):
    model, table = linear.module_, people(5)
    rows = rows_of(linear, linear._reader().read(table))
    blank = rows.x.masked_fill(torch.from_numpy(~model.likelihood.given_columns), torch.nan)
    z = torch.zeros(5, 1, dtype=torch.float64)
    torch.testing.assert_close(model.params(z, blank), model.params(z, rows.x))
    with pytest.raises(ValueError, match="cannot be decoded"):
        model.params(z)
