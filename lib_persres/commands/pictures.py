"""Pictures on disk: numbered PNGs that never replace another, with their settings in the WebUI's format."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from PIL import Image, PngImagePlugin

from ..writing import write_new

_NUMBER = re.compile(r"([0-9]{5,9})-")


class PictureFolder:
    """Writes `00000-<seed>.png`, `00001-<seed>.png`, …, after the highest number that is there."""

    def __init__(self, folder: Path):
        self.folder = folder
        taken = [int(match[1]) for entry in folder.iterdir() if (match := _NUMBER.match(entry.name))]
        self._next = max(taken, default=-1) + 1

    def save(self, image: Image.Image, seed: int, parameters: str) -> Path:
        """Write the picture under the next free number."""
        while True:
            path = self.folder / f"{self._next:05d}-{seed}.png"
            self._next += 1
            try:
                return write_png(path, image, parameters)
            except FileExistsError:  # by another command at the same time
                continue


def write_png(path: Path, image: Image.Image, parameters: str = "") -> Path:
    """Raises FileExistsError, and leaves the file, if it is there; the file is whole or not there."""
    text = PngImagePlugin.PngInfo()
    if parameters:
        text.add_text("parameters", parameters)
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=text)
    write_new(path, data.getvalue())
    return path


def infotext(prompt: str, negative: str, settings: dict[str, object]) -> str:
    """The text that the WebUI writes into its pictures and reads back from pasted ones; None is left out."""
    lines = [prompt]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    pairs = [f"{key}: {_quote(value)}" for key, value in settings.items() if value is not None]
    return "\n".join([*lines, ", ".join(pairs)])


def _quote(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text
