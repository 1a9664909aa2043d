"""Every fault of the table, for every estimator: what comes is finite, or an error in words; the former model stays."""

import pytest
from fault_cases import FAULTS, NOT_FOR, NUMBERS
from subjects import KINDS

CASES = [
    pytest.param(fault.outcome, kind, id=f"{fault.number:02}-{fault.what}-{kind}")
    for fault in FAULTS
    for kind in fault.kinds
]


@pytest.mark.filterwarnings("ignore:.* stopped at:sklearn.exceptions.ConvergenceWarning")  # few epochs
@pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names")  # some refusals look at arrays
@pytest.mark.parametrize(("outcome", "kind"), CASES)
def test_fault(outcome, kind, tmp_path):
    outcome(kind, tmp_path)


def test_every_fault_of_the_table_is_tried_on_every_estimator_that_can_meet_it():
    tried = {(fault.number, kind) for fault in FAULTS for kind in fault.kinds}
    assert tried | NOT_FOR == {(number, kind) for number in NUMBERS for kind in KINDS}
    assert not tried & NOT_FOR
