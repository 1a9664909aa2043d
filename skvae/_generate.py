"""Rows a fitted model draws: new ones, and the missing cells of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from ._base import BaseVAE, offers, takes_gaps
from ._inference.blocks import Inference, refuse_far_rows
from ._inference.scores import completed
from ._params import Count, RandomState
from ._state import at_once
from ._tables.containers import unpack_container
from ._tables.moments import Array, at_most
from ._torch import draw_seed, make_generator, torch_scope
from .model import VAE

__all__ = ["DrawsRows"]


class DrawsRows(BaseVAE):
    """`sample` and `impute`, which a transformer has and a detector does not."""

    @available_if(takes_gaps)
    @at_once
    def impute(self, X: Any, *, n_draws: int | None = None, random_state: RandomState = None) -> Any:
        """Fill missing cells given the row's other cells: with their conditional mean, or with draws.

        E[x_missing | x_present], with `n_draws` latents (the estimator's parameter) weighted by how likely they make
        the present cells (Mattei & Frellsen 2019); the most likely category where a column holds categories. Under an
        objective without a density the gaps take the reconstruction (AutoRec, Sedhain et al. 2015); there are no draws
        then. Absent where the decoder reads the row it predicts.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows; NaN marks a missing cell.
        n_draws : int, default=None
            For multiple imputation: how many tables to draw from p(x_missing | x_present), which vary as much as the
            cells are uncertain. None: one table, of conditional means.
        random_state : int, RandomState or None, default=None
            Of the draws. None draws anew at every call.

        Returns
        -------
        X_filled : ndarray or DataFrame of shape (n_samples, n_features), or a list of `n_draws` of these
            X, with present cells untouched. DataFrames where `fit` was given one.

        Raises
        ------
        ValueError
            If a parameter or X breaks a rule, or a row with gaps lies so far outside the training data that its code
            is not finite.
        """
        reader, inference = self._reader(), self._inference()
        if n_draws is not None and not Count().is_satisfied_by(n_draws):
            raise ValueError(f"n_draws={n_draws!r} must be an integer of at least 1, or None for conditional means.")
        X = unpack_container(X)
        filled = np.array(reader.read(X)[:])
        gaps = np.isnan(filled)
        rows = np.flatnonzero(gaps.any(axis=1))
        found = [filled] if n_draws is None else [filled.copy() for _ in range(n_draws)]
        if len(rows):
            values = self._fillings(inference, filled[rows], n_draws, random_state)
            refuse_far_rows(values, rows)
            for table, filling in zip(found, values.swapaxes(0, 1), strict=True):
                table[gaps] = at_most(inference.scale.to_data(filling)[gaps[rows]], table.dtype)
        tables = [reader.schema.filled(X, table, gaps, drawn=n_draws is not None) for table in found]
        return tables[0] if n_draws is None else tables

    def _fillings(self, inference: Inference, X: Array, n_draws: int | None, random_state: Any) -> np.ndarray:
        """Conditional means, (N, 1, D), or draws, (N, n_draws, D), of rows in model units."""
        if not inference.model.is_density:
            if n_draws is not None:
                objective = self._fitted().specs["objective"]
                raise ValueError(f"objective={objective!r} trains no density to draw from; use n_draws=None.")
            return inference.by_blocks(X, lambda model, rows: completed(model, rows)[:, None])
        if n_draws is None:
            return inference.conditional_mean(X)[:, None]
        return inference.conditional_draws(X, n_draws, _generator(random_state, inference))

    @available_if(offers("prior"))
    @at_once
    def sample(self, n_samples: int = 1, *, random_state: RandomState = None) -> Any:
        """Draw new rows: z from p(z), then x from p(x|z).

        Under an objective that offers a prior but no density, x is the mean of p(x|z): its noise was never trained.
        Absent where the objective offers no prior.

        Parameters
        ----------
        n_samples : int, default=1
            Rows to draw.
        random_state : int, RandomState or None, default=None
            None draws anew at every call.

        Returns
        -------
        X : ndarray or DataFrame of shape (n_samples, n_features)
            In data units. A DataFrame where `fit` was given one, with the same columns and types: those of whole
            numbers are rounded.

        Raises
        ------
        ValueError
            If `n_samples` is not an integer of at least 1.
        """
        model, inference = self._fitted(), self._inference()
        if not Count().is_satisfied_by(n_samples):
            raise ValueError(f"n_samples={n_samples!r} must be an integer of at least 1.")
        rng = _generator(random_state, inference)
        with torch_scope(rng.device, grad=False):
            z = inference.model.prior.sample(int(n_samples), rng, torch.float64).cpu().numpy()

        def rows(model: VAE, z: Tensor) -> Tensor:
            return model.sample(z, rng) if model.is_density else model.mean(z)

        return model.schema.decoded(inference.decoded(z, rows), typed=True)


def _generator(random_state: Any, inference: Inference) -> torch.Generator:
    """A generator where the model lies, seeded by what a user gave."""
    return make_generator(draw_seed(random_state), inference.device)
