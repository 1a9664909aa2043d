"""The list of mutants does not rot: each can still be made, and names tests that are there. `mutants` runs them."""

from __future__ import annotations

import ast
import re
from collections import Counter

import pytest
from mutants import MUTANTS, Mutant
from mutants import __main__ as runner
from mutants._mutant import PACKAGE, TESTS

every_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


def test_there_are_mutants_and_no_two_have_one_name():
    assert len(MUTANTS) >= 60
    assert not [name for name, times in Counter(mutant.name for mutant in MUTANTS).items() if times > 1]


@every_mutant
def test_a_mutant_is_another_program(mutant):
    """Its text stands in its file exactly once, and what takes the place compiles to something else."""
    whole, broken = (PACKAGE / mutant.file).read_text(), mutant.source()
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(whole))
    compile(broken, mutant.file, "exec")


@every_mutant
def test_a_mutants_tests_are_there(mutant):
    assert mutant.tests
    for test in mutant.tests.split():
        file, _, name = test.partition("::")
        assert re.search(rf"^ *(?:def|class) {name or 'test_'}", (TESTS / file).read_text(), re.MULTILINE)


def test_a_text_that_is_not_there_once_is_refused():
    for old in ("this stands nowhere", "log_normal"):
        with pytest.raises(ValueError, match="its text stands"):
            Mutant("unknown", "_math.py", old, "x", "test_data.py").source()


def test_a_fault_that_no_test_sees_is_a_survivor(monkeypatch, capsys):
    """Neither is one caught by a test that fails without it; a test that cannot be run says nothing."""
    seen = "FAILED tests/test_data.py::test_x[a - b] - assert 1 == 2"
    answers = {
        "seen": (1, seen),
        "unseen": (0, "3 passed"),
        "seen by a broken test": (1, "FAILED tests/test_data.py::test_broken"),
        "no package any more": (2, "ERROR tests/test_data.py\nInterrupted: 1 error"),
        "whole": (1, "FAILED tests/test_data.py::test_broken - assert 0"),
    }

    def tested(folder, tests, *options, timeout):
        name = folder.name.replace("-", " ")
        return answers[name][0], answers[name][1] + "\n"

    monkeypatch.setattr(runner, "tested", tested)
    monkeypatch.setattr(runner, "ENVIRONMENT", {})
    names = [name for name in answers if name != "whole"]
    faults = [Mutant(name, "_math.py", "math.log(2", "math.log(3", "test_data.py") for name in names]
    monkeypatch.setattr(runner, "MUTANTS", faults)
    assert runner.main(["--jobs", "1", "seen"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("caught    seen: test_data.py::test_x[a - b] (")
    assert lines[1].startswith("survived  unseen (")
    assert lines[3:] == ["test_data.py::test_broken fails without a mutant, too", "caught 1 of 3"]
    assert runner.main(["--jobs", "1", "no package"]) == 1
    assert capsys.readouterr().out.startswith("broken    no package any more: Interrupted: 1 error (")
    answers["whole"] = (0, "1 passed")
    monkeypatch.setattr(runner, "MUTANTS", faults[:1])
    assert runner.main(["--jobs", "1"]) == 0
