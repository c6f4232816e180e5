"""A run: its pieces planned, done by workers, and scored. Called again it does what is missing, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timezone
from pathlib import Path

from .. import __version__
from ..errors import PersresError
from ..residual import file_hash
from .classes import nearest_classes
from .piece import Piece, pieces_of
from .planning import Plan, Source, plan
from .run_folder import RunFolder, locked
from .scoring import Scorer, score_subject
from .suite import Suite
from .workers import Report

Execute = Callable[[list[Piece], Report], None]
"""Does pieces, in any order, and reports each."""
Told = Callable[[str], None]


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

    nouns: a file of those among which a suite's nearest classes are found. options: of `Piece`.
    """
    dataset = source.open(pairs=suite.pairs is not None)
    first = plan(suite, dataset, only)
    base = file_hash(checkpoint)
    with locked(run.root, wait=False):
        facts = {
            "suite": suite.to_dict(),
            "dataset": source.to_dict(dataset.name, run.root),
            "base": base,
            "command": command,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "version": __version__,
        }
        run.check(facts)
        choosing = [s.concepts[0] for s, methods in first if any(method.needs_nearest for method in methods)]
        nearest: dict[str, str] = {}
        if suite.nouns and choosing:
            nearest = nearest_classes(run, suite.nouns, choosing, scorer.clip, nouns, told)
        planned = plan(suite, dataset, only, nearest)
        pieces = pieces_of(planned, root=run.root, sampling=suite.sampling, checkpoint=checkpoint, base=base, **options)
        missing = [piece for piece in pieces if not piece.done]
        run.begin(facts)
        done, problems = len(pieces) - len(missing), {}
        told(f"{len(pieces)} pieces, {done} of them done before")

        def report(name: str, problem: str | None) -> None:
            nonlocal done
            done += problem is None
            if problem is not None:
                problems[name] = problem
            told(f"[{done}/{len(pieces)}] {name}" + (f": {problem}" if problem else ""))

        for pairs in (False, True):  # a pair needs what its two concepts have learned
            if wave := [piece for piece in missing if piece.subject.is_pair == pairs]:
                execute(wave, report)
        failed = {name.split("/")[0] for name in problems}
        score(run, suite, [(s, methods) for s, methods in planned if s.name not in failed], scorer, told)
    if problems:
        name, problem = next(iter(problems.items()))
        raise PersresError(
            f"{len(problems)} of {len(pieces)} pieces could not be done, such as {name}: {problem} "
            "What is done is kept: the same command tries the others again."
        )


def score(
    run: RunFolder, suite: Suite, planned: Plan, scorer: Scorer, told: Told = lambda line: None, anew: bool = False
) -> None:
    """Write each subject's scores from its pictures, where these or what they are scored by changed, or `anew`."""
    for subject, methods in planned:
        with scorer.at_work():
            if score_subject(run, suite.sampling.images, subject, methods, scorer, anew):
                told(f"scored {subject.name}")


def rescore(run: RunFolder, scorer: Scorer, told: Told = lambda line: None) -> None:
    """The scores of all subjects whose pieces are done, anew, without sampling."""
    facts = run.load()
    suite, source = Suite.from_dict(facts["suite"], str(run.run_file)), Source.from_dict(facts["dataset"], run.root)
    planned = plan(suite, source.open(pairs=suite.pairs is not None))
    whole = [(s, methods) for s, methods in planned if all(run.piece(s.name, m.piece).facts for m in methods)]
    if not whole:
        raise PersresError(f"{run.root} has no finished concept to score: run the evaluation first.")
    score(run, suite, whole, scorer, told, anew=True)
