"""A suite: which methods are compared, how they sample, and which orderings of the papers are to be seen."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from ..concepts import check_unconditional
from ..errors import PersresError
from .methods import BASE, GIVEN, NEAREST, Method, Training

FOLDER = Path(__file__).parent / "suites"
SCORES = ("image", "text")


@dataclass(frozen=True)
class Sampling:
    """images: of each prompt. prompts: only so many of each concept's, spread over the categories; None: all."""

    steps: int
    guidance: float
    images: int
    prompts: int | None = None


@dataclass(frozen=True)
class Claim:
    """ "`higher` is above `lower` in `score`", as `source` states. categories: only of these prompts; None: all."""

    higher: str
    lower: str
    score: str
    categories: tuple[str, ...] | None
    source: str


@dataclass(frozen=True)
class Nouns:
    """What NEAREST is chosen from. source: the nouns, a file of them, or None where the command line names the file.

    other: never the macro class that the dataset gives.
    """

    source: tuple[str, ...] | str | None
    other: bool


@dataclass(frozen=True)
class Pairs:
    """Two concepts in one picture: the dataset's first `count` pairs with their first `prompts` prompts; None: all."""

    count: int | None
    prompts: int | None
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """concepts: only the first so many of the dataset; None: all. raw: the file's content."""

    name: str
    about: str
    methods: tuple[Method, ...]
    orderings: tuple[Claim, ...]
    sampling: Sampling
    concepts: int | None
    nouns: Nouns | None
    pairs: Pairs | None
    raw: dict

    def methods_of(self, index: int) -> tuple[Method, ...]:
        """The methods that the index-th concept of the dataset is drawn by."""
        return tuple(method for method in self.methods if method.concepts is None or index < method.concepts)

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
        top = _Fields(raw, where)
        methods = _methods(top)
        made = cls(
            name=top.take("name", str),
            about=top.take("about", str, ""),
            methods=methods,
            orderings=tuple(map(_claim, top.parts("orderings", []))),
            sampling=_sampling(top.part("sampling")),
            concepts=top.part("concepts", {}).only("main"),
            nouns=_nouns(top.part("nouns")) if "nouns" in raw else None,
            pairs=_pairs(top.part("pairs"), methods) if "pairs" in raw else None,
            raw=raw,
        )
        top.done()
        _check(made, where)
        return made


def names() -> list[str]:
    """The suites that come along."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


class _Fields:
    """A JSON object's values with their kinds; whatever is wrong is told with its place."""

    def __init__(self, values, where: str):
        if not isinstance(values, dict):
            raise PersresError(f"{where} must be an object in braces, not {values!r:.40}.")
        self.values, self.where, self.seen = values, where, set()

    def take(self, name: str, kind, default=...):
        self.seen.add(name)
        if name not in self.values:
            if default is ...:
                raise PersresError(f"{self.where} lacks {name!r}.")
            return default
        value = self.values[name]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds:
            wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
            raise PersresError(f"{self.where}: {name!r} is {value!r:.40}, but it must be of type {wanted}.")
        return value

    def count(self, name: str, default=..., low: int = 1):
        value = self.take(name, int if default is ... else (int, type(None)), default)
        if value is not None and value < low:
            raise PersresError(f"{self.where}: {name!r} must be at least {low}, not {value}.")
        return value

    def only(self, name: str):
        """The one count of a part that may be absent or null."""
        value = self.count(name, None)
        self.seen.add("ablations")  # a suite may name its own number, for its reader's sake
        self.done()
        return value

    def part(self, name: str, default=...) -> _Fields:
        return _Fields(self.take(name, dict, default), f"{self.where}, {name!r}")

    def parts(self, name: str, default=...) -> list[_Fields]:
        items = self.take(name, list, default)
        return [_Fields(item, f"{self.where}, {name!r} number {i + 1}") for i, item in enumerate(items)]

    def done(self) -> None:
        if unknown := sorted(set(self.values) - self.seen):
            raise PersresError(f"{self.where} has {unknown[0]!r}, which means nothing here.")


def _methods(top: _Fields) -> tuple[Method, ...]:
    ablations = top.part("concepts", {}).count("ablations", None)
    known: dict[str, Training] = {}
    out: list[Method] = []
    for item in top.parts("methods"):
        name = item.take("name", str)
        item.where = f"{item.where} ({name})"
        training = _training(item, known)
        concepts = item.take("concepts", (int, str, type(None)), None)
        if concepts == "ablations":
            concepts = ablations
        if isinstance(concepts, str) or (concepts is not None and concepts < 1):
            raise PersresError(f"{item.where}: 'concepts' must be a number, \"ablations\" or null, not {concepts!r}.")
        lag, about = item.take("lag", bool, False), item.take("about", str, "")
        strength = float(item.take("strength", (int, float), 1.0))
        if not math.isfinite(strength):
            raise PersresError(f"{item.where}: 'strength' must be a finite number, not {strength}.")
        unconditional = item.take("unconditional", str, "mirror")
        try:
            check_unconditional(unconditional)
        except PersresError as error:
            raise PersresError(f"{item.where}: {error}") from error
        out.append(Method(name, training, lag, about, concepts, _noun(item), strength, unconditional))
        item.done()
    return tuple(out)


def _training(item: _Fields, known: dict[str, Training]) -> Training | None:
    """A training in full, the name of one that stands further above, or null for the base model."""
    value = item.take("training", (dict, str, type(None)))
    if value is None:
        return None
    if isinstance(value, str):
        if value not in known:
            raise PersresError(f"{item.where}: no method above has the training {value!r}.")
        return known[value]
    part = item.part("training")
    training = Training(
        part.take("name", str),
        part.take("recipe", str),
        part.take("changes", dict, {}),
        part.count("seed", 0, low=0),
        part.take("without_class", bool, False),
        _noun(part),
        part.count("photos", None),
    )
    part.done()
    if training.name in known and known[training.name] != training:
        raise PersresError(f"{item.where}: two trainings are called {training.name!r}.")
    try:
        training.made_recipe()
    except PersresError as error:
        raise PersresError(f"{item.where}: {error}") from error
    return known.setdefault(training.name, training)


def _noun(part: _Fields) -> str:
    value = part.take("class", str, GIVEN)
    if value not in (GIVEN, NEAREST):
        raise PersresError(f"{part.where}: 'class' must be {GIVEN!r} or {NEAREST!r}, not {value!r:.40}.")
    return value


def _nouns(part: _Fields) -> Nouns:
    source = part.take("from", (list, str, type(None)), None)
    if isinstance(source, list):
        source = tuple(dict.fromkeys(map(str, source)))
    made = Nouns(source, part.take("other", bool, False))
    part.done()
    if not source and source is not None:
        raise PersresError(f"{part.where}: 'from' must be a list of nouns, a file of them, or null.")
    return made


def _pairs(part: _Fields, methods: tuple[Method, ...]) -> Pairs:
    """Drawn by the methods that it names, or by all that every concept has; a pair is read with its own classes."""
    plain = [m for m in methods if not (m.needs_nearest or (m.training and m.training.without_class))]
    named = part.take("methods", list, [m.name for m in plain if m.concepts is None])
    made = Pairs(part.count("count", None), part.count("prompts", None), tuple(dict.fromkeys(map(str, named))))
    part.done()
    if wrong := [name for name in made.methods if name not in {m.name for m in plain}]:
        raise PersresError(
            f"{part.where} names the method {wrong[0]!r}, which is none of the suite's that draw with the given class."
        )
    return made


def _sampling(part: _Fields) -> Sampling:
    guidance = part.take("guidance", (int, float))
    made = Sampling(part.count("steps"), float(guidance), part.count("images"), part.count("prompts", None))
    part.done()
    if not 1 <= made.steps <= 1000:
        raise PersresError(f"{part.where}: 'steps' must be from 1 to 1000, not {made.steps}.")
    return made


def _claim(item: _Fields) -> Claim:
    categories = item.take("categories", (list, type(None)), None)
    made = Claim(
        item.take("higher", str),
        item.take("lower", str),
        item.take("score", str),
        None if categories is None else tuple(map(str, categories)),
        item.take("source", str, ""),
    )
    item.done()
    if made.score not in SCORES:
        raise PersresError(f"{item.where}: 'score' must be one of {', '.join(SCORES)}, not {made.score!r}.")
    return made


def _check(suite: Suite, where: str) -> None:
    found = [method.name for method in suite.methods]
    if not found:
        raise PersresError(f"{where} has no methods.")
    for name in [*found, *(method.piece for method in suite.methods)]:
        if not name or set(name) & set('/\\:*?"<>|') or name.startswith("."):
            raise PersresError(f"{where}: {name!r} cannot be the name of a folder.")
    if twice := [name for name in found if found.count(name) > 1]:
        raise PersresError(f"{where}: two methods are called {twice[0]!r}.")
    if any(method.training and method.training.name == BASE for method in suite.methods):
        raise PersresError(f"{where}: a training cannot be called {BASE!r}, which is the model without one.")
    for method in suite.methods:
        if method.needs_nearest and suite.nouns is None:
            raise PersresError(f"{where}: the method {method.name!r} needs 'nouns' to find its class among.")
        if method.needs_nearest and method.training and method.training.without_class:
            raise PersresError(f"{where}: the method {method.name!r} has no class, so it cannot have the nearest.")
    for claim in suite.orderings:
        for name in (claim.higher, claim.lower):
            if name not in found:
                raise PersresError(f"{where}: an ordering names the method {name!r}, which the suite has not.")
