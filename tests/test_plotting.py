"""Displays of anomalies: what is drawn is what the detector says."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError

from skvae import VAEAnomalyDetector
from skvae.plotting import AnomalyExplanationDisplay, AnomalyImageDisplay, AnomalyScoresDisplay
from skvae.plotting._base import ANOMALOUS, NORMAL, number

mpl = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")

DISPLAYS = [AnomalyScoresDisplay, AnomalyExplanationDisplay, AnomalyImageDisplay]
OF_ONE_ROW = DISPLAYS[1:]
MINUS = "\N{MINUS SIGN}"


class Known(BaseEstimator):
    """A detector with the public methods that a display may use, and known numbers."""

    feature_names_in_ = np.array(["a", "b", "c", "d"])

    def __init__(self, scores, training_scores=tuple(range(100)), offset=0.0, missing=False):
        self.scores, self.training_scores_, self.offset_ = np.array(scores, float), np.array(training_scores), offset
        self.rows = np.array([[1234.5, -2.0, 0.0, 12345.0]] * len(self.scores)) + np.arange(len(self.scores))[:, None]
        if missing:
            self.rows[:, 1] = np.nan

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X):
        return self

    def score_samples(self, X):
        return self.scores[self._places(X)]

    def similar(self, X):
        return self.rows[self._places(X)] * 0 + np.array([1234.0, -1.0, 0.5, 1.0])

    def explain(self, X):
        return np.where(np.isfinite(self.score_samples(X))[:, None], [-3.0, 0.25, -40.0, 1.0, 2.0], -np.inf)

    def _places(self, X):
        return np.asarray(X)[:, 2].astype(int)


@pytest.fixture(scope="module")
def table():
    return load_wine(as_frame=True, return_X_y=True)


@pytest.fixture(scope="module")
def detector(table):
    X, y = table
    return VAEAnomalyDetector(max_iter=5, random_state=0).fit(X[y == 0])


@pytest.fixture(scope="module")
def on_images(digits):
    return VAEAnomalyDetector(8, max_iter=5, random_state=0).fit(digits)


def draw(detector, X, cls, **kwargs):
    display = cls.from_estimator(detector, X, **kwargs)
    display.figure_.draw_without_rendering()  # labels, ticks and layout are computed here
    return display


def heights(bars):
    return np.array([bar.get_height() for bar in bars])


# The contract of all of them


@pytest.mark.parametrize("cls", DISPLAYS)
def test_draws_where_it_is_told(cls, on_images, digits):
    figure, axes = plt.subplots(1, 2, layout="constrained")
    display = draw(on_images, digits[:20], cls, ax=axes[1])
    assert display.figure_ is figure
    assert all(
        ax.get_subplotspec().get_topmost_subplotspec() == axes[1].get_subplotspec() for ax in np.ravel(display.ax_)
    )
    assert not axes[0].has_data()


@pytest.mark.parametrize("cls", DISPLAYS)
def test_plot_draws_again_in_a_new_figure(cls, on_images, digits):
    display = draw(on_images, digits[:20], cls)
    first = display.figure_
    names = sorted(display.artists_)
    assert display.plot() is display
    assert display.figure_ is not first
    assert sorted(display.artists_) == names


@pytest.mark.parametrize("cls", DISPLAYS)
@pytest.mark.parametrize(
    "container", [np.asarray, np.ndarray.tolist, pd.DataFrame, pl.DataFrame, torch.tensor], ids=lambda f: f.__qualname__
)
def test_containers(cls, container, on_images, digits):
    row = {"row": 3} if cls in OF_ONE_ROW else {}
    expected = vars(cls.from_estimator(on_images, digits[:20], **row))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X has feature names")
        found = cls.from_estimator(on_images, container(digits[:20]), **row)
    for name in expected.keys() - {"ax_", "figure_", "artists_"}:
        np.testing.assert_array_equal(getattr(found, name), expected[name])


@pytest.mark.parametrize("cls", DISPLAYS)
def test_unfitted_and_no_detector(cls):
    with pytest.raises(NotFittedError, match="VAEAnomalyDetector instance is not fitted yet"):
        cls.from_estimator(VAEAnomalyDetector(), [[1.0]])
    with pytest.raises(ValueError, match="PCA detects no anomalies; take a VAEAnomalyDetector"):
        cls.from_estimator(PCA(1).fit(np.eye(3)), np.eye(3))


@pytest.mark.parametrize("row", [-1, 178, 1.0, True])
def test_row_that_is_none(row, detector, table):
    with pytest.raises(ValueError, match=rf"row={row!r} must be an integer from 0 to 177, the place of a row in X\."):
        AnomalyExplanationDisplay.from_estimator(detector, table[0], row=row)


@pytest.mark.parametrize("cls", OF_ONE_ROW)
def test_a_row_is_found_by_its_label(cls, on_images, digits):
    X = pd.DataFrame(digits[:5], index=["a", "b", "b", "c", "3"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X has feature names")
        assert cls.from_estimator(on_images, X, row="c").row == 3
        assert cls.from_estimator(on_images, X, row="3").row == 4
    for label, found in (("nobody", "none"), ("b", "2")):
        with pytest.raises(ValueError, match=f"row='{label}' is the label of {found} of X's rows; give"):
            cls.from_estimator(on_images, X, row=label)


def test_without_matplotlib(monkeypatch, detector, table):
    display = AnomalyScoresDisplay.from_estimator(detector, table[0])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ImportError, match=r"AnomalyScoresDisplay\.from_estimator requires matplotlib\. You can install"
    ):
        AnomalyScoresDisplay.from_estimator(detector, table[0])
    with pytest.raises(ImportError, match=r"AnomalyScoresDisplay\.plot requires matplotlib\. You can install"):
        display.plot()


def test_import_does_not_need_matplotlib():
    code = "import sys; sys.modules['matplotlib'] = None; import skvae.plotting"
    subprocess.run([sys.executable, "-c", code], check=True)


# Scores


def test_bars_are_shares_on_the_right_side_of_the_threshold(detector, table):
    X, y = table
    display = draw(detector, X, AnomalyScoresDisplay)
    scores, below = detector.score_samples(X), detector.predict(X) == -1
    bars = display.artists_["anomalies"], display.artists_["normal"]
    np.testing.assert_allclose([heights(part).sum() for part in bars], [below.mean(), 1 - below.mean()])
    assert max(bar.get_x() + bar.get_width() for bar in bars[0]) <= 0
    assert min(bar.get_x() for bar in bars[1]) == 0
    np.testing.assert_allclose(display.artists_["training"].get_data().values.sum(), 1)
    assert display.artists_["threshold"].get_xdata() == [0, 0]
    np.testing.assert_array_equal(display.artists_["marks"].get_xdata(), scores[below] - detector.offset_)
    low, high = display.ax_.get_xlim()
    assert low < scores.min() - detector.offset_
    assert scores.max() - detector.offset_ < high
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert f"anomalies ({below.sum()})" in legend
    assert f"normal ({(~below).sum()})" in legend
    assert f"threshold {number(detector.offset_)}" in legend
    assert f"training rows ({(y == 0).sum()})" in legend
    assert "off" not in display.artists_


@pytest.mark.parametrize("lowest", [-np.inf, -1e250, np.finfo(float).min])
def test_scores_off_the_scale_are_counted(lowest):
    known = Known([-np.inf, lowest, -1.0, 50.0], [*range(99), lowest])
    display = draw(known, known.rows, AnomalyScoresDisplay)
    assert display.artists_["off"].get_text() == "\N{LEFTWARDS ARROW} off the scale: 2"
    assert heights(display.artists_["anomalies"]).sum() == 0.25
    assert "anomalies (3)" in [text.get_text() for text in display.ax_.get_legend().get_texts()]
    np.testing.assert_allclose(display.artists_["training"].get_data().values.sum(), 0.99)


@pytest.mark.parametrize("scores", [[-np.inf], [5.0], [-5.0], [0.0]])
@pytest.mark.parametrize("training_scores", [[5.0] * 3, [0.0] * 3, [-1.0, 0.0, 1.0]])
def test_few_and_equal_scores(scores, training_scores):
    known = Known(scores, training_scores)
    display = draw(known, known.rows, AnomalyScoresDisplay)
    assert heights(display.artists_["normal"]).sum() == (scores[0] >= 0)
    assert heights(display.artists_["anomalies"]).sum() == (-np.inf < scores[0] < 0)


@pytest.mark.parametrize("offset", [0.0, -5000.0, 7.0])
@pytest.mark.parametrize("lowest", [-1e3, -1e6, -1e10])
def test_a_far_score_does_not_squeeze_the_others(lowest, offset):
    differences = np.array([lowest, -100.0, -10.0, 20.0, 80.0])
    known = Known(differences + offset, np.arange(100) + offset, offset)
    display = draw(known, known.rows, AnomalyScoresDisplay)
    assert display.ax_.get_xlabel() == "score minus threshold (logarithmic far below 0)"
    place = display.ax_.transData.transform(np.column_stack([[lowest, 0.0, 50.0, 99.0], np.zeros(4)]))[:, 0]
    width = place[3] - place[0]
    assert (np.diff(place) > 0.005 * width).all()
    np.testing.assert_allclose((place[2] - place[1]) / (place[3] - place[1]), 50 / 99)  # linear above the threshold
    ticks = display.ax_.get_xticks()
    assert 0 in ticks
    assert 3 <= len(ticks) <= 12
    gaps = np.diff(display.ax_.transData.transform(np.column_stack([ticks, np.zeros(len(ticks))]))[:, 0])
    assert gaps.min() > 0.03 * width


def test_bars_of_a_bent_axis_are_equally_wide():
    known = Known([-1e6, -10.0, 20.0])
    display = draw(known, known.rows, AnomalyScoresDisplay)
    edges = display.artists_["training"].get_data().edges
    places = display.ax_.transData.transform(np.column_stack([edges, np.zeros(len(edges))]))[:, 0]
    widths = np.diff(places)
    np.testing.assert_allclose(widths, widths.mean(), rtol=1e-6)


def test_axis_is_linear_where_scores_are_near(detector):
    known = Known([-100.0, 20.0])
    display = draw(known, known.rows, AnomalyScoresDisplay)
    assert display.ax_.get_xscale() == "linear"
    assert display.ax_.get_xlabel() == "score minus threshold"


def test_scores_of_any_detector():
    rng = np.random.default_rng(0)
    forest = IsolationForest(random_state=0).fit(rng.normal(size=(50, 2)))
    X = np.array([[0.0, 0.0], [9.0, 9.0]])
    display = AnomalyScoresDisplay.from_predictions(
        forest.decision_function(X), training_scores=[0.1, 0.2, -0.1], alpha=0.1
    )
    assert len(heights(display.artists_["normal"]).nonzero()[0]) == 1
    assert heights(display.artists_["anomalies"]).sum() == 0.5
    assert display.artists_["legend"].get_texts()[0].get_text() == "training rows (3)"


def test_style_of_the_histogram(detector, table):
    display = draw(detector, table[0], AnomalyScoresDisplay, alpha=0.1)
    assert {bar.get_alpha() for name in ("normal", "anomalies") for bar in display.artists_[name]} == {0.1}


# Explanations


def test_bars_are_contributions(detector, table):
    X, _ = table
    display = draw(detector, X, AnomalyExplanationDisplay, row=100, n_features=4)
    contributions = detector.explain(X.iloc[[100]])[0]
    order = np.argsort(-np.abs(contributions[:-1]))
    parts = [*contributions[order[:4]], contributions[order[4:]].sum(), contributions[-1]]
    bars = display.artists_["bars"]
    np.testing.assert_allclose([bar.get_width() for bar in bars], parts)
    assert [mpl.colors.to_hex(bar.get_facecolor()) for bar in bars] == [NORMAL if p >= 0 else ANOMALOUS for p in parts]
    names = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert names == [*X.columns[order[:4]], "9 other columns", "combination of columns"]
    similar = np.asarray(detector.similar(X.iloc[[100]]))[0]
    beside = [tick.get_text() for tick in display.artists_["values"].get_yticklabels()]
    expected = [f"{number(X.iloc[100, i])}, normal: {number(similar[i])}" for i in order[:4]]
    assert beside == [*expected, "", ""]


def test_explanation_adds_up(detector, table):
    display = draw(detector, table[0], AnomalyExplanationDisplay, row=5, n_features=3)
    total = sum(bar.get_width() for bar in display.artists_["bars"])
    picture = display
    np.testing.assert_allclose(total, picture.score - picture.typical)
    np.testing.assert_allclose(picture.typical, detector.training_scores_.mean())
    numbers = [picture.score, picture.typical, picture.offset]
    assert display.ax_.get_title() == "Row 5: score {}, typical {}, threshold {}".format(*map(number, numbers))


@pytest.mark.parametrize("cls", OF_ONE_ROW)
def test_row_of_the_lowest_score(cls, on_images, digits):
    X = digits[:50]
    display = draw(on_images, X, cls)
    assert display.row == on_images.score_samples(X).argmin()
    np.testing.assert_array_equal(display.values.ravel(), X[display.row])


@pytest.mark.parametrize(
    ("n_features", "more"), [(2, ["2 other columns"]), (3, ["1 other column"]), (4, []), (np.int64(9), [])]
)
def test_number_of_bars(n_features, more):
    known = Known([-10.0])
    display = draw(known, known.rows, AnomalyExplanationDisplay, n_features=n_features)
    names = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert names == [*"cadb"[:n_features], *more, "combination of columns"]


def test_values_are_written_for_reading():
    known = Known([-10.0], missing=True)
    display = draw(known, known.rows, AnomalyExplanationDisplay)
    beside = [tick.get_text() for tick in display.artists_["values"].get_yticklabels()]
    assert beside == ["0, normal: 0.5", "1234, normal: 1234", "12,345, normal: 1", "missing", ""]
    numbers = [text.get_text() for text in display.artists_["numbers"]]
    assert numbers == [f"{MINUS}40.0", f"{MINUS}3.0", "+1.0", "+0.2", "+2.0"]


def test_names(detector, table):
    X, y = table
    plain = VAEAnomalyDetector(2, max_iter=1, random_state=0).fit(X[y == 0].to_numpy())
    picture = AnomalyExplanationDisplay.from_estimator(plain, X.to_numpy())
    assert picture.names == [f"x{i}" for i in range(13)]
    names = load_wine().feature_names
    picture = AnomalyExplanationDisplay.from_estimator(plain, X.to_numpy(), feature_names=names)
    assert picture.names == names
    with pytest.raises(ValueError, match=r"feature_names has 2 names; X has 13 columns\."):
        AnomalyExplanationDisplay.from_estimator(plain, X.to_numpy(), feature_names=["a", "b"])


def test_a_frame_with_strings_is_explained_under_its_labels():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"kind": rng.choice(["a", "b"], 200), "size": rng.normal(size=200), "on": rng.random(200) < 0.5})
    X.index = [f"pump {i}" for i in range(200)]
    X.loc["pump 7", "size"] = np.nan
    known = VAEAnomalyDetector(likelihood="auto", max_iter=1, random_state=0).fit(X)
    display = draw(known, X, AnomalyExplanationDisplay, row=7)
    assert display.ax_.get_title().startswith("Row pump 7: score ")
    similar = known.similar(X[7:8]).iloc[0]
    values = {
        "kind": f"{X.iloc[7, 0]!r}, normal: {similar['kind']!r}",
        "size": "missing",
        "on": f"{X.iloc[7, 2]}, normal: {number(similar['on'])}",
    }
    names = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    beside = [tick.get_text() for tick in display.artists_["values"].get_yticklabels()]
    assert dict(zip(names[:3], beside, strict=False)) == values
    assert "less normal than 200 training rows" in display.ax_.get_xlabel()


def test_the_legend_says_how_many_rows_were_scored_of_how_many():
    known = Known([5.0])
    known.support_ = np.ones(2500, dtype=bool)
    labels = [text.get_text() for text in draw(known, known.rows, AnomalyScoresDisplay).ax_.get_legend().get_texts()]
    assert "training rows (100 of 2,500)" in labels


def test_long_names_are_cut():
    known = Known([-10.0])
    names = ["x" * 100, "y", "z", "z"]
    display = draw(known, known.rows, AnomalyExplanationDisplay, feature_names=names)
    shown = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert shown[1] == "x" * 31 + "\N{HORIZONTAL ELLIPSIS}"
    assert display.names == names


def test_output_containers_make_no_difference(detector, table):
    expected = AnomalyExplanationDisplay.from_estimator(detector, table[0], row=1)
    try:
        detector.set_output(transform="pandas")
        found = AnomalyExplanationDisplay.from_estimator(detector, table[0], row=1)
    finally:
        detector.set_output(transform="default")
    np.testing.assert_array_equal(found.contributions, expected.contributions)
    np.testing.assert_array_equal(found.similar, expected.similar)


@pytest.mark.parametrize("n_features", [0, -1, 2.0, True, "all"])
def test_number_of_bars_that_is_none(n_features, detector, table):
    with pytest.raises(ValueError, match=rf"n_features={n_features!r} must be an integer above 0\."):
        AnomalyExplanationDisplay.from_estimator(detector, table[0], n_features=n_features)


@pytest.mark.parametrize("cls", OF_ONE_ROW)
def test_row_too_far_out(cls):
    known = Known([5.0, -np.inf])
    with pytest.raises(ValueError, match=r"Row 1 is too far out to be explained: its score is -inf\. Look at"):
        cls.from_estimator(known, known.rows)


def test_texts_lie_inside_the_figure_and_do_not_overlap(detector, table):
    display = draw(detector, table[0], AnomalyExplanationDisplay)
    renderer = display.figure_.canvas.get_renderer()
    frame = display.figure_.bbox.padded(1)
    labels = [*display.ax_.get_yticklabels(), *display.artists_["values"].get_yticklabels()]
    boxes = [text.get_window_extent(renderer) for text in labels if text.get_text()]
    boxes += [text.get_window_extent(renderer) for text in display.artists_["numbers"]]
    for i, box in enumerate(boxes):
        assert frame.contains(*box.min), labels[i]
        assert frame.contains(*box.max), labels[i]
        assert not any(box.overlaps(other) for other in boxes[:i])


# Images


def test_panels(on_images, digits):
    X = digits[:20]
    display = draw(on_images, X, AnomalyImageDisplay, row=4)
    assert display.ax_.shape == (3,)
    contributions = on_images.explain(X[4:5])[0, :-1].reshape(8, 8)
    similar = on_images.similar(X[4:5]).reshape(8, 8)
    image = X[4].reshape(8, 8)
    artists = display.artists_
    np.testing.assert_allclose(artists["image"].get_array(), image / image.max())
    np.testing.assert_allclose(artists["similar"].get_array(), (similar / image.max()).clip(0, 1))
    np.testing.assert_allclose(artists["contributions"].get_array(), contributions)
    low, high = artists["contributions"].get_clim()
    assert low == -high
    assert high == np.percentile(np.abs(contributions), 99)
    assert artists["colorbar"].extend == "both"
    assert display.ax_[0].get_xlabel() == f"score {number(display.score)}, threshold {number(on_images.offset_)}"


def test_style_of_the_heat_map(on_images, digits):
    artists = draw(on_images, digits[:20], AnomalyImageDisplay, cmap="coolwarm", vmin=-5, vmax=5).artists_
    assert artists["contributions"].get_clim() == (-5, 5)
    assert artists["contributions"].get_cmap().name == "coolwarm"


@pytest.mark.parametrize(("shape", "panel"), [(None, (2, 2)), ((1, 4), (1, 4)), ([4, 1], (4, 1)), ((1, 1, 4), (1, 1))])
def test_image_shape(shape, panel):
    known = Known([-10.0])
    picture = AnomalyImageDisplay.from_estimator(known, known.rows, image_shape=shape)
    assert picture.contributions.shape == panel
    np.testing.assert_allclose(picture.contributions.sum(), -41.75)
    np.testing.assert_array_equal(picture.values.ravel(), known.rows[0])


def test_colour_images():
    picture = AnomalyImageDisplay.from_estimator(Image := Colours(), Image.rows, image_shape=(2, 1, 3))
    np.testing.assert_array_equal(picture.contributions, [[6.0], [15.0]])
    picture.plot()


class Colours(Known):
    def __init__(self):
        super().__init__([1.0])
        self.rows = np.arange(6.0)[None] * [[1, 1, 0, 1, 1, 1]]

    def similar(self, X):
        return self.rows

    def explain(self, X):
        return np.arange(1.0, 8.0)[None]


@pytest.mark.parametrize("row", [np.zeros(4), [0, np.nan, 0, 0], np.full(4, np.nan)])
def test_blank_and_missing_pixels(row):
    known = Known([-10.0])
    known._places = lambda X: np.zeros(len(X), int)
    image = draw(known, np.array([row]), AnomalyImageDisplay).artists_["image"].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(image), np.isnan(row).reshape(2, 2))


@pytest.mark.parametrize("shape", [(3, 2), (4,), (2, 2, 1, 1)])
def test_image_shape_that_does_not_fit(shape):
    known = Known([-10.0])
    with pytest.raises(
        ValueError, match=r"must be \(height, width\) or \(height, width, channels\) with a product of 4"
    ):
        AnomalyImageDisplay.from_estimator(known, known.rows, image_shape=shape)


def test_columns_that_are_no_square(detector, table):
    with pytest.raises(ValueError, match=r"13 columns are no square image; give image_shape=\(height, width\)\."):
        AnomalyImageDisplay.from_estimator(detector, table[0])


def test_three_axes(on_images, digits):
    _, axes = plt.subplots(1, 3)
    display = AnomalyImageDisplay.from_estimator(on_images, digits[:5], ax=axes)
    assert list(display.ax_) == list(axes)
    with pytest.raises(ValueError, match=r"AnomalyImageDisplay draws in 3 axes; ax holds 2\."):
        AnomalyImageDisplay.from_estimator(on_images, digits[:5], ax=axes[:2])
    with pytest.raises(ValueError, match=r"AnomalyImageDisplay needs an ax made by plt\.subplots, or 3 axes\."):
        AnomalyImageDisplay.from_estimator(on_images, digits[:5], ax=plt.figure().add_axes([0, 0, 1, 1]))


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (0.0, 4, "", "0"),
        (-0.012345, 3, "+", f"{MINUS}0.0123"),
        (1480.0, 4, "", "1480"),
        (1204.4, 3, "+", "+1204"),
        (12345.6, 4, "", "12,346"),
        (1e30, 4, "", "1e+30"),
        (-np.inf, 4, "", f"{MINUS}inf"),
    ],
)
def test_numbers(value, digits, sign, text):
    assert number(value, digits, sign) == text
