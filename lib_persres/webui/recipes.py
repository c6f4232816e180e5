"""What the tab says of a recipe: what it is good at, what learns in which stage, what it takes on the loaded model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from ..errors import PersresError
from ..residual import rank_of
from ..targets import parts_of
from ..training.estimate import Estimate, bytes_text, estimate
from ..training.forms import FORMS
from ..training.recipe import Recipe
from ..training.recipes import RECIPES
from ..unet import find_targets
from .training.pace import in_words, seconds

RECOMMENDED = ("paper", "word-first")
ENOUGH, ADVISED = 3, 8
"""The lowest rank that is not warned of, and the one that is advised instead."""
PLAIN = {
    "embedding": "the word V* itself",
    "proj_in": "the blocks' input projections",
    "attn1": "self-attention",
    "kv": "keys and values",
    "attn2": "cross-attention",
    "ff": "feed-forward",
    "proj_out": "the blocks' output projections",
    "unet": "the whole UNet",
}
"""What a target is called for users."""


def choices(automatic: str) -> list[str]:
    """What a list of the recipes shows, by groups. automatic: the choice by the loaded model."""
    first = (*RECOMMENDED, "toybox")
    return [shown_as(name) for name in (automatic, *first, *(name for name in RECIPES if name not in first))]


def shown_as(name: str) -> str:
    """A name with its group behind it; gradio's lists have no groups of their own."""
    if name == "toybox":
        return f"{name} (for the Toybox alone)"
    return f"{name} ({'comparison' if name in RECIPES and name not in RECOMMENDED else 'recommended'})"


def name_in(shown: str | None) -> str:
    """The inverse of `shown_as`; a name alone is itself."""
    return (shown or "").partition(" (")[0]


def learns(recipe: Recipe) -> str:
    """ "3 stages: the word V* itself (60 steps), then …"."""
    parts = [f"{targets_in_words(stage.targets)} ({stage.steps} steps)" for stage in recipe.stages]
    count = f"{len(parts)} stages" if len(parts) > 1 else "One stage"
    return f"{count}: {', then '.join(parts)}{FORMS[recipe.form].words}."


def targets_in_words(rule: str) -> str:
    return " and ".join(PLAIN[part] for part in parts_of(rule))


def recipe_in_words(recipe: Recipe) -> str:
    rates = ", then ".join(f"{stage.batch} images a step at {stage.learning_rate:g}" for stage in recipe.stages)
    return f"{recipe.name}. {learns(recipe)} {rates}."


def takes(told: Estimate) -> str:
    """Memory and the file."""
    return (
        f"Takes {bytes_text(told.memory)} of memory for what learns, its gradients and moments, beside the model and "
        f"its activations; a file of {bytes_text(told.file)}."
    )


def lasts(told: Estimate, seconds: float | None) -> str:
    """seconds: None where this machine has trained nothing yet on such a model."""
    if seconds is not None:
        return f"Lasts {in_words(seconds)} here, by the last training on such a model; previews come to it."
    work = "" if told.work == 1 else f"; it is {times(told.work)} the work of the recipe paper"
    return f"How long it lasts here is measured in its first steps, and shown from then on{work}."


def times(work: float) -> str:
    return f"{work:.0f} times" if work >= 10 else f"{work:.1f} times"


def weak_rank(recipe: Recipe, unet: nn.Module | None) -> str:
    """A sentence where the rank comes out too low to learn a concept; "" where it does not."""
    if unet is None or not recipe.is_low_rank:
        return ""
    try:
        ranks = [rank_of(recipe.rank, min(target.widths)) for target in find_targets(unet, recipe.targets)]
    except PersresError:
        return ""  # told elsewhere
    if not ranks or min(ranks) >= ENOUGH:
        return ""
    return (
        f"The rank {recipe.rank} comes out at {min(ranks)} in the narrowest layers of this model: such a training ends "
        f"well and has learned almost nothing. Set Rank to {ADVISED} under Advanced."
    )


def class_pictures(recipe: Recipe) -> str:
    """Where they come from; "" for a recipe that has no use for them."""
    if not recipe.keeps_class:
        return ""
    return (
        f"It learns beside pictures of other things of the class: give some below, or the model first draws "
        f"{recipe.class_images} of its own, which takes a while."
    )


def describe(
    recipe: Recipe, unet: nn.Module | None = None, side: int | None = None, trainings: Sequence[Mapping] = ()
) -> list[str]:
    """Sentences. unet: the loaded model's; None: what it takes cannot be told. side: of the pictures; trainings: by
    which the time is told, see `training_time`."""
    found = [recipe.about, learns(recipe)]
    if unet is not None:
        try:
            told = estimate(recipe, unet)
            found.append(lasts(told, side and seconds(recipe, told, side, unet, trainings)))
            found.append(takes(told))
        except PersresError as error:
            found.append(str(error))
    return [sentence for sentence in (*found, class_pictures(recipe)) if sentence]
