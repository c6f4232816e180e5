"""python -m benchmarks.fuzz [TARGET…] [--count N] [--first SEED] [--keep]: prints one line a target and its faults."""

from __future__ import annotations

import argparse
import importlib
import sys

from . import harness

TARGETS = ("residuals", "checkpoints", "images", "queues")


def target(name: str):
    """The module of a target: MAKE, USE and COUNT."""
    return importlib.import_module(f"benchmarks.fuzz.{name}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all without any")
    parser.add_argument("--count", type=int, help="cases; each target's own number without it")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--keep", action="store_true", help="add the seeds of faults to benchmarks/fuzz/seeds")
    options = parser.parse_args(arguments)
    faults = 0
    for name in options.targets or TARGETS:
        module = target(name)
        count = module.COUNT if options.count is None else options.count
        outcome = harness.run(name, module.MAKE, module.USE, range(options.first, options.first + count))
        seconds, seed = outcome.slowest
        print(
            f"{name}: {outcome.cases} cases, {outcome.taken} taken, {outcome.refused} refused, "
            f"{len(outcome.faults)} faults; slowest {seconds:.2f} s (seed {seed}), "
            f"peak memory +{outcome.grown / 2**20:.0f} MiB"
        )
        for seed, fault in outcome.faults[:20]:
            print(f"  seed {seed}: {fault}")
        if options.keep:
            harness.keep(outcome)
        faults += len(outcome.faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
