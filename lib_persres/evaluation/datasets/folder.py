"""A plain folder of photos as a dataset of one concept, with prompts of a file or the default ones."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import PersresError
from .dataset import CATEGORIES, Concept, Dataset, Prompt, image_files
from .prompt_file import read_prompts

#: 20 prompts that suit most things, over the paper's six categories.
DEFAULT_PROMPTS = tuple(
    Prompt(text, category)
    for category, texts in zip(
        CATEGORIES,
        (
            ("a photo of a {}", "a close-up photo of a {}"),
            (
                "a {} on a sandy beach",
                "a {} in deep snow",
                "a {} on a cobblestone street at night",
                "a {} in a sunlit forest",
                "a {} on a kitchen table",
                "a {} in front of a lake with mountains",
            ),
            (
                "a {} next to a cup of coffee",
                "a {} and a red balloon",
                "a {} beside a stack of books",
                "a {} with a bouquet of flowers",
            ),
            ("a bright blue {}", "a {} made of glass", "a golden {}"),
            ("a watercolor painting of a {}", "a pencil sketch of a {}", "a pixel art picture of a {}"),
            ("a teapot in the style of a {}", "a chair in the style of a {}"),
        ),
    )
    for text in texts
)


def read(
    root: str | os.PathLike,
    macro_class: str,
    prompts: str | os.PathLike | None = None,
    name: str | None = None,
) -> Dataset:
    """`root` holds the photos. prompts: a file, one prompt a line with {} (see `prompt_file`)."""
    root = Path(root)
    if not macro_class.strip():
        raise PersresError("A folder of photos needs its class: a noun such as dog.")
    name = name or re.sub(r"[^\w-]+", "-", root.resolve().name).strip("-") or "concept"
    chosen = read_prompts(Path(prompts)) if prompts else DEFAULT_PROMPTS
    return Dataset(name, (Concept(name, macro_class.strip(), image_files(root, name), chosen),))
