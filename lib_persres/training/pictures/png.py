"""PNG: the chunks that draw, and those of a large one read in bands of rows, so that it is never whole in memory."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image, PngImagePlugin

from ... import png
from . import exif
from .header import Damaged, Header

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
TRANSPARENCY = {GREY: range(2, 3), RGB: range(6, 7), PALETTE: range(1, 257)}
"""The lengths of a tRNS chunk for each type of colour; in others it is none."""
MOST_PROFILE = 16 << 20
BEST_RATIO = 1032
"""No data shrinks further by deflate."""


def look(data: bytes) -> Header:
    kept: dict[bytes, bytes] = {}
    pixels: list[memoryview] = []
    orientations: list[int | None] = []
    profile: bytes | None = None
    for kind, content in png.chunks(data):
        if kind == b"IDAT":
            pixels.append(content)
        elif kind in png.DRAWN:
            kept.setdefault(kind, bytes(content))
        elif kind == b"eXIf":
            orientations.insert(0, exif.of_exif(content))
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            orientations.append(exif.of_text_chunk(kind, content))
        elif kind == b"iCCP" and profile is None:
            profile = exif.inflated(bytes(content).partition(b"\0")[2][1:], MOST_PROFILE) or b""
        if kind == b"IEND":
            break
    header = kept.get(b"IHDR", b"")
    if len(header) != 13:
        raise Damaged("its header is not whole")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if colour not in CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise Damaged("its type of colour is not known")
    packed = b"".join(pixels)
    rows = (width * depth * CHANNELS[colour] + 7) // 8 + 1
    if rows * height > (len(packed) + 1) * BEST_RATIO:
        raise Damaged("the file is cut off")
    transparent = kept.get(b"tRNS")
    if transparent is not None and len(transparent) not in TRANSPARENCY.get(colour, ()):
        del kept[b"tRNS"]
    whole = [png.SIGNATURE, png.chunk(b"IHDR", header)]
    whole += [png.chunk(kind, kept[kind]) for kind in (b"PLTE", b"tRNS") if kind in kept]
    whole += [png.chunk(b"IDAT", packed), png.chunk(b"IEND", b"")]
    return Header(
        "PNG",
        width,
        height,
        b"".join(whole),
        memory=4 * width * height if interlaced else 0,  # else it is read in bands
        orientation=next((orientation for orientation in orientations if orientation), exif.UPRIGHT),
        profile=profile,
        highest=65535 if depth == 16 else None,
        transparent=_transparent(kept, colour, depth),
    )


def _transparent(kept: Mapping[bytes, bytes], colour: int, depth: int) -> int | tuple[int, ...] | None:
    """The one grey or colour that is transparent, as 8 bits have it. Pillow leaves it in the file's own bits."""
    if b"tRNS" not in kept or colour not in (GREY, RGB):
        return None
    values = [value >> 8 if depth == 16 else value for value in struct.unpack(f">{CHANNELS[colour]}H", kept[b"tRNS"])]
    return tuple(values) if colour == RGB else values[0] * 255 // ((1 << min(depth, 8)) - 1)


def bands(data: bytes, rows: int) -> Iterator[Image.Image]:
    """The picture of a stripped PNG (`Header.data`), not interlaced, in bands of so many rows from the top."""
    kept = dict(png.chunks(data))
    width, height, depth, colour = struct.unpack_from(">IIBB", kept[b"IHDR"])
    channels = CHANNELS[colour]
    step = max(1, depth * channels // 8)  # by so many bytes a filter looks back
    length = (width * depth * channels + 7) // 8
    packed, above = zlib.decompressobj(), np.zeros(length, np.uint8)
    left = bytes(kept[b"IDAT"])
    for top in range(0, height, rows):
        count = min(rows, height - top)
        wanted, parts = count * (length + 1), []
        while wanted:
            part = packed.decompress(left, wanted)
            left = packed.unconsumed_tail
            if not part:
                raise Damaged("the file is cut off")
            parts.append(part)
            wanted -= len(part)
        filtered = np.frombuffer(b"".join(parts), np.uint8).reshape(count, length + 1)
        plain = _unfiltered(filtered, above, step)
        above = plain[-1]
        yield _band(plain, width, depth, colour, kept)


def _unfiltered(filtered: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """The rows (n, length) of filtered ones (n, 1 + length), below the row `above`.

    Pillow does it, as if they were an 8-bit picture with `step` channels: to a filter each channel is by itself, so
    that six or eight of them may go in two parts.
    """
    count, length = len(filtered), filtered.shape[1] - 1
    kinds = np.concatenate([np.zeros(1, np.uint8), filtered[:, 0]])
    if kinds.max() > 4:
        raise Damaged("a filter is not known")
    lines = np.concatenate([above[None], filtered[:, 1:]]).reshape(count + 1, length // step, step)
    done = np.empty((count, length // step, step), np.uint8)
    for first in range(0, step, 4 if step in (4, 8) else 3):
        part = lines[..., first : first + (4 if step in (4, 8) else 3)]
        channels = part.shape[2]
        rows = np.concatenate([kinds[:, None], part.reshape(count + 1, -1)], 1)
        colour = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGB_ALPHA}[channels]
        header = struct.pack(">IIBBBBB", length // step, count + 1, 8, colour, 0, 0, 0)
        file = [png.SIGNATURE, png.chunk(b"IHDR", header)]
        file += [png.chunk(b"IDAT", zlib.compress(rows.tobytes(), 0)), png.chunk(b"IEND", b"")]
        with PngImagePlugin.PngImageFile(io.BytesIO(b"".join(file))) as image:
            values = np.asarray(image).reshape(count + 1, -1, channels)
        done[..., first : first + channels] = values[1:]
    return done.reshape(count, length)


def _band(plain: np.ndarray, width: int, depth: int, colour: int, kept: Mapping[bytes, memoryview]) -> Image.Image:
    """The rows as Pillow has such a picture, with 8 bits where there were fewer or colours of 16."""
    count = len(plain)
    if depth < 8:
        bits = np.unpackbits(plain, axis=1)
        places = [bits[:, place::depth] << np.uint8(depth - 1 - place) for place in range(depth)]
        plain = sum(places[1:], start=places[0])[:, :width]
        if colour == GREY:
            plain = plain * np.uint8(255 // ((1 << depth) - 1))
    elif depth == 16:
        if colour == GREY:
            return Image.fromarray(plain.view(">u2").astype(np.uint16))
        plain = plain.reshape(count, -1, 2)[..., 0]  # the high bytes, as Pillow does
    pixels = np.ascontiguousarray(plain).reshape(count, width, -1)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if colour == PALETTE:
        image.putpalette(bytes(kept.get(b"PLTE", b"")[:768]) or b"\0\0\0")
        if b"tRNS" in kept:
            image.info["transparency"] = bytes(kept[b"tRNS"])
    return image
