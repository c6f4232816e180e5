"""`inspect --recipes`, whose table the README shows."""

import json
from pathlib import Path

import pytest

from lib_persres.commands import main
from lib_persres.training.recipes import RECIPES

README = Path(__file__).parents[3] / "README.md"


def test_the_readme_shows_the_table_that_is_computed(capsys):
    assert main(["inspect", "--recipes"]) == 0
    table = capsys.readouterr().out.strip()
    assert [line.split("`")[1] for line in table.splitlines()[2:]] == list(RECIPES)
    shown = f"<!-- recipes -->\n\n{table}\n\n<!-- /recipes -->"
    assert shown in README.read_text(encoding="utf-8"), f"put this into the README:\n{table}"


def test_programs_get_numbers(capsys):
    assert main(["inspect", "--recipes", "--json"]) == 0
    told = {each.pop("recipe"): each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert told["paper"]["stored"] == 1_239_040 and told["paper"]["work"] == 1 and set(told) == set(RECIPES)


@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--recipes", "a.safetensors"]])
def test_either_files_or_recipes_are_inspected(arguments, capsys):
    assert main(arguments) != 0
    assert "Name residual files to inspect, or give --recipes and no file." in capsys.readouterr().err
