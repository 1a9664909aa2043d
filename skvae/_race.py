"""A race among candidates: all are trained a part of the way, and those that lag clearly behind go no further.

After each of `SHARES` of its epochs a candidate's test scores are compared with those of the leader, the candidate of
the best mean, fold by fold: d_k = leader's score - candidate's score on fold k, see `comparable`. The first time, three
folds are looked at before the others are begun. A candidate is dropped if

    mean(d) > t * sd(d) * sqrt(1 / K + n_test / n_train),

with K folds and t the one-sided quantile of Student's t with K - 1 degrees of freedom. The root is Nadeau and Bengio's
(2003): folds share training rows, so their differences vary less than those of fresh tables would. The quantile's level
is `ERROR`, shared out evenly (Bonferroni) to the comparisons that a candidate has with the others in all, so the chance
that a race drops the truly best candidate, or any given one that is as good after as many epochs, is at most `ERROR`.
What no number of folds can tell is who learns late: a candidate that is behind now and would lead in the end is lost.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.stats import t as student_t
from sklearn.utils import _safe_indexing

from ._fit import Fit, Paused, fit_model
from ._settings import FitSettings
from ._tables.reader import TableReader, TrainingRows
from ._training.held_out import defined, differences, winsorised
from ._training.loop import DivergedError

__all__ = ["Candidate", "Fold", "Labelled", "Race", "RaceLog", "behind", "still_gains"]

# Shares of a candidate's epochs after which it is compared; not before so many epochs, where the start still decides:
# there the largest models lead, and on digits the best one was behind after 12 epochs and far ahead after 25.
SHARES, LEAST_EPOCHS = (1 / 8, 1 / 4, 1 / 2), 20
# To compare candidates takes this many times fewer points z than their final scores: on two tables a quarter moved a
# score by 0.2 nats at most, where candidates lay 1 to 20 apart, and all points took a quarter of a part's time.
FEWER_DRAWS = 4
# The folds that are looked at first. Fewer are never compared: their differences have no spread to speak of.
FIRST_FOLDS = 3
# The chance that a race drops the best candidate.
ERROR = 0.05


class Labelled(NamedTuple):
    """Rows that were read, targets and weights, as they were given."""

    X: Any
    y: Any
    weight: Any

    def at(self, index: NDArray) -> Labelled:
        """The same of some rows."""
        y, weight = self.y, self.weight
        y, weight = None if y is None else _safe_indexing(y, index), None if weight is None else weight[index]
        return Labelled(self.X[index], y, weight)

    @property
    def to_encode(self) -> TrainingRows:
        """The rows that weigh anything."""
        rows = TrainingRows(self.X, None, self.weight)
        return rows if self.weight is None else rows.at(self.weight > 0)


@dataclass(frozen=True)
class Candidate:
    """What is compared: the settings of a fit, and the table as its likelihood reads it."""

    settings: FitSettings
    reader: TableReader
    table: Labelled
    n_draws: int

    @property
    def parted(self) -> tuple[Candidate, Any]:
        """It without X, and X: what sends large arguments once looks at them, and not into them."""
        return replace(self, table=self.table._replace(X=None)), self.table.X

    def joined(self, X: Any) -> Candidate:
        """With the X that it was sent without."""
        return replace(self, table=self.table._replace(X=X))

    def rows(self, table: Labelled) -> TrainingRows:
        """A table's rows to train on."""
        return self.reader.first_rows(*table, self.settings.objective)

    def score(self, fit: Fit, table: Labelled, n_draws: int) -> NDArray:
        """Log-likelihoods of a table's rows, in nats."""
        return fit.model.inference(self.settings.device, n_draws).log_likelihood(table.X)


class Fold(NamedTuple):
    """Numbers of the rows to train on and to test on."""

    train: NDArray
    test: NDArray


class Leg(NamedTuple):
    """What one part of the way brought: where to go on, the test rows' scores now, if there are any, and seconds."""

    paused: Paused | None
    scores: NDArray | None
    fit_time: float
    score_time: float


def advance(candidate: Candidate, fold: Fold, until: int, n_draws: int, paused: Paused | None) -> Leg:
    """Train a candidate on a fold's training rows up to epoch `until`; score the best weights so far on its test rows.

    A model whose training diverged at once has no scores, and nowhere to go on.
    """
    scores, now, table = None, None, candidate.table
    began = fitted = time.perf_counter()
    # A fit in parts warns of nothing: the score says how good a candidate is.
    with suppress(DivergedError):
        rows = candidate.rows(table.at(fold.train))
        fit = fit_model(candidate.reader, rows, candidate.settings, until=until, paused=paused)
        now, fitted = fit.paused, time.perf_counter()
        scores = candidate.score(fit, table.at(fold.test), n_draws)
    return Leg(now, scores, fitted - began, time.perf_counter() - fitted)


def fit_all(candidate: Candidate) -> tuple[Fit, list[warnings.WarningMessage]]:
    """The candidate fitted to all rows, and the warnings, which would be lost in another process."""
    if threading.current_thread() is not threading.main_thread():
        # Here they are not lost, and filters are all threads': one that puts back what it found undoes another's.
        return fit_model(candidate.reader, candidate.rows(candidate.table), candidate.settings), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return fit_model(candidate.reader, candidate.rows(candidate.table), candidate.settings), caught


def _joined_call(work: Callable, X: Any, candidate: Candidate, *more: Any) -> Any:
    return work(candidate.joined(X), *more)


def _call(work: Callable, candidate: Candidate, *more: Any) -> Any:
    """A call for joblib, whose table is an argument of its own."""
    candidate, X = candidate.parted
    return delayed(_joined_call)(work, X, candidate, *more)


def comparable(scores: list[list[Any]], weights: list[NDArray]) -> NDArray:
    """Scores of candidates of which no single test row decides: (n_candidates, n_folds), NaN where there is none.

    On every fold stands a candidate's mean difference from the candidates' median, row by row. Of its differences on
    all folds the outermost are moved to the nearest of the others: a row thousands of nats off would hide them.

    Parameters
    ----------
    scores : list of lists of ndarray
        By candidate and fold, the test rows' log-likelihoods; None where there are none.
    weights : list of ndarray
        By fold, what the test rows weigh.
    """
    found = np.full((len(scores), len(weights)), np.nan)
    there = [[k for k, rows in enumerate(mine) if rows is not None] for mine in scores]
    middle: list[Any] = [None] * len(weights)
    for k in set().union(*there):
        with np.errstate(invalid="ignore"):
            middle[k] = defined(np.median([defined(mine[k]) for mine in scores if mine[k] is not None], axis=0))
    some = [k for k, rows in enumerate(middle) if rows is not None]
    for k in some:
        if not (weights[k] * np.isfinite(middle[k])).any():
            middle[k] = np.zeros_like(middle[k])  # where hardly any candidate has a score, each stands by itself
    level = np.full(len(weights), np.nan)
    # Rows that hardly any candidate can score say nothing of the fold.
    level[some] = _means([middle[k] for k in some], [weights[k] * np.isfinite(middle[k]) for k in some])
    for mine, folds, row in zip(scores, there, found, strict=True):
        gains = [np.where(np.isfinite(middle[k]), differences(mine[k], middle[k]), 0.0) for k in folds]
        row[folds] = level[folds] + _means(gains, [weights[k] for k in folds])
    return found


def _means(values: list[NDArray], weights: list[NDArray]) -> NDArray:
    """Each fold's mean over the rows that weigh anything, the outermost of all rows moved to the nearest others."""
    kept = [weight > 0 for weight in weights]
    values, weights = ([part[k] for part, k in zip(parts, kept, strict=True)] for parts in (values, weights))
    if not values:
        return np.empty(0)
    moved = np.split(winsorised(np.concatenate(values), np.concatenate(weights)), np.cumsum([*map(len, values)])[:-1])
    return np.array([np.average(p, weights=w) if len(p) else -np.inf for p, w in zip(moved, weights, strict=True)])


def behind(scores: NDArray, n_candidates: int, test_ratio: float, near: bool = False) -> NDArray[np.bool_]:
    """Which candidates are behind the leader by more than their folds' differences allow; see above.

    Parameters
    ----------
    scores : ndarray of shape (candidates still there, K)
        Nats per row.
    n_candidates : int
        Candidates at the outset.
    test_ratio : float
        Test rows over training rows.
    near : bool
        Keep those that may lie within one standard error of the leader's mean, too.
    """
    n_folds, means = scores.shape[1], np.nan_to_num(scores.mean(axis=1), nan=-np.inf)
    leader = scores[np.argmax(means)]
    n_looks = len(SHARES) + 1
    quantile = student_t.ppf(1 - ERROR / (n_looks * max(1, n_candidates - 1)), n_folds - 1)
    with np.errstate(invalid="ignore"):
        lag = leader - scores
        error = lag.std(axis=1, ddof=1) * np.sqrt(1 / n_folds + test_ratio)
        margin = leader.std(ddof=1) / np.sqrt(n_folds) if near else 0.0
        clearly = lag.mean(axis=1) - quantile * error > margin
    failed = np.isnan(scores).any(axis=1) & np.isfinite(leader).all()
    return clearly | failed


def still_gains(scores: NDArray, sizes: Sequence[float], best: int) -> bool:
    """Whether the best candidate is the largest one, and ahead of all smaller ones by more than a standard error.

    Parameters
    ----------
    scores : ndarray of shape (n_candidates, K)
        Nats per row; NaN where a candidate has none.
    sizes : sequence of float
        Numbers of latents.
    best : int
        The place of the best one.
    """
    smaller = [i for i, size in enumerate(sizes) if size < sizes[best]]
    if not smaller or sizes[best] < max(sizes):
        return False
    with np.errstate(invalid="ignore"):  # of rows too far out to be scored
        lead = scores[best] - scores[max(smaller, key=lambda i: np.nan_to_num(scores[i].mean(), nan=-np.inf))]
        # One that was dropped, or diverged, lies clearly behind.
        error = lead.std(ddof=1) / np.sqrt(len(lead)) if len(lead) > 1 else 0.0
        return not lead.mean() <= error


class RaceLog:
    """What a search prints of its race: a line when candidates are looked at; nothing without a name."""

    def __init__(self, name: str = "", candidates: Sequence[Any] = ()):
        self.name, self.candidates = name, candidates
        self.began = time.perf_counter()

    def say(self, text: str) -> None:
        """Print a line."""
        if self.name:
            print(f"[{self.name}] {text}")

    def look(self, race: Race, share: float, n_folds: int, dropped: list[int]) -> None:
        """Say who leads after this share of the epochs, on so many folds, and who goes no further."""
        if not self.name:
            return
        means = np.nan_to_num(race.compared[:, :n_folds].mean(axis=1), nan=-np.inf)
        leader = max(race.alive, key=lambda i: means[i], default=0)
        when = "all epochs" if share == 1 else f"{Fraction(share)} of the epochs"
        best = f"{self.candidates[leader]} leads with {means[leader]:.2f} nats per row"
        gone = f"; dropped {', '.join(str(self.candidates[i]) for i in dropped)}" if dropped else ""
        self.say(f"after {when} on {n_folds} folds  {best}{gone}  {time.perf_counter() - self.began:.1f} s")


class Race:
    """Candidates trained on every fold, part by part, in `n_jobs` processes.

    Parameters
    ----------
    candidates : list of Candidate
    folds : list of Fold
    n_jobs : int or None
    near : bool
        See `behind`.
    log : RaceLog
        What prints how the race stands.

    Attributes
    ----------
    scores : masked array of shape (n_candidates, n_folds)
        Mean test scores in nats per row, those of a dropped candidate from when it was dropped. Folds that were not
        begun by then are masked.
    compared : array of shape (n_candidates, n_folds)
        What candidates are compared by, see `comparable`: NaN where there is no score.
    fit_time, score_time : ndarrays of shape (n_candidates, n_folds)
        Seconds.
    dropped_after : ndarray of int of shape (n_candidates,)
        Epochs after which a candidate was dropped; 0 for those that never were.
    alive : list of int
        Candidates that were not dropped.
    """

    def __init__(
        self,
        candidates: list[Candidate],
        folds: list[Fold],
        n_jobs: int | None,
        near: bool,
        log: RaceLog | None = None,
    ):
        self.candidates, self.folds, self.n_jobs, self.near = candidates, folds, n_jobs, near
        self.log = RaceLog() if log is None else log
        shape = (len(candidates), len(folds))
        self.scores, self.fit_time, self.score_time = np.ma.masked_all(shape), np.zeros(shape), np.zeros(shape)
        self.dropped_after = np.zeros(len(candidates), dtype=int)
        self.alive = list(range(len(candidates)))
        self.compared = np.full(shape, np.nan)
        # The test rows' scores.
        self.of_rows: dict[tuple[int, ...], NDArray] = {}
        # Where to go on.
        self.paused: dict[tuple[int, ...], Paused | None] = dict.fromkeys(np.ndindex(*shape))

    def run(self, shares: Sequence[float], fit_winner: bool) -> tuple[Fit, list] | None:
        """Train all, dropping after each of `shares`; return `fit_all` of a winner that is alone before its end.

        If `fit_winner`, that fit is one more job beside the rest of its folds; alone it would leave processes idle.
        """
        self.log.say(f"{len(self.candidates)} candidates on {len(self.folds)} folds")
        # One by one: joblib would send short jobs in pairs, and a process would wait for the last pair.
        with Parallel(n_jobs=self.n_jobs, batch_size=1) as parallel:
            for share, n_folds in self._looks(shares):
                self._advance(parallel, share, n_folds)
                self._drop(share, n_folds)
                if len(self.alive) == 1:
                    break
            alone = fit_winner and bool(shares) and len(self.alive) == 1
            winner = [_call(fit_all, self.candidates[self.alive[0]])] if alone else []
            others = self._advance(parallel, 1.0, len(self.folds), winner)
        self.log.look(self, 1.0, len(self.folds), [])
        return others[0] if others else None

    def _looks(self, shares: Sequence[float]) -> list[tuple[float, int]]:
        """Shares of the epochs, and how many folds are looked at then."""
        first = [(share, FIRST_FOLDS) for share in shares[:1] if len(self.folds) > FIRST_FOLDS]
        return [*first, *((share, len(self.folds)) for share in shares)]

    def _until(self, candidate: int, share: float) -> int:
        """The last epoch of a candidate's part of the way."""
        return max(1, int(share * self.candidates[candidate].settings.max_iter))

    def _waits(self, candidate: int, fold: int, share: float) -> bool:
        """Whether a model that is left is behind its part of the way."""
        paused = self.paused[candidate, fold]
        if paused is None or share == 1:
            return True
        return not paused.progress.over and paused.progress.epoch < self._until(candidate, share)

    def _advance(self, parallel: Callable, share: float, n_folds: int, others: Sequence[Any] = ()) -> list[Any]:
        """Train what is left of the first folds up to this share of the epochs; return what the other calls did."""
        keys = [(i, k) for i, k in self.paused if k < n_folds and self._waits(i, k, share)]
        calls = []
        for i, k in keys:
            candidate, until = self.candidates[i], self._until(i, share)
            n_draws = candidate.n_draws if share == 1 else max(1, candidate.n_draws // FEWER_DRAWS)
            calls.append(_call(advance, candidate, self.folds[k], until, n_draws, self.paused[i, k]))
        found = parallel([*others, *calls])
        for (i, k), leg in zip(keys, found[len(others) :], strict=True):
            self.scores[i, k] = np.nan
            if leg.scores is not None:
                self.of_rows[i, k] = leg.scores
                weight = self._weight(k)
                self.scores[i, k] = np.average(leg.scores[weight > 0], weights=weight[weight > 0])
            self.fit_time[i, k] += leg.fit_time
            self.score_time[i, k] += leg.score_time
            self.paused[i, k] = leg.paused
            if leg.paused is None or share == 1:
                del self.paused[i, k]
        self._compare(n_folds)
        return found[: len(others)]

    def _weight(self, fold: int) -> NDArray:
        """What a fold's test rows weigh."""
        test, weight = self.folds[fold].test, self.candidates[0].table.weight
        return np.ones(len(test)) if weight is None else weight[test]

    def _compare(self, n_folds: int) -> None:
        """Bring what candidates are compared by up to their scores of now, on so many folds."""
        scores = [[self.of_rows.get((i, k)) for k in range(n_folds)] for i in self.alive]
        self.compared[self.alive, :n_folds] = comparable(scores, [self._weight(k) for k in range(n_folds)])

    def _drop(self, share: float, n_folds: int) -> None:
        scores = self.compared[:, :n_folds]
        ratio = float(np.mean([len(fold.test) / len(fold.train) for fold in self.folds]))
        found = behind(scores[self.alive], len(self.candidates), ratio, self.near)
        # A candidate of few epochs in all has not learnt enough to be judged yet, unless it has diverged.
        dropped = [
            i
            for i, is_behind in zip(self.alive, found, strict=True)
            if is_behind and (self._until(i, share) >= LEAST_EPOCHS or np.isnan(scores[i]).any())
        ]
        for i in dropped:
            self.dropped_after[i] = self._until(i, share)
        self.alive = [i for i in self.alive if i not in dropped]
        self.paused = {key: paused for key, paused in self.paused.items() if key[0] in self.alive}
        self.log.look(self, share, n_folds, dropped)

    def rungs(self) -> list[float]:
        """The shares after which some candidate can be dropped."""
        if len(self.folds) < FIRST_FOLDS or len(self.candidates) < 2:
            return []
        return [s for s in SHARES if any(self._until(i, s) >= LEAST_EPOCHS for i in self.alive)]
