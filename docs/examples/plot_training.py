"""
Did it train well?
==================

Three questions to a fit, and the picture that answers each:

- Is the bound on rows that training has not seen still rising when it ends? Then ``max_iter`` is too small, and a
  ``ConvergenceWarning`` has said so.
- Is it far above the linear start? If not, the linear model is enough.
- Are all latents used? A latent of nearly 0 nats tells nothing, and could go.

The table is scikit-learn's digits, 8 x 8 pixels.
"""

import warnings

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from skvae import Gaussian, VAETransformer
from skvae.plotting import InformationDisplay, LearningCurveDisplay

X = load_digits().data
settings = {"likelihood": Gaussian(noise="shared"), "random_state": 0}

# %%
# A look of ten epochs
# --------------------

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    short = VAETransformer(16, max_iter=10, **settings).fit(X)
print(f"{said[0].category.__name__}: {said[0].message}")

# %%
# Until it no longer rises
# ------------------------
# ``history_`` holds what the training loss is made of, one number an epoch; ``validation_curve_`` the held-out bound,
# beginning with that of the linear start.

vae = VAETransformer(16, max_iter=1000, **settings).fit(X)
for name, model in (("10 epochs", short), ("to its end", vae)):
    curve = model.validation_curve_
    print(f"{name:<11} held out: {curve[0]:.1f} at the start, {max(curve):.1f} at epoch {model.best_iter_}")

# %%
# Which latents tell something
# ----------------------------
# Sixteen were allowed. Beside each stands the principal component of the same rank, in the same unit.

information = vae.latent_information_
print(f"The most informative latent tells {information[0]:.1f} nats of a row, the least {information[-1]:.1f},")
print(f"all of them {information.sum():.1f}: none is idle, and a few more may be worth a try.")

# %%
# The pictures.

figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.2), layout="constrained")
LearningCurveDisplay.from_estimator(short, ax=axes[0])
axes[0].set_title("10 epochs: still rising")
LearningCurveDisplay.from_estimator(vae, ax=axes[1])
axes[1].set_title("to its end: flat, and well above the start")
for ax in axes[:2]:
    ax.set_ylim(-155, -120)
InformationDisplay.from_estimator(vae, X, ax=axes[2])
axes[2].set_title("what each latent tells")
plt.show()
