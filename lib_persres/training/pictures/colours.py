"""Any mode of Pillow's as 8-bit RGB in sRGB, over white."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
"""A profile's colour space -> the mode that it describes."""
RELATIVE = 1
"""The rendering intent, relative colorimetric."""
FLAGS = 0x2000 | 0x0400
"""Black stays black; finer tables (the flags' names differ between Pillows)."""
EXACT = 0x2000 | 0x0100
"""No table in between: of greys it would be too coarse in the dark."""
MOST_PROFILE = 16 << 20
BROKEN = "The colour profile is damaged or for other colours and was ignored"
MISSING = "The colour profile was not applied, since this Pillow lacks ImageCms"
GREYS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


Parts = Callable[[], Iterable[Image.Image]]
Convert = Callable[[Image.Image], Image.Image]


class Colours:
    """Turns parts of one picture into RGB.

    image: the picture, or one part of it. profile: its colour profile's bytes. highest: the value of white in a grey
    of more than 8 bits, which is else told from the values. remark: what there is to say of the profile.
    """

    def __init__(self, image: Image.Image, profile: bytes | None, highest: int | None, parts: Parts):
        self.scale = _scale(image, highest, parts) if image.mode in GREYS else None
        self.remark = ""
        self._convert: Convert | None = None
        if profile is not None:
            try:
                self._convert = _converter(profile, _plain_mode(image))
            except ImportError:
                self.remark = MISSING
            except Exception:  # what lcms and Pillow raise on a broken profile is of many kinds
                self.remark = BROKEN

    def eight(self, part: Image.Image) -> Image.Image:
        """The part in L, LA, RGB, RGBA or CMYK, in which it can be made smaller."""
        if self.scale is not None:
            values = np.asarray(part).astype(np.float64) * self.scale
            return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))
        if part.mode in ("L", "RGB", "CMYK", "LA", "RGBA") and "transparency" not in part.info:
            return part
        if part.mode in ("La", "RGBa"):  # the premultiplied modes convert only to their own plain form
            return part.convert(part.mode.upper())
        if part.mode in ("1", "L") and "transparency" in part.info:
            return _keyed(part.convert("L"), part.info["transparency"])
        has_alpha = part.mode in WITH_ALPHA or "transparency" in part.info
        if part.mode == "1":
            return part.convert("L")
        return part.convert("RGBA" if has_alpha else "RGB")

    def rgb(self, part: Image.Image) -> Image.Image:
        """sRGB over white, of a part that `eight` made."""
        alpha = part.getchannel("A") if part.mode in ("LA", "RGBA") else None
        colour = part.convert(part.mode[:-1]) if alpha is not None else part
        colour = self._convert(colour) if self._convert is not None else colour.convert("RGB")
        if alpha is None:
            return colour
        return Image.composite(colour, Image.new("RGB", colour.size, "white"), alpha)


def _keyed(part: Image.Image, transparent: object) -> Image.Image:
    if not isinstance(transparent, int):
        return part
    alpha = part.point([0 if value == transparent else 255 for value in range(256)])
    return Image.merge("LA", (part, alpha))


def _plain_mode(image: Image.Image) -> str:
    if image.mode in (*GREYS, "1", "L", "LA", "La"):
        return "L"
    return "CMYK" if image.mode == "CMYK" else "RGB"


def _scale(image: Image.Image, highest: int | None, parts: Parts) -> float:
    """What makes 255 of white. Grey has 16 bits or 32; floats are 0 to 1 or, if any exceeds 1, 0 to 255."""
    if highest is not None:
        return 255 / highest
    if image.mode not in ("I", "F"):
        return 255 / 65535
    most = 0.0
    for part in parts():
        values = np.asarray(part)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite numbers")
        most = max(most, float(values.max()))
    if image.mode == "F":
        return 255.0 if most <= 1 else 1.0
    return 2.0**-23 if most > 65535 else 255 / 65535


def _converter(profile: bytes, mode: str) -> Convert | None:
    """From the profile's colours to sRGB's; None where they are the same. Raises for a profile that is none."""
    if not 128 < len(profile) <= MOST_PROFILE:
        raise ValueError
    described = SPACES[profile[16:20]]
    if described != mode and not (described == "RGB" and mode == "L"):
        raise ValueError
    cms = importlib.import_module("PIL.ImageCms")
    transform = cms.buildTransform(
        cms.ImageCmsProfile(io.BytesIO(profile)),
        cms.createProfile("sRGB"),
        described,
        "RGB",
        renderingIntent=RELATIVE,
        flags=EXACT if described == "L" else FLAGS,
    )
    if described == "L":
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        tables = np.asarray(cms.applyTransform(ramp, transform))[0].T.tolist()
        return lambda part: Image.merge("RGB", [part.point(table) for table in tables])

    def convert(part: Image.Image) -> Image.Image:
        return cms.applyTransform(part if part.mode == described else part.convert(described), transform)

    return None if described == "RGB" and _changes_nothing(convert) else convert


def _changes_nothing(convert: Convert) -> bool:
    """Whether it is sRGB's own profile, by its colours: a photo in sRGB stays as it is, without rounding."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    probe = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 27, 3)
    seen = np.asarray(convert(Image.fromarray(np.ascontiguousarray(probe))), dtype=int)
    return bool(np.abs(seen - probe).max() <= 1)
