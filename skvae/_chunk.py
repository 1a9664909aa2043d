"""One call of partial_fit as a function: a model, or none yet, and a chunk of rows give the model an epoch later."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from ._fit import Fit, in_model_units, prepare, products, publish, start
from ._settings import FitSettings
from ._state import FittedModel
from ._tables.moments import Scale, within_rounding
from ._tables.reader import TableReader, TrainingRows
from ._tables.shared import Rows
from ._torch import make_generator, torch_scope
from ._training.loop import train
from .likelihoods import LikelihoodModule, column_sums

__all__ = ["check_same_specs", "continue_fit"]

# A chunk is refused where a column is so many times as large as the scale that the first chunk gave it: squared errors
# of one column are then all that training sees.
OUT_OF_SCALE = 1e3
# The same of a column that held one value there, whose scale is a guess.
OUT_OF_GUESS = 10.0


def continue_fit(
    reader: TableReader, table: TrainingRows, settings: FitSettings, earlier: dict[str, Any] | None
) -> Fit:
    """Train for one epoch on a chunk of rows: of a new model, or of the one in `earlier`, an estimator's attributes."""
    with torch_scope(settings.device, grad=True):
        if earlier is None:
            prepared = prepare(reader, table, settings, hold_out=False)
            model, rows = start(reader, prepared, settings).model, prepared.rows
            mean, scale = prepared.moments.mean, prepared.scale
        else:
            before = FittedModel.of(earlier)
            model, rows = before.rebuilt(torch.float32), in_model_units(table, before.scale, settings)
            mean, scale = earlier["mean_"], _checked(reader, table, rows, model.likelihood, before.scale)
        done, state = (0, None) if earlier is None else (earlier["n_iter_"], earlier["_solver_state"])
        rng, model = make_generator(settings.seed + done, settings.device), model.to(settings.device)
        how = settings.training(len(rows), False, max_iter=1, done=done, average=False)
        with products(model, settings, len(rows)):
            result = train(model, settings.objective, rows.to(settings.device), how, rng, solver_state=state)
        return publish(reader, model.cpu(), rows, mean, scale, settings, result, earlier)


def _checked(reader: TableReader, table: TrainingRows, rows: Rows, density: LikelihoodModule, scale: Scale) -> Scale:
    """The first chunk's scale, for a model that has also seen these rows; ValueError where it does not suit them."""
    seen, own = column_sums(rows, [density.encoding.encode, lambda x: x])
    density.reach(torch.tensor(own.high))
    mean, std, _ = seen.moments
    column_of = density.columns_of_inputs()
    constant = np.full(density.n_features, np.nan) if scale.constant is None else scale.constant
    varies = (table.sums.low < constant) | (table.sums.high > constant)
    varies &= ~within_rounding(table.sums.moments, constant)
    # Of flags and counts a first value sets no unit.
    guessed = varies[column_of] & (density.encoding.takes_noise.numpy() > 0)
    # What rounding makes of one value may be many units of a scale that all columns share.
    still_constant = (~np.isnan(constant) & ~varies)[column_of]
    size = np.where(still_constant, 0.0, np.hypot(mean, std))
    times = size / np.where(guessed, OUT_OF_GUESS, OUT_OF_SCALE)
    if times[worst := int(times.argmax())] > 1:
        guess = ", guessed from the one value it held there," if guessed[worst] else ""
        raise ValueError(
            f"{reader.labels[int(column_of[worst])]} is {size[worst]:.0e} times as large as the scale{guess} that the "
            "first chunk gave it and partial_fit keeps. Begin with a chunk that represents the table, or bring the "
            "column to that scale."
        )
    if scale.constant is None:
        return scale
    _warn_of_guesses(reader, np.unique(column_of[guessed]))
    return scale._replace(constant=np.where(varies, np.nan, constant))


def _warn_of_guesses(reader: TableReader, columns: np.ndarray) -> None:
    """Say which columns held one value in the first chunk and hold others now."""
    if len(columns):
        names = ", ".join(reader.labels[column] for column in columns[:5]) + (" and others" if len(columns) > 5 else "")
        warnings.warn(
            f"{names}: one value in the first chunk, and others now, so its scale is a guess. Begin with a chunk that "
            "represents the table.",
            UserWarning,
            stacklevel=6,
        )


def check_same_specs(settings: FitSettings, earlier: dict[str, Any]) -> None:
    """Raise ValueError where what the model is built from has changed since the first call of partial_fit."""
    changed = [name for name, asked in earlier["_asked"].items() if asked != repr(settings.specs[name])]
    if settings.n_components not in ("auto", earlier["n_components_"]):
        changed.append("n_components")
    if changed:
        raise ValueError(
            f"{' and '.join(changed)} changed since the first partial_fit; call fit to start a new model, "
            "or set the parameter back."
        )
