"""The evidence lower bound."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from .._math import log_normal
from .._params import Count
from .._tables.batches import Batch
from .._tables.moments import Units
from ..model import VAE, Emitted
from ._base import OnePass, Slopes

__all__ = ["ELBO"]


class ELBO(OnePass):
    """The evidence lower bound (Kingma & Welling 2013): maximise E_q[log p(x|z)] - beta KL(q(z|x) || p(z)).

    Parameters
    ----------
    kl : {"analytic", "sampled"}, default="analytic"
        The KL in closed form (the paper's estimator B), or averaged over the draws (estimator A), as it always is where
        the prior allows no closed form.
    n_draws : int, default=1
        Draws of z per row and step; 1 is enough for batches of about 100 rows.
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

    offers = frozenset({"posterior", "prior", "density"})

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

    @property
    def changes_rows(self) -> bool:
        return type(self).views is not ELBO.views

    def views(self, units: Units, batch: Batch, rng: torch.Generator) -> tuple[Batch, Batch]:
        """The batch with input noise, twice."""
        if not self.input_noise:
            return batch, batch
        x = batch.x
        shape = (len(x), len(units.scale.scale))  # a prepared x may be wider
        noise = torch.randn(shape, generator=rng, dtype=x.dtype, device=x.device)
        noisy = replace(batch, x=units.add_noise(x, noise.mul_(math.sqrt(self.input_noise))))
        return noisy, noisy

    def terms(
        self, emitted: Emitted, batch: Batch, model: VAE, rng: torch.Generator, epoch: float
    ) -> dict[str, Tensor]:
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
        closed = at.prior.kl_gradient(emitted.mu, emitted.log_var, at.std) if self.kl == "analytic" else None
        if closed is not None:
            kl, slope_mu, slope_log_var = closed
            kl = mass * kl
            charge = self._charge(kl, weight)
            return Slopes(self._shares(nll, kl), outputs, None, charge * slope_mu, charge * slope_log_var)
        log_q = log_normal(emitted.eps, at.repeat(emitted.log_var))
        log_p, back = at.prior.log_prob_gradient(emitted.z)
        if log_p.shape[-1] < log_q.shape[-1]:
            log_q = log_q.sum(-1)[..., None]
        kl = mass / self.n_draws * at.sum_draws(log_q - log_p)
        charge = at.xp.broadcast_to(self._charge(kl, weight), kl.shape)
        slope_z = back(at.repeat(charge / self.n_draws))
        slope_log_var = at.xp.broadcast_to(-0.5 * charge, emitted.log_var.shape)
        return Slopes(self._shares(nll, kl), outputs, slope_z, None, slope_log_var)

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
        """What a nat of KL costs, per row and latent: nothing within the free bits."""
        return weight * (kl.sum(-2) > self.free_bits)[None, :] if self.free_bits else weight
