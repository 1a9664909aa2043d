"""Pictures of fitted estimators, made through their public methods; matplotlib is imported when one is drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import _num_samples, check_is_fitted

from ._params import Count

__all__ = ["AnomalyDisplay", "Explanation", "Image", "Picture", "Scores"]

ANOMALOUS, NORMAL, KNOWN = "#cc3311", "#4477aa", "#bbbbbb"
# Bars of a histogram, about.
BINS = 40
# Where a score lies further below the threshold than this many times the training scores' spread, the axis is bent;
# what is lower than the second number of times is not shown.
BENT, FURTHEST = 8.0, 1e9
# Ticks of a bent axis, and the largest exponent in its inverse, which matplotlib also tries outside the picture.
TICKS, MOST_EXPONENT = 7, 600.0
# Percentile of the pixels' contributions, by size, at which the colours end.
SHOWN_PERCENT = 99
# Characters of a feature's name that are shown.
MOST_LETTERS = 32

Array = NDArray[np.float64]


class AnomalyDisplay:
    """Pictures of what a :class:`VAEAnomalyDetector` says of some rows.

    Made by :meth:`from_estimator`; `plot` draws it again elsewhere.

    Parameters
    ----------
    picture : Scores, Explanation or Image
        What is shown.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the picture; an array of three for kind="image".
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn, by name.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAEAnomalyDetector
    >>> from skvae.plotting import AnomalyDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> detector = VAEAnomalyDetector(random_state=0).fit(X[y == 0])
    >>> display = AnomalyDisplay.from_estimator(detector, X, kind="explanation", row=177)
    >>> display.picture.contributions.shape  # a number a column, and one for the latents
    (14,)
    >>> len(display.artists_["bars"])  # the 10 largest, the sum of the other columns, and the latents
    12
    """

    __module__ = "skvae.plotting"

    def __init__(self, picture: Picture):
        self.picture = picture

    @classmethod
    def from_estimator(
        cls,
        detector,
        X,
        *,
        kind="scores",
        row=None,
        n_features=10,
        feature_names=None,
        image_shape=None,
        ax=None,
        **kwargs,
    ):
        """Draw rows as a fitted detector sees them.

        Parameters
        ----------
        detector : VAEAnomalyDetector
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.
        kind : {"scores", "explanation", "image"}, default="scores"
            - "scores": a histogram of the rows' scores beside those of the training rows, and the threshold.
            - "explanation": what each column adds to the score of one row, as bars. Beside them stand the row's
              values and, in brackets, by how much they differ from those of the most similar normal row.
            - "image": one row as an image, the most similar normal image, and what each pixel adds to the score.
        row : int, default=None
            The place in X of the row to explain. None: the row with the lowest score.
        n_features : int, default=10
            How many columns an explanation shows, largest contributions first; it shows the sum of the others too.
        feature_names : sequence of str, default=None
            Names of the columns. None: those the detector was fitted with.
        image_shape : tuple of int, default=None
            (height, width) or (height, width, channels) of a row. None: a square.
        ax : matplotlib Axes, default=None
            Where to draw; labels need room, so make figures with `layout="constrained"`. For kind="image" its place
            is shared by three axes; an array of three is taken as well. None: a new figure.
        **kwargs : dict
            For the histogram of X (`Axes.bar`), the bars (`Axes.barh`) or the heat map (`Axes.imshow`).

        Returns
        -------
        display : AnomalyDisplay

        Raises
        ------
        ValueError
            If a parameter breaks a rule, or the row is too far out to be explained.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(detector)
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} must be one of {', '.join(map(repr, KINDS))}.")
        wishes = Wishes(row, n_features, feature_names, image_shape)
        return cls(KINDS[kind].of(detector, X, wishes)).plot(ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw the picture.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            As in `from_estimator`.
        **kwargs : dict
            As in `from_estimator`.

        Returns
        -------
        display : AnomalyDisplay
            The display itself.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=self.picture.size, layout="constrained")
        self.ax_, self.artists_ = self.picture.draw(ax, **kwargs)
        self.figure_ = np.ravel(self.ax_)[0].figure
        return self


class Wishes(NamedTuple):
    """Parameters of `AnomalyDisplay.from_estimator` of the same names."""

    row: int | None
    n_features: int
    feature_names: Sequence[str] | None
    image_shape: tuple[int, ...] | None


class Picture(ABC):
    """What one kind of picture shows, and how it is drawn.

    Attributes
    ----------
    size : (float, float)
        Of a new figure, in inches.
    """

    size: ClassVar[tuple[float, float]]

    @classmethod
    @abstractmethod
    def of(cls, detector: Any, X: Any, wishes: Wishes) -> Picture:
        """What the detector says of the rows of X."""

    @abstractmethod
    def draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Draw it in the place of `ax`; return the axes used, and what was drawn by name."""


@dataclass(eq=False)
class Scores(Picture):
    """A histogram of scores, with the threshold.

    Attributes
    ----------
    scores, training_scores : arrays of shape (n,)
        May hold -inf.
    offset : float
        The threshold.
    """

    scores: Array
    training_scores: Array
    offset: float

    size: ClassVar[tuple[float, float]] = (7.5, 4.0)

    @classmethod
    def of(cls, detector: Any, X: Any, wishes: Wishes) -> Scores:
        return cls(detector.score_samples(X), detector.training_scores_, detector.offset_)

    def draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        axis = _ScoreAxis.of(np.concatenate([self.scores, self.training_scores]), self.offset, self.training_scores)
        new, known = (s[s >= axis.lowest] for s in (self.scores, self.training_scores))
        both = np.concatenate([new, known])
        axis.set(ax, both)
        edges = axis.edges(both)
        shares = np.histogram(known, edges)[0] / len(self.training_scores)
        label = f"training rows ({len(self.training_scores):,})"
        artists = {"training": ax.stairs(shares, edges, fill=True, color=KNOWN, label=label)}
        shares = np.histogram(new, edges)[0] / len(self.scores)
        low = self.scores < self.offset
        for name, bars, n_rows, colour in (
            ("normal", edges[:-1] >= self.offset, (~low).sum(), NORMAL),
            ("anomalies", edges[:-1] < self.offset, low.sum(), ANOMALOUS),
        ):
            style = {"align": "edge", "color": colour, "alpha": 0.75, "label": f"{name} ({n_rows:,})"}
            artists[name] = ax.bar(edges[:-1][bars], shares[bars], np.diff(edges)[bars], **style | kwargs)
        # A few anomalies among thousands of rows are too low a bar to be seen.
        marks = new[new < self.offset]
        style = {"color": ANOMALOUS, "alpha": 0.6, "markersize": 7, "transform": ax.get_xaxis_transform()}
        (artists["marks"],) = ax.plot(marks, np.full(len(marks), 0.015), "|", **style)
        label = f"threshold {_number(self.offset)}"
        artists["threshold"] = ax.axvline(self.offset, color="black", linestyle="--", linewidth=1, label=label)
        if n_off := len(self.scores) - len(new):
            text = f"\N{LEFTWARDS ARROW} off the scale: {n_off:,}"
            artists["off"] = ax.text(0.01, 0.08, text, color=ANOMALOUS, transform=ax.transAxes)
        ax.set(xlabel=axis.label, ylabel="share of the rows")
        ax.legend(frameon=False, fontsize="small")
        ax.spines[["top", "right"]].set_visible(False)
        return ax, artists


@dataclass(eq=False)
class Explanation(Picture):
    """What each column adds to the score of one row.

    Attributes
    ----------
    row : int
        The row's place in the table.
    values, similar : arrays of shape (n_features,)
        The row, and the most similar normal row.
    contributions : array of shape (n_features + 1,)
        One a column and a last one for the latents.
    score, typical, offset : float
        The row's score, the mean of the training scores, and the threshold.
    names : list of str
        Of the columns.
    n_shown : int
        How many columns are drawn.
    """

    row: int
    values: Array
    similar: Array
    contributions: Array
    score: float
    typical: float
    offset: float
    names: list[str]
    n_shown: int

    size: ClassVar[tuple[float, float]] = (7.5, 4.8)

    @classmethod
    def of(cls, detector: Any, X: Any, wishes: Wishes) -> Explanation:
        if not Count().is_satisfied_by(wishes.n_features):
            raise ValueError(f"n_features={wishes.n_features!r} must be an integer above 0.")
        seen = _Row.of(detector, X, wishes.row)
        names = wishes.feature_names
        if names is None:
            names = getattr(detector, "feature_names_in_", [f"x{i}" for i in range(len(seen.values))])
        if len(names) != len(seen.values):
            raise ValueError(f"feature_names has {len(names)} names; X has {len(seen.values)} columns.")
        typical = float(np.ma.masked_invalid(detector.training_scores_).mean())
        return cls(*seen, typical, float(detector.offset_), [str(name) for name in names], wishes.n_features)

    def draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        names, beside, parts = self._lines()
        places = np.arange(len(names))
        colours = np.where(parts < 0, ANOMALOUS, NORMAL)
        bars = ax.barh(places, parts, **{"color": colours, "height": 0.7} | kwargs)
        for bar in bars[sum(map(bool, beside)) :]:
            bar.set_alpha(0.5)
        numbers = ax.bar_label(bars, [_number(v, 3, "+") for v in parts], padding=3, fontsize="small")
        ax.axvline(0, color="black", linewidth=0.8)
        ax.margins(x=0.18)
        ax.set_yticks(places, names)
        ax.invert_yaxis()
        values = ax.secondary_yaxis("right")
        values.set_yticks(places, beside)
        values.set_ylabel("value (minus the most similar normal row's)")
        for side in (ax, values):
            side.tick_params(axis="y", length=0)
            side.spines[:].set_visible(False)
        ax.spines["bottom"].set_visible(True)
        ax.set_xlabel("contribution to the score (negative: less normal than a typical row)")
        ax.set_title(
            f"Row {self.row}: score {_number(self.score)}, typical {_number(self.typical)}, "
            f"threshold {_number(self.offset)}",
            fontsize="medium",
        )
        return ax, {"bars": bars, "numbers": numbers, "values": values}

    def _lines(self) -> tuple[list[str], list[str], Array]:
        """Names, what stands beside them, and contributions, from top to bottom."""
        columns = self.contributions[:-1]
        order = np.argsort(-np.abs(columns), kind="stable")
        shown, others = order[: self.n_shown], order[self.n_shown :]
        names, beside = [_short(self.names[i]) for i in shown], [self._beside(i) for i in shown]
        parts = [*columns[shown]]
        if len(others):
            names.append(f"{len(others)} other column{'s' if len(others) > 1 else ''}")
            parts.append(columns[others].sum())
        names.append("latent")
        parts.append(self.contributions[-1])
        return names, beside + [""] * (len(names) - len(beside)), np.array(parts)

    def _beside(self, column: int) -> str:
        value = self.values[column]
        if np.isnan(value):
            return "missing"
        return f"{_number(value)} ({_number(value - self.similar[column], 3, '+')})"


@dataclass(eq=False)
class Image(Picture):
    """An image, the most similar normal one, and what each pixel adds to the score.

    Attributes
    ----------
    row : int
        The row's place in the table.
    values, similar : arrays of shape (height, width) or (height, width, channels)
    contributions : array of shape (height, width)
        Summed over channels.
    score, offset : float
        The row's score, and the threshold.
    """

    row: int
    values: Array
    similar: Array
    contributions: Array
    score: float
    offset: float

    size: ClassVar[tuple[float, float]] = (8.5, 3.0)

    @classmethod
    def of(cls, detector: Any, X: Any, wishes: Wishes) -> Image:
        seen = _Row.of(detector, X, wishes.row)
        shape = _image_shape(wishes.image_shape, len(seen.values))
        parts = seen.contributions[:-1].reshape(*shape[:2], -1).sum(axis=-1)
        values, similar = seen.values.reshape(shape), seen.similar.reshape(shape)
        return cls(seen.row, values, similar, parts, seen.score, float(detector.offset_))

    def draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        axes = _three(ax)
        artists: dict[str, Any] = {}
        low, span = _range(self.values, self.similar)
        for place, name, pixels in zip(axes, ("image", "similar"), (self.values, self.similar), strict=False):
            artists[name] = place.imshow(np.clip((pixels - low) / span, 0, 1), cmap="gray", vmin=0, vmax=1)
        sizes = np.abs(self.contributions)
        # A few pixels that hardly ever change in normal images would leave the others without colour.
        most = np.percentile(sizes, SHOWN_PERCENT) or sizes.max() or 1.0
        style = {"cmap": "RdBu", "vmin": -most, "vmax": most}
        artists["contributions"] = axes[2].imshow(self.contributions, **style | kwargs)
        extend = "both" if sizes.max() > most else "neither"
        artists["colorbar"] = axes[2].figure.colorbar(
            artists["contributions"], ax=axes[2], extend=extend, fraction=0.046
        )
        titles = (f"row {self.row}", "most similar normal image", "contributions to the score")
        for place, title in zip(axes, titles, strict=True):
            place.set_title(title, fontsize="medium")
            place.set(xticks=[], yticks=[])
        axes[0].set_xlabel(f"score {_number(self.score)}, threshold {_number(self.offset)}")
        return axes, artists


KINDS: dict[str, type[Picture]] = {"scores": Scores, "explanation": Explanation, "image": Image}


class _Row(NamedTuple):
    """One row as a detector sees it."""

    row: int
    values: Array
    similar: Array
    contributions: Array
    score: float

    @classmethod
    def of(cls, detector: Any, X: Any, row: int | None) -> _Row:
        n_rows = _num_samples(X)
        if row is None:
            row = int(np.argmin(detector.score_samples(X)))
        elif not Count(0).is_satisfied_by(row) or row >= n_rows:
            raise ValueError(f"row={row!r} must be an integer from 0 to {n_rows - 1}, the place of a row in X.")
        one = _safe_indexing(X, [row])
        score = float(detector.score_samples(one)[0])
        contributions = np.asarray(detector.explain(one))[0]
        if not np.isfinite(contributions).all():
            raise ValueError(
                f"Row {row} is too far out to be explained: its score is {score}. Look at X - detector.similar(X), or "
                "at another row."
            )
        values = np.asarray(one, dtype=np.float64)[0]
        return cls(int(row), values, np.asarray(detector.similar(one))[0], contributions, score)


class _ScoreAxis(NamedTuple):
    """An axis that is logarithmic below the threshold where scores lie far below it, else linear.

    t = s - offset, and -spread log(1 + (offset - s) / spread) for s < offset.

    Attributes
    ----------
    offset : float
        The threshold.
    spread : float
        Where the logarithm begins to bend; infinite for a linear axis.
    lowest : float
        The lowest score that is shown.
    """

    offset: float
    spread: float
    lowest: float = -np.inf

    @classmethod
    def of(cls, scores: Array, offset: float, training_scores: Array) -> _ScoreAxis:
        typical = float(np.median(training_scores))
        spread = typical - offset if typical > offset else 1.0
        lowest = offset - FURTHEST * spread
        bent = offset - scores[scores >= lowest].min(initial=offset) > BENT * spread
        return cls(offset, spread if bent else np.inf, lowest)

    @property
    def label(self) -> str:
        return "score" if np.isinf(self.spread) else "score (logarithmic below the threshold)"

    def bend(self, s: Any) -> Array:
        t = np.subtract(s, self.offset)
        if np.isinf(self.spread):
            return t
        return np.where(t < 0, -self.spread * np.log1p(np.maximum(-t, 0) / self.spread), t)

    def unbend(self, t: Any) -> Array:
        t = np.asarray(t)
        if np.isfinite(self.spread):
            t = np.where(t < 0, -self.spread * np.expm1(np.clip(-t / self.spread, 0, MOST_EXPONENT)), t)
        return t + self.offset

    def edges(self, scores: Array) -> Array:
        """Edges of bars that are equally wide on this axis; one edge is the threshold."""
        low, high = self.bend(np.array([min(scores.min(), self.offset), max(scores.max(), self.offset)]))
        step = (high - low) / BINS or 1.0
        n_below, n_above = int(np.ceil(-low / step)), max(1, int(np.ceil(high / step)))
        edges = self.unbend(step * np.arange(-n_below, n_above + 1))
        edges[n_below] = self.offset
        edges[[0, -1]] = min(edges[0], scores.min()), max(edges[-1], scores.max())
        return edges

    def set(self, ax: Any, scores: Array) -> None:
        """Make it the x axis."""
        if np.isinf(self.spread):
            return
        ax.set_xscale("function", functions=(self.bend, self.unbend))
        low, high = self.bend(np.array([scores.min(), scores.max()]))
        places: Any = np.linspace(float(low), float(high), TICKS)
        gap = places[1] - places[0]
        ticks = self.unbend(places)
        room = self.unbend(places + 0.2 * gap) - self.unbend(places - 0.2 * gap)
        ticks = np.unique([_rounded(*each) for each in zip(ticks, room, strict=True)])
        ticks = ticks[np.diff(self.bend(ticks), append=np.inf) > 0.7 * gap]
        ax.set_xticks(ticks, [_number(tick) for tick in ticks])
        ax.minorticks_off()


def _three(ax: Any) -> NDArray[Any]:
    """Three axes in the place of one, or three that were given."""
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        axes = np.ravel(np.asarray(ax, dtype=object))
        if len(axes) != 3:
            raise ValueError(f"kind='image' draws in three axes; ax holds {len(axes)}.")
        return axes
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError("kind='image' needs an ax made by plt.subplots, or three axes.")
    ax.set_axis_off()
    parts = place.subgridspec(1, 3)
    return np.array([ax.figure.add_subplot(parts[i]) for i in range(3)], dtype=object)


def _range(image: Array, other: Array) -> tuple[float, float]:
    """Least value and range of an image; of both where the first has only one value."""
    image, both = (values[~np.isnan(values)] for values in (image, np.stack([image, other])))
    values = image if len(image) and np.ptp(image) > 0 else both
    return float(values.min()), float(np.ptp(values)) or 1.0


def _image_shape(shape: tuple[int, ...] | None, n_features: int) -> tuple[int, ...]:
    if shape is None:
        side = round(n_features**0.5)
        if side * side != n_features:
            raise ValueError(f"{n_features} columns are no square image; give image_shape=(height, width).")
        return side, side
    shape = tuple(shape)
    if len(shape) not in (2, 3) or int(np.prod(shape)) != n_features:
        raise ValueError(
            f"image_shape={shape} must be (height, width) or (height, width, channels) with a product of {n_features}, "
            "the number of columns."
        )
    return shape


def _rounded(value: Any, room: Any) -> float:
    """`value` to the coarsest multiple of 1, 2 or 5 times a power of ten that moves it by less than `room`."""
    power = 10.0 ** np.floor(np.log10(room))
    unit = power * max(factor for factor in (1, 2, 5) if factor * power <= room)
    return float(unit * np.round(value / unit))


def _number(value: float, digits: int = 4, sign: str = "") -> str:
    """So many digits, or a whole number, where that stays readable."""
    whole = 10.0**digits <= abs(value) < 1e9
    comma = "," if abs(value) >= 1e4 else ""
    text = f"{value:{sign}{comma}.0f}" if whole else f"{value:{sign}.{digits}g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _short(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
