"""Columns' types by name: which numbers they hold, and numbers made into them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np

from .moments import Array

__all__ = [
    "NumberType",
    "in_type",
    "is_missing",
    "is_number",
    "kinds_of",
    "number_type",
    "object_type",
    "objects",
    "plain",
]

# How names begin that say "of this, kept otherwise": pyarrow's types, pandas' sparse ones, cells that are objects.
KEPT_OTHERWISE = re.compile(r"^(arrow |object of |sparse\[)")
LARGEST = np.finfo(np.float64).max


@dataclass(frozen=True)
class NumberType:
    """What numbers a type holds.

    Attributes
    ----------
    kind : str
        "bool", "int", "uint", "float", "decimal"; "" where the type is none of numbers.
    bits : int
        Of the numbers that have any; 0 for Python's.
    precision, digits : int
        Of decimals: how many digits in all (0: as many as it takes), and behind the point.
    """

    kind: str = ""
    bits: int = 0
    precision: int = 0
    digits: int = 0

    @property
    def whole(self) -> bool:
        """Whether these are whole numbers, or True and False."""
        return self.kind in ("bool", "int", "uint")


def number_type(name: str) -> NumberType:
    """What a type of this name holds: pandas', pyarrow's or polars' name, or that of `object_type`."""
    name = name.lower()
    rest = KEPT_OTHERWISE.sub("", name)
    word, bits, more = re.findall(r"^([a-z]*)(\d*)(.*)$", rest, re.DOTALL)[0]
    if word in ("bool", "boolean"):
        return NumberType("bool")
    if word in ("int", "uint"):
        return NumberType(word, int(bits or 0))
    if word == "decimal":
        precision, digits = [0, 0, *map(int, re.findall(r"\d+", more))][-2:]
        return NumberType(word, 0, precision, digits)
    if word in ("float", "double", "halffloat"):
        named = {"halffloat": 16, "double": 64, "float": 32 if name.startswith("arrow") else 64}
        return NumberType("float", int(bits or named[word]))
    return NumberType()


def object_type(cells: Any) -> str:
    """A name for what all cells of a column of objects are: of one kind of number, or of anything."""
    kept = [value for value in cells if not is_missing(value)]
    kinds = kinds_of(kept)
    if not kinds or not all(is_number(kind) for kind in kinds):
        return "object"
    if all(issubclass(kind, (bool, np.bool_)) for kind in kinds):
        return "object of bool"
    if any(issubclass(kind, (bool, np.bool_)) for kind in kinds):
        return "object of float"
    if all(issubclass(kind, Integral) for kind in kinds):
        return "object of int"
    if all(issubclass(kind, (Decimal, Integral)) for kind in kinds):
        exponents = [value.as_tuple().exponent for value in kept if isinstance(value, Decimal)]
        return f"object of decimal {max([0, *(-e for e in exponents if isinstance(e, int))])}"
    return "object of float"


def is_number(kind: type) -> bool:
    """Whether the values of a Python type are numbers, or True and False."""
    return issubclass(kind, (Real, Decimal, np.bool_))


def kinds_of(cells: Any) -> set[type]:
    """The Python types of some cells."""
    return set(map(type, cells.tolist() if isinstance(cells, np.ndarray) else cells))  # a list is walked through faster


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, NaT, pandas' NA."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ArithmeticError):  # pandas' NA is neither; a signalling NaN
        return True
    except ValueError:  # an array
        return False


def plain(value: Any) -> Any:
    """A value of Python's own types, where it has one."""
    if isinstance(value, np.generic):
        return value.item()
    if not is_number(type(value)) or isinstance(value, (bool, int, float)):
        return value
    return float("nan") if is_missing(value) else float(value)  # fractions, decimals and others of their kind


def in_type(values: Array, name: str) -> np.ndarray:
    """Numbers in the type of this name: rounded where it has whole numbers, those beyond its limits at them."""
    kind = number_type(name)
    values = np.asarray(values, dtype=np.float64)
    if kind.kind == "bool":
        return np.rint(values.clip(0, 1)).astype(bool)
    if kind.whole:
        return _whole(np.rint(values), kind)
    if kind.kind == "decimal":
        return _decimals(values, kind)
    if kind.kind == "float" and kind.bits < 64:
        most = float(np.finfo(f"float{kind.bits}").max)
        return np.where(np.isinf(values), values, values.clip(-most, most)).astype(f"float{kind.bits}")
    return values


def _whole(values: Array, kind: NumberType) -> np.ndarray:
    if not kind.bits:  # Python's integers have no limits
        return objects([int(value) for value in values.clip(-LARGEST, LARGEST)])
    low, high = (0, 2**kind.bits - 1) if kind.kind == "uint" else (-(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1)
    if kind.bits > 64:
        return objects([min(max(int(value), low), high) for value in values.clip(-LARGEST, LARGEST)])
    # The limits of 64 bits are no numbers in float64.
    below = float(high) if int(float(high)) == high else float(np.nextafter(float(high), 0.0))
    found = values.clip(float(low), below).astype(f"{kind.kind}{kind.bits}")
    found[values > below] = high
    return found


def _decimals(values: Array, kind: NumberType) -> np.ndarray:
    found = [Decimal(f"{value:.{kind.digits}f}") for value in values.clip(-LARGEST, LARGEST)]
    if kind.precision:
        # Written out and negated as it is: arithmetic would round to 28 digits.
        most = Decimal(f"{10**kind.precision - 1}E-{kind.digits}")
        found = [min(max(value, most.copy_negate()), most) for value in found]
    return objects(found)


def objects(values: Any) -> np.ndarray:
    """A column of objects, each of which may be anything."""
    return np.fromiter(values, dtype=object, count=len(values))
