"""VAEClassifier: labels as they come, what it says of classes, and what rows without a label are worth."""

import pickle

import numpy as np
import pandas as pd
import pytest
from helpers import by_skops
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import VAEClassifier, VAETransformer
from skvae._training import engine
from skvae.objectives import Classified
from skvae.priors import Mixture

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 5, "n_draws": 8, "random_state": 0}


def make(**parameters):
    return VAEClassifier(**{**SMALL, **parameters})


@pytest.fixture(scope="module")
def wine():
    """Rows in random order, and their labels, five of six unknown."""
    X, y = load_wine(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(y))
    X, y = X[order], y[order]
    return X, y, np.where(np.arange(len(y)) % 6 == 0, y, -1)


@pytest.fixture(scope="module")
def fitted(wine):
    X, _, few = wine
    return make().fit(X, few)


def same(one, other, X):
    np.testing.assert_array_equal(one.predict_log_proba(X), other.predict_log_proba(X))


# What it says


def test_the_shapes_are_scikit_learns(fitted, wine):
    X, y, _ = wine
    assert fitted.classes_.tolist() == [0, 1, 2]
    proba, decision = fitted.predict_proba(X), fitted.decision_function(X)
    assert proba.shape == decision.shape == (len(X), 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.log(proba), fitted.predict_log_proba(X), rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(fitted.predict(X), fitted.classes_[decision.argmax(axis=1)])
    assert fitted.score(X, y) == accuracy_score(y, fitted.predict(X))
    weight = np.arange(len(y))
    assert fitted.score(X, y, weight) == accuracy_score(y, fitted.predict(X), sample_weight=weight)


def test_of_two_classes_the_decision_is_one_number(wine):
    X, y, _ = wine
    model = make().fit(X, np.where(y == 0, "no", "yes"))
    decision, proba = model.decision_function(X), model.predict_proba(X)
    assert decision.shape == (len(X),)
    np.testing.assert_allclose(decision, np.log(proba[:, 1] / proba[:, 0]), rtol=1e-8)
    np.testing.assert_array_equal(model.predict(X), np.where(decision > 0, "yes", "no"))


def test_a_class_is_bayes_rule_at_the_posterior_mean(fitted, wine):
    """p(c|z) from the Gaussians and shares that the model holds, by scipy."""
    X, prior = wine[0], fitted.module_.prior
    z = fitted.transform(X)[:, np.argsort(fitted._order)]
    mean, std = prior.mean.numpy(), np.exp(0.5 * prior.log_var.numpy())
    joint = norm.logpdf(z[:, None], mean, std).sum(-1) + prior.log_share.numpy()
    expected = joint - logsumexp(joint, axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.predict_log_proba(X), expected, rtol=1e-6, atol=1e-6)


def test_shares_are_those_of_the_labelled_rows_and_are_not_trained(fitted, wine):
    few = wine[2]
    shares = fitted.module_.prior.log_share.exp().numpy()
    np.testing.assert_allclose(shares, np.bincount(few[few >= 0]) / (few >= 0).sum(), rtol=1e-6)
    assert float(fitted.module_.prior.rows_a_label) == pytest.approx(len(few) / (few >= 0).sum())


def test_it_is_a_transformer_with_a_likelihood_too(fitted, wine):
    X = wine[0]
    assert fitted.transform(X).shape == (len(X), fitted.n_components_) == (len(X), X.shape[1])
    assert fitted.get_feature_names_out()[0] == "vaeclassifier0"
    assert np.isfinite(fitted.score_samples(X)).all()
    assert fitted.sample(7, random_state=0).shape == (7, X.shape[1])


def test_the_likelihood_with_labels_is_comparable_with_that_without(wine):
    """A prior of one Gaussian a class is a density as any other: nothing of it is lost or counted twice."""
    X, y, _ = wine
    one = VAETransformer(4, max_iter=30, random_state=0).fit(X)
    other = make(n_components=4, likelihood="gaussian", hidden_layer_sizes=(100,), max_iter=30).fit(X, y)
    assert abs(one.score_samples(X).mean() - other.score_samples(X).mean()) < 1.5


# Labels


WORDS = np.array(["red", "white", "rosé"])


def as_words(few, missing):
    words = WORDS[few].astype(object)
    words[few == -1] = missing
    return words


@pytest.mark.parametrize("missing", [None, np.nan, -1, pd.NA], ids=["None", "NaN", "-1", "NA"])
@pytest.mark.parametrize("container", [np.asarray, list, pd.Series], ids=["array", "list", "series"])
def test_words_are_labels(fitted, wine, missing, container):
    X, _, few = wine
    names = np.array(["a", "b", "c"])  # in the numbers' order
    words = names[few].astype(object)
    words[few == -1] = missing
    model = make().fit(X, container(words))
    assert model.classes_.tolist() == ["a", "b", "c"]
    same(model, fitted, X)
    np.testing.assert_array_equal(model.predict(X), names[fitted.predict(X)])


@pytest.mark.parametrize(
    ("values", "unlabeled"),
    [([5, 7, 9], -1), ([0.0, 1.0, 2.0], np.nan), ([-1, 0, 1], None), (["a", "b", "c"], "?"), ([-1, 0, 1], 99)],
    ids=["whole", "NaN", "-1 is a class", "text", "99"],
)
def test_any_label_will_do(fitted, wine, values, unlabeled):
    X, _, few = wine
    kind = object if unlabeled is None else np.asarray([*values, unlabeled]).dtype
    y = np.array([*values, unlabeled], dtype=kind)[few]
    model = make(unlabeled=None if unlabeled is np.nan else unlabeled).fit(X, y)
    assert model.classes_.tolist() == values
    same(model, fitted, X)


def test_categories_and_nullable_numbers_of_pandas(fitted, wine):
    X, _, few = wine
    nullable = pd.Series(few, dtype="Int64").mask(few == -1)
    same(make().fit(X, nullable), fitted, X)
    category = pd.Series(pd.Categorical.from_codes(few, ["a", "b", "c"]))
    model = make().fit(X, category)
    assert model.classes_.tolist() == ["a", "b", "c"]
    same(model, fitted, X)


def test_what_stands_for_no_label_is_read_as_nothing_else(fitted, wine):
    """Where a row has no label, whatever says so, the model is the same."""
    X, _, few = wine
    same(make(unlabeled=-7).fit(X, np.where(few == -1, -7, few)), fitted, X)
    same(make().fit(X, np.where(few == -1, np.nan, few)), fitted, X)


def test_many_classes_of_few_rows_are_classes():
    """Without the warning that y may be numbers to predict."""
    X, y = np.random.RandomState(0).randn(60, 4), np.where(np.arange(60) < 30, np.arange(60) % 25, -1)
    assert len(make(n_components=2, max_iter=1).fit(X, y).classes_) == 25


BAD = {
    "no y": (None, "requires y to be passed, but the target y is None"),
    "no label": (np.full(178, -1), "y labels no row. VAEClassifier needs labels of at least 2 classes"),
    "one class": (np.where(np.arange(178) % 2, 3, -1), "at least 2 classes; there is only 1 class, 3"),
    "numbers": (np.linspace(0, 1, 178), "Unknown label type: continuous"),
    "infinity": (np.where(np.arange(178) % 2, np.inf, 1.0), "y holds infinity"),
    "two columns": (np.zeros((178, 2)), "y should be a 1d array"),
    "other length": (np.arange(100) % 2, r"inconsistent numbers of samples: \[178, 100\]"),
    "-1 as text": (
        np.array(["a", "-1"])[np.arange(178) % 2],
        "holds the text '-1'",
    ),
    "two kinds": (np.array([1, "a"], dtype=object)[np.arange(178) % 2], "of one kind; y holds int and str"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_y_is_refused_in_words_and_the_model_stays(wine, case):
    X, _, few = wine
    y, words = BAD[case]
    model = make(max_iter=1).fit(X, few)
    before = model.predict_log_proba(X)
    with pytest.raises(ValueError, match=words):
        model.fit(X, y)
    np.testing.assert_array_equal(model.predict_log_proba(X), before)


def test_an_objective_that_does_not_classify_is_refused(wine):
    X, _, few = wine
    with pytest.raises(ValueError, match=r"objective='elbo' does not classify; use 'classified'"):
        make(objective="elbo").fit(X, few)


def test_the_objective_alone_takes_numbers_of_classes(wine):
    X, _, few = wine
    y = np.where(few == -1, np.nan, few)
    vae = VAETransformer(2, objective=Classified(3), **SMALL).fit(X, y)
    assert "cross_entropy" in vae.history_
    with pytest.raises(ValueError, match=r"y holds 3; .* takes the classes 0 to 2, and NaN"):
        vae.fit(X, y + 1)
    with pytest.raises(ValueError, match="y holds 0.5"):
        vae.fit(X, np.full(len(X), 0.5))


# Training


def test_the_loss_is_the_bound_and_the_weighted_cross_entropy(wine):
    """All rows labelled and a weight of 1: the bound on log p(x, c)."""
    X, y, _ = wine
    model = make(objective=Classified(weight=1.0), early_stopping=False).fit(X, y)
    history = {name: np.array(values) for name, values in model.history_.items()}
    bound = history["reconstruction"] - history["kl"]
    np.testing.assert_allclose(history["loss"], history["cross_entropy"] - bound, rtol=1e-5)
    heavier = make(objective=Classified(weight=3.0)).fit(X, y).history_
    np.testing.assert_allclose(
        heavier["loss"],
        3 * np.array(heavier["cross_entropy"]) + heavier["kl"] - np.array(heavier["reconstruction"]),
        rtol=1e-5,
    )


def test_rows_without_a_label_have_no_label_term(wine):
    """With a weight of 0 labels set where the classes' Gaussians begin, and nothing else."""
    X, _, few = wine
    one, other = (make(objective=Classified(weight=0.0)).fit(X, labels) for labels in (few, few))
    same(one, other, X)
    changed = few.copy()
    changed[np.flatnonzero(few == -1)[0]] = 0
    with pytest.raises(AssertionError):
        same(make(objective=Classified(weight=0.0)).fit(X, changed), one, X)


def test_training_starts_at_the_labelled_rows_codes(wine):
    X, y, few = wine
    vae = VAETransformer(
        likelihood="johnson_su", n_components=13, max_iter=1, early_stopping=False, learning_rate_init=1e-12
    )
    codes = vae.set_params(random_state=0, hidden_layer_sizes=(8,)).fit(X).transform(X)
    model = make(max_iter=1, learning_rate_init=1e-12).fit(X, few)
    np.testing.assert_allclose(np.abs(model.transform(X)), np.abs(codes[:, :]), atol=1e-3)
    mean = np.array([model.transform(X)[few == label].mean(axis=0) for label in range(3)])
    np.testing.assert_allclose(model.module_.prior.mean.numpy()[:, model._order], mean, atol=1e-4)
    assert model.score(X, y) > 0.9


def test_a_row_of_weight_zero_is_no_row(wine):
    X, _, few = wine
    weight = (np.arange(len(X)) % 3 < 2).astype(float)
    same(make().fit(X, few, weight), make().fit(X[weight > 0], few[weight > 0]), X)
    with pytest.raises(ValueError, match="there is only 1 class, 2"):
        make().fit(X, few, np.where(few == 2, 1.0, 0.0))


def test_missing_cells_are_fine(wine):
    X, y, few = wine
    gaps = np.where(np.random.RandomState(0).rand(*X.shape) < 0.1, np.nan, X)
    model = make(max_iter=20).fit(gaps, few)
    assert model.score(gaps, y) > 0.85
    np.testing.assert_allclose(model.predict_proba(gaps).sum(axis=1), 1, rtol=1e-12)


def test_a_frame_of_mixed_types(wine):
    X, y, few = wine
    frame = pd.DataFrame(X[:, :4], columns=list("abcd"))
    frame["e"] = pd.Categorical(np.array(["low", "high"])[(X[:, 12] > 700).astype(int)])
    model = make(likelihood="auto", max_iter=20).fit(frame, as_words(few, None))
    assert model.score(frame, WORDS[y]) > 0.8
    assert model.feature_names_in_.tolist() == list("abcde")


def test_early_stopping_watches_held_out_rows(wine):
    X, _, few = wine
    assert make().fit(X, few).validation_curve_ == []
    model = make(early_stopping=True, max_iter=8).fit(X, few)
    assert len(model.validation_curve_) == 9


def test_partial_fit_knows_its_classes_from_the_first_call(wine):
    X, y, few = wine
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        make().partial_fit(X, few)
    model = make().partial_fit(X[:90], np.where(y == 2, -1, y)[:90], classes=[0, 1, 2])
    assert model.classes_.tolist() == [0, 1, 2]
    for _ in range(30):
        model.partial_fit(X, few)
    assert model.score(X, y) > 0.9
    assert model.partial_fit(X, np.full(len(X), -1)).n_iter_ == 32  # rows without labels teach, too
    with pytest.raises(ValueError, match=r"y holds the label 7, which is none of the classes \[0, 1, 2\]"):
        model.partial_fit(X, np.where(y == 2, 7, y))
    assert model.n_iter_ == 32


def test_a_fit_without_a_graph_ends_at_autograds_model(wine, monkeypatch):
    """Both kinds of step see the same batches and draws."""
    X, _, few = wine
    model, found = make(max_iter=3), []
    for understands in (engine.understands, lambda model, objective: False):
        monkeypatch.setattr(engine, "understands", understands)
        found.append((model.fit(X, few).predict_proba(X), model.history_))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-3)
    assert found[0][1].keys() == found[1][1].keys() >= {"cross_entropy"}
    np.testing.assert_allclose(found[0][1]["loss"], found[1][1]["loss"], rtol=1e-4)


def test_latents_of_a_class_may_be_groups_themselves(wine):
    X, y, few = wine
    for prior in (Mixture(2), "vamp"):
        model = make(n_components=3, prior=prior).fit(X, few)
        assert model.score(X, y) > 0.5
        assert model.sample(3, random_state=0).shape == (3, 13)
        same(by_skops(model), model, X)


# As part of something


def test_copies_say_the_same(fitted, wine):
    X, _, few = wine
    same(pickle.loads(pickle.dumps(fitted)), fitted, X)
    same(by_skops(fitted), fitted, X)
    same(clone(fitted).fit(X, few), fitted, X)


def test_a_saved_state_without_its_classes_is_refused(fitted):
    for classes in (np.arange(4), np.array([0, 0, 1]), None):
        broken = pickle.loads(pickle.dumps(fitted))
        if classes is None:
            del broken.classes_
        else:
            broken.classes_ = classes
        with pytest.raises(ValueError, match="The saved state of this VAEClassifier is damaged: classes_"):
            pickle.loads(pickle.dumps(broken))


def test_searches_and_pipelines_take_it_for_a_classifier(wine):
    X, y, _ = wine
    pipe = make_pipeline(StandardScaler(), make(n_components=3))
    search = GridSearchCV(pipe, {"vaeclassifier__n_components": [2, 4]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.8
    assert search.predict(X).shape == (len(X),)
    weights = GridSearchCV(make(objective=Classified()), {"objective__weight": [1.0, 10.0]}, cv=2).fit(X, y)
    assert set(weights.best_params_) == {"objective__weight"}
    assert cross_val_score(make(), X, WORDS[y], cv=3, scoring="neg_log_loss").mean() > -0.6


def test_it_is_a_step_that_adds_latents(wine):
    X, _, few = wine
    out = make(n_components=3).set_output(transform="pandas").fit(X, few).transform(X)
    assert out.columns.tolist() == [f"vaeclassifier{i}" for i in range(3)]


# What rows without a label are worth


def rings(n_rows, seed):
    """Two half moons, with four more columns that follow from them: labels alone cannot tell their shape."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n_rows)
    X = 0.3 * rng.standard_normal((n_rows, 8)) + np.where(y == 1, 1.0, -1.0)[:, None] * np.array(
        [1, 1, 1, 1, 0, 0, 0, 0]
    )
    X[:, 4:] += 2.0 * rng.standard_normal((n_rows, 1))
    return X, y


def test_rows_without_a_label_help():
    """Two clouds apart in four columns, and far wider in four others: with two labels a class, only the rows tell."""
    gains = []
    for seed in range(5):
        X, y = rings(400, seed)
        new, of_new = rings(400, 100 + seed)
        few = np.full(len(y), -1)
        for label in (0, 1):
            few[np.flatnonzero(y == label)[:2]] = label
        known = few >= 0
        with_all = VAEClassifier(max_iter=30, random_state=0).fit(X, few).score(new, of_new)
        alone = VAEClassifier(max_iter=30, random_state=0, early_stopping=False).fit(X[known], few[known])
        gains.append([with_all, alone.score(new, of_new)])
    with_all, alone = np.mean(gains, axis=0)
    assert with_all > 0.95
    assert with_all > alone + 0.05


def test_probabilities_are_probabilities():
    """On rows that it has not seen, and with all labels, their logarithms cost less than knowing the shares alone."""
    X, y = load_breast_cancer(return_X_y=True)
    model = VAEClassifier(max_iter=20, random_state=0).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.93
    assert log_loss(y[1::2], model.predict_proba(X[1::2])) < 0.35
