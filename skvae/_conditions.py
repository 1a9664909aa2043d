"""Cells of the columns that a model is given: as rows to decode for, and those of training rows where none are said."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ._saved import is_finite_array
from ._tables.moments import Array
from .likelihoods import given_columns

__all__ = ["completed", "fault", "rows_of"]


def rows_of(cells: Array, columns: np.ndarray) -> Array:
    """Given cells (N, G) as rows (N, D), NaN elsewhere; `columns` (D,) says which are given."""
    rows = np.full((len(cells), len(columns)), np.nan)
    rows[:, columns] = cells
    return rows


def completed(
    cells: Array, n_times: int, known: Array, weight: np.ndarray, exact: np.ndarray, rng: torch.Generator
) -> Array:
    """Given cells (N, G) so many times each, with gaps filled from known rows of such cells, (M, G).

    At random by their weights, from those that agree in the other cells that are `exact`, (G,), as categories are, if
    there are any.
    """
    parts = []
    for own in cells:
        gaps = np.isnan(own)
        alike = ~gaps & exact
        same = (known[:, alike] == own[alike]).all(axis=1)
        chances = torch.tensor(weight * (same if same.any() else 1.0), dtype=torch.float64, device=rng.device)
        chosen = torch.multinomial(chances, n_times, replacement=True, generator=rng).cpu().numpy()
        parts.append(np.where(gaps, known[chosen], own))
    return np.concatenate(parts)


def fault(state: dict[str, Any]) -> str | None:
    """What is wrong with the given cells beside the codes that a saved state keeps, in words; None if nothing is."""
    codes, columns = state.get("_codes"), given_columns(state["_specs"]["likelihood"], state["n_features_in_"])
    cells: Any = None if codes is None else codes.get("given")
    if codes is None or (cells is None and not columns):
        return None
    if not is_finite_array(cells) or cells.shape != (len(codes["mean"]), len(columns)):
        return f"_codes hold no cells of the {len(columns)} columns that its likelihood is given"
    sizes = [len(state["_columns"]["categories"].get(column, ())) for column in columns]
    odd = [n and not np.isin(values, range(n)).all() for values, n in zip(cells.T, sizes, strict=True)]
    return "_codes hold cells that no column can hold" if any(odd) else None
