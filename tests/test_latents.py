"""Latents of one noise for scaled columns, and what a fit says of how many there are and what they keep."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from skvae import Gaussian, VAETransformer

FEWER = "the 2 latents keep fewer of the rows' neighbours than 2 principal components"


def said(X, n_components=2, **parameters):
    """What a short fit warns of, but for the epochs it would need."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message=".*still rising")
        VAETransformer(n_components, max_iter=1, random_state=0, **parameters).fit(X)
    return [str(warning.message) for warning in caught]


@pytest.fixture(scope="module")
def grouped():
    """Three groups that five columns tell apart, beside two pairs of columns that hold nearly the same noise."""
    rng = np.random.default_rng(0)
    groups = 4 * rng.normal(size=(3, 5))[rng.integers(3, size=150)] + rng.normal(size=(150, 5))
    alike = rng.normal(size=(150, 2)).repeat(2, axis=1) + 0.01 * rng.normal(size=(150, 4))
    return np.column_stack([groups, alike])


def test_one_noise_for_scaled_columns_is_one_for_all_of_a_standardised_table(wine):
    scaled = VAETransformer(2, likelihood=Gaussian("scaled"), max_iter=3, random_state=0).fit(wine)
    std = wine.std(axis=0)
    shared = VAETransformer(2, likelihood=Gaussian("shared"), max_iter=3, random_state=0).fit(wine / std)
    np.testing.assert_allclose(scaled.transform(wine), shared.transform(wine / std), atol=1e-6)
    expected = shared.score_samples(wine / std) - np.log(std).sum()
    np.testing.assert_allclose(scaled.score_samples(wine), expected, atol=1e-6)
    np.testing.assert_allclose(scaled.noise_variance_, shared.noise_variance_ * std**2, rtol=1e-6)


def test_latents_that_hide_neighbours_are_spoken_of(grouped):
    (text,) = said(grouped)
    assert FEWER in text
    assert "take likelihood=Gaussian(noise='scaled')" in text
    gaps = grouped.copy()
    gaps[::3, 0] = np.nan  # the other rows are looked at
    assert any(FEWER in text for text in said(gaps))


def test_others_are_not(grouped):
    assert said(grouped, likelihood=Gaussian("scaled")) == []
    assert said(grouped, 4) == []  # no picture
    assert said(grouped, objective="autoencoder") == []
    assert said(grouped[:49]) == []
    assert said(grouped[:, 6:8]) == []  # two principal components are the table
    chunk = VAETransformer(2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chunk.partial_fit(grouped)


def test_more_latents_than_the_row_has_numbers_are_spoken_of(iris):
    (text,) = said(iris, 5)
    assert text.startswith("VAETransformer: n_components=5 is more than the 4 number(s) that the encoder sees")
    assert said(iris, 4) == []
    assert said(iris, 5, objective="sparse") == []  # such codes are meant to be wide
    assert said(np.repeat([[0.0], [1.0], [2.0]], 30, axis=0), 3, likelihood="categorical") == []  # three indicators
