"""What early stopping should watch: rules that say whether an epoch is better than the best one so far.

Every table is split: 70 % of the rows are fitted, of which the estimator holds a tenth out; the rest is scored. A fit
is trained for all its epochs once, and what each held-out row says of every epoch is kept, so that every rule chooses
among the same epochs, with the estimator's patience. Printed is the log-likelihood of the last 30 % at the epoch that
each rule kept, in nats per row over the old rule's ("mean"): the mean, and the mean without 5 % of the rows at either
end.

- mean: the mean over held-out rows is higher.
- clip k: so is the mean of the rows' gains over the start, cut off k robust standard deviations from their median.
- trim a: the mean difference from the best epoch is above 0 without the share a of rows at either end.
- winsor a: the same with those rows moved to the nearest of the others.
- huber k: the same with differences cut off k robust standard deviations from their median.
- sign: more rows gained than lost.

    python benchmarks/monitor.py [--data DIR] [--seeds 3] [--tables NAME ...]
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _tables import print_table
from numpy.typing import NDArray
from scipy.stats import trim_mean
from sklearn import datasets
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from skvae import VAETransformer
from skvae._fit import FitSettings, learn_columns, prepare, products, start, training_of
from skvae._inference.quadrature import normal_rule
from skvae._inference.scores import log_likelihood
from skvae._tables.batches import to_rows
from skvae._torch import torch_scope
from skvae._training.held_out import held_out_values

SKLEARN = ("iris", "wine", "breast_cancer", "diabetes", "digits", "digits varying")
ADBENCH = ("6_cardio", "28_pendigits", "38_thyroid", "40_vowels")
MAX_ROWS = 1500
N_DRAWS = 64

Array = NDArray[np.float64]
# From the held-out rows' values at the start, at the best epoch and at the new one: whether the new one is better.
Rule = Callable[[Array, Array, Array], bool]


def cut(values: Array, k: float) -> float:
    """The mean of values cut off k robust standard deviations from their median."""
    middle = np.median(values)
    reach = k * 1.4826 * np.median(np.abs(values - middle))
    return float(np.clip(values, middle - reach, middle + reach).mean())


def winsorised(values: Array, share: float) -> float:
    ordered, n = np.sort(values), math.ceil(share * len(values))
    return (
        float(np.clip(values, ordered[n], ordered[-1 - n]).mean()) if 2 * n < len(values) else float(np.median(values))
    )


def trimmed(values: Array, share: float) -> float:
    n = math.ceil(share * len(values))
    return float(np.sort(values)[n : len(values) - n].mean()) if 2 * n < len(values) else float(np.median(values))


RULES: dict[str, Rule] = {"mean": lambda start, best, new: new.mean() > best.mean()}
for k in (3, 5, 10, 20):
    RULES[f"clip {k}"] = lambda start, best, new, k=k: cut(new - start, k) > cut(best - start, k)
for k in (3, 10):
    RULES[f"huber {k}"] = lambda start, best, new, k=k: cut(new - best, k) > 0
for share in (0.01, 0.02, 0.05, 0.1):
    RULES[f"trim {share}"] = lambda start, best, new, a=share: trimmed(new - best, a) > 0
for share in (0.01, 0.02, 0.05):
    RULES[f"winsor {share}"] = lambda start, best, new, a=share: winsorised(new - best, a) > 0
    RULES[f"gains {share}"] = lambda start, best, new, a=share: winsorised(new - start, a) > winsorised(best - start, a)
RULES["sign"] = lambda start, best, new: float(np.sign(new - best).mean()) > 0


def tables(names: list[str] | None, data: Path | None) -> Iterator[tuple[str, Array]]:
    for name in names or (*SKLEARN, *(ADBENCH if data else ())):
        if name in ADBENCH:
            assert data is not None
            file = np.load(data / "adbench" / f"{name}.npz")
            X = file["X"][file["y"] == 0].astype(float)
        else:
            X = getattr(datasets, f"load_{name.split()[0]}")().data.astype(float)
            if name.endswith("varying"):
                X = X[:, X.std(axis=0) > 0.5]
        yield name, np.random.default_rng(0).permutation(X)[:MAX_ROWS]


class Recorded(NamedTuple):
    """What the held-out rows say of every epoch, the start included, and what tests rows score there."""

    values: list[Array]
    score: Callable[[int], Array]
    patience: float


def record(X: Array, test: Array, seed: int) -> Recorded:
    """Train on X for all epochs."""
    vae = VAETransformer(random_state=seed)
    vae._validate_params()
    settings = FitSettings.of(vae, torch.device("cpu"))
    reader, X = learn_columns(settings, X)
    rows = reader.first_rows(X, None, None, settings.objective)
    settings = settings.seeded(seed)
    values, weights = [], []
    with torch_scope(settings.device, grad=True):
        prepared = prepare(reader, rows, settings)
        begun = start(reader, prepared, settings)
        with products(begun.model, settings, len(prepared.training)):
            training = training_of(begun, prepared, settings)

            def keep() -> None:
                assert prepared.held_out is not None
                values.append(held_out_values(begun.model, settings.objective, prepared.held_out, training.seed))
                weights.append({k: v.detach().clone() for k, v in begun.model.state_dict().items()})

            keep()
            training.settings.__dict__["patience"] = math.inf
            training.run(on_epoch=lambda epoch: keep())
    rule = normal_rule(N_DRAWS, begun.n_components, settings.seed)
    known: dict[int, Array] = {}

    @torch.no_grad()
    def score(epoch: int) -> Array:
        if epoch not in known:
            begun.model.double().load_state_dict(weights[epoch])
            found = log_likelihood(begun.model, to_rows(test, prepared.scale, dtype=torch.float64), rule)[:, 0]
            known[epoch] = found.numpy()
        return known[epoch]

    return Recorded(values, score, vae.n_iter_no_change)


def chosen(recorded: Recorded, rule: Rule) -> int:
    """The epoch that a rule keeps."""
    best, values = 0, recorded.values
    for epoch in range(1, len(values)):
        if rule(values[0], values[best], values[epoch]):
            best = epoch
        if epoch - best >= recorded.patience:
            break
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", nargs="+")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    lines, total = [], {name: [] for name in RULES}
    for table, X in tables(args.tables, args.data):
        found = {name: [] for name in RULES}
        for seed in range(args.seeds):
            train, test = train_test_split(X, test_size=0.3, random_state=seed)
            recorded = record(train, test, seed)
            for name, rule in RULES.items():
                epoch = chosen(recorded, rule)
                scores = recorded.score(epoch)
                found[name].append((scores.mean(), trim_mean(scores, 0.05), epoch))
        base = np.array(found["mean"])
        for name, values in found.items():
            gain = np.array(values) - base
            total[name].append(gain[:, :2].mean(axis=0))
            epochs = " ".join(f"{int(epoch)}" for *_, epoch in values)
            lines.append(
                [table, name, *(f"{v:+.3f}" for v in gain[:, :2].mean(axis=0)), f"{gain[:, 0].min():+.3f}", epochs]
            )
        print_table(["table", "rule", "mean", "5 % trimmed", "worst seed", "epochs kept"], lines)
        lines = []
    print_table(
        ["rule", "mean", "5 % trimmed", "worst table"],
        [[n, *(f"{v:+.3f}" for v in (*np.mean(g, axis=0), np.min(g)))] for n, g in total.items()],
    )


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
