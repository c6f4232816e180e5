"""Damaged pictures are taken or refused in one sentence; nothing else happens."""

from benchmarks.fuzz import harness, images


def test_damaged_pictures_are_taken_or_refused_in_a_sentence():
    seeds = [*range(300), *harness.kept_seeds("images")]
    outcome = harness.run("images", images.MAKE, images.USE, seeds)
    assert outcome.faults == []
    assert outcome.taken > 50 and outcome.refused > 50


def test_a_fault_would_be_seen():
    def broken(path):
        raise KeyError(path)

    assert len(harness.run("images", images.MAKE, broken, range(3)).faults) == 3
