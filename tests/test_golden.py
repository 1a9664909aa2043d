"""Files of earlier versions are read, and answer as they did."""

import numpy as np
import pytest
import skops.io
from golden import FOLDER, MADE, answers

from skvae import TRUSTED_TYPES, __version__

VERSIONS = sorted(path.name for path in FOLDER.iterdir())


def test_this_version_has_its_files_and_all_are_small():
    assert __version__ in VERSIONS
    assert {path.stem for path in (FOLDER / __version__).glob("*.skops")} == MADE.keys()
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 100_000 * len(VERSIONS)


@pytest.mark.filterwarnings("ignore::skvae._saved.SavedModelWarning")  # of the versions that wrote it
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MADE)
def test_a_saved_estimator_is_read_and_answers_as_when_it_was_saved(version, name):
    estimator = skops.io.load(FOLDER / version / f"{name}.skops", trusted=TRUSTED_TYPES)
    with np.load(FOLDER / version / "answers.npz") as said:
        expected = {key.removeprefix(f"{name} "): said[key] for key in said.files if key.startswith(f"{name} ")}
    found = answers(estimator, MADE[name][1])
    assert found.keys() == expected.keys()
    for method, values in expected.items():
        np.testing.assert_allclose(found[method], values, rtol=1e-4, atol=1e-4, err_msg=method)
