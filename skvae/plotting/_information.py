"""InformationDisplay: what each latent tells of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from ._base import KNOWN, NORMAL, Array, Display
from ._codes import last_step
from ._columns import numbers_in

__all__ = ["InformationDisplay"]

# Labels of so many bars stand beside each other; those of more stand upright.
MOST_LEVEL = 9


@dataclass(eq=False)
class InformationDisplay(Display):
    """What each latent tells of a row, in nats, beside the principal components of the same columns.

    Made by :meth:`from_estimator`; `plot` draws it again elsewhere.
    A latent of 0 nats is not used: as many latents are needed as have a bar.
    A principal component of variance s tells log(s / noise) / 2 nats of a row in probabilistic PCA, the model in which
    `PCA.score` is a likelihood (Tipping and Bishop 1999); above its bar stands its share of the variance.

    Parameters
    ----------
    information : ndarray of shape (n_components,)
        Nats that each latent tells of a row, falling.
    pca_information : ndarray of shape (n_principal,) or None, default=None
        Nats that each principal component tells; None where no rows were given.
    explained : ndarray of shape (n_principal,) or None, default=None
        The components' shares of the variance.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the picture.
    figure_ : matplotlib Figure
        Their figure.
    artists_ : dict
        What was drawn: "bars"; "pca", "shares" (their labels) and "legend" where rows were given.

    References
    ----------
    Tipping, M. E. and Bishop, C. M. (1999). Probabilistic Principal Component Analysis. Journal of the Royal
    Statistical Society B 61.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.plotting import InformationDisplay
    >>> X = load_wine().data
    >>> vae = VAETransformer(4, max_iter=20, random_state=0).fit(X)
    >>> display = InformationDisplay.from_estimator(vae, X)
    >>> display.explained.round(2)
    array([0.36, 0.19, 0.11, 0.07])
    """

    __module__ = "skvae.plotting"

    information: Array
    pca_information: Array | None = None
    explained: Array | None = None

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any = None, *, ax: Any = None, **kwargs: Any) -> Self:
        """Draw what each latent tells.

        Parameters
        ----------
        estimator : VAETransformer
            Fitted; or a detector, a classifier, a search over the number of latents, or a pipeline that ends in one.
        X : array-like of shape (n_samples, n_features), default=None
            Rows, best those of `fit`. PCA with as many components is fitted to their columns of numbers, scaled as the
            estimator scales them; a missing cell counts as the column's mean. None: latents alone.
        ax : matplotlib Axes, default=None
            Where to draw. None: a new figure.
        **kwargs : dict
            For the latents' bars (`Axes.bar`).

        Returns
        -------
        display : InformationDisplay
            What was drawn.

        Raises
        ------
        ValueError
            If the estimator does not say what its latents tell.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        last = last_step(estimator)
        if not hasattr(last, "latent_information_"):
            raise ValueError(
                f"This {type(last).__name__} does not say what its latents tell; take an estimator of skvae whose "
                "objective has a posterior."
            )
        information = np.asarray(last.latent_information_)
        if X is None:
            return cls(information).plot(ax, **kwargs)
        rows = estimator[:-1].transform(X) if isinstance(estimator, Pipeline) and len(estimator) > 1 else X
        return cls(information, *_principal(last, rows)).plot(ax, **kwargs)

    @property
    def _size(self) -> tuple[float, float]:
        return (6.4, 4.0)

    def _draw(self, ax: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        beside = self.pca_information is not None
        width = 0.4 if beside else 0.8
        places = np.arange(len(self.information))
        bars = {"width": width, "color": NORMAL, "label": "VAE's latents"}
        artists = {"bars": ax.bar(places - (width / 2 if beside else 0), self.information, **bars | kwargs)}
        if self.pca_information is not None and self.explained is not None:
            right = places[: len(self.pca_information)] + width / 2
            bars |= {"color": KNOWN, "label": "PCA's components (above: share of the variance)"}
            artists["pca"] = ax.bar(right, self.pca_information, **bars)
            texts = [f"{share:.0%}" for share in self.explained]
            upright = {"rotation": 90} if len(texts) > MOST_LEVEL else {}
            artists["shares"] = ax.bar_label(artists["pca"], texts, padding=2, fontsize="x-small", **upright)
            ax.margins(y=0.25)  # for the legend
            artists["legend"] = ax.legend(frameon=False, fontsize="small")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel="latent", ylabel="nats per row")
        ax.spines[["top", "right"]].set_visible(False)
        return ax, artists


def _principal(estimator: Any, X: Any) -> tuple[Array, Array]:
    """Nats that each principal component of the scaled columns tells, and its share of the variance."""
    columns = numbers_in(X)
    if len(columns) < 2:
        raise ValueError("PCA needs two columns of numbers; leave X out.")
    scaled = [(values - estimator.mean_[c]) / estimator.scale_[c] for c, values in columns.items()]
    table = np.nan_to_num(np.column_stack(scaled))
    # As many components as columns leave no noise.
    pca = PCA(min(len(estimator.latent_information_), len(columns) - 1, len(table) - 1)).fit(table)
    noise = max(pca.noise_variance_, np.finfo(np.float64).tiny)
    information = np.maximum(0.0, np.log(np.maximum(pca.explained_variance_, noise) / noise) / 2)
    return information, pca.explained_variance_ratio_
