"""The variational autoencoder as a torch module: tensors in, tensors out, and no scikit-learn.

    log w(x, z) = log p(x|z) + log p(z) - log q(z|x),    z = mu(x) + sigma(x) * eps

Shape letters: S draws, N rows, D features, J latents. x is in the model's units (see `likelihoods`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .likelihoods import Density, LinearStart
from .networks import LinearPath
from .priors import StandardNormal, log_normal

__all__ = ["VAE", "AutoregressiveVAE", "Dims"]

# Log variances of q(z|x) are kept where float32 can square and exponentiate them.
LOG_VAR_RANGE = (-30.0, 20.0)


class Dims(NamedTuple):
    """The sizes an objective's own modules may depend on."""

    n_features: int
    n_components: int
    n_params: int


class VAE(nn.Module):
    """Encoder q(z|x) = N(mu(x), diag sigma^2(x)), prior p(z), decoder p(x|z) (Kingma & Welling 2013).

    Parameters
    ----------
    encoder : nn.Module, (N, n_inputs) -> (N, 2 J)
        From what the likelihood shows it of a row to means, then log variances.
    decoder : nn.Module, (N, J) -> (N, n_params)
    likelihood : Density
    prior : StandardNormal
    extras : nn.ModuleDict
        Modules an objective adds (discriminators, say): trained and saved with the model.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Density,
        prior: StandardNormal,
        extras: nn.ModuleDict,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior
        self.extras = extras

    def encode(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x): two (N, J). A missing cell shows the encoder its column's mean."""
        mu, log_var = self.encoder(self._seen(x, mask)).chunk(2, dim=-1)
        return mu, log_var.clamp(*LOG_VAR_RANGE)

    def encode_mean(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean of q(z|x) alone, (N, J)."""
        if type(self.encoder) is LinearPath:
            return self.encoder.leading(self._seen(x, mask), self.prior.n_components)
        return self.encode(x, mask)[0]

    def _seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What the encoder sees."""
        seen = self.likelihood.encode_input(x)
        return seen if mask is None else seen * self.likelihood.per_input(mask)

    def params(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """The likelihood's parameters for latents (..., J): (..., n_params)."""
        return self.decoder(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1)

    def mean(self, z: Tensor) -> Tensor:
        """E[x|z] for latents (..., J), in model units: (..., D)."""
        return self.likelihood.mean(self.params(z))

    def sample(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """A draw of x for each latent (N, J), in model units: (N, D)."""
        return self.likelihood.sample(self.params(z), rng)

    def log_prob(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x_d|z) in nats of data units, 0 where x_d is missing: (..., N, D) for latents (..., N, J)."""
        terms = self.likelihood.log_prob(self.params(z, x), x)
        return terms if mask is None else terms * mask

    def log_joint(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x, z) = log p(x|z) + log p(z), over the present cells: (..., N) for latents (..., N, J)."""
        return self.log_prob(z, x, mask).sum(-1) + self.prior.log_prob(z).sum(-1)

    def log_weights(self, x: Tensor, eps: Tensor, mask: Tensor | None = None) -> Tensor:
        """log w(x, z) at z = mu(x) + sigma(x) * eps, for eps (S, N or 1, J): (S, N)."""
        mu, log_var = self.encode(x, mask)
        z = mu + torch.exp(0.5 * log_var) * eps
        return self.log_joint(z, x, mask) - log_normal(eps, log_var).sum(-1)

    @torch.no_grad()
    def check_widths(self) -> None:
        """Raise ValueError where a network does not take or give the widths the model needs."""
        n_inputs, n_components = self.likelihood.n_inputs, self.prior.n_components
        self.eval()
        seen, x, z = (torch.zeros(2, n) for n in (n_inputs, self.likelihood.n_features, n_components))
        for name, call, n_in, n_out in (
            ("encoder", lambda: self.encoder(seen.float()), n_inputs, 2 * n_components),
            ("decoder", lambda: self.params(z.float(), x.float()), n_components, self.likelihood.n_params),
        ):
            rule = f"The {name} must turn {n_in} columns into {n_out}"
            try:
                width = call().shape[-1]
            except RuntimeError as error:
                raise ValueError(f"{rule}; on two rows it failed: {error}") from error
            if width != n_out:
                raise ValueError(f"{rule}; it gave {width}.")

    def largest_product(self, n_rows: int) -> int:
        """Multiply-adds of the widest layer on a batch of `n_rows`."""
        return n_rows * max((p.numel() for p in self.parameters() if p.dim() > 1), default=1)

    @property
    def has_linear_path(self) -> bool:
        """Whether both networks can be set to a linear map."""
        return isinstance(self.encoder, LinearPath) and isinstance(self.decoder, LinearPath)

    @torch.no_grad()
    def start_at(self, start: LinearStart, rng: torch.Generator) -> None:
        """Set encoder and decoder, which must have a linear path, to a linear model.

        Latents the linear model leaves unused get small random weights on both sides: with zeros in both maps no
        gradient would ever reach them.
        """
        n_components, n_started = self.prior.n_components, len(start.posterior_var)
        unused = np.append(start.posterior_var > 0.999, np.ones(n_components - n_started, dtype=bool))
        maps = []
        for started in (start.decoder_weight, start.encoder_weight.T):
            full = torch.as_tensor(np.pad(started, ((0, 0), (0, n_components - n_started))))
            small = 0.01 * torch.randn(full.shape, generator=rng, dtype=full.dtype)
            maps.append(torch.where(torch.as_tensor(unused), small, full))
        decoder, encoder = maps
        log_var = torch.as_tensor(np.append(np.log(start.posterior_var), np.zeros(n_components - n_started)))
        assert isinstance(self.encoder, LinearPath)
        assert isinstance(self.decoder, LinearPath)
        self.decoder.start_at(decoder, torch.as_tensor(start.decoder_bias))
        self.encoder.start_at(
            torch.cat([encoder.T, torch.zeros_like(encoder.T)]), torch.cat([torch.zeros_like(log_var), log_var])
        )


class AutoregressiveVAE(VAE):
    """A VAE whose decoder also reads the features before the one it predicts. Means and draws take D passes.

    `mean` feeds each feature's mean to the next: a plug-in, not E[x|z]. Rows must be complete: what the decoder would
    read in a gap is unknown.
    """

    def log_prob(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None and bool((mask == 0).any()):
            raise ValueError("An autoregressive decoder needs complete rows; X has missing cells. Fill them first.")
        return super().log_prob(z, x)

    def params(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        if x is None:
            x = self.mean(z)
        rows = x.expand(*z.shape[:-1], x.shape[-1])
        flat = self.decoder(z.reshape(-1, z.shape[-1]), rows.reshape(-1, x.shape[-1]))
        return flat.reshape(*z.shape[:-1], -1)

    def mean(self, z: Tensor) -> Tensor:
        """Each feature's mean given z and the means of the features before it."""
        return self._fill(z, self.likelihood.mean)

    def sample(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return self._fill(z, lambda outputs: self.likelihood.sample(outputs, rng))

    def _fill(self, z: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        n_features = self.likelihood.n_features
        x = z.new_zeros(*z.shape[:-1], n_features)
        for feature in range(n_features):
            x[..., feature] = choose(self.params(z, x))[..., feature]
        return x
