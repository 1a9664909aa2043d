"""The race of VAETransformerCV: who is dropped, and that nobody else notices."""

import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from helpers import CountTasks
from scipy.stats import t as student_t
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.model_selection import GridSearchCV, KFold
from torch import nn

from skvae import ELBO, IWAE, Gaussian, VAETransformer, VAETransformerCV
from skvae._fit import FitSettings, fit_model, learn_columns
from skvae._race import ERROR, SHARES, Candidate, Fold, Labelled, Race, advance, behind, comparable
from skvae._state import become

pytestmark = pytest.mark.filterwarnings("ignore:VAETransformer stopped at:sklearn.exceptions.ConvergenceWarning")

# The first stop is after epoch 20.
SETTINGS = {"hidden_layer_sizes": (8,), "max_iter": 160, "learning_rate_init": 1e-2, "random_state": 0}
FOLDS = KFold(3, shuffle=True, random_state=0)


def factors(n_rows=240, n_columns=12, noise=0.2):
    """Columns driven by three factors, bent: one latent is clearly too few."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n_rows, 3))
    return np.tanh(z @ rng.standard_normal((3, n_columns))) + noise * rng.standard_normal((n_rows, n_columns))


@pytest.fixture(scope="module")
def table():
    return factors()


def search(sizes=(1, 2, 3), **parameters):
    return VAETransformerCV(sizes, **{"cv": FOLDS, **SETTINGS, **parameters})


@pytest.fixture(scope="module")
def raced(table):
    return search().fit(table)


@pytest.fixture(scope="module")
def trained(table):
    return search(race=False).fit(table)


# The rule


def lagging(lag, spread=0.1, n_folds=5, seed=0):
    """Scores of a leader, and of a candidate that lags by `lag` with exactly this spread over folds."""
    rng = np.random.default_rng(seed)
    leader, d = rng.standard_normal((2, n_folds))
    d = (d - d.mean()) / d.std(ddof=1)
    return np.stack([leader, leader - lag - spread * d])


@pytest.mark.parametrize(("n_folds", "n_candidates"), [(3, 2), (5, 2), (5, 6), (10, 6)])
def test_a_candidate_is_dropped_where_its_lag_exceeds_nadeau_and_bengios_interval(n_folds, n_candidates):
    ratio = 1 / (n_folds - 1)
    level = ERROR / ((len(SHARES) + 1) * (n_candidates - 1))
    limit = student_t.ppf(1 - level, n_folds - 1) * 0.1 * np.sqrt(1 / n_folds + ratio)
    for lag, expected in [(0.99 * limit, False), (1.01 * limit, True)]:
        assert behind(lagging(lag, n_folds=n_folds), n_candidates, ratio).tolist() == [False, expected]


def test_a_candidate_within_a_standard_error_is_kept_where_it_could_be_chosen_for_being_small():
    scores = lagging(2.0, spread=0.01)
    error = scores[0].std(ddof=1) / 5**0.5
    for lag, expected in [(0.9 * error, False), (1.5 * error, True)]:
        scores = lagging(lag, spread=0.01)
        assert behind(scores, 2, 0.25).tolist() == [False, True]
        assert behind(scores, 2, 0.25, near=True).tolist() == [False, expected]


def test_equals_are_kept():
    scores = np.array([[-3.0, -2.0, -4.0]] * 4)
    assert not behind(scores, 4, 0.5).any()


def test_one_fold_does_not_decide():
    scores = np.array([[-3.0, -2.0, -4.0, -3.0, -3.0], [-3.0, -2.0, -2000.0, -3.0, -3.0]])
    assert not behind(scores, 2, 0.25).any()


@pytest.mark.filterwarnings("error")
def test_scores_that_are_no_numbers():
    """A fit that diverged is never chosen; nothing can be said against a row that no model can score."""
    assert behind(np.array([[-1.0, -2.0, -3.0], [np.nan, -1.0, -1.0]]), 2, 0.5).tolist() == [False, True]
    assert not behind(np.array([[-1.0, -2.0, -np.inf], [-9.0, -9.0, -np.inf]]), 2, 0.5).any()
    assert not behind(np.array([[-1.0, -2.0, -3.0], [-9.0, -9.0, -np.inf]]), 2, 0.5).any()
    assert not behind(np.full((2, 3), np.nan), 2, 0.5).any()


@pytest.mark.parametrize("n_candidates", [2, 6])
def test_the_best_candidate_is_rarely_dropped(n_candidates, any_seed):
    """Where all are equally good and folds share most of their rows, as the correction assumes."""
    rng, dropped, n = np.random.default_rng(any_seed), 0, 3000
    for _ in range(n):
        shape = (n_candidates, 5)
        rungs = [rng.standard_normal(shape) + rng.standard_normal((n_candidates, 1)) * 0.5 for _ in SHARES]
        dropped += any(behind(scores, n_candidates, 0.25)[0] for scores in rungs)
    assert dropped / n < ERROR


# The race


def test_those_behind_are_dropped_and_the_others_do_not_notice(raced, trained):
    dropped, kept = raced.cv_results_["dropped_after"], raced.cv_results_["dropped_after"] == 0
    assert dropped[0] == 20
    assert set(dropped) <= {0, 20, 40, 80}
    np.testing.assert_array_equal(raced.scores_[kept], trained.scores_[kept])
    assert (raced.scores_[~kept] != trained.scores_[~kept]).all()
    assert (trained.cv_results_["dropped_after"] == 0).all()
    assert raced.best_params_ == trained.best_params_
    assert raced.best_score_ == trained.best_score_
    assert kept[raced.best_index_]


def test_who_is_far_behind_on_three_folds_begins_no_others():
    table, folds = factors(1500), KFold(5, shuffle=True, random_state=0)
    raced, trained = (search((1, 3), cv=folds, race=race).fit(table) for race in (True, False))
    assert raced.cv_results_["dropped_after"].tolist() == [20, 0]
    np.testing.assert_array_equal(np.isnan(raced.scores_[0]), [False, False, False, True, True])
    np.testing.assert_array_equal(raced.scores_[1], trained.scores_[1])
    results = raced.cv_results_
    assert results["mean_test_score"][0] == pytest.approx(raced.scores_[0, :3].mean(), rel=1e-12)
    assert results["std_test_score"][0] == pytest.approx(raced.scores_[0, :3].std(), rel=1e-12)
    assert results["mean_fit_time"][0] > 0
    assert results["rank_test_score"].tolist() == [2, 1]
    assert all(type(results[name]) is np.ndarray for name in results if "test" in name or "time" in name)


def test_without_a_race_scores_are_a_grid_searchs(table, trained):
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    grid = GridSearchCV(VAETransformer(**{**SETTINGS, "random_state": seed}), {"n_components": [1, 2, 3]}, cv=FOLDS)
    grid.fit(table)
    for k in range(3):
        np.testing.assert_array_equal(trained.scores_[:, k], grid.cv_results_[f"split{k}_test_score"])
    np.testing.assert_array_equal(trained.transform(table), grid.best_estimator_.transform(table))


def test_a_dropped_candidate_has_the_scores_of_so_many_epochs(table, raced):
    """As a fit of 20 epochs gives them, which keeps the best weights by then, with a quarter of the points."""
    short = search((1,), max_iter=20, n_draws=16).fit(table)
    np.testing.assert_array_equal(raced.scores_[0], short.scores_[0])
    assert raced.cv_results_["mean_test_score"][0] == short.best_score_


def test_the_model_is_that_of_a_search_without_a_race(table, raced, trained):
    for method in ("transform", "score_samples", "reconstruct", "impute"):
        np.testing.assert_array_equal(getattr(raced, method)(table), getattr(trained, method)(table))
    assert vars(raced).keys() == vars(trained).keys()
    assert raced.history_ == trained.history_


def test_who_was_dropped_ranks_behind_who_went_on(raced):
    dropped, ranks = raced.cv_results_["dropped_after"], raced.cv_results_["rank_test_score"]
    means = raced.cv_results_["mean_test_score"]
    assert ranks.dtype == np.int32
    keys = [(after or np.inf, mean) for after, mean in zip(dropped, means, strict=True)]
    assert ranks.tolist() == [1 + sum(other > key for other in keys) for key in keys]
    assert ranks[raced.best_index_] == 1


class Encoder(nn.Module):
    """A user's network."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_in, 6), nn.Tanh(), nn.Linear(6, n_out))

    def forward(self, x):
        return self.layers(x)


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


KINDS = {
    "own network": {"encoder": Encoder, "init": "random"},
    "own solver": {"solver": momentum},
    "rmsprop": {"solver": "rmsprop", "learning_rate_init": 1e-3},
    "iwae": {"objective": IWAE(2)},
    "nothing held out": {"early_stopping": False},
    "several draws": {"objective": ELBO(n_draws=2, beta=2.0, warmup=30)},
    "decoder noise": {"likelihood": Gaussian("decoder"), "n_components": "auto"},
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("how", ["plain", "gaps and weights"])
def test_a_fit_in_parts_is_a_fit(table, name, how):
    X, weight = table[:160], None
    if how != "plain":
        X = np.where(np.random.RandomState(1).rand(*X.shape) < 0.1, np.nan, X)
        weight = np.random.RandomState(2).rand(160) + 0.5
    make = lambda: VAETransformer(**{**SETTINGS, "n_components": 2, "max_iter": 30, **KINDS[name]})  # noqa: E731
    whole, paused = make().fit(X, sample_weight=weight), None
    settings = FitSettings.of(make(), torch.device("cpu")).seeded(0)
    reader, numbers = learn_columns(settings, X)
    rows = reader.first_rows(numbers, None, weight, settings.objective)
    for end in (1, 13, 30):
        fit = fit_model(reader, rows, settings, until=end, paused=paused)
        paused = pickle.loads(pickle.dumps(fit.paused))
    assert paused.progress.over
    parts = make()
    become(parts, fit.attributes)
    for attribute in ("history_", "validation_curve_", "n_iter_", "best_iter_", "_seed", "latent_information_"):
        np.testing.assert_equal(getattr(parts, attribute), getattr(whole, attribute))
    for key, value in whole._weights.items():
        np.testing.assert_array_equal(parts._weights[key], value)
    np.testing.assert_array_equal(parts.score_samples(X), whole.score_samples(X))


@pytest.mark.parametrize("name", ["own network", "iwae", "own solver"])
def test_every_kind_of_model_can_race(table, name):
    X, settings = table[:150], {"max_iter": 80, **KINDS[name]}
    shares = [share for share in SHARES if share * 80 >= 20]
    assert len(shares) == 2
    one, other = (search((1, 3), race=race, **settings).fit(X) for race in (True, False))
    kept = one.cv_results_["dropped_after"] == 0
    np.testing.assert_array_equal(one.scores_[kept], other.scores_[kept])
    assert kept[one.best_index_]


def test_two_processes_find_what_one_finds(table, raced):
    two = search(n_jobs=2).fit(table)
    np.testing.assert_array_equal(two.cv_results_["dropped_after"], raced.cv_results_["dropped_after"])
    np.testing.assert_allclose(two.scores_, raced.scores_, rtol=1e-6)
    np.testing.assert_allclose(two.transform(table), raced.transform(table), rtol=1e-4, atol=1e-4)
    assert vars(two).keys() == vars(raced).keys()


def test_weights_count_in_a_race(table):
    """By hand: each fold with its own rows' weights."""
    weight = np.random.RandomState(0).rand(len(table)) + 0.1
    vae = search().fit(table, sample_weight=weight)
    assert vae.cv_results_["dropped_after"].any()
    best = vae.best_params_["n_components"]
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    for k, (train, test) in enumerate(FOLDS.split(table)):
        one = VAETransformer(best, **{**SETTINGS, "random_state": seed}).fit(table[train], sample_weight=weight[train])
        # Weights are those of the rows beside the heaviest one.
        expected = np.average(one.score_samples(table[test]), weights=weight[test] / weight.max())
        assert vae.scores_[vae.best_index_, k] == expected


# One row


def test_one_test_row_does_not_decide_between_candidates():
    """By hand: the first gains a nat on every row, and is ruined on one."""
    rows = [np.random.default_rng(k).normal(size=30) for k in range(3)]
    better = [values + 1 for values in rows]
    better[1][4] -= 1e6
    found = comparable([better, rows, [values - 1 for values in rows]], [np.ones(30)] * 3)
    assert (np.diff(found, axis=0) < -0.9).all()
    assert (np.diff(found, axis=0) > -1.1).all()


def test_candidates_that_no_row_sets_apart_are_compared_by_their_means():
    rng = np.random.default_rng(0)
    scores = [[k + rng.normal(size=20) for k in range(3)] for _ in range(4)]
    weights = [rng.random(20) for _ in range(3)]
    found = comparable(scores, weights)
    means = np.array(
        [[np.average(values, weights=w) for values, w in zip(one, weights, strict=True)] for one in scores]
    )
    np.testing.assert_allclose(found - found[0], means - means[0], atol=0.1)


def test_rows_of_no_weight_have_no_say_and_those_that_no_candidate_can_score_count_as_equal():
    rows = [np.arange(20.0) for _ in range(3)]
    weights = [np.r_[0.0, np.ones(19)] for _ in range(3)]
    worse = [np.r_[1e9, values[1:] - 1] for values in rows]
    for values in (*rows, *worse):
        values[3] = -np.inf
    found = comparable([rows, worse, [None, *rows[1:]]], weights)
    np.testing.assert_allclose(found[1] - found[0], -18 / 19)
    assert np.isnan(found[2, 0])
    np.testing.assert_array_equal(found[2, 1:], found[0, 1:])


def test_who_can_score_a_fold_that_hardly_anyone_can_is_ahead_there():
    nothing, something = np.full(20, -np.inf), np.arange(20.0)
    found = comparable([[something, something], *[[nothing, something]] * 3], [np.ones(20)] * 2)
    assert found[0, 0] == pytest.approx(9.5, abs=0.1)
    assert (found[1:, 0] == -np.inf).all()
    np.testing.assert_allclose(found[:, 1], 9.5, atol=0.1)
    one_row = np.r_[-np.inf, something[1:]]
    found = comparable([[something] * 2, *[[one_row] * 2] * 3], [np.ones(20)] * 2)
    np.testing.assert_array_equal(found, found[0, 0])


# Who does not race


@pytest.mark.parametrize(
    "parameters",
    [{"cv": KFold(2, shuffle=True, random_state=0)}, {"max_iter": 38}, {"race": False}],
    ids=["two folds", "few epochs", "no race"],
)
def test_nobody_is_dropped(table, parameters, monkeypatch):
    stops = []
    advanced = Race._advance
    monkeypatch.setattr(Race, "_advance", lambda race, *args: stops.append(args[1]) or advanced(race, *args))
    vae = VAETransformerCV((1, 3), **{"cv": FOLDS, **SETTINGS, **parameters}).fit(table)
    assert vae.cv_results_["dropped_after"].tolist() == [0, 0]
    assert stops == [1.0]


def test_a_tiny_table_drops_nobody(table):
    vae = search((1, 2), max_iter=160, early_stopping=False).fit(table[:12, :3])
    assert vae.cv_results_["dropped_after"].tolist() == [0, 0]


def test_candidates_stop_after_shares_of_their_own_epochs(table):
    """One of 16 epochs in all is not judged before its end."""
    vae = search((1, 3), param_grid={"max_iter": [16, 160]}).fit(table)
    by = {
        tuple(p.values()): n for p, n in zip(vae.cv_results_["params"], vae.cv_results_["dropped_after"], strict=True)
    }
    assert {by[key] for key in by if 16 in key} == {0}
    assert by[160, 1] == 20
    assert by[160, 3] == 0


def test_a_candidate_that_diverges_is_out(table):
    vae = search((2,), param_grid={"learning_rate_init": [1e-2, 1e30]}, init="random")
    with pytest.warns(FitFailedWarning, match="3 of 6 fits diverged in their first epoch; their scores are NaN"):
        vae.fit(table)
    assert np.isnan(vae.scores_[1]).all()
    assert vae.cv_results_["dropped_after"].tolist() == [0, 20]
    assert vae.cv_results_["rank_test_score"].tolist() == [1, 2]
    broken = VAETransformer(2, **{**SETTINGS, "learning_rate_init": 1e30, "init": "random"})
    settings = FitSettings.of(broken, torch.device("cpu"))
    candidate = Candidate(settings, learn_columns(settings, table)[0], Labelled(table, None, None), 8)
    leg = advance(candidate, Fold(np.arange(100), np.arange(100, 240)), 20, 8, None)
    assert leg[:2] == (None, None)


# The last fit


def test_callbacks_see_the_final_fit_of_a_race_in_two_processes(table):
    count = CountTasks()
    vae = search((1, 3), n_jobs=2).set_callbacks(count).fit(table)
    assert vae.cv_results_["dropped_after"].tolist() == [20, 0]
    assert count.tasks == vae.n_iter_ + 1


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_warnings_of_the_final_fit_arrive(table, n_jobs):
    """A learning rate that leaves the model below its linear start, of a start that nothing holds on to."""
    settings = {"early_stopping": False, "init": "random", "learning_rate_init": 1e-5, "hidden_layer_sizes": ()}
    vae = search((1,), param_grid={"learning_rate_init": [1e-5, 1e-9]}, **{**settings, "n_jobs": n_jobs})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vae.fit(table)
    found = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    assert len(found) == 1
    assert "below the" in str(found[0].message)


def test_a_log_says_who_leads_and_who_was_dropped(table, capsys):
    vae = search((1, 3), verbose=1).fit(table)
    first, second, third, fourth, *_ = capsys.readouterr().out.splitlines()
    assert first == "[VAETransformerCV] 2 candidates on 3 folds"
    leads = re.escape("{'n_components': 3} leads with ") + r"-?\d+\.\d\d nats per row"
    dropped = re.escape("; dropped {'n_components': 1}")
    assert re.fullmatch(
        rf"\[VAETransformerCV\] after 1/8 of the epochs on 3 folds  {leads}{dropped}  \d+\.\d s", second
    )
    assert re.fullmatch(rf"\[VAETransformerCV\] after all epochs on 3 folds  {leads}  \d+\.\d s", third)
    assert f"{vae.cv_results_['mean_compared_score'].max():.2f} nats" in third
    assert fourth.startswith("[VAETransformer] 216 training rows")
