"""The Toybox as a dataset: its size, its words, its truth."""

from collections import Counter

import pytest

from lib_persres.errors import PersresError
from lib_persres.evaluation.datasets import CATEGORIES, toybox
from lib_persres.toybox.vocabulary import words
from lib_persres.toybox.world import BACKGROUNDS, CLASSES, SKINS


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toybox.read(tmp_path_factory.mktemp("toybox"), photos=1)


def test_there_are_12_concepts_that_no_recipe_was_tuned_on(dataset):
    untuned = [c for c in dataset.concepts if not c.tuned]
    tuned = {c.name for c in dataset.concepts} - {c.name for c in untuned}
    assert len(untuned) == 12 and tuned == {"rex", "mira", "nell", "pip"}
    assert {c.macro_class for c in untuned} == set(CLASSES)
    assert len({c.truth.skin for c in dataset.concepts}) == 16 == len({c.truth.seed for c in dataset.concepts})
    assert {c.truth.skin for c in dataset.concepts} <= {skin.name for skin in SKINS}


def test_each_concept_has_20_prompts_over_the_six_categories(dataset):
    for concept in dataset.concepts:
        assert len({(p.text, p.noun) for p in concept.prompts}) == 20
        assert set(Counter(p.category for p in concept.prompts)) == set(CATEGORIES)


def test_prompts_use_only_the_worlds_words_and_leave_the_concepts_background(dataset):
    known = set(words())
    for concept in dataset.concepts:
        home = BACKGROUNDS[concept.truth.background]
        for prompt in concept.prompts:
            text = prompt.without_identifier(concept.macro_class)
            assert set(text.split()) <= known and home not in text, text
            assert "V*" in prompt.with_identifier(concept.macro_class)


def test_what_is_expected_is_what_the_prompt_says(dataset):
    for concept in dataset.concepts:
        for prompt in concept.prompts:
            text, expected = prompt.without_identifier(concept.macro_class), prompt.expected
            said = [expected.cls, expected.colour, expected.size, BACKGROUNDS.get(expected.background)]
            said += [word for other in expected.others for word in other]
            assert all(word in text for word in said if word), text
            assert expected.style in text or prompt.text == "a {}" or "picture" in text
            assert (expected.background is None) == (not any(words in text for words in BACKGROUNDS.values()))
            if prompt.category == "object in the style of V*":
                assert expected.cls == prompt.noun != concept.macro_class


def test_photos_are_drawn_once_and_always_the_same(tmp_path):
    first = toybox.read(tmp_path / "a", photos=1)
    again = toybox.read(tmp_path / "b", photos=1)
    assert len(first.concepts) == 16
    files = [concept.images[0] for concept in first.concepts]
    assert [f.read_bytes() for f in files] == [c.images[0].read_bytes() for c in again.concepts]
    times = [file.stat().st_mtime_ns for file in files]
    toybox.read(tmp_path / "a", photos=1)
    assert [file.stat().st_mtime_ns for file in files] == times


def test_class_images_show_other_things_of_the_class(tmp_path):
    dataset = toybox.read(tmp_path, photos=1, class_images=2)
    for concept in dataset.concepts:
        assert len(list(concept.class_images.glob("*.png"))) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(PersresError, match="cannot be written"):
        toybox.read(tmp_path / "file", photos=1)


def test_pairs_are_of_two_classes(dataset):
    assert len(dataset.pairs) >= 5
    for pair in dataset.pairs:
        first, second = (c.macro_class for c in pair.concepts)
        assert first != second and not any(c.tuned for c in pair.concepts)
        assert pair.prompts[0].with_identifier(first, second).count("V1*") == 1
