"""What training minimises: one small class per loss.

An `Objective` holds hyperparameters only. Most are `OnePass`: a formula of what the networks emitted for a batch, its
`terms`. Others write the call, and may have several `players` with a `Turn` each.
Reconstruction and KL are sums over features and latents and means over rows; any other weight is the user's `beta`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .._params import Spec
from .._tables.batches import Batch, Table
from .._tables.moments import Units
from ..likelihoods import LikelihoodModule
from ..model import VAE, Dims, Emitted
from ..priors import Prior, PriorSpec

__all__ = ["Objective", "OnePass", "Slopes", "Turn"]


class Slopes(NamedTuple):
    """The slopes of a batch's mean loss over what the networks emitted.

    Attributes
    ----------
    shares : dict of str to array of shape (1 or B, 1 or K)
        What the terms' means are made of, each to be summed over both axes; see `OnePass.summed`.
    outputs : array of shape (S B, n_params)
    z : array of shape (S B, J) or None
        Beside what flows through the outputs; None: nothing.
    mu, log_var : arrays of shape (B, J) or None
        Beside what flows through z; None: nothing.
    """

    shares: dict[str, Any]
    outputs: Any
    z: Any = None
    mu: Any = None
    log_var: Any = None


class Turn(NamedTuple):
    """One player's move in every step: its own forward pass, then one step of its own optimiser.

    Attributes
    ----------
    parameters : list of nn.Parameter
        What it moves.
    terms : callable
        `terms(model, batch, rng, epoch)`: named terms, each (N,) or a scalar, all of them logged.
    loss : str
        The term that it lowers.
    """

    parameters: list[nn.Parameter]
    terms: Callable[[VAE, Batch, torch.Generator, float], dict[str, Tensor]]
    loss: str = "loss"


class Objective(Spec, ABC):
    """Hyperparameters and hooks of a training loss.

    Attributes
    ----------
    offers : frozenset of {"posterior", "prior", "density"}
        What training gives a meaning, and so which methods the estimators have. "posterior": q(z|x) has a spread;
        without it the encoder emits a code, J numbers per row. "prior": p(z) is where codes lie, so that `sample` makes
        sense. "density": p(x) is a likelihood, in nats.
    target : {None, "row", "filled", "label"}
        What `fit`'s y is, which batches then carry: nothing; rows like those of X in the model's units; the same, but
        only to be shown, so that a mean of counts will do; or numbers as they come, NaN where unknown.
    code : str
        The activation of a code, a name in `skvae.networks.ACTIVATIONS`.
    input_noise : float
        Variance of the noise that training adds to the rows; training starts at the linear model of noisy rows.
    """

    offers: ClassVar[frozenset[str]] = frozenset()
    target: str | None = None
    code: str = "identity"
    input_noise: float = 0.0

    @property
    def is_bound(self) -> bool:
        """Whether `monitor` is a lower bound on log p(x), to be held beside other models' likelihoods."""
        return False

    @property
    def ramp(self) -> int:
        """The first epoch whose loss has its final form; early stopping is patient until then."""
        return 0

    def prior(self, prior: PriorSpec, n_components: int, density: LikelihoodModule) -> Prior:
        """The model's p(z): the one that the estimator's `prior` asks for, unless the objective needs its own."""
        return prior.build(n_components, density)

    def modules(self, dims: Dims) -> dict[str, nn.Module]:
        """Extra modules (discriminators, centres), trained and saved with the model as `model.extras`.

        One without a parameter that has a gradient stays in evaluation mode.
        """
        return {}

    def check_labels(self, y: np.ndarray) -> None:
        """Raise ValueError where y, (N,), holds a label that the objective does not know, for `target` "label"."""
        return

    def start(self, model: VAE, rows: Table, rng: torch.Generator) -> None:
        """Prepare the model on the table of training rows before the first epoch; `rows.whole()` are its tensors."""
        return

    def begin_epoch(self, model: VAE, rows: Table, rng: torch.Generator, epoch: int) -> None:
        """Change the model before an epoch, the first is 1, by a look at the table of training rows."""
        return

    def attributes(self, weights: dict[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
        """What a fitted estimator has beside the usual, under names that end in "_".

        `weights` are those of the fitted model, by the names of its parameters (`extras.<name>....`); `order` are the
        latents in public order, as numbers in training order.
        """
        return {}

    @abstractmethod
    def __call__(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        """Named terms, each (N,) or a scalar. All are logged, the players' are minimised, "loss" is `loss_curve_`."""

    def players(self, model: VAE) -> list[Turn]:
        """Who moves in a step, one after the other, each after a forward pass of its own.

        Their groups of parameters are disjoint; parameters in no group stay as they started, the likelihood's noise
        among them.
        """
        return [Turn([p for p in model.parameters() if p.requires_grad], self)]

    # What early stopping watches: monitor(model, batch, rng) -> (N,), higher is better, at the loss' final form. It is
    # called with gradients off (an objective that needs them opens torch.enable_grad()). None: nothing to watch.
    monitor = None


class OnePass(Objective):
    """An objective that is a function of one pass through both networks. Write `terms`.

    Attributes
    ----------
    n_draws : int
        S, draws of z per row and step.
    reads_hidden : bool
        Whether `terms` reads `emitted.hidden`, the encoder's activations.
    in_data_units : bool
        Whether `views` calls `units.to_data`.
    reads_error : bool
        Whether `gradient` asks for `at.error_gradient`, and not for `at.nll_gradient`.
    """

    n_draws: int = 1
    reads_hidden: bool = False
    in_data_units: bool = False
    reads_error: bool = False

    def views(self, units: Units, batch: Batch, rng: torch.Generator) -> tuple[Batch, Batch]:
        """What the encoder sees of a batch, and what the decoder's outputs are compared with."""
        return batch, batch

    @property
    def changes_rows(self) -> bool:
        """Whether `views` does more to a batch's rows than `units.add_noise`."""
        return type(self).views is not OnePass.views

    @abstractmethod
    def terms(
        self, emitted: Emitted, batch: Batch, model: VAE, rng: torch.Generator, epoch: float
    ) -> dict[str, Tensor]:
        """The formula: named terms, each (B,) or a scalar, of what the networks emitted; "loss" is minimised.

        `batch` is what the outputs are compared with. An infinite epoch asks for the loss' final form.
        """

    def gradient(self, emitted: Emitted, at: Any, epoch: float) -> Slopes | None:
        """The slopes of the mean of "loss" over a batch, without a graph; None: `terms` is asked, by autograd.

        It must agree with `terms`. Arrays are numpy's or torch's. `at` has `xp`, which of the two;
        `nll_gradient(outputs)`, the likelihood's -log p(x|z) and its slope, or, for an objective that `reads_error`,
        `error_gradient(outputs)`, the same of its error; `prior`; `std`, (B, J); `mass`, what a row counts; and
        `repeat` and `sum_draws`, between (B, K) and (S B, K). Not asked where the likelihood does not state the latter.
        """
        return None

    def plays_alone(self, model: VAE) -> bool:
        """Whether `terms` of one pass is all there is: the one player lowers it, and moves all there is to train."""
        turns = [turn for turn in self.players(model) if turn.parameters]
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        return (
            type(self).__call__ is OnePass.__call__
            and [(turn.terms, turn.loss) for turn in turns] == [(self, "loss")]
            and {id(p) for p in turns[0].parameters} == trained
        )

    def summed(self, shares: dict[str, Any], epoch: float) -> dict[str, Any]:
        """The means of `terms` over a batch, from the sums of `gradient`'s shares."""
        return shares

    def __call__(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        seen, compared = self.views(model.units, batch, rng)
        emitted = model.emit(seen, compared, rng, self.n_draws, self.reads_hidden)
        return self.terms(emitted, compared, model, rng, epoch)

    def monitor(self, model: VAE, batch: Batch, rng: torch.Generator) -> Tensor:  # type: ignore[override]
        """Minus the loss in its final form: (N,)."""
        return (-self(model, batch, rng, math.inf)["loss"]).expand(len(batch))
