"""Some of the fuzzer's residual files, and those that were faults once."""

import pytest

from benchmarks.fuzz import harness, residuals


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_no_damaged_file_does_more_than_to_be_refused(first):
    outcome = harness.run("residuals", residuals.MAKE, residuals.USE, range(first, first + 100))
    assert outcome.faults == [] and outcome.taken and outcome.refused


def test_files_that_were_faults_once_are_none():
    outcome = harness.run("residuals", residuals.MAKE, residuals.USE, harness.kept_seeds("residuals"))
    assert outcome.faults == []
