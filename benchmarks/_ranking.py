"""Items that users chose, ranked for users that no model was fitted to (Liang et al. 2018).

Protocol, as for Mult-VAE ("strong generalisation"): an item is chosen where its rating is at least --liked; users with
fewer than five are left out. A tenth of the users validates and a fifth tests, and models are fitted to the others
alone. Of each of these users' items four fifths are shown; the rest are to be ranked high among what was not.
- NDCG@100, recall@20 and recall@50, of at most so many hidden items; means over test users, with a standard error.
- popularity: how many training users chose an item.
- EASE (Steck 2019): the linear autoencoder without self-similarity in closed form; its ridge is chosen by NDCG@100 of
  the validating users.
- skvae: `VAETransformer(likelihood="multinomial")`; items are ranked by `reconstruct` of what is shown. The weight of
  the KL (1 is the bound itself) and the number of latents are chosen as EASE's ridge is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skvae import ELBO, VAETransformer

__all__ = ["HEADER", "ranked", "table_of_choices"]

HEADER = ["items chosen", "NDCG@100", "recall@20", "recall@50", "chosen", "s"]
FEWEST, VALIDATING, TESTING, SHOWN = 5, 0.1, 0.2, 0.8
RIDGES = (10.0, 30.0, 100.0, 300.0, 1000.0)
SETTINGS = tuple((J, beta) for J in (16, 64) for beta in (0.2, 1.0))

Array = NDArray[Any]
Scorer = Callable[[Array], Array]


class Users(NamedTuple):
    """What users were shown to have chosen, and what is hidden of it."""

    shown: Array
    hidden: Array


def table_of_choices(R: Array, liked: float) -> Array:
    """Zeros and ones, of users with enough items; items that nobody chose are left out."""
    X = (np.nan_to_num(R, nan=-np.inf) >= liked).astype(np.float32)
    X = X[X.sum(axis=1) >= FEWEST]
    return X[:, X.any(axis=0)]


def split(X: Array, seed: int) -> tuple[Array, Users, Users]:
    """Training users, validating and testing ones."""
    rng = np.random.default_rng(seed)
    X = X[rng.permutation(len(X))]
    n_valid, n_test = int(VALIDATING * len(X)), int(TESTING * len(X))
    train, *others = np.split(X, [len(X) - n_valid - n_test, len(X) - n_test])
    return train, *(fold(own, rng) for own in others)


def fold(X: Array, rng: np.random.Generator) -> Users:
    shown = X.copy()
    for row in shown:
        items = rng.permutation(np.flatnonzero(row))
        row[items[int(SHOWN * len(items)) :]] = 0.0
    return Users(shown, X - shown)


def measures(score: Array, users: Users) -> dict[str, Array]:
    """Of every user."""
    score = np.where(users.shown > 0, -np.inf, score)
    order = np.argsort(-score, axis=1, kind="stable")
    hits, n_hidden = np.take_along_axis(users.hidden, order, axis=1), users.hidden.sum(axis=1)
    gain = 1 / np.log2(np.arange(2, 102))
    best = np.cumsum(gain)[np.minimum(n_hidden, 100).astype(int) - 1]
    found = {"NDCG@100": (hits[:, :100] * gain[: hits.shape[1]]).sum(axis=1) / best}
    for k in (20, 50):
        found[f"recall@{k}"] = hits[:, :k].sum(axis=1) / np.minimum(n_hidden, k)
    return found


def ease(X: Array, ridge: float) -> Scorer:
    inverse = np.linalg.inv(X.T.astype(np.float64) @ X + ridge * np.eye(X.shape[1]))
    B = inverse / -np.diag(inverse)
    np.fill_diagonal(B, 0.0)
    return lambda shown: shown @ B


def by_vae(X: Array, n_components: int, beta: float, seed: int) -> Scorer:
    objective = ELBO(beta=beta, warmup=20)
    vae = VAETransformer(n_components, likelihood="multinomial", objective=objective, random_state=seed)
    return vae.fit(X).reconstruct


def candidates(X: Array, seed: int) -> Iterator[tuple[str, str, Callable[[], Scorer]]]:
    """A method, its setting, and what fits it."""
    yield "popularity", "", lambda: lambda shown: np.broadcast_to(X.sum(axis=0), shown.shape)
    for ridge in RIDGES:
        yield "EASE", f"{ridge:g}", lambda ridge=ridge: ease(X, ridge)
    for J, beta in SETTINGS:
        yield "skvae, multinomial", f"{J}, {beta:g}", lambda J=J, beta=beta: by_vae(X, J, beta, seed)


def ranked(X: Array, seed: int) -> dict[str, dict[str, Any]]:
    """What every method, at the setting that validating users choose, does for testing ones."""
    train, valid, test = split(X, seed)
    best: dict[str, tuple[float, str, Scorer]] = {}
    seconds: dict[str, float] = {}
    for name, setting, fit in candidates(train, seed):
        start = time.perf_counter()
        scorer = fit()
        value = float(measures(scorer(valid.shown), valid)["NDCG@100"].mean())
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        if name not in best or value > best[name][0]:
            best[name] = value, setting, scorer
    return {
        name: {**measures(scorer(test.shown), test), "chosen": setting, "s": seconds[name]}
        for name, (_, setting, scorer) in best.items()
    }
