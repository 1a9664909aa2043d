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
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from .data import Rows
from .likelihoods import Cells
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


def is_perceptron(network: nn.Module) -> TypeGuard[LinearPath]:
    """Whether `network` is a perceptron as `MLP` builds it, whose every layer this room can go back through."""
    if type(network) is not LinearPath:
        return False
    layers = [] if network.body is None else list(network.body)
    known = all(type(layer) is nn.Linear if i % 2 == 0 else _is_known(layer) for i, layer in enumerate(layers))
    linear = [network.linear, *layers[::2]]
    return known and len({id(layer) for layer in linear}) == len(linear) and all(map(_is_fused, linear))


def _is_fused(layer: Any) -> bool:
    """Whether a layer's weight and bias can lie in the flat vector as one matrix, inputs by outputs."""
    weight, bias = layer.weight, layer.bias
    return bias is not None and weight.requires_grad and bias.requires_grad and weight.t().is_contiguous()


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


class _Layer:
    """One product, outputs = inputs @ weight, and the activation that follows it."""

    def __init__(self, inputs: Tensor, weight: Tensor, grad: Tensor, outputs: Tensor, activation: Activation | None):
        self.inputs, self.weight, self.grad, self.outputs = inputs, weight, grad, outputs
        self.inputs_T = inputs.mT
        self.activation = activation
        # What the activation's derivative is taken from.
        self.kept = torch.empty_like(outputs) if activation is not None and activation.keeps_inputs else outputs
        many = weight.dim() > 2
        self.product: Callable[..., Tensor] = torch.bmm if many else torch.mm
        self.add_product: Callable[..., Tensor] = torch.baddbmm if many else torch.addmm
        self.flow: Tensor | None = None
        self.plus: Tensor | None = None

    def pass_on(self, n_inputs: int, plus: Tensor | None = None) -> Tensor:
        """Make `backward` fill the returned tensor: the gradient of the first inputs, and what else flows to them."""
        self.weight_T, self.plus = self.weight[..., :n_inputs, :].mT, plus
        self.flow = torch.empty_like(self.inputs[..., :n_inputs], memory_format=torch.contiguous_format)
        return self.flow

    def forward(self) -> None:
        self.product(self.inputs, self.weight, out=self.kept)
        if self.activation is not None:
            self.activation.forward(self.kept, self.outputs)

    def backward(self, grad: Tensor) -> None:
        """Set the weight's gradient, and the inputs' where it is passed on; `grad` is overwritten."""
        if self.activation is not None:
            self.activation.backward(grad, self.kept)
        self.product(self.inputs_T, grad, out=self.grad)
        if self.plus is not None:
            self.add_product(self.plus, grad, self.weight_T, out=self.flow)
        elif self.flow is not None:
            self.product(grad, self.weight_T, out=self.flow)


class _Perceptron:
    """A `LinearPath` over views of the flat vectors: write to `input`, then call forward, then backward.

    The last layer reads hidden units, 1, inputs, 1 side by side, and the first reads the second half of those same
    columns, so the rows of X are stored once.
    """

    def __init__(self, network: LinearPath, vector: Tensor, grad: Tensor, n_rows: int, need_input_grad: bool):
        body: list[Any] = [] if network.body is None else list(network.body)
        new = partial(_ones, vector, n_rows)
        n_in, n_out = network.linear.in_features, network.linear.out_features
        widths = [layer.out_features for layer in body[:-1:2]]
        last = new(sum(width + 1 for width in [*widths[-1:], n_in]))
        first = last[..., -(n_in + 1) :]
        self.input, self.output = first[..., :n_in], new(n_out)

        inputs = [first, *(new(width + 1) for width in widths[:-1]), last] if body else [last]
        hidden = [values[..., :width] for values, width in zip(inputs[1:], widths, strict=True)]
        activations = [ACTIVATION_STEPS[type(layer)] for layer in body[1::2]]
        self.layers = []
        for layer, values, outputs, activation in zip(
            body[::2] or [network.linear], inputs, [*hidden, self.output], [*activations, None], strict=True
        ):
            place = layer.weight.storage_offset(), values.shape[-1], outputs.shape[-1]
            self.layers.append(_Layer(values, _block(vector, *place), _block(grad, *place), outputs, activation))

        # Gradients pass to the hidden units below a layer, and to the inputs where something trains beneath them.
        below = [layer.pass_on(width) for layer, width in zip(self.layers[1:], widths, strict=True)]
        self.input_grad: Tensor | None = None
        if need_input_grad:
            top = self.layers[-1].pass_on(last.shape[-1])
            path = top[..., -(n_in + 1) : -1]
            self.input_grad = self.layers[0].pass_on(n_in, plus=path) if body else path
            below[-1:] = [top[..., :width] for width in widths[-1:]]
        # From the top: each layer with the tensor that the one above it fills.
        self.down = list(zip(self.layers[::-1], [None, *below[::-1]], strict=True))

    def forward(self) -> Tensor:
        for layer in self.layers:
            layer.forward()
        return self.output

    def backward(self, grad: Tensor) -> Any:
        """Set the weights' gradients; return the inputs', where it is needed."""
        for layer, flow in self.down:
            layer.backward(grad if flow is None else flow)
        return self.input_grad


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
            if is_perceptron(network)
            else _Opaque(network, n_in, n_out, vector, size)
            for network, n_in, n_out, size in (
                (model.encoder, model.likelihood.n_inputs, 2 * model.prior.n_components, n_rows),
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
        self.workspaces: dict[tuple[int, int], _Workspace] = {}
        self.n_rows = 0
        # Without autograd inside, inference mode saves another sixth of the time.
        self.pure = model.likelihood.states_gradient and is_perceptron(model.encoder) and is_perceptron(model.decoder)
        self.scope: Callable[[], Any] = torch.inference_mode if self.pure else torch.no_grad

    def __call__(self, batch: Rows, rng: torch.Generator, epoch: int) -> None:
        """Set `grad`."""
        batch = self.objective.smoothed(self.density, batch, rng)
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
        work = self._workspace(x.shape[-2], n_draws)
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
        work = self._workspace(rows.x.shape[-2], 1)
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
        work.encoder.input.copy_(seen if rows.mask is None else seen * self.density.per_input(rows.mask))
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

    def _workspace(self, n_rows: int, n_draws: int) -> _Workspace:
        key = n_rows, n_draws
        if key not in self.workspaces:
            self.workspaces[key] = _Workspace(self.model, self.vector, self.grad, n_rows, n_draws)
        return self.workspaces[key]


def _repeat(values: Tensor, n_draws: int) -> Tensor:
    """The rows (..., B, K) once a draw: (..., S B, K)."""
    return values if n_draws == 1 else torch.cat([values] * n_draws, dim=-2)


def _sum_draws(values: Tensor, n_draws: int) -> Tensor:
    """The transpose of `_repeat`: (..., S B, K) summed over draws to (..., B, K)."""
    return values if n_draws == 1 else values.unflatten(-2, (n_draws, -1)).sum(-3)
