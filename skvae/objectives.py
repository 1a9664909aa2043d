"""What training minimises: one small class per loss.

An `Objective` holds hyperparameters only and offers five hooks: `modules`, `start`, the call, `players` and `monitor`.
Reconstruction and KL are sums over features and latents and means over rows; any other weight is the user's `beta`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import ClassVar

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn

from ._params import Count, Part
from .data import Rows
from .model import VAE, Dims
from .priors import log_normal

__all__ = ["ELBO", "IWAE", "OBJECTIVES", "Objective"]


class Objective(Part, ABC):
    """Hyperparameters and hooks of a training loss.

    Attributes
    ----------
    density : bool
        Whether the fitted model is a density of x: only then do `score_samples` and `score` exist.
    uses_target : bool
        Whether batches carry the y given to `fit`.
    input_noise : float
        Variance of the noise that training adds to the rows; training starts at the linear model of noisy rows.
    """

    density: ClassVar[bool] = False
    uses_target: ClassVar[bool] = False
    input_noise: float = 0.0

    @property
    def is_bound(self) -> bool:
        """Whether `monitor` is a lower bound on log p(x), to be held beside other models' likelihoods."""
        return False

    @property
    def ramp(self) -> int:
        """Epochs before the loss takes its final form; early stopping is patient until then."""
        return 0

    def modules(self, dims: Dims) -> dict[str, nn.Module]:
        """Extra modules (discriminators, centres), trained and saved with the model as `model.extras`."""
        return {}

    def start(self, model: VAE, rows: Rows, rng: torch.Generator) -> None:
        """Prepare the model on the training rows before the first epoch."""
        return

    @abstractmethod
    def __call__(self, model: VAE, batch: Rows, rng: torch.Generator, epoch: int) -> dict[str, Tensor]:
        """Named terms, each (N,) or a scalar. All are logged, the players' are minimised, "loss" is `loss_curve_`."""

    def players(self, model: VAE) -> list[tuple[list[nn.Parameter], str]]:
        """Disjoint groups of parameters and the term each one minimises.

        Parameters in no group stay as they started, the likelihood's noise among them.
        """
        return [([p for p in model.parameters() if p.requires_grad], "loss")]

    # What early stopping watches: monitor(model, batch, rng) -> (N,), higher is better, at the loss' final form. It is
    # called with gradients off (an objective that needs them opens torch.enable_grad()). None: nothing to watch.
    monitor = None


class ELBO(Objective):
    """The evidence lower bound (Kingma & Welling 2013): maximise E_q[log p(x|z)] - beta KL(q(z|x) || p(z)).

    Parameters
    ----------
    kl : {"analytic", "sampled"}, default="analytic"
        The KL in closed form (the paper's estimator B), or averaged over the draws (estimator A).
    n_draws : int, default=1
        Draws of z a row and step; 1 is enough for batches of about 100 rows.
    beta : float, default=1.0
        Weight of the KL. Above 1, latents are fewer and more independent (Higgins et al. 2017), and the loss
        is no longer a bound on the likelihood; `score_samples` stays one.
    warmup : int, default=0
        Epochs over which beta rises linearly from 0 to its value.
    free_bits : float, default=0.0
        Nats a latent, averaged over the batch, that the KL leaves unpenalised (Kingma et al. 2016, section C.8).
    input_noise : float, default=0.0
        Variance of the Gaussian noise that is added to the rows of every batch, anew in each, as a share of a column's
        variance. The model then learns the table smoothed by that much: repeated values and narrow gaps
        leave no spikes in its density.

    See Also
    --------
    IWAE : A tighter bound, from several draws per row.

    References
    ----------
    Kingma, D. P. and Welling, M. (2013). Auto-Encoding Variational Bayes. arXiv:1312.6114.

    Kingma, D. P. et al. (2016). Improving variational inference with inverse autoregressive flow. arXiv:1606.04934.

    Higgins, I. et al. (2017). beta-VAE: learning basic visual concepts with a constrained variational framework.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer, ELBO
    >>> vae = VAETransformer(2, objective=ELBO(beta=4), random_state=0).fit(load_iris().data)
    >>> sorted(vae.history_)
    ['kl', 'loss', 'reconstruction']
    """

    __module__ = "skvae"

    density = True

    _parameter_constraints: ClassVar[dict] = {
        "kl": [StrOptions({"analytic", "sampled"})],
        "n_draws": [Count()],
        "beta": [Interval(Real, 0, None, closed="left")],
        "warmup": [Count(0)],
        "free_bits": [Interval(Real, 0, None, closed="left")],
        "input_noise": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        kl: str = "analytic",
        *,
        n_draws: int = 1,
        beta: float = 1.0,
        warmup: int = 0,
        free_bits: float = 0.0,
        input_noise: float = 0.0,
    ) -> None:
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

    def terms(self, model: VAE, batch: Rows, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """E_q[log p(x|z)], (N,), and the KL of each latent, (N, J), in nats."""
        batch = self.smoothed(model.likelihood.smooth, batch, rng)
        mu, log_var = model.encode(batch.x, batch.mask)
        eps = torch.randn(self.n_draws, *mu.shape, generator=rng, dtype=mu.dtype, device=mu.device)
        z = mu + torch.exp(0.5 * log_var) * eps
        reconstruction = model.log_prob(z, batch.x, batch.mask).sum(-1).mean(0)
        if self.kl == "analytic":
            return reconstruction, model.prior.kl(mu, log_var)
        return reconstruction, (log_normal(eps, log_var) - model.prior.log_prob(z)).mean(0)

    def __call__(self, model: VAE, batch: Rows, rng: torch.Generator, epoch: int) -> dict[str, Tensor]:
        beta = self.beta_at(epoch)
        reconstruction, kl = self.terms(model, batch, rng)
        loss = beta * kl.sum(-1) - reconstruction
        if self.free_bits:
            loss = batch.mean(loss) + beta * self.uncharged(batch.mean(kl))
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl.sum(-1)}

    def smoothed(self, add: Callable[[Tensor, Tensor], Tensor], batch: Rows, rng: torch.Generator) -> Rows:
        """The batch with input noise, which `add` adds to x."""
        if not self.input_noise:
            return batch
        x = batch.x
        noise = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        return replace(batch, x=add(x, noise.mul_(math.sqrt(self.input_noise))))

    def beta_at(self, epoch: int) -> float:
        """The KL's weight in `epoch`."""
        return self.beta * min(1.0, epoch / self.warmup) if self.warmup else self.beta

    def uncharged(self, kl: Tensor) -> Tensor | float:
        """What free bits add to a batch's mean KL of each latent, (..., J): sum_j max(free_bits - KL_j, 0)."""
        return (self.free_bits - kl).clamp_min(0.0).sum(-1) if self.free_bits else 0.0

    def monitor(self, model: VAE, batch: Rows, rng: torch.Generator) -> Tensor:  # type: ignore[override]
        reconstruction, kl = self.terms(model, batch, rng)
        return reconstruction - self.beta * (kl.sum(-1) + self.uncharged(batch.mean(kl)))


class IWAE(Objective):
    """The importance-weighted bound (Burda et al. 2016): maximise E[log 1/S sum_s w(x, z_s)].

    Tighter than the ELBO and rising with the number of draws; one draw gives the ELBO with a sampled KL.

    Parameters
    ----------
    n_draws : int, default=5
        S.

    See Also
    --------
    ELBO : The bound of one draw, with the KL in closed form.

    References
    ----------
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted autoencoders. arXiv:1509.00519.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer, IWAE
    >>> vae = VAETransformer(1, objective=IWAE(8), max_iter=20, random_state=0).fit(load_iris().data)
    >>> vae.n_components_
    1
    """

    __module__ = "skvae"

    density = True

    _parameter_constraints: ClassVar[dict] = {"n_draws": [Count()]}

    def __init__(self, n_draws: int = 5) -> None:
        self.n_draws = n_draws

    @property
    def is_bound(self) -> bool:
        return True

    def bound(self, model: VAE, batch: Rows, rng: torch.Generator) -> Tensor:
        """log 1/S sum_s w(x, z_s), (N,), in nats."""
        shape = (self.n_draws, len(batch), model.prior.n_components)
        eps = torch.randn(shape, generator=rng, dtype=batch.x.dtype, device=batch.x.device)
        return torch.logsumexp(model.log_weights(batch.x, eps, batch.mask), dim=0) - math.log(self.n_draws)

    def __call__(self, model: VAE, batch: Rows, rng: torch.Generator, epoch: int) -> dict[str, Tensor]:
        return {"loss": -self.bound(model, batch, rng)}

    def monitor(self, model: VAE, batch: Rows, rng: torch.Generator) -> Tensor:  # type: ignore[override]
        return self.bound(model, batch, rng)


# "smoothed" is the anomaly detector's: its prior is made of training rows, whose neighbourhoods must have some width.
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "elbo": ELBO,
    "iwae": IWAE,
    "smoothed": partial(ELBO, input_noise=0.05),
}
