"""What the user keeps about a residual; no WebUI is needed for it."""

import json
import os

import pytest

from lib_persres.errors import PersresError
from lib_persres.webui.cards.notes import MAX_FILE, check_phrase, kept_words, read_json, read_notes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rex.json"


def test_no_file_is_no_notes(path):
    assert read_notes(path) == ({}, None)


def test_notes_of_other_tools_are_kept(path):
    given = {"description": "d", "preferred weight": 0.5, "activation text": "a V* dog", "sd version": "SD1"}
    path.write_text(json.dumps(given))
    assert read_notes(path) == (given, None)


@pytest.mark.parametrize("text", ["{", "[1]", '"text"', "null", "\x00", "[" * 100_000])
def test_a_file_that_is_no_json_object_is_told(path, text):
    path.write_text(text)
    notes, problem = read_notes(path)
    assert notes == {} and "rex.json cannot be read" in problem


def test_a_file_in_another_encoding_or_a_folder_is_told(path):
    path.write_bytes('{"notes": "grün"}'.encode("latin-1"))
    assert "cannot be read" in read_notes(path)[1]
    path.unlink()
    path.mkdir()
    assert "cannot be read" in read_notes(path)[1]


@pytest.mark.parametrize(
    "key, value",
    [
        ("description", 3),
        ("notes", None),
        ("activation text", ["V*"]),
        ("activation text", "no placeholder"),
        ("preferred weight", "much"),
        ("preferred weight", True),
        ("preferred weight", -1),
        ("preferred weight", float("nan")),
    ],
)
def test_a_value_that_is_not_understood_is_left_out_and_told(path, key, value):
    path.write_text(json.dumps({key: value, "other": 1}))
    notes, problem = read_notes(path)
    assert notes == {"other": 1} and key in problem


@pytest.mark.parametrize(
    "key, text",
    [
        ("preferred weight", "1" * 401),
        ("preferred weight", "1e999"),
        ("description", '"\\ud800"'),
        ("activation text", '"V* \\udfff"'),
        ("any", "[" * 100 + "]" * 100),
        ("any", '{"a": [1' + "0" * 400 + "]}"),
        ("any", "NaN"),
    ],
)
def test_what_no_page_could_show_is_left_out_and_told(path, key, text):
    path.write_text(f'{{"{key}": {text}, "other": 1}}')
    notes, problem = read_notes(path)
    assert notes == read_json(path) == {"other": 1} and key in problem
    json.dumps([notes, problem], allow_nan=False, ensure_ascii=False).encode()


def test_a_key_that_no_page_could_show_is_left_out_and_told(path):
    path.write_text('{"\\ud800": 1, "other": 1}')
    notes, problem = read_notes(path)
    assert notes == {"other": 1} and "unusable" in problem
    problem.encode()


def test_notes_that_are_too_large_a_pipe_or_a_loop_are_told(path):
    with open(path, "wb") as file:
        file.truncate(MAX_FILE + 1)
    assert "cannot be read" in read_notes(path)[1]
    path.unlink()
    path.symlink_to(path.name)
    assert "cannot be read" in read_notes(path)[1]
    if hasattr(os, "mkfifo"):
        path.unlink()
        os.mkfifo(path)
        assert "cannot be read" in read_notes(path)[1]


def test_a_phrase_has_v_and_no_tag():
    assert check_phrase("") == "" and check_phrase(" a\n V*  dog ") == "a V* dog"
    for phrase, words in (("a dog", "no V"), ("V2* dog", "numbered"), ("V* <lora:x:1>", "tag")):
        with pytest.raises(PersresError, match=words):
            check_phrase(phrase)


def test_a_lora_files_words_are_its_activation_text_cut_at_commas(tmp_path):
    path = tmp_path / "mycat.safetensors"
    assert kept_words(path) == ()
    for text, words in (
        ("a grey cat,  sofa ,, a grey cat", ("a grey cat", "sofa")),
        ("", ()),
        ("V* cat", ("V* cat",)),
        ("<lora:x>", ()),
    ):
        path.with_suffix(".json").write_text(json.dumps({"activation text": text}))
        assert kept_words(path) == words
    path.with_suffix(".json").write_text("{")
    assert kept_words(path) == ()


def test_a_lora_files_words_need_no_placeholder():
    assert check_phrase(" a  grey cat ", plain=True) == "a grey cat"
    with pytest.raises(PersresError, match="angle bracket"):
        check_phrase("a <lora:x>", plain=True)
