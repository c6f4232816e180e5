"""What a recipe learns: the one place where it is made, by the names of `forms`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..metadata import Metadata
from ..targets import EMBEDDING, parts_of
from .embedding import Embedding
from .host import Host
from .learned import Learned
from .low_rank import LowRank
from .recipe import Recipe
from .whole import Full, Orthogonal, Whole

KINDS: dict[str, type[LowRank] | type[Whole]] = {"low-rank": LowRank, "full": Full, "orthogonal": Orthogonal}


def make_learned(
    recipe: Recipe, host: Host, facts: Metadata, prompts: Sequence[str], side: int, generator: torch.Generator
) -> tuple[Learned, ...]:
    """All that a recipe's stages learn, as at the beginning: of the UNet first, then the word's vector.

    prompts: the training's texts, see `texts.prompts_of`. side: of its pictures.
    """
    change = KINDS[recipe.form].of(recipe, host.unet, generator, host.device)
    if EMBEDDING not in parts_of(recipe.targets):
        return (change,)
    return change, Embedding(host, facts.identifier, facts.macro_class, recipe.start, prompts, side)


def numbers(recipe: Recipe, unet: nn.Module, rule: str) -> int:
    """So many numbers of the UNet's targets learn under a rule; nothing is made."""
    return KINDS[recipe.form].numbers(unet, rule, recipe.rank)
