"""Why a detector calls a row an anomaly: by column, beside a normal row, and in words."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _check_feature_names_in

from ._base import SetOutput, takes_gaps
from ._inference.blocks import Inference
from ._inference.scores import completed
from ._params import check_count
from ._state import at_once
from ._tables.containers import framed, output_container
from ._tables.frames import frame_library, table_of_lines
from ._tables.moments import Array
from ._verdicts import JudgesRows
from ._words import reason

__all__ = ["GivesReasons"]

# Levels of a normal variable's mean, and of one standard deviation below and above it.
LEVELS = norm.cdf([-1.0, 0.0, 1.0])
# How the line is called that holds what other columns add to a row's score.
ELSE = "everything else"


class Suggested(NamedTuple):
    """What a cell's row suggests for it, by its other cells: (M,) each.

    Attributes
    ----------
    middle : ndarray
        In data units; a category's code. NaN where the others suggest nothing.
    spread : ndarray
        One standard deviation, in data units; NaN where there is none.
    chances : list of (float, float) or None
        Of categories, zeros and ones: how likely the cell's own is, and the likeliest.
    """

    middle: Array
    spread: Array
    chances: list[tuple[float, float] | None]


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

    @available_if(takes_gaps)
    @at_once
    def describe(self, X: Any, *, n_columns: int = 3) -> Any:
        """The reasons in words: the columns that make each row less normal, and what was expected of them.

        A line for each of the `n_columns` columns that lower a row's score most, the worst first, and one for
        everything else, so that a row's lines sum to its score less the mean of `training_scores_`, as `explain`'s
        columns do. What is expected of a cell is what the model says of it given the row's other cells, the cell itself
        hidden: the median of p(cell | others), and half of the distance between its quantiles at 16 and 84 %, which is
        the standard deviation where the distribution is normal and exists where tails are heavy; of categories the
        likeliest. So an absurd cell speaks against itself, not against those that go with it. Under an objective
        without a density it is the reconstruction with the cell hidden, and has no standard deviation.

        A row takes as long as the imputation of `n_columns` rows: describe the rows that were called, not the table.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.
        n_columns : int, default=3
            Columns to name for each row, at most. Columns that the model is given (see :class:`Mixed`) are no reasons.

        Returns
        -------
        reasons : DataFrame or list of dict
            A line per row and column, under the row's label where X is a pandas frame: "row", its place in X;
            "column", its name, or "everything else"; "contribution", negative where it makes the row less normal;
            "value", the cell; "expected"; "deviations", by how many standard deviations the value lies above that, NaN
            for categories, and for zeros and ones; "chance", how likely the cell's category, zero or one is given the
            others, NaN for numbers; "similar", the most similar normal row's cell; "reason", the sentence. A frame of
            X's library, or of the one that `set_output` asks for; elsewhere a list of dicts, of which
            `pandas.DataFrame` makes one.

        Raises
        ------
        ValueError
            If a parameter or X breaks a rule, or a row is too far out to be explained: its score is -inf.
        """
        check_count("n_columns", n_columns)
        inference, normality, reader = self._inference(), self._normality(), self._reader()
        rows = np.asarray(reader.read(X)[:], dtype=np.float64)
        parts = normality.beside_typical(inference, rows)
        modelled = np.flatnonzero(~inference.model.likelihood.given_columns)
        worst = modelled[np.argsort(parts[:, modelled], axis=1, kind="stable")[:, :n_columns]]
        place = np.arange(len(rows)).repeat(worst.shape[1])
        of_two = {c for member, own in reader.likelihood.assigned(rows.shape[1]) if member.yes_or_no for c in own}
        found = _suggested(inference, rows[place], worst.ravel(), set(reader.schema.categories), of_two)
        similar = inference.to_data(normality.similar(inference, rows))
        lines = self._lines(rows, similar, place, worst.ravel(), parts, found)
        rest = parts.sum(axis=1) - np.take_along_axis(parts, worst, axis=1).sum(axis=1)
        for number in reversed(range(len(rows))):
            lines.insert((number + 1) * worst.shape[1], _rest(number, float(rest[number])))
        library = frame_library(X) if (asked := output_container(self)) == "default" else asked
        return table_of_lines(library, lines, X)

    def _lines(
        self, rows: Array, similar: Array, place: np.ndarray, columns: np.ndarray, parts: Array, found: Suggested
    ) -> list[dict[str, Any]]:
        """A line for each of these cells, by the numbers of its row and column."""
        schema = self._reader().schema
        names = list(map(str, _check_feature_names_in(self) if schema.names is None else schema.names))
        lines = []
        for (row, column), middle, spread, chances in zip(zip(place, columns, strict=True), *found, strict=True):
            value, expected, near = (schema.cell(v, column) for v in (rows[row, column], middle, similar[row, column]))
            away = float((rows[row, column] - middle) / spread) if spread > 0 else np.nan
            lines.append(
                {
                    "row": int(row),
                    "column": names[column],
                    "contribution": float(parts[row, column]),
                    "value": value,
                    "expected": expected,
                    "deviations": away,
                    "chance": np.nan if chances is None else chances[0],
                    "similar": near,
                    "reason": reason(names[column], value, expected, near, away, chances),
                }
            )
        return lines


def _rest(row: int, part: float) -> dict[str, Any]:
    """The line of what no line names."""
    words = f"all other columns, and how the columns go together, make the row {'less' if part < 0 else 'more'} normal"
    cells = dict.fromkeys(("value", "expected"))
    numbers = dict.fromkeys(("deviations", "chance"), np.nan)
    return {"row": row, "column": ELSE, "contribution": part, **cells, **numbers, "similar": None, "reason": words}


def _suggested(
    inference: Inference, X: Array, columns: np.ndarray, categories: set[int], of_two: set[int]
) -> Suggested:
    """What the rows of X suggest for their cells of these columns, one each, by their other cells: (M,).

    `of_two` are columns of zeros and ones; a fraction there is a number as others are.
    """
    cell = np.arange(len(X)), columns
    own, hidden = X[cell], X.copy()
    hidden[cell] = np.nan
    chances: list[tuple[float, float] | None] = [None] * len(X)
    if not inference.model.is_density:
        values = inference.to_data(inference.by_blocks(hidden, completed))
        return Suggested(values[cell], np.full(len(X), np.nan), chances)
    middle, spread = np.full(len(X), np.nan), np.full(len(X), np.nan)
    whole = np.isnan(own) | np.isin(own, (0, 1))
    number = ~(np.isin(columns, list(categories)) | np.isin(columns, list(of_two)) & whole)
    if number.any():
        values = inference.scale.to_data(inference.conditional_quantiles(hidden[number], LEVELS)[0])
        values = values[np.arange(len(values)), :, columns[number]]
        low, middle[number], high = values.T
        # Of yes or no a distance says nothing.
        spread[number] = np.where(np.isin(values, (0, 1)).all(axis=1), np.nan, 0.5 * (high - low))
    for column in set(columns[~number].tolist()):
        at = np.flatnonzero(~number & (columns == column))
        likely = inference.marginal(hidden[at], column)
        if column in of_two:
            likely = np.hstack([1 - likely, likely])
        finite = np.isfinite(likely).all(axis=1)
        middle[at[finite]] = likely[finite].argmax(axis=1)
        for i, share in zip(at[finite], likely[finite], strict=True):
            code = own[i]
            chances[i] = (np.nan if np.isnan(code) else float(share[int(code)]), float(share.max()))
    return Suggested(middle, spread, chances)
