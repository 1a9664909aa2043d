"""The 54 faults that every estimator is put to: number, what is wrong, what must come, and for whom.

An outcome is a callable of an estimator's kind and a folder for files.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fault_machine as machine
import fault_procedures as do
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
import torch
from helpers import CALLERS, ROUTES, assert_same
from subjects import (
    KINDS,
    LOOKS,
    STREAMS,
    answers,
    assert_finite,
    assert_unfitted,
    fitted,
    looks,
    rows,
    said,
    small,
    unharmed,
    with_hole,
)

Outcome = Callable[[str, Path], None]
Change = Callable[[np.ndarray], Any]
NAMES = list("abcd")
OTHERS = ["transformer", "detector", "imputer"]  # those that one row is enough for
WITH_A_PRIOR = ["transformer", "search", "classifier"]


def as_it_is(X: Any) -> Any:
    return X


def framed(X: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(X, columns=NAMES)


@dataclass(frozen=True)
class Trains:
    """Fit works, and all that the estimator then says is finite; of rows with a missing cell too."""

    change: Change = as_it_is
    parameters: dict[str, Any] = field(default_factory=dict)

    def __call__(self, kind: str, tmp_path: Path) -> None:
        X = self.change(rows())
        estimator = small(kind, **do.sized(kind, self.parameters)).fit(X)
        assert_finite(answers(kind, estimator, X))
        if X.shape[1] > 1:
            assert_finite(looks(kind, estimator, with_hole(X)))


@dataclass(frozen=True)
class Same:
    """Bit for bit what comes of the same numbers in a plain float64 array."""

    change: Change
    plain: Change = as_it_is

    def __call__(self, kind: str, tmp_path: Path) -> None:
        X, plain = self.change(rows()), np.array(self.plain(rows()), dtype=np.float64)
        found = answers(kind, small(kind).fit(X), X)
        expected = said(kind) if self.plain is as_it_is else answers(kind, small(kind).fit(plain), plain)
        for told in (found, expected):
            told.pop("names", None)  # a frame has its own
        assert_same(found, expected)
        assert found.get("transform", found.get("score_samples")).dtype == np.float64


@dataclass(frozen=True)
class Refused:
    """Fit and every look say so in these words; a first fit leaves nothing behind, a refit the former model."""

    change: Change
    words: str
    error: type[Exception] = ValueError
    parameters: dict[str, Any] = field(default_factory=dict)
    by_fit: bool = True
    by_chunks: bool = True  # by partial_fit as well
    by_looks: bool = True
    before: Change = as_it_is  # what the former model was fitted to

    def __call__(self, kind: str, tmp_path: Path) -> None:
        X, bad = self.before(rows()), self.change(rows())
        usual = self.before is as_it_is
        estimator = fitted(kind) if usual else small(kind).fit(X)
        parameters = do.sized(kind, self.parameters)
        if self.by_fit:
            fresh = small(kind, **parameters)
            for call in self._fits(fresh, kind):
                self._refused(call, bad)
            assert_unfitted(kind, fresh, X)
        model = estimator.estimator if kind == "imputer" else estimator
        told = said(kind) if usual else None
        with unharmed(kind, estimator, X, but=(*parameters, "estimator"), told=told):
            model.set_params(**parameters)
            for call in self._fits(estimator, kind) if self.by_fit else []:
                self._refused(call, bad)
            if self.by_chunks and kind in STREAMS:
                self._refused(estimator.partial_fit, bad)
            for look in LOOKS[kind].values() if self.by_looks else []:
                self._refused(lambda X, look=look: look(estimator, X), bad)

    def _fits(self, estimator: Any, kind: str) -> list[Callable[[Any], Any]]:
        return [estimator.fit, estimator.partial_fit] if self.by_chunks and kind in STREAMS else [estimator.fit]

    def _refused(self, call: Callable[[Any], Any], bad: Any) -> None:
        with pytest.raises(self.error, match=self.words):
            call(bad)


@dataclass(frozen=True)
class Fault:
    """One line of the table."""

    number: int
    what: str
    outcome: Outcome
    kinds: list[str] = field(default_factory=lambda: KINDS)


def cell(value: Any, dtype: Any = np.float64) -> Change:
    """This value in column 1, row 2."""

    def change(X: np.ndarray) -> np.ndarray:
        X = X.astype(dtype)
        X[2, 1] = value
        return X

    return change


def gaps(X: np.ndarray) -> np.ndarray:
    return np.where(np.arange(X.size).reshape(X.shape) % 7 == 3, np.nan, X)


def column(value: float) -> Change:
    """With one more column, of one value."""
    return lambda X: np.column_stack([X, np.full(len(X), value)])


def as_matrix(X: np.ndarray) -> Any:
    with warnings.catch_warnings(action="ignore", category=PendingDeprecationWarning):
        return np.matrix(X)


def whole(dtype: str) -> tuple[Change, Change]:
    """Whole numbers of a type, and the same as float64."""
    return lambda X: np.abs(X.round()).astype(dtype), lambda X: np.abs(X.round()).astype(dtype).astype(np.float64)


def largest(X: np.ndarray) -> np.ndarray:
    """A column that alternates between 0 and the largest integer."""
    alternating = np.where(np.arange(len(X)) % 2, np.iinfo(np.uint64).max, 0).astype(np.uint64)
    return np.column_stack([np.abs(X.round()).astype(np.uint64), alternating])


def like(how: dict[str, Any]) -> Change:
    return lambda X: torch.tensor(X, **how)


TENSORS: dict[str, dict[str, Any]] = {
    "with gradients": {"requires_grad": True},
    "in bfloat16": {"dtype": torch.bfloat16},
    "elsewhere": {"device": "meta"},
}
SIZE = r"Expected 2D array|dim 3|2-dimensional container"
ONE = {"n_components": 1}

FAULTS = [
    Fault(1, "missing cells", Trains(gaps)),
    Fault(1, "missing cells in the only column", Trains(lambda X: gaps(X)[:, :1], {**ONE, "early_stopping": False})),
    Fault(1, "a row without a value", Trains(lambda X: np.vstack([np.full(4, np.nan), X]))),
    Fault(
        1,
        "a column without a value",
        Refused(lambda X: X * [1, np.nan, 1, 1], "column 1 holds no value", by_looks=False, by_chunks=False),
    ),
    Fault(2, "infinity", Refused(cell(np.inf), "infinity: column 1, row 2")),
    Fault(2, "minus infinity", Refused(cell(-np.inf), "infinity: column 1, row 2")),
    Fault(2, "infinity in a named column", Refused(lambda X: framed(cell(np.inf)(X)), "'b'", before=framed)),
    Fault(2, "infinity among categories", do.infinite_category, ["transformer", "search", "imputer", "classifier"]),
    Fault(3, "a cell that float32 cannot hold", Trains(cell(1e39))),
    Fault(3, "a cell of 1e300", Trains(cell(1e300))),
    Fault(4, "all cells times 1e200", do.rescaled(1e200)),
    Fault(4, "all cells times 1e307", do.rescaled(1e307)),
    Fault(5, "all cells times 1e-160", do.rescaled(1e-160)),
    Fault(5, "all cells times 1e-300", do.rescaled(1e-300)),
    Fault(5, "denormal cells", do.denormal),
    Fault(6, "an offset of 1e12 with noise of 1e-3", Trains(lambda X: np.column_stack([X, 1e12 + 1e-3 * X[:, 0]]))),
    Fault(7, "a constant column", do.constant(column(0.19))),
    Fault(7, "constant columns only", do.constant(lambda X: np.ones_like(X) * [1.0, 0.0, -1e300, 1e-300])),
    Fault(8, "one row", Trains(lambda X: X[:1]), OTHERS),
    Fault(8, "one row", Refused(lambda X: X[:1], "n_samples=1|1 sample", by_looks=False, by_chunks=False), ["search"]),
    Fault(8, "one row", Refused(lambda X: X[:1], "only 1 class", by_looks=False, by_chunks=False), ["classifier"]),
    Fault(
        9,
        "two rows with early stopping",
        Refused(
            lambda X: X[:2],
            "The validation set is too small",
            parameters={"early_stopping": True},
            by_looks=False,
            by_chunks=False,
        ),
    ),
    Fault(10, "one column", Trains(lambda X: X[:, :1], ONE)),
    Fault(11, "more latents than columns", Trains(parameters={"n_components": 7})),
    Fault(12, "fewer rows than a batch", Trains(parameters={"batch_size": 1000})),
    Fault(13, "a last batch of one row", Trains(lambda X: rows(41), {"batch_size": 10, "early_stopping": False})),
    Fault(14, "identical rows", Trains(lambda X: np.repeat(X[:1], 30, axis=0))),
    Fault(15, "an outlier of a million sigma", do.outlier),
    *[Fault(16, f"a row of {value:g}", do.far_out(value)) for value in (1e39, 1e160, 1e300, 1.7e308, -1.7e308)],
    Fault(17, "no rows", Refused(lambda X: X[:0], "0 sample")),
    Fault(17, "no columns", Refused(lambda X: X[:, :0], "0 feature|X has 0 features")),
    Fault(18, "one dimension", Refused(lambda X: X[:, 0], SIZE)),
    Fault(18, "three dimensions", Refused(lambda X: X[None], SIZE)),
    Fault(18, "a number", Refused(lambda X: 3.0, SIZE)),
    Fault(18, "nothing", Refused(lambda X: None, f"{SIZE}|None")),
    Fault(18, "a column of a frame", Refused(lambda X: framed(X)["a"], SIZE, before=framed)),
    Fault(18, "a column of a polars frame", Refused(lambda X: pl.DataFrame(X)["column_1"], SIZE)),
    Fault(19, "another width", Refused(lambda X: X[:, :3], "X has 3 features, but VAE.* is expecting 4", by_fit=False)),
    Fault(
        20,
        "renamed columns",
        Refused(
            lambda X: framed(X).rename(columns={"b": "z"}), "feature names should match", by_fit=False, before=framed
        ),
    ),
    Fault(
        20,
        "reordered columns",
        Refused(lambda X: framed(X)[list("bacd")], "feature names should match", by_fit=False, before=framed),
    ),
    Fault(21, "a frame in fit, an array afterwards", do.frame_then_array),
    Fault(
        22,
        "column names of two kinds",
        Refused(lambda X: pd.DataFrame(X, columns=["a", "b", 0, 1]), "all input features have string names", TypeError),
    ),
    Fault(23, "numbers as objects", Same(lambda X: X.astype(object))),
    Fault(23, "None for a missing cell", Same(cell(None, object), cell(np.nan))),
    Fault(23, "a dict in a cell", Refused(cell({}, object), "argument must be .* number", TypeError)),
    Fault(24, "strings", Refused(lambda X: np.full(X.shape, "a"), "could not convert string to float: column 0")),
    Fault(24, "a string in a cell", Refused(cell("a", object), "could not convert string to float: column 1 holds")),
    Fault(24, "dates", Refused(lambda X: X.astype("datetime64[s]"), "X holds dates or time spans")),
    Fault(24, "time spans", Refused(lambda X: X.astype("timedelta64[s]"), "X holds dates or time spans")),
    Fault(
        24,
        "a column of dates",
        Refused(
            lambda X: framed(X).assign(b=datetime.datetime(2020, 1, 1)),
            "column 'b' holds dates or time spans",
            before=framed,
        ),
    ),
    Fault(25, "complex numbers", Refused(lambda X: X + 1j, "Complex data not supported")),
    *[Fault(26, f"numbers of type {name}", Same(*whole(name))) for name in ("int8", "bool", "float16", "longdouble")],
    Fault(26, "the largest integers", Same(largest, largest)),
    Fault(27, "big-endian numbers", Same(lambda X: X.astype(">f8"))),
    Fault(27, "negative strides", Same(lambda X: X[::-1, ::-1].copy()[::-1, ::-1])),
    Fault(27, "Fortran order", Same(np.asfortranarray)),
    Fault(27, "every other cell", Same(lambda X: np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2])),
    Fault(28, "a read-only array", do.untouched_array),
    Fault(28, "a read-only memory map", do.untouched_map),
    Fault(29, "a masked array", Same(lambda X: np.ma.masked_array(X, np.isnan(gaps(X))), gaps)),
    Fault(30, "np.matrix", Refused(as_matrix, r"np\.matrix is not supported", TypeError)),
    *[
        Fault(30, f"a sparse matrix: {f.__name__}", Same(f))
        for f in (scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.coo_array)
    ],
    Fault(30, "a polars frame", Same(lambda X: pl.DataFrame(X, schema=NAMES))),
    Fault(30, "nullable columns with NA", Same(lambda X: framed(gaps(X)).astype("Float64"), gaps)),
    Fault(30, "pyarrow columns", Same(lambda X: framed(gaps(X)).convert_dtypes(dtype_backend="pyarrow"), gaps)),
    Fault(31, "a tensor", Same(lambda X: torch.tensor(X))),
    *[Fault(31, f"a tensor {name}", Refused(like(how), "pass X.detach", TypeError)) for name, how in TENSORS.items()],
    *[Fault(32, f"weights: {name}", do.bad_weights(*case)) for name, case in do.BAD_WEIGHTS.items()],
    Fault(33, "rows of weight 0", do.weightless_rows),
    Fault(33, "weights times a million", do.scaled_weights),
    Fault(33, "weights of many decades", do.uneven_weights),
    Fault(34, "parameters that break a rule", do.bad_parameters),
    Fault(34, "parameters as numpy's integers", do.numpy_integers),
    Fault(35, "a random_state that is none", do.bad_seeds),
    Fault(35, "a RandomState", do.consumed_seed),
    Fault(36, "a step too large in epoch 1", do.diverges_at_once),
    Fault(36, "a step too large later on", do.diverges_later),
    Fault(36, "a step that is no float32", do.overflowing_step),
    *[Fault(37, f"an error in a callback's {hook}", do.failing_hook(hook)) for hook in do.HOOKS],
    Fault(37, "an error in a likelihood of one's own", do.failing_likelihood),
    Fault(38, "an interrupt in epoch 3", do.interrupted),
    *[Fault(39, f"{error.__name__} inside a step", do.failing_step(error)) for error in do.STEP_ERRORS],
    Fault(40, "a refit on bad rows", do.bad_refit),
    Fault(41, "a look before fit", do.not_fitted),
    Fault(42, "a number of samples that is none", do.bad_samples, WITH_A_PRIOR),
    Fault(42, "a million samples", machine.many_samples, WITH_A_PRIOR),
    *[Fault(43, f"the caller's {name}", machine.inside(caller)) for name, caller in CALLERS.items()],
    Fault(44, "global state", machine.global_state_stays),
    Fault(44, "an import", machine.imported, ["transformer"]),
    Fault(45, "eight threads that look", machine.threads_look),
    Fault(45, "eight threads that fit", machine.threads_fit),
    *[Fault(46, f"two processes or threads: {name}", machine.cross_validated(name)) for name in ("loky", "threading")],
    Fault(46, "a cached pipeline", machine.cached_pipeline),
    Fault(47, "a fork after fit", machine.forked),
    *[Fault(48, f"saved by {name}", machine.saved(route)) for name, route in ROUTES.items()],
    Fault(49, "a truncated file", machine.truncated_file),
    Fault(49, "flipped bytes in a file", machine.flipped_bytes),
    Fault(49, "a damaged state", machine.damaged_state),
    Fault(50, "callbacks in a file, read without rich", machine.callbacks_in_a_file),
    Fault(51, "a model of another machine's GPU", machine.no_gpu),
    Fault(52, "parameters changed between chunks", do.changed_between_chunks, STREAMS),
    Fault(53, "fits in a loop", machine.many_fits),
    Fault(54, "a million cells and more", machine.many_rows),
]
# The table's numbers, and for whom a number means nothing: the detector and the imputer draw no samples, the search
# and the imputer take no chunks.
NUMBERS = range(1, 55)
NOT_FOR = {(42, "detector"), (42, "imputer"), (52, "search"), (52, "imputer")}
