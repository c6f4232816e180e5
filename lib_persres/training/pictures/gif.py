"""GIF: what stands before the first picture, without its comments."""

from __future__ import annotations

import struct

from .header import Damaged, Header

BYTES_A_PIXEL = 5
EXTENSION, PICTURE, CONTROL = 0x21, 0x2C, 0xF9
MOST_BLOCKS = 1_000_000


def look(data: bytes) -> Header:
    if len(data) < 13:
        raise Damaged("the file is cut off")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    control, at, blocks = b"", start, 0
    while at < len(data) and data[at] == EXTENSION:
        begun = at
        at += 2
        while at < len(data) and data[at] and blocks < MOST_BLOCKS:
            at += 1 + data[at]
            blocks += 1
        at += 1
        blocks += 1
        if blocks >= MOST_BLOCKS:
            raise Damaged("it has too many comments")
        if data[begun + 1 : begun + 2] == bytes([CONTROL]):
            control = data[begun:at]
    if at + 10 > len(data) or data[at] != PICTURE:
        raise Damaged("it has no picture")
    left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
    width, height = max(width, left + wide), max(height, top + high)
    return Header(
        "GIF",
        width,
        height,
        b"".join([data[:start], control, memoryview(data)[at:]]),
        memory=BYTES_A_PIXEL * width * height,
    )
