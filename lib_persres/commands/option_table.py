"""The options of a training, as a list for readers and for programs."""

from __future__ import annotations

import json

from ..training.options import RUN, SET, Option
from .training_options import flag, shown_default

HEAD = ("option", "command line", "what", "allowed", "default")


def as_json() -> str:
    """An object a line."""
    return "\n".join(json.dumps(_facts(option)) for option in SET)


def as_text() -> str:
    """A table in Markdown."""
    rows = [HEAD, ("---",) * len(HEAD)]
    for option in SET:
        facts = _facts(option)
        default = shown_default(option) if option.scope == RUN else "the recipe's"
        rows.append((f"`{option.name}`", f"`{facts['flag']}`", facts["what"], facts["allowed"], default))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _facts(option: Option) -> dict:
    what = f"{option.label}: {'; '.join(filter(None, (option.help, option.more)))}"
    facts = {"option": option.name, "flag": flag(option), "scope": option.scope, "what": what}
    return {**facts, "allowed": option.allowed, "default": option.default}
