"""Where points of p(z | the present cells) are looked for: a few ways to draw them, each with its density."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .._math import log_normal
from .._tables.batches import Batch
from .._torch import make_generator
from ..model import VAE
from .cells import Cells, Lattice, cells
from .posterior import NEAR, Posterior, laplace, posterior
from .quadrature import quasi_normal

__all__ = [
    "Around",
    "AroundModes",
    "Common",
    "InCells",
    "Noise",
    "Proposal",
    "Starts",
    "around",
    "around_modes",
    "chosen",
    "in_cells",
    "lost",
    "shares",
    "starts_of",
]


# Draws from the prior among which modes are looked for, how many of them one is the highest of, and how many of such
# peaks Newton's method starts from, beside the encoder's mean.
STARTS, NEIGHBOURS, PEAKS = 256, 8, 2


class Noise:
    """What points are made of: of a generator, and each row's own."""

    def __init__(self, rng: torch.Generator):
        self.rng = rng

    def uniform(self, *shape: int) -> Tensor:
        """Between 0 and 1: (S, N, ...)."""
        return torch.rand(shape, generator=self.rng, dtype=torch.float64, device=self.rng.device)

    def normal(self, *shape: int) -> Tensor:
        """Of mean 0 and variance 1: (S, N, J)."""
        return torch.randn(shape, generator=self.rng, dtype=torch.float64, device=self.rng.device)


class Common(Noise):
    """The same for all rows and calls: what is said of a row depends on no other. Normal points fill space evenly."""

    def __init__(self, seed: int, device: torch.device):
        super().__init__(make_generator(seed, device))
        self.seed = seed

    def uniform(self, *shape: int) -> Tensor:
        return super().uniform(shape[0], 1, *shape[2:]).expand(shape)

    def normal(self, *shape: int) -> Tensor:
        self.seed += 1  # later points are other points
        return quasi_normal(shape[0], shape[2], self.seed).to(self.rng.device)[:, None].expand(shape)


class Proposal(ABC):
    """Where to draw points for each of N rows.

    Attributes
    ----------
    with_prior : bool
        Whether points from the prior are to be added, of which `log_density` says how densely they lie here.
    """

    with_prior: ClassVar[bool] = False

    @abstractmethod
    def draw(self, n_points: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """Points (S, N, J), and the logarithms of how densely they lie, (S, N)."""

    @abstractmethod
    def of(self, rows: Tensor) -> Proposal:
        """The same for some of the rows."""

    def log_density(self, z: Tensor) -> Tensor:
        """How densely points would lie at z (S, N, J): (S, N)."""
        raise NotImplementedError


class Around(Proposal):
    """Normal points around the middle of a posterior."""

    def __init__(self, q: Posterior):
        self.q = q

    def draw(self, n_points: int, noise: Noise) -> tuple[Tensor, Tensor]:
        eps = noise.normal(n_points, *self.q.mean.shape)
        return self.q.at(eps), self.q.log_density(eps)

    def of(self, rows: Tensor) -> Proposal:
        return Around(Posterior(self.q.mean[rows], self.q.factor[rows]))


class InCells(Proposal):
    """Points from anywhere in the cells that a posterior fills, of each as many as it holds."""

    def __init__(self, cells: Cells):
        self.cells = cells

    def draw(self, n_points: int, noise: Noise) -> tuple[Tensor, Tensor]:
        z, log_mass, width = self.cells
        n_axes = z.shape[2]
        which = chosen(shares(log_mass), n_points, noise)
        own_width = width.gather(0, which)
        within = (noise.uniform(n_points, *z.shape[1:]) - 0.5) * own_width[..., None]
        log_density = torch.log_softmax(log_mass, dim=0).gather(0, which) - n_axes * own_width.log()
        return z.gather(0, which[..., None].expand(-1, -1, n_axes)) + within, log_density

    def of(self, rows: Tensor) -> Proposal:
        return InCells(Cells(*(values[:, rows] for values in self.cells)))


class AroundModes(Proposal):
    """Normal points around several modes: posteriors (K, N, ...), and how much of the points each has, (K, N)."""

    with_prior = True

    def __init__(self, modes: Posterior, log_share: Tensor):
        self.modes, self.log_share = modes, log_share

    def draw(self, n_points: int, noise: Noise) -> tuple[Tensor, Tensor]:
        which = chosen(self.log_share.exp(), n_points, noise)
        eps = noise.normal(n_points, *self.modes.mean.shape[1:])
        z = torch.zeros_like(eps)
        for k, q in enumerate(self._each()):
            z = torch.where((which == k)[..., None], q.at(eps), z)
        return z, self.log_density(z)

    def log_density(self, z: Tensor) -> Tensor:
        terms = []
        for q, log_share in zip(self._each(), self.log_share, strict=True):
            eps = torch.linalg.solve_triangular(q.factor, (z - q.mean).permute(1, 2, 0), upper=False)
            terms.append(log_share + log_normal(eps).sum(1).T - q.log_det)
        return torch.logsumexp(torch.stack(terms), dim=0)

    def of(self, rows: Tensor) -> Proposal:
        return AroundModes(Posterior(self.modes.mean[:, rows], self.modes.factor[:, rows]), self.log_share[:, rows])

    def _each(self) -> list[Posterior]:
        return [Posterior(*q) for q in zip(*self.modes, strict=True)]


def around(model: VAE, rows: Batch) -> Around:
    """Points around q(z|x)."""
    return Around(posterior(model, rows, NEAR))


def in_cells(model: VAE, rows: Batch, lattice: Lattice) -> InCells:
    """Points in the cells that p(z | x) fills."""
    return InCells(cells(model, rows, lattice))


class Starts(NamedTuple):
    """Places over the prior: z (C, J), and the numbers of the nearest others of each, (C, NEIGHBOURS)."""

    z: Tensor
    neighbours: Tensor


def starts_of(model: VAE, device: torch.device) -> Starts:
    """The same for all rows and calls."""
    z = model.prior.sample(STARTS, make_generator(0, device), torch.float64)
    nearest = torch.cdist(z, z).topk(NEIGHBOURS + 1, largest=False).indices
    return Starts(z, nearest[:, 1:])


def around_modes(model: VAE, rows: Batch, starts: Starts) -> AroundModes:
    """Points around the modes of p(z | x), as many as each holds.

    These are found by Newton's method from the encoder's mean and from the highest peaks among the starts. A mode may
    be found more than once.
    """
    height = model.log_joint_everywhere(starts.z, rows.x, rows.mask)
    peak = height >= height[starts.neighbours].amax(dim=1)
    highest = height.masked_fill(~peak, -math.inf).nan_to_num(nan=-math.inf).topk(PEAKS, dim=0).indices
    first = torch.cat([model.encode_mean(rows.x, rows.mask)[None], starts.z[highest]])
    index = torch.arange(len(rows), device=rows.device).repeat(len(first))
    found = laplace(model, rows.take(index), first.flatten(0, 1), NEAR)
    modes = Posterior(*(values.unflatten(0, (len(first), -1)) for values in found))
    held = model.log_joint(modes.mean, rows.x, rows.mask) + modes.log_det
    return AroundModes(modes, shares(held).log())


def chosen(share: Tensor, n_draws: int, noise: Noise) -> Tensor:
    """Numbers of points in proportion to their shares (S, N), one from every part of 1 / n_draws: (n_draws, N).

    In random order: each is a draw of its own, and together they have the shares more nearly than independent draws.
    """
    n_rows = share.shape[1]
    order = noise.uniform(n_draws, n_rows).argsort(dim=0)
    upto = share.cumsum(0).T.contiguous()
    place = (order + noise.uniform(n_draws, n_rows)) / n_draws * upto[:, -1]
    return torch.searchsorted(upto, place.T.contiguous(), right=True).T.clamp_max(len(share) - 1)


def lost(log_weight: Tensor) -> Tensor:
    """Rows so far out that the weights of their points, (S, N), are no numbers: (N,)."""
    return ~torch.logsumexp(log_weight, dim=0).isfinite()


def shares(log_weight: Tensor) -> Tensor:
    """Weights that sum to 1 over the points of a row, (S, N); equal ones where they are no numbers."""
    return torch.softmax(log_weight.masked_fill(lost(log_weight), 0.0), dim=0)
