"""
VAETransformer on the digits, beside PCA and FactorAnalysis
===========================================================

The main job on scikit-learn's 1797 digits of 8 x 8 pixels (values from 0 to 16): fit on 70 % of the rows; on the
held-out 30 % print the log-likelihood per row (nats, in the units of the pixels; higher is better) and the accuracy of
5 nearest neighbours on the latents; draw reconstructions, samples and the latent plane.

Like stands beside like. PCA has one noise variance for all pixels, as has `Gaussian(noise="shared")`; FactorAnalysis
has one per pixel, as has `Gaussian(noise="feature")`. With one noise variance per pixel, pixels that hardly ever change
decide the numbers; that comparison leaves out those with one value in more than 95 % of the rows, and gives both
models the same smallest noise variance, 1/1000 of the pixel's variance.

    python docs/examples/plot_quickstart.py [--output quickstart.png]
"""

import argparse

import matplotlib as mpl
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from skvae import Gaussian, VAETransformer

mpl.use("Agg")
import matplotlib.pyplot as plt

# Ten colours that colourblind readers can tell apart (Paul Tol's "muted" set and black).
COLORS = ["#332288", "#CC6677", "#117733", "#882255", "#44AA99", "#000000", "#AA4499", "#999933", "#5599CC", "#BB8800"]


def main(output: str) -> None:
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)

    models, table = {}, []
    for n_components in (2, 8):
        pca = PCA(n_components, random_state=0).fit(X_train)
        vae = VAETransformer(n_components, likelihood=Gaussian(noise="shared"), max_iter=1000, random_state=0)
        vae.fit(X_train)
        models[n_components] = pca, vae
        for name, model in (("PCA", pca), ("VAE, shared noise", vae)):
            neighbours = KNeighborsClassifier(5).fit(model.transform(X_train), y_train)
            accuracy = neighbours.score(model.transform(X_test), y_test)
            table.append((name, X.shape[1], n_components, model.score(X_test), accuracy))

    most_frequent = [np.unique(pixel, return_counts=True)[1].max() for pixel in X_train.T]
    moving = np.array(most_frequent) <= 0.95 * len(X_train)
    variance = X_train.var(axis=0)
    likelihood = Gaussian(noise="feature", noise_floor=1e-3)
    fa = FactorAnalysis(8, random_state=0).fit(X_train[:, moving])
    fa.noise_variance_ = np.maximum(fa.noise_variance_, likelihood.noise_floor * variance[moving])
    vae = VAETransformer(8, likelihood=likelihood, max_iter=1000, random_state=0).fit(X_train[:, moving])
    for name, model in (("FactorAnalysis", fa), ("VAE, feature noise", vae)):
        table.append((name, moving.sum(), 8, model.score(X_test[:, moving]), None))

    print(f"{len(X_test)} held-out digits{'nats per row':>46}{'5-NN accuracy':>16}")
    for name, n_pixels, n_components, score, accuracy in table:
        about = f"{n_pixels} pixels, {n_components} latents"
        print(f"{name:<20}{about:<24}{score:>20.1f}{'' if accuracy is None else f'{accuracy:.3f}':>16}")

    draw(models, X_test, y_test).savefig(output, dpi=160)
    print(f"Picture: {output}")


def draw(models, X, y):
    """Reconstructions, samples, and the latent plane."""
    plt.rcParams.update({"font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left"})
    figure, axes = plt.subplot_mosaic(
        [["rebuilt", "plane"], ["new", "plane"]],
        figsize=(10, 4.6),
        layout="constrained",
        height_ratios=[3, 4],
        width_ratios=[11, 9.5],
    )

    pca, vae = models[8]
    some = X[[np.flatnonzero(y == digit)[1] for digit in range(10)]]
    rebuilt = np.stack([some, pca.inverse_transform(pca.transform(some)), vae.reconstruct(some)])
    show(axes["rebuilt"], rebuilt, "Held-out digits, rebuilt from 8 latents")
    axes["rebuilt"].set_yticks([4.5, 14.5, 24.5], ["digit", "PCA", "VAE"])

    z = np.random.default_rng(0).standard_normal((40, 8))
    new = vae.inverse_transform(z).reshape(4, 10, 64)
    show(axes["new"], new, "New digits: what the decoder makes of random latents")

    plane = axes["plane"]
    Z = models[2][1].transform(X)
    for digit in range(10):
        plane.scatter(*Z[y == digit].T, s=30, marker=f"${digit}$", color=COLORS[digit], linewidths=0)
    plane.set(title="Held-out digits in the plane of 2 latents", xlabel="latent 1", ylabel="latent 2")
    plane.set_aspect("equal", adjustable="datalim")
    plane.spines[["top", "right"]].set_visible(False)
    return figure


def show(axes, digits, title):
    """A grid of 8 x 8 digits, (rows, columns, 64), as one image with gaps of two pixels."""
    gaps = np.pad(digits.reshape(*digits.shape[:2], 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    axes.imshow(np.vstack([np.hstack(row) for row in gaps]), cmap="gray_r", vmin=0, vmax=16)
    axes.set(title=title, xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="VAETransformer on the digits, beside PCA and FactorAnalysis.")
    parser.add_argument("--output", default="quickstart.png", help="where to write the picture")
    main(parser.parse_args().output)
