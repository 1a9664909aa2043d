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


def test_links_to_files_beside_the_pages_lead_to_the_source(conf):
    source = ["[a](../CONTRIBUTING.md) [b](../.github/SECURITY.md#reporting) [c](api.md) [d](../../x.md)"]
    conf["link_outside"](None, "guide", source)
    blob = f"{URLS['Source']}/blob/main"
    assert source[0].split() == [
        f"[a]({blob}/CONTRIBUTING.md)",
        f"[b]({blob}/.github/SECURITY.md#reporting)",
        "[c](api.md)",
        "[d](../../x.md)",
    ]
    source = ["[a](../../benchmarks/README.md) [b](../extend.md)"]
    conf["link_outside"](None, "guide/large", source)
    assert source[0].split() == [f"[a]({blob}/benchmarks/README.md)", "[b](../extend.md)"]


def test_fitted_attributes_in_texts_are_no_links(conf):
    lines = ["(N, n_components_), and `likelihood_`, **mean_** : ndarray", ">>> vae.n_iter_, n_"]
    conf["escape"](None, "class", "", None, None, lines)
    assert lines == [r"(N, n_components\_), and `likelihood_`, **mean_** : ndarray", ">>> vae.n_iter_, n_"]
