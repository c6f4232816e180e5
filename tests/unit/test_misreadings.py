"""What a prompt's author likely meant otherwise is told in one sentence: cause, effect, advice."""

import pytest

from lib_persres.emphasis import doubtful
from lib_persres.misreadings import is_near, misreadings, near_placeholder, stray_tag
from lib_persres.prompt import NEGATIVE


def test_placeholders_without_a_tag_are_told():
    assert misreadings("a dog V*x v* <lora:V*:1>", tagged=False) == []
    assert misreadings("a V2* dog", False, "hires prompt") == [
        "V2* stands for a concept, but the hires prompt has no <persres:…> tag: it was read as words."
    ]
    (sentence,) = misreadings("V*", False, NEGATIVE)
    assert sentence.startswith("V* in the negative prompt stands for a concept, but the prompt has")


@pytest.mark.parametrize(
    "text, said",
    [
        ("<persres:rex a V* dog", 'no tag, since its ">" is missing, so V* was read as a word: write <persres:rex>.'),
        ("a V* <Persres:rex:0.8>", "is no tag, so V* was read as a word: did you mean <persres:rex:0.8>?"),
        ("<persre:rex:0.8> V1* dog", "is no tag, so V1* was read as a word: did you mean <persres:rex:0.8>?"),
        ("< persres:rex> a dog", '"< persres:rex>" in the prompt is no tag: write <persres:rex>.'),
        ("<persres rex> a dog", "is no tag: write <persres:rex>."),
        ("<presres:rex a V* dog", 'since its ">" is missing, so V* was read as a word: did you mean <persres:rex>?'),
        ("<persres:>", "is no tag: write <persres:name> or <persres:name:strength>."),
        ("<persres> V*", "is no tag, so V* was read as a word: write <persres:name> or"),
        ("<persres a V* dog", 'since its ">" is missing, so V* was read as a word: write <persres:name> or'),
    ],
)
def test_a_broken_tag_is_one_sentence_with_its_effect_after_it(text, said):
    (sentence,) = misreadings(text, tagged=False)
    assert said in sentence and "\n" not in sentence
    assert said.partition(", so V")[0] in stray_tag(text)
    assert " into the prompt" in stray_tag(text, NEGATIVE) and "so V" not in misreadings(text, True)[0]


@pytest.mark.parametrize("word", ["persre", "perres", "persress", "presres", "persers", "PERSRES", "percres"])
def test_a_slip_is_near(word):
    assert is_near(word)


@pytest.mark.parametrize("word", ["lora", "person", "press", "persresident", "lyco", "hypernet", "persist", "persona"])
def test_other_words_and_tags_are_not(word):
    assert not is_near(word) and misreadings(f"<{word}:rex:1> dog", tagged=False) == []


def test_a_tag_that_was_taken_out_as_anothers_is_told():
    (sentence,) = misreadings("a V* dog", False, others=["<lora:x>", "<persre:rex>"])
    assert sentence == '"<persre:rex>" in the prompt is no tag, so V* was read as a word: did you mean <persres:rex>?'


@pytest.mark.parametrize(
    "text, written", [("a v* dog", "V*"), ("v2* cat", "V2*"), ("a V * x", "V*"), ("a V 3* x", "V3*"), ("a V*dog", "V*")]
)
def test_what_is_almost_a_placeholder_is_told_how_to_be_one(text, written):
    assert f"was read as words: write {written}, with a capital V" in near_placeholder(text)
    assert misreadings(text, tagged=True) == [near_placeholder(text)]


@pytest.mark.parametrize("text", ["a V* dog, V2*'s hat", "<lora:v*:1>", "rev* x", "**v**", "5 v 3", "v1", "MV*"])
def test_sound_placeholders_and_other_words_are_not(text):
    assert near_placeholder(text) is None


# -- emphasis


@pytest.mark.parametrize(
    "text, said",
    [
        ("(a big dog, in snow", 'The bracket of "(a big dog, in snow" in the prompt is never closed'),
        ("a [dog and (x) so on", r"close it, or write \[ where it is no emphasis."),
        ("((a dog) b", r'"((a dog) b" in the prompt is never closed'),
        ("(x:1000000) dog", '"x" in the prompt counts 1e+06 times by its emphasis'),
        ("(x:-50)", '"x" in the prompt counts -50 times'),
        ("(" * 30 + "x" + ")" * 30, "counts 17.4494 times"),
    ],
)
def test_an_emphasis_that_cannot_be_meant_is_one_sentence(text, said):
    (sentence,) = doubtful(text)
    assert said in sentence
    assert "in the negative prompt" in doubtful(text, NEGATIVE)[0]


@pytest.mark.parametrize(
    "text", [r"a \(dog\) :)", "(x:1.5) [y] ((z))", "x] y)", "[cat:dog:100]", "(x:10)", "(x:-1)", "a dog", ""]
)
def test_emphasis_as_people_write_it_is_not_told(text):
    assert doubtful(text) == []
