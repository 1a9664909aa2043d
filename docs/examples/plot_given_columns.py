"""
What is a row like, of which some columns are known?
====================================================

A fitted model answers for any columns given any others, without a new fit: ``sample(given=)`` draws whole rows, and
``impute(quantiles=)`` tells ranges. A regression answers for one column given all others.

The table is scikit-learn's diabetes: 442 patients. Asked is what goes with a body mass index.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from skvae import VAETransformer

data = load_diabetes(as_frame=True, scaled=False)
table = data.data.drop(columns="sex").assign(progression=data.target)
train, test = train_test_split(table, test_size=0.4, random_state=0)
vae = VAETransformer(4, max_iter=500, random_state=0).fit(train)

# %%
# Rows that are given one column
# ------------------------------
# A thousand patients for each of two body mass indices.

drawn = {bmi: vae.sample(1000, given={"bmi": bmi}, random_state=0) for bmi in (20.0, 35.0)}
for bmi, rows in drawn.items():
    print(f"bmi {bmi:.0f}: mean blood pressure {rows['bp'].mean():.0f}, progression {rows['progression'].mean():.0f}")

# %%
# Ranges along a column
# ---------------------

grid = np.linspace(18, 40, 23)
asked = pd.DataFrame(np.nan, index=range(len(grid)), columns=table.columns).assign(bmi=grid)
low, middle, high = (found["progression"] for found in vae.impute(asked, quantiles=[0.05, 0.5, 0.95]))
print(f"progression at bmi 20 and 35, 5 to 95 %: {low[2]:.0f} to {high[2]:.0f}, and {low[17]:.0f} to {high[17]:.0f}")

# %%
# Do the ranges hold what they say?
# ---------------------------------
# In rows that the model has not seen, half of the cells are hidden at random. Nine in ten should lie inside.

rng = np.random.default_rng(0)
hidden = rng.random(test.shape) < 0.5
below, above = vae.impute(test.mask(hidden), quantiles=[0.05, 0.95])
inside = ((test >= below) & (test <= above)).to_numpy()
width = ((above - below) / train.std()).to_numpy()
known = np.digitize((~hidden).sum(axis=1), [4, 7])
print(f"{inside[hidden].mean():.3f} of {hidden.sum()} hidden cells lie in their 90 % range")
for k, name in enumerate(("up to 3 cells known", "4 to 6", "7 and more")):
    own = hidden & (known == k)[:, None]
    print(f"{name:<20} {inside[own].mean():.3f} inside, {width[own].mean():.2f} standard deviations wide")

# %%
# The picture: the range along one column, and rows drawn at two of its values.

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
left.scatter(table["bmi"], table["progression"], s=10, color="0.7", linewidths=0, label="patients")
left.fill_between(grid, low, high, color="#4477aa", alpha=0.2, label="5 to 95 %")
left.plot(grid, middle, color="#4477aa", label="median")
left.set(xlabel="body mass index (given)", ylabel="progression of the disease")
left.legend(frameon=False, fontsize="small")
right.scatter(table["s5"], table["bp"], s=10, color="0.8", linewidths=0, label="patients")
for (bmi, rows), colour in zip(drawn.items(), ("#4477aa", "#cc3311"), strict=True):
    right.scatter(
        rows["s5"][:200], rows["bp"][:200], s=10, color=colour, alpha=0.6, linewidths=0, label=f"bmi {bmi:.0f}"
    )
right.set(
    xlabel="s5, logarithm of triglycerides", ylabel="blood pressure", title="rows drawn, given the body mass index"
)
right.legend(frameon=False, fontsize="small")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
