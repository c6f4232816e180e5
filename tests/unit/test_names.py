"""Names, classes and identifiers: one form, letters of every script, and nothing that anybody misreads."""

import unicodedata

import pytest

from lib_persres.commands import main
from lib_persres.errors import LONGEST, PersresError
from lib_persres.metadata import Metadata
from lib_persres.names import MOST_BYTES, MOST_FORM, check_class, check_name, check_spelling, refuse_controls
from lib_persres.prompt import substitute
from lib_persres.webui.training.request import Request

HINDI, THAI = "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e40\u0e01\u0e49\u0e32"
HEBREW, PERSIAN = "\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd", "\u0645\u06cc\u200c\u062e"
DECOMPOSED = unicodedata.normalize("NFD", "café")


def refused(check, text):
    with pytest.raises(PersresError) as error:
        check(text)
    sentence = str(error.value)
    assert len(sentence) <= LONGEST and sentence.isprintable() and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("word", [HINDI, THAI, HEBREW, PERSIAN, "köter", "犬", "ß", "teddy-bear", "dog2", "my_dog"])
def test_letters_of_every_script_make_a_name_a_class_and_an_identifier(word):
    for check in (check_name, check_class, check_spelling):
        assert check(word) == unicodedata.normalize("NFC", word)


def test_all_take_one_form_of_unicode():
    for check in (check_name, check_class, check_spelling):
        assert check(DECOMPOSED) == "café"
    read = Metadata.from_strings(Metadata(DECOMPOSED, DECOMPOSED, DECOMPOSED).to_strings())
    assert (read.concept, read.identifier, read.macro_class) == ("café",) * 3


def test_a_residuals_suffix_is_no_part_of_its_name():
    assert check_name("y.safetensors") == check_name("y.SAFETENSORS") == check_name("y.safetensors.safetensors") == "y"
    refused(check_name, ".safetensors")


class Counted(str):
    """Counts the characters that are cut out of it."""

    taken = 0

    def __getitem__(self, place):
        piece = super().__getitem__(place)
        Counted.taken += len(piece)
        return piece


def test_the_work_on_a_name_grows_as_its_length_does(monkeypatch):
    def work(count):
        Counted.taken = 0
        assert check_name(Counted("y" + ".safetensors" * count)) == "y"
        return Counted.taken

    assert work(400) <= 2.1 * work(200)
    normalized, original = [], unicodedata.normalize

    def normalize(form, text):
        normalized.append(len(text))
        return original(form, text)

    monkeypatch.setattr(unicodedata, "normalize", normalize)
    for check in (check_name, check_class, check_spelling):
        refused(check, "e" + "\u0301\u0323" * 50_000)
    assert max(normalized, default=0) <= MOST_FORM  # Unicode sorts marks in a time that grows with their square


def test_controls_are_told_and_other_characters_of_a_prompt_are_not():
    refuse_controls("a photo of\n\ta 犬 👩\u200d🔬 {identifier}", "template")
    for text in ("a \x1b[2J dog", "a\0dog", "a\x85dog", "a \udcff dog"):
        assert "has a control character (U+" in refused(lambda text: refuse_controls(text, "template"), text)


@pytest.mark.parametrize("name", ["CON", "nul", "Com1", "lpt9", "aux.v2", "PRN .x", "con.safetensors", "COM¹"])
def test_names_that_windows_keeps_for_devices_are_refused(name):
    assert "Windows" in refused(check_name, name)
    assert check_name("console") == "console" and check_name("com10") == "com10"


@pytest.mark.parametrize(
    "name", ["rex.", "rex ", " rex", "rex-", ".rex", "a/b", "a\\b", "a:b", "a\0b", "\ud800", "\u0301a", "a\u200d"]
)
def test_names_that_a_file_system_or_a_tag_would_misread_are_refused(name):
    refused(check_name, name)


def test_the_length_of_a_name_counts_its_bytes():
    assert check_name("x" * 100) and check_name("日" * 66)
    assert len((check_name("日" * 66) + " 2.safetensors").encode()) < 255
    for name in ("x" * 101, "日" * 67, "日" * 90, "é" * 101, "日" * 100_000):
        assert f"{MOST_BYTES} bytes" in refused(check_name, name)


def test_every_way_in_takes_the_one_form_and_refuses_what_no_file_can_be_called(tmp_path, capsys):
    assert [Request(name, "dog").concept for name in (DECOMPOSED, "y.safetensors")] == ["café", "y"]
    for name in ("日" * 90, "NUL", "rex."):
        sentence = refused(lambda text: Request(text, "dog"), name)
        command = ["train", "--images", str(tmp_path), "--class", "dog", "--out", str(tmp_path), "--name", name]
        assert main(command) == 1 and capsys.readouterr().err == f"error: {sentence}\n"
        command = [*command[:-3], str(tmp_path / f"{name}.safetensors"), "--name", "rex"]
        assert main(command) == 1 and "The name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["", " ", "(dog)", "dog:1", '"dog"', "dog, cat", "a\nb", "\ud800", "x" * 101, "AND", "a BREAK b", "\u0301"],
)
def test_classes_that_a_prompt_would_misread_are_refused(text):
    assert "class" in refused(check_class, text)


@pytest.mark.parametrize("text", ["", " ", "a b", "[" * 200, "a\u200bb", "\ud800", "x" * 200, "AND", "\x1b[2J", "a\0"])
def test_identifiers_that_a_prompt_would_misread_are_refused_in_training_and_in_a_file(text):
    assert "identifier" in refused(check_spelling, text)
    strings = {**Metadata("rex", "olis", "dog").to_strings(), "identifier": text}
    with pytest.raises(PersresError, match="identifier"):
        Metadata.from_strings(strings)


def test_an_identifier_within_a_word_of_its_script_is_no_use_of_it():
    letter = HINDI[0]
    assert substitute(f"{HINDI} {letter}", [letter], ["dog"]).uses[0].start == len(HINDI) + 1
