"""Recipes: named training configurations, as data.

A recipe is a list of stages, each with its targets, rank rule, learning rate, steps and batch. What a recipe holds is
what the residual's file keeps, so a training can be done again from its file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ..errors import PersresError
from ..targets import canonical

TARGETS = ("proj_out", "proj_in", "kv", "kv+proj_out", "proj_in+kv+proj_out")
"""The rules for targets that a form offers: the paper's ablations. A stage may have any other, too."""


@dataclass(frozen=True)
class Stage:
    """targets: which modules learn, see `targets`. rank: a rule for `residual.rank_of`, such as "0.05m" or "8".

    The paper has none of these: decay, the learning rate falls linearly to 0. t_power, timesteps are drawn with density
    ∝ t^t_power: above 0 high noise counts more, where layouts are decided. localized, so many of the batch's rows learn
    under LAG, where the concept's median mask is. keep, so many rows more have the empty prompt, with which the
    residual is to predict what the base model does; their error counts keep_weight times.
    """

    targets: str = "proj_out"
    rank: str = "0.05m"
    steps: int = 150
    batch: int = 4
    learning_rate: float = 1e-3
    decay: bool = False
    t_power: float = 0.0
    localized: int = 0
    keep: int = 0
    keep_weight: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "targets", canonical(self.targets))
        for name in ("steps", "batch"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise PersresError(f"A stage's {name} must be a whole number of at least 1.")
        if not 0 < self.learning_rate < 1:
            raise PersresError(f"A learning rate must lie between 0 and 1, not {self.learning_rate}.")
        for name, most in (("t_power", 10), ("keep_weight", 100)):
            if not isinstance(getattr(self, name), (int, float)) or not 0 <= getattr(self, name) <= most:
                raise PersresError(f"A stage's {name} must lie between 0 and {most}, not {getattr(self, name)}.")
        for name in ("localized", "keep"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise PersresError(f"A stage's {name} must be a number of rows, not {getattr(self, name)}.")
        if self.localized > self.batch:
            raise PersresError(f"A stage of batch {self.batch} cannot have {self.localized} localized rows.")


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
            "For the Toybox's small widths: rank 16, 600 steps at 2e-2 and falling, half of it under LAG.",
            (
                Stage(
                    rank="16",
                    steps=600,
                    learning_rate=2e-2,
                    decay=True,
                    t_power=1.0,
                    localized=2,
                    keep=1,
                    keep_weight=0.15,
                ),
            ),
        ),
    )
}
