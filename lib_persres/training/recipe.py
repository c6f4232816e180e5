"""What a recipe is: a named training configuration, as data.

A recipe is a list of stages, each with its targets, rank rule, learning rate, steps and batch. What a recipe holds is
what the residual's file keeps, so a training can be done again from its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace

from ..errors import PersresError
from ..filling import fill
from ..masks import MASKS
from ..names import refuse_controls
from ..targets import EMBEDDING, LAYERED, canonical, parts_of, together

TARGETS = ("proj_out", "proj_in", "kv", "kv+proj_out", "proj_in+kv+proj_out")
"""The rules for targets that a form offers: the paper's ablations. A stage may have any other, too."""

FORMS = ("low-rank", "full", "orthogonal")
"""What a change of a target is: two factors, a matrix of its own, or a rotation of the target's input (OFT)."""
MAP_FORMS = ("pooled", "layers")
"""The readings of AttnDreamBooth's equation 2, see `maps`."""
OF_STAGES = ("steps", "batch", "learning_rate", "targets")
"""What each of several stages has of its own, so that one value for all of them would be wrong."""
LEAST_RATE = 1e-10
"""What is less changes no number of fp32 in any training."""
STARTS = ("identifier", "class")
"""Whose vector a learned embedding begins with."""


MOST = 10_000_000
"""Steps of a stage, and rows of a batch: above it is no training."""


_KINDS = {
    **{"str": str, "str | None": (str, type(None)), "int": int, "int | None": (int, type(None)), "bool": bool},
    **{"float": (int, float), "float | None": (int, float, type(None)), "tuple[Stage, ...]": tuple},
}
"""Annotation -> what a field may hold."""


def _check_kinds(item: Stage | Recipe, what: str) -> None:
    """PersresError for a value of another type than its field's; these come from files."""
    for field in fields(item):
        value = getattr(item, field.name)
        kinds = (str, int, float) if field.name == "rank" else _KINDS[field.type]
        if not isinstance(value, kinds) or (isinstance(value, bool) and field.type != "bool"):
            raise PersresError(f"{what}'s {field.name} is of the wrong kind, {type(value).__name__}.")


def _known(cls: type, values, what: str) -> dict:
    """The values, if they are fields of this class and none is missing."""
    if not isinstance(values, dict):
        raise PersresError(f"{what} must have named values, not be {type(values).__name__}.")
    names = {field.name for field in fields(cls)}
    if unknown := sorted(str(name) for name in values if name not in names):
        raise PersresError(f"{what} of this version knows no {', '.join(unknown)[:60]}.")
    if missing := [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]:
        raise PersresError(f"{what} lacks {', '.join(missing)}.")
    return values


@dataclass(frozen=True)
class Stage:
    """targets: what learns, see `targets`. rank: a rule for `residual.rank_of`, such as "0.05m" or "8"; of a form that
    is not low-rank, that of the factors to which its file is truncated. embedding_rate: of the embedding where it is
    among the targets; None is learning_rate.

    prior: so many rows more have pictures of the class and the prompt without the identifier (prior preservation,
    regularization images); their error counts prior_weight times. map_mean, map_variance: λμ and λσ of AttnDreamBooth's
    equation 2, in the reading map_form.

    None of the papers has these: decay, the learning rate falls linearly to 0. t_power, timesteps are drawn with
    density ∝ t^t_power: above 0 high noise counts more, where layouts are decided. localized, so many of the batch's
    rows learn under LAG, where the concept's mask is. keep, so many rows more have the empty prompt, with which the
    residual is to predict what the base model does; their error counts keep_weight times.
    """

    targets: str = "proj_out"
    rank: str = "0.05m"
    steps: int = 150
    batch: int = 4
    learning_rate: float = 1e-3
    embedding_rate: float | None = None
    prior: int = 0
    prior_weight: float = 1.0
    map_mean: float = 0.0
    map_variance: float = 0.0
    map_form: str = "pooled"
    decay: bool = False
    t_power: float = 0.0
    localized: int = 0
    keep: int = 0
    keep_weight: float = 1.0

    def __post_init__(self):
        _check_kinds(self, "A stage")
        object.__setattr__(self, "targets", canonical(self.targets))
        for name in ("steps", "batch"):
            if not 1 <= getattr(self, name) <= MOST:
                raise PersresError(f"A stage's {name} must be a whole number of at least 1.")
        for rate in (self.learning_rate, self.embedding_rate):
            if rate is not None and not LEAST_RATE <= rate < 1:
                raise PersresError(f"A learning rate must lie between {LEAST_RATE:g} and 1, not at {rate:g}.")
        limits = {"t_power": 10, "keep_weight": 100, "prior_weight": 100, "map_mean": 1e6, "map_variance": 1e6}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise PersresError(f"A stage's {name} must lie between 0 and {most:g}, not {getattr(self, name)}.")
        for name in ("localized", "keep", "prior"):
            if not 0 <= getattr(self, name) <= MOST:
                raise PersresError(f"A stage's {name} must be a number of rows, not {getattr(self, name)}.")
        if self.localized > self.batch:
            raise PersresError(f"A stage of batch {self.batch} cannot have {self.localized} localized rows.")
        if self.map_form not in MAP_FORMS:
            raise PersresError(f"A stage's map_form can be {' or '.join(MAP_FORMS)}, not {self.map_form!r}.")

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
class Recipe:
    """A training configuration.

    template: the fixed prompt; {identifier} and {macro_class} are filled in. crops, flips: further views of each
    image (see `images.crop_views`); flips would teach an asymmetric concept its mirror image. resolution: side of the
    views in pixels; None is the model's own. form: one of FORMS. start: one of STARTS. class_images: so many pictures
    of the class the model draws for a stage with `prior` where none are given. mask: LAG's, for localized rows: a name
    of `masks.MASKS`.
    """

    name: str
    about: str
    stages: tuple[Stage, ...] = (Stage(),)
    template: str = "a photo of a {identifier} {macro_class}"
    crops: int = 4
    flips: bool = False
    resolution: int | None = None
    form: str = "low-rank"
    start: str = "identifier"
    class_images: int = 64
    mask: str = "median"

    def __post_init__(self):
        _check_kinds(self, "A recipe")
        for name, known in (("form", FORMS), ("start", STARTS), ("mask", MASKS)):
            if getattr(self, name) not in known:
                raise PersresError(f"A recipe's {name} can be {', '.join(known)}, not {getattr(self, name)!r}.")
        check_template(self.template)
        if not self.stages:
            raise PersresError(f"The recipe {self.name} has no stages.")
        if len({str(stage.rank) for stage in self.stages}) > 1:
            raise PersresError(f"The stages of recipe {self.name} must agree in their rank.")
        if self.form != "low-rank" and any(stage.localized for stage in self.stages):
            raise PersresError(f"Recipe {self.name} learns {self.form} changes, which LAG cannot confine.")
        if self.form == "orthogonal" and {*parts_of(self.targets)} - {EMBEDDING, *LAYERED}:
            raise PersresError(f"Recipe {self.name} rotates inputs of attentions alone: attn1, kv and attn2.")

    @property
    def targets(self) -> str:
        """The rule of all that any stage learns."""
        return together(stage.targets for stage in self.stages)

    @property
    def rank(self) -> str:
        return str(self.stages[0].rank)

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
        names = [given[name] for name in OF_STAGES if name in given]
        if names and len(self.stages) > 1:
            raise PersresError(
                f"The recipe {self.name} has {len(self.stages)} stages with steps, batches, rates and targets of their "
                f"own: leave out {', '.join(names)}."
            )

    def to_dict(self) -> dict:
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages]}

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        """PersresError for what is no recipe, or one of a newer version."""
        if not isinstance(values, dict) or not isinstance(values.get("stages"), list):
            raise PersresError("This is not a recipe: it has no stages.")
        stages = tuple(Stage(**_known(Stage, stage, "A stage")) for stage in values["stages"])
        return cls(**{**_known(cls, values, "A recipe"), "stages": stages})

    def changed(self, **values) -> Recipe:
        """With other values; those of a stage are set in every stage. None leaves a value as it is.

        stages: those of another list, as `Stage`s or as their dicts. leave_out: the number of a stage, from 1.
        """
        values = {name: value for name, value in values.items() if value is not None}
        if "stages" in values:
            made = tuple(stage if isinstance(stage, Stage) else Stage(**stage) for stage in values.pop("stages"))
            return replace(self, stages=made).changed(**values)
        out = values.pop("leave_out", None)
        if out is not None and (type(out) is not int or not 1 <= out <= len(self.stages) or len(self.stages) == 1):
            raise PersresError(f"Recipe {self.name} of {len(self.stages)} stages has none to leave out at {out!r}.")
        in_stage = {name: values.pop(name) for name in list(values) if name in Stage.__dataclass_fields__}
        stages = tuple(replace(s, **in_stage) for i, s in enumerate(self.stages) if i + 1 != out)
        return replace(self, stages=stages, **values)


def alike(one: dict, other: dict) -> bool:
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
