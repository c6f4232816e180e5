"""Pictures as users give them, damaged: bits, lengths, headers, and metadata of every wrong kind."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageCms, features

from lib_persres import png
from lib_persres.training.images import load_photo
from lib_persres.training.pictures.decode import MOST_KEPT

COUNT = 5000
SIZE = (72, 54)
SIZES = (0, 1, 31, 255, 4096, 16383, 16384, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
MODES = {
    "PNG": ("1", "L", "P", "LA", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F"),
    "AVIF": ("RGB", "RGBA"),
}
TEXTS = (
    *(b"", b"a photo of a dog", b"\xff" * 70, b"{" * 500),
    *(b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\0\0\0\x08\0\1\1\x12\0\2"),
)
FOREIGN = (b"%!PS-Adobe-3.0\n", b"%PDF-1.7", b"\0\0\0\x18ftypheic\0\0\0\0mif1", b"\0\0\0\x1cftypisom", b"PK\x03\x04")


@functools.cache
def formats() -> tuple[str, ...]:
    return tuple(name for name in MODES if name != "AVIF" or ("avif" in features.modules and features.check("avif")))


@functools.cache
def picture(mode: str) -> Image.Image:
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    if mode == "I;16":
        return Image.fromarray((x * 800).astype(np.uint16))
    if mode == "F":
        return Image.fromarray((x / SIZE[0]).astype(np.float32))
    image = Image.fromarray(np.stack([x * 3, y * 4, x + y], -1).astype(np.uint8))
    if mode.endswith("A"):
        image.putalpha(Image.fromarray((x * 3).astype(np.uint8)))
    return image.convert(mode)


def sound(random: Random) -> tuple[str, bytes]:
    """A format, and a good file of it."""
    kind = random.choice(formats())
    mode, options = random.choice(MODES[kind]), {}
    if kind == "JPEG":
        options = {"progressive": random.random() < 0.3, "quality": random.choice((30, 95))}
    elif kind == "TIFF":
        options = {"compression": random.choice((None, "tiff_lzw", "tiff_deflate", "packbits"))}
    elif kind == "WEBP":
        options = {"lossless": random.random() < 0.5, "method": 0}
    elif kind == "AVIF":
        options = {"speed": 10}
    if kind in ("PNG", "JPEG", "WEBP", "TIFF") and random.random() < 0.3:
        options["icc_profile"] = damaged(random, profile()) if random.random() < 0.7 else profile()
    if kind in ("PNG", "JPEG", "WEBP") and random.random() < 0.3:
        options["exif"] = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    if kind in ("GIF", "WEBP", "TIFF", "PNG") and random.random() < 0.2:
        options |= {"save_all": True, "append_images": [picture(mode)] * 2}
    buffer = io.BytesIO()
    picture(mode).save(buffer, kind, **{name: value for name, value in options.items() if value is not None})
    return kind, buffer.getvalue()


@functools.cache
def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def damaged(random: Random, data: bytes) -> bytes:
    data = bytearray(data)
    for _ in range(random.randint(1, 6)):
        way = random.randrange(6)
        # headers matter most
        at = random.randrange(max(1, min(len(data), 200 if random.random() < 0.6 else len(data))))
        if way == 0 and data:
            data[at : at + 1] = bytes([data[min(at, len(data) - 1)] ^ 1 << random.randrange(8)])
        elif way == 1:
            del data[at + random.randrange(1 + len(data) - at) :]
        elif way == 2:
            data[at : at + 4] = struct.pack(random.choice("<>") + "I", random.choice(SIZES))
        elif way == 3:
            data[at : at + 2] = struct.pack(random.choice("<>") + "H", random.choice(SIZES) & 0xFFFF)
        elif way == 4:
            data[at:at] = random.choice((random.randbytes(random.randrange(40)), *TEXTS))
        else:
            other = random.randrange(1 + len(data))
            data[at:at] = data[other : other + random.randrange(60)]
    return bytes(data)


def with_note(random: Random, kind: str, data: bytes) -> bytes:
    """A wrong note where the format keeps such, in a file that is else as it was."""
    text = random.choice((*TEXTS, zlib.compress(b"x" * 300_000)))
    if kind == "PNG":
        name = random.choice((b"eXIf", b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"tRNS", b"acTL", b"IHDR", b"PLTE", b"IDAT"))
        key = random.choice((b"", b"key\0\0", b"XML:com.adobe.xmp\0\1\0\0\0", b"Raw profile type exif\0\0"))
        return data[:33] + png.chunk(name, key + text) + data[33:]
    if kind == "JPEG":
        keys = (b"", b"JFIF\0", b"Exif\0\0", b"ICC_PROFILE\0\1\1", b"Adobe\0", b"MPF\0", b"Photoshop 3.0\0")
        content = (random.choice(keys) + text)[:65_000]
        marker = random.choice((0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xC0, 0xDB, 0xC4, 0xDD))
        return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]
    if kind == "WEBP":
        name = random.choice((b"EXIF", b"XMP ", b"ICCP", b"VP8X", b"ANMF", b"ALPH"))
        return data[:12] + name + struct.pack("<I", len(text)) + text + b"\0" * (len(text) % 2) + data[12:]
    if kind == "GIF":
        return data[:-1] + b"\x21\xfe" + bytes([len(text[:255])]) + text[:255] + b"\0" + data[-1:]
    return data + text


def MAKE(random: Random, folder: Path) -> Path:
    kind, data = sound(random)
    way = random.random()
    if way < 0.15:
        data = with_note(random, kind, data)
    elif way < 0.9:
        data = damaged(random, with_note(random, kind, data) if way < 0.3 else data)
    elif way < 0.93:
        data = random.choice(FOREIGN) + data
    path = folder / "picture"
    path.write_bytes(data)
    return path


def USE(path: Path) -> None:
    photo = load_photo(path, min_side=1)
    assert photo.image.mode == "RGB" and photo.image.width * photo.image.height <= MOST_KEPT
    photo.image.tobytes()
