"""
How far do a few labels go?
===========================

Rows are cheap, labels are not. ``VAEClassifier`` learns from all rows what rows look like, and from those with a label
which latents belong to which class. That helps where classes are groups of rows, and columns are many and noisy.

Two tables show where it helps, and where it does not. The first is generated, so that classes *are* groups: 1500 cells
of six types, in each of which 150 genes are counted. The second is real, scikit-learn's breast cancer. Beside the
classifier stand logistic regression, which sees labelled rows only, and the same trained further on its own confident
answers.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from skvae import VAEClassifier

rng = np.random.default_rng(0)
kind = rng.integers(0, 6, 1500)
marks = rng.normal(0, 0.8, (6, 150)) * (rng.random((6, 150)) < 0.25)
log_mean = rng.normal(-0.5, 1, 150) + marks[kind] + rng.normal(0, 0.5, (1500, 1))
counts = rng.poisson(np.exp(log_mean) * rng.gamma(3, 1 / 3, log_mean.shape))
tables = {"generated cells": (np.log1p(counts), kind), "breast cancer": load_breast_cancer(return_X_y=True)}

# %%
# Two choices of the labelled rows for each number of labels; -1 stands for "no label", as everywhere in scikit-learn.

numbers = [30, 90]
names = ["VAEClassifier", "SelfTraining", "LogisticRegression"]
accuracy = np.empty((len(tables), len(names), len(numbers), 2))
for i, (X, y) in enumerate(tables.values()):
    X = StandardScaler().fit_transform(X)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)
    for j, k in np.ndindex(len(numbers), 2):
        shown, _ = train_test_split(np.arange(len(y_train)), train_size=numbers[j], random_state=k, stratify=y_train)
        known = np.full(len(y_train), -1)
        known[shown] = y_train[shown]
        models = [
            VAEClassifier(10, max_iter=40, random_state=0).fit(X_train, known),
            SelfTrainingClassifier(LogisticRegression()).fit(X_train, known),
            LogisticRegression().fit(X_train[shown], y_train[shown]),
        ]
        accuracy[i, :, j, k] = [model.score(X_test, y_test) for model in models]
print(f"{'mean accuracy':<20}" + "".join(f"{table + f', {n}':>22}" for table in tables for n in numbers))
for name, values in zip(names, accuracy.mean(axis=-1).swapaxes(0, 1), strict=True):
    print(f"{name:<20}" + "".join(f"{value:>22.3f}" for value in values.ravel()))

# %%
# Where classes are no such groups, the lead is gone.
#
# The picture: each of the choices, and their means.

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for ax, title, found in zip(axes, tables, accuracy, strict=True):
    for i, (name, values) in enumerate(zip(names, found, strict=True)):
        places = np.arange(len(numbers)) + 0.06 * (i - 1)
        ax.plot(places, values.mean(axis=1), marker="o", color=f"C{i}", label=name)
        ax.plot(places, values, ".", color=f"C{i}", alpha=0.5)
    ax.set_xticks(range(len(numbers)), numbers)
    ax.set(xlabel="rows with a label", ylabel="accuracy on other rows", title=title)
    ax.spines[["top", "right"]].set_visible(False)
axes[1].set_ylim(0.8, 1)
axes[1].legend(frameon=False, fontsize="small", loc="lower right")
plt.show()
