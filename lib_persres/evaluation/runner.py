"""A run: its pieces planned, done by workers, and scored. Called again it does what is missing, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from .. import __version__
from ..errors import PersresError
from ..residual import file_hash
from .classes import nearest_classes
from .datasets.dataset import Concept, Dataset, Pair
from .datasets.named import open_dataset
from .jobs import Job
from .methods import Method
from .pair_scoring import score_pair
from .planning import concepts_of, methods_of_pairs, pairs_of, plan, plan_pairs
from .protocol import identifier_numbers
from .run_folder import RunFolder, locked, write_rows
from .scoring import Scorer, score_concept
from .suite import Suite
from .workers import Report

Execute = Callable[[list[Job], Report], None]
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
    nouns: Path | None = None,
    told: Told = lambda line: None,
    **options,
) -> None:
    """Do and score a run, or what is missing of it. PersresError, at the end, where pieces could not be done.

    nouns: a file of those among which a suite's nearest classes are found.
    """
    dataset = source.open()
    concepts = concepts_of(suite, dataset, only)
    pairs = pairs_of(suite, dataset)
    identifiers = identifier_numbers(pairs)
    drawn_pairs = methods_of_pairs(suite, pairs, concepts)
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
        choosing = [concept for concept, methods in concepts if any(method.needs_nearest for method in methods)]
        nearest = nearest_classes(run, suite.nouns, choosing, scorer.clip, nouns, told) if choosing else {}
        pieces = plan(run, suite, concepts, checkpoint, nearest=nearest, identifiers=identifiers, **options)
        later = plan_pairs(run, suite, drawn_pairs, checkpoint, identifiers=identifiers, **options)
        every = [*pieces, *later]
        done, problems = sum(job.done for job in every), {}
        told(f"{len(every)} pieces, {done} of them done before")

        def report(name: str, problem: str | None) -> None:
            nonlocal done
            done += problem is None
            if problem is not None:
                problems[name] = problem
            told(f"[{done}/{len(every)}] {name}" + (f": {problem}" if problem else ""))

        for wave in (pieces, later):  # a pair needs what its two concepts have learned
            missing = [job for job in wave if not job.done]
            for job in missing:
                if not job.ready:
                    report(job.name, "the trainings of its concepts are not done.")
            if missing := [job for job in missing if job.ready]:
                execute(missing, report)
        failed = {name.split("/")[0] for name in problems}
        score(run, suite, [(c, m) for c, m in concepts if c.name not in failed], scorer, told)
        score_pairs(run, suite, [(p, m) for p, m in drawn_pairs if p.name not in failed], scorer, told)
    if problems:
        name, problem = next(iter(problems.items()))
        raise PersresError(
            f"{len(problems)} of {len(every)} pieces could not be done, such as {name}: {problem} "
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
        with scorer.at_work():
            write_rows(run.scores(concept.name), score_concept(run, suite, concept, methods, scorer))
        told(f"scored {concept.name}")


def score_pairs(
    run: RunFolder,
    suite: Suite,
    pairs: list[tuple[Pair, tuple[Method, ...]]],
    scorer: Scorer,
    told: Told = lambda line: None,
) -> None:
    """Write each pair's scores from its pictures."""
    for pair, methods in pairs:
        with scorer.at_work():
            write_rows(run.pair(pair.name) / "scores.jsonl", score_pair(run, suite, pair, methods, scorer))
        told(f"scored {pair.name}")


def rescore(run: RunFolder, scorer: Scorer, told: Told = lambda line: None) -> None:
    """The scores of all concepts whose pieces are done, anew, without sampling."""
    facts = run.load()
    suite, source = Suite.from_dict(facts["suite"], str(run.run_file)), Source.from_dict(facts["dataset"], run)
    dataset = source.open()
    concepts = concepts_of(suite, dataset)
    whole = [(c, methods) for c, methods in concepts if _done({run.piece(c.name, m.piece) for m in methods})]
    if not whole:
        raise PersresError(f"{run.root} has no finished concept to score: run the evaluation first.")
    score(run, suite, whole, scorer, told)
    pairs = methods_of_pairs(suite, pairs_of(suite, dataset), concepts)
    whole = [(p, methods) for p, methods in pairs if _done({run.pair(p.name) / m.piece for m in methods})]
    score_pairs(run, suite, whole, scorer, told)


def _done(folders: Collection[Path]) -> bool:
    return all((folder / "piece.json").is_file() for folder in folders)
