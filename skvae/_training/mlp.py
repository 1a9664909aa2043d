"""A perceptron as a list of layers with its own way back: the gradient of every layer without an autograd graph.

A layer is one product. Its inputs stand beside a column of ones and its weights above their biases; a linear path's
inputs stand beside the last hidden layer's. So a layer's outputs, its weights' gradient and its inputs' gradient are
one matrix product each, written into tensors made once.

Products are torch's; what is between them is numpy's or torch's, see `Backend`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from .._flat import block
from .._torch import namespace
from ..networks import LinearPath

__all__ = ["NUMPY", "TORCH", "AutogradNetwork", "Backend", "GraphFreeMLP", "Values", "is_graph_free"]


# A numpy array, or a tensor in its place.
Values = Any
aten = torch.ops.aten


class Backend(NamedTuple):
    """What computes between the products: numpy or torch, on the same memory."""

    xp: Any
    view: Callable[[Tensor], Values]
    tensor: Callable[[Values], Tensor]

    def new(self, like: Tensor, n_rows: int, width: int) -> Tensor:
        """Ones, (n_rows, width); for numpy stored column by column: every part is then one piece of memory."""
        return like.new_ones(width, n_rows).mT if self.xp is np else like.new_ones(n_rows, width)


def _as_it_is(values: Any) -> Any:
    return values


NUMPY = Backend(np, Tensor.numpy, torch.from_numpy)


TORCH = Backend(torch, _as_it_is, _as_it_is)


class Activation(NamedTuple):
    """An activation and its derivative.

    `forward(inputs, out)` fills out; `backward(grad, kept)` turns the outputs' gradient into the inputs', in place.
    What is kept is the outputs, unless `keeps_inputs`.
    """

    forward: Callable[[Tensor, Tensor], Any]
    backward: Callable[[Values, Values], Any]
    keeps_inputs: bool = False


def _tanh(inputs: Tensor, out: Tensor) -> None:
    """numpy's tanh is about nine times faster than torch's on the CPU."""
    if inputs.device.type == "cpu":
        np.tanh(inputs.numpy(), out=out.numpy())
    else:
        torch.tanh(inputs, out=out)


def _multiply(slope: Callable[[Values], Values]) -> Callable[[Values, Values], Any]:
    """`backward`, from the derivative as a formula of what is kept."""
    return lambda grad, kept: namespace(grad).multiply(grad, slope(kept), out=grad)


def _by_torch(name: str, *numbers: float) -> Callable[[Values, Values], Any]:
    """`backward` by torch's own kernel, `numbers` its last arguments."""
    kernel = getattr(aten, name).grad_input

    def backward(grad: Values, kept: Values) -> None:
        tensor = torch.as_tensor(grad)
        kernel(tensor, torch.as_tensor(kept), *numbers, grad_input=tensor)

    return backward


def _relu_backward(grad: Values, kept: Values) -> None:
    """In one pass: with two, a wide layer's would leave the cache."""
    if isinstance(grad, Tensor):
        aten.threshold_backward.grad_input(grad, kept, 0, grad_input=grad)
    else:
        np.multiply(grad, np.sign(kept), out=grad)


ACTIVATION_STEPS: dict[type[nn.Module], Activation] = {
    nn.ELU: Activation(lambda z, out: aten.elu.out(z, out=out), _multiply(lambda a: 1 + a.clip(max=0))),
    nn.GELU: Activation(lambda z, out: aten.gelu.out(z, out=out), _by_torch("gelu_backward"), keeps_inputs=True),
    nn.Identity: Activation(lambda z, out: None, lambda grad, a: None),
    nn.ReLU: Activation(lambda z, out: torch.relu_(out), _relu_backward),  # z is out
    nn.Sigmoid: Activation(lambda z, out: torch.sigmoid(z, out=out), _multiply(lambda a: a - a * a)),
    nn.SiLU: Activation(lambda z, out: aten.silu.out(z, out=out), _by_torch("silu_backward"), keeps_inputs=True),
    nn.Softplus: Activation(
        lambda z, out: aten.softplus.out(z, out=out), _by_torch("softplus_backward", 1.0, 20.0), keeps_inputs=True
    ),
    nn.Tanh: Activation(_tanh, _multiply(lambda a: 1 - a * a)),
}


def is_graph_free(network: nn.Module) -> TypeGuard[LinearPath]:
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


class _Layer:
    """One product, outputs = inputs @ weight, and the activation that follows it."""

    def __init__(
        self,
        inputs: Tensor,
        weight: Tensor,
        grad: Tensor,
        outputs: Tensor,
        activation: Activation | None,
        backend: Backend,
    ):
        self.inputs, self.weight, self.grad, self.outputs = inputs, weight, grad, outputs
        self.inputs_T = inputs.mT
        self.activation, self.backend = activation, backend
        # What the activation's derivative is taken from.
        self.kept = torch.empty_like(outputs) if activation is not None and activation.keeps_inputs else outputs
        self.kept_values = backend.view(self.kept)
        self.flow: Tensor | None = None
        self.plus: Tensor | None = None
        # Where the outputs' gradient comes to lie, as an array: made once, since a hidden layer's is always the same.
        self.grad_values: Values = None

    def pass_on(self, n_inputs: int, plus: Tensor | None = None) -> Tensor:
        """Make `backward` fill the returned tensor: the gradient of the first inputs, and what else flows to them."""
        self.weight_T, self.plus = self.weight[:n_inputs].mT, plus
        self.flow = self.backend.new(self.inputs, len(self.inputs), n_inputs)
        return self.flow

    def forward(self) -> None:
        torch.mm(self.inputs, self.weight, out=self.kept)
        if self.activation is not None:
            self.activation.forward(self.kept, self.outputs)

    def backward(self, grad: Tensor) -> None:
        """Set the weight's gradient, and the inputs' where it is passed on; `grad` is overwritten."""
        if self.activation is not None:
            if self.grad_values is None:
                self.grad_values = self.backend.view(grad)
            self.activation.backward(self.grad_values, self.kept_values)
        torch.mm(self.inputs_T, grad, out=self.grad)
        if self.plus is not None:
            torch.addmm(self.plus, grad, self.weight_T, out=self.flow)
        elif self.flow is not None:
            torch.mm(grad, self.weight_T, out=self.flow)


class GraphFreeMLP:
    """A `LinearPath` over views of the flat vectors: write to `input`, then call forward, then backward.

    The last layer reads hidden units, 1, inputs, 1 side by side, and the first reads the second half of those same
    columns, so the rows of X are stored once.
    """

    def __init__(
        self,
        network: LinearPath,
        vector: Tensor,
        grad: Tensor,
        n_rows: int,
        need_input_grad: bool,
        backend: Backend,
    ):
        body: list[Any] = [] if network.body is None else list(network.body)
        new = partial(backend.new, vector, n_rows)
        n_in, n_out = network.linear.in_features, network.linear.out_features
        widths = [layer.out_features for layer in body[:-1:2]]
        last = new(sum(width + 1 for width in [*widths[-1:], n_in]))
        first = last[:, -(n_in + 1) :]
        self.input, self.output = first[:, :n_in], new(n_out)

        inputs = [first, *(new(width + 1) for width in widths[:-1]), last] if body else [last]
        hidden = [values[:, :width] for values, width in zip(inputs[1:], widths, strict=True)]
        activations = [ACTIVATION_STEPS[type(layer)] for layer in body[1::2]]
        # The linear path is added to what the last layer puts out: they are one.
        layers = [[layer] for layer in body[::2]] or [[]]
        layers[-1].append(network.linear)
        self.layers = [
            _Layer(values, block(vector, own), block(grad, own), outputs, activation, backend)
            for own, values, outputs, activation in zip(
                layers, inputs, [*hidden, self.output], [*activations, None], strict=True
            )
        ]

        # Gradients pass to the hidden units below a layer, and to the inputs where something trains beneath them.
        below = [layer.pass_on(width) for layer, width in zip(self.layers[1:], widths, strict=True)]
        self.input_grad: Tensor | None = None
        if need_input_grad:
            top = self.layers[-1].pass_on(last.shape[-1])
            path = top[:, -(n_in + 1) : -1]
            self.input_grad = self.layers[0].pass_on(n_in, plus=path) if body else path
            below[-1:] = [top[:, :width] for width in widths[-1:]]
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


class AutogradNetwork:
    """Any other module, by autograd, with the same members as `GraphFreeMLP`."""

    def __init__(self, module: nn.Module, n_in: int, n_out: int, vector: Tensor, n_rows: int):
        self.module = module
        self.input, self.output = TORCH.new(vector, n_rows, n_in), TORCH.new(vector, n_rows, n_out)
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
