"""A picture as a residual's metadata keep it."""

from __future__ import annotations

import base64
import io

from PIL import Image

from .metadata import MAX_PREVIEW

SIDE = 128


def thumbnail(image: Image.Image) -> str:
    """For `Metadata.preview`: PNG in base64 with sides of at most 128 pixels, fewer where it would be too large."""
    image, side = image.convert("RGB"), SIDE
    while True:
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "PNG", optimize=True)
        text = base64.b64encode(buffer.getvalue()).decode()
        if len(text) <= MAX_PREVIEW:
            return text
        side = side * 3 // 4
