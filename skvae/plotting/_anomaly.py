"""AnomalyDisplay: pictures of what a detector says of some rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from ._base import Display, Picture
from ._explanation import Explanation
from ._image import Image
from ._scores import Scores

__all__ = ["AnomalyDisplay"]


class AnomalyDisplay(Display):
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
    >>> display.picture.contributions.shape  # one per column, and one for the latents
    (14,)
    >>> len(display.artists_["bars"])  # the 10 largest, the sum of the other columns, and the latents
    12
    """

    __module__ = "skvae.plotting"

    def __init__(self, picture: Picture) -> None:
        self.picture = picture

    @classmethod
    def from_estimator(
        cls,
        detector: Any,
        X: Any,
        *,
        kind: str = "scores",
        row: int | None = None,
        n_features: int = 10,
        feature_names: Sequence[str] | None = None,
        image_shape: tuple[int, ...] | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw rows as a fitted detector sees them.

        Parameters
        ----------
        detector : VAEAnomalyDetector
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.
        kind : {"scores", "explanation", "image"}, default="scores"
            - "scores": a histogram of the rows' scores less the threshold, and of those of the training rows. Where a
              score is extremely low, the axis is logarithmic far from the threshold.
            - "explanation": what each column adds to the score of one row, as bars, and what belongs to the
              combination of all columns ("latent" in `explain`). Beside them stand the row's values and those of the
              most similar normal row.
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
            What was drawn.

        Raises
        ------
        ValueError
            If a parameter breaks a rule, or the row is too far out to be explained.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(detector)
        if not hasattr(detector, "explain"):
            raise ValueError(f"{type(detector).__name__} detects no anomalies; take a VAEAnomalyDetector.")
        pictures: dict[str, Callable[[], Picture]] = {
            "scores": lambda: Scores.of(detector, X),
            "explanation": lambda: Explanation.of(detector, X, row, n_features, feature_names),
            "image": lambda: Image.of(detector, X, row, image_shape),
        }
        if kind not in pictures:
            raise ValueError(f"kind={kind!r} must be one of {', '.join(map(repr, pictures))}.")
        return cls(pictures[kind]()).plot(ax, **kwargs)

    @property
    def _size(self) -> tuple[float, float]:
        return self.picture.size

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return self.picture.draw(ax, **kwargs)
