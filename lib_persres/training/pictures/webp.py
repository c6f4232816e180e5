"""WebP: the chunks that draw; orientation and profile from the others, which no decoder sees."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from . import exif
from .header import Damaged, Header

DRAWN = (b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM")
FRAME = b"ANMF"
NOTES = 0x2C
"""The flags of VP8X that announce a profile, EXIF and XMP."""
BYTES_A_PIXEL = 16
"""Pillow's decoder keeps two canvases, a copy and the picture."""
COPIES = 2
"""Of the file: the chunks that draw, and the decoder's own."""
BESIDE = 24 << 20
"""Bytes of the band that is converted and of the picture that is kept; measured: 15 to 20 MiB."""
MOST_CHUNKS = 10_000


def look(data: bytes) -> Header:
    kept: list[bytes | memoryview] = []
    sides: list[tuple[int, int]] = []
    orientations: list[int | None] = []
    profile, frames = None, 0
    for kind, content in _chunks(data):
        if kind == b"VP8X" and len(content) >= 10:
            sides.append((_three(content, 4) + 1, _three(content, 7) + 1))
            content = bytes([content[0] & ~NOTES]) + bytes(content[1:])
        elif kind == b"VP8 " and len(content) >= 10:
            width, height = struct.unpack_from("<HH", content, 6)
            sides.append((width & 0x3FFF, height & 0x3FFF))
        elif kind == b"VP8L" and len(content) >= 5:
            (bits,) = struct.unpack_from("<I", content, 1)
            sides.append(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        elif kind == b"EXIF":
            orientations.insert(0, exif.of_exif(content))
        elif kind == b"XMP ":
            orientations.append(exif.of_xmp(content))
        elif kind == b"ICCP" and profile is None:
            profile = bytes(content)
        frames += kind == FRAME
        if kind in DRAWN or (kind == FRAME and frames == 1):
            kept += [kind, struct.pack("<I", len(content)), content, b"\0" * (len(content) % 2)]
    if not sides:
        raise Damaged("it has no picture")
    width, height = sides[0]
    body = b"".join(kept)
    return Header(
        "WEBP",
        width,
        height,
        b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body,
        memory=BYTES_A_PIXEL * max(w * h for w, h in sides) + COPIES * len(data) + BESIDE,
        orientation=next((orientation for orientation in orientations if orientation), exif.UPRIGHT),
        profile=profile,
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes | memoryview]]:
    view, at = memoryview(data), 12
    for _ in range(MOST_CHUNKS):
        if at + 8 > len(view):
            return
        (length,) = struct.unpack_from("<I", view, at + 4)
        yield bytes(view[at : at + 4]), view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _three(content: bytes | memoryview, at: int) -> int:
    return int.from_bytes(content[at : at + 3], "little")
