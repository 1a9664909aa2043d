"""The contract of a scikit-learn estimator: scikit-learn's own checks, and what replaces the one that is waived."""

import pickle

import numpy as np
import pytest
from members import MEMBERS, table
from scipy.stats import ks_2samp
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skvae import Gaussian, StudentT, VAEAnomalyDetector, VAEClassifier, VAEImputer, VAETransformer, VAETransformerCV

REASON = "A weight of 2 equals two copies in distribution only: batches and draws differ. See test_a_weight_is_a_copy."
MINUS_ONE = (
    "It takes -1 for a label; as in SelfTrainingClassifier it marks rows without one. The other one is unlabeled=None."
)
WAIVED = {"check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data"}

# scikit-learn runs these in its own test_common, but parametrize_with_checks leaves them out.
EXTRA_CHECKS = [
    "check_param_validation",
    "check_dataframe_column_names_consistency",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_get_feature_names_out_error",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_inplace_ensure_writeable",
]

ESTIMATORS = [
    VAETransformer(2, max_iter=5, random_state=0),
    VAETransformer(2, likelihood=Gaussian(noise="shared"), max_iter=5, random_state=0),
    VAETransformer(2, likelihood="auto", max_iter=5, random_state=0),
    VAETransformer(2, likelihood=StudentT(), max_iter=5, random_state=0),
    VAETransformer(2, objective="autoencoder", max_iter=5, random_state=0),
    VAETransformerCV((1, 2), cv=2, hidden_layer_sizes=(8,), max_iter=3, random_state=0),
    VAEImputer(VAETransformer(2, max_iter=5, random_state=0)),
    VAEImputer(VAETransformer(1, likelihood="auto", max_iter=3), sample_posterior=True, random_state=0),
]


CLASSIFIERS = [
    VAEClassifier(2, unlabeled=None, max_iter=5, random_state=0),
    VAEClassifier(hidden_layer_sizes=(8,), max_iter=5, random_state=0),
]

# Of these, the ones that look at no transform, and one that only classifiers and transformers are given.
EXTRA_CHECKS_OF_DETECTORS = [
    "check_estimators_partial_fit_n_features",
    "check_param_validation",
    "check_dataframe_column_names_consistency",
    "check_inplace_ensure_writeable",
]

DETECTORS = [
    VAEAnomalyDetector(max_iter=5, random_state=0),
    VAEAnomalyDetector(criterion="elbo", hidden_layer_sizes=(8,), max_iter=3, random_state=0),
    VAEAnomalyDetector(
        2, criterion="log_likelihood", likelihood="gaussian", objective="elbo", max_iter=3, random_state=0
    ),
]


def waived(estimator):
    numbers = type(estimator) is VAETransformer and estimator.likelihood != "auto"
    if (numbers and estimator.objective == "elbo") or isinstance(estimator, VAEImputer):
        return {}  # on tables as small as the check's it keeps the linear start, drawn by nobody; present cells stay
    sparse = estimator.__sklearn_tags__().input_tags.sparse
    reasons = {name: REASON for name in WAIVED if sparse or "sparse" not in name}
    if isinstance(estimator, VAEClassifier) and estimator.unlabeled == -1:
        reasons["check_classifiers_classes"] = MINUS_ONE
    return reasons


@pytest.fixture
def numpy_generator():
    """Some of scikit-learn's checks draw from numpy's global generator: put it back."""
    state = np.random.get_state()
    yield
    np.random.set_state(state)


@pytest.mark.usefixtures("numpy_generator")
@parametrize_with_checks([*ESTIMATORS, *DETECTORS, *CLASSIFIERS], expected_failed_checks=waived, xfail_strict=True)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names")  # the checks mix containers on purpose
@pytest.mark.parametrize("name", EXTRA_CHECKS)
@pytest.mark.parametrize(
    "estimator",
    [*ESTIMATORS, CLASSIFIERS[0]],
    ids=["feature", "shared", "auto", "student_t", "autoencoder", "cv", "imputer", "draws", "classifier"],
)
def test_scikit_learn_extra_check(estimator, name):
    getattr(estimator_checks, name)(type(estimator).__name__, clone(estimator))


@pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names")
@pytest.mark.parametrize("name", EXTRA_CHECKS_OF_DETECTORS)
@pytest.mark.parametrize("estimator", DETECTORS, ids=["aggregated", "elbo", "log_likelihood"])
def test_scikit_learn_extra_check_of_detectors(estimator, name):
    getattr(estimator_checks, name)(type(estimator).__name__, clone(estimator))


def test_the_checks_of_outlier_detectors_are_among_those_run():
    """scikit-learn chooses them by mixin and by parameter: a detector that lost either would skip them."""
    checks = [check for _, check in estimator_checks.estimator_checks_generator(DETECTORS[0], legacy=True)]
    names = {getattr(check, "func", check).__name__ for check in checks}
    assert {
        "check_outlier_contamination",
        "check_outliers_fit_predict",
        "check_outliers_train",
        "check_classifier_data_not_an_array",
        "check_non_transformer_estimators_n_iter",
    } <= names


# scikit-learn's data are real-valued, so other likelihoods get the same contract on rows in their support.


OTHERS = [
    "bernoulli",
    "continuous_bernoulli",
    "poisson",
    "negative_binomial",
    "log_normal",
    "categorical",
    "mixed",
    "normal_score",
]
POSITIVE = OTHERS[:5]
CHECKS_WITHOUT_ROWS = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_estimators_unfitted",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_get_params_invariance",
    "check_set_params",
    "check_valid_tag_types",
    "check_mixin_order",
    "check_param_validation",
]
CHECKS_OF_WHOLE_NUMBERS = ["check_fit_score_takes_y", "check_estimator_sparse_tag"]
every_other = pytest.mark.parametrize("name", OTHERS)


def other(name):
    return VAETransformer(2, likelihood=clone(MEMBERS[name]), max_iter=5, random_state=0)


@pytest.fixture(scope="module")
def others():
    """A fitted model of each, and its rows."""
    tables = {name: table(name, 120) for name in OTHERS}
    return {name: (other(name).fit(X), X) for name, X in tables.items()}


@pytest.mark.parametrize("check", CHECKS_WITHOUT_ROWS)
@pytest.mark.parametrize("name", POSITIVE)
def test_scikit_learn_check_of_other_likelihoods(name, check):
    getattr(estimator_checks, check)("VAETransformer", other(name))


@pytest.mark.parametrize("name", POSITIVE)
def test_a_negative_value_is_refused_as_scikit_learn_expects(name):
    estimator_checks.check_positive_only_tag_during_fit("VAETransformer", other(name))


@pytest.mark.parametrize("check", CHECKS_OF_WHOLE_NUMBERS)
def test_scikit_learn_check_of_bernoulli_rows(check):
    getattr(estimator_checks, check)("VAETransformer", other("bernoulli"))


@every_other
def test_other_fits_are_idempotent(others, name):
    fitted, X = others[name]
    again = other(name).fit(X).fit(X)
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    np.testing.assert_array_equal(again.score_samples(X), fitted.score_samples(X))


@pytest.mark.parametrize("method", ["transform", "score_samples", "reconstruct"])
@every_other
def test_other_rows_depend_on_no_other_row(others, name, method):
    fitted, X = others[name]
    call = getattr(fitted, method)
    whole, order = call(X), np.random.RandomState(0).permutation(len(X))
    np.testing.assert_allclose(call(X[order]), whole[order], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(np.concatenate([call(X[[i]]) for i in range(20)]), whole[:20], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("given", "kept"), [("float32", "float32"), ("float64", "float64"), ("int64", "float64")])
@every_other
def test_other_likelihoods_keep_the_dtype(others, name, given, kept):
    X = others[name][1].astype(given)
    X = np.maximum(X, 1) if name in ("log_normal", "mixed") and given == "int64" else X
    X = np.minimum(X, [2, np.inf, np.inf, np.inf, np.inf, 1]).astype(given) if name == "mixed" else X
    fitted = other(name)
    assert fitted.fit_transform(X).dtype == kept
    assert fitted.reconstruct(X).dtype == kept
    assert fitted.fit(X).score_samples(X).dtype == "float64"


@every_other
def test_other_likelihoods_know_their_columns(others, name):
    fitted, X = others[name]
    assert fitted.n_features_in_ == X.shape[1]
    assert fitted.get_feature_names_out().tolist() == ["vaetransformer0", "vaetransformer1"]
    with pytest.raises(ValueError, match=f"X has 2 features, but VAETransformer is expecting {X.shape[1]}"):
        fitted.score(X[:, :2])


@every_other
def test_other_likelihoods_survive_pickling(others, name):
    fitted, X = others[name]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).score_samples(X), fitted.score_samples(X))


@every_other
def test_other_likelihoods_are_the_same_inside_a_pipeline(others, name):
    fitted, X = others[name]
    pipe = make_pipeline(FunctionTransformer(), other(name)).fit(X)
    np.testing.assert_allclose(pipe.transform(X), fitted.transform(X), rtol=1e-7)
    assert pipe.score(X) == pytest.approx(fitted.score(X), rel=1e-7)


@every_other
def test_other_likelihoods_fill_gaps_and_score_rows_with_them(others, name):
    fitted, X = others[name]
    gaps = X.copy()
    gaps[::3, 0], gaps[1::3, 1] = np.nan, np.nan
    vae = other(name).fit(gaps)
    filled = vae.impute(gaps)
    for output in (
        vae.transform(gaps),
        vae.score_samples(gaps),
        filled,
        *vae.impute(gaps, n_draws=2, random_state=0),
    ):
        assert np.isfinite(output).all()
    present = ~np.isnan(gaps)
    np.testing.assert_array_equal(filled[present], X[present])
    np.testing.assert_allclose(fitted.score_samples(gaps)[2::3], fitted.score_samples(X)[2::3], rtol=1e-12)


# Sample weights


@pytest.fixture(scope="module")
def weighted_table():
    """40 rows of two groups, weights 1 to 4 that favour one of them, and rows to score."""
    rng = np.random.RandomState(0)
    group = np.arange(40) % 2
    X = rng.randn(40, 3) + 2.0 * group[:, None] * [1, -1, 0]
    weight = np.where(group == 0, 4, 1)
    return X, weight, rng.randn(30, 3)


def _scores(X, weight, held_out, seeds):
    vae = VAETransformer(
        1, init="random", hidden_layer_sizes=(8,), max_iter=5, learning_rate_init=0.02, early_stopping=False, n_draws=8
    )
    return [vae.set_params(random_state=seed).fit(X, sample_weight=weight).score(held_out) for seed in seeds]


@pytest.mark.filterwarnings("ignore:VAETransformer stopped at")
def test_a_weight_is_a_copy(weighted_table, any_seed):
    """In distribution: batches and draws differ."""
    X, weight, held_out = weighted_table
    seeds = 1000 * any_seed + np.arange(40)
    weighted = _scores(X, weight, held_out, seeds)
    repeated = _scores(np.repeat(X, weight, axis=0), None, held_out, 100 + seeds)
    plain = _scores(X, None, held_out, seeds)
    assert ks_2samp(weighted, repeated).pvalue > 1e-5
    assert ks_2samp(weighted, plain).pvalue < 1e-6


def _fit(X, weight=None):
    return VAETransformer(2, max_iter=5, random_state=0).fit(X, sample_weight=weight)


def test_weights_of_one_are_no_weights(iris):
    np.testing.assert_array_equal(_fit(iris, np.ones(150)).score_samples(iris), _fit(iris).score_samples(iris))


def test_only_the_ratios_of_weights_matter(iris):
    weight = np.random.RandomState(0).rand(150)
    np.testing.assert_allclose(
        _fit(iris, weight).score_samples(iris), _fit(iris, 1e6 * weight).score_samples(iris), rtol=1e-4
    )


def test_a_row_of_weight_zero_is_no_row(iris):
    weight = (np.arange(150) % 3 > 0).astype(float)
    kept = _fit(iris, weight)
    removed = _fit(iris[weight > 0])
    np.testing.assert_array_equal(kept.score_samples(iris), removed.score_samples(iris))
    np.testing.assert_array_equal(kept.transform(iris), removed.transform(iris))


def test_a_column_with_values_in_rows_of_weight_zero_only_holds_no_value(iris):
    X, weight = iris.copy(), np.ones(150)
    X[1:, 2], weight[0] = np.nan, 0
    with pytest.raises(ValueError, match="column 2 holds no value"):
        _fit(X, weight)
