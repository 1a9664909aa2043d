"""Clusters of digits: k-means on pixels, on PCA and on latents, with and without a pull to cluster centres.

Data: MNIST (--data: mnist.npz), 28 x 28, pixels in [0, 1]; --rows random training images (default 10,000), and 3,000
others whose labels teach the network of the last line. Nothing else sees a label.
Protocol: 10 clusters. Accuracy is the share of rows that lie in the cluster of their digit, clusters and digits matched
one to one as well as can be (Hungarian matching); NMI is the normalised mutual information. Both on the rows that were
clustered; k-means starts 10 times. Mean over the seeds, and the spread from least to most.
- pixels; PCA, 10 components.
- ELBO, autoencoder, clustered: `VAETransformer(10, likelihood="bernoulli", hidden_layer_sizes=(256, 256))`, 60 epochs
  in batches of 200, the last one kept; clustered is `Clustered(10, warmup=30)`. "nearest centre" takes
  `cluster_centers_` in place of k-means.
- taught: `FeatureConsistent` with the hidden layer of a classifier of the 3,000 other images. Its codes know what
  labels say, so it does not compete.
Anchors, from the literature, on all of MNIST with larger networks: autoencoder + k-means .88, DEC .91, VaDE .945.
Prediction: clustered has the highest NMI, if not accuracy, of what has seen no label; pixels and PCA the lowest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _measure import verdict
from _tables import print_table
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score, pairwise_distances_argmin
from sklearn.metrics.cluster import contingency_matrix
from sklearn.neural_network import MLPClassifier
from torch import nn

from skvae import VAETransformer
from skvae.objectives import Clustered, FeatureConsistent

HEADER = ["k-means on", "accuracy", "from - to", "NMI", "from - to", "s"]
N_DIGITS, LATENTS, TAUGHT = 10, 10, 3000
NAMES = ("pixels", "PCA", "ELBO", "autoencoder", "clustered", "clustered, nearest centre", "taught")
UNTAUGHT = NAMES[:-1]

Array = NDArray[Any]


class Images(NamedTuple):
    """Rows of pixels in [0, 1] and their digits; others, with labels to teach by."""

    X: Array
    y: Array
    X_taught: Array
    y_taught: Array


def mnist(folder: Path, n_rows: int, seed: int = 0) -> Images:
    file = np.load(folder / "mnist.npz")
    at = np.random.RandomState(seed).permutation(len(file["X_train"]))[: n_rows + TAUGHT]
    X, y = file["X_train"][at].reshape(len(at), -1).astype(np.float32) / 255, file["y_train"][at].astype(int)
    return Images(X[:n_rows], y[:n_rows], X[n_rows:], y[n_rows:])


def accuracy(y: Array, labels: Array) -> float:
    """The share of rows whose cluster is matched to their digit."""
    counts = contingency_matrix(y, labels)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(y))


def k_means(Z: Array, seed: int) -> Array:
    return KMeans(N_DIGITS, n_init=10, random_state=seed).fit_predict(Z)


def taught_layer(images: Images, seed: int) -> nn.Module:
    """What the hidden layer of a classifier gives for images."""
    classifier = MLPClassifier((64,), early_stopping=True, random_state=seed).fit(images.X_taught, images.y_taught)
    layer = nn.Linear(images.X.shape[1], 64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(classifier.coefs_[0].T))
        layer.bias.copy_(torch.tensor(classifier.intercepts_[0]))
    return nn.Sequential(layer, nn.ReLU())


def model(objective: Any, args: argparse.Namespace, seed: int) -> VAETransformer:
    settings = {"hidden_layer_sizes": (256, 256), "batch_size": 200, "early_stopping": False}
    return VAETransformer(
        LATENTS, likelihood="bernoulli", objective=objective, max_iter=args.epochs, random_state=seed, **settings
    )


def clusterings(name: str, images: Images, args: argparse.Namespace, seed: int) -> dict[str, Array]:
    """Labels by the line of the table that they belong to."""
    X = images.X
    if name == "pixels":
        return {name: k_means(X, seed)}
    if name == "PCA":
        return {name: k_means(PCA(LATENTS, random_state=seed).fit_transform(X), seed)}
    objectives = {
        "ELBO": "elbo",
        "autoencoder": "autoencoder",
        "clustered": Clustered(N_DIGITS, weight=args.weight, warmup=args.epochs // 2),
    }
    objective = FeatureConsistent(taught_layer(images, seed)) if name == "taught" else objectives[name]
    vae = model(objective, args, seed)
    Z = vae.fit_transform(X)
    found = {name: k_means(Z, seed)}
    if hasattr(vae, "cluster_centers_"):
        found[f"{name}, nearest centre"] = pairwise_distances_argmin(Z, vae.cluster_centers_)
    return found


def line(name: str, scores: Sequence[tuple[float, float]], seconds: float) -> list[str]:
    cells = [name]
    for values in zip(*scores, strict=True):
        cells += [f"{np.mean(values):.3f}", f"{min(values):.3f} - {max(values):.3f}"]
    return [*cells, f"{seconds:.0f}"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist.npz")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--weight", type=float, default=1.0, help="of the pull")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=[n for n in NAMES if "," not in n], help="default: all")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args(argv)
    images = mnist(args.data, args.rows)
    scores: dict[str, list[tuple[float, float]]] = {}
    seconds: dict[str, float] = {}
    for name in args.methods or [n for n in NAMES if "," not in n]:
        for seed in args.seeds:
            began = time.perf_counter()
            for label, found in clusterings(name, images, args, seed).items():
                pair = accuracy(images.y, found), float(normalized_mutual_info_score(images.y, found))
                scores.setdefault(label, []).append(pair)
                seconds[label] = time.perf_counter() - began
                print(f"{label}, seed {seed}: accuracy {pair[0]:.3f}, NMI {pair[1]:.3f}", flush=True)
    print()
    print_table(HEADER, [line(name, found, seconds[name]) for name, found in scores.items()], args.markdown)
    nmi = {name: float(np.mean([pair[1] for pair in scores[name]])) for name in UNTAUGHT if name in scores}
    for other in (n for n in nmi if "clustered" not in n and "clustered" in nmi):
        claim = f"clustered: NMI {nmi['clustered']:.3f}, above that of {other}, {nmi[other]:.3f}"
        print(verdict(claim, nmi["clustered"] > nmi[other]))


if __name__ == "__main__":
    main()
