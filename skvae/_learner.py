"""What a detector learns of its rows beside the model: which to train on, codes, what is typical, the threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import _state
from ._base import BaseVAE, most_latents
from ._door import Checked, empty_columns
from ._linear import Covariance
from ._sources import picked
from ._torch import single_blas, thread_limit, torch_scope
from .criteria import CRITERIA
from .data import Array, Moments, Rows, column_moments, has_gaps, row_blocks, to_rows
from .model import VAE
from .priors import AggregatedPosterior
from .scores import posterior

__all__ = ["Learner", "percentile", "total"]

# n_components="auto": as many latents as columns, at most this many.
AUTO_MOST = 64
# Training rows whose codes make the aggregated posterior, at most.
CODES = 5000
# Training rows that say what is typical, of scores and of explanations, at most.
SCORED, EXPLAINED = 2000, 50
# contamination="auto": the share of training rows below the threshold.
AUTO_CONTAMINATION = 0.01
# The share of rows trained on where some are said to be anomalies, and the steps that find them.
ROBUST_SUPPORT, CONCENTRATIONS = 0.5, 3
# By how much two sums of the same numbers may differ, relative to their size.
ROUNDING = 1e-14


class Learner(BaseVAE):
    """The part of a detector that looks at training rows; subclasses score rows."""

    def __setstate__(self, state):
        super().__setstate__(state)
        # In the middle of a fit, when callbacks see a copy, there is a model and none of these.
        learnt = {"offset_", "training_scores_", "_codes", "_typical", "_typical_explanation"}
        if learnt & set(vars(self)) and (fault := _fault(dict(vars(self)))):
            raise ValueError(
                f"The saved state of this {type(self).__name__} is damaged: {fault}. Load the file again or refit."
            )

    def _auto_components(self, cov: Covariance) -> int:
        return min(cov.n_columns, AUTO_MOST)

    def _supported(self, X: Array, target: Array | None, weight: Array | None) -> Checked:
        """The most normal rows, by steps of the minimum covariance determinant (Rousseeuw & Van Driessen 1999)."""
        share = self.support_fraction
        if share is None:
            share = 1.0 if self.contamination == "auto" else ROBUST_SUPPORT
        n_kept = max(1, int(np.ceil(share * len(X))))
        kept = np.ones(len(X), dtype=bool)
        self._whole_std = column_moments(X, weight).std if n_kept < len(X) else None
        for _ in range(CONCENTRATIONS if n_kept < len(X) else 0):
            scores = self._linear_scores(X, *_at(kept, X, target, weight))
            nearer = np.zeros(len(X), dtype=bool)
            nearer[np.argsort(-scores, kind="stable")[:n_kept]] = True
            if empty_columns(picked(X, nearer)).any():
                break
            kept = nearer
        self.support_ = kept
        return _at(kept, X, target, weight)

    def _moments(self, X: Array, weight: Array | None) -> Moments:
        """A column that is constant in the rows to train on keeps its scale over all rows."""
        moments, whole = super()._moments(X, weight), self.__dict__.get("_whole_std")
        return moments if whole is None else moments._replace(std=np.where(moments.constant, whole, moments.std))

    def _linear_scores(self, X: Array, *used: Any) -> Array:
        """How likely the rows of X are under the linear model of the used ones; a gap counts as the other cells do."""
        split = self._split(used[0], used[1], used[2], hold_out=False)
        n_components = most_latents(self._count_components(split.cov), split.cov, split.density)
        scores, n_present = np.empty(len(X)), np.empty(len(X))
        with single_blas():
            for part in row_blocks(X):
                block = X[part]
                present = ~np.isnan(block)
                n_present[part] = present.sum(axis=1)
                scores[part] = split.density.baseline_samples(to_rows(block, split.scale), split.cov, n_components)
                # Without the columns' units, whose density a row with gaps would lack.
                scores[part] += present @ np.log(split.scale.scale)
        scores /= np.maximum(n_present, 1)
        return np.where(n_present > 0, np.nan_to_num(scores, nan=-np.inf), -np.inf)

    def _learn_from_chunk(self, X: Array, weight: Array | None) -> None:
        """The same from a random sample of all rows seen so far."""
        chunk = {"X": X, "weight": np.ones(len(X)) if weight is None else weight, "key": _keys(X, self._seed)}
        known = getattr(self, "_reservoir", None) or self._rows_of_codes()
        joined = chunk if known is None else _joined(known, chunk)
        # The smallest of random keys are an even sample of the rows, however many chunks there were.
        kept = np.argsort(joined["key"], kind="stable")[:CODES]
        self._reservoir = {name: values[kept] for name, values in joined.items()}
        self.__dict__.pop("support_", None)
        table = self._reservoir["X"], None, self._reservoir["weight"]
        self._learn_more(table, table)

    def _rows_of_codes(self) -> dict[str, np.ndarray] | None:
        """What a model that `fit` trained on rows it has not kept still knows of them: its decoded codes."""
        if not hasattr(self, "_codes"):
            return None
        with torch_scope(torch.device("cpu"), grad=False):
            mean = torch.tensor(self._codes["mean"], device=self._inference_device())
            X = self._scale().to_data(self.module_.mean(mean).cpu().numpy())
        return {"X": X, "weight": np.exp(self._codes["log_weight"]) * len(X), "key": _keys(X, self._seed)}

    def _learn_more(self, table: Checked, used: Checked) -> None:
        """The codes of the rows that were used, what is typical of them, and the threshold, from all rows."""
        for name in ("_typical", "_typical_explanation", "calibration_scores_"):
            self.__dict__.pop(name, None)
        self._criterion = self.criterion
        self._codes = self._aggregated(*self._sample(used, CODES))
        X, weight = self._sample(used, SCORED)
        contributions = self._contributions(X)
        self._typical = _finite_mean(contributions, weight)
        all_rows = self.contamination != "auto"
        if all_rows or has_gaps(X):
            contributions = self._contributions(table[0] if all_rows else X, summed=True)
        self.training_scores_ = total(contributions)
        share = self.contamination if all_rows else AUTO_CONTAMINATION
        self.offset_ = percentile(self.training_scores_, share)
        X, weight = self._sample(used, EXPLAINED)
        typical = _finite_mean(self._contributions(X, share_out=True), weight)
        # Explanations are to sum to the score less the mean of all training scores.
        typical[-1] += np.ma.masked_invalid(self.training_scores_).mean() - typical.sum()
        self._typical_explanation = typical

    def _sample(self, table: Checked, most: int) -> tuple[Array, Array]:
        """At most `most` of the rows, and their weights."""
        X, _, weight = table
        weight = np.ones(len(X)) if weight is None else weight
        if len(X) <= most:
            return X, weight
        some = np.random.default_rng(self._seed).permutation(len(X))[:most]
        return X[some], weight[some]

    def _aggregated(self, X: Array, weight: Array) -> dict[str, np.ndarray]:
        """The aggregated posterior of these rows, as arrays."""
        found = self._by_blocks(X, _mean_and_std, factors=has_gaps(X))
        with torch_scope(torch.device("cpu"), grad=False), thread_limit(0):
            mean, std = torch.tensor(found).unbind(dim=1)
            log_weight = torch.tensor(np.log(weight / weight.sum()))
            codes = AggregatedPosterior(mean, std.square(), log_weight).widened(self._seed)
        return {name: values.numpy() for name, values in codes._asdict().items()}


def _fault(state: dict[str, Any]) -> str | None:
    """What is wrong with what a detector has learnt beside its model, in words; None if nothing is."""
    if not callable(state.get("_criterion")) and state.get("_criterion") not in list(CRITERIA):
        return f"_criterion is {state.get('_criterion')!r}"
    n_features, n_components = state["n_features_in_"], state["n_components_"]
    for name in ("_typical", "_typical_explanation"):
        value: Any = state.get(name)
        if not _state.is_finite_array(value) or value.shape != (n_features + 1,):
            return f"{name} is not {n_features + 1} finite numbers"
    offset = state.get("offset_")
    if not isinstance(offset, (float, np.floating)) or not np.isfinite(offset):
        return f"offset_ is {offset!r}"
    for name in ("training_scores_", "calibration_scores_"):
        value = state.get(name, None if name == "training_scores_" else np.zeros(0))
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim != 1 or np.isnan(value).any():
            return f"{name} is not an array of scores"
        if name == "calibration_scores_" and (value[1:] < value[:-1]).any():
            return f"{name} is not sorted"
    return _fault_of_codes(state.get("_codes"), n_components) or _fault_of_rows(state.get("_reservoir"), n_features)


def _fault_of_codes(codes: Any, n_components: int) -> str | None:
    fields = AggregatedPosterior._fields
    if not isinstance(codes, dict) or codes.keys() != set(fields):
        return f"_codes are not {sorted(fields)}"
    if not all(_state.is_finite_array(values) for values in codes.values()):
        return "_codes hold something that is not a finite number"
    mean, var, log_weight = (codes[name] for name in fields)
    n_codes = log_weight.size
    if not n_codes or log_weight.ndim != 1 or not mean.shape == var.shape == (n_codes, n_components):
        return f"_codes have the shapes {mean.shape}, {var.shape} and {log_weight.shape}"
    return None if (var > 0).all() else "a code's variance is not positive"


def _fault_of_rows(rows: Any, n_features: int) -> str | None:
    if rows is None:
        return None
    if not isinstance(rows, dict) or rows.keys() != {"X", "weight", "key"}:
        return "_reservoir is not rows, weights and keys"
    if not all(isinstance(values, np.ndarray) and values.dtype.kind in "fu" for values in rows.values()):
        return "_reservoir holds something that is not a number"
    n_rows = rows["key"].size
    if rows["X"].shape != (n_rows, n_features) or not rows["weight"].shape == rows["key"].shape == (n_rows,):
        return f"_reservoir has the shapes {[values.shape for values in rows.values()]}"
    positive = np.isfinite(rows["weight"]).all() and (rows["weight"] > 0).all()
    return None if positive else "a row's weight is not positive"


def _mean_and_std(model: VAE, rows: Rows) -> torch.Tensor:
    """Of the latents given each row: (N, 2, J). 1 stands for a code's spread, which no criterion asks for."""
    if not model.has_posterior:
        code = model.encode_mean(rows.x, rows.mask)
        return torch.stack([code, torch.ones_like(code)], dim=1)
    if rows.mask is not None:
        q = posterior(model, rows)
        return torch.stack([q.mean, q.std], dim=1)
    mean, log_var = model.encode(rows.x)
    return torch.stack([mean, torch.exp(0.5 * log_var)], dim=1)


def _at(rows: np.ndarray, X: Array, target: Array | None, weight: Array | None) -> Checked:
    """The parts of a table at these rows, themselves where these are all."""
    return picked(X, rows), None if target is None else target[rows], None if weight is None else weight[rows]


def _keys(X: Array, seed: int) -> np.ndarray:
    """A random-looking number a row, (N,), the same for the same row."""
    bits = (np.asarray(X, dtype=np.float64) + 0.0).view(np.uint64)  # + 0.0: zero has one sign
    factors = np.random.default_rng(seed).integers(2**63, size=X.shape[1], dtype=np.uint64) * 2 + 1
    return _mixed((_mixed(bits) * factors).sum(axis=1, dtype=np.uint64))


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Spread every bit over all others (the finalizer of SplitMix64, Steele et al. 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _joined(known: dict[str, np.ndarray], chunk: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of both; one that comes again adds its weight to the known one.

    Then rows that come in every pass through the table are judged without their own codes, not beside a copy.
    """
    order = np.argsort(known["key"], kind="stable")
    place = order[np.searchsorted(known["key"], chunk["key"], sorter=order).clip(max=len(order) - 1)]
    again = known["key"][place] == chunk["key"]
    weight = known["weight"].copy()
    np.add.at(weight, place[again], chunk["weight"][again])
    known = {**known, "weight": weight}
    return {name: np.concatenate([known[name], values[~again]]) for name, values in chunk.items()}


def _finite_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted column means over rows without an infinite or undefined entry."""
    finite = np.isfinite(values).all(axis=1)
    return np.average(values[finite], axis=0, weights=weight[finite])


def total(contributions: np.ndarray) -> np.ndarray:
    """Scores, from contributions (N, D + 1) or their sums (N,).

    Not a number is not below any threshold, and would pass for normal: such rows get -inf.
    """
    scores = contributions if contributions.ndim == 1 else contributions.sum(axis=1)
    return np.nan_to_num(scores, nan=-np.inf, neginf=-np.inf)


def percentile(scores: np.ndarray, share: float) -> float:
    """The score that `share` of the scores lie below; equal scores do not, whatever the order of their sums."""
    with np.errstate(invalid="ignore"):
        found = np.percentile(scores, 100 * share)
    found = float(found if np.isfinite(found) else scores[np.isfinite(scores)].min())
    return found - ROUNDING * abs(found)
