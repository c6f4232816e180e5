"""Trainings on the loaded model: what they learn, and what they leave behind, which is nothing but their file."""

import base64
import io
import json
import os
import signal
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import SPARING
from host import ROOT, Host, configure, make_data
from pictures import near
from PIL import Image
from trainings import ROUTE, SETTINGS, assert_as_before, numbers, refused_training, submit, wait

from lib_persres.residual import Residual
from lib_persres.standalone.checkpoint import load
from lib_persres.training.images import load_images
from lib_persres.training.recipes import RECIPES
from lib_persres.training.trainer import Trainer

PROBE = Path(__file__).parent / "probe"


def ups(residual) -> torch.Tensor:
    return torch.cat([factors.up.flatten() for factors in residual.factors.values()])


def alike(a: Residual, b: Residual) -> float:
    """The cosine of what was learned: down begins at random numbers that hardly move, up at zero."""
    return torch.nn.functional.cosine_similarity(ups(a), ups(b), 0).item()


def by_hand(host, photos, identifier="phol") -> Residual:
    """The same training without a WebUI."""
    sd = load(host.data / "models" / "Stable-diffusion" / "tiny.safetensors", device="cpu")
    recipe = RECIPES["paper"].changed(**{key: SETTINGS[key] for key in ("steps", "batch", "rank", "crops")})
    trainer = Trainer(sd, load_images(photos), "hand", "dog", recipe, resolution=64, identifier=identifier)
    with trainer:
        while not trainer.finished:
            trainer.step()
    return trainer.residual()


def test_it_learns_what_the_command_line_learns_and_the_tag_draws_it(host, photos):
    identity = submit(host, photos, "mine", preview_every=10, preview_prompt="a V* dog in the rain")
    status = wait(host, identity)
    assert status["state"] == "finished" and status["name"] == "mine" and len(status["loss"]) == 20, status
    learned = Residual.load(status["file"])
    identifier = learned.metadata.identifier
    assert identifier != "olis"  # rex is a dog too and has it; what other tests left may have the next ones
    hand = by_hand(host, photos, identifier)
    assert learned.metadata.base_hash == hand.metadata.base_hash
    assert learned.metadata.image_hashes == hand.metadata.image_hashes
    assert alike(learned, hand) > 0.999
    torch.testing.assert_close(numbers(learned), numbers(hand), rtol=0, atol=0.02 * float(ups(hand).abs().max()))
    assert [entry["step"] for entry in status["preview"]] == [10, 20]
    assert "mine" in {entry["name"] for entry in host.get("/persres/v1/residuals")}
    assert not near(host.image("a V* dog <persres:mine>"), host.image(f"a {identifier} dog"))
    with pytest.raises(urllib.error.HTTPError):
        host.get(f"{ROUTE}/{identity}/preview/10/nothing")


@pytest.mark.parametrize("how", ["finished", "stopped", "interrupted", "cancelled", "failed"])
def test_generation_and_the_model_are_after_it_as_they_were_before(host, photos, how):
    image, before = host.image("a dog"), host.get("/probe/state")
    if how == "failed":
        host.post("/probe/break/raise/5")
    identity = submit(host, photos, f"left {how}", steps=6 if how in ("finished", "failed") else 100_000)
    if how in ("stopped", "interrupted", "cancelled"):
        wait(host, identity, done=2)
        path = {"stopped": f"{ROUTE}/{identity}/stop", "cancelled": f"{ROUTE}/{identity}/cancel"}
        host.post(path.get(how, "/sdapi/v1/interrupt"))
    status = wait(host, identity)
    assert status["state"] == ("stopped" if how == "interrupted" else how)
    if how == "failed":
        assert "broken by the test" in status["message"] and host.get("/probe/broken")
    assert (status["file"] is not None) == (how in ("finished", "stopped", "interrupted"))
    assert_as_before(host, before, image)


def test_where_memory_is_short_it_trains_in_parts_or_says_what_to_lower(host, photos):
    image, before = host.image("a dog"), host.get("/probe/state")
    host.post("/probe/memory/1")
    try:
        small = wait(host, submit(host, photos, "small", steps=3))
        refused_ = wait(host, submit(host, photos, "too small", steps=3, shrink=False))
    finally:
        host.post("/probe/memory/0")
    assert small["state"] == "finished" and "go through the model 1 at a time" in small["message"]
    assert refused_["state"] == "failed" and "memory for 2 rows" in refused_["message"]
    assert "lower the micro-batch" in refused_["message"]
    assert_as_before(host, before, image)


def test_ways_to_run_are_kept_and_the_memory_is_named(host, photos):
    identity = submit(host, photos, "ways", steps=100_000, targets="proj_out", precision="float32", checkpointing=True)
    status = wait(host, identity, done=2)
    assert status["memory"]["kind"] in ("RAM", "VRAM") and status["memory"]["bytes"] > 10e6
    request = status["request"]
    assert (request["targets"], request["precision"], request["checkpointing"]) == ("proj_out", "float32", True)
    host.post(f"{ROUTE}/{identity}/stop")
    status = wait(host, identity)
    assert status["memory"] is None
    learned = Residual.load(status["file"])
    picture = Image.open(io.BytesIO(base64.b64decode(learned.metadata.preview)))
    assert picture.format == "PNG" and picture.size == (64, 64)


@pytest.mark.parametrize("precision", ["", "float32", "bfloat16"])
def test_no_precision_and_no_checkpointing_changes_anything_for_the_next_picture(host, photos, precision):
    image, before = host.image("a dog"), host.get("/probe/state")
    status = wait(host, submit(host, photos, "lean", steps=3, precision=precision, checkpointing=True, overwrite=True))
    # no message: the lean layers do what the WebUI's own do
    assert (status["state"], status["message"]) == ("finished", "")
    assert_as_before(host, before, image)


def test_what_was_stopped_is_resumed_to_what_it_would_have_been(host, photos):
    identity = submit(host, photos, "stop and go", steps=60, seed=3)
    wait(host, identity, done=5)
    host.post(f"{ROUTE}/{identity}/save")
    host.post(f"{ROUTE}/{identity}/stop")
    status = wait(host, identity)
    assert status["state"] == "stopped" and 5 <= Residual.load(status["file"]).metadata.steps == status["done"] < 60
    host.post(f"{ROUTE}/{identity}/resume")
    status = wait(host, identity, "finished", "failed")
    resumed = Residual.load(status["file"])
    assert status["state"] == "finished" and resumed.metadata.steps == 60, status
    os.unlink(status["file"])  # else the next dog gets another identifier
    whole = Residual.load(wait(host, submit(host, photos, "without a stop", steps=60, seed=3))["file"])
    assert torch.equal(numbers(resumed), numbers(whole))


def test_skip_is_ignored_and_where_the_setting_is_off_a_generation_waits_for_the_training(host, photos):
    with host.options(persres_give_way=False):
        identity = submit(host, photos, "waits", steps=15)
        wait(host, identity, "running")
        host.post("/sdapi/v1/skip")
        at_return = []

        def generate():
            host.image("a dog")
            at_return.append(host.get(f"{ROUTE}/{identity}")["state"])

        thread = threading.Thread(target=generate)
        thread.start()
        wait(host, identity, done=3)
        thread.join(300)
    assert at_return == ["finished"]


def test_the_tiling_of_the_last_generation_is_not_trained_on_and_comes_back(host, photos):
    host.image("a dog", tiling=True)
    status = wait(host, submit(host, photos, "after tiling"))
    learned = Residual.load(status["file"])
    assert alike(learned, by_hand(host, photos, learned.metadata.identifier)) > 0.999


def test_trainings_are_queued_listed_moved_and_removed(host, photos):
    first = submit(host, photos, "first", steps=100_000)
    second, third = submit(host, photos, "second", steps=3), submit(host, photos, "third", steps=3)
    wait(host, first, "running")
    host.post(f"{ROUTE}/{third}/move/-1")
    order = [status["id"] for status in host.get(ROUTE)]
    assert order.index(third) < order.index(second)
    host.post(f"{ROUTE}/{first}/cancel")
    assert wait(host, second)["state"] == "finished" and wait(host, third)["state"] == "finished"
    host.request(f"{ROUTE}/{first}", method="DELETE")
    with pytest.raises(urllib.error.HTTPError) as error:
        host.get(f"{ROUTE}/{first}")
    assert error.value.code == 404


def test_bad_requests_are_answered_in_one_sentence(host, photos):
    good = base64.b64encode(photos[0].read_bytes()).decode()
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "PNG")
    base = {"concept": "bad", "macro_class": "dog"}
    loop = host.data / "loop"
    loop.symlink_to(loop)
    cases = [
        ({**base, "images": [base64.b64encode(b"no image").decode()]}, "cannot be read"),
        ({**base, "images": [base64.b64encode(b"%!PS-Adobe-3.0").decode()]}, "it is a PostScript file"),
        ({**base, "images": [{"name": "\ud800" * 500, "data": 7}]}, "is no text in base64"),
        ({**base, "images": ["***"]}, "is not in base64"),
        ({**base, "images": [base64.b64encode(small.getvalue()).decode()]}, "too small (8×8 pixels)"),
        ({**base, "images": [good] * 4000}, "4000 images were given"),
        ({**base, "images": [good], "concept": "a/b"}, "The name 'a/b' cannot be used"),
        ({**base, "images": [good], "macro_class": "<dog>"}, "The class '<dog>' cannot be used"),
        ({**base, "images": [good], "stepz": 3}, "does not know stepz"),
        ({**base, "images": [good], "targets": "everything"}, "'everything' names no targets"),
        ({**base, "images": [good], "precision": "int4"}, "precision is 'int4'; allowed is"),
        ({**base, "images": [good], "concept": "rex"}, "There is a residual"),
        ({**base, "images": [good], "rank": 1_000_000}, "The rank 1000000 is above"),
        ({**base, "images": [good], "resolution": 8}, "The resolution 8 does not fit this model"),
        ({**base, "images": [good], "concept": "日" * 90}, "is too long"),
        ({**base, "images": [good], "concept": ["rex"]}, "concept is a list"),
        ({**base, "images": [good], "recipe": ["paper"]}, "recipe is a list"),
        ({**base, "images": [good], "steps": 10**400}, "steps is"),
        ({**base, "images": [good], "learning_rate": float("inf")}, "learning_rate is 'inf'"),
        ({**base, "images": [good], "template": "{identifier:>10000000000} {macro_class}"}, "in braces, nothing else"),
        ({**base, "images": [good], "template": "{identifier.x} {macro_class}"}, "in braces, nothing else"),
        ({**base, "images": [good], "preview_prompt": "\ud800"}, "preview_prompt is"),
        ({**base, "images": [{"name": [[1]], "data": "*"}]}, "is not in base64"),
        ({**base, "folder": "~nobody"}, "is not one that a training may read"),
        ({**base, "folder": str(loop)}, "is not one that a training may read"),
        ({**base, "folder": str(host.data / ("x" * 300))}, "File name too long"),
        ({**base, "folder": "/etc"}, "is not one that a training may read"),
        ({**base, "folder": str(host.data / ".." / "..")}, "is not one that a training may read"),
        (base, "Give the photos either as images"),
    ]
    before = len(host.get(ROUTE))
    for body, words in cases:
        status, detail = refused_training(host, body)
        assert status == 422 and words in detail and "\n" not in detail and len(detail) <= 300
    assert len(host.get(ROUTE)) == before


def test_a_body_that_is_too_deep_and_odd_paths_of_a_training_are_refused_too(host):
    deep = b'{"images": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for path, data in (("", deep), ("", b"\xff"), ("/none/move/" + "9" * 400, b"{}"), ("/none/stop", b"{}")):
        request = urllib.request.Request(
            f"http://127.0.0.1:{host.port}{ROUTE}{path}", data, {"Content-Type": "application/json"}, method="POST"
        )
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=60)
        assert error.value.code == (404 if path else 422) and json.loads(error.value.read())["detail"]


def test_a_damaged_queue_is_listed_with_what_is_wrong_after_a_reload(host, photos):
    whole = submit(host, photos, "whole among damaged", steps=1)
    wait(host, whole)
    root = host.data / "persres-training"
    for name, text in (("damaged", '{"request": {"preview_prompt": "\\ud800"}}'), ("deep", "[" * 100_000)):
        (root / name).mkdir()
        (root / name / "job.json").write_text(text)
    (root / "order.json").write_text("[5]")
    host.post("/probe/reload")
    host.wait()
    listed = {status["id"]: status for status in host.get(ROUTE)}
    assert listed[whole]["state"] == "finished"
    for name in ("damaged", "deep"):
        assert "cannot be read" in listed[name]["message"]
        host.request(f"{ROUTE}/{name}", method="DELETE")
    assert {"damaged", "deep"}.isdisjoint(status["id"] for status in host.get(ROUTE))


def test_a_folder_inside_the_data_folder_may_be_trained_from(host, photos):
    folder = host.data / "photos"
    folder.mkdir()
    for path in photos:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "clip.mp4").write_bytes(b"x")
    (folder / photos[0].with_suffix(".txt").name).write_bytes(b"a caption")
    body = {"concept": "from folder", "folder": str(folder), **SETTINGS, "steps": 2}
    status = wait(host, host.post(ROUTE, body)["id"])
    assert status["state"] == "finished"
    assert "Passed over in photos: 1 video. The caption file beside the photos is ignored" in status["message"]


@pytest.mark.parametrize("kind", ["16 bits", "palette", "ink", "text instead of EXIF", "damaged profile"])
def test_photos_of_every_kind_are_learned_from(host, kind):
    image = Image.radial_gradient("L").convert("RGB")
    buffer = io.BytesIO()
    if kind == "16 bits":
        Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257).save(buffer, "PNG")
    elif kind == "text instead of EXIF":
        image.save(buffer, "WEBP", exif=b"a photo of my dog, and no EXIF")
    elif kind == "damaged profile":
        image.save(buffer, "JPEG", icc_profile=b"no profile")
    else:
        image.convert({"palette": "P", "ink": "CMYK"}[kind]).save(buffer, "GIF" if kind == "palette" else "TIFF")
    body = {"concept": kind, "images": [base64.b64encode(buffer.getvalue()).decode()], **SETTINGS, "steps": 1}
    status = wait(host, host.post(ROUTE, body)["id"])
    assert status["state"] == "finished" and ("was ignored: number 1" in status["message"]) == (kind[:3] == "dam")


# -- another WebUI: one that is killed


@pytest.fixture(scope="module")
def mortal(tmp_path_factory, host):
    """With --medvram, where there is one; its own folder, so that it may be killed and started again."""
    data = tmp_path_factory.mktemp("mortal") / "data"
    make_data(data, {"persres": ROOT, "probe": PROBE})
    configure(data, persres_state_every=2)
    hosts = []

    def start() -> Host:
        hosts.append(Host(Path(os.environ["PERSRES_WEBUI"]), data, *SPARING))
        return hosts[-1].wait()

    try:
        yield start
    finally:
        for one in hosts:
            one.stop()


def test_under_medvram_a_kill_costs_nothing_that_was_saved(mortal, photos):
    host = mortal()
    image, before = host.image("a dog"), host.get("/probe/state")
    status = wait(host, submit(host, photos, "whole", preview_every=10))
    whole = Residual.load(status["file"])
    os.unlink(status["file"])  # else the next dog gets another identifier
    assert_as_before(host, before, image)
    identity = submit(host, photos, "killed")
    wait(host, identity, done=5)
    host.process.send_signal(signal.SIGKILL)
    host.process.wait()
    for path in (host.data / "models" / "persres").glob("*.safetensors"):
        Residual.load(path)
    host = mortal()
    status = host.get(f"{ROUTE}/{identity}")
    assert status["state"] == "interrupted" and status["done"] >= 4
    host.post(f"{ROUTE}/{identity}/resume")
    status = wait(host, identity, "finished", "failed")
    assert status["state"] == "finished", status
    resumed = Residual.load(status["file"])
    assert resumed.metadata.steps == 20 and torch.equal(numbers(resumed), numbers(whole))
