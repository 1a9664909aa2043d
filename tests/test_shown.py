"""What a user sees of an estimator and of its likelihood: tables, pictures, links."""

from __future__ import annotations

import email
from html import escape

import numpy as np
import pandas as pd
import pytest

from skvae import Mixed, VAETransformer, _hints


@pytest.fixture(scope="module")
def likelihood():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.normal(size=60), "a<b": rng.choice(list("ab"), 60)})
    return VAETransformer(1, likelihood="auto", max_iter=1, random_state=0).fit(table).likelihood_


def test_a_likelihood_of_columns_prints_as_a_table(likelihood):
    lines = str(likelihood).splitlines()
    assert lines[0].split() == ["column", "likelihood"]
    assert [line.split()[0] for line in lines[1:]] == ["age", "a<b"]
    assert lines[2].split()[1] == "categorical"
    assert len({line.index(line.split()[1]) for line in lines}) == 1
    assert repr(likelihood).startswith("Mixed(members=[")


def test_a_notebook_shows_the_same_table_with_names_made_safe(likelihood):
    bundle = likelihood._repr_mimebundle_()
    assert bundle["text/plain"] == str(likelihood)
    assert bundle["text/html"].startswith("<table>")
    assert "<td>a&lt;b</td><td>categorical</td>" in bundle["text/html"]
    assert likelihood._repr_html_() == bundle["text/html"]


def test_numbered_columns_come_in_order_and_a_wide_table_is_cut():
    assert str(Mixed([("poisson", [0, 2]), ("gaussian", [1])])).splitlines()[1:] == [
        "0       poisson",
        "1       gaussian",
        "2       poisson",
    ]
    assert str(Mixed([("poisson", list(range(100)))])).splitlines()[-1] == "...     and 40 others"
    assert str(Mixed([("poisson", [0])], remainder="auto")).splitlines()[-1] == "others  auto"


def test_a_likelihood_whose_columns_are_selected_is_as_it_was_written():
    mixed = Mixed([("poisson", slice(0, 2))])
    assert str(mixed) == repr(mixed) == "Mixed(members=[('poisson', slice(0, 2, None))])"
    assert mixed._html_repr() == f"<pre>{escape(repr(mixed))}</pre>"


@pytest.mark.parametrize(
    ("urls", "link"),
    [
        ("Project-URL: Documentation, https://example.org/skvae/\n", "/skvae/generated/skvae.VAETransformer.html"),
        ("Project-URL: Source, https://example.org/skvae\n", ""),
        ("", ""),
    ],
)
def test_the_picture_links_to_the_page_that_the_packages_metadata_tell(urls, link, monkeypatch):
    monkeypatch.setattr(_hints, "metadata", lambda name: email.message_from_string(f"Name: {name}\n{urls}\n"))
    _hints._site.cache_clear()
    try:
        address = "https://example.org" + link if link else ""
        assert VAETransformer()._get_doc_link() == address
        assert ("https://example.org" in VAETransformer()._repr_html_()) == bool(link)
    finally:
        _hints._site.cache_clear()
