"""A picture's bytes as an upright RGB image of bounded size, by way of bounded memory.

What stands in a file beside the picture never reaches a decoder, so that it can neither break nor fill anything.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from ...errors import PersresError
from . import bmp, boxes, gif, jpeg, kinds, png, tiff, webp
from .colours import Colours
from .files import reason
from .header import Damaged, Header

MOST_PIXELS = 1 << 28
"""Of one picture, as its file says; 268 megapixels."""
MOST_ASPECT = 100
"""The long side over the short one, of which a training takes a square."""
MOST_TIFF = 178_000_000
"""Likewise of a TIFF, for which Pillow has a limit that only a whole process can change."""
MOST_MEMORY = 768 << 20
"""Bytes that decoding one may take."""
MOST_KEPT = 1 << 24
"""Pixels that are kept of one."""
BAND = 1 << 20
"""Pixels that are converted at a time."""
IN_BANDS = 1 << 26
"""Pixels from which on a PNG is read in bands; below, Pillow reads it at once, which is faster."""
LARGE = 1 << 26
"""Pixels from which on little memory counts more than the last of sharpness."""
GAP = 2
"""The cheap ways to make a picture smaller stop at so many times the wanted size, as in Pillow's thumbnails."""
LOOKS: dict[str, Callable[[bytes], Header]] = {
    "JPEG": jpeg.look,
    "PNG": png.look,
    "WEBP": webp.look,
    "GIF": gif.look,
    "BMP": bmp.look,
    "TIFF": tiff.look,
    "AVIF": lambda data: boxes.look(data, "AVIF"),
    "HEIF": lambda data: boxes.look(data, "HEIF"),
}
PLUGINS = {"AVIF": "pillow_avif", "HEIF": "pillow_heif"}
"""What adds a format to Pillow, where it is installed; no requirement."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
CANNOT = {
    "HEIF": "is a HEIC picture, which needs the package pillow-heif: install it, or save the picture as JPEG",
    "AVIF": "is an AVIF picture, which this Pillow cannot read: install pillow-avif-plugin, or save it as JPEG",
}


@dataclass(frozen=True)
class Decoded:
    """image: RGB, upright, in sRGB, transparent parts white. remark: what there is to say of it, or ""."""

    image: Image.Image
    remark: str = ""


def decode(
    data: bytes, called: str, *, min_side: int = 32, max_short_side: int | None = 1536, most_kept: int = MOST_KEPT
) -> Decoded:
    """The picture of a file's bytes, scaled down where it is larger than wanted. called: what sentences call it."""
    kind = kinds.of_bytes(data)
    if kind is None:
        what = kinds.foreign(data, called)
        raise _unreadable(called, what if what.startswith("not ") else f"it is {what}")
    if not can_read(kind, data[:16]):
        what = CANNOT.get(kind, f"is a picture that this Pillow cannot read, since it lacks {kind}")
        raise PersresError(f"The image {called} {what}.")
    try:
        header = LOOKS[kind](data)
        del data
        _check(header, called, min_side)
        return _decoded(header, called, max_short_side, most_kept, min_side)
    except PersresError:
        raise
    except MemoryError as error:
        raise _unreadable(called, "the memory does not suffice") from error
    except Exception as error:  # what a decoder raises on a broken file is not limited to any family
        raise _unreadable(called, reason(error)) from error


def can_read(kind: str, start: bytes = b"") -> bool:
    """start: the first bytes of such a file, of which a plugin says whether it can."""
    Image.init()
    if kind not in Image.OPEN and kind in PLUGINS:
        with contextlib.suppress(Exception):  # not installed, or not for this Pillow
            plugin = importlib.import_module(PLUGINS[kind])
            if kind == "HEIF":
                plugin.register_heif_opener()
    if kind not in Image.OPEN:
        return False
    _, accepts = Image.OPEN[kind]
    return not (start and accepts and isinstance(accepts(start), str))  # a text: the plugin lacks its library


def _unreadable(called: str, why: str) -> PersresError:
    return PersresError(f"The image {called} cannot be read ({why}); replace or remove it.")


def _check(header: Header, called: str, min_side: int) -> None:
    width, height = header.width, header.height
    if min(width, height) < min_side:
        raise PersresError(
            f"The image {called} is too small ({width}×{height} pixels); each side needs {min_side} or more."
        )
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise PersresError(
            f"The image {called} is {width}×{height} pixels, more than {MOST_ASPECT} times as long as wide; cut it "
            "to what is to be learned."
        )
    most = MOST_TIFF if header.kind == "TIFF" else MOST_PIXELS
    if width * height > most:
        raise PersresError(
            f"The image {called} has {width}×{height} pixels, more than {most // 10**6} million; scale it down."
        )
    if header.memory > MOST_MEMORY:
        raise _too_much(header, called)


def _too_much(header: Header, called: str) -> PersresError:
    return PersresError(
        f"The image {called} ({header.width}×{header.height} pixels) would take more than {MOST_MEMORY >> 20:,} MiB to "
        "decode; scale it down, or save it as a plain JPEG (not progressive)."
    )


def _decoded(header: Header, called: str, max_short_side: int | None, most_kept: int, min_side: int) -> Decoded:
    in_bands = header.kind == "PNG" and not header.memory and header.width * header.height > IN_BANDS
    image = None if in_bands else _opened(header, called, min_side)
    full = header.width, header.height
    size = fitted(full, max_short_side, most_kept)
    gap = GAP if full[0] * full[1] <= LARGE else 1
    least = [gap * side for side in size]
    drawn = full
    if image is not None:
        if header.shrinks:
            _draft(image, least)
            if header.memory + 4 * image.width * image.height > MOST_MEMORY:
                raise _too_much(header, called)
        drawn = image.size
        image.load()
    factor = max(1, min(drawn[0] // least[0], drawn[1] // least[1]))
    rows = max(1, BAND // drawn[0] // factor) * factor

    def parts() -> Iterator[Image.Image]:
        if image is None:
            yield from (_with_key(band, header) for band in png.bands(header.data, rows))
            return
        for top in range(0, drawn[1], rows):
            yield _with_key(image.crop((0, top, drawn[0], min(drawn[1], top + rows))), header)

    profile = header.profile
    if profile is None and image is not None:
        profile = image.info.get("icc_profile")
    colours = Colours(next(parts()), profile, header.highest, parts)
    small = Image.new("RGB", tuple(-(-side // factor) for side in drawn))
    top = 0
    for part in parts():
        part = colours.eight(part)
        part = colours.rgb(part.reduce(factor) if factor > 1 else part)
        small.paste(part, (0, top))
        top += part.height
    image = None
    if small.size != size:
        # the last column and row of blocks may be more than what there is of the picture
        scale = factor * round(full[0] / drawn[0])
        small = small.resize(size, Image.Resampling.LANCZOS, box=(0, 0, full[0] / scale, full[1] / scale))
    if header.orientation in TURNS:
        small = small.transpose(TURNS[header.orientation])
    return Decoded(small, colours.remark)


def _opened(header: Header, called: str, min_side: int) -> Image.Image:
    """By the format's own class alone: Image.open would try others, and refuse what is large but bounded here."""
    opener, _ = Image.OPEN[header.kind]
    image = opener(io.BytesIO(header.data), "")
    if image.width * image.height > header.width * header.height:
        raise Damaged("it tells two sizes")
    header.width, header.height = image.size
    _check(header, called, min_side)
    return image


def _draft(image: Image.Image, least: list[int]) -> None:
    """Let JPEG's decoder make it smaller by 2, 4 or 8."""
    scale = min(side // wanted for side, wanted in zip(image.size, least))
    if scale >= 2:
        scale = next(power for power in (8, 4, 2) if power <= scale)
        image.draft(image.mode, tuple(side // scale for side in image.size))


def _with_key(image: Image.Image, header: Header) -> Image.Image:
    """The transparent colour in 8 bits, as the picture will be."""
    if header.transparent is not None:
        image.info["transparency"] = header.transparent
    return image


def fitted(size: tuple[int, int], max_short_side: int | None, most_pixels: int) -> tuple[int, int]:
    """The size to which a picture of this size is scaled down."""
    width, height = size
    if max_short_side is not None and min(size) > max_short_side:
        scale = max_short_side / min(size)
        width, height = (max(max_short_side, round(side * scale)) for side in size)
    if width * height > most_pixels:
        scale = math.sqrt(most_pixels / (width * height))
        width, height = (max(1, int(side * scale)) for side in (width, height))
    return width, height
