"""What a run has to do: which subjects, by which methods, in which pieces."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..errors import PersresError
from .datasets import open_dataset
from .datasets.dataset import Concept, Dataset, Prompt
from .protocol import identifier_numbers, prompts_of
from .suite import Method, Suite


@dataclass(frozen=True)
class Source:
    """Where a dataset lies, as run.json keeps it."""

    kind: str
    root: Path
    macro_class: str | None = None
    prompts: Path | None = None

    def open(self, pairs: bool) -> Dataset:
        return open_dataset(self.kind, self.root, self.macro_class, self.prompts, pairs)

    def to_dict(self, name: str, run: Path) -> dict:
        """A root within the run's folder is told from there, so that the folder can be moved."""
        root, base = self.root.resolve(), run.resolve()
        inside = root.is_relative_to(base)
        facts = {"kind": self.kind, "root": root.relative_to(base).as_posix() if inside else str(root), "name": name}
        if self.macro_class:
            facts["class"] = self.macro_class
        if self.prompts:
            facts["prompts"] = str(self.prompts.resolve())
        return facts

    @classmethod
    def from_dict(cls, facts: dict, run: Path) -> Source:
        prompts = facts.get("prompts")
        return cls(facts["kind"], run / facts["root"], facts.get("class"), Path(prompts) if prompts else None)


@dataclass(frozen=True)
class Subject:
    """What pictures show: a concept, or a pair of them; and its prompts by their place in the dataset.

    identifiers: the concepts' numbers (see `protocol`). nearest: the noun, where a method asks for the nearest.
    """

    name: str
    concepts: tuple[Concept, ...]
    prompts: Mapping[int, Prompt]
    identifiers: tuple[int, ...] = (0,)
    nearest: str | None = None

    @property
    def is_pair(self) -> bool:
        return len(self.concepts) > 1


Plan = list[tuple[Subject, tuple[Method, ...]]]
"""Subjects, each with the methods that it is drawn by; the pairs come last."""


def plan(
    suite: Suite, dataset: Dataset, only: Collection[str] = (), nearest: Mapping[str, str] = MappingProxyType({})
) -> Plan:
    """only: the concepts of these names, and the pairs among them. nearest: the concepts' nouns."""
    concepts = [concept for concept in dataset.concepts if not concept.tuned][: suite.concepts.main]
    if suite.concepts.names is not None:
        concepts = list(map(dataset.concept, suite.concepts.names))
    names = [concept.name for concept in concepts]
    if wrong := [name for name in only if name not in names]:
        raise PersresError(f"The suite {suite.name} has no concept {wrong[0]!r} here; it has: {', '.join(names)}.")
    count, prompts_each = (suite.pairs.count, suite.pairs.prompts) if suite.pairs else (0, 0)
    pairs = dataset.pairs[:count]
    numbers = identifier_numbers(pairs)
    made: Plan = []
    for index, concept in enumerate(concepts):
        methods = tuple(method for method in suite.methods if method.concepts is None or index < method.concepts)
        if methods and (not only or concept.name in only):
            prompts = prompts_of(concept, suite.sampling.prompts)
            number = numbers.get(concept.name, 0)
            made.append((Subject(concept.name, (concept,), prompts, (number,), nearest.get(concept.name)), methods))
    drawn = {subject.name: methods for subject, methods in made}
    for pair in pairs:
        has = [drawn.get(concept.name, ()) for concept in pair.concepts]
        if methods := tuple(method for method in suite.pair_methods if all(method in own for own in has)):
            prompts = dict(enumerate(pair.prompts[:prompts_each]))
            both = tuple(dataset.concept(concept.name) for concept in pair.concepts)
            identifiers = tuple(numbers.get(concept.name, 0) for concept in both)
            made.append((Subject(pair.name, both, prompts, identifiers), methods))
    return made
