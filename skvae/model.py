"""The variational autoencoder as a torch module: tensors in, tensors out, and no scikit-learn.

    log w(x, z) = log p(x|z) + log p(z) - log q(z|x),    z = mu(x) + sigma(x) * eps

Shape letters: S draws, N rows, D features, J latents. x is in the model's units (see `likelihoods`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ._linear import LinearMaps
from ._math import log_normal
from ._tables.batches import Batch, Table
from ._tables.moments import Scale, Units
from .likelihoods import LikelihoodModule
from .networks import ACTIVATIONS, LinearPath
from .priors import Prior

__all__ = ["VAE", "AutoregressiveVAE", "Cost", "Dims", "Emitted", "LogWeight"]

# Log variances of q(z|x) are kept where float32 can square and exponentiate them.
LOG_VAR_RANGE = (-30.0, 20.0)
CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d


class Dims(NamedTuple):
    """The sizes an objective's own modules may depend on; the encoder sees `n_inputs` numbers of a row."""

    n_features: int
    n_components: int
    n_params: int
    n_inputs: int


class Emitted(NamedTuple):
    """What the networks said of a batch of B rows: all rows' first draws, then all rows' second ones.

    Attributes
    ----------
    mu, log_var : arrays of shape (B, J)
        Of q(z|x); the code, and None, where the encoder emits a code.
    eps : array of shape (S B, J) or None
        The draws: z = mu + sigma eps.
    z : array of shape (S B, J)
    outputs : array of shape (S B, n_params)
        The decoder's.
    hidden : sequence of Tensors of shape (B, units)
        The encoder's activations, where the objective `reads_hidden`.
    """

    mu: Any
    log_var: Any
    eps: Any
    z: Any
    outputs: Any
    hidden: Sequence[Tensor] = ()


class Cost(NamedTuple):
    """What a row costs: multiply-adds of the networks' largest product, and numbers in their widest array."""

    product: int
    width: int


class LogWeight(NamedTuple):
    """The log importance weight, log w(x, z) = log p(x|z) + log p(z) - log q(z|x), in nats of data units.

    Attributes
    ----------
    log_prob : Tensor of shape (..., N, D)
        log p(x_d|z), 0 where x_d is missing.
    log_prior, log_q : Tensors of shape (..., N)
    """

    log_prob: Tensor
    log_prior: Tensor
    log_q: Tensor

    @property
    def total(self) -> Tensor:
        """log w: (..., N)."""
        return self.log_prob.sum(-1) + self.log_prior - self.log_q


class VAE(nn.Module):
    """Encoder q(z|x) = N(mu(x), diag sigma^2(x)), prior p(z), decoder p(x|z) (Kingma & Welling 2013).

    Parameters
    ----------
    encoder : nn.Module, (N, n_inputs) -> (N, 2 J) or (N, J)
        From what the likelihood shows it of a row to means, then log variances; to a code without a "posterior".
    decoder : nn.Module, (N, J) -> (N, n_params)
        Of latents, and beside them the numbers that the likelihood is given of a row: (N, J + n_given) then.
    likelihood : LikelihoodModule
    prior : Prior
    extras : nn.ModuleDict
        Modules an objective adds (discriminators, say): trained and saved with the model.
    offers : frozenset of {"posterior", "prior", "density"}, default=all of them
        What training gives a meaning, see `Objective`.
    code : str, default="identity"
        The activation of a code, a name in `ACTIVATIONS`.
    scale : Scale or None, default=None
        The map between data units and the model's; None: they are the same.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: LikelihoodModule,
        prior: Prior,
        extras: nn.ModuleDict,
        offers: frozenset[str] = frozenset({"posterior", "prior", "density"}),
        code: str = "identity",
        scale: Scale | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior
        self.extras = extras
        self.code = ACTIVATIONS[code]()
        self.is_density = "density" in offers
        self.has_posterior = "posterior" in offers
        self.n_given = likelihood.n_given
        self._scale = scale or Scale(np.zeros(likelihood.n_features), np.ones(likelihood.n_features))
        self._cost: Cost | None = None
        prior.bind(self.encode_seen)

    @property
    def units(self) -> Units:
        """What an objective's views may do to the x of a batch."""
        return Units(self.likelihood.encoding.add_noise, self._scale)

    @property
    def n_encoded(self) -> int:
        """How many numbers the encoder emits for a row."""
        return (2 if self.has_posterior else 1) * self.prior.n_components

    def encode(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        """Mean and log variance of q(z|x), two (N, J), or a code and None.

        A missing cell shows the encoder its column's mean.
        """
        return self.encode_seen(self.seen(x, mask))

    def encode_seen(self, seen: Tensor) -> tuple[Tensor, Any]:
        """`encode` of what the encoder sees of rows, (N, n_inputs)."""
        outputs = self.encoder(seen)
        if not self.has_posterior:
            return self.code(outputs), None
        mu, log_var = outputs.chunk(2, dim=-1)
        return mu, log_var.clamp(*LOG_VAR_RANGE)

    def encode_mean(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean of q(z|x) alone, or a code: (N, J)."""
        if type(self.encoder) is LinearPath and self.has_posterior:
            return self.encoder.leading(self.seen(x, mask), self.prior.n_components)
        return self.encode(x, mask)[0]

    def emit(
        self, seen: Batch, compared: Batch, rng: torch.Generator, n_draws: int = 1, reads_hidden: bool = False
    ) -> Emitted:
        """One pass: the encoder, draws of z, the decoder.

        The encoder sees the first rows; a decoder that reads x, the second ones.
        """
        shown = self.seen(seen.x, seen.mask)
        hidden = self.hidden(shown) if reads_hidden else ()
        mu, log_var = self.encode_seen(shown)
        if log_var is None:
            return Emitted(mu, None, None, mu, self.params(mu, compared.x), hidden)
        eps = torch.randn(n_draws, *mu.shape, generator=rng, dtype=mu.dtype, device=mu.device)
        z = mu + torch.exp(0.5 * log_var) * eps
        outputs = self.params(z, compared.x)
        return Emitted(mu, log_var, eps.flatten(0, 1), z.flatten(0, 1), outputs.flatten(0, 1), hidden)

    def check_rows(self, rows: Table) -> None:
        """Raise ValueError for rows that the model cannot be trained on."""
        return

    def hidden(self, seen: Tensor) -> list[Tensor]:
        """The encoder's activations, (N, units) each, where it sees `seen`."""
        if not isinstance(self.encoder, LinearPath):
            raise TypeError(
                "The objective reads the encoder's activations, which only a skvae.networks.LinearPath shows; "
                f"the encoder is a {type(self.encoder).__name__}."
            )
        return self.encoder.hidden(seen)

    def reconstruction(self, outputs: Tensor, batch: Batch) -> Tensor:
        """E_q[log p(x|z)] over the present cells, in nats of data units: (B,) for outputs (S B, n_params)."""
        return self._over_draws(self.likelihood.log_prob, outputs, batch)

    def squared_error(self, outputs: Tensor, batch: Batch) -> Tensor:
        """E_q of the likelihood's squared `error` over the present cells: (B,) for outputs (S B, n_params)."""
        return self._over_draws(self.likelihood.error, outputs, batch)

    def _over_draws(self, cells: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, batch: Batch) -> Tensor:
        """`cells` of every draw, summed over present features and averaged over draws: (B,)."""
        found = cells(outputs.unflatten(0, (-1, len(batch))), batch.x)
        return (found if batch.mask is None else found * batch.mask).sum(-1).mean(0)

    def kl(self, emitted: Emitted, analytic: bool = True) -> Tensor:
        """KL(q(z|x) || p(z)) in nats: (B, K).

        K = J where the prior has it latent by latent, in closed form unless not `analytic`; else K = 1, averaged over
        the draws.
        """
        closed = self.prior.kl(emitted.mu, emitted.log_var) if analytic else None
        if closed is not None:
            return closed
        eps, z = (values.unflatten(0, (-1, len(emitted.mu))) for values in (emitted.eps, emitted.z))
        log_q, log_p = log_normal(eps, emitted.log_var), self.prior.log_prob_per_latent(z)
        if log_p is None:
            return (log_q.sum(-1) - self.prior.log_prob(z)).mean(0)[:, None]
        return (log_q - log_p).mean(0)

    def seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What the encoder sees of rows: (N, n_inputs)."""
        seen = self.likelihood.encoding.encode(x)
        return seen if mask is None else seen * self.likelihood.encoding.per_input(mask)

    def shown(self, outputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """What `seen` would be of rows whose cells are E[x|z], of categories their probabilities: (N, n_inputs)."""
        shown = self.likelihood.encoded_mean(outputs)
        return shown if mask is None else shown * self.likelihood.encoding.per_input(mask)

    def params(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """The likelihood's parameters for latents (..., J) and rows x (..., D): (..., n_params).

        Of x is read what is given to the likelihood, and nothing where that is nothing.
        """
        inputs = self.decoder_input(z, x)
        return self.decoder(inputs.reshape(-1, inputs.shape[-1])).reshape(*inputs.shape[:-1], -1)

    def params_given(self, z: Tensor, x: Tensor) -> Tensor:
        """The same of a decoder that may also predict from x: as if nothing else of it were known."""
        return self.params(z, x)

    def decoder_input(self, z: Tensor, x: Tensor | None) -> Tensor:
        """Latents, and beside them what is given of rows x: (..., J + n_given)."""
        if not self.n_given:
            return z
        if x is None:
            raise ValueError("This model is given some columns, without which latents cannot be decoded.")
        given = self.likelihood.encoding.given(x)
        shape = torch.broadcast_shapes(z.shape[:-1], given.shape[:-1])
        return torch.cat([values.expand(*shape, values.shape[-1]) for values in (z, given)], dim=-1)

    def mean(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """E[x|z] for latents (..., J), in model units: (..., D), with what is given of rows x as it is there."""
        outputs = self.params(z, x)
        return self.likelihood.mean(outputs) if x is None else self.likelihood.mean_given(outputs, x)

    def sample(self, z: Tensor, rng: torch.Generator, x: Tensor | None = None) -> Tensor:
        """A draw of x for each latent (..., J), in model units: (..., D), with what is given of rows x."""
        outputs = self.params(z, x)
        return self.likelihood.sample(outputs, rng) if x is None else self.likelihood.sample_given(outputs, x, rng)

    def log_prob(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x_d|z) in nats of data units, 0 where x_d is missing: (..., N, D) for latents (..., N, J)."""
        terms = self.likelihood.log_prob(self.params(z, x), x)
        return terms if mask is None else terms * mask

    def log_joint(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x, z) = log p(x|z) + log p(z), over the present cells: (..., N) for latents (..., N, J)."""
        return self.log_prob(z, x, mask).sum(-1) + self.prior.log_prob(z)

    def log_joint_everywhere(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """log p(x, z) of every row at every one of the latents z (C, J): (C, N).

        They are decoded once, unless something is given, of which rows may differ.
        """
        if self.n_given:
            return self.log_joint(z[:, None].expand(-1, len(x), -1), x, mask)
        outputs = self.params(z)[:, None].expand(-1, len(x), -1)
        terms = self.likelihood.log_prob(outputs, x)
        return (terms if mask is None else terms * mask).sum(-1) + self.prior.log_prob(z)[:, None]

    def log_weight(self, z: Tensor, log_q: Tensor, x: Tensor, mask: Tensor | None = None) -> LogWeight:
        """log w(x, z) at points z (..., N, J), where log q(z|x) is `log_q`, (..., N)."""
        return LogWeight(self.log_prob(z, x, mask), self.prior.log_prob(z), log_q)

    def log_weights(self, x: Tensor, eps: Tensor, mask: Tensor | None = None) -> LogWeight:
        """log w(x, z) at z = mu(x) + sigma(x) * eps, for eps (S, N or 1, J)."""
        mu, log_var = self.encode(x, mask)
        z = mu + torch.exp(0.5 * log_var) * eps
        return self.log_weight(z, log_normal(eps, log_var).sum(-1), x, mask)

    @torch.no_grad()
    def check_widths(self) -> None:
        """Raise ValueError where a network does not take or give the widths the model needs; measure what rows cost."""
        self.eval()
        own = next((p for p in self.parameters() if p.is_floating_point()), torch.zeros((), dtype=torch.float32))
        n_components, likelihood = self.prior.n_components, self.likelihood
        seen, x, z = (own.new_zeros(2, n) for n in (likelihood.encoding.n_inputs, likelihood.n_features, n_components))
        found: list[Cost] = []
        with _measured(self.encoder, found), _measured(self.decoder, found):
            _check_width("encoder", lambda: self.encoder(seen), likelihood.encoding.n_inputs, self.n_encoded)
            n_in = n_components + self.n_given
            _check_width("decoder", lambda: self.params(z, x), n_in, likelihood.n_params)
        found += [Cost(p.numel(), p.shape[0]) for p in self.extras.parameters() if p.dim() > 1]
        self._cost = Cost(max((c.product for c in found), default=1), max((c.width for c in found), default=1))

    @property
    def cost(self) -> Cost:
        """What a row costs, measured by running two rows through both networks; extra modules count by their shapes."""
        if self._cost is None:
            training = self.training
            self.check_widths()
            self.train(training)
        assert self._cost is not None
        return self._cost

    def largest_product(self, n_rows: int) -> int:
        """Multiply-adds of the largest product on a batch of `n_rows`."""
        return n_rows * self.cost.product

    @property
    def has_linear_path(self) -> bool:
        """Whether both networks can be set to a linear map, as a `LinearPath` can."""
        can = all(hasattr(network, "start_at") for network in (self.encoder, self.decoder))
        return can and isinstance(self.code, nn.Identity)

    @torch.no_grad()
    def start_at(self, start: LinearMaps, rng: torch.Generator) -> None:
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
        decoder = torch.cat([decoder, torch.as_tensor(start.decoder_given)], dim=1)
        log_var = torch.as_tensor(np.append(np.log(start.posterior_var), np.zeros(n_components - n_started)))
        networks: Any = self
        networks.decoder.start_at(decoder, torch.as_tensor(start.decoder_bias))
        weight, bias = encoder.T, torch.zeros_like(log_var)
        bias[:n_started] = torch.as_tensor(start.encoder_bias)
        if self.has_posterior:
            weight, bias = torch.cat([weight, torch.zeros_like(weight)]), torch.cat([bias, log_var])
        networks.encoder.start_at(weight, bias)


class AutoregressiveVAE(VAE):
    """A VAE whose decoder also reads the features before the one it predicts. Means and draws take D passes.

    `mean` feeds each feature's mean to the next: a plug-in, not E[x|z]. Rows must be complete: what the decoder would
    read in a gap is unknown.
    """

    def check_rows(self, rows: Table) -> None:
        for block in rows.blocks():
            _refuse_gaps(block.mask)

    def emit(
        self, seen: Batch, compared: Batch, rng: torch.Generator, n_draws: int = 1, reads_hidden: bool = False
    ) -> Emitted:
        _refuse_gaps(compared.mask)
        return super().emit(seen, compared, rng, n_draws, reads_hidden)

    def log_prob(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        _refuse_gaps(mask)
        return super().log_prob(z, x)

    def log_joint_everywhere(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.log_joint(z[:, None].expand(-1, len(x), -1), x, mask)

    def params_given(self, z: Tensor, x: Tensor) -> Tensor:
        return self.params(z)

    def params(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        if x is None:
            x = self.mean(z)
        seen = self.likelihood.encoding.encode(x)
        rows = seen.expand(*z.shape[:-1], seen.shape[-1])
        flat = self.decoder(z.reshape(-1, z.shape[-1]), rows.reshape(-1, seen.shape[-1]))
        return flat.reshape(*z.shape[:-1], -1)

    def mean(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """Each feature's mean given z and the means of the features before it."""
        return self._fill(z, self.likelihood.mean)

    def sample(self, z: Tensor, rng: torch.Generator, x: Tensor | None = None) -> Tensor:
        return self._fill(z, lambda outputs: self.likelihood.sample(outputs, rng))

    def _fill(self, z: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        n_features = self.likelihood.n_features
        x = z.new_zeros(*z.shape[:-1], n_features)
        for feature in range(n_features):
            x[..., feature] = choose(self.params(z, x))[..., feature]
        return x


def _refuse_gaps(mask: Tensor | None) -> None:
    if mask is not None and bool((mask == 0).any()):
        raise ValueError("An autoregressive decoder needs complete rows; X has missing cells. Fill them first.")


def _check_width(name: str, call: Callable[[], Tensor], n_in: int, n_out: int) -> None:
    """Raise ValueError where a network fails on two rows, or gives another width."""
    rule = f"The {name} must turn {n_in} columns into {n_out}"
    try:
        width = call().shape[-1]
    except RuntimeError as error:
        raise ValueError(f"{rule}; on two rows it failed: {error}") from error
    if width != n_out:
        raise ValueError(f"{rule}; it gave {width}.")


@contextmanager
def _measured(network: nn.Module, found: list[Cost]) -> Iterator[None]:
    """A scope in which every layer that two rows go through adds its cost to `found`."""

    def note(layer: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        if isinstance(outputs, Tensor):
            found.append(Cost(_multiply_adds(layer, inputs[0], outputs) // 2, outputs.numel() // 2))

    layers = [m for m in network.modules() if not list(m.children()) or list(m.parameters(recurse=False))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _multiply_adds(layer: nn.Module, inputs: Any, outputs: Tensor) -> int:
    """Of a layer on two rows: its weights, once for every place that they are applied to."""
    weights = sum(p.numel() for p in layer.parameters(recurse=False) if p.dim() > 1)
    if isinstance(layer, nn.Linear):
        return weights * (outputs.numel() // outputs.shape[-1])
    if isinstance(layer, CONVOLUTIONS):
        places = inputs if layer.transposed else outputs
        return weights * len(places) * math.prod(places.shape[2:])
    return 2 * weights
