"""The way of data that docs/design.md describes is the one that X takes."""

from __future__ import annotations

import importlib
import re
import sys
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_iris
from torch import Tensor, nn

from skvae import VAETransformer, _fit

DESIGN = Path(_fit.__file__).parents[1] / "docs" / "design.md"
MOST = {"fit": 25, "score_samples": 12}
each_way = pytest.mark.parametrize("way", MOST)


@cache
def documented(way: str) -> list[str]:
    """The calls that docs/design.md lists, in order."""
    section = DESIGN.read_text().split("\n## The way of data\n")[1].split("\n## ")[0]
    listed = section.split(f"\n`{way}(X)`:\n")[1].split("\n`")[0]
    return re.findall(r"^\d+\. `([\w.]+)`", listed, re.MULTILINE)


class Call(NamedTuple):
    name: str
    caller: str
    gets_rows: bool


@cache
def traced(way: str) -> list[Call]:
    """Every call of a function of skvae during a small fit, or while its model scores."""
    X, vae = load_iris().data, VAETransformer(2, max_iter=2, random_state=0)
    if way != "fit":
        vae.fit(X)
    calls = []

    def note(frame, event, arg):
        if event == "call" and in_skvae(frame):
            code = frame.f_code
            arguments = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]]
            calls.append(Call(name_of(frame), name_of(caller_of(frame)), any(map(made_of_rows, arguments))))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        getattr(vae, way)(X)
    finally:
        sys.setprofile(before)
    return calls


def in_skvae(frame) -> bool:
    return frame.f_globals.get("__name__", "").startswith("skvae.")


def caller_of(frame):
    """The nearest call of skvae that a call was made from; between them may be contextlib's, say."""
    caller = frame.f_back
    while caller.f_back is not None and not in_skvae(caller):
        caller = caller.f_back
    return caller


def name_of(frame) -> str:
    return f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}".removeprefix("skvae.")


def made_of_rows(value) -> bool:
    """Whether a value is X or was made of it: an array or a model, or one of skvae's objects that holds such."""
    held = [value]
    if isinstance(value, dict):
        held += value.values()
    elif isinstance(value, tuple):
        held += value
    elif type(value).__module__.startswith("skvae."):
        held += vars(value).values()
    return any(isinstance(one, np.ndarray | Tensor | nn.Module) for one in held)


@each_way
def test_the_way_is_short(way):
    assert 1 < len(documented(way)) <= MOST[way]


@each_way
def test_every_call_of_the_way_exists(way):
    for name in documented(way):
        parts = name.split(".")
        inner = next(i for i, part in enumerate(parts) if i and (part[0].isupper() or i == len(parts) - 1))
        module = importlib.import_module(f"skvae.{'.'.join(parts[:inner])}")
        assert callable(attrgetter(".".join(parts[inner:]))(module))


@each_way
def test_rows_take_the_way_in_this_order(way):
    calls, reached = [call.name for call in traced(way) if call.gets_rows], 0
    for name in documented(way):
        assert name in calls[reached:], f"{name} is not called with rows after what the list names before it"
        reached = calls.index(name, reached) + 1


def stages_of_fit() -> list[Call]:
    """Calls of functions of _fit.py that get rows, lambdas aside."""
    return [call for call in traced("fit") if re.fullmatch(r"_fit\.\w+", call.name) and call.gets_rows]


CALLERS = "_base.BaseVAE._fit_to", "transformer.VAETransformer._learn", "_fit.fit_model"


def test_the_stages_that_fit_calls_are_on_the_list():
    called = {call.name for call in stages_of_fit() if call.caller in CALLERS}
    stages = {name for name in called if not name.startswith("_fit._")}
    assert stages
    assert stages <= set(documented("fit"))


def test_every_function_of_fit_is_on_the_list_or_called_from_one_that_is():
    listed = set(documented("fit"))
    assert not {call.name for call in stages_of_fit() if not {call.name, call.caller} & listed}
