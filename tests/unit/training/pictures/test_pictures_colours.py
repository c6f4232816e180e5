"""The colours of a photo are those that its profile means."""

import importlib

import icc_profiles as icc
import numpy as np
import pytest
from PIL import Image, ImageCms

from lib_persres.training.images import load_images, remarks

COLOURS = [(180, 90, 60), (90, 150, 80), (70, 90, 160), (128, 128, 128), (0, 0, 0), (255, 255, 255), (200, 180, 150)]


def patches(mode="RGB") -> Image.Image:
    """A square of 40 pixels for each colour, in a row."""
    pixels = np.repeat(np.repeat(np.array([COLOURS], np.uint8), 40, 0), 40, 1)
    return Image.fromarray(pixels).convert(mode)


def seen(path):
    """The colours of the squares, and the photo's remark."""
    (photo,) = load_images([path])
    assert photo.image.mode == "RGB"
    return np.asarray(photo.image, dtype=float)[20, 20::40], photo.remark


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize(
    ("primaries", "gamma"), [(icc.DISPLAY_P3, icc.SRGB_CURVE), (icc.ADOBE_RGB, 2.19921875)], ids=["P3", "Adobe RGB"]
)
def test_a_wide_rgb_photo_is_converted_to_srgb(tmp_path, suffix, primaries, gamma):
    path = tmp_path / f"a.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    patches().save(path, icc_profile=icc.rgb_profile(primaries, gamma), **options)
    found, remark = seen(path)
    assert np.abs(found - icc.in_srgb(COLOURS, primaries, gamma)).max() <= 3 and not remark
    assert np.abs(found - COLOURS).max() > 8


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_profiles_are_heeded_in_every_mode_and_transparency_is_white(tmp_path, mode):
    image = patches() if mode == "P" else patches(mode)
    if mode == "P":
        image = image.quantize(16)
    else:
        image.putalpha(Image.new("L", image.size, 255))
        image.paste((0,) * len(mode), (240, 0, 280, 40))  # nothing instead of the last colour
    profile = icc.grey_profile(1.0) if mode == "LA" else icc.rgb_profile(icc.ADOBE_RGB, 2.19921875)
    image.save(tmp_path / "a.png", icc_profile=profile)
    found, remark = seen(tmp_path / "a.png")
    if mode == "LA":
        wanted = icc.encoded(np.repeat(np.asarray(patches("L"))[20, 20::40][:, None], 3, 1) / 255)
    else:
        wanted = icc.in_srgb(COLOURS, icc.ADOBE_RGB, 2.19921875)
    if mode != "P":
        wanted[-1] = 255
    assert np.abs(found - wanted).max() <= 3 and not remark


@pytest.mark.parametrize("depth", [8, 16])
def test_a_grey_profile_is_heeded(tmp_path, depth):
    values = np.tile(np.arange(0, 256, dtype=np.uint16), (40, 1))
    image = Image.fromarray((values * 257) if depth == 16 else values.astype(np.uint8))
    image.save(tmp_path / "a.png", icc_profile=icc.grey_profile(1.0))
    (photo,) = load_images(tmp_path)
    wanted = icc.encoded(np.arange(256) / 255)
    assert np.abs(np.asarray(photo.image)[20, :, 1] - wanted).max() <= 3 and not photo.remark


def test_a_grey_photo_with_an_rgb_profile_is_converted_too(tmp_path):
    patches("L").save(tmp_path / "a.png", icc_profile=icc.rgb_profile(icc.SRGB, 1.0))
    found, _ = seen(tmp_path / "a.png")
    greys = np.asarray(patches("L"))[20, 20::40]
    assert np.abs(found[:, 0] - icc.encoded(greys / 255)).max() <= 3


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_converted_by_its_profile_and_without_one_by_pillow(tmp_path, suffix):
    inks = Image.new("CMYK", (80, 40), (0, 0, 0, 128))
    inks.paste((255, 0, 0, 0), (40, 0, 80, 40))
    inks.save(tmp_path / f"a.{suffix}", icc_profile=icc.cmyk_profile())
    inks.save(tmp_path / f"b.{suffix}")
    by_profile, plain = (np.asarray(photo.image, dtype=float)[20, [10, 70]] for photo in load_images(tmp_path))
    wanted = [[float(icc.grey_of_lightness(100 * (1 - 128 / 255)))] * 3, [255] * 3]  # this press has no cyan
    assert np.abs(by_profile - wanted).max() <= 4
    assert np.abs(plain - np.asarray(inks.convert("RGB"), dtype=float)[20, [10, 70]]).max() <= 3


@pytest.mark.parametrize("made", ["by Pillow", "by hand"])
def test_a_photo_in_srgb_stays_to_the_bit(tmp_path, made):
    profile = icc.rgb_profile(icc.SRGB, icc.SRGB_CURVE)
    if made == "by Pillow":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    assert (np.asarray(load_images(tmp_path)[0].image) == pixels).all()


P3 = icc.rgb_profile(icc.DISPLAY_P3, icc.SRGB_CURVE)
BROKEN = {
    "no profile": b"no profile at all",
    "cut": P3[:200],
    "zeros": b"\0" * 500,
    "for another mode": icc.cmyk_profile(),
    "wild offsets": P3[:132] + b"\xff" * 100 + P3[232:],
    "unknown space": P3[:16] + b"\xff\xff\xff\xff" + P3[20:],
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_broken_profile_is_ignored_and_told(tmp_path, name, suffix):
    for profile, file in ((BROKEN[name], "a"), (None, "b")):
        patches().save(tmp_path / f"{file}.{suffix}", icc_profile=profile)
    told = []
    broken, plain = load_images(tmp_path, tell=told.append)
    assert (np.asarray(broken.image) == np.asarray(plain.image)).all()
    assert told == [f"The colour profile is damaged or for other colours and was ignored: a.{suffix}."]


def test_a_profile_of_which_a_part_is_missing_is_ignored(tmp_path):
    patches().save(tmp_path / "a.jpg", icc_profile=P3 + b"\0" * 80_000)  # in two segments
    data = (tmp_path / "a.jpg").read_bytes()
    second = data.index(b"ICC_PROFILE\0\2\2")
    (tmp_path / "a.jpg").write_bytes(data[: second + 12] + b"\7" + data[second + 13 :])
    (photo,) = load_images(tmp_path)
    assert "damaged" in photo.remark


def test_without_imagecms_photos_are_used_and_it_is_said_once(tmp_path, monkeypatch):
    for name in "abcdef":
        patches().save(tmp_path / f"{name}.png", icc_profile=P3)
    imported = importlib.import_module

    def without(name, *more):
        if name == "PIL.ImageCms":
            raise ImportError(name)
        return imported(name, *more)

    monkeypatch.setattr(importlib, "import_module", without)
    told = []
    photos = load_images(tmp_path, tell=told.append)
    assert (np.asarray(photos[0].image) == np.asarray(patches())).all()
    (sentence,) = told
    assert "lacks ImageCms: a.png, b.png, c.png and 3 more." in sentence


def test_a_remark_on_photos_of_any_name_is_one_short_line():
    (sentence,) = remarks([("\x1b[2J\ud800" + "x" * 300, "It is odd")] * 50)
    assert sentence.isprintable() and len(sentence) <= 300
