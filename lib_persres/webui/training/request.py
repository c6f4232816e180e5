"""What a training is asked to be: one checked model for the tab, the API and the queue's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from torch import nn

from ...errors import PersresError
from ...filling import fill
from ...metadata import Metadata
from ...names import check_class, check_name, refuse_controls
from ...residual import rank_of
from ...sizes import check_pixels, check_side, params_of
from ...training.estimate import refuse_rank
from ...training.options import RUN, SET, STAGE, Option, Running, option, options_of
from ...training.recipe import Recipe
from ...training.recipes import RECIPES, recipe_of
from ..json_file import encodable
from ..values import name_of, shown

OF_RECIPE = tuple(option for option in SET if option.scope != RUN)
"""Those that are the recipe's unless they are given."""


@dataclass(frozen=True, kw_only=True)
class Queued:
    """What the queue knows besides: how often and with which prompt it draws, whether it replaces a file."""

    preview_every: int = option(
        0, "Preview every … steps", "plain and LAG side by side; 0: none", low=0, high=100_000, empty="a third of them"
    )
    preview_prompt: str = option(
        "", "Preview prompt", "with V* for the concept", high=1000, empty="a photo of a V* and the class"
    )
    overwrite: bool = option(False, "Replace a residual that has this name already")


QUEUED = options_of(Queued, "queue")
OPTIONS = (*SET, *QUEUED)
NAMED = tuple(Option(name=name, annotation="str", high=100) for name in ("concept", "macro_class", "recipe"))
_Values: Any = make_dataclass(
    "_Values",
    [(o.name, o.annotation, field(default=None if o in OF_RECIPE else o.default)) for o in OPTIONS],
    frozen=True,
    kw_only=True,
)


@dataclass(frozen=True)
class Request(_Values):
    """concept, macro_class: what to learn. recipe: a name of RECIPES; "" is toybox for the Toybox's checkpoint, else
    paper. The others are OPTIONS; of those of OF_RECIPE None is the recipe's value.
    """

    concept: str
    macro_class: str
    recipe: str = ""

    def __post_init__(self):
        for each in (*NAMED, *OPTIONS):
            value = getattr(self, each.name)
            if value is None and each in OF_RECIPE:
                continue
            if not each.takes(value) or (isinstance(value, str) and value != encodable(value)):
                _refuse(each.name, value, each.allowed)
        object.__setattr__(self, "concept", check_name(self.concept))
        object.__setattr__(self, "macro_class", check_class(self.macro_class))
        if self.recipe and self.recipe not in RECIPES:
            raise PersresError(f"There is no recipe {self.recipe[:40]!r}; the recipes are {', '.join(RECIPES)}.")
        if self.template is not None:
            fill(self.template, {"identifier": "", "macro_class": ""})
            if not all(word in self.template for word in ("{identifier}", "{macro_class}")):
                raise PersresError(
                    f"The template {self.template[:60]!r} must hold {{identifier}} and {{macro_class}}: "
                    "they become V* and the class."
                )
        refuse_controls(self.preview_prompt, "preview's prompt")
        if self.resolution is not None:
            self._check_pixels(self.resolution)
        if self.rank is not None:
            rank_of(self.rank, 320)
        if self.recipe:
            RECIPES[self.recipe].refuse_in_stages({name: name for name in self._given()})
        problems = []
        names = [self.recipe] if self.recipe else list(RECIPES)
        for name in names:  # a value that no recipe takes is told now, not by the queue
            try:
                self.recipe_for(name)
            except PersresError as error:
                problems.append(error)
        if len(problems) == len(names):
            raise problems[0]

    def _check_pixels(self, side: int) -> None:
        recipe = recipe_of(self.recipe, False)
        rows = self.batch or max(stage.rows for stage in recipe.stages)
        check_pixels(min(rows, self.micro_batch or rows), side, side, "rows of a step", "the batch or the resolution")
        crops = recipe.crops if self.crops is None else self.crops
        views = (1 + crops) * (1 + bool(recipe.flips if self.flips is None else self.flips))
        check_pixels(views, side, side, "views of a photo", "the crops or the resolution")

    def recipe_for(self, name: str) -> Recipe:
        """The recipe of this name, with this request's values."""
        return RECIPES[name].changed(**self._given())

    def _given(self) -> dict:
        """What the recipe has otherwise."""
        values = {each.name: getattr(self, each.name) for each in OF_RECIPE}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def running(self) -> Running:
        return Running(**{each.name: getattr(self, each.name) for each in SET if each.scope == RUN})

    def refuse_unfit(self, unet: nn.Module, side: int) -> None:
        """PersresError for values that this UNet cannot follow. side: of the pictures that it was trained on."""
        if self.resolution is not None:
            check_side(params_of(unet), self.resolution, "The resolution")
        self._check_pixels(self.resolution or side)
        if self.rank is not None:
            refuse_rank(self.rank, self.targets or recipe_of(self.recipe, False).targets, unet)

    def refuse_class_images(self) -> None:
        """PersresError unless the recipe learns beside pictures of the class."""
        if not self.recipe or not RECIPES[self.recipe].keeps_class:
            keeping = ", ".join(name for name, recipe in RECIPES.items() if recipe.keeps_class)
            raise PersresError(
                f"The recipe {self.recipe or 'of the loaded model'} has no use for pictures of the class: leave them "
                f"out, or take one that keeps the class ({keeping})."
            )

    def to_dict(self) -> dict:
        return {each.name: getattr(self, each.name) for each in (*NAMED, *OPTIONS)}

    @classmethod
    def from_dict(cls, values: Mapping) -> Request:
        if not isinstance(values, Mapping):
            raise PersresError('A training\'s settings must be named values, such as {"concept": "rex"}.')
        names = [each.name for each in (*NAMED, *OPTIONS)]
        unknown = sorted(name_of(key) for key in values if key not in names)
        if unknown:
            raise PersresError(f"A training does not know {', '.join(unknown)[:100]}; it knows {', '.join(names)}.")
        for name in ("concept", "macro_class"):
            if values.get(name) in (None, ""):
                what = "a name" if name == "concept" else 'a class, the plain noun for it, as "dog"'
                raise PersresError(f"The concept needs {what} ({name}).")
        defaults = {field.name: field.default for field in fields(cls)}
        values = {name: defaults[name] if value is None else value for name, value in values.items()}
        if type(values.get("rank")) in (int, float):
            if not abs(values["rank"]) < 1e9:  # Python refuses to write thousands of digits
                _refuse("rank", values["rank"], "a part of the width like 0.05m or a whole number like 8")
            values["rank"] = str(values["rank"])
        return cls(**values)

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> Request:
        """The settings that a finished residual was trained with, as its file tells them."""
        recipe = Recipe.from_dict(metadata.recipe) if metadata.recipe else None
        if recipe is None or recipe.name not in RECIPES:
            known = "no recipe" if recipe is None else f"the recipe {recipe.name[:40]!r}, which is not known here"
            raise PersresError(f'The file of "{metadata.concept}" names {known}.')
        own = RECIPES[recipe.name]
        values = {}
        for each in OF_RECIPE:
            staged = each.scope == STAGE
            theirs, ours = (getattr(r.stages[0] if staged else r, each.name) for r in (recipe, own))
            if theirs != ours and not (each.apart and len(own.stages) > 1):
                values[each.name] = theirs
        request = cls(metadata.concept, metadata.macro_class, recipe.name, **values, seed=metadata.seed or 0)
        if request.recipe_for(recipe.name) != recipe:
            raise PersresError(
                f'The file of "{metadata.concept}" was trained with values of the recipe {recipe.name} '
                "that cannot be set here."
            )
        return request


def _refuse(name: str, value, allowed: str):
    raise PersresError(f"The training's {name} is {shown(value)}; allowed is {allowed}.")
