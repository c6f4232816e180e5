"""Values that a program may give, whatever they are: what a sentence calls them, and whether they are numbers."""

from __future__ import annotations

import math
from typing import TypeGuard

KINDS = {dict: "an object", list: "a list", tuple: "a list", bool: "true or false", type(None): "null"}
LONGEST = 60


def shown(value: object) -> str:
    """A value for the inside of a sentence: short, whatever its depth and its digits."""
    if isinstance(value, (bool, type(None))):
        return repr(str(value))
    if isinstance(value, int) and abs(value) >= 10**LONGEST:  # Python refuses to write thousands of digits
        return f"a number of more than {LONGEST} digits"
    if isinstance(value, (int, float, str)):
        return repr(str(value)[:LONGEST])
    return KINDS.get(type(value), "something else")


def name_of(key: object) -> str:
    """A key for a list of keys."""
    return key if isinstance(key, str) else shown(key).strip("'")


def kind(value: object) -> str:
    return "a text" if isinstance(value, str) else KINDS.get(type(value), "a number")


def is_number(value: object, low: float, high: float) -> TypeGuard[float]:
    """Whether it is a number in this range; True and False are none, nor is what is not a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: object, low: int, high: int) -> bool:
    return is_number(value, low, high) and math.floor(value) == value
