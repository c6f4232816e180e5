"""BMP: its size, and whether the file can hold so many pixels."""

from __future__ import annotations

import struct

from .header import Damaged, Header

OLD, NEW = 12, 40
"""Sizes of the oldest header, and of the first with what stands here."""
RUNS = (1, 2)
"""Compressions that Pillow reads in Python, byte by byte."""
MOST_RUNS = 16 << 20
"""Pixels, and bytes of the file."""


def look(data: bytes) -> Header:
    if len(data) < 30:
        raise Damaged("the file is cut off")
    (size,) = struct.unpack_from("<I", data, 14)
    if size == OLD:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif size >= NEW and len(data) >= 54:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise Damaged("its header is not known")
    height = abs(height)
    if width <= 0 or height <= 0:
        raise Damaged("it has no size")
    if compression in RUNS:
        if max(width * height, len(data)) > MOST_RUNS:
            raise Damaged("it is too large for this compression; save it as PNG")
    elif (width * bits + 31) // 32 * 4 * (height - 1) > len(data):
        raise Damaged("the file is cut off")
    return Header("BMP", width, height, data, memory=(8 if compression in RUNS else 4) * width * height)
