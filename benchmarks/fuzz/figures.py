"""The figure fuzz.files: faults of our readers among damaged files, each kind in a process of its own."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor

from . import harness
from .__main__ import TARGETS, target

PARTS = 8
"""Pieces of a kind's seeds, so that the cores share them."""


def figures() -> dict[str, tuple[int, str]]:
    work = [(name, part) for name in TARGETS for part in range(PARTS)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(_part, *zip(*work)))
    faults, said = 0, []
    for name in TARGETS:
        own = [outcome for outcome in outcomes if outcome.target == name]
        cases, found = sum(each.cases for each in own), sum(len(each.faults) for each in own)
        seconds = max(each.slowest for each in own)[0]
        grown = max(each.grown for each in own) >> 20
        said.append(f"{name} {cases:,}: slowest {seconds:.1f} s, peak memory +{grown} MiB")
        for seed, fault in [fault for each in own for fault in each.faults][:5]:
            print(f"{name}, seed {seed}: {fault}", file=sys.stderr)
        faults += found
    return {"fuzz.files": (faults, "; ".join(said))}


def _part(name: str, part: int) -> harness.Outcome:
    module = target(name)
    return harness.run(name, module.MAKE, module.USE, range(part, module.COUNT, PARTS))
