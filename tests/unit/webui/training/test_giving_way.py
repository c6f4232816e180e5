"""A training lends the model back to those who wait for it, and learns what it would have learned without them."""

import copy
import threading

import longhand
import pytest
import torch
from training_bench import direct, same, saved
from waiting import Waiting, until

from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.training import prior
from lib_persres.training.recipe import Recipe, Stage
from lib_persres.training.recipes import RECIPES
from lib_persres.webui.training.job import PAUSED


@pytest.fixture
def lends(bench):
    """A gated bench whose generations look at the model. seen: (its state, the picture of it) while it is theirs."""

    class Lends:
        def __init__(self):
            self.b = bench(gated=True)
            self.waiting = Waiting(self.b.lock)
            self.seen, self.at_work = [], []
            self.free = longhand.snapshot(self.b.sd.unet), self.predict()

        def predict(self):
            with torch.no_grad():
                return self.b.sd.unet(*longhand.inputs(1, seed=4))

        def ask(self, name="image", until_then=lambda: True):
            def draw():
                self.at_work.append(self.b.jobs.list()[0])
                self.seen.append((longhand.snapshot(self.b.sd.unet), self.predict()))
                until(until_then)

            self.waiting.add(name, draw)

        def plain(self):
            return all(state == self.free[0] and torch.equal(eps, self.free[1]) for state, eps in self.seen)

        def go(self, steps=100):
            for _ in range(steps):
                self.b.gate.release()

    return Lends()


def test_what_waits_is_drawn_with_the_model_itself_between_two_steps_and_the_result_is_the_same_to_the_bit(
    lends, sd, tmp_path
):
    b = lends.b
    identity = b.submit()
    for done in (1, 2, 5):
        b.wait_done(identity, done)
        lends.ask(f"after {done}"), lends.ask(f"too, after {done}")
        lends.go({1: 1, 2: 3, 5: 100}[done])
    status = b.wait(identity)
    lends.waiting.join()
    assert len(lends.seen) == 6 and lends.plain()
    assert [at["done"] for at in lends.at_work] == [1, 1, 2, 2, 5, 5]
    assert all(at["state"] == "running" and at["paused"] and at["message"] == PAUSED for at in lends.at_work)
    assert status["state"] == "finished" and not status["paused"] and status["message"] == ""
    assert same(Residual.load(status["file"]), saved(direct(sd, tmp_path / "by hand"), tmp_path))


def test_with_the_setting_off_images_wait_for_the_trainings(lends):
    b = lends.b
    b.gives_way = False
    first, second = b.submit("first"), b.submit("second")
    b.wait_done(first, 1)
    lends.ask()
    lends.go()
    b.wait(second, "finished")
    lends.waiting.join()
    assert lends.at_work[0]["state"] == "finished"


def test_between_two_trainings_those_who_wait_go_first(lends):
    b = lends.b
    first, second = b.submit("first", steps=1), b.submit("second", steps=1)
    b.wait_done(first, 1)
    lends.ask()
    lends.go()
    b.wait(second, "finished")
    lends.waiting.join()
    assert [b.jobs.get(identity)["state"] for identity in (first, second)] == ["finished"] * 2
    assert lends.at_work[0]["state"] == "finished" and lends.plain()
    assert lends.waiting.done == ["image"]


def test_drawing_pictures_of_the_class_it_gives_way_in_mid_picture_and_goes_on_from_there(lends, monkeypatch):
    monkeypatch.setattr(prior, "STEPS", 4)
    keeping = Recipe("dreambooth", "", (Stage("attn2", "2", 2, 1, 1e-3, prior=1),), crops=0, class_images=2)
    monkeypatch.setitem(RECIPES, "dreambooth", keeping)
    begun, own = [], prior.sample
    monkeypatch.setattr(prior, "sample", lambda *args, **how: (begun.append(how["begin"]), own(*args, **how))[1])
    b = lends.b
    settings = {"recipe": "dreambooth", "steps": None, "batch": None, "crops": None, "rank": None}
    identity = b.submit("disturbed", **settings)
    until(lambda: b.told)  # and waits at the gate, after a step of the sampler
    lends.ask()
    lends.go()
    disturbed = Residual.load(b.wait(identity, "finished")["file"])
    lends.waiting.join()
    assert lends.at_work[0]["drawing"] is None and lends.at_work[0]["paused"] and lends.plain()
    assert begun == [0, 1]
    b.residuals.find("disturbed").path.unlink()  # else the next dog gets another identifier
    lends.go()
    whole = Residual.load(b.wait(b.submit("whole", **settings), "finished")["file"])
    assert begun == [0, 1, 0] and same(disturbed, whole)


def test_a_cancelled_or_closed_training_does_not_wait_for_the_image(lends):
    b, drawn = lends.b, threading.Event()
    identity = b.submit()
    b.wait_done(identity, 1)
    lends.ask(until_then=drawn.is_set)
    lends.go(1)
    until(lambda: b.jobs.get(identity)["paused"])
    b.jobs.cancel(identity)
    assert b.wait(identity)["state"] == "cancelled" and not drawn.is_set()
    drawn.set()
    lends.waiting.join()
    second = b.submit("second")
    b.wait_done(second, 1)
    drawn.clear()
    lends.ask(until_then=drawn.is_set)
    lends.go(1)
    until(lambda: b.jobs.get(second)["paused"])
    b.jobs.close()
    status = b.jobs.get(second)
    assert status["state"] == "queued" and "at step 1 of 8; it goes on by itself" in status["message"]
    drawn.set()
    lends.waiting.join()
    assert lends.plain()


def test_stop_while_an_image_is_drawn_keeps_what_is_learned(lends):
    b, drawn = lends.b, threading.Event()
    identity = b.submit()
    b.wait_done(identity, 1)
    lends.ask(until_then=drawn.is_set)
    lends.go(1)
    until(lambda: b.jobs.get(identity)["paused"])
    b.jobs.stop(identity)
    drawn.set()
    lends.go()
    status = b.wait(identity)
    assert status["state"] == "stopped" and Residual.load(status["file"]).metadata.steps == status["done"] == 1
    lends.waiting.join()


def test_where_another_object_has_the_model_afterwards_it_goes_on_to_the_same_result(lends, sd, tmp_path):
    b = lends.b
    identity = b.submit()
    lends.go(2)
    b.wait_done(identity, 3)
    b.again_as = copy.copy(sd)
    b.again_as.unet = copy.deepcopy(sd.unet)
    lends.ask()
    lends.go()
    status = b.wait(identity)
    lends.waiting.join()
    assert status["state"] == "finished"
    assert same(Residual.load(status["file"]), saved(direct(sd, tmp_path / "by hand"), tmp_path))


def test_where_the_model_is_gone_it_ends_in_one_sentence_and_can_be_resumed(lends, sd, tmp_path):
    b = lends.b
    identity = b.submit(seed=3)
    lends.go(2)
    b.wait_done(identity, 3)
    b.again_as = PersresError("The checkpoint could not be loaded again.")
    lends.ask()
    lends.go(1)
    status = b.wait(identity)
    assert (status["state"], status["message"]) == ("failed", "The checkpoint could not be loaded again.")
    assert status["done"] == 3 and (b.jobs.root / identity / "state.pt").is_file()
    lends.waiting.join()
    b.again_as = None
    b.jobs.resume(identity)
    lends.go()
    status = b.wait(identity, "finished")
    assert same(Residual.load(status["file"]), saved(direct(sd, tmp_path / "by hand", seed=3), tmp_path))
