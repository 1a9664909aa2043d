"""Columns of zeros and ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from .._linear import Covariance
from ..data import Array, Moments, Rows, Scale, Table
from ._base import Cells, Density, Likelihood, LinearStart, column_sums

__all__ = ["Bernoulli"]


class Bernoulli(Likelihood):
    """p(x|z) = prob(z)^x (1 - prob(z))^(1 - x): columns of 0 and 1, or images in [0, 1].

    The decoder emits logits. On fractional values this is a cross entropy and no density (at a probability of 0.1
    it integrates to 0.36 over [0, 1]): fine for images, not to be compared with another model's likelihood.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import VAETransformer
    >>> X = load_digits().data > 7
    >>> vae = VAETransformer(8, likelihood="bernoulli", max_iter=5, random_state=0).fit(X)
    >>> vae.sample(2, random_state=0).shape
    (2, 64)
    """

    __module__ = "skvae"

    positive_only = True

    def scale(self, moments: Moments) -> Scale:
        return Scale(np.zeros_like(moments.mean), np.ones_like(moments.mean))

    def build(self, n_features: int, scale: Scale) -> Density:
        return _BernoulliDensity(n_features)

    def check(self, X: Array, names: Sequence[str]) -> None:
        outside = (X < 0) | (X > 1)
        if outside.any():
            row, column = np.argwhere(X < 0 if (X < 0).any() else outside)[0]
            value = X[row, column]
            # scikit-learn's checks and its own estimators open with these words.
            opening = "Negative values in data passed to VAE: " if value < 0 else ""
            raise ValueError(f"{opening}{names[column]} holds {value}; likelihood='bernoulli' takes values in [0, 1].")


class _BernoulliDensity(Density):
    """The encoder sees centred columns divided by one number, the pooled standard deviation."""

    stackable = True
    column_mean: Tensor
    pooled_std: Tensor

    def __init__(self, n_features: int):
        super().__init__(n_features, n_features)
        self.register_buffer("column_mean", torch.full((n_features,), 0.5, dtype=torch.float32))
        self.register_buffer("pooled_std", torch.ones((), dtype=torch.float32))

    def fit(self, rows: Rows | Table) -> None:
        """Smoothed column means: half a one and half a zero are added to every column."""
        ones, mass = column_sums(rows, lambda x: x)
        mean = (ones + 0.5) / (mass + 1.0)
        var = column_sums(rows, lambda x: (x - mean).square())[0].sum() / mass.sum()
        self.column_mean.copy_(mean)
        self.pooled_std.copy_(var.sqrt() if var > 0 else torch.ones(()))

    def encode_input(self, x: Tensor) -> Tensor:
        return (x - self.column_mean) / self.pooled_std

    def smooth(self, x: Tensor, noise: Tensor) -> Tensor:
        raise ValueError(
            "likelihood='bernoulli' takes values in [0, 1], to which no noise can be added; use objective='elbo', or "
            "ELBO with input_noise=0."
        )

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        return x * outputs - softplus(outputs)

    def nll_gradient(self, outputs: Tensor, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        nll = (cells.mass * self.log_prob(outputs, x)).sum((-2, -1)).neg_()
        return nll, outputs.sigmoid_().sub_(x).mul_(cells.mass)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        return torch.bernoulli(outputs.sigmoid(), generator=rng)

    def start(self, cov: Covariance, n_components: int) -> LinearStart | None:
        """Principal components of the columns, each divided by its Bernoulli standard deviation.

        Around the column means p the logit's slope is 1 / v, v = p (1 - p), and the log-likelihood's curvature is v:
        a linear model of noise v in x, seen through logits.
        """
        mean, unit = self.column_mean.double().numpy(), float(self.pooled_std)
        noise = mean * (1 - mean)
        values, vectors = cov.leading(n_components, np.sqrt(noise) / unit)
        gain = np.sqrt(np.maximum(values - 1.0, 0.0))
        loadings = vectors * gain / np.sqrt(noise)[:, None]
        return LinearStart(
            decoder_weight=loadings,
            decoder_bias=np.log(mean) - np.log1p(-mean),
            encoder_weight=(loadings / (1.0 + gain**2)).T * unit,
            posterior_var=1.0 / (1.0 + gain**2),
        )

    def baseline(self, rows: Rows, cov: Covariance, n_components: int) -> float:
        """The columns taken as independent: log-likelihood at the column means."""
        return float(rows.mean(torch.tensor(self.baseline_samples(rows, cov, n_components), dtype=rows.x.dtype)))

    def baseline_samples(self, rows: Rows, cov: Covariance, n_components: int) -> Array:
        terms = self.log_prob(torch.logit(self.column_mean), rows.x)
        return (terms if rows.mask is None else terms * rows.mask).sum(-1).cpu().numpy()
