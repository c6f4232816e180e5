"""Some of the fuzzer's damaged checkpoints, and those that were faults once; what is taken draws a picture."""

import pytest

pytest.importorskip("ldm")

from benchmarks.fuzz import checkpoints, harness
from lib_persres.errors import PersresError


def test_damaged_checkpoints_are_taken_or_refused_in_a_sentence():
    seeds = [*range(120), *harness.kept_seeds("checkpoints")]
    outcome = harness.run("checkpoints", checkpoints.MAKE, checkpoints.USE, seeds)
    assert outcome.faults == [] and outcome.taken > 5 and outcome.refused > 50


def test_a_fault_would_be_seen(monkeypatch):
    def traceback_or_refusal(path, device):
        raise KeyError(path) if path.suffix == ".ckpt" else PersresError("It is no checkpoint.")

    monkeypatch.setattr(checkpoints, "load", traceback_or_refusal)
    outcome = harness.run("checkpoints", checkpoints.MAKE, checkpoints.USE, range(20))
    assert outcome.faults and outcome.refused
