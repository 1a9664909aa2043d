"""Displays of codes: what is drawn is what transform and inverse_transform say."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import norm
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skvae import VAEAnomalyDetector, VAETransformer
from skvae.objectives import Autoencoder
from skvae.plotting import LatentDisplay, ManifoldDisplay, ReconstructionDisplay, TraversalDisplay

mpl = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")


@pytest.fixture(scope="module")
def wine():
    return load_wine(as_frame=True).data


@pytest.fixture(scope="module")
def on_wine(wine):
    return VAETransformer(3, max_iter=3, random_state=0).fit(wine)


@pytest.fixture(scope="module")
def on_images(digits):
    return VAETransformer(3, max_iter=3, random_state=0).fit(digits)


@pytest.fixture(scope="module")
def on_two(digits):
    return VAETransformer(2, max_iter=3, random_state=0).fit(digits)


@pytest.fixture(scope="module")
def coder(digits):
    return VAETransformer(2, objective=Autoencoder(), max_iter=3, random_state=0).fit(digits)


@pytest.fixture(scope="module")
def mixed():
    rng = np.random.default_rng(0)
    size = rng.normal(size=200)
    table = pd.DataFrame({"size": size, "city": rng.choice(["Bonn", "Lima"], 200), "n": rng.poisson(np.exp(size))})
    table.loc[3, "city"] = None
    return table, VAETransformer(2, likelihood="auto", max_iter=3, random_state=0).fit(table)


class Known(BaseEstimator):
    """Three pixels in two colours that are known functions of three latents."""

    n_features_in_ = 6

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X):
        return self

    def get_feature_names_out(self):
        return np.array(["a", "b", "c"])

    def transform(self, X):
        return np.asarray(X)[:, :3]

    def inverse_transform(self, Z):
        return np.column_stack([Z, Z.sum(axis=1), Z[:, 0] * 0 + 7, -Z[:, 0]])

    def sample(self, n_samples, random_state=None):
        return self.inverse_transform(np.random.default_rng(random_state).normal(size=(n_samples, 3)))


def rendered(display):
    display.figure_.draw_without_rendering()  # labels, ticks and layout are computed here
    return display


def labels(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


# The plane of two latents


def test_the_grid_is_the_unit_squares_and_the_images_are_its_inverse_transform(on_two):
    display = rendered(ManifoldDisplay.from_estimator(on_two, n=5, image_shape=(8, 8)))
    expected = norm.ppf([0.05, 0.275, 0.5, 0.725, 0.95])
    np.testing.assert_allclose(display.x, expected, atol=1e-15)
    np.testing.assert_allclose(display.y, expected, atol=1e-15)
    for i, j in np.ndindex(5, 5):
        image = on_two.inverse_transform([[expected[j], expected[i]]]).reshape(8, 8)
        np.testing.assert_allclose(display.decoded[i, j], image, atol=1e-12)
    assert display.others is None
    assert display.ax_.get_title() == ""


def test_a_linear_grid_goes_from_minus_3_to_3(on_two):
    display = ManifoldDisplay.from_estimator(on_two, grid="linear", n=4, image_shape=(8, 8))
    np.testing.assert_allclose(display.x, [-3, -1, 1, 3])
    np.testing.assert_allclose(display.y, [-3, -1, 1, 3])


def test_images_lie_where_their_latents_are(on_two):
    """The top right one is that of the largest values, and a tick under every image says its latent's value."""
    display = rendered(ManifoldDisplay.from_estimator(on_two, grid="linear", n=3, image_shape=(8, 8)))
    pixels = np.asarray(display.artists_["images"].get_array())
    frame = np.isnan(pixels)
    np.testing.assert_array_equal(frame[:, 0], True)
    for i, j in np.ndindex(3, 3):
        drawn = pixels[10 * i + 1 : 10 * i + 9, 10 * j + 1 : 10 * j + 9]
        np.testing.assert_array_equal(drawn, display.decoded[2 - i, j])
    assert display.artists_["images"].get_extent() == [-0.5, 2.5, -2.5, 0.5]
    np.testing.assert_array_equal(display.ax_.get_xticks(), [0, 1, 2])
    np.testing.assert_array_equal(display.ax_.get_yticks(), [-2, -1, 0])
    assert labels(display.ax_.xaxis) == labels(display.ax_.yaxis) == ["\N{MINUS SIGN}3", "0", "3"]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("vaetransformer0", "vaetransformer1")


@pytest.mark.parametrize("n", [2, 9, 10, 15, 40])
def test_few_ticks_and_the_middle_among_them(n, on_two):
    display = rendered(ManifoldDisplay.from_estimator(on_two, n=n, image_shape=(8, 8)))
    assert 2 <= len(display.ax_.get_xticks()) <= 9
    if n % 2:
        assert "0" in labels(display.ax_.xaxis)


def test_other_latents_stay_at_0(on_images):
    display = ManifoldDisplay.from_estimator(on_images, n=2, components=(2, 0), image_shape=(8, 8))
    image = on_images.inverse_transform([[norm.ppf(0.95), 0.0, norm.ppf(0.05)]]).reshape(8, 8)
    np.testing.assert_allclose(display.decoded[1, 0], image)
    assert display.latents == ("vaetransformer2", "vaetransformer0")
    assert display.ax_.get_title() == "other latents at 0"


def test_rows_say_where_codes_lie(coder, digits):
    codes = coder.transform(digits)
    display = ManifoldDisplay.from_estimator(coder, digits, n=3, image_shape=(8, 8))
    np.testing.assert_allclose(display.x, np.quantile(codes[:, 0], [0.05, 0.5, 0.95]))
    np.testing.assert_allclose(display.y, np.quantile(codes[:, 1], [0.05, 0.5, 0.95]))
    linear = ManifoldDisplay.from_estimator(coder, digits, grid="linear", n=3, image_shape=(8, 8))
    low, high = np.quantile(codes[:, 0], norm.cdf([-3, 3]))
    np.testing.assert_allclose(linear.x, [low, (low + high) / 2, high])


@pytest.mark.parametrize("draw", [ManifoldDisplay.from_estimator, TraversalDisplay.from_estimator])
def test_a_code_without_a_prior_needs_rows(draw, coder):
    figures = plt.get_fignums()
    with pytest.raises(ValueError, match=r"draws no rows .* so nothing says where codes lie; give X"):
        draw(coder, image_shape=(8, 8))
    assert plt.get_fignums() == figures


def test_a_column_as_a_heat_map(on_wine, wine):
    display = rendered(ManifoldDisplay.from_estimator(on_wine, n=4, components=(1, 2), feature="proline"))
    Z = np.array([[0.0, x, y] for y in display.y for x in display.x])
    expected = on_wine.inverse_transform(Z)["proline"].to_numpy().reshape(4, 4)
    np.testing.assert_allclose(display.decoded, expected)
    np.testing.assert_allclose(display.artists_["map"].get_array(), expected)
    assert display.artists_["colorbar"].ax.get_ylabel() == display.feature == "proline"
    by_place = ManifoldDisplay.from_estimator(on_wine, n=4, components=(1, 2), feature=12)
    np.testing.assert_array_equal(by_place.decoded, display.decoded)
    assert by_place.feature == "proline"


def test_colours_are_read_from_0_to_1():
    display = rendered(ManifoldDisplay.from_estimator(Known(), n=2, image_shape=(1, 2, 3), vmin=-2, vmax=2))
    pixels = np.asarray(display.artists_["images"].get_array())
    assert pixels.shape == (6, 8, 3)
    x = norm.ppf(0.95)
    np.testing.assert_allclose(pixels[1, 5], (np.array([x, x, 0]) + 2) / 4)
    np.testing.assert_allclose(pixels[1, 6], [1.0, 1.0, (2 - x) / 4])
    np.testing.assert_array_equal(pixels[0], 1.0)


def test_a_pipeline_and_other_transformers(digits):
    scaled = StandardScaler().fit(digits)
    pipe = make_pipeline(StandardScaler(), VAETransformer(2, max_iter=2, random_state=0)).fit(digits)
    display = ManifoldDisplay.from_estimator(pipe, n=2, image_shape=(8, 8))
    inner = pipe[-1].inverse_transform([[norm.ppf(0.05), norm.ppf(0.95)]])
    np.testing.assert_allclose(display.decoded[1, 0].ravel(), scaled.inverse_transform(inner)[0])
    logs = make_pipeline(FunctionTransformer(np.log1p, np.expm1), PCA(2)).fit(digits)
    found = ManifoldDisplay.from_estimator(logs, digits, n=2, image_shape=(8, 8))
    assert found.latents == ("pca0", "pca1")
    np.testing.assert_allclose(found.decoded[0, 0].ravel(), logs.inverse_transform([[found.x[0], found.y[0]]])[0])


# One latent that moves


def test_a_strip_of_images(on_images, digits):
    display = rendered(TraversalDisplay.from_estimator(on_images, component=1, n=5, image_shape=(8, 8)))
    np.testing.assert_allclose(display.values, np.linspace(-3, 3, 5))
    Z = np.zeros((5, 3))
    Z[:, 1] = display.values
    np.testing.assert_allclose(display.decoded, on_images.inverse_transform(Z).reshape(5, 8, 8))
    pixels = np.asarray(display.artists_["images"].get_array())
    for j in range(5):
        np.testing.assert_array_equal(pixels[1:9, 10 * j + 1 : 10 * j + 9], display.decoded[j])
    assert labels(display.ax_.xaxis) == ["\N{MINUS SIGN}3", "\N{MINUS SIGN}1.5", "0", "1.5", "3"]
    assert display.ax_.get_xlabel() == "vaetransformer1"
    assert display.ax_.get_title() == "other latents at 0"


def test_others_stay_at_a_rows_code(on_images, digits):
    display = TraversalDisplay.from_estimator(on_images, digits, component=2, row=4, n=2, image_shape=(8, 8))
    codes = on_images.transform(digits)
    np.testing.assert_allclose(display.values, np.quantile(codes[:, 2], norm.cdf([-3, 3])))
    Z = np.repeat(codes[4:5], 2, axis=0)
    Z[:, 2] = display.values
    np.testing.assert_allclose(display.decoded.reshape(2, 64), on_images.inverse_transform(Z))
    assert display.ax_.get_title() == "other latents as in row 4"
    still = TraversalDisplay.from_estimator(on_images, digits, component=2, n=2, image_shape=(8, 8))
    Z[:, :2] = np.median(codes, axis=0)[:2]
    np.testing.assert_allclose(still.decoded.reshape(2, 64), on_images.inverse_transform(Z))
    assert still.ax_.get_title() == "other latents at the codes' medians"


def test_lines_of_the_columns_that_move_most(on_wine, wine):
    display = rendered(TraversalDisplay.from_estimator(on_wine, wine, component=0, row=3, n=7, n_features=4))
    Z = np.repeat(on_wine.transform(wine)[3:4], 7, axis=0)
    Z[:, 0] = display.values
    moves = (on_wine.inverse_transform(Z) - wine.mean()) / wine.std(ddof=0)
    order = (moves.max() - moves.min()).sort_values(ascending=False).index[:4]
    assert display.features == list(order)
    np.testing.assert_allclose(display.decoded, moves[order])
    for line, name in zip(display.artists_["lines"], order, strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.column_stack([display.values, moves[name]]))
        assert line.get_label() == name
    shown = [text.get_text() for text in display.artists_["legend"].get_texts()]
    assert shown == list(moves[order].iloc[-1].sort_values(ascending=False).index)
    assert len({line.get_color() for line in display.artists_["lines"]}) == 4


def test_without_rows_the_model_says_how_much_columns_vary():
    known = Known()
    display = TraversalDisplay.from_estimator(known, n=3)
    drawn = known.sample(1000, 0)
    rows = known.inverse_transform(np.column_stack([[-3, 0, 3], np.zeros((3, 2))]))
    stds = np.where(drawn.std(axis=0) > 0, drawn.std(axis=0), 1)
    expected = (rows - drawn.mean(axis=0)) / stds
    assert display.features == ["x0", "x5", "x3", "x1", "x2", "x4"]
    np.testing.assert_allclose(display.decoded, expected[:, [0, 5, 3, 1, 2, 4]])


def test_a_table_of_mixed_columns_shows_its_numbers(mixed):
    table, vae = mixed
    display = TraversalDisplay.from_estimator(vae, table, n=3)
    assert sorted(display.features) == ["n", "size"]
    assert sorted(TraversalDisplay.from_estimator(vae, n=3).features) == ["n", "size"]
    assert ManifoldDisplay.from_estimator(vae, n=2, feature="n").decoded.shape == (2, 2)
    with pytest.raises(ValueError, match=r"Column 'city' holds categories; choose a feature that holds numbers\."):
        ManifoldDisplay.from_estimator(vae, n=2, feature="city")
    only = VAETransformer(1, likelihood="categorical", max_iter=1, random_state=0).fit(table[["city"]])
    with pytest.raises(ValueError, match="All columns hold categories"):
        TraversalDisplay.from_estimator(only, table[["city"]])


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
@pytest.mark.parametrize("container", [np.asarray, pl.DataFrame, lambda X: X.to_numpy().tolist()])
def test_containers(container, on_wine, wine):
    expected = TraversalDisplay.from_estimator(on_wine, wine, row=1)
    found = TraversalDisplay.from_estimator(on_wine, container(wine), row=1)
    np.testing.assert_array_equal(found.decoded, expected.decoded)
    assert found.features == expected.features


def test_output_containers_make_no_difference(on_wine, wine):
    expected = TraversalDisplay.from_estimator(on_wine, wine, row=1)
    try:
        on_wine.set_output(transform="pandas")
        found = TraversalDisplay.from_estimator(on_wine, wine, row=1)
    finally:
        on_wine.set_output(transform="default")
    np.testing.assert_array_equal(found.decoded, expected.decoded)


# Rows beside their reconstructions


def test_rows_stand_above_their_reconstructions(on_images, digits):
    display = rendered(ReconstructionDisplay.from_estimator(on_images, digits, rows=[7, 3], image_shape=(8, 8)))
    expected = np.stack([digits[[7, 3]], on_images.reconstruct(digits[[7, 3]])]).reshape(2, 2, 8, 8)
    np.testing.assert_array_equal(display.values, expected[0])
    np.testing.assert_allclose(display.rebuilt, expected[1])
    pixels = np.asarray(display.artists_["images"].get_array())
    for i, j in np.ndindex(2, 2):
        np.testing.assert_allclose(pixels[10 * i + 1 : 10 * i + 9, 10 * j + 1 : 10 * j + 9], expected[i, j])
    assert labels(display.ax_.xaxis) == ["7", "3"]
    assert labels(display.ax_.yaxis) == ["row", "rebuilt"]
    assert list(display.ax_.get_yticks()) == [0, -1]


def test_missing_pixels_are_seen_through(on_images, digits):
    gaps = digits[:20].copy()
    gaps[0, 10] = np.nan
    display = ReconstructionDisplay.from_estimator(on_images, gaps, image_shape=(8, 8))
    assert len(display.rows) == 10
    assert np.isnan(display.values).sum() == 1
    assert np.isfinite(display.rebuilt).all()
    assert display.artists_["images"].get_array().mask[2, 3]
    plain = ReconstructionDisplay.from_estimator(on_images, digits, image_shape=(8, 8))
    assert display.ax_.get_facecolor() != plain.ax_.get_facecolor() == (1, 1, 1, 1)


def test_rows_of_a_table_are_lines(on_wine, wine):
    display = rendered(ReconstructionDisplay.from_estimator(on_wine, wine, rows=[0, 70]))
    scaled = [(table - wine.mean()) / wine.std(ddof=0) for table in (wine, on_wine.reconstruct(wine))]
    np.testing.assert_allclose(display.values, scaled[0].iloc[[0, 70]])
    np.testing.assert_allclose(display.rebuilt, scaled[1].iloc[[0, 70]])
    for name, values in (("lines", display.values), ("rebuilt", display.rebuilt)):
        np.testing.assert_array_equal([line.get_ydata() for line in display.artists_[name]], values)
    colours = [[line.get_color() for line in display.artists_[name]] for name in ("lines", "rebuilt")]
    assert colours[0] == colours[1] == ["C0", "C1"]
    assert labels(display.ax_.xaxis) == list(wine.columns)
    assert [text.get_text() for text in display.artists_["legend"].get_texts()] == ["row 0", "row 70", "rebuilt"]
    assert list(ReconstructionDisplay.from_estimator(on_wine, wine).rows) == [0, 1, 2]


def test_lines_go_through_numbers_and_end_at_gaps(mixed):
    table, vae = mixed
    gaps = table.copy()
    gaps.loc[1, "size"] = np.nan
    display = ReconstructionDisplay.from_estimator(vae, gaps)
    assert display.features == ["size", "n"]
    np.testing.assert_array_equal(np.isnan(display.values), [[False, False], [True, False], [False, False]])
    size = vae.reconstruct(gaps)["size"].to_numpy()[:3]
    np.testing.assert_allclose(display.rebuilt[:, 0], (size - gaps["size"].mean()) / gaps["size"].std(ddof=0))
    only = VAETransformer(1, likelihood="categorical", max_iter=1, random_state=0).fit(table[["city"]])
    with pytest.raises(ValueError, match="All columns hold categories; lines go through columns that hold numbers"):
        ReconstructionDisplay.from_estimator(only, table[["city"]])


def test_many_columns_are_named_in_part(on_images, digits):
    display = rendered(ReconstructionDisplay.from_estimator(on_images, digits))
    assert labels(display.ax_.xaxis) == [f"x{i}" for i in range(0, 64, 2)]
    assert display.values.shape == (3, 64)
    np.testing.assert_array_equal(display.values[:, 0], 0)  # a pixel that is always the same


@pytest.mark.parametrize("rows", [[], [300], [-1], [0.5], [True]])
def test_rows_that_are_none(rows, on_images, digits):
    with pytest.raises(ValueError, match=r"rows holds no row|must be an integer from 0 to 299, the place of a row"):
        ReconstructionDisplay.from_estimator(on_images, digits, rows=rows, image_shape=(8, 8))
    assert not plt.get_fignums()


def test_a_pipelines_reconstruction(digits):
    pipe = make_pipeline(StandardScaler(), PCA(2)).fit(digits)
    display = ReconstructionDisplay.from_estimator(pipe, digits, rows=[5], image_shape=(8, 8))
    np.testing.assert_allclose(display.rebuilt.ravel(), pipe.inverse_transform(pipe.transform(digits[5:6]))[0])


# Codes in the plane


def offsets(artist):
    return np.asarray(artist.get_offsets())


def test_points_are_codes_in_the_colours_of_their_labels(on_images, digits):
    names = np.array([f"digit {y}" for y in load_digits().target[:300]])
    display = rendered(LatentDisplay.from_estimator(on_images, digits, names, components=(2, 1)))
    codes = on_images.transform(digits)[:, [2, 1]]
    np.testing.assert_array_equal(display.codes, codes)
    points = display.artists_["points"]
    assert [part.get_label() for part in points] == sorted(set(names))
    for part in points:
        np.testing.assert_array_equal(offsets(part), codes[names == part.get_label()])
    assert len({tuple(part.get_facecolor()[0]) for part in points}) == 10
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("vaetransformer2", "vaetransformer1")
    legend = [text.get_text() for text in display.artists_["legend"].get_texts()]
    assert legend == [*sorted(set(names)), "q(z|x), 2 standard deviations"]


def test_ellipses_are_posteriors(on_images, digits):
    display = rendered(LatentDisplay.from_estimator(on_images, digits, n_ellipses=4))
    mean, std = on_images.posterior(digits[[0, 100, 199, 299]])
    np.testing.assert_allclose(display.means, mean[:, :2])
    np.testing.assert_allclose(display.stds, std[:, :2])
    for ellipse, centre, deviation in zip(display.artists_["ellipses"], mean, std, strict=True):
        np.testing.assert_allclose(ellipse.get_center(), centre[:2])
        np.testing.assert_allclose([ellipse.get_width(), ellipse.get_height()], 4 * deviation[:2])
        low, high = display.ax_.get_xlim()
        assert low < centre[0] - 2 * deviation[0] < centre[0] + 2 * deviation[0] < high
    assert len(LatentDisplay.from_estimator(on_images, digits).artists_["ellipses"]) == 10
    assert "ellipses" not in LatentDisplay.from_estimator(on_images, digits, n_ellipses=0).artists_
    assert len(LatentDisplay.from_estimator(on_images, digits[:1]).artists_["ellipses"]) == 1


def test_a_code_has_no_ellipse(coder, digits):
    display = LatentDisplay.from_estimator(coder, digits)
    assert set(display.artists_) == {"points"}
    assert display.ax_.get_legend() is None
    with pytest.raises(ValueError, match="n_ellipses=3: this VAETransformer gives a row one code and no posterior"):
        LatentDisplay.from_estimator(coder, digits, n_ellipses=3)
    assert len(plt.get_fignums()) == 1


def test_a_pipelines_posterior(digits):
    pipe = make_pipeline(StandardScaler(), VAETransformer(2, max_iter=2, random_state=0)).fit(digits)
    display = LatentDisplay.from_estimator(pipe, digits, n_ellipses=1)
    mean, std = pipe[-1].posterior(pipe[0].transform(digits[:1]))
    np.testing.assert_allclose(display.means, mean)
    np.testing.assert_allclose(display.stds, std)


class Clusters(Known):
    """Two clusters, whose centres differ in the latent that is not shown."""

    cluster_centers_ = np.array([[0.0, 0.0, -5.0], [1.0, 0.0, 5.0]])


def test_clusters_are_coloured_by_the_nearest_centre_in_all_latents():
    X = np.array([[0.0, 0.0, 4.0, 0, 0, 0], [1.0, 0.0, -4.0, 0, 0, 0], [2.0, 0.0, -4.0, 0, 0, 0]])
    display = LatentDisplay.from_estimator(Clusters(), X)
    assert list(display.labels) == ["cluster 1", "cluster 0", "cluster 0"]
    np.testing.assert_array_equal(offsets(display.artists_["centres"]), [[0, 0], [1, 0]])
    labelled = LatentDisplay.from_estimator(Clusters(), X, [3, 3, 4])
    assert [part.get_label() for part in labelled.artists_["points"]] == ["3", "4"]
    assert "centres" in labelled.artists_


def test_a_clusterer_behind_the_codes(on_images, digits):
    pipe = make_pipeline(on_images, KMeans(4, n_init=1, random_state=0)).fit(digits)
    display = LatentDisplay.from_estimator(pipe, digits)
    np.testing.assert_allclose(display.codes, pipe[0].transform(digits)[:, :2])
    assert list(display.labels) == [f"cluster {k}" for k in pipe.predict(digits)]
    np.testing.assert_array_equal(offsets(display.artists_["centres"]), pipe[-1].cluster_centers_[:, :2])
    assert len(display.artists_["ellipses"]) == 10


def test_many_numbers_are_a_scale(on_wine, wine):
    display = rendered(LatentDisplay.from_estimator(on_wine, wine, wine["alcohol"], n_ellipses=0))
    (points,) = display.artists_["points"]
    np.testing.assert_array_equal(points.get_array(), wine["alcohol"])
    assert "colorbar" in display.artists_
    with pytest.raises(ValueError, match=r"y holds 178 labels; a picture tells at most 20 apart\."):
        LatentDisplay.from_estimator(on_wine, wine, [f"row {i}" for i in range(178)])


def test_codes_of_another_method(digits):
    Z = pd.DataFrame(np.arange(30.0).reshape(10, 3), columns=["u", "v", "w"])
    display = LatentDisplay.from_predictions(Z, list("aabbbababb"), components=(2, 0), s=7)
    np.testing.assert_array_equal(display.codes, Z[["w", "u"]])
    assert display.latents == ("w", "u")
    assert [len(points.get_offsets()) for points in display.artists_["points"]] == [4, 6]
    assert display.artists_["points"][0].get_sizes() == [7]
    assert LatentDisplay.from_predictions(Z.to_numpy()).latents == ("x0", "x1")
    for bad, message in (((0, 3), "components=3 must be"), ((1, 1), r"components=\(1, 1\) must be two different")):
        with pytest.raises(ValueError, match=message):
            LatentDisplay.from_predictions(Z, components=bad)
    with pytest.raises(ValueError, match="A plane needs two latents; codes has one"):
        LatentDisplay.from_predictions(Z[["u"]])


def test_rows_of_another_method(on_images, digits, wine):
    rebuilt = on_images.reconstruct(digits)
    own = ReconstructionDisplay.from_estimator(on_images, digits, rows=[4, 2], image_shape=(8, 8))
    found = ReconstructionDisplay.from_predictions(digits, rebuilt, rows=[4, 2], image_shape=(8, 8))
    np.testing.assert_allclose(found.rebuilt, own.rebuilt)
    np.testing.assert_array_equal(found.values, own.values)
    lines = ReconstructionDisplay.from_predictions(wine, wine + wine.std(ddof=0))
    np.testing.assert_allclose(lines.rebuilt - lines.values, 1)
    assert lines.features == list(wine.columns)
    with pytest.raises(ValueError, match=r"X_rebuilt \(5, 64\); give the same rows"):
        ReconstructionDisplay.from_predictions(digits, rebuilt[:5])


# The contract of all

ALL = {
    "manifold": lambda vae, X, **kwargs: ManifoldDisplay.from_estimator(vae, X, n=3, **kwargs),
    "traversal": lambda vae, X, **kwargs: TraversalDisplay.from_estimator(vae, X, n=3, **kwargs),
    "reconstruction": ReconstructionDisplay.from_estimator,
    "latent": lambda vae, X, image_shape=None, **kwargs: LatentDisplay.from_estimator(vae, X, **kwargs),
}
IMAGES = {"image_shape": (8, 8)}
each_display = pytest.mark.parametrize("name", ALL)
each_grid = pytest.mark.parametrize("name", ["manifold", "traversal"])


def columns(name):
    return {"feature": 20} if name == "manifold" else {}


@each_display
@pytest.mark.parametrize("images", [True, False])
def test_draws_once_where_it_is_told(name, images, on_images, digits):
    how = IMAGES if images else columns(name)
    figure, axes = plt.subplots(1, 2, layout="constrained")
    display = rendered(ALL[name](on_images, digits, ax=axes[1], **how))
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert not axes[0].has_data()
    assert plt.get_fignums() == [figure.number]
    assert len(axes[1].images) == (images and name != "latent")
    assert len(axes[1].collections) == (name == "latent" or (not images and name == "manifold"))


@each_display
@pytest.mark.parametrize("images", [True, False])
def test_plot_draws_again_in_a_new_figure(name, images, on_images, digits):
    display = ALL[name](on_images, digits, **(IMAGES if images else columns(name)))
    first, artists = display.figure_, display.artists_
    assert display.plot() is display
    assert display.figure_ is not first
    assert sorted(display.artists_) == sorted(artists)


@pytest.mark.parametrize("name", ["manifold", "traversal", "reconstruction"])
def test_style(name, on_images, digits):
    artist = ALL[name](on_images, digits, **IMAGES, cmap="coolwarm", vmin=-5, vmax=5).artists_["images"]
    assert artist.get_clim() == (-5, 5)
    assert artist.get_cmap().name == "coolwarm"


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("manifold", {"grid": "square"}, r"grid='square' must be one of 'quantile', 'linear'\."),
        ("manifold", {"n": 1}, r"n=1 must be an integer of at least 2\."),
        ("manifold", {"n": 2.0}, r"n=2\.0 must be an integer of at least 2\."),
        ("manifold", {"components": (0, 0)}, r"components=\(0, 0\) must be two different latents\."),
        ("manifold", {"components": (0, 1, 2)}, r"components=\(0, 1, 2\) must be two different latents\."),
        ("manifold", {"components": (0, 3)}, r"components=3 must be an integer from 0 to 2, the place of a latent\."),
        ("manifold", {"image_shape": None}, r"Give image_shape=\(height, width\) .* or feature="),
        ("manifold", {"feature": 1}, r"Give image_shape=\(height, width\) .* or feature="),
        ("manifold", {"image_shape": None, "feature": "red"}, r"feature='red' must be .* the names begin with 'x0'"),
        ("manifold", {"image_shape": None, "feature": 64}, r"feature=64 must be a column's name or its place from 0"),
        ("manifold", {"image_shape": (8, 7)}, r"image_shape=\(8, 7\) must be .* with a product of 64"),
        ("manifold", {"image_shape": (-8, -8)}, r"image_shape=\(-8, -8\) must be"),
        ("traversal", {"n": True}, r"n=True must be an integer of at least 2\."),
        ("traversal", {"n_features": 0}, r"n_features=0 must be an integer of at least 1\."),
        ("traversal", {"component": -1}, r"component=-1 must be an integer from 0 to 2, the place of a latent\."),
        ("traversal", {"component": (0, 1)}, r"component=\(0, 1\) must be an integer from 0 to 2"),
        ("traversal", {"image_shape": (4, 4)}, r"image_shape=\(4, 4\) must be .* with a product of 64"),
        ("traversal", {"row": 2, "X": None}, r"row=2 is the place of a row in X; give X\."),
        ("reconstruction", {"image_shape": (64,)}, r"image_shape=\(64,\) must be \(height, width\)"),
        ("latent", {"components": (1, 1)}, r"components=\(1, 1\) must be two different latents\."),
        ("latent", {"n_ellipses": -1}, r"n_ellipses=-1 must be an integer of at least 0, or None\."),
        ("latent", {"y": [0, 1]}, r"inconsistent numbers of samples"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_drawn(name, parameters, message, on_images, digits):
    draw = {"manifold": ManifoldDisplay, "traversal": TraversalDisplay, "latent": LatentDisplay}
    draw["reconstruction"] = ReconstructionDisplay
    default = {} if name == "latent" else IMAGES
    with pytest.raises(ValueError, match=message):
        draw[name].from_estimator(on_images, **{"X": digits} | default | parameters)
    assert not plt.get_fignums()


@pytest.mark.parametrize("row", [-1, 100, 1.0, True, "a"])
def test_row_that_is_none(row, on_images, digits):
    with pytest.raises(ValueError, match=rf"row={row!r} must be an integer from 0 to 99, the place of a row in X\."):
        TraversalDisplay.from_estimator(on_images, digits[:100], row=row, image_shape=(8, 8))


@each_grid
def test_rows_with_one_code(name, on_images, digits):
    with pytest.raises(ValueError, match=r"The codes of X are all .* in vaetransformer0; give more rows, or another"):
        ALL[name](on_images, digits[[5, 5]], **IMAGES)


@each_display
def test_estimators_without_codes(name, digits):
    with pytest.raises(NotFittedError, match="VAETransformer instance is not fitted yet"):
        ALL[name](VAETransformer(), digits, **IMAGES)
    detector = VAEAnomalyDetector(2, max_iter=1, random_state=0).fit(digits[:50])
    with pytest.raises(ValueError, match=r"VAEAnomalyDetector has no transform( and no inverse_transform)?; take an"):
        ALL[name](detector, digits, **IMAGES)
    assert not plt.get_fignums()


@each_grid
def test_a_transformer_without_a_prior_needs_rows(name, digits):
    with pytest.raises(ValueError, match=r"This PCA draws no rows"):
        ALL[name](make_pipeline(StandardScaler(), PCA(2)).fit(digits), None, **IMAGES)


def test_a_plane_of_one_latent(digits):
    vae = VAETransformer(1, max_iter=1, random_state=0).fit(digits[:50])
    with pytest.raises(ValueError, match=r"A plane needs two latents; VAETransformer has one\."):
        ManifoldDisplay.from_estimator(vae, image_shape=(8, 8))
    with pytest.raises(ValueError, match=r"A plane needs two latents; VAETransformer has one\."):
        LatentDisplay.from_estimator(vae, digits)
    assert TraversalDisplay.from_estimator(vae, n=2, image_shape=(8, 8)).ax_.get_title() == ""


def test_a_pipeline_says_not_how_much_columns_vary(digits):
    pipe = make_pipeline(StandardScaler(), VAETransformer(2, max_iter=1, random_state=0)).fit(digits[:50])
    with pytest.raises(ValueError, match=r"A pipeline draws no rows, so nothing says how much columns vary; give X"):
        TraversalDisplay.from_estimator(pipe)
