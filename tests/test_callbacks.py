"""scikit-learn's callbacks: an epoch is a task, watching changes nothing, and an interrupt breaks nothing."""

import numpy as np
import pytest
import torch
from helpers import Watcher
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import VAETransformer


def make(**parameters):
    return VAETransformer(
        **{
            "n_components": 2,
            "max_iter": 10,
            "random_state": 0,
            "early_stopping": False,
            "learning_rate_init": 1e-5,
            **parameters,
        }
    )


def mean_score(estimator, X, y=None):
    return estimator.score(X)


def leftovers(estimator):
    return [name for name in vars(estimator) if name.startswith("_callback_")]


def same_model(first, second, X):
    np.testing.assert_array_equal(first.transform(X), second.transform(X))
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))


def test_an_epoch_is_a_task_and_every_begin_has_its_end(iris):
    watcher = Watcher()
    vae = make(max_iter=4).set_callbacks(watcher).fit(iris)
    assert watcher.began == ["setup", "fit", *["epoch"] * 4]
    assert watcher.ended == [*["epoch"] * 4, "fit", "teardown"]
    assert not leftovers(vae)


def test_results_do_not_depend_on_callbacks(iris):
    for parameters in ({}, {"early_stopping": True, "learning_rate_init": 0.01}):
        same_model(make(**parameters).set_callbacks(Watcher()).fit(iris), make(**parameters).fit(iris), iris)


def test_a_callback_can_stop_training(iris):
    vae = make().set_callbacks(Watcher(lambda epoch, *_: epoch == 7)).fit(iris)
    assert vae.n_iter_ == len(vae.loss_curve_) == 7
    same_model(vae, make(max_iter=7).fit(iris), iris)


def test_a_callback_sees_a_model_ready_to_use(iris):
    scores = []
    vae = make(max_iter=3).set_callbacks(Watcher(lambda epoch, estimator, fitted: scores.append(fitted.score(iris))))
    vae.fit(iris)
    assert len(scores) == 3
    assert scores[-1] == pytest.approx(vae.score(iris), abs=1e-9)
    assert scores[0] != scores[1]


def test_a_callback_that_looks_does_not_change_the_fit(iris):
    watched = make(max_iter=3).set_callbacks(Watcher(lambda epoch, estimator, fitted: fitted.score(iris) > 1e9))
    same_model(watched.fit(iris), make(max_iter=3).fit(iris), iris)


def test_progress_bar_shows_the_fit(iris, capsys):
    make().set_callbacks(ProgressBar()).fit(iris)
    assert "VAETransformer - fit" in capsys.readouterr().out


def test_progress_bar_of_a_pipeline_shows_the_step(iris, capsys):
    make_pipeline(StandardScaler(), make()).set_callbacks(ProgressBar()).fit(iris)
    assert "VAETransformer - fit" in capsys.readouterr().out


def test_progress_bar_of_a_grid_search_changes_nothing(iris, capsys):
    def search():
        return GridSearchCV(make(max_iter=3), {"n_components": [1, 2]}, cv=2, n_jobs=2)

    watched = search().set_callbacks(ProgressBar()).fit(iris)
    assert "GridSearchCV - fit" in capsys.readouterr().out
    assert watched.best_params_ == search().fit(iris).best_params_
    assert np.isfinite(watched.cv_results_["mean_test_score"]).all()


def test_scoring_monitor_logs_a_score_an_epoch(iris):
    monitor = ScoringMonitor(scoring={"likelihood": mean_score})
    vae = make(max_iter=4).set_callbacks(monitor).fit(iris)
    scores = [row["likelihood"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(scores) == 4
    assert scores[-1] == pytest.approx(vae.score(iris), abs=1e-9)


class Stop(Exception):
    """An error of a callback."""


def stop_at(number, error):
    def act(epoch, *_):
        if epoch == number:
            raise error

    return act


def test_an_error_in_a_first_fit_leaves_the_estimator_unfitted_and_usable(iris):
    vae = make().set_callbacks(watcher := Watcher(stop_at(3, Stop)))
    with pytest.raises(Stop):
        vae.fit(iris)
    assert watcher.ended[-1] == "teardown"
    assert not leftovers(vae)
    assert not [name for name in vars(vae) if name.endswith("_")]
    assert not hasattr(vae, "module_")
    same_model(vae.set_callbacks().fit(iris), make().fit(iris), iris)


def test_an_error_in_a_refit_keeps_the_previous_model(iris, wine):
    vae = make().fit(iris)
    before = vae.transform(iris), vae.score_samples(iris), vae.n_iter_
    vae.set_callbacks(Watcher(stop_at(3, Stop)))
    with pytest.raises(Stop):
        vae.fit(wine)
    assert not leftovers(vae)
    np.testing.assert_array_equal(vae.transform(iris), before[0])
    np.testing.assert_array_equal(vae.score_samples(iris), before[1])
    assert (vae.n_iter_, vae.n_features_in_) == (before[2], 4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_error_inside_a_step_keeps_the_previous_model(iris, error, method):
    def failing(parameters):
        optimiser = torch.optim.Adam(parameters, lr=1e-5)
        optimiser.register_step_post_hook(stop_in_step)
        return optimiser

    def stop_in_step(*_):
        raise error("inside a step")

    vae = make().fit(iris)
    before = vae.score_samples(iris)
    with pytest.raises(error, match="inside a step"):
        getattr(vae.set_params(solver=failing), method)(iris)
    np.testing.assert_array_equal(vae.score_samples(iris), before)
    same_model(vae.set_params(solver="adam").fit(iris), make().fit(iris), iris)


def test_rejected_data_open_no_context(iris):
    vae = make().set_callbacks(watcher := Watcher())
    with pytest.raises(ValueError, match="infinity"):
        vae.fit(np.where(iris > 7, np.inf, iris))
    assert "fit" not in watcher.began
    assert not leftovers(vae)
