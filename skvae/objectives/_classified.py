"""The evidence lower bound of rows of which some have a class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn

from .._params import Count
from .._ranks import sum_over_ranks
from .._tables.batches import Batch, Table
from ..likelihoods import LikelihoodModule
from ..model import VAE, Emitted
from ..priors import Prior, PriorSpec
from ._elbo import ELBO

__all__ = ["ClassPrior", "Classified"]

# Log variances of a class are kept within plus and minus this.
CLASS_LOG_VAR = 7.0


class ClassPrior(Prior):
    """p(z) = sum_c w_c p(z|c), where p(z|c) is a prior of class c, moved by mu_c and scaled by sigma_c.

    The w_c are the labelled rows' shares. They are not trained: with free ones a class takes the rows of all others.

    Parameters
    ----------
    priors : sequence of Prior
        One for each of C classes.
    """

    log_share: Tensor
    rows_a_label: Tensor

    def __init__(self, priors: Sequence[Prior]):
        super().__init__(priors[0].n_components)
        shape = len(priors), self.n_components
        self.inner = nn.ModuleList(priors)
        self.mean = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        self.log_var = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        self.register_buffer("log_share", torch.full(shape[:1], -math.log(shape[0]), dtype=torch.float32))
        # Rows for each labelled one.
        self.register_buffer("rows_a_label", torch.ones((), dtype=torch.float32))

    @property
    def reads_encoder(self) -> bool:  # type: ignore[override]
        return self._first.reads_encoder

    @property
    def least_curvature(self) -> float:  # type: ignore[override]
        """That of the widest class."""
        return self._first.least_curvature * float(torch.exp(-2 * self._log_std().detach().max()))

    @property
    def _first(self) -> Prior:
        return self.inner[0]  # type: ignore[return-value]

    def _log_std(self) -> Tensor:
        return 0.5 * self.log_var.clamp(-CLASS_LOG_VAR, CLASS_LOG_VAR)

    def bind(self, encode: Callable[[Tensor], tuple[Tensor, Any]]) -> None:
        for prior in self.inner:
            prior.bind(encode)  # type: ignore[operator]

    def log_terms(self, z: Tensor) -> Tensor:
        """log w_c + log p(z|c): (..., C) for latents (..., J)."""
        log_std = self._log_std()
        eps = (z[..., None, :] - self.mean) * torch.exp(-log_std)
        parts = [prior.log_prob(eps[..., c, :]) for c, prior in enumerate(self.inner)]  # type: ignore[operator]
        return torch.stack(parts, dim=-1) - log_std.sum(-1) + self.log_share

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.logsumexp(self.log_terms(z), dim=-1)

    def sample(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        of_class = torch.multinomial(self.log_share.exp(), n_samples, replacement=True, generator=rng)
        drawn = torch.stack([prior.sample(n_samples, rng, dtype) for prior in self.inner])  # type: ignore[operator]
        eps = drawn[of_class, torch.arange(n_samples, device=of_class.device)]
        return (self.mean[of_class] + torch.exp(self._log_std()[of_class]) * eps).to(dtype)

    @torch.no_grad()
    def start(self, model: VAE, rows: Table, rng: torch.Generator) -> None:
        """At the labelled rows' codes: each class at their mean, all as wide as codes lie around their class' mean."""
        n_classes = len(self.mean)
        first, second = np.zeros(self.mean.shape), np.zeros(self.n_components)
        count, total = np.zeros(n_classes), 0.0
        for part in rows.blocks():
            weight = torch.ones_like(part.x[:, 0]) if part.weight is None else part.weight
            of_class = _known(part)[:, None] * torch.eye(n_classes, dtype=weight.dtype)[_labels(part)] * weight[:, None]
            mean, log_var = model.encode(part.x, part.mask)
            of_class, mean, var = of_class.double(), mean.double(), 0.0 if log_var is None else log_var.double().exp()
            total += float(weight.sum(dtype=torch.float64))
            count += of_class.sum(0).numpy()
            first += (of_class.T @ mean).numpy()
            second += (of_class.T @ (mean.square() + var)).sum(0).numpy()
        count, first, second, total = sum_over_ranks((count, first, second, total))
        if not count.any():
            return
        centre = first / np.maximum(count, np.finfo(float).tiny)[:, None]
        within = (second - (count[:, None] * np.square(centre)).sum(0)) / count.sum()
        self.mean.copy_(torch.from_numpy(centre))
        self.log_var.copy_(torch.from_numpy(np.log(within + math.exp(-CLASS_LOG_VAR))))
        # Half a row for a class without any, of which a chunk may tell later.
        self.log_share.copy_(torch.from_numpy(np.log(np.where(count, count, 0.5) / count.sum())))
        self.log_share.sub_(self.log_share.logsumexp(0))
        self.rows_a_label.copy_(torch.tensor(total / count.sum()))


class Classified(ELBO):
    """The evidence lower bound with latents of one class apart from those of another, and the labels' cross entropy.

    p(z) = sum_c w_c p(z|c), and so p(c|z) is Bayes' rule. The w_c are the classes' shares; p(z|c) is the estimator's
    prior, moved and scaled for each class: by default one Gaussian N(mu_c, diag sigma_c^2), learnt with the model. Rows
    whose class is unknown have the bound on log p(x) alone; one of class c adds -log p(c|mu(x)), times `weight` and the
    number of rows for each labelled one. With all rows labelled and a `weight` of 1 that is the bound on log p(x, c),
    but for the mean in place of a draw. The KL is averaged over draws. This is the semi-supervised model of Kingma et
    al. (2014) with the class in p(z) alone (variational deep embedding, Jiang et al. 2017, with classes for clusters).

    Parameters
    ----------
    n_classes : int, default=2
        C. y holds 0 to C - 1, and NaN where the class is unknown. :class:`skvae.VAEClassifier` counts them itself.
    weight : float, default=10.0
        Weight of the labelled rows' mean cross entropy beside the mean bound of all rows, in nats.
    n_draws : int, default=1
        Draws of z per row and step, as in :class:`skvae.ELBO`; so are beta, warmup, free_bits and input_noise.
    beta : float, default=1.0
        Weight of the KL.
    warmup : int, default=0
        Epochs over which beta rises linearly from 0 to its value.
    free_bits : float, default=0.0
        Nats of all latents together that the KL leaves unpenalised.
    input_noise : float, default=0.0
        Variance of the noise that is added to the rows of every batch, as a share of a column's variance.

    See Also
    --------
    skvae.ELBO : The bound without classes.

    References
    ----------
    Kingma, D. P. et al. (2014). Semi-supervised learning with deep generative models. arXiv:1406.5298.

    Jiang, Z. et al. (2017). Variational deep embedding: an unsupervised and generative approach to clustering.
    arXiv:1611.05148.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAEClassifier
    >>> from skvae.objectives import Classified
    >>> X, y = load_iris(return_X_y=True)
    >>> model = VAEClassifier(2, objective=Classified(weight=1), max_iter=20, random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.9
    True
    """

    __module__ = "skvae.objectives"

    target = "label"

    _parameter_constraints: ClassVar[dict] = {
        "n_classes": [Count(2)],
        "weight": [Interval(Real, 0, None, closed="left")],
        **{name: rule for name, rule in ELBO._parameter_constraints.items() if name != "kl"},
    }

    def __init__(
        self,
        n_classes: int = 2,
        *,
        weight: float = 10.0,
        n_draws: int = 1,
        beta: float = 1.0,
        warmup: int = 0,
        free_bits: float = 0.0,
        input_noise: float = 0.0,
    ) -> None:
        super().__init__(n_draws=n_draws, beta=beta, warmup=warmup, free_bits=free_bits, input_noise=input_noise)
        self.n_classes = n_classes
        self.weight = weight

    @property
    def is_bound(self) -> bool:
        return False

    def check_labels(self, y: np.ndarray) -> None:
        """Raise ValueError where y holds something else than the number of a class, or NaN."""
        known = y[~np.isnan(y)]
        if wrong := [value for value in known.tolist() if value not in range(self.n_classes)]:
            raise ValueError(
                f"y holds {wrong[0]:g}; objective={self!r} takes the classes 0 to {self.n_classes - 1}, and NaN where "
                "a row's class is unknown. VAEClassifier takes labels of any kind."
            )

    def prior(self, prior: PriorSpec, n_components: int, density: LikelihoodModule) -> ClassPrior:
        return ClassPrior([prior.build(n_components, density) for _ in range(self.n_classes)])

    def log_proba(self, model: VAE, z: Tensor) -> Tensor:
        """log p(c|z) of latents (N, J): (N, C)."""
        return torch.log_softmax(_prior(model).log_terms(z), dim=-1)

    def terms(
        self, emitted: Emitted, batch: Batch, model: VAE, rng: torch.Generator, epoch: float
    ) -> dict[str, Tensor]:
        """-ELBO + weight (rows for each labelled one) (-log p(c|mu)), the last where c is known."""
        terms = super().terms(emitted, batch, model, rng, epoch)
        log_proba = self.log_proba(model, emitted.mu).gather(1, _labels(batch)[:, None])[:, 0]
        cross_entropy = -_prior(model).rows_a_label * _known(batch) * log_proba
        return {**terms, "loss": terms["loss"] + self.weight * cross_entropy, "cross_entropy": cross_entropy}


def _prior(model: VAE) -> ClassPrior:
    assert isinstance(model.prior, ClassPrior)
    return model.prior


def _known(batch: Batch) -> Tensor:
    """1 where a row's class is known, else 0: (B,)."""
    assert batch.y is not None
    return (~batch.y.isnan()).to(batch.x.dtype)


def _labels(batch: Batch) -> Tensor:
    """The classes' numbers, 0 where unknown: (B,)."""
    assert batch.y is not None
    return batch.y.nan_to_num().long()
