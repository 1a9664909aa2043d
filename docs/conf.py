"""How sphinx makes the site of these pages. CONTRIBUTING.md has the command."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import skvae

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "https://github.com/skvae/skvae"

project = "skvae"
author = "the skvae developers"
project_copyright = f"2026, {author}"
version = release = skvae.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.linkcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples", "auto_examples/*.ipynb", "auto_examples/*.py"]
templates_path = ["_templates"]
# A single backtick in a docstring is code, as it is in Markdown.
default_role = "literal"
smartquotes = False  # quotation marks in types are Python's

# Pages in Markdown: they stay readable on their own, and docs/run_blocks.py runs their code.
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"  # what is printed is not to be copied

# The pages of classes and functions: docs/api.md lists them.
autosummary_generate = True
autodoc_typehints = "none"  # signatures show names and defaults; types stand in the text
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the template lists them
numpydoc_class_members_toctree = False
nitpicky = True
nitpick_ignore_regex = [
    # Other packages' names: their sites are not asked while this one is built.
    ("py:.*", r"(sklearn|torch|numpy|pandas|scipy|matplotlib|onnx|skops|collections)\..*"),
    ("py:obj", "module_"),  # a property among the attributes, which are no links
]

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_",
    "doc_module": ("skvae",),
    "backreferences_dir": "generated/backreferences",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "skvae"
html_static_path = ["_static"]
html_css_files = ["skvae.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "skvae"},
    "icon_links": [{"name": "Source", "url": SOURCE, "icon": "fa-brands fa-github"}],
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}
# Pages without others below them need no list of these.
ALONE = ("index", "start", "choose", "which", "relatives", "mathematics", "extend", "benchmarks", "design", "changes")
html_sidebars = {page: [] for page in ALONE}


@cache
def classes() -> dict[str, tuple[Path, int, int]]:
    """File and lines of every class: public ones say that they are of the package that exports them."""
    found = {}
    for path in sorted((ROOT / "skvae").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = path, node.lineno, node.end_lineno
    return found


def place(value: Any) -> tuple[Path, int, int] | None:
    """Where an object is written; None where it has no lines of its own, as an attribute."""
    if inspect.isclass(value):
        return classes().get(value.__name__)
    value = inspect.unwrap(value.fget if isinstance(value, property) else value)
    if not hasattr(value, "__code__"):
        return None
    lines, first = inspect.getsourcelines(value)
    return Path(value.__code__.co_filename), first, first + len(lines) - 1


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The address of an object's source."""
    value: Any = importlib.import_module(info["module"])
    for name in info["fullname"].split("."):
        value = getattr(value, name, None)
    found = place(value)
    if found is None or not found[0].is_relative_to(ROOT):
        return None
    path, first, last = found
    return f"{SOURCE}/blob/main/{path.relative_to(ROOT)}#L{first}-L{last}"


def is_skipped(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool:
    """Pages have the members that skvae describes, not those that every estimator or torch module has."""
    value = value.fget if isinstance(value, property) else value
    is_ours = (getattr(value, "__module__", None) or "skvae").startswith("skvae")
    return skip or not is_ours or name.startswith("_") or name.endswith("_request")


def escape(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Names of fitted attributes in running text and types, whose last underscore would be a link's."""
    lines[:] = [
        line if line.lstrip().startswith((">>>", "...")) else re.sub(r"(?<![\w`*:.~])(\w+)_(?=[\s,)])", r"\1\_", line)
        for line in lines
    ]


def link_outside(app: Any, docname: str, source: list[str]) -> None:
    """Make links to files beside docs/ links to the source, and those to the gallery's scripts links to their pages."""
    above = re.escape("../" * (1 + docname.count("/")))
    text = re.sub(rf"\]\({above}(?!\./|\.\./)", f"]({SOURCE}/blob/main/", source[0])
    text = re.sub(r"\]\(((?:\.\./)?)examples/\)", r"](\1auto_examples/index)", text)
    source[0] = re.sub(r"\]\(((?:\.\./)?)examples/(plot_\w+)\.py\)", r"](\1auto_examples/\2)", text)


def setup(app: Any) -> None:
    app.connect("autodoc-skip-member", is_skipped)
    app.connect("autodoc-process-docstring", escape, priority=900)  # after numpydoc's
    app.connect("source-read", link_outside)
