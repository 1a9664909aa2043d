"""Codes of training rows that are kept, to draw new rows around them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._conditions import rows_of
from ._fit import Fit
from ._inference.blocks import Inference
from ._inference.posterior import mean_and_std
from ._reservoir import Reservoir
from ._saved import is_finite_array
from ._settings import FitSettings
from ._tables.moments import Array, has_gaps
from ._tables.reader import TrainingRows
from ._tables.sources import RowSource
from ._torch import make_generator, thread_limit, torch_scope
from .priors import AggregatedPosterior

__all__ = ["CODES", "Codes", "fault", "joined", "known_rows", "weights", "with_codes", "with_rows"]

# Training rows whose codes are kept, at most.
CODES = 5000
# By how much of their variance codes may be widened, and nats that make it worth it.
BANDWIDTHS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
WORTH = 2.0
# The least variance of a code: codes without a spread are single points.
LEAST_VAR = 1e-8
# Numbers that a sample of the rows of a stream may hold: 20 MB, less than 5000 rows of more than 500 columns.
KEPT_NUMBERS = 2_500_000
# Of a table that is read from elsewhere rows are taken in so many runs of neighbours.
RUNS = 64


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of a sample of the training rows, where their cells were missing, and what the rows weigh.

    Attributes
    ----------
    mean, var : ndarray of float32 of shape (M, J)
        Of q(z|x), in training order of the latents.
    weight : ndarray of shape (M,)
    gaps : ndarray of uint8 of shape (M, ceil(D / 8)) or None
        The rows' missing cells, a bit for each column; None where no row lacks any.
    given : ndarray of shape (M, G) or None
        The rows' cells of the columns that the model is given; None where it is given none.
    bandwidth : float
        How much wider than q(z|x) draws around a code are: by this share of the variance that the codes have.
    """

    mean: np.ndarray
    var: np.ndarray
    weight: np.ndarray
    gaps: np.ndarray | None = None
    given: np.ndarray | None = None
    bandwidth: float = 0.0

    @classmethod
    def of(cls, inference: Inference, X: Array, weight: Array) -> Codes:
        """The codes of the rows of X, in data units; rows too far out to be encoded have none."""
        gappy = has_gaps(X)
        found = inference.by_blocks(X, mean_and_std, factors=gappy)
        near = np.isfinite(found).all(axis=(1, 2))
        X, weight, found = X[near], weight[near] / weight[near].mean(), found[near].astype(np.float32)
        spread = found[..., 1] if inference.model.has_posterior else np.zeros_like(found[..., 1])
        columns = inference.model.likelihood.given_columns
        given = X[:, columns].astype(np.float64) if columns.any() else None
        gaps = np.packbits(np.isnan(X), axis=1) if gappy else None
        codes = cls(found[..., 0], np.square(spread).clip(LEAST_VAR), weight, gaps, given)
        with torch_scope(torch.device("cpu"), grad=False), thread_limit(0):
            return replace(codes, bandwidth=_bandwidth(*codes._tensors("cpu"), inference.seed))

    @property
    def state(self) -> dict[str, Any]:
        """The codes as plain arrays; `Codes(**state)` is the way back."""
        return asdict(self)

    def draw(self, n_samples: int, rng: torch.Generator) -> tuple[Tensor, np.ndarray]:
        """Draws around the codes, (n_samples, J), and of which code each is, (n_samples,).

        Codes are drawn nearer to their mean by as much as the bandwidth widens them, so that variances stay as they
        are (Silverman 1986, section 6.4.1).
        """
        mean, var, weight = self._tensors(rng.device)
        place = torch.multinomial(weight, n_samples, replacement=True, generator=rng)
        eps = torch.randn(n_samples, mean.shape[1], generator=rng, dtype=mean.dtype, device=rng.device)
        centre, spread = _moments(mean, weight)
        wider = self.bandwidth * spread
        total = spread + (weight / weight.sum()) @ var
        shrunk = (total / (total + wider)).sqrt()
        z = centre + shrunk * (mean[place] - centre + (var[place] + wider).sqrt() * eps)
        return z, place.cpu().numpy()

    def _tensors(self, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
        """Means, variances and weights in float64."""
        mean, var, weight = (torch.tensor(v, device=device).double() for v in (self.mean, self.var, self.weight))
        return mean, var, weight

    def missing(self, place: np.ndarray, n_features: int) -> np.ndarray:
        """The cells that the rows of these codes lack: bool of shape (n, n_features)."""
        if self.gaps is None:
            return np.zeros((len(place), n_features), dtype=bool)
        return np.unpackbits(self.gaps[place], axis=1, count=n_features).astype(bool)


def _moments(mean: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The codes' weighted mean and variance, latent by latent: (J,) each."""
    share = weight / weight.sum()
    centre = share @ mean
    return centre, share @ (mean - centre).square()


def _bandwidth(mean: Tensor, var: Tensor, weight: Tensor, seed: int) -> float:
    """The one of `BANDWIDTHS` by which other rows' codes find draws of a row's posterior most likely; or 0.

    Some rows are judges, each without its own code and all copies of it. Where that gains no more than `WORTH` nats a
    row, posteriors overlap as they are, and to widen them would only blur what they know of each other.
    """
    known = AggregatedPosterior.of(mean, var, weight)
    if len(known.mean) < 2:
        return 0.0
    generator = make_generator(seed)
    some, judged_by = known.judges(generator)
    eps = torch.randn(len(some), mean.shape[1], generator=generator, dtype=mean.dtype, device="cpu")
    z, (_, spread) = known.mean[some] + known.var[some].sqrt() * eps, _moments(mean, weight)

    def others_find_likely(bandwidth: float) -> float:
        wider = known._replace(var=known.var + bandwidth * spread)
        return float(judged_by @ wider.log_prob(z, some))

    likely = {bandwidth: others_find_likely(bandwidth) for bandwidth in BANDWIDTHS}
    best = max(likely, key=likely.__getitem__)
    return best if likely[best] > likely[0.0] + WORTH else 0.0


def with_codes(fit: Fit, rows: TrainingRows, settings: FitSettings) -> Fit:
    """A fit, with the codes of a sample of the rows that it was made to."""
    some = _some(rows, fit.model.seed)
    codes = Codes.of(fit.model.inference(settings.device, 1), some.X, weights(some))
    return replace(fit, attributes=fit.attributes | {"_codes": codes.state})


def with_rows(fit: Fit, chunk: TrainingRows, earlier: dict[str, Any] | None, before: Inference | None) -> Fit:
    """A fit to one more chunk, with a sample of the rows of all: their codes change from chunk to chunk.

    `earlier` are the attributes that the chunk before left, `before` looks at rows as they do.
    """
    known = None
    if earlier is not None and before is not None:
        codes = earlier.get("_codes")
        known = known_rows(earlier.get("_reservoir"), None if codes is None else Codes(**codes), before)
    most = max(1, KEPT_NUMBERS // chunk.X.shape[1])
    sample = joined(known, Reservoir.of(chunk.X, chunk.weight, fit.model.seed), most)
    return replace(fit, attributes=fit.attributes | {"_reservoir": sample.state})


def known_rows(sample: dict[str, Any] | None, codes: Codes | None, inference: Inference) -> Reservoir | None:
    """A sample of the rows seen so far; of rows that `fit` has not kept, their decoded codes."""
    if sample is not None:
        return Reservoir(**sample)
    if codes is None:
        return None
    rows = None if codes.given is None else rows_of(codes.given, inference.model.likelihood.given_columns)
    X = inference.decoded(codes.mean, lambda model, z, x: model.mean(z, x), rows)
    X[codes.missing(np.arange(len(X)), X.shape[1])] = np.nan
    return Reservoir.of(X, codes.weight, inference.seed)


def joined(known: Reservoir | None, chunk: Reservoir, most: float = math.inf) -> Reservoir:
    """A sample of the rows of both, of `CODES` or `most`, whichever is less."""
    return (chunk if known is None else known.joined(chunk)).smallest(int(min(CODES, most)))


def weights(table: TrainingRows) -> Array:
    """What the rows weigh."""
    return np.ones(len(table)) if table.weight is None else table.weight


def _some(table: TrainingRows, seed: int) -> TrainingRows:
    """At most `CODES` of the rows, at random; runs of neighbours where single rows would cost as much as all."""
    rng, n_rows = np.random.default_rng(seed), table.n_all
    if n_rows <= CODES:
        return table.drawn(np.arange(n_rows))
    if not isinstance(table.X, RowSource):
        return table.drawn(np.sort(rng.choice(n_rows, CODES, replace=False)))
    size = CODES // RUNS
    firsts = size * np.sort(rng.choice(n_rows // size, RUNS, replace=False))
    return table.drawn((firsts[:, None] + np.arange(size)).ravel())


def fault(codes: Any, n_features: int, n_components: int) -> str | None:
    """What is wrong with saved codes, in words; None if nothing is."""
    if not isinstance(codes, dict) or codes.keys() != {field.name for field in fields(Codes)}:
        return "_codes are not means, variances, weights, gaps, given cells and a bandwidth"
    mean, var, weight, gaps, _, bandwidth = (codes[field.name] for field in fields(Codes))
    if not all(is_finite_array(values, "f") for values in (mean, var, weight)):
        return "_codes hold something that is not a finite number"
    n_codes = weight.size
    if not n_codes or weight.ndim != 1 or not mean.shape == var.shape == (n_codes, n_components):
        return f"_codes have the shapes {mean.shape}, {var.shape} and {weight.shape}"
    if not ((var > 0).all() and (weight > 0).all()):
        return "a code's variance or weight is not positive"
    if not isinstance(bandwidth, float) or not 0 <= bandwidth < math.inf:
        return "the codes' bandwidth is not a number from 0 on"
    packed = isinstance(gaps, np.ndarray) and gaps.dtype == np.uint8 and gaps.shape == (n_codes, -(-n_features // 8))
    return None if gaps is None or packed else "_codes hold gaps that are not a bit for each cell"
