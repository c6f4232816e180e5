"""The WebUI's emphasis on a context, and what of a prompt only the WebUI understands."""

from __future__ import annotations

import re

import torch

from ..errors import PersresError
from ..finite import is_finite
from ..misreadings import is_near


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


def not_understood(text: str, what: str = "prompt") -> list[str]:
    """Sentences on what the WebUI would read as more than words. what: the text's name in them."""
    found, where = [], "" if what == "prompt" else f" in the {what}"
    if editing := _editing(text):
        found.append(f"{_short(editing)}{where} was read as words: only the WebUI edits prompts while it draws.")
    for word in dict.fromkeys(_COMMANDS.findall(text)):
        found.append(f"{word}{where} was read as a word: only the WebUI knows it as a command.")
    tag = next((tag for tag in _TAG.finditer(text) if not is_near(tag[1])), None)  # of ours there is more to say
    if tag:
        found.append(f"{_short(tag[0])}{where} was read as words: only the WebUI knows such a tag.")
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
