"""What objective and likelihood state of a step's slopes, and what stands in where they do not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._tables.batches import Batch, Table
from .._tables.moments import sum_rows
from ..likelihoods import CellWeights, LikelihoodModule, NLLGradient, autograd_gradient
from ..model import VAE
from ..objectives import OnePass
from .mlp import Backend, Values

__all__ = ["LogSlope", "mean_volume", "stated_formula", "states_gradient"]

# What a warp adds to the log-likelihood, of what the encoder sees; None where nothing is bent.
LogSlope = Callable[[Values], Values] | None


def states_gradient(model: VAE, objective: OnePass) -> bool:
    """Whether objective and prior state all slopes.

    A subclass that changes the formula, and not its gradient, is not asked for the gradient. Extra modules could only
    have theirs from autograd.
    """
    depth = {
        name: next(i for i, kind in enumerate(type(objective).__mro__) if name in vars(kind))
        for name in ("gradient", "summed", "terms", "views")
    }
    stated = [depth["gradient"], *([] if type(objective).summed is OnePass.summed else [depth["summed"]])]
    return (
        type(objective).gradient is not OnePass.gradient
        and max(stated) <= min(depth["terms"], depth["views"])
        and (model.likelihood.states_error or not objective.reads_error)
        and model.prior.states_gradient
        # Only an objective that offers a prior asks for its gradient.
        and ("prior" in objective.offers or not any(p.requires_grad for p in model.prior.parameters()))
        and not any(p.requires_grad for p in model.extras.parameters())
    )


def stated_formula(
    density: LikelihoodModule, reads_error: bool, reads_seen: bool, backend: Backend
) -> tuple[NLLGradient, LogSlope]:
    """The likelihood's gradient of its error or of -log p(x|z), for such arrays, and what of the value it leaves out.

    `reads_seen` says whether it is one that the likelihood states, of its `step_input` in place of x.
    """
    if reads_error:
        return density.error_gradient(backend.xp), None
    stated = density.gradient(backend.xp) if reads_seen else None
    if stated is None:
        return _of_tensors(autograd_gradient(density), backend), None
    return stated, density.encoding.log_slope(backend.xp)


def _of_tensors(gradient: NLLGradient, backend: Backend) -> NLLGradient:
    """A gradient that takes tensors, for arrays."""
    _, view, tensor = backend

    def nll_gradient(outputs: Values, x: Values, cells: CellWeights) -> tuple[Values, Values]:
        nll, slope = gradient(tensor(outputs), tensor(x), CellWeights(*map(tensor, cells)))
        return view(nll), view(slope)

    return nll_gradient


def mean_volume(module: LikelihoodModule, rows: Table) -> float | None:
    """The mean over a table of what a warp adds to a row's log-likelihood: the steps of an epoch leave it out."""
    log_slope, n_inputs = module.encoding.log_slope(torch), module.encoding.n_inputs
    if log_slope is None:
        return None

    def added(block: Batch) -> Tensor:
        terms = log_slope(block.x[:, :n_inputs])
        terms = terms if block.mask is None else terms * block.mask
        return (terms if block.weight is None else terms * block.weight[:, None]).sum(dtype=torch.float64)

    return float(sum_rows(rows.blocks(), added)) / len(rows)
