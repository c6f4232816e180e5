"""A residual's file as a LoRA file in the WebUI's own folder."""

from __future__ import annotations

from pathlib import Path

from ..errors import PersresError
from ..lora.write import save_lora
from ..residual import Residual
from .host import HOST


def save_as_lora(path: Path) -> str:
    """What to tell the user of it. PersresError where it is not written."""
    folder = HOST.lora_folder()
    if folder is None:
        raise PersresError("This WebUI has no folder of LoRA files.")
    residual = Residual.load(path)
    told = save_lora(residual, folder / path.name)
    said = " ".join(filter(None, (residual.metadata.identifier, residual.metadata.macro_class)))
    written = (
        f'Written: {folder / path.name}. Refresh the Lora tab; in its prompts "{said}" stands for V* and its class.'
    )
    return " ".join([written, *told])
