"""Any table, any weights, any options: what the property tests draw, simplest first, so that failures shrink."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse
import torch
from helpers import by_turns
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from subjects import small

from skvae import ELBO, IWAE, Gaussian, JohnsonSU, Mixed, StudentT
from skvae._inference.criteria import CRITERIA
from skvae.objectives import Classified
from skvae.priors import Mixture

# Columns


@dataclass(frozen=True)
class Column:
    """A column by its shape, unit and place; its noise is the table's."""

    shape: str = "factor"
    exponent: int = 0
    offset: float = 0.0

    def of(self, factor: np.ndarray, noise: np.ndarray) -> np.ndarray:
        values = SHAPES[self.shape](factor, noise)
        with np.errstate(over="ignore", under="ignore"):
            return np.nan_to_num(values * 10.0**self.exponent + self.offset)


SHAPES = {
    "factor": lambda f, e: f + 0.1 * e,
    "noise": lambda f, e: e,
    "constant": lambda f, e: np.ones_like(e),
    "zero": lambda f, e: np.zeros_like(e),
    "nearly constant": lambda f, e: 1 + 1e-15 * e,
    "one odd cell": lambda f, e: (np.arange(len(e)) == len(e) // 2) * 1.0,
    "a copy": lambda f, e: f,
    "whole numbers": lambda f, e: np.round(2 * e),
    "two values": lambda f, e: (e > 0) * 1.0,
    "one far cell": lambda f, e: np.where(np.arange(len(e)) == 0, 1e9, e),
    "heavy tails": lambda f, e: np.sinh(4 * e),
}
columns = st.builds(
    Column,
    shape=st.sampled_from(list(SHAPES)),
    exponent=st.one_of(st.just(0), st.integers(-3, 3), st.integers(-300, 299)),
    offset=st.sampled_from([0.0, 1.0, -1e3, 1e9, 1e15, -1e200, 1e300, 1e-300]),
)


@dataclass(frozen=True)
class Table:
    """Rows by a seed, columns one by one; some rows twice, some cells missing."""

    n_rows: int = 12
    columns: tuple[Column, ...] = (Column(),)
    twice: bool = False
    gaps: float = 0.0
    seed: int = 0

    def array(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        factor, noise = rng.normal(size=self.n_rows), rng.normal(size=(self.n_rows, len(self.columns)))
        X = np.column_stack([column.of(factor, e) for column, e in zip(self.columns, noise.T, strict=True)])
        if self.twice:
            X[1::2] = X[: len(X) - 1 : 2]
        X[rng.random(X.shape) < self.gaps] = np.nan
        return X


described = st.builds(
    Table,
    n_rows=st.one_of(st.integers(20, 30), st.integers(1, 19)),
    columns=st.lists(columns, min_size=1, max_size=5).map(tuple),
    twice=st.booleans(),
    gaps=st.sampled_from([0.0, 0.1, 0.6]),
    seed=st.integers(0, 99),
).map(Table.array)
NUMBERS = st.one_of(
    st.floats(-1e3, 1e3),
    st.floats(1e-300, 1e300),
    st.floats(-1e300, -1e-300),
    st.sampled_from([0.0, 1.0, -1.0, 5e-324, 1e300, -1e-300, np.nan]),
)
cell_by_cell = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 25), st.integers(1, 4)), elements=NUMBERS, fill=st.nothing()
)
tables = st.one_of(described, described, cell_by_cell)


# Into the support of a likelihood


def _counts(X: np.ndarray) -> np.ndarray:
    return np.floor(np.minimum(np.abs(X), 1e6))


SUPPORT = {
    "bernoulli": lambda X: np.where(np.isnan(X), X, X > 0),
    "continuous_bernoulli": lambda X: np.clip(np.abs(X), 0, 1),
    "poisson": _counts,
    "negative_binomial": _counts,
    "log_normal": lambda X: np.clip(np.abs(X), 1e-300, None),
    "categorical": lambda X: np.minimum(_counts(X), 3),
    "auto": lambda X: X,
}
REAL = ["gaussian", "johnson_su", "student_t", "laplace", "normal_score"]
PARTS = [Gaussian("shared"), Gaussian("decoder"), StudentT(df=3.0), JohnsonSU(), Mixed([], remainder="gaussian")]
likelihoods = st.one_of(st.sampled_from(REAL), st.sampled_from(sorted(SUPPORT)), st.sampled_from(PARTS))


# Containers


def _named(X: np.ndarray) -> list[str]:
    return [f"c{i}" for i in range(X.shape[1])]


CONTAINERS = {
    "array": np.array,
    "float32": lambda X: np.clip(X, -3e38, 3e38).astype(np.float32),
    "big-endian": lambda X: X.astype(">f8"),
    "Fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
    "reversed": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "int64": lambda X: X.astype(np.int64) if _is_whole(X) else X,
    "list": lambda X: X.tolist(),
    "object": lambda X: X.astype(object),
    "pandas": lambda X: pd.DataFrame(X, columns=_named(X)),
    "nullable": lambda X: pd.DataFrame(X, columns=_named(X)).convert_dtypes(),
    "pyarrow": lambda X: pd.DataFrame(X, columns=_named(X)).convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda X: pl.DataFrame(X, schema=_named(X)),
    "sparse": scipy.sparse.csr_array,
    "tensor": torch.tensor,
    "masked": lambda X: np.ma.masked_invalid(X),
}


def _is_whole(X: np.ndarray) -> bool:
    return bool((np.isfinite(X) & (np.abs(X) < 2.0**62)).all() and (np.round(X) == X).all())


# Weights


WEIGHTS = {
    "none": lambda n: None,
    "ones": lambda n: np.ones(n),
    "some zero": lambda n: (np.arange(n) % 3 > 0) * 1.0,
    "uneven": lambda n: 1.0 + np.arange(n) % 4,
    "tiny": lambda n: np.full(n, 1e-300),
    "huge": lambda n: np.full(n, 1e300),
    "one row only": lambda n: (np.arange(n) == 0) * 1.0,
    "many decades": lambda n: 10.0 ** (-20 * (np.arange(n) % 20)),
    "all decades": lambda n: 10.0 ** np.linspace(-320, 300, n),
}


# Labels, of a classifier alone


LABELS = {
    "by turns": by_turns,
    "words": lambda X: np.array(["a", "b", None], dtype=object)[by_turns(X)],
    "all rows": lambda X: np.arange(len(X)) % 2 * 5,
    "one row of each class": lambda X: np.where(np.arange(len(X)) < 2, np.arange(len(X)), np.nan),
    "a class for every row": lambda X: np.arange(len(X)) / 1.0,
    "one class": lambda X: np.ones(len(X), dtype=int),
    "none": lambda X: np.full(len(X), -1),
    "flags": lambda X: np.arange(len(X)) % 2 > 0,
    "another length": lambda X: np.arange(len(X) + 1) % 2,
    "fractions": lambda X: np.arange(len(X)) / 3,
}


# Options


objectives = st.sampled_from(
    ["elbo", "iwae", "input_noise", ELBO(beta=0.1), ELBO(free_bits=0.5), ELBO(n_draws=2, warmup=3), IWAE(3)]
)
OPTIONS = {
    "likelihood": likelihoods,
    "hidden_layer_sizes": st.sampled_from([(), (1,), (4, 3)]),
    "objective": objectives,
    "prior": st.sampled_from(["normal", "mixture", Mixture(2)]),
    "solver": st.sampled_from(["adam", "adagrad", "rmsprop", "sgd"]),
    "init": st.sampled_from(["linear", "random"]),
    "early_stopping": st.sampled_from(["auto", True, False]),
    "activation": st.sampled_from(["relu", "tanh", "gelu"]),
    "batch_size": st.sampled_from(["auto", 1, 7, 1000]),
    "learning_rate_init": st.sampled_from([1e-3, 1e-12, 0.3, 1e3, 1e30, 1e300]),
    "max_iter": st.sampled_from([1, 2]),
    "validation_fraction": st.sampled_from([0.1, 0.5, 0.9]),
    "n_iter_no_change": st.sampled_from([1, np.inf]),
    "n_draws": st.sampled_from([8, 1, 3]),
}
SIZES = st.sampled_from([1, 2, 7, "auto"])
OWN = {
    "transformer": {"n_components": SIZES},
    "detector": {
        "n_components": SIZES,
        "criterion": st.sampled_from(sorted(CRITERIA)),
        "contamination": st.sampled_from(["auto", 0.1, 0.5]),
        "support_fraction": st.sampled_from([None, 0.5, 1.0]),
    },
    "search": {
        "n_components": st.sampled_from([(1, 2), (3, "auto"), (7,)]),
        "cv": st.sampled_from([2, 3]),
        "selection": st.sampled_from(["best", "one_standard_error"]),
        "race": st.booleans(),
    },
    "imputer": {"n_components": SIZES, "sample_posterior": st.booleans()},
    "classifier": {
        "n_components": SIZES,
        "objective": st.sampled_from([Classified(weight=0.0), Classified(weight=1e3), Classified(beta=0.1, n_draws=2)]),
        "unlabeled": st.sampled_from([None, -1, "a", 0]),
    },
}


@dataclass(frozen=True)
class Example:
    """An estimator's kind and options, and what it is fitted to."""

    kind: str
    options: dict[str, Any]
    X: np.ndarray = field(repr=False)
    container: str = "array"
    weights: str = "none"
    labels: str = "by turns"

    def __repr__(self) -> str:
        """As lines to paste."""
        X = np.array2string(self.X, separator=", ", threshold=10**6, floatmode="unique").replace("nan", "np.nan")
        return (
            f"Example({self.kind!r}, {self.options!r},\nnp.array({X}),\n"
            f"container={self.container!r}, weights={self.weights!r}, labels={self.labels!r})"
        )

    def estimator(self) -> Any:
        return small(self.kind, **self.options)

    def table(self) -> Any:
        return CONTAINERS[self.container](self.X)

    def rows(self) -> Any:
        """The same rows, as an array or a frame that can be sliced."""
        frames = ("pandas", "nullable", "pyarrow", "polars")
        container = "pandas" if self.container in frames else "float32" if self.container == "float32" else "array"
        return CONTAINERS[container](self.X)

    def weight(self) -> np.ndarray | None:
        return WEIGHTS[self.weights](len(self.X))

    def y(self) -> np.ndarray | None:
        return LABELS[self.labels](self.X) if self.kind == "classifier" else None


@st.composite
def examples(draw: Any, kind: str) -> Example:
    """A fit of an estimator of this kind; most of the options are as they are by default."""
    options = draw(st.fixed_dictionaries({}, optional={**OPTIONS, **OWN[kind]}))
    X = draw(tables)
    likelihood = options.get("likelihood")
    if isinstance(likelihood, str) and likelihood in SUPPORT and draw(st.integers(0, 9)) < 9:
        X = SUPPORT[likelihood](X).astype(np.float64)
    container = draw(st.sampled_from(list(CONTAINERS)))
    weights = draw(st.one_of(st.just("none"), st.sampled_from(list(WEIGHTS))))
    labels = draw(st.sampled_from(list(LABELS))) if kind == "classifier" else "by turns"
    return Example(kind, options, X, container, weights, labels)
