"""What an evaluation compares, as data: trainings, and the methods that sample with what was trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from ..errors import PersresError
from ..training.recipe import Recipe
from ..training.recipes import RECIPES

BASE = "base"
"""The name of the untrained model's pieces and method."""

GIVEN, NEAREST = "given", "nearest"
"""The macro class that the dataset gives, and the noun whose text is nearest to the photos in CLIP (Table 4)."""


@dataclass(frozen=True)
class Training:
    """How a concept is learned. changes: values for `Recipe.changed`.

    without_class: neither the training's template nor the prompts of its pictures hold the macro class (Table 3).
    noun: the macro class that it is trained with, GIVEN or NEAREST. photos: only the first so many; None: all.
    """

    name: str
    recipe: str
    changes: dict = field(default_factory=dict)
    seed: int = 0
    without_class: bool = False
    noun: str = GIVEN
    photos: int | None = None

    def made_recipe(self) -> Recipe:
        if self.recipe not in RECIPES:
            raise PersresError(
                f"The training {self.name!r} names the recipe {self.recipe!r}; there are: {', '.join(RECIPES)}."
            )
        changes = dict(self.changes)
        if self.without_class:
            changes.setdefault("template", "a photo of a {identifier}")
        try:
            recipe = RECIPES[self.recipe].changed(**changes)
            recipe.prompt("", "")
        except (TypeError, PersresError) as error:
            raise PersresError(f"The training {self.name!r} cannot be done: {error}") from error
        return recipe


@dataclass(frozen=True)
class Method:
    """A column of a report. training: None is the base model. concepts: only the first so many; None: all.

    noun: the macro class in the prompts, GIVEN or NEAREST. strength: of the residual, the tag's. unconditional: what
    the unconditional row does under LAG, see `concepts.UNCONDITIONAL`.
    """

    name: str
    training: Training | None
    lag: bool = False
    about: str = ""
    concepts: int | None = None
    noun: str = GIVEN
    strength: float = 1.0
    unconditional: str = "mirror"

    @property
    def piece(self) -> str:
        """The name of the piece that makes its pictures: methods of one training share it."""
        return self.training.name if self.training else BASE

    @property
    def needs_nearest(self) -> bool:
        return NEAREST in (self.noun, self.training.noun if self.training else GIVEN)

    def to_dict(self) -> dict:
        return asdict(self)
