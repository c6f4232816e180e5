"""What the options say now."""

from __future__ import annotations

from pathlib import Path

from .host import HOST
from .options import DEFAULTS, FOLDER, LORAS, TRAIN_FOLDERS, check, folders_in


def chosen(key: str):
    """An option's present value; PersresError where it is not understood."""
    value = HOST.option(key, DEFAULTS[key])
    check(key, value)
    return value


def folder() -> Path:
    """Where the residuals are: what the command line says, else the option, else beside the other models."""
    given = HOST.flag("persres_dir") or str(chosen(FOLDER)).strip()
    return Path(given or HOST.models_folder() / "persres")


def lora_folder() -> Path | None:
    """The WebUI's LoRA files, where tags may name them."""
    return None if chosen(LORAS) == "never" else HOST.lora_folder()


def shows_loras() -> bool:
    """Whether they have cards."""
    return chosen(LORAS) == "cards"


def training_folders() -> list[Path]:
    """The folders in which a program may name folders of photos."""
    return [HOST.data_folder(), *map(Path, folders_in(chosen(TRAIN_FOLDERS)))]
