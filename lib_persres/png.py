"""The chunks of a PNG, and whether one is small enough to be decoded wherever it is shown."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DRAWN = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
"""The chunks that say what is drawn; all others are notes."""
MOST_CHUNKS = 1_000_000
MOST_SIDE = 1024


def chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(type, content) to the end of the data, at most MOST_CHUNKS; the last content may be cut off."""
    view, at = memoryview(data), len(SIGNATURE)
    for _ in range(MOST_CHUNKS):
        if at + 8 > len(view):
            return
        (length,) = struct.unpack_from(">I", view, at)
        yield bytes(view[at + 4 : at + 8]), view[at + 8 : at + 8 + length]
        at += 12 + length


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def is_small(data: bytes) -> bool:
    """Whether a decoder needs little memory for it: every header (decoders heed a second one) has small sides."""
    headers = [content for kind, content in chunks(data) if kind == b"IHDR" and len(content) >= 8]
    sides = [side for content in headers for side in struct.unpack_from(">II", content)]
    return data.startswith(SIGNATURE) and max(sides, default=0) <= MOST_SIDE
