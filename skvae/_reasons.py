"""Why a detector calls a row an anomaly: by column, beside a normal row, and in words."""

from __future__ import annotations

from typing import Any

from sklearn.utils.validation import _check_feature_names_in

from ._base import SetOutput
from ._state import at_once
from ._tables.containers import framed, output_container
from ._verdicts import JudgesRows

__all__ = ["GivesReasons"]


class GivesReasons(SetOutput, JudgesRows):
    """What speaks against a row that a detector has judged."""

    @at_once
    def explain(self, X: Any) -> Any:
        """What every feature adds to a row's score, beside a typical training row.

        The criterion's own split over features; the part that belongs to the latents is shared out among the features
        by integrated gradients along the line from the most similar normal row (see `similar`) to the row, and what
        is left of it stands last.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        contributions : ndarray or DataFrame of shape (n_samples, n_features + 1)
            One column per feature and "latent". Negative is anomalous. A row sums to its score less the mean of
            `training_scores_`. A DataFrame after `set_output(transform="pandas")`.

        Raises
        ------
        ValueError
            If X breaks a rule, or a row is too far out to be explained: its score is -inf.
        """
        normality, rows = self._normality(), self._reader().read(X)
        values = normality.beside_typical(self._inference(), rows)
        names, schema = list(_check_feature_names_in(self)), self._reader().schema
        return framed(self, X, values, schema.labels_and(output_container(self), names, "latent"))

    @at_once
    def similar(self, X: Any) -> Any:
        """The most similar normal row that the model knows, for every row: what was expected in its place.

        The decoded code of a training row (among 1000 of them), which may differ much in a few features, but little in
        the others. `X - similar(X)` says by how much each feature is off, in data units.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        X_similar : ndarray or DataFrame of shape (n_samples, n_features)
            In data units, without gaps.
        """
        reader, inference = self._reader(), self._inference()
        rows = reader.read(X)
        values = inference.to_data(self._normality().similar(inference, rows))
        if reader.schema.categories or output_container(self) == reader.schema.library:
            return reader.schema.decoded(values, like=X)
        return framed(self, X, values, list(_check_feature_names_in(self)))
