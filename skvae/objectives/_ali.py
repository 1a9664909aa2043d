"""Adversarially learned inference, and what is built on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Real
from typing import ClassVar

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn

from .._math import log_normal
from .._params import Count
from .._tables.batches import Batch
from ..likelihoods import LikelihoodModule
from ..model import VAE, Dims
from ..networks import LinearPath
from ..priors import Prior, PriorSpec
from ._base import Objective, Turn
from ._critic import Critic, all_but, coded, critic_of, prior_turns

__all__ = ["ALI"]

# At the start a level is the one below it, but for this share of the variance.
FRESH = 0.1
LOG_VAR_RANGE = (-10.0, 10.0)


class Level(nn.Module):
    """One level of latents given a neighbour: N(m(z), diag s^2(z)), drawn from.

    It starts at the identity: the latents that both have are the neighbour's, but for a small share of their variance,
    and any others are N(0, 1). So levels of N(0, I) begin as N(0, I).

    Parameters
    ----------
    n_in, n_out : int
    width : int
        Units of the hidden layer.
    """

    def __init__(self, n_in: int, n_out: int, width: int):
        super().__init__()
        body = nn.Sequential(
            nn.Linear(n_in, width, dtype=torch.float32), nn.ReLU(), nn.Linear(width, 2 * n_out, dtype=torch.float32)
        )
        self.path = LinearPath(nn.Linear(n_in, 2 * n_out, dtype=torch.float32), body)
        both = torch.eye(n_out, n_in, dtype=torch.float32)
        log_var = both.sum(1) * torch.log(torch.full((), FRESH, dtype=torch.float32))
        zeros = torch.zeros_like(both)
        self.path.start_at(torch.cat([(1 - FRESH) ** 0.5 * both, zeros]), torch.cat([zeros[:, 0], log_var]))

    def forward(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """A draw given each z: (N, n_out)."""
        mean, log_var = self._given(z)
        eps = torch.randn(mean.shape, generator=rng, dtype=mean.dtype, device=mean.device)
        return mean + torch.exp(0.5 * log_var) * eps

    def log_prob(self, drawn: Tensor, z: Tensor) -> Tensor:
        """log N(drawn; m(z), diag s^2(z)): (N,)."""
        mean, log_var = self._given(z)
        return log_normal((drawn - mean) * torch.exp(-0.5 * log_var), log_var).sum(-1)

    def _given(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.path(z).chunk(2, dim=-1)
        return mean, log_var.clamp(*LOG_VAR_RANGE)


class Pushed(Prior):
    """p(z) of a stack of levels: drawn at the top, and passed down. It has no density.

    Parameters
    ----------
    sizes : sequence of int
        Latents of each level, from the lowest up.
    top : Prior
        Of the highest level.
    width : int
    """

    def __init__(self, sizes: Sequence[int], top: Prior, width: int):
        super().__init__(sizes[0])
        self.top = top
        self.downs = nn.ModuleList(Level(upper, lower, width) for lower, upper in pairwise(sizes))

    def levels(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Draws of every level, the lowest first."""
        found = [self.top.sample(n_samples, rng, dtype)]
        for down in reversed(self.downs):
            found.insert(0, down(found[0], rng))
        return found

    def sample(self, n_samples: int, rng: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.levels(n_samples, rng, dtype)[0]

    def log_joint(self, levels: list[Tensor]) -> Tensor:
        """log p of codes of all levels, the lowest first: (N,); without the top's where that has no density."""
        steps = zip(self.downs, pairwise(levels), strict=True)
        found = torch.stack([down.log_prob(lower, upper) for down, (lower, upper) in steps]).sum(0)  # type: ignore
        return found + self.top.log_prob(levels[-1]) if self.top.has_density else found


class ALI(Objective):
    """Adversarially learned inference, ALI or BiGAN (Dumoulin et al. 2017; Donahue et al. 2017), and its extensions.

    A critic c learns to tell pairs of a row and its code, (x, z) with z drawn from q(z|x), from pairs of a drawn code
    and its row, (x', z') = (E[x|z'], z') with z' from p(z). Encoder and decoder try to be taken for each other:

        networks:  -log(1 - sigmoid(c(x, z))) - log sigmoid(c(x', z')) + cycle_weight ||x - E[x|z]||^2
        critic:    -log sigmoid(c(x, z)) - log(1 - sigmoid(c(x', z')))

    They take turns. Where the critic can no longer tell, q(z|x) is the posterior of p(z) p(x|z), and draws look like
    rows. Nothing asks for a faithful reconstruction of one row: `cycle_weight=1` does (ALICE, Li et al. 2017), by the
    squared error, in the units that the encoder sees.

    With `levels` there are further latents above (HALI, Belghazi et al. 2018), each drawn given its neighbour by a
    network, up in the encoder's pair and down in the prior's: `sample` draws the highest level from the prior and goes
    down. Every level starts as its neighbour but for a tenth of the variance: draws that start at random collapse. So
    do they where the way down plays against the critic, as in the paper, since lower levels that shrink on both sides
    are harder to tell apart; here it is part of the prior, and fitted as priors are.

    Rows and made ones both get Gaussian noise before the critic sees them: rows of data and rows of fewer latents lie
    on different surfaces, and a critic that is always sure teaches nothing (Soenderby et al. 2017).

    There is no density, so `score` and `noise_variance_` are absent, and nothing to watch: all epochs run, and the
    weights that are kept are averages of the last ones. A prior with parameters is fitted to the codes by maximum
    likelihood, in a turn of its own. Rows are seen as the encoder sees them, and categories by their probabilities.

    Parameters
    ----------
    cycle_weight : float, default=0.0
        Weight of the squared error; 0 is ALI, 1 is ALICE.
    levels : sequence of int or None, default=None
        The latents of each level above the `n_components` that the decoder sees; the estimator's prior is that of the
        last. None: none.
    noise : float, default=2.0
        Standard deviation of what is added for the critic, in the units that the encoder sees (standard deviations of
        columns). Less makes the critic stricter, and training less stable.
    width : int, default=128
        Units in each of the critic's two hidden layers, and in those between levels.

    See Also
    --------
    skvae.ELBO : A bound on the likelihood holds encoder and decoder together.

    References
    ----------
    Belghazi, M. I. et al. (2018). Hierarchical adversarially learned inference. arXiv:1802.01071.

    Donahue, J., Kraehenbuehl, P. and Darrell, T. (2017). Adversarial feature learning. arXiv:1605.09782.

    Dumoulin, V. et al. (2017). Adversarially learned inference. arXiv:1606.00704.

    Li, C. et al. (2017). ALICE: towards understanding adversarial learning for joint distribution matching.
    arXiv:1709.01215.

    Soenderby, C. K. et al. (2017). Amortised MAP inference for image super-resolution. arXiv:1610.04490.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer
    >>> from skvae.objectives import ALI
    >>> vae = VAETransformer(2, objective=ALI(cycle_weight=1), max_iter=5, random_state=0).fit(load_iris().data)
    >>> vae.sample(5, random_state=0).shape
    (5, 4)
    >>> sorted(vae.history_)
    ['critic', 'error', 'loss', 'mixed_up']
    """

    __module__ = "skvae.objectives"

    offers = frozenset({"posterior", "prior"})

    _parameter_constraints: ClassVar[dict] = {
        "cycle_weight": [Interval(Real, 0, None, closed="left")],
        "levels": [None, "array-like"],
        "noise": [Interval(Real, 0, None, closed="left")],
        "width": [Count()],
    }

    def __init__(
        self,
        cycle_weight: float = 0.0,
        *,
        levels: Sequence[int] | None = None,
        noise: float = 2.0,
        width: int = 128,
    ) -> None:
        self.cycle_weight = cycle_weight
        self.levels = levels
        self.noise = noise
        self.width = width

    def _validate_params(self) -> None:
        super()._validate_params()
        for size in self._upper:
            if not Count().is_satisfied_by(size):
                raise ValueError(
                    f"levels must hold integers of at least 1, the latents of each further level; it holds {size!r}. "
                    "Use (4,) for one level of 4, None for none."
                )

    @property
    def _upper(self) -> tuple[int, ...]:
        return () if self.levels is None else tuple(self.levels)

    def prior(self, prior: PriorSpec, n_components: int, density: LikelihoodModule) -> Prior:
        """p(z), or with `levels` the estimator's prior at the top and what becomes of its draws below."""
        if not self._upper:
            return prior.build(n_components, density)
        top = prior.build(int(self._upper[-1]), density)
        if top.reads_encoder:
            raise ValueError(
                f"prior={prior!r} is made of the encoder's latents, but with levels={self.levels!r} the prior is that "
                "of the highest level; use prior='normal' or 'mixture', or levels=None."
            )
        return Pushed((n_components, *map(int, self._upper)), top, self.width)

    def modules(self, dims: Dims) -> dict[str, nn.Module]:
        """The critic, and the way up the levels."""
        sizes = (dims.n_components, *map(int, self._upper))
        ups = nn.ModuleList(Level(lower, upper, self.width) for lower, upper in pairwise(sizes))
        return {"critic": Critic(dims.n_inputs + sum(sizes), self.width), "ups": ups}

    def __call__(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        """The networks' loss: to pass each for the other; and the reconstruction's error."""
        z = coded(model, batch, rng)
        critic, made = critic_of(model), self._made(model, batch, rng)
        mixed_up = critic.fake_loss(self._encoded(model, batch, rng, z)) + critic.real_loss(made)
        error = model.squared_error(model.params(z), batch)
        return {"loss": mixed_up + self.cycle_weight * error, "mixed_up": mixed_up, "error": error}

    def critic(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        """The critic's: rows with their codes are real, drawn codes with their rows are not."""
        with torch.no_grad():
            made = self._made(model, batch, rng)
            encoded = self._encoded(model, batch, rng, coded(model, batch, rng))
        return {"critic": critic_of(model).loss(encoded, made)}

    def descent(self, model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        """Minus the log-likelihood of the codes of all levels, which fits the way down to them: (N,)."""
        with torch.no_grad():
            levels = self._climbed(model, coded(model, batch, rng), rng)
        assert isinstance(model.prior, Pushed)
        return {"prior": -model.prior.log_joint(levels)}

    def players(self, model: VAE) -> list[Turn]:
        """The networks with the way up the levels, the critic, and a prior that has something to learn."""
        trained = [p for p in model.prior.parameters() if p.requires_grad]
        pushed = isinstance(model.prior, Pushed)
        return [
            Turn(all_but(model, "extras.critic", "prior", "likelihood"), self),
            Turn(list(critic_of(model).parameters()), self.critic, "critic"),
            *([Turn(trained, self.descent, "prior")] if pushed else prior_turns(model.prior)),
        ]

    def _climbed(self, model: VAE, z: Tensor, rng: torch.Generator) -> list[Tensor]:
        """Codes of every level, from the lowest one's up."""
        found, ups = [z], model.extras["ups"]
        assert isinstance(ups, nn.ModuleList)
        for up in ups:
            found.append(up(found[-1], rng))
        return found

    def _encoded(self, model: VAE, batch: Batch, rng: torch.Generator, z: Tensor) -> Tensor:
        """Rows as the encoder sees them, and their codes of all levels."""
        return self._paired(model.seen(batch.x, batch.mask), self._climbed(model, z, rng), rng)

    def _made(self, model: VAE, batch: Batch, rng: torch.Generator) -> Tensor:
        """The same of drawn codes and the rows that they become, with the batch's gaps."""
        prior, n, dtype = model.prior, len(batch), batch.x.dtype
        with torch.no_grad():
            codes = prior.levels(n, rng, dtype) if isinstance(prior, Pushed) else [prior.sample(n, rng, dtype)]
        return self._paired(model.shown(model.params(codes[0]), batch.mask), codes, rng)

    def _paired(self, rows: Tensor, codes: list[Tensor], rng: torch.Generator) -> Tensor:
        """Rows, with noise, beside their codes: what the critic sees."""
        noise = torch.randn(rows.shape, generator=rng, dtype=rows.dtype, device=rows.device)
        return torch.cat([rows + self.noise * noise, *codes], dim=-1)
