"""What denoising, sparse and contractive autoencoders are better at than a plain one, and where they are not.

Protocol: the first --rows training images and --test test images of mnist.npz (--data), in [0, 1], averaged over 2 x 2
pixels, and scikit-learn's breast cancer, standardised (every second row is held out). Networks of 128 relu units, 30
latents for the cleaning of images, 5 for the table's, --epochs epochs without early stopping (four times as many for
the table), everything else at its defaults; mean over --seeds.

Cleaning: test rows are damaged and rebuilt; the number is the wrong share of the variance, squared error over that of
the columns' means. Images: Gaussian noise of 0.3 in every pixel; a bright bar over two of the rows of pixels in half of
the images; pixels that are hidden (0.4 of them, NaN: `impute`, whose error is that of the hidden pixels). The table:
cells that are hidden (0.3). Beside autoencoders, which were told of the damage ("denoising") or given pairs ("paired"),
stand the damaged rows themselves (column means, where they are hidden), PCA, and the ELBO.

Codes: with 10 latents, and with 300, which are more than the pixels. 5-NN accuracy of the test codes among those of the
training rows; the share of numbers below a tenth of their column's size; the wrong share of the variance; and how far
codes move, in parts of their own spread, when rows move by noise of 0.1 in every pixel.

Prediction: denoising is ahead of plain at every damage that it was told of, and behind the ELBO at hidden cells, which
asks the decoder. With 300 latents sparse codes have more small numbers. Contractive codes move
less. With 10 latents none of the three is ahead of plain in 5-NN accuracy by more than 0.01.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _tables import print_table
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import scale

from skvae import Gaussian, VAETransformer
from skvae.objectives import Contractive, Denoising, Sparse

Array = NDArray[np.floating]
Damage = Callable[[Array, np.random.Generator], Array]
NOISE, HIDDEN, HIDDEN_CELLS, NUDGE = 0.3, 0.4, 0.3, 0.1


def noisy(X: Array, rng: np.random.Generator) -> Array:
    return X + NOISE * rng.standard_normal(X.shape)


def barred(X: Array, rng: np.random.Generator) -> Array:
    """Two rows of 14 pixels, bright in half of the images."""
    X = X.copy()
    X[rng.random(len(X)) < 0.5, 84:112] = 1.0
    return X


def hiding(share: float) -> Damage:
    return lambda X, rng: np.where(rng.random(X.shape) < share, np.nan, X)


def wrong_share(found: Array, X: Array, at: NDArray[np.bool_]) -> float:
    return float(np.square(found - X)[at].sum() / np.square(X - X.mean(axis=0))[at].sum())


def cleaned(vae: VAETransformer, damaged: Array) -> Array:
    return vae.impute(damaged) if np.isnan(damaged).any() else vae.reconstruct(damaged)


def cleaning(train: Array, test: Array, damage: Damage, told: Denoising, seeds: int, **settings: Any) -> list[float]:
    """The wrong shares: damaged rows, PCA, ELBO, plain, denoising, paired."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        damaged, damaged_train = damage(test, rng), damage(train, rng)
        gaps = np.isnan(damaged)
        at = gaps if gaps.any() else np.ones_like(gaps)
        filled = np.where(gaps, train.mean(axis=0), damaged)
        pca = PCA(settings["n_components"]).fit(train)
        row = [filled, pca.inverse_transform(pca.transform(filled))]
        for objective in ("elbo", "autoencoder", told):
            row.append(cleaned(VAETransformer(objective=objective, random_state=seed, **settings).fit(train), damaged))
        pairs = VAETransformer(objective=Denoising("paired"), random_state=seed, **settings)
        row.append(cleaned(pairs.fit(damaged_train, train), damaged))
        found.append([wrong_share(X, test, at) for X in row])
    return list(np.mean(found, axis=0))


def codes(data: tuple[Array, ...], n_components: int, objective: Any, seeds: int, **settings: Any) -> list[float]:
    """5-NN accuracy, share of small numbers, wrong share of the variance, and how far codes move."""
    train, digits, test, test_digits = data
    found = []
    for seed in range(seeds):
        vae = VAETransformer(n_components, objective=objective, random_state=seed, **settings).fit(train)
        Z, own = vae.transform(test), vae.transform(train)
        accuracy = KNeighborsClassifier().fit(own, digits).score(Z, test_digits)
        small = np.abs(Z) < 0.1 * np.sqrt(np.square(Z).mean(axis=0))
        nudged = vae.transform(test + NUDGE * np.random.default_rng(seed).standard_normal(test.shape))
        moved = np.sqrt(np.square(nudged - Z).sum() / np.square(Z - Z.mean(axis=0)).sum())
        error = wrong_share(vae.reconstruct(test), test, np.ones(test.shape, bool))
        found.append([accuracy, small.mean(), error, moved])
    return list(np.mean(found, axis=0))


def images(path: Path, rows: int, test: int) -> tuple[Array, ...]:
    found = np.load(path / "mnist.npz")
    small = [
        found[f"X_{part}"][:n].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196) / 255
        for part, n in (("train", rows), ("test", test))
    ]
    return small[0], found["y_train"][:rows], small[1], found["y_test"][:test]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--part", choices=["cleaning", "codes"])
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    data = images(args.data, args.rows, args.test)
    settings = {"hidden_layer_sizes": (128,), "max_iter": args.epochs, "early_stopping": False}
    if args.part != "codes":
        print_cleaning(data, args, settings)
    if args.part != "cleaning":
        print_codes(data, args, {**settings, "likelihood": Gaussian("shared")})


def print_cleaning(data: tuple[Array, ...], args: argparse.Namespace, settings: dict[str, Any]) -> None:
    train, _, test, _ = data
    cancer = scale(load_breast_cancer().data)
    for_images = {**settings, "likelihood": Gaussian("shared"), "n_components": 30}
    for_table = {**settings, "n_components": 5, "max_iter": 4 * args.epochs}
    tasks = {
        "images, noise": (train, test, noisy, Denoising(scale=NOISE), for_images),
        "images, a bar": (train, test, barred, Denoising(barred), for_images),
        "images, hidden": (train, test, hiding(HIDDEN), Denoising("mask", drop=HIDDEN), for_images),
        "table, hidden": (
            cancer[::2],
            cancer[1::2],
            hiding(HIDDEN_CELLS),
            Denoising("mask", drop=HIDDEN_CELLS),
            for_table,
        ),
    }
    rows = []
    for name, (own, other, damage, told, how) in tasks.items():
        found = cleaning(own, other, damage, told, args.seeds, **how)
        rows.append([name, *(f"{value:.3f}" for value in found)])
    print_table(["wrong share", "damaged", "PCA", "ELBO", "plain", "denoising", "paired"], rows, args.markdown)


OBJECTIVES: dict[str, Any] = {
    "plain": "autoencoder",
    "sparse, hidden": Sparse(),
    "sparse, code": Sparse(layer="code"),
    "sparse, relu code": Sparse(layer="code", code="relu"),
    "sparse, kl, sigmoid code": Sparse("kl", layer="code", code="sigmoid", weight=1.0),
    "denoising, mask": Denoising("mask"),
    "contractive": Contractive(1.0),
    "ELBO": "elbo",
}


def print_codes(data: tuple[Array, ...], args: argparse.Namespace, settings: dict[str, Any]) -> None:
    rows = []
    for n_components in (10, 300):
        for name, objective in OBJECTIVES.items():
            if n_components == 300 and name == "contractive":
                continue  # as many backward passes as latents
            found = codes(data, n_components, objective, args.seeds, **settings)
            rows.append([f"{name}, J = {n_components}", *(f"{value:.3f}" for value in found)])
    print_table(["codes", "5-NN", "small", "wrong share", "moved"], rows, args.markdown)


if __name__ == "__main__":
    main()
