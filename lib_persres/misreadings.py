"""What of a prompt its author likely meant otherwise than it is read, each as a sentence: cause, effect, advice."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from .prompt import NEGATIVE, NETWORK, edit_tags, placeholders, short

NEAR = 0.8
"""How much a word is like the name of our tags, by difflib's ratio, to be taken for it."""

_LIKE_TAG = re.compile(r"<\s*(\w+)")
_LIKE_V = re.compile(r"(?<![\w*])[Vv] ?[0-9]{0,9} ?\*\w{0,9}")
_V = re.compile(r"V[0-9]*\*")


def misreadings(text: str, tagged: bool, what: str = "prompt", others: Iterable[str] = ()) -> list[str]:
    """The sentences on tags and placeholders of a text from which the good tags were taken.

    tagged: whether the image's prompt has good tags. what: the sentences' name for the text. others: tags of unknown
    kinds that were taken out, too.
    """
    unread = "" if tagged else next(iter(placeholders(text).values()), "")
    strays = [stray for part in (text, *others) if (stray := stray_tag(part, what, unread))]
    if strays:
        return list(dict.fromkeys(strays))
    if unread:
        return [_wordless(unread, what)]
    return [near] if tagged and (near := near_placeholder(text, what)) else []


def _wordless(written: str, what: str) -> str:
    """Of a text that has placeholders and no tag."""
    if what == NEGATIVE:  # whose V* is that of the image's prompt
        written, what = f"{written} in the {NEGATIVE}", "prompt"
    return f"{written} stands for a concept, but the {what} has no <{NETWORK}:…> tag: it was read as words."


def stray_tag(text: str, what: str = "prompt", unread: str = "") -> str | None:
    """The sentence of a text in which, after the tags were read, something like a tag of ours is left.

    unread: a placeholder that stands for nothing because of it.
    """
    match = next((match for match in _LIKE_TAG.finditer(text) if is_near(match[1])), None)
    if match is None:
        return None
    begun, closed, _ = text[match.start() :].partition(">")
    meant = _meant(begun[match.end() - match.start() :], bool(closed))
    why = "" if closed else ', since its ">" is missing'
    effect = f", so {unread} was read as a word" if unread else ""
    place = " into the prompt" if what == NEGATIVE else ""
    advice = f"write <{NETWORK}:name> or <{NETWORK}:name:strength>{place}."
    if meant:
        exact = match[1] == NETWORK
        advice = f"write <{NETWORK}:{meant}>{place}." if exact else f"did you mean <{NETWORK}:{meant}>{place}?"
    return f'"{short(begun, 60)}{closed}" in the {what} is no tag{why}{effect}: {advice}'


def is_near(word: str) -> bool:
    """Whether a word is the name of our tags, in any case, or one slip behind its first letter away."""
    word = word.lower()
    return word[0] == NETWORK[0] and len(word) < 12 and difflib.SequenceMatcher(None, NETWORK, word).ratio() >= NEAR


def _meant(rest: str, closed: bool) -> str:
    """The arguments that a tag would have, from what follows its name; "" where that cannot be told."""
    arguments = rest.strip(" :=")
    if not closed:  # all the prompt follows: a word of it
        arguments = arguments.partition(" ")[0] if ":" in rest[:2] else ""
    return short(arguments, 40)


def near_placeholder(text: str, what: str = "prompt") -> str | None:
    """The sentence of a text with something like V*, such as v*, "V *" or V*dog."""
    for match in _LIKE_V.finditer(edit_tags(text, lambda tag: " ")):
        if _V.fullmatch(match[0]):
            continue
        digits = "".join(filter(str.isdigit, match[0].partition("*")[0]))
        return (
            f'"{match[0]}" in the {what} was read as words: write V{digits}*, with a capital V and a space on '
            "each side, where the concept is to be."
        )
    return None
