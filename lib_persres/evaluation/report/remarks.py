"""What the pieces told while they were done: each sentence once, with those that told it."""

from __future__ import annotations

import re

from .folder import Run

NAMED = 3
_OWN = re.compile(r'"[^"]*"|<[^<>]*>')
"""What differs in a sentence from concept to concept: names and words in quotes, tags."""


def problems(run: Run) -> list[str]:
    """Equal sentences as one, as the first piece told it, with the first of those that met it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for piece in [*run.pieces, *run.pair_pieces]:
        name = f"{piece.concept}, {piece.training}"
        for problem in map(str, piece.cost.get("problems") or []):
            names = found.setdefault(_OWN.sub("", problem), (problem, []))[1]
            if name not in names:
                names.append(name)
    return [f"A problem met by {_some(names)}: {problem}" for problem, names in found.values()]


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return "; ".join(names[:NAMED]) + (f"; and {more} more" if more > 0 else "")
