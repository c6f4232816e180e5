"""JSON of any origin, read so that what comes of it can be written again: as JSON, into a page, on a terminal."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

DEPTH = 32
"""Lists and objects within one another; more would end in a RecursionError somewhere else."""
DIGITS = 20
"""Of a whole number; more do not fit 64 bits, and Python takes a time that grows with their square to read them."""
LOWEST, HIGHEST = -(2**63), 2**64 - 1


def loads(text: str) -> object:
    """The value; ValueError where it is no JSON, or holds what `check` refuses."""
    value = decode(text)
    # without these nothing can be deep, and no escape makes a surrogate
    if text.count("[") + text.count("{") > DEPTH or "\\u" in text or not text.isascii():
        check(value)
    return value


def decode(text: str) -> object:
    """The value; ValueError where it is no JSON. Its numbers are fit to be written, its texts and depth may not be."""
    try:
        return _STRICT.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def decode_start(text: str, at: int) -> object:
    """The same for a value that begins at `at`, whatever follows it."""
    blank = _BLANK.match(text, at)
    assert blank is not None  # it may be empty
    try:
        return _STRICT.raw_decode(text, blank.end())[0]
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def decode_leniently(text: str) -> object:
    """The same, but numbers that could not be written again are there as infinite ones, for `check` to find."""
    try:
        return _LENIENT.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check(value: object) -> None:
    """ValueError unless the value can be written as JSON: finite, of texts in UTF-8, not too deep."""
    left = [(value, 0)]
    while left:
        value, depth = left.pop()
        if isinstance(value, str):
            value.encode()  # UnicodeEncodeError, a ValueError, for a lone surrogate
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError("a number is not finite")
        elif isinstance(value, int):
            if not LOWEST <= value <= HIGHEST:
                raise ValueError("a number does not fit 64 bits")
        elif isinstance(value, (dict, list)):
            if depth == DEPTH:
                raise ValueError("it is nested too deeply")
            inside = [*value, *value.values()] if isinstance(value, dict) else value
            left += [(item, depth + 1) for item in inside]
        elif value is not None:
            raise ValueError(f"{type(value).__name__} is not JSON")


def _whole(text: str) -> int:
    if len(text) <= DIGITS and LOWEST <= (value := int(text)) <= HIGHEST:
        return value
    raise ValueError("a number does not fit 64 bits")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is not finite")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _named_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):  # Python keeps the last, other readers the first
        raise ValueError("a name stands twice")
    return value


def _whole_or_infinite(text: str) -> float:
    return int(text) if len(text) <= DIGITS else math.inf


_BLANK = re.compile(r"[ \t\n\r]*")
_STRICT = json.JSONDecoder(
    object_pairs_hook=_named_once, parse_int=_whole, parse_float=_finite, parse_constant=_constant
)
_LENIENT = json.JSONDecoder(parse_int=_whole_or_infinite)
