"""
What does each latent mean?
===========================

Nothing labels latents, but a decoder shows what they do: ``ManifoldDisplay`` decodes the plane of two latents point by
point, ``TraversalDisplay`` moves one latent of a row and leaves the others.

The table is scikit-learn's digits. The number: how much of the pixels' variance, on held-out digits, comes back from 2
and from 8 latents, beside PCA with as many.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split

from skvae import Gaussian, VAETransformer
from skvae.plotting import LatentDisplay, ManifoldDisplay, TraversalDisplay

X, y = load_digits(return_X_y=True)
X_train, X_test, _, y_test = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)
shared = Gaussian(noise="shared")
vaes = {n: VAETransformer(n, likelihood=shared, max_iter=1000, random_state=0).fit(X_train) for n in (2, 8)}

# %%

print(f"{len(X_test)} held-out digits: share of the variance that latents hold{'PCA':>8}{'VAE':>8}")
for n, vae in vaes.items():
    pca = PCA(n).fit(X_train)
    linear = pca.inverse_transform(pca.transform(X_test))
    shares = [r2_score(X_test, found, multioutput="variance_weighted") for found in (linear, vae.reconstruct(X_test))]
    print(f"{f'{n} latents':<63}" + "".join(f"{share:>8.3f}" for share in shares))

# %%
# The picture. Neighbours in the plane are rows that the decoder makes alike: it runs from one digit into the next.

figure = plt.figure(figsize=(11, 8.6), layout="constrained")
upper, lower = figure.subfigures(2, 1, height_ratios=[5, 4])
plane, codes = upper.subplots(1, 2, width_ratios=[4, 5])
ManifoldDisplay.from_estimator(vaes[2], n=12, image_shape=(8, 8), cmap="gray_r", ax=plane)
plane.set_title("What the plane of two latents decodes to")
LatentDisplay.from_estimator(vaes[2], X_test, y_test, ax=codes)
codes.set_title("Where held-out digits lie in it")
for latent, ax in enumerate(lower.subplots(4, 2).T.ravel()):
    look = {"image_shape": (8, 8), "cmap": "gray_r", "vmin": 0, "vmax": 16}
    TraversalDisplay.from_estimator(vaes[8], X_test, component=latent, row=3, ax=ax, **look)
    ax.set(title="", xlabel="", ylabel=f"latent {latent}")
lower.suptitle("One held-out digit, one of eight latents moved at a time")
plt.show()
