"""What a model is built from, and what a fit leaves: numpy arrays and plain Python, checked on the way in.

`Blueprint` builds the torch module. `FittedModel` is everything that a fitted estimator knows of its model. It stands
in the estimator's `__dict__` as flat attributes, so that every way to save an estimator works; the module is rebuilt
from them when first asked for, and kept outside that `__dict__`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from ._inference.blocks import Inference
from ._params import Spec
from ._saved import Rule, is_finite_array, is_whole
from ._tables.moments import Scale
from ._tables.reader import TableReader
from ._tables.schema import Schema
from ._torch import build_seeded, make_generator, resolve_device, torch_scope
from ._training.solvers import SOLVERS
from .likelihoods import Likelihood, LikelihoodModule, fits_schema
from .model import VAE, AutoregressiveVAE, Dims
from .networks import Columns, Network
from .objectives import Objective
from .priors import PriorSpec

__all__ = [
    "DETAILS",
    "MODEL",
    "TRAINING",
    "Blueprint",
    "FittedModel",
    "amend",
    "at_once",
    "become",
    "fault_of_model",
    "model_of",
    "pack",
    "remember",
    "unfitted",
]

FORMAT = 1
# What a model is built from, by name.
KINDS: dict[str, type[Spec]] = {
    "likelihood": Likelihood,
    "objective": Objective,
    "prior": PriorSpec,
    "encoder": Network,
    "decoder": Network,
}

_models: WeakKeyDictionary[Any, FittedModel] = WeakKeyDictionary()
# Reentrant: a user's network may be built from another fitted model.
_lock = threading.RLock()


@dataclass(frozen=True)
class Blueprint:
    """Everything a model is built from, so that a saved one is built the same way as a new one."""

    n_features: int
    n_components: int
    likelihood: Likelihood
    objective: Objective
    prior: PriorSpec
    encoder: Network
    decoder: Network
    scale: Scale

    def build(self, rng: torch.Generator | None, density: LikelihoodModule | None = None) -> VAE:
        """A fresh model with weights from `rng`: parameters in float32, on the CPU.

        Without a generator the networks are built on torch's "meta" device: shapes, but no memory. `density` is the
        likelihood's module, where it has been built before.
        """
        if density is None:
            density = self.likelihood.build(self.n_features, self.scale)
        dims = Dims(self.n_features, self.n_components, density.n_params, density.encoding.n_inputs)
        self._check_given(density, self.decoder.reads_x)
        n_encoded = (2 if "posterior" in self.objective.offers else 1) * self.n_components

        columns = Columns(density.columns_of_inputs(), density.columns_of_outputs())

        def networks() -> nn.Module:
            told = [(columns,) if network.reads_columns else () for network in (self.encoder, self.decoder)]
            return nn.ModuleDict(
                {
                    "encoder": self.encoder.build_encoder(density.encoding.n_inputs, n_encoded, *told[0]),
                    "decoder": self.decoder.build_decoder(
                        self.n_components + density.n_given, density.n_params, *told[1]
                    ),
                    "extras": nn.ModuleDict(self.objective.modules(dims)),
                    "prior": self.objective.prior(self.prior, self.n_components, density),
                }
            )

        parts, objective = build_seeded(networks, rng), self.objective
        reads_x = getattr(parts["decoder"], "reads_x", False)
        if reads_x and "density" not in objective.offers:
            raise ValueError(
                f"objective={objective!r} trains no density, and decoder={self.decoder!r} reads the row it predicts, "
                "which it would learn to copy. Use an objective with a density, or another decoder."
            )
        self._check_given(density, reads_x)
        kind = AutoregressiveVAE if reads_x else VAE
        return kind(likelihood=density, offers=objective.offers, code=objective.code, scale=self.scale, **parts)

    def _check_given(self, density: LikelihoodModule, reads_x: bool) -> None:
        """Raise ValueError where decoder or objective cannot be given columns, and the likelihood is."""
        part = f"decoder={self.decoder!r}" if reads_x else f"objective={self.objective!r}"
        if density.n_given and (reads_x or "density" not in self.objective.offers):
            need = "another decoder" if reads_x else "objective='elbo'"
            raise ValueError(f"{part} cannot be given columns, as the likelihood is; use {need}, or model all columns.")


def pack(model: VAE) -> dict[str, np.ndarray]:
    """Name -> array of every parameter and buffer."""
    return {name: value.detach().cpu().numpy().copy() for name, value in model.state_dict().items()}


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A trained model as values: what it was built from, what its table was, and its weights.

    Attributes
    ----------
    specs : dict of str to Spec
        The likelihood, as resolved for the table, the objective, the prior, the encoder and the decoder.
    schema : Schema
    scale : Scale
    n_components : int
    order : ndarray of int of shape (n_components,)
        The latents in public order, the most informative first, as numbers in training order.
    seed : int
    weights : dict of str to ndarray
    """

    specs: dict[str, Any]
    schema: Schema
    scale: Scale
    n_components: int
    order: np.ndarray
    seed: int
    weights: dict[str, np.ndarray]
    _modules: dict[torch.device, VAE] = field(default_factory=dict, repr=False)
    # Names of devices whose absence its user has been told.
    _told: set[str] = field(default_factory=set, repr=False)

    @classmethod
    def of(cls, state: dict[str, Any]) -> FittedModel:
        """The model in a fitted estimator's `__dict__`."""
        return cls(
            state["_specs"],
            Schema(**state["_columns"]),
            Scale(state["_shift"], state["scale_"], state.get("_constant")),
            state["n_components_"],
            state["_order"],
            state["_seed"],
            state["_weights"],
        )

    @property
    def attributes(self) -> dict[str, Any]:
        """The model as a fitted estimator's attributes; `of` is the way back."""
        return {
            "_specs": self.specs,
            "_columns": vars(self.schema),
            "_shift": self.scale.shift,
            "scale_": self.scale.scale,
            "_constant": self.scale.constant,
            "n_components_": self.n_components,
            "_order": self.order,
            "_seed": self.seed,
            "_weights": self.weights,
            **self.specs["objective"].attributes(self.weights, self.order),
        }

    @property
    def offers(self) -> frozenset[str]:
        """What its objective makes meaningful."""
        return self.specs["objective"].offers

    @property
    def blueprint(self) -> Blueprint:
        """What the torch module is built from."""
        return Blueprint(len(self.scale.scale), self.n_components, scale=self.scale, **self.specs)

    def rebuilt(self, dtype: torch.dtype) -> VAE:
        """A new torch module with the weights, on the CPU; to be called in a `torch_scope`."""
        model = self.blueprint.build(make_generator(0))
        model.load_state_dict({name: torch.tensor(value) for name, value in self.weights.items()})
        model.to(dtype).check_widths()  # which measures what rows cost, too
        return model

    def module(self, device: torch.device) -> VAE:
        """The torch module for inference: float64, in evaluation mode, built once for each device."""
        with _lock:
            if device not in self._modules:
                with torch_scope(device, grad=False):
                    self._modules[device] = self.rebuilt(torch.float64).to(device).eval().requires_grad_(False)
            return self._modules[device]

    def device(self, name: str) -> torch.device:
        """The device of this name, or the CPU where there is none such, which is said once for each model."""
        told = name in self._told
        self._told.add(name)
        return resolve_device(name, told)

    def inference(self, device: torch.device, n_draws: int) -> Inference:
        """The ways to look at rows. Inference is in float64, which Apple's GPUs lack."""
        device = torch.device("cpu") if device.type == "mps" else device
        return Inference(self.module(device), self.scale, device, n_draws, self.seed)

    def reader(self, name: str, columns: Any) -> TableReader:
        """What checks tables for the estimator of this name; `columns` are their names, or None."""
        return TableReader(name, self.schema, self.specs["likelihood"], len(self.scale.scale), columns)


# From a fit to its estimator. Other threads may look at it meanwhile, so all that a fit leaves is swapped in at once.

Method = TypeVar("Method", bound=Callable[..., Any])


def become(estimator: Any, attributes: dict[str, Any]) -> None:
    """Write what a fit left to its estimator, in place of what the last one left: all of it, or nothing."""
    estimator.__dict__ = unfitted(estimator) | attributes


def amend(estimator: Any, *dropped: str, **attributes: Any) -> None:
    """Change some of what a fit has left, and drop some: all of it at once."""
    kept = {name: value for name, value in vars(estimator).copy().items() if name not in dropped}
    estimator.__dict__ = kept | attributes


def unfitted(estimator: Any) -> dict[str, Any]:
    """What an estimator holds beside what fits have left."""
    return {name: value for name, value in vars(estimator).copy().items() if not _is_fitted(name)}


def _is_fitted(name: str) -> bool:
    """Whether an attribute of this name is a fit's, and not a parameter or scikit-learn's own."""
    own = ("_skl", "_callback", "_parent_callback", "_metadata")
    return name.endswith("_") or (name.startswith("_") and not name.startswith(own))


def model_of(estimator: Any, state: dict[str, Any] | None = None) -> FittedModel:
    """The fitted estimator's model, made once until its weights change; of its `__dict__` at an earlier moment."""
    state = vars(estimator) if state is None else state
    with _lock:
        model = _models.get(estimator)
        if model is None or model.weights is not state["_weights"]:
            _models[estimator] = model = FittedModel.of(state)
        return model


def remember(estimator: Any, model: FittedModel) -> None:
    """Keep the model that a fit has left to its estimator, whose user it has told of the device."""
    model._told.add(estimator.device)
    with _lock:
        _models[estimator] = model


def at_once(method: Method) -> Method:
    """Let a method see the estimator as it is when called, whatever a fit in another thread makes of it meanwhile."""

    @wraps(method)
    def looking(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        # Another object that shares what this one holds; a fit would give this one something else to hold.
        view = object.__new__(type(estimator))
        view.__dict__ = state = vars(estimator)
        if "_weights" in state:
            with _lock:
                _models[view] = model_of(estimator, state)
        return method(view, *args, **kwargs)

    return looking  # type: ignore[return-value]


# What a saved state must be


def _is_floats(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(number, float) for number in value)


def _is_array(value: Any, kinds: str, *shape: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in kinds and value.dtype.isnative and value.shape == shape


def _is_columns(value: Any, n_features: int) -> bool:
    return _is_array(value, "f", n_features) and bool(np.isfinite(value).all())


def _is_permutation(value: Any, length: int) -> bool:
    return _is_array(value, "iu", length) and sorted(value.tolist()) == list(range(length))


def _is_dict(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and holds(v) for k, v in value.items())


def _is_state_of_solver(value: Any) -> bool:
    """A list of what a solver keeps for each player; what solvers of users keep is theirs."""
    return isinstance(value, list) and all(map(_is_state_of_one, value))


def _is_state_of_one(kept: Any) -> bool:
    if not isinstance(kept, dict) or not isinstance(kept.get("solver", ""), str):
        return False
    if kept.get("solver") not in {kind.__name__ for kind in SOLVERS.values()}:
        return True
    parts = [part for name, part in kept.items() if name != "solver" and part is not None]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    numbers = [part for part in parts if not isinstance(part, np.ndarray)]
    lengths = {part.shape for part in arrays if part.ndim}
    return (
        all(isinstance(number, bool | int | float) for number in numbers)
        and all(_is_array(part, "f", *part.shape) for part in arrays)
        and len(lengths) < 2
    )


_WHOLE = Rule("an integer from 0 on", lambda v, D, J: is_whole(v))
_FLOATS = Rule("a list of floats", lambda v, D, J: _is_floats(v))
_COLUMNS = Rule("finite numbers, one for each column", lambda v, D, J: _is_columns(v, D))
# What the model is, what its training was, and what else may be known of it.
MODEL = {
    "n_features_in_": Rule("an integer from 1 on", lambda v, D, J: is_whole(v, 1)),
    "n_components_": Rule("an integer from 1 on", lambda v, D, J: is_whole(v, 1)),
    "mean_": _COLUMNS,
    "_shift": _COLUMNS,
    "scale_": Rule("positive numbers, one for each column", lambda v, D, J: _is_columns(v, D) and (v > 0).all()),
    "_columns": Rule("what a table's columns are", lambda v, D, J: _is_dict(v, lambda part: True)),
    "_order": Rule("a permutation of the latents", lambda v, D, J: _is_permutation(v, J)),
    "_seed": _WHOLE,
    "_specs": Rule("its parts", lambda v, D, J: isinstance(v, dict) and v.keys() == KINDS.keys()),
    "_weights": Rule("arrays and their names", lambda v, D, J: _is_dict(v, lambda part: True)),
}
TRAINING = {
    "n_iter_": _WHOLE,
    "best_iter_": _WHOLE,
    "history_": Rule("lists of floats", lambda v, D, J: _is_dict(v, _is_floats)),
    "loss_curve_": _FLOATS,
    "validation_curve_": _FLOATS,
    "_solver_state": Rule("what solvers keep", lambda v, D, J: _is_state_of_solver(v)),
    "_asked": Rule(
        "the parts' names", lambda v, D, J: _is_dict(v, lambda t: isinstance(t, str)) and v.keys() == KINDS.keys()
    ),
}
DETAILS = {
    "_constant": Rule(
        "None, or numbers and NaN, one for each column",
        lambda v, D, J: v is None or (_is_array(v, "f", D) and not np.isinf(v).any()),
    ),
    "feature_names_in_": Rule(
        "the columns' names", lambda v, D, J: v.shape == (D,) and all(isinstance(name, str) for name in v.tolist())
    ),
    "likelihood_": Rule("a likelihood", lambda v, D, J: isinstance(v, Likelihood)),
    "latent_information_": Rule("a number for each latent", lambda v, D, J: _is_array(v, "f", J)),
    "active_components_": Rule("true or false for each latent", lambda v, D, J: _is_array(v, "b", J)),
    "noise_variance_": Rule(
        "a number, or one for each column", lambda v, D, J: isinstance(v, float) or _is_array(v, "f", D)
    ),
}


def fault_of_model(state: dict[str, Any]) -> str | None:
    """What is wrong with the model in a saved state, in words; None if nothing is.

    Sizes are read from the arrays and compared with what the hyperparameters ask for on torch's "meta" device, which
    holds no memory: a tampered file cannot make us allocate.
    """
    return (
        _fault_of_specs(state["_specs"])
        or _fault_of_columns(state["_columns"], state["n_features_in_"])
        or _fault_of_likelihood(state)
        or _fault_of_weights(state)
        or _fault_of_attributes(state)
    )


def _fault_of_specs(specs: dict[str, Any]) -> str | None:
    for key, kind in KINDS.items():
        if not isinstance(specs[key], kind):
            return f"the {key} is a {type(specs[key]).__name__}"
        try:
            specs[key]._validate_params()
        except (AttributeError, TypeError, ValueError) as error:
            return f"the {key}'s parameters break a rule ({error})"
    return None


def _fault_of_columns(columns: dict[str, Any], n_features: int) -> str | None:
    if columns.keys() != vars(Schema()).keys():
        return "_columns are not what a table's columns are"
    return Schema(**columns).fault(n_features)


def _fault_of_likelihood(state: dict[str, Any]) -> str | None:
    sizes = Schema(**state["_columns"]).n_categories(list(range(state["n_features_in_"])))
    return None if fits_schema(state["_specs"]["likelihood"], sizes) else "its likelihood is not one of these columns"


def _fault_of_weights(state: dict[str, Any]) -> str | None:
    weights, specs = state["_weights"], state["_specs"]
    if not all(spec.known for spec in specs.values()):
        return None  # a user's module may hold anything, and only pickle can have carried it
    for key, value in weights.items():
        if not is_finite_array(value):
            return f"{key} is not an array of finite numbers"
    if any(specs[name].count_layers() > len(weights) for name in ("encoder", "decoder")):
        return "its networks ask for more layers than it holds arrays"
    try:
        expected = _shapes(FittedModel.of(state).blueprint)
    except Exception as error:  # of whatever kind an activation of the file's raises
        return f"its networks cannot be built ({error})"
    found = {key: value.shape for key, value in weights.items()}
    if found != expected:
        return f"arrays {sorted(found.items() ^ expected.items(), key=str)} do not fit the model"
    return None


def _fault_of_attributes(state: dict[str, Any]) -> str | None:
    said = state["_specs"]["objective"].attributes(state["_weights"], state["_order"])
    wrong = [name for name, value in said.items() if not np.array_equal(np.asarray(state.get(name)), value)]
    return f"{wrong[0]} is not what its weights say" if wrong else None


def _shapes(blueprint: Blueprint) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every saved array of a model, without allocating one."""
    with torch_scope(torch.device("cpu"), grad=False):
        model = blueprint.build(None)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}
