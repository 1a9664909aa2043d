"""p(z | x) of one or two latents on cells that are halved where it lies, whatever its shape.

Points around q(z|x) see what lies near q. A row whose posterior has several modes, a long tail, or lies elsewhere asks
for more: from a lattice over the prior's range on, every cell that may hold some of p(z | x) is halved along each axis
until that changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .._tables.batches import Batch
from .._torch import make_generator
from ..model import VAE
from .posterior import Posterior

__all__ = ["Cells", "Lattice", "cells", "lattice_of", "lies_elsewhere"]


# Cells per axis of the lattice, by the number of latents; it reaches so many times as far as the furthest of some
# draws from the prior, and is doubled at most so often for rows that lie further out.
AXIS, PRIOR_DRAWS, REACH, DOUBLINGS = {1: 128, 2: 24}, 4096, 1.5, 16


# A cell is halved while it may hold more than exp(-DEPTH) of a row's p(x), and left out where it holds so little that
# all of them are nothing.
DEPTH, NOTHING = 10.0, 18.0


# Halving ends when it changes log p(x) by less than this and the posterior fills this many cells per axis; at the
# latest after so many steps, or with so many cells.
SETTLED, FILLED, HALVINGS, MOST_CELLS = 1e-3, 2.0, 24, 4096


# A row has another mode where a cell so many standard deviations from the mode of q may come so near to its height.
FAR, NEAR = 5.0, 10.0


# Numbers in the widest array while cells are looked at.
CELL_NUMBERS = 250_000


class Lattice(NamedTuple):
    """Cells of one size over where the prior lies.

    Attributes
    ----------
    z : Tensor of shape (C, J)
        Centres.
    width : float
    """

    z: Tensor
    width: float

    @property
    def n_axis(self) -> int:
        """How many cells lie along an axis."""
        return round(len(self.z) ** (1 / self.z.shape[1]))

    def times(self, factor: float) -> Lattice:
        """The lattice drawn out."""
        return Lattice(self.z * factor, self.width * factor)


class Cells(NamedTuple):
    """Cells that hold the posterior of each of N rows, at most S.

    Attributes
    ----------
    z : Tensor of shape (S, N, J)
        Centres.
    log_mass : Tensor of shape (S, N)
        log p(x, z) times the cell's volume; -inf for a row with fewer cells.
    width : Tensor of shape (S, N)
    """

    z: Tensor
    log_mass: Tensor
    width: Tensor


def lattice_of(model: VAE, device: torch.device) -> Lattice | None:
    """The lattice that all rows start from; None for more latents than cells can fill, or a model without a density."""
    n_components = model.prior.n_components
    if n_components not in AXIS or not model.is_density:
        return None
    drawn = model.prior.sample(PRIOR_DRAWS, make_generator(0, device), torch.float64)
    reach, n = REACH * float(drawn.abs().max()), AXIS[n_components]
    axis = reach * (2 * torch.arange(n, dtype=torch.float64, device=device) + 1 - n) / n
    return Lattice(torch.cartesian_prod(*[axis] * n_components).reshape(-1, n_components), 2 * reach / n)


def lies_elsewhere(model: VAE, rows: Batch, q: Posterior, lattice: Lattice) -> Tensor:
    """Whether p(z | x) may have a part that q knows nothing of: (N,)."""
    _, best = _heights(model, rows, lattice)
    height = model.log_joint(q.mean, rows.x, rows.mask)
    # A cell that touches the ellipse of q is not far from it.
    half = torch.eye(q.mean.shape[1], dtype=q.mean.dtype, device=q.mean.device) * (lattice.width / 2) ** 2
    root = torch.linalg.cholesky(q.factor @ q.factor.mT + half)
    offset = lattice.z[:, None] - q.mean
    distance = torch.linalg.solve_triangular(root, offset.permute(1, 2, 0), upper=False).square().sum(1).T
    return ((best > height - NEAR) & (distance > FAR**2)).any(dim=0)


def cells(model: VAE, rows: Batch, lattice: Lattice) -> Cells:
    """Cells for all rows, none where no number stands for a row."""
    parts: list[_Flat] = []
    pending, factor = torch.arange(len(rows), device=rows.device), 1.0
    for doubling in range(DOUBLINGS + 1):
        drawn_out = lattice.times(factor)
        found = _halved(model, rows.take(pending), drawn_out)
        share = found.log_mass - _log_sums(found.row, found.log_mass, len(pending))[found.row]
        edge = drawn_out.z.abs().max() - drawn_out.width
        over = torch.zeros(len(pending), dtype=torch.bool, device=rows.device)
        over[found.row[(share > -DEPTH) & (found.z.abs() > edge).any(dim=1)]] = doubling < DOUBLINGS
        kept = found.of((share > -NOTHING) & ~over[found.row])
        parts.append(kept._replace(row=pending[kept.row]))
        pending, factor = pending[over], 2 * factor
        if not len(pending):
            break
    return _Flat.joined(parts).by_row(len(rows))


class _Flat(NamedTuple):
    """Cells of all rows, one after the other: (M,), and (M, J) for z. `most` is what a cell may hold."""

    row: Tensor
    z: Tensor
    log_mass: Tensor
    most: Tensor
    width: Tensor

    @classmethod
    def joined(cls, parts: list[_Flat]) -> _Flat:
        return cls(*map(torch.cat, zip(*parts, strict=True)))

    def of(self, which: Tensor) -> _Flat:
        return _Flat(*(values[which] for values in self))

    def by_row(self, n_rows: int) -> Cells:
        order = torch.argsort(self.row, stable=True)
        row, z, log_mass, _, width = self.of(order)
        count = torch.bincount(row, minlength=n_rows)
        place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        shape = max(1, int(count.max())), n_rows
        found = Cells(z.new_zeros(*shape, z.shape[1]), z.new_full(shape, -math.inf), z.new_ones(shape))
        for all_rows, values in zip(found, (z, log_mass, width), strict=True):
            all_rows[place, row] = values
        return found


def _halved(model: VAE, rows: Batch, lattice: Lattice) -> _Flat:
    """Cells from this lattice on: what is left of it, and what its cells were halved to."""
    n_rows, found = len(rows), _on_lattice(model, rows, lattice)
    done: list[_Flat] = []
    total = _log_sums(found.row, found.log_mass, n_rows)
    rest, settled = torch.full_like(total, -math.inf), torch.zeros_like(total, dtype=torch.bool)
    for step in range(HALVINGS + 1):
        halve = ~settled[found.row] & (found.most > total[found.row] - DEPTH)
        many = torch.bincount(found.row[halve], minlength=n_rows) > MOST_CELLS
        halve &= ~many[found.row] & (step < HALVINGS)
        left = found.of(~halve)
        done.append(left.of(left.log_mass > total[left.row] - NOTHING))
        rest = torch.logaddexp(rest, _log_sums(left.row, left.log_mass, n_rows))
        if not halve.any():
            break
        found = _halves(model, rows, found.of(halve))
        before, now = total, _log_sums(found.row, found.log_mass, n_rows)
        total = torch.logaddexp(rest, now)
        filled = torch.exp(2 * now - _log_sums(found.row, 2 * found.log_mass, n_rows))
        settled = ((total - before).abs() < SETTLED) & (filled > FILLED ** lattice.z.shape[1])
    return _Flat.joined(done)


def _halves(model: VAE, rows: Batch, found: _Flat) -> _Flat:
    """Each cell's halves along every axis."""
    n_axes = found.z.shape[1]
    sides = torch.tensor([-0.25, 0.25], dtype=found.z.dtype, device=found.z.device)
    corners = torch.cartesian_prod(*[sides] * n_axes).reshape(-1, n_axes)
    z = (found.z[:, None] + found.width[:, None, None] * corners).flatten(0, 1)
    row, width = found.row.repeat_interleave(len(corners)), found.width.repeat_interleave(len(corners)) / 2
    height, slope = _at(model, rows, row, z)
    log_mass = height + n_axes * width.log()
    return _Flat(row, z, log_mass, log_mass + 0.5 * width * slope, width)


def _on_lattice(model: VAE, rows: Batch, lattice: Lattice) -> _Flat:
    """Its cells, for every row."""
    height, highest = _heights(model, rows, lattice)
    row = torch.arange(len(rows), device=rows.device).expand(height.shape).flatten()
    z = lattice.z[:, None].expand(-1, len(rows), -1).flatten(0, 1)
    log_volume = lattice.z.shape[1] * math.log(lattice.width)
    log_mass = height.flatten() + log_volume
    return _Flat(row, z, log_mass, highest.flatten() + log_volume, torch.full_like(log_mass, lattice.width))


def _heights(model: VAE, rows: Batch, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """log p(x, z) at the centres, and at most within each cell: two (C, N). The second follows from the neighbours."""
    size = max(1, CELL_NUMBERS // (len(rows) * max(model.cost.width, model.likelihood.n_params)))
    parts = [model.log_joint_everywhere(z, rows.x, rows.mask) for z in lattice.z.split(size)]
    height = torch.cat(parts).nan_to_num(nan=-math.inf)
    n_axes = lattice.z.shape[1]
    grid = height.reshape(*[lattice.n_axis] * n_axes, len(rows))
    best = grid.clone()
    for axis in range(n_axes):
        change = grid.diff(dim=axis).abs().nan_to_num(nan=0.0, posinf=0.0)
        none = torch.zeros_like(change.narrow(axis, 0, 1))
        best += 0.5 * torch.maximum(torch.cat([change, none], axis), torch.cat([none, change], axis))
    return height, best.flatten(0, -2)


def _at(model: VAE, rows: Batch, row: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) of rows of these numbers, (M,), and the sum of its slopes' sizes, (M,)."""
    size = max(1, CELL_NUMBERS // max(model.cost.width, model.likelihood.n_params))

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        for some_rows, some in zip(row.split(size), z.split(size), strict=True):
            those = rows.take(some_rows)
            with torch.enable_grad():
                some = some.detach().requires_grad_()
                height = model.log_joint(some, those.x, those.mask)
                (slope,) = torch.autograd.grad(height.sum(), some)
            yield height.detach(), slope.abs().sum(dim=1)

    height, gain = map(torch.cat, zip(*parts(), strict=True))
    return height.nan_to_num(nan=-math.inf), gain.nan_to_num(nan=0.0, posinf=0.0)


def _log_sums(row: Tensor, log_values: Tensor, n_rows: int) -> Tensor:
    """log sum exp(log_values) of each row: (N,)."""
    top = log_values.new_full((n_rows,), -math.inf).scatter_reduce(0, row, log_values, "amax")
    share = torch.exp(log_values - top[row]).nan_to_num(nan=0.0)
    return top + log_values.new_zeros(n_rows).index_add(0, row, share).log()
