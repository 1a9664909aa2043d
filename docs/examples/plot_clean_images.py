"""
How clean can damaged images be made?
=====================================

A denoising autoencoder sees damaged rows in training and is asked for the clean ones. It learns the damage that it is
shown: noise by its size, anything else by a function of one's own, here a cross that is stamped somewhere on the image.
Held-out digits (8 x 8 pixels of 0 to 16) are damaged, cleaned by ``reconstruct``, and compared with what they were: the
root of the mean squared error of a pixel, lower is better.

Beside it stand PCA (fitted to clean digits, with the number of components that does best on the test itself), kernel
PCA (fitted to damaged digits, as in scikit-learn's own example on denoising), and a VAE, which learns what digits look
like and is told nothing of any damage.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, KernelPCA
from sklearn.model_selection import train_test_split

from skvae import Gaussian, VAETransformer
from skvae.objectives import Denoising

CROSS = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
NOISE = 4.0


def noisy(X, rng):
    """Noise on every pixel."""
    return X + rng.normal(scale=NOISE, size=X.shape)


def stamped(X, rng):
    """A cross somewhere on every image, between half and fully white."""
    images = X.reshape(-1, 8, 8)
    top, left = rng.integers(0, 6, (2, len(X)))
    layers = np.zeros_like(images)
    for i, j in np.ndindex(3, 3):
        layers[np.arange(len(X)), top + i, left + j] = CROSS[i, j]
    layers *= rng.uniform(0.5, 1.0, (len(X), 1, 1))
    return (images + layers * (16 - images)).reshape(X.shape)


def rmse(X, X_true):
    return np.sqrt(np.mean((X - X_true) ** 2))


X, y = load_digits(return_X_y=True)
X_train, X_test, _, y_test = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)
rng = np.random.default_rng(0)
settings = {"likelihood": Gaussian(noise="shared"), "hidden_layer_sizes": (200,), "random_state": 0}

# %%
# Two kinds of damage, and five ways to clean it
# ----------------------------------------------

vae = VAETransformer(16, **settings).fit(X_train)
cleaned = {}
for damage, corrupt, objective in (
    ("noise", noisy, Denoising(scale=NOISE)),
    ("a stamped cross", stamped, Denoising(stamped)),
):
    damaged = corrupt(X_test, rng)
    pcas = [PCA(n).fit(X_train) for n in (5, 10, 20, 30)]
    rebuilt = [pca.inverse_transform(pca.transform(damaged)) for pca in pcas]
    kernel = KernelPCA(200, kernel="rbf", gamma=5e-4, fit_inverse_transform=True, alpha=0.01)
    kernel.fit(corrupt(X_train, rng))
    denoising = VAETransformer(32, objective=objective, **settings).fit(X_train)
    cleaned[damage] = {
        "damaged": damaged,
        "PCA": min(rebuilt, key=lambda found: rmse(found, X_test)),
        "kernel PCA": kernel.inverse_transform(kernel.transform(damaged)),
        "VAE": vae.reconstruct(damaged),
        "denoising": denoising.reconstruct(damaged),
    }

# %%

print(f"{len(X_test)} held-out digits, error of a pixel{'':<10}" + "".join(f"{name:>18}" for name in cleaned))
for method in cleaned["noise"]:
    errors = [rmse(found[method], X_test) for found in cleaned.values()]
    print(f"{method:<45}" + "".join(f"{error:>18.2f}" for error in errors))

# %%
# The picture: digits as they were, damaged, and cleaned.

some = [np.flatnonzero(y_test == digit)[0] for digit in range(10)]
figure, axes = plt.subplots(1, 2, figsize=(10, 2.9), layout="constrained")
for ax, (damage, found) in zip(axes, cleaned.items(), strict=True):
    rows = {"digit": X_test, **found}
    grid = np.stack([table[some] for table in rows.values()]).reshape(-1, 10, 8, 8)
    framed = np.pad(grid, ((0, 0), (0, 0), (1, 1), (1, 1)))
    ax.imshow(np.vstack([np.hstack(row) for row in framed]), cmap="gray_r", vmin=0, vmax=16)
    ax.set_title(f"Held-out digits with {damage}", loc="left", fontsize=11)
    ax.set(xticks=[], yticks=np.arange(len(rows)) * 10 + 4.5, yticklabels=rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
plt.show()
