"""Ratings that nobody gave: AutoRec (Sedhain et al. 2015) by VAETransformer, beside the usual baselines.

Data: Jester (--data: jester5k.npz, 5000 users by 100 jokes, ratings from -9.95 to 9.9, 73 % of them there), or your own
ratings (--ratings FILE: a line a rating, user, item, rating; MovieLens' ratings.dat, u.data and ratings.csv as they
are). Tables are dense in memory.
Protocol: a random tenth of the ratings is hidden, by the seed; RMSE on it, of predictions clipped to the range of the
other ratings; mean over the seeds. Whatever has a number to choose chooses it on a tenth of the training ratings and is
then fitted to all of them; those seconds are included.
- item mean; user + item mean: mean + b_user + b_item, each shrunk as if by 5 ratings of 0, fitted in turns.
- truncated SVD: of the ratings less user + item mean, with 0 where there is none; the rank is chosen.
- soft-impute (Mazumder et al. 2010): the same with shrunk singular values, repeated until the filled table agrees with
  itself; the shrinkage is chosen.
- skvae, rows = users (U-AutoRec) and rows = items (I-AutoRec): `VAETransformer(20, likelihood=Gaussian("shared"))`
  fitted to the ratings as they are, NaN where there is none, everything else at its defaults. Predictions are
  `reconstruct`'s; --impute adds `impute`'s, which averages over the posterior and takes longer.
- skvae less user + item mean: the same model of what those means leave, with 2, 5, 10 or 20 latents, which is chosen.
  For sparse tables, where users and items have too few ratings to learn 20 weights of each.
Anchor: I-AutoRec has 0.831 on MovieLens-1M with 500 hidden units, whose data may not be redistributed.
A second table ranks the items that users chose, for users that no model was fitted to (`_ranking.py`), beside EASE.
Prediction, for Jester: with rows = users, skvae is below item mean, user + item mean, truncated SVD and soft-impute.
With rows = items it has 100 rows to learn from, so it is only predicted to be below user + item mean. Of rankings:
NDCG@100 above popularity's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _measure import PAGE, rewrite, verdict
from _ranking import HEADER as RANKED
from _ranking import ranked, table_of_choices
from _tables import format_table, print_table
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from skvae import Gaussian, VAETransformer

COMMAND = "python benchmarks/recommender.py"
HEADER = ["ratings", "RMSE", "over seeds", "chosen", "s"]
HIDDEN_SHARE, VALIDATION_SHARE = 0.1, 0.1
SHRINKAGE, TURNS = 5.0, 20
RANKS = (1, 2, 4, 8, 16, 32, 64)
MOST_RANK, SOFT_STEPS, SOFT_TOLERANCE = 100, 30, 1e-3
SOFT_SHARES = tuple(0.6 * 0.75**i for i in range(14))  # of the largest singular value
PATIENCE = 2
LATENTS = 20
LATENTS_TRIED = (2, 5, 10, 20)
U, I = "skvae, rows = users", "skvae, rows = items"  # noqa: E741
LEFT = ", less user + item mean"
BASELINES = ("item mean", "user + item mean", "truncated SVD", "soft-impute")

Array = NDArray[np.floating]
Cells = tuple[NDArray[np.intp], NDArray[np.intp]]


class Prediction(NamedTuple):
    """The filled table, and what was chosen on the way."""

    table: Array
    chosen: str = ""


Method = Callable[[Array, int], Prediction]


# Ratings


def read_ratings(path: Path) -> Array:
    """Users by items, NaN where there is no rating, from lines of user, item, rating and whatever else.

    Fields are separated by "::", tabs, commas, semicolons or spaces; a heading is skipped.
    """
    with path.open(encoding="utf-8") as file:
        first = file.readline()
        separator = next((s for s in ("::", "\t", ",", ";") if s in first), None)
        heading = not _is_number(first.split(separator)[2])
        lines = file if heading else (line for part in ([first], file) for line in part)
        fields = [line.split(separator)[:3] for line in lines if line.strip()]
    users, items, ratings = zip(*fields, strict=True)
    (user_names, user), (item_names, item) = (np.unique(v, return_inverse=True) for v in (users, items))
    R = np.full((len(user_names), len(item_names)), np.nan, dtype=np.float32)
    R[user, item] = np.array(ratings, dtype=np.float32)
    return R


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def hide(R: Array, share: float, rng: np.random.Generator) -> tuple[Array, Cells]:
    """The table without a random share of its ratings, and where they were."""
    at = np.argwhere(~np.isnan(R))
    user, item = at[rng.permutation(len(at))[: int(share * len(at))]].T
    rest = R.copy()
    rest[user, item] = np.nan
    return rest, (user, item)


def rmse(predicted: Array, R: Array, rest: Array, cells: Cells) -> float:
    clipped = np.clip(predicted[cells], np.nanmin(rest), np.nanmax(rest))
    return float(np.sqrt(np.mean((clipped - R[cells]) ** 2, dtype=np.float64)))


# Baselines


def shrunk_mean(values: Array, axis: int | None = None, shrinkage: float = 0.0) -> Array:
    """Mean over what is there, 0 where nothing is."""
    seen = (~np.isnan(values)).sum(axis=axis)
    return np.nansum(values, axis=axis, dtype=np.float64) / np.maximum(seen + shrinkage, 1e-9)


def item_mean(T: Array, seed: int) -> Prediction:
    mean = shrunk_mean(T)
    return Prediction(np.broadcast_to(mean + shrunk_mean(T - mean, axis=0), T.shape))


def user_item_mean(T: Array, seed: int = 0) -> Prediction:
    mean, user, item = shrunk_mean(T), np.zeros((len(T), 1)), np.zeros(T.shape[1])
    for _ in range(TURNS):
        item = shrunk_mean(T - mean - user, 0, SHRINKAGE)
        user = shrunk_mean(T - mean - item, 1, SHRINKAGE)[:, None]
    return Prediction((mean + user + item).astype(np.float32))


def leading(Y: Array, rank: int) -> tuple[Array, Array, Array]:
    """U, s and V' of the largest `rank` singular values, falling."""
    if min(Y.shape) > 500:
        return randomized_svd(Y, rank, random_state=0)
    U, s, V = np.linalg.svd(Y, full_matrices=False)
    return U[:, :rank], s[:rank], V[:rank]


def svd_path(T: Array, ranks: Sequence[int]) -> Iterator[tuple[int, Array]]:
    base = user_item_mean(T).table
    ranks = [rank for rank in ranks if rank < min(T.shape)]
    U, s, V = leading(np.nan_to_num(T - base), max(ranks))
    for rank in ranks:
        yield rank, base + U[:, :rank] * s[:rank] @ V[:rank]


def soft_path(T: Array, shares: Sequence[float]) -> Iterator[tuple[float, Array]]:
    """From much shrinkage to little, each start being the last one's end."""
    base = user_item_mean(T).table
    seen, Y = ~np.isnan(T), np.nan_to_num(T - base)
    rank = min(MOST_RANK, *T.shape)
    most, Z = float(leading(Y, 1)[1][0]), np.zeros_like(Y)
    for share in shares:
        for _ in range(SOFT_STEPS):
            U, s, V = leading(np.where(seen, Y, Z), rank)
            new = U * np.maximum(s - share * most, 0.0) @ V
            moved, size = np.linalg.norm(new - Z), np.linalg.norm(new)
            Z = new
            if moved <= SOFT_TOLERANCE * max(size, 1e-9):
                break
        yield share, base + Z


def by_path(
    path: Callable[[Array, Sequence[Any]], Iterator[tuple[Any, Array]]], values: Sequence[Any], warm: bool = True
) -> Method:
    """The value on the path with the lowest error on validation ratings, then that one on all ratings.

    `warm` says that a value needs those before it on the path.
    """

    def predict(T: Array, seed: int) -> Prediction:
        rest, cells = hide(T, VALIDATION_SHARE, np.random.default_rng([1, seed]))
        errors: list[float] = []
        for _, table in path(rest, values):
            errors.append(rmse(table, T, rest, cells))
            if len(errors) - 1 - np.argmin(errors) == PATIENCE:
                break
        best = int(np.argmin(errors))
        *_, (_, table) = path(T, values[0 if warm else best : best + 1])
        return Prediction(table, f"{values[best]:.2g}")

    return predict


# skvae


def model(seed: int, n_components: int = LATENTS) -> VAETransformer:
    return VAETransformer(n_components, likelihood=Gaussian(noise="shared"), random_state=seed)


def filled(vae: VAETransformer, T: Array, by_items: bool, call: str = "reconstruct") -> Array:
    """Every cell as the model sees it; 0 for users and items without any rating."""
    seen = ~np.isnan(T)
    at = np.ix_(seen.any(axis=1), seen.any(axis=0))
    X = np.ascontiguousarray(T[at].T if by_items else T[at])
    found = getattr(vae.fit(X), call)(X)
    table = np.zeros(T.shape, dtype=found.dtype)
    table[at] = found.T if by_items else found
    return table


def plain(by_items: bool, call: str = "reconstruct") -> Method:
    return lambda T, seed: Prediction(filled(model(seed), T, by_items, call))


def less_means(by_items: bool) -> Method:
    """The model of what user + item mean leave, its number of latents chosen."""

    def predict(T: Array, seed: int) -> Prediction:
        def fits(T: Array, latents: Sequence[int]) -> Iterator[tuple[int, Array]]:
            base = user_item_mean(T).table
            for J in latents:
                yield J, base + filled(model(seed, J), T - base, by_items)

        return by_path(fits, LATENTS_TRIED, warm=False)(T, seed)

    return predict


# The table


def methods(impute: bool) -> dict[str, Method]:
    baselines = (item_mean, user_item_mean, by_path(svd_path, RANKS), by_path(soft_path, SOFT_SHARES))
    found: dict[str, Method] = dict(zip(BASELINES, baselines, strict=True))
    for name, by_items in ((U, False), (I, True)):
        found[name] = plain(by_items)
        if impute:
            found[f"{name}, impute"] = plain(by_items, "impute")
        found[name + LEFT] = less_means(by_items)
    return found


def verdicts(errors: dict[str, float]) -> Iterator[str]:
    for name, others in ((U, BASELINES), (I, BASELINES[1:2])):
        for other in (o for o in others if name in errors and o in errors):
            claim = f"{name}: RMSE {errors[name]:.4f}, below that of {other}, {errors[other]:.4f}"
            yield verdict(claim, errors[name] < errors[other])


def rankings(R: Array, liked: float, seeds: Sequence[int]) -> Iterator[list[str]]:
    """A row of the second table for every method: means over the seeds, and the settings that were chosen."""
    X = table_of_choices(R, liked)
    print(f"{len(X)} users chose {X.sum() / len(X):.1f} of {X.shape[1]} items each\n", flush=True)
    runs = [ranked(X, seed) for seed in seeds]
    for name in runs[0]:
        own = [run[name] for run in runs]
        values = [np.concatenate([run[column] for run in own]) for column in RANKED[1:4]]
        cells = [f"{v.mean():.4f} ± {v.std() / len(v) ** 0.5:.4f}" for v in values]
        chosen = "; ".join(dict.fromkeys(run["chosen"] for run in own))
        yield [name, *cells, chosen, f"{np.mean([run['s'] for run in own]):.1f}"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="folder with jester5k.npz")
    source.add_argument("--ratings", type=Path, help="your own ratings, as in MovieLens' ratings.dat")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=methods(impute=True), help="default: all")
    parser.add_argument("--impute", action="store_true", help="predict by impute, too")
    parser.add_argument("--liked", type=float, default=4.0, help="an item is chosen from this rating on")
    parser.add_argument("--only", choices=["errors", "rankings"], help="one of the two tables")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=PAGE, help="rewrite its table in docs/benchmarks.md")
    args = parser.parse_args(argv)
    R = read_ratings(args.ratings) if args.ratings else np.load(args.data / "jester5k.npz")["R"]
    seen = ~np.isnan(R)
    print(f"{len(R)} users, {R.shape[1]} items, {seen.sum()} ratings ({100 * seen.mean():.1f} %)\n", flush=True)

    if args.only != "errors":
        found = list(rankings(R, args.liked, args.seeds))
        print_table(RANKED, found, args.markdown)
        print()
        if args.docs:
            rewrite(args.docs, "rankings", COMMAND, format_table(RANKED, found, markdown=True))
    if args.only == "rankings":
        return
    everything = methods(args.impute or args.methods is not None)
    rows, errors = [], {}
    for name in args.methods or everything:
        method = everything[name]
        found, seconds, picked = [], [], []
        for seed in args.seeds:
            T, cells = hide(R, HIDDEN_SHARE, np.random.default_rng(seed))
            start = time.perf_counter()
            prediction = method(T, seed)
            seconds.append(time.perf_counter() - start)
            found.append(rmse(prediction.table, R, T, cells))
            picked.append(prediction.chosen)
        errors[name] = float(np.mean(found))
        spread = f"{np.std(found):.4f}" if len(found) > 1 else ""
        row = [name, f"{errors[name]:.4f}", spread, " ".join(dict.fromkeys(filter(None, picked)))]
        rows.append([*row, f"{np.mean(seconds):.1f}"])
        print("  ".join(rows[-1]), flush=True)
    print()
    print_table(HEADER, rows, args.markdown)
    if args.data:
        print()
        print("\n".join(verdicts(errors)))
    if args.docs:
        rewrite(args.docs, "recommender", COMMAND, format_table(HEADER, rows, markdown=True))


if __name__ == "__main__":
    main()
