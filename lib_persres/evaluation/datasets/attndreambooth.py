"""AttnDreamBooth's protocol (Pang et al. 2024): concepts of Textual Inversion and DreamBooth, 24 prompts by category.

The prompts stand in Table 3 of the paper's appendix, a picture; they are not part of this project and not
published as a file. So the reader takes a text: one prompt a line, `[V] [super-category]` or `{}` for the concept,
and a line such as `# artistic style` before each category (the paper's four: background change, environment
interaction, concept color change, artistic style).
"""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import PersresError
from .dataset import Concept, Dataset, image_files, read_text
from .prompt_file import read_prompts

PROMPTS, CLASSES = "prompts.txt", "classes.txt"


def read(root: str | os.PathLike, prompts: str | os.PathLike | None = None) -> Dataset:
    """`root` holds a folder of images for each concept, classes.txt with "folder,class" lines, and prompts.txt."""
    root = Path(root)
    shared = read_prompts(Path(prompts) if prompts else root / PROMPTS)
    if bare := [prompt for prompt in shared if prompt.category is None]:
        raise PersresError(
            f"{prompts or root / PROMPTS}: the prompt {bare[0].text!r} has no category: put a line such as "
            '"# artistic style" before it.'
        )
    concepts = []
    for number, line in enumerate(read_text(root / CLASSES, "The list of classes").splitlines(), 1):
        name, comma, cls = (part.strip() for part in line.partition(","))
        if not line.strip():
            continue
        if not comma or not name or not cls:
            raise PersresError(f"{root / CLASSES}, line {number}: {line.strip()!r} is not folder,class.")
        concepts.append(Concept(name, cls, image_files(root / name, name), shared))
    if not concepts:
        raise PersresError(f"{root / CLASSES} names no concept: write a line folder,class for each.")
    return Dataset("AttnDreamBooth", tuple(concepts))
