"""The WebUI's emphasis, `(word)`, `(word:1.3)`, `[word]`, with `\\` before brackets that are meant as such."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .errors import PersresError
from .prompt import Occurrence, Substituted, short

_PIECES = re.compile(r"\\[()\[\]\\]?|[(\[]|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|[)\]]|[^\\()\[\]:]+|:")
STEP = 1.1
"""What one pair of round brackets multiplies by, and one of square brackets divides by."""
MOST_WEIGHT = 10.0
"""Pictures stop to follow the rest of a prompt at a third of it."""


@dataclass(frozen=True)
class Part:
    """A part of a prompt, without the brackets around it, whose tokens count `weight` times."""

    written: Substituted
    weight: float


def parts_of(written: Substituted) -> list[Part]:
    """The prompt's parts in order, neighbours of one weight joined, as the WebUI's parse_prompt_attention has them.

    PersresError for a weight that is no number.
    """
    texts, round_, square = _scan(written.text)
    weights = [a * b for a, b in zip(round_.weights(len(texts), STEP), square.weights(len(texts), 1 / STEP))]
    if not all(math.isfinite(weight) for weight in weights):
        raise PersresError("The emphasis of the prompt has no bounds: take fewer brackets or smaller weights.")
    return _joined(texts, weights, written.uses)


def _scan(text: str) -> tuple[list[tuple[int, str]], _Brackets, _Brackets]:
    """The texts between the brackets, with their places, and the round and the square brackets around them."""
    texts: list[tuple[int, str]] = []
    round_, square = _Brackets(), _Brackets()
    for match in _PIECES.finditer(text):
        piece, weight = match[0], match["weight"]
        if piece[0] == "\\":
            texts.append((match.start() + 1, piece[1:]))
        elif piece == "(":
            round_.open(len(texts), match.start())
        elif piece == "[":
            square.open(len(texts), match.start())
        elif weight is not None and round_.waiting:
            round_.close(len(texts), _number(weight, piece))
        elif piece == ")" and round_.waiting:
            round_.close(len(texts), STEP)
        elif piece == "]" and square.waiting:
            square.close(len(texts), 1 / STEP)
        else:
            texts.append((match.start(), piece))
    return texts, round_, square


def doubtful(text: str, what: str = "prompt") -> list[str]:
    """Sentences on brackets that are never closed and on weights that leave nothing else to see. what: the text's name
    in them. PersresError as of `parts_of`."""
    found = []
    for part in parts_of(Substituted(text, [])):
        if abs(part.weight) > MOST_WEIGHT:
            found.append(
                f'"{short(part.written.text)}" in the {what} counts {part.weight:g} times by its emphasis, and little '
                "else will be seen: take a number near 1, as in (word:1.3)."
            )
            break
    _, round_, square = _scan(text)
    for _, place in (*round_.waiting[:1], *square.waiting[:1]):
        found.append(
            f'The bracket of "{short(text[place:], 30)}" in the {what} is never closed, so it acts to the end: close '
            f"it, or write \\{text[place]} where it is no emphasis."
        )
    return found


class _Brackets:
    """The brackets of one kind. Those that are never closed act to the end."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int]] = []
        """The texts' count before it, and its place in the prompt."""
        self._opened: dict[int, list[int]] = {}
        self._pairs: list[tuple[int, int, float]] = []

    def open(self, at: int, place: int) -> None:
        self.waiting.append((at, place))

    def close(self, at: int, factor: float) -> None:
        self._pairs.append((self.waiting.pop()[0], at, factor))

    def weights(self, count: int, unclosed: float) -> list[float]:
        """The product of the factors around each of `count` texts."""
        pairs = self._pairs + [(start, count, unclosed) for start, _ in self.waiting]
        starts: dict[int, list[tuple[int, float]]] = {}
        for start, end, factor in pairs:
            if start < end:
                starts.setdefault(start, []).append((end, factor))
        around: list[tuple[int, float]] = []  # (end, product with all around it), the innermost last
        weights = []
        for index in range(count):
            while around and around[-1][0] <= index:
                around.pop()
            for end, factor in sorted(starts.get(index, ()), reverse=True):  # the outermost first
                around.append((end, factor * (around[-1][1] if around else 1.0)))
            weights.append(around[-1][1] if around else 1.0)
        return weights


def _number(weight: str, piece: str) -> float:
    try:
        return float(weight)
    except ValueError:
        raise PersresError(f"The prompt's emphasis {piece} has no number: write it as (word:1.3).") from None


def _joined(texts: list[tuple[int, str]], weights: list[float], uses: list[Occurrence]) -> list[Part]:
    found: list[tuple[list[str], list[Occurrence], float]] = []
    waiting, length = list(reversed(uses)), 0
    for (start, text), weight in zip(texts, weights):
        if not found or found[-1][2] != weight:
            found.append(([], [], weight))
            length = 0
        while waiting and waiting[-1].start < start + len(text):
            use = waiting.pop()
            if use.start >= start and use.end <= start + len(text):  # an identifier has no brackets in it
                shift = length - start
                found[-1][1].append(Occurrence(use.concept, use.start + shift, use.end + shift))
        found[-1][0].append(text)
        length += len(text)
    return [Part(Substituted("".join(pieces), own), weight) for pieces, own, weight in found]
