"""What is said of a fit's latents: that there are too many, or that two or three are a poorer picture than PCA's."""

from __future__ import annotations

import numpy as np
import torch

from ._ranks import warn_user
from ._settings import FitSettings
from ._tables.batches import Batch
from ._tables.moments import Array
from ._tables.shared import Rows
from .model import VAE

__all__ = ["keeps_fewer_neighbours", "warn_of_latents"]

# Numbers of latents that are looked at as a picture, rows that are asked about it, and neighbours of each.
PICTURES, FEWEST_ROWS, MOST_ROWS, NEIGHBOURS = (2, 3), 50, 500, 10
# How far below that of principal components their trustworthiness may lie before it is a word's worth.
WORTH_A_WORD = 0.002


def warn_of_latents(model: VAE, rows: Rows, settings: FitSettings) -> None:
    """Warn where a row has fewer numbers than there are latents, and where a picture of these hides its neighbours.

    No text holds a number that another fit would not have: a search over many is then told once.
    """
    n_latents, encoding, better = model.prior.n_components, model.likelihood.encoding, model.likelihood.for_pictures
    n_numbers = encoding.n_inputs - int(encoding.is_given().sum())
    if settings.n_components != "auto" and "density" in settings.objective.offers and n_latents > n_numbers:
        warn_user(
            f"{settings.name}: n_components={n_latents} is more than the {n_numbers} number(s) that the encoder sees "
            "of a row, of which no more latents can tell anything; take as many at most, or n_components='auto'."
        )
    asked = better is not None and n_latents in PICTURES and settings.objective.is_bound
    if asked and keeps_fewer_neighbours(model, rows.subsample(MOST_ROWS)):
        warn_user(
            f"{settings.name}: the {n_latents} latents keep fewer of the rows' neighbours than {n_latents} principal "
            "components of the standardised columns do. They make the columns likeliest, of which a few that go "
            f"together may take them all; for a picture or clusters take likelihood={better}."
        )


@torch.no_grad()
def keeps_fewer_neighbours(model: VAE, rows: Batch) -> bool:
    """Whether codes are clearly less trustworthy than principal components of the same rows, as the encoder sees them.

    A picture is trustworthy where rows that lie close together in it do so in the table, too (Venna & Kaski 2001).
    """
    complete = rows if rows.mask is None else rows.take(rows.mask.all(dim=1).nonzero()[:, 0])
    n_latents = model.prior.n_components
    seen = model.likelihood.encoding.encode(complete.x).double().cpu().numpy()
    if len(seen) < FEWEST_ROWS or seen.shape[1] <= n_latents:
        return False
    from sklearn.decomposition import PCA  # here, as most fits are no pictures
    from sklearn.manifold import trustworthiness

    def trust(codes: Array) -> float:
        return float(trustworthiness(seen, codes, n_neighbors=NEIGHBOURS))

    codes = model.encode_mean(complete.x, None).double().cpu().numpy()
    if not np.isfinite(codes).all():
        return False
    return trust(codes) < trust(PCA(n_latents, random_state=0).fit_transform(seen)) - WORTH_A_WORD
