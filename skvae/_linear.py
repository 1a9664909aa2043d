"""The linear model in closed form: where training starts, and the baseline it must not fall below.

x = W z + noise, z ~ N(0, I), noise ~ N(0, diag(psi)), on centred rows with covariance S. With one noise
variance this is probabilistic PCA (Tipping & Bishop 1999), with one per feature it is factor analysis. W is turned so
that W' psi^-1 W is diagonal; then the exact posterior has a diagonal covariance and a VAE's encoder can hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, optimize
from sklearn.utils import gen_batches
from sklearn.utils.extmath import randomized_svd

from ._eigen import fix_signs, of_few_rows, of_products, without_negative
from ._ranks import is_shared
from ._tables.moments import Array, sum_rows

__all__ = [
    "Covariance",
    "LinearGaussian",
    "LinearMaps",
    "PartCovariance",
    "Regression",
    "factor_analysis",
    "probabilistic_pca",
]

# Up to this many columns the covariance is formed and its eigenvectors are exact.
EXACT_COLUMNS = 2000
# From so many columns on, and half as many rows at most, eigenvectors are found by way of the rows' products.
MANY_COLUMNS = 200
# Numbers that a block of rows with gaps may hold.
BLOCK_NUMBERS = 4_000_000
# Rows with gaps: steps of expectation-maximisation, and products a step may take (rows are left out evenly beyond).
EM_STEPS, EM_PRODUCTS = 10, 1_000_000_000
# Numbers that their sums over rows may hold; where latents are too many, the covariance has to do.
EM_NUMBERS = 20_000_000
# The noise that those steps begin with, at least, as a share of the columns' mean variance.
EM_NOISE = 0.1


Block = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


class Covariance:
    """The weighted covariance of centred rows with gaps, and its leading eigenvectors after a rescaling.

    Gaps: every pair of columns is averaged over the rows that hold both, which is unbiased when cells are missing
    completely at random, and negative eigenvalues are cut off. With more than `EXACT_COLUMNS` columns a gap counts as
    the column's mean instead.

    Parameters
    ----------
    blocks : callable
        Returns an iterator over blocks of rows: centred rows (n, D), 0 in missing cells; 1 where a cell is present,
        (n, D), or None when all are; and weights (n,) or None.
    n_rows, n_columns : int
    noise : float or array of shape (n_columns,), default=0.0
        Variance that independent noise adds to the columns.

    Attributes
    ----------
    regression : Regression or None
        What was taken out of the rows: the blocks are what it leaves.
    """

    regression: Regression | None = None

    def __init__(self, blocks: Callable[[], Iterator[Block]], n_rows: int, n_columns: int, noise: float | Array = 0.0):
        self.blocks, self.n_rows, self.n_columns, self.noise = blocks, n_rows, n_columns, noise
        self.exact = self.by_pairs = n_columns <= EXACT_COLUMNS

    @classmethod
    def of(cls, x: np.ndarray, present: np.ndarray | None = None, weight: np.ndarray | None = None) -> Covariance:
        """The covariance of rows in one block."""
        return cls(lambda: iter([(x, present, weight)]), *x.shape)

    # Computed when first asked for: a random start of a large table needs none of it.

    def _rooted(self) -> Iterator[tuple[Array, Array | None, float]]:
        """Blocks in float64, times the square root of the rows' weights, with the blocks' total weights."""
        for x, present, weight in self.blocks():
            x = x.astype(np.float64)
            present = None if present is None else present.astype(np.float64)
            if weight is None:
                yield x, present, float(len(x))
                continue
            root = np.sqrt(weight, dtype=np.float64)[:, None]
            yield x * root, root * (np.ones_like(x) if present is None else present), float((root**2).sum())

    @cached_property
    def _sums(self) -> tuple[Array, Array, bool]:
        """Sums of products of columns, the weight of the rows that hold both, and whether a cell is missing.

        Of every pair of columns, (D, D), where there are few; of many, each column's with itself, (D,). The weight is
        one number where no cell is missing.
        """
        pairs: Any = (lambda a: a.T @ a) if self.by_pairs else (lambda a: (a**2).sum(axis=0))

        def partial(block: tuple[Array, Array | None, float]) -> tuple[Array, Array | float, np.bool_]:
            x, present, total = block
            return pairs(x), *((total, np.False_) if present is None else (pairs(present), (present == 0).any()))

        products, mass, has_gaps = sum_rows(self._rooted(), partial)
        return products, np.maximum(mass, np.finfo(float).tiny), bool(has_gaps)

    @cached_property
    def _few_rows(self) -> Array | None:
        """Rows whose products with themselves are the covariance without its noise; None elsewhere.

        That of rows with gaps, averaged pair by pair, has no such rows.
        """
        few = self.n_columns > MANY_COLUMNS and 2 * self.n_rows <= self.n_columns
        if not (self.exact and few) or self.has_gaps or is_shared():
            return None
        # No cell is missing, so that every pair of columns is held by all the weight.
        return np.concatenate([x for x, _, _ in self._rooted()]) / np.sqrt(np.max(self._sums[1]))

    @property
    def n_varying(self) -> int:
        """How many columns are not given."""
        return self.n_columns - (0 if self.regression is None else len(self.regression.given))

    @property
    def has_gaps(self) -> bool:
        """Whether a cell is missing."""
        return self._sums[2]

    @property
    def diagonal(self) -> Array:
        """Variance of each column."""
        squares, mass = (sums.diagonal() if sums.ndim == 2 else sums for sums in self._sums[:2])
        return squares / mass + self.noise

    @cached_property
    def matrix(self) -> Array:
        """The covariance, (D, D), of at most `EXACT_COLUMNS` columns."""
        products, mass, has_gaps = self._sums
        found = products / mass
        found = without_negative(found) if has_gaps else found
        return found + np.diag(np.broadcast_to(self.noise, self.n_columns))

    def _rooted_product(self, v: Array) -> Array:
        """Sums over rows of x x'v, of the weighted rows x of all ranks: (D,)."""
        return sum_rows(self._rooted(), lambda block: block[0].T @ (block[0] @ v))

    def leading(self, k: int, scale: Array) -> tuple[Array, Array]:
        """The k largest eigenvalues (descending) and eigenvectors (D, k) of diag(1/scale) S diag(1/scale)."""
        if k == 0:
            return np.empty(0), np.empty((self.n_columns, 0))
        if self._few_rows is not None:
            values, vectors = of_few_rows(self._few_rows, self.noise, k, scale)
        elif self.exact:
            scaled = self.matrix / scale / scale[:, None]
            first, last = self.n_columns - k, self.n_columns - 1
            # Many eigenvectors come sooner by divide and conquer, with all the others.
            few = k <= self.n_columns // 6
            values, vectors = linalg.eigh(scaled, **{"subset_by_index": (first, last)} if few else {"driver": "evd"})
            values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
        elif is_shared():
            unit = np.sqrt(self._sums[1]) * scale
            values, vectors = of_products(self._rooted_product, unit, k)
            values = values + ((vectors.T / scale) ** 2 * self.noise).sum(axis=1)
        else:
            rows = np.concatenate([x for x, _, _ in self._rooted()])
            _, singular, vt = randomized_svd(rows / np.sqrt(self._sums[1]) / scale, k, random_state=0)
            values, vectors = singular**2 + ((vt / scale) ** 2 * self.noise).sum(axis=1), vt.T
        return np.maximum(values, 0.0), fix_signs(vectors)


class PartCovariance(Covariance):
    """The same where only some columns, `kept`, vary together: the others take time in proportion to their number."""

    def __init__(self, blocks: Callable[[], Iterator[Block]], n_rows: int, noise: Array, kept: np.ndarray):
        super().__init__(blocks, n_rows, len(noise), noise)

        def some() -> Iterator[Block]:
            for x, present, weight in blocks():
                yield x[:, kept], None if present is None else present[:, kept], weight

        self.kept, self.among = kept, Covariance(some, n_rows, len(kept), noise[kept])
        self.exact, self.by_pairs = self.among.exact, False

    def leading(self, k: int, scale: Array) -> tuple[Array, Array]:
        found, vectors = self.among.leading(min(k, len(self.kept)), scale[self.kept])
        values, all_vectors = np.zeros(k), np.zeros((self.n_columns, k))
        values[: len(found)] = found
        all_vectors[self.kept, : len(found)] = vectors
        return values, all_vectors


class Regression:
    """Least squares of all columns on those that are given, and on 1: x = intercept + coefficients x_given + rest.

    Every column is regressed on the rows that hold it, with a standard normal prior on the coefficients: a row of a
    category of its own does not decide. Where there are too many products for that, a gap counts as the column's mean.

    Parameters
    ----------
    blocks : callable
        As in `Covariance`.
    given : ndarray of int of shape (C,)
        Columns without gaps.
    """

    def __init__(self, blocks: Callable[[], Iterator[Block]], given: np.ndarray):
        self.blocks, self.given = blocks, given

    @cached_property
    def _solved(self) -> tuple[Array, Array]:
        """Intercept and coefficients, (D, C + 1), and the covariance of what is given, (C, C)."""
        n_given = len(self.given) + 1

        def partial(block: Block) -> tuple[Array, Array, Array | float]:
            x, present, weight = block
            known = np.column_stack([x[:, self.given], np.ones(len(x))]).astype(np.float64)
            weighed = known if weight is None else known * weight[:, None]
            products: Any = 0.0
            if present is not None and x.shape[1] * n_given**2 <= EM_NUMBERS:
                absent = 1.0 - present
                some = absent.any(axis=1)
                outer = (weighed[some, :, None] * known[some, None, :]).reshape(-1, n_given**2)
                products = absent[some].T @ outer
            return weighed.T @ known, weighed.T @ x, products

        of_all, with_x, lacking = sum_rows(self.blocks(), partial)
        mean = of_all[-1, :-1] / of_all[-1, -1]
        spread = of_all[:-1, :-1] / of_all[-1, -1] - mean * mean[:, None]
        products = of_all + np.eye(n_given)
        if np.ndim(lacking):
            products = products - lacking.reshape(-1, n_given, n_given)
        return np.linalg.solve(products, with_x.T[..., None])[..., 0], spread

    @property
    def coefficients(self) -> Array:
        """(D, C)."""
        return self._solved[0][:, :-1]

    @property
    def intercept(self) -> Array:
        """(D,)."""
        return self._solved[0][:, -1]

    @cached_property
    def root(self) -> tuple[Array, Array]:
        """R with R R' the covariance of what is given, and its inverse where that varies: two (C, C)."""
        values, vectors = linalg.eigh(self._solved[1])
        std = np.sqrt(np.maximum(values, 0.0))
        used = std > 1e-6 * max(std.max(), np.finfo(float).tiny)
        return vectors * std * used, (vectors * np.where(used, 1.0 / np.where(used, std, 1.0), 0.0)).T

    def rest(self) -> Iterator[Block]:
        """The blocks less what is explained; nothing is left of the given columns."""
        for x, present, weight in self.blocks():
            left = x - (x[:, self.given] @ self.coefficients.T + self.intercept)
            left[:, self.given] = 0.0
            yield left if present is None else left * present, present, weight


class LinearGaussian(NamedTuple):
    """p(x) = N(0, W W' + diag(psi)), with W' psi^-1 W diagonal.

    Attributes
    ----------
    loadings : array of shape (D, J)
        W.
    noise : array of shape (D,)
        psi.
    """

    loadings: Array
    noise: Array

    @property
    def precision(self) -> Array:
        """The posterior's precision, one per latent: 1 + diag(W' psi^-1 W)."""
        return 1.0 + (self.loadings**2 / self.noise[:, None]).sum(axis=0)

    @property
    def encoder(self) -> Array:
        """The posterior mean's map, (J, D): diag(precision)^-1 W' psi^-1."""
        return (self.loadings / self.noise[:, None] / self.precision).T

    def limited(self, most: Array) -> LinearGaussian:
        """The same model with loadings of at most this size per feature, (D,); what they lose is noise."""
        size = np.sqrt((self.loadings**2).sum(axis=1))
        large = size > most
        if not large.any():
            return self
        share = np.ones_like(size)
        share[large] = most[large] / size[large]
        loadings, noise = self.loadings * share[:, None], self.noise + (1 - share**2) * size**2
        _, _, turn = np.linalg.svd(loadings / np.sqrt(noise)[:, None], full_matrices=False)
        return LinearGaussian(loadings @ turn.T, noise)

    def score_samples(self, x: Array, present: Array) -> Array:
        """log p of the present cells of rows (N, D), in nats; x holds 0 and `present` 0 in missing cells.

        Not a number for a row too far out for float64.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            projected = x @ (self.loadings / self.noise[:, None])
            if present.all():
                explained = (projected**2 / self.precision).sum(axis=1)
                log_det = np.full(len(x), np.log(self.precision).sum())
            else:
                explained, log_det = self._gap_terms(projected, present)
            distance = (x**2 / self.noise).sum(axis=1) - explained
        log_det += present @ np.log(self.noise)
        return -0.5 * (present.sum(axis=1) * np.log(2 * np.pi) + log_det + distance)

    def _gap_terms(self, projected: Array, present: Array) -> tuple[Array, Array]:
        """What z explains of each row, and the log determinant of z's precision, which varies with the gaps."""
        n_components = self.loadings.shape[1]
        scaled = self.loadings / self.noise[:, None]
        outer = (self.loadings[:, :, None] * scaled[:, None, :]).reshape(len(self.noise), n_components**2)
        parts = []
        for rows in gen_batches(len(present), max(1, BLOCK_NUMBERS // max(1, n_components**2))):
            spread = present[rows] @ outer
            precision = np.eye(n_components) + spread.reshape(len(spread), n_components, n_components)
            solved = np.linalg.solve(precision, projected[rows, :, None])[:, :, 0]
            parts.append(((projected[rows] * solved).sum(axis=1), np.linalg.slogdet(precision)[1]))
        explained, log_det = map(np.concatenate, zip(*parts, strict=True))
        return explained, log_det


@dataclass
class LinearMaps:
    """A linear encoder and decoder: where training begins.

    Attributes
    ----------
    decoder_weight : array of shape (n_params, J)
        From the latents to the decoder's outputs.
    decoder_bias : array of shape (n_params,)
        The decoder's outputs where the latents are 0.
    encoder_weight : array of shape (J, n_inputs)
        From the encoder's input to the posterior mean.
    posterior_var : array of shape (J,)
        Variance of each latent given a row.
    decoder_given : array of shape (n_params, n_given)
        From the numbers that are given to the decoder's outputs.
    encoder_bias : array of shape (J,) or float, default=0.0
        The posterior mean of a row of column means.
    """

    decoder_weight: Array
    decoder_bias: Array
    encoder_weight: Array
    posterior_var: Array
    decoder_given: Array
    encoder_bias: Array | float = 0.0


def probabilistic_pca(cov: Covariance, n_components: int, floor: float) -> LinearGaussian:
    """Maximum likelihood with one noise variance, at least `floor` (Tipping & Bishop 1999, eq. 7 and 8)."""
    if _by_em(cov, n_components):
        return _em(cov, n_components, floor, np.inf, shared=True)
    return _principal(cov, n_components, floor)


def _principal(cov: Covariance, n_components: int, floor: float) -> LinearGaussian:
    """`probabilistic_pca` in closed form."""
    one = np.ones(cov.n_columns)
    values, vectors = cov.leading(n_components, one)
    rest = (cov.diagonal.sum() - values.sum()) / max(cov.n_columns - n_components, 1)
    noise = max(rest, floor)
    return LinearGaussian(vectors * np.sqrt(np.maximum(values - noise, 0.0)), noise * one)


def factor_analysis(
    cov: Covariance, n_components: int, floor: float | Array, ceiling: float | Array = np.inf, max_iter: int = 100
) -> LinearGaussian:
    """Maximum likelihood with one noise variance per feature, between `floor` and `ceiling`.

    The likelihood with the best W for given psi has a closed form (Joreskog 1967): with lambda the leading
    eigenvalues of psi^-1/2 S psi^-1/2, those above 1 carry a latent. What is left, a smooth function of log psi,
    goes to L-BFGS-B with the floor as its bound; expectation-maximisation needs hundreds of steps for the same digits.
    """
    if _by_em(cov, n_components):
        return _em(cov, n_components, floor, ceiling, shared=False)
    highest = np.maximum(np.minimum(cov.diagonal, ceiling), floor)

    def loadings(noise: Array) -> tuple[Array, Array]:
        values, vectors = cov.leading(n_components, np.sqrt(noise))
        return values, np.sqrt(noise)[:, None] * vectors * np.sqrt(np.maximum(values - 1.0, 0.0))

    def loss(log_noise: Array) -> tuple[float, Array]:
        noise = np.exp(log_noise)
        values, W = loadings(noise)
        used = values[values > 1.0]
        nll = log_noise.sum() + (cov.diagonal / noise).sum() + (np.log(used) + 1.0 - used).sum()
        return 0.5 * nll, 0.5 * ((W**2).sum(axis=1) + noise - cov.diagonal) / noise

    lowest = np.minimum(floor, highest)
    if n_components == 0 or np.array_equal(lowest, highest):
        return LinearGaussian(loadings(highest)[1], highest)
    start = _principal(cov, n_components, float(np.min(floor)))
    residual = np.clip(cov.diagonal - (start.loadings**2).sum(axis=1), lowest, highest)
    found = optimize.minimize(
        loss,
        np.log(residual),
        jac=True,
        bounds=optimize.Bounds(np.log(lowest), np.log(highest)),
        method="L-BFGS-B",
        options={"maxiter": max_iter, "ftol": 1e-9, "gtol": 1e-5},
    )
    noise = np.exp(found.x)
    return LinearGaussian(loadings(noise)[1], noise)


def _by_em(cov: Covariance, n_components: int) -> bool:
    """Whether cells are missing, where the covariance is no more than a beginning."""
    fits = cov.exact and cov.n_columns * n_components**2 <= EM_NUMBERS
    return n_components > 0 and fits and cov.has_gaps


def _em(
    cov: Covariance, n_components: int, floor: float | Array, ceiling: float | Array, shared: bool
) -> LinearGaussian:
    """Maximum likelihood of the present cells, by expectation-maximisation (Rubin & Thayer 1982).

    In a covariance averaged pair by pair, noise passes for structure: with half of the cells missing, its factor
    analysis imputes hardly better than the columns' means. A few steps from there are enough, and more would fit noise.
    """
    W, noise = _principal(cov, n_components, EM_NOISE * float(cov.diagonal.mean()))
    noise = np.clip(noise, floor, ceiling)
    for _ in range(EM_STEPS):
        zz, xz, xx, count = _em_sums(cov, W, noise)
        # A standard normal prior on the loadings, for columns that hardly any row holds.
        solved = np.linalg.solve(zz + noise[:, None, None] * np.eye(n_components), xz[:, :, None])
        W = np.asarray(solved[:, :, 0], dtype=np.float64)
        rest = xx - (W * xz).sum(axis=1)
        rest = np.full_like(rest, rest.sum() / count.sum()) if shared else rest / count
        noise = np.clip(rest, floor, ceiling)
    _, vectors = linalg.eigh(W.T @ (W / noise[:, None]))
    return LinearGaussian(fix_signs(W @ vectors[:, ::-1]), np.clip(noise + cov.noise, floor, ceiling))


def _em_sums(cov: Covariance, W: Array, noise: Array) -> tuple[Array, Array, Array, Array]:
    """Sums over each column's present cells of E[z z'], x E[z], x^2 and 1: (D, J, J), (D, J), (D,), (D,)."""
    (n_columns, n_components), scaled = W.shape, W / noise[:, None]
    outer = (W[:, :, None] * scaled[:, None, :]).reshape(n_columns, -1)

    def partial(rows: Block) -> tuple[Array, Array, Array, Array]:
        x = rows[0].astype(np.float64)
        present = np.ones_like(x) if rows[1] is None else rows[1].astype(np.float64)
        var = np.linalg.inv(np.eye(n_components) + (present @ outer).reshape(-1, n_components, n_components))
        z = (var @ (x @ scaled)[:, :, None])[:, :, 0]
        weighted = present if rows[2] is None else present * rows[2][:, None]
        zz = weighted.T @ (var + z[:, :, None] * z[:, None, :]).reshape(len(z), -1)
        return zz, (weighted * x).T @ z, (weighted * x**2).sum(axis=0), weighted.sum(axis=0)

    stride = -(-cov.n_rows * outer.size // EM_PRODUCTS)
    zz, xz, xx, count = sum_rows(_every(stride, cov.blocks(), BLOCK_NUMBERS // n_components**2), partial)
    return zz.reshape(n_columns, n_components, n_components), xz, xx, np.maximum(count, np.finfo(float).tiny)


def _every(stride: int, blocks: Iterable[Block], most: int) -> Iterator[Block]:
    """Every so many rows of all blocks, at most `most` at a time."""
    first, step = 0, stride * max(1, most)
    for x, present, weight in blocks:
        for begin in range(-first % stride, len(x), step):
            at = slice(begin, begin + step, stride)
            yield x[at], None if present is None else present[at], None if weight is None else weight[at]
        first += len(x)
