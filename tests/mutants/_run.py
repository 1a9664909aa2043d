"""Tests in a process of their own, on another copy of the package."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

__all__ = ["ENVIRONMENT", "tested"]

# As plain as can be: no plugin has a say in what runs.
OPTIONS = ["-q", "--tb=no", "--no-header", "-rfE"]
OPTIONS += [f"-p no:{name}" for name in ("cacheprovider", "randomly", "xdist")]
ENVIRONMENT = {"SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "1000", "PYTEST_ADDOPTS": ""}
# What tests import beside the package takes longer than most of them: it is loaded once, and forked from there.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch._dynamo", "sklearn.datasets", "scipy.stats", "pandas", "pytest"])


def tested(folder: Path, tests: list[str], *options: str, timeout: float) -> tuple[int | None, str]:
    """Tests run on the package in this folder: pytest's exit status, None where time ran out, and what it said."""
    run = SERVER.Process(target=_pytest, args=(folder, [*OPTIONS, *options, *(f"tests/{test}" for test in tests)]))
    run.start()
    run.join(timeout)
    if run.exitcode is None:
        run.kill()
        run.join()
        return None, ""
    return run.exitcode, (folder / "output").read_text()


def _pytest(folder: Path, arguments: list[str]) -> None:
    """All that the process does."""
    with (folder / "output").open("w") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = sys.path[0] = str(folder)  # of processes that tests start, and of this one
    import pytest

    sys.exit(int(pytest.main(arguments)))
