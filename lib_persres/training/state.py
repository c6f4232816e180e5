"""A training's saved state: a file by which it goes on in another process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import PersresError, first_line
from ..metadata import Metadata
from ..writing import replacing
from .recipe import alike

VERSION = 2
"""What is added later has a default where it is missing, so that it needs no other version."""
CHANGED = {"recipe": "the recipe or one of its values, such as the steps", "image_hashes": "the photos"}
"""Facts of a training, in words."""
FREE = ("created", "library_version", "recipe")
"""Facts that need not be the same, or are compared otherwise."""


def write(path: Path, facts: Metadata, **values: object) -> None:
    """The file is whole or not there. PersresError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            torch.save({"version": VERSION, "facts": facts.to_strings(), **values}, file)
    except (OSError, RuntimeError) as error:  # RuntimeError: what torch makes of a full disk
        raise PersresError(f"{path} cannot be written: {first_line(error)}.") from error


def read(path: Path, facts: Metadata) -> dict[str, Any]:
    """What `write` was given. PersresError with a reason alone where it is of another version or training."""
    # not torch.load, which the WebUI replaces by one that refuses what newer releases of torch write
    state = torch.serialization.load(path, map_location="cpu", weights_only=True)
    if state["version"] != VERSION:
        raise PersresError(f"it is of version {state['version']}, and this extension knows {VERSION}")
    theirs, ours = state["facts"], facts.to_strings()
    changed = [name for name in ours if name not in FREE and ours[name] != theirs.get(name)]
    if not alike(Metadata.from_strings(theirs).recipe, facts.recipe):
        changed.append("recipe")
    if changed:
        named = ", ".join(CHANGED.get(name, name.replace("_", " ")) for name in changed)
        raise PersresError(
            f"it is of another training: changed since are {named}; give what it was begun with, or begin anew"
        )
    return state


def read_facts(path: Path) -> Metadata:
    """Raises PersresError where the file is no state."""
    try:
        # mapped, so that a state of gigabytes is not read twice
        state = torch.serialization.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        return Metadata.from_strings(state["facts"])
    except Exception as error:  # what torch raises on a damaged file is of no one family
        raise PersresError(f"{path} cannot be continued: {reason(error)}.") from error


def reason(error: Exception) -> str:
    """Ours as it is; others' words on a damaged file would tell nobody anything."""
    return first_line(error) if isinstance(error, (PersresError, OSError)) else "it is damaged, or no training's state"
