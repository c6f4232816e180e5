"""Some hundred damaged folders of the queue, and all that once were too much for it."""

import os

import pytest

from benchmarks.fuzz import harness, queues
from lib_persres.webui.training import record

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the damages want a POSIX system")


def outcome(seeds):
    return harness.run("queues", queues.MAKE, queues.USE, seeds)


def test_damaged_queues_are_listed_as_far_as_they_are_whole():
    found = outcome([*range(120), *harness.kept_seeds("queues")])
    assert found.faults == [] and found.taken > 90


def test_a_fault_would_be_seen(monkeypatch):
    monkeypatch.setattr(record, "_SOUND", dict.fromkeys(record._SOUND, lambda value: True))
    assert outcome(range(30)).faults
