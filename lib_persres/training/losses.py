"""A training's losses in a few numbers."""

from __future__ import annotations

import math
from typing import Any


def summary(losses: list[float]) -> dict[str, Any]:
    """First and last tenth of the training, and the loss of up to 100 points in between for a curve."""
    if not losses:
        return {}
    tenth = max(1, len(losses) // 10)
    stride = max(1, math.ceil(len(losses) / 100))
    curve = [sum(losses[i : i + stride]) / len(losses[i : i + stride]) for i in range(0, len(losses), stride)]
    return {
        "first": sum(losses[:tenth]) / tenth,
        "last": sum(losses[-tenth:]) / tenth,
        "curve": [round(value, 5) for value in curve],
    }
