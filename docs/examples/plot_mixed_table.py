"""
Can a table of strings, numbers and gaps go straight in?
========================================================

With ``likelihood="auto"`` it can, and comes out as it went in: ``sample``, ``impute`` and ``inverse_transform`` return
data frames with the same columns and types.

The table is scikit-learn's diabetes as it was measured: 442 patients with sex, age in years, blood values and the
disease's progression. Sex becomes a string here, and a tenth of the cells are emptied.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes

from skvae import VAETransformer
from skvae.plotting import SamplesDisplay

data = load_diabetes(as_frame=True, scaled=False)
table = data.data.assign(progression=data.target)[["sex", "age", "bmi", "bp", "s1", "s3", "s5", "progression"]]
table["sex"] = table["sex"].map({1: "a", 2: "b"})  # the source does not say which is which
table = table.astype({"age": int, "progression": int})
rng = np.random.default_rng(0)
gaps = table.astype({"age": "Int64", "progression": "Int64"}).mask(rng.random(table.shape) < 0.1)
print(gaps.head(4).to_string())

# %%
# In
# --
# What was chosen for each column can be read, and overruled with ``Mixed``.

vae = VAETransformer(4, likelihood="auto", max_iter=1000, random_state=0).fit(gaps)
print(vae.likelihood_)

# %%
# Out
# ---
# New rows, and the filled table: whole numbers are whole, strings strings.

new = vae.sample(len(gaps), random_state=0)
print(new.head(4).round(2).to_string())
print("types as they were:", (new.dtypes == gaps.dtypes).all())

# %%
# How good are the filled cells? They were hidden from the model, so we know them: the mean absolute error of the
# numbers in standard deviations, and the share of the sexes that are right, beside the column's median and commonest
# value.

filled = vae.impute(gaps)
simple = gaps.fillna({"sex": gaps["sex"].mode()[0]} | gaps.median(numeric_only=True).round().to_dict())
hidden = gaps.isna()
numbers = table.columns.drop("sex")
for name, found in (("median, mode", simple), ("impute", filled)):
    errors = ((found[numbers].astype(float) - table[numbers]) / table[numbers].std()).abs()
    right = (found["sex"] == table["sex"])[hidden["sex"]].mean()
    print(f"{name:<13} error {np.nanmean(errors.where(hidden[numbers])):.2f}, sexes right {right:.2f}")

# %%
# Do drawn rows hang together as real ones do? Correlations say how columns go with each other.

real, drawn = (frame[numbers].astype(float).corr() for frame in (gaps, new))
pairs = pd.DataFrame({"real": real.stack(), "drawn": drawn.stack()})
pairs = pairs[pairs.index.get_level_values(0) < pairs.index.get_level_values(1)]
print(pairs.loc[pairs["real"].abs().nlargest(4).index].round(2).to_string())

# %%
# The picture: real rows, without gaps, and drawn ones, column by column and pair by pair.

SamplesDisplay.from_predictions(table, new, features=["sex", "age", "bmi", "progression"])
plt.show()
