"""The picture in a residual's metadata."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lib_persres import png
from lib_persres.errors import PersresError
from lib_persres.metadata import MAX_PREVIEW, Metadata
from lib_persres.thumbnail import SIDE, thumbnail


def opened(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_it_is_small_keeps_its_sides_ratio_and_comes_back_from_a_file():
    text = thumbnail(Image.new("RGBA", (512, 256), "teal"))
    image = opened(text)
    assert image.format == "PNG" and image.size == (SIDE, SIDE // 2)
    assert image.convert("RGB").getpixel((5, 5)) == (0, 128, 128)
    metadata = Metadata("rex", "olis", "dog", preview=text)
    assert Metadata.from_strings(metadata.to_strings()).preview == text


def test_a_small_picture_is_not_enlarged():
    assert opened(thumbnail(Image.new("RGB", (16, 16)))).size == (16, 16)


def test_what_cannot_be_compressed_shrinks_until_it_fits(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    noise = Image.fromarray(pixels)
    text = thumbnail(noise)
    assert len(text) <= MAX_PREVIEW and opened(text).size == (SIDE, SIDE)
    monkeypatch.setattr("lib_persres.thumbnail.MAX_PREVIEW", 10_000)
    text = thumbnail(noise)
    assert len(text) <= 10_000 and 16 < opened(text).width < SIDE


def header(width, height) -> bytes:
    return png.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))


@pytest.mark.parametrize("before", [b"", header(16, 16), png.chunk(b"tEXt", b"a\0b")])
def test_a_picture_that_says_it_were_large_is_no_preview_and_never_decoded(before):
    pixels = png.chunk(b"IDAT", zlib.compress(bytes(4000)))
    bomb = png.SIGNATURE + before + header(1500, 119_000) + pixels + png.chunk(b"IEND", b"")
    text = base64.b64encode(bomb).decode()
    assert len(text) <= MAX_PREVIEW
    with pytest.raises(PersresError, match="preview is not what it should be"):
        Metadata.from_strings({**Metadata("rex", "olis", "dog").to_strings(), "preview": text})
