"""A fit that was broken off goes on from its file, in any process, to the numbers of a fit without a stop."""

import os

import joblib
import numpy as np
import pytest
from helpers import Watcher
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import Checkpoint, VAEAnomalyDetector, VAEClassifier, VAETransformer, VAETransformerCV
from skvae.objectives import Clustered

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 9, "learning_rate_init": 0.01, "random_state": 0}


class Broken(Exception):
    """What breaks a fit off."""


def breaks_after(epoch):
    def act(number, *_):
        if number == epoch:
            raise Broken

    return Watcher(act)


def broken_off(estimator, path, *data, epoch=6, every=2):
    """A fit that ends with an error after some epochs, the last of which is not in the file."""
    estimator = clone(estimator).set_callbacks(Checkpoint(path, every), breaks_after(epoch))
    with pytest.raises(Broken):
        estimator.fit(*data)
    assert path.exists()


def numbers(estimator):
    """All that a fit has left, but for the callbacks."""
    state = {name: value for name, value in vars(estimator).items() if not name.startswith("_skl")}
    return joblib.hash(state | {"_value": None})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fit.ckpt"


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"objective": "iwae", "batch_size": 30},
        {"objective": "vaegan", "early_stopping": False},
        {"objective": "adversarial", "solver": "rmsprop"},
        {"objective": Clustered(warmup=5)},
        {"prior": "vamp"},
        {"likelihood": "normal_score", "solver": "sgd"},
    ],
    ids=repr,
)
def test_the_numbers_are_those_of_a_fit_without_a_stop(wine, path, parameters):
    vae = VAETransformer(2, **{**SMALL, **parameters})
    broken_off(vae, path, wine)
    resumed = clone(vae).set_callbacks(Checkpoint(path, 2), watcher := Watcher()).fit(wine)
    assert numbers(resumed) == numbers(vae.fit(wine))
    assert not path.exists()
    assert watcher.began.count("epoch") == vae.n_iter_ - 4


def test_detectors_and_classifiers_go_on_too(wine, path):
    y = np.arange(len(wine)) % 3
    for estimator, data in (
        (VAEAnomalyDetector(support_fraction=0.8, early_stopping=False, **SMALL), (wine,)),
        (VAEClassifier(2, **SMALL), (wine, y)),
    ):
        broken_off(estimator, path, *data)
        resumed = clone(estimator).set_callbacks(Checkpoint(path, 2), watcher := Watcher()).fit(*data)
        assert numbers(resumed) == numbers(estimator.fit(*data))
        assert watcher.began.count("epoch") < estimator.n_iter_


def test_a_file_from_the_last_epoch_trains_no_more(wine, path):
    vae = VAETransformer(2, **SMALL)
    failing = Watcher()
    failing.teardown = lambda estimator, context: breaks_after(1).act(1)
    with pytest.raises(Broken):
        clone(vae).set_callbacks(Checkpoint(path), failing).fit(wine)
    resumed = clone(vae).set_callbacks(Checkpoint(path), watcher := Watcher()).fit(wine)
    assert "epoch" not in watcher.began
    assert numbers(resumed) == numbers(vae.fit(wine))


def test_ctrl_c_keeps_the_file(wine, path):
    def act(epoch, *_):
        if epoch == 5:
            raise KeyboardInterrupt

    vae = VAETransformer(2, **SMALL).set_callbacks(Checkpoint(path, 2), Watcher(act))
    with pytest.warns(UserWarning, match="interrupted"):
        vae.fit(wine)
    assert path.exists()
    vae.set_callbacks(Checkpoint(path, 2)).fit(wine)
    assert numbers(vae) == numbers(VAETransformer(2, **SMALL).fit(wine))


def test_without_a_seed_the_files_is_taken(wine, path, monkeypatch):
    monkeypatch.setattr(np.random.mtrand, "_rand", np.random.RandomState(0))  # which None stands for
    unseeded = VAEAnomalyDetector(support_fraction=0.8, early_stopping=False, **{**SMALL, "random_state": None})
    broken_off(unseeded, path, wine)
    resumed = clone(unseeded).set_callbacks(Checkpoint(path, 2), watcher := Watcher()).fit(wine)
    assert watcher.began.count("epoch") == 9 - 4
    assert resumed.n_iter_ == 9


def test_another_fit_is_refused(wine, path):
    vae = VAETransformer(2, **SMALL)
    broken_off(vae, path, wine)
    before = path.read_bytes()
    changed = wine.copy()
    changed[3, 2] += 1e-9
    others = [
        (vae.set_params(), changed, "The table was"),
        (vae, wine[::-1], "The table was"),
        (clone(vae).set_params(max_iter=10), wine, "max_iter was 9, and is 10"),
        (clone(vae).set_params(random_state=1), wine, "The seed was"),
        (clone(vae).set_params(likelihood="student_t"), wine, "likelihood was Gaussian.., and is StudentT"),
    ]
    for other, table, words in others:
        with pytest.raises(ValueError, match=f"fit.ckpt holds another fit: .*{words}.*Remove the file"):
            other.set_callbacks(Checkpoint(path, 2)).fit(table)
    assert path.read_bytes() == before


def test_what_is_no_checkpoint_is_refused(wine, path):
    path.write_bytes(b"a letter")
    with pytest.raises(ValueError, match="fit.ckpt is no checkpoint that can be read"):
        VAETransformer(2, **SMALL).set_callbacks(Checkpoint(path)).fit(wine)
    with pytest.raises(ValueError, match="every must be an integer of at least 1; it is 0"):
        Checkpoint(path, 0)


def test_a_writing_that_fails_leaves_the_file_before(wine, path, monkeypatch):
    broken_off(VAETransformer(2, **SMALL), path, wine)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        VAETransformer(2, **SMALL).set_callbacks(Checkpoint(path, 2)).fit(wine)
    assert path.read_bytes() == before


def test_one_file_is_for_one_fit(wine, path):
    vae = VAETransformer(2, **SMALL).set_callbacks(Checkpoint(path))
    with pytest.raises(ValueError, match="is part of a search"):
        GridSearchCV(vae, {"n_components": [1, 2]}, cv=2, error_score="raise").fit(wine)
    with pytest.raises(ValueError, match="is part of a search"):
        VAETransformerCV([1, 2]).set_callbacks(Checkpoint(path)).fit(wine)
    with pytest.raises(ValueError, match="several Checkpoints"):
        clone(vae).set_callbacks(Checkpoint(path), Checkpoint(path)).fit(wine)
    with pytest.raises(ValueError, match="call set_callbacks of the step itself"):
        make_pipeline(StandardScaler(), clone(vae).set_callbacks()).set_callbacks(Checkpoint(path)).fit(wine)
    assert not path.exists()
    make_pipeline(StandardScaler(), vae).fit(wine)  # the step's own
