"""What the estimators share: parameters and their rules, rows at the door, fit and partial_fit."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, _fit_context, clone
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from torch import nn

from . import _dense, _state
from ._door import Checked, Door
from ._inference import Fitted
from ._linear import Covariance
from ._params import Count, named
from ._solvers import SOLVERS
from ._torch import large_products, make_generator, resolve_device, single_blas, thread_limit, torch_scope
from .data import Array, Moments, Rows, Scale, Table, as_table, column_moments
from .likelihoods import LIKELIHOODS, Density, Likelihood, described
from .model import VAE
from .networks import ACTIVATIONS, MLP, Network, Supplied
from .objectives import OBJECTIVES, Objective
from .priors import PRIORS, PriorSpec
from .scores import latent_information
from .training import DivergedError, Epoch, Plan, Report, held_out_mean, train

__all__ = ["BaseVAE", "Begun", "forget", "most_latents"]

# early_stopping="auto" holds rows out from this many on.
MIN_ROWS_TO_HOLD_OUT = 20
# n_components="auto": the share of variance the leading principal components must hold, and at most how many.
AUTO_VARIANCE, AUTO_MOST = 0.9, 32
# A latent is active when its posterior mean varies by more than this over the rows (Burda et al. 2016).
ACTIVE_VARIANCE = 0.01
# Nats below the linear model, beside 1 %, that are more than the noise of the last steps.
WORTH_A_WARNING = 0.2
# Rows the final diagnostics look at, at most.
DIAGNOSTIC_ROWS = 10_000


class Split(NamedTuple):
    """A table in the model's units, and what was learnt of it before there is a model.

    `rows` are all rows, `cov` is the training rows' covariance as the encoder sees them.
    """

    moments: Moments
    scale: Scale
    density: Density
    rows: Rows | Table
    training: Rows | Table
    held_out: Rows | None
    cov: Covariance


class Begun(NamedTuple):
    """A new model at its start, which is a linear model if `started`."""

    model: VAE
    split: Split
    started: bool


class BaseVAE(Door, Fitted, CallbackSupportMixin, BaseEstimator):
    """Parameters, validation, fit and partial_fit of every estimator here."""

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [StrOptions({"auto"}), Count()],
        "likelihood": [StrOptions(set(LIKELIHOODS)), Likelihood],
        "objective": [StrOptions(set(OBJECTIVES)), Objective],
        "prior": [StrOptions(set(PRIORS)), PriorSpec],
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS)), callable],
        "encoder": [None, Network, nn.Module, callable],
        "decoder": [None, Network, nn.Module, callable],
        "init": [StrOptions({"pca", "random"})],
        "max_iter": [Count()],
        "batch_size": [StrOptions({"auto"}), Count()],
        "solver": [StrOptions(set(SOLVERS)), callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Count(), Options(Real, {np.inf})],
        "n_draws": [Count()],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "device": [str],
    }

    # What `_learn_more` sets beside public attributes.
    _learnt: ClassVar[tuple[str, ...]] = ()

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the model to X.

        If anything goes wrong, an interrupt from the keyboard included, the estimator keeps its previous fitted state
        and the error propagates.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; NaN marks a missing cell.
        y : array-like, default=None
            Ignored, unless the objective has a `target`.
        sample_weight : array-like of shape (n_samples,), default=None
            A row of weight 2 counts as two rows. Only ratios matter; rows of weight 0 are dropped.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or X breaks a rule, or the first epoch diverges.
        """
        with _state.atomic(self):
            device = resolve_device(self.device)
            table = self._check_training_rows(X, y, sample_weight, reset=True)
            forget(self)
            with torch_scope(device, grad=True):
                used = self._supported(*table)
                begun = self._begin(self._split(*used, hold_out=True))
                model, split = begun.model.to(device), begun.split
                with self._products(model, len(split.training)):
                    report = self._train(
                        model,
                        split.training.to(device),
                        None if split.held_out is None else split.held_out.to(device),
                        make_generator(self._seed, device),
                        self._callbacks(X, y),
                        keep_start=self._keeps_start(begun),
                    )
                    self._finish(begun, report)
                    self._warn_if_poor(begun, report)
            self._learn_more(table, used)
            self._end_callbacks(X, y)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Train for one epoch on X, continuing where the last call stopped.

        The first call sets the columns' means and scales, the number of latents and the linear start from its rows, and
        later ones keep them: give it a chunk that represents the table. No rows are held out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A chunk of rows; NaN marks a missing cell.
        y : array-like, default=None
            Ignored, unless the objective has a `target`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, relative to each other.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X breaks a rule, or a parameter the model is built from has changed since the first call.
        """
        with _state.atomic(self):
            first = not self.__sklearn_is_fitted__()
            self._validate_params()  # scikit-learn's decorator does so in the first call only
            device = resolve_device(self.device)
            table, target, weight = self._check_training_rows(X, y, sample_weight, reset=first)
            with torch_scope(device, grad=True):
                if first:
                    begun = self._begin(self._split(table, target, weight, hold_out=False))
                    model, rows = begun.model, begun.split.rows
                else:
                    self._check_same_parts()
                    model, rows = _state.rebuild(self, torch.float32), self._table(table, self._scale(), weight, target)
                done, before = (0, None) if first else (self.n_iter_, self._solver_state)
                rng = make_generator(self._seed + done, device)
                with self._products(model, len(rows)):
                    report = self._train(
                        model.to(device), rows.to(device), None, rng, solver_state=before, one_epoch_after=done
                    )
                    self._publish(model.cpu(), rows, report, continued=not first)
                self._solver_state = report.solver_state
            self._learn_from_chunk(table, weight)
        return self

    def _supported(self, X: Array, target: Array | None, weight: Array | None) -> Checked:
        """The rows to train on."""
        return X, target, weight

    def _learn_more(self, table: Checked, used: Checked) -> None:
        """What an estimator learns with the fitted model of all rows, and of those it was trained on."""
        return

    def _learn_from_chunk(self, X: Array, weight: Array | None) -> None:
        """The same after `partial_fit`."""
        return

    _solver_state: list[dict[str, Any]]

    def __sklearn_is_fitted__(self) -> bool:
        return "_weights" in self.__dict__

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = getattr(named(self.likelihood, LIKELIHOODS), "positive_only", False)
        return tags

    def __getstate__(self):
        return _state.stamp(super().__getstate__())

    def __setstate__(self, state):
        state = _state.unstamp(state, type(self).__name__)
        _state.validate(state, type(self).__name__)
        super().__setstate__(state)

    # Fit, step by step

    def _parts_now(self) -> dict[str, Any]:
        """The hyperparameters a model is built from, as objects of their families."""
        plain = MLP(self.hidden_layer_sizes, self.activation)
        parts = {
            "likelihood": clone(named(self.likelihood, LIKELIHOODS)),
            "objective": clone(named(self.objective, OBJECTIVES)),
            "prior": clone(named(self.prior, PRIORS)),
            "encoder": _network(self.encoder, plain),
            "decoder": _network(self.decoder, plain),
        }
        for part in parts.values():
            part._validate_params()
        self._check_parts(parts)
        return parts

    def _check_parts(self, parts: dict[str, Any]) -> None:
        """Raise ValueError where an estimator cannot do with these parts."""
        return

    def _check_same_parts(self) -> None:
        """partial_fit cannot follow a change of what the model is built from."""
        now = self._parts_now()
        changed = [name for name, part in self._asked.items() if part != repr(now[name])]
        if self.n_components not in ("auto", self.n_components_):
            changed.append("n_components")
        if changed:
            raise ValueError(
                f"{' and '.join(changed)} changed since the first partial_fit; call fit to start a new model, "
                "or set the parameter back."
            )

    def _split(self, X: Array, target: Array | None, weight: Array | None, hold_out: bool) -> Split:
        """Draw the seed and fix the parts of a new model; its rows in the model's units, in two parts."""
        self._seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        likelihood: Likelihood = self._parts["likelihood"]
        self.likelihood_ = described(likelihood, self._schema)
        moments = self._moments(X, weight)
        scale = likelihood.scale(moments)
        rows = self._table(X, scale, weight, target)
        training, held_out = self._hold_out(rows, make_generator(self._seed)) if hold_out else (rows, None)
        density = likelihood.build(X.shape[1], scale)
        density.fit(rows)
        return Split(moments, scale, density, rows, training, held_out, self._covariance(density, training))

    def _table(self, X: Array, scale: Scale, weight: Array | None, target: Array | None) -> Rows | Table:
        """A table in the model's units, its target too where that is rows."""
        if target is not None and self._parts["objective"].target == "row":
            target = scale.to_model(target)
        return as_table(X, scale, weight, target)

    def _moments(self, X: Array, weight: Array | None) -> Moments:
        """What sets the columns' scale."""
        return column_moments(X, weight)

    def _begin(self, split: Split) -> Begun:
        """A new model at its start, of the seed and parts that `_split` has set."""
        self.n_features_in_ = split.density.n_features
        self.mean_, self.scale_, self._shift = split.moments.mean, split.scale.scale, split.scale.shift
        cov, n_features = split.cov, len(self.mean_)
        self.n_components_ = self._count_components(cov)
        rng = make_generator(self._seed)
        model = _state.Blueprint(n_features, self.n_components_, scale=split.scale, **self._parts).build(rng)
        model.likelihood.load_state_dict(split.density.state_dict())
        model.to("cpu", torch.float32).check_widths()
        started = self.init == "pca" and model.has_linear_path and self._start(model, cov)
        objective = self._parts["objective"]
        if type(objective).start is not Objective.start:
            objective.start(model, split.training.whole(), rng)
        return Begun(model, split, started)

    def _count_components(self, cov: Covariance) -> int:
        """The number of latents that `n_components` asks for."""
        return self._auto_components(cov) if self.n_components == "auto" else int(self.n_components)

    def _auto_components(self, cov: Covariance) -> int:
        """The number of leading principal components that hold `AUTO_VARIANCE` of the variance, 1 to `AUTO_MOST`."""
        values, _ = cov.leading(most_latents(AUTO_MOST, cov), np.ones(cov.n_columns))
        share = np.cumsum(values) / max(cov.diagonal.sum(), np.finfo(float).tiny)
        return max(1, min(AUTO_MOST, int(np.searchsorted(share, AUTO_VARIANCE)) + 1, max(1, len(values))))

    def _finish(self, begun: Begun, report: Report) -> None:
        """Publish the trained model, or the linear start of all rows where training found nothing better."""
        model, rows = begun.model.cpu(), begun.split.rows
        if report.best == 0 and begun.started and begun.split.held_out is not None:
            self._start(model, self._covariance(model.likelihood, rows))
        self._publish(model, rows, report)
        self._solver_state = []

    @contextmanager
    def _products(self, model: VAE, n_rows: int) -> Iterator[None]:
        """A scope with the threads and the matrix products that suit a step on a batch of `n_rows` rows."""
        largest = model.largest_product(self._batch_size(n_rows))
        with thread_limit(largest), large_products(largest):
            yield

    def _covariance(self, density: Density, rows: Rows | Table) -> Covariance:
        """The covariance of the rows as training sees them."""
        return density.covariance(rows, self._parts["objective"].input_noise)

    def _start(self, model: VAE, cov: Covariance) -> bool:
        """Set the model to the linear model of these rows; False where its likelihood has none.

        Training starts at the linear model of the training rows, so that the held-out rows judge every epoch alike. If
        none is better, the start itself is kept, and then it may know all rows.
        """
        with single_blas():
            start = model.likelihood.start(cov, most_latents(self.n_components_, cov, model.likelihood))
        if start is not None:
            model.start_at(start, make_generator(self._seed))
        return start is not None

    def _keeps_start(self, begun: Begun) -> bool:
        """Whether "auto" leaves a table too small to hold rows out at its linear start."""
        watched = self._parts["objective"].monitor is not None
        return begun.started and begun.split.held_out is None and self.early_stopping == "auto" and watched

    def _hold_out(self, rows: Rows | Table, rng: torch.Generator) -> tuple[Rows | Table, Rows | None]:
        """Rows to train on and rows held out for early stopping."""
        possible = self._parts["objective"].monitor is not None
        wanted = self.early_stopping is True or (self.early_stopping == "auto" and len(rows) >= MIN_ROWS_TO_HOLD_OUT)
        if self.early_stopping is True and not possible:
            raise ValueError(
                f"early_stopping=True needs a number to watch, which {type(self._parts['objective']).__name__} lacks; "
                "use early_stopping='auto' or False."
            )
        if not (wanted and possible):
            return rows, None
        n_held_out = int(self.validation_fraction * len(rows))
        if n_held_out < 1 or n_held_out >= len(rows):
            raise ValueError(
                f"The validation set is too small: validation_fraction={self.validation_fraction} of {len(rows)} rows "
                f"is {n_held_out}. Raise validation_fraction, give more rows, or set early_stopping=False."
            )
        return rows.split_off(n_held_out, rng)

    def _train(
        self,
        model: VAE,
        rows: Rows | Table,
        held_out: Rows | None,
        rng: torch.Generator,
        on_epoch: Callable[[VAE, Epoch], bool] = lambda model, epoch: False,
        solver_state: list | None = None,
        one_epoch_after: int | None = None,
        keep_start: bool = False,
    ) -> Report:
        plan = self._plan(len(rows), held_out is not None, one_epoch_after, keep_start)
        if self.verbose:
            step = "dense engine" if _dense.understands(model, self._parts["objective"]) else "autograd"
            print(f"[{type(self).__name__}] {len(rows)} training rows, gradients by {step}")
        try:
            return train(
                model, self._parts["objective"], rows, plan, rng, held_out, partial(on_epoch, model), solver_state
            )
        except DivergedError:
            raise DivergedError(
                f"Training diverged in its first epoch at learning_rate_init={self.learning_rate_init}: the loss is "
                "not finite. Lower the learning rate; if X holds extreme values, clip or transform them."
            ) from None

    def _plan(
        self, n_rows: int, early_stopping: bool, one_epoch_after: int | None = None, keep_start: bool = False
    ) -> Plan:
        solver = SOLVERS[self.solver] if isinstance(self.solver, str) else None
        return Plan(
            solver=partial(solver, lr=self.learning_rate_init) if solver else self.solver,
            batch_size=self._batch_size(n_rows),
            max_iter=self.max_iter if one_epoch_after is None and not keep_start else 1,
            done=one_epoch_after or 0,
            patience=self.n_iter_no_change if early_stopping else math.inf,
            average=one_epoch_after is None,
            keep_start=keep_start,
        )

    def _batch_size(self, n_rows: int) -> int:
        if self.batch_size != "auto":
            return min(self.batch_size, n_rows)
        return min(n_rows, max(32, min(200, n_rows // 10)))

    def _callbacks(self, X, y) -> Callable[[VAE, Epoch], bool]:
        """Open scikit-learn's callback context; return what to call after every epoch."""
        context = self._init_callback_context(max_subtasks=self.max_iter)
        hooks = {"estimator": self, "X": X, "y": X if y is None else y}
        context.call_on_fit_task_begin(**hooks)
        log = _Log(type(self).__name__, self.max_iter, self.verbose)

        def on_epoch(model: VAE, epoch: Epoch) -> bool:
            log(epoch)
            sub = context.subcontext(task_name="epoch")
            sub.call_on_fit_task_begin(**hooks)
            attributes = lambda: {"_weights": _state.pack(model), "_order": np.arange(self.n_components_)}  # noqa: E731
            return sub.call_on_fit_task_end(**hooks, reconstruction_attributes=attributes)

        return on_epoch

    def _end_callbacks(self, X, y) -> None:
        self._callback_fit_ctx.call_on_fit_task_end(
            estimator=self, X=X, y=X if y is None else y, reconstruction_attributes={}
        )

    @torch.no_grad()
    def _publish(self, model: VAE, rows: Rows | Table, report: Report, continued: bool = False) -> None:
        """Set the fitted attributes."""
        some = rows.thinned(DIAGNOSTIC_ROWS)
        found = latent_information(model, some)
        information, spread, mu = found[0].double().numpy(), found[1].numpy(), found[2]
        if not continued:
            self._order = np.argsort(-information, kind="stable")
            self.n_iter_ = 0
            self.history_: dict[str, list[float]] = {}
        if model.has_posterior:
            self.latent_information_ = information[self._order]
            self.active_components_ = (spread > ACTIVE_VARIANCE)[self._order]
        variance = model.likelihood.variance(model.params(mu, some.x)) if model.is_density else None
        if variance is not None:
            with np.errstate(over="ignore"):
                noise = some.mean(variance).double().numpy() * self.scale_**2
            self.noise_variance_ = float(noise[0]) if model.likelihood.shared_noise else noise
        self.best_iter_ = self.n_iter_ + report.best
        self.n_iter_ += report.n_iter
        self.history_ = {k: self.history_.get(k, []) + v for k, v in report.history.items()}
        self.loss_curve_ = self.history_["loss"]
        self.validation_curve_ = report.held_out
        self._weights = _state.pack(model)

    def _warn_if_poor(self, begun: Begun, report: Report) -> None:
        """Warn when training broke off, or ended below the linear model of the same family."""
        name, linear = type(self).__name__, "the linear model of the same likelihood"
        if report.diverged is not None:
            warnings.warn(
                f"{name}: the loss was not finite in epoch {report.diverged}; the weights of epoch {report.best} are "
                f"kept. Lower learning_rate_init={self.learning_rate_init}.",
                ConvergenceWarning,
                stacklevel=4,
            )
        elif self._parts["objective"].is_bound and not (begun.started and (report.held_out or report.best == 0)):
            split = begun.split
            rows = (split.training if split.held_out is None else split.held_out).thinned(DIAGNOSTIC_ROWS)
            most = most_latents(self.n_components_, split.cov, begun.model.likelihood)
            with single_blas():
                baseline = begun.model.likelihood.baseline(rows, split.cov, most)
            reached = held_out_mean(begun.model, self._parts["objective"], rows, self._seed, most_repeats=100)
            if reached < baseline - WORTH_A_WARNING - 0.01 * abs(baseline):
                warnings.warn(
                    f"{name} stopped at {reached:.3f} nats a row, below the {baseline:.3f} of {linear}. Raise max_iter "
                    f"or learning_rate_init, keep init='pca', or use PCA or FactorAnalysis.",
                    ConvergenceWarning,
                    stacklevel=4,
                )


def _network(value: Any, default: Network) -> Network:
    if value is None:
        return default
    return clone(value) if isinstance(value, Network) else Supplied(value)


def forget(estimator: BaseVAE) -> None:
    """Drop what the last fit left, so that no half-new state can be mistaken for a fitted one."""
    hidden = ("_weights", "_order", "_shift", *estimator._learnt)
    for name in [n for n in vars(estimator) if n.endswith("_") or n in hidden]:
        if name not in ("n_features_in_", "feature_names_in_"):
            delattr(estimator, name)


def most_latents(n_components: int, cov: Covariance, density: Density | None = None) -> int:
    """How many latents a linear model of these rows can use.

    As many as columns with a shared noise, whose floor keeps the covariance apart from it; otherwise one fewer.
    """
    n_columns = cov.n_columns if density is not None and density.shared_noise else cov.n_columns - 1
    return max(0, min(n_components, n_columns, cov.n_rows - 1))


class _Log:
    """One line an epoch with verbose=1; nothing with 0."""

    def __init__(self, name: str, max_iter: int, verbose: int):
        self.name, self.max_iter, self.verbose = name, max_iter, verbose
        self.began = time.perf_counter()

    def __call__(self, epoch: Epoch) -> None:
        if not self.verbose:
            return
        terms = "  ".join(f"{name} {value:.4f}" for name, value in epoch.terms.items())
        held_out = "" if epoch.held_out is None else f"  held-out {epoch.held_out:.4f} (best: epoch {epoch.best})"
        seconds = time.perf_counter() - self.began
        print(f"[{self.name}] epoch {epoch.number}/{self.max_iter}  {terms}{held_out}  {seconds:.1f} s")
