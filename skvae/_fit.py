"""Fit as functions, from values to values: read, prepare, start, train, publish. No estimator is written here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from ._callbacks import EpochLog
from ._checkpoint import Checkpoint, Paused, table_print
from ._inference.draws import decodes_to_numbers
from ._inference.scores import latent_information
from ._latents import warn_of_latents
from ._linear import Covariance
from ._ranks import speaks, warn_user
from ._settings import FitSettings
from ._state import Blueprint, FittedModel, pack
from ._tables.batches import Batch, as_table
from ._tables.moments import Array, Moments, Scale
from ._tables.reader import TableReader, TrainingRows
from ._tables.shared import HeldOut, Rows, of_all_ranks
from ._torch import large_products, make_generator, single_blas, thread_limit, torch_scope
from ._training import engine
from ._training.held_out import held_out_mean
from ._training.loop import DivergedError, Epoch, Progress, Training, TrainingResult
from .likelihoods import (
    LikelihoodModule,
    baseline,
    covariance,
    described,
    max_latents,
    resolved,
    start_linear,
)
from .model import VAE

__all__ = [
    "MIN_ROWS_TO_HOLD_OUT",
    "Fit",
    "Paused",
    "Task",
    "components",
    "fit_model",
    "in_model_units",
    "learn_columns",
    "prepare",
    "products",
    "publish",
    "start",
]

# What is called after every epoch, with a function that returns the attributes of a fit that stopped there; it may stop
# training by returning True.
Task = Callable[[Callable[[], dict[str, Any]]], bool]
# early_stopping="auto" holds rows out from this many on.
MIN_ROWS_TO_HOLD_OUT = 20
# A latent is active when its posterior mean varies by more than this over the rows (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01
# fit warns when it ends more than this many nats, plus 1 %, below the linear model.
WORTH_A_WARNING = 0.2
# Rows the final diagnostics look at, at most.
DIAGNOSTIC_ROWS = 10_000


def learn_columns(settings: FitSettings, X: Any) -> tuple[TableReader, Array]:
    """What reads tables like X, and X's numbers, yet to be checked."""
    return TableReader.learn(settings.name, X, settings.specs["likelihood"], resolved)


@dataclass(frozen=True)
class Prepared:
    """A table in the model's units, and what was learnt of it before there is a model.

    `rows` are all rows; `cov` is the training rows' covariance as the encoder sees them.
    """

    moments: Moments
    scale: Scale
    density: LikelihoodModule
    rows: Rows
    training: Rows
    held_out: HeldOut | None
    cov: Covariance


def prepare(
    reader: TableReader,
    table: TrainingRows,
    settings: FitSettings,
    hold_out: bool = True,
    whole_std: np.ndarray | None = None,
) -> Prepared:
    """Put a table into the model's units, build its likelihood, and hold rows out.

    `whole_std` are the standard deviations of columns that are constant here.
    """
    likelihood: Any = reader.likelihood
    moments = table.sums.moments
    if whole_std is not None:
        moments = moments._replace(std=np.where(moments.constant, whole_std, moments.std))
    scale = likelihood.scale(moments)
    if (flat := moments.std == 0).any():
        scale = scale._replace(constant=np.where(flat, moments.mean, np.nan))
    rows = in_model_units(table, scale, settings)
    training, held_out = _hold_out(rows, settings) if hold_out else (rows, None)
    density = likelihood.build(table.X.shape[1], scale)
    density.fit(rows, table.copies)
    cov = covariance(density, training, settings.objective.input_noise, table.copies)
    return Prepared(moments, scale, density, rows, training, held_out, cov)


def in_model_units(table: TrainingRows, scale: Scale, settings: FitSettings) -> Rows:
    """The table's rows; its targets too, where they are rows."""
    y = table.y
    if y is not None and settings.objective.target in ("row", "filled"):
        y = scale.to_model(y)
    return of_all_ranks(as_table(table.X, scale, table.weight, y))


def _hold_out(rows: Rows, settings: FitSettings) -> tuple[Rows, HeldOut | None]:
    """Rows to train on and rows held out for early stopping."""
    asked, possible = settings.early_stopping, settings.objective.monitor is not None
    wanted = asked is True or (asked == "auto" and len(rows) >= MIN_ROWS_TO_HOLD_OUT)
    if asked is True and not possible:
        raise ValueError(
            f"early_stopping=True needs a number to watch, which {type(settings.objective).__name__} lacks; "
            "use early_stopping='auto' or False."
        )
    if not (wanted and possible):
        return rows, None
    n_held_out = int(settings.validation_fraction * len(rows))
    if n_held_out < 1 or n_held_out >= len(rows):
        raise ValueError(
            f"The validation set is too small: validation_fraction={settings.validation_fraction} of {len(rows)} rows "
            f"is {n_held_out}. Raise validation_fraction, give more rows, or set early_stopping=False."
        )
    return rows.split_off(n_held_out, make_generator(settings.seed))


def components(prepared: Prepared, settings: FitSettings) -> int:
    """The number of latents that `n_components` asks for."""
    return settings.auto_components(prepared.cov) if settings.n_components == "auto" else int(settings.n_components)


@dataclass(frozen=True)
class Start:
    """A new model at its start, which is a linear model if `linear`."""

    model: VAE
    n_components: int
    linear: bool


def start(reader: TableReader, prepared: Prepared, settings: FitSettings, paused: Paused | None = None) -> Start:
    """Build a model for a table, at the linear model where there is one.

    One that is to go on from where it `paused` keeps random weights: others will take their place.
    """
    n_components, specs = components(prepared, settings), {**settings.specs, "likelihood": reader.likelihood}
    blueprint = Blueprint(len(prepared.scale.scale), n_components, scale=prepared.scale, **specs)
    model = blueprint.build(make_generator(settings.seed), prepared.density)
    model.to("cpu", torch.float32).check_widths()
    linear = paused.linear if paused is not None else _begin(model, prepared.training, prepared.cov, settings)
    return Start(model, n_components, linear)


def _begin(model: VAE, rows: Rows, cov: Covariance, settings: FitSettings) -> bool:
    """Put a model at its start for these rows; return whether that is a linear model."""
    linear = settings.init == "linear" and model.has_linear_path and _start_linear(model, cov, settings)
    for part in (settings.objective, model.prior):
        part.start(model, rows, make_generator(settings.seed))
    return linear


def _start_linear(model: VAE, cov: Covariance, settings: FitSettings) -> bool:
    """Set the model to the linear model of these rows; False where its likelihood has none."""
    with single_blas():
        most = max_latents(model.prior.n_components, cov, model.likelihood.shared_noise)
        found = start_linear(model.likelihood, cov, most)
    if found is not None:
        model.start_at(found, make_generator(settings.seed))
    return found is not None


def training_of(begun: Start, prepared: Prepared, settings: FitSettings, progress: Progress | None = None) -> Training:
    """The training of a started model, from its start or from where it was paused."""
    device, rows, held_out = settings.device, prepared.training, prepared.held_out
    how = settings.training(len(rows), held_out is not None)
    watched = settings.early_stopping == "auto" and settings.objective.monitor is not None
    if held_out is None and begun.linear and watched:
        # A table too small to hold rows out stays at its linear start: nothing could tell learning from overfitting.
        how = replace(how, keep_start=True, max_iter=1)
    held_out = None if held_out is None else held_out.to(device)
    rng, model = make_generator(settings.seed, device), begun.model.to(device)
    return Training(model, settings.objective, rows.to(device), how, rng, held_out, progress=progress)


@contextmanager
def products(model: VAE, settings: FitSettings, n_rows: int) -> Iterator[EpochLog]:
    """A scope with the threads and the matrix products that suit a step on `n_rows` rows; what prints epochs."""
    largest = model.largest_product(settings.batch_rows(n_rows))
    log = EpochLog(settings.name, settings.max_iter, settings.verbose if speaks() else 0)
    step = "dense engine" if engine.understands(model, settings.objective) else "autograd"
    log.say(f"{n_rows} training rows" + (f", gradients by {step}" if settings.verbose > 1 else ""))
    with thread_limit(largest), large_products(largest):
        yield log
    log.close()


@dataclass(frozen=True)
class Fit:
    """What a fit leaves: the model, the attributes that its estimator is to have, and where it paused, if it did.

    `over` is the file that has served when the estimator has them.
    """

    model: FittedModel
    attributes: dict[str, Any]
    paused: Paused | None = None
    over: Checkpoint | None = None


def fit_model(
    reader: TableReader,
    table: TrainingRows,
    settings: FitSettings,
    task: Task = lambda attributes: False,
    whole_std: np.ndarray | None = None,
    until: float = math.inf,
    paused: Paused | None = None,
) -> Fit:
    """Fit a model to a table: prepare, start, train, publish.

    It pauses after epoch `until`, and goes on from where an earlier call `paused`; the model is the best one so far,
    and nobody is warned of it.
    """
    file = settings.checkpoint
    bound = {} if file is None else settings.bound | {"The table": table_print(table)}
    if file is not None:
        paused = file._read(bound)
    with torch_scope(settings.device, grad=True):
        prepared = prepare(reader, table, settings, whole_std=whole_std)
        begun = start(reader, prepared, settings, paused)
        so_far = partial(_so_far, reader, prepared, begun, settings)
        with products(begun.model, settings, len(prepared.training)) as log:
            training = training_of(begun, prepared, settings, None if paused is None else paused.progress)

            def on_epoch(epoch: Epoch) -> bool:
                log.epoch(epoch)
                return task(so_far)

            def write(file: Checkpoint) -> None:
                file._write(Paused(training.progress(), begun.linear), bound)

            interrupted = _interrupted(training, until, on_epoch, settings, write)
        now = Paused(training.progress(), begun.linear) if until < math.inf else None
        result, model = training.finish(), begun.model.cpu()
        if result.best == 0 and begun.linear and prepared.held_out is not None:
            # Started at the training rows, so that the held-out ones judge every epoch alike; kept, it may know all.
            cov = covariance(prepared.density, prepared.rows, settings.objective.input_noise, table.copies)
            _begin(model, prepared.rows, cov, settings)
        if interrupted:
            ended = f"{settings.name}: training interrupted by user after {result.n_iter} epochs"
            warn_user(f"{ended}; the best weights so far, of epoch {result.best}, are kept.")
        elif now is None:
            _warn_if_poor(begun, prepared, settings, result)
            warn_of_latents(model, prepared.rows, settings)
        # A later partial_fit starts its optimiser afresh.
        result = replace(result, solver_state=[])
        fit = publish(reader, model, prepared.rows, prepared.moments.mean, prepared.scale, settings, result)
        return replace(fit, paused=now, over=None if interrupted else file)


def _interrupted(
    training: Training,
    until: float,
    on_epoch: Callable[[Epoch], bool],
    settings: FitSettings,
    write: Callable[[Checkpoint], None],
) -> bool:
    """Train; return whether the user ended that. It is an error before the first epoch's end, and within a search."""
    file = settings.checkpoint
    try:
        if file is None:
            training.run(until, on_epoch)
        while file is not None and not training.over:
            training.run((training.epoch // file.every + 1) * file.every, on_epoch)
            write(file)
    except KeyboardInterrupt:
        if not (settings.keeps_best and training.end_early()):
            raise
        return True
    return False


def _value(reader: TableReader, model: VAE, scale: Scale, settings: FitSettings, order: np.ndarray) -> FittedModel:
    specs = {**settings.specs, "likelihood": reader.likelihood}
    return FittedModel(specs, reader.schema, scale, len(order), order, settings.seed, pack(model))


def _of_table(reader: TableReader, mean: np.ndarray, settings: FitSettings) -> dict[str, Any]:
    """The attributes that the table alone decides."""
    likelihood = described(reader.likelihood, reader.schema)
    return settings.attributes | reader.attributes | {"mean_": mean, "likelihood_": likelihood}


def _so_far(reader: TableReader, prepared: Prepared, begun: Start, settings: FitSettings) -> dict[str, Any]:
    """The attributes of an estimator whose fit stopped here."""
    model = _value(reader, begun.model, prepared.scale, settings, np.arange(begun.n_components))
    return _of_table(reader, prepared.moments.mean, settings) | model.attributes


@torch.no_grad()
def publish(
    reader: TableReader,
    model: VAE,
    rows: Rows,
    mean: np.ndarray,
    scale: Scale,
    settings: FitSettings,
    result: TrainingResult,
    earlier: dict[str, Any] | None = None,
) -> Fit:
    """The trained model as a value, and the fitted attributes of its estimator."""
    some = rows.subsample(DIAGNOSTIC_ROWS)
    found, spread, mu = latent_information(model, some)
    information = found.double().numpy()
    before = {} if earlier is None else earlier
    order = before.get("_order", np.argsort(-information, kind="stable"))
    value = _value(reader, model, scale, settings, order)
    attributes = _of_table(reader, mean, settings) | value.attributes | _progress(result, before)
    attributes["_asked"] = {name: repr(spec) for name, spec in settings.specs.items()}
    if model.has_posterior:
        attributes["latent_information_"] = information[order]
        attributes["active_components_"] = (spread.numpy() > ACTIVE_VARIANCE)[order]
    if (noise := _noise_variance(model, some, mu, scale)) is not None:
        attributes["noise_variance_"] = noise
    said = [attributes[name] for name in ("latent_information_", "noise_variance_") if name in attributes]
    # Inference is in float64, which holds more.
    decodes = decodes_to_numbers(model, scale) or decodes_to_numbers(value.module(torch.device("cpu")), scale)
    if not (decodes and all(np.isfinite(found).all() for found in said)):
        raise DivergedError(
            f"{settings.name} ended with a model whose numbers are not finite. Lower learning_rate_init="
            f"{settings.learning_rate_init}, or the input_noise of an objective that adds any; if X or sample_weight "
            "hold extreme values, clip or transform them."
        )
    return Fit(value, attributes)


def _progress(result: TrainingResult, before: dict[str, Any]) -> dict[str, Any]:
    """What training did, after what it had done before."""
    done, history = before.get("n_iter_", 0), before.get("history_", {})
    history = {name: history.get(name, []) + values for name, values in result.history.items()}
    return {
        "n_iter_": done + result.n_iter,
        "best_iter_": done + result.best,
        "history_": history,
        "loss_curve_": history["loss"],
        "validation_curve_": result.held_out,
        "_solver_state": result.solver_state,
    }


def _noise_variance(model: VAE, rows: Batch, mu: torch.Tensor, scale: Scale) -> Any:
    """The noise that the model has learnt, in data units squared: one number where it is shared; None for no noise."""
    variance = model.likelihood.variance(model.params(mu, rows.x)) if model.is_density else None
    if variance is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        noise = rows.mean(variance).double().numpy()
        # The variance of a column of 1e200 is beyond float64: the largest number that is not, then.
        noise = np.where(np.isfinite(noise), np.minimum(noise * scale.scale**2, np.finfo(float).max), noise)
    return float(noise[0]) if model.likelihood.shared_unit else noise


def _warn_if_poor(begun: Start, prepared: Prepared, settings: FitSettings, result: TrainingResult) -> None:
    """Warn of one row, and when training broke off, had no final loss, ended too early, or below the linear model."""
    if len(prepared.rows) == 1:
        guess = "the model is that row, and a guess of the noise around it. Give more rows."
        warn_user(f"{settings.name}: one row says nothing of how rows differ; {guess}")
    if unfinished := settings.objective.ramp > settings.max_iter:
        late = f"has its final form from epoch {settings.objective.ramp} on, and max_iter={settings.max_iter}"
        warn_user(
            f"{settings.name}: objective={settings.objective!r} {late}. Raise max_iter, or lower its warmup.",
            ConvergenceWarning,
        )
    if result.diverged is not None:
        kept = f"the weights of epoch {result.best} are kept. Lower learning_rate_init={settings.learning_rate_init}."
        warn_user(f"{settings.name}: the loss was not finite in epoch {result.diverged}; {kept}", ConvergenceWarning)
        return
    likelihood = begun.model.likelihood
    comparable = settings.objective.is_bound and likelihood.linear_start() is not None
    if comparable and not (begun.linear and begun.model.prior.is_standard and (result.held_out or result.best == 0)):
        rows = (prepared.training if prepared.held_out is None else prepared.held_out).subsample(DIAGNOSTIC_ROWS)
        with single_blas():
            most = max_latents(begun.n_components, prepared.cov, likelihood.shared_noise)
            reference = baseline(likelihood, rows, prepared.cov, most)
        reached = held_out_mean(begun.model, settings.objective, rows, settings.seed, most_repeats=100)
        if reached < reference - WORTH_A_WARNING - 0.01 * abs(reference):
            model = f"the {reference:.3f} of the linear model of the same likelihood"
            keep = "keep init='linear'" if begun.model.prior.is_standard else "take prior='normal'"
            advice = f"Raise max_iter or learning_rate_init, {keep}, or use PCA or FactorAnalysis."
            warn_user(
                f"{settings.name} stopped at {reached:.3f} nats per row, below {model}. {advice}", ConvergenceWarning
            )
            return
    if settings.objective.is_bound and not unfinished and result.still_rises(settings.max_iter):
        # No number that another fit would not have: a search over many is then told once.
        over = f"{settings.name} reached max_iter={settings.max_iter} while its held-out bound was still rising"
        warn_user(f"{over}; raise max_iter for a better model.", ConvergenceWarning)
