"""What a training is asked to be: one checked model for the tab, the API and the queue's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from torch import nn

from ...errors import PersresError
from ...filling import fill
from ...metadata import Metadata
from ...names import check_class, check_name, refuse_controls
from ...residual import rank_of
from ...training.estimate import refuse_rank
from ...training.precision import PRECISIONS
from ...training.recipe import OF_STAGES, Recipe
from ...training.recipes import RECIPES
from ...training.sizes import check_pixels, check_side, default_resolution, params_of
from ..json_file import encodable
from ..values import name_of, shown

OF_RECIPE = ("steps", "batch", "learning_rate", "rank", "targets", "crops", "flips", "template")
WHOLE = {
    "steps": (1, 100_000),
    "batch": (1, 64),
    "crops": (0, 100),
    "resolution": (8, 2048),
    "seed": (0, 2**63 - 1),
    "micro_batch": (1, 64),
    "preview_every": (0, 100_000),
}
TEXTS = {
    **{"concept": 100, "macro_class": 100, "recipe": 100, "rank": 20, "targets": 100, "template": 300},
    **{"precision": 20, "preview_prompt": 1000},
}
SWITCHES = ("flips", "shrink", "checkpointing", "overwrite")


@dataclass(frozen=True)
class Request:
    """recipe: a name of RECIPES; "" is toybox for the Toybox's checkpoint, else paper. None: the recipe's value.

    resolution: None is the model's own. micro_batch, shrink, precision, checkpointing: ways to run, see `Trainer`;
    precision "" is as the model's weights are. preview_every: 0 is never. preview_prompt: "" is the recipe's with V*.
    overwrite: replace a file of this name.
    """

    concept: str
    macro_class: str
    recipe: str = ""
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    rank: str | None = None
    targets: str | None = None
    crops: int | None = None
    flips: bool | None = None
    template: str | None = None
    resolution: int | None = None
    seed: int = 0
    micro_batch: int | None = None
    shrink: bool = True
    precision: str = ""
    checkpointing: bool = False
    preview_every: int = 0
    preview_prompt: str = ""
    overwrite: bool = False

    def __post_init__(self):
        defaults = {field.name: field.default for field in fields(self)}
        for name in (*WHOLE, *TEXTS, *SWITCHES, "learning_rate"):
            if getattr(self, name) is not None or defaults[name] is not None:
                self._check(name, getattr(self, name))
        object.__setattr__(self, "concept", check_name(self.concept))
        object.__setattr__(self, "macro_class", check_class(self.macro_class))
        if self.recipe and self.recipe not in RECIPES:
            raise PersresError(f"There is no recipe {self.recipe[:40]!r}; the recipes are {', '.join(RECIPES)}.")
        if self.precision not in ("", *PRECISIONS):
            _refuse("precision", self.precision, f'"" for automatic, or {", ".join(PRECISIONS)}')
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
            RECIPES[self.recipe].refuse_in_stages({name: name for name in OF_RECIPE if getattr(self, name) is not None})
        problems = []
        names = [self.recipe] if self.recipe else list(RECIPES)
        for name in names:  # a value that no recipe takes is told now, not by the queue
            try:
                self.recipe_for(name)
            except PersresError as error:
                problems.append(error)
        if len(problems) == len(names):
            raise problems[0]

    def _check(self, name: str, value) -> None:
        if name in WHOLE:
            low, high = WHOLE[name]
            if type(value) is not int or not low <= value <= high:
                _refuse(name, value, f"a whole number from {low} to {high}")
        elif name in SWITCHES:
            if type(value) is not bool:
                _refuse(name, value, "true or false")
        elif name in TEXTS:
            if not isinstance(value, str) or len(value) > TEXTS[name] or value != encodable(value):
                _refuse(name, value, f"a text of up to {TEXTS[name]} characters")
        elif type(value) not in (int, float) or not abs(value) < 1e9:
            _refuse(name, value, "a number such as 0.001")

    def _check_pixels(self, side: int) -> None:
        recipe = RECIPES[self.recipe or "paper"]
        rows = self.batch or max(stage.rows for stage in recipe.stages)
        check_pixels(min(rows, self.micro_batch or rows), side, side, "rows of a step", "the batch or the resolution")
        crops = recipe.crops if self.crops is None else self.crops
        views = (1 + crops) * (1 + bool(recipe.flips if self.flips is None else self.flips))
        check_pixels(views, side, side, "views of a photo", "the crops or the resolution")

    def recipe_for(self, name: str) -> Recipe:
        """The recipe of this name, with this request's values."""
        return RECIPES[name].changed(**{key: getattr(self, key) for key in OF_RECIPE})

    def refuse_unfit(self, unet: nn.Module) -> None:
        """PersresError for values that this UNet cannot follow."""
        if self.resolution is not None:
            check_side(params_of(unet), self.resolution, "The resolution")
        self._check_pixels(self.resolution or default_resolution(params_of(unet)))
        if self.rank is not None:
            refuse_rank(self.rank, self.targets or RECIPES[self.recipe or "paper"].targets, unet)

    def refuse_class_images(self) -> None:
        """PersresError unless the recipe learns beside pictures of the class."""
        if not self.recipe or not RECIPES[self.recipe].keeps_class:
            keeping = ", ".join(name for name, recipe in RECIPES.items() if recipe.keeps_class)
            raise PersresError(
                f'The recipe {self.recipe or "of the loaded model"} has no use for pictures of the class: leave them '
                f"out, or take one that keeps the class ({keeping})."
            )

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> Request:
        if not isinstance(values, Mapping):
            raise PersresError('A training\'s settings must be named values, such as {"concept": "rex"}.')
        names = [field.name for field in fields(cls)]
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
            if not abs(values["rank"]) < 10 ** TEXTS["rank"]:  # Python refuses to write thousands of digits
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
        values, own_to_stages = {}, OF_STAGES if len(own.stages) > 1 else ()
        for name in OF_RECIPE:
            theirs, ours = (getattr(r.stages[0] if hasattr(r.stages[0], name) else r, name) for r in (recipe, own))
            values[name] = None if theirs == ours or name in own_to_stages else theirs
        request = cls(
            metadata.concept,
            metadata.macro_class,
            recipe.name,
            **values,
            resolution=recipe.resolution,
            seed=metadata.seed or 0,
        )
        if request.recipe_for(recipe.name).changed(resolution=recipe.resolution) != recipe:
            raise PersresError(
                f'The file of "{metadata.concept}" was trained with values of the recipe {recipe.name} '
                "that cannot be set here."
            )
        return request


def _refuse(name: str, value, allowed: str):
    raise PersresError(f"The training's {name} is {shown(value)}; allowed is {allowed}.")
