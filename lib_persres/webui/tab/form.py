"""The training tab's fields as text: read into a request's values, filled from a residual's file, kept as presets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ...errors import PersresError
from ...metadata import Metadata
from ...training import recipes
from ...training.options import RECIPE, SET, STAGE, Option
from ...training.recipe import Recipe
from ...training.recipes import RECIPES
from ..recipes import describe
from ..training.request import OF_RECIPE, OPTIONS, Request

AUTOMATIC = "automatic"
"""The recipe of the loaded model: the Toybox's for the Toybox, else the paper's."""
AS_RECIPE = "as the recipe"
IN_A_ROW = 3
WIDE = 100
"""A text of more characters has a row of its own."""


def _choices(option: Option) -> dict[str, Any]:
    """What a list shows -> the request's value; the first is the default. Empty for what has no list."""
    if option in OF_RECIPE:
        if option.kind is bool:
            return {AS_RECIPE: None, "yes": True, "no": False}
        names = option.choices or option.offered
        return {AS_RECIPE: None, **{name: name for name in names}} if names else {}
    return {AUTOMATIC: "", **{name: name for name in option.choices}} if option.choices else {}


CHOICES = {option.name: known for option in OPTIONS if (known := _choices(option))}
"""Inputs with a list."""
SWITCHES = tuple(option for option in OPTIONS if option.kind is bool and option.name not in CHOICES)
"""Inputs that are ticked or not."""
FIELDS = tuple(option for option in OPTIONS if option.name not in CHOICES and option not in SWITCHES)
"""Inputs for text: empty, they leave the recipe's, the model's or the usual value."""
SETTINGS = ("recipe", *(option.name for option in OPTIONS if option.name != "overwrite"))
"""What a preset holds: all but the concept itself."""


def rows() -> list[list[Option]]:
    """All inputs as they stand beside and below each other."""
    found: list[list[Option]] = []
    for option in OPTIONS:
        begins = not found or len(found[-1]) == IN_A_ROW or found[-1][0].scope != option.scope
        if begins or any(each.kind is str and each.high > WIDE for each in (option, found[-1][0])):
            found.append([])
        found[-1].append(option)
    return found


def read(values: Mapping[str, Any]) -> dict[str, Any]:
    """A request's values from the inputs' own; PersresError names the input that is not understood."""
    found = dict(values)
    for option in FIELDS:
        value = _read(option, values.get(option.name))
        found[option.name] = option.default if value is None and option not in OF_RECIPE else value
    for name in ("concept", "macro_class"):
        found[name] = str(values.get(name) or "").strip()
    found["recipe"] = "" if values.get("recipe") in (None, "", AUTOMATIC) else values["recipe"]
    for name, choices in CHOICES.items():
        # what is not in the list, as of an older preset, is refused by the request in its words
        found[name] = choices.get(values.get(name) or next(iter(choices)), values.get(name))
    if lacks := missing(found, images=1):
        raise PersresError(lacks)
    return found


def request_of(values: Mapping[str, Any], is_toybox: bool) -> Request:
    """What the inputs ask for; where they do not say how often, with previews."""
    found = read(values)
    request = Request(**found)
    if str(values.get("preview_every") or "").strip():
        return request
    steps = request.recipe_for(recipe_of(request.recipe, is_toybox).name).steps
    return Request(**{**found, "preview_every": preview_every(steps)})


def _read(option: Option, value):
    text = "" if value is None else str(value).strip()
    if not text:
        return None
    try:
        if option.kind is int:
            return int(text.removesuffix(".0"))
        return option.kind(text.replace(",", ".") if option.kind is float else text)
    except ValueError as error:
        what = "a whole number" if option.kind is int else "a number such as 0.001"
        raise PersresError(f'{option.label} must be {what}, not "{text[:40]}"; empty takes the default.') from error


def recipe_of(choice: str | None, is_toybox: bool) -> Recipe:
    return recipes.recipe_of(choice if choice in RECIPES else "", is_toybox)


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
    return tuple(option.name for option in OF_RECIPE if option.apart) if len(recipe.stages) > 1 else ()


def unset(name: str) -> str:
    """What an input holds that leaves the value to the recipe."""
    return next(iter(CHOICES[name])) if name in CHOICES else ""


def placeholders(recipe: Recipe, resolution: int | None) -> dict[str, str]:
    """What each empty field means now."""
    shown = {option.name: option.empty or str(option.default) for option in FIELDS}
    for option in FIELDS:
        if option.scope == STAGE:
            own = (str(getattr(stage, option.name)) for stage in recipe.stages)
            shown[option.name] = ", then ".join(dict.fromkeys(own))
        elif option.scope == RECIPE and getattr(recipe, option.name) is not None:
            shown[option.name] = str(getattr(recipe, option.name))
    if recipe.resolution is None and resolution:
        shown["resolution"] = str(resolution)
    return shown


def from_file(metadata: Metadata) -> dict[str, Any]:
    """The inputs' values that train again as a residual was trained."""
    request = Request.from_metadata(metadata)
    shown = {name: getattr(request, name) for name in ("concept", "macro_class", "recipe")}
    for option in SET:
        value = getattr(request, option.name)
        if option in FIELDS:
            shown[option.name] = "" if value is None else str(value)
        elif option in OF_RECIPE:
            shown[option.name] = next(text for text, known in CHOICES[option.name].items() if known == value)
    return shown


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
