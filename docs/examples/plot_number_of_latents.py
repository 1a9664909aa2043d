"""
How many latents does a table have?
===================================

PCA's explained variance rises with every component, so it never says stop. A likelihood of rows that the model has not
seen does: it falls again where further latents only learn the noise.

``VAETransformerCV`` tries several numbers over folds, and keeps the best, or the fewest within one standard error of
it. Beside it stand ``PCA`` and ``FactorAnalysis``, whose ``score`` is the same number of nats. The table is scikit-
learn's wine, 13 columns in standard deviations.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.model_selection import KFold, cross_val_score
from sklearn.preprocessing import StandardScaler

from skvae import VAETransformerCV

X = StandardScaler().fit_transform(load_wine().data)
folds = KFold(5, shuffle=True, random_state=0)
sizes = [1, 2, 3, 5, 8]

# %%
# Candidates race: those that are clearly behind after a part of their epochs are dropped, which ``race=False`` prevents
# where, as here, the whole curve is to be drawn.

search = VAETransformerCV(
    sizes, cv=folds, race=False, selection="one_standard_error", max_iter=300, random_state=0
).fit(X)
scores = {
    "PCA": np.array([cross_val_score(PCA(n), X, cv=folds) for n in sizes]),
    "FactorAnalysis": np.array([cross_val_score(FactorAnalysis(n, tol=0.1), X, cv=folds) for n in sizes]),
    "VAETransformerCV": search.scores_,
}
print(f"{'latents':<18}" + "".join(f"{n:>8}" for n in sizes))
for name, values in scores.items():
    print(f"{name:<18}" + "".join(f"{value:>8.2f}" for value in values.mean(axis=1)))
chosen = search.best_params_["n_components"]
best = sizes[search.scores_.mean(axis=1).argmax()]
print(f"The best mean: {best} latents; chosen, within one standard error: {chosen}.")

# %%
# The picture: the mean over folds, and the standard error of the mean.

figure, ax = plt.subplots(figsize=(7, 4.4), layout="constrained")
looks = ((-0.05, "#bbbbbb"), (0.0, "#ccbb44"), (0.05, "#4477aa"))
for (name, values), (shift, colour) in zip(scores.items(), looks, strict=True):
    error = values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
    ax.errorbar(np.add(sizes, shift), values.mean(axis=1), error, color=colour, marker="o", capsize=3, label=name)
ax.axvline(chosen, color="black", linestyle="--", linewidth=1, label=f"chosen: {chosen}")
ax.set(xlabel="latents", ylabel="held-out nats per row", xticks=sizes)
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)
plt.show()
