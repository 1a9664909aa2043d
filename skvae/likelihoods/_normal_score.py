"""Numeric columns of any distribution, through the map that makes the column's own distribution normal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from .._math import LOG_2PI
from .._tables.batches import Batch
from .._tables.moments import MOST_EXPONENT, Array, Moments, Scale
from .._torch import double
from ._base import CellWeights, LikelihoodModule, LinearStart, NLLGradient, Standardised, as_arrays
from ._bounds import blocked
from ._cell_mass import log_mass, mass_bend, mass_slopes
from ._encoding import Encoding
from ._location_scale import FeatureNoise
from ._marginal import MOST_KNOTS, Column, best, fitted, most_edges

__all__ = ["NormalScore"]

# Columns whose mean is more than so many standard deviations from 0 are shifted; others are divided by a power of two
# alone, so that what was recorded comes back to the last digit.
FAR_FROM_ZERO = 32.0
# Cells that are narrower than this, in standard deviations of the least noise, have the density at their middle.
THIN = 1e-6
# Beyond this normal score the median of a cell is its nearer end: inverse distribution functions lose their digits.
FARTHEST = 6.0
# By how much of a step a value on the grid may seem to lie below it.
ROUNDED = 1e-3
# Numbers that a block of means takes at once.
MEAN_NUMBERS = 4_000_000


class NormalScore(Standardised):
    """Numbers of any distribution: Gaussian after the map that makes the column's own distribution normal.

    The map g is piecewise linear between knots at quantiles; values that are common (zeros, heaps, caps) have both
    edges of their cell as knots. A value x stands for the cell x +- step / 2 of the grid that the column was recorded
    on, and

        log p(x|z) = log[Phi((g(x + step/2) - m(z)) / s) - Phi((g(x - step/2) - m(z)) / s)] - log step.

    For a fine grid it is a density, for whole numbers a probability, with the nats of :class:`Gaussian` and of counts.
    How many knots a column has, or whether its map is that of a normal, log-normal or gamma distribution, is chosen by
    how likely either half of its rows is under a fit to the other half. Draws lie on the grid, and within the range of
    the training rows.

    Parameters
    ----------
    n_knots : int or "auto", default="auto"
        Into how many parts of equal mass a column is cut. "auto": 2 to 256, or a map of few parameters, whichever
        makes held-out rows of the column likeliest.
    noise_floor : float, default=1e-3
        The smallest noise variance, of normal scores, whose variance is 1.

    See Also
    --------
    Gaussian : A straight map.
    LogNormal : A logarithm.
    NegativeBinomial : Counts.

    Notes
    -----
    Maps are learnt from the table, from at most 50,000 of its rows, evenly spaced; in `partial_fit` from the first
    chunk. A distribution function has one row more than was seen, spread evenly over the range, and half a row beyond
    either end, where the tails are Gaussian. Rows are trained on in float32, in which a cell is at least 2^-22 of the
    column's largest value.

    References
    ----------
    Liu, H., Lafferty, J. and Wasserman, L. (2009). The nonparanormal: semiparametric estimation of high dimensional
    undirected graphs. Journal of Machine Learning Research 10, 2295-2328.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> rng = np.random.default_rng(0)
    >>> X = np.where(rng.random((500, 3)) < 0.4, 0.0, rng.gamma(2.0, 10.0, size=(500, 3)).round(1))
    >>> vae = VAETransformer(1, likelihood="normal_score", max_iter=5, random_state=0).fit(X)
    >>> drawn = vae.sample(1000, random_state=0)
    >>> bool((drawn >= 0).all()), bool((drawn == drawn.round(1)).all()), bool(abs((drawn == 0).mean() - 0.4) < 0.05)
    (True, True, True)
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {
        "n_knots": [Interval(Integral, 2, 2**12, closed="both"), StrOptions({"auto"})],
        "noise_floor": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(self, n_knots: int | str = "auto", *, noise_floor: float = 1e-3) -> None:
        self.n_knots = n_knots
        self.noise_floor = noise_floor

    def scale(self, moments: Moments) -> Scale:
        """Units are powers of two near the standard deviation."""
        mean, unit = super().scale(moments)[:2]
        exponent = np.rint(np.log2(unit)).clip(-MOST_EXPONENT, MOST_EXPONENT)
        with np.errstate(over="ignore"):
            far = np.abs(mean) / unit > FAR_FROM_ZERO
        return Scale(np.where(far, mean, 0.0), np.ldexp(1.0, exponent.astype(int)))

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        n_knots = None if isinstance(self.n_knots, str) else int(self.n_knots)
        return _NormalScoreModule(scale, self.noise_floor, encoding=_Scores(n_features, scale, n_knots))


class _Scores(Encoding):
    """The median normal score of a value's cell, standardised.

    What it learns of a column is kept in pairs of float32 numbers that add up to one in double precision.
    """

    edges: Tensor  # x at the knots of every column, ascending, (2, D, E)
    scores: Tensor  # normal scores there
    cell: Tensor  # what a value stands for, (2, D)
    grid: Tensor  # a `Grid`'s three numbers, (2, D, 3); zeros where there is none
    ends: Tensor  # the least and the largest value, (2, D, 2)
    centre: Tensor
    spread: Tensor

    def __init__(self, n_features: int, scale: Scale, n_knots: int | None):
        super().__init__(n_features, adds_in_seen=False)
        self.data_scale, self.n_knots = scale, n_knots
        self._maps: _Maps | None = None
        E = most_edges(MOST_KNOTS if n_knots is None else n_knots)
        line = torch.linspace(-8, 8, E, dtype=torch.float32).expand(n_features, E)
        both = {"edges": line, "scores": line, "cell": torch.ones(n_features, dtype=torch.float32)}
        both |= {name: torch.zeros(n_features, n, dtype=torch.float32) for name, n in (("grid", 3), ("ends", 2))}
        for name, first in both.items():
            self.register_buffer(name, torch.stack([first, torch.zeros_like(first)]))
        self.register_buffer("centre", torch.zeros(n_features, dtype=torch.float32))
        self.register_buffer("spread", torch.ones(n_features, dtype=torch.float32))

    def kept(self, name: str) -> Tensor:
        """One of the pairs, in double precision."""
        return double(getattr(self, name)).sum(0)

    @property
    def maps(self) -> _Maps:
        """What was learnt, ready for use: found once, until what is kept changes."""
        if self._maps is None:
            with torch.inference_mode(False), torch.no_grad():  # tensors that autograd may use, too
                self._maps = _Maps.of(*(self.kept(name) for name in ("edges", "scores", "cell", "ends", "grid")))
        return self._maps

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._maps = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._maps = None
        super()._load_from_state_dict(*args, **kwargs)

    @torch.no_grad()
    def fit_values(self, rows: Batch, copies: float) -> None:
        """Learn every column's map."""
        weight = None if rows.weight is None else copies * rows.weight.double().numpy()
        x = rows.x.double().numpy()
        present = np.ones_like(x, dtype=bool) if rows.mask is None else rows.mask.numpy() > 0
        shift, scale = self.data_scale[:2]
        for d in range(self.n_features):
            own = present[:, d]
            values = x[own, d] if own.any() else np.zeros(1)
            weighs = None if weight is None or not own.any() else weight[own]
            self._learn(d, Column.of(values, weighs, shift[d], scale[d]))

    def _learn(self, d: int, column: Column) -> None:
        found = fitted(column, self.n_knots or best(column)).within(column)
        n_rest = self.edges.shape[-1] - len(found.edges)
        for name, values in (("edges", found.edges), ("scores", found.scores)):
            # Beyond the last knot the tail goes on.
            rest = values[-1] + (values[-1] - values[-2]) * np.arange(1, n_rest + 1)
            self._keep(name, d, np.append(values, rest))
        self._keep("cell", d, np.array(column.cell))
        self._keep("grid", d, np.zeros(3) if column.grid is None else np.array(column.grid))
        self._keep("ends", d, column.values[[0, -1]])
        seen = self._medians(torch.tensor(column.values)[:, None], slice(d, d + 1)).numpy()[:, 0]
        mean = np.average(seen, weights=column.weight)
        std = np.sqrt(np.average((seen - mean) ** 2, weights=column.weight))
        self.centre[d], self.spread[d] = mean, std if std > 0 else 1.0

    def _keep(self, name: str, d: int, values: Array) -> None:
        first = values.astype(np.float32)
        self._maps = None
        getattr(self, name)[:, d] = torch.tensor(np.stack([first, (values - first).astype(np.float32)]))

    def cells(self, x: Tensor, columns: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Middle and half width, in normal scores, of the cells that x (..., D) stands for."""
        maps, ends, bins = self.maps, [], []
        edges, scores, slope, half = (v[columns] for v in (maps.edges, maps.scores, maps.slope, maps.half))
        for end, right in ((x - half, True), (x + half, False)):
            k = _bins(edges, end, right)
            ends.append(_at(scores, k) + (end - _at(edges, k)) * _at(slope, k))
            bins.append(k)
        # Within one bin the width is known without a difference.
        width = torch.where(bins[0] == bins[1], half * _at(slope, bins[0]), 0.5 * (ends[1] - ends[0]))
        return 0.5 * (ends[0] + ends[1]), width

    def _medians(self, x: Tensor, columns: slice = slice(None)) -> Tensor:
        """The normal score that halves a cell's mass, from the side where both ends are below 0."""
        middle, half = self.cells(double(x), columns)
        turn = torch.where(middle > 0, -1.0, 1.0)
        low, high = (turn * middle - half).clamp_min(-FARTHEST), (turn * middle + half).clamp_min(-FARTHEST)
        beyond = (turn * middle + half + FARTHEST).clamp_max(0)
        share = 0.5 * (torch.special.ndtr(low) + torch.special.ndtr(high))
        return turn * (torch.special.ndtri(share) + beyond)

    def encode(self, x: Tensor) -> Tensor:
        return ((self._medians(x) - self.centre) / self.spread).to(x.dtype)

    def decode(self, seen: Tensor) -> Tensor:
        return self.value(double(seen) * self.spread + self.centre).to(seen.dtype)

    def value(self, score: Tensor) -> Tensor:
        """x as it would have been recorded, of this normal score: (..., D) both."""
        maps = self.maps
        k = _bins(maps.scores, score, right=True)
        share = ((score - _at(maps.scores, k)) / _at(maps.width, k)).clamp(0, 1)
        x = _at(maps.low, k) + share * (_at(maps.high, k) - _at(maps.low, k))
        return self.recorded(x.clamp(*maps.ends.unbind(-1)))

    def recorded(self, x: Tensor, to_whole: Callable[[Tensor], Tensor] = torch.round) -> Tensor:
        """The nearest value on the grid, or the one that `to_whole` chooses."""
        step, parts, offset = self.maps.grid.unbind(-1)
        shift, scale = (torch.as_tensor(part, dtype=x.dtype, device=x.device) for part in self.data_scale[:2])
        X = x * scale + shift
        whole = to_whole((X * parts - offset) / step.clamp_min(torch.finfo(step.dtype).tiny))
        on_grid = (whole * step + offset) / parts
        return torch.where(step > 0, (on_grid - shift) / scale, x)

    def thin(self, floor: float) -> np.ndarray:
        """The columns all of whose cells are too narrow for the noise to vary within, (D,)."""
        maps, half = self.maps, self.maps.half[:, None]
        inside = (maps.edges[:, 1:] > maps.ends[:, :1] - 2 * half) & (maps.edges[:, :-1] < maps.ends[:, 1:] + 2 * half)
        return ((maps.slope * inside).amax(-1) * maps.half < THIN * floor**0.5).cpu().numpy()


class _Maps(NamedTuple):
    """Every column's map, in double precision.

    Attributes
    ----------
    edges, scores : Tensor of shape (D, E)
    half : Tensor of shape (D,)
        Half of a cell.
    ends : Tensor of shape (D, 2)
    grid : Tensor of shape (D, 3)
    width, slope : Tensor of shape (D, E - 1)
        Of every bin: how wide it is in normal scores, and that over its width in x.
    low, high : Tensor of shape (D, E - 1)
        What lies at either end of a bin, before it is rounded: one value in a heap's cell, and beyond the range.
    """

    edges: Tensor
    scores: Tensor
    half: Tensor
    ends: Tensor
    grid: Tensor
    width: Tensor
    slope: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, edges: Tensor, scores: Tensor, cell: Tensor, ends: Tensor, grid: Tensor) -> _Maps:
        half, width, low, high = cell[:, None] / 2, scores.diff(dim=-1), edges[:, :-1], edges[:, 1:]
        middle = 0.5 * (low + high)
        below, above = middle < ends[:, :1] - half, middle > ends[:, 1:] + half
        fixed = torch.where(below, ends[:, :1], torch.where(above, ends[:, 1:], middle))
        heap = below | above | (high - low < 2.5 * half)
        pieces = torch.where(heap, fixed, low), torch.where(heap, fixed, high)
        return cls(edges, scores, cell / 2, ends, grid, width, width / (high - low), *pieces)

    def bends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Knots (D, K), and by how much x jumps there, and its slope changes: (D, K) both."""
        jump, bend = self.low[:, 1:] - self.high[:, :-1], ((self.high - self.low) / self.width).diff(dim=-1)
        if torch.compiler.is_exporting():  # shapes do not depend on values there
            return self.scores[:, 1:-1], jump, bend
        used = (jump.abs() + bend.abs() > 0).any(0)
        return self.scores[:, 1:-1][:, used], jump[:, used], bend[:, used]


def _bins(edges: Tensor, x: Tensor, right: bool) -> Tensor:
    """Between which two of the edges (D, E) x (..., D) lies; beyond them, the outermost ones."""
    flat = x.reshape(-1, x.shape[-1]).T.contiguous()
    found = torch.searchsorted(edges[:, 1:-1].contiguous(), flat, right=right)
    return found.T.reshape(x.shape)


def _at(table: Tensor, k: Tensor) -> Tensor:
    """Every column's k-th number: of (D, E) at (..., D)."""
    return table[torch.arange(len(table), device=k.device), k]


class _NormalScoreModule(FeatureNoise):
    """Normal scores have a normal noise, of which a value has what falls into its cell."""

    encoding: _Scores

    @property
    def reads_values(self) -> bool:
        return True

    def fit_values(self, rows: Batch, copies: float) -> None:
        self.encoding.fit_values(rows, copies)

    def log_cell(self) -> Tensor:
        """The logarithm of what a value stands for, in data units: (D,)."""
        return (2 * self.encoding.maps.half).log() + self.log_scale

    def log_prob(self, outputs: Tensor, x: Tensor) -> Tensor:
        mean, log_var = self.split(outputs)
        middle, half = self.encoding.cells(double(x))
        precision = torch.exp(-0.5 * double(log_var))
        found = log_mass((middle - mean) * precision, half * precision) - self.log_cell()
        return found.to(outputs.dtype)

    def bends(self, outputs: Tensor, x: Tensor) -> Tensor:
        mean, log_var = self.split(outputs)
        middle, half = self.encoding.cells(double(x))
        precision = torch.exp(-0.5 * double(log_var))
        return (precision.square() * mass_bend((middle - mean) * precision, half * precision)).to(outputs.dtype)

    def cdf(self, outputs: Tensor, x: Tensor) -> Tensor:
        """Of rows as they are drawn, within the range and on the grid."""
        mean, log_var = self.split(outputs)
        below = self.encoding.recorded(double(x), lambda place: torch.floor(place + ROUNDED))
        middle, half = self.encoding.cells(below)
        found = torch.special.ndtr((middle + half - mean) * torch.exp(-0.5 * double(log_var)))
        (least, most), near = self.encoding.maps.ends.unbind(-1), self.encoding.maps.half / 2
        found = torch.where(below > most - near, 1.0, found)
        return torch.where(below < least - near, 0.0, found).to(outputs.dtype)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x|z] before x is rounded to its grid.

        A bin's x is straight in its normal score, so that every knot adds a jump times Phi(d), and a change of slope
        times s (phi(d) + d Phi(d)), where d is how many deviations s the mean lies above it.
        """
        return self._means(*self.split(outputs), slice(None))

    def expected_in_gaps(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return self.expected(outputs)
        mean, log_var = self.split(outputs)
        found = torch.zeros_like(mean)
        for column, missing in enumerate((mask == 0).unbind(-1)):
            own = slice(column, column + 1)
            found[..., missing, own] = self._means(mean[..., missing, own], log_var, own)
        return found

    def _means(self, mean: Tensor, log_var: Tensor, columns: slice) -> Tensor:
        """`mean` of some columns, from their scores' means (..., columns) and all columns' variances."""
        maps = self.encoding.maps
        knots, jump, bend, start = (values[columns] for values in (*maps.bends(), maps.low[:, 0]))
        std = torch.exp(0.5 * double(log_var[columns]))[..., None]
        size = max(1, MEAN_NUMBERS // max(1, knots.numel()))
        flat = double(mean).reshape(-1, len(knots))
        found = []
        for part in (flat,) if torch.compiler.is_exporting() else flat.split(size):
            d = (part[..., None] - knots) / std
            below, density = torch.special.ndtr(d), torch.exp(-0.5 * (d * d + LOG_2PI))
            found.append(start + (jump * below + bend * std * (density + d * below)).sum(-1))
        return torch.cat(found).reshape(mean.shape).to(mean.dtype)

    def variance(self, outputs: Tensor) -> Tensor | None:
        return None

    def sample(self, outputs: Tensor, rng: torch.Generator) -> Tensor:
        mean, log_var = self.split(outputs)
        score = mean + torch.exp(0.5 * log_var) * self.shape.draw(mean, rng)
        return self.encoding.value(double(score)).to(outputs.dtype)

    def encoded_mean(self, outputs: Tensor) -> Tensor:
        """The mean score."""
        return (self.split(outputs)[0] - self.encoding.centre) / self.encoding.spread

    def linear_start(self) -> LinearStart:
        """A value's part in a cell is not normal in what the encoder sees."""
        return replace(super().linear_start(), log_volume=None)

    def more(self, x: Tensor) -> Tensor:
        """Middle and logarithm of the width of every cell, in normal scores."""
        middle, half = self.encoding.cells(double(x))
        return torch.cat([middle, (2 * half).log()], dim=-1).to(x.dtype)

    def gradient(self, xp: Any) -> NLLGradient:
        assert self.log_noise.grad is not None
        arrays = as_arrays(xp, self.log_noise, self.log_noise.grad, self.bound(), self.log_cell().to(self.log_noise))
        value, grad, bound, log_cell = arrays
        n, wide = self.n_features, np.flatnonzero(~self.encoding.thin(self.noise_floor))

        def nll_gradient(outputs: Any, rows: Any, cells: CellWeights) -> tuple[Any, Any]:
            log_var = xp.maximum(value, bound)
            middle, log_width = rows[:, n : 2 * n], rows[:, 2 * n :]
            kept = outputs[:, wide] + 0.0 if len(wide) else None
            residual = xp.subtract(outputs, middle, out=outputs)
            slope, work, _ = self.shape.weigh(xp, residual, log_var, cells.mass)
            total = work.sum(-2)[..., None, :]
            by_log_var, unit = 0.5 * (cells.total - total), log_cell + 0.5 * (log_var + LOG_2PI)
            if kept is None:
                nll = cells.total * unit + 0.5 * total - (cells.mass * log_width).sum(-2)[..., None, :]
            else:
                nll = cells.mass * (unit - log_width) + 0.5 * work
                mass = cells.mass if cells.mass.shape[-1] == 1 else cells.mass[:, wide]
                found = _of_cells(xp, kept, middle[:, wide], log_width[:, wide], log_var[wide], mass)
                own, slope[:, wide], by_log_var[..., wide] = (_cast(values, slope) for values in found)
                nll[:, wide] = own + mass * log_cell[wide]
            grad[...] = by_log_var.reshape(grad.shape)
            grad[blocked(value, grad, bound)] = 0.0
            return nll, slope

        return nll_gradient


def _of_cells(xp: Any, mean: Any, middle: Any, log_width: Any, log_var: Any, mass: Any) -> tuple[Any, Any, Any]:
    """-log mass of cells, its slope over the mean, and that over the log variance, summed: times what cells count."""
    mean, middle, log_width, log_var = map(double, (mean, middle, log_width, log_var))
    precision = xp.exp(-0.5 * log_var)
    u, w = (middle - mean) * precision, 0.5 * xp.exp(log_width) * precision
    found = log_mass(u, w)
    shift, growth = mass_slopes(u, w, found)
    return -mass * found, mass * shift * precision, (0.5 * mass * growth).sum(-2)[..., None, :]


def _cast(values: Any, like: Any) -> Any:
    """In the precision of `like`, tensors or numpy arrays both."""
    return values.to(like.dtype) if isinstance(values, Tensor) else values.astype(like.dtype)
