"""Prompts with other names and strengths in their tags, as the X/Y/Z plot writes them."""

from __future__ import annotations

from collections.abc import Callable

from ...prompt import NETWORK, Written, edit_tags, find_tags


def has_tag(prompt: str) -> bool:
    return any(map(_is_ours, find_tags(prompt)))


def with_residual(prompt: str, name: str) -> str:
    """The first tag names this residual; where there is none, one is added."""
    if not has_tag(prompt):
        return f"{prompt} <{NETWORK}:{name}>"
    return _edit(prompt, lambda arguments: _put(arguments, 0, name), count=1)


def with_strength(prompt: str, strength: float) -> str:
    """The first tag has this strength."""
    return _edit(prompt, lambda arguments: _put(arguments, 1, f"{strength:.8g}"), count=1)


def without_lag(prompt: str) -> str:
    """No tag says whether LAG is on for it."""

    def drop(arguments: list[str]) -> list[str]:
        return [a for a in arguments if not (_is_named(a) and a.split("=")[0].strip() == "lag")]

    return _edit(prompt, drop, count=0)


def _edit(prompt: str, change: Callable[[list[str]], list[str]], count: int) -> str:
    """The prompt with other arguments in its first `count` tags, or in all where that is 0."""
    done = 0

    def edit(tag: Written) -> str | None:
        nonlocal done
        if not _is_ours(tag) or 0 < count == done:
            return None
        done += 1
        return f"<{NETWORK}:{':'.join(change(tag.arguments.split(':')))}>"

    return edit_tags(prompt, edit)


def _is_ours(tag: Written) -> bool:
    return tag.network == NETWORK and tag.arguments != ""  # the WebUI sees no tag without arguments


def _is_named(argument: str) -> bool:
    return argument.count("=") == 1  # the WebUI's rule


def _put(arguments: list[str], place: int, value: str) -> list[str]:
    """The arguments with this value as the unnamed one at that place."""
    unnamed = [index for index, argument in enumerate(arguments) if not _is_named(argument)]
    if place < len(unnamed):
        return [value if index == unnamed[place] else argument for index, argument in enumerate(arguments)]
    at = unnamed[-1] + 1 if unnamed else 0
    return [*arguments[:at], value, *arguments[at:]]
