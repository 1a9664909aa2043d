"""Likelihoods with all spelt out that depends on the table, and as a user would write them."""

from __future__ import annotations

from functools import cache
from typing import Any

from sklearn.base import clone

from .._tables.schema import Schema
from ._base import Assigned, Likelihood
from ._mixed import Mixed
from ._names import LIKELIHOODS

__all__ = ["described", "fits_schema", "given_columns", "resolved"]


def resolved(assigned: list[Assigned], schema: Schema) -> Likelihood:
    """A likelihood with all that depends on the table spelt out: column numbers, and numbers of categories."""
    spelt: list[Assigned] = []
    for member, columns in assigned:
        own = sorted(schema.categories) if columns is None else columns
        sizes = schema.n_categories(own) if member.categories(len(own)) else None
        spelt.append((member.for_categories(sizes), columns))
    return spelt[0][0] if spelt[0][1] is None else Mixed(spelt)


def fits_schema(likelihood: Likelihood, n_categories: list[int]) -> bool:
    """Whether a resolved likelihood is one of columns with so many categories, 0 standing for numbers."""
    if not isinstance(likelihood, Likelihood):
        return False
    pairs = likelihood.assigned(len(n_categories))
    if sorted(column for _, own in pairs for column in own) != list(range(len(n_categories))):
        return False
    return all(
        isinstance(member, Likelihood)
        and (member.categories(len(own)) or [0] * len(own)) == [n_categories[column] for column in own]
        for member, own in pairs
    )


def given_columns(likelihood: Likelihood, n_columns: int) -> list[int]:
    """The columns that a resolved likelihood is given, in order."""
    return sorted(c for member, own in likelihood.assigned(n_columns) if member.is_given for c in own)


def described(likelihood: Likelihood, schema: Schema) -> Likelihood:
    """A resolved likelihood as a user would write it: members by name where that says all, columns by theirs."""
    names = schema.names
    if not isinstance(likelihood, Mixed):
        found = _written(likelihood, list(schema.categories), schema)
        return LIKELIHOODS[found]() if isinstance(found, str) else found
    members = likelihood.members
    return Mixed([(_written(m, own, schema), own if names is None else [names[c] for c in own]) for m, own in members])


def _written(member: Likelihood, columns: list[int], schema: Schema) -> Any:
    """A member's name, or the member itself where it is not what the name alone would give."""
    if member.categories(len(columns)):
        known = [schema.categories[column] for column in columns]
        if not all(values == list(range(len(values))) for values in known):
            member = member.for_categories(None)
    return _names().get(repr(member), clone(member))


@cache
def _names() -> dict[str, str]:
    """What each name stands for, as text, which takes as long to write as an epoch of a small table."""
    return {repr(family()): name for name, family in LIKELIHOODS.items()}
