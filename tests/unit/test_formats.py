"""What an earlier version wrote is still read: a residual, a training's state, a training of the queue.

data/ was written by the code before its formats grew; nothing there is ever written anew.
"""

import json
from pathlib import Path

import pytest
import torch
from rounding import LEARNED

from lib_persres.errors import PersresError
from lib_persres.metadata import FORMAT_VERSION
from lib_persres.residual import Residual
from lib_persres.training import state
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.trainer import Trainer
from lib_persres.webui.training.record import VERSION, Record
from lib_persres.webui.training.request import Request

DATA = Path(__file__).parent / "data"
RECIPE = Recipe("test", "a test's", (Stage("embedding", "1", 2, 2, 1e-2), Stage("proj_out", "1", 2, 2, 1e-2)), crops=0)


def make(sd, photos, recipe=RECIPE):
    return Trainer(sd, photos, "rex", "dog", recipe, resolution=16, seed=5, identifier="phol")


def test_a_residual_of_the_first_version_is_read_and_fits(sd):
    residual = Residual.load(DATA / "residual-1.safetensors")
    residual.check(sd.unet)
    metadata = residual.metadata
    assert (metadata.concept, metadata.identifier, metadata.macro_class, metadata.steps) == ("rex", "phol", "dog", 4)
    assert Recipe.from_dict(metadata.recipe) == RECIPE.changed(resolution=16)
    assert set(residual.embeddings) == {"phol"} and FORMAT_VERSION == 1


def test_a_training_that_was_ended_by_the_first_version_goes_on_to_the_same_residual(sd, photos):
    trainer = make(sd, photos)
    trainer.load_state(DATA / "state-2.pt")
    assert trainer.done == 1 and state.read_facts(DATA / "state-2.pt").concept == "rex" and state.VERSION == 2
    with trainer:
        while not trainer.finished:
            trainer.step()
    now, then = trainer.residual(), Residual.load(DATA / "residual-1.safetensors")
    one, other = (torch.cat([f.delta().flatten() for f in r.factors.values()]) for r in (now, then))
    assert (one - other).norm() < LEARNED * other.norm()
    begin = make(sd, photos).residual().embeddings["phol"]
    moved, moved_then = (r.embeddings["phol"] - begin for r in (now, then))
    assert (moved - moved_then).norm() < LEARNED * moved_then.norm()


@pytest.mark.parametrize("lacks", [("crops",), ("form", "start", "class_images")])
def test_a_state_from_before_a_value_of_the_recipe_goes_on_with_its_default(sd, photos, tmp_path, lacks):
    kept = torch.load(DATA / "state-2.pt", weights_only=True)
    facts = json.loads(kept["facts"]["recipe"])
    for name in lacks:
        facts.pop(name)
    facts["stages"][0].pop("keep_weight")
    kept["facts"]["recipe"] = json.dumps(facts)
    torch.save(kept, tmp_path / "state")
    recipe = RECIPE.changed(crops=4) if "crops" in lacks else RECIPE  # its default is not this recipe's
    trainer = make(sd, photos, recipe)
    trainer.load_state(tmp_path / "state")
    assert trainer.done == 1
    with pytest.raises(PersresError, match="changed since are the recipe or one of its values"):
        make(sd, photos, RECIPE.changed(keep_weight=0.5)).load_state(tmp_path / "state")


def test_a_state_of_another_version_is_told(sd, photos, tmp_path):
    kept = torch.load(DATA / "state-2.pt", weights_only=True)
    torch.save({**kept, "version": 3}, tmp_path / "state")
    with pytest.raises(PersresError, match="it is of version 3, and this extension knows 2"):
        make(sd, photos).load_state(tmp_path / "state")


def test_a_training_of_a_queue_of_the_first_version_is_read():
    values = json.loads((DATA / "job-1.json").read_text())
    assert "version" not in values
    record = Record.from_json(values)
    assert (record.state, record.done, record.images, record.version) == ("stopped", 3, ["a.png", "b.png"], VERSION)
    request = Request.from_dict(record.request)
    assert (request.steps, request.rank, request.flips, request.precision) == (8, "2", True, "bfloat16")
    assert (request.preview_every, request.shrink, request.learning_rate) == (4, True, None)
    assert request.to_dict().keys() >= values["request"].keys()
    with pytest.raises(PersresError, match="it is of version 2, and this extension knows 1: update it"):
        Record.from_json({**values, "version": 2})
