"""The readers of the evaluation's datasets, on small copies of the published layouts."""

import json

import pytest
from PIL import Image

from lib_persres.errors import PersresError
from lib_persres.evaluation.datasets import (
    CATEGORIES,
    Prompt,
    attndreambooth,
    customconcept101,
    dreambooth,
    folder,
    open_dataset,
)
from lib_persres.evaluation.datasets.prompt_file import read_prompts


def photos(path, count=2):
    path.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (40, 48), (index * 40, 90, 10)).save(path / f"{index:02}.jpg")


def entry(name, cls, number=1, prompts="cat.txt"):
    return {
        "instance_prompt": f"photo of a <new{number}> {cls}",
        "class_prompt": cls,
        "instance_data_dir": f"./benchmark_dataset/{name}",
        "class_data_dir": f"./regularization/{name}",
        "prompt_filename": f"prompts/{prompts}",
    }


@pytest.fixture
def custom(tmp_path):
    """CustomConcept101's layout with two concepts and one pair."""
    for name in ("pet_cat1", "plushie_cow"):
        photos(tmp_path / "benchmark_dataset" / name)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "cat.txt").write_text("Photo of a {}.\n{} swimming in a pool. \n\nA {} and its {}.\n")
    (tmp_path / "prompts" / "pair.txt").write_text("photo of the {0} with {1}. \n{1} on the {0}'s lap. ")
    singles = [entry("pet_cat1", "cat"), entry("plushie_cow", "cow plushie")]
    pair = [entry("pet_cat1", "cat"), entry("plushie_cow", "cow plushie", 2, "missing.txt")]
    (tmp_path / "dataset.json").write_text(json.dumps(singles))
    (tmp_path / "dataset_multiconcept.json").write_text(
        json.dumps([[*pair, {"prompt_filename_compose": "prompts/pair.txt"}]])
    )
    return tmp_path


def test_customconcept101_gives_each_concept_its_class_photos_prompts_and_group(custom):
    dataset = customconcept101.read(custom)
    assert [c.name for c in dataset.concepts] == ["pet_cat1", "plushie_cow"] and dataset.pairs == ()
    cow = dataset.concept("plushie_cow")
    assert (cow.macro_class, cow.group) == ("cow plushie", "plushie")
    assert [path.name for path in cow.images] == ["00.jpg", "01.jpg"] and len(cow.load()) == 2
    assert cow.class_images == custom / "regularization" / "plushie_cow"
    assert cow.prompts[1].with_identifier("cow plushie") == "V* cow plushie swimming in a pool."
    assert cow.prompts[1].without_identifier("cow plushie") == "cow plushie swimming in a pool."
    assert cow.prompts[2].with_identifier("cat") == "A V* cat and its V* cat."


def test_customconcept101_pairs_have_prompts_for_two(custom):
    (pair,) = customconcept101.read(custom, pairs=True).pairs
    assert pair.name == "pet_cat1+plushie_cow"
    assert pair.prompts[1].with_identifier("cat", "cow plushie") == "V2* cow plushie on the V1* cat's lap."
    assert pair.prompts[1].without_identifier("cat", "cow plushie") == "cow plushie on the cat's lap."


def test_a_concept_that_a_dataset_has_not_is_named_with_those_it_has(custom):
    dataset = customconcept101.read(custom)
    assert dataset.concept("plushie_cow").name == "plushie_cow" and dataset.pairs == ()
    with pytest.raises(PersresError, match="no concept 'dog'.*pet_cat1, plushie_cow"):
        dataset.concept("dog")


def test_pairs_are_read_where_a_suite_has_some(custom):
    assert open_dataset("customconcept101", custom).pairs == ()
    assert len(open_dataset("customconcept101", custom, pairs=True).pairs) == 1


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda root: (root / "dataset.json").unlink(), "dataset.json cannot be read: No such file"),
        (lambda root: (root / "dataset.json").write_text("[{"), "dataset.json is not JSON.*line 1"),
        (lambda root: (root / "dataset.json").write_text("{}"), "not a list of concepts"),
        (lambda root: (root / "dataset.json").write_text('[{"class_prompt": "x"}]'), "entry 1 has no instance_prompt"),
        (lambda root: (root / "dataset.json").write_bytes(b"\xff\xfe\x00"), "not a UTF-8 text"),
        (lambda root: (root / "prompts" / "cat.txt").unlink(), "cat.txt cannot be read"),
        (lambda root: (root / "prompts" / "cat.txt").write_text("{} ok\na dog"), "line 2: .*'a dog' has no {}"),
        (lambda root: (root / "prompts" / "cat.txt").write_text("a {1}"), "braces that cannot be filled"),
        (lambda root: (root / "prompts" / "cat.txt").write_text("a {x}"), "braces that cannot be filled"),
        (lambda root: (root / "prompts" / "cat.txt").write_text("\n# identity\n"), "cat.txt holds no prompt"),
        (lambda root: (root / "benchmark_dataset" / "pet_cat1" / "00.jpg").rename(root / "a.jpg"), None),
        (lambda root: (root / "benchmark_dataset" / "pet_cat1").rename(root / "x"), "no folder .*pet_cat1"),
        (
            lambda root: [p.unlink() for p in (root / "benchmark_dataset" / "pet_cat1").iterdir()],
            "pet_cat1 holds no image",
        ),
    ],
)
def test_what_is_wrong_with_customconcept101_is_named(custom, break_it, says):
    break_it(custom)
    if says is None:
        assert len(customconcept101.read(custom).concept("pet_cat1").images) == 1
        return
    with pytest.raises(PersresError, match=says):
        customconcept101.read(custom)


def test_a_folder_listed_twice_and_a_broken_pair_are_refused(custom):
    (custom / "dataset.json").write_text(json.dumps([entry("pet_cat1", "cat")] * 2))
    with pytest.raises(PersresError, match="lists pet_cat1 twice"):
        customconcept101.read(custom)
    (custom / "dataset.json").write_text(json.dumps([entry("pet_cat1", "cat")]))
    (custom / "dataset_multiconcept.json").write_text(json.dumps([[entry("pet_cat1", "cat")]]))
    with pytest.raises(PersresError, match="entry 1 is not two concepts"):
        customconcept101.read(custom, pairs=True)


# -- DreamBooth ----------------------------------------------------------------------------------------------

TEXT = """Classes

subject_name,class
can,can
dog2,dog
sloth,stuffed animal

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
"a {0} {1} with the artist's hat, really".format(unique_token, class_token),
'a cube shaped {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a red hat'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]
"""


@pytest.fixture
def booth(tmp_path):
    root = tmp_path / "dataset"
    for name in ("can", "dog2", "sloth"):
        photos(root / name)
    (root / "prompts_and_classes.txt").write_text(TEXT)
    return root


@pytest.mark.parametrize("above", [False, True])
def test_dreambooth_gives_live_subjects_their_own_prompts(booth, above):
    dataset = dreambooth.read(booth.parent if above else booth)
    assert [(c.name, c.macro_class, len(c.prompts)) for c in dataset.concepts] == [
        ("can", "can", 3),
        ("dog2", "dog", 2),
        ("sloth", "stuffed animal", 3),
    ]
    assert dataset.concept("dog2").prompts[0].with_identifier("dog") == "a V* dog wearing a red hat"
    assert dataset.concept("sloth").prompts[2].without_identifier("stuffed animal") == "a cube shaped stuffed animal"
    assert dataset.concept("can").prompts[1].text == "a {} with the artist's hat, really"


def test_dreambooths_text_is_read_and_never_executed(booth, tmp_path):
    trap = tmp_path / "trap"
    line = f"__import__('pathlib').Path({str(trap)!r}).touch()"
    (booth / "prompts_and_classes.txt").write_text(TEXT.replace("'a red {0} {1}'", line))
    with pytest.raises(PersresError, match="is not a prompt in quotes"):
        dreambooth.read(booth)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Live Subject Prompts\n\nprompt_list", "Live Subject Prompts\n\nother_list", "no list of live prompts"),
        ("Live Subject", "More Object", "two lists of object prompts"),
        ("can,can\n", "can/..,can\n", "is not subject,class"),
        ("can,can\ndog2,dog\nsloth,stuffed animal\n", "", "lists no subject"),
        ("'a red {0} {1}'.format(unique_token", "'a red {0} {1}'.format(class_name", "is filled with class_name"),
        ("'a red {0} {1}'", "'a red one'", "has no {}"),
        ("'a red {0} {1}'", "'a red {0} {1}", "is not a Python list"),
        (
            "Live Subject Prompts\n\nprompt_list = [",
            "Live Subject Prompts\n\nprompt_list = [] + [",
            "more than a Python list",
        ),
    ],
)
def test_what_is_wrong_with_dreambooths_text_is_named(booth, old, new, says):
    (booth / "prompts_and_classes.txt").write_text(TEXT.replace(old, new))
    with pytest.raises(PersresError, match=says):
        dreambooth.read(booth)


def test_a_missing_subject_or_text_of_dreambooth_is_named(booth):
    (booth / "can").rename(booth / "tin")
    with pytest.raises(PersresError, match="images of can are missing"):
        dreambooth.read(booth)
    (booth / "prompts_and_classes.txt").unlink()
    with pytest.raises(PersresError, match="prompts_and_classes.txt cannot be read"):
        dreambooth.read(booth)


# -- AttnDreamBooth, a folder, prompt files ------------------------------------------------------------------


def test_attndreambooth_reads_prompts_by_category(tmp_path):
    photos(tmp_path / "cat_toy")
    (tmp_path / "classes.txt").write_text("cat_toy,toy\n\n")
    text = "# concept color change\na red [V] [super-category]\n# Artistic style:\na {}\n"
    (tmp_path / "prompts.txt").write_text(text)
    (concept,) = attndreambooth.read(tmp_path).concepts
    assert [(p.text, p.category) for p in concept.prompts] == [
        ("a red {}", "concept color change"),
        ("a {}", "artistic style"),
    ]
    (tmp_path / "prompts.txt").write_text("a {}\n")
    with pytest.raises(PersresError, match="'a {}' has no category"):
        attndreambooth.read(tmp_path)
    (tmp_path / "prompts.txt").write_text("# x\na {}\n")
    (tmp_path / "classes.txt").write_text("cat_toy\n")
    with pytest.raises(PersresError, match="line 1: 'cat_toy' is not folder,class"):
        attndreambooth.read(tmp_path)


def test_a_plain_folder_has_20_default_prompts_over_the_papers_categories(tmp_path):
    photos(tmp_path / "my dog!")
    (concept,) = folder.read(tmp_path / "my dog!", "dog").concepts
    assert concept.name == "my-dog" and len(concept.images) == 2
    assert len(concept.prompts) == 20 == len({p.text for p in concept.prompts})
    assert {p.category for p in concept.prompts} == set(CATEGORIES)
    (tmp_path / "p.txt").write_text("\N{ZERO WIDTH NO-BREAK SPACE}a {} in Rome", encoding="utf-8")
    (concept,) = folder.read(tmp_path / "my dog!", "dog", prompts=tmp_path / "p.txt", name="rex").concepts
    assert (concept.name, [p.text for p in concept.prompts]) == ("rex", ["a {} in Rome"])
    with pytest.raises(PersresError, match="needs its class"):
        folder.read(tmp_path / "my dog!", " ")


def test_headings_are_the_papers_categories_whatever_their_case(tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("a {}\n# Add Object(s)\na {} and a cup\n#\n{}\n# my own\n{}")
    assert [p.category for p in read_prompts(file)] == [None, "add object", None, "my own"]


def test_a_prompt_may_name_another_noun_than_the_concepts():
    prompt = Prompt("a photo of a {}", noun="star")
    assert prompt.with_identifier("ball") == "a photo of a V* star"
    assert prompt.without_identifier("ball") == "a photo of a star"
