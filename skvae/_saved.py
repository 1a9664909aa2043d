"""What a saved object holds: a stamp with a checksum, and only what its rules allow, of its types and nothing else."""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import sklearn
import torch
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils._metadata_requests import MetadataRequest
from sklearn.utils._param_validation import validate_parameter_constraints

from ._hints import Hinting
from ._version import __version__

__all__ = [
    "RUNNING",
    "Rule",
    "Saved",
    "SavedModelWarning",
    "checked",
    "damaged",
    "fault_of_groups",
    "fault_of_names",
    "fault_of_values",
    "is_finite_array",
    "is_ours",
    "is_whole",
    "stamp",
    "unstamp",
]

FORMAT = 1
# What scikit-learn adds to an estimator while it is fitted, and takes away again.
RUNNING = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")
# What it adds for longer, and what that must be.
SKLEARNS: dict[str, Callable[[Any], bool]] = {
    "_skl_callbacks": lambda value: isinstance(value, list),
    "_parent_callback_ctx": lambda value: isinstance(value, CallbackContext),
    "_metadata_request": lambda value: isinstance(value, MetadataRequest),
    "_sklearn_output_config": lambda value: (
        isinstance(value, dict) and all(isinstance(text, str) for item in value.items() for text in item)
    ),
}


class SavedModelWarning(InconsistentVersionWarning):
    """A model was saved by another version than the one that loads it."""

    def __str__(self) -> str:
        return (
            f"This {self.estimator_name} was saved with {self.original_sklearn_version} and is loaded with "
            f"{self.current_sklearn_version}. Its numbers may differ; refit it, or load it with what saved it."
        )


def damaged(name: str, fault: str) -> ValueError:
    """The error for a saved state that skvae could not have written."""
    return ValueError(f"The saved state of this {name} is damaged: {fault}. Load the file again or refit.")


# The stamp


def _versions() -> dict[str, str]:
    return {"skvae": __version__, "scikit-learn": sklearn.__version__, "torch": torch.__version__.split("+")[0]}


def stamp(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with the format's number, the versions that wrote it, and a checksum."""
    kept = {name: value for name, value in state.items() if name not in RUNNING}
    return {**kept, "_format": FORMAT, "_versions": _versions(), "_checksum": checksum(kept)}


def unstamp(state: Any, name: str) -> dict[str, Any]:
    """The state without its stamp; warn of other versions, refuse another format, and another checksum."""
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise damaged(name, "it is not attributes and their names")
    state = dict(state)
    found, written, kept_sum = (state.pop(key, None) for key in ("_format", "_versions", "_checksum"))
    if type(found) is not int or found != FORMAT:
        raise ValueError(f"This {name} was saved in format {found!r}; this version of skvae reads format {FORMAT}.")
    if not isinstance(written, dict):
        raise ValueError(f"The versions saved with this {name} are not a dict: {type(written).__name__}.")
    _warn_of_versions(written, name)
    try:
        whole = isinstance(kept_sum, str) and kept_sum == checksum(state)
    except Exception:  # what cannot even be looked through
        whole = False
    if not whole:
        raise damaged(name, "its checksum is not that of what it holds")
    return state


def _warn_of_versions(written: dict[str, Any], name: str) -> None:
    now = _versions()
    differing = [key for key, version in now.items() if key != "torch" and written.get(key) != version]
    if differing:
        warnings.warn(
            SavedModelWarning(
                estimator_name=name,
                current_sklearn_version=", ".join(f"{key} {now[key]}" for key in differing),
                original_sklearn_version=", ".join(f"{key} {written.get(key)}" for key in differing),
            ),
            stacklevel=4,
        )


def checksum(state: Mapping[str, Any]) -> str:
    """A digest of the arrays, numbers and strings that a state holds, by name.

    It finds what chance has changed, not what somebody has: who can write the file can write the checksum.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        digest.update(name.encode())
        _feed(digest, state[name])
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    """Add a value, the same for whichever way it was saved; what is no plain data counts by its place alone."""
    if isinstance(value, np.ma.MaskedArray):
        _feed(digest, [np.ma.getdata(value), np.ma.getmaskarray(value)])
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        if value.dtype.kind == "O":
            _feed(digest, value.tolist())
        else:
            digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        _feed(digest, [part for item in value.items() for part in item])
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)} values".encode())
        if all(type(part) is float for part in value):
            digest.update(np.array(value, dtype=np.float64).tobytes())
        else:
            for part in value:
                _feed(digest, part)
    elif isinstance(value, BaseEstimator):
        names = type(value)._get_param_names()
        digest.update(type(value).__name__.encode())
        _feed(digest, {name: vars(value)[name] for name in names if name in vars(value)})
    else:
        value = value.item() if isinstance(value, np.generic) else value
        plain = value is None or isinstance(value, bool | int | float | str | bytes)
        digest.update(f"{value!r};".encode(errors="surrogatepass") if plain else b"?")


# The rules


class Rule(NamedTuple):
    """What a saved value must be: in words, and as a check that also gets the numbers of columns and latents."""

    words: str
    holds: Callable[[Any, int, int], bool]


State = Mapping[str, Any]
# What fits may leave; None: what is looked at with other parts.
Leaves = Mapping[str, Rule | None]


def is_ours(kind: type) -> bool:
    """Whether a class is one of skvae, and not a user's own, which may hold what it likes."""
    return kind.__module__.split(".")[0] == "skvae"


def fault_of_names(state: State, kind: type[BaseEstimator], leaves: Leaves) -> str | None:
    """Which attribute an object of skvae may not have, or lacks, in words; `leaves` are those that a fit may leave.

    What a user has noted on an estimator is kept: plain data, by a name that the class does not use itself.
    """
    parameters = kind._get_param_names()
    if not is_ours(kind):
        return None
    if lacking := [name for name in parameters if name not in state]:
        return f"its parameter {lacking[0]} is missing"
    for name, value in state.items():
        if name in parameters or name in leaves:
            continue
        if name in SKLEARNS:
            if not SKLEARNS[name](value):
                return f"{name} is {_shown(value)}"
        elif hasattr(kind, name) or name.startswith("_") or not _is_plain(value):
            return f"it holds {_shown(name)}, which {kind.__name__} does not leave there"
    return None


def fault_of_values(state: State, leaves: Leaves, n_features: int, n_components: int) -> str | None:
    """Which attribute of a fit is not what it must be, in words."""
    for name, rule in leaves.items():
        if rule is not None and name in state and not rule.holds(state[name], n_features, n_components):
            return f"{name} is {_shown(state[name])}; it must be {rule.words}"
    return None


def fault_of_groups(state: State, groups: tuple[frozenset[str], ...]) -> str | None:
    """Which attribute is missing of those that a fit leaves together, in words."""
    for group in groups:
        if group & state.keys() and (lacking := sorted(group - state.keys())):
            return f"{lacking[0]} is missing"
    return None


def checked(
    estimator: BaseEstimator,
    state: Any,
    leaves: Leaves,
    fault_of_fit: Callable[[dict[str, Any]], str | None],
) -> dict[str, Any]:
    """The attributes of an estimator in a saved state; ValueError where these are not such as skvae leaves.

    Parameters
    ----------
    estimator : estimator
        Still empty.
    state : object
    leaves : dict of str to Rule or None
        What a fit may leave.
    fault_of_fit : callable
        What is wrong with a state that holds anything of these, in words.
    """
    kind = type(estimator)
    state = unstamp(state, kind.__name__)
    try:
        fault = fault_of_names(state, kind, leaves)
        if not fault and leaves.keys() & state.keys():
            parameters = {name: state[name] for name in kind._get_param_names()}
            validate_parameter_constraints(estimator._parameter_constraints, parameters, kind.__name__)
            fault = fault_of_fit(state)
    except Exception as error:  # whatever looking at the parts leads to is the file's doing
        fault = f"its parts do not fit each other ({type(error).__name__}: {error})"
    if fault:
        raise damaged(kind.__name__, fault)
    return state


class Saved(Hinting):
    """An estimator that is saved with a stamp, and looked through when it is loaded."""

    # What a fit may leave.
    _leaves: ClassVar[dict[str, Rule | None]]

    def __getstate__(self) -> dict[str, Any]:
        if self._leaves.keys() & vars(self).keys():
            self._validate_params()  # or work would be lost when it is loaded
        return stamp(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(checked(self, state, self._leaves, self._fault))

    @abstractmethod
    def _fault(self, state: dict[str, Any]) -> str | None:
        """What is wrong with the saved state of a fitted estimator, in words; None if nothing is."""


def is_whole(value: Any, low: int = 0) -> bool:
    """Whether a value is an integer from `low` on."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= low)


def is_finite_array(value: Any, kinds: str = "fiu") -> bool:
    """Whether a value is an array of finite numbers, of dtypes of these kinds, in this machine's byte order."""
    kind = value.dtype.kind if isinstance(value, np.ndarray) else None
    return kind is not None and kind in kinds and value.dtype.isnative and bool(np.isfinite(value).all())


def _is_plain(value: Any) -> bool:
    """Whether a value is data: numbers, strings, arrays, and lists, tuples and dicts of such."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "O" or _is_plain(value.tolist())
    return value is None or isinstance(value, bool | int | float | str | bytes | np.generic)


def _shown(value: Any) -> str:
    """A value in a message, which it is not to flood; what is no plain data by its type, as nobody knows its repr."""
    text = repr(value) if _is_plain(value) and not isinstance(value, np.ndarray) else f"of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
