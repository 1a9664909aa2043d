"""Does the suite notice? Every mutant's tests are run against a copy of the package that holds its fault.

python -m tests.mutants            all of them
python -m tests.mutants KL race    those with "KL" or "race" in their names

The exit status is 1 where a mutant survives: a test is missing then.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from . import MUTANTS, Mutant
from ._mutant import PACKAGE, TESTS
from ._run import ENVIRONMENT, tested

FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?(?:\[.*?\](?= - |$))?)(?: - .*)?$", re.MULTILINE)


class Outcome(NamedTuple):
    """What became of a mutant: `test` is the first that failed."""

    mutant: Mutant
    verdict: str
    test: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        found = f": {self.test}" if self.test else ""
        return f"{self.verdict:<9} {self.mutant.name}{found} ({self.seconds:.0f} s)"


def copied(folder: Path) -> Path:
    """A copy of the package and its tests in a new folder."""
    for source in (PACKAGE, TESTS):
        shutil.copytree(source, folder / source.name)
    shutil.copy(PACKAGE.parent / "pyproject.toml", folder)
    return folder


def judged(mutant: Mutant, folder: Path, timeout: float) -> Outcome:
    """Run a mutant's tests."""
    began, home = time.perf_counter(), copied(folder / re.sub(r"\W+", "-", mutant.name))
    (home / "skvae" / mutant.file).write_text(mutant.source())
    status, output = tested(home, mutant.tests.split(), "-x", timeout=timeout)
    shutil.rmtree(home, ignore_errors=True)
    outcome = partial(Outcome, mutant, seconds=time.perf_counter() - began)
    if status is None:
        return outcome("caught", f"out of time after {timeout:.0f} s")
    if status == 0:
        return outcome("survived")
    if status == 1 and (found := FAILED.search(output)):
        return outcome("caught", found[1].removeprefix("tests/"))
    return outcome("broken", output.strip().splitlines()[-1])


def failing_anyway(outcomes: list[Outcome], folder: Path, timeout: float) -> set[str]:
    """Of the tests that caught a mutant, those that fail without one, too: they have caught nothing."""
    tests = sorted({outcome.test for outcome in outcomes if "::" in outcome.test})
    if not tests:
        return set()
    status, output = tested(copied(folder / "whole"), tests, timeout=timeout)
    if status not in (0, 1):
        raise RuntimeError(f"The tests that caught mutants cannot be run on the package itself:\n{output}")
    return {test.removeprefix("tests/") for test in FAILED.findall(output)}


def main(arguments: list[str] | None = None) -> int:
    """Run the mutants whose names are asked for; 0 where all of them are caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of the mutants' names; all are run by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many to run at once")
    parser.add_argument("--timeout", type=float, default=600, help="seconds that one may take")
    asked = parser.parse_args(arguments)
    os.environ.update(ENVIRONMENT)
    chosen = [m for m in MUTANTS if not asked.names or any(name in m.name for name in asked.names)]
    with TemporaryDirectory() as made:
        folder, outcomes = Path(made), []
        with ThreadPoolExecutor(asked.jobs) as pool:
            for outcome in pool.map(partial(judged, folder=folder, timeout=asked.timeout), chosen):
                outcomes.append(outcome)
                print(outcome, flush=True)
        anyway = failing_anyway(outcomes, folder, asked.timeout)
    for test in sorted(anyway):
        print(f"{test} fails without a mutant, too")
    caught = [outcome for outcome in outcomes if outcome.verdict == "caught" and outcome.test not in anyway]
    print(f"caught {len(caught)} of {len(chosen)}")
    return int(not chosen or len(caught) < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
