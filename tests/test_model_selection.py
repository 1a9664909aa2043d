"""VAETransformerCV: GridSearchCV's answers, and VAETransformer's model."""

import copy
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from helpers import CountTasks, load_state
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from skvae import ELBO, IWAE, MLP, Bernoulli, Gaussian, VAETransformer, VAETransformerCV
from skvae.likelihoods import Likelihood
from skvae.model_selection import _mean_and_std
from skvae.objectives import Objective

# Few epochs of long steps: enough to tell models apart, and no good models.
pytestmark = pytest.mark.filterwarnings("ignore:VAETransformer stopped at:sklearn.exceptions.ConvergenceWarning")

# Weights that training has moved: on so few rows early stopping would keep the linear start, whatever training did.
SMALL = {"max_iter": 3, "hidden_layer_sizes": (8,), "learning_rate_init": 1e-2, "early_stopping": False}


def make(n_components=(1, 2), **parameters):
    return VAETransformerCV(n_components, **{**SMALL, "cv": 3, "random_state": 0, **parameters})


def seed_of(random_state=0):
    """The seed that every candidate gets."""
    return int(np.random.RandomState(random_state).randint(np.iinfo(np.int32).max))


def make_single(random_state=0, **parameters):
    """One candidate, as an estimator of its own."""
    return VAETransformer(**{**SMALL, "random_state": seed_of(random_state), **parameters})


def grid_search(grid, cv=3, random_state=0, **parameters):
    return GridSearchCV(make_single(random_state, **parameters), grid, cv=cv, error_score="raise")


def scores_of(search):
    """(n_candidates, n_splits), as `scores_`."""
    n_splits = search.n_splits_
    return np.column_stack([search.cv_results_[f"split{k}_test_score"] for k in range(n_splits)])


@pytest.fixture(scope="module")
def table(wine):
    """90 rows, shuffled: the table is sorted by class."""
    return wine[np.random.RandomState(0).permutation(178)[:90]]


@pytest.fixture(scope="module")
def fitted(table):
    return make().fit(table)


@pytest.fixture(scope="module")
def gaps(table):
    hidden = np.random.RandomState(1).rand(*table.shape) < 0.15
    return np.where(hidden, np.nan, table)


# GridSearchCV's answers


def factors(n_rows, noise=0.5, seed=0):
    """Eight columns driven by three factors."""
    rng = np.random.RandomState(seed)
    return rng.randn(n_rows, 3) @ rng.randn(3, 8) + noise * rng.randn(n_rows, 8)


@pytest.mark.parametrize(("init", "early_stopping"), [("linear", False), ("random", "auto")])
def test_scores_are_those_of_a_grid_search(init, early_stopping):
    X, sizes = factors(100), [1, 3]
    settings = {"init": init, "max_iter": 8, "learning_rate_init": 3e-2, "early_stopping": early_stopping}
    own = make(sizes, cv=2, **settings).fit(X)
    theirs = grid_search({"n_components": sizes}, 2, **settings).fit(X)
    np.testing.assert_array_equal(own.scores_, scores_of(theirs))
    assert own.best_params_ == theirs.best_params_ == {"n_components": 3}


SINGLE_FOLD = {
    "default": {},
    "shared": {"likelihood": Gaussian("shared")},
    "decoder": {"likelihood": Gaussian("decoder")},
    "two layers": {"hidden_layer_sizes": (8, 6), "activation": "tanh"},
    "linear": {"hidden_layer_sizes": ()},
    "batches of 50": {"batch_size": 50},
    "beta": {"objective": ELBO(beta=2.0, warmup=3)},
    "no rows held out": {"early_stopping": False, "objective": ELBO(n_draws=2)},
    "linear start": {"init": "linear", "early_stopping": False},
    "start kept": {"init": "linear", "learning_rate_init": 1.0},
}


@pytest.mark.parametrize("name", SINGLE_FOLD)
@pytest.mark.parametrize("how", ["plain", "gaps and weights"])
def test_one_fold_is_scored_as_one_model(wine, name, how):
    X, weight = wine[np.random.RandomState(0).permutation(178)], None
    if how != "plain":
        X = np.where(np.random.RandomState(1).rand(*X.shape) < 0.1, np.nan, X)
        weight = np.random.RandomState(2).rand(178) + 0.5
    train, test = np.arange(160), np.arange(160, 178)
    settings = {"max_iter": 5, "early_stopping": True, "init": "random", **SINGLE_FOLD[name]}
    vae = make([2], cv=[(train, test)], **settings).fit(X, sample_weight=weight)
    one = make_single(n_components=2, **settings).fit(X[train], sample_weight=None if weight is None else weight[train])
    expected = np.average(one.score_samples(X[test]), weights=None if weight is None else weight[test])
    np.testing.assert_allclose(vae.scores_, [[expected]], rtol=1e-12)
    assert (one.best_iter_ == 0) == (name == "start kept")


def test_results_are_in_grid_searchs_words(table):
    grid = {"likelihood": [Gaussian(), Gaussian("decoder")], "learning_rate_init": [1e-2]}
    vae = make((2, 1), param_grid=grid).fit(table)
    search = grid_search({"n_components": [2, 1], **grid}).set_params(refit=False).fit(table)
    own, theirs = vae.cv_results_, search.cv_results_
    assert own.keys() == theirs.keys() | {"dropped_after", "mean_compared_score"}
    assert repr(own["params"]) == repr(theirs["params"])
    for name, values in theirs.items():
        assert len(own[name]) == len(values) == 4
        if name.startswith("param_"):
            assert isinstance(own[name], np.ma.MaskedArray)
            assert not np.ma.getmaskarray(own[name]).any()
            assert list(map(repr, own[name].tolist())) == list(map(repr, values.tolist()))
    assert own["rank_test_score"].dtype == theirs["rank_test_score"].dtype
    assert vae.n_splits_ == search.n_splits_ == 3
    np.testing.assert_allclose(own["mean_test_score"], theirs["mean_test_score"], rtol=0.05)
    pd.DataFrame(own).sort_values("rank_test_score")


@pytest.mark.parametrize("cv", [2, 4])
def test_results_agree_with_each_other(table, cv):
    vae = make((3, 1, 2), cv=cv).fit(table)
    table_ = vae.cv_results_
    assert vae.scores_.shape == (3, cv)
    np.testing.assert_array_equal(scores_of(vae), vae.scores_)
    np.testing.assert_array_equal(table_["mean_test_score"], vae.scores_.mean(axis=1))
    np.testing.assert_array_equal(table_["std_test_score"], vae.scores_.std(axis=1))
    assert vae.best_index_ == vae.scores_.mean(axis=1).argmax()
    assert vae.best_params_ == table_["params"][vae.best_index_] == {"n_components": vae.n_components_}
    assert vae.best_score_ == table_["mean_test_score"][vae.best_index_]
    assert type(vae.best_score_) is float
    assert table_["rank_test_score"][vae.best_index_] == 1
    assert sorted(table_["rank_test_score"]) == [1, 2, 3]
    for name in ("fit", "score"):
        assert (table_[f"mean_{name}_time"] > 0).all()
        assert (table_[f"std_{name}_time"] >= 0).all()


def test_equal_scores_share_a_rank(table):
    vae = make((1, 2, 1, 2, 3)).fit(table)
    means, ranks = vae.cv_results_["mean_compared_score"], vae.cv_results_["rank_test_score"]
    assert means[0] == means[2]
    assert means[1] == means[3]
    np.testing.assert_array_equal(ranks, [1 + (means > mean).sum() for mean in means])
    assert vae.best_index_ == ranks.argmin()  # the first of equals


class Encoder(nn.Module):
    """A user's network."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_in, 6), nn.Tanh(), nn.Linear(6, n_out))

    def forward(self, x):
        return self.layers(x)


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=1e-4)


KINDS = {
    "default": {},
    "own network": {"encoder": Encoder, "init": "random"},
    "own activation": {"activation": nn.Hardtanh},
    "sgd": {"solver": "sgd"},
    "own solver": {"solver": plain_sgd},
    "iwae": {"objective": IWAE(2)},
    "sampled": {"objective": ELBO("sampled")},
    "free bits": {"objective": ELBO(free_bits=0.1)},
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_is_scored_as_by_a_grid_search(table, name):
    vae = make(cv=2, **KINDS[name]).fit(table)
    search = grid_search({"n_components": [1, 2]}, 2, **KINDS[name]).fit(table)
    np.testing.assert_array_equal(vae.scores_, scores_of(search))
    for key in ("mean_test_score", "std_test_score", "rank_test_score"):
        np.testing.assert_array_equal(vae.cv_results_[key], search.cv_results_[key])
    assert vae.best_params_ == search.best_params_
    assert vae.best_score_ == search.best_score_
    np.testing.assert_array_equal(vae.score_samples(table), search.best_estimator_.score_samples(table))


def test_tables_too_small_to_hold_rows_out_are_scored_as_by_a_grid_search(table):
    settings = {"early_stopping": "auto"}
    vae = make(**settings).fit(table[:24])
    search = grid_search({"n_components": [1, 2]}, **settings).fit(table[:24])
    np.testing.assert_array_equal(vae.scores_, scores_of(search))


def test_folds_of_which_one_holds_no_rows_out_are_scored_as_by_a_grid_search(table):
    cv = [(np.arange(15), np.arange(60, 90)), (np.arange(60), np.arange(60, 90))]
    settings = {"early_stopping": "auto"}
    vae = make(cv=cv, **settings).fit(table)
    search = grid_search({"n_components": [1, 2]}, cv, **settings).fit(table)
    np.testing.assert_array_equal(vae.scores_, scores_of(search))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_two_processes_find_what_one_finds(table, solver):
    before = torch.get_num_threads()
    one, two = (make((1, 2, 3), cv=2, solver=solver, n_jobs=n_jobs).fit(table) for n_jobs in (None, 2))
    assert torch.get_num_threads() == before
    np.testing.assert_allclose(two.scores_, one.scores_, rtol=1e-6)
    np.testing.assert_allclose(two.transform(table), one.transform(table), rtol=1e-4, atol=1e-4)
    assert two.best_params_ == one.best_params_


def test_two_threads_find_what_one_finds(table):
    one = make((1, 2, 3)).fit(table)
    with threadpool_limits(2):
        before = torch.get_num_threads()
        two = make((1, 2, 3)).fit(table)
        assert torch.get_num_threads() == before
    np.testing.assert_allclose(two.scores_, one.scores_, rtol=1e-6)
    np.testing.assert_allclose(two.transform(table), one.transform(table), rtol=1e-4, atol=1e-4)


def test_folds_of_uneven_lengths_are_scored_as_by_a_grid_search(wine):
    """As by TimeSeriesSplit."""
    X = wine[np.random.RandomState(0).permutation(178)]
    cv = [(np.arange(36), np.arange(150, 178)), (np.arange(140), np.arange(150, 178))]
    own = make([2], cv=cv).fit(X)
    np.testing.assert_array_equal(own.scores_, scores_of(grid_search({"n_components": [2]}, cv).fit(X)))


# The choice


def test_the_rule_is_followed_by_a_fit(table):
    sizes = [1, 2, 3, 5]
    best, smallest = (make(sizes, cv=5, selection=name).fit(table) for name in ("best", "one_standard_error"))
    np.testing.assert_array_equal(best.scores_, smallest.scores_)
    means = best.scores_.mean(axis=1)
    error = best.scores_[means.argmax()].std(ddof=1) / np.sqrt(5)
    expected = min(size for size, mean in zip(sizes, means, strict=True) if mean >= means.max() - error)
    assert expected < sizes[means.argmax()]
    assert best.n_components_ == sizes[means.argmax()]
    assert smallest.n_components_ == expected == smallest.best_params_["n_components"]
    assert smallest.best_score_ == means[sizes.index(expected)] < best.best_score_
    assert smallest.best_index_ == sizes.index(expected)


def test_three_latents_are_found_in_data_of_three(any_seed):
    """Fewer are too few; more tell nothing, so that chance decides which of them scores best."""
    X = factors(300, seed=any_seed)
    best = make([1, 2, 3, 4, 6], max_iter=20, early_stopping=True).fit(X)
    means, errors = (best.cv_results_[name] for name in ("mean_test_score", "std_test_score"))
    assert best.n_components_ >= 3
    assert means[2] > max(means[:2]) + 0.05
    assert means[2] > best.best_score_ - errors[2] / np.sqrt(3)
    vae = make([1, 2, 3, 4, 6], max_iter=20, selection="one_standard_error", early_stopping=True).fit(X)
    assert vae.n_components_ == 3
    assert vae.transform(X).shape == (300, 3)


# Candidates


def test_any_parameter_can_be_compared(table):
    grid = {
        "hidden_layer_sizes": [(), (6, 4)],
        "learning_rate_init": [1e-3, 3e-2],
        "likelihood": ["gaussian", Gaussian("decoder")],
    }
    vae = make([2], cv=2, param_grid=grid).fit(table)
    assert vae.scores_.shape == (8, 2)
    assert len(np.unique(vae.scores_[:, 0])) >= 4
    best = make_single(**vae.best_params_).fit(table)
    np.testing.assert_array_equal(vae.score_samples(table), best.score_samples(table))


def test_parameters_of_parts_can_be_compared(table):
    vae = make([2], likelihood=Gaussian(), param_grid={"likelihood__noise": ["shared", "feature"]}).fit(table)
    assert vae.best_params_ == {"n_components": 2, "likelihood__noise": "feature"}
    for i, noise in enumerate(["shared", "feature"]):
        alone = make([2], likelihood=Gaussian(noise)).fit(table)
        np.testing.assert_array_equal(vae.scores_[i], alone.scores_[0])
    assert vae.likelihood.noise == "feature"


def test_an_object_in_the_grid_is_cloned_for_every_candidate(table):
    likelihood = Gaussian("decoder")
    grid = {"likelihood": [likelihood], "likelihood__noise": ["feature", "shared"]}
    vae = make([2], param_grid=grid).fit(table)
    assert likelihood.noise == "decoder"
    np.testing.assert_array_equal(vae.scores_[0], make([2]).fit(table).scores_[0])
    assert vae.scores_[0, 0] != vae.scores_[1, 0]


def test_a_fit_leaves_its_parameters_alone(table):
    vae = make(
        likelihood=Gaussian(),
        param_grid={"objective": [ELBO(), ELBO(beta=2.0)]},
        cv=KFold(2, shuffle=True, random_state=1),
    )
    before = {name: (value, repr(value)) for name, value in vae.get_params(deep=False).items()}
    vae.fit(table)
    for name, value in vae.get_params(deep=False).items():
        assert value is before[name][0]
        assert repr(value) == before[name][1]


def test_auto_is_a_candidate():
    X = factors(90, noise=0.1)
    vae = make([1, "auto", 3]).fit(X)
    assert vae.best_params_ == {"n_components": "auto"}
    assert vae.n_components_ == 3
    np.testing.assert_array_equal(vae.scores_[1], vae.scores_[2])


def test_auto_may_mean_another_size_in_every_fold(table):
    cv = KFold(4)
    sizes = [make_single(n_components="auto").fit(table[train]).n_components_ for train, _ in cv.split(table)]
    assert sizes == [8, 7, 7, 7]
    vae = make(["auto"], cv=cv).fit(table)
    expected = scores_of(grid_search({"n_components": ["auto"]}, cv).fit(table))
    np.testing.assert_array_equal(vae.scores_, expected)


def test_binary_rows_are_compared_by_their_own_likelihood(binary):
    vae = make((1, 4), cv=2, likelihood=Bernoulli()).fit(binary)
    assert vae.n_components_ == 4
    assert set(np.unique(vae.sample(5, random_state=0))) <= {0.0, 1.0}


def test_an_elbo_of_several_draws_is_compared(table):
    settings = {"objective": ELBO(n_draws=2), "early_stopping": True}
    vae = make([2], cv=2, **settings).fit(table)
    search = grid_search({"n_components": [2]}, 2, **settings).fit(table)
    np.testing.assert_array_equal(vae.scores_, scores_of(search))


def test_batches_of_one_row_are_compared(wine):
    X = wine[np.random.RandomState(0).permutation(178)[:91]]
    vae = make([1], batch_size=1, max_iter=1).fit(X)
    search = grid_search({"n_components": [1]}, batch_size=1, max_iter=1).fit(X)
    np.testing.assert_array_equal(vae.scores_, scores_of(search))


@pytest.mark.parametrize("solver", ["adam", "rmsprop"])
def test_a_candidate_that_diverges_does_not_end_the_search(table, solver):
    vae = make([2], param_grid={"learning_rate_init": [1e-3, 1e30]}, solver=solver, init="random")
    with pytest.warns(FitFailedWarning, match="3 of 6 fits diverged in their first epoch; their scores are NaN"):
        vae.fit(table)
    assert np.isfinite(vae.scores_[0]).all()
    assert np.isnan(vae.scores_[1]).all()
    assert vae.cv_results_["rank_test_score"].tolist() == [1, 2]
    assert np.isfinite(vae.transform(table)).all()


def test_a_search_in_which_every_fit_diverges_says_so(table):
    vae = make([2], learning_rate_init=1e30, init="random")
    with pytest.raises(ValueError, match="Training diverged for every candidate. Lower learning_rate_init"):
        vae.fit(table)
    assert not hasattr(vae, "scores_")


def test_callbacks_see_the_final_fit(table):
    count, alone = CountTasks(), CountTasks()
    vae = make([2]).set_callbacks(count).fit(table)
    make_single(**vae.best_params_).set_callbacks(alone).fit(table)
    assert count.tasks == alone.tasks > 1


# The model


METHODS = ("transform", "score_samples", "reconstruct", "impute")


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "gaps"])
def test_the_estimator_is_the_best_model(table, gaps, missing):
    X = gaps if missing else table
    vae = make((1, 3), param_grid={"likelihood": [Gaussian("shared"), Gaussian()]}).fit(X)
    best = make_single(**vae.best_params_).fit(X)
    for method in METHODS:
        np.testing.assert_array_equal(getattr(vae, method)(gaps), getattr(best, method)(gaps))
    for own, expected in zip(vae.posterior(X), best.posterior(X), strict=True):
        np.testing.assert_array_equal(own, expected)
    Z = np.random.RandomState(3).randn(5, vae.n_components_)
    np.testing.assert_array_equal(vae.inverse_transform(Z), best.inverse_transform(Z))
    np.testing.assert_array_equal(vae.sample(7, random_state=1), best.sample(7, random_state=1))
    np.testing.assert_array_equal(vae.fit_transform(X), best.transform(X))
    assert vae.score(X) == best.score(X)
    fitted = {name for name in vars(best) if name.endswith("_")}
    assert fitted == {name for name in vars(vae) if name.endswith("_")} - {
        "cv_results_", "scores_", "best_params_", "best_index_", "best_score_", "n_splits_"
    }  # fmt: skip
    for name in sorted(fitted):
        own, expected = getattr(vae, name), getattr(best, name)
        if isinstance(own, Likelihood):
            own, expected = repr(own), repr(expected)
        np.testing.assert_array_equal(own, expected, err_msg=name)
    for one, other in zip(vae.module_.parameters(), best.module_.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_refused_search_draws_no_seed(table):
    rng = np.random.RandomState(0)
    for wrong, words in (
        ({"objective": "autoencoder"}, "trains no density"),
        ({"cv": GroupKFold(2)}, "splits by groups"),
    ):
        with pytest.raises(ValueError, match=words):
            make(random_state=rng, **wrong).fit(table)
    assert rng.randint(10**9) == np.random.RandomState(0).randint(10**9)


def test_a_fit_is_set_by_its_seed(table):
    one, same, other = (make(random_state=seed).fit(table) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.scores_, same.scores_)
    np.testing.assert_array_equal(one.transform(table), same.transform(table))
    assert not np.array_equal(one.scores_, other.scores_)


def test_a_generator_is_drawn_from_once(table):
    rng = np.random.RandomState(0)
    vae = make(random_state=rng).fit(table)
    np.testing.assert_array_equal(vae.scores_, make().fit(table).scores_)
    expected = np.random.RandomState(0)
    expected.randint(np.iinfo(np.int32).max)
    assert rng.randint(1000) == expected.randint(1000)


def test_a_second_fit_is_as_good_as_the_first(table):
    vae = make().fit(table[:60, :5])
    np.testing.assert_array_equal(vae.fit(table).scores_, make().fit(table).scores_)
    assert vae.n_features_in_ == 13


def test_a_fit_that_fails_leaves_the_last_one(table):
    vae = make().fit(table)
    before = {name: value for name, value in vars(vae).items() if name != "cv"}
    expected = vae.transform(table)
    with pytest.raises(ValueError, match="n_splits=91"):
        vae.set_params(cv=91).fit(table)
    assert {name: value for name, value in vars(vae).items() if name != "cv"} == before
    np.testing.assert_array_equal(vae.transform(table), expected)


class Interrupted:
    """A solver that is interrupted in its n-th use: the folds first, then the fit of the best."""

    def __init__(self, n):
        self.left = n

    def __deepcopy__(self, memo):
        return self  # clone copies parameters; all fits are to be counted together

    def __call__(self, parameters):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return torch.optim.SGD(parameters, lr=1e-6)


@pytest.mark.parametrize("n", [1, 4, 7], ids=["first fold", "second candidate", "best model"])
def test_an_interrupt_leaves_the_last_fit(table, n):
    vae = make().fit(table)
    before = {name: value for name, value in vars(vae).items() if name != "solver"}
    with pytest.raises(KeyboardInterrupt):
        vae.set_params(solver=Interrupted(n)).fit(table)
    assert {name: value for name, value in vars(vae).items() if name != "solver"} == before
    fresh = make(solver=Interrupted(n))
    with pytest.raises(KeyboardInterrupt):
        fresh.fit(table)
    assert not [name for name in vars(fresh) if name.endswith("_")]


# Rows and folds


def test_rows_with_gaps_are_compared(gaps):
    vae = make().fit(gaps)
    assert np.isfinite(vae.scores_).all()
    np.testing.assert_array_equal(vae.scores_, scores_of(grid_search({"n_components": [1, 2]}).fit(gaps)))


def test_a_data_frame_is_a_table(table, fitted):
    frame = pd.DataFrame(table).add_prefix("c")
    vae = make().set_output(transform="pandas").fit(frame)
    np.testing.assert_array_equal(vae.scores_, fitted.scores_)
    assert vae.feature_names_in_.tolist() == frame.columns.tolist()
    codes = vae.transform(frame)
    assert codes.columns.tolist() == vae.get_feature_names_out().tolist() == ["vaetransformercv0", "vaetransformercv1"]
    np.testing.assert_array_equal(codes, fitted.transform(table))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_weights_count_in_training_and_in_scores(table, solver):
    """By hand: every fold with its own rows' weights."""
    weight = np.random.RandomState(0).rand(90) + np.arange(90) / 45
    vae = make([2], solver=solver).fit(table, sample_weight=weight)
    expected = []
    for train, test in KFold(3).split(table):
        one = make_single(n_components=2, solver=solver).fit(table[train], sample_weight=weight[train])
        expected.append(np.average(one.score_samples(table[test]), weights=weight[test]))
    np.testing.assert_allclose(vae.scores_[0], expected, rtol=1e-12)
    best = make_single(n_components=2, solver=solver).fit(table, sample_weight=weight)
    np.testing.assert_array_equal(vae.transform(table), best.transform(table))
    plain = make([2], solver=solver).fit(table)
    assert (np.abs(vae.scores_ - plain.scores_) > 1e-3).all()


def test_weights_of_one_are_no_weights(table, fitted):
    vae = make().fit(table, sample_weight=np.ones(90))
    np.testing.assert_allclose(vae.scores_, fitted.scores_, rtol=1e-5)
    np.testing.assert_allclose(vae.transform(table), fitted.transform(table), rtol=1e-3, atol=1e-5)


def test_rows_of_weight_zero_are_in_no_model(table):
    weight = np.ones(90)
    weight[::4] = 0
    spoilt = table.copy()
    spoilt[::4] = 7.0
    one, other = (make().fit(X, sample_weight=weight) for X in (table, spoilt))
    np.testing.assert_array_equal(one.scores_, other.scores_)
    np.testing.assert_array_equal(one.transform(table), other.transform(table))


def test_a_fold_without_weight_is_an_error_in_words(table):
    with pytest.raises(ValueError, match="weight"):
        make().fit(table, sample_weight=(np.arange(90) >= 30).astype(float))


@pytest.mark.parametrize(
    "cv", [3, KFold(3), list(KFold(3).split(np.zeros(90)))], ids=["number", "splitter", "iterable"]
)
def test_folds_may_be_given_in_every_way(table, fitted, cv):
    vae = make(cv=cv).fit(table)
    np.testing.assert_array_equal(vae.scores_, fitted.scores_)
    assert vae.n_splits_ == 3


def test_folds_may_be_a_generator(table, fitted):
    np.testing.assert_array_equal(make(cv=KFold(3).split(table)).fit(table).scores_, fitted.scores_)


def test_a_splitter_may_read_the_target(table):
    y = np.arange(90) % 3 > 0
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    by_target = make(cv=cv).fit(table, y)
    given = make(cv=list(cv.split(table, y))).fit(table)
    np.testing.assert_array_equal(by_target.scores_, given.scores_)
    assert not np.array_equal(by_target.scores_, make().fit(table).scores_)


def test_the_target_of_an_objective_is_split_with_the_rows(table):
    y = table[:, 0]
    vae = make([1], objective=Supervised()).fit(table, pd.Series(y))
    search = grid_search({"n_components": [1]}, objective=Supervised()).fit(table, y)
    np.testing.assert_array_equal(vae.scores_, scores_of(search))


class Supervised(ELBO):
    """The first latent is pulled towards the target."""

    target = "label"

    def __call__(self, model, batch, rng, epoch):
        terms = super().__call__(model, batch, rng, epoch)
        pull = (model.encode(batch.x)[0][:, 0] - (batch.y - batch.y.mean()) / batch.y.std()).square()
        return {**terms, "loss": terms["loss"] + pull}


# Among other estimators


def test_in_a_pipeline(table):
    pipe = make_pipeline(StandardScaler(), make()).fit(table)
    alone = make().fit(StandardScaler().fit_transform(table))
    np.testing.assert_array_equal(pipe.transform(table), alone.transform(StandardScaler().fit_transform(table)))
    np.testing.assert_array_equal(pipe[-1].scores_, alone.scores_)
    assert pipe.inverse_transform(pipe.transform(table)).shape == table.shape


def test_inside_another_cross_validation(table):
    nested = cross_val_score(make(cv=2), table, cv=KFold(2), error_score="raise")
    expected = [make(cv=2).fit(table[train]).score(table[test]) for train, test in KFold(2).split(table)]
    np.testing.assert_array_equal(nested, expected)


def test_a_clone_is_unfitted(fitted, table):
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params()
    assert not [name for name in vars(twin) if name.endswith("_")]
    for method in METHODS:
        with pytest.raises(NotFittedError):
            getattr(twin, method)(table)


def by_skops(estimator):
    data = skops.io.dumps(estimator)
    return skops.io.loads(data, trusted=[name for name in skops.io.get_untrusted_types(data=data) if "skvae" in name])


@pytest.mark.parametrize("route", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy, by_skops], ids=["pickle", "copy", "skops"])  # fmt: skip # noqa: E501
@pytest.mark.parametrize("grid", [None, {"likelihood": [Gaussian(), Gaussian("decoder")]}], ids=["sizes", "parts"])
def test_a_fitted_search_comes_back_bit_for_bit(table, route, grid):
    vae = make(cv=2, param_grid=grid).fit(table)
    back = route(vae)
    for method in METHODS:
        np.testing.assert_array_equal(getattr(back, method)(table), getattr(vae, method)(table))
    np.testing.assert_array_equal(back.sample(3, random_state=0), vae.sample(3, random_state=0))
    assert repr(back.get_params()) == repr(vae.get_params())
    assert repr(back.best_params_) == repr(vae.best_params_)
    assert (back.best_index_, back.best_score_, back.n_splits_) == (vae.best_index_, vae.best_score_, vae.n_splits_)
    assert back.cv_results_.keys() == vae.cv_results_.keys()
    for name, values in vae.cv_results_.items():
        assert repr(back.cv_results_[name]) == repr(values)


def test_a_damaged_search_is_an_error(fitted):
    state = fitted.__getstate__()
    state["mean_"] = state["mean_"][:5]
    with pytest.raises(ValueError, match="state of this VAETransformerCV is damaged"):
        load_state(VAETransformerCV, state)


def test_there_is_no_partial_fit(fitted, table):
    for vae in (make(), fitted):
        assert not hasattr(vae, "partial_fit")
        with pytest.raises(AttributeError, match="has no partial_fit; choose the size first"):
            vae.partial_fit(table)
    assert hasattr(make_single(), "partial_fit")


def test_repr_and_html(fitted):
    assert repr(VAETransformerCV()) == "VAETransformerCV()"
    text = re.sub(r"\s+", " ", repr(make(selection="one_standard_error")))
    assert "selection='one_standard_error'" in text
    assert repr(eval(text)) == repr(make(selection="one_standard_error"))
    assert "best_params_" in fitted._repr_html_()


def test_only_the_best_is_trained_aloud(table, capsys):
    make(verbose=1, param_grid={"solver": ["adam", "sgd"]}).fit(table)
    _, compared, first, *rest = capsys.readouterr().out.splitlines()
    assert "after all epochs" in compared
    assert first.startswith("[VAETransformer] 90 training rows")
    assert len(rest) == SMALL["max_iter"]
    assert all(line.startswith("[VAETransformer] epoch ") for line in rest)
    make().fit(table)
    assert capsys.readouterr().out == ""


# Rules


class Reconstruction(Objective):
    """A plain autoencoder."""

    def __call__(self, model, batch, rng, epoch):
        return {"loss": (model.mean(model.encode(batch.x)[0]) - batch.x).square().sum(-1)}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_components": ()}, "n_components holds no candidate; give at least one number of latents"),
        ({"n_components": [0]}, "n_components must hold integers of at least 1 or 'auto'; it holds 0"),
        ({"n_components": [2, True]}, "must hold integers of at least 1 or 'auto'; it holds True"),
        ({"n_components": [2, 1.5]}, r"it holds 1\.5"),
        ({"n_components": [2, None]}, "it holds None"),
        ({"n_components": ["few"]}, "it holds 'few'"),
        ({"n_components": "few"}, "int in the range .1, inf. or an array-like. Got 'few' instead"),
        ({"selection": "worst"}, "The 'selection' parameter of VAETransformerCV must be a str among"),
        ({"race": "yes"}, "The 'race' parameter of VAETransformerCV"),
        ({"cv": "three"}, "The 'cv' parameter of VAETransformerCV"),
        ({"n_jobs": 1.5}, "The 'n_jobs' parameter of VAETransformerCV"),
        ({"param_grid": [{"max_iter": [1]}]}, "The 'param_grid' parameter of VAETransformerCV must be an instance of"),
        ({"param_grid": {"n_components": [2]}}, r"param_grid holds \['n_components'\], which every candidate shares"),
        ({"param_grid": {"verbose": [1], "device": ["cpu"]}}, r"param_grid holds \['device', 'verbose'\]"),
        ({"param_grid": {"n_draws": [1]}}, r"param_grid holds \['n_draws'\]"),
        ({"param_grid": {"random_state": [1, 2]}}, r"param_grid holds \['random_state'\]"),
        ({"param_grid": {"hidden_layers": [(3,)]}}, "Invalid parameter 'hidden_layers' for estimator VAETransformer"),
        ({"param_grid": {"learning_rate_init": [-1.0]}}, "The 'learning_rate_init' parameter of VAETransformer"),
        ({"param_grid": {"max_iter": []}}, "'max_iter' need to be a non-empty sequence"),
        (
            {"objective": Reconstruction()},
            r"objective=Reconstruction\(\) trains no density of X, so candidates have no",
        ),
        ({"param_grid": {"objective": [ELBO(), Reconstruction()]}}, r"Reconstruction\(\) trains no density of X"),
        ({"cv": 91}, "Cannot have number of splits n_splits=91 greater than the number of samples: n_samples=90"),
        ({"cv": 1}, "The 'cv' parameter of VAETransformerCV must be an int in the range"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must hold integers of at least 1; it holds 0"),
        ({"likelihood": "bernoulli"}, r"likelihood='bernoulli' takes values in \[0, 1\]"),
    ],
)
def test_a_broken_rule_is_an_error_in_words(table, parameters, words):
    vae = make(**parameters)
    with pytest.raises(ValueError, match=words):
        vae.fit(table)
    assert not [name for name in vars(vae) if name.endswith("_")]


@pytest.mark.parametrize(("name", "value"), [("max_iter", 0), ("learning_rate_init", -1.0)])
def test_a_broken_rule_of_a_candidate_is_an_error_in_words(table, name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of VAETransformer must be"):
        make(solver="sgd", param_grid={name: [value]}).fit(table)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_column_that_is_empty_in_a_fold_is_an_error_in_words(table, solver):
    X = table.copy()
    X[:60, 4] = np.nan
    with pytest.raises(ValueError, match="column 4 holds no value in 60 rows"):
        make(solver=solver).fit(X)


def test_parameters_are_a_transformers_and_five_more():
    own, single = VAETransformerCV().get_params(), VAETransformer().get_params()
    assert own.keys() - single.keys() == {"param_grid", "cv", "selection", "race", "n_jobs"}
    assert single.keys() - own.keys() == set()
    assert {name for name in single if own[name] != single[name]} == {"n_components"}
    assert own["n_components"] == (1, 2, 4, 8, 16)


def test_own_networks_are_compared(table):
    vae = make(encoder=MLP((6,), "tanh"), decoder=MLP(())).fit(table)
    search = grid_search({"n_components": [1, 2]}, encoder=MLP((6,), "tanh"), decoder=MLP(())).fit(table)
    np.testing.assert_array_equal(vae.scores_, scores_of(search))


def test_means_and_deviations_over_folds_hold_for_the_largest_scores():
    begun = np.ma.masked_array([[1e300, -1e300], [3.0, 4.0], [-np.inf, 1.0], [1.0, 9.0]], mask=[[0, 0]] * 3 + [[0, 1]])
    means, deviations = _mean_and_std(begun)
    np.testing.assert_array_equal(means, [0.0, 3.5, -np.inf, 1.0])
    np.testing.assert_array_equal(deviations, [1e300, 0.5, np.nan, 0.0])
