"""`train` by recipes of several stages, and by such that keep the class: what it shows while it works."""

import pytest

pytest.importorskip("ldm")

from command_runs import refused

from lib_persres.commands import main
from lib_persres.residual import Residual
from lib_persres.training import prior
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.recipes import RECIPES


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(prior, "STEPS", 1)
    stages = (Stage("kv", "2", 1, 1), Stage("proj_out", "2", 1, 1, prior=1))
    monkeypatch.setitem(RECIPES, "staged", Recipe("staged", "", stages, crops=0, class_images=3))


def command(checkpoint, photos, out):
    words = ["--checkpoint", checkpoint, "--images", photos, "--name", "rex", "--class", "dog", "--out", out]
    return ["train", *map(str, words), "--device", "cpu", "--no-preview", "--recipe", "staged"]


def test_the_bars_tell_the_drawing_and_the_stage(checkpoint, photos, tmp_path, capsys):
    assert main(command(checkpoint, photos, tmp_path)) == 0
    told = capsys.readouterr().err
    assert "drawing pictures of the class: 3 of 3 pictures" in told
    assert "stage 2 of 2 (proj_out): step 1 of 1: 2 of 2 steps" in told
    assert Residual.load(tmp_path / "rex.safetensors").metadata.steps == 2


def test_given_pictures_are_not_drawn(checkpoint, photos, tmp_path, capsys):
    assert main([*command(checkpoint, photos, tmp_path), "--class-images", str(photos)]) == 0
    assert "drawing" not in capsys.readouterr().err


def test_what_its_stages_have_of_their_own_is_refused_by_name(checkpoint, photos, tmp_path, capsys):
    error = refused(capsys, [*command(checkpoint, photos, tmp_path), "--steps", "3", "--lr", "0.1"])
    assert error.endswith("has 2 stages with steps, batches, rates and targets of their own: leave out --steps, --lr.")
