"""Of a photo's metadata only the orientation is read; whatever else stands there, the photo is used."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from lib_persres import png
from lib_persres.training.images import load_images
from lib_persres.training.pictures import exif

ORIENTATION = 0x0112
TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def ramp(width=64, height=48) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 3, y * 4, x + y], -1).astype(np.uint8))


def saved(suffix, **options) -> bytes:
    buffer = io.BytesIO()
    kinds = {"jpg": "JPEG", "tif": "TIFF"}
    if suffix == "webp":
        options["lossless"] = True
    ramp().save(buffer, kinds.get(suffix, suffix.upper()), **options)
    return buffer.getvalue()


def exif_block(entries, order="<", count=None) -> bytes:
    """EXIF with these (tag, type, number, four bytes)."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(struct.pack(order + "HHI", tag, kind, number) + field for tag, kind, number, field in entries)
    head = struct.pack(order + "I", 8) + struct.pack(order + "H", len(entries) if count is None else count)
    return start + head + body + b"\0\0\0\0"


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


def with_chunk(data: bytes, kind: bytes, content: bytes, last=False) -> bytes:
    at = len(data) - 12 if last else 33
    return data[:at] + png.chunk(kind, content) + data[at:]


def with_riff(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A still WebP with one chunk more, in the extended form."""
    flags = {b"EXIF": 8, b"XMP ": 4, b"ICCP": 32}[kind]
    size = struct.pack("<I", 63)[:3] + struct.pack("<I", 47)[:3]
    body = b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + size + data[12:]
    body += kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def read(tmp_path, data: bytes, name="a"):
    (tmp_path / name).write_bytes(data)
    (photo,) = load_images([tmp_path / name])
    return np.asarray(photo.image, dtype=int)


def with_exif(suffix, block: bytes) -> bytes:
    if suffix == "jpg":
        return with_segment(saved("jpg"), 0xE1, b"Exif\0\0" + block)
    if suffix == "png":
        return with_chunk(saved("png"), b"eXIf", block)
    return with_riff(saved("webp"), b"EXIF", block)


SIX = (ORIENTATION, 3, 1, b"\6\0\0\0")
BLOCKS = {
    "an ASCII ResolutionUnit": exif_block([SIX, (0x0128, 2, 4, b"inch")]),
    "an ASCII ResolutionUnit before it": exif_block([(0x0110, 2, 4, b"inch"), SIX]),
    "big endian": exif_block([(ORIENTATION, 3, 1, b"\0\6\0\0")], ">"),
    "a long": exif_block([(ORIENTATION, 4, 1, b"\6\0\0\0")]),
    "a byte": exif_block([(ORIENTATION, 1, 1, b"\6\0\0\0")]),
    "a text": exif_block([(ORIENTATION, 2, 2, b"6\0\0\0")]),
    "cut off after it": exif_block([SIX, (0x8769, 4, 1, b"\xff\xff\xff\xff")], count=900)[:-10],
    "values far outside": exif_block([SIX, (0x8825, 4, 1, b"\xff\xff\xff\x7f"), (0x010F, 2, 2**31, b"\xff" * 4)]),
    "types that are none": exif_block([(0x0100, 99, 5, b"\xff" * 4), SIX]),
    "Exif twice": b"Exif\0\0" + exif_block([SIX]),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_the_orientation_is_applied_whatever_stands_beside_it(tmp_path, suffix, name):
    plain = read(tmp_path, saved(suffix))
    assert (read(tmp_path, with_exif(suffix, BLOCKS[name])) == TURNS[6](plain)).all()


NONSENSE = {
    "a text": b"This is a photo of my dog, and no EXIF.",
    "a prompt": b"ASCII\0\0\0a photo of a dog\nSteps: 20, Sampler: Euler",
    "nothing": b"",
    "two bytes": b"II",
    "an offset outside": b"II*\0\xff\xff\xff\xff",
    "cut in the directory": exif_block([SIX])[:14],
    "orientation 0": exif_block([(ORIENTATION, 3, 1, b"\0\0\0\0")]),
    "orientation 9": exif_block([(ORIENTATION, 3, 1, b"\x09\0\0\0")]),
    "orientation as a fraction": exif_block([(ORIENTATION, 5, 1, b"\xff\xff\xff\xff")]),
    "orientation of no values": exif_block([(ORIENTATION, 3, 0, b"\6\0\0\0")]),
    "itself as the next": b"II*\0" + struct.pack("<IH", 8, 65535),
}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_what_is_no_exif_is_passed_over(tmp_path, suffix, name):
    assert (read(tmp_path, with_exif(suffix, NONSENSE[name])) == read(tmp_path, saved(suffix))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_every_orientation_in_every_format_is_upright(tmp_path, suffix, orientation):
    if suffix == "avif" and not (features.check("avif") if "avif" in features.modules else False):
        pytest.skip("this Pillow has no AVIF")
    noted = Image.Exif()
    noted[ORIENTATION] = orientation
    options = {"tiffinfo": {ORIENTATION: orientation}} if suffix == "tif" else {"exif": noted}
    found = read(tmp_path, saved(suffix, **options))
    assert (found == TURNS[orientation](read(tmp_path, saved(suffix)))).all()


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description %s/></x:xmpmeta>'


@pytest.mark.parametrize("form", [b'tiff:Orientation="6"', b"><tiff:Orientation>6</tiff:Orientation><a"])
@pytest.mark.parametrize("where", ["jpg", "png", "webp"])
def test_xmp_tells_the_orientation_where_exif_does_not(tmp_path, where, form):
    note = XMP % form
    if where == "jpg":
        data = with_segment(saved("jpg"), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + note)
    elif where == "png":
        data = with_chunk(saved("png"), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + note)
    else:
        data = with_riff(saved("webp"), b"XMP ", note)
    assert (read(tmp_path, data) == TURNS[6](read(tmp_path, saved(where)))).all()


@pytest.mark.parametrize("packed", [False, True])
def test_exif_in_hexadecimal_and_exif_at_the_end_of_a_png_are_read(tmp_path, packed):
    plain = read(tmp_path, saved("png"))
    text = b"\nexif\n      34\n" + (b"Exif\0\0" + exif_block([SIX])).hex().encode() + b"\n"
    content = b"\0" + zlib.compress(text) if packed else text
    data = with_chunk(saved("png"), b"zTXt" if packed else b"tEXt", b"Raw profile type exif\0" + content)
    assert (read(tmp_path, data) == TURNS[6](plain)).all()
    assert (read(tmp_path, with_chunk(saved("png"), b"eXIf", exif_block([SIX]), last=True)) == TURNS[6](plain)).all()


@pytest.mark.parametrize("kind", ["zTXt", "iTXt"])
def test_a_png_with_a_large_workflow_is_used_and_its_text_is_never_unpacked(tmp_path, kind, monkeypatch):
    notes = PngImagePlugin.PngInfo()
    for number in range(70):
        text = f'{{"workflow {number}": "{"x" * 1_500_000}"}}'
        (notes.add_text if kind == "zTXt" else notes.add_itxt)(f"workflow{number}", text, zip=True)
    data = saved("png", pnginfo=notes)
    plain = read(tmp_path, saved("png"))
    monkeypatch.setattr(exif, "inflated", lambda *_: pytest.fail("a text was unpacked"))
    assert (read(tmp_path, data) == plain).all()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"zTXt", b"key\0\0no zlib"),
        (b"iTXt", b"\xff\xfe"),
        (b"tEXt", b""),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no zlib"),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 9\nxyz 123")),
        (b"gAMA", b"\1"),
        (b"cHRM", b"\1\2"),
        (b"sRGB", b""),
        (b"pHYs", b"\0"),
        (b"acTL", b""),
        (b"fcTL", b"\0\0"),
        (b"tRNS", b"\1"),
        (b"tIME", b"\xff" * 100),
        (b"abCd", b"private"),
    ],
)
def test_a_png_with_damaged_notes_is_used(tmp_path, kind, content):
    assert (read(tmp_path, with_chunk(saved("png"), kind, content)) == read(tmp_path, saved("png"))).all()


def test_a_checksum_that_is_wrong_in_a_note_does_not_matter(tmp_path):
    data = with_chunk(saved("png"), b"tEXt", b"key\0value").replace(png.chunk(b"tEXt", b"key\0value")[-4:], b"abcd")
    assert (read(tmp_path, data) == read(tmp_path, saved("png"))).all()


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE0, b"JFIF"),
        (0xE0, b"JFIF\0\1"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\xff\xff"),
        (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10\0"),
        (0xEE, b"Adobe"),
        (0xE2, b"MPF\0nonsense"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"FPXR\0"),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<<<<"),
        (0xE1, b""),
        (0xFE, b"\xff" * 60_000),
    ],
)
def test_a_jpeg_with_damaged_segments_is_used(tmp_path, marker, content):
    assert (read(tmp_path, with_segment(saved("jpg"), marker, content)) == read(tmp_path, saved("jpg"))).all()


def test_garbage_between_segments_and_after_the_end_does_not_matter(tmp_path):
    data = saved("jpg")
    noisy = data[:20] + b"\0\0abc" + b"\xff\xff\xff" + data[20:] + b"\0" * 1000 + b"\xff\xd8\xff\xe0more"
    assert (read(tmp_path, noisy) == read(tmp_path, data)).all()


def test_of_a_phones_file_with_several_pictures_the_first_is_used(tmp_path):
    other = Image.new("RGB", (300, 200), "red")
    buffer = io.BytesIO()
    ramp().save(buffer, "MPO", save_all=True, append_images=[other])
    assert (read(tmp_path, buffer.getvalue()) == read(tmp_path, saved("jpg"))).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_of_an_animation_the_first_picture_is_used(tmp_path, suffix):
    buffer = io.BytesIO()
    options = {"lossless": True} if suffix == "webp" else {}
    kind = {"tif": "TIFF"}.get(suffix, suffix.upper())
    first = ramp().quantize(64).convert("RGB")
    first.save(buffer, kind, save_all=True, append_images=[Image.new("RGB", (64, 48), "red")] * 3, **options)
    assert np.abs(read(tmp_path, buffer.getvalue()) - np.asarray(first, dtype=int)).max() <= 2


def test_comments_of_a_gif_do_not_reach_the_decoder(tmp_path):
    data = saved("gif")
    start = 13 + (3 << (data[10] & 7) + 1)
    comments = (b"\x21\xfe" + (b"\xff" + b"c" * 255) * 4000 + b"\0") * 20
    assert (read(tmp_path, data[:start] + comments + data[start:]) == read(tmp_path, data)).all()


def test_tags_of_a_tiff_that_do_not_draw_are_passed_over(tmp_path):
    odd = {0x0128: 99, 0x010E: "x" * 5000, 0x8769: 12345, 0x010F: "maker", 37724: b"\xff" * 999, 700: b"<x"}
    assert (read(tmp_path, saved("tif", tiffinfo=odd)) == read(tmp_path, saved("tif"))).all()
