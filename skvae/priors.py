"""p(z): what the latents look like before any data is seen.

A `PriorSpec` holds hyperparameters; the `Prior` that it builds is a module of the model, whose parameters, if any, are
trained with the decoder's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ._params import Count, Part

__all__ = [
    "LOG_2PI",
    "PRIORS",
    "AggregatedPosterior",
    "Mixture",
    "MixturePrior",
    "Normal",
    "Prior",
    "PriorSpec",
    "StandardNormal",
    "log_normal",
]

LOG_2PI = math.log(2 * math.pi)
# Log variances of a mixture's modes are kept within plus and minus this; modes start so far from the origin.
MODE_LOG_VAR, MODE_SPREAD = 7.0, 1.5


def log_normal(eps: Any, log_var: Any = 0.0) -> Any:
    """log N(mu + sigma * eps; mu, sigma^2) = -(log 2 pi + log sigma^2 + eps^2) / 2, element by element.

    Tensors, or numpy arrays in their place.
    """
    return -0.5 * (LOG_2PI + log_var + eps * eps)


class Prior(nn.Module, ABC):
    """p(z) over J latents. Write `sample`, and `log_prob` unless p(z) can only be drawn from; the rest is optional.

    Parameters
    ----------
    n_components : int
        J, the number of latents.

    Attributes
    ----------
    least_curvature : float
        What -log p(z) curves by at least, or a small positive number where it is not log-concave: the posterior of a
        row with gaps is never taken to be wider.
    reads_encoder : bool
        Whether `log_prob` calls the encoder that `bind` hands over.
    states_gradient : bool
        Whether `log_prob_gradient` and `kl_gradient` are there.
    """

    least_curvature: ClassVar[float] = 1e-3
    reads_encoder: ClassVar[bool] = False
    states_gradient: ClassVar[bool] = False

    def __init__(self, n_components: int):
        super().__init__()
        self.n_components = n_components

    def bind(self, encode: Callable[[Tensor], tuple[Tensor, Any]]) -> None:
        """Receive the encoder: from what it sees, (N, n_inputs), to means and log variances, (N, J) each."""
        return

    @abstractmethod
    def sample(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw (n_samples, J) latents."""

    def log_prob(self, z: Any) -> Any:
        """log p(z) in nats, of all latents together: (...,) for (..., J)."""
        raise NotImplementedError(f"{type(self).__name__} can be drawn from, but has no density.")

    def log_prob_per_latent(self, z: Any) -> Any:
        """log p(z_j) in nats where the latents are independent, of the array's own kind: (..., J). None elsewhere."""
        return None

    def log_prob_gradient(self, z: Any) -> Any:
        """d log p(z) / dz without a graph, for arrays of any kind: (..., J)."""
        return None

    def kl(self, mu: Tensor, log_var: Tensor) -> Tensor | None:
        """KL(N(mu, sigma^2) || p) in nats, one a latent, (..., J), where it has a closed form; None elsewhere."""
        return None

    def kl_gradient(self, mu: Any, log_var: Any, std: Any) -> Any:
        """KL, d KL / d mu and d KL / d log_var without a graph: three (..., J), of the arrays' own kind."""
        return None


class StandardNormal(Prior):
    """p(z) = N(0, I).

    Parameters
    ----------
    n_components : int
        J, the number of latents.
    """

    least_curvature = 1.0
    states_gradient = True

    def sample(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(n_samples, self.n_components, generator=rng, dtype=dtype, device=rng.device)

    def log_prob(self, z: Any) -> Any:
        return log_normal(z).sum(-1)

    def log_prob_per_latent(self, z: Any) -> Any:
        return log_normal(z)

    def log_prob_gradient(self, z: Any) -> Any:
        """-z."""
        return -z

    def kl(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """1/2 (mu^2 + sigma^2 - 1 - log sigma^2), one a latent (Kingma & Welling 2013, appendix B)."""
        return 0.5 * (mu.square() + log_var.exp() - 1 - log_var)

    def kl_gradient(self, mu: Any, log_var: Any, std: Any) -> tuple[Any, Any, Any]:
        """KL, d KL / d mu = mu and d KL / d log_var = (sigma^2 - 1) / 2."""
        slope = 0.5 * (std * std) - 0.5
        return 0.5 * (mu * mu - log_var) + slope, mu, slope


class MixturePrior(Prior):
    """p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2), all of it learnt with the model (Jiang et al. 2017).

    Parameters
    ----------
    n_components : int
        J, the number of latents.
    n_modes : int
        K, the number of Gaussians.
    """

    least_curvature = math.exp(-MODE_LOG_VAR)

    def __init__(self, n_components: int, n_modes: int):
        super().__init__(n_components)
        shape = n_modes, n_components
        self.mean = nn.Parameter(MODE_SPREAD * torch.randn(shape, dtype=torch.float32))
        self.log_var = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        self.logit = nn.Parameter(torch.zeros(n_modes, dtype=torch.float32))

    def _log_var(self) -> Tensor:
        return self.log_var.clamp(-MODE_LOG_VAR, MODE_LOG_VAR)

    def log_terms(self, z: Tensor) -> Tensor:
        """log w_k + log N(z; mu_k, sigma_k^2): (..., K) for latents (..., J)."""
        log_var = self._log_var()
        eps = (z[..., None, :] - self.mean) * torch.exp(-0.5 * log_var)
        return log_normal(eps, log_var).sum(-1) + torch.log_softmax(self.logit, dim=0)

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self.log_terms(z), dim=-1)

    def sample(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        mode = torch.multinomial(torch.softmax(self.logit, dim=0), n_samples, replacement=True, generator=rng)
        eps = torch.randn(n_samples, self.n_components, generator=rng, dtype=dtype, device=rng.device)
        return (self.mean[mode] + torch.exp(0.5 * self._log_var()[mode]) * eps).to(dtype)


def _log_sum(terms: Tensor) -> Tensor:
    """log sum_m exp(terms), (N,), for terms (N, M), which are overwritten.

    Exponentials that float64 cannot hold take five times as long as others, and far from all codes there is little
    else: they stop at a size that adds nothing to the largest.
    """
    largest = terms.detach().amax(dim=1, keepdim=True)
    total = terms.sub_(largest.clamp_min(torch.finfo(terms.dtype).min)).clamp_min_(LEAST_EXPONENT).exp_().sum(dim=1)
    return torch.where(largest[:, 0] == -math.inf, -math.inf, largest[:, 0] + total.log())


# By how much the aggregated posterior may widen the codes' variances, and how many codes choose among these.
WIDTHS = (1.0, 1.5, 2.0, 3.0, 5.0, 9.0, 17.0)
ROWS_TO_WIDEN = 250
# Two codes whose entries differ by less than this, relative to their size, are of the same row.
SAME_CODE = 1e-9
# Exponents below this are as good as minus infinity beside one of 0.
LEAST_EXPONENT = -600.0


class _Codes(NamedTuple):
    mean: Tensor
    var: Tensor
    log_weight: Tensor


class AggregatedPosterior(_Codes):
    """p(z) = sum_i w_i q(z|x_i), the mean posterior of known rows: where codes really lie (Hoffman & Johnson 2016).

    Of all priors it gives those rows the highest ELBO (Tomczak & Welling 2018, eq. 6).

    Attributes
    ----------
    mean, var : Tensors of shape (M, J)
        Of q(z|x_i); the variances are widened already.
    log_weight : Tensor of shape (M,)
        Logarithms of weights that sum to 1.
    """

    # What follows from the codes alone is kept: rows come in many blocks.

    @cached_property
    def _log_norm(self) -> Tensor:
        return self.log_weight - 0.5 * (self.var.log() + LOG_2PI).sum(-1)

    @cached_property
    def _quadratic(self) -> tuple[Tensor, Tensor]:
        """`log_terms` multiplied out: its constant (M,), and what z^2 and z are multiplied by, (2 J, M)."""
        precision = 1 / self.var
        constant = self._log_norm - 0.5 * (self.mean.square() * precision).sum(-1)
        return constant, torch.cat([-0.5 * precision, self.mean * precision], dim=1).T

    @cached_property
    def _register(self) -> tuple[Tensor, Tensor, Tensor]:
        """One number a code in rising order, (M,), whose code each is, and the combination that they are.

        The combination is a random one, or codes on a grid would share their numbers.
        """
        generator = torch.Generator().manual_seed(0)
        weights = torch.rand(self.mean.shape[1], generator=generator, dtype=torch.float64).to(self.mean)
        return *torch.sort(self.mean @ weights), weights

    def log_prob(self, z: Tensor, left_out: Tensor | None = None) -> Tensor:
        """log p(z), (N,), for codes (N, J); component `left_out[n]` (-1: none) is not there for row n."""
        terms = self.log_terms(z)
        return _log_sum(terms) if left_out is None else self._log_sum_of_others(terms, left_out)

    def _log_sum_of_others(self, terms: Tensor, left_out: Tensor) -> Tensor:
        """The logarithm of the sum of the terms, (N, M), but for the left out ones; `terms` is overwritten."""
        rows = (left_out >= 0).nonzero()[:, 0]
        index = left_out[rows]
        lost = torch.zeros_like(terms[:, 0]).index_put((rows,), self.log_weight[index].exp())
        terms[rows, index] = -math.inf
        return _log_sum(terms) - torch.log1p(-lost)

    def log_terms(self, z: Tensor) -> Tensor:
        """log w_i + log N(z; mean_i, var_i), as one product: (N, M)."""
        constant, weights = self._quadratic
        return torch.addmm(constant, torch.cat([z.square(), z], dim=1), weights)

    def own(self, z: Tensor) -> Tensor:
        """Which component each code is the mean of, -1 for none or where there is no other: (N,)."""
        if len(self.mean) < 2:
            return torch.full((len(z),), -1, device=z.device)
        known, order, weights = self._register
        value = z @ weights
        tolerance = SAME_CODE * (1 + z.abs() @ weights)
        place = torch.searchsorted(known, value - tolerance).clamp_max(len(known) - 1)
        index = order[place]
        same = ((self.mean[index] - z).abs().amax(dim=1) <= tolerance).nan_to_num()
        return torch.where(same, index, -1)

    def widened(self, seed: int) -> AggregatedPosterior:
        """The same codes, with all variances times the factor that makes the others' codes most likely.

        Some of the codes, each without its own component, are the judges: with few rows, or rows in many dimensions,
        the posteriors of single rows leave gaps between them.
        """
        if len(self.mean) < 2:
            return self
        generator = torch.Generator().manual_seed(seed)
        some = torch.randperm(len(self.mean), generator=generator)[:ROWS_TO_WIDEN].to(self.mean.device)
        near, log_norm = self.log_terms(self.mean[some]) - self._log_norm, self._log_norm

        def others_find_likely(width: float) -> float:
            terms = torch.add(log_norm - 0.5 * self.mean.shape[1] * math.log(width), near, alpha=1 / width)
            return float(self._log_sum_of_others(terms, some).mean())

        return self._replace(var=self.var * max(WIDTHS, key=others_find_likely))


class PriorSpec(Part, ABC):
    """Hyperparameters of a p(z)."""

    @abstractmethod
    def build(self, n_components: int, density: Any) -> Prior:
        """The module for `n_components` latents; `density` (the likelihood's) knows how much the encoder sees."""


class Normal(PriorSpec):
    """p(z) = N(0, I)."""

    def build(self, n_components: int, density: Any) -> Prior:
        return StandardNormal(n_components)


class Mixture(PriorSpec):
    """p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2), with weights, means and variances learnt with the model.

    Rows that form groups need not be squeezed into one Gaussian (Jiang et al. 2017, variational deep embedding; Tomczak
    & Welling 2018 compare it as MoG). The KL has no closed form and is averaged over the objective's draws.

    Parameters
    ----------
    n_modes : int, default=10
        K, the number of Gaussians.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer
    >>> from skvae.priors import Mixture
    >>> vae = VAETransformer(2, prior=Mixture(3), max_iter=20, random_state=0).fit(load_iris().data)
    >>> vae.sample(5, random_state=0).shape
    (5, 4)
    """

    _parameter_constraints: ClassVar[dict] = {"n_modes": [Count()]}

    def __init__(self, n_modes=10):
        self.n_modes = n_modes

    def build(self, n_components: int, density: Any) -> Prior:
        return MixturePrior(n_components, self.n_modes)


PRIORS: dict[str, Callable[[], PriorSpec]] = {"normal": Normal, "mixture": Mixture}
