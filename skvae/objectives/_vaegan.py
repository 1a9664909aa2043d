"""The hybrid of a VAE and a generative adversarial network."""

from __future__ import annotations

from numbers import Real
from typing import ClassVar

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn

from .._params import Count
from .._tables.batches import Batch
from ..model import VAE, Dims
from ._base import Objective, Turn
from ._critic import Critic, coded, critic_of, drawn, prior_turns

__all__ = ["VAEGAN"]

# Added to the variance of a critic's unit, some of which hardly vary.
LEAST_VAR = 1e-3


class VAEGAN(Objective):
    """A VAE with a discriminator in place of the pixels' error (Larsen et al. 2016).

    A critic c learns to tell rows from reconstructions and from rows that the prior draws, and what its hidden layer h
    makes of a row is what reconstructions are held to: two images of a digit that is a little bolder are close there,
    and far apart pixel by pixel. Three players take turns in every step; each lowers its own loss,

        encoder:  E(x, x') + beta KL(q(z|x) || p(z))
        decoder:  gamma E(x, x') - log sigmoid(c(x')) - log sigmoid(c(x_p))
        critic:   -log sigmoid(c(x)) - log(1 - sigmoid(c(x'))) - log(1 - sigmoid(c(x_p)))

    with E(x, x') = 1/2 sum_k (h_k(x) - h_k(x'))^2 / Var[h_k], x' = E[x|z] for z drawn from q(z|x), and x_p = E[x|z] for
    z drawn from p(z). The variance is the batch's, so that a hidden layer that grows does not outweigh the KL.

    With latent="adversarial" a second critic tells codes from draws of p(z), and -log sigmoid of it takes the KL's
    place, as in an adversarial autoencoder: the prior need only be drawn from.

    There is no density, so `score` and `noise_variance_` are absent, and nothing to watch: all epochs run, and the
    weights that are kept are averages of the last ones. A prior with parameters is fitted to the codes by maximum
    likelihood, in a turn of its own. Rows are seen as the encoder sees them, and categories by their probabilities.

    Parameters
    ----------
    latent : {"kl", "adversarial"}, default="kl"
        What holds codes to the prior.
    beta : float, default=1.0
        Weight of that.
    gamma : float, default=1.0
        Weight of the decoder's error, against passing its rows off as real; with less, rows look sharper and are less
        like those that were encoded.
    width : int, default=256
        Units in each of the critics' two hidden layers; the error is compared in the first.

    See Also
    --------
    skvae.ELBO : Compares rows cell by cell, and has a likelihood.

    References
    ----------
    Larsen, A. B. L., Soenderby, S. K., Larochelle, H. and Winther, O. (2016). Autoencoding beyond pixels using a
    learned similarity metric. arXiv:1512.09300.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer
    >>> vae = VAETransformer(2, objective="vaegan", max_iter=5, random_state=0).fit(load_iris().data)
    >>> vae.sample(5, random_state=0).shape
    (5, 4)
    >>> sorted(vae.history_)
    ['critic', 'decoder', 'feature_error', 'kl', 'loss']
    """

    __module__ = "skvae.objectives"

    offers = frozenset({"posterior", "prior"})

    _parameter_constraints: ClassVar[dict] = {
        "latent": [StrOptions({"kl", "adversarial"})],
        "beta": [Interval(Real, 0, None, closed="left")],
        "gamma": [Interval(Real, 0, None, closed="left")],
        "width": [Count()],
    }

    def __init__(self, latent: str = "kl", *, beta: float = 1.0, gamma: float = 1.0, width: int = 256) -> None:
        self.latent = latent
        self.beta = beta
        self.gamma = gamma
        self.width = width

    def modules(self, dims: Dims) -> dict[str, nn.Module]:
        """A critic of rows, and one of codes in place of the KL."""
        critics: dict[str, nn.Module] = {"critic": Critic(dims.n_inputs, self.width)}
        if self.latent == "adversarial":
            critics["code_critic"] = Critic(dims.n_components, self.width)
        return critics

    def __call__(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        """The encoder's loss: how far codes are from the prior, and the error in the critic's features."""
        emitted = model.emit(batch, batch, rng)
        if self.latent == "kl":
            apart = model.kl(emitted).sum(-1)
        else:
            apart = critic_of(model, "code_critic").real_loss(emitted.z)
        error = self._feature_error(model, model.shown(emitted.outputs, batch.mask), batch)
        return {"loss": self.beta * apart + error, self.latent: apart, "feature_error": error}

    def decoder(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        """The decoder's: the same error, and to pass reconstructions and drawn rows off as real."""
        critic, (rebuilt, new) = critic_of(model), self._made(model, batch, rng)
        error = self._feature_error(model, rebuilt, batch)
        return {"decoder": self.gamma * error + critic.real_loss(rebuilt) + critic.real_loss(new)}

    def critics(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        """The critics': rows are real, reconstructions and drawn rows are not; draws of p(z) are, codes are not."""
        with torch.no_grad():
            (rebuilt, new), z = self._made(model, batch, rng), coded(model, batch, rng)
        critic = critic_of(model)
        loss = critic.loss(model.seen(batch.x, batch.mask), rebuilt) + critic.fake_loss(new)
        if self.latent == "adversarial":
            loss = loss + critic_of(model, "code_critic").loss(drawn(model, batch, rng), z)
        return {"critic": loss}

    def players(self, model: VAE) -> list[Turn]:
        """Encoder, decoder, critics, and a prior that has something to learn."""
        return [
            Turn(list(model.encoder.parameters()), self),
            Turn(list(model.decoder.parameters()), self.decoder, "decoder"),
            Turn(list(model.extras.parameters()), self.critics, "critic"),
            *prior_turns(model.prior),
        ]

    def _made(self, model: VAE, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reconstructions, and rows drawn from the prior, as the encoder would see them."""
        with torch.no_grad():
            codes = coded(model, batch, rng), drawn(model, batch, rng)
        rebuilt, new = (model.shown(model.params(z), batch.mask) for z in codes)
        return rebuilt, new

    @staticmethod
    def _feature_error(model: VAE, rebuilt: Tensor, batch: Batch) -> Tensor:
        """1/2 sum_k (h_k(x) - h_k(x'))^2 / Var[h_k]: (N,)."""
        critic = critic_of(model)
        features = critic.hidden(model.seen(batch.x, batch.mask))
        unit = features.detach().var(dim=0, correction=0) + LEAST_VAR
        return 0.5 * ((features - critic.hidden(rebuilt)).square() / unit).sum(-1)
