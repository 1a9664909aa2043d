"""
Which cells are typing errors, and why?
=======================================

A table that people have typed in holds slips: a decimal point in the wrong place, two columns swapped, inches for
centimetres. Most wrong cells are ordinary as numbers, and contradict the other cells of their row.

The table is real, the errors are not: 30 of them are planted below into scikit-learn's breast cancer table, where every
row is a cell nucleus with eight sizes of it. So we know what there is to find.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skvae import VAEAnomalyDetector
from skvae.plotting import AnomalyExplanationDisplay

clean = load_breast_cancer(as_frame=True).data
clean = clean[[name for name in clean if name.startswith("mean") and clean[name].min() > 0]]

# %%
# Thirty slips
# ------------
# Each in a row of its own: ten decimal points, ten swaps of neighbouring columns, ten lengths in the wrong unit.

rng = np.random.default_rng(0)
typed, planted = clean.copy(), {}
for k, row in enumerate(rng.choice(len(clean), 30, replace=False)):
    column = rng.integers(clean.shape[1])
    kind = ("decimal point", "swapped columns", "inches")[k % 3]
    cells = [column, (column + 1) % clean.shape[1]] if kind == "swapped columns" else [column]
    if kind == "decimal point":
        typed.iloc[row, column] *= rng.choice([0.1, 10])
    elif kind == "inches":
        typed.iloc[row, column] /= 2.54
    else:
        typed.iloc[row, cells] = clean.iloc[row, cells[::-1]].to_numpy()
    planted[row] = kind, [clean.columns[cell] for cell in cells]
wrong = np.isin(np.arange(len(clean)), list(planted))

# %%
# Who finds them?
# ---------------
# The detector is trained on the table as it is, errors and all. Sizes are above zero and skewed, which
# ``likelihood="log_normal"`` says. The others get logarithms, too, or they would find fewer.

detector = VAEAnomalyDetector(likelihood="log_normal", random_state=0).fit(typed)
detector.set_contamination(30 / len(typed))  # where the threshold lies; the scores stay as they are
logs = StandardScaler().fit_transform(np.log(typed))
scores = {
    "VAEAnomalyDetector": detector.score_samples(typed),
    "5th nearest neighbour": -NearestNeighbors(n_neighbors=5).fit(logs).kneighbors()[0][:, -1],
    "IsolationForest": IsolationForest(random_state=0).fit(logs).score_samples(logs),
}
found = {name: wrong[np.argsort(score)].cumsum() for name, score in scores.items()}
for name, counts in found.items():
    print(f"{name:<22} {counts[29]:>2} of 30 errors among the 30 most unusual rows, {counts[59]:>2} among 60")

# %%
# And why?
# --------
# ``explain`` says what each cell adds to a row's score. Where the row is one of the planted errors, is the cell that
# was mistyped the one that is blamed most?

blamed = detector.set_output(transform="pandas").explain(typed[wrong]).drop(columns="latent").idxmin(axis=1)
right = {kind: [] for kind in ("decimal point", "swapped columns", "inches")}
for row, column in blamed.items():
    kind, columns = planted[row]
    right[kind].append(column in columns)
for kind, hits in right.items():
    print(f"{kind:<16} the mistyped cell is blamed most in {sum(hits):>2} of {len(hits)} rows")

# %%
# ``describe`` says the same in words. Here are the most unusual row of each kind, of those of which the right cell is
# blamed.

worst = {}
for row in np.argsort(scores["VAEAnomalyDetector"]):
    if row in planted and blamed[row] in planted[row][1]:
        worst.setdefault(planted[row][0], row)
for kind, row in worst.items():
    print(f"row {row}, {kind}: {detector.describe(typed.iloc[[row]], n_columns=1)['reason'].iloc[0]}")

# %%
# The picture: how many errors somebody finds who checks the most unusual rows first, and one row's explanation.

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained", width_ratios=[2, 3])
for (name, counts), colour in zip(found.items(), ("#4477aa", "#ccbb44", "#cc3311"), strict=True):
    left.plot(np.arange(1, 101), counts[:100], color=colour, label=name)
left.plot([0, 30, 100], [0, 30, 30], color="0.7", linestyle=":", label="nothing but errors")
left.set(xlabel="rows checked, most unusual first", ylabel="planted errors found")
left.legend(frameon=False, loc="lower right")
left.spines[["top", "right"]].set_visible(False)
AnomalyExplanationDisplay.from_estimator(detector, typed, row=int(worst["inches"]), n_features=6, ax=right)
plt.show()
