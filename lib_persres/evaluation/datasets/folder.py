"""A plain folder of photos as a dataset of one concept, with prompts of a file or 20 that suit most things."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import PersresError
from .dataset import Concept, Dataset, image_files
from .prompt_file import read_prompts

DEFAULT_PROMPTS = Path(__file__).parent / "default_prompts.txt"
"""20 over the paper's six categories."""


def read(
    root: str | os.PathLike, macro_class: str, prompts: str | os.PathLike | None = None, name: str | None = None
) -> Dataset:
    """`root` holds the photos. prompts: a file, one prompt a line with {} (see `prompt_file`)."""
    root, macro_class = Path(root), macro_class.strip()
    if not macro_class:
        raise PersresError("A folder of photos needs its class: a noun such as dog.")
    name = name or re.sub(r"[^\w-]+", "-", root.resolve().name).strip("-") or "concept"
    chosen = read_prompts(Path(prompts) if prompts else DEFAULT_PROMPTS)
    return Dataset(name, (Concept(name, macro_class, image_files(root, name), chosen),))
