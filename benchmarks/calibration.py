"""Whether `VAEAnomalyDetector.calibrate` keeps its promise: false alarms on normal rows, and uniform p-values.

Per table: 20 times, a third of the normal rows trains a detector at its defaults; 10 times for each, the other rows are
dealt anew into two halves, one to calibrate on and one to count false alarms in. The rate's error is that of a mean
over 200 deals, each with the Beta distribution's spread of split conformal prediction and a binomial count on top; it
takes no account of deals sharing rows. The p-values are those of one row a deal, 200 in all, tested against the uniform
distribution by Kolmogorov and Smirnov.
Prediction: no rate above nominal by more than two errors, and no KS p-value below 0.01.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _anomaly import Array, load
from _measure import verdict
from _tables import print_table
from scipy.stats import kstest

from skvae import VAEAnomalyDetector

TABLES = ("4_breastw", "28_pendigits", "38_thyroid", "43_WDBC")
RATES = (0.01, 0.05, 0.1)
FITS, DEALS = 20, 10


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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with adbench/*.npz")
    parser.add_argument("--tables", nargs="+", default=TABLES)
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args(argv)
    tables = load(args.data)
    checked = [check(name, tables[name][0][tables[name][1] == 0]) for name in args.tables]
    header = ["false alarms", "calibration", "new", *map(str, RATES), "KS of p"]
    print_table(header, [row for row, _ in checked], args.markdown)
    print()
    for _, lines in checked:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
