"""The options: what the WebUI's settings hold for this extension, and which of it is understood."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PersresError
from .values import is_whole, shown

FOLDER = "persres_dir"
LAG = "persres_lag"
CACHE = "persres_cache"
HASHES = "persres_hashes"
STATE_EVERY = "persres_state_every"
GIVE_WAY = "persres_give_way"
TRAIN_FOLDERS = "persres_train_folders"
LORAS = "persres_loras"

LAG_CHOICES = ("accordion", "always", "never")
LORA_CHOICES = ("tags", "cards", "never")
MAX_CACHE = 1000
MAX_STEPS = 100_000
DEFAULTS: dict[str, Any] = {
    **{FOLDER: "", LORAS: LORA_CHOICES[0], LAG: LAG_CHOICES[0], CACHE: 16, HASHES: True},
    **{STATE_EVERY: 50, GIVE_WAY: True, TRAIN_FOLDERS: ""},
}


def check(key: str, value) -> None:
    """PersresError with one sentence for a value that is not understood."""
    if key == FOLDER:
        if not isinstance(value, str) or (value.strip() and not _is_folder(value.strip())):
            _refuse(key, value, "a folder that exists, or nothing for the folder persres among the models")
    elif key in (LAG, LORAS):
        choices = LAG_CHOICES if key == LAG else LORA_CHOICES
        if not isinstance(value, str) or value not in choices:
            _refuse(key, value, " or ".join(map(repr, choices)))
    elif key == CACHE:
        if not is_whole(value, 0, MAX_CACHE):
            _refuse(key, value, f"a whole number from 0 to {MAX_CACHE}")
    elif key in (HASHES, GIVE_WAY):
        if not isinstance(value, bool):
            _refuse(key, value, "true or false")
    elif key == STATE_EVERY:
        if not is_whole(value, 0, MAX_STEPS):
            _refuse(key, value, f"a whole number of steps from 0 to {MAX_STEPS}")
    elif key == TRAIN_FOLDERS:
        if not isinstance(value, str) or not all(map(os.path.isabs, folders_in(value))):
            _refuse(key, value, "full paths of folders, one a line, or nothing")


def _is_folder(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except (OSError, ValueError):  # a NUL or a lone surrogate in it, a name that is too long
        return False


def folders_in(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def check_all(values: Mapping) -> None:
    """The same for every value of ours among a request's."""
    for key in DEFAULTS:
        if key in values:
            check(key, values[key])


def _refuse(key: str, value, allowed: str):
    raise PersresError(f"The setting {key} is {shown(value)}; allowed is {allowed}.")
