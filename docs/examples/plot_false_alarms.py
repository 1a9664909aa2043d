"""
How many false alarms, and can that be promised?
================================================

A threshold on the training rows promises nothing: the model has seen those. Normal rows that were kept aside do promise
something, whatever the model. ``calibrate`` sets the threshold for a share of false alarms among the *normal rows*;
``reject`` calls rows so that at most a share of those *called* are normal, on average.

Promises on average are to be checked on many deals: below, 200 times over, scikit-learn's digits are dealt into rows to
calibrate with and new rows. Normal are digits as they were written; anomalies lie on their side.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skvae import VAEAnomalyDetector
from skvae.plotting import AnomalyScoresDisplay

X = load_digits().data
train, rest = train_test_split(X, train_size=600, random_state=0)
normal, turned = rest[:900], rest[900:]
turned = np.rot90(turned.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)

# %%
# One detector
# ------------

detector = VAEAnomalyDetector(16, random_state=0).fit(train)
detector.set_contamination(0.1)  # a tenth of the training rows lies below the threshold
print(f"Normal rows that the detector has not seen, below that threshold: {(detector.predict(normal) < 0).mean():.3f}")

# %%
# Two hundred deals
# -----------------
# 700 rows to calibrate with, and 200 new ones with 40 anomalies among them.

rng = np.random.default_rng(0)
found = {"calibrate: false alarms": [], "predict: mistakes": [], "reject: mistakes": []}
caught = []
for _ in range(200):
    deal = rng.permutation(len(normal))
    new = np.concatenate([normal[deal[700:]], turned[rng.permutation(len(turned))[:40]]])
    is_normal = np.arange(len(new)) < 200
    detector.calibrate(normal[deal[:700]], false_alarm_rate=0.1)
    flagged, called = detector.predict(new) < 0, detector.reject(new, fdr=0.1)
    found["calibrate: false alarms"].append(flagged[is_normal].mean())
    found["predict: mistakes"].append(is_normal[flagged].mean())
    found["reject: mistakes"].append(is_normal[called].mean() if called.any() else 0.0)
    caught.append(called[~is_normal].mean())
asked = ("0.1 of the normal rows", "nothing said of these", "at most 0.1 of those called")
for (name, shares), said in zip(found.items(), asked, strict=True):
    print(f"{name:<24} {np.mean(shares):.3f} on average; asked for: {said}")
print(f"reject finds {np.mean(caught):.2f} of the anomalies")

# %%
# The picture: scores of the last deal with the calibrated threshold, and what came of the 200 promises.

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
AnomalyScoresDisplay.from_estimator(detector, new, ax=left)
left.set_title("one deal: 200 normal rows, 40 on their side")
right.violinplot(list(found.values()), orientation="horizontal", showmeans=True)
right.axvline(0.1, color="black", linestyle="--", linewidth=1, label="0.1")
right.set_yticks([1, 2, 3], found)
right.invert_yaxis()
right.set(xlabel="share", xlim=(0, None), title="200 deals, and their means")
right.legend(frameon=False)
right.spines[["top", "right"]].set_visible(False)
plt.show()
