"""Whether LAG confines a concept: always, never, or as its words in the prompt say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import PersresError

LAG = ("on", "off", "auto")

_LOOK = r"(?:styles?|looks?|manner|spirit|aesthetics?|colou?rs|palette|patterns?|textures?|materials?)"
_BEFORE = re.compile(
    rf"(?<!\w)((?:(?:in|with|of|by) )?(?:the|an?|its) (?:\w+ )?{_LOOK} of|{_LOOK} of|(?:inspired|influenced) by)"
    r"(?: (?:the|an?|my|this|that))? $",
    re.IGNORECASE,
)
_AFTER = re.compile(
    rf"[- ](style|styled|{_LOOK}|inspired|themed|coloured|colored|patterned|textured)(?!\w)", re.IGNORECASE
)


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


def lent(text: str, places: Sequence[tuple[int, int]], noun: str = "", name: str = "V*") -> str:
    """The words by which a concept lends another thing its look, as "in the style of V*"; "" where it is a thing of
    its own, too.

    Then LAG would look for it where nothing of it is to be (Figure 5 of Ham et al. 2024: "object in the style of V*").
    text: a prompt. places: where the concept stands in it. noun: its macro class. name: what the answer calls it.
    """
    found = [_lent(" ".join(text[:start].split()), text[end:], noun, name) for start, end in places]
    return found[0] if found and all(found) else ""


def _lent(before: str, after: str, noun: str, name: str) -> str:
    if said := _BEFORE.search(f"{before} "):
        return f"{said[1]} {name}"
    after = re.sub(rf"^ {re.escape(noun)}(?!\w)", "", after, flags=re.IGNORECASE) if noun else after
    said = _AFTER.match(after)
    return f"{name}{said[0]}" if said else ""
