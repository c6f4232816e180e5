"""Every recipe on the WebUI's own model: it learns, its file is read, and it leaves nothing behind."""

import base64
import urllib.parse
from pathlib import Path

import pytest
from trainings import ROUTE, assert_as_before, refused_training, wait

from lib_persres.residual import Residual
from lib_persres.training.recipes import RECIPES

BODY = {"concept": "staged", "macro_class": "dog", "resolution": 64, "crops": 0}


def encoded(paths):
    return [{"name": path.name, "data": base64.b64encode(path.read_bytes()).decode()} for path in paths]


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_learns_on_the_loaded_model_and_leaves_nothing_but_its_file(host, tmp_path, name):
    image, before = host.image("a dog"), host.get("/probe/state")
    recipe = RECIPES[name]
    told = host.post(f"/probe/recipe/{urllib.parse.quote(name)}?folder={urllib.parse.quote(str(tmp_path))}")
    assert len(told["losses"]) == 2 * len(recipe.stages)
    # no other note: the lean layers do what the WebUI's own do
    assert len(told["notes"]) == recipe.keeps_class and bool(told["drawn"]) == recipe.keeps_class
    learned = Residual.load(tmp_path / f"{name}.safetensors")
    assert learned.metadata.targets == recipe.targets
    assert ("phol" in learned.embeddings) == any(stage.learns_embedding for stage in recipe.stages)
    assert_as_before(host, before, image)


def test_a_recipe_of_stages_is_trained_by_the_queue_and_tells_its_stage(host, photos):
    identity = host.post(ROUTE, {**BODY, "recipe": "attn-residual", "images": encoded(photos)})["id"]
    stage = wait(host, identity, done=1)["stage"]
    assert stage["number"] in (1, 2, 3) and stage["of"] == 3
    assert wait(host, identity, done=61)["stage"]["number"] > 1
    host.post(f"{ROUTE}/{identity}/cancel")
    assert wait(host, identity)["state"] == "cancelled"


def test_the_class_is_drawn_in_sight_and_stopped_or_given(host, photos):
    body = {**BODY, "concept": "kept", "recipe": "dreambooth", "images": encoded(photos)}
    identity = host.post(ROUTE, body)["id"]
    status = wait(host, identity, "running", "failed")
    while status["drawing"] is None:
        assert status["state"] == "running" and not status["done"], status
        status = host.get(f"{ROUTE}/{identity}")
    assert status["drawing"]["total"] == 64
    host.post(f"{ROUTE}/{identity}/stop")
    status = wait(host, identity)
    assert (status["state"], status["done"], status["drawing"]) == ("stopped", 0, None)
    host.request(f"{ROUTE}/{identity}", method="DELETE")

    identity = host.post(ROUTE, {**body, "steps": 2, "class_images": encoded(photos)})["id"]
    status = wait(host, identity)
    assert status["state"] == "finished" and "drew" not in status["message"]
    Path(status["file"]).unlink()  # its identifier is free again for the dogs of other tests
    host.post("/persres/v1/refresh")


def test_what_a_recipe_does_not_take_is_refused(host, photos):
    images = encoded(photos)
    cases = [
        ({"recipe": "attn-residual", "steps": 5}, "attn-residual has 3 stages with steps"),
        ({"recipe": "paper", "class_images": images}, "paper has no use for pictures of the class"),
        ({"recipe": "dreambooth", "class_images": []}, "choose pictures of other things of the class"),
        ({"recipe": "dreambooth", "class_folder": "/etc"}, "is not one that a training may read"),
        ({"recipe": "dreambooth", "class_folder": "/etc", "class_images": images}, "not as both"),
    ]
    for changes, words in cases:
        status, detail = refused_training(host, {**BODY, "concept": "never", "images": images, **changes})
        assert status == 422 and words in detail, detail
