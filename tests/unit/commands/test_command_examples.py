"""The commands that the pages show run as they stand there, with fewer steps."""

import shutil
from dataclasses import replace

import pytest
from pages import DOCS, README, commands

import dev
from lib_persres.commands import build_parser, main
from lib_persres.training.recipes import RECIPES

PROGRAM = "python -m lib_persres"
PAGES = [README, DOCS / "command-line.md"]
LONG = ("evaluate", "toybox train", "toybox export")
"""These take minutes or want files of others: their options are read, and no more."""


@pytest.fixture
def folder(tmp_path, monkeypatch, checkpoint, photos):
    """What the pages suppose: a checkpoint, photos, a WebUI. Recipes have one step a stage."""
    shutil.copytree(checkpoint.parent, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob(f"{checkpoint.stem}.*"):
        path.rename(path.with_stem("v1-5"))
    for name in ("my-dog", "my-cat"):
        shutil.copytree(photos, tmp_path / name)
    for name in ("webui.py", "modules/processing.py"):
        path = tmp_path / "stable-diffusion-webui" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for name, recipe in RECIPES.items():
        stages = tuple(replace(stage, steps=1, batch=1, localized=0) for stage in recipe.stages)
        monkeypatch.setitem(RECIPES, name, replace(recipe, stages=stages, crops=0, class_images=1))
    monkeypatch.chdir(tmp_path)
    assert main(["toybox", "convert", "--family", "SDXL", "--out", "sdxl.safetensors"]) == 0
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_in_its_order(page, folder, capsys):
    shown = commands(page.read_text(encoding="utf-8"), PROGRAM)
    assert shown
    for arguments in shown:
        if " ".join(arguments).startswith(LONG):
            build_parser().parse_args(arguments)
            continue
        arguments = ["stable-diffusion-webui" if word == "DIR" else word for word in arguments]
        more = ["--steps", "2"] if arguments[0] == "generate" else []
        assert main([*arguments, *more]) == 0, f"{' '.join(arguments)}: {capsys.readouterr().err[-300:]}"
        assert "warning" not in capsys.readouterr().err, arguments
    assert {path.stem for path in (folder / "residuals").glob("*.safetensors")} >= {"mine"}
    assert list((folder / "outputs").glob("*.png"))


def test_the_commands_of_dev_that_pages_show_are_there():
    pages = [page.read_text(encoding="utf-8") for page in (README, *DOCS.glob("*.md"))]
    shown = {words[0] for page in pages for words in commands(page, "python dev.py")}
    assert shown == {"test", *dev.MODULES}
