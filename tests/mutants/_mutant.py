"""One deliberate fault, and the test that ought to see it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["PACKAGE", "TESTS", "Mutant"]

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = TESTS.parent / "skvae"


class Mutant(NamedTuple):
    """A fault in words, and how to make it.

    Attributes
    ----------
    name : str
        What is wrong with the package then.
    file : str
        Which of its files is changed.
    old, new : str
        The text that is replaced, which stands there once, and what takes its place.
    tests : str
        Files of tests, or single tests, that ought to fail: `test_x.py` or `test_x.py::test_y`, with spaces between.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str

    def source(self, package: Path = PACKAGE) -> str:
        """The file's text with the fault in it."""
        text = (package / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name!r}: its text stands {text.count(self.old)} times in {self.file}.")
        return text.replace(self.old, self.new)
