"""One training step without an autograd graph: the numbers of the ELBO's own call, in a third of the time.

Encoder and decoder are perceptrons that find their own way back, and the likelihood states its gradient. Between the
matrix products stand some forty small operations, for which numpy takes a third of torch's time: on the CPU, where
layers are small, they are numpy's, on the same memory. They are written in what both spell alike.

Shape letters: B rows, S draws, D features, J latents, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._perceptron import NUMPY, TORCH, Arithmetic, Opaque, Perceptron, Values, is_perceptron
from ._torch import make_generator, namespace, repays_a_thread
from .data import Rows, Walk
from .likelihoods import Cells, Density
from .model import LOG_VAR_RANGE, VAE
from .objectives import ELBO, Objective
from .priors import StandardNormal, log_normal

__all__ = ["JUDGED_ROWS", "DenseStep", "prepared", "understands"]

# Rows that are judged at once; tables of up to this many numbers keep the draws they are judged by.
JUDGED_ROWS, JUDGED_NUMBERS = 4096, 500_000


def understands(model: VAE, objective: Objective) -> bool:
    """Whether `DenseStep` can take the place of autograd: the ELBO, and at least one built-in perceptron."""
    return (
        type(objective) is ELBO
        and type(model) is VAE
        and type(model.prior) is StandardNormal
        and (is_perceptron(model.encoder) or is_perceptron(model.decoder))
        and _own_parameters(model)
    )


def _own_parameters(model: VAE) -> bool:
    """Whether no two parts share a parameter: every part sets its gradients, none adds to another's."""
    parts = [list(part.parameters()) for part in (model.encoder, model.decoder, model.likelihood)]
    return sum(map(len, parts)) == len(list(model.parameters()))


class _Workspace:
    """The tensors of a step on one number of rows, and arrays of what is computed with between its products."""

    def __init__(self, model: VAE, vector: Tensor, grad: Tensor, n_rows: int, n_draws: int, arithmetic: Arithmetic):
        self.arithmetic, self.n_rows = arithmetic, n_rows
        self.xp, self.view, self.tensor = arithmetic
        self.encoder, self.decoder = (
            Perceptron(network, vector, grad, size, network is model.decoder, arithmetic)
            if is_perceptron(network)
            else Opaque(network, n_in, n_out, vector, size)
            for network, n_in, n_out, size in (
                (model.encoder, model.likelihood.n_inputs, 2 * model.prior.n_components, n_rows),
                (model.decoder, model.prior.n_components, model.likelihood.n_params, n_draws * n_rows),
            )
        )
        n_components = model.prior.n_components
        self.grad_head = arithmetic.new(vector, n_rows, 2 * n_components)
        self.seen, self.z = self.view(self.encoder.input), self.view(self.decoder.input)
        self.eps = self.view(arithmetic.new(vector, n_draws * n_rows, n_components))
        self.mu, self.raw_log_var = map(self.view, self.encoder.output.chunk(2, dim=-1))
        self.grad_mu, self.grad_log_var = map(self.view, self.grad_head.chunk(2, dim=-1))
        # As arrays: a Python number is converted anew at every product.
        self.low, self.high = (self.view(vector.new_tensor(bound)) for bound in LOG_VAR_RANGE)
        self.mass = self.view(vector.new_full((1, 1), 1 / n_rows))
        self.cells = Cells(self.view(vector.new_full((1, 1), 1 / (n_rows * n_draws))), self.view(vector.new_ones(1, 1)))
        self.rows: Values = None
        # Of the steps of an epoch: their number, and sums of their means.
        self.forget()

    def rows_of(self, x: Tensor) -> Values:
        """The batch x, stored as the other arrays are."""
        if self.rows is None:
            self.rows = self.view(self.arithmetic.new(x, *x.shape))
        self.rows[...] = self.view(x)
        return self.rows

    def forget(self) -> None:
        """Begin an epoch."""
        self.n_steps = 0
        self.nll: Values = 0.0
        self.kl: Values = 0.0
        self.uncharged: Tensor | float = 0.0


class _Forward(NamedTuple):
    """What going forward leaves for going back: shares of the loss, cell by cell, and slopes."""

    work: _Workspace
    nll: Values
    grad_outputs: Values
    kl: Values
    log_var: Values
    noise: Values
    charge: Values
    slope_mu: Values
    slope_log_var: Values


class DenseStep:
    """The gradient of `objective(model, batch, rng, epoch)["loss"]`, for models and objectives it `understands`.

    Parameters
    ----------
    model : VAE
        Its parameters are views into `vector`.
    objective : ELBO
    vector, grad : Tensors of shape (P,)
    """

    def __init__(self, model: VAE, objective: ELBO, vector: Tensor, grad: Tensor):
        self.model, self.objective, self.vector, self.grad = model, objective, vector, grad
        self.n_draws, self.n_components, self.prior = objective.n_draws, model.prior.n_components, model.prior
        self.density, self.largest_product = model.likelihood, model.largest_product
        self.workspaces: dict[int, _Workspace] = {}
        self.gradients: dict[Any, Callable[..., tuple[Values, Values]]] = {}
        # Rows with input noise can only be read so where the noise is added to what the encoder sees.
        self.reads_seen = reads_seen(self.density, objective)
        self.reads_more = self.density.n_step_inputs() > self.density.n_inputs
        # Whether there is no autograd inside: inference mode then saves another sixth of the time.
        self.pure = model.likelihood.states_gradient and is_perceptron(model.encoder) and is_perceptron(model.decoder)

    def prepared(self, rows: Walk) -> Walk:
        """The rows as this step reads them: where the gradient needs no more, what the encoder sees in place of x."""
        return prepared(self.density, rows) if self.reads_seen else rows

    def __call__(self, batch: Rows, rng: torch.Generator, epoch: int) -> None:
        """Set `grad`."""
        self.gradient(*self._draw(batch, rng), self.objective.beta_at(epoch))

    def gradient(self, batch: Rows, eps: Tensor, beta: float) -> None:
        """The same for given draws eps (S B, J): all rows' first draws, then all rows' second ones.

        Gradients must be off.
        """
        n_draws, seen = self.n_draws, self._forward(batch, eps, beta)
        work, charge, noise = seen.work, seen.charge, seen.noise
        xp = work.xp
        grad_z = work.view(work.decoder.backward(work.tensor(seen.grad_outputs)))
        if self.objective.kl == "analytic":
            xp.add(_sum_draws(grad_z, n_draws), charge * seen.slope_mu, out=work.grad_mu)
        else:
            grad_z = grad_z - _repeat(charge / n_draws, n_draws) * self.prior.log_prob_gradient(work.z)
            work.grad_mu[...] = _sum_draws(grad_z, n_draws)
        grad_log_var = charge * seen.slope_log_var + 0.5 * _sum_draws(noise * grad_z, n_draws)
        # The clamp's own gradient: nothing outside the range.
        xp.multiply(grad_log_var, work.raw_log_var == seen.log_var, out=work.grad_log_var)
        work.encoder.backward(work.grad_head)
        self._count(work, seen.nll, seen.kl, beta)

    def _forward(self, batch: Rows, eps: Tensor, beta: float) -> _Forward:
        """What a batch shows of the loss, before anything goes back through the networks."""
        n_draws = self.n_draws
        work = self._workspace(len(batch))
        xp, mu = work.xp, work.mu
        mass, cells = self._weights(work, batch)
        x = self._encode(work, batch)
        log_var, std = _spread(work)
        work.eps[...] = work.view(eps)
        noise = _repeat(std, n_draws) * work.eps
        xp.add(_repeat(mu, n_draws), noise, out=work.z)
        nll, grad_outputs = self._nll_gradient(work.arithmetic)(
            work.view(work.decoder.forward()), _repeat(x, n_draws), cells
        )
        if self.objective.kl == "analytic":
            kl, slope_mu, slope_log_var = self.prior.kl_gradient(mu, log_var, std)
            kl = mass * kl
        else:
            draws = log_normal(work.eps, _repeat(log_var, n_draws)) - self.prior.log_prob(work.z)
            kl = mass / n_draws * _sum_draws(draws, n_draws)
            slope_mu, slope_log_var = None, -0.5
        charge = self._charge(kl, mass if beta == 1 else beta * mass)
        charge = charge if slope_mu is not None else xp.broadcast_to(charge, log_var.shape)
        return _Forward(work, nll, grad_outputs, kl, log_var, noise, charge, slope_mu, slope_log_var)

    def judge(self, rows: Rows, seed: int) -> Callable[[], float]:
        """A function that returns the objective's monitored mean over `rows`, at the weights of the moment.

        The draws are the same at every call, those that `objective.monitor` would take from a generator of this seed.
        """
        rows = self.prepared(rows).whole()
        mass = len(rows) if rows.weight is None else float(rows.weight.double().sum())
        kept = list(self._drawn(rows, seed)) if rows.x.numel() <= JUDGED_NUMBERS else None

        def mean() -> float:
            with torch.inference_mode(), np.errstate(all="ignore"):
                blocks = self._drawn(rows, seed) if kept is None else kept
                return sum(len(block) * self._bound(block, eps) for block, eps in blocks) / mass

        return mean

    def _drawn(self, rows: Rows, seed: int) -> Iterator[tuple[Rows, Tensor]]:
        """Blocks of rows, and draws of the latents' noise for each."""
        rng = make_generator(seed, rows.device)
        for block in rows.blocks(JUDGED_ROWS):
            yield self._draw(block, rng)

    def _draw(self, batch: Rows, rng: torch.Generator) -> tuple[Rows, Tensor]:
        """The batch with input noise, and eps (S B, J)."""
        batch = self.objective.smoothed(torch.add if self.reads_seen else self.density.smooth, batch, rng)
        x = batch.x
        shape = (self.n_draws * x.shape[0], self.n_components)
        return batch, torch.randn(shape, generator=rng, dtype=x.dtype, device=x.device)

    def _bound(self, batch: Rows, eps: Tensor) -> float:
        """The mean over the batch's rows, weighted where they are, of what `objective.monitor` says of each."""
        beta = self.objective.beta
        seen = self._forward(batch, eps, beta)
        nll, kl = (torch.as_tensor(values).double() for values in (seen.nll, seen.kl))
        return -float(nll.sum() + beta * (kl.sum() + self.objective.uncharged(kl.sum(-2))))

    def _arithmetic(self, n_rows: int) -> Arithmetic:
        """numpy, or torch where its threads, its device or autograd are wanted."""
        small = self.pure and self.vector.device.type == "cpu"
        return NUMPY if small and not repays_a_thread(self.largest_product(n_rows)) else TORCH

    def _encode(self, work: _Workspace, rows: Rows) -> Values:
        """Run the encoder; return the rows as the gradient reads them."""
        if not self.reads_seen:
            self._see(work, self.density.encode_input(rows.x), rows.mask)
            return work.view(rows.x)
        self._see(work, rows.x[:, : self.density.n_inputs] if self.reads_more else rows.x, rows.mask)
        if rows.mask is not None:
            return work.view(rows.x)
        return work.rows_of(rows.x) if self.reads_more else work.seen

    def _see(self, work: _Workspace, seen: Tensor, mask: Tensor | None) -> None:
        """Show the encoder the rows."""
        work.seen[...] = work.view(seen if mask is None else seen * self.density.per_input(mask))
        work.encoder.forward()

    def _nll_gradient(self, arithmetic: Arithmetic) -> Callable[..., tuple[Values, Values]]:
        """The likelihood's gradient for such arrays, and its value, not yet summed over rows and columns."""
        xp = arithmetic.xp
        if xp not in self.gradients:
            stated = self.density.stated_gradient_of_seen(xp) if self.reads_seen else None
            self.gradients[xp] = stated or _gradient_of_x(self.density, arithmetic)
        return self.gradients[xp]

    def _weights(self, work: _Workspace, batch: Rows) -> tuple[Values, Cells]:
        """What a row counts, and its cells: shares of 1."""
        if batch.weight is None and batch.mask is None:
            return work.mass, work.cells
        mass = work.mass if batch.weight is None else work.mass * work.view(batch.weight.unsqueeze(-1))
        cells = work.tensor(mass) / self.n_draws
        cells = cells.expand_as(batch.x[..., :1]) if batch.mask is None else cells * batch.mask
        cells = work.view(cells)
        return mass, Cells(_repeat(cells, self.n_draws), self.n_draws * cells.sum(-2)[..., None, :])

    def _charge(self, kl: Values, weight: Values) -> Values:
        """What a nat of KL costs, a row and latent: nothing within the free bits."""
        return weight * (kl.sum(-2) > self.objective.free_bits)[..., None, :] if self.objective.free_bits else weight

    def _count(self, work: _Workspace, nll: Values, kl: Values, beta: float) -> None:
        """Add the batch's means, cell by cell, to the epoch's sums."""
        self.beta = beta
        work.n_steps += 1
        work.nll += nll
        work.kl += kl
        if self.objective.free_bits:
            work.uncharged += self.objective.uncharged(torch.as_tensor(kl).sum(-2))

    def take_means(self) -> dict[str, Tensor]:
        """The terms' means over the rows of all steps since the last call."""
        used = [work for work in self.workspaces.values() if work.n_steps]
        n_rows = sum(work.n_steps * work.n_rows for work in used)
        nll, kl, uncharged = (
            torch.stack([work.n_rows * of(work) for work in used]).sum(0) / n_rows
            for of in (lambda w: _total(w.nll), lambda w: _total(w.kl), lambda w: torch.as_tensor(w.uncharged))
        )
        for work in used:
            work.forget()
        return {"loss": nll + self.beta * (kl + uncharged), "reconstruction": -nll, "kl": kl}

    def _workspace(self, n_rows: int) -> _Workspace:
        if n_rows not in self.workspaces:
            self.workspaces[n_rows] = _Workspace(
                self.model, self.vector, self.grad, n_rows, self.n_draws, self._arithmetic(n_rows)
            )
        return self.workspaces[n_rows]


def _total(cells: Values) -> Tensor:
    """The sum over the last two axes."""
    return torch.as_tensor(cells.sum((-2, -1)))


def reads_seen(density: Density, objective: Objective) -> bool:
    """Whether a step can do with what the encoder sees in place of x."""
    stated = density.stated_gradient_of_seen(torch) is not None
    return stated and (density.smooths_seen or not objective.input_noise)


def prepared(density: Density, rows: Walk) -> Walk:
    """The rows with the density's `step_input` in place of x, where it is not x itself."""
    kind = type(density)
    same = kind.encode_input is Density.encode_input and kind.step_input is Density.step_input
    return rows if same else rows.mapped(density.step_input)


def _spread(work: _Workspace) -> tuple[Values, Values]:
    """Log variance and standard deviation of q(z|x); its mean is `work.mu`."""
    xp = work.xp
    log_var = xp.minimum(xp.maximum(work.raw_log_var, work.low), work.high)
    return log_var, xp.exp(0.5 * log_var)


def _gradient_of_x(density: Density, arithmetic: Arithmetic) -> Callable[..., tuple[Values, Values]]:
    """The likelihood's gradient, which takes tensors, for arrays."""
    _, view, tensor = arithmetic

    def nll_gradient(outputs: Values, x: Values, cells: Cells) -> tuple[Values, Values]:
        nll, grad = density.nll_gradient(tensor(outputs), tensor(x), Cells(*map(tensor, cells)))
        return view(nll[..., None, None]), view(grad)

    return nll_gradient


def _repeat(values: Values, n_draws: int) -> Values:
    """The rows (B, K) once a draw: (S B, K)."""
    return values if n_draws == 1 else namespace(values).concat([values] * n_draws, -2)


def _sum_draws(values: Values, n_draws: int) -> Values:
    """The transpose of `_repeat`: (S B, K) summed over draws to (B, K)."""
    return values if n_draws == 1 else values.reshape(n_draws, -1, values.shape[-1]).sum(0)
