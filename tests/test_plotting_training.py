"""LearningCurveDisplay and InformationDisplay: what is drawn is what the fit left."""

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import Gaussian, VAETransformer
from skvae.objectives import Autoencoder
from skvae.plotting import InformationDisplay, LearningCurveDisplay

mpl = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")


@pytest.fixture(scope="module")
def X():  # noqa: N802
    rng = np.random.default_rng(0)
    return rng.normal(size=(120, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(120, 5))


@pytest.fixture(scope="module")
def model(X):
    return VAETransformer(3, likelihood=Gaussian(noise="shared"), max_iter=8, random_state=0).fit(X)


@pytest.fixture(scope="module")
def coder(X):
    return VAETransformer(2, objective=Autoencoder(), init="random", max_iter=2, random_state=0).fit(X)


def legend(display):
    return [text.get_text() for text in display.artists_["legend"].get_texts()]


@pytest.mark.parametrize("cls", [LearningCurveDisplay, InformationDisplay])
def test_it_is_drawn_where_it_is_told_to_and_again(cls, model):
    figure, (left, right) = plt.subplots(1, 2)
    display = cls.from_estimator(model, ax=right)
    assert display.ax_ is right
    assert display.figure_ is figure
    assert not left.has_data()
    assert display.plot() is display
    assert display.figure_ is not figure


@pytest.mark.parametrize("cls", [LearningCurveDisplay, InformationDisplay])
def test_other_estimators_are_refused(cls, X):
    with pytest.raises(NotFittedError):
        cls.from_estimator(VAETransformer())
    with pytest.raises(ValueError, match="PCA .* take an estimator of skvae"):
        cls.from_estimator(PCA(2).fit(X))


def test_curves_are_bounds_and_higher_is_better(model):
    display = LearningCurveDisplay.from_estimator(model, linewidth=5)
    artists = display.artists_
    np.testing.assert_array_equal(artists["training"].get_data(), [range(1, 9), -np.array(model.loss_curve_)])
    np.testing.assert_array_equal(artists["held_out"].get_data(), [range(9), model.validation_curve_])
    assert artists["held_out"].get_linewidth() == 5
    np.testing.assert_array_equal(artists["start"].get_ydata(), [model.validation_curve_[0]] * 2)
    np.testing.assert_array_equal(artists["best"].get_data(), ([model.best_iter_], [max(model.validation_curve_)]))
    assert display.ax_.get_ylabel() == "nats per row"
    assert legend(display)[2].startswith("linear start, held out: ")
    assert legend(display)[3].startswith(f"kept: epoch {model.best_iter_}, ")


def test_curves_without_nats_or_held_out_rows(coder, X):
    display = LearningCurveDisplay.from_estimator(coder)
    assert display.ax_.get_ylabel() == "minus the loss"
    assert legend(display)[2].startswith("start, held out: ")
    plain = VAETransformer(2, early_stopping=False, max_iter=2, random_state=0)
    display = LearningCurveDisplay.from_estimator(make_pipeline(StandardScaler(), plain).fit(X), color="red")
    assert sorted(display.artists_) == ["legend", "training"]
    assert display.artists_["training"].get_color() == "red"


def test_bars_are_the_latents_information(model):
    display = InformationDisplay.from_estimator(model, color="red")
    bars = display.artists_["bars"]
    np.testing.assert_array_equal([bar.get_height() for bar in bars], model.latent_information_)
    np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in bars], [0, 1, 2])
    assert {bar.get_facecolor() for bar in bars} == {(1.0, 0.0, 0.0, 1.0)}
    assert sorted(display.artists_) == ["bars"]


def test_beside_them_stand_principal_components(model, X):
    """What a component tells is the mean KL of its posterior in probabilistic PCA."""
    display = InformationDisplay.from_estimator(model, X)
    pca = PCA(3).fit((X - model.mean_) / model.scale_)
    noise, variance = pca.noise_variance_, pca.explained_variance_
    shrink = (variance - noise) / variance
    posterior = noise / variance
    kl = (posterior + shrink - 1 - np.log(posterior)) / 2  # E[mu^2] = shrink
    np.testing.assert_allclose(display.pca_information, kl)
    np.testing.assert_allclose(display.explained, pca.explained_variance_ratio_)
    assert [text.get_text() for text in display.artists_["shares"]] == [f"{share:.0%}" for share in display.explained]
    boxes = [(bar.get_x(), bar.get_x() + bar.get_width()) for name in ("bars", "pca") for bar in display.artists_[name]]
    edges = np.array(sorted(boxes))
    assert (edges[1:, 0] >= edges[:-1, 1] - 1e-12).all()


def test_tables_with_strings_gaps_and_more_latents_than_columns(X):
    table = pd.DataFrame(X[:, :3]).rename(columns=str).assign(kind=np.where(X[:, 0] > 0, "a", "b"))
    table.loc[3, "1"] = None
    model = VAETransformer(4, likelihood="auto", max_iter=2, random_state=0).fit(table)
    display = InformationDisplay.from_estimator(model, table)
    assert display.information.shape == (4,)
    assert np.isfinite(display.pca_information).all()
    assert display.explained.shape == (2,)
    with pytest.raises(ValueError, match="PCA needs two columns of numbers; leave X out"):
        InformationDisplay.from_estimator(model, table[["kind"]])


def test_pipelines_and_estimators_without_a_posterior(X, coder):
    pipe = make_pipeline(StandardScaler(), VAETransformer(2, max_iter=2, random_state=0)).fit(X)
    display = InformationDisplay.from_estimator(pipe, X)
    found = PCA(2).fit((StandardScaler().fit_transform(X)) / pipe[-1].scale_)
    np.testing.assert_allclose(display.explained, found.explained_variance_ratio_)
    with pytest.raises(ValueError, match="This VAETransformer does not say what its latents tell"):
        InformationDisplay.from_estimator(coder)
