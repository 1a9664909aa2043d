"""Numbers to compare fitted models by, where there is no likelihood to compare."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length
from torch import Tensor

from ._base import BaseVAE
from ._inference.blocks import filled, refuse_far_rows
from ._inference.scores import block_rows, squared_error

__all__ = ["reconstruction_error"]


def __dir__() -> list[str]:
    return __all__


def reconstruction_error(estimator: Any, X: Any, y: Any = None) -> float:
    """Minus the mean squared error of reconstructions, per present cell: a scorer for searches, higher is better.

    What `scoring=` of `GridSearchCV` and `cross_val_score` takes, for models of every objective: a plain autoencoder
    has no likelihood to be compared by. Errors are in standardised units: of numbers, -1 is what the means of the
    columns would get, and 0 a copy. They are what objectives without a likelihood train on, in the units that the
    encoder sees: standard deviations of the columns (of all together under a shared noise), log counts, and for a cell
    of categories the squared error of its probabilities. So compare models of the same likelihood.

    More latents lower the error nearly always, on rows that no model has seen, too: it does not tell how many to take.

    Parameters
    ----------
    estimator : VAETransformer, VAEAnomalyDetector or Pipeline
        A fitted one, or a fitted pipeline whose last step is one; its other steps transform X first.
    X : array-like of shape (n_samples, n_features)
        Rows; NaN marks a missing cell, which has no error.
    y : array-like of shape (n_samples, n_features), default=None
        The rows to be rebuilt from X, where the objective is trained towards such; ignored otherwise.

    Returns
    -------
    score : float
        At most 0.

    Raises
    ------
    ValueError
        If X breaks a rule, holds no present cell, or holds a row so far outside the training data that its code is not
        finite.
    TypeError
        If the estimator is no model of skvae.

    See Also
    --------
    skvae.VAETransformer.score : The likelihood, for objectives that train one.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skvae import VAETransformer
    >>> from skvae.metrics import reconstruction_error
    >>> vae = VAETransformer(max_iter=5, random_state=0)
    >>> search = GridSearchCV(vae, {"n_components": [1, 2]}, scoring=reconstruction_error, cv=3)
    >>> search.fit(load_iris().data).best_params_
    {'n_components': 2}
    """
    if isinstance(estimator, Pipeline):
        if len(estimator) > 1:
            X = estimator[:-1].transform(X)
        estimator = estimator[-1]
    if not isinstance(estimator, BaseVAE):
        raise TypeError(
            "reconstruction_error scores skvae's models, and pipelines that end in one; "
            f"it got a {type(estimator).__name__}."
        )
    reader, inference = estimator._reader(), estimator._inference()
    seen, compared = reader.read(X), None
    if estimator._fitted().specs["objective"].target == "row":
        if y is None:
            raise ValueError(f"objective={estimator.objective!r} is trained towards y; give reconstruction_error a y.")
        compared = reader.read(y)
        check_consistent_length(seen, compared)

    def of(part: slice) -> Tensor:
        rows = inference.rows(seen[part])
        return squared_error(inference.model, rows, rows if compared is None else inference.rows(compared[part]))

    found = filled(len(seen), block_rows(inference.model, 1), of, np.float64, inference.device, threads=True)
    refuse_far_rows(found, range(len(seen)))
    total, n_cells = found.sum(axis=0)
    if not n_cells:
        raise ValueError("X holds no present cell, so there is no error to average.")
    return -float(total / n_cells)
