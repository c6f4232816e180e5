"""The WebUI's emphasis, `(word)`, `(word:1.3)`, `[word]`, with `\\` before brackets that are meant as such."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch

from ..errors import PersresError
from ..finite import is_finite
from ..prompt import NETWORK, Substituted, Use

_PIECES = re.compile(r"\\[()\[\]\\]?|[(\[]|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|[)\]]|[^\\()\[\]:]+|:")
STEP = 1.1
"""What one pair of round brackets multiplies by, and one of square brackets divides by."""


@dataclass(frozen=True)
class Part:
    """A part of a prompt, without the brackets around it, whose tokens count `weight` times."""

    written: Substituted
    weight: float


def parts_of(written: Substituted) -> list[Part]:
    """The prompt's parts in order, neighbours of one weight joined, as the WebUI's parse_prompt_attention has them.

    PersresError for a weight that is no number.
    """
    texts: list[tuple[int, str]] = []  # where in the prompt, and what
    round_, square = _Brackets(), _Brackets()
    for match in _PIECES.finditer(written.text):
        piece, weight = match[0], match["weight"]
        if piece[0] == "\\":
            texts.append((match.start() + 1, piece[1:]))
        elif piece == "(":
            round_.open(len(texts))
        elif piece == "[":
            square.open(len(texts))
        elif weight is not None and round_.waiting:
            round_.close(len(texts), _number(weight, piece))
        elif piece == ")" and round_.waiting:
            round_.close(len(texts), STEP)
        elif piece == "]" and square.waiting:
            square.close(len(texts), 1 / STEP)
        else:
            texts.append((match.start(), piece))
    weights = [a * b for a, b in zip(round_.weights(len(texts), STEP), square.weights(len(texts), 1 / STEP))]
    if not all(math.isfinite(weight) for weight in weights):
        raise PersresError("The emphasis of the prompt has no bounds: take fewer brackets or smaller weights.")
    return _joined(texts, weights, written.uses)


class _Brackets:
    """The brackets of one kind. Those that are never closed act to the end."""

    def __init__(self):
        self.waiting: list[int] = []
        self._opened: dict[int, list[int]] = {}
        self._pairs: list[tuple[int, int, float]] = []

    def open(self, at: int) -> None:
        self.waiting.append(at)

    def close(self, at: int, factor: float) -> None:
        self._pairs.append((self.waiting.pop(), at, factor))

    def weights(self, count: int, unclosed: float) -> list[float]:
        """The product of the factors around each of `count` texts."""
        pairs = self._pairs + [(start, count, unclosed) for start in self.waiting]
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


def _joined(texts: list[tuple[int, str]], weights: list[float], uses: list[Use]) -> list[Part]:
    found: list[tuple[list[str], list[Use], float]] = []
    waiting, length = list(reversed(uses)), 0
    for (start, text), weight in zip(texts, weights):
        if not found or found[-1][2] != weight:
            found.append(([], [], weight))
            length = 0
        while waiting and waiting[-1].start < start + len(text):
            use = waiting.pop()
            if use.start >= start and use.end <= start + len(text):  # an identifier has no brackets in it
                shift = length - start
                found[-1][1].append(Use(use.concept, use.start + shift, use.end + shift))
        found[-1][0].append(text)
        length += len(text)
    return [Part(Substituted("".join(pieces), own), weight) for pieces, own, weight in found]


def emphasized(context: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The context (1, n, d) with each token's vector times its weight (1, n), scaled to the mean that it had.

    The WebUI's default, "Original". Raises PersresError where that is not finite.
    """
    if bool((weights == 1).all()):
        return context
    changed = context.float() * weights[..., None]
    changed = (changed * (context.float().mean() / changed.mean())).to(context)
    if not is_finite(changed):
        raise PersresError("The emphasis of the prompt is too strong to be computed: take weights near 1.")
    return changed


_COMMANDS = re.compile(r"(?<!\w)(?:AND|BREAK)(?!\w)")
_TAG = re.compile(r"<(\w+):[^<>]*>")


def not_understood(text: str, where: str = "") -> list[str]:
    """Sentences on what the WebUI would read as more than words. where: " in the negative prompt", or nothing."""
    found = []
    if editing := _editing(text):
        found.append(f"{_short(editing)}{where} was read as words: only the WebUI edits prompts while it draws.")
    for word in dict.fromkeys(_COMMANDS.findall(text)):
        found.append(f"{word}{where} was read as a word: only the WebUI knows it as a command.")
    if tag := _TAG.search(text):
        why = "tags act from the prompt alone" if tag[1] == NETWORK else "only the WebUI knows such a tag"
        found.append(f"{_short(tag[0])}{where} was read as words: {why}.")
    return found


def _editing(text: str) -> str | None:
    """The first `[from:to:when]` or `[one|other]`."""
    opened: list[tuple[str, int]] = []
    divided: set[int] = set()  # where the brackets begin that have a colon or a bar of their own
    escaped = False
    for index, character in enumerate(text):
        if escaped or character == "\\":
            escaped = not escaped
        elif character in "([":
            opened.append((character, index))
        elif character in ":|" and opened and opened[-1][0] == "[":
            divided.add(opened[-1][1])
        elif character in ")]" and opened:
            start = opened.pop()[1]
            if start in divided:
                return text[start : index + 1]
    return None


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
