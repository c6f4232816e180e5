"""Recipes: named training configurations, as data.

A recipe is a list of stages, each with its targets, rank rule, learning rate, steps and batch. What a recipe holds is
what the residual's file keeps, so a training can be done again from its file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ..errors import PersresError

TARGETS = ("proj_out",)


@dataclass(frozen=True)
class Stage:
    """targets: which modules learn. rank: a rule for `residual.rank_of`, such as "0.05m" or "8"."""

    targets: str = "proj_out"
    rank: str = "0.05m"
    steps: int = 150
    batch: int = 4
    learning_rate: float = 1e-3

    def __post_init__(self):
        if self.targets not in TARGETS:
            raise PersresError(f"A stage cannot train {self.targets!r}; its targets can be: {', '.join(TARGETS)}.")
        for name in ("steps", "batch"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise PersresError(f"A stage's {name} must be a whole number of at least 1.")
        if not 0 < self.learning_rate < 1:
            raise PersresError(f"A learning rate must lie between 0 and 1, not {self.learning_rate}.")


@dataclass(frozen=True)
class Recipe:
    """A training configuration.

    template: the fixed prompt; {identifier} and {macro_class} are filled in. crops, flips: further views of each
    image (see `images.crop_views`); flips would teach an asymmetric concept its mirror image. resolution: side of the
    views in pixels; None is the model's own.
    """

    name: str
    about: str
    stages: tuple[Stage, ...] = (Stage(),)
    template: str = "a photo of a {identifier} {macro_class}"
    crops: int = 4
    flips: bool = False
    resolution: int | None = None

    def prompt(self, identifier: str, macro_class: str) -> str:
        try:
            return self.template.format(identifier=identifier, macro_class=macro_class)
        except (KeyError, IndexError, ValueError) as error:
            raise PersresError(
                f"The template {self.template!r} can hold {{identifier}} and {{macro_class}} in braces, nothing else."
            ) from error

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def to_dict(self) -> dict:
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages]}

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        try:
            stages = tuple(Stage(**stage) for stage in values["stages"])
            return cls(**{**values, "stages": stages})
        except (KeyError, TypeError) as error:
            raise PersresError(f"This is not a recipe: {error}.") from error

    def changed(self, **values) -> Recipe:
        """With other values; those of a stage are set in every stage. None leaves a value as it is."""
        values = {name: value for name, value in values.items() if value is not None}
        in_stage = {name: values.pop(name) for name in list(values) if name in Stage.__dataclass_fields__}
        stages = tuple(replace(stage, **in_stage) for stage in self.stages)
        return replace(self, stages=stages, **values)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("paper", "The paper's: 150 steps of 4 images at 1e-3, rank 0.05 m, for SD1, SD2 and SDXL."),
        Recipe(
            "toybox",
            "For the Toybox's small widths, where 0.05 m would be 3 to 10: rank 16, 600 steps at 1e-2.",
            (Stage(rank="16", steps=600, learning_rate=1e-2),),
        ),
    )
}
