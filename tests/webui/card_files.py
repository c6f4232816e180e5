"""Files of residuals that cards are made of."""

import io
from dataclasses import replace

from PIL import Image

from lib_persres.residual import Residual

ODD = 'o\'d "name" (x) [y] & {0} $1 `ü☺`'


def change(path, **metadata):
    """Write a residual again with other metadata."""
    residual = Residual.load(path)
    residual.metadata = replace(residual.metadata, **metadata)
    residual.save(path)


def png(colour) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()
