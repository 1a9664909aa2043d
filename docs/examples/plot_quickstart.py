"""
What does a VAE see that PCA does not?
======================================

The main job on scikit-learn's 1797 digits of 8 x 8 pixels (values from 0 to 16): fit on 70 % of the rows; on the
held-out 30 % print the log-likelihood per row (nats, in the units of the pixels; higher is better) and the accuracy of
5 nearest neighbours on the latents; draw reconstructions, new digits, and the plane of two latents beside PCA's.

Like stands beside like. PCA has one noise variance for all pixels, as has ``Gaussian(noise="shared")``; FactorAnalysis
has one per pixel, as has ``Gaussian(noise="feature")``. With one noise variance per pixel, pixels that hardly ever
change decide the numbers; that comparison leaves out those with one value in more than 95 % of the rows, and gives both
models the same smallest noise variance, 1/1000 of the pixel's variance.

    python docs/examples/plot_quickstart.py [--output quickstart.png]
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from skvae import Gaussian, VAETransformer

parser = argparse.ArgumentParser(description="VAETransformer on the digits, beside PCA and FactorAnalysis.")
parser.add_argument("--output", default="quickstart.png", help="where to write the picture")
output = parser.parse_args().output

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)


def neighbours(model):
    """The share of held-out digits that five neighbours among the training rows' codes name rightly."""
    judge = KNeighborsClassifier(5).fit(model.transform(X_train), y_train)
    return judge.score(model.transform(X_test), y_test)


# %%
# PCA and a VAE with one noise variance for all pixels, with two and with eight latents.

models, table = {}, []
for n_components in (2, 8):
    pca = PCA(n_components, random_state=0).fit(X_train)
    vae = VAETransformer(n_components, likelihood=Gaussian(noise="shared"), max_iter=1000, random_state=0).fit(X_train)
    for name, model in (("PCA", pca), ("VAE, shared noise", vae)):
        models[name[:3], n_components] = model
        table.append((name, X.shape[1], n_components, model.score(X_test), neighbours(model)))

# %%
# FactorAnalysis and the default VAE, with one noise variance per pixel.

most_frequent = [np.unique(pixel, return_counts=True)[1].max() for pixel in X_train.T]
moving = np.array(most_frequent) <= 0.95 * len(X_train)
likelihood = Gaussian(noise="feature", noise_floor=1e-3)
fa = FactorAnalysis(8, random_state=0).fit(X_train[:, moving])
fa.noise_variance_ = np.maximum(fa.noise_variance_, likelihood.noise_floor * X_train[:, moving].var(axis=0))
vae = VAETransformer(8, likelihood=likelihood, max_iter=1000, random_state=0).fit(X_train[:, moving])
for name, model in (("FactorAnalysis", fa), ("VAE, feature noise", vae)):
    table.append((name, moving.sum(), 8, model.score(X_test[:, moving]), None))

print(f"{len(X_test)} held-out digits{'nats per row':>46}{'5-NN accuracy':>16}")
for name, n_pixels, n_components, score, accuracy in table:
    about = f"{n_pixels} pixels, {n_components} latents"
    print(f"{name:<20}{about:<24}{score:>20.1f}{'' if accuracy is None else f'{accuracy:>16.3f}'}")

# %%
# The picture. In two dimensions PCA lays most digits over each other, where the VAE keeps them apart; from eight
# numbers it brings their strokes back. New digits are draws (``sample``) without the noise of their pixels
# (``reconstruct``).

# Ten colours that colourblind readers can tell apart (Paul Tol's "muted" set and black).
COLORS = ["#332288", "#CC6677", "#117733", "#882255", "#44AA99", "#000000", "#AA4499", "#999933", "#5599CC", "#BB8800"]


def show(axes, digits, title):
    """A grid of 8 x 8 digits, (rows, columns, 64), as one image with gaps of two pixels."""
    gaps = np.pad(digits.reshape(*digits.shape[:2], 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    axes.imshow(np.vstack([np.hstack(row) for row in gaps]), cmap="gray_r", vmin=0, vmax=16)
    axes.set(title=title, xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def plane(axes, model, name):
    """Held-out digits in the plane of a model's two latents."""
    Z = model.transform(X_test)
    for digit in range(10):
        axes.scatter(*Z[y_test == digit].T, s=26, marker=f"${digit}$", color=COLORS[digit], linewidths=0)
    axes.set(title=f"{name}, 2 latents: 5-NN {neighbours(model):.0%} right", xticks=[], yticks=[])
    axes.set(xlabel=f"{name} 1", ylabel=f"{name} 2")
    axes.spines[["top", "right"]].set_visible(False)


plt.rcParams.update({"font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left"})
layout = [["rebuilt", "pca", "vae"], ["new", "pca", "vae"]]
figure, axes = plt.subplot_mosaic(layout, figsize=(11.5, 4.3), layout="constrained", width_ratios=[10, 9, 9])
plane(axes["pca"], models["PCA", 2], "PCA")
plane(axes["vae"], models["VAE", 2], "VAE")

vae = models["VAE", 8]
some = X_test[[np.flatnonzero(y_test == digit)[1] for digit in range(10)]]
by_pca = models["PCA", 8].inverse_transform(models["PCA", 8].transform(some))
show(axes["rebuilt"], np.stack([some, by_pca, vae.reconstruct(some)]), "Held-out digits, rebuilt from 8 latents")
axes["rebuilt"].set_yticks([4.5, 14.5, 24.5], ["digit", "PCA", "VAE"])
new = vae.reconstruct(vae.sample(30, random_state=0))
show(axes["new"], new.reshape(3, 10, 64), "New digits, drawn by the VAE")

figure.savefig(output, dpi=160)
print(f"Picture: {output}")
plt.show()
