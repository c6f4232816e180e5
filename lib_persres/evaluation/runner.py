"""A run: its pieces planned, done by workers, and scored. Called again it does what is missing, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from .. import __version__
from ..errors import PersresError
from ..residual import file_hash
from .datasets.dataset import Concept, Dataset
from .datasets.named import open_dataset
from .methods import Method
from .pieces import Piece
from .run_folder import RunFolder, locked, write_rows
from .scoring import Scorer, score_concept
from .suite import Suite
from .workers import Report

Execute = Callable[[list[Piece], Report], None]
"""Does pieces, in any order, and reports each."""
Told = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Where a dataset lies, as run.json keeps it."""

    kind: str
    root: Path
    macro_class: str | None = None
    prompts: Path | None = None

    def open(self) -> Dataset:
        return open_dataset(self.kind, self.root, self.macro_class, self.prompts)

    def to_dict(self, name: str, run: RunFolder) -> dict:
        """A root within the run's folder is told from there, so that the folder can be moved."""
        root, base = self.root.resolve(), run.root.resolve()
        inside = root.is_relative_to(base)
        facts = {"kind": self.kind, "root": root.relative_to(base).as_posix() if inside else str(root), "name": name}
        if self.macro_class:
            facts["class"] = self.macro_class
        if self.prompts:
            facts["prompts"] = str(self.prompts)
        return facts

    @classmethod
    def from_dict(cls, facts: dict, run: RunFolder) -> Source:
        prompts = facts.get("prompts")
        return cls(facts["kind"], run.root / facts["root"], facts.get("class"), Path(prompts) if prompts else None)


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


def plan(
    run: RunFolder, suite: Suite, concepts: list[tuple[Concept, tuple[Method, ...]]], checkpoint: Path, **options
) -> list[Piece]:
    """A piece for each concept and training. options: those of `Piece`."""
    pieces = []
    for concept, methods in concepts:
        parts: dict[str, list[Method]] = {}
        for method in methods:
            parts.setdefault(method.piece, []).append(method)
        for own in parts.values():
            training = own[0].training
            pieces.append(
                Piece(run.root, concept, training, tuple(own), suite.sampling, checkpoint=checkpoint, **options)
            )
    return pieces


def perform(
    run: RunFolder,
    suite: Suite,
    source: Source,
    checkpoint: Path,
    execute: Execute,
    *,
    scorer: Scorer,
    only: Collection[str] = (),
    command: str = "",
    told: Told = lambda line: None,
    **options,
) -> None:
    """Do and score a run, or what is missing of it. PersresError, at the end, where pieces could not be done."""
    dataset = source.open()
    concepts = concepts_of(suite, dataset, only)
    with locked(run.root, wait=False):
        run.begin(
            {
                "suite": suite.raw,
                "dataset": source.to_dict(dataset.name, run),
                "base": file_hash(checkpoint),
                "command": command,
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "version": __version__,
            }
        )
        pieces = plan(run, suite, concepts, checkpoint, **options)
        missing = [piece for piece in pieces if not piece.done]
        told(f"{len(pieces)} pieces, {len(pieces) - len(missing)} of them done before")
        done, problems = len(pieces) - len(missing), {}

        def report(name: str, problem: str | None) -> None:
            nonlocal done
            done += problem is None
            if problem is not None:
                problems[name] = problem
            told(f"[{done}/{len(pieces)}] {name}" + (f": {problem}" if problem else ""))

        if missing:
            execute(missing, report)
        whole = {piece.concept.name for piece in pieces} - {name.split("/")[0] for name in problems}
        score(run, suite, [(c, m) for c, m in concepts if c.name in whole], scorer, told)
    if problems:
        name, problem = next(iter(problems.items()))
        raise PersresError(
            f"{len(problems)} of {len(pieces)} pieces could not be done, such as {name}: {problem} "
            "What is done is kept: the same command tries the others again."
        )


def score(
    run: RunFolder,
    suite: Suite,
    concepts: list[tuple[Concept, tuple[Method, ...]]],
    scorer: Scorer,
    told: Told = lambda line: None,
) -> None:
    """Write each concept's scores from its pictures."""
    for concept, methods in concepts:
        write_rows(run.scores(concept.name), score_concept(run, suite, concept, methods, scorer))
        told(f"scored {concept.name}")


def rescore(run: RunFolder, scorer: Scorer, told: Told = lambda line: None) -> None:
    """The scores of all concepts whose pieces are done, anew, without sampling."""
    facts = run.load()
    suite, source = Suite.from_dict(facts["suite"], str(run.run_file)), Source.from_dict(facts["dataset"], run)
    whole = []
    for concept, methods in concepts_of(suite, source.open()):
        folders = {run.piece(concept.name, method.piece) for method in methods}
        if all((folder / "piece.json").is_file() for folder in folders):
            whole.append((concept, methods))
    if not whole:
        raise PersresError(f"{run.root} has no finished concept to score: run the evaluation first.")
    score(run, suite, whole, scorer, told)
