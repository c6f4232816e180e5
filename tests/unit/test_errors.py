"""Sentences for users, whatever was written into them."""

import pytest

from lib_persres.errors import LONGEST, PersresError


@pytest.mark.parametrize("strange", ["\x1b[2J", "\ud800", "a\nb\tc", "\u202e", "\x00", "x" * 5000])
def test_a_sentence_has_neither_control_characters_nor_surrogates_nor_an_end(strange):
    text = str(PersresError(f"The file {strange} is broken: remove it."))
    assert text.isprintable() and len(text) <= LONGEST
    text.encode("utf-8")
    assert text.startswith("The file ") and text.endswith(" is broken: remove it.")


def test_a_sentence_in_any_script_stays_as_it_is():
    text = "The file “Hündchen 日本 क्‍षत्रिय 🐕.png” is broken…"
    assert str(PersresError(text)) == text
