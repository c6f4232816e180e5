"""The picture in a residual's metadata."""

import base64
import io

import numpy as np
from PIL import Image

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
