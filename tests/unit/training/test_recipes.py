"""The recipes that come along: each trains, and its file says what it is."""

from dataclasses import replace

import pytest
import torch

from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.targets import parts_of
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.recipes import RECIPES
from lib_persres.training.trainer import Trainer


def short(recipe):
    """The same stages, each a step long and of few rows."""
    stages = [replace(s, steps=1, batch=min(s.batch, 2), prior=min(s.prior, 1), localized=0) for s in recipe.stages]
    return recipe.changed(stages=stages, rank="2", crops=1)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_its_stages_into_a_file_that_fits(sd, photos, tmp_path, name):
    recipe = short(RECIPES[name])
    trainer = Trainer(
        sd, photos, "rex", "dog", recipe, resolution=16, seed=5, identifier="phol", class_photos=photos[:1]
    )
    seen = []
    with trainer:
        while not trainer.finished:
            seen.append(trainer.stage)
            trainer.step()
    assert [(number, done) for number, done, _ in seen] == [(i + 1, 0) for i in range(len(recipe.stages))]
    assert trainer.stage[0] == len(recipe.stages)
    trainer.residual().save(tmp_path / "rex.safetensors")
    loaded = Residual.load(tmp_path / "rex.safetensors")
    loaded.check(sd.unet)
    assert loaded.metadata.targets == recipe.targets
    assert Recipe.from_dict(loaded.metadata.recipe).stages == recipe.stages
    assert bool(loaded.embeddings) == ("embedding" in parts_of(recipe.targets))
    assert all(torch.any(f.up) for f in loaded.factors.values())
    assert (loaded.metadata.truncation is None) == (recipe.form == "low-rank")


def test_a_recipe_survives_its_dict():
    for recipe in RECIPES.values():
        assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_attndreambooth_is_the_papers():
    one, two, three = RECIPES["attndreambooth"].stages
    assert [s.targets for s in (one, two, three)] == ["embedding", "attn2", "unet"]
    assert [(s.steps, s.learning_rate, s.batch) for s in (one, two, three)] == [
        (60, 1e-3, 8),
        (100, 2e-5, 8),
        (500, 2e-6, 8),
    ]
    assert [(s.map_mean, s.map_variance) for s in (one, two, three)] == [(0.1, 0), (2, 5), (2, 5)]
    assert RECIPES["attndreambooth"].template == "a photo of a {identifier} {macro_class}"
    assert RECIPES["attndreambooth"].start == "class"


def test_stages_can_be_replaced_or_left_out():
    recipe = RECIPES["attndreambooth"]
    assert recipe.changed(leave_out=2).stages == (recipe.stages[0], recipe.stages[2])
    assert recipe.changed(leave_out=2).targets == "embedding+unet"
    assert recipe.changed(stages=[*recipe.stages[:2]], leave_out=1).stages == (recipe.stages[1],)
    free = recipe.changed(map_mean=0.0, map_variance=0.0)
    assert not any(stage.compares_maps for stage in free.stages)
    other = recipe.changed(stages=[{"targets": "kv", "steps": 3}], form="low-rank")
    assert other.stages == (Stage("kv", steps=3),)
    for wrong in (0, 4, "2", True):
        with pytest.raises(PersresError, match="none to leave out"):
            recipe.changed(leave_out=wrong)
    with pytest.raises(PersresError, match="none to leave out"):
        RECIPES["paper"].changed(leave_out=1)


def test_the_class_prompt_is_the_prompt_without_the_identifier():
    assert RECIPES["paper"].class_prompt("dog") == "a photo of a dog"
