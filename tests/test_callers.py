"""Whatever torch's default dtype is where an estimator is called, it gives the same bits.

Of every estimator, and of other settings, tests/fault_cases.py says so (fault 43).
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from helpers import CALLERS, answers, assert_same
from members import MEMBERS, table

import skvae
from skvae import VAEAnomalyDetector, VAETransformer
from skvae._inference.criteria import CRITERIA
from skvae._training.solvers import SOLVERS

PACKAGE = Path(skvae.__file__).parent
# torch's functions that make a tensor of the default dtype where none is named.
MAKERS = {"empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "scalar_tensor", "zeros"}


DTYPES = [name for name in CALLERS if "default" in name]
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("caller", DTYPES)
def test_every_likelihood_gives_the_same_bits_whatever_the_default_dtype(member, caller):
    X = table(member)
    outside = VAETransformer(2, likelihood=MEMBERS[member], max_iter=2, random_state=0).fit(X)
    with CALLERS[caller]():
        inside = VAETransformer(2, likelihood=MEMBERS[member], max_iter=2, random_state=0).fit(X)
        assert_same(answers(inside, X), answers(outside, X))


@pytest.mark.parametrize("parameters", [{"solver": s} for s in SOLVERS] + [{"prior": "mixture"}, {"objective": "iwae"}])
@pytest.mark.parametrize("caller", DTYPES)
def test_every_way_to_train_gives_the_same_bits_whatever_the_default_dtype(iris, parameters, caller):
    outside = VAETransformer(2, max_iter=2, random_state=0, **parameters).fit(iris)
    with CALLERS[caller]():
        inside = VAETransformer(2, max_iter=2, random_state=0, **parameters).fit(iris)
        assert_same(answers(inside, iris), answers(outside, iris))


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("caller", DTYPES)
def test_every_criterion_gives_the_same_bits_whatever_the_default_dtype(iris, criterion, caller):
    outside = VAEAnomalyDetector(criterion=criterion, max_iter=2, random_state=0).fit(iris)
    with CALLERS[caller]():
        inside = VAEAnomalyDetector(criterion=criterion, max_iter=2, random_state=0).fit(iris)
        assert_same(answers(inside, iris), answers(outside, iris))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_tensor_made_from_nothing_names_its_dtype(path):
    nameless = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value) == "torch"
        and node.func.attr in MAKERS
        and "dtype" not in {keyword.arg for keyword in node.keywords}
    ]
    assert not nameless
