"""Labels of any kind as numbers of classes, NaN where a row's class is unknown."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d

from ._ranks import gathered

__all__ = ["Chunk", "Labels"]


class Chunk(NamedTuple):
    """The y of a call, the classes that are known from earlier ones, those that the call names, and if it has to."""

    labels: Any
    known: np.ndarray | None = None
    classes: Any = None
    names_classes: bool = False


@dataclass(frozen=True)
class Labels:
    """Labels as they were given.

    Attributes
    ----------
    values : ndarray of shape (N,)
    known : ndarray of bool of shape (N,)
        Which rows have one.
    """

    values: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, y: Any, unlabeled: Any) -> Labels:
        """Labels, of which None and NaN, and `unlabeled`, say that a row has none."""
        if y is None:
            raise ValueError("VAEClassifier requires y to be passed, but the target y is None.")
        # Of words beside numbers numpy would make words.
        values = column_or_1d(np.array(y, dtype=object) if isinstance(y, list | tuple) else y, warn=True)
        if values.dtype.kind in "US" and not isinstance(unlabeled, str) and (values == str(unlabeled)).any():
            raise ValueError(
                f"y holds the text {str(unlabeled)!r}, as numpy makes of unlabeled={unlabeled!r} among strings. Give "
                "y as an array of dtype object, or None for rows without a label."
            )
        if values.dtype.kind == "O":
            known = np.array([not _is_missing(value) and value != unlabeled for value in values], dtype=bool)
        else:
            known = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), dtype=bool)
            if (values.dtype.kind in "US") == isinstance(unlabeled, str) and unlabeled is not None:
                known &= np.asarray(values != unlabeled)
        labels = cls(values, known)
        if values.dtype.kind == "f" and np.isinf(values[known]).any():
            raise ValueError("y holds infinity; labels are classes, and NaN stands for a row without one.")
        # Not by check_classification_targets, to which few labels of many classes look like numbers to predict.
        if known.any() and (kind := type_of_target(_sorted(labels._plain(known)))) not in ("binary", "multiclass"):
            raise ValueError(f"Unknown label type: {kind}. y holds numbers that are no classes; classes are whole.")
        return labels

    def classes(self, rows: np.ndarray | None) -> np.ndarray:
        """The classes of these rows (None: of all), sorted; ValueError where there are fewer than two."""
        known = self.known if rows is None else self.known & rows
        plain = [labels for labels in gathered(_sorted(self._plain(known))) if len(labels)]
        if not plain:
            raise ValueError(
                "y labels no row. VAEClassifier needs labels of at least 2 classes; without any, use VAETransformer."
            )
        classes = _sorted(np.concatenate(plain))
        if len(classes) < 2:
            raise ValueError(
                f"VAEClassifier needs labels of at least 2 classes; there is only 1 class, {classes.tolist()[0]!r}."
            )
        return classes

    def numbers(self, classes: np.ndarray) -> np.ndarray:
        """Each row's class as a number, (N,), NaN where unknown; ValueError for a label that is none of these."""
        found, values = np.full(len(self.values), np.nan), self._plain(self.known)
        try:
            places = np.searchsorted(classes, values).clip(max=len(classes) - 1)
            new = np.asarray(classes[places] != values)
        except TypeError:  # labels of another kind have no place among these
            places = np.zeros(len(values), dtype=int)
            new = np.array([value not in classes.tolist() for value in values])
        if new.any():
            raise ValueError(
                f"y holds the label {values[new][:1].tolist()[0]!r}, which is none of the classes {classes.tolist()}. "
                "A new class needs a new fit; partial_fit takes all classes in its first call."
            )
        found[self.known] = places
        return found

    def _plain(self, known: np.ndarray) -> np.ndarray:
        """The labels of these rows: numbers as such, whatever else the array held."""
        values = self.values[known]
        if values.dtype.kind == "O" and all(isinstance(value, Real | np.number | np.bool_) for value in values):
            return np.array(values.tolist())
        return values


def _sorted(values: np.ndarray) -> np.ndarray:
    """The distinct labels, sorted; ValueError where they are of kinds that have no order."""
    try:
        return np.unique(values)
    except TypeError as error:
        kinds = sorted({type(value).__name__ for value in values})
        raise ValueError(f"Labels must be of one kind; y holds {' and '.join(kinds)}.") from error


def _is_missing(value: Any) -> bool:
    """Whether a label is None, NaN or pandas' NA."""
    is_nan = isinstance(value, float | np.floating) and np.isnan(value)
    return value is None or is_nan or type(value).__name__ == "NAType"
