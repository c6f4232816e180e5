"""How long a training will take on this machine, by the pace of those that it has done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ...training.estimate import Estimate, rows
from ...training.recipe import Recipe

FORWARD = 1 / 3
"""Of a row's time forwards and backwards: what it takes forwards alone."""


def seconds(recipe: Recipe, told: Estimate, side: int, unet: nn.Module, trainings: Iterable[Mapping]) -> float | None:
    """None where no training on such a UNet was measured. trainings: statuses with `id`, which begin with their time,
    and `pace`: the seconds of a row, at which side of the pictures, and the UNet's size."""
    size = size_of(unet)
    known = [each for each in trainings if _is_pace(each.get("pace")) and each["pace"]["unet"] == size]
    if not known:
        return None
    pace = max(known, key=lambda each: str(each["id"]))["pace"]
    return (rows(recipe) + FORWARD * told.drawing) * pace["row_seconds"] * (side / pace["side"]) ** 2


def size_of(unet: nn.Module) -> int:
    """The number of its weights, which tells the kinds of models apart."""
    return sum(weight.numel() for weight in unet.parameters())


def in_words(seconds: float) -> str:
    """ "about 40 seconds", "about 12 minutes", "about 2.5 hours"."""
    if seconds < 90:
        return f"about {max(10, round(seconds / 10) * 10)} seconds"
    if seconds < 5400:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"


def _is_pace(pace: object) -> bool:
    numbers: list[Any] = (
        [pace.get(name) for name in ("row_seconds", "side", "unet")] if isinstance(pace, Mapping) else [None]
    )
    return all(type(number) in (int, float) and math.isfinite(number) and number > 0 for number in numbers)
