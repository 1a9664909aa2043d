"""What a detector learns of normal rows beside the model: which to train on, codes, what is typical, the threshold."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import NotFittedError

from ._codes import CODES, Codes, weights
from ._fit import components, prepare
from ._inference.blocks import Inference, refuse_far_rows
from ._inference.criteria import CRITERIA, DRAWN, Criteria, ScoringContext, as_one, names_of, side_by_side, unit
from ._inference.explain import COMPLETIONS, MOST_SIMILAR, contributions, explained, nearest
from ._inference.posterior import mean_and_std
from ._inference.quadrature import quasi_normal
from ._linear import Covariance
from ._params import is_users_function
from ._ranks import first_and_all, gathered
from ._saved import is_finite_array
from ._settings import FitSettings
from ._tables.batches import to_rows
from ._tables.moments import Array, has_gaps, row_blocks
from ._tables.reader import TableReader, TrainingRows
from ._torch import single_blas, thread_limit, torch_scope
from .likelihoods import baseline_samples, max_latents
from .priors import AggregatedPosterior

__all__ = ["ATTRIBUTES", "Normality", "as_many_as_columns", "fault", "learn", "rows_behind", "supported"]

# n_components="auto": as many latents as columns, at most this many.
AUTO_MOST = 64
# Training rows that say what is typical, of scores and of explanations, at most.
SCORED, EXPLAINED = 2000, 50
# contamination="auto": the share of training rows below the threshold.
AUTO_CONTAMINATION = 0.01
# The share of rows trained on where some are said to be anomalies, and the steps that find them.
ROBUST_SUPPORT, CONCENTRATIONS = 0.7, 3
# Scores that differ by less than this, relative to the size of their terms, are equal: the same terms summed in
# another order, or in other company, differ by far less.
EQUAL = 1e-9
# A score so many times a typical row's is known to this share of what lies beyond: where cells are missing as well, the
# search for the row's latents has not ended, and carries rounding on.
FAR, EQUAL_FAR = 1e3, 1e-6
# The fitted detector's attribute for each field of `Normality`.
ATTRIBUTES = {
    "criterion": "_criterion",
    "criterion_weights": "criterion_weights_",
    "codes": "_codes",
    "typical": "_typical",
    "typical_explanation": "_typical_explanation",
    "training_scores": "training_scores_",
    "training_weight": "_training_weight",
    "margin": "_margin",
    "offset": "offset_",
}
# By how much a criterion's scores are multiplied at most, to spread like the first one's.
MOST_WEIGHT = 3.0
# A block of rows is summed over the codes in so many parts.
IN_PARTS = 20
# How many times a block's numbers the differences to similar rows may be: 32 MB.
BEYOND_CACHE = 16


def as_many_as_columns(cov: Covariance) -> int:
    """How many latents "auto" means to a detector."""
    return min(cov.n_varying, AUTO_MOST)


# Which rows to train on


def supported(
    reader: TableReader, table: TrainingRows, settings: FitSettings, share: float
) -> tuple[TrainingRows, np.ndarray, Array | None]:
    """The most normal rows, by steps of the minimum covariance determinant (Rousseeuw & Van Driessen 1999).

    Returns
    -------
    used : TrainingRows
        These rows.
    kept : ndarray of bool of shape (N,)
        Which they are, of the rows of all ranks.
    whole_std : ndarray of shape (D,) or None
        The columns' standard deviations over all rows, where some are left out: a column that is constant in the
        others keeps its scale.
    """
    first, n_rows = first_and_all(len(table))
    kept = np.ones(n_rows, dtype=bool)
    if share == 1:
        return table, kept, None
    weight = np.concatenate(gathered(weights(table)))
    whole_std, used = table.sums.moments.std, table
    for _ in range(CONCENTRATIONS):
        scores = np.concatenate(gathered(_linear_scores(reader, table.X, used, settings, whole_std)))
        nearer = np.zeros(len(scores), dtype=bool)
        order = np.argsort(-scores, kind="stable")
        # Up to the row that completes the share, whose weight may be more than one.
        complete = np.searchsorted(weight[order].cumsum(), share * weight.sum() * (1 - EQUAL))
        nearer[order[: complete + 1]] = True
        closer = table.at(nearer[first : first + len(table)])
        if closer.sums.empty.any():
            break
        kept, used = nearer, closer
    return used, kept, whole_std


def _linear_scores(reader: TableReader, X: Array, used: TrainingRows, settings: FitSettings, whole_std: Array) -> Array:
    """How likely the rows of X are under the linear model of the used ones; a gap counts as the other cells do."""
    with torch_scope(torch.device("cpu"), grad=True):
        prepared = prepare(reader, used, settings, hold_out=False, whole_std=whole_std)
        density, cov, scale = prepared.density, prepared.cov, prepared.scale
        n_components = max_latents(components(prepared, settings), cov, density.shared_noise)
        scores, n_present = np.empty(len(X)), np.empty(len(X))
        with single_blas():
            for part in row_blocks(X):
                block = X[part]
                present = ~np.isnan(block)
                n_present[part] = present.sum(axis=1)
                scores[part] = baseline_samples(density, to_rows(block, scale), cov, n_components)
                # Without the columns' units, whose density a row with gaps would lack.
                scores[part] += present @ np.log(scale.scale)
    scores /= np.maximum(n_present, 1)
    return np.where(n_present > 0, np.nan_to_num(scores, nan=-np.inf), -np.inf)


# What is normal


@dataclass(frozen=True)
class Normality:
    """What normal rows look like to a fitted model.

    Attributes
    ----------
    criterion : str, callable or tuple of str
    codes : dict of str to ndarray
        The aggregated posterior of the rows that were trained on, by the names of its fields.
    criterion_weights : ndarray of shape (n_criteria,)
        Of the criteria's scores in the verdict, where there are several.
    typical, typical_explanation : ndarray of shape (D + 1,) or None
        The mean contributions to a score, and to an explanation, of such rows.
    training_scores, training_weight : ndarray of shape (n_scored,)
    margin : float
        Scores that differ by less, or by less than a billionth of themselves, are equal.
    offset : float
        The threshold.
    """

    criterion: Criteria
    codes: dict[str, np.ndarray]
    criterion_weights: np.ndarray = field(default_factory=lambda: np.ones(1))
    typical: np.ndarray | None = None
    typical_explanation: np.ndarray | None = None
    training_scores: np.ndarray | None = None
    training_weight: np.ndarray | None = None
    margin: float = 0.0
    offset: float = 0.0

    @classmethod
    def of(cls, state: dict[str, Any]) -> Normality:
        """What a fitted detector's `__dict__` says."""
        if "_codes" not in state:
            raise NotFittedError(
                "This detector's fit has not ended: its model is there, but what is normal is learnt when training has "
                "ended. Callbacks can score it in the task 'fit', not in an 'epoch'."
            )
        return cls(**{field: state[name] for field, name in ATTRIBUTES.items()})

    @property
    def attributes(self) -> dict[str, Any]:
        """A fitted detector's attributes; `of` is the way back."""
        return {name: getattr(self, field) for field, name in ATTRIBUTES.items()}

    def at_share(self, share: float) -> float:
        """The threshold that this share of the training rows' weight lies below."""
        assert self.training_scores is not None
        return self.below(weighted_percentile(self.training_scores, self.training_weight, share))

    def below(self, score: float) -> float:
        """The threshold that lies below a score and all that are equal to it."""
        return float(score - self._apart(score))

    def above(self, scores: np.ndarray) -> np.ndarray:
        """What lies above these scores and all that are equal to them: (n_rows,)."""
        return scores + self._apart(scores)

    def _apart(self, scores: Any) -> Any:
        """The margin, or more: numbers are far apart themselves where a row lies far out."""
        size = np.minimum(np.abs(scores), np.finfo(float).max)
        beyond = np.maximum(size - FAR * self.margin / EQUAL, 0.0)
        return self.margin + EQUAL * size + EQUAL_FAR * beyond

    def view(self, inference: Inference) -> ScoringContext:
        """What a criterion looks at beside the rows."""
        device = inference.device
        codes = AggregatedPosterior(*(torch.tensor(self.codes[n], device=device) for n in AggregatedPosterior._fields))
        completions = quasi_normal(COMPLETIONS, inference.model.prior.n_components, inference.seed).to(device)
        return ScoringContext(inference.rule, codes, completions, torch.tensor(inference.scale.scale, device=device))

    def contributions(self, inference: Inference, X: Array) -> np.ndarray:
        """The criterion's contributions of the rows of X: (N, D + 1)."""
        return self._look(inference, X, self._of(inference, contributions, self.typical))

    def weighed(self, inference: Inference, table: TrainingRows) -> tuple[Normality, np.ndarray]:
        """The same with weights for several criteria, from training rows, and these rows' contributions: (N, D + 1).

        A criterion's scores are divided by their spread among the rows, between quartiles, and multiplied by that of
        the first, so that the mean of all is in units of the first one's scores. In a table of few patterns many rows
        score alike: a spread counts as at least a third of the first one's.
        """
        if not isinstance(self.criterion, tuple):
            return self, self.contributions(inference, table.X)
        view, every = self.view(inference), side_by_side(self.criterion)
        found = self._look(inference, table.X, lambda model, rows: contributions(every, model, rows, view))
        found = found.reshape(len(found), len(self.criterion), -1)
        spread = np.array([_spread(_total(scores), table.weight) for scores in found.sum(axis=2).T])
        first = spread[0] or spread.max() or 1.0
        weights = first / np.maximum(spread, first / MOST_WEIGHT) / len(spread)
        return replace(self, criterion_weights=weights), np.einsum("c,ncd->nd", weights, found)

    def scores(self, inference: Inference, X: Array) -> np.ndarray:
        """Their sums: (N,)."""
        of = self._of(inference, contributions, self.typical)
        return _total(self._look(inference, X, lambda model, rows: of(model, rows).sum(dim=1)))

    def explanations(self, inference: Inference, X: Array) -> np.ndarray:
        """The contributions with the latents' part shared out among the features: (N, D + 1)."""
        of = self._of(inference, explained, self.typical, self.typical_explanation)
        return self._look(inference, X, of, shared=True)

    def beside_typical(self, inference: Inference, X: Array) -> np.ndarray:
        """Those less a typical row's; ValueError names a row that is too far out."""
        values = self.explanations(inference, X)
        refuse_far_rows(values, range(len(values)), "explained")
        return values - self.typical_explanation

    def similar(self, inference: Inference, X: Array) -> np.ndarray:
        """The most similar normal row, in model units: (N, D)."""
        view = self.view(inference)
        widest = self._widest(inference, shared=True)
        return inference.by_blocks(X, lambda model, rows: nearest(model, rows, view), widest=widest)

    def _of(self, inference: Inference, function: Any, *typical: np.ndarray | None) -> Any:
        """`function` of a criterion and what is typical, as a function of the model and rows."""
        view, criterion = self.view(inference), as_one(self.criterion, self.criterion_weights.tolist())
        tensors = [None if value is None else torch.tensor(value, device=inference.device) for value in typical]
        return lambda model, rows: function(criterion, model, rows, view, *tensors)

    def _look(self, inference: Inference, X: Array, of: Any, shared: bool = False) -> np.ndarray:
        names = set(names_of(self.criterion))
        drawn, reads_codes = bool(names & DRAWN), not names or bool(names - DRAWN)  # a user's function may read them
        widest = self._widest(inference, shared) if reads_codes or shared else 1
        gaps = has_gaps(X)  # only rows with gaps ask for whole posteriors, and are completed several times
        widest *= COMPLETIONS if shared and gaps else 1
        return inference.by_blocks(X, of, inference.n_draws if drawn else 1, widest=widest, factors=gaps)

    def _widest(self, inference: Inference, shared: bool) -> int:
        """Numbers that a criterion, or `nearest`, holds per row.

        What `nearest` holds may pass the cache: with many columns its blocks would be single rows. A sum over the codes
        takes rows in parts of its own, but for gradients.
        """
        n_codes, n_features = len(self.codes["mean"]), len(inference.scale.scale)
        if shared:
            return max(n_codes, min(n_codes, MOST_SIMILAR) * n_features // BEYOND_CACHE)
        return n_codes if callable(self.criterion) else n_codes // IN_PARTS


def learn(
    inference: Inference,
    criterion: Criteria,
    contamination: float | str,
    table: TrainingRows,
    used: TrainingRows,
) -> Normality:
    """The codes of the rows that were used, what is typical of them, and the threshold, from all rows."""
    seed = inference.seed
    found = Normality(
        tuple(criterion) if isinstance(criterion, list) else criterion,
        _aggregated(inference, _sample(used, CODES, seed)),
    )
    some = _sample(used, SCORED, seed)
    found, contributions = found.weighed(inference, some)
    found = replace(
        found,
        typical=_finite_mean(contributions, some.weight, criterion),
        margin=_margin(contributions, criterion, inference.scale.scale),
    )
    auto = contamination == "auto"
    if auto and not has_gaps(some.X):
        scores = _total(contributions.sum(axis=1))
    elif auto:
        scores = found.scores(inference, some.X)
    else:
        scores = np.concatenate(gathered(found.scores(inference, table.X)))
    share: Any = AUTO_CONTAMINATION if auto else contamination
    few = _sample(used, EXPLAINED, seed)
    typical = _finite_mean(found.explanations(inference, few.X), few.weight, criterion)
    # Explanations are to sum to the score less the mean of all training scores.
    typical[-1] += np.ma.masked_invalid(scores).mean() - typical.sum()
    weight: Any = some.weight if auto else np.concatenate(gathered(weights(table)))
    found = replace(found, typical_explanation=typical, training_scores=scores, training_weight=weight)
    return replace(found, offset=found.at_share(share))


def rows_behind(codes: dict[str, np.ndarray]) -> Codes:
    """The codes of normal rows, as `known_rows` takes them."""
    return Codes(
        codes["mean"], codes["var"], np.exp(codes["log_weight"]) * len(codes["mean"]), None, codes.get("given")
    )


def _sample(table: TrainingRows, most: int, seed: int) -> TrainingRows:
    """At most `most` of the rows, with weights."""
    if table.n_all <= most:
        return table.drawn(np.arange(table.n_all))
    return table.drawn(np.random.default_rng(seed).permutation(table.n_all)[:most])


def _aggregated(inference: Inference, table: TrainingRows) -> dict[str, np.ndarray]:
    """The aggregated posterior of these rows, as arrays."""
    weight: Any = table.weight
    found = inference.by_blocks(table.X, mean_and_std, factors=has_gaps(table.X))
    with torch_scope(torch.device("cpu"), grad=False), thread_limit(0):
        mean, std = torch.tensor(found).unbind(dim=-1)
        codes = AggregatedPosterior.of(mean, std.square(), torch.tensor(weight)).widened(inference.seed)
    columns = inference.model.likelihood.given_columns
    given = {"given": table.X[:, columns].astype(np.float64)} if columns.any() else {}
    return {name: values.numpy() for name, values in codes._asdict().items()} | given


def _total(scores: np.ndarray) -> np.ndarray:
    """The scores; not a number is not below any threshold, and would pass for normal: such rows get -inf."""
    return np.nan_to_num(scores, nan=-np.inf, neginf=-np.inf)


def _finite_mean(values: np.ndarray, weight: Any, criterion: Criteria) -> np.ndarray:
    """Weighted column means over rows without an infinite or undefined entry; ValueError where there is none."""
    finite = np.isfinite(values).all(axis=1)
    if not finite.any():
        raise ValueError(
            f"criterion={criterion!r} gives no training row a finite score: X holds values beyond what it can square "
            "or add. Scale the columns, or lower learning_rate_init."
        )
    return np.average(values[finite], axis=0, weights=weight[finite])


def _margin(contributions: np.ndarray, criterion: Criteria, scale: Array) -> float:
    """How far apart two scores are at least that are not equal: `EQUAL` of the size of a typical row's terms.

    Terms may cancel, or be nothing but rounding: a size of their own stands beside what they sum to.
    """
    size = np.abs(contributions).sum(axis=1)
    return EQUAL * float(np.median(size[np.isfinite(size)]) + unit(criterion, scale))


def weighted_percentile(scores: np.ndarray, weight: Any, share: float) -> float:
    """The score that `share` of the weight lies below, as `np.percentile` of rows that are there `weight` times.

    Weights count relative to their mean. The least finite score where the score is not finite.
    """
    order = np.argsort(scores, kind="stable")
    ends = (weight[order] / weight.mean()).cumsum()
    place = (len(scores) - 1) * share
    pair = np.searchsorted(ends, np.floor(place) + [0, 1] + len(scores) * EQUAL, side="right")
    low, high = scores[order[pair.clip(max=len(scores) - 1)]]
    with np.errstate(invalid="ignore"):
        found = low + (high - low) * (place % 1)
    return float(found if np.isfinite(found) else scores[np.isfinite(scores)].min())


def _spread(scores: np.ndarray, weight: Any) -> float:
    """Between the quartiles; of many equal scores the standard deviation."""
    low, high = (weighted_percentile(scores, weight, share) for share in (0.25, 0.75))
    return float(high - low or scores[np.isfinite(scores)].std())


# Saved state


def fault(state: dict[str, Any]) -> str | None:
    """What is wrong with what a detector has learnt beside its model, in words; None if nothing is.

    A copy that callbacks see in the middle of a fit has learnt nothing yet.
    """
    if not state.keys() & set(ATTRIBUTES.values()):
        return None
    if wrong := _fault_of_criterion(state["_criterion"], state.get("criterion_weights_")):
        return wrong
    n_features = state["n_features_in_"]
    for name in ("_typical", "_typical_explanation"):
        value: Any = state.get(name)
        if not is_finite_array(value) or value.shape != (n_features + 1,):
            return f"{name} is not {n_features + 1} finite numbers"
    for name in ("offset_", "_margin"):
        if not isinstance(value := state.get(name), (float, np.floating)) or not np.isfinite(value):
            return f"{name} is {value!r}"
    return _fault_of_scores(state) or _fault_of_codes(state.get("_codes"), state["n_components_"])


def _fault_of_criterion(criterion: Any, weights: Any) -> str | None:
    if not isinstance(criterion, (str, tuple)):
        return None if is_users_function(criterion) else "_criterion is no criterion"
    names = names_of(criterion)
    if not names or not all(name in list(CRITERIA) for name in names):
        return "_criterion is no criterion"
    if not is_finite_array(weights) or weights.shape != (len(names),) or not (weights > 0).all():
        return "criterion_weights_ are not a positive number per criterion"
    return None


def _fault_of_scores(state: dict[str, Any]) -> str | None:
    for name in ("training_scores_", "calibration_scores_"):
        value: Any = state.get(name, None if name == "training_scores_" else np.zeros(0))
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim != 1 or np.isnan(value).any():
            return f"{name} is not an array of scores"
        if name == "calibration_scores_" and (value[1:] < value[:-1]).any():
            return f"{name} is not sorted"
    weight: Any = state.get("_training_weight")
    if not is_finite_array(weight) or weight.shape != state["training_scores_"].shape or not (weight > 0).all():
        return "_training_weight is not a positive number per training score"
    return None


def _fault_of_codes(codes: Any, n_components: int) -> str | None:
    fields = AggregatedPosterior._fields
    if not isinstance(codes, dict) or codes.keys() - {"given"} != set(fields):
        return f"_codes are not {sorted(fields)}"
    if not all(is_finite_array(values, "f") for values in codes.values()):
        return "_codes hold something that is not a finite number"
    mean, var, log_weight, own_share = (codes[name] for name in fields)
    n_codes = log_weight.size
    if own_share.shape or own_share < 0:
        return "own_share of _codes is not a share"
    if not n_codes or log_weight.ndim != 1 or not mean.shape == var.shape == (n_codes, n_components):
        return f"_codes have the shapes {mean.shape}, {var.shape} and {log_weight.shape}"
    return None if (var > 0).all() else "a code's variance is not positive"
