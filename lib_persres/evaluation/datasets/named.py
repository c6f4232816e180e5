"""A dataset by its kind and place, as a command names it."""

from __future__ import annotations

from pathlib import Path

from ...errors import PersresError
from . import attndreambooth, customconcept101, dreambooth, folder, toybox
from .dataset import Dataset

KINDS = ("toybox", "customconcept101", "dreambooth", "attndreambooth", "folder")


def open_dataset(kind: str, root: Path, macro_class: str | None = None, prompts: Path | None = None) -> Dataset:
    """root: for the Toybox a folder to draw its photos into. macro_class: of a plain folder's thing."""
    if kind == "toybox":
        return toybox.read(root, class_images=toybox.CLASS_IMAGES)
    if kind == "customconcept101":
        return customconcept101.read(root)
    if kind == "dreambooth":
        return dreambooth.read(root)
    if kind == "attndreambooth":
        return attndreambooth.read(root, prompts)
    if kind == "folder":
        return folder.read(root, macro_class or "", prompts)
    raise PersresError(f"There is no dataset {kind!r}; there are: {', '.join(KINDS)}.")
