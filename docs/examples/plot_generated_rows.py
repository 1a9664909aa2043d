"""
Are generated rows as good as real ones?
========================================

Four judges, each of which can be fooled by itself:

- a **classifier** that learns from generated rows and is tested on real ones: it needs what columns say of each other;
- a **detective** that tries to tell generated rows from real ones: 0.5 means that it cannot;
- the **nearest row**: as near to rows of training as to rows that the model never saw (a share of 0.5), or copied?
- the eye, on each column and each pair of columns.

Beside the VAE stand a Gaussian mixture, and columns that are shuffled each by itself. The table is scikit-learn's
breast cancer, of which eight columns and the diagnosis are taken.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import VAETransformer
from skvae.plotting import SamplesDisplay

data = load_breast_cancer(as_frame=True)
table = data.data.filter(regex="^(mean|worst) (radius|texture|smoothness|concavity)$")
table = table.assign(tumour=data.target_names[data.target])
train, test = train_test_split(table, test_size=0.5, random_state=0, stratify=table["tumour"])
numbers = table.columns.drop("tumour")

# %%
# Three sources of rows, all of the same size as the training table.

vae = VAETransformer(4, likelihood="auto", max_iter=1000, random_state=0).fit(train)
mixture = pd.get_dummies(train, dtype=float)
drawn = GaussianMixture(4, random_state=0).fit(mixture).sample(len(train))[0]
drawn = pd.DataFrame(drawn, columns=mixture.columns)
rng = np.random.default_rng(0)
sources = {
    "real": train,
    "VAE": vae.sample(len(train), random_state=0),
    "Gaussian mixture": drawn[numbers].assign(
        tumour=np.where(drawn["tumour_benign"] > drawn["tumour_malignant"], "benign", "malignant")
    ),
    "shuffled columns": train.apply(rng.permutation),
}


# %%
# The judges.


def learns(rows):
    """ROC AUC, on real rows, of a classifier that learns from these."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows[numbers], rows["tumour"])
    return roc_auc_score(test["tumour"] == "malignant", classifier.decision_function(test[numbers]))


def found_out(rows):
    """ROC AUC of a detective that learns to tell these rows from real ones."""
    both = pd.get_dummies(pd.concat([rows, test]), dtype=float)
    real = np.arange(len(both)) >= len(rows)
    detective = HistGradientBoostingClassifier(max_iter=50, random_state=0)
    return roc_auc_score(real, cross_val_predict(detective, both, real, cv=3, method="predict_proba")[:, 1])


def near_training(rows):
    """The share of rows that are nearer to a row of training than to one that was never seen."""
    scale = StandardScaler().fit(table[numbers])
    near = [
        NearestNeighbors(n_neighbors=1)
        .fit(scale.transform(real[numbers]))
        .kneighbors(scale.transform(rows[numbers]))[0]
        for real in (train, test)
    ]
    return (near[0] < near[1]).mean()


print(f"{'':<18}{'learns':>10}{'found out':>12}{'near training':>16}")
for name, rows in sources.items():
    print(f"{name:<18}{learns(rows):>10.3f}{found_out(rows):>12.3f}{near_training(rows):>16.3f}")

# %%
# Real rows of training are near training, of course: they are copies. Rows that win the first two columns and have 1
# in the third are copies, too. On so few rows of numbers a Gaussian mixture is as good as the VAE; it takes neither
# strings nor gaps, so strings were made numbers for it, and back.
#
# The picture, for the eye.

SamplesDisplay.from_predictions(
    train, sources["VAE"], features=["mean radius", "mean texture", "worst concavity", "tumour"]
)
plt.show()
