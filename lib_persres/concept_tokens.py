"""Which tokens of a prompt are a concept's.

Numbers go in and come out: nothing here knows a tokenizer, a model or the WebUI.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .prompt import SPECIAL_IDS


@dataclass(frozen=True)
class ConceptTokens:
    """The concept tokens C: `indices` into the flat list of context ids, ascending."""

    indices: tuple[int, ...]
    identifier_found: bool = True
    class_found: bool = True
    """Whether at least one identifier has its macro class."""
    own: tuple[int, ...] = ()
    """Those of `indices` that are an identifier's; the others are a macro class's."""
    adjacent: bool = True
    """False if some macro class was taken from a few tokens further on ("V* red dog")."""
    shared: bool = False
    """Another concept has the same identifier and class, so that no token is known to be this one's."""


def find_concept_tokens(
    ids: Sequence[int],
    identifier_ids: Sequence[int],
    class_ids: Sequence[int],
    *,
    others: Sequence[tuple[Sequence[int], Sequence[int]]] = (),
    reach: int = 4,
    special_ids: Collection[int] = SPECIAL_IDS,
) -> ConceptTokens:
    """The concept tokens C of one concept in a context: each identifier and the macro class after it.

    `ids` are all chunks in a row, start, end and padding included, so that an index into `ids` is an index
    into the context (77·chunk + k). Those `special_ids` may stand between identifier and class, as where a
    chunk ends. Where the class does not follow at once, its first occurrence that begins within the next
    `reach` tokens is taken ("V* red dog"; then `adjacent` is False), but never one behind another identifier.
    An identifier without any class counts by itself. `others` are the (identifier ids, class ids) of the
    prompt's other concepts.
    """
    if not identifier_ids:
        return ConceptTokens((), identifier_found=False, class_found=False)
    others = [pair for pair in others if pair[0]]
    places = [index for index, token in enumerate(ids) if token not in special_ids]
    tokens = [ids[index] for index in places]
    own = list(identifier_ids)
    noun = list(class_ids)

    starts = _occurrences(tokens, own)
    rivals = [list(theirs_noun) for theirs, theirs_noun in others if list(theirs) == own]
    if noun in rivals:
        return ConceptTokens((), identifier_found=bool(starts), class_found=False, adjacent=False, shared=True)
    # another's word that is this one's class is no border before it
    words = (list(theirs) for theirs, _ in others if list(theirs) != noun)
    borders = sorted({*starts, *(at for word in words for at in _occurrences(tokens, word))})
    found: set[int] = set()
    identifiers: set[int] = set()
    identifier_found = class_found = False
    adjacent = True
    for start in starts:
        after = start + len(own)
        behind = bisect.bisect_left(borders, after)
        border = borders[behind] if behind < len(borders) else len(tokens)
        within = tokens[after : min(border, after + reach + len(noun) - 1)]
        gap = next(iter(_occurrences(within, noun)), None) if noun else None
        near = tokens[after : min(border, after + reach)]
        rival_gaps = [at for theirs in rivals if theirs for at in _occurrences(near, theirs)[:1]]
        if rival_gaps and (gap is None or min(rival_gaps) < gap):
            continue  # the same identifier, but it stands before another concept's class
        identifier_found = True
        identifiers.update(range(start, after))
        if gap is not None:
            class_found = True
            adjacent = adjacent and gap == 0
            found.update(range(after + gap, after + gap + len(noun)))

    return ConceptTokens(
        tuple(sorted(places[at] for at in found | identifiers)),
        identifier_found=identifier_found,
        class_found=class_found,
        adjacent=class_found and adjacent,
        own=tuple(sorted(places[at] for at in identifiers)),
    )


def together(found: Sequence[ConceptTokens]) -> ConceptTokens:
    """Those of a concept that has several words."""
    first, *rest = found
    if not rest:
        return first
    return ConceptTokens(
        tuple(sorted({index for each in found for index in each.indices})),
        identifier_found=any(each.identifier_found for each in found),
        class_found=first.class_found,
        own=tuple(sorted({index for each in found for index in each.own})),
        adjacent=first.adjacent,
        shared=first.shared,
    )


def _occurrences(tokens: Sequence[int], wanted: list[int]) -> list[int]:
    """Where `wanted` begins in `tokens`, without overlaps."""
    starts: list[int] = []
    at = 0
    while at + len(wanted) <= len(tokens):
        if list(tokens[at : at + len(wanted)]) == wanted:
            starts.append(at)
            at += len(wanted)
        else:
            at += 1
    return starts
