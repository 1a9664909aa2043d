"""Fitted state as numpy arrays and plain Python: every way to save an estimator works, and is checked on the way in.

A fitted estimator holds `_weights` (name -> array) and `_parts` (the hyperparameters the model was built from). The
torch module is rebuilt from them when first asked for, and cached outside the estimator's `__dict__`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import sklearn
import torch
from sklearn.exceptions import InconsistentVersionWarning
from torch import nn

from ._schema import Schema
from ._torch import build_seeded, make_generator, torch_scope
from .data import Scale
from .likelihoods import Likelihood, fits_schema
from .model import VAE, AutoregressiveVAE, Dims
from .networks import Network, Supplied
from .objectives import Objective
from .priors import PriorSpec

__all__ = [
    "Blueprint",
    "SavedModelWarning",
    "atomic",
    "blueprint_of",
    "is_finite_array",
    "module_of",
    "pack",
    "stamp",
    "unstamp",
    "validate",
]

FORMAT = 1

_modules: WeakKeyDictionary[Any, tuple[dict, torch.device, VAE]] = WeakKeyDictionary()
# Reentrant: a user's network may be built from another fitted model.
_lock = threading.RLock()


class SavedModelWarning(InconsistentVersionWarning):
    """A model was saved by another version than the one that loads it."""

    def __str__(self) -> str:
        return (
            f"This {self.estimator_name} was saved with {self.original_sklearn_version} and is loaded with "
            f"{self.current_sklearn_version}. Its numbers may differ; refit it, or load it with what saved it."
        )


@contextmanager
def atomic(estimator: Any) -> Iterator[None]:
    """Give the estimator its previous state back if anything goes wrong, an interrupt from the keyboard included."""
    before = estimator.__dict__.copy()
    try:
        yield
    except BaseException:
        # What scikit-learn's callback context put there, it takes away itself.
        kept = {k: v for k, v in estimator.__dict__.items() if "callback" in k}
        estimator.__dict__.clear()
        estimator.__dict__.update(before | kept)
        raise


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

    def build(self, rng: torch.Generator | None) -> VAE:
        """A fresh model with weights from `rng`: parameters in float32, on the CPU.

        Without a generator the networks are built on torch's "meta" device: shapes, but no memory.
        """
        density = self.likelihood.build(self.n_features, self.scale)
        dims = Dims(self.n_features, self.n_components, density.n_params)
        n_encoded = (2 if "posterior" in self.objective.offers else 1) * self.n_components

        def networks() -> nn.Module:
            return nn.ModuleDict(
                {
                    "encoder": self.encoder.build_encoder(density.n_inputs, n_encoded),
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


def blueprint_of(estimator: Any) -> Blueprint:
    """What the fitted estimator's model was built from."""
    return Blueprint(estimator.n_features_in_, estimator.n_components_, scale=estimator._scale(), **estimator._parts)


def rebuild(estimator: Any, dtype: torch.dtype) -> VAE:
    """The fitted model with its saved weights, on the CPU; to be called in a `torch_scope`."""
    model = blueprint_of(estimator).build(make_generator(0))
    model.load_state_dict({name: torch.tensor(value) for name, value in estimator._weights.items()})
    model.to(dtype).check_widths()  # which measures what rows cost, too
    return model


def module_of(estimator: Any, device: torch.device) -> VAE:
    """The fitted model for inference: float64, in evaluation mode, cached until the weights change."""
    with _lock:
        weights, place, model = _modules.get(estimator, (None, None, None))
        if model is None or weights is not estimator._weights or place != device:
            with torch_scope(device, grad=False):
                model = rebuild(estimator, torch.float64).to(device).eval().requires_grad_(False)
            _modules[estimator] = (estimator._weights, device, model)
        return model


def _versions() -> dict[str, str]:
    from . import __version__

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


def validate(state: dict[str, Any], name: str) -> None:
    """Raise ValueError unless a saved state is one that `fit` could have written."""
    if "_weights" in state and (fault := _fault(state)):
        raise ValueError(f"The saved state of this {name} is damaged: {fault}. Load the file again or refit.")


def _fault(state: dict[str, Any]) -> str | None:
    """What is wrong with a fitted state, in words; None if nothing is.

    Sizes are read from the arrays and compared with what the hyperparameters ask for on torch's "meta" device, which
    holds no memory: a tampered file cannot make us allocate.
    """
    sizes = {key: state.get(key) for key in ("n_features_in_", "n_components_")}
    for key, value in sizes.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            return f"{key} is {value!r}"
    n_features, n_components = int(state["n_features_in_"]), int(state["n_components_"])
    for key in ("mean_", "scale_", "_shift"):
        if not is_finite_array(state.get(key)) or state[key].shape != (n_features,):
            return f"{key} is not {n_features} finite numbers"
    if not (state["scale_"] > 0).all():
        return "scale_ is not positive"
    columns = state.get("_columns")
    if not isinstance(columns, dict) or columns.keys() != vars(Schema()).keys():
        return "_columns are not what a table's columns are"
    if fault := (schema := Schema(**columns)).fault(n_features):
        return fault
    order = state.get("_order")
    if not isinstance(order, np.ndarray) or order.shape != (n_components,) or order.dtype.kind not in "iu":
        return f"_order is not an array of {n_components} integers"
    if sorted(order.tolist()) != list(range(n_components)):
        return "_order is no permutation"
    if not isinstance(state.get("_seed"), int):
        return f"_seed is {state.get('_seed')!r}"
    weights, parts = state["_weights"], state.get("_parts")
    if not isinstance(weights, dict):
        return "_weights is no dict"
    kinds = {
        "likelihood": Likelihood,
        "objective": Objective,
        "prior": PriorSpec,
        "encoder": Network,
        "decoder": Network,
    }
    if not isinstance(parts, dict) or parts.keys() != kinds.keys():
        return f"_parts are not {sorted(kinds)}"
    for key, kind in kinds.items():
        if not isinstance(parts[key], kind):
            return f"the {key} is a {type(parts[key]).__name__}"
        try:
            parts[key]._validate_params()
        except (TypeError, ValueError) as error:
            return f"the {key}'s parameters break a rule ({error})"
    if not fits_schema(parts["likelihood"], schema.n_categories(list(range(n_features)))):
        return "its likelihood is not one of these columns"
    networks = [parts["encoder"], parts["decoder"]]
    if any(isinstance(network, Supplied) for network in networks):
        return None  # a user's module may hold anything, and only pickle can have carried it
    for key, value in weights.items():
        if not is_finite_array(value):
            return f"{key} is not an array of finite numbers"
    if any(np.size(getattr(network, "hidden_layer_sizes", ())) > len(weights) for network in networks):
        return "its networks ask for more layers than it holds arrays"
    scale = Scale(state["_shift"], state["scale_"])
    try:
        expected = _shapes(Blueprint(n_features, n_components, scale=scale, **parts))
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


def is_finite_array(value: Any) -> bool:
    """Whether `value` is an array of finite numbers."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and bool(np.isfinite(value).all())
