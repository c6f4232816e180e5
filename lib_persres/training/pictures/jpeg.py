"""JPEG: the segments that draw; orientation and profile from the others, which no decoder sees."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from . import exif
from .header import Damaged, Header

ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers without a content."""
DRAWN = (0xDB, 0xC4, 0xCC, 0xDD, 0xDC)
"""Tables, and what else changes how is decoded."""
FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
FOREIGN_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)
PROGRESSIVE = (0xC2, 0xCA)
END, SCAN = 0xD9, 0xDA
JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""In what is coded after a scan's beginning all other bytes 255 are followed by 0 or are restarts."""
MOST_SEGMENTS = 100_000
MOST_SCANNED = 3 << 30
"""Pixels times scans: a small file can say "once more over all" very often."""


def look(data: bytes) -> Header:
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    profile: dict[int, tuple[int, bytes]] = {}
    orientations: list[int | None] = []
    frame: tuple[int, bytes] | None = None
    for marker, content, after in _segments(data):
        if marker in FRAMES:
            if frame is not None:
                raise Damaged("it has more than one frame")
            frame = marker, bytes(content)
        elif marker in FOREIGN_FRAMES:
            raise Damaged("it is a kind of JPEG that is not known here")
        elif marker == 0xE0 and content[:5] == b"JFIF\0":
            kept.append(JFIF)  # decoders ask whether it is there, for the colours
            continue
        elif marker == 0xE1:
            orientations.append(_orientation(content))
        elif marker == 0xE2 and content[:12] == b"ICC_PROFILE\0" and len(content) >= 14:
            profile[content[12]] = (content[13], bytes(content[14:]))
        if marker in (*FRAMES, *DRAWN, SCAN) or (marker == 0xEE and content[:5] == b"Adobe" and len(content) >= 12):
            kept.append(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + bytes(content))
        if marker == SCAN:
            coded, in_first = after, content[0]
            break
    else:
        raise Damaged("it has no picture")
    if frame is None:
        raise Damaged("it has no frame")
    width, height, full = _frame(*frame)
    scans, end = _scans(data, coded)
    if scans * width * height > MOST_SCANNED:
        raise Damaged(f"it has {scans} scans")
    several = frame[0] in PROGRESSIVE or scans > 1 or in_first < frame[1][5]
    kept.append(memoryview(data)[coded:end])
    found = next((orientation for orientation in orientations if orientation), exif.UPRIGHT)
    return Header(
        "JPEG",
        width,
        height,
        b"".join(kept),
        memory=full if several else 0,  # its pixels are counted when it is known how small they are drawn
        orientation=found,
        profile=_joined(profile),
        shrinks=True,
    )


def _segments(data: bytes) -> Iterator[tuple[int, bytes | memoryview, int]]:
    """(marker, content, where the next begins) up to the first scan; what lies between segments is passed over."""
    view, at = memoryview(data), 2
    for _ in range(MOST_SEGMENTS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return
        marker = data[at + 1]
        if marker in (0, 0xFF) or marker in ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == END:
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2:
            raise Damaged("a segment has no length")
        content = view[at + 4 : at + 2 + length]
        if len(content) < length - 2:
            raise Damaged("the file is cut off")
        if marker == SCAN and not content:
            raise Damaged("a scan has no components")
        at += 2 + length
        yield marker, content, at


def _frame(marker: int, content: bytes) -> tuple[int, int, int]:
    """Width, height, and the bytes of all coefficients at once, as several scans need them."""
    if len(content) < 6 or len(content) < 6 + 3 * content[5] or not content[5]:
        raise Damaged("its frame is too short")
    height, width = struct.unpack_from(">HH", content, 1)
    sampling = [divmod(content[7 + 3 * part], 16) for part in range(content[5])]
    if not all(1 <= factor <= 4 for both in sampling for factor in both):
        raise Damaged("its sampling is not possible")
    widest, highest = (max(factors) for factors in zip(*sampling))
    # coefficients of 16 bits, in blocks of 8×8, of which each component has its share
    blocks = (width // (8 * widest) + 1) * (height // (8 * highest) + 1) * sum(w * h for w, h in sampling)
    return width, height, blocks * 64 * 2


def _scans(data: bytes, at: int) -> tuple[int, int]:
    """How many scans there are, and where the picture ends: a phone's file may hold another one after it."""
    scans = 1
    for _ in range(MOST_SEGMENTS):
        found = MARKER.search(data, at)
        if found is None:
            return scans, len(data)
        marker, at = data[found.start() + 1], found.end()
        if marker in (END, 0xD8):
            return scans, found.end() if marker == END else found.start()
        scans += marker == SCAN
        if at + 2 > len(data):
            return scans, len(data)
        at += max(2, struct.unpack_from(">H", data, at)[0])
    raise Damaged("it has too many segments")


def _orientation(content: bytes | memoryview) -> int | None:
    note = bytes(content)
    if note.startswith(b"Exif\0"):
        return exif.of_exif(note)
    return exif.of_xmp(note) if note.startswith(b"http://ns.adobe.com/xap/1.0/\0") else None


def _joined(parts: dict[int, tuple[int, bytes]]) -> bytes | None:
    """A profile from its numbered parts; what lacks one of them is no profile, and is told to be broken."""
    if not parts:
        return None
    count = next(iter(parts.values()))[0]
    if sorted(parts) != list(range(1, count + 1)):
        return b""
    return b"".join(parts[number][1] for number in sorted(parts))
