"""Some hundred damaged folders of the queue, and all that once were too much for it."""

import os

import pytest

from benchmarks.fuzz import harness, queues

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the damages want a POSIX system")


def outcome(seeds):
    return harness.run("queues", queues.MAKE, queues.USE, seeds)


def test_damaged_queues_are_listed_as_far_as_they_are_whole():
    found = outcome([*range(120), *harness.kept_seeds("queues")])
    assert found.faults == [] and found.taken > 60


def test_a_fault_would_be_seen(monkeypatch):
    monkeypatch.setattr("lib_persres.webui.training.job.encodable", lambda value: value)
    monkeypatch.setattr("lib_persres.webui.training.record._number", lambda value: True)
    assert outcome(range(120)).faults
