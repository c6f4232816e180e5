"""Prompt files: one prompt a line with `{}` for the concept; a line `# change background` names a category."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import PersresError
from .dataset import CATEGORIES, Prompt, check_prompt, read_text

# How AttnDreamBooth's paper writes the place.
_WRITTEN = re.compile(r"\[V\] \[[\w -]+\]")


def read_prompts(path: Path, fields: int = 1) -> tuple[Prompt, ...]:
    """The prompts of a file, in order. fields: 2 for a pair's prompts, with `{0}` and `{1}`."""
    prompts, category = [], None
    for number, line in enumerate(read_text(path, "The prompt file").splitlines(), 1):
        line = line.strip()
        if line.startswith("#"):
            category = _category(line[1:])
        elif line:
            line = _WRITTEN.sub("{}", line)
            prompts.append(Prompt(check_prompt(line, f"{path}, line {number}", fields), category))
    if not prompts:
        raise PersresError(f"The prompt file {path} holds no prompt: write one a line, with {{}} for the concept.")
    return tuple(prompts)


def _category(text: str) -> str | None:
    """A heading's category; the paper's own, whatever their case and "(s)", else as it is written."""
    name = " ".join(text.split()).rstrip(":")
    plain = name.lower().replace("(s)", "").replace("objects", "object")
    return next((known for known in CATEGORIES if known.lower() == plain), name or None)
