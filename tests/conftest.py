"""Fixtures of all tests: small tables, and a guard that no test moves global state."""

import os
import sys

os.environ.setdefault(
    "SCIPY_ARRAY_API", "1"
)  # read when scipy is imported: check_array_api_input is skipped without it

from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401 - torch imports it with the first optimiser; it adds filters and a variable
from detectors import correlated
from helpers import global_state
from hypothesis import settings
from sklearn.datasets import load_digits, load_iris, load_wine
from threadpoolctl import threadpool_limits

settings.register_profile("skvae", derandomize=True, deadline=None, max_examples=15, database=None)
# Tests that take a `profile_part` run PARTS times, each with examples of its own: 2500 in all, on as many processes.
settings.register_profile(
    "thorough", derandomize=False, deadline=None, max_examples=100, database=None, print_blob=True
)
PARTS = {"skvae": 1, "thorough": 25}
settings.load_profile("skvae")


def pytest_addoption(parser):
    parser.addoption("--seeds", default="0", help="of the tests that hold for any seed: one number, or 0-19")


def pytest_configure(config):
    # pytest-randomly shuffles the tests. It would also seed the global generators, which no test is to depend on.
    config.option.randomly_reset_seed = False


def pytest_generate_tests(metafunc):
    """A test that takes `any_seed` draws what it looks at, and holds for every seed.

    One that takes a `profile_part` runs once for each part of hypothesis' profile.
    """
    if "profile_part" in metafunc.fixturenames:
        metafunc.parametrize("profile_part", range(PARTS[settings.get_current_profile_name()]))
    if "any_seed" in metafunc.fixturenames:
        first, _, last = metafunc.config.getoption("seeds").partition("-")
        metafunc.parametrize("any_seed", range(int(first), int(last or first) + 1))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small products on a shared machine: a second thread would mostly wait."""
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True)
def _closes_figures():
    yield
    if (plt := sys.modules.get("matplotlib.pyplot")) is not None:
        plt.close("all")


@pytest.fixture(autouse=True)
def _leaves_global_state():
    before = global_state()
    yield
    after = global_state()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"the test changed global state: {changed}"


@pytest.fixture(scope="session")
def iris():
    return load_iris().data


@pytest.fixture(scope="session")
def wine():
    return load_wine().data


@pytest.fixture(scope="session")
def digits():
    """300 images of 64 pixels in 0 ... 16; some border columns are constant."""
    return load_digits().data[:300]


@pytest.fixture(scope="session")
def binary(digits):
    return (digits > 7).astype(float)


@pytest.fixture(scope="session")
def new_rows():
    """For detectors of `correlated` rows: 120 others, of which the first 20 lie elsewhere."""
    X = correlated(120, seed=1).copy()
    X[:20] += 4
    return X


@pytest.fixture(scope="session")
def data_dir():
    """The folder of public tables that the package does not ship."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no data folder at {path}")
    return path
