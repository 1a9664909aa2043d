"""What objectives with a critic share: the network that tells real from made, and who moves what."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .._tables.batches import Batch
from ..model import VAE
from ..priors import Prior
from ._base import Turn

__all__ = ["Critic", "all_but", "coded", "critic_of", "drawn", "prior_turns"]

# Of the critics' units: what a negative input keeps of its slope.
LEAK = 0.2


class Critic(nn.Module):
    """A perceptron with two hidden layers whose output, trained, is log p_real(v) - log p_fake(v).

    It is trained on -log sigmoid(c(real)) - log(1 - sigmoid(c(fake))) (Goodfellow et al. 2014). Who makes the fakes
    lowers `real_loss` of them, whose slope does not vanish where the critic is sure.

    Parameters
    ----------
    n_in : int
    width : int
        Units of each hidden layer.
    """

    def __init__(self, n_in: int, width: int):
        super().__init__()
        first, second = (nn.Linear(n, width, dtype=torch.float32) for n in (n_in, width))
        self.hidden = nn.Sequential(first, nn.LeakyReLU(LEAK))
        self.verdict = nn.Sequential(second, nn.LeakyReLU(LEAK), nn.Linear(width, 1, dtype=torch.float32))

    def forward(self, v: Tensor) -> Tensor:
        """Logits, (N,), of rows (N, n_in)."""
        return self.verdict(self.hidden(v)).squeeze(-1)

    def real_loss(self, v: Tensor) -> Tensor:
        """-log sigmoid(c(v)): what the critic loses if v is real, (N,)."""
        return softplus(-self(v))

    def fake_loss(self, v: Tensor) -> Tensor:
        """-log(1 - sigmoid(c(v))): what it loses if v is not, (N,)."""
        return softplus(self(v))

    def loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """What it lowers: both losses, (N,)."""
        return self.real_loss(real) + self.fake_loss(fake)


def critic_of(model: VAE, name: str = "critic") -> Critic:
    """The model's critic of this name."""
    critic = model.extras[name]
    assert isinstance(critic, Critic)
    return critic


@torch.no_grad()
def drawn(model: VAE, batch: Batch, rng: torch.Generator) -> Tensor:
    """As many draws of p(z) as the batch has rows: (N, J). Nobody moves the prior by these."""
    return model.prior.sample(len(batch), rng, batch.x.dtype)


def coded(model: VAE, batch: Batch, rng: torch.Generator) -> Tensor:
    """A draw of z for every row, or its code where the encoder emits one: (N, J)."""
    mu, log_var = model.encode(batch.x, batch.mask)
    if log_var is None:
        return mu
    eps = torch.randn(mu.shape, generator=rng, dtype=mu.dtype, device=mu.device)
    return mu + torch.exp(0.5 * log_var) * eps


def all_but(model: VAE, *parts: str) -> list[nn.Parameter]:
    """The parameters to train outside these parts of the model."""
    return [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(parts)]


def prior_turns(prior: Prior) -> list[Turn]:
    """The turn of a prior with parameters, which is fitted to the codes by maximum likelihood; none without.

    Neither a critic nor an MMD trains it: a prior that may move towards the codes could make both blind by shrinking
    with them, and draws have no slope over a mixture's weights. One without a density stays as it started.
    """
    learnt = [p for p in prior.parameters() if p.requires_grad]
    if not learnt or not prior.has_density:
        return []

    def surprise(model: VAE, batch: Batch, rng: torch.Generator, epoch: float) -> dict[str, Tensor]:
        with torch.no_grad():
            z = coded(model, batch, rng)
        return {"prior": -prior.log_prob(z)}

    return [Turn(learnt, surprise, "prior")]
