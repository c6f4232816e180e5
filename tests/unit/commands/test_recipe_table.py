"""`inspect --recipes`, whose table docs/recipes-table.md shows."""

import json

import pytest
from pages import DOCS

from lib_persres.commands import main
from lib_persres.training.recipes import RECIPES


def test_the_page_shows_what_the_command_prints(capsys):
    assert main(["inspect", "--recipes"]) == 0
    table = capsys.readouterr().out.strip()
    assert [line.split("`")[1] for line in table.splitlines()[2:]] == list(RECIPES)
    page = (DOCS / "recipes-table.md").read_text(encoding="utf-8")
    assert f"<!-- recipes -->\n\n{table}\n\n<!-- /recipes -->" in page, "run python -m benchmarks.pages"


def test_programs_get_numbers(capsys):
    assert main(["inspect", "--recipes", "--json"]) == 0
    told = {each.pop("recipe"): each for each in map(json.loads, capsys.readouterr().out.splitlines())}
    assert told["paper"]["stored"] == 1_239_040 and told["paper"]["work"] == 1 and set(told) == set(RECIPES)


@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--recipes", "a.safetensors"]])
def test_either_files_or_recipes_are_inspected(arguments, capsys):
    assert main(arguments) != 0
    assert "Name residual files to inspect, or give --recipes or --options and no file." in capsys.readouterr().err
