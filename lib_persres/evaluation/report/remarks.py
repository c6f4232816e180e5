"""What the pieces told while they were done: each sentence once, with those that told it."""

from __future__ import annotations

from .folder import Piece, Run

NAMED = 3


def problems(run: Run) -> list[str]:
    """A sentence for each problem, with the first pieces that met it."""
    found: dict[str, list[str]] = {}
    for piece in [*run.pieces, *run.pair_pieces]:
        for problem in piece.cost.get("problems") or []:
            found.setdefault(_general(str(problem), piece), []).append(f"{piece.concept}, {piece.training}")
    return [f"A problem met by {_some(names)}: {problem}" for problem, names in found.items()]


def _general(problem: str, piece: Piece) -> str:
    """The sentence without the name of the concept that it is of, so that concepts' equal sentences are equal."""
    for name in piece.concept.split("+"):
        problem = problem.replace(f'of concept "{name}"', "of the concept").replace(f"<persres:{name}:", "<persres:…:")
    return problem


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return "; ".join(names[:NAMED]) + (f"; and {more} more" if more > 0 else "")
