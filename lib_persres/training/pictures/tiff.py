"""TIFF: the tags of its first picture that draw; orientation and profile from the others, which no decoder sees."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from . import exif
from .header import Damaged, Header

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 256, 257, 258, 259, 262, 277
ROWS, TILE_WIDTH, TILE_HEIGHT = 278, 322, 323
DRAWN = (
    *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, 266, 273, SAMPLES, ROWS, 279, 284, 292, 293, 317, 320),
    *(TILE_WIDTH, TILE_HEIGHT, 324, 325, 332, 338, 339, 347, 529, 530, 531, 532),
)
REDUCED, SUB_PICTURES, DNG_VERSION, PROFILE, XMP = 254, 330, 50706, 34675, 700
COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946)
"""None, those of faxes, LZW, JPEG, deflate, PackBits; others may want any amount of memory."""
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
MOST_TAGS = 1000
MOST_VALUES = 200_000
"""Of one tag: strips of a row each, or a palette of 16 bits, are fewer."""


def look(data: bytes) -> Header:
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    entries, at = _entries(data, order, big)
    tags = {tag: (kind, count, place) for tag, kind, count, place, _ in entries}

    def value(tag: int, otherwise: int) -> int:
        kind, count, place = tags.get(tag, (0, 0, 0))
        if kind not in NUMBERS or not count:
            return otherwise
        return _unpacked(data, order + NUMBERS[kind], place)

    if DNG_VERSION in tags or data[8:10] == b"CR" or (value(REDUCED, 0) & 1 and SUB_PICTURES in tags):
        raise Damaged("it is a camera's raw file; save it as JPEG")
    width, height = value(WIDTH, 0), value(HEIGHT, 0)
    compression, samples, bits = value(COMPRESSION, 1), value(SAMPLES, 1), value(BITS, 1)
    if compression not in COMPRESSIONS:
        raise Damaged(f"its compression {compression} is not known here")
    kept = [entry for tag, _, _, _, entry in entries if tag in DRAWN]
    if any(tags[tag][1] > MOST_VALUES for tag in tags if tag in DRAWN):
        raise Damaged("it is in too many parts")
    if samples > 16 or bits > 64:
        raise Damaged("its pixels are not known")
    part = min(value(ROWS, height), height) * width
    if TILE_WIDTH in tags:
        part = value(TILE_WIDTH, 0) * value(TILE_HEIGHT, 0)
    held = 4 * width * height + part * (4 + samples * bits // 8)
    return Header(
        "TIFF",
        width,
        height,
        _without(data, order, big, at, kept),
        memory=held,
        orientation=_orientation(data, order, tags),
        profile=_bytes(data, tags.get(PROFILE)),
    )


def _entries(data: bytes, order: str, big: bool) -> tuple[list[tuple[int, int, int, int, bytes]], int]:
    """(tag, type, count, where its values are, the entry itself) of the first directory, and where that begins."""
    at = _unpacked(data, order + ("Q" if big else "I"), 8 if big else 4)
    count = _unpacked(data, order + ("Q" if big else "H"), at)
    if count > MOST_TAGS:
        raise Damaged("it has too many tags")
    step, field, wide = (20, 8, "Q") if big else (12, 4, "I")
    found = []
    for number in range(count):
        place = at + (8 if big else 2) + number * step
        if place + step > len(data):
            break
        tag, kind, values = struct.unpack_from(order + "HH" + wide, data, place)
        inside = place + step - field
        if SIZES.get(kind, 1) * values > field:
            inside = _unpacked(data, order + wide, inside)
        found.append((tag, kind, values, inside, data[place : place + step]))
    return found, at


def _unpacked(data: bytes, form: str, at: int) -> int:
    try:
        return struct.unpack_from(form, data, at)[0]
    except struct.error:
        raise Damaged("the file is cut off") from None


def _without(data: bytes, order: str, big: bool, at: int, kept: list[bytes]) -> bytes:
    """The file with these entries alone in its first directory, and no second one."""
    directory = struct.pack(order + ("Q" if big else "H"), len(kept)) + b"".join(kept) + b"\0" * (8 if big else 4)
    return b"".join([memoryview(data)[:at], directory, memoryview(data)[at + len(directory) :]])


def _bytes(data: bytes, tag: tuple[int, int, int] | None) -> bytes | None:
    if tag is None:
        return None
    kind, count, place = tag
    return data[place : place + min(SIZES.get(kind, 1) * count, exif.MOST * 16)]


def _orientation(data: bytes, order: str, tags: Mapping[int, tuple[int, int, int]]) -> int:
    kind, count, place = tags.get(exif.ORIENTATION, (0, 0, 0))
    if kind in exif.SIZES and count and 1 <= (value := _unpacked(data, order + exif.SIZES[kind], place)) <= 8:
        return value
    return exif.of_xmp(_bytes(data, tags.get(XMP)) or b"") or exif.UPRIGHT
