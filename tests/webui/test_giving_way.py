"""Images that are asked for while trainings run: who has the model, whose Interrupt it is, and what is learned."""

import os
import threading
import time

import pytest
import torch
from companions import OTHER
from pictures import same
from trainings import ROUTE, numbers, submit, wait

from lib_persres.residual import Residual

STEPS = 60
LONG = {"steps": 150, "sampler_name": "Euler"}
"""An image that takes as long as some steps of a training."""


class Asking:
    """An image that is asked for now, on a thread of its own."""

    def __init__(self, host, prompt="a dog", **parameters):
        self.image = self.error = None

        def ask():
            begun = time.monotonic()
            try:
                self.image = host.image(prompt, **parameters)
            except Exception as error:
                self.error = error
            self.seconds = time.monotonic() - begun

        self._thread = threading.Thread(target=ask)
        self._thread.start()

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()

    def join(self):
        self._thread.join(300)
        assert not self.waits
        return self


def status_of(host, identity):
    return host.get(f"{ROUTE}/{identity}")


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def undisturbed(host, photos):
    """What a training of STEPS learns without anybody else."""
    status = wait(host, submit(host, photos, "undisturbed", steps=STEPS))
    assert status["state"] == "finished"
    return numbers(Residual.load(status["file"]))


@pytest.fixture(autouse=True)
def only(host):
    """Nothing that an earlier test left: files would change the identifiers, trainings the order."""
    for status in host.get(ROUTE):
        if status["state"] in ("queued", "running"):
            host.post(f"{ROUTE}/{status['id']}/cancel")
            wait(host, status["id"])
        if status["file"] and os.path.exists(status["file"]):
            os.unlink(status["file"])
        host.request(f"{ROUTE}/{status['id']}", method="DELETE")


def left_alone(host, before, image):
    """Whether the model is as it was. The random numbers are not: the WebUI seeds them anew with each picture."""
    assert same(host.image("a dog"), image)
    now = host.get("/probe/state")
    assert {**now, "random": None} == {**before, "random": None}


def learned(status):
    assert status["state"] == "finished", status
    return numbers(Residual.load(status["file"]))


def test_an_image_comes_before_three_trainings_end_and_changes_nothing_of_what_is_learned(host, photos, undisturbed):
    expected, before = host.image("a dog"), host.get("/probe/state")
    begun = time.monotonic()
    host.image("a dog", **LONG)
    idle = time.monotonic() - begun
    first = submit(host, photos, "first", steps=STEPS)
    second, third = submit(host, photos, "second", steps=2), submit(host, photos, "third", steps=2)
    wait(host, first, done=3)
    asked = Asking(host)
    assert same(asked.join().image, expected)
    states = [status_of(host, identity)["state"] for identity in (first, second, third)]
    assert states == ["running", "queued", "queued"]
    asked = Asking(host, **LONG)
    paused = until(lambda: (status := status_of(host, first))["paused"] and status)
    assert paused["state"] == "running" and paused["message"].endswith("Paused while an image is drawn.")
    progress = until(lambda: host.get("/sdapi/v1/progress")["state"] if asked.waits else {"job": "over"})
    assert progress["job"] in ("scripts_txt2img", "over")
    print(f"\nyield.seconds: {asked.join().seconds - idle:.2f}, with the step that was being made")
    status = wait(host, first, done=STEPS)
    assert not status["paused"] and "Paused" not in status["message"]
    assert torch.equal(learned(wait(host, first)), undisturbed)
    assert wait(host, third)["state"] == "finished"
    left_alone(host, before, expected)


def test_between_two_trainings_an_image_is_first_too(host, photos):
    jobs = [submit(host, photos, f"short {number}", steps=1) for number in range(6)]
    Asking(host).join()
    assert any(status_of(host, identity)["state"] in ("queued", "running") for identity in jobs)


@pytest.mark.parametrize("moment", ["it waits", "it is drawn"])
def test_interrupt_on_an_image_is_the_images(host, photos, undisturbed, moment):
    identity = submit(host, photos, "goes on", steps=STEPS)
    wait(host, identity, done=3)
    asked = Asking(host, steps=1000, sampler_name="Euler")
    if moment == "it waits":
        until(lambda: host.get("/internal/pending-tasks")["size"] or status_of(host, identity)["paused"])
    else:
        until(lambda: status_of(host, identity)["paused"])
        until(lambda: host.get("/sdapi/v1/progress")["state"]["sampling_step"] > 1)
    host.post("/sdapi/v1/interrupt")
    asked.join()
    status = status_of(host, identity)
    assert status["state"] == "running" and status["done"] < STEPS
    assert torch.equal(learned(wait(host, identity)), undisturbed)


@pytest.mark.parametrize("what, state", [("stop", "stopped"), ("cancel", "cancelled")])
def test_a_training_is_ended_while_an_image_is_drawn(host, photos, what, state):
    plain, expected, before = host.image("a dog"), host.image("a dog", **LONG), host.get("/probe/state")
    identity = submit(host, photos, "ended", steps=100_000)
    wait(host, identity, done=3)
    asked = Asking(host, **LONG)
    until(lambda: status_of(host, identity)["paused"])
    host.post(f"{ROUTE}/{identity}/{what}")
    if what == "cancel":
        assert wait(host, identity)["state"] == state and asked.waits  # it needs no model for that
    assert same(asked.join().image, expected)
    status = wait(host, identity)
    assert status["state"] == state and bool(status["file"]) == (what == "stop")
    left_alone(host, before, plain)


def test_an_image_of_another_checkpoint_does_not_cost_the_training_its_own(host, photos, undisturbed):
    name = OTHER.removesuffix(".safetensors")
    own = host.image("a dog")
    other = host.image("a dog", override_settings={"sd_model_checkpoint": name})
    assert not same(own, other)
    identity = submit(host, photos, "keeps its own", steps=STEPS)
    wait(host, identity, done=3)
    assert same(Asking(host, override_settings={"sd_model_checkpoint": name}).join().image, other)
    assert same(Asking(host).join().image, own)
    status = wait(host, identity)
    assert torch.equal(learned(status), undisturbed)


def test_a_checkpoint_that_is_chosen_meanwhile_is_drawn_with_and_stays_chosen(host, photos, undisturbed):
    name = OTHER.removesuffix(".safetensors")
    other = host.image("a dog", override_settings={"sd_model_checkpoint": name})
    own = host.get("/sdapi/v1/options")["sd_model_checkpoint"]
    identity = submit(host, photos, "chosen", steps=STEPS)
    wait(host, identity, done=3)
    try:
        host.post("/sdapi/v1/options", {"sd_model_checkpoint": name})
        assert same(Asking(host).join().image, other)
        assert torch.equal(learned(wait(host, identity)), undisturbed)
        assert same(host.image("a dog"), other)
    finally:
        host.post("/sdapi/v1/options", {"sd_model_checkpoint": own})
    host.image("a dog")


def test_reload_ui_interrupts_a_training_and_it_goes_on_by_itself(host, photos, undisturbed):
    identity = submit(host, photos, "reloaded", steps=STEPS)
    wait(host, identity, done=3)
    host.post("/probe/reload")
    host.wait()
    status = wait(host, identity)
    assert status["message"] == "" and torch.equal(learned(status), undisturbed)


def test_the_webuis_interrupt_is_a_stop_where_nobody_waits(host, photos):
    identity = submit(host, photos, "stopped", steps=100_000)
    wait(host, identity, done=2)
    host.post("/sdapi/v1/interrupt")
    assert wait(host, identity)["state"] == "stopped"
