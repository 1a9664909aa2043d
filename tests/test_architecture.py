"""The house keeps its plan: imports point down, files and functions are short, and a member is known in its family."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

import skvae
from skvae import VAEAnomalyDetector, VAETransformer
from skvae.likelihoods import LIKELIHOODS
from skvae.networks import ACTIVATIONS
from skvae.objectives import OBJECTIVES
from skvae.priors import PRIORS

PACKAGE = Path(skvae.__file__).parent
DOCS = PACKAGE.parent / "docs"
FAMILIES = ("likelihoods", "objectives", "priors", "networks")
RELATIVES = ("objectives", "priors", "networks")  # families whose members nobody chooses for the user
REGISTRIES = {"likelihood": LIKELIHOODS, "objective": OBJECTIVES, "prior": PRIORS, "activation": ACTIVATIONS}
MAX_LINES, MAX_BODY = 500, 40

# Members named outside their family: the network that `hidden_layer_sizes` and `activation` describe; the prior that
# the detector's default criterion, and `sample`, make of training rows, which is no parameter.
OF_ROWS = ("_inference.criteria", "_normality", "_codes")
DEFAULTS = {"_settings: MLP", *(f"{module}: AggregatedPosterior" for module in OF_ROWS)}


def module_of(path: Path) -> str:
    """Its name without the package's: "_tables.reader"; a package's own for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = [name for name in FILES if name]  # all but the package's own __init__
each_module = pytest.mark.parametrize("module", MODULES)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


def room_of(module: str) -> str:
    """The file or folder of the package that holds a module."""
    return module.split(".")[0]


@cache
def rooms() -> list[str]:
    """The rooms in the order of docs/design.md, from the ground up."""
    section = (DOCS / "design.md").read_text().split("\n## Rooms, and who may import whom\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [name.removesuffix(".py").removesuffix("/") for cell in cells for name in re.findall(r"`(.+?)`", cell)]


@cache
def imported(module: str) -> dict[str, set[str]]:
    """The modules of skvae that a module imports from, anywhere in it, and the names it takes."""
    here = ["skvae", *FILES[module].relative_to(PACKAGE).parts[:-1]]
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            sources = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            sources = [(source, alias.name) for alias in node.names]
        else:
            continue
        for source, name in sources:
            if source.split(".")[0] != "skvae":
                continue
            source = source.removeprefix("skvae").removeprefix(".")
            inner = f"{source}.{name}".removeprefix(".")
            found.setdefault(inner if inner in FILES else source, set()).add(name)
    return found


# Who may import whom


def test_the_plan_names_every_room_once():
    assert sorted(rooms()) == sorted({room_of(module) for module in MODULES})


@each_module
def test_imports_point_down(module):
    for other in imported(module):
        assert other, f"skvae.{module} imports from skvae itself, which is above all"
        own, theirs = room_of(module), room_of(other)
        if own != theirs:
            below = rooms().index(theirs) < rooms().index(own)
            assert below, f"skvae.{module} imports skvae.{other}, which docs/design.md puts above it"


def test_the_files_of_a_room_import_each_other_in_one_direction():
    finished: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        assert module not in way, f"a circle of imports: {' > '.join([*way, module])}"
        if module not in finished:
            for other in imported(module):
                if other != module and room_of(other) == room_of(module):
                    visit(other, [*way, module])
            finished.add(module)

    for module in MODULES:
        visit(module, [])


@each_module
def test_a_private_file_of_a_family_is_read_through_the_family(module):
    private = [other for other in imported(module) if re.match(rf"({'|'.join(FAMILIES)})\._", other)]
    outside = [other for other in private if room_of(other) != room_of(module)]
    assert not outside, f"import from the package, not from {outside}"


# Lengths


@pytest.mark.parametrize("module", FILES)
def test_files_are_short(module):
    assert len(FILES[module].read_text().splitlines()) <= MAX_LINES


def functions(module: str) -> dict[str, int]:
    """The lines of every function's body, its docstring left out."""
    found = {}

    def visit(node: ast.AST, way: str) -> None:
        for child in ast.iter_child_nodes(node):
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            name = f"{way}.{child.name}" if is_function or isinstance(child, ast.ClassDef) else way
            if is_function:
                body = child.body if ast.get_docstring(child) is None else child.body[1:]
                found[name] = child.end_lineno - body[0].lineno + 1 if body else 0
            visit(child, name)

    visit(tree(module), module)
    return found


@each_module
def test_functions_are_short(module):
    assert not {name: lines for name, lines in functions(module).items() if lines > MAX_BODY}


# A member is known in its family only


@cache
def members() -> dict[str, str]:
    """The family of every class that is no base: all but those of a family's _base.py."""
    files = [m for m in MODULES if room_of(m) in FAMILIES and not m.endswith("._base")]
    return {n.name: room_of(m) for m in files for n in tree(m).body if isinstance(n, ast.ClassDef)}


def named_elsewhere() -> set[str]:
    """Every use of a member outside its family: imported, or as the family's attribute."""
    found = set()
    for module in MODULES:
        uses = {(room_of(other), name) for other, names in imported(module).items() for name in names}
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                uses.add((node.value.id, node.attr))
        found |= {f"{module}: {name}" for family, name in uses if members().get(name) == family != room_of(module)}
    return found - DEFAULTS


def test_members_are_named_in_their_family_only():
    assert {"ELBO", "Gaussian", "Categorical", "StandardNormal", "MixturePrior", "MLP"} <= set(members())
    assert not named_elsewhere()


@cache
def defaults_in(module: str) -> set[int]:
    """The nodes that are defaults of parameters."""
    functions = [n for n in ast.walk(tree(module)) if isinstance(n, ast.FunctionDef)]
    return {id(node) for f in functions for node in [*f.args.defaults, *f.args.kw_defaults]}


# Words that are a member's name, too: a criterion, how scores are spread, a type of pandas', and a function.
OTHER_WORDS = {"_tables.containers: Sparse", "_inference.criteria: elbo", "plotting._anomaly_scores: normal"}
OTHER_WORDS |= {"_inference.scores: completed", "_conditions: completed"}


def test_no_text_outside_a_family_is_the_name_of_an_objective_a_prior_or_a_network():
    """But defaults of parameters: a name that is compared with, or looked up, is a case of its own for that member."""
    names = {*OBJECTIVES, *PRIORS, *(name for name, family in members().items() if family in RELATIVES)}
    found = set()
    for module in MODULES:
        if room_of(module) in FAMILIES:
            continue
        texts = [n for n in ast.walk(tree(module)) if isinstance(n, ast.Constant) and id(n) not in defaults_in(module)]
        found |= {f"{module}: {n.value}" for n in texts if isinstance(n.value, str) and n.value in names}
    assert found - OTHER_WORDS == set()


def others_named(module: str) -> set[str]:
    """Members of its own family that a member's file names, beyond those that its classes derive from."""
    others = public_members(room_of(module)) - {n.name for n in tree(module).body if isinstance(n, ast.ClassDef)}
    bases = {b.id for n in ast.walk(tree(module)) if isinstance(n, ast.ClassDef) for b in n.bases if hasattr(b, "id")}
    names = {n.id for n in ast.walk(tree(module)) if isinstance(n, ast.Name)}
    texts = {n.value for n in ast.walk(tree(module)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return (names | texts) & others - bases


@cache
def public_members(family: str) -> set[str]:
    """The members that a family exports."""
    return {name for name in importlib.import_module(f"skvae.{family}").__all__ if members().get(name) == family}


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) in RELATIVES and "._" in m])
def test_a_members_file_names_no_other_member_than_its_base(module):
    assert others_named(module) == set()


# Adding a member touches one file and its dict


@pytest.mark.parametrize("parameter", REGISTRIES)
@pytest.mark.parametrize("estimator", [VAETransformer, VAEAnomalyDetector])
def test_the_parameters_rule_reads_the_dict(estimator, parameter):
    rules = [rule for rule in estimator._parameter_constraints[parameter] if hasattr(rule, "options")]
    assert [rule.options for rule in rules] == [set(REGISTRIES[parameter])]


@pytest.mark.parametrize("parameter", REGISTRIES)
def test_no_other_file_lists_the_names(parameter):
    """A literal that holds several of the names is a second list, which a new member would have to join."""
    names = set(REGISTRIES[parameter])
    for module in MODULES:
        if room_of(module) in FAMILIES:
            continue
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Dict | ast.Set | ast.List | ast.Tuple):
                held = node.keys if isinstance(node, ast.Dict) else node.elts
                listed = {item.value for item in held if isinstance(item, ast.Constant)} & names
                assert len(listed) < 2, f"skvae.{module}, line {node.lineno} lists {sorted(listed)}"


@pytest.mark.parametrize(("parameter", "name"), [(p, n) for p, names in REGISTRIES.items() for n in names])
def test_the_documentation_names_every_member(parameter, name):
    assert f'"{name}"' in (DOCS / "api.md").read_text()
