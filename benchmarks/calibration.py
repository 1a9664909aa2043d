"""Whether `VAEAnomalyDetector.calibrate` keeps its promise: false alarms on normal rows, and uniform p-values.

Per table: 20 times, a third of the normal rows trains a detector at its defaults; 10 times for each, the other rows are
dealt anew into two halves, one to calibrate on and one to count false alarms in. The rate's error is that of a mean
over 200 deals, each with the Beta distribution's spread of split conformal prediction and a binomial count on top; it
takes no account of deals sharing rows. The p-values are those of one row a deal, 200 in all, tested against the uniform
distribution by Kolmogorov and Smirnov.
Prediction: no rate above nominal by more than two errors, and no KS p-value below 0.01.

With --fdr it is `reject` that is looked at. Per table one detector at its defaults is fitted to half of the normal rows
(at most 1000), and all other rows are scored once. 200 times the other normal rows are dealt anew into two halves: one
calibrates, the other is new, with as many of the anomalies as make a tenth of the new rows (or all of them).
Benjamini and Hochberg's procedure on the p-values of these scores, which is what `reject` does (each table's first deal
checks that), calls rows; the share of normal rows among the calls, 0 where there are none, is the false discovery
proportion. Beside it stands the threshold of `calibrate` at a false alarm rate of the same number. Power is the share
of the anomalies that are called. All deals share one fit: the mean is over calibration and new rows, not over models.
Prediction: no mean proportion above the rate times the share of normal rows by more than two standard errors.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _anomaly import Array, load
from _measure import verdict
from _tables import print_table
from scipy.stats import false_discovery_control, kstest

from skvae import VAEAnomalyDetector

TABLES = ("4_breastw", "28_pendigits", "38_thyroid", "43_WDBC")
RATES = (0.01, 0.05, 0.1)
FITS, DEALS = 20, 10
# Of the false discovery rate.
SIX = (*TABLES, "6_cardio", "23_mammography")
FDRS, FDR_DEALS, ANOMALOUS, MOST_NORMAL = (0.05, 0.1, 0.2), 200, 0.1, 4000


def deals(normal: Array, seed: int) -> tuple[Array, Array, list[float]]:
    """False alarm rates and how many rows they are of, (deals, rates), and one p-value a deal."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(normal)
    third = min(len(rows) // 3, 1000)
    detector, rest = VAEAnomalyDetector(random_state=seed).fit(rows[:third]), rows[third:]
    scores = detector.score_samples(rest)
    rates, p_values = [], []
    for _ in range(DEALS):
        order = rng.permutation(len(rest))
        calibration, new = np.array_split(order, 2)
        found = []
        for rate in RATES:
            possible = rate * (len(calibration) + 1) >= 1
            if possible:
                detector.calibrate(rest[calibration], false_alarm_rate=rate)
            found.append((scores[new] < detector.offset_).mean() if possible else np.nan)
        p_values.append(float(detector.p_values(rest[new[:1]])[0]))
        rates.append(found)
    return np.array(rates), np.array([len(calibration), len(new)]), p_values


def error(rate: float, n_calibration: int, n_new: int, n_deals: int) -> float:
    """Standard error of a mean false alarm rate over independent deals."""
    return float(np.sqrt(rate * (1 - rate) * (1 / (n_calibration + 2) + 1 / n_new) / n_deals))


def check(name: str, normal: Array) -> tuple[list[str], list[str]]:
    """A row of the table, and the verdicts."""
    found = [deals(normal, seed) for seed in range(FITS)]
    rates = np.concatenate([rates for rates, _, _ in found])
    n_calibration, n_new = found[0][1]
    p = kstest([value for *_, values in found for value in values], "uniform").pvalue
    cells, lines = [name, str(n_calibration), str(n_new)], []
    for rate, observed in zip(RATES, rates.T, strict=True):
        if np.isnan(observed).any():
            cells.append("too few")
            continue
        bound = rate + 2 * error(rate, n_calibration, n_new, len(observed))
        cells.append(f"{observed.mean():.4f}")
        claim = f"{name}: {observed.mean():.4f} false alarms at {rate}, at most {bound:.4f}"
        lines.append(verdict(claim, observed.mean() <= bound))
    lines.append(verdict(f"{name}: p-values uniform, KS {p:.3f}, at least 0.01", p >= 0.01))
    return [*cells, f"{p:.3f}"], lines


def false_discoveries(X: Array, y: Array, seed: int) -> tuple[Array, Array, list[int]]:
    """Of every deal and rate: the proportion and the power, by `reject` and by `calibrate`; how many rows there are."""
    rng = np.random.default_rng(seed)
    normal, odd = rng.permutation(X[y == 0])[:MOST_NORMAL], rng.permutation(X[y == 1])
    half = min(len(normal) // 2, 1000)
    detector, rest = VAEAnomalyDetector(random_state=seed).fit(normal[:half]), normal[half:]
    scores, odd_scores = detector.score_samples(rest), detector.score_samples(odd)
    n_calibration = len(rest) // 2
    n_new = len(rest) - n_calibration
    n_odd = min(len(odd), max(1, round(n_new * ANOMALOUS / (1 - ANOMALOUS))))
    found = np.empty((FDR_DEALS, len(FDRS), 2, 2))
    for deal in range(FDR_DEALS):
        order, some = rng.permutation(len(rest)), rng.permutation(len(odd))[:n_odd]
        calibration = np.sort(scores[order[:n_calibration]])
        new = np.concatenate([scores[order[n_calibration:]], odd_scores[some]])
        p = (1 + np.searchsorted(calibration, new, side="right")) / (n_calibration + 1)
        for i, fdr in enumerate(FDRS):
            called = false_discovery_control(p) <= fdr * (1 + 1e-9), p <= fdr
            if deal == 0 and fdr * (n_calibration + 1) >= 1:
                detector.calibrate(rest[order[:n_calibration]], false_alarm_rate=fdr)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of calls for which the calibration rows are too few
                    own = detector.reject(np.concatenate([rest[order[n_calibration:]], odd[some]]), fdr=fdr)
                assert (own == called[0]).all(), "reject is not what this benchmark takes it for"
            found[deal, i] = [(c[:n_new].sum() / max(1, c.sum()), c[n_new:].mean()) for c in called]
    return found[..., 0], found[..., 1], [n_calibration, n_new, n_odd]


def check_fdr(name: str, X: Array, y: Array) -> tuple[list[list[str]], list[str]]:
    """Rows of the table, and the verdicts."""
    shares, power, sizes = false_discoveries(X, y, seed=0)
    n_new, n_odd = sizes[1:]
    rows, lines = [], []
    for i, fdr in enumerate(FDRS):
        mean, error = shares[:, i].mean(axis=0), shares[:, i].std(axis=0) / np.sqrt(FDR_DEALS)
        cells = [f"{mean[0]:.3f}", f"{power[:, i, 0].mean():.3f}", f"{mean[1]:.3f}", f"{power[:, i, 1].mean():.3f}"]
        rows.append([name, *map(str, sizes), str(fdr), *cells])
        bound = fdr * n_new / (n_new + n_odd) + 2 * error[0]
        claim = f"{name}: {mean[0]:.3f} of the calls are normal at fdr={fdr}, at most {bound:.3f}"
        lines.append(verdict(claim, bool(mean[0] <= bound)))
    return rows, lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with adbench/*.npz")
    parser.add_argument("--tables", nargs="+", default=None)
    parser.add_argument("--fdr", action="store_true", help="look at reject in place of calibrate")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args(argv)
    tables = load(args.data)
    if args.fdr:
        found = [check_fdr(name, *tables[name]) for name in args.tables or SIX]
        header = ["false discoveries", "calibration", "new normal", "anomalies", "fdr"]
        header += ["share", "power", "share by rate", "power by rate"]
        print_table(header, [row for rows, _ in found for row in rows], args.markdown)
        print("", *(line for _, lines in found for line in lines), sep="\n")
        return
    checked = [check(name, tables[name][0][tables[name][1] == 0]) for name in args.tables or TABLES]
    header = ["false alarms", "calibration", "new", *map(str, RATES), "KS of p"]
    print_table(header, [row for row, _ in checked], args.markdown)
    print()
    for _, lines in checked:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
