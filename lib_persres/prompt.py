"""What a prompt says about concepts: their tags, where V* stands, and which of its tokens are theirs.

Text goes in, text and numbers come out: nothing here knows a tokenizer, a model or the WebUI.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from .errors import PersresError
from .names import is_mark

NETWORK = "persres"
"""The name before the colon in a tag: `<persres:rex:0.8>`."""

SPECIAL_IDS = frozenset({49406, 49407})
"""CLIP's start and end tokens; the end token also pads."""

_OPEN = re.compile(r"<(\w+):")
_V = re.compile(r"(?<![\w*])V([0-9]*)\*(?!\w)")
MAX_STRENGTH = 100.0
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class Tag:
    """One `<persres:name:strength:lag=on|off:hr=..:start=..:end=..>`."""

    name: str
    strength: float = 1.0
    """s_k, the factor before the residual."""
    lag: bool | None = None
    """Whether LAG confines the residual; None leaves it to the UI or the API."""
    hr: float | None = None
    """The strength in the hires pass; None is the same as `strength`."""
    start: float = 0.0
    """The part of the sampling, 0 to 1, before which the residual is off."""
    end: float = 1.0
    """The part of the sampling, 0 to 1, from which it is off again."""
    text: str = ""
    """The tag as it was written."""


@dataclass(frozen=True)
class Use:
    """`text[start:end]` is the identifier of concept number `concept` (counted from 0)."""

    concept: int
    start: int
    end: int


@dataclass(frozen=True)
class Substituted:
    """A prompt in which the identifiers stand, and where they stand, in the text's order."""

    text: str
    uses: list[Use]


@dataclass(frozen=True)
class ConceptTokens:
    """The concept tokens C: `indices` into the flat list of context ids, ascending."""

    indices: tuple[int, ...]
    problem: str | None = None
    """A sentence for the user, None when all is right."""
    identifier_found: bool = True
    class_found: bool = True
    """Whether at least one identifier has its macro class."""
    own: tuple[int, ...] = ()
    """Those of `indices` that are an identifier's; the others are a macro class's."""
    adjacent: bool = True
    """False if some macro class was taken from a few tokens further on ("V* red dog")."""


# -- tags ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A tag of any extra network where it is written: `text[start:end]` is `<network:arguments>`."""

    network: str
    arguments: str
    start: int
    end: int


def find_tags(text: str) -> Iterator[Written]:
    """The tags in their order. The WebUI's grammar, but arguments may be empty: so `<persres:>` is seen and refused.

    Each character is looked at once or twice, whatever the text is.
    """
    at = 0
    while (opening := _OPEN.search(text, at)) and (close := text.find(">", opening.end())) >= 0:
        at = close + 1
        yield Written(opening[1], text[opening.end() : close], opening.start(), at)


def edit_tags(text: str, change: Callable[[Written], str | None]) -> str:
    """The text with what `change` gives in the tags' places; None leaves one as it is."""
    pieces, done = [], 0
    for tag in find_tags(text):
        written = change(tag)
        if written is not None:
            pieces += text[done : tag.start], written
            done = tag.end
    return "".join([*pieces, text[done:]])


def parse_tags(prompt: str) -> tuple[str, list[Tag]]:
    """Take this extension's tags out of a prompt: (the prompt without them, the tags in order).

    Other extra networks' tags stay in the text. A tag that cannot be understood raises PersresError.
    """
    tags: list[Tag] = []

    def take(tag: Written) -> str | None:
        if tag.network != NETWORK:
            return None
        tags.append(read_tag(tag.arguments.split(":"), prompt[tag.start : tag.end]))
        return ""

    return edit_tags(prompt, take), tags


def read_tag(arguments: Sequence[str], text: str | None = None) -> Tag:
    """A tag from the arguments between its colons: what the WebUI hands over as `params.items`."""
    text = f"<{NETWORK}:{':'.join(arguments)}>" if text is None else text
    positional: list[str] = []
    named: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals or "=" in value:  # the WebUI's rule: exactly one "="
            positional.append(argument.strip())
        elif key not in ("lag", "hr", "start", "end"):
            _refuse(text, f'has an unknown argument "{_short(key)}"; allowed are lag=, hr=, start= and end=')
        elif key in named:
            _refuse(text, f"gives {key}= twice; give it once")
        else:
            named[key] = value

    if not positional or not positional[0]:
        _refuse(text, f"names no concept; write <{NETWORK}:name> or <{NETWORK}:name:strength>")
    if len(positional) > 2:
        _refuse(
            text,
            f'has "{_short(positional[2])}" after the strength; only lag=, hr=, start= and end= may follow',
        )
    lag = named.get("lag")
    if lag is not None and lag.lower() not in ("on", "off"):
        _refuse(text, f'has lag="{_short(lag)}"; allowed are lag=on and lag=off')
    start = _number(named.get("start", "0"), "start", text, 0.0, 1.0)
    end = _number(named.get("end", "1"), "end", text, 0.0, 1.0)
    if start >= end:
        _refuse(
            text, f"starts at {start:g} and ends at {end:g}; start must be smaller than end, both from 0 to 1"
        )
    return Tag(
        name=positional[0],
        strength=_strength(positional[1], "the strength", text) if len(positional) == 2 else 1.0,
        lag=None if lag is None else lag.lower() == "on",
        hr=_strength(named["hr"], "hr", text) if "hr" in named else None,
        start=start,
        end=end,
        text=text,
    )


def _strength(value: str, what: str, tag: str) -> float:
    return _number(value, what, tag, -MAX_STRENGTH, MAX_STRENGTH, "a finite number such as 0.8, ")


def _number(value: str, what: str, tag: str, low: float, high: float, such: str = "a number ") -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        _refuse(tag, f'has "{_short(value)}" for {what}; allowed is {such}from {low:g} to {high:g}')
    return number


def _refuse(tag: str, why: str):
    raise PersresError(f"The tag {_short(tag, 80)} {why}.")


def _short(text: str, length: int = 40) -> str:
    """`text` on one line and cut to a length fit for a sentence."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


# -- V* ------------------------------------------------------------------------------------------------------


def substitute(prompt: str, identifiers: Sequence[str], macro_classes: Sequence[str]) -> Substituted:
    """Write the concepts' identifiers for V* and V1* (the first concept), V2* (the second), and so on.

    A placeholder is a whole word with a capital V. An identifier that the user typed counts as a use of its
    concept, too; where several concepts share it, of the one whose macro class comes next, else of the first
    of them. A placeholder without a concept raises PersresError. Extra networks' tags are left as they are.
    """
    if len(identifiers) != len(macro_classes):
        raise ValueError(f"{len(identifiers)} identifiers, but {len(macro_classes)} macro classes")
    pieces: list[str] = []
    uses: dict[int, Use] = {}
    tags: list[tuple[int, int]] = []
    length = done = 0
    for start, end, number in _placeholders(prompt):
        before = prompt[done:start]
        length += len(before)
        if number is None:
            written = prompt[start:end]
            tags.append((length, length + len(written)))
        else:
            concept = _concept_of(prompt[start:end], number, identifiers, macro_classes)
            written = identifiers[concept]
            uses[length] = Use(concept, length, length + len(written))
        pieces += before, written
        length += len(written)
        done = end
    text = "".join([*pieces, prompt[done:]])

    for start, end in _typed(text, identifiers):
        before = bisect.bisect(tags, (start, len(text))) - 1
        if start not in uses and not (before >= 0 and start < tags[before][1]):
            uses[start] = Use(_owner(text, start, end, identifiers, macro_classes), start, end)
    return Substituted(text, [uses[start] for start in sorted(uses)])


def _placeholders(prompt: str) -> Iterator[tuple[int, int, str | None]]:
    """(start, end, the digits between V and *) of each placeholder, and (start, end, None) of each tag, in their order.

    What looks like a placeholder within a tag is none.
    """
    places = _V.finditer(prompt)
    place = next(places, None)
    for tag in find_tags(prompt):
        while place and place.start() < tag.start:
            yield *place.span(), place[1]
            place = next(places, None)
        yield tag.start, tag.end, None
        while place and place.start() < tag.end:
            place = next(places, None)
    while place:
        yield *place.span(), place[1]
        place = next(places, None)


def _concept_of(
    placeholder: str, digits: str, identifiers: Sequence[str], macro_classes: Sequence[str]
) -> int:
    digits = digits.lstrip("0") if digits else "1"
    # The length is looked at first: Python refuses to read a number of thousands of digits.
    number = int(digits or "0") if len(digits) < 10 else -1
    if 1 <= number <= len(identifiers):
        return number - 1
    named = ", ".join(f"{i} {c}".strip() for i, c in zip(identifiers, macro_classes, strict=True))
    if number == 0:
        raise PersresError("V0* stands for no concept; the first one is V* or V1*, the second V2*.")
    place = _ORDINALS[number - 1] if 1 <= number <= len(_ORDINALS) else f"{_short(digits, 12)}th"
    has = {0: "no concept", 1: "only 1 concept"}.get(len(identifiers), f"only {len(identifiers)} concepts")
    end = f": {named}" if named else f"; add its tag, such as <{NETWORK}:name>"
    raise PersresError(
        f"{_short(placeholder, 16)} stands for the {place} concept, but the prompt names {has}{end}."
    )


def _typed(text: str, identifiers: Sequence[str]) -> list[tuple[int, int]]:
    """Where identifiers stand as whole words, in any case: CLIP reads everything in lower case."""
    words = sorted({re.escape(i) for i in identifiers if i}, key=len, reverse=True)
    if not words:
        return []
    matches = re.finditer(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", text, re.IGNORECASE)
    # IGNORECASE also takes the long s for an s, which lower case, and so CLIP, does not.
    known = {identifier.lower() for identifier in identifiers}
    # \w has letters without their marks, which belong to the word
    return [
        match.span()
        for match in matches
        if match[0].lower() in known and not (match.end() < len(text) and is_mark(text[match.end()]))
    ]


def _owner(text: str, start: int, end: int, identifiers: Sequence[str], macro_classes: Sequence[str]) -> int:
    word = text[start:end].lower()
    owners = [k for k, identifier in enumerate(identifiers) if identifier.lower() == word]
    following = re.compile(r"\w").search(text, end) if len(owners) > 1 else None
    for k in owners if following else ():
        noun = re.compile(rf"{re.escape(macro_classes[k])}(?!\w)", re.IGNORECASE)
        if macro_classes[k] and noun.match(text, following.start()):
            return k
    return owners[0]


# -- concept tokens ------------------------------------------------------------------------------------------


def find_concept_tokens(
    ids: Sequence[int],
    identifier_ids: Sequence[int],
    class_ids: Sequence[int],
    *,
    identifier: str = "",
    macro_class: str = "",
    concept: str = "",
    placeholder: str = "V*",
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
    prompt's other concepts. `identifier`, `macro_class`, `concept` and `placeholder` are the words for the
    sentence in `problem`.
    """
    if not identifier_ids:
        raise ValueError("identifier_ids is empty")
    places = [index for index, token in enumerate(ids) if token not in special_ids]
    tokens = [ids[index] for index in places]
    own = list(identifier_ids)
    noun = list(class_ids)
    name = f'"{placeholder}" (token "{identifier}")' if identifier else f'"{placeholder}"'
    name += f' of concept "{concept}"' if concept else ""
    advice = f'write "{placeholder} {macro_class}"' if macro_class else f'write "{placeholder}" and its class'

    starts = _occurrences(tokens, own)
    rivals = [list(theirs_noun) for theirs, theirs_noun in others if list(theirs) == own]
    if noun in rivals:
        return ConceptTokens(
            (),
            f'{name} and its class "{macro_class}" are also those of another concept, so LAG cannot tell '
            "the two apart; train one of them with another identifier.",
            identifier_found=bool(starts),
            class_found=False,
            adjacent=False,
        )
    borders = sorted({*starts, *(at for theirs, _ in others if theirs for at in _occurrences(tokens, list(theirs)))})
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

    problem = None
    if not identifier_found:
        problem = f"{name} is not in the prompt, so LAG leaves the residual out; {advice}."
    elif noun and not class_found:
        word = f'"{macro_class}"' if macro_class else "its class"
        problem = f"{name} is not followed by {word}, so LAG sees only the identifier; {advice}."
    return ConceptTokens(
        tuple(sorted(places[at] for at in found | identifiers)),
        problem,
        identifier_found=identifier_found,
        class_found=class_found,
        adjacent=class_found and adjacent,
        own=tuple(sorted(places[at] for at in identifiers)),
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
