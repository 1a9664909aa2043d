"""What the estimators share: parameters and their rules, fit and partial_fit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted
from torch import device as Device
from torch import nn

from ._callbacks import clean_after, fit_task, is_one_of_many
from ._checkpoint import Checkpoint
from ._chunk import check_same_specs
from ._conditions import fault as fault_of_given
from ._fit import Fit, Task, learn_columns
from ._hints import Names
from ._inference.blocks import Inference
from ._params import Count, named
from ._ranks import agreed, is_shared, refuse_group
from ._saved import Rule, Saved, fault_of_groups, fault_of_values
from ._settings import FitSettings
from ._state import DETAILS, MODEL, TRAINING, FittedModel, become, fault_of_model, model_of, remember
from ._tables.containers import refuse_container
from ._tables.reader import TableReader, TrainingRows
from ._torch import resolve_device
from ._training.solvers import SOLVERS
from .likelihoods import LIKELIHOODS, Likelihood
from .model import VAE
from .networks import ACTIVATIONS, Network
from .objectives import OBJECTIVES, Objective
from .priors import PRIORS, PriorSpec

__all__ = ["BaseVAE", "SetOutput", "offers", "takes_gaps"]

# Parts that may be given by their names.
PARTS: dict[str, dict[str, Any]] = {"likelihood": LIKELIHOODS, "objective": OBJECTIVES, "prior": PRIORS}


class BaseVAE(CallbackSupportMixin, Saved):
    """Parameters, validation, fit and partial_fit of the estimators that are one model."""

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [StrOptions({"auto"}), Count()],
        "likelihood": [Names(set(LIKELIHOODS)), Likelihood],
        "objective": [Names(set(OBJECTIVES)), Objective],
        "prior": [Names(set(PRIORS)), PriorSpec],
        "hidden_layer_sizes": ["array-like", Count()],
        "activation": [Names(set(ACTIVATIONS)), callable],
        "encoder": [None, Network, nn.Module, callable],
        "decoder": [None, Network, nn.Module, callable],
        "init": [StrOptions({"linear", "random"})],
        "max_iter": [Count()],
        "batch_size": [StrOptions({"auto"}), Count()],
        "solver": [Names(set(SOLVERS)), callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Count(), Options(Real, {np.inf})],
        "n_draws": [Count()],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "device": [str],
    }

    # What a fit may leave, and what must be; and of these, those that are there together or not at all.
    _leaves: ClassVar[dict[str, Rule | None]] = {**MODEL, **TRAINING, **DETAILS}
    _groups: ClassVar[tuple[frozenset[str], ...]] = (frozenset(TRAINING),)

    likelihood: Any
    device: str
    n_draws: int
    random_state: Any
    _weights: dict[str, np.ndarray]

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; `likelihood__noise` is the likelihood's own, as it would be of a pipeline's step.

        Parameters
        ----------
        **params : dict
            Parameters. Where a part is given by name, as in `likelihood="gaussian"`, and parameters of its own are set,
            an object takes the place of the name.

        Returns
        -------
        self : object
            The estimator.
        """
        for part, family in PARTS.items():
            if any(name.startswith(f"{part}__") for name in params) and hasattr(self, part):
                params[part] = named(params.get(part, getattr(self, part)), family)
        return super().set_params(**params)

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model to X.

        Ctrl-C ends training after its first epoch: the best weights so far are kept, with a warning. In a search that
        is an error, and ends the search. If anything goes wrong, an earlier or later Ctrl-C included, the estimator
        keeps its previous fitted state and the error propagates. Until the fit has ended, other threads are answered by
        the previous model.

        In a `torch.distributed` group X is a part of the table: all processes of the group end with the fit to all
        their rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; NaN marks a missing cell.
        y : array-like, default=None
            Ignored, unless the objective has a `target`.
        sample_weight : array-like of shape (n_samples,), default=None
            A row of weight 2 counts as two rows. Only ratios matter; rows of weight 0 are dropped, and so are those
            that weigh less than 1e-12 of the heaviest one.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or X breaks a rule, or the first epoch diverges. In a group, in another process too, and if
            parameters or columns differ between processes.
        RuntimeError
            If another process of the group has ended, or does not answer.
        TypeError
            If X is a tensor with gradients or on another device, or holds something that is no number and no category.
        """
        return self._become(self._fit_to, X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch on X, continuing where the last call stopped.

        The first call sets the columns' means and scales, the number of latents and the linear start from its rows, and
        later ones keep them: give it a chunk that represents the table. No rows are held out. A chunk is refused where
        a column is a thousand times as large as the first chunk's scale, or ten times where that held one value.
        `history_` grows with every call; it may be shortened in between.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A chunk of rows; NaN marks a missing cell.
        y : array-like, default=None
            Ignored, unless the objective has a `target`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, relative to each other, as in `fit`.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or X breaks a rule, the epoch diverges, or a parameter the model is built from has changed
            since the first call.
        """
        return self._become(self._fit_to_chunk, X, y, sample_weight)

    def _become(self, fit_to: Callable[..., Fit], *data: Any, **more: Any) -> Self:
        """Fit, and become what that left. Callbacks are torn down by then, so nothing can fail any more."""
        with clean_after(self), agreed(partial(_must_agree, self, data)):
            fit = fit_to(*data, **more)
        become(self, fit.attributes)
        remember(self, fit.model)
        if fit.over is not None:
            fit.over._remove()
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit_to(self, X: Any, y: Any, sample_weight: Any) -> Fit:
        """A fit of a new model to X."""
        settings, reader, rows = self._first_rows(X, y, sample_weight)
        settings = replace(settings.seeded(self.random_state), keeps_best=not (is_shared() or is_one_of_many(self)))
        if (file := Checkpoint._of(self, is_one_of_many(self))) is not None:
            seed = file._seed(settings.seed) if self.random_state is None else settings.seed
            settings = replace(settings, seed=seed, checkpoint=file)
        with fit_task(self, X, y, settings.max_iter) as task:
            task.result = self._learn(reader, rows, settings, task.epoch)
        return task.result

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit_to_chunk(self, X: Any, y: Any, sample_weight: Any) -> Fit:
        """One epoch of a new model, or of the present one, on X."""
        refuse_group("partial_fit")
        earlier = self._earlier()
        if earlier is None:
            settings, reader, rows = self._first_rows(X, y, sample_weight)
            return self._learn_chunk(reader, rows, settings.seeded(self.random_state))
        settings, reader = self._settings(self._fitted().device(self.device)), self._reader()
        X = reader.read(X, checked=False)
        settings, y = self._understood(settings, y, sample_weight)
        check_same_specs(settings, earlier)
        rows = reader.training_rows(X, y, sample_weight, settings.objective)
        return self._learn_chunk(reader, rows, replace(settings, seed=earlier["_seed"]))

    def _first_rows(self, X: Any, y: Any, sample_weight: Any) -> tuple[FitSettings, TableReader, TrainingRows]:
        """A new model's settings, and the table to train on; of a bad X and a bad y the error is X's, as elsewhere."""
        settings = self._settings(resolve_device(self.device))
        reader, X = learn_columns(settings, X)
        settings, y = self._understood(settings, y, sample_weight)
        return settings, reader, reader.first_rows(X, y, sample_weight, settings.objective)

    def _understood(self, settings: FitSettings, y: Any, sample_weight: Any) -> tuple[FitSettings, Any]:
        """y as training reads it, and the settings that follow from it."""
        return settings, y

    @abstractmethod
    def _learn(self, reader: TableReader, rows: TrainingRows, settings: FitSettings, epoch: Task) -> Fit:
        """What a fit to these rows leaves."""

    @abstractmethod
    def _learn_chunk(self, reader: TableReader, rows: TrainingRows, settings: FitSettings) -> Fit:
        """What one more epoch, on these rows, leaves."""

    def __sklearn_is_fitted__(self) -> bool:
        return "_weights" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = getattr(named(self.likelihood, LIKELIHOODS), "positive_only", False)
        return tags

    def _fault(self, state: dict[str, Any]) -> str | None:
        if lacking := sorted(MODEL.keys() - state.keys()):
            return f"{lacking[0]} is missing"
        sizes = state["n_features_in_"], state["n_components_"]
        return (
            fault_of_groups(state, self._groups)
            or fault_of_values(state, self._leaves, *sizes)
            or fault_of_model(state)
            or fault_of_given(state)
        )

    @property
    def module_(self) -> VAE:
        """The fitted model as a torch module, in float64 and evaluation mode; its latents are in training order."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"This {type(self).__name__} is not fitted yet; call fit first.")
        return self._inference().model

    def _fitted(self) -> FittedModel:
        """The fitted model; NotFittedError before fit."""
        check_is_fitted(self)
        return model_of(self)

    def _inference(self) -> Inference:
        """The ways to look at rows. The parameters they read may have changed since fit checked them."""
        model, read = self._fitted(), {name: getattr(self, name) for name in ("n_draws", "device")}
        validate_parameter_constraints(self._parameter_constraints, read, type(self).__name__)
        return model.inference(model.device(self.device), self.n_draws)

    def _reader(self) -> TableReader:
        """What checks tables."""
        return self._fitted().reader(type(self).__name__, getattr(self, "feature_names_in_", None))

    def _earlier(self) -> dict[str, Any] | None:
        """The fitted attributes, for `partial_fit` to go on from; None before fit."""
        return self.__dict__ if self.__sklearn_is_fitted__() else None

    def _settings(self, device: Device) -> FitSettings:
        """What a fit reads of the parameters."""
        return FitSettings.of(self, device)


def _must_agree(estimator: BaseVAE, data: tuple[Any, ...]) -> dict[str, Any]:
    """What processes that fit one model together must have alike, in words: the parameters, and what there is of data.

    The device may be another, and who prints is known.
    """
    own: dict[str, Any] = {"The estimator": type(estimator).__name__}
    own["The number of Checkpoints"] = len(Checkpoint._all_of(estimator))
    for name, value in estimator.get_params(deep=False).items():
        plain = value is None or isinstance(value, str | Real | list | tuple | BaseEstimator)
        if name not in ("device", "verbose"):
            own[name] = repr(value) if plain else getattr(value, "__qualname__", type(value).__qualname__)
    given = zip(("y", "sample_weight"), data[1:3], strict=False)
    return own | {name: "None" if value is None else "given" for name, value in given}


class SetOutput:
    """`set_output` for an estimator that is no transformer."""

    _sklearn_output_config: dict[str, str]

    def set_output(self, *, transform: str | None = None) -> Self:
        """Choose the container of `explain`, `similar` and `describe`.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            "default" is an array; None changes nothing.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            If scikit-learn knows no such container.
        """
        if transform is not None:
            refuse_container(transform)
            self._sklearn_output_config = {"transform": transform}
        return self


# What is missing where an objective does not offer something, and what to use instead.
LACKS = {
    "density": "trains no density of X, so there is no likelihood to score; compare reconstruct(X) with X, as "
    "scoring=skvae.metrics.reconstruction_error does in a search",
    "prior": "does not train p(z), so rows drawn from it would mean nothing; use an objective that does",
    "posterior": "trains codes without a spread; use transform(X) for the codes",
}


def offers(what: str) -> Callable[[Any], bool]:
    """Whether training gives something a meaning; the AttributeError names what is missing and what to use instead."""

    def check(estimator: Any) -> bool:
        fitted = estimator.__sklearn_is_fitted__()
        objective = estimator._specs["objective"] if fitted else estimator.objective
        if what in getattr(named(objective, OBJECTIVES), "offers", {what}):
            return True
        raise AttributeError(f"objective={objective!r} {LACKS[what]}.")

    return check


def takes_gaps(estimator: Any) -> bool:
    """Whether rows may have missing cells; the AttributeError says why not."""
    fitted = estimator.__sklearn_is_fitted__()
    decoder = estimator._specs["decoder"] if fitted else estimator.decoder
    if not getattr(decoder, "reads_x", False):
        return True
    raise AttributeError(
        f"decoder={decoder!r} reads the row it predicts, which must be complete: nothing can be filled."
    )
