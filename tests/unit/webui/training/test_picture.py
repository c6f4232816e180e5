"""The picture that a training of the WebUI leaves in its file, for the file's card."""

import base64
import concurrent.futures
import io

import numpy as np
import pytest
import torch
from PIL import Image
from training_bench import direct, same, saved

from lib_persres.residual import Residual
from lib_persres.training.preview import draw
from lib_persres.webui.training import run as run_module


def picture(path):
    text = Residual.load(path).metadata.preview
    return text and np.asarray(Image.open(io.BytesIO(base64.b64decode(text))), dtype=int)


def test_the_file_has_the_last_previews_picture_else_one_that_is_drawn_at_the_end(bench, sd, tmp_path):
    b = bench()
    status = b.wait(b.submit("seen", preview_every=4))
    assert (picture(status["file"]) == np.asarray(Image.open(status["preview"][-1]["plain"]))).all()
    status = b.wait(b.submit("unseen"))
    assert status["preview"] == [] and picture(status["file"]).shape == (16, 16, 3) and status["message"] == ""
    residual = Residual.load(status["file"])
    (drawn,) = draw(sd, residual, "a photo of a V* dog", 16, 0, lag=[False])
    assert np.abs(np.asarray(drawn, dtype=int) - picture(status["file"])).max() <= 1  # the file's factors are halves


def test_a_stopped_ones_file_has_a_picture_too(bench):
    b = bench(gated=True)
    identity = b.submit()
    b.wait_done(identity, 1)
    b.jobs.stop(identity)
    b.gate.release()
    status = b.wait(identity)
    assert status["state"] == "stopped" and picture(status["file"]).shape == (16, 16, 3)


@pytest.mark.parametrize("error", [RuntimeError("the\ncard is gone"), torch.cuda.OutOfMemoryError("full")])
def test_a_picture_that_fails_costs_no_file_and_is_told(bench, sd, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(run_module, "draw", fail)
    b = bench()
    status = b.wait(b.submit())
    assert status["state"] == "finished" and picture(status["file"]) is None
    assert f"No picture could be drawn for its card: {str(error).splitlines()[0]}." in status["message"]
    assert same(Residual.load(status["file"]), saved(direct(sd, tmp_path / "by hand"), tmp_path))


def test_a_cancel_that_comes_while_the_picture_is_drawn_comes_too_late_and_says_so(bench, monkeypatch):
    def slow(*_, progress, **__):
        b.jobs.cancel(identity.result())
        progress(1, 20)

    monkeypatch.setattr(run_module, "draw", slow)
    identity = concurrent.futures.Future()
    b = bench()
    identity.set_result(b.submit())
    status = b.wait(identity.result())
    assert status["state"] == "finished" and "its file stays" in status["message"] and Residual.load(status["file"])
