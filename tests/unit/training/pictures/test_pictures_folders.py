"""What a folder of photos holds besides is counted, named by kind, and never passed over in silence."""

import os
import sys

import pytest
from PIL import Image

from lib_persres.commands import main
from lib_persres.errors import PersresError
from lib_persres.training.images import load_images
from lib_persres.training.pictures import folders
from lib_persres.training.pictures.folders import listing, read_folder


@pytest.fixture
def without_plugins(monkeypatch):
    Image.init()
    for module, kind in (("pillow_heif", "HEIF"), ("pillow_avif", "AVIF")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(Image.OPEN, kind, raising=False)


def fill(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name.endswith((".png", ".jpg")):
            Image.new("RGB", (40, 40), "teal").save(folder / name, "PNG")
        else:
            (folder / name).write_bytes(b"x")


def told(folder) -> list[str]:
    sentences = []
    load_images(folder, tell=sentences.append)
    return sentences


def test_what_is_passed_over_is_counted_and_named_by_kind(tmp_path, without_plugins):
    folder = tmp_path / "photos"
    fill(folder, "a.png", "b.jpg", "c.mp4", "d.MOV", "notes.txt", "e.HEIC", "f.nef", "g.psd", "h.xyz", "j.zip")
    fill(folder, "i.avif")
    assert told(folder) == [
        "Passed over in photos: 2 videos, 1 AVIF picture (install pillow-avif-plugin, or save it as JPEG), "
        "1 HEIC picture (install pillow-heif, or save it as JPEG), 1 archive, 1 camera's raw file, "
        "1 picture of another format, 1 text file and 1 other file."
    ]


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100
AVIF = b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + b"\0" * 100


def test_what_a_picture_is_and_not_its_name_tells_whether_it_is_read(tmp_path, without_plugins):
    folder = tmp_path / "photos"
    fill(folder, "a.png", "b.jpg")
    for name, data in {"c.jpg": HEIC, "d.heic": HEIC, "e.PNG": HEIC, "f.jpeg": AVIF}.items():
        (folder / name).write_bytes(data)
    (folder / "g.heic").write_bytes((folder / "a.png").read_bytes())
    assert [path.name for path in read_folder(folder).images] == ["a.png", "b.jpg", "g.heic"]
    assert told(folder) == [
        "Passed over in photos: 3 HEIC pictures (install pillow-heif, or save it as JPEG) and "
        "1 AVIF picture (install pillow-avif-plugin, or save it as JPEG)."
    ]


def test_where_a_plugin_is_installed_both_names_are_read(tmp_path, without_plugins, monkeypatch):
    monkeypatch.setitem(Image.OPEN, "HEIF", (lambda file, name: None, None))
    fill(tmp_path, "a.png")
    for name in ("c.jpg", "d.heic"):
        (tmp_path / name).write_bytes(HEIC)
    assert [path.name for path in read_folder(tmp_path).images] == ["a.png", "c.jpg", "d.heic"]


def test_a_folder_of_photos_alone_says_nothing(tmp_path):
    fill(tmp_path, "a.png", ".DS_Store", "._a.png", "Thumbs.db", "desktop.ini")
    assert told(tmp_path) == []


def test_captions_beside_photos_are_said_to_be_ignored(tmp_path):
    folder = tmp_path / "photos"
    fill(folder, "a.png", "a.txt", "b.jpg", "b.jpg.txt", "b.caption", "read me.txt")
    passed, captions = told(folder)
    assert passed == "Passed over in photos: 1 text file."
    assert captions.startswith("The 3 caption files beside the photos are ignored")
    fill(tmp_path / "one", "a.png", "a.txt")
    assert told(tmp_path / "one")[0].startswith("The caption file beside the photos is ignored")


def refused(folder) -> str:
    with pytest.raises(PersresError) as error:
        load_images(folder)
    return str(error.value)


def test_subfolders_with_photos_are_offered_by_name(tmp_path):
    project = tmp_path / "kohya"
    fill(project / "img" / "20_olis ball", "a.png", "b.png", "a.txt")
    fill(project / "reg" / "1_ball", "a.png")
    fill(project / "log", "events.1")
    text = refused(project)
    assert "contains no images itself, but subfolders do" in text
    assert f'"{os.path.join("img", "20_olis ball")}" (2), "{os.path.join("reg", "1_ball")}" (1); name one' in text
    assert len(load_images(project / "img" / "20_olis ball")) == 2


def test_subfolders_beside_photos_are_said_not_to_be_read(tmp_path):
    fill(tmp_path, "a.png")
    for number in range(7):
        fill(tmp_path / f"more {number}", "b.png")
    (sentence,) = told(tmp_path)
    assert sentence.startswith('Subfolders are not read: "more 0" (1), ') and sentence.endswith(" and 2 more.")


def test_a_folder_of_other_things_says_what_they_are(tmp_path, without_plugins):
    fill(tmp_path, "a.heic", "b.heic", "c.mp4")
    text = refused(tmp_path)
    assert "contains no images (2 HEIC pictures (install pillow-heif, or save it as JPEG) and 1 video)" in text


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_what_is_no_file_is_counted_and_no_link_is_followed_in_a_circle(tmp_path):
    fill(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "d.png")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "e.png").symlink_to(tmp_path / "a.png")
    found = read_folder(tmp_path)
    assert [path.name for path in found.images] == ["a.png", "e.png"] and found.subfolders == []
    assert found.notes() == [f"Passed over in {tmp_path.name}: 2 links that lead nowhere and 1 pipe or device."]


def test_the_search_in_subfolders_has_an_end(tmp_path, monkeypatch):
    fill(tmp_path / "a" / "b" / "c" / "d", "a.png")
    assert listing(tmp_path).subfolders == []
    fill(tmp_path / "a" / "b" / "c", "a.png")
    assert listing(tmp_path).subfolders == [(os.path.join("a", "b", "c"), 1)]
    monkeypatch.setattr(folders, "MOST_SEEN", 2)
    assert listing(tmp_path).subfolders == []


@pytest.mark.skipif(sys.platform == "win32", reason="a root may read everything and other systems differ")
@pytest.mark.parametrize("name", ["loop", "x" * 300, "a\nb\x1b", "\udcff"])
def test_folders_that_cannot_be_read_are_refused_in_a_sentence(tmp_path, name):
    if name == "loop":
        (tmp_path / name).symlink_to(tmp_path / name)
    text = refused(str(tmp_path / name))
    assert text.isprintable() and text.endswith(".") and len(text) <= 300


def test_notes_are_short_lines_whatever_folders_are_called(tmp_path):
    folder = tmp_path / ("n" * 200)
    fill(folder, "a.png", "b.mp4", "c.txt", "a.txt")
    for number in range(6):
        fill(folder / (f"{number}" + "\n\x1b[1m" * 30), "a.png")
    sentences = told(folder)
    assert len(sentences) == 3 and all(text.isprintable() and len(text) <= 300 for text in sentences)


def test_the_command_line_prints_what_is_passed_over(tmp_path, capsys):
    pytest.importorskip("ldm")
    fill(tmp_path / "photos", "a.png", "a.txt", "b.mp4")
    (tmp_path / "model.safetensors").write_bytes(b"no model")  # read after the photos
    command = ["train", "--checkpoint", tmp_path / "model.safetensors", "--images", tmp_path / "photos"]
    command += ["--name", "rex", "--class", "dog", "--out", tmp_path / "out", "--device", "cpu"]
    assert main([str(part) for part in command]) == 1
    printed = capsys.readouterr().err
    assert "Passed over in photos: 1 video." in printed and "caption file beside the photos is ignored" in printed
