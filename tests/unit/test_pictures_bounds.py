"""What a picture may take of memory and time, and which files are opened at all."""

import io
import os
import random
import re
import struct
import subprocess
import sys
import weakref
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from lib_persres import png
from lib_persres.errors import PersresError
from lib_persres.training import images
from lib_persres.training.images import load_images, load_photo
from lib_persres.training.pictures import decode, files, jpeg, kinds
from lib_persres.webui.training import photos

ROOT = Path(__file__).resolve().parents[2]


def refused(path) -> str:
    with pytest.raises(PersresError) as error:
        load_images([path])
    text = str(error.value)
    assert text.endswith(".") and text.isprintable() and len(text) <= 300
    return text


def written(path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def png_file(width, height, depth, colour, rows=None, interlaced=0, extra=b"") -> bytes:
    """rows: the filtered rows; None: zeros."""
    length = (width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] + 7) // 8 + 1
    if rows is None:
        packer, many = zlib.compressobj(6), max(1, (1 << 22) // length)
        parts = [packer.compress(bytes(length * min(many, height - top))) for top in range(0, height, many)]
        packed = b"".join(parts) + packer.flush()
    else:
        packed = zlib.compress(rows)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"".join(
        [png.SIGNATURE, png.chunk(b"IHDR", header), extra, png.chunk(b"IDAT", packed), png.chunk(b"IEND", b"")]
    )


def noise(seed=0, size=(80, 60)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def bytes_of(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# -- memory --------------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
from lib_persres.training.pictures import decode
from PIL import Image
Image.init()
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = decode.decode(data, path).image
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(*image.size, grown // (1024 if sys.platform != "darwin" else 1024 * 1024))
"""


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


def tiff(tile=None, strips=1) -> bytes:
    """Of 64×64 grey pixels."""
    tags = {256: 64, 257: 64, 258: 8, 259: 5, 262: 1, 277: 1}
    if tile:
        tags |= {322: tile[0], 323: tile[1], 324: 8, 325: 8}
    entries = [(tag, 4, 1, value) for tag, value in tags.items()]
    if not tile:
        entries += [(273, 4, strips, 8), (279, 4, strips, 8)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + b"\0" * 4


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


# -- which files ---------------------------------------------------------------------------------------------

FOREIGN = {
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n": "a PostScript file",
    b"\xc5\xd0\xd3\xc6\x1e\0\0\0": "a PostScript file",
    b"%PDF-1.7": "a PDF",
    b"8BPS\0\1": "a Photoshop file",
    b"\0\0\0\x0cjP  \r\n\x87\n": "a JPEG 2000",
    b"\xff\x0a\x11": "a JPEG XL",
    b"P6 64 64 255 ": "not an image format known here",
    b"PK\x03\x04": "an archive",
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom": "a video",
    b"<svg xmlns=": "an SVG drawing",
    b"<!DOCTYPE html>": "a page of the web",
    b"version https://git-lfs.github.com/spec/v1\n": "a note of Git LFS",
    b"\0\0\1\0\1\0\x10\x10": "not an image format known here",
}


@pytest.mark.parametrize("start", FOREIGN)
def test_only_the_named_formats_reach_a_decoder_whatever_a_file_is_called(tmp_path, start, monkeypatch):
    monkeypatch.setattr(decode, "_opened", lambda *_: pytest.fail("it was opened"))
    for name in ("photo.png", "photo.jpg"):
        assert FOREIGN[start] in refused(written(tmp_path / name, start + b"\0" * 200))


def test_pillow_is_never_asked_what_a_file_is(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Image.open was called"))
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        path = written(tmp_path / "a", bytes_of(noise(), kind))
        assert load_photo(path).image.size == (80, 60)


def test_a_text_beside_the_photos_is_called_so(tmp_path):
    assert "it is a text file" in refused(written(tmp_path / "a.txt", b"a photo of a dog"))


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_without_its_plugin_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    for name in ("a.heic", "a.jpg"):  # phones' files come under either name
        text = refused(written(tmp_path / name, HEIC + b"\0" * 100))
        assert "HEIC" in text and "pillow-heif" in text and "JPEG" in text


def test_avif_without_its_plugin_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_avif", None)
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    text = refused(written(tmp_path / "a.avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + b"\0" * 100))
    assert "AVIF" in text and "JPEG" in text


def test_heic_is_opened_where_its_plugin_is_installed(tmp_path, monkeypatch):
    class Opened(Image.Image):
        pass

    def register():
        Image.OPEN["HEIF"] = (lambda file, name: noise(7, (64, 48)), None)

    monkeypatch.setitem(Image.OPEN, "HEIF", None)  # so that it is gone afterwards
    del Image.OPEN["HEIF"]
    monkeypatch.setitem(sys.modules, "pillow_heif", type("Plugin", (), {"register_heif_opener": register}))
    meta = b"\0\0\0\x1cmeta\0\0\0\0\0\0\0\x14ispe\0\0\0\0" + struct.pack(">II", 64, 48)
    (photo,) = load_images([written(tmp_path / "a.heic", HEIC + meta)])
    assert (np.asarray(photo.image) == np.asarray(noise(7, (64, 48)))).all()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda path: os.mkfifo(path), "is a pipe"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.symlink_to(path), "symbolic link"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: path.symlink_to(path.parent / "nowhere"), "does not exist"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: (path.touch(), os.truncate(path, 3 << 30)), "has 3,072 MiB, but at most 128"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_what_is_no_file_or_too_large_is_said_before_it_is_read(tmp_path, made, words, monkeypatch):
    made(tmp_path / "a.png")
    monkeypatch.setattr(os, "fdopen", lambda *_: pytest.fail("it was read"))
    assert words in refused(tmp_path / "a.png")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_a_file_that_becomes_a_pipe_after_the_look_does_not_block(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    os.mkfifo(path)
    noise().save(tmp_path / "b.png")
    monkeypatch.setattr(files, "status", lambda *_: os.stat(tmp_path / "b.png"))
    with pytest.raises(PersresError, match="is a pipe"):
        files.read(path)


@pytest.mark.parametrize("name", ["a\0b", "\ud800.png", "x" * 5000 + ".png", "nowhere/a.png", "a.png/b.png", "\x1b[2J"])
def test_names_that_no_file_has_are_refused_in_a_sentence(tmp_path, name):
    noise().save(tmp_path / "a.png")
    refused(tmp_path / name)
    with pytest.raises(PersresError) as error:
        load_images(str(tmp_path / name))
    assert str(error.value).isprintable() and len(str(error.value)) <= 300


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_a_file_whose_name_is_not_utf8_is_used_and_can_be_named(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    noise().save(tmp_path / name)
    assert len(load_images(tmp_path)) == 1
    written(tmp_path / name, b"broken")
    assert "cannot be read" in refused(tmp_path / name)
    assert photos.name_of(name).isprintable()


def test_what_is_a_raw_file_of_a_camera_is_called_so(tmp_path):
    data = bytes_of(noise(), "TIFF", tiffinfo={50706: b"\1\4\0\0"})
    assert "camera's raw file" in refused(written(tmp_path / "a.dng", data))
    assert load_photo(written(tmp_path / "a.tif", bytes_of(noise(), "TIFF")))


def test_a_tiffs_compression_that_may_want_any_memory_is_refused(tmp_path):
    data = bytearray(tiff())
    struct.pack_into("<I", data, data.index(struct.pack("<HHI", 259, 4, 1)) + 8, 34925)  # LZMA
    assert "compression 34925" in refused(written(tmp_path / "a.tif", bytes(data)))


def test_all_that_is_read_is_named_and_all_that_is_named_is_read():
    assert set(kinds.READ) == set(decode.LOOKS)
    assert {kind for _, kind in kinds.STARTS} | {"WEBP", "AVIF", "HEIF"} == set(kinds.READ)
    assert features.check("jpg")
