"""
How sure is the model of where a row lies?
==========================================

PCA gives every row a point. A VAE gives it a distribution, q(z|x): a mean, which ``transform`` returns, and a spread,
which ``posterior`` returns with it. The spread is how much the row's cells leave open, so it grows where cells are
missing.

The table is scikit-learn's breast cancer: 569 tumours, 30 columns.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import Gaussian, VAETransformer
from skvae.plotting import LatentDisplay

X, y = load_breast_cancer(return_X_y=True)
X = StandardScaler().fit_transform(X)
names = np.array(["malignant", "benign"])[y]

# %%
# One noise for all columns is the setting for a picture of standardised columns, as it is PCA's.

vae = VAETransformer(2, likelihood=Gaussian(noise="shared"), max_iter=500, random_state=0).fit(X)
pca = PCA(2).fit(X)
for name, model in (("PCA", pca), ("VAE", vae)):
    accuracy = cross_val_score(make_pipeline(model, KNeighborsClassifier(5)), X, y, cv=3).mean()
    print(f"{name}: {model.score(X):.1f} nats per row; 5 neighbours in the plane name the tumour in {accuracy:.3f}")

# %%
# What do missing cells do?
# -------------------------
# Cells of one row are hidden, more and more of them. Its posterior widens, and ends as the prior, where nothing is
# known.

order = np.random.default_rng(0).permutation(30)
shares = [0, 20, 27, 29, 30]
row = np.tile(X[18], (len(shares), 1))
for hidden, n in zip(row, shares, strict=True):
    hidden[order[:n]] = np.nan
means, stds = vae.posterior(row)
for n, mean, std in zip(shares, means, stds, strict=True):
    print(f"{30 - n:>2} of 30 cells: {mean[0]:+.2f} +- {std[0]:.2f}, {mean[1]:+.2f} +- {std[1]:.2f}")

# %%
# The picture: both planes, and the row of which less and less is known.

figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
LatentDisplay.from_predictions(pca.transform(X), names, ax=axes[0])
axes[0].set(title="PCA: a point a row", xlabel="component 0", ylabel="component 1")
LatentDisplay.from_estimator(vae, X, names, n_ellipses=25, ax=axes[1])
axes[1].set(title="VAE: 25 rows with their posteriors", xlabel="latent 0", ylabel="latent 1")
for ax in axes[:2]:
    ax.legend(frameon=False, fontsize="small", loc="best")
axes[2].scatter(*vae.transform(X).T, s=8, color="0.8", linewidths=0)
colours = plt.colormaps["viridis"](np.linspace(0, 0.9, len(shares)))
for n, mean, std, colour in zip(shares, means, stds, colours, strict=True):
    style = {"facecolor": "none", "edgecolor": colour, "linewidth": 1.8, "label": f"{30 - n} cells"}
    axes[2].add_patch(Ellipse(mean, *(4 * std), **style))
axes[2].set(title="One row of which cells are missing", xlabel="latent 0", ylabel="latent 1")
axes[2].legend(frameon=False, fontsize="small", title="known")
axes[2].spines[["top", "right"]].set_visible(False)
plt.show()
