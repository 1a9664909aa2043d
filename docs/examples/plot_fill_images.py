"""
What stood in the hole of an image?
===================================

Inpainting and super-resolution are the same task as a table with gaps.

A missing pixel is NaN, and ``impute`` fills it given the others. Held-out digits (8 x 8 pixels of 0 to 16) lose a
square in their middle, their lower half, or all pixels but one in four, which makes an image of 4 x 4 pixels that is
to be made one of 8 x 8. The error is the root of the mean squared error of a hidden pixel, lower is better.

A VAE that has only seen whole digits fills any gaps, and draws several fillings where more than one is possible. A
denoising autoencoder is trained for these very gaps: its noise is a function of one's own that hides pixels from the
encoder. Beside them stand the pixels' means, the five nearest neighbours, and IterativeImputer, which learns a linear
model of each pixel. Nearest neighbours are ahead of the VAE; what a mean over neighbours cannot do is draw.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.model_selection import train_test_split

from skvae import Gaussian, VAETransformer
from skvae.objectives import Denoising

PLACES = np.arange(64).reshape(8, 8)
HIDDEN = {
    "a square": PLACES[2:6, 2:6].ravel(),
    "the lower half": PLACES[4:].ravel(),
    "three pixels in four": np.setdiff1d(PLACES, PLACES[::2, ::2]),
}
SHOWN = ("digit", "left", "neighbours", "VAE", "denoising")


def hide(X, rng):
    """Rows with one of the gaps each, or with none."""
    X = X.copy()
    which = rng.integers(0, len(HIDDEN) + 1, len(X))
    for i, pixels in enumerate(HIDDEN.values()):
        X[np.ix_(which == i, pixels)] = np.nan
    return X


def rmse(X, X_true, pixels):
    return np.sqrt(np.mean((X - X_true)[:, pixels] ** 2))


def show(ax, digits, names, title):
    """A grid of digits, (rows, columns, 64), as one image; missing pixels are seen through."""
    framed = np.pad(digits.reshape(*digits.shape[:2], 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    ax.imshow(np.vstack([np.hstack(row) for row in framed]), cmap="gray_r", vmin=0, vmax=16)
    ax.set_facecolor("#cfe2f3")
    ax.set_title(title, loc="left", fontsize=11)
    ax.set(xticks=[], yticks=np.arange(len(names)) * 10 + 4.5, yticklabels=names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


X, y = load_digits(return_X_y=True)
X_train, X_test, _, y_test = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)
settings = {"likelihood": Gaussian(noise="shared"), "hidden_layer_sizes": (200, 200), "random_state": 0}

# %%
# Two models, and three to compare with
# -------------------------------------

vae = VAETransformer(16, objective="input_noise", **settings).fit(X_train)
denoising = VAETransformer(16, objective=Denoising(hide), **settings).fit(X_train)
some_gaps = np.where(np.random.default_rng(0).random(X_train.shape) < 0.1, np.nan, X_train)
models = {
    "mean": SimpleImputer().fit(X_train),
    "linear": IterativeImputer(tol=0.1, random_state=0).fit(some_gaps),
    "neighbours": KNNImputer(n_neighbors=5).fit(X_train),
}
filled = {}
for gaps, pixels in HIDDEN.items():
    holes = X_test.copy()
    holes[:, pixels] = np.nan
    filled[gaps] = {
        "left": holes,
        **{name: model.transform(holes) for name, model in models.items()},
        "VAE": vae.impute(holes),
        "denoising": denoising.impute(holes),
    }

# %%

print(f"{len(X_test)} held-out digits, error of a hidden pixel" + "".join(f"{name:>24}" for name in filled))
for method in [*models, "VAE", "denoising"]:
    errors = [rmse(filled[gaps][method], X_test, pixels) for gaps, pixels in HIDDEN.items()]
    print(f"{method:<46}" + "".join(f"{error:>24.2f}" for error in errors))

# %%
# The picture: digits, what is left of them, and what was filled in; then several fillings of the same half digits.

shown = [np.flatnonzero(y_test == digit)[0] for digit in range(10)]
half = filled["the lower half"]["left"][shown]
panels = {f"Without {gaps}": {"digit": X_test} | filled[gaps] for gaps in filled}
panels = {title: {name: tables[name][shown] for name in SHOWN} for title, tables in panels.items()}
draws = vae.impute(half, n_draws=4, random_state=0)
panels["Fillings drawn by the VAE"] = {"left": half} | {f"draw {i + 1}": found for i, found in enumerate(draws)}
figure, axes = plt.subplots(2, 2, figsize=(10, 5), layout="constrained")
for ax, (title, rows) in zip(axes.ravel(), panels.items(), strict=True):
    show(ax, np.stack(list(rows.values())), list(rows), title)
plt.show()
