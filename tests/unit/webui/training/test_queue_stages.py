"""Recipes of several stages, and such that keep the class, in the WebUI's queue."""

import time

import pytest
from trainer_bench import STAGES
from training_bench import png

from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.training import prior
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.recipes import RECIPES

OF_CLASS = [("c.png", png(3)), ("d.png", png(4))]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Two recipes of the same names that end soon."""
    monkeypatch.setattr(prior, "STEPS", 2)
    monkeypatch.setattr(prior, "BATCH", 1)
    staged = Recipe("attn-residual", "", (Stage("kv", "2", 2, 1), Stage("proj_out", "2", 3, 1)), crops=0)
    keeping = Recipe("dreambooth", "", (Stage("attn2", "2", 2, 1, 1e-3, prior=1),), crops=0, class_images=3)
    monkeypatch.setitem(RECIPES, "attn-residual", staged)
    monkeypatch.setitem(RECIPES, "dreambooth", keeping)


OWN = {"steps": None, "batch": None, "crops": None, "rank": None}


def test_each_stage_is_told_with_its_steps(bench):
    b = bench(gated=True)
    identity = b.submit(recipe="attn-residual", **OWN)
    b.wait_done(identity, 1)
    first = {"number": 1, "of": 2, "targets": "kv", "done": 1, "total": 2}
    assert b.jobs.get(identity)["stage"] == first
    b.gate.release()
    b.gate.release()
    b.wait_done(identity, 3)
    status = b.jobs.get(identity)
    assert status["stage"] == {"number": 2, "of": 2, "targets": "proj_out", "done": 1, "total": 3}
    assert (status["done"], status["total"], len(status["loss"])) == (3, 5, 3)
    for _ in range(9):
        b.gate.release()
    assert b.wait(identity)["state"] == "finished"
    assert b.told[0] == "stage 1 of 2 (kv): step 1 of 2" and b.told[2] == "stage 2 of 2 (proj_out): step 1 of 3"
    assert b.jobs.get(identity)["stage"] == {**first, "number": 2, "targets": "proj_out", "done": 3, "total": 3}


def test_a_single_stage_is_no_stage_of_many(bench):
    b = bench()
    status = b.wait(b.submit(steps=2))
    assert status["stage"] is None and b.told[-1] == "step 2 of 2" and status["drawing"] is None


def test_the_drawing_of_the_class_is_told_stopped_and_continued_to_the_same_result(bench):
    b = bench()
    whole = b.wait(b.submit("whole", recipe="dreambooth", **OWN))
    assert whole["state"] == "finished" and "drew 3 pictures of its own dog" in whole["message"]
    assert b.told[0] == "drawing pictures of the class: 0 of 3" and b.told[6].endswith("3 of 3")
    b.residuals.find("whole").path.unlink()  # else the next dog gets another identifier
    b.jobs.close()
    b = bench(gated=True)
    identity = b.submit("parts", recipe="dreambooth", **OWN)
    for _ in range(2):
        b.gate.release()
    while (b.jobs.get(identity)["drawing"] or {"done": 0})["done"] < 1:
        time.sleep(0.02)
    assert b.jobs.get(identity)["drawing"] == {"done": 1, "total": 3}
    b.jobs.stop(identity)
    b.gate.release()
    status = b.wait(identity)
    assert (status["state"], status["done"], status["file"], status["drawing"]) == ("stopped", 0, None, None)
    b.gate = None
    b.told.clear()
    b.jobs.resume(identity)
    status = b.wait(identity, "finished", "failed")
    assert status["state"] == "finished" and b.told[0] == "drawing pictures of the class: 1 of 3"
    assert status["loss"] == whole["loss"]
    assert Residual.load(status["file"]).metadata.steps == 2


def test_pictures_of_the_class_may_be_given_and_are_kept_with_the_training(bench):
    b = bench()
    identity = b.submit(class_images=OF_CLASS, recipe="dreambooth", **OWN)
    status = b.wait(identity)
    assert status["state"] == "finished" and not any("drawing" in text for text in b.told)
    kept = b.folder / "jobs" / identity / "class_images"
    assert [path.read_bytes() for path in sorted(kept.iterdir())] == [data for _, data in OF_CLASS]
    other = b.wait(b.submit("other", class_images=OF_CLASS[:1], recipe="dreambooth", **OWN))
    assert other["loss"] != status["loss"]


def test_bad_pictures_of_the_class_are_refused_at_once(bench):
    b = bench()
    with pytest.raises(PersresError, match="recipe paper has no use for pictures of the class"):
        b.submit(class_images=OF_CLASS)
    with pytest.raises(PersresError, match="c.png cannot be read"):
        b.submit(class_images=[("c.png", b"none")], recipe="dreambooth", **OWN)
    with pytest.raises(PersresError, match="201 images were given, but at most 200 are allowed.$"):
        b.submit(class_images=OF_CLASS[:1] * 201, recipe="dreambooth", **OWN)
    assert b.jobs.list() == []


def test_a_place_is_told_in_words():
    recipe = Recipe("test", "", STAGES)
    assert [recipe.place(done) for done in (0, 3, 6)] == [
        "stage 1 of 2 (proj_out): step 0 of 3",
        "stage 2 of 2 (proj_out): step 0 of 3",
        "stage 2 of 2 (proj_out): step 3 of 3",
    ]
