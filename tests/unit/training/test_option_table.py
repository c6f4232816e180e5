"""One table of options: the tab, the API and the command line know what is in it, and check it alike."""

import argparse
import ast
import json
from dataclasses import fields, make_dataclass
from pathlib import Path

import pytest

from lib_persres.commands import main, training_options
from lib_persres.errors import PersresError
from lib_persres.training.changes import KINDS
from lib_persres.training.forms import FORMS
from lib_persres.training.options import RUN, SET, STAGE_OPTIONS, TABLE, OfRecipe, Running, option, options_of
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.recipes import RECIPES, recipe_of
from lib_persres.webui.tab import form
from lib_persres.webui.training.request import OPTIONS, Request

NAMES = [each.name for each in SET]


def parser():
    made = argparse.ArgumentParser()
    training_options.add_options(made, made)
    return made


def other(each):
    """A value that is not the usual one."""
    if each.kind is bool:
        return not each.default
    if each.kind is str:
        own = {"targets": "kv", "rank": "3", "template": "one {identifier} {macro_class}"}
        return each.choices[-1] if each.choices else own[each.name]
    return 0.01 if each.kind is float else 16


@pytest.mark.parametrize("each", SET, ids=NAMES)
def test_tab_api_and_command_line_take_every_option_to_the_same_place(each):
    value = other(each)
    of_api = Request.from_dict({"concept": "rex", "macro_class": "dog", "recipe": "paper", each.name: value})
    typed = {True: "yes", False: "no"}[value] if each.name == "flips" else value
    empty = {name: "" for name in (option.name for option in OPTIONS)}
    ticks = {option.name: option.default for option in form.SWITCHES}
    shown = {**empty, **ticks, "concept": "rex", "macro_class": "dog", "recipe": "paper", each.name: typed}
    of_tab = Request(**form.read(shown))
    flag = training_options.flag(each)
    given = [flag if value else f"--no-{flag[2:]}"] if each.kind is bool else [flag, str(value)]
    args = parser().parse_args(given)
    recipe, run = training_options.changed(RECIPES["paper"], args), training_options.running(args)
    assert of_tab == of_api
    assert of_api.recipe_for("paper") == recipe and of_api.running == run
    assert recipe != RECIPES["paper"] if each.scope != RUN else run != Running()


@pytest.mark.parametrize("each", [each for each in SET if each.kind in (int, float)], ids=lambda each: each.name)
def test_a_number_outside_of_its_range_is_refused_by_all(each):
    for value in (each.low - 1, each.high + 1):
        wrong = int(value) if each.kind is int else float(value)
        with pytest.raises(PersresError, match=each.name):
            Request.from_dict({"concept": "rex", "macro_class": "dog", each.name: wrong})
        with pytest.raises((PersresError, SystemExit)):
            training_options.changed(RECIPES["paper"], parser().parse_args([f"{training_options.flag(each)}={wrong}"]))
        if each.scope != RUN:
            with pytest.raises(PersresError, match=f"{each.label.lower()} must be "):
                RECIPES["paper"].changed(**{each.name: wrong})


def test_every_value_of_a_recipe_is_an_option_and_its_default_can_be():
    own = {"name", "about", "stages"}
    assert {field.name for field in (*fields(Stage), *fields(Recipe))} - own == {
        each.name for each in TABLE if each.scope != RUN
    }
    assert all(each.takes(each.default) for each in (*TABLE, *OPTIONS))


def test_an_option_that_is_added_to_the_table_is_checked_shown_and_an_argument():
    line = option(0.0, "Noise offset", "of all pixels", low=0, high=1)
    cls = make_dataclass("More", [("noise_offset", "float", line)])
    (added,) = options_of(cls, "stage")
    assert added.takes(0.5) and added.takes(1) and not added.takes(2.0) and not added.takes(float("nan"))
    assert (added.kind, added.default, added.allowed) == (float, 0.0, "a number between 0 and 1")
    assert training_options.flag(added) == "--noise-offset"


def test_no_other_file_names_an_option_that_is_only_used():
    """What is said of an option is said in the table alone: label and help stand nowhere else."""
    root = Path(form.__file__).parents[2]
    texts = {each.label for each in OPTIONS if len(each.label) > 10}
    found = []
    for path in root.rglob("*.py"):
        if path.name in ("options.py", "request.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in texts:
                found.append((path.name, node.value))
    assert texts and found == []


def test_the_tab_shows_each_option_once_with_long_texts_on_their_own():
    rows = form.rows()
    assert [each for row in rows for each in row] == list(OPTIONS)
    assert all(len(row) == 1 for row in rows if any(each.name in ("template", "preview_prompt") for each in row))
    assert max(map(len, rows)) == 3 and all(len({each.scope for each in row}) == 1 for row in rows)


def test_the_list_of_options_has_them_all(capsys):
    assert main(["inspect", "--options"]) == 0
    table = capsys.readouterr().out
    assert all(f"| `{name}` |" in table for name in NAMES)
    assert main(["inspect", "--options", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["option"] for each in listed] == NAMES
    assert {each["flag"] for each in listed} == {training_options.flag(each) for each in SET}


def test_each_stage_of_several_has_its_own_of_what_stands_apart():
    apart = {each.name for each in STAGE_OPTIONS if each.apart}
    assert apart == set(form.fixed(RECIPES["attn-residual"])) and form.fixed(RECIPES["paper"]) == ()


def test_the_toybox_has_its_recipe_unless_another_is_named():
    assert [recipe_of(name, toybox).name for name in ("", None) for toybox in (True, False)] == ["toybox", "paper"] * 2
    assert recipe_of("lora", True).name == "lora"


def test_every_form_is_made_by_a_kind():
    assert set(KINDS) == set(FORMS)
    form_option = next(each for each in options_of(OfRecipe, "recipe") if each.name == "form")
    assert form_option.choices == tuple(FORMS)


def test_what_a_recipe_does_not_know_is_a_sentence():
    for changes in ({"colour": 1}, {"stages": [{"colour": 1}]}):
        with pytest.raises(PersresError, match="of this version knows no colour"):
            RECIPES["paper"].changed(**changes)
