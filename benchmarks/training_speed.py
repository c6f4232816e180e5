"""The trainer against diffusers + peft and against a plain loop: time and memory, as ratios from one run.

The three take turns step by step, so that a machine's slow minutes meet all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lib_persres.errors import PersresError

from .model_sizes import SD1, SIZES, ModelSize

STEPS = 150
"""The paper's."""
FLOOR = 2 * 0.8e12 * STEPS * 4
"""Multiply-adds counted as two: the forward pass and the gradients of the activations, 4 rows a step at 512×512."""
PEAK = {"H200": 790e12, "H100": 790e12, "A100": 312e12}
"""Of 16-bit matrix products, dense, as measured or stated by the maker."""


@dataclass
class Runner:
    """A contender's process."""

    name: str
    options: list[str]
    setup: dict = field(default_factory=dict)
    steps: list[float] = field(default_factory=list)
    peak: int = 0

    def __post_init__(self):
        command = [sys.executable, "-m", "benchmarks.training_contenders", self.name, *self.options]
        self._errors = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would stop it when it is full
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        try:
            self.loaded = self._answer()["loaded"]
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self._errors.seek(0)
            reason = self._errors.read().strip().splitlines()
            raise PersresError(f"{self.name} failed: {reason[-1] if reason else 'it said nothing'}")
        return json.loads(line)

    def ask(self, what: str) -> dict:
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.peak = answer["peak"]
        return answer

    def seconds(self) -> float:
        """Set-up, the first step, which warms up, and 149 steps of the median's time."""
        return self.setup["seconds"] + self.setup["first"] + (STEPS - 1) * statistics.median(self.steps)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._errors.close()


CONTENDERS = ("peer", "plain", "persres")


def compare(
    side: int,
    batch: int,
    precision: str,
    rounds: int,
    size: ModelSize = SD1,
    names: Sequence[str] = CONTENDERS,
) -> dict[str, Runner]:
    options = ["--side", str(side), "--batch", str(batch), "--precision", precision, "--size", size.name]
    with contextlib.ExitStack() as stack:
        runners = []
        for name in names:
            runners.append(Runner(name, options))
            stack.callback(runners[-1].close)
        for runner in runners:
            runner.setup = {"seconds": runner.ask("setup")["seconds"], "first": runner.ask("step")["seconds"]}
        for _ in range(rounds):
            for runner in runners:
                runner.steps.append(runner.ask("step")["seconds"])
    return {runner.name: runner for runner in runners}


def report(runners: dict[str, Runner]) -> str:
    lines = [f"{'':8} {'set-up s':>9} {'first step s':>13} {'step s':>8} {'150 steps s':>12} {'peak MiB':>9}"]
    for name, r in runners.items():
        step = statistics.median(r.steps)
        lines.append(
            f"{name:8} {r.setup['seconds']:9.2f} {r.setup['first']:13.3f} {step:8.4f} {r.seconds():12.1f} "
            f"{r.peak / 2**20:9.0f}"
        )
    return "\n".join(lines)


def figures() -> dict[str, tuple[float, str]]:
    """On a GPU 512×512, 4 rows, bfloat16; on CPU a smaller form, 256×256, 1 row, in its two precisions."""
    cuda = torch.cuda.is_available()
    side, batch, rounds = (512, 4, 30) if cuda else (256, 1, 9)
    runners = compare(side, batch, "bfloat16" if cuda else "float32", rounds)
    print(report(runners))
    return figures_of(runners, side, batch)


def figures_of(runners: dict[str, Runner], side: int, batch: int) -> dict[str, tuple[float, str]]:
    """Without the peer those that need none."""
    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else "CPU, float32"
    ours, plain, found = runners["persres"], runners["plain"], {}
    if cuda:
        rate = PEAK.get(next((card for card in PEAK if card in where), ""), None)
        share = f", {FLOOR / rate / ours.seconds():.0%} of the arithmetic's floor" if rate else ""
        found["train.gpu_seconds"] = (ours.seconds(), f"{where}{share}")
    if "peer" not in runners:
        return found
    peer = runners["peer"]
    note = (
        f"{where}, {side}x{side}, {batch} row{'s' * (batch > 1)}: {statistics.median(ours.steps):.3f} s a step, plain "
        f"loop {statistics.median(plain.steps):.3f}, diffusers + peft {statistics.median(peer.steps):.3f}; "
        f"set-up {ours.setup['seconds']:.1f}, {plain.setup['seconds']:.1f}, {peer.setup['seconds']:.1f} s"
    )
    return {
        "train.vs_peer": (peer.seconds() / ours.seconds(), note),
        "train.memory_vs_peer": (
            ours.peak / peer.peak,
            f"peak {ours.peak / 2**20:.0f} MiB against {peer.peak / 2**20:.0f} MiB, weights included",
        ),
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default=SD1.name)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        size = SIZES[options.size]
        print(report(compare(options.side, options.batch, options.precision, options.rounds, size)))
    except PersresError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
