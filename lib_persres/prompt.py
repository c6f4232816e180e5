"""What a prompt says about concepts: their tags, where V* stands, and which of its tokens are theirs.

Text goes in, text and numbers come out: nothing here knows a tokenizer, a model or the WebUI.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from .errors import PersresError
from .lag_choice import LAG, lent
from .names import is_mark

NEGATIVE = "negative prompt"
NETWORK = "persres"
"""The name before the colon in a tag: `<persres:rex:0.8>`."""

SPECIAL_IDS = frozenset({49406, 49407})
"""CLIP's start and end tokens; the end token also pads."""

_OPEN = re.compile(r"<(\w+):")
_V = re.compile(r"(?<![\w*])V([0-9]*)\*(?!\w)")
ARGUMENTS = ("lag", "hr", "start", "end", "word", "text")
_SAID = f"{'=, '.join(ARGUMENTS[:-1])}= and {ARGUMENTS[-1]}="
SWITCH = {"on": True, "off": False}
MAX_STRENGTH = 100.0
MAX_WORD = 100
"""Characters."""
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class Tag:
    """One `<persres:name:strength:lag=on|off|auto:hr=..:start=..:end=..:word=..:text=on|off>`."""

    name: str
    strength: float = 1.0
    """s_k, the factor before the residual."""
    lag: str | None = None
    """One of `lag_choice.LAG`, whether LAG confines the residual; None leaves it to the UI or the API."""
    hr: float | None = None
    """The strength in the hires pass; None is the same as `strength`."""
    start: float = 0.0
    """The part of the sampling, 0 to 1, before which the residual is off."""
    end: float = 1.0
    """The part of the sampling, 0 to 1, from which it is off again."""
    word: str = ""
    """Of a LoRA file: the words of the prompt that its mask is of, several joined by "+"."""
    reads: bool | None = None
    """text=: whether what a file changes of the text acts: keys and values of cross-attentions, and a LoRA's part for
    the text encoders. None: all of it plainly, and under LAG what a mask confines."""
    text: str = ""
    """The tag as it was written."""


@dataclass(frozen=True)
class Occurrence:
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
    uses: list[Occurrence]

    def lent(self, concept: int, noun: str, name: str) -> str:
        """See `lag_choice.lent`, of a concept by its number."""
        every = [(use.start, use.end) for use in self.uses]
        own = [place for place, use in zip(every, self.uses) if use.concept == concept]
        return lent(self.text, own, noun, name, every)


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
    pieces: list[str] = []
    done = 0
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
        elif key not in ARGUMENTS:
            _refuse(text, f'has an unknown argument "{short(key)}"; allowed are {_SAID}')
        elif key in named:
            _refuse(text, f"gives {key}= twice; give it once")
        else:
            named[key] = value

    if not positional or not positional[0]:
        _refuse(text, f"names no concept; write <{NETWORK}:name> or <{NETWORK}:name:strength>")
    if len(positional) > 2:
        _refuse(
            text,
            f'has "{short(positional[2])}" after the strength; only {_SAID} may follow',
        )
    lag = named.get("lag")
    if lag is not None and lag.lower() not in LAG:
        _refuse(text, f'has lag="{short(lag)}"; allowed are lag=on, lag=off and lag=auto')
    reads = named.get("text")
    if reads is not None and reads.lower() not in SWITCH:
        _refuse(text, f'has text="{short(reads)}"; allowed are text=on and text=off')
    start = _number(named.get("start", "0"), "start", text, 0.0, 1.0)
    end = _number(named.get("end", "1"), "end", text, 0.0, 1.0)
    if start >= end:
        _refuse(text, f"starts at {start:g} and ends at {end:g}; start must be smaller than end, both from 0 to 1")
    return Tag(
        name=positional[0],
        strength=_strength(positional[1], "the strength", text) if len(positional) == 2 else 1.0,
        lag=None if lag is None else lag.lower(),
        hr=_strength(named["hr"], "hr", text) if "hr" in named else None,
        start=start,
        end=end,
        word=_word(named["word"], text) if "word" in named else "",
        reads=None if reads is None else SWITCH[reads.lower()],
        text=text,
    )


def _word(value: str, tag: str) -> str:
    words = [" ".join(word.split()) for word in value.split("+")]
    if not all(words) or len(value) > MAX_WORD:
        _refuse(tag, f'has word="{short(value)}"; write words of the prompt, as word=dog or word=sks+dog')
    return "+".join(words)


def _strength(value: str, what: str, tag: str) -> float:
    return _number(value, what, tag, -MAX_STRENGTH, MAX_STRENGTH, "a finite number such as 0.8, ")


def _number(value: str, what: str, tag: str, low: float, high: float, such: str = "a number ") -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        _refuse(tag, f'has "{short(value)}" for {what}; allowed is {such}from {low:g} to {high:g}')
    return number


def _refuse(tag: str, why: str) -> NoReturn:
    raise PersresError(f"The tag {short(tag, 80)} {why}.")


def short(text: str, length: int = 40) -> str:
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
    uses: dict[int, Occurrence] = {}
    tags: list[tuple[int, int]] = []
    length = done = 0
    for start, end, number in _placeholders(prompt):
        before = prompt[done:start]
        length += len(before)
        if number is None:
            written = prompt[start:end]
            tags.append((length, length + len(written)))
        else:
            try:
                concept = _concept_of(prompt[start:end], number, len(identifiers), names)
            except PersresError as error:
                if problem is None:
                    raise
                problem(str(error))
                written = ""
            else:
                written = identifiers[concept]
                uses[length] = Occurrence(concept, length, length + len(written))
        pieces += before, written
        length += len(written)
        done = end
    text = "".join([*pieces, prompt[done:]])

    for start, end in _typed(text, identifiers):
        tag = bisect.bisect(tags, (start, len(text))) - 1
        if start not in uses and not (tag >= 0 and start < tags[tag][1]):
            uses[start] = Occurrence(_owner(text, start, end, identifiers, macro_classes), start, end, typed=True)
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


def placeholders(prompt: str) -> dict[int, str]:
    """The numbers, from 1, that a prompt's placeholders stand for, and how each was first written."""
    found: dict[int, str] = {}
    for start, end, digits in _placeholders(prompt):
        if digits is not None and (number := _number_of(digits)) is not None:
            found.setdefault(number, prompt[start:end])
    return found


def placeholder_of(prompt: str, number: int) -> str:
    """How a prompt writes the number-th concept, counted from 1, or could."""
    return placeholders(prompt).get(number, "V*" if number == 1 else f"V{number}*")


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
    place = f"{short(digits.lstrip('0'), 12)}th"
    if number is not None and number <= len(_ORDINALS):
        place = _ORDINALS[number - 1]
    has = {0: "no concept", 1: "only 1 concept"}.get(count, f"only {count} concepts")
    named = ", ".join(filter(None, names))
    end = f": {named}" if named else f"; add its tag, such as <{NETWORK}:name>"
    raise PersresError(f"{short(placeholder, 16)} stands for the {place} concept, but the prompt names {has}{end}.")


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


def has_word(text: str, word: str) -> bool:
    """Whether a prompt, its tags left out, has a word or a phrase as a whole, in any case."""
    return bool(word) and bool(_typed(edit_tags(text, lambda tag: " "), [word]))


def _owner(text: str, start: int, end: int, identifiers: Sequence[str], macro_classes: Sequence[str]) -> int:
    word = text[start:end].lower()
    owners = [k for k, identifier in enumerate(identifiers) if identifier.lower() == word]
    if len(owners) > 1 and (following := re.compile(r"\w").search(text, end)):
        for k in owners:
            noun = re.compile(rf"{re.escape(macro_classes[k])}(?!\w)", re.IGNORECASE)
            if macro_classes[k] and noun.match(text, following.start()):
                return k
    return owners[0]
