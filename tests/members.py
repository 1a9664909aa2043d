"""Every likelihood, a table in its support, and the same p(x|z) by scipy: what tests of likelihoods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from helpers import column_moments, seeded
from scipy import stats
from scipy.special import expit, log_ndtr, log_softmax, ndtr

from skvae import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    JohnsonSU,
    Laplace,
    LogNormal,
    Mixed,
    NegativeBinomial,
    NormalScore,
    Poisson,
    StudentT,
)
from skvae._tables.batches import to_rows
from skvae._tables.moments import Scale
from skvae.likelihoods._categorical import FLOOR

SIZES = [2, 3, 4]
MEMBERS = {
    "feature": Gaussian(),
    "shared": Gaussian(noise="shared"),
    "decoder": Gaussian(noise="decoder"),
    "johnson_su": JohnsonSU(),
    "student_t": StudentT(df=5.0),
    "laplace": Laplace(),
    "log_normal": LogNormal(),
    "bernoulli": Bernoulli(),
    "continuous_bernoulli": ContinuousBernoulli(),
    "poisson": Poisson(),
    "negative_binomial": NegativeBinomial(),
    "categorical": Categorical(SIZES),
    "normal_score": NormalScore(n_knots=8),
    "mixed": Mixed(
        [
            (Gaussian(noise="decoder"), [4, 1]),
            (Categorical([3]), [0]),
            ("negative_binomial", [3]),
            ("log_normal", [2]),
            ("bernoulli", [5]),
        ]
    ),
}
# What the columns of a member's table hold; a whole number stands for so many categories, others for a grid's step.
KINDS = {
    **dict.fromkeys(["feature", "shared", "decoder", "johnson_su", "student_t", "laplace"], ["real"] * 3),
    "log_normal": ["positive"] * 3,
    "bernoulli": [2] * 3,
    "continuous_bernoulli": ["unit"] * 3,
    "poisson": ["count"] * 3,
    "negative_binomial": ["count"] * 3,
    "categorical": SIZES,
    "normal_score": [0.5, 1.0, 25.0],
    "mixed": [3, "real", "positive", "count", "real", 2],
}


def table(name: str, n_rows: int = 50, seed: int = 0) -> np.ndarray:
    """Rows within the member's support."""
    rng = np.random.default_rng(seed)
    if name == "mixed":
        parts = ["categorical", "feature", "log_normal", "negative_binomial", "feature", "bernoulli"]
        tables = [table(part, n_rows, seed + i) for i, part in enumerate(parts)]
        return np.column_stack([t[:, i] for t, i in zip(tables, [1, 0, 1, 1, 2, 0], strict=True)])
    if name == "bernoulli":
        return (rng.random((n_rows, 3)) < [0.2, 0.5, 0.8]).astype(float)
    if name == "continuous_bernoulli":
        X = rng.beta(1, [1.0, 3.0, 0.5], size=(n_rows, 3))
        X[0], X[1] = 0.0, 1.0
        return X
    if name == "categorical":
        return np.column_stack([rng.integers(size, size=n_rows) for size in SIZES]).astype(float)
    if name in ("poisson", "negative_binomial"):
        mean = np.array([0.5, 4.0, 50.0])
        varies = rng.gamma(2.0, 0.5, (n_rows, 3)) if name == "negative_binomial" else np.ones((n_rows, 3))
        return rng.poisson(mean * varies).astype(float)
    X = rng.normal(size=(n_rows, 3))
    if name == "normal_score":  # a grid that begins beside 0, zeros and a cap, amounts far from 0
        heaps = np.clip(np.round(8 * X[:, 1]), 0, 12)
        return np.column_stack([np.round(8 * X[:, 0]) / 2 + 0.25, heaps, 25 * np.round(X[:, 2] * 9) + 40_000])
    if name == "log_normal":
        return np.exp(X * [0.2, 0.4, 0.6] + [0.0, -3.0, 5.0])
    return X * [0.5, 2.0, 30.0] + [1.0, -5.0, 1000.0]


def columns_of(member, X: np.ndarray, weight: np.ndarray | None = None):
    """The density for table X in float64 with its own start, its scale, and the rows in model units."""
    scale = member.scale(column_moments(X, weight))
    rows = to_rows(X, scale, weight, dtype=torch.float64)
    density = member.build(X.shape[1], scale).double()
    density.fit(rows)
    return density, scale, rows


def density_of(name: str, X: np.ndarray, weight: np.ndarray | None = None):
    """`columns_of` a member by its name, with noise away from its start."""
    density, scale, rows = columns_of(MEMBERS[name], X, weight)
    for p in density.parameters():
        p.data = torch.linspace(-1.5, 0.5, p.numel(), dtype=torch.float64)
    return density, scale, rows


def unit_of(density) -> float:
    """What the decoder's means are multiplied by, in model units."""
    return float(getattr(density, "unit", 1.0))


def outputs_for(density, *shape: int, seed: int = 0) -> torch.Tensor:
    rng = seeded(seed)
    return torch.randn(*shape, density.n_params, generator=rng, dtype=torch.float64)


class Oracle(NamedTuple):
    """A distribution in data units, cell by cell."""

    log_p: Callable
    cdf: Callable
    mean: np.ndarray
    std: np.ndarray


def oracle(member, density, scale: Scale, outputs) -> Oracle:
    """The same p(x|z) by scipy."""
    o = np.asarray(outputs)
    match member:
        case Mixed():
            return _side_by_side(member, density, scale, o)
        case Categorical():
            return _categories(member.n_categories, o, density.encoding.column_mean.numpy())
        case ContinuousBernoulli():
            return _truncated_exponential(o)
        case Bernoulli():
            return _frozen(stats.bernoulli(expit(o)))
        case Poisson():
            return _frozen(stats.poisson(np.exp(o)))
        case NegativeBinomial():
            r = np.exp(-density.log_dispersion.detach().numpy())
            return _frozen(stats.nbinom(r, r / (r + np.exp(o))))
        case JohnsonSU():
            return _frozen(johnson_su(density, scale, o))
        case NormalScore():
            return _normal_scores(density, scale, o)
        case LogNormal():
            centre, spread = density.encoding.centre.numpy(), density.encoding.spread.numpy()
            return _frozen(stats.lognorm(noise_std(density) * spread, scale=np.exp(centre + spread * o) * scale.scale))
        case Gaussian(noise="decoder"):
            mean, raw = np.split(o, 2, axis=-1)
            std = np.exp(0.5 * np.maximum(raw, density.log_floor.numpy()))
            return _frozen(stats.norm(mean * scale.scale + scale.shift, std * scale.scale))
    mean, std = unit_of(density) * o * scale.scale + scale.shift, noise_std(density) * scale.scale
    match member:
        case Gaussian():
            return _frozen(stats.norm(mean, std))
        case StudentT():
            return _frozen(stats.t(member.df, mean, std * np.sqrt((member.df - 2) / member.df)))
        case Laplace():
            return _frozen(stats.laplace(mean, std / np.sqrt(2)))
    raise AssertionError(member)


def noise_std(density) -> np.ndarray:
    """Of a learnt noise, in the units of the decoder's mean."""
    return np.exp(0.5 * np.maximum(density.log_noise.detach().numpy(), density.log_floor.numpy()))


def johnson_su(density, scale: Scale, outputs: np.ndarray):
    """scipy's Johnson SU: a + b arcsinh((X - loc) / scale) is standard normal."""
    centre, spread, unit = density.encoding.centre.numpy(), density.encoding.spread.numpy(), density.unit.numpy()
    b = density.encoding.tail / (spread * noise_std(density))
    a = -(centre + spread * unit * outputs) / (spread * noise_std(density))
    return stats.johnsonsu(a, b, loc=scale.shift, scale=density.encoding.tail * scale.scale)


def _normal_scores(density, scale: Scale, means: np.ndarray) -> Oracle:
    """By numpy's interpolation between the knots, cell by cell, and by quadrature between them."""
    maps, std = density.encoding, noise_std(density)
    edges, scores, cell, ends = (maps.kept(name).numpy() for name in ("edges", "scores", "cell", "ends"))

    def score(x):
        """Straight between knots and beyond them, (..., D)."""
        found = np.empty_like(x)
        for d in range(x.shape[-1]):
            slope = np.diff(scores[d]) / np.diff(edges[d])
            inside = np.interp(x[..., d], edges[d], scores[d])
            below, above = np.minimum(x[..., d] - edges[d, 0], 0), np.maximum(x[..., d] - edges[d, -1], 0)
            found[..., d] = inside + below * slope[0] + above * slope[-1]
        return found

    def log_p(X):
        x = scale.to_model(X)
        low, high = ((score(x + side * cell / 2) - means) / std for side in (-1, 1))
        turn = low + high > 0  # the side on which distribution functions keep their digits
        low, high = np.where(turn, -high, low), np.where(turn, -low, high)
        with np.errstate(divide="ignore"):
            log_mass = log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high)))
        return log_mass - np.log(cell * scale.scale)

    def cdf(X):
        x = scale.to_model(X)
        return np.where(x > ends[:, 1] - cell / 4, 1.0, ndtr((score(x + cell / 2) - means) / std))

    def moment(power):
        """Of what a score stands for: a heap's value, else straight, within the range."""
        total = np.zeros(np.broadcast_shapes(means.shape, std.shape))
        points, weights = np.polynomial.legendre.leggauss(200)
        for d in range(len(edges)):
            low, high = edges[d, :-1].copy(), edges[d, 1:].copy()
            heap = high - low < 1.25 * cell[d]
            low[heap] = high[heap] = (0.5 * (low + high))[heap]
            first = np.flatnonzero(edges[d] < ends[d, 0] - cell[d] / 4)[-1]
            low[:first] = high[:first] = ends[d, 0]
            last = np.flatnonzero(edges[d] > ends[d, 1] + cell[d] / 4)[0]
            low[last:] = high[last:] = ends[d, 1]
            for k in range(len(low)):
                bottom = scores[d, k] if k else -40.0
                top = min(scores[d, k + 1], 40.0)
                if bottom >= top:
                    break
                y = bottom + (points + 1) / 2 * (top - bottom)
                share = np.clip((y - scores[d, k]) / (scores[d, k + 1] - scores[d, k]), 0, 1)
                X = scale.shift[d] + scale.scale[d] * (low[k] + share * (high[k] - low[k]))
                density_at = stats.norm.pdf(y, means[..., d, None], std[d]) * weights * (top - bottom) / 2
                total[..., d] += (density_at * X**power).sum(-1)
        return total

    return Oracle(log_p, cdf, moment(1), np.sqrt(moment(2) - moment(1) ** 2))


def _frozen(found) -> Oracle:
    log_p = found.logpdf if isinstance(found.dist, stats.rv_continuous) else found.logpmf
    return Oracle(log_p, found.cdf, found.mean(), found.std())


def _truncated_exponential(logit: np.ndarray) -> Oracle:
    """exp(logit x) on [0, 1] is a truncated exponential distribution, of 1 - x where the logit is positive."""
    found, turned = stats.truncexpon(np.abs(logit), scale=1 / np.abs(logit)), logit > 0
    return Oracle(
        lambda X: found.logpdf(np.where(turned, 1 - X, X).clip(max=1 - 1e-15)),  # scipy's end is rounded
        lambda X: np.where(turned, found.sf(1 - X), found.cdf(X)),
        np.where(turned, 1 - found.mean(), found.mean()),
        found.std(),
    )


def _categories(sizes, outputs: np.ndarray, shares: np.ndarray) -> Oracle:
    """Codes 0, 1, ... of each column, by the softmax of its logits and a little of its shares."""
    ends = np.cumsum(sizes)[:-1]
    pairs = zip(np.split(outputs, ends, axis=-1), np.split(shares, ends), strict=True)
    log_p = [np.logaddexp(np.log1p(-FLOOR) + log_softmax(o, axis=-1), np.log(FLOOR * own)) for o, own in pairs]
    mean = np.stack([np.exp(part) @ np.arange(part.shape[-1]) for part in log_p], -1)
    square = np.stack([np.exp(part) @ np.arange(part.shape[-1]) ** 2 for part in log_p], -1)

    def of_codes(parts, X):
        """Each part (..., N, K) at the codes of its column."""
        shape = np.broadcast_shapes(X.shape[:-1], outputs.shape[:-1])
        found = []
        for d, part in enumerate(parts):
            code = np.broadcast_to(X[..., d], shape).astype(int)
            found.append(np.take_along_axis(np.broadcast_to(part, (*shape, part.shape[-1])), code[..., None], -1))
        return np.concatenate(found, axis=-1)

    return Oracle(
        lambda X: of_codes(log_p, X),
        lambda X: of_codes([np.exp(part).cumsum(-1) for part in log_p], X),
        mean,
        np.sqrt(square - mean**2),
    )


def _side_by_side(mixed: Mixed, density, scale: Scale, outputs: np.ndarray) -> Oracle:
    ends = np.cumsum([part.n_params for part in density.members])[:-1]
    named = {"negative_binomial": NegativeBinomial(), "log_normal": LogNormal(), "bernoulli": Bernoulli()}
    found = []
    for (member, columns), part, own in zip(
        mixed.members, density.members, np.split(outputs, ends, axis=-1), strict=True
    ):
        units = Scale(np.asarray(scale.shift)[columns], np.asarray(scale.scale)[columns])
        found.append(
            (oracle(named.get(member, member) if isinstance(member, str) else member, part, units, own), columns)
        )

    def in_place(values):
        """The members' columns in the order of columns, whatever rows each depends on."""
        order = np.argsort([column for _, columns in found for column in columns])
        rows = np.broadcast_shapes(*[value.shape[:-1] for value in values])
        return np.concatenate([np.broadcast_to(v, (*rows, v.shape[-1])) for v in values], -1)[..., order]

    return Oracle(
        lambda X: in_place([one.log_p(X[..., columns]) for one, columns in found]),
        lambda X: in_place([one.cdf(X[..., columns]) for one, columns in found]),
        in_place([one.mean for one, _ in found]),
        in_place([one.std for one, _ in found]),
    )
