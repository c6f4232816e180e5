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
from dataclasses import dataclass, field

import torch

from ..errors import PersresError

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
        command = [sys.executable, "-m", "lib_persres.evaluation.training_contenders", self.name, *self.options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.loaded = self._answer()["loaded"]

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            reason = self.process.stderr.read().strip().splitlines()
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


def compare(side: int, batch: int, precision: str, rounds: int) -> dict[str, Runner]:
    options = ["--side", str(side), "--batch", str(batch), "--precision", precision]
    with contextlib.ExitStack() as stack:
        runners = []
        for name in ("peer", "plain", "persres"):
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
    ours, plain, peer = (runners[name] for name in ("persres", "plain", "peer"))
    where = torch.cuda.get_device_name() if cuda else "CPU, float32"
    note = (
        f"{where}, {side}x{side}, {batch} row{'s' * (batch > 1)}: {statistics.median(ours.steps):.3f} s a step, plain "
        f"loop {statistics.median(plain.steps):.3f}, diffusers + peft {statistics.median(peer.steps):.3f}; "
        f"set-up {ours.setup['seconds']:.1f}, {plain.setup['seconds']:.1f}, {peer.setup['seconds']:.1f} s"
    )
    found = {
        "train.vs_peer": (peer.seconds() / ours.seconds(), note),
        "train.memory_vs_peer": (
            ours.peak / peer.peak,
            f"peak {ours.peak / 2**20:.0f} MiB against {peer.peak / 2**20:.0f} MiB, weights included",
        ),
    }
    if cuda:
        rate = PEAK.get(next((card for card in PEAK if card in where), ""), None)
        share = f", {FLOOR / rate / ours.seconds():.0%} of the arithmetic's floor" if rate else ""
        found["train.gpu_seconds"] = (ours.seconds(), f"{where}{share}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        print(report(compare(options.side, options.batch, options.precision, options.rounds)))
    except PersresError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
