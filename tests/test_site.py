"""The site has a page for every public name, and what leads to pages and to sources leads there."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
import tomllib
from pathlib import Path

import pytest

import skvae
from skvae import _hints

ROOT = Path(skvae.__file__).parents[1]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
MODULES = [
    skvae,
    *(
        importlib.import_module(f"skvae.{name}")
        for name in (
            "export",
            "likelihoods",
            "metrics",
            "networks",
            "objectives",
            "plotting",
            "pooling",
            "priors",
        )
    ),
]
# Exported for other rooms of skvae, and of no use without them; and what is no class or function.
INTERNAL = {
    "skvae.likelihoods": {
        "LIKELIHOODS",
        "NLLGradient",
        "baseline",
        "baseline_samples",
        "column_sums",
        "covariance",
        "described",
        "fits_schema",
        "given_columns",
        "linear_model",
        "max_latents",
        "resolved",
        "start_linear",
    },
    "skvae.networks": {"ACTIVATIONS"},
    "skvae.objectives": {"OBJECTIVES"},
    "skvae.priors": {"PRIORS"},
}


def listed():
    """The full names in the tables of docs/api.md, of which sphinx makes a page each: generated/<name>.html."""
    names = []
    for table in re.findall(r"^```\{eval-rst\}\n(.*?)^```$", (ROOT / "docs" / "api.md").read_text(), re.M | re.S):
        assert ":toctree: generated\n" in table
        module = re.search(r"currentmodule:: (\S+)", table)[1]
        names += [f"{module}.{name}" for name in re.findall(r"^   ([\w.]+)$", table, re.M)]
    return names


PAGES = listed()


def resolve(name):
    """The object of a full name."""
    value = skvae
    for part in name.split(".")[1:]:
        value = getattr(value, part) if hasattr(value, part) else importlib.import_module(f"skvae.{part}")
    return value


def test_no_page_is_made_twice():
    assert len(PAGES) == len(set(PAGES))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_has_a_page(module):
    shown = [resolve(page) for page in PAGES]
    public = set(module.__all__) - INTERNAL.get(module.__name__, set())
    assert not {name for name in public if not any(getattr(module, name) is value for value in shown)}


def test_names_without_a_page_exist():
    assert all(hasattr(importlib.import_module(module), name) for module, names in INTERNAL.items() for name in names)


@pytest.fixture
def site(monkeypatch):
    """The address that an installed package's metadata would tell."""
    _hints._site.cache_clear()
    monkeypatch.setattr(_hints, "_site", lambda: URLS["Documentation"])
    return URLS["Documentation"]


LINKED = {
    page: cls
    for page in PAGES
    if inspect.isclass(cls := resolve(page)) and issubclass(cls, _hints.Hinting) and not inspect.isabstract(cls)
}
NEEDED = {"network": None, "image_shape": (8, 8), "members": ()}


@pytest.mark.parametrize("page", LINKED)
def test_an_objects_link_leads_to_its_page(page, site):
    needed = {name: NEEDED[name] for name in inspect.signature(LINKED[page]).parameters if name in NEEDED}
    assert LINKED[page](**needed)._get_doc_link() == f"{site}/generated/{page}.html"


@pytest.fixture(scope="module")
def conf():
    return runpy.run_path(str(ROOT / "docs" / "conf.py"))


def test_sources_lead_to_the_line_of_the_name(conf):
    for page in PAGES:
        value = resolve(page)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        module, _, name = page.rpartition(".")
        path, first = re.fullmatch(
            rf"{URLS['Source']}/blob/main/(.*)#L(\d+)-L\d+",
            conf["linkcode_resolve"]("py", {"module": module, "fullname": name}),
        ).groups()
        line = (ROOT / path).read_text().splitlines()[int(first) - 1]
        assert re.match(rf"(class|def) {name}\b", line), page


BLOB = f"{URLS['Source']}/blob/main"


@pytest.mark.parametrize(
    ("page", "link", "target"),
    [
        ("start", "../CONTRIBUTING.md", f"{BLOB}/CONTRIBUTING.md"),
        ("start", "../.github/SECURITY.md#reporting", f"{BLOB}/.github/SECURITY.md#reporting"),
        ("guide/large", "../../benchmarks/README.md", f"{BLOB}/benchmarks/README.md"),
        ("start", "examples/", "auto_examples/index"),
        ("guide/large", "../examples/plot_latents.py", "../auto_examples/plot_latents"),
        ("start", "api.md", "api.md"),
        ("guide/large", "../extend.md", "../extend.md"),
    ],
)
def test_links_that_lead_elsewhere_on_the_site(page, link, target, conf):
    source = [f"see [this]({link}) and [that](other.md)"]
    conf["link_outside"](None, page, source)
    assert source[0] == f"see [this]({target}) and [that](other.md)"


@pytest.mark.parametrize(
    ("said", "printed", "same"),
    [
        ("score: -16.12\n", "score:  -16.3\n", True),
        ("score: -16.12\n", "score:  -17.3\n", False),
        ("0.01 of 1\n", "0.02 of 1\n", True),
        ("0.01 of 1\n", "0.03 of 1\n", False),
        ("one 1\n", "two 1\n", False),
        ("1 2\n", "1\n", False),
    ],
)
def test_what_blocks_print_is_compared(said, printed, same):
    assert runpy.run_path(str(ROOT / "docs" / "run_blocks.py"))["agree"](said, printed) == same


def test_fitted_attributes_in_texts_are_no_links(conf):
    lines = ["(N, n_components_), and `likelihood_`, **mean_** : ndarray", ">>> vae.n_iter_, n_"]
    conf["escape"](None, "class", "", None, None, lines)
    assert lines == [r"(N, n_components\_), and `likelihood_`, **mean_** : ndarray", ">>> vae.n_iter_, n_"]
