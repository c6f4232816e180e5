"""What it costs that a training gives way to an image: everything is put back into the model, and taken up again.

python -m benchmarks.hand_over [--side 512 --batch 4]: an SD1-size model with random weights, without the WebUI, whose
own part tests/webui/test_giving_way.py prints.
"""

from __future__ import annotations

import argparse
import time

import torch

from .model_sizes import SD1
from .training_contenders import Persres

ROUNDS = 3
COURTESY = 0.05
"""Seconds that a turn leaves to whoever was woken, see `webui.training.turn`."""


def measure(side: int, batch: int, rounds: int = ROUNDS) -> tuple[float, float]:
    """Seconds of one hand-over and of one step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    contender = Persres(device, dtype, SD1, side, batch, total=2 * rounds + 2)
    contender.setup()
    trainer = contender.trainer
    contender.step()  # which warms up
    rows = []
    for _ in range(rounds):
        step = _seconds(contender.step, device)
        lent = _seconds(lambda: (trainer.__exit__(None, None, None), trainer.__enter__()), device)
        first = _seconds(contender.step, device)  # with what the stage and a CUDA graph begin with
        rows.append((step, lent, first))
    trainer.__exit__(None, None, None)
    step, lent, first = map(min, zip(*rows))  # the least of each: what else the machine does is not meant
    return lent + max(0.0, first - step) + COURTESY, step


def _seconds(call, device: torch.device) -> float:
    def now():
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    begun = now()
    call()
    return now() - begun


def figures() -> dict:
    side, batch = (512, 4) if torch.cuda.is_available() else (256, 1)
    seconds, step = measure(side, batch)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, float32"
    rows = f"{batch} row{'s' * (batch > 1)}"
    return {"yield.seconds": (round(seconds, 3), f"{where}; a step of {rows} at {side}x{side} takes {step:.2f} s")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    given = parser.parse_args()
    hand_over, step = measure(given.side, given.batch)
    print(f"hand-over {hand_over:.3f} s, step {step:.3f} s")
