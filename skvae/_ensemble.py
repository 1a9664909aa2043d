"""Many models of the same shape trained as one batch: folds, latent sizes, members of an ensemble.

Their parameter vectors are the rows of one matrix, every layer is one batched product, and every model keeps its own
rows, scale, best weights and stop. A model of fewer latents is the largest one whose other weights are 0: they get no
gradient, so they stay 0.

Shape letters: M models, K tables, B rows of a batch, H held-out rows, D features, J latents of the largest model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._dense import DenseStep, prepared, understands
from ._perceptron import is_perceptron
from ._solvers import Adam
from ._torch import make_generator
from .data import Rows, Table, Walk, shuffled
from .model import VAE
from .objectives import ELBO, Objective
from .training import Plan, Report, average_weight, held_out_repeats, make_players

__all__ = ["Member", "can_stack", "train_many"]

# Numbers that the widest array of a held-out block may hold.
BLOCK_NUMBERS = 2_000_000


@dataclass
class Member:
    """One model to train, at its start. Members of one table share its `rows` and `held_out`, as objects."""

    model: VAE
    rows: Rows | Table
    held_out: Rows | None

    def to(self, device: torch.device) -> Member:
        """The same member on `device`; the model itself is moved."""
        held_out = None if self.held_out is None else self.held_out.to(device)
        return Member(self.model.to(device), self.rows.to(device), held_out)


def can_stack(model: VAE, objective: Objective) -> bool:
    """Whether models like this one can be trained side by side.

    A sampled KL and free bits charge even the latents that a smaller model lacks; input noise is drawn row by row.
    """
    return (
        understands(model, objective)
        and is_perceptron(model.encoder)
        and is_perceptron(model.decoder)
        and model.likelihood.stackable
        and isinstance(objective, ELBO)
        and objective.kl == "analytic"
        and not objective.free_bits
        and not objective.input_noise
    )


@torch.inference_mode()
def train_many(
    members: Sequence[Member],
    objective: ELBO,
    plan: Plan,
    learning_rate: float,
    rng: torch.Generator,
    n_batches: int | None = None,
) -> list[Report]:
    """Train every member's model in place by Adam, as `training.train` would, and leave it at its best weights.

    Every table is dealt out into `n_batches` batches an epoch; None: as many as the longest needs, if the shortest has
    as many rows. A model that diverges keeps its best weights, the start included.
    """
    lengths = [len(member.rows) for member in members]
    n_batches = n_batches or min([-(-max(lengths) // plan.batch_size), *lengths])
    stack = _Stack(members, objective, learning_rate, rng)
    stack.judge(0, {}, plan)
    for number in range(1, plan.max_iter + 1):
        terms = stack.one_epoch(number, n_batches)
        stack.judge(number, terms, plan)
        if not stack.running:
            break
    stack.finish()
    return stack.reports


class _Stack:
    """The members still in training. Row i of `vector` holds the parameters of member `running[i]`."""

    def __init__(self, members: Sequence[Member], objective: ELBO, learning_rate: float, rng: torch.Generator):
        self.members, self.objective, self.learning_rate, self.rng = members, objective, learning_rate, rng
        self.template = copy.deepcopy(max(members, key=lambda m: m.model.prior.n_components).model)
        (layout,) = make_players(self.template, objective, lambda parameters: None)
        self.players = [make_players(m.model, objective, lambda parameters: None)[0] for m in members]
        self.places = [_places(self.template, m.model) for m in members]
        self.tables = _distinct([m.rows for m in members])
        densities = [next(m.model.likelihood for m in members if m.rows is table) for table in self.tables]
        # The same rows, as the step reads them.
        self.prepared = [prepared(density, table) for density, table in zip(densities, self.tables, strict=True)]
        self.held_out = None if members[0].held_out is None else _padded(_distinct([m.held_out for m in members]))
        self.reports = [Report() for _ in members]
        self.steps = 0
        device = layout.vector.device
        latents = torch.arange(self.template.prior.n_components)
        sizes = torch.tensor([m.model.prior.n_components for m in members])
        self.present = (latents < sizes[:, None]).float()[:, None].to(device)
        self.draws = self._held_out_draws()
        self.kept = torch.zeros(len(members), len(layout.vector), device=device)
        for i, (player, place) in enumerate(zip(self.players, self.places, strict=True)):
            self.kept[i, place.to(device)] = player.vector.detach()
        self._use(list(range(len(members))), self.kept.clone(), self.kept.clone())

    def _use(
        self, running: list[int], vector: Tensor, average: Tensor, moments: dict[str, Tensor] | None = None
    ) -> None:
        """Go on with these members."""
        self.running, self.average = running, average
        self.matrix = nn.Parameter(vector)
        self.matrix.grad = torch.zeros_like(vector)
        self.solver = Adam([self.matrix], self.learning_rate)
        if moments is not None:
            self.solver.load_state_dict({"state": {0: moments}})
        model = copy.copy(self.template)
        model._modules = dict(self.template._modules)
        model.likelihood = self._stacked_likelihood()
        self.engine = DenseStep(model, self.objective, self.matrix.data, self.matrix.grad)
        device = vector.device
        table_of = [next(k for k, t in enumerate(self.tables) if t is self.members[i].rows) for i in running]
        self.table_of = torch.tensor(table_of, device=device)
        self.one_each = table_of == list(range(len(self.tables)))
        self.mask = self.present[torch.tensor(running, device=device)]

    def _stacked_likelihood(self) -> Any:
        """One likelihood for all: parameters are views of the matrix, and both they and buffers are (M, 1, ...)."""
        stacked = copy.deepcopy(self.template.likelihood)
        pairs = zip(stacked.parameters(), self.template.likelihood.parameters(), strict=True)
        assert self.matrix.grad is not None
        for own, laid_out in pairs:
            first = laid_out.storage_offset()
            own.grad = None
            own.data, own.grad = (
                flat[:, None, first : first + laid_out.numel()] for flat in (self.matrix.data, self.matrix.grad)
            )
        densities = [self.members[i].model.likelihood for i in self.running]
        for name, _ in list(stacked.named_buffers()):
            values = torch.stack([density.get_buffer(name).reshape(1, -1) for density in densities])
            setattr(stacked, name, values)
        return stacked

    def one_epoch(self, number: int, n_batches: int) -> dict[str, Tensor]:
        """Take one step a batch; return the terms' means, one number a model."""
        deals = [self._deal(rows, n_batches) for rows in self.prepared]
        beta = self.objective.beta_at(number)
        for pieces in zip(*deals, strict=True):
            batch = _padded([rows.take(piece) for rows, piece in zip(self.prepared, pieces, strict=True)])
            batch = self._for_each(batch)
            shape = (len(self.running), self.objective.n_draws * batch.x.shape[1], self.mask.shape[-1])
            eps = torch.randn(shape, generator=self.rng, device=self.rng.device) * self.mask
            with np.errstate(all="ignore"):
                self.engine.gradient(batch, eps, beta)
            self.steps += 1
            self.solver.step()
            self.average.lerp_(self.matrix.data, average_weight(self.steps))
        return self.engine.take_means()

    def _for_each(self, rows: Rows) -> Rows:
        """Rows of each table (K, B, D) as rows of each model (M, B, D)."""
        return rows if self.one_each else rows.take(self.table_of)

    def _deal(self, rows: Walk, n_batches: int) -> tuple[Tensor, ...]:
        """Shuffled row numbers in even batches."""
        order = shuffled(len(rows), self.rng)
        return order.to(rows.device).tensor_split(n_batches)

    def judge(self, number: int, terms: dict[str, Tensor], plan: Plan) -> None:
        """Note how the averaged weights do after epoch `number`, and keep the best; let the finished ones go."""
        held_out = self._held_out_means()
        finite = self.average.isfinite().all(dim=1)
        for values in terms.values():
            finite &= values.isfinite()
        stays = []
        for i, member in enumerate(self.running):
            report = self.reports[member]
            if not finite[i]:
                report.diverged = number
                continue
            if number:
                report.n_iter = number
                for name, values in terms.items():
                    report.history.setdefault(name, []).append(float(values[i]))
            if held_out is not None:
                report.held_out.append(float(held_out[i]))
            if held_out is None or number == 0 or report.held_out[-1] > report.held_out[report.best]:
                report.best = number
                self.kept[member] = self.average[i]
            if number - max(report.best, self.objective.ramp) < plan.patience:
                stays.append(i)
        if not stays:
            self.running = []
        elif len(stays) < len(self.running):
            self._keep_only(torch.tensor(stays, dtype=torch.long, device=self.average.device))

    def _keep_only(self, index: Tensor) -> None:
        moments = self.solver.state_dict()["state"][0]
        moments = {name: value[index] if value.dim() else value for name, value in moments.items()}
        self._use([self.running[i] for i in index.tolist()], self.matrix.data[index], self.average[index], moments)

    def _held_out_draws(self) -> Tensor | None:
        """The same draws at every call, for every model; few rows are looked at several times."""
        seed = int(torch.randint(2**31 - 1, (), generator=self.rng, device=self.rng.device))
        if self.held_out is None:
            return None
        n_rows = self.held_out.x.shape[1]
        shape = (held_out_repeats(n_rows), n_rows, self.present.shape[-1])
        return torch.randn(shape, generator=make_generator(seed, self.rng.device), device=self.rng.device)

    def _held_out_means(self) -> Tensor | None:
        """The monitored mean of every model, at its averaged weights."""
        if self.held_out is None or self.draws is None or not self.running:
            return None
        weights = self.matrix.data.clone()
        self.matrix.data.copy_(self.average)
        n_rows = self.held_out.x.shape[1]
        widest = max(p.shape[0] for p in self.template.parameters())
        size = max(1, BLOCK_NUMBERS // (widest * len(self.running)))
        total, mass = torch.zeros(2, len(self.running), dtype=torch.float64, device=weights.device)
        for first in range(0, n_rows, size):
            block = self._for_each(self.held_out.narrow(1, first, min(size, n_rows - first)))
            values = self.engine.bounds(block, [eps[first : first + size] * self.mask for eps in self.draws]).double()
            weight = torch.ones_like(values) if block.weight is None else block.weight.double()
            total, mass = total + (values * weight).sum(-1), mass + weight.sum(-1)
        self.matrix.data.copy_(weights)
        mean = total / mass
        return torch.where(mean.isfinite(), mean, -math.inf)

    def finish(self) -> None:
        """Give every model its best weights."""
        for member, player, place, kept in zip(self.members, self.players, self.places, self.kept, strict=True):
            player.vector.data.copy_(kept[place.to(kept.device)])
            member.model.eval()


def _distinct(items: Sequence[Any]) -> list[Any]:
    """The items without repetition, by identity."""
    return list({id(item): item for item in items}.values())


def _padded(parts: Sequence[Rows]) -> Rows:
    """Rows of several tables, (K, B, D): shorter ones are filled up with rows of weight 0, and means stay the same."""
    longest = max(map(len, parts))
    if all(len(part) == longest and part.weight is None for part in parts):
        weight = None
    else:
        weight = torch.stack([_weight(part, longest) for part in parts])
    mask = None
    if any(part.mask is not None for part in parts):
        mask = torch.stack([_filled(torch.ones_like(p.x) if p.mask is None else p.mask, longest) for p in parts])
    return Rows(torch.stack([_filled(part.x, longest) for part in parts]), mask, weight)


def _weight(part: Rows, length: int) -> Tensor:
    """Weights that sum to `length`, 0 for rows filled in."""
    weight = part.x.new_ones(len(part)) if part.weight is None else part.weight
    return nn.functional.pad(weight * (length / len(part)), (0, length - len(part)))


def _filled(values: Tensor, length: int) -> Tensor:
    """`values` (N, D) with rows of zeros up to `length`."""
    return values if len(values) == length else nn.functional.pad(values, (0, 0, 0, length - len(values)))


def _places(largest: VAE, model: VAE) -> Tensor:
    """Where each entry of `model`'s parameter vector stands in `largest`'s."""
    n_components, most = model.prior.n_components, largest.prior.n_components
    inputs = torch.arange(n_components)
    heads = torch.cat([inputs, most + inputs])
    pieces = []
    for name, parameter in largest.named_parameters():
        places = torch.arange(parameter.numel()) + int(parameter.storage_offset())
        places = places.view(parameter.shape[::-1]).t() if parameter.dim() == 2 else places
        own = model.get_parameter(name)
        for dim in range(parameter.dim()):
            if own.shape[dim] != parameter.shape[dim]:
                places = places.index_select(dim, heads if name.startswith("encoder") else inputs)
        pieces.append(places.t().reshape(-1) if places.dim() == 2 else places)
    return torch.cat(pieces)
