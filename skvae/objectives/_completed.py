"""The evidence lower bound of rows with gaps, which the encoder sees filled."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch

from .._tables.batches import Batch
from .._tables.moments import Units
from ._elbo import ELBO

__all__ = ["Completed"]


class Completed(ELBO):
    """The evidence lower bound of rows with gaps, which the encoder sees filled: `fit(X, X_filled)`.

    The decoder answers for the present cells alone, as under every objective; what stands in the gaps of X_filled only
    tells the encoder where to look for z. It is a lower bound on the likelihood of the present cells, whatever that is,
    and the better the filling, the tighter. A gap that shows the encoder its column's mean, as under the other
    objectives, leaves q(z|x) off-centre, and the decoder learns to be content with that: with a fifth of the cells
    missing, its noise is too large by a fifth and more.

    See Also
    --------
    skvae.VAEImputer : Fills X by the linear model, and trains with this.

    References
    ----------
    Mattei, P.-A. and Frellsen, J. (2019). MIWAE: deep generative modelling and imputation of incomplete data sets.

    Nazabal, A. et al. (2020). Handling incomplete heterogeneous data using VAEs. Pattern Recognition 107.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from skvae import VAETransformer
    >>> from skvae.objectives import Completed
    >>> X = load_iris().data
    >>> X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    >>> first = VAETransformer(2, max_iter=1, random_state=0).fit(X)
    >>> vae = VAETransformer(2, objective=Completed(), random_state=0).fit(X, first.impute(X))
    >>> bool(np.isnan(vae.impute(X)).any())
    False
    """

    __module__ = "skvae.objectives"

    _parameter_constraints: ClassVar[dict] = {}

    target = "filled"

    # The bound's own form, without parameters.
    kl, n_draws, beta, warmup, free_bits, input_noise = "analytic", 1, 1.0, 0, 0.0, 0.0

    def __init__(self) -> None:
        pass

    def views(self, units: Units, batch: Batch, rng: torch.Generator) -> tuple[Batch, Batch]:
        """The filled rows, and those with gaps."""
        assert batch.y is not None
        return replace(batch, x=batch.y, mask=None), batch

    gradient, summed = ELBO.gradient, ELBO.summed  # of filled rows, too, once these are there
