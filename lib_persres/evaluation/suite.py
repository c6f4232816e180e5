"""A suite: which methods are compared, how they sample, and which orderings of the papers are to be seen.

A suite is a JSON file. Of methods that share a training one has it in full, and the others name it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..concepts import check_unconditional
from ..errors import PersresError
from ..masks import check_mask
from ..training.recipe import Recipe
from ..training.recipes import RECIPES

FOLDER = Path(__file__).parent / "suites"
BASE = "base"
"""The name of the untrained model's pieces and method."""
GIVEN: Final = "given"
NEAREST: Final = "nearest"
"""The macro class that the dataset gives, and the noun whose text is nearest to the photos in CLIP (Table 4)."""


def _folder_name(name: str) -> str:
    if not name or set(name) & set('/\\:*?"<>|') or name.startswith("."):
        raise ValueError(f"{name!r} cannot be the name of a folder")
    return name


def _mask(value: str) -> str:
    check_mask(value)
    return value


def _unconditional(value: str) -> str:
    check_unconditional(value)
    return value


FolderName = Annotated[str, AfterValidator(_folder_name)]
Count = Annotated[int, Field(ge=1)]
Noun = Annotated[Literal["given", "nearest"], Field(alias="class")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, allow_inf_nan=False)


class Training(_Part):
    """How a concept is learned. changes: values for `Recipe.changed`.

    without_class: neither the training's template nor the prompts of its pictures hold the macro class (Table 3).
    noun: the macro class that it is trained with. photos: only the first so many; None: all.
    """

    name: FolderName
    recipe: str
    changes: dict[str, Any] = {}
    seed: Annotated[int, Field(ge=0)] = 0
    without_class: bool = False
    noun: Noun = GIVEN
    photos: Count | None = None

    def made_recipe(self) -> Recipe:
        if self.recipe not in RECIPES:
            raise PersresError(f"names the recipe {self.recipe!r}; there are: {', '.join(RECIPES)}")
        changes = dict(self.changes)
        if self.without_class:
            changes.setdefault("template", "a photo of a {identifier}")
        try:
            recipe = RECIPES[self.recipe].changed(**changes)
            recipe.prompt("", "")
        except (TypeError, PersresError) as error:
            raise PersresError(f"cannot be done: {str(error).rstrip('.')}") from error
        return recipe

    @model_validator(mode="after")
    def _check(self) -> Training:
        if self.name == BASE:
            raise ValueError(f"a training cannot be called {BASE!r}, which is the model without one")
        try:
            self.made_recipe()
        except PersresError as error:
            raise ValueError(f"the training {self.name!r} {error}") from error
        return self


class Method(_Part):
    """A column of a report. training: None is the base model. concepts: only the first so many; None: all.

    noun: the macro class in the prompts. strength: of the residual, the tag's. unconditional: what the unconditional
    row does under LAG, see `concepts.UNCONDITIONAL`. mask: LAG's, of `masks.MASKS`; the papers' where nothing is said.
    """

    name: FolderName
    training: Training | None
    lag: bool = False
    about: str = ""
    concepts: Count | None = None
    noun: Noun = GIVEN
    strength: float = 1.0
    unconditional: Annotated[str, AfterValidator(_unconditional)] = "mirror"
    mask: Annotated[str, AfterValidator(_mask)] = "median"

    @property
    def piece(self) -> str:
        """The name of the piece that makes its pictures: methods of one training share it."""
        return self.training.name if self.training else BASE

    @property
    def without_class(self) -> bool:
        return bool(self.training and self.training.without_class)

    @property
    def needs_nearest(self) -> bool:
        return NEAREST in (self.noun, self.training.noun if self.training else GIVEN)


class Sampling(_Part):
    """images: of each prompt. prompts: only so many of each concept's, spread over the categories; None: all."""

    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance: float
    images: Count
    prompts: Count | None = None


class Claim(_Part):
    """ "`higher` is above `lower` in `score`", as `source` states. categories: only of these prompts; None: all."""

    higher: str
    lower: str
    score: Literal["image", "text"]
    categories: tuple[str, ...] | None = None
    source: str = ""

    def __str__(self) -> str:
        where = f" on {', '.join(self.categories)}" if self.categories else ""
        return f"{self.higher} > {self.lower} in {self.score}{where}"


class Concepts(_Part):
    """main: only the dataset's first so many untuned ones; None: all. names: these instead, tuned or not.

    ablations: what a method's `"concepts": "ablations"` stands for.
    """

    main: Count | None = None
    ablations: Count | None = None
    names: tuple[str, ...] | None = None


class Nouns(_Part):
    """What NEAREST is chosen from. source: the nouns, a file of them, or None where the command line names the file.

    other: never the macro class that the dataset gives.
    """

    source: Annotated[tuple[str, ...] | str | None, Field(alias="from")] = None
    other: bool = False

    @model_validator(mode="after")
    def _check(self) -> Nouns:
        if self.source is not None and not self.source:
            raise ValueError("'from' must be a list of nouns, a file of them, or null")
        return self


class Pairs(_Part):
    """Two concepts in one picture: the dataset's first `count` pairs with their first `prompts` prompts; None: all.

    methods: None is all that every concept has and that draw with the given class.
    """

    count: Count | None = None
    prompts: Count | None = None
    methods: tuple[str, ...] | None = None


class Suite(_Part):
    name: str
    about: str = ""
    sampling: Sampling
    methods: tuple[Method, ...]
    orderings: tuple[Claim, ...] = ()
    concepts: Concepts = Concepts()
    nouns: Nouns | None = None
    pairs: Pairs | None = None

    @property
    def pair_methods(self) -> tuple[Method, ...]:
        if self.pairs is None:
            return ()
        plain = [method for method in self.methods if not (method.needs_nearest or method.without_class)]
        if self.pairs.methods is None:
            return tuple(method for method in plain if method.concepts is None)
        return tuple(method for method in plain if method.name in self.pairs.methods)

    @model_validator(mode="after")
    def _check(self) -> Suite:
        names = [method.name for method in self.methods]
        if not names:
            raise ValueError("there are no methods")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two methods are called {twice[0]!r}")
        trainings: dict[str, Training] = {}
        for method in self.methods:
            if method.training and trainings.setdefault(method.piece, method.training) != method.training:
                raise ValueError(f"two trainings are called {method.piece!r}")
            if method.needs_nearest and self.nouns is None:
                raise ValueError(f"the method {method.name!r} needs 'nouns' to find its class among")
            if method.needs_nearest and method.without_class:
                raise ValueError(f"the method {method.name!r} has no class, so it cannot have the nearest")
        drawing = [method.name for method in self.pair_methods]
        if wrong := [name for name in (self.pairs and self.pairs.methods) or () if name not in drawing]:
            raise ValueError(
                f"'pairs' names the method {wrong[0]!r}, which is none of the suite's that draw with the given class"
            )
        for claim in self.orderings:
            for name in (claim.higher, claim.lower):
                if name not in names:
                    raise ValueError(f"an ordering names the method {name!r}, which the suite has not")
        return self

    @classmethod
    def read(cls, name: str) -> Suite:
        """A suite that comes along, by its name, or a file of one."""
        path = FOLDER / f"{name}.json" if name in names() else Path(name)
        if not path.is_file():
            raise PersresError(f"There is no suite {name!r}: give a file, or one of {', '.join(names())}.")
        try:
            raw = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise PersresError(f"The suite {path} cannot be read as JSON: {error}.") from error
        return cls.from_dict(raw, f"The suite {path}")

    @classmethod
    def from_dict(cls, raw: dict, where: str = "The suite") -> Suite:
        """PersresError names the first thing that is wrong."""
        try:
            return cls.model_validate_json(json.dumps(_whole(raw)))
        except ValidationError as error:
            raise PersresError(_sentence(error, raw, where)) from error

    def to_dict(self) -> dict:
        return self.model_dump(mode="json", by_alias=True)


def names() -> list[str]:
    """The suites that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def _whole(raw):
    """With the trainings and the numbers that methods name only; what is wrong stays as it is, to be told."""
    try:
        methods = [dict(method) for method in raw["methods"]]
        full = [method["training"] for method in methods if isinstance(method.get("training"), dict)]
        trainings = {training.get("name"): training for training in full[::-1]}
        for method in methods:
            if isinstance(method.get("training"), str):
                method["training"] = trainings.get(method["training"], method["training"])
            if method.get("concepts") == "ablations":
                method["concepts"] = raw["concepts"]["ablations"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return raw
    return {**raw, "methods": methods}


def _sentence(error: ValidationError, raw, where: str) -> str:
    first = error.errors()[0]
    kind, path, text = first["type"], [*first["loc"]], first["msg"].removeprefix("Value error, ").rstrip(".")
    last = path.pop() if path and kind != "value_error" else "it"
    for at, part in enumerate(path):
        where += f", {part!r}" if isinstance(part, str) else f" number {part + 1}"
        if at == 1 and path[0] == "methods" and isinstance(raw["methods"][part], dict):
            where += f" ({raw['methods'][part].get('name')})"
    if kind == "missing":
        return f"{where} lacks {last!r}."
    if kind == "extra_forbidden":
        return f"{where} has {last!r}, which means nothing here."
    if kind == "value_error":
        return f"{where}: {text}."
    if last == "training" and isinstance(first["input"], str):
        return f"{where}: no method has the training {first['input']!r}."
    return f"{where}: {last!r} is {first['input']!r:.40}; {text[0].lower()}{text[1:]}."
