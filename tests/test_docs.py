"""Documents name what there is, and docs/extend.md adds a member of each family in one short block."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

import skvae

ROOT = Path(skvae.__file__).parents[1]
EXTEND = ROOT / "docs" / "extend.md"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / ".github" / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("plot_*.py"))
PUBLIC = {"skvae", *(f"skvae.{family}" for family in ("likelihoods", "objectives", "priors", "networks"))}
# What a user derives from to add a member, by the heading under which docs/extend.md does so.
BASES = {
    "A likelihood": {"Standardised", "LikelihoodModule"},
    "An objective": {"OnePass"},
    "A prior": {"PriorSpec", "Prior"},
    "A network": {"Network"},
}


@cache
def blocks(heading: str | None = None) -> list[str]:
    """The Python blocks under a heading, or all of them."""
    text = EXTEND.read_text()
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def derived_from(block: str) -> set[str]:
    """The classes that a block's classes derive from."""
    classes = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ClassDef)]
    return {ast.unparse(base) for node in classes for base in node.bases}


@pytest.mark.parametrize("heading", BASES)
def test_a_member_fits_in_one_block_of_40_lines(heading):
    whole = [block for block in blocks(heading) if derived_from(block) >= BASES[heading]]
    assert whole
    assert min(len([line for line in block.splitlines() if line.strip()]) for block in whole) <= 40


def test_extensions_import_from_public_places_only():
    modules = set()
    for block in blocks():
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
    ours = {name for name in modules if name.split(".")[0] == "skvae"}
    assert ours == PUBLIC


def test_lines_are_no_longer_than_120_columns():
    lines = EXTEND.read_text().splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_names_exist(path):
    """Whatever a document calls `skvae.something`."""
    for name in re.findall(r"`skvae\.([\w.]+)", path.read_text()):
        value, parts = skvae, name.split(".")
        for i, part in enumerate(parts):
            if not hasattr(value, part):
                importlib.import_module(f"skvae.{'.'.join(parts[: i + 1])}")
            value = getattr(value, part)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documented_files_exist(path):
    """Paths in backticks and targets of links; one with a <placeholder> stands for many."""
    text = path.read_text()
    named = re.findall(r"`((?:skvae|tests|docs|benchmarks)/[^`\s<>*]+)`", text)
    linked = [path.parent / link for link in re.findall(r"\]\((?!http|#)([^)#]+)", text)]
    assert not [str(file) for file in [*(ROOT / name for name in named), *linked] if not file.exists()]


MARK = re.compile(r"^<!-- (.+) table: python (benchmarks/\w+\.py)[^>]* -->$", re.MULTILINE)
TABLES = [
    mark
    for name in ("docs/benchmarks.md", "docs/relatives.md", "docs/guide/plan.md", "README.md")
    for mark in MARK.findall((ROOT / name).read_text())
]


@pytest.mark.parametrize(("name", "script"), TABLES)
def test_a_measured_table_is_written_by_its_command(name, script):
    source = (ROOT / script).read_text()
    assert f'rewrite(args.docs, "{name}", COMMAND' in source
    assert f'COMMAND = "python {script}"' in source


def test_the_readme_is_one_screen():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_ci_finds_the_readmes_two_commands_among_its_first_lines():
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:8])
    patterns = re.findall(r"readme_command '(.+?)'", (ROOT / ".ci" / "run").read_text())
    assert len(patterns) == 2
    assert all(re.search(f"^{pattern}", first, re.MULTILINE) for pattern in patterns)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_a_title_text_and_a_picture(path):
    source = path.read_text()
    title, line, gap, *text = ast.get_docstring(ast.parse(source)).splitlines()
    assert set(line) == {"="}
    assert len(line) == len(title)
    assert not gap
    assert len(" ".join(text)) > 100
    assert title.endswith("?")
    assert source.count("\n# %%\n") >= 2
    assert source.endswith("\nplt.show()\n")


def test_examples_are_at_least_fourteen_and_a_page_of_the_guide_leads_to_each():
    assert len(EXAMPLES) >= 14
    guide = "".join(path.read_text() for path in (ROOT / "docs" / "guide").glob("*.md"))
    assert not [path.name for path in EXAMPLES if f"(../examples/{path.name})" not in guide]
