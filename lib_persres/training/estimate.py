"""What a recipe takes on a UNet: computed from the targets' sizes, without training; the UNet may have no weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from ..errors import PersresError
from ..residual import rank_of
from ..targets import EMBEDDING, parts_of
from ..unet import find_blocks, find_targets
from . import prior
from .changes import numbers
from .recipe import Recipe
from .recipes import RECIPES

FILE, LEARNING = 2, 4
"""Bytes of a number in the file (fp16) and of one that learns (fp32)."""


@dataclass(frozen=True)
class Estimate:
    """learned: numbers that learn. stored: numbers in the file, and file: their bytes, without the header.

    memory: bytes of what learns, its gradients and Adam's two moments in the largest stage; activations and the frozen
    model come to it. work: rows that go through the UNet forwards and backwards, as multiples of the recipe "paper".
    drawing: rows that go forwards while the model draws pictures of the class, where none are given.
    """

    learned: int
    stored: int
    file: int
    memory: int
    work: float
    drawing: int


def estimate(recipe: Recipe, unet: nn.Module) -> Estimate:
    embedding = _embedding(unet) if EMBEDDING in parts_of(recipe.targets) else 0
    learned = numbers(recipe, unet, recipe.targets) + embedding
    stored = embedding + sum(
        rank_of(recipe.rank, min(target.widths)) * sum(target.widths) for target in find_targets(unet, recipe.targets)
    )
    largest = max(
        numbers(recipe, unet, stage.targets) + (embedding if stage.learns_embedding else 0) for stage in recipe.stages
    )
    return Estimate(
        learned=learned,
        stored=stored,
        file=FILE * stored,
        memory=LEARNING * (learned + 3 * largest),
        work=rows(recipe) / rows(RECIPES["paper"]),
        drawing=recipe.class_images * prior.STEPS * 2 if recipe.keeps_class else 0,
    )


def refuse_rank(rule: str, targets: str, unet: nn.Module) -> None:
    """PersresError for a whole number above what any target can have: it would be cut to the whole matrices."""
    number = rule.strip()
    most = max((min(target.widths) for target in find_targets(unet, targets)), default=None)
    if not number.endswith("m") and most is not None and float(number) > most:
        raise PersresError(f"The rank {number} is above {most}, the largest of {targets} in this model: lower it.")


def _embedding(unet: nn.Module) -> int:
    """The width of a token's vector: in SD1 that of the context, which keys are made of."""
    return next(attention.to_k.in_features for block in find_blocks(unet) for attention in block.attentions)


def rows(recipe: Recipe) -> int:
    """Those that go through the UNet forwards and backwards."""
    return sum(stage.steps * stage.rows for stage in recipe.stages)


def bytes_text(count: int) -> str:
    """In the unit in which it has few digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.{0 if count >= 10 * size else 1}f} {unit}"
    return f"{math.ceil(count)} bytes"
