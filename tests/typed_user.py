"""A program of a user who has types checked: `mypy --strict` accepts it against the installed package (.ci/wheel)."""

import numpy as np
from numpy.typing import NDArray

import skvae
from skvae import Gaussian, VAEAnomalyDetector, VAEClassifier, VAEImputer, VAETransformer, VAETransformerCV
from skvae.objectives import ELBO


def codes(X: NDArray[np.float64]) -> NDArray[np.float64]:
    vae: VAETransformer = VAETransformer(2, likelihood=Gaussian("shared"), objective=ELBO(beta=2.0), max_iter=2).fit(X)
    nats: float = vae.score(X)
    print(skvae.__version__, nats, vae.sample(3, random_state=0).shape)
    return np.asarray(vae.transform(X), dtype=np.float64)


def alarms(X: NDArray[np.float64]) -> list[int]:
    detector: VAEAnomalyDetector = VAEAnomalyDetector(contamination=0.1, max_iter=2, random_state=0).fit(X)
    return [int(verdict) for verdict in detector.predict(X)]


if __name__ == "__main__":
    table = np.random.default_rng(0).normal(size=(60, 4))
    search: VAETransformerCV = VAETransformerCV((1, 2), cv=2, max_iter=2).fit(table)
    filled = VAEImputer(VAETransformer(1, max_iter=2)).fit_transform(table)
    classifier: VAEClassifier = VAEClassifier(2, max_iter=2).fit(table, np.arange(60) % 2)
    print(codes(table).shape, alarms(table)[:3], search.best_params_, filled.shape, classifier.classes_)
