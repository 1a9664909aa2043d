"""Columns that may have been meant to be something else, or to be left out: warnings that name them."""

from __future__ import annotations

from numbers import Real
from typing import Any

from .._ranks import warn_user

__all__ = ["warn_of_categories", "warn_of_constants"]

# A column of more categories than this, and of less than two rows to each, is an id.
ID_CATEGORIES, ROWS_OF_A_CATEGORY = 20, 2
# So many whole numbers, as strings too, may be codes of categories; more, and numbers with a fraction, are amounts.
CODES = 10
# How many columns a warning names.
NAMED_COLUMNS = 5
# Strings among numbers are taken for marks of missing cells where they are at most this share of the different values.
MARKS = 0.1


def warn_of_categories(label: str, values: list[Any], n_rows: int, declared: bool) -> None:
    """Warn where the different values of a column, taken for categories, look like numbers, an id, or a constant.

    Parameters
    ----------
    label : str
        How the column is called.
    values : list
        Its different values.
    n_rows : int
        How many rows it has.
    declared : bool
        Whether its type says that these are categories, whatever they look like.
    """
    doubt = (None if declared else _of_numbers(values)) or _of_rows(values, n_rows)
    if doubt is not None:
        warn_user(f"{label} {doubt}")


def warn_of_constants(labels: list[str]) -> None:
    """Warn once of all columns that hold one number, by how they are called."""
    if not labels:
        return
    named = ", ".join(labels[:NAMED_COLUMNS])
    if len(labels) > NAMED_COLUMNS:
        named += f" and {len(labels) - NAMED_COLUMNS} more"
    one = len(labels) == 1
    said = "holds one value alone, which tells" if one else "hold one value each, which tell"
    warn_user(f"{named} {said} nothing of a row; drop {'it' if one else 'them'}.")


def _of_numbers(values: list[Any]) -> str | None:
    """What is wrong with categories that look like numbers, and what to do; None if they do not."""
    marks = [value for value in values if _number(value) is None]
    amounts = [value for value in values if _number(value) is not None]
    graded = sum(_number(value) % 1 != 0 for value in amounts)  # type: ignore[operator]
    strings = [value for value in amounts if isinstance(value, str)]
    if graded <= CODES and not (len(amounts) > CODES and (strings or marks)):
        return None
    taken = f"so each of its {len(values)} different values is a category"
    if marks:
        mend = "make numbers of the others and NaN of such cells (pandas.to_numeric with errors='coerce')."
        few = len(marks) <= max(1, MARKS * len(amounts))
        return f"holds numbers but for {marks[0]!r}, {taken}; {mend}" if few else None
    if strings:
        return f"holds numbers as strings, such as {strings[0]!r}, {taken}; make numbers of them (pandas.to_numeric)."
    return f"holds real numbers, {taken}; take likelihood='gaussian' or 'auto' for it."


def _of_rows(values: list[Any], n_rows: int) -> str | None:
    """What is wrong with categories that tell nothing of other rows, and what to do; None if they do."""
    if len(values) > max(ID_CATEGORIES, n_rows / ROWS_OF_A_CATEGORY):
        return (
            f"holds {len(values)} different values in {n_rows} rows. Categories with a row or two each, as those of "
            "an id, tell nothing of other rows and make a wide, slow network; drop the column, or group its values."
        )
    if len(values) == 1 < n_rows:
        return f"holds {values[0]!r} alone, which tells nothing of a row; drop the column."
    return None


def _number(value: Any) -> float | None:
    """The number that a value is, or spells."""
    if not isinstance(value, (str, Real)):
        return None
    try:
        return float(value)
    except ValueError:
        return None
