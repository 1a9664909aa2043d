"""Leading eigenvectors of covariances that are not formed, and what makes them one library's like another's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from ._tables.moments import Array

__all__ = ["fix_signs", "of_few_rows", "of_products", "without_negative"]


def of_products(product: Callable[[Array], Array], unit: Array, k: int) -> tuple[Array, Array]:
    """The k leading eigenvalues and eigenvectors of diag(1/unit) S diag(1/unit), where `product` gives S v of any v.

    For more columns than a matrix has room for, of rows that other ranks have, too: Lanczos' method asks for no more.
    """
    operator = LinearOperator((len(unit),) * 2, lambda v: product(v.ravel() / unit) / unit, dtype=np.float64)
    values, vectors = eigsh(operator, k, v0=np.random.default_rng(0).normal(size=len(unit)))
    return values[::-1], vectors[:, ::-1]


def of_few_rows(rows: Array, noise: float | Array, k: int, scale: Array) -> tuple[Array, Array]:
    """`Covariance.leading` of fewer rows than columns: their products are a smaller matrix of the same eigenvalues.

    Of A' A + D, with A the scaled rows and D the scaled noise, Lanczos' method takes products with A alone.
    """
    scaled, added = rows / scale, np.broadcast_to(noise / scale**2, rows.shape[1:])
    if added.any():
        product = LinearOperator((len(scale),) * 2, lambda v: scaled.T @ (scaled @ v) + added * v.ravel(), dtype=float)
        values, vectors = eigsh(product, k, v0=np.random.default_rng(0).normal(size=len(scale)))
        return values[::-1], vectors[:, ::-1]
    values, turned = linalg.eigh(scaled @ scaled.T)
    values, turned = np.maximum(values[::-1], 0.0), turned[:, ::-1]
    # Beyond the rows' rank there is nothing along which they vary.
    used = values > len(rows) * np.finfo(float).eps * values[0]
    vectors = (scaled.T @ turned) * np.where(used, 1 / np.sqrt(np.where(used, values, 1.0)), 0.0)
    lacking = max(0, k - len(rows))
    return np.pad(np.where(used, values, 0.0), (0, lacking))[:k], np.pad(vectors, ((0, 0), (0, lacking)))[:, :k]


def without_negative(matrix: Array) -> Array:
    """The matrix without its negative eigenvalues, with the same diagonal."""
    values, vectors = linalg.eigh(matrix)
    cut = (vectors * np.maximum(values, 0.0)) @ vectors.T
    std = np.sqrt(np.maximum(matrix.diagonal(), 0.0) / np.maximum(cut.diagonal(), np.finfo(float).tiny))
    return cut * std * std[:, None]


def fix_signs(vectors: Array) -> Array:
    """Each column's largest entry positive, so that no library's choice of sign shows."""
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
