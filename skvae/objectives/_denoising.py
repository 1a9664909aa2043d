"""Autoencoders that rebuild rows from damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from .._tables.batches import Batch, Table
from .._tables.moments import Units
from .._torch import seed_from
from ..model import VAE
from ._autoencoder import Autoencoder

__all__ = ["Denoising"]

# Of the columns' standard deviations: the noise where none is given.
SHARE = 0.5
# Rows that a user's corruption is tried on before training.
TRIED = 100


class Denoising(Autoencoder):
    """A denoising autoencoder (Vincent et al. 2010): minimise ||x - g(f(c(x)))||^2, c a corruption drawn in every step.

    The encoder sees a damaged row, and the clean one is what the reconstruction is compared with; `reconstruct` then
    cleans rows. The error is that of a plain autoencoder. There is no p(x), so `score`, `score_samples`, `posterior`
    and `sample` are absent.

    Parameters
    ----------
    noise : {"gaussian", "mask", "paired"} or callable, default="gaussian"
        "gaussian": x + scale * eps. "mask": every cell is hidden from the encoder with probability `drop`, as if it
        were missing. "paired": no noise is drawn; `fit(X_noisy, X_clean)` gives both. A callable `noise(X, rng)` gets
        rows in the units of X, an array of shape (n, n_features) in float64 with NaN in missing cells (categories are
        numbers there), and a `numpy.random.Generator`; it returns such an array, with NaN in cells to be hidden.
    scale : float, array-like of shape (n_features,), or None, default=None
        Standard deviation of the Gaussian noise, in the units of X: one number, or one for each column. None: half a
        standard deviation of each column, as they are scaled inside. 0 draws nothing. Where a likelihood bends columns
        (amounts by their logarithm, heavy tails), noise is added to the bent ones, and the scale is over the
        column's standard deviation; columns that hold set values (counts, categories) get none.
    drop : float, default=0.3
        Probability that "mask" hides a cell; 0 draws nothing.

    See Also
    --------
    skvae.ELBO : Its `input_noise` smooths a density.

    References
    ----------
    Vincent, P. et al. (2010). Stacked denoising autoencoders: learning useful representations in a deep network with a
    local denoising criterion.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.objectives import Denoising
    >>> X = load_wine().data
    >>> vae = VAETransformer(3, objective=Denoising("mask", drop=0.4), max_iter=20, random_state=0).fit(X)
    >>> vae.reconstruct(X).shape
    (178, 13)
    """

    __module__ = "skvae.objectives"

    _parameter_constraints: ClassVar[dict] = {
        "noise": [StrOptions({"gaussian", "mask", "paired"}), callable],
        "scale": [None, Interval(Real, 0, None, closed="left"), "array-like"],
        "drop": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        noise: str | Callable[[np.ndarray, np.random.Generator], Any] = "gaussian",
        *,
        scale: Any = None,
        drop: float = 0.3,
    ) -> None:
        self.noise = noise
        self.scale = scale
        self.drop = drop

    @property
    def target(self) -> str | None:  # type: ignore[override]
        return "row" if self.noise == "paired" else None

    @property
    def in_data_units(self) -> bool:  # type: ignore[override]
        return self.noise not in ("gaussian", "mask")

    def start(self, model: VAE, rows: Table, rng: torch.Generator) -> None:
        """Refuse noise that these columns cannot take; try a user's corruption."""
        encoding = model.likelihood.encoding
        if self.noise == "gaussian":
            self._check_scale(encoding.n_features)
            if not encoding.n_noisy:
                raise ValueError(
                    f"objective={self!r} adds noise to the columns, and these hold set values (0 and 1, shares, counts "
                    "or categories); use noise='mask', or a function of your own."
                )
        elif callable(self.noise):
            seen, _ = self.views(model.units, rows.subsample(TRIED), rng)
            if not model.seen(seen.x, seen.mask).isfinite().all():
                raise ValueError(
                    f"objective={self!r}: its noise makes cells that are infinite or outside the likelihood's support; "
                    "return values that X could hold, and NaN for cells to be hidden."
                )

    def _check_scale(self, n_features: int) -> None:
        scale = np.asarray(0.0 if self.scale is None else self.scale)
        numbers = scale.dtype.kind in "fiu" and bool((np.isfinite(scale) & (scale >= 0)).all())
        if scale.shape not in ((), (n_features,)) or not numbers:
            raise ValueError(
                f"objective={self!r}: scale must be None, a number from 0 on, or one for each of the {n_features} "
                "columns."
            )

    def views(self, units: Units, batch: Batch, rng: torch.Generator) -> tuple[Batch, Batch]:
        """The damaged rows, and the clean ones."""
        if self.noise == "paired":
            assert batch.y is not None
            return batch, replace(batch, x=batch.y, mask=None)
        if callable(self.noise):
            return self._by_user(units, batch, rng), batch
        x, shape = batch.x, (len(batch), len(units.scale.scale))  # a prepared x may be wider
        if self.noise == "mask":
            if not self.drop:
                return batch, batch
            kept = torch.rand(shape, generator=rng, dtype=x.dtype, device=x.device) >= self.drop
            return replace(batch, mask=kept.to(x.dtype) if batch.mask is None else kept * batch.mask), batch
        scale = np.broadcast_to(SHARE if self.scale is None else self.scale / units.scale.scale, shape[1:])
        if not scale.any():
            return batch, batch
        eps = torch.randn(shape, generator=rng, dtype=x.dtype, device=x.device)
        noise = eps * torch.tensor(scale, dtype=x.dtype, device=x.device)
        return replace(batch, x=units.add_noise(x, noise)), batch

    gradient = Autoencoder.gradient  # of damaged rows, too, once these are there

    def _by_user(self, units: Units, batch: Batch, rng: torch.Generator) -> Batch:
        """The rows as a user's function damages them, in the units of X."""
        x = batch.x
        X = units.scale.to_data(x.cpu().double().numpy())
        if batch.mask is not None:
            X[batch.mask.cpu().numpy() == 0] = np.nan
        damaged = np.asarray(self.noise(X, np.random.default_rng(seed_from(rng))), dtype=np.float64)  # type: ignore[operator]
        if damaged.shape != X.shape:
            raise ValueError(
                f"objective={self!r}: its noise must return an array of the shape it gets, {X.shape}; it returned "
                f"{damaged.shape}."
            )
        present = ~np.isnan(damaged)
        cells = np.where(present, units.scale.to_model(damaged), 0.0)
        new, mask = (torch.as_tensor(values, dtype=x.dtype, device=x.device) for values in (cells, present))
        return replace(batch, x=new, mask=mask)
