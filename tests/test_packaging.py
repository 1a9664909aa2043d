"""What is said of versions in several places is one thing."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from skvae import __version__

ROOT = Path(__file__).resolve().parent.parent
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
needed = pytest.mark.parametrize("dependency", DEPENDENCIES)


def lower_bound(dependency):
    (bound,) = Requirement(dependency).specifier
    assert bound.operator == ">="
    return Requirement(dependency).name, Version(bound.version)


@needed
def test_the_oldest_versions_that_are_tested_are_those_allowed(dependency):
    name, oldest = lower_bound(dependency)
    pins = dict(line.split("==") for line in (ROOT / ".ci/oldest.txt").read_text().splitlines() if "==" in line)
    assert Version(pins[name]) == oldest


@needed
def test_the_conda_recipe_asks_for_the_same(dependency):
    name, oldest = lower_bound(dependency)
    recipe = (ROOT / ".github/conda/recipe.yaml").read_text()
    asked = re.findall(rf"^ +- {'pytorch' if name == 'torch' else name} >=(\S+)$", recipe, re.MULTILINE)
    assert [Version(version) for version in asked] == [oldest]


@pytest.mark.parametrize("file", ["CITATION.cff", ".github/conda/recipe.yaml"])
def test_the_version_is_named_alike(file):
    assert re.findall(r"^ *version: (\d.*)$", (ROOT / file).read_text(), re.MULTILINE) == [__version__]
