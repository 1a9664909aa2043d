"""Numbers and reasons as text."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["cell", "number", "reason"]

# Beyond so many standard deviations their number tells nothing more.
MOST_DEVIATIONS = 1000
# A category's share that is smaller is called so.
LEAST_SHARE = 0.001
# A share that is larger is called "more than 99 %".
MOST_SHARE = 0.99


def number(value: float, digits: int = 4, sign: str = "") -> str:
    """A number with `digits` significant digits, or as a whole number where that stays readable."""
    whole = 10.0**digits <= abs(value) < 1e9
    comma = "," if abs(value) >= 1e4 else ""
    text = f"{value:{sign}{comma}.0f}" if whole else f"{value:{sign}.{digits}g}"
    return text.replace("-", "\N{MINUS SIGN}")


def reason(
    name: str, value: Any, expected: Any, similar: Any, deviations: float, chances: tuple[float, float] | None
) -> str:
    """What speaks against a cell, or does not, in words.

    Parameters
    ----------
    name : str
        Of the column.
    value : object
        The cell; None where it is missing.
    expected : object
        What the row's other cells suggest; None where they suggest nothing.
    similar : object
        The most similar normal row's cell.
    deviations : float
        How many standard deviations a number is above that; NaN where there is no such number.
    chances : (float, float) or None
        How likely the cell's category, zero or one is given the others, and the one that is expected; None for numbers.
    """
    if value is None:
        return f"{name} is missing"
    if expected is None:
        return f"{name} is {cell(value)}; its other columns suggest nothing, so far out does the row lie"
    if chances is not None:
        own, most = map(_percent, chances)
        if value == expected:
            return f"{name} is {cell(value)}, as in {own} of rows like this"
        return f"{name} is {cell(value)} ({own} of rows like this), where rows like this have {cell(expected)} ({most})"
    if math.isnan(deviations):
        same = value == expected
        verb = "as rows like this have" if same else f"where rows like this have {cell(expected)}"
        return f"{name} is {cell(value)}, {verb}"
    if abs(deviations) < 1:
        beside = f"the most similar normal row has {cell(similar)}"
        return f"{name} is {cell(value)}, about what its other columns suggest ({cell(expected)}); {beside}"
    size = f"{abs(deviations):.1f}" if abs(deviations) < MOST_DEVIATIONS else f"more than {MOST_DEVIATIONS}"
    side = "above" if deviations > 0 else "below"
    normal = f"({cell(value)}; normal: {cell(expected)})"
    return f"{name} is {size} standard deviations {side} what its other columns suggest {normal}"


def cell(value: Any) -> str:
    """A cell: a number as `number` writes it, or a category."""
    return repr(value) if isinstance(value, (str, bool)) or not hasattr(value, "__float__") else number(float(value))


def _percent(share: float) -> str:
    if share < LEAST_SHARE:
        return f"less than {100 * LEAST_SHARE:g} %"
    if share > MOST_SHARE:
        return f"more than {100 * MOST_SHARE:g} %"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
