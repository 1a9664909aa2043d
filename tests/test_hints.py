"""What a user may have meant: parameters, columns and tables that are not what they seem."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import make
from sklearn.datasets import load_iris
from sklearn.utils._param_validation import InvalidParameterError

import skvae
from skvae import ELBO, MLP, Gaussian, VAEAnomalyDetector, VAEImputer, VAETransformer, VAETransformerCV
from skvae._tables.doubts import warn_of_categories
from skvae.plotting import AnomalyScoresDisplay

HINTS = [
    ({"likelihood": "bernouli"}, "Did you mean 'bernoulli'?"),
    ({"likelihood": "student-t"}, "Did you mean 'student_t'?"),
    ({"likelihood": "Negative Binomial"}, "Did you mean 'negative_binomial'?"),
    ({"objective": "ELBO"}, "Did you mean 'elbo'?"),
    ({"prior": "mixtur"}, "Did you mean 'mixture'?"),
    ({"solver": "Adam"}, "Did you mean 'adam'?"),
    ({"activation": "ReLU"}, "Did you mean 'relu'?"),
    ({"likelihood": Gaussian}, "This is a class; give an object: likelihood=Gaussian()."),
    ({"likelihood": {"a": "poisson"}}, "A likelihood for each column is Mixed([(likelihood, columns), ...])."),
    ({"n_components": 0.9}, "A share of the variance is not taken, as it is by PCA; 'auto' chooses"),
]


@pytest.mark.parametrize(("parameters", "hint"), HINTS)
def test_a_wrong_parameter_is_told_what_it_may_have_been_meant_to_be(parameters, hint, iris):
    with pytest.raises(InvalidParameterError, match=f"instead. {re.escape(hint)}"):
        VAETransformer(**parameters).fit(iris)


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [
        (VAETransformer, "epochs", "max_iter"),
        (VAETransformerCV, "latent_dim", "n_components"),
        (VAEAnomalyDetector, "learning_rate", "learning_rate_init"),
        (VAETransformer, "beta", "objective=ELBO(beta=...)"),
        (ELBO, "bata", "beta"),
        (VAEImputer, "epochs", "estimator=VAETransformer(max_iter=...)"),
    ],
)
def test_a_parameter_that_is_called_otherwise_here_is_told_so(kind, name, near):
    with pytest.raises(TypeError, match=re.escape(f"takes no parameter {name!r}. Did you mean {near}?")):
        kind(**{name: 1})
    with pytest.raises(TypeError, match="unexpected keyword argument"):  # Python's own, where nothing is near
        kind(strange=1)


def test_one_row_is_told_to_say_nothing_of_how_rows_differ(iris):
    with pytest.warns(UserWarning, match="one row says nothing of how rows differ"):
        VAETransformer(1, max_iter=1, random_state=0).fit(iris[:1])


def test_tab_completion_shows_what_is_public():
    assert set(dir(skvae)) == {*skvae.__all__, *skvae._ROOMS, "__version__"}
    for name in skvae._ROOMS:
        room = getattr(skvae, name)
        assert dir(room) == sorted(room.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Gausian'"):
        skvae.Gausian  # noqa: B018


def test_names_come_in_order_and_no_hint_where_nothing_is_near(iris):
    with pytest.raises(
        InvalidParameterError, match=r"\{'adagrad', 'adam', 'rmsprop', 'sgd'\} or a callable. Got 'x'"
    ) as e:
        VAETransformer(solver="x").fit(iris)
    assert str(e.value).endswith("instead.")
    with pytest.raises(InvalidParameterError, match="Did you mean 'latent'?"):
        VAEAnomalyDetector(criterion="latents").fit(iris)


def test_one_hidden_layer_may_be_a_number(iris):
    one, same = (VAETransformer(2, hidden_layer_sizes=h, max_iter=2, random_state=0).fit(iris) for h in (7, (7,)))
    np.testing.assert_array_equal(one.transform(iris), same.transform(iris))
    assert MLP(7).count_layers() == 1
    with pytest.raises(InvalidParameterError, match="an array-like or an int"):
        VAETransformer(hidden_layer_sizes=0).fit(iris)


def test_images_are_to_be_made_rows(iris):
    images = np.zeros((30, 2, 2))
    vae = VAETransformer(2, max_iter=1, random_state=0).fit(iris)
    for call in (VAETransformer(likelihood="auto").fit, vae.transform):
        with pytest.raises(
            ValueError, match=r"dim 3, while dim <= 2 is required by VAETransformer; .* X.reshape\(len\(X\), -1\)"
        ):
            call(images)


def test_a_picture_of_anomalies_asks_for_a_detector(iris):
    vae = VAETransformer(2, max_iter=1, random_state=0).fit(iris)
    with pytest.raises(ValueError, match="VAETransformer detects no anomalies; take a VAEAnomalyDetector"):
        AnomalyScoresDisplay.from_estimator(vae, iris)


# Columns of categories

GRADED = [round(0.1 + 0.3 * k, 1) for k in range(30)]
SAID = [
    (
        list(map(str, GRADED)),
        "column a holds numbers as strings, such as '0.1', so each of its 30 different",
    ),
    (list(map(str, range(11))), "holds numbers as strings"),
    ([*range(50), "?"], "holds numbers but for '.', .* errors='coerce'"),
    ([*map(str, GRADED), "n/a"], "holds numbers but for 'n/a'"),
    (GRADED, "holds real numbers, .* take likelihood='gaussian' or 'auto' for it"),
    ([f"u{k}" for k in range(60)], "holds 60 different values in 100 rows"),
    (["US"], "holds 'US' alone, which tells nothing"),
]
SILENT = [
    list(map(str, range(10))),  # codes
    list(range(40)),
    [0.5, 1.5, 2.5],
    [*range(12), "a", "b", "c"],  # too many to be marks
    ["1", "2", "3", "other"],
    [f"u{k}" for k in range(40)],
]


@pytest.mark.parametrize(("values", "said"), SAID)
def test_categories_that_look_like_something_else_are_spoken_of(values, said):
    with pytest.warns(UserWarning, match=said) as caught:
        warn_of_categories("column a", values, 100, declared=False)
    assert len(caught) == 1


@pytest.mark.parametrize("values", SILENT)
def test_others_are_not(values):
    warn_of_categories("column a", values, 100, declared=False)


def test_a_type_of_categories_settles_what_looks_like_numbers():
    warn_of_categories("column a", list(map(str, GRADED)), 100, declared=True)
    with pytest.warns(UserWarning, match="holds 60 different values"):
        warn_of_categories("column a", list(range(60)), 100, declared=True)


def test_a_fit_speaks_once_and_a_prediction_never():
    table = load_iris(as_frame=True).data
    table.columns = ["a", "b", "c", "d"]
    table["a"] = table["a"].astype(str)
    with pytest.warns(UserWarning, match="holds") as caught:
        vae = make(likelihood="auto", max_iter=1, early_stopping=False).fit(table)
    assert [str(w.message)[:38] for w in caught] == ["column 'a' holds numbers as strings, s"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae.transform(table)
        make(likelihood="auto", max_iter=1, early_stopping=False).fit(table.astype({"a": pd.CategoricalDtype()}))


SHORT = {"likelihood": "auto", "max_iter": 1, "random_state": 0}
FITTED = [VAETransformer(1, **SHORT), VAETransformerCV([1], cv=2, **SHORT), VAEImputer(VAETransformer(1, **SHORT))]


@pytest.mark.parametrize("estimator", FITTED, ids=lambda estimator: type(estimator).__name__)
def test_a_warning_points_at_the_line_that_called(estimator):
    table = load_iris(as_frame=True).data.assign(one=2.0)
    with pytest.warns(UserWarning, match="column 'one' holds one value alone") as caught:
        estimator.fit(table)
    assert [warning.filename for warning in caught if "one value" in str(warning.message)] == [__file__]
