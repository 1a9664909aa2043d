"""One training step without an autograd graph of the networks: the numbers of the objective's own call, in less time.

Encoder and decoder are perceptrons that find their own way back. Between them stand the slopes of the loss over what
they emitted: stated by objective, prior and likelihood, as the ELBO's are, or autograd's of the objective's `terms`,
through a graph of that formula alone. Where all is stated, a step takes a third of autograd's time. Between the matrix
products stand some forty small operations, for which numpy takes a third of torch's time: on the CPU, where
layers are small, they are numpy's, on the same memory. They are written in what both spell alike.

Shape letters: B rows, S draws, D features, J latents, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._tables.batches import Batch, Table
from .._tables.moments import Array, Units
from .._torch import make_generator, namespace, repays_a_thread
from ..likelihoods import CellWeights, LikelihoodModule, NLLGradient
from ..model import LOG_VAR_RANGE, VAE, Emitted
from ..objectives import Objective, OnePass, Slopes
from ..priors import Prior
from .held_out import HELD_OUT_ROWS, held_out_values, repeated
from .mlp import NUMPY, TORCH, AutogradNetwork, Backend, GraphFreeMLP, Values, is_graph_free
from .stated import LogSlope, mean_volume, stated_formula, states_gradient

__all__ = ["DenseStep", "understands"]

# Held-out tables of up to this many numbers keep the draws they are judged by.
HELD_OUT_NUMBERS = 500_000


# Parameters, with what is to be added to their gradients.
Gradients = list[tuple[nn.Parameter, Tensor]]


def understands(model: VAE, objective: Objective) -> bool:
    """Whether `DenseStep` can take the place of autograd: one pass, one player, and a built-in perceptron."""
    return (
        isinstance(objective, OnePass)
        and objective.plays_alone(model)
        and not objective.reads_hidden
        and objective.code == "identity"
        and type(model) is VAE
        and not model.prior.reads_encoder
        # What is given to the decoder is read from what the encoder sees.
        and not (model.n_given and objective.changes_rows)
        and (is_graph_free(model.encoder) or is_graph_free(model.decoder))
        and _own_parameters(model)
    )


def _own_parameters(model: VAE) -> bool:
    """Whether no two parts share a parameter: every part sets its gradients, none adds to another's."""
    parts = [list(part.parameters()) for part in model.children()]
    return sum(map(len, parts)) == len(list(model.parameters()))


class _Workspace:
    """The tensors of a step on one number of rows, and arrays of what is computed with between its products."""

    def __init__(self, model: VAE, vector: Tensor, grad: Tensor, n_rows: int, n_draws: int, backend: Backend):
        self.backend, self.n_rows = backend, n_rows
        self.xp, self.view, self.tensor = backend
        n_components = model.prior.n_components
        self.encoder, self.decoder = (
            GraphFreeMLP(network, vector, grad, size, network is model.decoder, backend)
            if is_graph_free(network)
            else AutogradNetwork(network, n_in, n_out, vector, size)
            for network, n_in, n_out, size in (
                (model.encoder, model.likelihood.encoding.n_inputs, model.n_encoded, n_rows),
                (model.decoder, n_components + model.n_given, model.likelihood.n_params, n_draws * n_rows),
            )
        )
        self.grad_head = backend.new(vector, n_rows, model.n_encoded)
        self.seen, decoded = self.view(self.encoder.input), self.view(self.decoder.input)
        self.z, self.given = decoded[:, :n_components], decoded[:, n_components:]
        self.outputs = self.view(self.decoder.output)
        self.eps = self.view(backend.new(vector, n_draws * n_rows, n_components))
        heads, grads = (t.split(n_components, dim=-1) for t in (self.encoder.output, self.grad_head))
        self.mu, self.grad_mu = self.view(heads[0]), self.view(grads[0])
        if model.has_posterior:
            self.raw_log_var, self.grad_log_var = self.view(heads[1]), self.view(grads[1])
        # As arrays: a Python number is converted anew at every product.
        self.low, self.high = (self.view(vector.new_tensor(bound)) for bound in LOG_VAR_RANGE)
        self.mass = self.view(vector.new_full((1, 1), 1 / n_rows))
        self.cells = CellWeights(
            self.view(vector.new_full((1, 1), 1 / (n_rows * n_draws))), self.view(vector.new_ones(1, 1))
        )
        self.rows: Values = None  # see `rows_of`
        self.at: At | None = None  # made at the first step
        self.std: Values = None  # sigma(x), and sigma(x) * eps
        self.std_eps: Values = None
        # Of the steps of an epoch: their number, and sums of the objective's shares.
        self.forget()

    def rows_of(self, x: Tensor) -> Values:
        """The batch x, stored as the other arrays are."""
        if self.rows is None:
            self.rows = self.view(self.backend.new(x, *x.shape))
        self.rows[...] = self.view(x)
        return self.rows

    def forget(self) -> None:
        """Begin an epoch."""
        self.n_steps = 0
        self.sums: dict[str, Values] = {}


class At:
    """What an objective's `gradient` is told beside what the networks emitted; one for each workspace.

    Attributes
    ----------
    xp : module
        numpy or torch: which of the two the arrays are of.
    prior : Prior
    x : array of shape (S B, D or n_inputs)
        The rows as the likelihood's gradient reads them, once a draw.
    std : array of shape (B, J) or None
        Standard deviations of q(z|x).
    mass : array of shape (1 or B, 1)
        What a row counts, a share of 1.
    cells : CellWeights
        What a cell counts.
    volume : array of shape () or None
        What a warp adds to the batch's log-likelihood, whatever the weights: a share of 1.
    """

    x: Values
    std: Values
    mass: Values
    cells: CellWeights
    volume: Values

    def __init__(self, xp: Any, prior: Prior, n_draws: int, nll: NLLGradient, log_slope: LogSlope):
        self.xp, self.prior, self._nll, self.log_slope = xp, prior, nll, log_slope
        self.repeat, self.sum_draws = partial(_repeat, n_draws=n_draws), partial(_sum_draws, n_draws=n_draws)

    def nll_gradient(self, outputs: Values) -> tuple[Values, Values]:
        """The shares of -log p(x|z), cell by cell, and its slope over the outputs, (S B, n_params)."""
        nll, slope = self._nll(outputs, self.x, self.cells)
        return nll if self.volume is None else nll - self.volume / math.prod(nll.shape), slope

    def error_gradient(self, outputs: Values) -> tuple[Values, Values]:
        """The same of the likelihood's `error`, where the objective `reads_error`."""
        return self._nll(outputs, self.x, self.cells)


class DenseStep:
    """The gradient of `objective(model, batch, rng, epoch)["loss"]`, for models and objectives it `understands`.

    Parameters
    ----------
    model : VAE
        Its parameters are views into `vector`.
    objective : OnePass
    vector, grad : Tensors of shape (P,)
    """

    def __init__(self, model: VAE, objective: OnePass, vector: Tensor, grad: Tensor):
        self.model, self.objective, self.vector, self.grad = model, objective, vector, grad
        self.n_draws, self.n_components = objective.n_draws, model.prior.n_components
        self.density, self.largest_product = model.likelihood, model.largest_product
        self.is_given = torch.from_numpy(np.flatnonzero(self.density.encoding.is_given())).to(vector.device)
        self.workspaces: dict[int, _Workspace] = {}
        # By numpy or torch: the likelihood's gradient, and what of its value depends on the rows alone.
        self.formulas: dict[Any, tuple[NLLGradient, LogSlope]] = {}
        self.mean_volume: Any = None
        networks = model.encoder, model.decoder
        self.in_networks = [p for network in networks for p in network.parameters() if p.requires_grad]
        mine = set(map(id, self.in_networks))
        self.elsewhere = [p for p in model.parameters() if p.requires_grad and id(p) not in mine]
        self.states_gradient = states_gradient(model, objective)
        # Whether the likelihood states its gradient, of `step_input` in place of x.
        self.reads_seen = self.states_gradient and (self.density.states_gradient or objective.reads_error)
        # Whether the encoder sees y in place of x, which is put in the same form.
        self.shows_target = objective.target == "filled"
        # Whether a table is put in that form once: some views read x itself.
        self.prepares = (
            self.reads_seen
            and not objective.in_data_units
            and (not objective.changes_rows or self.shows_target or _by_columns(self.density))
            and (not objective.input_noise or self.density.encoding.adds_in_seen)
        )
        # Whether the gradient reads more of a row than the encoder.
        self.reads_more = self.reads_seen and self.density.n_more() > 0
        self.units = model.units
        if self.prepares:
            self.units = self.units._replace(add_noise=self.density.encoding.add_to_seen)
        # Whether there is no autograd inside: inference mode then saves another sixth of the time.
        self.pure = self.reads_seen and all(map(is_graph_free, networks))
        # Whether its own networks say what the objective's monitor would.
        self.judges = self.pure and type(objective).monitor is OnePass.monitor

    def prepared(self, rows: Table) -> Table:
        """The rows to train on as this step reads them: what the encoder sees in place of x, where that will do."""
        rows = self._formed(rows, self.shows_target)
        if self.prepares and not self.objective.input_noise:
            self.mean_volume = mean_volume(self.density, rows)
        return rows

    def _formed(self, rows: Table, target: bool = False) -> Table:
        return rows.mapped(self.density.step_input, target) if self.prepares else rows

    def __call__(self, batch: Batch, rng: torch.Generator, epoch: int, player: Any = None) -> None:
        """Set `grad`."""
        views, eps = self._draw(batch, self.units, rng)
        volume = self.mean_volume if views[1].x is batch.x else None
        self.gradient(views, eps, epoch, rng, volume)

    def gradient(
        self,
        views: tuple[Batch, Batch],
        eps: Tensor | None,
        epoch: float,
        rng: torch.Generator | None = None,
        volume: Any = None,
    ) -> None:
        """The same for given views of a batch and draws eps (S B, J): all rows' first draws, then all second ones.

        Gradients must be off. `volume` stands for what a warp adds to the rows' mean log-likelihood, if known.
        """
        work, emitted = self._emit(views[0], eps)
        slopes, others = self._slopes(work, emitted, views, epoch, rng, volume)
        xp = work.xp
        grad_z = work.view(work.decoder.backward(work.tensor(slopes.outputs)))[:, : self.n_components]
        if slopes.z is not None:
            grad_z = grad_z + slopes.z
        flow = _sum_draws(grad_z, self.n_draws)
        if slopes.mu is None:
            work.grad_mu[...] = flow
        else:
            xp.add(flow, slopes.mu, out=work.grad_mu)
        if eps is not None:
            grad_log_var = 0.5 * _sum_draws(work.std_eps * grad_z, self.n_draws)
            if slopes.log_var is not None:
                grad_log_var = slopes.log_var + grad_log_var
            # The clamp's own gradient: nothing outside the range.
            xp.multiply(grad_log_var, work.raw_log_var == emitted.log_var, out=work.grad_log_var)
        work.encoder.backward(work.grad_head)
        for parameter, grad in others:
            assert parameter.grad is not None
            parameter.grad.add_(grad)
        self._count(work, slopes.shares, epoch)

    def _emit(self, seen: Batch, eps: Tensor | None) -> tuple[_Workspace, Emitted]:
        """Run both networks."""
        work = self._workspace(len(seen))
        xp, mu = work.xp, work.mu
        shown = self._shown(seen.x)
        work.seen[...] = work.view(shown if seen.mask is None else shown * self.density.encoding.per_input(seen.mask))
        work.encoder.forward()
        if self.model.n_given:
            work.given[...] = _repeat(work.view(shown[:, self.is_given]), self.n_draws)
        if eps is None:
            work.z[...] = mu
            work.decoder.forward()
            return work, Emitted(mu, None, None, work.z, work.outputs)
        log_var = xp.minimum(xp.maximum(work.raw_log_var, work.low), work.high)
        work.std = xp.exp(0.5 * log_var)
        work.eps[...] = work.view(eps)
        work.std_eps = _repeat(work.std, self.n_draws) * work.eps
        xp.add(_repeat(mu, self.n_draws), work.std_eps, out=work.z)
        work.decoder.forward()
        return work, Emitted(mu, log_var, work.eps, work.z, work.outputs)

    def _shown(self, x: Tensor) -> Tensor:
        """What the encoder sees of the rows as this step reads them."""
        if not self.prepares:
            return self.density.encoding.encode(x)
        return x[:, : self.density.encoding.n_inputs] if self.reads_more else x

    def _slopes(
        self,
        work: _Workspace,
        emitted: Emitted,
        views: tuple[Batch, Batch],
        epoch: float,
        rng: torch.Generator | None,
        volume: Any = None,
    ) -> tuple[Slopes, Gradients]:
        """The slopes over what was emitted, and gradients that reach the networks' parameters in another way."""
        if self.states_gradient:
            slopes = self.objective.gradient(emitted, self._at(work, *views, volume), epoch)
            assert slopes is not None
            return slopes, []
        return self._by_autograd(work, emitted, views[1], epoch, rng)

    def _at(self, work: _Workspace, seen: Batch, compared: Batch, volume: Any) -> At:
        """What the objective is told of the batch."""
        if work.at is None:
            work.at = At(work.xp, self.model.prior, self.n_draws, *self._formula(work.backend))
        at = work.at
        at.x = _repeat(self._read(work, seen, compared), self.n_draws)
        at.std = work.std
        at.mass, at.cells = self._weights(work, compared)
        at.volume = volume
        if at.log_slope is not None and volume is None:
            at.volume = (at.cells.mass * at.log_slope(at.x[:, : self.density.encoding.n_inputs])).sum()
        return at

    def _read(self, work: _Workspace, seen: Batch, compared: Batch) -> Values:
        """The rows as the likelihood's gradient reads them: from the workspace, where the encoder saw the same."""
        if self.reads_seen and compared.x is seen.x and seen.mask is None and not self.reads_more:
            return work.seen
        x = compared.x
        if self.reads_seen and not self.prepares:
            x = self.density.step_input(x)
        return work.rows_of(x) if self.reads_more and compared.mask is None else work.view(x)

    def _by_autograd(
        self, work: _Workspace, emitted: Emitted, batch: Batch, epoch: float, rng: Any
    ) -> tuple[Slopes, Gradients]:
        """The slopes of the objective's own `terms`."""
        values = (None if v is None else work.tensor(v).detach() for v in emitted[:5])
        mu, log_var, eps, z, outputs = values
        leaves: list[Any] = [outputs, z] if log_var is None else [outputs, z, mu, log_var]
        with torch.enable_grad():
            for leaf in leaves:
                leaf.requires_grad_()
            emitted = Emitted(z if log_var is None else mu, log_var, eps, z, outputs)
            terms = self.objective.terms(emitted, batch, self.model, rng, epoch)
            means = {name: batch.mean(term) for name, term in terms.items()}
            wanted = [*leaves, *self.elsewhere, *self.in_networks]
            grads = torch.autograd.grad(means["loss"], wanted, allow_unused=True)
        own, rest = grads[: len(leaves)], grads[len(leaves) :]
        for parameter, grad in zip(self.elsewhere, rest, strict=False):
            assert parameter.grad is not None
            parameter.grad.copy_(torch.zeros_like(parameter) if grad is None else grad)
        others = zip(self.in_networks, rest[len(self.elsewhere) :], strict=True)
        shares = {name: work.view(mean.detach().reshape(1, 1)) for name, mean in means.items()}
        filled = [torch.zeros_like(v) if g is None else g for v, g in zip(leaves, own, strict=True)]
        return Slopes(shares, *map(work.view, filled)), [(p, g) for p, g in others if g is not None]

    def _count(self, work: _Workspace, shares: dict[str, Values], epoch: float) -> None:
        """Add the batch's shares, cell by cell, to the epoch's sums."""
        self.epoch = epoch
        work.n_steps += 1
        for name, share in shares.items():
            if name in work.sums:
                work.sums[name] += share
            else:
                work.sums[name] = share + 0.0  # a copy

    def held_out_values(self, rows: Batch, seed: int) -> Callable[[], Array]:
        """A function that returns what the objective's monitor says of each row, at the weights of the moment.

        The draws are the same at every call, those that `objective.monitor` would take from a generator of this seed.
        """
        if not self.judges:
            return partial(held_out_values, self.model, self.objective, rows, seed)
        n_rows, rows = len(rows), repeated(rows)
        kept = list(self._drawn(rows, seed)) if rows.x.numel() <= HELD_OUT_NUMBERS else None

        def values() -> Array:
            with torch.inference_mode(), np.errstate(all="ignore"):
                found = [self._values(*block) for block in (self._drawn(rows, seed) if kept is None else kept)]
                return torch.cat(found).double().cpu().reshape(-1, n_rows).mean(dim=0).numpy()

        return values

    def _drawn(self, rows: Batch, seed: int) -> Iterator[tuple[Batch, Batch, Tensor | None]]:
        """Blocks of rows as the objective shows them: what the encoder sees, what outputs are compared with, and draws.

        Unlike a batch in training, they are in the model's units, and put in the step's form for the encoder alone.
        """
        rng = make_generator(seed, rows.device)
        for block in rows.blocks(HELD_OUT_ROWS):
            (seen, compared), eps = self._draw(block, self.model.units, rng)
            yield self._formed(seen).whole(), compared, eps

    def _draw(self, batch: Batch, units: Units, rng: torch.Generator) -> tuple[tuple[Batch, Batch], Tensor | None]:
        """The batch as the objective shows it, and eps (S B, J), which a code lacks."""
        views = self.objective.views(units, batch, rng)
        if not self.model.has_posterior:
            return views, None
        x = views[0].x
        shape = (self.n_draws * x.shape[0], self.n_components)
        return views, torch.randn(shape, generator=rng, dtype=x.dtype, device=x.device)

    def _values(self, seen: Batch, compared: Batch, eps: Tensor | None) -> Tensor:
        """What `objective.monitor` says of each row."""
        work, emitted = self._emit(seen, eps)
        tensors: list[Any] = [None if value is None else work.tensor(value) for value in emitted[:5]]
        terms = self.objective.terms(
            Emitted(*tensors), compared, self.model, make_generator(0, compared.device), math.inf
        )
        return (-terms["loss"]).expand(len(compared))

    def _backend(self, n_rows: int) -> Backend:
        """numpy, or torch where its threads, its device or autograd are wanted."""
        small = self.pure and self.vector.device.type == "cpu"
        return NUMPY if small and not repays_a_thread(self.largest_product(n_rows)) else TORCH

    def _formula(self, backend: Backend) -> tuple[NLLGradient, LogSlope]:
        """The likelihood's gradient for such arrays, and what of its value it leaves out."""
        if backend.xp not in self.formulas:
            found = self.density, self.objective.reads_error, self.reads_seen
            self.formulas[backend.xp] = stated_formula(*found, backend)
        return self.formulas[backend.xp]

    def _weights(self, work: _Workspace, batch: Batch) -> tuple[Values, CellWeights]:
        """What a row counts, and its cells: shares of 1."""
        if batch.weight is None and batch.mask is None:
            return work.mass, work.cells
        mass = work.mass if batch.weight is None else work.mass * work.view(batch.weight.unsqueeze(-1))
        cells = work.tensor(mass) / self.n_draws
        cells = cells.expand_as(batch.x[..., :1]) if batch.mask is None else cells * batch.mask
        cells = work.view(cells)
        return mass, CellWeights(_repeat(cells, self.n_draws), self.n_draws * cells.sum(-2)[..., None, :])

    def take_means(self) -> dict[str, Tensor]:
        """The terms' means over the rows of all steps since the last call."""
        used = [work for work in self.workspaces.values() if work.n_steps]
        n_rows = sum(work.n_steps * work.n_rows for work in used)
        totals = {
            name: torch.stack([work.n_rows * _total(work.sums[name]) for work in used]).sum(0) / n_rows
            for name in used[0].sums
        }
        for work in used:
            work.forget()
        return self.objective.summed(totals, self.epoch) if self.states_gradient else totals

    def _workspace(self, n_rows: int) -> _Workspace:
        if n_rows not in self.workspaces:
            self.workspaces[n_rows] = _Workspace(
                self.model, self.vector, self.grad, n_rows, self.n_draws, self._backend(n_rows)
            )
        return self.workspaces[n_rows]


def _total(cells: Values) -> Tensor:
    """The sum over the last two axes."""
    return torch.as_tensor(cells.sum((-2, -1)))


def _by_columns(module: LikelihoodModule) -> bool:
    """Whether a step reads one number per column, to which noise may be added: views may treat it as they treat x."""
    encoding = module.encoding
    return encoding.n_noisy == encoding.n_inputs == module.n_features and not module.n_more()


def _repeat(values: Values, n_draws: int) -> Values:
    """The rows (B, K) once a draw: (S B, K)."""
    return values if n_draws == 1 else namespace(values).concat([values] * n_draws, -2)


def _sum_draws(values: Values, n_draws: int) -> Values:
    """The transpose of `_repeat`: (S B, K) summed over draws to (B, K)."""
    return values if n_draws == 1 else values.reshape(n_draws, -1, values.shape[-1]).sum(0)
