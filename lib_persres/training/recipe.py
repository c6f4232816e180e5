"""What a recipe is: a named training configuration, as data.

A recipe is a list of stages, each with its targets, rank rule, learning rate, steps and batch. What a recipe holds is
what the residual's file keeps, so a training can be done again from its file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from ..errors import PersresError
from ..filling import fill
from ..metadata import Metadata
from ..names import refuse_controls
from ..targets import EMBEDDING, canonical, parts_of, together
from .forms import FORMS
from .options import RECIPE_OPTIONS, STAGE_OPTIONS, OfRecipe, OfStage, Option


def _check(item: Any, options: Sequence[Option], what: str) -> None:
    """PersresError for a value that is none of its option's; these come from files, too."""
    for option in options:
        value = getattr(item, option.name)
        if not option.takes(value):
            shown = repr(value)[:60] if isinstance(value, (str, float)) else _whole(value)
            be = "can be" if option.choices else "must be"
            raise PersresError(f"{what}'s {option.label.lower() or option.name} {be} {option.allowed}, not {shown}.")


def _whole(value: object) -> str:
    return str(value) if type(value) is int and abs(value) < 10**20 else f"of the kind {type(value).__name__}"


@dataclass(frozen=True)
class Stage(OfStage):
    """See `options.OfStage` for its values."""

    def __post_init__(self) -> None:
        rank: Any = self.rank  # a file may have a number
        if type(rank) in (int, float) and abs(rank) < 1e9:
            object.__setattr__(self, "rank", str(rank))
        _check(self, STAGE_OPTIONS, "A stage")
        object.__setattr__(self, "targets", canonical(self.targets))
        if self.localized > self.batch:
            raise PersresError(f"A stage of batch {self.batch} cannot have {self.localized} localized rows.")

    @property
    def rows(self) -> int:
        """Of a step."""
        return self.batch + self.prior + self.keep

    @property
    def learns_embedding(self) -> bool:
        return EMBEDDING in parts_of(self.targets)

    @property
    def compares_maps(self) -> bool:
        return self.map_mean > 0 or self.map_variance > 0


@dataclass(frozen=True)
class Recipe(OfRecipe):
    """A training configuration; see `options.OfRecipe` for its other values."""

    name: str
    about: str
    stages: tuple[Stage, ...] = (Stage(),)

    def __post_init__(self) -> None:
        _check(self, RECIPE_OPTIONS, "A recipe")
        if not (isinstance(self.name, str) and isinstance(self.about, str) and isinstance(self.stages, tuple)):
            raise PersresError("A recipe's name and about must be texts, its stages a tuple.")
        check_template(self.template)
        if not self.stages:
            raise PersresError(f"The recipe {self.name} has no stages.")
        if len({str(stage.rank) for stage in self.stages}) > 1:
            raise PersresError(f"The stages of recipe {self.name} must agree in their rank.")
        if not self.is_low_rank and any(stage.localized for stage in self.stages):
            raise PersresError(f"Recipe {self.name} learns {self.form} changes, which LAG cannot confine.")
        if not all(map(FORMS[self.form].can_change, parts_of(self.targets))):
            raise PersresError(f"Recipe {self.name} rotates inputs of attentions alone: attn1, kv and attn2.")

    @property
    def is_low_rank(self) -> bool:
        return FORMS[self.form].low_rank

    @property
    def targets(self) -> str:
        """The rule of all that any stage learns."""
        return together(stage.targets for stage in self.stages)

    @property
    def rank(self) -> str:
        return self.stages[0].rank

    def prompt(self, identifier: str, macro_class: str) -> str:
        return fill(self.template, {"identifier": identifier, "macro_class": macro_class})

    def class_prompt(self, macro_class: str) -> str:
        """The prompt without the identifier."""
        return " ".join(self.prompt("", macro_class).split())

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def keeps_class(self) -> bool:
        """Whether it learns beside pictures of the class."""
        return any(stage.prior for stage in self.stages)

    def at(self, done: int) -> tuple[int, int, Stage]:
        """The stage that is at work after so many steps, or the last: its number from 1, those of its steps that are
        done, and itself."""
        for number, stage in enumerate(self.stages, 1):
            if done < stage.steps:
                return number, done, stage
            done -= stage.steps
        return len(self.stages), self.stages[-1].steps, self.stages[-1]

    def place(self, done: int) -> str:
        """For the user: "stage 2 of 3 (attn2): step 40 of 100", of a single stage "step 40 of 100"."""
        number, step, stage = self.at(done)
        where = f"stage {number} of {len(self.stages)} ({stage.targets}): " if len(self.stages) > 1 else ""
        return f"{where}step {step} of {stage.steps}"

    def refuse_in_stages(self, given: Mapping[str, str]) -> None:
        """PersresError where the stages have values of their own for what is given: field -> what the user calls it."""
        names = [given[option.name] for option in STAGE_OPTIONS if option.apart and option.name in given]
        if names and len(self.stages) > 1:
            raise PersresError(
                f"The recipe {self.name} has {len(self.stages)} stages with steps, batches, rates and targets of their "
                f"own: leave out {', '.join(names)}."
            )

    def to_dict(self) -> dict[str, Any]:
        values = {"name": self.name, "about": self.about, "stages": [asdict(stage) for stage in self.stages]}
        return {**values, **{option.name: getattr(self, option.name) for option in RECIPE_OPTIONS}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """PersresError for what is no recipe, or one of a newer version."""
        if not isinstance(values, dict) or not isinstance(values.get("stages"), list):
            raise PersresError("This is not a recipe: it has no stages.")
        stages = tuple(map(_stage, values["stages"]))
        return cls(**{**_known(cls, values, "A recipe"), "stages": stages})

    def changed(self, **values: Any) -> Recipe:
        """With other values; those of a stage are set in every stage. None leaves a value as it is.

        stages: those of another list, as `Stage`s or as their dicts. leave_out: the number of a stage, from 1.
        """
        values = {name: value for name, value in values.items() if value is not None}
        if "stages" in values:
            made = tuple(stage if isinstance(stage, Stage) else _stage(stage) for stage in values.pop("stages"))
            return replace(self, stages=made).changed(**values)
        out = values.pop("leave_out", None)
        if out is not None and (type(out) is not int or not 1 <= out <= len(self.stages) or len(self.stages) == 1):
            raise PersresError(f"Recipe {self.name} of {len(self.stages)} stages has none to leave out at {out!r}.")
        in_stage = {name: values.pop(name) for name in list(values) if name in Stage.__dataclass_fields__}
        stages = tuple(replace(s, **in_stage) for i, s in enumerate(self.stages) if i + 1 != out)
        _refuse_unknown(Recipe, values, "A recipe")
        return replace(self, stages=stages, **values)


def _known(cls: type, values: object, what: str) -> dict[str, Any]:
    """The values, if they are fields of this class and none is missing."""
    if not isinstance(values, dict):
        raise PersresError(f"{what} must have named values, not be {type(values).__name__}.")
    _refuse_unknown(cls, values, what)
    if missing := [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]:
        raise PersresError(f"{what} lacks {', '.join(missing)}.")
    return values


def _refuse_unknown(cls: type, values: Iterable[object], what: str) -> None:
    names = {field.name for field in fields(cls)}
    if unknown := sorted(str(name) for name in values if name not in names):
        raise PersresError(f"{what} of this version knows no {', '.join(unknown)[:60]}.")


def _stage(values: object) -> Stage:
    return Stage(**_known(Stage, values, "A stage"))


OWN = ("concept", "identifier", "macro_class", "base_hash", "seed", "image_hashes")
"""What tells a training from another in its file, beside its recipe."""


def same_training(one: Metadata, other: Metadata) -> bool:
    """Whether two files, or states of one, are of the same training."""
    return all(getattr(one, name) == getattr(other, name) for name in OWN) and alike(one.recipe, other.recipe)


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two dicts are of the same recipe; what one that was written earlier lacks has its default."""
    try:
        return Recipe.from_dict(one) == Recipe.from_dict(other)
    except PersresError:
        return one == other


def check_template(template: str) -> None:
    """Raise PersresError for a template by which V* would never be learned."""
    if isinstance(template, str):
        refuse_controls(template, "template")
    if not isinstance(template, str) or "{identifier}" not in template:
        raise PersresError(
            f"The template {str(template)[:80]!r} has no {{identifier}}, so that V* would never be learned: write "
            "where it stands."
        )
