"""What the tab says of a recipe: what it is good at, what learns in which stage, what it takes on the loaded model."""

from __future__ import annotations

from torch import nn

from ..errors import PersresError
from ..targets import parts_of
from ..training.estimate import Estimate, bytes_text, estimate
from ..training.recipe import Recipe

PLAIN = {
    "embedding": "the word V* itself",
    "proj_in": "the blocks' input projections",
    "attn1": "self-attention",
    "kv": "keys and values",
    "attn2": "cross-attention",
    "proj_out": "the blocks' output projections",
    "unet": "the whole UNet",
}
"""What a target is called for users."""
FORMS = {"low-rank": "", "full": ", as whole matrices", "orthogonal": ", as rotations"}


def learns(recipe: Recipe) -> str:
    """"3 stages: the word V* itself (60 steps), then …"."""
    parts = [
        " and ".join(PLAIN[part] for part in parts_of(stage.targets)) + f" ({stage.steps} steps)"
        for stage in recipe.stages
    ]
    count = f"{len(parts)} stages" if len(parts) > 1 else "One stage"
    return f"{count}: {', then '.join(parts)}{FORMS[recipe.form]}."


def takes(recipe: Recipe, told: Estimate) -> str:
    """Time against the recipe "paper", memory and the file."""
    time = "the time of paper" if told.work == 1 else f"about {times(told.work)} the time of paper"
    return (
        f"{time[0].upper()}{time[1:]}; {bytes_text(told.memory)} of memory for what learns, its gradients and moments, "
        f"beside the model and its activations; a file of {bytes_text(told.file)}."
    )


def times(work: float) -> str:
    return f"{work:.0f} times" if work >= 10 else f"{work:.1f} times"


def class_pictures(recipe: Recipe) -> str:
    """Where they come from; "" for a recipe that has no use for them."""
    if not recipe.keeps_class:
        return ""
    return (
        f"It learns beside pictures of other things of the class: give some below, or the model first draws "
        f"{recipe.class_images} of its own, which takes a while."
    )


def describe(recipe: Recipe, unet: nn.Module | None) -> list[str]:
    """Sentences. unet: the loaded model's; None: what it takes cannot be told."""
    found = [recipe.about, learns(recipe)]
    if unet is not None:
        try:
            found.append(takes(recipe, estimate(recipe, unet)))
        except PersresError as error:
            found.append(str(error))
    return [sentence for sentence in (*found, class_pictures(recipe)) if sentence]
