"""What each recipe learns and takes on SD1, computed on a UNet without weights."""

from __future__ import annotations

import json
from dataclasses import asdict

from ..training.recipes import RECIPES

HEAD = ("recipe", "what learns", "good at", "work", "memory", "file")


def estimates() -> dict:
    """By the recipe's name."""
    import torch

    from ..standalone.full_sizes import SD1_UNET
    from ..standalone.modules import build_unet
    from ..training.estimate import estimate

    with torch.device("meta"):
        unet = build_unet(SD1_UNET)
    return {name: estimate(recipe, unet) for name, recipe in RECIPES.items()}


def as_json() -> str:
    """An object a line."""
    return "\n".join(json.dumps({"recipe": name, **asdict(told)}) for name, told in estimates().items())


def as_text() -> str:
    """A table in Markdown."""
    from ..training.estimate import bytes_text

    rows = [HEAD, ("---",) * len(HEAD)]
    for name, told in estimates().items():
        recipe = RECIPES[name]
        learns = ", then ".join(f"{stage.targets} ({stage.steps})" for stage in recipe.stages)
        form = "" if recipe.is_low_rank else f"; {recipe.form}"
        pictures = f" + {recipe.class_images} pictures" if told.drawing else ""
        rows.append(
            (
                f"`{name}`",
                f"{learns}{form}",
                recipe.about,
                f"{told.work:.1f}{pictures}",
                bytes_text(told.memory),
                bytes_text(told.file),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
