"""Real-valued columns: Gaussian noise per column, shared, or from the decoder."""

from __future__ import annotations

from numbers import Real
from typing import ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from .._tables.moments import Moments, Scale
from ._base import LikelihoodModule, Standardised
from ._location_scale import DecoderNoise, FeatureNoise, LocationScale, ScaledNoise, SharedNoise

__all__ = ["Gaussian"]


class _OwnNoise(FeatureNoise):
    """One learnt variance per column, under which columns that go together may take all latents."""

    for_pictures = "Gaussian(noise='scaled')"


LAYOUTS: dict[str, type[LocationScale]] = {
    "feature": _OwnNoise,
    "shared": SharedNoise,
    "scaled": ScaledNoise,
    "decoder": DecoderNoise,
}


class Gaussian(Standardised):
    """Real-valued columns: p(x|z) = N(mean(z), variance).

    Parameters
    ----------
    noise : {"feature", "shared", "scaled", "decoder"}, default="feature"
        - "feature": one learnt variance per column, as in factor analysis. Columns are standardised one by one, so
          units do not matter.
        - "shared": one learnt variance for all columns, as in PCA. All columns are divided by one number, so the
          columns of the largest values matter most: for those of one unit, as pixels.
        - "scaled": one learnt share of every column's variance, as in PCA of standardised columns. All columns have an
          equal part in the latents, which makes the better picture of two or three: with a variance per column a few
          that go together may take all of them.
        - "decoder": one variance per row and column, emitted by the decoder (Kingma & Welling 2013, appendix C.2).
    noise_floor : float, default=1e-3
        The smallest noise variance, as a share of the column's variance ("shared": of the smallest variance among
        the columns that vary). Without a floor the density of a column that the latents copy grows without bound.

    See Also
    --------
    StudentT : Columns with outliers.
    LogNormal : Columns above zero.
    sklearn.decomposition.FactorAnalysis : The linear model with one noise variance per column.
    sklearn.decomposition.PCA : The linear model with shared noise.

    References
    ----------
    Kingma, D. P. and Welling, M. (2013). Auto-Encoding Variational Bayes. arXiv:1312.6114.

    Tipping, M. E. and Bishop, C. M. (1999). Probabilistic principal component analysis. Journal of the Royal
    Statistical Society B 61, 611-622.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer, Gaussian
    >>> X = load_wine().data
    >>> vae = VAETransformer(2, likelihood=Gaussian(noise="decoder"), random_state=0).fit(X)
    >>> vae.transform(X).shape
    (178, 2)
    """

    __module__ = "skvae"

    _parameter_constraints: ClassVar[dict] = {
        "noise": [StrOptions(set(LAYOUTS))],
        "noise_floor": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(self, noise: str = "feature", *, noise_floor: float = 1e-3) -> None:
        self.noise = noise
        self.noise_floor = noise_floor

    def scale(self, moments: Moments) -> Scale:
        if self.noise == "shared":
            largest = moments.std.max(initial=0.0) or 1.0
            pooled = largest * np.sqrt(np.mean((moments.std / largest) ** 2))
            moments = moments._replace(std=np.full_like(moments.std, pooled))
        return super().scale(moments)

    def build(self, n_features: int, scale: Scale) -> LikelihoodModule:
        return LAYOUTS[self.noise](scale, self.noise_floor)
