"""Templates of prompts: the names in braces that they may have are replaced, and nothing else is understood.

Not by str.format, whose fields reach attributes and whose widths fill the memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import PersresError

_BRACES = re.compile(r"\{[^{}]*\}|[{}]")


def fill(template: str, values: Mapping[str, str], what: str = "The template") -> str:
    """The template with each {name} replaced by its value. PersresError, which calls it `what`, for any other brace."""

    def value(match: re.Match[str]) -> str:
        name = match[0][1:-1]
        if len(match[0]) == 1 or name not in values:
            known = " and ".join(f"{{{name}}}" for name in values)
            raise PersresError(
                f"{what} {template[:80]!r} has {match[0][:40]!r}: it can hold {known} in braces, nothing else."
            )
        return values[name]

    return _BRACES.sub(value, template)
