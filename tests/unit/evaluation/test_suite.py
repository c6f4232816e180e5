"""Suites: those that come along hold what they should; a broken one is told in one sentence."""

import copy
import json
import sys

import pytest
from evaluation_bench import tiny_suite

from lib_persres.commands import main
from lib_persres.errors import PersresError
from lib_persres.evaluation.datasets.dataset import CATEGORIES, WITHOUT, Concept, Dataset, Prompt
from lib_persres.evaluation.planning import plan
from lib_persres.evaluation.protocol import asked_text, prompts_of
from lib_persres.evaluation.published import TABLES
from lib_persres.evaluation.ray_workers import run_ray
from lib_persres.evaluation.report.tables import same
from lib_persres.evaluation.suite import Suite, names


def test_the_shipped_suites_are_sound():
    assert names() == ["paper", "toybox", "toybox-choices", "toybox-demo", "toybox-quick", "toybox-recipes"]
    for name in names():
        suite = Suite.read(name)
        assert suite.name == name and {"base", "residual", "residual+lag"} <= {m.name for m in suite.methods}
        for claim in suite.orderings:
            assert claim.source and set(claim.categories or ()) <= set(CATEGORIES)


def test_the_papers_suite_samples_as_the_paper_does():
    suite = Suite.read("paper")
    assert (suite.sampling.steps, suite.sampling.guidance, suite.sampling.images) == (50, 6, 50)
    recipe = next(m for m in suite.methods if m.name == "residual").training.made_recipe()
    assert (recipe.steps, recipe.stages[0].batch, recipe.stages[0].rank) == (150, 4, "0.05m")


def test_the_papers_suite_has_every_published_row_that_a_recipe_makes():
    names = [method.name for method in Suite.read("paper").methods]
    keys = [row.key for rows in TABLES.values() for row in rows if row.key]
    assert [key for key in keys if not any(same(key, name) for name in names)] == []
    without = {row.method for rows in TABLES.values() for row in rows if not row.key}
    assert without == {"ViCo"}


def test_methods_of_one_training_share_its_piece_and_ablations_have_fewer_concepts():
    suite = Suite.read("toybox")
    assert [m.name for m in suite.methods if m.piece == "residual"] == ["residual", "residual+lag", "class-sample-nn"]
    things = tuple(Concept(f"c{i}", "thing", (), (Prompt("a {}"),)) for i in range(5))
    methods = [methods for _, methods in plan(suite, Dataset("five", things))]
    assert [m.name for m in methods[4]] == ["base", "residual", "residual+lag"]
    assert len(methods[0]) == len(suite.methods) > 9
    no_class = next(m for m in suite.methods if m.name == "no-class").training
    assert "{macro_class}" not in no_class.made_recipe().template


def change(path, value):
    """The tiny suite with one value replaced; path: keys and indices."""
    raw = copy.deepcopy(tiny_suite())
    where = raw
    for key in path[:-1]:
        where = where[key]
    if value is None:
        del where[path[-1]]
    else:
        where[path[-1]] = value
    return raw


@pytest.mark.parametrize(
    "path, value, said",
    [
        (["sampling"], None, "lacks 'sampling'"),
        (["sampling", "images"], 0, "'sampling': 'images' is 0; input should be greater than or equal to 1"),
        (["sampling", "steps"], "20", "'steps' is '20'; input should be a valid integer"),
        (["sampling", "steps"], 2000, "'steps' is 2000; input should be less than or equal to 1000"),
        (["methods"], [], "there are no methods"),
        (["methods", 1, "name"], "base", "two methods are called 'base'"),
        (["methods", 1, "name"], "../x", "cannot be the name of a folder"),
        (["methods", 1, "training", "recipe"], "pape", "the recipe 'pape'; there are: paper, toybox"),
        (["methods", 1, "training", "changes"], {"speed": 1}, "cannot be done.*speed"),
        (["methods", 1, "training", "changes"], {"targets": "nose"}, "names no targets"),
        (["methods", 1, "training", "name"], "base", "a training cannot be called 'base'|no method has"),
        (["methods", 2, "training"], "other", "no method has the training 'other'"),
        (["methods", 2, "lga"], True, "'lga', which means nothing here"),
        (["methods", 2, "unconditional"], "half", "residual\\+lag.*Unconditional rows can be mirror or base"),
        (["methods", 1, "strength"], float("inf"), "'strength' is inf; input should be a finite number"),
        (["methods", 1, "strength"], "much", "'strength' is 'much'; input should be a valid number"),
        (["methods", 1, "class"], "best", "residual.: 'class' is 'best'; input should be 'given' or 'nearest'"),
        (["methods", 1, "class"], "nearest", "the method 'residual' needs 'nouns' to find its class among"),
        (["nouns"], {"from": []}, "'from' must be a list of nouns, a file of them, or null"),
        (["pairs"], {"count": 0}, "'pairs': 'count' is 0; input should be greater than or equal to 1"),
        (["pairs"], {"count": 1, "methods": ["lga"]}, "names the method 'lga', which is none of the suite's"),
        (["orderings", 0, "higher"], "lag", "an ordering names the method 'lag'"),
        (["orderings", 0, "score"], "beauty", "number 1: 'score' is 'beauty'; input should be 'image' or 'text'"),
    ],
)
def test_a_broken_suite_is_told_in_one_sentence(path, value, said):
    with pytest.raises(PersresError, match=said) as caught:
        Suite.from_dict(change(path, value))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("The suite")


def test_the_command_line_names_every_suite(capsys):
    main(["evaluate", "run", "--help"])
    said = "".join(capsys.readouterr().out.split())  # wherever its lines end
    assert sorted(said.rpartition("--suiteNAME")[2].partition(",ora")[0].split(",")) == names()


def test_a_missing_or_unreadable_suite_is_told_at_the_command_line(tmp_path, capsys):
    assert main(["evaluate", "run", "--suite", "nothing", "--out", str(tmp_path / "o")]) == 1
    assert "There is no suite 'nothing': give a file, or one of paper, toybox" in capsys.readouterr().err
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert main(["evaluate", "run", "--suite", str(broken), "--out", str(tmp_path / "o")]) == 1
    assert f"The suite {broken} cannot be read as JSON" in capsys.readouterr().err
    broken.write_text(json.dumps(["x"]))
    assert main(["evaluate", "run", "--suite", str(broken), "--out", str(tmp_path / "o")]) == 1
    assert "input should be an object" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_folder_without_a_run_is_told(tmp_path, capsys):
    for action in ("score", "report"):
        assert main(["evaluate", action, str(tmp_path)]) == 1
        assert "no run" in capsys.readouterr().err


def test_without_ray_the_flag_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PersresError, match=r"Ray is not installed: run pip install"):
        run_ray([], "local", lambda *_: None)


def test_fewer_prompts_are_taken_from_every_category_and_keep_their_index():
    texts = [Prompt(f"{category} {i} {{}}", category) for category in CATEGORIES for i in range(3)]
    chosen = prompts_of(Concept("rex", "dog", (), tuple(texts)), 7)
    own = {index: prompt for index, prompt in chosen.items() if prompt.category != WITHOUT}
    assert list(own) == [0, 1, 3, 6, 9, 12, 15] and all(texts[i] is prompt for i, prompt in own.items())
    assert [index for index in chosen if index not in own] == [18, 19]
    assert all("{" not in p.text and "dog" in p.text for i, p in chosen.items() if i > 17)


def test_without_class_v_star_stands_alone():
    assert asked_text(Prompt("a {} on sand"), ["ball"], True) == "a V* on sand"
    assert asked_text(Prompt("a {} on sand"), ["ball"]) == "a V* ball on sand"
    assert asked_text(Prompt("a {}", noun="star"), ["ball"], True) == "a V* star"
