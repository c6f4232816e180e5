"""Pictures made by hand, and what a refusal of one must look like."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_persres import png
from lib_persres.errors import PersresError
from lib_persres.training.images import load_images


def refused(path) -> str:
    with pytest.raises(PersresError) as error:
        load_images([path])
    text = str(error.value)
    assert text.endswith(".") and text.isprintable() and len(text) <= 300
    return text


def written(path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def png_file(width, height, depth, colour, rows=None, interlaced=0, extra=b"") -> bytes:
    """rows: the filtered rows; None: zeros."""
    length = (width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] + 7) // 8 + 1
    if rows is None:
        packer, many = zlib.compressobj(6), max(1, (1 << 22) // length)
        parts = [packer.compress(bytes(length * min(many, height - top))) for top in range(0, height, many)]
        packed = b"".join(parts) + packer.flush()
    else:
        packed = zlib.compress(rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"".join(
        [png.SIGNATURE, png.chunk(b"IHDR", header), extra, png.chunk(b"IDAT", packed), png.chunk(b"IEND", b"")]
    )


def noise(seed=0, size=(80, 60)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def bytes_of(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(tile=None, strips=1) -> bytes:
    """Of 64×64 grey pixels."""
    tags = {256: 64, 257: 64, 258: 8, 259: 5, 262: 1, 277: 1}
    if tile:
        tags |= {322: tile[0], 323: tile[1], 324: 8, 325: 8}
    entries = [(tag, 4, 1, value) for tag, value in tags.items()]
    if not tile:
        entries += [(273, 4, strips, 8), (279, 4, strips, 8)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + b"\0" * 4
