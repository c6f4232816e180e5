"""What differs between gradio 3 and 4; everything else that makes inputs is the same for both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

FOUR = int(gr.__version__.partition(".")[0]) >= 4


def script(code: str) -> dict[str, Any]:
    """What tells an event to run this JavaScript before it."""
    return {"js" if FOUR else "_js": code}


def uploads() -> Path:
    """Where what a page uploads is put."""
    if FOUR:
        from gradio.utils import get_upload_folder

        return Path(get_upload_folder())
    return Path(gr.File(render=False).DEFAULT_TEMP_DIR)
