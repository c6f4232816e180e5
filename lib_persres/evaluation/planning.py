"""What a run has to do: which concepts and pairs, by which methods, in which pieces."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from ..errors import PersresError
from .datasets.dataset import Concept, Dataset, Pair
from .methods import Method
from .pair_pieces import PairPiece
from .pieces import Piece
from .run_folder import RunFolder
from .suite import Suite


def concepts_of(
    suite: Suite, dataset: Dataset, only: Collection[str] = ()
) -> list[tuple[Concept, tuple[Method, ...]]]:
    """The suite's concepts, each with the methods that it is drawn by. only: of these names."""
    chosen = [
        (concept, suite.methods_of(index))
        for index, concept in enumerate(dataset.concepts[: suite.concepts])
        if suite.methods_of(index)
    ]
    names = [concept.name for concept, _ in chosen]
    if wrong := [name for name in only if name not in names]:
        raise PersresError(f"The suite {suite.name} has no concept {wrong[0]!r} here; it has: {', '.join(names)}.")
    return [(concept, methods) for concept, methods in chosen if not only or concept.name in only]


def pairs_of(suite: Suite, dataset: Dataset) -> list[Pair]:
    """The suite's pairs, with its prompts and the dataset's own concepts in them."""
    if suite.pairs is None:
        return []
    out = []
    for pair in dataset.pairs[: suite.pairs.count]:
        first, second = (dataset.concept(concept.name) for concept in pair.concepts)
        out.append(replace(pair, concepts=(first, second), prompts=pair.prompts[: suite.pairs.prompts]))
    return out


def methods_of_pairs(
    suite: Suite, pairs: list[Pair], concepts: list[tuple[Concept, tuple[Method, ...]]]
) -> list[tuple[Pair, tuple[Method, ...]]]:
    """The pairs whose two concepts are among these, each with the methods that both have."""
    has = {concept.name: {method.name for method in methods} for concept, methods in concepts}
    out = []
    for pair in pairs:
        shared = set(suite.pairs.methods).intersection(*(has.get(concept.name, set()) for concept in pair.concepts))
        if methods := tuple(method for method in suite.methods if method.name in shared):
            out.append((pair, methods))
    return out


def _by_piece(methods: tuple[Method, ...]) -> dict[str, tuple[Method, ...]]:
    names = dict.fromkeys(method.piece for method in methods)
    return {name: tuple(method for method in methods if method.piece == name) for name in names}


def plan(
    run: RunFolder,
    suite: Suite,
    concepts: list[tuple[Concept, tuple[Method, ...]]],
    checkpoint: Path,
    *,
    nearest: Mapping[str, str] = MappingProxyType({}),
    identifiers: Mapping[str, int] = MappingProxyType({}),
    **options,
) -> list[Piece]:
    """A piece for each concept and training. nearest, identifiers: of the concepts. options: those of `Job`."""
    return [
        Piece(
            root=run.root,
            concept=concept,
            training=own[0].training,
            methods=own,
            sampling=suite.sampling,
            checkpoint=checkpoint,
            nearest=nearest.get(concept.name),
            identifier=identifiers.get(concept.name, 0),
            **options,
        )
        for concept, methods in concepts
        for own in _by_piece(methods).values()
    ]


def plan_pairs(
    run: RunFolder,
    suite: Suite,
    pairs: list[tuple[Pair, tuple[Method, ...]]],
    checkpoint: Path,
    *,
    identifiers: Mapping[str, int],
    **options,
) -> list[PairPiece]:
    """A piece for each pair and training: they wait for the trainings of both concepts."""
    return [
        PairPiece(
            root=run.root,
            pair=pair,
            training=training,
            methods=own,
            sampling=suite.sampling,
            checkpoint=checkpoint,
            identifiers=tuple(identifiers.get(concept.name, 0) for concept in pair.concepts),
            **options,
        )
        for pair, methods in pairs
        for training, own in _by_piece(methods).items()
    ]
