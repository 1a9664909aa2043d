"""One training step without an autograd graph: the numbers of the ELBO's own call, in a third of the time.

A layer is one product. Its inputs stand beside a column of ones and its weights above their biases; a linear path's
inputs stand beside the last hidden layer's. So a layer's outputs, its weights' gradient and its inputs' gradient are
one matrix product each, written into tensors made once. All tensors may carry leading axes: many models of the same
shape are then trained side by side, each with its own row of the parameter matrix.

Shape letters: M models (absent for one), B rows, S draws, D features, J latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .data import Rows
from .likelihoods import Cells, Density
from .model import LOG_VAR_RANGE, VAE
from .networks import LinearPath
from .objectives import ELBO, Objective
from .priors import StandardNormal, log_normal

__all__ = ["DenseStep", "is_perceptron", "understands"]

aten = torch.ops.aten


class Activation(NamedTuple):
    """`forward(inputs, out)` fills out; `backward(grad, kept)` turns the outputs' gradient into the inputs', in place.

    What is kept is the outputs, unless `keeps_inputs`.
    """

    forward: Callable[[Tensor, Tensor], Any]
    backward: Callable[[Tensor, Tensor], Any]
    keeps_inputs: bool = False


def _tanh(inputs: Tensor, out: Tensor) -> None:
    """numpy's tanh is about nine times faster than torch's on the CPU."""
    if inputs.device.type == "cpu":
        np.tanh(inputs.numpy(), out=out.numpy())
    else:
        torch.tanh(inputs, out=out)


ACTIVATION_STEPS: dict[type[nn.Module], Activation] = {
    nn.ELU: Activation(
        lambda z, out: aten.elu.out(z, out=out),
        lambda g, a: aten.elu_backward.grad_input(g, 1.0, 1.0, 1.0, True, a, grad_input=g),
    ),
    nn.GELU: Activation(
        lambda z, out: aten.gelu.out(z, out=out),
        lambda g, z: aten.gelu_backward.grad_input(g, z, grad_input=g),
        keeps_inputs=True,
    ),
    nn.Identity: Activation(lambda z, out: None, lambda g, a: None),
    nn.ReLU: Activation(
        lambda z, out: torch.clamp_min(z, 0.0, out=out),
        lambda g, a: aten.threshold_backward.grad_input(g, a, 0.0, grad_input=g),
    ),
    nn.Sigmoid: Activation(
        lambda z, out: torch.sigmoid(z, out=out),
        lambda g, a: aten.sigmoid_backward.grad_input(g, a, grad_input=g),
    ),
    nn.SiLU: Activation(
        lambda z, out: aten.silu.out(z, out=out),
        lambda g, z: aten.silu_backward.grad_input(g, z, grad_input=g),
        keeps_inputs=True,
    ),
    nn.Softplus: Activation(
        lambda z, out: aten.softplus.out(z, out=out),
        lambda g, z: aten.softplus_backward.grad_input(g, z, 1.0, 20.0, grad_input=g),
        keeps_inputs=True,
    ),
    nn.Tanh: Activation(_tanh, lambda g, a: aten.tanh_backward.grad_input(g, a, grad_input=g)),
}


def is_perceptron(network: nn.Module) -> bool:
    """Whether `network` is a built-in perceptron whose every layer this room can go back through."""
    if type(network) is not LinearPath:
        return False
    layers = [] if network.body is None else list(network.body)
    return all(type(layer) is nn.Linear if i % 2 == 0 else _is_known(layer) for i, layer in enumerate(layers))


def _is_known(activation: nn.Module) -> bool:
    """Whether the activation is one of ours, with the settings its class starts with."""
    return type(activation) in ACTIVATION_STEPS and repr(activation) == repr(type(activation)())


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


class _Perceptron:
    """A `LinearPath` over views of the flat vectors: write to `input`, then call forward, then backward.

    Product i reads `inputs[i]`. The last reads hidden units, 1, inputs, 1 side by side, and the first reads the second
    half of those same columns, so the rows of X are stored once.
    """

    def __init__(self, network: LinearPath, vector: Tensor, grad: Tensor, n_rows: int, need_input_grad: bool):
        body: list[Any] = [] if network.body is None else list(network.body)
        linear = network.linear
        widths = [layer.out_features for layer in body[:-1:2]]
        activations = [ACTIVATION_STEPS[type(layer)] for layer in body[1::2]]
        new = partial(_ones, vector, n_rows)
        last = new(sum(width + 1 for width in [*widths[-1:], linear.in_features]))
        first = last[..., -(linear.in_features + 1) :]
        inputs = [first, *(new(width + 1) for width in widths[:-1]), last] if body else [last]
        self.input, self.output = first[..., :-1], new(linear.out_features)
        hidden = [values[..., :width] for values, width in zip(inputs[1:], widths, strict=True)]
        kept = [torch.empty_like(h) if a.keeps_inputs else h for h, a in zip(hidden, activations, strict=True)]
        shapes = [
            (layer.weight.storage_offset(), values.shape[-1], layer.out_features)
            for layer, values in zip(body[::2] or [linear], inputs, strict=True)
        ]
        weights = [_block(vector, *shape) for shape in shapes]
        grads = [_block(grad, *shape) for shape in shapes]
        inputs_T = [values.mT for values in inputs]
        # Only what came from below needs a gradient: not the ones, and not the encoder's rows of X.
        needed = [linear.in_features * need_input_grad, *widths]
        if need_input_grad:
            needed[-1] = last.shape[-1]
        flows = [new(n) for n in needed]
        weights_T = [weight[..., :n, :].mT for weight, n in zip(weights, needed, strict=True)]
        flows_hidden = [flow[..., :width] for flow, width in zip(flows[1:], widths, strict=True)]

        many = vector.dim() > 1
        self.product: Callable[..., Tensor] = torch.bmm if many else torch.mm
        self.add_product: Callable[..., Tensor] = torch.baddbmm if many else torch.addmm
        self.ups = list(zip(inputs, weights, kept, hidden, [a.forward for a in activations], strict=False))
        self.top = inputs[-1], weights[-1], self.output
        self.top_back = inputs_T[-1], grads[-1], weights_T[-1], flows[-1] if needed[-1] else None
        backs = [a.backward for a in activations]
        downs = zip(backs, flows_hidden, kept, inputs_T, grads, weights_T, [None, *flows[1:]], strict=False)
        self.downs = list(downs)[::-1]
        self.path_back = flows[-1][..., -(linear.in_features + 1) : -1] if need_input_grad else None
        self.bottom_back = (flows_hidden[0], weights_T[0], flows[0]) if need_input_grad and body else None

    def forward(self) -> Tensor:
        for inputs, weight, kept, hidden, activate in self.ups:
            self.product(inputs, weight, out=kept)
            activate(kept, hidden)
        inputs, weight, output = self.top
        return self.product(inputs, weight, out=output)

    def backward(self, grad: Tensor) -> Any:
        """Set the weights' gradients; return the inputs', where it is needed."""
        product = self.product
        inputs_T, grad_weight, weight_T, flow = self.top_back
        product(inputs_T, grad, out=grad_weight)
        if flow is not None:
            product(grad, weight_T, out=flow)
        for activation_back, grad, kept, inputs_T, grad_weight, weight_T, flow in self.downs:
            activation_back(grad, kept)
            product(inputs_T, grad, out=grad_weight)
            if flow is not None:
                product(grad, weight_T, out=flow)
        if self.bottom_back is None:
            return self.path_back
        grad, weight_T, flow = self.bottom_back
        return self.add_product(self.path_back, grad, weight_T, out=flow)


def _ones(like: Tensor, n_rows: int, width: int) -> Tensor:
    return like.new_ones(*like.shape[:-1], n_rows, width)


def _block(flat: Tensor, first: int, n_in: int, n_out: int) -> Tensor:
    """A layer's weights above its biases, (..., n_in, n_out): a view into the flat vector."""
    return flat[..., first : first + n_in * n_out].unflatten(-1, (n_in, n_out))


class _Opaque:
    """Any other module, by autograd, with the same members as `_Perceptron`."""

    def __init__(self, module: nn.Module, n_in: int, n_out: int, vector: Tensor, n_rows: int):
        self.module = module
        self.input, self.output = _ones(vector, n_rows, n_in), _ones(vector, n_rows, n_out)
        self.parameters = [p for p in module.parameters() if p.requires_grad]

    def forward(self) -> Tensor:
        with torch.enable_grad():
            self.seen = self.input.detach().requires_grad_()
            self.result = self.module(self.seen)
        return self.output.copy_(self.result.detach())

    def backward(self, grad: Tensor) -> Tensor:
        wanted = [self.seen, *self.parameters]
        grads = torch.autograd.grad(self.result, wanted, grad, allow_unused=True, materialize_grads=True)
        for parameter, value in zip(self.parameters, grads[1:], strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(value)
        return grads[0]


class _Workspace:
    """The tensors of a step on one number of rows."""

    def __init__(self, model: VAE, vector: Tensor, grad: Tensor, n_rows: int, n_draws: int):
        self.encoder, self.decoder = (
            _Perceptron(network, vector, grad, size, need_input_grad=network is model.decoder)
            if isinstance(network, LinearPath) and is_perceptron(network)
            else _Opaque(network, n_in, n_out, vector, size)
            for network, n_in, n_out, size in (
                (model.encoder, model.likelihood.n_features, 2 * model.prior.n_components, n_rows),
                (model.decoder, model.prior.n_components, model.likelihood.n_params, n_draws * n_rows),
            )
        )
        self.mu, self.raw_log_var = self.encoder.output.chunk(2, dim=-1)
        self.grad_head = torch.empty_like(self.encoder.output)
        self.grad_mu, self.grad_log_var = self.grad_head.chunk(2, dim=-1)
        # As tensors: a Python number is converted anew at every product.
        self.half = vector.new_tensor(0.5)
        self.mass = vector.new_full((1, 1), 1 / n_rows)
        self.cells = Cells(vector.new_full((1, 1), 1 / (n_rows * n_draws)), vector.new_ones(1, 1))


class DenseStep:
    """The gradient of `objective(model, batch, rng, epoch)["loss"]`, for models and objectives it `understands`.

    Parameters
    ----------
    model : VAE
        Its parameters are views into `vector`. With leading axes it lends its shapes only, but for its likelihood,
        whose tensors are views of shape (M, 1, ...).
    objective : ELBO
    vector, grad : Tensors of shape (..., P)
    """

    def __init__(self, model: VAE, objective: ELBO, vector: Tensor, grad: Tensor):
        self.model, self.objective, self.vector, self.grad = model, objective, vector, grad
        self.n_draws, self.n_components, self.prior = objective.n_draws, model.prior.n_components, model.prior
        self.density = model.likelihood
        self.workspaces: dict[int, _Workspace] = {}
        self.n_rows = 0
        # Without autograd inside, inference mode saves another sixth of the time.
        stated = type(model.likelihood).nll_gradient is not Density.nll_gradient
        self.pure = stated and is_perceptron(model.encoder) and is_perceptron(model.decoder)
        self.scope: Callable[[], Any] = torch.inference_mode if self.pure else torch.no_grad

    def __call__(self, batch: Rows, rng: torch.Generator, epoch: int) -> None:
        """Set `grad`."""
        x = batch.x
        shape = (self.n_draws * len(x), self.n_components)
        eps = torch.randn(shape, generator=rng, dtype=x.dtype, device=x.device)
        self.gradient(batch, eps, self.objective.beta_at(epoch))

    def gradient(self, batch: Rows, eps: Tensor, beta: float) -> None:
        """The same for given draws eps (..., S B, J): all rows' first draws, then all rows' second ones."""
        with self.scope():
            self._gradient(batch, eps, beta)

    def _gradient(self, batch: Rows, eps: Tensor, beta: float) -> None:
        x, n_draws, density = batch.x, self.n_draws, self.density
        work = self._workspace(x.shape[-2])
        mass, cells = self._weights(work, batch)
        encoder, decoder, mu = work.encoder, work.decoder, work.mu
        log_var, std = self._encode(work, batch)
        noise = _repeat(std, n_draws) * eps
        z = torch.add(_repeat(mu, n_draws), noise, out=decoder.input)
        nll, grad_outputs = density.nll_gradient(decoder.forward(), _repeat(x, n_draws), cells)
        grad_z = decoder.backward(grad_outputs)

        charge = mass if beta == 1 else beta * mass
        if self.objective.kl == "analytic":
            kl, slope_mu, slope_log_var = self.prior.kl_gradient(mu, log_var, std)
            kl = (mass * kl).sum(-2)
            charge = self._charge(kl, charge)
            grad_log_var = charge * slope_log_var
            torch.addcmul(_sum_draws(grad_z, n_draws), charge, slope_mu, out=work.grad_mu)
        else:
            draws = log_normal(eps, _repeat(log_var, n_draws)) - self.prior.log_prob(z)
            kl = (mass / n_draws * _sum_draws(draws, n_draws)).sum(-2)
            charge = self._charge(kl, charge).expand_as(log_var)
            grad_log_var = -0.5 * charge
            grad_z = grad_z - _repeat(charge / n_draws, n_draws) * self.prior.log_prob_gradient(z)
            work.grad_mu.copy_(_sum_draws(grad_z, n_draws))
        grad_log_var = torch.add(grad_log_var, _sum_draws(noise.mul_(grad_z), n_draws), alpha=0.5)
        # The clamp's own gradient: nothing outside the range.
        aten.hardtanh_backward.grad_input(grad_log_var, work.raw_log_var, *LOG_VAR_RANGE, grad_input=work.grad_log_var)
        encoder.backward(work.grad_head)
        self._count(x.shape[-2], nll, kl, beta)

    def bounds(self, rows: Rows, draws: Sequence[Tensor]) -> Tensor:
        """E_q[log p(x|z)] - beta KL of every row (..., B), the expectation over draws, each (..., B, J)."""
        with self.scope():
            return self._bounds(rows, draws)

    def _bounds(self, rows: Rows, draws: Sequence[Tensor]) -> Tensor:
        work = self._workspace(rows.x.shape[-2])
        log_var, std = self._encode(work, rows)
        total = torch.zeros_like(rows.x[..., 0])
        for eps in draws:
            torch.addcmul(work.mu, std, eps, out=work.decoder.input)
            terms = self.density.log_prob(work.decoder.forward(), rows.x)
            total += (terms if rows.mask is None else terms * rows.mask).sum(-1)
        return total / len(draws) - self.objective.beta * self.prior.kl(work.mu, log_var).sum(-1)

    def _encode(self, work: _Workspace, rows: Rows) -> tuple[Tensor, Tensor]:
        """Log variance and standard deviation of q(z|x); its mean is in `work.mu`."""
        seen = self.density.encode_input(rows.x)
        work.encoder.input.copy_(seen if rows.mask is None else seen * rows.mask)
        work.encoder.forward()
        log_var = work.raw_log_var.clamp(*LOG_VAR_RANGE)
        return log_var, torch.exp(work.half * log_var)

    def _weights(self, work: _Workspace, batch: Rows) -> tuple[Tensor, Cells]:
        """What a row counts, and its cells: shares of 1."""
        if batch.weight is None and batch.mask is None:
            return work.mass, work.cells
        mass = work.mass if batch.weight is None else work.mass * batch.weight.unsqueeze(-1)
        cells = mass / self.n_draws
        cells = cells.expand_as(batch.x[..., :1]) if batch.mask is None else cells * batch.mask
        cells = _repeat(cells, self.n_draws)
        return mass, Cells(cells, cells.sum(-2, keepdim=True))

    def _charge(self, kl: Tensor, weight: Tensor) -> Tensor:
        """What a nat of KL costs, a row and latent: nothing within the free bits."""
        return weight * (kl > self.objective.free_bits).unsqueeze(-2) if self.objective.free_bits else weight

    def _count(self, n_rows: int, nll: Tensor, kl: Tensor, beta: float) -> None:
        """Add the batch's means to the epoch's sums."""
        if not self.n_rows:
            self.nll, self.kl, self.uncharged = torch.zeros_like(nll), torch.zeros_like(kl), torch.zeros_like(nll)
        self.n_rows, self.beta = self.n_rows + n_rows, beta
        self.nll.add_(nll, alpha=n_rows)
        self.kl.add_(kl, alpha=n_rows)
        if self.objective.free_bits:
            self.uncharged.add_(self.objective.uncharged(kl), alpha=n_rows)

    def take_means(self) -> dict[str, Tensor]:
        """The terms' means over the rows of all steps since the last call."""
        nll, kl, uncharged = (value / self.n_rows for value in (self.nll, self.kl.sum(-1), self.uncharged))
        self.n_rows = 0
        return {"loss": nll + self.beta * (kl + uncharged), "reconstruction": -nll, "kl": kl}

    def _workspace(self, n_rows: int) -> _Workspace:
        if n_rows not in self.workspaces:
            self.workspaces[n_rows] = _Workspace(self.model, self.vector, self.grad, n_rows, self.n_draws)
        return self.workspaces[n_rows]


def _repeat(values: Tensor, n_draws: int) -> Tensor:
    """The rows (..., B, K) once a draw: (..., S B, K)."""
    return values if n_draws == 1 else torch.cat([values] * n_draws, dim=-2)


def _sum_draws(values: Tensor, n_draws: int) -> Tensor:
    """The transpose of `_repeat`: (..., S B, K) summed over draws to (..., B, K)."""
    return values if n_draws == 1 else values.unflatten(-2, (n_draws, -1)).sum(-3)
