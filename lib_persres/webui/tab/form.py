"""The training tab's fields as text: read into a request's values, filled from a residual's file, kept as presets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import PersresError
from ...metadata import Metadata
from ...training.precision import PRECISIONS
from ...training.recipe import OF_STAGES, TARGETS, Recipe
from ...training.recipes import RECIPES
from ..recipes import describe
from ..training.request import Request

AUTOMATIC = "automatic"
"""The recipe of the loaded model: the Toybox's for the Toybox, else the paper's."""
AS_RECIPE = "as the recipe"
CHOICES = {
    "flips": {AS_RECIPE: None, "yes": True, "no": False},
    "targets": {AS_RECIPE: None, **{name: name for name in TARGETS}},
    "precision": {AUTOMATIC: "", **{name: name for name in PRECISIONS}},
}
"""Inputs with a list: what is shown -> the request's value; the first is the default."""


@dataclass(frozen=True)
class Field:
    """An input of the advanced settings; empty, it leaves the recipe's or the model's own value."""

    name: str
    label: str
    kind: type
    hint: str = ""


FIELDS = (
    Field("steps", "Steps", int),
    Field("batch", "Batch", int),
    Field("learning_rate", "Learning rate", float),
    Field("rank", "Rank", str, "a part of the width as 0.05m, or a number as 8"),
    Field("crops", "Random crops of each image", int),
    Field("template", "Template", str, "{identifier} stands for V*, {macro_class} for the class"),
    Field("resolution", "Resolution", int, "side in pixels"),
    Field("micro_batch", "Micro-batch", int, "images at a time, for less memory and the same result"),
)
SETTINGS = (
    *("recipe", "steps", "batch", "learning_rate", "rank", "targets", "crops", "flips", "template", "resolution"),
    *("seed", "micro_batch", "shrink", "precision", "checkpointing", "preview_every", "preview_prompt"),
)
"""What a preset holds: all but the concept itself."""


def read(values: Mapping[str, Any]) -> dict[str, Any]:
    """A request's values from the inputs' own; PersresError names the input that is not understood."""
    found = dict(values)
    for field in FIELDS:
        found[field.name] = _read(field, values.get(field.name))
    for name in ("concept", "macro_class", "preview_prompt"):
        found[name] = str(values.get(name) or "").strip()
    found["recipe"] = "" if values.get("recipe") in (None, "", AUTOMATIC) else values["recipe"]
    for name, choices in CHOICES.items():
        # what is not in the list, as of an older preset, is refused by the request in its words
        found[name] = choices.get(values.get(name) or next(iter(choices)), values.get(name))
    found["seed"] = _read(Field("seed", "Seed", int), values.get("seed")) or 0
    found["preview_every"] = _read(Field("preview_every", "Preview every", int), values.get("preview_every")) or 0
    if lacks := missing(found, images=1):
        raise PersresError(lacks)
    return found


def request_of(values: Mapping[str, Any], is_toybox: bool) -> Request:
    """What the inputs ask for; where they do not say how often, with previews."""
    request = Request(**read(values))
    if str(values.get("preview_every") or "").strip():
        return request
    steps = request.recipe_for(recipe_of(request.recipe, is_toybox).name).steps
    return replace(request, preview_every=preview_every(steps))


def _read(field: Field, value):
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        if field.kind is int:
            return int(text.removesuffix(".0"))
        return field.kind(text.replace(",", ".") if field.kind is float else text)
    except ValueError as error:
        what = "a whole number" if field.kind is int else "a number such as 0.001"
        raise PersresError(f'{field.label} must be {what}, not "{text[:40]}"; empty takes the default.') from error


def recipe_of(choice: str | None, is_toybox: bool) -> Recipe:
    if choice in RECIPES:
        return RECIPES[choice]
    return RECIPES["toybox" if is_toybox else "paper"]


def about(choice: str | None, recipe: Recipe, *told) -> list[str]:
    """Sentences about what is chosen. recipe: with the values of the inputs. told: see `describe`."""
    start = [] if choice in RECIPES else [f"By the loaded model, now {recipe.name}."]
    return start + describe(recipe, *told)


def missing(values: Mapping[str, Any], images: int) -> str:
    """A sentence that names all that a training lacks; "" where it lacks nothing."""
    there = {
        "photos": (images, "drop a few photos of the thing"),
        "a name": (str(values.get("concept") or "").strip(), "name it, as rex"),
        "a class": (str(values.get("macro_class") or "").strip(), 'say what kind of thing it is, as "dog"'),
    }
    lacks = [name for name, (found, _) in there.items() if not found]
    if not lacks:
        return ""
    what = lacks[0] if len(lacks) == 1 else f"{', '.join(lacks[:-1])} and {lacks[-1]}"
    verb = "is" if len(lacks) == 1 and lacks[0] != "photos" else "are"
    return f"{what[0].upper()}{what[1:]} {verb} missing: {'; '.join(there[name][1] for name in lacks)}."


def preview_every(steps: int) -> int:
    """Three previews in a training: of the paper's recipe they cost an eighth of its time."""
    return max(1, math.ceil(steps / 3))


def fixed(recipe: Recipe) -> tuple[str, ...]:
    """The inputs that the recipe does not leave to the user: each of its stages has its own."""
    return OF_STAGES if len(recipe.stages) > 1 else ()


def unset(name: str) -> str:
    """What an input holds that leaves the value to the recipe."""
    return next(iter(CHOICES[name])) if name in CHOICES else ""


def placeholders(recipe: Recipe, resolution: int | None) -> dict[str, str]:
    """What each empty field means now."""
    stages = recipe.stages

    def shown(name):
        return ", then ".join(dict.fromkeys(str(getattr(stage, name)) for stage in stages))

    return {
        **{name: shown(name) for name in ("steps", "batch", "learning_rate", "rank")},
        "crops": str(recipe.crops),
        "template": recipe.template,
        "resolution": str(recipe.resolution or resolution or "the model's own"),
        "micro_batch": "the whole batch",
    }


def from_file(metadata: Metadata) -> dict[str, Any]:
    """The inputs' values that train again as a residual was trained."""
    request = Request.from_metadata(metadata)
    shown = {field.name: getattr(request, field.name) for field in FIELDS}
    shown = {name: "" if value is None else str(value) for name, value in shown.items()}
    chosen = {
        name: next(text for text, value in CHOICES[name].items() if value == getattr(request, name))
        for name in ("flips", "targets")
    }
    kept = {name: getattr(request, name) for name in ("concept", "macro_class", "recipe")}
    return {**shown, **kept, **chosen, "seed": str(request.seed)}


def tag_prompt(name: str, macro_class: str) -> str:
    """The prompt that draws a trained concept."""
    return f"<persres:{name}:1.0> a photo of a V* {macro_class}"


def preset_name(text: str | None) -> str:
    name = (text or "").strip()
    if not re.fullmatch(r"[\w][\w .-]{0,59}", name) or name in RECIPES or name == AUTOMATIC:
        raise PersresError(
            f"A preset cannot be called {name[:40]!r}: give it a name of its own, of up to 60 letters, digits, "
            "spaces, dots, - or _."
        )
    return name
