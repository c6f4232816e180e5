"""What a prompt says about concepts: their tags, where V* stands, and which of its tokens are theirs.

Text goes in, text and numbers come out: nothing here knows a tokenizer, a model or the WebUI.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from .errors import PersresError

NEGATIVE = "negative prompt"
NETWORK = "persres"
"""The name before the colon in a tag: `<persres:rex:0.8>`."""

SPECIAL_IDS = frozenset({49406, 49407})
"""CLIP's start and end tokens; the end token also pads."""

# One BPE token each in CLIP's vocabulary, from its rare end, without a meaning of their own. "sks" comes last
# because it names a rifle, which Stable Diffusion draws.
IDENTIFIERS = (
    "olis", "phol", "ohwx", "hta", "utz", "yles", "ilis", "orum", "eper", "ylde", "tedu", "elee",
    "yte", "enei", "ofi", "plo", "oue", "aroo", "ynna", "gawx", "mswx", "sks",
)  # fmt: skip

# The WebUI's grammar, but for `*` where it has `+`: so an empty `<persres:>` is seen and refused.
_TAG = r"<(?P<network>\w+):(?P<arguments>[^>]*)>"
_TAGS = re.compile(_TAG)
_PLACEHOLDERS = re.compile(_TAG + r"|(?<![\w*])V(?P<number>[0-9]*)\*(?!\w)")
# What the WebUI's prompt syntax and our own would read as something else.
_FORBIDDEN = frozenset("()[]<>:|,*\\")
_FORBIDDEN_WORDS = frozenset({"AND", "BREAK"})
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
    typed: bool = False
    """The user wrote the identifier, not a placeholder."""


@dataclass(frozen=True)
class Substituted:
    """A prompt in which the identifiers stand, and where they stand, in the text's order."""

    text: str
    uses: list[Use]


# -- tags ----------------------------------------------------------------------------------------------------


def parse_tags(prompt: str) -> tuple[str, list[Tag]]:
    """Take this extension's tags out of a prompt: (the prompt without them, the tags in order).

    Other extra networks' tags stay in the text. A tag that cannot be understood raises PersresError.
    """
    tags: list[Tag] = []

    def take(match: re.Match) -> str:
        if match["network"] != NETWORK:
            return match[0]
        tags.append(read_tag(match["arguments"].split(":"), match[0]))
        return ""

    return _TAGS.sub(take, prompt), tags


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
        strength=_number(positional[1], "the strength", text) if len(positional) == 2 else 1.0,
        lag=None if lag is None else lag.lower() == "on",
        hr=_number(named["hr"], "hr", text) if "hr" in named else None,
        start=start,
        end=end,
        text=text,
    )


def _number(value: str, what: str, tag: str, low: float = -math.inf, high: float = math.inf) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not low <= number <= high:
        allowed = "a finite number such as 0.8" if math.isinf(low) else f"a number from {low:g} to {high:g}"
        _refuse(tag, f'has "{_short(value)}" for {what}; allowed is {allowed}')
    return number


def _refuse(tag: str, why: str):
    raise PersresError(f"The tag {_short(tag, 80)} {why}.")


def _short(text: str, length: int = 40) -> str:
    """`text` on one line and cut to a length fit for a sentence."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


# -- V* ------------------------------------------------------------------------------------------------------


def substitute(
    prompt: str,
    identifiers: Sequence[str],
    macro_classes: Sequence[str],
    names: Sequence[str] = (),
    problem: Callable[[str], None] | None = None,
) -> Substituted:
    """Write the concepts' identifiers for V* and V1* (the first concept), V2* (the second), and so on.

    A placeholder is a whole word with a capital V. An identifier that the user typed counts as a use of its
    concept, too; where several concepts share it, of the one whose macro class comes next, else of the first
    of them. A placeholder without a concept is told to `problem` and leaves nothing; without `problem` it raises
    PersresError. names: what the sentence calls the concepts, their tags. Extra networks' tags are left as they are.
    """
    if len(identifiers) != len(macro_classes):
        raise ValueError(f"{len(identifiers)} identifiers, but {len(macro_classes)} macro classes")
    pieces: list[str] = []
    uses: dict[int, Use] = {}
    tags: list[tuple[int, int]] = []
    length = done = 0
    for match in _PLACEHOLDERS.finditer(prompt):
        before = prompt[done : match.start()]
        length += len(before)
        if match["network"] is None:
            try:
                concept = _concept_of(match[0], match["number"], len(identifiers), names)
            except PersresError as error:
                if problem is None:
                    raise
                problem(str(error))
                written = ""
            else:
                written = identifiers[concept]
                uses[length] = Use(concept, length, length + len(written))
        else:
            written = match[0]
            tags.append((length, length + len(written)))
        pieces += before, written
        length += len(written)
        done = match.end()
    text = "".join([*pieces, prompt[done:]])

    for start, end in _typed(text, identifiers):
        if start not in uses and not any(low <= start < high for low, high in tags):
            uses[start] = Use(_owner(text, start, end, identifiers, macro_classes), start, end, typed=True)
    return Substituted(text, [uses[start] for start in sorted(uses)])


def placeholders(prompt: str) -> dict[int, str]:
    """The numbers, from 1, that a prompt's placeholders stand for, and how each was first written."""
    found: dict[int, str] = {}
    for match in _PLACEHOLDERS.finditer(prompt):
        if match["network"] is None and (number := _number_of(match["number"])) is not None:
            found.setdefault(number, match[0])
    return found


def placeholder_of(prompt: str, number: int) -> str:
    """How a prompt writes the number-th concept, counted from 1, or could."""
    return placeholders(prompt).get(number, "V*" if number == 1 else f"V{number}*")


def wordless(prompt: str, what: str = "prompt") -> str | None:
    """The sentence of a prompt that has placeholders and, as whoever asks knows, no tag."""
    written = next(iter(placeholders(prompt).values()), None)
    if written is None:
        return None
    if what == NEGATIVE:  # whose V* is that of the image's prompt
        written, what = f"{written} in the {NEGATIVE}", "prompt"
    return f"{written} stands for a concept, but the {what} has no <{NETWORK}:…> tag: it was read as words."


def stray_tag(text: str, what: str = "prompt") -> str | None:
    """The sentence of a text in which, after the tags were read, something like a tag is left."""
    if not (match := re.search(rf"<{NETWORK}\b", text, re.IGNORECASE)):
        return None
    shown = _short(text[match.start() :].partition(">")[0])
    place = " into the prompt" if what == NEGATIVE else ""
    return f'"{shown}" in the {what} is no tag: write <{NETWORK}:name> or <{NETWORK}:name:strength>{place}.'


def _number_of(digits: str) -> int | None:
    """None for one that nobody counts to. Python refuses to read a number of thousands of digits."""
    digits = digits.lstrip("0") or "0" if digits else "1"
    return int(digits) if len(digits) < 10 else None


def _concept_of(placeholder: str, digits: str, count: int, names: Sequence[str]) -> int:
    number = _number_of(digits)
    if number is not None and 1 <= number <= count:
        return number - 1
    if number == 0:
        raise PersresError("V0* stands for no concept; the first one is V* or V1*, the second V2*.")
    known = number is not None and number <= len(_ORDINALS)
    place = _ORDINALS[number - 1] if known else f"{_short(digits.lstrip('0'), 12)}th"
    has = {0: "no concept", 1: "only 1 concept"}.get(count, f"only {count} concepts")
    named = ", ".join(filter(None, names))
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
    return [match.span() for match in matches if match[0].lower() in known]


def _owner(text: str, start: int, end: int, identifiers: Sequence[str], macro_classes: Sequence[str]) -> int:
    word = text[start:end].lower()
    owners = [k for k, identifier in enumerate(identifiers) if identifier.lower() == word]
    for k in owners if len(owners) > 1 else ():
        if macro_classes[k] and re.match(
            rf"\W*{re.escape(macro_classes[k])}(?!\w)", text[end:], re.IGNORECASE
        ):
            return k
    return owners[0]


# -- identifiers ---------------------------------------------------------------------------------------------


def choose_identifier(encode: Callable[[str], list[int]], taken: Collection[str] = ()) -> str:
    """A rare identifier that is exactly one token and not `taken` (in any case of letters).

    `encode` gives a text's token ids; start, end and padding tokens among them do not count.
    """
    used = {word.lower() for word in taken}
    for candidate in IDENTIFIERS:
        if candidate not in used and len(_plain(encode(candidate))) == 1:
            return candidate
    raise PersresError(
        f"None of the {len(IDENTIFIERS)} known identifiers is free and one token of this model; "
        "type an identifier of your own, a rare short word."
    )


def check_identifier(identifier: str, encode: Callable[[str], list[int]]) -> list[int]:
    """The token ids of a usable identifier; PersresError for one that a prompt would misread."""
    if not identifier.strip():
        raise PersresError('The identifier is empty; choose a rare short word such as "olis".')
    shown = _short(identifier)
    if any(character.isspace() for character in identifier):
        raise PersresError(
            f'The identifier "{shown}" contains white space; choose one rare short word such as "olis".'
        )
    wrong = sorted(_FORBIDDEN.intersection(identifier))
    if wrong:
        raise PersresError(
            f'The identifier "{shown}" contains {" ".join(wrong)}, which has a meaning in prompts; '
            "use letters and digits."
        )
    if identifier in _FORBIDDEN_WORDS:
        raise PersresError(
            f'The identifier "{shown}" is a command in prompts; choose a rare short word such as "olis".'
        )
    ids = _plain(encode(identifier))
    if not ids:
        raise PersresError(f'The identifier "{shown}" has no tokens in this model; use letters and digits.')
    return ids


def _plain(ids: Sequence[int]) -> list[int]:
    return [int(token) for token in ids if int(token) not in SPECIAL_IDS]
