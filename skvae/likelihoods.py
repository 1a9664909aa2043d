"""p(x|z): what the decoder's numbers mean.

A `Likelihood` holds hyperparameters only (it can be cloned and searched). For one table it builds a `Density`, the
torch module that turns decoder outputs into log-probabilities, means and samples. Densities work in the model's
units, x = (X - shift) / scale, and report nats of the data's own units: the Jacobian -log(scale) is included.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torch.nn.functional import softplus

from ._linear import Block, Covariance, LinearGaussian, factor_analysis, probabilistic_pca
from ._params import Part
from .data import Array, Moments, Rows, Scale, Table
from .priors import LOG_2PI, log_normal

__all__ = ["LIKELIHOODS", "Bernoulli", "Cells", "Density", "Gaussian", "Likelihood", "LinearStart"]


class Cells(NamedTuple):
    """What every cell of a batch counts in a mean.

    Attributes
    ----------
    mass : Tensor of shape (..., N or 1, D or 1)
        0 where a cell is missing; 1 in place of N where all rows count alike.
    total : Tensor of shape (..., 1, D or 1)
        Its sum over the rows.
    """

    mass: Tensor
    total: Tensor


@dataclass
class LinearStart:
    """A linear encoder and decoder, and the noise that goes with them: where training begins.

    Attributes
    ----------
    decoder_weight, decoder_bias : arrays of shape (n_params, J) and (n_params,)
    encoder_weight : array of shape (J, D)
        From the encoder's input to the posterior mean; the posterior mean of a row of column means is 0.
    posterior_var : array of shape (J,)
    """

    decoder_weight: Array
    decoder_bias: Array
    encoder_weight: Array
    posterior_var: Array


class Likelihood(Part, ABC):
    """Hyperparameters of a p(x|z).

    Attributes
    ----------
    positive_only : bool
        Whether negative values are outside the support.
    """

    positive_only: ClassVar[bool] = False

    @abstractmethod
    def scale(self, moments: Moments) -> Scale:
        """The map between data units and the model's units."""

    @abstractmethod
    def build(self, n_features: int, scale: Scale) -> Density:
        """The module for a table of `n_features` columns."""

    def check(self, X: Array, names: Sequence[str]) -> None:
        """Raise ValueError, naming the column, where X (N, D) leaves the support."""
        return


class Density(nn.Module, ABC):
    """p(x|z) for one table. Outputs are the decoder's numbers, (..., N, n_params); x is (N, D) in model units.

    Parameters
    ----------
    n_features : int
        D.
    n_params : int
        How many numbers the decoder emits for a row.

    Attributes
    ----------
    shared_noise : bool
        Whether `variance` is one number for the whole table.
    stackable : bool
        Whether the formulas hold as they stand for M models side by side: rows and outputs have a leading axis, and
        every parameter and buffer has the shape (M, 1, K), where K is the number of its entries.
    """

    shared_noise: ClassVar[bool] = False
    stackable: ClassVar[bool] = False

    def __init__(self, n_features: int, n_params: int):
        super().__init__()
        self.n_features = n_features
        self.n_params = n_params

    def fit(self, rows: Rows | Table) -> None:
        """Set what depends on the rows, beyond their scale."""
        return

    def encode_input(self, x: Tensor) -> Tensor:
        """What the encoder sees of x, 0 where a cell is missing."""
        return x

    @abstractmethod
    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        """log p(x_d|z) in nats of data units, one a row and feature: (..., N, D)."""

    def nll_gradient(self, outputs: Tensor, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        """The total of -cells.mass * log_prob, and its gradient with respect to the outputs.

        Sets the `.grad` of this module's own parameters to the same gradient. Members of the family whose gradient is
        a formula override this; it must agree with `log_prob`. `outputs` may be overwritten.

        Parameters
        ----------
        outputs, x : Tensors of shape (..., N, n_params) and (..., N, D)
        cells : Cells

        Returns
        -------
        nll : Tensor of shape (...)
        gradient : Tensor of the shape of outputs
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            nll = -(cells.mass * self.log_prob(outputs, x)).sum((-2, -1))
            wanted = [outputs, *parameters]
            grads = torch.autograd.grad(nll.sum(), wanted, materialize_grads=True, allow_unused=True)
        for parameter, grad in zip(parameters, grads[1:], strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(grad)
        return nll.detach(), grads[0]

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """E[x|z] in model units: (..., N, D)."""

    @abstractmethod
    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        """A draw of x given z, in model units: (..., N, D)."""

    def variance(self, outputs: Tensor) -> Tensor | None:
        """Var[x|z] in model units where it is a noise the model has learnt; None elsewhere."""
        return None

    def covariance(self, rows: Rows | Table) -> Covariance:
        """The covariance of `rows` as the encoder sees them."""

        @torch.no_grad()
        def blocks() -> Iterator[Block]:
            for block in rows.blocks():
                x = self.encode_input(block.x)
                yield (
                    (x if block.mask is None else x * block.mask).numpy(),
                    None if block.mask is None else block.mask.numpy(),
                    None if block.weight is None else block.weight.numpy(),
                )

        return Covariance(blocks, len(rows), self.n_features)

    def start(self, cov: Covariance, n_components: int) -> LinearStart | None:
        """Set the noise to the linear model's and return its maps; None where the link allows no such start."""
        return None

    @abstractmethod
    def baseline(self, rows: Rows, cov: Covariance, n_components: int) -> float:
        """Mean log-likelihood of `rows`, in nats of data units, under the family's linear model of `cov`."""


def _above(value: Tensor, bound: Tensor, grad: Tensor) -> Tensor:
    """The gradient that passes `_LowerBound`."""
    return torch.where(value >= bound, grad, grad.clamp_max(0.0))


def _column_sums(rows: Rows | Table, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Weighted sums over the present cells of each column of `function` of x, and of 1: two (D,), float64."""
    sums, mass = (sum(parts) for parts in zip(*(_block_sums(b, function) for b in rows.blocks()), strict=True))
    return sums, mass


def _block_sums(block: Rows, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    mass = block.mass
    return (mass * function(block.x.double())).sum(dim=0), mass.sum(dim=0)


class _LowerBound(torch.autograd.Function):
    """max(value, bound), whose gradient passes wherever a step against it would not go below the bound.

    A plain clamp has no gradient below the bound, so a parameter that once slipped under it never comes back.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(value, bound)
        return torch.maximum(value, bound)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _above(*ctx.saved_tensors, *grads), None


class Gaussian(Likelihood):
    """p(x|z) = N(mean(z), variance): real-valued columns.

    Parameters
    ----------
    noise : {"feature", "shared", "decoder"}, default="feature"
        - "feature": one learnt variance a column, as in factor analysis. Columns are standardised one by one, so
          units do not matter.
        - "shared": one learnt variance for all columns, as in PCA. All columns are divided by one number, so the
          columns of the largest values matter most: standardise a table of mixed units first.
        - "decoder": a variance a row and column, emitted by the decoder (Kingma & Welling 2013, appendix C.2).
    noise_floor : float, default=1e-3
        The smallest noise variance, as a share of the column's variance ("shared": of the smallest variance among
        the columns that vary). Without a floor the density of a column that the latents copy grows without bound.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer, Gaussian
    >>> X = load_wine().data
    >>> vae = VAETransformer(2, likelihood=Gaussian(noise="decoder"), random_state=0).fit(X)
    >>> vae.transform(X).shape
    (178, 2)
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {
        "noise": [StrOptions({"feature", "shared", "decoder"})],
        "noise_floor": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(self, noise="feature", *, noise_floor=1e-3):
        self.noise = noise
        self.noise_floor = noise_floor

    def scale(self, moments: Moments) -> Scale:
        std = moments.std
        if self.noise == "shared":
            largest = std.max(initial=0.0) or 1.0
            std = np.full_like(std, largest * np.sqrt(np.mean((std / largest) ** 2)))
        return Scale(moments.mean, np.where(std > 0, std, 1.0))

    def build(self, n_features: int, scale: Scale) -> Density:
        kind: Any = {"feature": _FeatureNoise, "shared": _SharedNoise, "decoder": _DecoderNoise}[self.noise]
        return kind(n_features, scale, self.noise_floor)


class _GaussianDensity(Density):
    """What the three noises share. Subclasses say where the log variance comes from."""

    stackable = True
    log_scale: Tensor
    log_unit: Tensor  # what -log p holds whatever z is
    log_floor: Tensor

    def __init__(self, n_features: int, scale: Scale, noise_floor: float, params_per_feature: int = 1):
        super().__init__(n_features, params_per_feature * n_features)
        self.noise_floor = noise_floor
        self.register_buffer("log_scale", torch.tensor(np.log(scale.scale)), persistent=False)
        self.register_buffer("log_unit", self.log_scale + 0.5 * LOG_2PI, persistent=False)
        floor = torch.full((n_features,), math.log(noise_floor))
        self.register_buffer("log_floor", floor)

    @abstractmethod
    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., N, D) and log variance (broadcastable to it)."""

    def linear_model(self, cov: Covariance, n_components: int) -> LinearGaussian:
        """The linear model with this noise."""
        return factor_analysis(cov, n_components, self.noise_floor)

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        mean, log_var = self.split(outputs)
        return log_normal((x - mean) * torch.exp(-0.5 * log_var), log_var) - self.log_scale

    def mean(self, outputs: Tensor) -> Tensor:
        return self.split(outputs)[0]

    def variance(self, outputs: Tensor) -> Tensor | None:
        mean, log_var = self.split(outputs)
        return log_var.exp().expand_as(mean)

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        mean, log_var = self.split(outputs)
        eps = torch.randn(mean.shape, generator=rng, dtype=mean.dtype, device=mean.device)
        return mean + torch.exp(0.5 * log_var) * eps

    def start(self, cov: Covariance, n_components: int) -> LinearStart:
        linear = self.linear_model(cov, n_components)
        self.set_noise(torch.tensor(np.log(linear.noise)))
        pad = self.n_params - self.n_features
        return LinearStart(
            decoder_weight=np.pad(linear.loadings, ((0, pad), (0, 0))),
            decoder_bias=np.append(np.zeros(self.n_features), np.log(linear.noise)[:pad]),
            encoder_weight=linear.encoder,
            posterior_var=1.0 / linear.precision,
        )

    def set_noise(self, log_noise: Tensor) -> None:
        """Start the noise at `log_noise` (D,)."""
        return

    def baseline(self, rows: Rows, cov: Covariance, n_components: int) -> float:
        linear = self.linear_model(cov, n_components)
        x = rows.x.cpu().double()
        present = torch.ones_like(x) if rows.mask is None else rows.mask.cpu().double()
        total = linear.score_samples(x.numpy(), present.numpy())
        total -= (present @ self.log_scale.cpu().double()).numpy()
        return float(np.average(total, weights=None if rows.weight is None else rows.weight.cpu().numpy()))


class _LearntNoise(_GaussianDensity):
    """A noise that is a parameter of its own: `log_noise` holds one number a column, or one for all."""

    def __init__(self, n_features: int, scale: Scale, noise_floor: float, n_noises: int):
        super().__init__(n_features, scale, noise_floor)
        self.log_noise = nn.Parameter(torch.zeros(n_noises, dtype=torch.float32))

    def bound(self) -> Tensor:
        """The lower bound of `log_noise`."""
        return self.log_floor

    def decoded(self, outputs: Tensor) -> Tensor:
        """The mean that the decoder's numbers stand for."""
        return outputs

    def decoded_gradient(self, grad: Tensor) -> Tensor:
        """The outputs' gradient, from the mean's."""
        return grad

    def noise_gradient(self, grad: Tensor) -> Tensor:
        """The gradient of `log_noise`, from that of every column's log variance."""
        return grad

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoded(outputs), _LowerBound.apply(self.log_noise, self.bound())

    def nll_gradient(self, outputs: Tensor, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        log_noise, bound = self.log_noise, self.bound()
        log_var = torch.maximum(log_noise, bound)
        residual = self.decoded(outputs).sub_(x)
        slope = torch.exp(-log_var) * cells.mass * residual
        squares = residual.mul_(slope).sum(-2, keepdim=True)
        log_norm = torch.add(self.log_unit, log_var, alpha=0.5)
        nll = torch.add(cells.total * log_norm, squares, alpha=0.5).sum((-2, -1))
        grad = 0.5 * (cells.total - squares)
        assert log_noise.grad is not None
        log_noise.grad.copy_(_above(log_noise, bound, self.noise_gradient(grad).view_as(log_noise)))
        return nll, self.decoded_gradient(slope)

    def set_noise(self, log_noise: Tensor) -> None:
        self.log_noise.data.copy_(log_noise[: len(self.log_noise)])


class _FeatureNoise(_LearntNoise):
    """One learnt variance a column."""

    def __init__(self, n_features: int, scale: Scale, noise_floor: float):
        super().__init__(n_features, scale, noise_floor, n_features)


class _SharedNoise(_LearntNoise):
    """One learnt variance for all columns. Its floor follows the smallest column and so stays below PCA's noise.

    The decoder speaks in units of the starting noise's standard deviation: on a raw table that is a thousandth of the
    largest column, and steps measured in the column would throw the start away.
    """

    shared_noise = True
    unit: Tensor

    def __init__(self, n_features: int, scale: Scale, noise_floor: float):
        super().__init__(n_features, scale, noise_floor, 1)
        self.register_buffer("unit", torch.ones(1, dtype=torch.float32))

    def fit(self, rows: Rows | Table) -> None:
        squares, mass = _column_sums(rows, lambda x: x.square())
        var = squares / mass
        smallest = var[var > 0].min() if bool((var > 0).any()) else var.new_ones(())
        self.log_floor.fill_(math.log(self.noise_floor) + float(smallest.clamp_min(1e-8).log()))

    def bound(self) -> Tensor:
        return self.log_floor[..., :1]

    def noise_gradient(self, grad: Tensor) -> Tensor:
        return grad.sum(-1, keepdim=True)

    def decoded(self, outputs: Tensor) -> Tensor:
        return self.unit * outputs

    def decoded_gradient(self, grad: Tensor) -> Tensor:
        return self.unit * grad

    def start(self, cov: Covariance, n_components: int) -> LinearStart:
        start = super().start(cov, n_components)
        return replace(start, decoder_weight=start.decoder_weight / float(self.unit))

    def set_noise(self, log_noise: Tensor) -> None:
        super().set_noise(log_noise)
        self.unit.copy_(torch.exp(0.5 * log_noise[:1]))

    def linear_model(self, cov: Covariance, n_components: int) -> LinearGaussian:
        return probabilistic_pca(cov, n_components, float(self.log_floor[0].exp()))


class _DecoderNoise(_GaussianDensity):
    """A variance a row and column, from the second half of the decoder's outputs."""

    def __init__(self, n_features: int, scale: Scale, noise_floor: float):
        super().__init__(n_features, scale, noise_floor, params_per_feature=2)

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = outputs.chunk(2, dim=-1)
        return mean, _LowerBound.apply(log_var, self.log_floor)

    def nll_gradient(self, outputs: Tensor, x: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        mean, raw = outputs.chunk(2, dim=-1)
        log_var = torch.maximum(raw, self.log_floor)
        residual = mean - x
        slope = torch.exp(-log_var) * cells.mass * residual
        squares = residual.mul_(slope)
        log_norm = torch.add(self.log_unit, log_var, alpha=0.5)
        nll = torch.add(cells.mass * log_norm, squares, alpha=0.5).sum((-2, -1))
        return nll, torch.cat([slope, _above(raw, self.log_floor, 0.5 * (cells.mass - squares))], dim=-1)


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
        ones, mass = _column_sums(rows, lambda x: x)
        mean = (ones + 0.5) / (mass + 1.0)
        var = _column_sums(rows, lambda x: (x - mean).square())[0].sum() / mass.sum()
        self.column_mean.copy_(mean)
        self.pooled_std.copy_(var.sqrt() if var > 0 else torch.ones(()))

    def encode_input(self, x: Tensor) -> Tensor:
        return (x - self.column_mean) / self.pooled_std

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
        logits = torch.logit(self.column_mean)
        terms = self.log_prob(logits, rows.x)
        return float(rows.mean((terms if rows.mask is None else terms * rows.mask).sum(-1)))


LIKELIHOODS: dict[str, type[Likelihood]] = {"gaussian": Gaussian, "bernoulli": Bernoulli}
