"""Photos on their way into a training of the WebUI: requests, folders, the page."""

import base64
import json
import os
import sys

import icc_profiles as icc
import pytest
from PIL import Image
from training_bench import IMAGES, SMALL, png

from lib_persres.errors import PersresError
from lib_persres.webui.tab import pictures
from lib_persres.webui.training import photos
from lib_persres.webui.training.request import Request


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_base64_is_read_in_the_forms_that_programs_write(tmp_path):
    data = png(1)
    lines = base64.encodebytes(data).decode()
    entries = [text_of(data), "data:image/png;base64," + text_of(data), lines, {"name": "a.png", "data": lines}]
    found = photos.from_base64(entries)
    assert [entry for _, entry in found] == [data] * 4
    assert [name for name, _ in found] == ["number 1", "number 2", "number 3", "a.png"]


@pytest.mark.parametrize(
    "entries",
    [
        None,
        {},
        [],
        [1],
        [None],
        [[["a"]]],
        ["ä"],
        ["\ud800"],
        ["====", "A"],
        [{"name": "a"}],
        [{"data": {"data": 1}}],
        [{"name": "\x1b\ud800" * 500, "data": 10**400}],
        ["data:,"] * 201,
    ],
)
def test_what_is_no_image_of_a_request_is_refused_in_a_sentence(entries):
    with pytest.raises(PersresError) as error:
        photos.from_base64(entries)
    assert str(error.value).isprintable() and len(str(error.value)) <= 300


def test_too_much_base64_is_refused_as_soon_as_it_is_too_much(monkeypatch):
    monkeypatch.setattr(photos, "MOST_TOGETHER", 1000)
    decoded, real = [], base64.b64decode
    monkeypatch.setattr(base64, "b64decode", lambda *args, **options: decoded.append(1) or real(*args, **options))
    with pytest.raises(PersresError, match="MiB together"):
        photos.from_base64([text_of(b"x" * 400)] * 50)
    assert len(decoded) == 3
    monkeypatch.setattr(photos, "MOST_BYTES", 100)
    with pytest.raises(PersresError, match="number 1 has .* MiB, but at most"):
        photos.from_base64([text_of(b"x" * 400)])
    assert len(decoded) == 3


@pytest.mark.parametrize("name", [5, None, ["x"], "", "  ", "\ud800\x00\x1b[31m" + "n" * 500, "\udcff.png"])
def test_a_name_of_any_kind_is_kept_as_a_line_that_can_be_shown(bench, name):
    b = bench()
    images = photos.from_base64([{"name": name, "data": text_of(png(1))}])
    identity = b.submit(images=images)
    (kept,) = b.jobs._jobs[identity].record.images
    assert kept.isprintable() and 0 < len(kept) <= 100
    json.dumps(b.wait(identity), ensure_ascii=False).encode()


def folder_with(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in IMAGES:
        (folder / name).write_bytes(data)
    for name in ("clip.mp4", "a.txt"):
        (folder / name).write_bytes(b"x")
    return folder


def test_what_was_passed_over_in_a_folder_is_told_by_the_status_from_queue_to_end(bench, tmp_path):
    b = bench(gated=True)
    images, notes = photos.from_folder(str(folder_with(tmp_path)), [tmp_path])
    b.submit("first")
    request = Request.from_dict({"concept": "second", **SMALL})
    identity = b.jobs.submit(request, images, notes=notes)
    told = ["Passed over in photos: 1 video.", "The caption file beside the photos is ignored"]
    assert all(words in b.jobs.get(identity)["message"] for words in told)
    b.gate.release(100)
    assert all(words in b.wait(identity)["message"] for words in told)


def test_a_broken_profile_is_told_by_the_status(bench, tmp_path):
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png", icc_profile=b"no profile")
    b = bench()
    images = [("wide.png", (tmp_path / "a.png").read_bytes()), IMAGES[0]]
    assert "was ignored: wide.png." in b.wait(b.submit(images=images))["message"]


def test_files_are_copied_one_after_the_other_and_the_training_needs_the_folder_no_more(bench, tmp_path):
    b = bench()
    folder = folder_with(tmp_path)
    images, _ = photos.from_folder(str(folder), [tmp_path])
    identity = b.submit(images=images)
    for path in folder.iterdir():
        path.unlink()
    assert b.wait(identity)["state"] == "finished"
    kept = [path.read_bytes() for path in sorted((b.folder / "jobs" / identity / "images").iterdir())]
    assert kept == [data for _, data in IMAGES]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
@pytest.mark.parametrize("kind", ["loop", "inside", "long", "surrogate", "pipe", "huge", "outside", "nowhere"])
def test_odd_folders_and_files_of_the_server_are_refused_in_a_sentence(bench, tmp_path, kind):
    folder = folder_with(tmp_path)
    given = str(folder)
    if kind == "loop":
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        given = str(tmp_path / "loop")
    elif kind == "inside":
        given = str(folder / "loop" / "x")
        (folder / "loop").symlink_to(folder / "loop")
    elif kind == "long":
        given = str(tmp_path / ("x" * 9000))
    elif kind == "surrogate":
        given = str(tmp_path / "\ud800")
    elif kind == "pipe":
        given = str(folder / "pipe")
        os.mkfifo(given)
    elif kind == "huge":
        (folder / "c.jpg").touch()
        os.truncate(folder / "c.jpg", 3 << 30)
    elif kind == "outside":
        (tmp_path / "secret.png").write_bytes(png(3))
        (folder / "c.png").symlink_to(tmp_path / "secret.png")
    elif kind == "nowhere":
        given = str(tmp_path / "nowhere" / "x")
    b = bench()
    with pytest.raises(PersresError) as error:
        images, _ = photos.from_folder(given, [folder if kind == "outside" else tmp_path, tmp_path / "loop"])
        b.submit(images=images)
    text = str(error.value)
    assert text.isprintable() and text.endswith(".") and len(text) <= 300
    assert not [entry for entry in (tmp_path / "jobs").glob("*") if entry.is_dir()]


def test_the_page_shows_what_was_passed_over_and_what_is_wrong_with_colours(tmp_path):
    folder = folder_with(tmp_path)
    Image.new("RGB", (64, 64), "teal").save(folder / "c.png", icc_profile=b"no profile")
    paths = pictures.in_folder(str(folder))
    page = pictures.gallery(paths, 32, 0, False, 0, removable=False)
    assert "Passed over in photos: 1 video." in page and "caption file" in page
    assert "The colour profile is damaged or for other colours and was ignored: c.png." in page
    dropped = pictures.gallery(paths[:1], 32, 0, False, 0)
    assert "Passed over" not in dropped and "data-key=" in dropped


def test_the_page_shows_a_converted_photo_in_its_colours(tmp_path):
    Image.new("RGB", (64, 64), (180, 90, 60)).save(tmp_path / "a.png", icc_profile=icc.rgb_profile(icc.ADOBE_RGB, 2.2))
    Image.new("RGB", (64, 64), (180, 90, 60)).save(tmp_path / "b.png")
    converted, plain = (pictures.gallery([str(tmp_path / name)], 32, 0, False, 0) for name in ("a.png", "b.png"))
    source = [page.split('src="')[1].split('"')[0] for page in (converted, plain)]
    assert source[0] != source[1]


@pytest.mark.parametrize("given", ["~nobody-of-this-name/photos", "\0", "\ud800", "x" * 9000, "  ", "nowhere"])
def test_folders_that_the_page_names_wrongly_are_refused_in_a_sentence(given):
    with pytest.raises(PersresError) as error:
        pictures.in_folder(given)
    assert str(error.value).isprintable() and len(str(error.value)) <= 300


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '["\\ud800"]', '["\\u0000"]', '{"a": 1}', "7", '["' + "x" * 9000 + '"]', '[["a"]]', "loop"]
)
def test_lists_of_uploads_that_are_none_are_refused_in_a_sentence(tmp_path, text):
    if text == "loop":
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        text = json.dumps([str(tmp_path / "loop" / "x")])
    with pytest.raises(PersresError) as error:
        pictures.contents(pictures.uploaded(text, tmp_path))
    assert str(error.value).isprintable() and len(str(error.value)) <= 300


def test_a_file_that_went_away_or_is_no_picture_is_told_on_its_card(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0")
    page = pictures.gallery([str(tmp_path / "a.png"), str(tmp_path / "gone.png")], 32, 0, False, 0)
    assert page.count("persres-wrong") == 2 and "a PostScript file" in page and "gone.png does not exist" in page
    assert str(tmp_path) not in page.replace(f'data-key="{tmp_path}', "")
