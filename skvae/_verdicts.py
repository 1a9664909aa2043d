"""Scores, thresholds and verdicts of a detector, and the guarantees that rows put aside give them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from scipy.stats import false_discovery_control
from sklearn.utils.validation import check_is_fitted

from ._base import BaseVAE
from ._fit import Fit
from ._normality import ATTRIBUTES, Normality
from ._normality import fault as fault_of_normality
from ._params import Share, check_count
from ._saved import Rule
from ._settings import FitSettings
from ._state import amend, at_once

__all__ = ["SHARE", "JudgesRows"]


# What `contamination` may be, and rates of errors.
SHARE, RATE = Share(0.5), Share(1, "neither")
# A rate of 0.05 means one row in twenty, which floating point would make a little more than 20.
ROUNDING = 1e-9


class JudgesRows(BaseVAE):
    """What a fitted detector says of rows: a score, a verdict, a p-value."""

    _leaves: ClassVar[dict[str, Rule | None]] = {
        **BaseVAE._leaves,
        **dict.fromkeys([*ATTRIBUTES.values(), "calibration_scores_"]),
        "_calibration": Rule("rows and a rate of false alarms", lambda v, D, J: _is_calibration(v, D)),
    }
    _groups = (*BaseVAE._groups, frozenset(ATTRIBUTES.values()))

    offset_: float
    calibration_scores_: np.ndarray

    @at_once
    def score_samples(self, X: Any) -> np.ndarray:
        """How normal every row is, by the criterion; higher is more normal.

        With missing cells a row is completed several times from its other cells, and what a missing cell would say is
        what it says of a typical training row: a gap makes no row more normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            In float64, and in nats for the criteria that are logarithms of densities; -inf for a row too far out to be
            scored.

        Raises
        ------
        ValueError
            If X breaks a rule.
        """
        X = self._reader().read(X)
        return self._normality().scores(self._inference(), X)

    @at_once
    def decision_function(self, X: Any) -> np.ndarray:
        """Scores less the threshold: negative for anomalies.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            As `score_samples`, less `offset_`.
        """
        return self.score_samples(X) - self.offset_

    @at_once
    def predict(self, X: Any) -> np.ndarray:
        """-1 for anomalies and 1 for normal rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        labels : ndarray of int of shape (n_samples,)
            One label per row.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def set_contamination(self, contamination: float) -> Self:
        """Move the threshold so that this share of the training rows lies below it, without training.

        Parameters
        ----------
        contamination : float
            In (0, 0.5].

        Returns
        -------
        self : object
            The detector with its new threshold; what `calibrate` learnt is dropped.

        Raises
        ------
        ValueError
            If the share is out of range.
        """
        check_is_fitted(self)
        if not SHARE.is_satisfied_by(contamination):
            raise ValueError(f"contamination={contamination!r} must be a number above 0 and at most 0.5.")
        amend(self, "calibration_scores_", "_calibration", offset_=self._normality().at_share(contamination))
        return self

    def calibrate(self, X_normal: Any, *, false_alarm_rate: float) -> Self:
        """Set the threshold from normal rows that were not used in fit, so that false alarms are rare by guarantee.

        With n such rows exchangeable with the rows to come, the chance that a normal row is called an anomaly is at
        most `false_alarm_rate`, whatever the model (split conformal prediction; Vovk et al. 2005, Bates et al. 2023).
        The guarantee is on average over calibration sets: with this one, the rate varies around it like a
        Beta(k, n + 1 - k) variable, k = floor(false_alarm_rate (n + 1)).

        Parameters
        ----------
        X_normal : array-like of shape (n_samples, n_features)
            Normal rows, of which none was in fit.
        false_alarm_rate : float
            In (0, 1). At least 1 / false_alarm_rate - 1 rows are needed.

        Returns
        -------
        self : object
            The detector with its new threshold.

        Raises
        ------
        ValueError
            If X_normal breaks a rule, the rate is out of range, or the rows are too few for it.
        """
        check_is_fitted(self)
        _check_rate("false_alarm_rate", false_alarm_rate)
        scores = self.score_samples(X_normal)
        amend(self, "_calibration", **_calibrated(self._normality(), scores, false_alarm_rate, "X_normal has"))
        return self

    def partial_calibrate(self, X_normal: Any, *, false_alarm_rate: float, window: int = 1000) -> Self:
        """Let the threshold follow a stream: `calibrate` on the latest normal rows, these and those of earlier calls.

        Of all rows given so far the last `window` are kept, and `partial_fit`, which changes every score, scores them
        anew and moves the threshold with the model. The guarantee is `calibrate`'s where the rows in the window and
        the next one are exchangeable, and so nearly holds where a stream changes little over a window; a short window
        follows faster, a long one is steadier. A row belongs either to `partial_calibrate` or to `partial_fit`: one
        that was trained on looks more normal than the rows to come.

        Parameters
        ----------
        X_normal : array-like of shape (n_samples, n_features)
            Normal rows, the latest last, of which none was trained on.
        false_alarm_rate : float
            In (0, 1). At least 1 / false_alarm_rate - 1 rows are needed, by the first call already.
        window : int, default=1000
            How many rows are kept, at most. They are saved with the detector.

        Returns
        -------
        self : object
            The detector with its new threshold. `fit`, `calibrate` and `set_contamination` forget the window.

        Raises
        ------
        ValueError
            If X_normal breaks a rule, a parameter is out of range, or the rows are too few for the rate.
        """
        check_is_fitted(self)
        _check_rate("false_alarm_rate", false_alarm_rate)
        check_count("window", window)
        X = self._reader().read(X_normal)
        rows = np.asarray(X[max(0, len(X) - window) : len(X)], dtype=np.float64)
        earlier = getattr(self, "_calibration", None)
        if earlier is not None:
            rows = np.concatenate([earlier["X"], rows])[-window:]
        normality = self._normality()
        scores = normality.scores(self._inference(), rows)
        kept = {"X": rows, "false_alarm_rate": float(false_alarm_rate)}
        amend(self, _calibration=kept, **_calibrated(normality, scores, false_alarm_rate, "the window holds"))
        return self

    @at_once
    def p_values(self, X: Any) -> np.ndarray:
        """The chance that a normal row is at least as unlikely as each row, from the rows given to `calibrate`.

        p = (1 + the number of calibration rows that score no higher) / (n + 1): for normal rows P(p <= a) <= a for
        every a. `predict` calls a row an anomaly where p is at most the false alarm rate.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.

        Returns
        -------
        p : ndarray of shape (n_samples,)
            Above 0 and at most 1.

        Raises
        ------
        ValueError
            If X breaks a rule, or `calibrate` has not been called since the last fit.
        """
        calibration = self._calibration_of("p_values")
        lower = np.searchsorted(calibration, self._normality().above(self.score_samples(X)), side="right")
        return (1 + lower) / (len(calibration) + 1)

    @at_once
    def reject(self, X: Any, *, fdr: float = 0.1) -> np.ndarray:
        """Which rows to call anomalies so that, on average, at most a share `fdr` of those called are normal rows.

        Benjamini and Hochberg's procedure (1995) on `p_values`. Let n calibration rows and the normal rows among X be
        exchangeable, n and X finite: the p-values are then positively dependent (PRDS) through the calibration rows
        they share, under which the procedure keeps its promise: the mean share of normal rows among those called (0
        where none is) is at most `fdr` times the share of normal rows in X, whatever the model and however many
        anomalies there are (Bates et al. 2023, theorem 2).

        Three things to know. The mean is over calibration sets as well as over X: with this one calibration set the
        share may be larger. Unlike `predict`, the verdict on a row depends on the rows that it is asked with. And no
        p-value is below 1 / (n + 1): of m rows, k that score lower than all calibration rows are called from
        n = m / (k fdr) - 1 on, so that a few anomalies among many rows ask for many calibration rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows that are judged together; NaN marks a missing cell.
        fdr : float, default=0.1
            The false discovery rate, in (0, 1).

        Returns
        -------
        rejected : ndarray of bool of shape (n_samples,)
            True for rows that are called anomalies.

        Raises
        ------
        ValueError
            If X breaks a rule, the rate is out of range, `calibrate` has not been called since the last fit, or the
            calibration rows are too few for any row to be called.

        Warns
        -----
        UserWarning
            If no row is called for want of calibration rows: more score lower than all of them than chance explains.

        References
        ----------
        Bates, S., Candes, E., Lei, L., Romano, Y. and Sesia, M. (2023). Testing for outliers with conformal p-values.
        Annals of Statistics 51(1), 149-178.

        Benjamini, Y. and Hochberg, Y. (1995). Controlling the false discovery rate: a practical and powerful approach
        to multiple testing. Journal of the Royal Statistical Society B 57(1), 289-300.
        """
        n_rows = len(self._calibration_of("reject"))
        _check_rate("fdr", fdr)
        _refuse_few("An fdr", fdr, n_rows, "the detector has")
        p = self.p_values(X)
        rejected = false_discovery_control(p) <= fdr * (1 + ROUNDING)
        if not rejected.any():
            _warn_of_few(int((p * (n_rows + 1) < 1.5).sum()), len(p), n_rows, fdr)
        return rejected

    def _calibration_of(self, method: str) -> np.ndarray:
        """The calibration rows' scores; ValueError, which names the method, where there are none."""
        check_is_fitted(self)
        if not hasattr(self, "calibration_scores_"):
            raise ValueError(f"{method} needs the scores of normal rows; call calibrate first.")
        return self.calibration_scores_

    def _calibrated_anew(self, fit: Fit, settings: FitSettings) -> Fit:
        """A later fit, with the threshold that the rows of `partial_calibrate` give it."""
        kept = getattr(self, "_calibration", None)
        if kept is None:
            return fit
        normality = Normality.of(fit.attributes)
        scores = normality.scores(fit.model.inference(settings.device, self.n_draws), kept["X"])
        found = _calibrated(normality, scores, kept["false_alarm_rate"], "the window holds")
        return replace(fit, attributes=fit.attributes | found | {"_calibration": kept})

    def _fault(self, state: dict[str, Any]) -> str | None:
        return super()._fault(state) or fault_of_normality(state) or _fault_of_window(state)

    def _normality(self) -> Normality:
        """What is normal to the fitted detector."""
        check_is_fitted(self)
        return Normality.of(self.__dict__)


def _calibrated(normality: Normality, scores: np.ndarray, rate: float, who: str) -> dict[str, Any]:
    """The threshold that false alarms are as rare by as `rate` says, and what it came from, as attributes."""
    _refuse_few("A false alarm rate", rate, len(scores), who)
    place = int(np.floor(rate * (len(scores) + 1) + ROUNDING))
    scores = np.sort(scores)
    return {"offset_": normality.below(float(scores[place - 1])), "calibration_scores_": scores}


def _check_rate(name: str, rate: Any) -> None:
    if not RATE.is_satisfied_by(rate):
        raise ValueError(f"{name}={rate!r} must be a number between 0 and 1.")


def _refuse_few(what: str, rate: float, n_rows: int, who: str) -> None:
    """Raise ValueError where so few calibration rows have no p-value as small as the rate."""
    needed = int(np.ceil(1 / rate - ROUNDING)) - 1
    if n_rows < needed:
        raise ValueError(
            f"{what} of {rate} needs at least {needed} calibration rows; {who} {n_rows}. Give more rows or a higher "
            "rate."
        )


def _warn_of_few(n_lowest: int, n_rows: int, n_calibration: int, fdr: float) -> None:
    """Say that rows are not called because no p-value could be small enough, where chance does not explain them."""
    if n_lowest > n_rows / (n_calibration + 1):
        needed = int(np.ceil(n_rows / (n_lowest * fdr) - ROUNDING)) - 1
        warnings.warn(
            f"No row is called, though {n_lowest} of {n_rows} score lower than all {n_calibration} calibration rows: "
            f"no p-value is below 1/{n_calibration + 1}, which is too large to call so few of so many. Calibrate with "
            f"at least {needed} rows, or give fewer rows or a higher fdr.",
            UserWarning,
            stacklevel=4,
        )


def _is_calibration(kept: Any, n_features: int) -> bool:
    """Whether a saved value is what `partial_calibrate` keeps."""
    if not isinstance(kept, dict) or kept.keys() != {"X", "false_alarm_rate"}:
        return False
    X, rate = kept["X"], kept["false_alarm_rate"]
    table = isinstance(X, np.ndarray) and X.dtype == np.float64 and X.ndim == 2 and X.shape[1] == n_features
    return bool(table and not np.isinf(X).any() and RATE.is_satisfied_by(rate) and rate * (len(X) + 1) >= 1 - ROUNDING)


def _fault_of_window(state: dict[str, Any]) -> str | None:
    """What is wrong between a saved window of rows and their scores, in words; None if nothing is."""
    kept, scores = state.get("_calibration"), state.get("calibration_scores_")
    if kept is None or (scores is not None and len(scores) == len(kept["X"])):
        return None
    return "calibration_scores_ are not those of the rows in _calibration"
