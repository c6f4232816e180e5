"""Cases made from seeds, what a reader does with each, and the faults among it.

A target is a module with MAKE(random, folder) -> a case, USE(case), which reads it and raises PersresError where it
refuses, and COUNT, the cases of a whole run. A seed that once was a fault stays in `seeds/<target>.txt`, and the unit
tests read it again each time.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lib_persres.errors import LONGEST, PersresError

SEEDS = Path(__file__).parent / "seeds"
SLOW = 5.0
"""Seconds that no case may take."""


@dataclass
class Outcome:
    """What came of a run. faults: (seed, what happened)."""

    target: str
    taken: int = 0
    refused: int = 0
    faults: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    """(seconds, seed)"""
    grown: int = 0
    """By how many bytes the process's peak memory grew over the run."""

    @property
    def cases(self) -> int:
        return self.taken + self.refused + len(self.faults)


def run(target: str, make: Callable, use: Callable, seeds: Iterable[int]) -> Outcome:
    outcome = Outcome(target)
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            case = make(random.Random(f"{target} {seed}"), Path(folder))
            begun = time.perf_counter()
            fault = _use(use, case, outcome)
            seconds = time.perf_counter() - begun
            outcome.slowest = max(outcome.slowest, (seconds, seed))
            if fault is None and seconds > SLOW:
                fault = f"it took {seconds:.1f} s"
            if fault is not None:
                outcome.faults.append((seed, fault))
    outcome.grown = peak() - before
    return outcome


def _use(use: Callable, case: object, outcome: Outcome) -> str | None:
    try:
        use(case)
    except PersresError as error:
        text = str(error)
        if not text or len(text) > LONGEST or "\n" in text:
            return f"not one sentence: {text[:400]!r}"
        outcome.refused += 1
    except Exception:
        return traceback.format_exc(limit=-4)
    else:
        outcome.taken += 1
    return None


def kept_seeds(target: str) -> list[int]:
    path = SEEDS / f"{target}.txt"
    return [int(line.split()[0]) for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []


def keep(outcome: Outcome) -> None:
    """Add the seeds of the faults to those that are read again each time."""
    old = kept_seeds(outcome.target)
    new = [seed for seed, _ in outcome.faults if seed not in old]
    if new:
        SEEDS.mkdir(exist_ok=True)
        (SEEDS / f"{outcome.target}.txt").write_text("".join(f"{seed}\n" for seed in sorted(old + new)))


def peak() -> int:
    """The process's peak memory in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
