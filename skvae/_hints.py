"""What a wrong parameter may have been meant to be, and where an object is documented."""

from __future__ import annotations

import inspect
import re
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import InvalidParameterError, StrOptions, make_constraint

__all__ = ["Hinting", "Names", "SeveralNames"]


# What other libraries call parameters of skvae's.
CALLED_ELSEWHERE = {
    **dict.fromkeys(["epochs", "n_epochs", "num_epochs", "max_epochs", "epoch_num"], "max_iter"),
    **dict.fromkeys(["latent_dim", "n_latents", "n_latent", "latent_size", "encoding_dim"], "n_components"),
    **dict.fromkeys(["learning_rate", "lr"], "learning_rate_init"),
    **dict.fromkeys(["hidden_layers", "hidden_dims", "hidden_units", "n_hidden", "layers"], "hidden_layer_sizes"),
    **dict.fromkeys(["seed", "random_seed", "rng"], "random_state"),
    **dict.fromkeys(["patience", "early_stopping_patience"], "n_iter_no_change"),
    **dict.fromkeys(["optimizer", "optimiser"], "solver"),
    **dict.fromkeys(["loss", "loss_function", "reconstruction_loss", "distribution"], "likelihood"),
    "beta": "objective=ELBO(beta=...)",
    "noise": "likelihood=Gaussian(noise=...)",
}


class Names(StrOptions):
    """Names of a family, which an error lists in order."""

    def __str__(self) -> str:
        return f"a str among {{{', '.join(map(repr, sorted(self.options)))}}}"


class SeveralNames(Names):
    """A list or a tuple of such names, each once."""

    def is_satisfied_by(self, val: Any) -> bool:
        return isinstance(val, (list, tuple)) and 0 < len(val) == len(set(map(repr, val))) and set(val) <= self.options

    def __str__(self) -> str:
        return "a list of several of these"


@cache
def _site() -> str:
    """The address of the documentation, which the package's metadata tell; "" where they do not."""
    try:
        urls = metadata("skvae").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    named = dict(url.split(", ", 1) for url in urls)
    return named.get("Documentation", "").rstrip("/")


class Hinting(BaseEstimator):
    """An object whose errors of parameters say what may have been meant, and whose picture links to its page."""

    _doc_link_module = "skvae"

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """An object whose `__init__` will take these parameters: of others an error says what they are called here."""
        known = inspect.signature(cls.__init__).parameters if kwargs else {}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            for name in (name for name in kwargs if name not in known):
                if near := _near_parameter(name, [*known][1:]):
                    raise TypeError(f"{cls.__name__} takes no parameter {name!r}. Did you mean {near}?")
        return super().__new__(cls)

    @property
    def _doc_link_template(self) -> str:
        return _site() and f"{_site()}/generated/{{estimator_module}}.{{estimator_name}}.html"

    def _validate_params(self) -> None:
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            name = re.findall(r"^The '(\w+)' parameter", str(error))
            hint = _hint(name[0], getattr(self, name[0]), self._parameter_constraints[name[0]]) if name else None
            if hint is None:
                raise
            raise InvalidParameterError(f"{error} {hint}") from None


def _near_parameter(name: str, known: list[str]) -> str | None:
    """What a parameter of that name is called here; None where nothing is like it."""
    called = CALLED_ELSEWHERE.get(name.lower(), name)
    if called.partition("=")[0] in known:
        return called
    if "estimator" in known and called in CALLED_ELSEWHERE.values():
        return f"estimator=VAETransformer({called}=...)"
    return next(iter(get_close_matches(name, known, n=1)), None)


def _hint(name: str, value: Any, constraints: list[Any]) -> str | None:
    """What a parameter that broke its rule may have been meant to be; None where nothing is like it."""
    rules = [make_constraint(rule) for rule in constraints]
    if isinstance(value, str):
        known = sorted(option for rule in rules if isinstance(rule, StrOptions) for option in rule.options)
        near = get_close_matches(value.lower().replace("-", "_").replace(" ", "_"), known, n=1)
        return f"Did you mean {near[0]!r}?" if near else None
    if isinstance(value, type):
        kinds = tuple(rule for rule in constraints if isinstance(rule, type))
        return f"This is a class; give an object: {name}={value.__name__}()." if issubclass(value, kinds) else None
    if name == "likelihood" and isinstance(value, (list, tuple, dict)):
        return "A likelihood for each column is Mixed([(likelihood, columns), ...])."
    if name == "n_components" and isinstance(value, (float, np.floating)) and 0 < value < 1:
        return "A share of the variance is not taken, as it is by PCA; 'auto' chooses a number of latents by it."
    return None
