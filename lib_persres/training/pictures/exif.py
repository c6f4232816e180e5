"""The one thing of a photo's metadata that matters here: how it has to be turned. What is broken in it is upright."""

from __future__ import annotations

import re
import struct
import zlib

UPRIGHT = 1
ORIENTATION = 0x0112
SIZES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
"""The whole-number types of TIFF, as `struct` has them."""
MOST = 1 << 20
"""Bytes of metadata that are looked through; the first directory of EXIF stands at the beginning."""
XMP = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])(?![0-9])")
HEX = re.compile(rb"[0-9A-Fa-f]+")


def of_exif(payload: bytes | memoryview) -> int | None:
    """The orientation in an EXIF block, None where it says none."""
    payload = bytes(payload[:MOST])
    while payload.startswith(b"Exif\0"):  # some programs write it twice
        payload = payload[6:]
    order = {b"II": "<", b"MM": ">"}.get(payload[:2])
    if order is None or len(payload) < 8:
        return None
    (at,) = struct.unpack_from(order + "I", payload, 4)
    if at + 2 > len(payload):
        return None
    (count,) = struct.unpack_from(order + "H", payload, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(payload) - 11), 12):
        tag, kind, number = struct.unpack_from(order + "HHI", payload, entry)
        if tag == ORIENTATION:
            return _value(payload[entry + 8 : entry + 12], kind, number, order)
    return None


def _value(field: bytes, kind: int, number: int, order: str) -> int | None:
    if kind == 2:  # a text, as some programs write every number
        text = field.split(b"\0")[0].strip()
        value = int(text) if text.isdigit() else 0
    else:
        value = struct.unpack_from(order + SIZES[kind], field)[0] if kind in SIZES and number else 0
    return value if 1 <= value <= 8 else None


def of_xmp(payload: bytes | memoryview) -> int | None:
    found = XMP.search(bytes(payload[:MOST]))
    return int(found[1]) if found else None


def of_text_chunk(kind: bytes, content: bytes | memoryview) -> int | None:
    """The orientation in a text of a PNG: XMP, or EXIF in hexadecimal, as ImageMagick writes it."""
    key, _, rest = bytes(content[:MOST]).partition(b"\0")
    if key not in (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1"):
        return None
    if kind == b"zTXt":
        text = inflated(rest[1:], MOST)
    elif kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:]
        text = rest.split(b"\0", 2)[-1]
        text = inflated(text, MOST) if packed else text
    else:
        text = rest
    if key.startswith(b"XML"):
        return of_xmp(text or b"")
    # "\nexif\n      42\n4578…": its kind, its length, and the bytes in lines
    digits = b"".join(HEX.findall(b"".join((text or b"").split(b"\n")[3:])))
    return of_exif(bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii")))


def inflated(data: bytes, most: int) -> bytes | None:
    """What zlib packed, up to `most` bytes of it; None where it is damaged."""
    try:
        return zlib.decompressobj().decompress(data, most)
    except zlib.error:
        return None
