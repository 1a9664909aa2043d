"""Where training starts, and the baseline it must not fall below: linear models of what the encoder sees."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch

from .._linear import Block, Covariance, LinearGaussian, LinearMaps, PartCovariance, Regression, factor_analysis
from .._tables.batches import Batch, Table
from .._tables.moments import Array
from ._base import LikelihoodModule, LinearStart

__all__ = [
    "baseline",
    "baseline_samples",
    "covariance",
    "linear_model",
    "max_latents",
    "start_linear",
]


def covariance(module: LikelihoodModule, rows: Table, noise: float = 0.0, copies: float = 1.0) -> Covariance:
    """The covariance of `rows` as the encoder sees them, less what is given explains, with noise of this variance."""
    encoding = module.encoding

    @torch.no_grad()
    def blocks() -> Iterator[Block]:
        for block in rows.blocks():
            x, mask = encoding.encode(block.x), None if block.mask is None else encoding.per_input(block.mask)
            yield (
                (x if mask is None else x * mask).numpy(),
                None if mask is None else mask.numpy(),
                None if block.weight is None else copies * block.weight.numpy(),
            )

    added, apart, given = noise * encoding.takes_noise.double().numpy(), encoding.apart(), encoding.is_given()
    regression = Regression(blocks, np.flatnonzero(given)) if given.any() else None
    left = blocks if regression is None else regression.rest
    if not (apart | given).any():
        return Covariance(left, len(rows), encoding.n_inputs, added)
    found = PartCovariance(left, len(rows), added, np.flatnonzero(~(apart | given)))
    found.regression = regression
    return found


def max_latents(n_components: int, cov: Covariance, shared_noise: bool = False) -> int:
    """How many latents a linear model of these rows can use.

    As many as columns with a shared noise, whose floor keeps the covariance apart from it; otherwise one fewer.
    """
    return max(0, min(n_components, cov.n_varying - (not shared_noise), cov.n_rows - 1))


def linear_model(known: LinearStart, cov: Covariance, n_components: int) -> LinearGaussian:
    """The linear model with a noise that the likelihood can have."""
    if known.model is not None:
        return known.model(cov, n_components)
    return factor_analysis(cov, n_components, known.least, known.most)


def start_linear(module: LikelihoodModule, cov: Covariance, n_components: int) -> LinearMaps | None:
    """Set the noise to the linear model's and return its maps; None where there is no such start."""
    known = module.linear_start()
    if known is None:
        return None
    most = np.broadcast_to(known.max_loading, cov.n_columns)
    linear = linear_model(known, cov, n_components).limited(most)
    if cov.regression is not None:
        return _with_given(known, linear, cov.regression, most)
    weight, bias = known.from_linear(linear)
    return LinearMaps(weight, bias, linear.encoder, 1.0 / linear.precision, np.empty((len(bias), 0)))


def _with_given(known: LinearStart, linear: LinearGaussian, regression: Regression, most: Array) -> LinearMaps:
    """The maps of a linear model of what a regression leaves, and of the regression.

    What is given is put in units in which it varies as latents do, so that links and biases allow for both alike.
    """
    root, unit = regression.root
    explained = regression.coefficients @ root
    size = np.sqrt((explained**2).sum(axis=1))
    explained *= np.minimum(1.0, most / np.maximum(size, np.finfo(float).tiny))[:, None]
    weight, bias = known.from_linear(LinearGaussian(np.hstack([linear.loadings, explained]), linear.noise))
    (shift,) = known.from_linear(LinearGaussian(regression.intercept[:, None], linear.noise))[0].T
    n_components, encoder = linear.loadings.shape[1], linear.encoder
    encoder[:, regression.given] = -encoder @ regression.coefficients
    return LinearMaps(
        weight[:, :n_components],
        bias + shift,
        encoder,
        1.0 / linear.precision,
        weight[:, n_components:] @ unit,
        -linear.encoder @ regression.intercept,
    )


def baseline(module: LikelihoodModule, rows: Batch, cov: Covariance, n_components: int) -> float:
    """Mean log-likelihood of `rows`, in nats of data units, under the family's linear model of `cov`."""
    total = baseline_samples(module, rows, cov, n_components)
    return float(np.average(total, weights=None if rows.weight is None else rows.weight.cpu().numpy()))


@torch.no_grad()
def baseline_samples(module: LikelihoodModule, rows: Batch, cov: Covariance, n_components: int) -> Array:
    """`baseline`'s log-likelihood of every row, (N,): what ranks rows before there is a model."""
    known = module.linear_start()
    if known is None:
        raise ValueError(f"{type(module).__name__} has no linear model to score rows by; define its linear_start.")
    if known.log_volume is not None and cov.regression is None:
        x, linear = rows.x.double(), linear_model(known, cov, n_components)
        present = torch.ones_like(x) if rows.mask is None else rows.mask.double()
        seen = module.encoding.encode(x)
        volume = (present * known.log_volume(seen)).cpu().numpy().sum(axis=1)
        return linear.score_samples((present * seen).cpu().numpy(), present.cpu().numpy()) + volume
    alone = copy.deepcopy(module)
    maps = start_linear(alone, cov, 0)
    assert maps is not None
    outputs = torch.as_tensor(maps.decoder_bias).expand(len(rows), -1)
    if cov.regression is not None:
        outputs = outputs + module.encoding.given(rows.x).double() @ torch.as_tensor(maps.decoder_given).T
    terms = alone.log_prob(outputs.to(rows.x), rows.x)
    return (terms if rows.mask is None else terms * rows.mask).sum(-1).double().cpu().numpy()
