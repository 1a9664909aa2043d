"""
What do gaps do to a regression?
================================

Blood pressure is missing for some patients of scikit-learn's diabetes table, more often for heavy ones. What is the
slope of the disease's progression on blood pressure, at a given body mass index?

- Leaving incomplete rows out throws away what their other cells say.
- One filled table pretends that filled cells were measured, so intervals come out too narrow.
- *Multiple imputation* fills the table several times, with draws; ``pool`` adds what the gaps leave open to the
  standard error.

The gaps are planted, so the answer of the complete table is known.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats
from sklearn.datasets import load_diabetes

from skvae import VAEImputer, VAETransformer, pool

data = load_diabetes(as_frame=True, scaled=False)
table = data.data.assign(progression=data.target)[["age", "bmi", "bp", "s1", "s2", "s3", "s5", "s6", "progression"]]

# %%
# Half of the blood pressures are hidden, by body mass index alone: *missing at random*, as imputation has to assume.

rng = np.random.default_rng(0)
rank = stats.rankdata(table["bmi"]) / len(table)
gaps = table.copy()
gaps.loc[rng.random(len(table)) < rank, "bp"] = np.nan
print(f"{gaps['bp'].isna().mean():.0%} of the blood pressures are missing.")


def slope(rows):
    """Slope on blood pressure, beside body mass index, and its squared standard error."""
    rows = rows.dropna()
    design = np.column_stack([np.ones(len(rows)), rows["bp"], rows["bmi"]])
    coefficients, squares, *_ = np.linalg.lstsq(design, rows["progression"], rcond=None)
    variance = squares[0] / (len(rows) - 3) * np.linalg.inv(design.T @ design)[1, 1]
    return coefficients[1], variance


# %%
# Four analyses
# -------------
# ``VAEImputer`` fills once, with means; its fitted model fills twenty times, with draws.

imputer = VAEImputer(VAETransformer(6, max_iter=500, random_state=0)).set_output(transform="pandas").fit(gaps)
draws = imputer.estimator_.impute(gaps, n_draws=20, random_state=0)
pooled = pool(*zip(*map(slope, draws), strict=True), dfcom=len(table) - 3)
filled = gaps.fillna({"bp": gaps["bp"].mean()})
answers = {}
tables = {"complete table": table, "rows without gaps": gaps, "filled with the mean": filled}
for name, rows in (tables | {"VAE's means, once": imputer.transform(gaps)}).items():
    estimate, variance = slope(rows)
    answers[name] = estimate, estimate - 1.96 * variance**0.5, estimate + 1.96 * variance**0.5
answers["VAE's draws, 20 pooled"] = float(pooled.estimate), *map(float, pooled.interval(0.95))
for name, (estimate, low, high) in answers.items():
    print(f"{name:<22} {estimate:.2f}, 95 % interval from {low:.2f} to {high:.2f}")
print(f"Of what the complete table would say of the slope, {float(pooled.fraction_missing):.0%} is missing.")

# %%
# One deal of gaps shows how it is done, not how good it is: ``benchmarks/multiple_imputation.py`` counts how often such
# intervals hold the truth.
#
# The picture: the intervals, and one of the twenty tables.

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained", width_ratios=[3, 2])
for place, (estimate, low, high) in enumerate(answers.values()):
    colour = "black" if place == 0 else "#cc3311" if place < 4 else "#4477aa"
    left.errorbar(estimate, place, xerr=[[estimate - low], [high - estimate]], marker="o", capsize=4, color=colour)
left.axvline(answers["complete table"][0], color="0.7", linestyle=":")
left.set_yticks(range(len(answers)), answers)
left.invert_yaxis()
left.set(xlabel="progression per mm of blood pressure", title="slope, and its 95 % interval")
hidden = gaps["bp"].isna()
right.scatter(table["bmi"][~hidden], table["bp"][~hidden], s=12, color="0.7", label="measured")
right.scatter(table["bmi"][hidden], draws[0]["bp"][hidden], s=12, color="#4477aa", label="drawn")
right.scatter(table["bmi"][hidden], filled["bp"][hidden], s=3, color="#cc3311", label="mean")
right.set(xlabel="body mass index", ylabel="blood pressure", title="one of 20 filled tables")
right.legend(frameon=False, fontsize="small", loc="upper left")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
