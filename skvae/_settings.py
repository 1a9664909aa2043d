"""What a fit reads of its estimator's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from ._checkpoint import Checkpoint, words_of
from ._linear import Covariance
from ._params import named
from ._ranks import from_first
from ._torch import draw_seed
from ._training.loop import TrainingSettings
from ._training.solvers import SOLVERS
from .likelihoods import LIKELIHOODS, max_latents
from .networks import MLP, Network, Supplied
from .objectives import OBJECTIVES, Objective
from .priors import PRIORS

__all__ = ["AUTO_MOST", "FitSettings"]

# n_components="auto": the share of variance the leading principal components must hold, and at most how many.
AUTO_VARIANCE, AUTO_MOST = 0.9, 32
# The largest step that float32 holds.
LARGEST_STEP = float(np.finfo(np.float32).max)


def leading_components(cov: Covariance) -> int:
    """The number of leading principal components that hold `AUTO_VARIANCE` of the variance, 1 to `AUTO_MOST`."""
    values, _ = cov.leading(max_latents(AUTO_MOST, cov), np.ones(cov.n_columns))
    share = np.cumsum(values) / max(cov.diagonal.sum(), np.finfo(float).tiny)
    return max(1, min(AUTO_MOST, int(np.searchsorted(share, AUTO_VARIANCE)) + 1, max(1, len(values))))


@dataclass(frozen=True)
class FitSettings:
    """What a fit reads of its estimator's parameters.

    Attributes
    ----------
    name : str
        The estimator's, for messages.
    specs : dict of str to Spec
        Likelihood, objective, prior, encoder and decoder, as they were asked for.
    n_components : int or "auto"
    auto_components : callable
        From the covariance of what the encoder sees to the number of latents that "auto" means.
    init, max_iter, batch_size, solver, learning_rate_init, early_stopping, validation_fraction, n_iter_no_change
        As in `VAETransformer`; so is verbose.
    device : torch.device
    """

    name: str
    specs: dict[str, Any]
    n_components: Any
    init: str
    max_iter: int
    batch_size: Any
    solver: Any
    learning_rate_init: float
    early_stopping: Any
    validation_fraction: float
    n_iter_no_change: float
    verbose: int
    device: torch.device
    seed: int = 0
    keeps_best: bool = False  # at an interrupt, the best weights so far: the estimator's own fit, of which there is one
    checkpoint: Checkpoint | None = None  # the estimator's own fit goes on from there, and writes it
    attributes: dict[str, Any] = field(default_factory=dict)  # the estimator's that are known before training
    auto_components: Callable[[Covariance], int] = leading_components

    @classmethod
    def of(
        cls, estimator: Any, device: torch.device, auto_components: Callable[[Covariance], int] = leading_components
    ) -> FitSettings:
        """The settings of an estimator whose parameters have been validated, without a seed yet."""
        own = ["n_components", "init", "max_iter", "batch_size", "solver", "learning_rate_init", "early_stopping"]
        own += ["validation_fraction", "n_iter_no_change", "verbose"]
        return cls(
            name=type(estimator).__name__,
            specs=specs_of(estimator),
            device=device,
            auto_components=auto_components,
            **{name: getattr(estimator, name) for name in own},
        )

    def seeded(self, random_state: Any) -> FitSettings:
        """With a seed, drawn only when the rows are known to be good: a refused fit draws nothing."""
        return replace(self, seed=from_first(draw_seed(random_state)))

    @property
    def bound(self) -> dict[str, str]:
        """What a fit must have in common with another to go on from where that stands, in words."""
        names = ["n_components", "init", "max_iter", "batch_size", "solver", "learning_rate_init", "early_stopping"]
        names += ["validation_fraction", "n_iter_no_change", "device"]
        values = {"The estimator": self.name, "The seed": self.seed, **self.specs}
        return {name: words_of(value) for name, value in {**values, **{n: getattr(self, n) for n in names}}.items()}

    @property
    def objective(self) -> Objective:
        """What training minimises."""
        return self.specs["objective"]

    def batch_rows(self, n_rows: int) -> int:
        """Rows per step, of so many to train on."""
        if self.batch_size != "auto":
            return min(self.batch_size, n_rows)
        return min(n_rows, max(32, min(200, n_rows // 10)))

    def training(self, n_rows: int, watched: bool, **changes: Any) -> TrainingSettings:
        """How to train on so many rows; `watched` says whether there are held-out ones."""
        solver = SOLVERS[self.solver] if isinstance(self.solver, str) else None
        found = TrainingSettings(
            # Weights are float32, and torch refuses a step that they cannot hold: the largest they can diverges, too.
            solver=partial(solver, lr=min(self.learning_rate_init, LARGEST_STEP)) if solver else self.solver,
            batch_size=self.batch_rows(n_rows),
            max_iter=self.max_iter,
            patience=self.n_iter_no_change if watched else math.inf,
            learning_rate=self.learning_rate_init,
        )
        return replace(found, **changes)


def specs_of(estimator: Any) -> dict[str, Any]:
    """The hyperparameters a model is built from, as objects of their families, checked."""
    plain = MLP(estimator.hidden_layer_sizes, estimator.activation)
    specs = {
        "likelihood": clone(named(estimator.likelihood, LIKELIHOODS)),
        "objective": clone(named(estimator.objective, OBJECTIVES)),
        "prior": clone(named(estimator.prior, PRIORS)),
        "encoder": _network(estimator.encoder, plain),
        "decoder": _network(estimator.decoder, plain),
    }
    for spec in specs.values():
        spec._validate_params()
    return specs


def _network(value: Any, default: Network) -> Network:
    if value is None:
        return default
    return clone(value) if isinstance(value, Network) else Supplied(value)
