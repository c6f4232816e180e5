"""Which files are opened at all, and what is said of the others."""

import os
import struct
import sys

import numpy as np
import pytest
from picture_files import bytes_of, noise, refused, tiff, written
from PIL import Image

from lib_persres.errors import PersresError
from lib_persres.training.images import load_images, load_photo
from lib_persres.training.pictures import decode, files, kinds
from lib_persres.webui.training import photos

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
