"""The macro class chosen otherwise (Table 4): the nearest noun is found, kept, trained with and drawn with."""

import json
from types import SimpleNamespace

import pytest
import torch
from evaluation_bench import Evaluation, events, tiny_suite

from lib_persres.errors import PersresError
from lib_persres.evaluation import drawing
from lib_persres.evaluation.classes import nearest, nearest_classes, read_nouns
from lib_persres.evaluation.run_folder import RunFolder
from lib_persres.evaluation.scoring import Scorer
from lib_persres.evaluation.suite import Nouns
from lib_persres.evaluation.workers import run_here
from lib_persres.residual import Residual

WORDS = {"dog": (0.0, 1.0), "cat": (0.6, 0.8), "cup": (1.0, 0.0)}


class Flat:
    """A CLIP of two dimensions: words have their places, a photo is its own embedding."""

    digest = "flat"

    def texts(self, texts):
        return torch.tensor([WORDS.get(text, (1.0, 1.0)) for text in texts]) * 5

    def images(self, images):
        return torch.tensor([image if isinstance(image, tuple) else (0.0, 1.0) for image in images])


def thing(name, *photos, given="dog"):
    return SimpleNamespace(name=name, macro_class=given, load=lambda: [SimpleNamespace(image=p) for p in photos])


def test_the_nearest_noun_has_the_largest_cosine_with_the_mean_of_the_photos():
    rex = thing("rex", (0.0, 7.0), (1.0, 0.0))  # unit vectors count, so the mean lies half-way
    found = nearest(list(WORDS), [rex], Flat(), other=False)["rex"]
    assert found == {"given": "dog", "nearest": "cat", "similarity": pytest.approx((0.6 + 0.8) / 2**0.5, abs=1e-6)}
    assert nearest(list(WORDS), [thing("tom", (0.0, 1.0))], Flat(), other=False)["tom"]["nearest"] == "dog"


def test_other_never_takes_the_given_class():
    tom = thing("tom", (0.0, 1.0), given="Dog")
    assert nearest(list(WORDS), [tom], Flat(), other=True)["tom"]["nearest"] == "cat"
    with pytest.raises(PersresError, match="hold no other than the class of tom"):
        nearest(["dog"], [tom], Flat(), other=True)


def test_a_choice_is_made_once_and_other_nouns_are_refused(tmp_path):
    run, nouns = RunFolder(tmp_path), Nouns(source=("dog", "cat"), other=True)
    assert nearest_classes(run, nouns, [thing("rex", (0.0, 1.0))], Flat()) == {"rex": "cat"}
    # the same concept again asks no CLIP; a new one is added to it
    assert nearest_classes(run, nouns, [thing("rex", (1.0, 0.0))], None) == {"rex": "cat"}
    both = nearest_classes(run, nouns, [thing("rex"), thing("mug", (1.0, 0.0), given="cup")], Flat())
    assert both == {"rex": "cat", "mug": "cat"}
    with pytest.raises(PersresError, match="classes.json was made with other nouns"):
        nearest_classes(run, Nouns(source=("cup",), other=True), [thing("new", (1.0, 0.0))], Flat())


def test_what_is_missing_is_told(tmp_path):
    run, rex = RunFolder(tmp_path), thing("rex", (0.0, 1.0))
    with pytest.raises(PersresError, match="give it with --nouns"):
        nearest_classes(run, Nouns(), [rex], Flat())
    with pytest.raises(PersresError, match="say with --clip"):
        nearest_classes(run, Nouns(source=("cat",)), [rex], None)
    with pytest.raises(PersresError, match="The nouns .*gone.txt cannot be read"):
        nearest_classes(run, Nouns(), [rex], Flat(), tmp_path / "gone.txt")
    assert not run.classes_file.exists()


def test_files_of_nouns_are_read_as_lists_and_as_wordnets_index(tmp_path):
    plain = tmp_path / "nouns.txt"
    plain.write_text("dog\nteddy_bear # a toy\n\n# more\ndog\nand/or\n")
    assert read_nouns(plain) == ["dog", "teddy bear"]
    index = tmp_path / "index.noun"
    index.write_text("  1 This software and database is\nentity n 1 3 ~ + - 1 1 00001740\nhot_dog n 2 1 @\n")
    assert read_nouns(index) == ["entity", "hot dog"]
    plain.write_text("(\n")
    with pytest.raises(PersresError, match="holds no noun"):
        read_nouns(plain)


def test_a_run_trains_and_draws_with_the_nouns_and_scores_the_given_class(tmp_path, monkeypatch):
    raw = tiny_suite(steps=2, images=1)
    raw["nouns"] = {"from": ["dog", "cat"], "other": True}
    both = {**raw["methods"][1]["training"], "name": "class-nn", "class": "nearest"}
    raw["methods"] += [
        {"name": "class-sample-nn", "training": "residual", "class": "nearest"},
        {"name": "class-train-nn", "training": both},
        {"name": "class-both-nn", "training": "class-nn", "class": "nearest", "lag": True},
    ]
    asked, problems, real = [], [], drawing.generate_each

    def generate_each(sd, prompts, find, **options):
        made = real(sd, prompts, find, **options)
        asked.extend(prompt.partition(">")[2] for prompt in prompts)
        problems.extend(told for prompt, one in zip(prompts, made) if "V*" in prompt for told in one.problems)
        return made

    monkeypatch.setattr(drawing, "generate_each", generate_each)
    evaluation, scorer = Evaluation(tmp_path), Scorer(clip=Flat())
    run = evaluation.perform(tmp_path / "run", run_here, raw, scorer=scorer, batch=1)
    files = [run.piece("rex", name).residual for name in ("residual", "class-nn")]
    assert [Residual.load(file).metadata.macro_class for file in files] == ["dog", "cat"]
    assert json.loads(run.classes_file.read_text())["concepts"]["rex"]["nearest"] == "cat"
    assert asked.count("a photo of a V* dog") == 3 and asked.count("a photo of a V* cat") == 2
    assert not problems  # LAG looks for the word that was drawn with
    rows = [row for row in run.rows("rex") if row["category"] != "without V*"]
    assert {row["text"] for row in rows if row["prompt"] == 0} == {"a photo of a dog"}
    assert {row["method"] for row in rows} >= {"class-sample-nn", "class-train-nn", "class-both-nn"}
    # the three trainings' worth of methods are two trainings
    assert [len(events(run, f"rex/{name}")) > 0 for name in ("residual", "class-nn")] == [True, True]
    assert len(list((run.root / "pieces" / "rex").iterdir())) == 3
