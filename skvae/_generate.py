"""Rows a fitted model draws: new ones, and the missing cells of others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from ._base import BaseVAE, offers, takes_gaps
from ._chunk import continue_fit
from ._codes import Codes, with_codes, with_rows
from ._codes import fault as fault_of_codes
from ._conditions import completed as completed_given
from ._conditions import rows_of
from ._fit import Fit, Task, fit_model
from ._inference.blocks import Inference, refuse_far_rows
from ._inference.draws import FEW_EFFECTIVE, MOST_POINTS
from ._inference.scores import completed
from ._params import Count, RandomState, check_count
from ._reservoir import Reservoir
from ._reservoir import fault as fault_of_reservoir
from ._saved import Rule
from ._settings import FitSettings
from ._state import at_once
from ._tables.containers import in_frame, unpack_container
from ._tables.frames import emptied, frame_library
from ._tables.given import place_of, repeated, table_of_given
from ._tables.moments import Array, at_most
from ._tables.reader import TableReader, TrainingRows
from ._torch import draw_seed, make_generator, torch_scope
from .model import VAE

__all__ = ["DrawsRows"]

# Rows that a warning names.
NAMED_ROWS = 5
# What is wanted of missing cells where neither draws nor quantiles are.
MEANS = range(1)


class _Cells(NamedTuple):
    """A table in numbers, which of its cells are missing, and the numbers of the rows that lack one."""

    numbers: Array
    gaps: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, numbers: Array) -> _Cells:
        gaps = np.isnan(numbers)
        return cls(numbers, gaps, np.flatnonzero(gaps.any(axis=1)))


class DrawsRows(BaseVAE):
    """`sample` and `impute`, which a transformer has and a detector does not; the codes that `sample` draws around."""

    _parameter_constraints: ClassVar[dict] = {**BaseVAE._parameter_constraints, "keep_codes": ["boolean"]}

    _leaves: ClassVar[dict[str, Rule | None]] = {
        **BaseVAE._leaves,
        "_codes": Rule("codes of training rows", lambda v, D, J: fault_of_codes(v, D, J) is None),
        "_reservoir": Rule("rows, weights and keys", lambda v, D, J: fault_of_reservoir(v, D) is None),
    }

    keep_codes: bool

    @available_if(takes_gaps)
    @at_once
    def impute(
        self,
        X: Any,
        *,
        n_draws: int | None = None,
        quantiles: Sequence[float] | None = None,
        random_state: RandomState = None,
    ) -> Any:
        """Fill missing cells given the row's other cells: with their conditional mean, with draws, or with quantiles.

        E[x_missing | x_present], with `n_draws` latents (the estimator's parameter) weighted by how likely they make
        the present cells (Mattei & Frellsen 2019); the most likely category where a column holds categories. Under an
        objective without a density the gaps take the reconstruction (AutoRec, Sedhain et al. 2015), and go a part of
        the way to that of the row so filled where its other cells are rebuilt better by it; there are no draws and no
        quantiles then. Absent where the decoder reads the row it predicts.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.
        n_draws : int, default=None
            For multiple imputation: how many tables to draw from p(x_missing | x_present), which vary as much as the
            cells are uncertain.
        quantiles : array-like of float, default=None
            Levels between 0 and 1: one table for each, with that quantile of p(x_d | x_present) in every missing cell
            of numbers. [0.05, 0.95] are the ends of 90 % intervals. Categories have no quantiles, and their missing
            cells stay missing: `impute_proba` says how likely each is. Neither this nor `n_draws`: one table, of
            conditional means.
        random_state : int, RandomState or None, default=None
            Of the draws. None draws anew at every call.

        Returns
        -------
        X_filled : ndarray or DataFrame of shape (n_samples, n_features), or a list of these
            X, with present cells untouched. DataFrames where `fit` was given one. As many as draws or quantiles are
            asked for.

        Raises
        ------
        ValueError
            If a parameter or X breaks a rule, or a row with gaps lies so far outside the training data that its code
            is not finite.
        """
        inference, wanted = self._inference(), self._wanted(n_draws, quantiles)
        X = unpack_container(X)
        cells = _Cells.of(np.asarray(self._reader().read(X)[:]))
        rng = _generator(random_state, inference) if n_draws is not None and len(cells.rows) else None
        values = self._fillings(inference, cells, wanted, rng) if len(cells.rows) else None
        schema, gaps = self._fitted().schema, cells.gaps.copy()
        if quantiles is not None:
            gaps[:, list(schema.categories)] = False
        tables = []
        for number in range(len(wanted)):
            table = cells.numbers.copy()
            if values is not None:
                table[gaps] = at_most(values[:, number][gaps[cells.rows]], table.dtype)
            tables.append(schema.filled(X, table, gaps, drawn=wanted is not MEANS))
        return tables[0] if wanted is MEANS else tables

    @available_if(takes_gaps)
    @at_once
    def impute_proba(self, X: Any, column: Any) -> Any:
        """How likely each category of a column is, given the row's other cells.

        p(x_column | other cells), whether the cell is missing or not: what the cell says itself is left out. As a
        classifier's `predict_proba`, of any column, and from any of the others that are present. Points of the latents
        are weighted as for draws. Absent where the decoder reads the row it predicts.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.
        column : str or int
            The name of a column of categories, or its number where `fit` saw no names.

        Returns
        -------
        proba : ndarray or DataFrame of shape (n_samples, n_categories)
            Rows that sum to 1. Categories in rising order, or in that of their pandas or polars type; their names are
            the columns where `fit` was given a DataFrame.

        Raises
        ------
        ValueError
            If the column is unknown, given to the model, or holds no categories, the objective trains no density, X
            breaks a rule, or a row lies so far outside the training data that nothing can be said of it.
        """
        inference, schema = self._inference(), self._fitted().schema
        given = inference.model.likelihood.given_columns
        place = place_of(column, schema, len(given))
        if given[place] or place not in schema.categories:
            lacks = "is given to the model, which says nothing of it" if given[place] else "holds numbers"
            raise ValueError(f"{schema.label(place)} {lacks}; impute_proba is for categories that are modelled.")
        if not inference.model.is_density:
            raise ValueError(f"objective={self._fitted().specs['objective']!r} trains no density; use impute(X).")
        X = unpack_container(X)
        numbers = np.array(self._reader().read(X)[:])
        numbers[:, place] = np.nan
        proba = inference.marginal(numbers, place)
        refuse_far_rows(proba, np.arange(len(proba)))
        if schema.library is None:
            return proba
        known = schema.categories[place]
        names = known if schema.library == "pandas" else list(map(str, known))
        return in_frame(schema.library, X, proba, names)

    def _wanted(self, n_draws: int | None, quantiles: Any) -> range | list[float]:
        """The levels of quantiles, or the numbers of draws, or `MEANS`; ValueError for what breaks a rule."""
        if n_draws is not None and quantiles is not None:
            raise ValueError("n_draws and quantiles ask for different tables; give one of them.")
        if quantiles is not None:
            self._refuse_draws("quantiles")
            return _levels(quantiles)
        if n_draws is None:
            return MEANS
        if not Count().is_satisfied_by(n_draws):
            raise ValueError(f"n_draws={n_draws!r} must be an integer of at least 1, or None for conditional means.")
        self._refuse_draws("n_draws")
        return range(n_draws)

    def _fillings(self, inference: Inference, cells: _Cells, wanted: Any, rng: Any) -> np.ndarray:
        """What is wanted of the R rows with gaps, means, draws or quantiles, in data units: (R, tables, D)."""
        X = cells.numbers[cells.rows]
        if not inference.model.is_density:
            values = inference.by_blocks(X, lambda model, rows: completed(model, rows)[:, None])
        elif wanted is MEANS:
            values = inference.conditional_mean(X)[:, None]
        elif isinstance(wanted, range):
            values, n_effective = inference.conditional_draws(X, len(wanted), rng)
            _warn_of_few_points("Draws", n_effective, cells.rows)
        else:
            values, n_effective = inference.conditional_quantiles(X, sorted(wanted))
            _warn_of_few_points("Quantiles", n_effective, cells.rows)
            values = values[:, np.argsort(np.argsort(wanted))]
        refuse_far_rows(values, cells.rows)
        return inference.to_data(values)

    def _refuse_draws(self, parameter: str) -> None:
        """Raise ValueError where there is no p(x) to draw from."""
        if not self._inference().model.is_density:
            objective = self._fitted().specs["objective"]
            raise ValueError(f"objective={objective!r} trains no density to draw from; use {parameter}=None.")

    @available_if(offers("prior"))
    @at_once
    def sample(
        self,
        n_samples: int = 1,
        *,
        random_state: RandomState = None,
        prior: str = "aggregated",
        gaps: bool = False,
        given: Any = None,
    ) -> Any:
        """Draw new rows: a z, then x from p(x|z). Or rows of which some cells are given.

        By default z is a training row's code with the spread of q(z|x) around it: a draw of the aggregated posterior
        (Hoffman & Johnson 2016), which is where the decoder has learnt what rows look like (Tomczak & Welling 2018).
        Draws lie as much wider around a code as makes other rows' codes most likely, and nearer to all codes' mean by
        the same, a smoothed bootstrap of constant variance (Silverman 1986). `score_samples` is of p(z), the model's
        own prior.

        Under an objective that offers a prior but no density, x is the mean of p(x|z): its noise was never trained.
        Absent where the objective offers no prior.

        Where the model is given columns (:class:`skvae.Given`), a row has those of the training row whose code it is
        drawn around, unless `given` says others: they are kept beside the codes.

        With `given`, the other cells are drawn from p(others | given), as `impute` draws missing ones: no row is drawn
        and thrown away, so rare conditions take no longer than common ones.

        Parameters
        ----------
        n_samples : int, default=1
            Rows to draw; of every row of `given`, where there are some.
        random_state : int, RandomState or None, default=None
            None draws anew at every call.
        prior : {"aggregated", "model"}, default="aggregated"
            Where z comes from: around the codes of up to 5000 training rows, which are kept (see `keep_codes`), or from
            p(z), as always with `given`.
        gaps : bool, default=False
            Leave cells out as they are missing in the table: of every row those that the training row lacks whose code
            it was drawn around. Not from p(z), and not with `given`.
        given : dict, Series, DataFrame or array-like of shape (n_rows, n_features), default=None
            Cells that the rows are to have. A dict or a Series holds one row's, by their columns' names (numbers where
            `fit` saw none); a data frame holds some columns of one row or more; an array holds all columns. What is
            missing (None, NaN) is not given. Not under an objective without a density, nor with a decoder that reads
            the row it predicts.

        Returns
        -------
        X : ndarray or DataFrame of shape (n_samples, n_features) or (n_rows * n_samples, n_features)
            In data units. A DataFrame where `fit` was given one, with the same columns and types: those of whole
            numbers are rounded. Given cells are untouched; each given row's draws stand together, in the rows' order
            and, of a pandas frame, under the row's label.

        Raises
        ------
        ValueError
            If a parameter breaks a rule, no codes were kept to draw around, `given` has a column or a category that
            `fit` has not seen or is of a wrong shape, or one of its rows is too far from the training data.
        TypeError
            If `given` holds something that is no cell of a table.
        """
        model, inference = self._fitted(), self._inference()
        check_count("n_samples", n_samples)
        if prior not in ("aggregated", "model"):
            raise ValueError(f"prior={prior!r} must be 'aggregated' or 'model'.")
        if gaps and (prior == "model" or given is not None):
            raise ValueError("gaps=True leaves out what a training row lacks; use prior='aggregated' and given=None.")
        if given is not None:
            return self._sample_given(given, int(n_samples), inference, random_state)
        columns = inference.model.likelihood.given_columns
        codes = self._kept(inference) if prior == "aggregated" or columns.any() else None
        rng = _generator(random_state, inference)
        with torch_scope(rng.device, grad=False):
            if codes is not None:
                z, place = codes.draw(int(n_samples), rng)
            if prior == "model":
                z = inference.model.prior.sample(int(n_samples), rng, torch.float64)
        known = None if codes is None or codes.given is None else rows_of(codes.given[place], columns)

        def rows(model: VAE, z: Tensor, x: Tensor | None) -> Tensor:
            return model.sample(z, rng, x) if model.is_density else model.mean(z, x)

        found = model.schema.decoded(inference.decoded(z.cpu().numpy(), rows, known), typed=True)
        return emptied(found, codes.missing(place, len(columns))) if codes and gaps else found

    def _given_rows(self, given: Any, n_rows: int) -> Array | None:
        """Rows (n_rows, D) of what is given to decode for, NaN elsewhere; None where the model is given nothing."""
        model, reader = self._inference().model, self._reader()
        columns = model.likelihood.given_columns
        if not columns.any():
            if given is not None:
                raise ValueError("This model is given no columns, so there is nothing to decode for; use given=None.")
            return None
        names = ", ".join(reader.labels[column] for column in np.flatnonzero(columns))
        if given is None:
            raise ValueError(f"This model is given {names}: say what to decode for, by given=.")
        table = reader.read(table_of_given(given, self._fitted().schema, len(columns)), checked=False)[:]
        if len(table) not in (1, n_rows):
            raise ValueError(f"given has {len(table)} rows for {n_rows} latents; give one row, or one for each.")
        rows = rows_of(np.asarray(table, dtype=np.float64)[:, columns], columns)
        reader.check(rows)
        return np.broadcast_to(rows, (n_rows, len(columns)))

    def _kept(self, inference: Inference) -> Codes:
        """The codes of training rows; ValueError where none are kept."""
        state = vars(self)
        if "_codes" in state:
            return Codes(**state["_codes"])
        if "_reservoir" in state:
            known = Reservoir(**state["_reservoir"])
            return Codes.of(inference, known.X, known.weight)
        raise ValueError(
            "No codes of training rows are kept, as keep_codes=False asks or because the fit has not ended; use "
            "sample(prior='model'), and say by given= what the model is given, or fit with keep_codes=True."
        )

    def _learn(self, reader: TableReader, rows: TrainingRows, settings: FitSettings, epoch: Task) -> Fit:
        return self._with_codes(fit_model(reader, rows, settings, epoch), rows, settings)

    def _with_codes(self, fit: Fit, rows: TrainingRows, settings: FitSettings) -> Fit:
        """A fit to these rows, with their codes where they are to be kept and of use."""
        keeps = self.keep_codes and "prior" in fit.model.offers
        return with_codes(fit, rows, settings) if keeps else fit

    def _learn_chunk(self, reader: TableReader, rows: TrainingRows, settings: FitSettings) -> Fit:
        earlier = self._earlier()
        fit = continue_fit(reader, rows, settings, earlier)
        if not (self.keep_codes and "prior" in fit.model.offers):
            return fit
        return with_rows(fit, rows, earlier, None if earlier is None else self._inference())

    def _sample_given(self, given: Any, n_samples: int, inference: Inference, random_state: Any) -> Any:
        schema, decoder = self._fitted().schema, self._fitted().specs["decoder"]
        if getattr(decoder, "reads_x", False):
            raise ValueError(f"decoder={decoder!r} reads the row it predicts, which must be complete; use given=None.")
        self._refuse_draws("given")
        columns, reader = inference.model.likelihood.given_columns, self._reader()
        table = table_of_given(given, schema, len(columns))
        known = np.array(reader.read(table, checked=False)[:])
        absent = np.isnan(known)
        kept: Any = self._kept(inference) if absent[:, columns].any() else None
        # Before the generator is asked: a refused call draws nothing.
        reader.check(known if kept is None else np.where(absent, rows_of(kept.given[:1], columns), known))
        rng: Any = _generator(random_state, inference) if absent.any() else None
        if kept is not None:  # each draw has the given cells of a training row
            exact = np.isin(np.flatnonzero(columns), list(schema.categories))
            filled = completed_given(known[:, columns], n_samples, kept.given, kept.weight, exact, rng)
            known, absent = (np.repeat(values, n_samples, axis=0) for values in (known, absent))
            known[:, columns] = filled
            table, n_samples = repeated(table, n_samples, frame_library(given) is not None), 1
        cells = _Cells.of(known)
        numbers, gaps = (np.repeat(values, n_samples, axis=0) for values in (cells.numbers, cells.gaps))
        if len(cells.rows):
            values = self._fillings(inference, cells, range(n_samples), rng)
            numbers[gaps] = at_most(values[cells.gaps[cells.rows][:, None].repeat(n_samples, 1)], numbers.dtype)
        table = repeated(table, n_samples, frame_library(given) is not None)
        return schema.filled(table, numbers, np.repeat(absent, n_samples, axis=0), drawn=True)


def _generator(random_state: Any, inference: Inference) -> torch.Generator:
    """A generator where the model lies, seeded by what a user gave."""
    return make_generator(draw_seed(random_state), inference.device)


def _levels(quantiles: Any) -> list[float]:
    """Levels as numbers; ValueError where they are none between 0 and 1."""
    try:
        levels = np.asarray(quantiles, dtype=np.float64)
    except (TypeError, ValueError):
        levels = np.empty(0)
    if levels.ndim != 1 or not len(levels) or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(
            f"quantiles={quantiles!r} must be a list of numbers between 0 and 1, such as [0.05, 0.5, 0.95]."
        )
    return levels.tolist()


def _warn_of_few_points(what: str, n_effective: np.ndarray, row_numbers: np.ndarray) -> None:
    """Warn of rows of whose points only a few count, by their numbers."""
    few = row_numbers[n_effective < FEW_EFFECTIVE]
    if len(few):
        more = f" and {len(few) - NAMED_ROWS} more" if len(few) > NAMED_ROWS else ""
        warnings.warn(
            f"{what} of row(s) {', '.join(map(str, few[:NAMED_ROWS]))}{more} rest on fewer than {FEW_EFFECTIVE} "
            f"effective points z of {MOST_POINTS} and lie too close together: what is given there hardly ever occurs "
            "together under the model. Check these rows' cells, give fewer of them, or fit longer.",
            stacklevel=2,
        )
