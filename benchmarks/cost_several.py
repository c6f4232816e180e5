"""What LAG costs SD1's step where the picture is larger, and what a second and a third concept cost."""

from __future__ import annotations

import statistics
from dataclasses import replace

import torch

from lib_persres.branch import Branches
from lib_persres.concepts import Use
from lib_persres.masks import DEFAULT, MASKS
from lib_persres.plan import Plans, guidance_rows

from .cost import TOKENS, Clock, inputs, random_residual, random_unet, step
from .model_sizes import SD1, ModelSize

LARGE, ROUNDS = 768, 3


def _hooks(unet, size: ModelSize, concepts: int) -> tuple[float, float]:
    """Seconds of a step without residuals, and inside our hooks under LAG with so many concepts; medians, on CPU."""
    x, context = inputs(size, "cpu", torch.float32)
    uses = [Use(1.0, True, ((5 + 5 * k, 6 + 5 * k),)) for k in range(concepts)]
    plan = Plans([uses]).plan(guidance_rows(1), TOKENS)
    base, inside = [], []
    with Branches(unet, [random_residual(unet) for _ in range(concepts)], MASKS[DEFAULT]()) as branches:
        clock = Clock(unet)
        for index in range(ROUNDS + 1):  # the first step of a sampling has no mask yet
            branches.plan = None
            base.append(step(unet, x, context))
            branches.begin(index, 0.5)
            branches.plan, clock.inside = plan, 0.0
            step(unet, x, context)
            inside.append(clock.inside)
    return statistics.median(base[1:]), statistics.median(inside[1:])


def figures() -> dict[str, tuple[float, str]]:
    unet = random_unet(SD1)
    found = {count: _hooks(unet, SD1, count) for count in (1, 2, 3)}
    base = statistics.median(seconds for seconds, _ in found.values())
    steps = {count: base + inside for count, (_, inside) in found.items()}
    large, hooks = _hooks(unet, replace(SD1, side=LARGE), 1)
    return {
        "multi.cost": (
            steps[2] / steps[1],
            f"base step {base:.2f} s, hooks {', '.join(f'{inside * 1e3:.0f}' for _, inside in found.values())} ms with "
            f"1, 2, 3 concepts; a step with three {steps[3] / steps[2]:.4f} of one with two, on CPU",
        ),
        "cost.lag_768": (1 + hooks / large, f"hooks {hooks * 1e3:.0f} ms, base step {large:.1f} s on CPU"),
    }
