"""One training of the WebUI, from its images to its file: stopped, resumed, cancelled, refused."""

import numpy as np
import pytest
from PIL import Image
from training_bench import IMAGES, SMALL, direct, same, saved

from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.webui.training import run as run_module
from lib_persres.webui.training.request import Request


def test_a_training_ends_in_the_file_that_the_same_training_by_hand_writes(bench, sd, tmp_path):
    b = bench()
    identity = b.submit()
    status = b.wait(identity)
    assert status["state"] == "finished" and status["done"] == status["total"] == 8 and len(status["loss"]) == 8
    path = tmp_path / "persres" / "rex.safetensors"
    assert status["file"] == str(path) and status["name"] == "rex" and status["message"] == ""
    loaded = Residual.load(path)
    by_hand = direct(sd, tmp_path / "by hand")
    assert same(loaded, saved(by_hand, tmp_path))
    for name in ("identifier", "recipe", "image_hashes", "base_hash", "steps", "loss", "rank", "seed"):
        assert getattr(loaded.metadata, name) == getattr(by_hand.metadata, name)
    assert Request.from_metadata(loaded.metadata) == Request.from_dict({"concept": "rex", **SMALL})


def test_stop_keeps_what_is_learned_and_resume_ends_as_if_nothing_had_been(bench, sd, tmp_path):
    b = bench(gated=True)
    identity = b.stop_after_two()
    state = b.jobs.root / identity / "state.pt"
    assert state.is_file()
    status = b.jobs.get(identity)
    assert status["state"] == "stopped" and status["done"] == 2
    assert "2 of 8 steps is in rex.safetensors" in status["message"]
    assert Residual.load(status["file"]).metadata.steps == 2
    b.jobs.resume(identity)
    assert b.wait(identity, "finished")["file"] == status["file"]
    assert same(Residual.load(status["file"]), saved(direct(sd, tmp_path / "by hand"), tmp_path))
    b.jobs.close()
    assert not state.exists()  # the file has all of it, and a state may be as large as several models


def test_the_webuis_interrupt_is_a_stop(bench):
    b = bench(gated=True)
    identity = b.submit()
    b.wait_done(identity, 1)
    b.stopping = True
    b.gate.release()
    assert b.wait(identity)["state"] == "stopped"


def test_cancel_keeps_nothing(bench, tmp_path):
    b = bench(gated=True, every=1)
    identity = b.submit(preview_every=1)
    b.gate.release()
    b.wait_done(identity, 2)
    b.jobs.cancel(identity)
    b.gate.release()
    status = b.wait(identity)
    assert status["state"] == "cancelled" and status["done"] == 0 and status["file"] is None
    assert not list((tmp_path / "persres").glob("*")) and status["preview"] == []
    assert sorted(path.name for path in (tmp_path / "jobs" / identity).iterdir()) == ["images", "job.json"]
    with pytest.raises(PersresError, match='of "rex" is cancelled: it cannot be resumed'):
        b.jobs.resume(identity)


def test_save_now_and_sample_now_leave_the_result_as_it_is(bench, sd, tmp_path):
    b = bench(gated=True)
    identity = b.submit(preview_prompt="a V* dog in the rain")
    b.gate.release()
    b.wait_done(identity, 2)
    b.jobs.save_now(identity)
    b.jobs.sample_now(identity)
    b.gate.release()
    b.wait_done(identity, 3)
    status = b.jobs.get(identity)
    assert Residual.load(status["file"]).metadata.steps == 2 and status["state"] == "running" and status["memory"] == 5
    (preview,) = status["preview"]
    plain, lag = (np.asarray(Image.open(preview[which]), dtype=int) for which in ("plain", "lag"))
    assert preview["step"] == 2 and plain.shape == (16, 16, 3) and (plain != lag).any()
    for _ in range(20):
        b.gate.release()
    assert b.wait(identity)["state"] == "finished"
    assert same(Residual.load(status["file"]), saved(direct(sd, tmp_path / "by hand"), tmp_path))


def test_previews_come_every_so_many_steps_from_the_same_noise(bench):
    b = bench()
    status = b.wait(b.submit(preview_every=4, learning_rate=1e-8))
    assert [entry["step"] for entry in status["preview"]] == [4, 8]
    first, second = (np.asarray(Image.open(entry["plain"]), dtype=int) for entry in status["preview"])
    assert np.abs(first - second).max() <= 1  # with this learning rate only the noise could differ


def test_one_photo_is_allowed_and_said(bench):
    b = bench()
    status = b.wait(b.submit(images=IMAGES[:1]))
    assert status["state"] == "finished" and "single photo" in status["message"]


def test_a_recipe_is_the_toyboxs_on_its_checkpoint_and_the_papers_elsewhere(sd, monkeypatch):
    request = Request("rex", "dog")
    assert run_module.recipe_of(request, sd).name == "paper"
    monkeypatch.setattr(run_module, "CHECKPOINT", sd.path)
    assert run_module.recipe_of(request, sd).name == "toybox"
    assert run_module.recipe_of(Request("rex", "dog", "paper"), sd).name == "paper"
