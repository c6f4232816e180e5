"""Whether LAG confines a concept: always, never, or as its words in the prompt say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import PersresError

LAG = ("on", "off", "auto")
PLACED, ALONE = 0.1, 0.2
"""The part of a sampling in which the model gives a thing its place alone, before a concept acts under an early mask;
and of several concepts (docs/decisions.md)."""

_LOOK = r"(?:styles?|looks?|manner|spirit|aesthetics?|colou?rs|palette|patterns?|textures?|materials?)(?: and \w+)?"
_DONE = r"(?:painted|drawn|rendered|styled|decorated|colou?red|patterned|textured|looking|shaped|dressed)"
_WHOSE = r"(?:the|an?|my|our|your|his|her|their|this|that)"
_BEFORE = re.compile(
    rf"(?<!\w)((?:in|with|by) (?:{_WHOSE}|its) (?:\w+ )?(?:\w+ )?{_LOOK} of|(?:the )?styles? of|{_DONE} like"
    rf"|(?:inspired|influenced) by)(?: {_WHOSE}(?: [\w-]+)?(?: [\w-]+)?)? $",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"((?:'s|’s) style|[- ](?:styles?|styled|inspired|themed|aesthetics?|palette|patterns?|textures?|colou?rs)"
    r"|-(?:coloured|colored|patterned|textured))(?!\w| (?:by|like|as|at|after|from)(?!\w))",
    re.IGNORECASE,
)
_AND = re.compile(r"(?: [\w-]+)?(?: [\w-]+)?(?:,| and| or| &) ")
"""Between two in a list: "V1* dog and V2* cat". What has an article of its own is a thing of its own."""
_MARKUP = re.compile(r'(?::[\d.]{1,20})?[)\]"“”]|[(\["“”]')
"""Emphasis and quotation marks."""
_NEAR = 200
"""Characters on either side that are looked at."""


def lag_choice(value: object) -> str:
    """One of LAG; True and False are on and off. PersresError for anything else."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str) and value in LAG:
        return value
    raise PersresError(f"LAG can be {', '.join(LAG[:-1])} or {LAG[-1]}, not {str(value)[:60]!r}.")


def decided(choice: str, lent: str) -> tuple[bool, str]:
    """Whether LAG confines a concept, and what auto made of it, and why; "" where it was not asked."""
    if choice != "auto":
        return choice == "on", ""
    return (False, f'off, "{lent}"') if lent else (True, "on")


def lent(
    text: str,
    places: Sequence[tuple[int, int]],
    noun: str = "",
    name: str = "V*",
    others: Sequence[tuple[int, int]] = (),
) -> str:
    """The words by which a concept lends another thing its look, as "in the style of V*"; "" where it is a thing of
    its own, too.

    Then LAG would look for it where nothing of it is to be (Figure 5 of Ham et al. 2024: "object in the style of V*").
    text: a prompt. places: where the concept stands in it. noun: its macro class. name: what the answer calls it.
    others: where any concept stands: in a list all do what the first of them does.
    """
    own = set(places)
    said: dict[tuple[int, int], str] = {}
    last = None
    for place in sorted({*places, *others}):
        said[place] = _lent(text, *place, noun if place in own else "", name)
        if not said[place] and last and said[last] and _AND.fullmatch(_plain(text[last[1] : place[0]][:_NEAR])):
            said[place] = said[last]
        last = place
    found = [said[place] for place in places]
    return found[0] if found and all(found) else ""


def _lent(text: str, start: int, end: int, noun: str, name: str) -> str:
    before, after = _plain(text[max(0, start - _NEAR) : start]), _plain(text[end : end + _NEAR])
    if said := _BEFORE.search(f"{before.rstrip()} "):
        return f"{said[1]} {name}"
    after = re.sub(rf"^ {re.escape(noun)}(?!\w)", "", after, flags=re.IGNORECASE) if noun else after
    said = _AFTER.match(after)
    return f"{name}{said[1]}" if said else ""


def _plain(text: str) -> str:
    """Without markup, and with a blank for any white space."""
    return re.sub(r"\s+", " ", _MARKUP.sub("", text))
