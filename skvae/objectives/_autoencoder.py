"""The plain autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._tables.batches import Batch
from ..model import VAE, Emitted
from ._base import OnePass, Slopes

__all__ = ["Autoencoder"]


class Autoencoder(OnePass):
    """A code and its reconstruction (Hinton & Salakhutdinov 2006): minimise ||x - g(f(x))||^2.

    The encoder f gives a code of J numbers per row, the decoder g a row back. The error is summed over the present
    cells of a row, in the units that the encoder sees: standard deviations of the columns (one for all columns with
    `Gaussian(noise="shared")`), logarithms of counts; of categories it is the squared error of their probabilities.
    Without hidden layers codes span the subspace of the leading principal components of such columns (Bourlard & Kamp
    1988).

    There is no p(x), so `score`, `score_samples`, `posterior` and `sample` are absent, and the likelihood only says
    what columns hold. A row's gaps show the encoder column means; `impute` fills them with the reconstruction (AutoRec,
    Sedhain et al. 2015).

    See Also
    --------
    skvae.ELBO : Codes with a spread, and a likelihood of rows.

    References
    ----------
    Bourlard, H. and Kamp, Y. (1988). Auto-association by multilayer perceptrons and singular value decomposition.

    Hinton, G. E. and Salakhutdinov, R. R. (2006). Reducing the dimensionality of data with neural networks.

    Sedhain, S. et al. (2015). AutoRec: autoencoders meet collaborative filtering.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> X = load_wine().data
    >>> autoencoder = VAETransformer(3, objective="autoencoder", max_iter=20, random_state=0).fit(X)
    >>> autoencoder.transform(X).shape
    (178, 3)
    >>> hasattr(autoencoder, "score")
    False
    """

    __module__ = "skvae.objectives"

    reads_error = True

    def terms(
        self, emitted: Emitted, batch: Batch, model: VAE, rng: torch.Generator, epoch: float
    ) -> dict[str, Tensor]:
        """||x - g(f(x))||^2 over the present cells."""
        return {"loss": model.squared_error(emitted.outputs, batch)}

    def gradient(self, emitted: Emitted, at: Any, epoch: float) -> Slopes:
        error, outputs = at.error_gradient(emitted.outputs)
        return Slopes({"loss": error}, outputs)
