"""What a picture may take of memory and time."""

import random
import re
import struct
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from picture_files import bytes_of, noise, png_file, refused, tiff, written
from PIL import Image

from lib_persres import png
from lib_persres.training import images
from lib_persres.training.images import load_images, load_photo
from lib_persres.training.pictures import decode, jpeg, webp
from lib_persres.webui.training import photos

ROOT = Path(__file__).resolve().parents[4]

# -- memory --------------------------------------------------------------------------------------------------

MEASURE = """
import os, resource, sys
from lib_persres.training.pictures import decode
from PIL import Image
Image.init()

def peak():
    # Linux counts into ru_maxrss what the process that started this one had, which hides as much
    if os.path.exists("/proc/self/status"):
        lines = open("/proc/self/status").read().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20

for path in sys.argv[1:]:
    data = open(path, "rb").read()
    before = peak()
    image = decode.decode(data, path).image
    print(*image.size, peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no resource module")
@pytest.mark.parametrize("channels", [3, 4])
def test_a_webp_takes_no_more_memory_than_its_header_tells(tmp_path, channels):
    tile = np.random.default_rng(0).integers(0, 255, (512, 512, channels), dtype=np.uint8)
    data = bytes_of(Image.fromarray(np.tile(tile, (8, 8, 1))), "WEBP", quality=80, method=0)
    path = written(tmp_path / "large.webp", data)
    run = [sys.executable, "-c", MEASURE, str(path)]
    grown = int(subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[2])
    told = webp.look(data).memory >> 20
    assert told - 32 < grown <= told  # MiB: neither more, nor so much less that good pictures are refused


@pytest.mark.parametrize("size", [(32, 8_000_000), (8_000_000, 32), (40, 4001)])
def test_a_picture_that_is_no_more_than_a_line_is_refused(tmp_path, size):
    text = refused(written(tmp_path / "line.png", png_file(*size, 1, 0)))
    assert f"is {size[0]}×{size[1]} pixels, more than 100 times as long as wide" in text


@pytest.mark.skipif(sys.platform == "win32", reason="there is no resource module")
def test_small_files_of_many_pixels_and_a_photo_of_200_megapixels_take_little_memory(tmp_path):
    made = [
        written(tmp_path / "bits.png", png_file(1500, 119_000, 1, 0)),
        written(tmp_path / "deep.png", png_file(9_000, 9_000, 16, 0)),
        written(tmp_path / "photo.jpg", bytes_of(Image.new("L", (16_320, 12_240), 77), "JPEG")),
    ]
    assert made[0].stat().st_size < 25_000
    run = [sys.executable, "-c", MEASURE, *map(str, made)]
    lines = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    bits, deep, photo = ([int(number) for number in line.split()] for line in lines)
    assert bits[0] * bits[1] <= decode.MOST_KEPT and deep[:2] == [1536, 1536] and photo[:2] == [2048, 1536]
    assert max(bits[2], deep[2], photo[2]) < 400  # MiB; each took 1,000 to 6,000 when it was decoded whole


def test_a_photo_of_more_megapixels_than_pillow_opens_is_learned_from(tmp_path, monkeypatch):
    noise(size=(400, 300)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Image.open would refuse it
    monkeypatch.setattr(decode, "BAND", 400)
    assert load_photo(tmp_path / "a.png").image.size == (400, 300)


def test_an_interlaced_png_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MOST_MEMORY", 4 * 300 * 300 - 1)
    monkeypatch.setattr(decode, "_opened", lambda *_: pytest.fail("it was opened"))
    path = written(tmp_path / "a.png", png_file(300, 300, 8, 0, interlaced=1))
    assert "would take more than" in refused(path)


def patched(kind: str) -> bytes:
    """A small file that says it were very large."""
    if kind == "png":
        return png_file(60_000, 60_000, 1, 0, rows=random.Random(0).randbytes(450_000))
    if kind == "png, no pixels":
        return png_file(16_000, 16_000, 8, 6, rows=b"")
    if kind == "jpg, progressive":
        data = bytearray(bytes_of(noise(), "JPEG", progressive=True, subsampling=0))
        at = data.index(b"\xff\xc2")
        struct.pack_into(">HH", data, at + 5, 16_000, 16_000)
    elif kind == "jpg, a component at a time":
        data = bytearray(bytes_of(noise(), "JPEG", subsampling=0))
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 16_000, 16_000)
        data[data.index(b"\xff\xda") + 4] = 1
    elif kind == "webp":
        data = bytearray(bytes_of(noise(), "WEBP", lossless=True))
        struct.pack_into("<I", data, 21, 16_382 | 16_382 << 14)
    elif kind == "gif":
        data = bytearray(bytes_of(noise(), "GIF"))
        struct.pack_into("<HH", data, 6, 65_535, 65_535)
    elif kind == "gif, its picture":
        data = bytearray(bytes_of(noise(), "GIF"))
        struct.pack_into("<HH", data, data.index(b"\x2c\0\0\0\0") + 5, 65_535, 65_535)
    elif kind == "bmp":
        data = bytearray(bytes_of(noise(), "BMP"))
        struct.pack_into("<ii", data, 18, 16_000, 16_000)
    elif kind == "bmp of runs":
        data = bytearray(bytes_of(noise().convert("L"), "BMP"))
        struct.pack_into("<iiHHI", data, 18, 16_000, 16_000, 1, 8, 1)
    elif kind == "tif":
        data = bytearray(bytes_of(noise(), "TIFF", compression="tiff_lzw"))
        for tag in (256, 257):
            struct.pack_into("<H", data, data.index(struct.pack("<HHI", tag, 3, 1)) + 8, 15_000)
    elif kind == "tif of one tile":
        data = bytearray(tiff(tile=(40_000, 40_000)))
    elif kind == "tif of many parts":
        data = bytearray(tiff(strips=1_000_000))
    elif kind == "avif":
        data = bytearray(bytes_of(noise(), "AVIF"))
        struct.pack_into(">II", data, data.index(b"ispe") + 8, 16_000, 16_000)
    return bytes(data)


PATCHED = [
    *("png", "png, no pixels", "jpg, progressive", "jpg, a component at a time", "webp", "gif", "gif, its picture"),
    *("bmp", "bmp of runs", "tif", "tif of one tile", "tif of many parts", "avif"),
]


@pytest.mark.parametrize("kind", PATCHED)
def test_a_small_file_that_says_it_is_very_large_is_refused_before_it_is_decoded(tmp_path, kind, monkeypatch):
    if kind == "avif" and not decode.can_read("AVIF"):
        pytest.skip("this Pillow has no AVIF")
    data = patched(kind)
    assert len(data) < 1 << 20
    if kind == "jpg, a component at a time":  # of JPEG the rest is known once its decoder can say how small it draws
        monkeypatch.setattr(decode, "MOST_MEMORY", 1 << 29)
    else:
        monkeypatch.setattr(decode, "_opened", lambda *_: pytest.fail("it was opened"))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    refused(written(tmp_path / "a", data))


def test_photos_share_the_memory_that_is_kept(tmp_path, monkeypatch):
    for number in range(5):
        noise(number, (200, 100)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(images, "MOST_TOGETHER", 20_000)
    found = [photo.image for photo in load_images(tmp_path)]
    assert sum(image.width * image.height for image in found) <= 20_000
    assert all(1.9 < image.width / image.height < 2.1 for image in found)
    halved = [photo.image for photo in load_images(tmp_path, beside=5)]
    assert sum(image.width * image.height for image in halved) <= 10_000
    monkeypatch.undo()
    assert [photo.image.size for photo in load_images(tmp_path)] == [(200, 100)] * 5


def test_200_camera_photos_stay_larger_than_what_is_learned_and_a_strip_is_bounded():
    share = images.MOST_TOGETHER // 200
    assert min(decode.fitted((4000, 3000), 1536, share)) >= 1000
    assert decode.fitted((4000, 3000), 1536, decode.MOST_KEPT) == (2048, 1536)
    width, height = decode.fitted((1500, 119_000), 1536, decode.MOST_KEPT)
    assert width * height <= decode.MOST_KEPT and 78 < height / width < 81


def test_photos_of_a_new_training_are_decoded_one_after_the_other(tmp_path, monkeypatch):
    paths, alive, most = [], [], []
    for number in range(4):
        paths.append(tmp_path / f"{number}.png")
        noise(number).save(paths[-1])
    real = photos.load_photo

    def counted(*args, **options):
        most.append(sum(reference() is not None for reference in alive))
        photo = real(*args, **options)
        alive.append(weakref.ref(photo.image))
        return photo

    monkeypatch.setattr(photos, "load_photo", counted)
    photos.check(paths, [path.name for path in paths])
    assert len(most) == 4 and max(most) <= 1


# -- time ----------------------------------------------------------------------------------------------------


def test_a_jpeg_with_very_many_scans_is_refused(tmp_path, monkeypatch):
    data = bytes_of(noise(), "JPEG", progressive=True)
    assert load_photo(written(tmp_path / "a.jpg", data))
    last = data.rindex(b"\xff\xda")
    many = data[:last] + data[last:-2] * 50 + data[-2:]
    monkeypatch.setattr(jpeg, "MOST_SCANNED", 40 * 80 * 60)
    assert re.search(r"it has \d\d scans", refused(written(tmp_path / "b.jpg", many)))


@pytest.mark.parametrize("kind", ["png", "gif", "jpg"])
def test_files_of_countless_parts_are_refused_and_not_walked(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(png, "MOST_CHUNKS", 1000)
    monkeypatch.setattr("lib_persres.training.pictures.gif.MOST_BLOCKS", 1000)
    monkeypatch.setattr(jpeg, "MOST_SEGMENTS", 1000)
    start, part, end = {
        "png": (png_file(64, 64, 8, 0)[:33], png.chunk(b"tEXt", b""), png_file(64, 64, 8, 0)[33:]),
        "gif": (b"GIF89a\x40\0\x40\0\0\0\0", b"\x21\xfe\0", bytes_of(noise(), "GIF")[13:]),
        "jpg": (b"\xff\xd8", b"\xff\xfe\0\2", bytes_of(noise(), "JPEG")[2:]),
    }[kind]
    refused(written(tmp_path / "a", start + part * 2000 + end))


def test_a_png_that_is_cut_off_is_refused_in_bands_as_at_once(tmp_path, monkeypatch):
    whole = bytes_of(noise(), "PNG")
    path = written(tmp_path / "a.png", whole[: len(whole) // 2])
    assert "cannot be read" in refused(path)
    monkeypatch.setattr(decode, "IN_BANDS", 0)
    assert "cut off" in refused(path)


# -- bands ---------------------------------------------------------------------------------------------------

DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(("colour", "depth"), [(c, d) for c, depths in DEPTHS.items() for d in depths])
def test_a_png_in_bands_is_the_same_as_at_once(tmp_path, monkeypatch, colour, depth, transparent):
    # any bytes after a filter's number are a picture
    draw = random.Random(depth * 10 + colour)
    length = (83 * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] + 7) // 8
    rows = b"".join(bytes([draw.randrange(5)]) + draw.randbytes(length) for _ in range(61))
    extra = png.chunk(b"PLTE", draw.randbytes(3 << depth)) if colour == 3 else b""
    if transparent and colour in (0, 2, 3):
        extra += png.chunk(b"tRNS", {0: b"\0\1", 2: b"\0\1" * 3, 3: b"\0\x80"}[colour])
    path = written(tmp_path / "a.png", png_file(83, 61, depth, colour, rows, extra=extra))
    for short in (1536, 20):
        whole = np.asarray(load_photo(path, max_short_side=short).image, dtype=int)
        with monkeypatch.context() as patch:
            patch.setattr(decode, "IN_BANDS", 0)
            patch.setattr(decode, "BAND", 83 * 7)
            banded = np.asarray(load_photo(path, max_short_side=short).image, dtype=int)
        assert np.abs(whole - banded).max() <= (0 if short == 1536 else 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_a_large_picture_made_smaller_in_steps_is_the_same_to_the_eye(tmp_path, kind):
    y, x = np.mgrid[0:900, 0:1200]
    image = Image.fromarray(np.stack([x / 5, y / 4, (np.sin(x / 40) + 1) * 100], -1).astype(np.uint8))
    path = written(tmp_path / "a", bytes_of(image, kind))
    found = np.asarray(load_photo(path, max_short_side=48).image, dtype=int)
    wanted = np.asarray(image.resize((64, 48), Image.Resampling.LANCZOS), dtype=int)
    assert found.shape == wanted.shape and np.abs(found - wanted).mean() < 1.5


def test_16_bit_grey_of_the_decoders_older_kind_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 40_000, 64 * 64).reshape(64, 64)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path = written(tmp_path / "a.png", png_file(64, 64, 16, 0, rows))
    found = np.asarray(load_photo(path).image, dtype=int)[..., 0]
    assert np.abs(found - values / 257).max() <= 1
