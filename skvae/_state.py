"""What a model is built from, and what a fit leaves: numpy arrays and plain Python, checked on the way in.

`Blueprint` builds the torch module. `FittedModel` is everything that a fitted estimator knows of its model. It stands
in the estimator's `__dict__` as flat attributes, so that every way to save an estimator works; the module is rebuilt
from them when first asked for, and kept outside that `__dict__`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import sklearn
import torch
from sklearn.exceptions import InconsistentVersionWarning
from torch import nn

from ._inference.blocks import Inference
from ._params import Spec
from ._tables.moments import Scale
from ._tables.reader import TableReader
from ._tables.schema import Schema
from ._torch import build_seeded, make_generator, resolve_device, torch_scope
from ._version import __version__
from .likelihoods import Likelihood, LikelihoodModule, fits_schema
from .model import VAE, AutoregressiveVAE, Dims
from .networks import Network
from .objectives import Objective
from .priors import PriorSpec

__all__ = [
    "Blueprint",
    "FittedModel",
    "SavedModelWarning",
    "amend",
    "at_once",
    "become",
    "damaged",
    "fault_of_model",
    "is_finite_array",
    "model_of",
    "pack",
    "remember",
    "stamp",
    "unfitted",
    "unstamp",
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


class SavedModelWarning(InconsistentVersionWarning):
    """A model was saved by another version than the one that loads it."""

    def __str__(self) -> str:
        return (
            f"This {self.estimator_name} was saved with {self.original_sklearn_version} and is loaded with "
            f"{self.current_sklearn_version}. Its numbers may differ; refit it, or load it with what saved it."
        )


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
        dims = Dims(self.n_features, self.n_components, density.n_params)
        n_encoded = (2 if "posterior" in self.objective.offers else 1) * self.n_components

        def networks() -> nn.Module:
            return nn.ModuleDict(
                {
                    "encoder": self.encoder.build_encoder(density.encoding.n_inputs, n_encoded),
                    "decoder": self.decoder.build_decoder(self.n_components, density.n_params),
                    "extras": nn.ModuleDict(self.objective.modules(dims)),
                    "prior": self.objective.prior(self.prior, self.n_components, density),
                }
            )

        parts = build_seeded(networks, rng)
        kind = AutoregressiveVAE if getattr(parts["decoder"], "reads_x", False) else VAE
        objective = self.objective
        return kind(likelihood=density, offers=objective.offers, code=objective.code, scale=self.scale, **parts)


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


# Saving and loading


def _versions() -> dict[str, str]:
    return {"skvae": __version__, "scikit-learn": sklearn.__version__, "torch": torch.__version__.split("+")[0]}


def stamp(state: dict[str, Any]) -> dict[str, Any]:
    """The state with the format's number and the versions that wrote it."""
    return {**state, "_format": FORMAT, "_versions": _versions()}


def unstamp(state: dict[str, Any], name: str) -> dict[str, Any]:
    """The state without its stamp; warn of other versions and refuse another format."""
    state = dict(state)
    found, written = state.pop("_format", FORMAT), state.pop("_versions", _versions())
    if found != FORMAT:
        raise ValueError(f"This {name} was saved in format {found!r}; this version of skvae reads format {FORMAT}.")
    if not isinstance(written, dict):
        raise ValueError(f"The versions saved with this {name} are not a dict: {type(written).__name__}.")
    differing = [k for k, v in _versions().items() if k != "torch" and written.get(k) != v]
    if differing:
        warnings.warn(
            SavedModelWarning(
                estimator_name=name,
                current_sklearn_version=", ".join(f"{k} {_versions()[k]}" for k in differing),
                original_sklearn_version=", ".join(f"{k} {written.get(k)}" for k in differing),
            ),
            stacklevel=3,
        )
    return state


def damaged(name: str, fault: str) -> ValueError:
    """The error for a saved state that `fit` could not have written."""
    return ValueError(f"The saved state of this {name} is damaged: {fault}. Load the file again or refit.")


def fault_of_model(state: dict[str, Any]) -> str | None:
    """What is wrong with the model in a saved state, in words; None if nothing is.

    Sizes are read from the arrays and compared with what the hyperparameters ask for on torch's "meta" device, which
    holds no memory: a tampered file cannot make us allocate.
    """
    return (
        _fault_of_sizes(state)
        or _fault_of_columns(state, state["n_features_in_"])
        or _fault_of_order(state, state["n_components_"])
        or _fault_of_specs(state.get("_specs"))
        or _fault_of_likelihood(state)
        or _fault_of_weights(state)
    )


def _fault_of_sizes(state: dict[str, Any]) -> str | None:
    for key in ("n_features_in_", "n_components_"):
        value: Any = state.get(key)
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            return f"{key} is {value!r}"
    return None if isinstance(state.get("_seed"), int) else f"_seed is {state.get('_seed')!r}"


def _fault_of_columns(state: dict[str, Any], n_features: int) -> str | None:
    for key in ("mean_", "scale_", "_shift"):
        value: Any = state.get(key)
        if not is_finite_array(value) or value.shape != (n_features,):
            return f"{key} is not {n_features} finite numbers"
    if not (state["scale_"] > 0).all():
        return "scale_ is not positive"
    constant: Any = state.get("_constant")
    if constant is not None and not _is_floats(constant, n_features):
        return f"_constant is not {n_features} numbers"
    columns = state.get("_columns")
    if not isinstance(columns, dict) or columns.keys() != vars(Schema()).keys():
        return "_columns are not what a table's columns are"
    return Schema(**columns).fault(n_features)


def _fault_of_order(state: dict[str, Any], n_components: int) -> str | None:
    order = state.get("_order")
    if not isinstance(order, np.ndarray) or order.shape != (n_components,) or order.dtype.kind not in "iu":
        return f"_order is not an array of {n_components} integers"
    return None if sorted(order.tolist()) == list(range(n_components)) else "_order is no permutation"


def _fault_of_specs(specs: Any) -> str | None:
    if not isinstance(specs, dict) or specs.keys() != KINDS.keys():
        return f"_specs are not {sorted(KINDS)}"
    for key, kind in KINDS.items():
        if not isinstance(specs[key], kind):
            return f"the {key} is a {type(specs[key]).__name__}"
        try:
            specs[key]._validate_params()
        except (TypeError, ValueError) as error:
            return f"the {key}'s parameters break a rule ({error})"
    return None


def _fault_of_likelihood(state: dict[str, Any]) -> str | None:
    sizes = Schema(**state["_columns"]).n_categories(list(range(state["n_features_in_"])))
    return None if fits_schema(state["_specs"]["likelihood"], sizes) else "its likelihood is not one of these columns"


def _fault_of_weights(state: dict[str, Any]) -> str | None:
    weights = state["_weights"]
    if not isinstance(weights, dict):
        return "_weights is no dict"
    networks = [state["_specs"]["encoder"], state["_specs"]["decoder"]]
    if not all(network.known for network in networks):
        return None  # a user's module may hold anything, and only pickle can have carried it
    for key, value in weights.items():
        if not is_finite_array(value):
            return f"{key} is not an array of finite numbers"
    if any(network.count_layers() > len(weights) for network in networks):
        return "its networks ask for more layers than it holds arrays"
    try:
        expected = _shapes(FittedModel.of(state).blueprint)
    except (RuntimeError, OverflowError) as error:
        return f"its networks cannot be built ({error})"
    found = {key: value.shape for key, value in weights.items()}
    if found != expected:
        return f"arrays {sorted(found.items() ^ expected.items(), key=str)} do not fit the model"
    return None


def _shapes(blueprint: Blueprint) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every saved array of a model, without allocating one."""
    with torch_scope(torch.device("cpu"), grad=False):
        model = blueprint.build(None)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _is_floats(value: Any, n: int) -> bool:
    """Whether `value` is an array of n floats, NaN or finite."""
    return (
        isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape == (n,) and not np.isinf(value).any()
    )


def is_finite_array(value: Any) -> bool:
    """Whether `value` is an array of finite numbers."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and bool(np.isfinite(value).all())
