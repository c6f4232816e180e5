"""AVIF and HEIC: files of boxes, of which the one with the notes tells sizes and turns."""

from __future__ import annotations

import struct

from . import exif
from .header import Damaged, Header

BYTES_A_PIXEL = 15
"""The decoder's planes, its copy in RGB, and the picture; measured: 9 to 12."""
METADATA = (b"Exif", b"mime")
MOST_ITEMS = 10_000
TURNS = {1: 8, 2: 3, 3: 6}
"""Quarter turns against the clock -> EXIF's orientation."""
MIRRORS = {1: (5, 7), 2: (2, 4), 3: (7, 5), 0: (4, 2)}
"""Quarter turns -> with the axis lying, with the axis upright."""


def look(data: bytes, kind: str) -> Header:
    begun, ended = _meta(data)
    sides = [struct.unpack_from(">II", data, at + 8) for at in _found(data, b"ispe", begun, ended, 16)]
    if not sides:
        raise Damaged("it does not say its size")
    width, height = max(sides, key=lambda side: side[0] * side[1])
    orientation = exif.UPRIGHT
    if kind == "AVIF":  # the decoder of HEIC turns by itself
        orientation = _orientation(data, begun, ended)
    return Header(
        kind,
        width,
        height,
        _without_notes(data, begun, ended),
        memory=BYTES_A_PIXEL * width * height,
        orientation=orientation,
    )


def _meta(data: bytes) -> tuple[int, int]:
    """Where the box of notes begins and ends."""
    at = 0
    for _ in range(MOST_ITEMS):
        if at + 8 > len(data):
            break
        (size,) = struct.unpack_from(">I", data, at)
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, at + 8)
        size = size or len(data) - at
        if data[at + 4 : at + 8] in (b"meta", b"moov"):
            return at, min(at + size, len(data))
        at += max(size, 8)
    raise Damaged("it has no picture")


def _found(data: bytes, name: bytes, begun: int, ended: int, room: int) -> list[int]:
    """Where boxes of this name have their name, with so many bytes from there."""
    places: list[int] = []
    at = data.find(name, begun, ended)
    while 0 <= at <= len(data) - room and len(places) < MOST_ITEMS:
        places.append(at)
        at = data.find(name, at + 4, ended)
    return places


def _orientation(data: bytes, begun: int, ended: int) -> int:
    turned = _found(data, b"irot", begun, ended, 5)
    mirrored = _found(data, b"imir", begun, ended, 5)
    turns = data[turned[0] + 4] & 3 if turned else 0
    if mirrored:
        return MIRRORS[turns][data[mirrored[0] + 4] & 1]
    return TURNS.get(turns, exif.UPRIGHT)


def _without_notes(data: bytes, begun: int, ended: int) -> bytes:
    """EXIF and XMP under another name, so that no decoder reads them; all else stays where it is."""
    changed = None
    for at in _found(data, b"infe", begun, ended, 20):
        place = at + 8 + (4 if data[at + 4] == 2 else 6)
        if data[place : place + 4] in METADATA:
            changed = changed or bytearray(data)
            changed[place : place + 4] = b"skip"
    return data if changed is None else bytes(changed)
