"""The training tab's pictures: which files are taken, how they are shown, and what is said of bad ones."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from lib_persres.errors import PersresError
from lib_persres.webui.tab import pictures


@pytest.mark.parametrize(
    "text",
    ["5", '"x"', '{"a": 1}', "[1]", "[[]]", '["\\u0000"]', '["\\ud800"]', "[" * 100_000, f'["{"x" * 5000}"]'],
)
def test_an_odd_list_of_uploads_gets_one_sentence(tmp_path, text):
    with pytest.raises(PersresError, match="reload it"):
        pictures.uploaded(text, tmp_path)


def test_uploads_and_folders_that_are_links_in_a_circle_get_one_sentence(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    try:
        pictures.contents(pictures.uploaded(json.dumps([str(loop)]), tmp_path))
    except PersresError as error:
        assert len(str(error)) <= 300
    else:
        pytest.fail("it was taken")
    for folder in (str(loop), "~nobody", "\0", "x" * 5000, "\ud800", "~" * 300):
        with pytest.raises(PersresError, match="is not a folder|is no folder|cannot be read"):
            pictures.in_folder(folder)


@pytest.fixture
def photos(tmp_path):
    for number in range(3):
        Image.new("RGB", (90, 60), (200, 30 * number, 0)).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(3)]


def test_images_are_shown_as_the_model_sees_them(photos):
    shown = pictures.gallery(photos, 64, crops=2, flips=True, seed=0)
    assert shown.count('class="persres-view"') == 3 and shown.count("<img") == 3 * 6
    assert "3 images, 6 views of each" in shown and "90×60" in shown and "work best" not in shown
    assert [Path(key).name for key in re.findall('data-key="([^"]*)"', shown)] == ["0.png", "1.png", "2.png"]
    assert "persres-remove" not in pictures.gallery(photos, 64, 0, False, 0, removable=False)
    assert "1 image, 1 view of each; 3 to 10" in pictures.gallery(photos[:1], 64, 0, False, 0)
    assert pictures.gallery([], 64, 0, False, 0) == ""


def test_a_broken_image_says_so_in_its_place_and_the_page_is_not_injected(photos, tmp_path):
    broken = tmp_path / '"><script>.png'
    broken.write_bytes(b"no image")
    shown = pictures.gallery([*photos, str(broken)], 64, 0, False, 0)
    assert shown.count("persres-view") == 3 + 3 and "not an image format known here" in shown
    assert "<script>" not in shown and str(tmp_path) not in re.sub('data-key="[^"]*"', "", shown)


def test_many_images_are_not_all_drawn_and_too_many_not_read(photos):
    shown = pictures.gallery(photos * 20, 64, 0, False, 0)
    assert "and 36 more" in shown and shown.count('class="persres-view"') == pictures.SHOWN
    with pytest.raises(PersresError, match="4000 images were given"):
        pictures.contents(["nowhere.png"] * 4000)


def test_the_images_bytes_come_from_files_and_folders(photos, tmp_path):
    assert [name for name, _ in pictures.contents(photos)] == ["0.png", "1.png", "2.png"]
    assert [source for _, source in pictures.contents(photos)] == [Path(photo) for photo in photos]
    assert pictures.in_folder(f" {tmp_path} ") == photos
    assert pictures.uploaded(json.dumps(photos), tmp_path) == photos and pictures.uploaded("", tmp_path) == []
    (tmp_path / "empty").mkdir()
    for call, said in (
        (lambda: pictures.uploaded(json.dumps(photos), tmp_path / "empty"), "not uploaded"),
        (lambda: pictures.uploaded(json.dumps([f"{tmp_path}/empty/../0.png"]), tmp_path / "empty"), "not uploaded"),
        (lambda: pictures.uploaded("[1]", tmp_path), "not uploaded"),
        (lambda: pictures.uploaded("1", tmp_path), "no list of images"),
        (lambda: pictures.contents([]), "No images were given"),
        (lambda: pictures.contents([str(tmp_path / "gone.png")]), "gone.png does not exist"),
        (lambda: pictures.in_folder(str(tmp_path / "gone")), "not a folder on the WebUI's machine"),
        (lambda: pictures.in_folder(str(tmp_path / "empty")), "contains no images"),
    ):
        with pytest.raises(PersresError, match=said):
            call()
