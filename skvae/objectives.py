"""What training minimises: one small class per loss.

An `Objective` holds hyperparameters only. Most are `OnePass`: a formula of what the networks emitted for a batch, its
`terms`. Others write the call, and may have several `players` with a `Turn` each.
Reconstruction and KL are sums over features and latents and means over rows; any other weight is the user's `beta`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn

from ._params import Count, Part
from .data import Rows, Units
from .likelihoods import Density
from .model import VAE, Dims, Emitted
from .priors import Prior, PriorSpec, log_normal

__all__ = ["ELBO", "IWAE", "OBJECTIVES", "Emitted", "Objective", "OnePass", "Slopes", "Turn"]


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
    terms: Callable[[VAE, Rows, torch.Generator, float], dict[str, Tensor]]
    loss: str = "loss"


class Objective(Part, ABC):
    """Hyperparameters and hooks of a training loss.

    Attributes
    ----------
    offers : frozenset of {"posterior", "prior", "density"}
        What training gives a meaning, and so which methods the estimators have. "posterior": q(z|x) has a spread;
        without it the encoder emits a code, J numbers a row. "prior": p(z) is where codes lie, so that `sample` makes
        sense. "density": p(x) is a likelihood, in nats.
    target : {None, "row", "label"}
        What `fit`'s y is, which batches then carry: nothing, rows like those of X in the model's units, or numbers as
        they come, NaN where unknown.
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
        """Epochs before the loss takes its final form; early stopping is patient until then."""
        return 0

    def prior(self, prior: PriorSpec, n_components: int, density: Density) -> Prior:
        """The model's p(z): the one that the estimator's `prior` asks for, unless the objective needs its own."""
        return prior.build(n_components, density)

    def modules(self, dims: Dims) -> dict[str, nn.Module]:
        """Extra modules (discriminators, centres), trained and saved with the model as `model.extras`.

        One without a parameter that has a gradient stays in evaluation mode.
        """
        return {}

    def start(self, model: VAE, rows: Rows, rng: torch.Generator) -> None:
        """Prepare the model on the training rows before the first epoch."""
        return

    @abstractmethod
    def __call__(self, model: VAE, batch: Rows, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
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
        S, draws of z a row and step.
    reads_hidden : bool
        Whether `terms` reads `emitted.hidden`, the encoder's activations.
    in_data_units : bool
        Whether `views` calls `units.to_data`.
    """

    n_draws: int = 1
    reads_hidden: bool = False
    in_data_units: bool = False

    def views(self, units: Units, batch: Rows, rng: torch.Generator) -> tuple[Rows, Rows]:
        """What the encoder sees of a batch, and what the decoder's outputs are compared with."""
        return batch, batch

    @property
    def changes_rows(self) -> bool:
        """Whether `views` makes other rows of a batch's."""
        return type(self).views is not OnePass.views

    @abstractmethod
    def terms(self, emitted: Emitted, batch: Rows, model: VAE, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        """The formula: named terms, each (B,) or a scalar, of what the networks emitted; "loss" is minimised.

        `batch` is what the outputs are compared with. An infinite epoch asks for the loss' final form.
        """

    def gradient(self, emitted: Emitted, at: Any, epoch: float) -> Slopes | None:
        """The slopes of the mean of "loss" over a batch, without a graph; None: `terms` is asked, by autograd.

        It must agree with `terms`. Arrays are numpy's or torch's. `at` has `xp`, which of the two;
        `nll_gradient(outputs)`, the likelihood's -log p(x|z) and its slope; `prior`; `std`, (B, J); `mass`, what a row
        counts; and `repeat` and `sum_draws`, between (B, K) and (S B, K).
        """
        return None

    def summed(self, shares: dict[str, Any], epoch: float) -> dict[str, Any]:
        """The means of `terms` over a batch, from the sums of `gradient`'s shares."""
        return shares

    def __call__(self, model: VAE, batch: Rows, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        seen, compared = self.views(model.units, batch, rng)
        emitted = model.emit(seen, compared, rng, self.n_draws, self.reads_hidden)
        return self.terms(emitted, compared, model, rng, epoch)

    def monitor(self, model: VAE, batch: Rows, rng: torch.Generator) -> Tensor:  # type: ignore[override]
        """Minus the loss in its final form: (N,)."""
        return (-self(model, batch, rng, math.inf)["loss"]).expand(len(batch))


class ELBO(OnePass):
    """The evidence lower bound (Kingma & Welling 2013): maximise E_q[log p(x|z)] - beta KL(q(z|x) || p(z)).

    Parameters
    ----------
    kl : {"analytic", "sampled"}, default="analytic"
        The KL in closed form (the paper's estimator B), or averaged over the draws (estimator A), as it always is where
        the prior allows no closed form.
    n_draws : int, default=1
        Draws of z a row and step; 1 is enough for batches of about 100 rows.
    beta : float, default=1.0
        Weight of the KL. Above 1, latents are fewer and more independent (Higgins et al. 2017), and the loss
        is no longer a bound on the likelihood; `score_samples` stays one.
    warmup : int, default=0
        Epochs over which beta rises linearly from 0 to its value.
    free_bits : float, default=0.0
        Nats a latent, averaged over the batch, that the KL leaves unpenalised (Kingma et al. 2016, section C.8). With a
        prior whose KL has no closed form, nats of all latents together: it is then one number a row.
    input_noise : float, default=0.0
        Variance of the Gaussian noise that is added to the rows of every batch, anew in each, as a share of a column's
        variance. The model then learns the table smoothed by that much: repeated values and narrow gaps
        leave no spikes in its density.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer, ELBO
    >>> vae = VAETransformer(2, objective=ELBO(beta=4), random_state=0).fit(load_iris().data)
    >>> sorted(vae.history_)
    ['kl', 'loss', 'reconstruction']
    """

    __module__ = "skvae"

    offers = frozenset({"posterior", "prior", "density"})

    _parameter_constraints: ClassVar[dict] = {
        "kl": [StrOptions({"analytic", "sampled"})],
        "n_draws": [Count()],
        "beta": [Interval(Real, 0, None, closed="left")],
        "warmup": [Count(0)],
        "free_bits": [Interval(Real, 0, None, closed="left")],
        "input_noise": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, kl="analytic", *, n_draws=1, beta=1.0, warmup=0, free_bits=0.0, input_noise=0.0):
        self.kl = kl
        self.n_draws = n_draws
        self.beta = beta
        self.warmup = warmup
        self.free_bits = free_bits
        self.input_noise = input_noise

    @property
    def is_bound(self) -> bool:
        return self.beta == 1 and self.free_bits == 0 and self.input_noise == 0

    @property
    def ramp(self) -> int:
        return self.warmup

    @property
    def changes_rows(self) -> bool:
        return bool(self.input_noise) or type(self).views is not ELBO.views

    def views(self, units: Units, batch: Rows, rng: torch.Generator) -> tuple[Rows, Rows]:
        """The batch with input noise, twice."""
        if not self.input_noise:
            return batch, batch
        x = batch.x
        noise = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        noisy = replace(batch, x=units.smooth(x, noise.mul_(math.sqrt(self.input_noise))))
        return noisy, noisy

    def terms(self, emitted: Emitted, batch: Rows, model: VAE, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        """beta KL(q(z|x) || p(z)) - E_q[log p(x|z)], the KL_j of a batch counting as free_bits where it is less."""
        reconstruction = model.reconstruction(emitted.outputs, batch)
        kl = model.kl(emitted, analytic=self.kl == "analytic")
        uncharged = self.uncharged(batch.mean(kl)) if self.free_bits else 0.0
        kl = kl.sum(-1)
        loss = self._loss(reconstruction, kl, uncharged, epoch)
        # Free bits are a property of the batch.
        return {"loss": batch.mean(loss) if self.free_bits else loss, "reconstruction": reconstruction, "kl": kl}

    def gradient(self, emitted: Emitted, at: Any, epoch: float) -> Slopes:
        beta, mass = self.beta_at(epoch), at.mass
        nll, outputs = at.nll_gradient(emitted.outputs)
        weight = mass if beta == 1 else beta * mass
        if self.kl == "analytic":
            kl, slope_mu, slope_log_var = at.prior.kl_gradient(emitted.mu, emitted.log_var, at.std)
            kl = mass * kl
            charge = self._charge(kl, weight)
            return Slopes(self._shares(nll, kl), outputs, None, charge * slope_mu, charge * slope_log_var)
        draws = log_normal(emitted.eps, at.repeat(emitted.log_var)) - at.prior.log_prob_per_latent(emitted.z)
        kl = mass / self.n_draws * at.sum_draws(draws)
        charge = at.xp.broadcast_to(self._charge(kl, weight), emitted.log_var.shape)
        slope_z = -at.repeat(charge / self.n_draws) * at.prior.log_prob_gradient(emitted.z)
        return Slopes(self._shares(nll, kl), outputs, slope_z, None, -0.5 * charge)

    def summed(self, shares: dict[str, Any], epoch: float) -> dict[str, Any]:
        nll, kl, uncharged = shares["nll"], shares["kl"], shares.get("uncharged", 0.0)
        return {"loss": self._loss(-nll, kl, uncharged, epoch), "reconstruction": -nll, "kl": kl}

    def beta_at(self, epoch: float) -> float:
        """The KL's weight in `epoch`."""
        return self.beta * min(1.0, epoch / self.warmup) if self.warmup else self.beta

    def uncharged(self, kl: Tensor) -> Tensor:
        """What free bits add to a batch's mean KL, (..., K): sum_k max(free_bits - KL_k, 0)."""
        return (self.free_bits - kl).clamp_min(0.0).sum(-1)

    def _loss(self, reconstruction: Tensor, kl: Tensor, uncharged: Any, epoch: float) -> Tensor:
        return self.beta_at(epoch) * (kl + uncharged) - reconstruction

    def _shares(self, nll: Any, kl: Any) -> dict[str, Any]:
        if not self.free_bits:
            return {"nll": nll, "kl": kl}
        return {"nll": nll, "kl": kl, "uncharged": self.uncharged(torch.as_tensor(kl).sum(-2))[None, None]}

    def _charge(self, kl: Any, weight: Any) -> Any:
        """What a nat of KL costs, a row and latent: nothing within the free bits."""
        return weight * (kl.sum(-2) > self.free_bits)[None, :] if self.free_bits else weight


class IWAE(Objective):
    """The importance-weighted bound (Burda et al. 2016): maximise E[log 1/S sum_s w(x, z_s)].

    Tighter than the ELBO and rising with the number of draws; one draw gives the ELBO with a sampled KL.

    Parameters
    ----------
    n_draws : int, default=5
        S.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer, IWAE
    >>> vae = VAETransformer(1, objective=IWAE(8), max_iter=20, random_state=0).fit(load_iris().data)
    >>> vae.n_components_
    1
    """

    __module__ = "skvae"

    offers = frozenset({"posterior", "prior", "density"})

    _parameter_constraints: ClassVar[dict] = {"n_draws": [Count()]}

    def __init__(self, n_draws=5):
        self.n_draws = n_draws

    @property
    def is_bound(self) -> bool:
        return True

    def bound(self, model: VAE, batch: Rows, rng: torch.Generator) -> Tensor:
        """log 1/S sum_s w(x, z_s), (N,), in nats."""
        shape = (self.n_draws, len(batch), model.prior.n_components)
        eps = torch.randn(shape, generator=rng, dtype=batch.x.dtype, device=batch.x.device)
        return torch.logsumexp(model.log_weights(batch.x, eps, batch.mask), dim=0) - math.log(self.n_draws)

    def __call__(self, model: VAE, batch: Rows, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        return {"loss": -self.bound(model, batch, rng)}

    def monitor(self, model: VAE, batch: Rows, rng: torch.Generator) -> Tensor:  # type: ignore[override]
        return self.bound(model, batch, rng)


# "smoothed" is the anomaly detector's: its prior is made of training rows, whose neighbourhoods must have some width.
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "elbo": ELBO,
    "iwae": IWAE,
    "smoothed": partial(ELBO, input_noise=0.05),
}
