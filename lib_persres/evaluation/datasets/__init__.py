"""The datasets of an evaluation: each reader gives a `Dataset` of concepts, photos and prompts."""

from __future__ import annotations

from pathlib import Path

from ...errors import PersresError
from . import attndreambooth, customconcept101, dreambooth, folder, toybox
from .dataset import CATEGORIES, Concept, Dataset, Pair, Prompt

__all__ = ["CATEGORIES", "Concept", "Dataset", "Pair", "Prompt", "open_dataset"]

READERS = {
    "toybox": lambda root, macro_class, prompts, pairs: toybox.read(root, class_images=toybox.CLASS_IMAGES),
    "customconcept101": lambda root, macro_class, prompts, pairs: customconcept101.read(root, pairs),
    "dreambooth": lambda root, macro_class, prompts, pairs: dreambooth.read(root),
    "attndreambooth": lambda root, macro_class, prompts, pairs: attndreambooth.read(root, prompts),
    "folder": lambda root, macro_class, prompts, pairs: folder.read(root, macro_class or "", prompts),
}


def open_dataset(
    kind: str, root: Path, macro_class: str | None = None, prompts: Path | None = None, pairs: bool = False
) -> Dataset:
    """root: for the Toybox a folder to draw its photos into. macro_class: of a plain folder's thing."""
    if kind not in READERS:
        raise PersresError(f"There is no dataset {kind!r}; there are: {', '.join(READERS)}.")
    return READERS[kind](root, macro_class, prompts, pairs)
