"""The options of a training, as one table: its lines are the fields of three classes.

A line says an option's kind, default and range, and of one that users may set its label and help. From these come the
recipe's checks and files, the training tab's inputs, the API's validation, the command line's arguments and the list of
`inspect --options`: an option that is added here is known to all of them, and is left to be used, as `stage.steps` is.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from typing import Any

from ..masks import IN_ONE_PASS
from .forms import FORMS
from .precision import PRECISIONS

TARGETS = ("proj_out", "proj_in", "kv", "kv+proj_out", "proj_in+kv+proj_out")
"""The rules for targets that a form offers: the paper's ablations. A stage may have any other, too."""

MANY = 1_000_000
"""Steps of a stage: above it is no training."""
ROWS = 1024
"""Of a step: above it is no memory."""


@dataclass(frozen=True)
class Option:
    """label: of the tab's input; "": a recipe's own, which users do not set. help: of all places; more: of those that
    have room. low, high: of a number, both included, or the most characters of a text. choices: all that it can be.
    offered: those in the tab's list, beside which others may be given. apart: each of several stages has its own, so
    that one value for all of them would be wrong. flag, metavar: on the command line. empty: what an empty input means,
    where that is not the recipe's value or the default.
    """

    label: str = ""
    help: str = ""
    more: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: Collection[str] = ()
    offered: tuple[str, ...] = ()
    apart: bool = False
    flag: str = ""
    metavar: str | None = None
    empty: str = ""
    # what its field says
    name: str = ""
    scope: str = ""
    annotation: str = ""
    default: Any = None

    @cached_property
    def kind(self) -> type:
        return {"int": int, "float": float, "bool": bool, "str": str}[self.annotation.partition(" | ")[0]]

    @property
    def may_be_none(self) -> bool:
        return "None" in self.annotation

    @property
    def allowed(self) -> str:
        """ "a whole number from 1 to 100"."""
        if self.choices:
            shown = ", ".join(self.choices)
            return f'"" for automatic, or {shown}' if self.default == "" else shown
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return f"a text of up to {self.high} characters"
        if self.kind is int:
            return f"a whole number from {self.low} to {self.high}"
        return f"a number between {self.low:g} and {self.high:g}"

    def takes(self, value: Any) -> bool:
        """Whether it can have this value."""
        if value is None:
            return self.may_be_none
        if self.kind is str:
            own = not self.choices or value in (*self.choices, self.default)
            return isinstance(value, str) and len(value) <= self.high and own
        sound = type(value) is self.kind or (self.kind is float and type(value) is int)
        return sound and (self.kind is bool or self.low <= value <= self.high)


def option(default: Any, label: str = "", help: str = "", **values: Any) -> Any:
    """A line of the table, as a dataclass's field. values: the others of `Option`."""
    return field(default=default, metadata={"option": {"label": label, "help": help, **values}})


def options_of(cls: type, scope: str) -> tuple[Option, ...]:
    return tuple(
        Option(name=each.name, scope=scope, annotation=str(each.type), default=each.default, **each.metadata["option"])
        for each in fields(cls)
        if "option" in each.metadata and each.default is not MISSING
    )


# -- the table


@dataclass(frozen=True)
class OfStage:
    """What each stage of a recipe has of its own; of a recipe of one stage users may set it.

    targets: what learns, see `targets`. rank: a rule for `residual.rank_of`, such as "0.05m" or "8"; of a form that
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

    targets: str = option(
        "proj_out",
        "Targets",
        "the layers that learn; more: a larger file",
        more="proj_out, proj_in, kv (keys and values), attn2 (all of its cross-attention), attn1 (its self-attention), "
        "ff (feed-forward), unet, embedding (V*'s own vector), or several as kv+proj_out",
        high=100,
        offered=TARGETS,
        apart=True,
        metavar="RULE",
    )
    rank: str = option("0.05m", "Rank", "a part of the width as 0.05m, or a number as 8", high=20, metavar="RANK")
    steps: int = option(150, "Steps", "of the training", low=1, high=MANY, apart=True)
    batch: int = option(4, "Batch", "images in a step", low=1, high=ROWS, apart=True)
    learning_rate: float = option(
        1e-3,
        "Learning rate",
        "such as 0.001",
        low=1e-10,  # what is less changes no number of fp32 in any training
        high=1,
        apart=True,
        flag="--lr",
        metavar="RATE",
    )
    embedding_rate: float | None = option(None, low=1e-10, high=1)
    prior: int = option(0, low=0, high=ROWS)
    prior_weight: float = option(1.0, low=0, high=100)
    map_mean: float = option(0.0, low=0, high=1e6)
    map_variance: float = option(0.0, low=0, high=1e6)
    map_form: str = option("pooled", high=20, choices=("pooled", "layers"))
    decay: bool = option(False)
    t_power: float = option(0.0, low=0, high=10)
    localized: int = option(0, low=0, high=ROWS)
    keep: int = option(0, low=0, high=ROWS)
    keep_weight: float = option(1.0, low=0, high=100)


@dataclass(frozen=True, kw_only=True)
class OfRecipe:
    """What a recipe has once.

    template: the fixed prompt; {identifier} and {macro_class} are filled in. crops, flips: further views of each
    image (see `images.crop_views`); flips would teach an asymmetric concept its mirror image. resolution: side of the
    views in pixels; None is the model's own. form: one of `forms.FORMS`. start: whose vector a learned embedding
    begins with. class_images: so many pictures of the class the model draws for a stage with `prior` where none are
    given. mask: LAG's, for localized rows: one of `masks.IN_ONE_PASS`.
    """

    template: str = option(
        "a photo of a {identifier} {macro_class}",
        "Template",
        "{identifier} stands for V*, {macro_class} for the class",
        high=1000,
    )
    crops: int = option(4, "Random crops of each image", "beside its centre", low=0, high=100)
    flips: bool = option(False, "Mirror images, too", "wrong for a thing with a left and a right side")
    resolution: int | None = option(
        None, "Resolution", "side in pixels", low=8, high=4096, metavar="PIXELS", empty="the model's own"
    )
    form: str = option("low-rank", high=20, choices=tuple(FORMS))
    start: str = option("identifier", high=20, choices=("identifier", "class"))
    class_images: int = option(64, low=1, high=MANY)
    mask: str = option("median", high=20, choices=IN_ONE_PASS.keys())


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a training runs, which no recipe says.

    micro_batch: so many rows go through the UNet at a time, their gradients are added up; None: all. shrink: where the
    memory is not enough, halve it instead of giving up. precision: what the UNet computes in; "": as its weights are.
    checkpointing: keep less for the backward pass and compute it again.
    """

    seed: int = option(0, "Seed", "the same seed learns the same", low=0, high=2**63 - 1)
    micro_batch: int | None = option(
        None,
        "Micro-batch",
        "images at a time, for less memory and the same result",
        low=1,
        high=ROWS,
        empty="the whole batch",
    )
    shrink: bool = option(
        True, "Halve the micro-batch where memory is short", "the result stays the same; each step takes longer"
    )
    precision: str = option("", "Precision", "of the numbers; automatic: the model's own", high=20, choices=PRECISIONS)
    checkpointing: bool = option(False, "Gradient checkpointing", "the same result with less memory, a third slower")


STAGE, RECIPE, RUN = "stage", "recipe", "run"
STAGE_OPTIONS, RECIPE_OPTIONS = options_of(OfStage, STAGE), options_of(OfRecipe, RECIPE)
TABLE = (*STAGE_OPTIONS, *RECIPE_OPTIONS, *options_of(Running, RUN))
SET = tuple(each for each in TABLE if each.label)
"""Those that users may set."""
