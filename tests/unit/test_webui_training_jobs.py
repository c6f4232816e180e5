"""The queue of trainings with a real small model in the WebUI's place."""

import base64
import concurrent.futures
import contextlib
import io
import json
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.standalone.preview import draw
from lib_persres.training.images import load_images
from lib_persres.training.recipes import RECIPES
from lib_persres.training.trainer import Trainer
from lib_persres.webui.files import Shelf
from lib_persres.webui.training import run as run_module
from lib_persres.webui.training import store
from lib_persres.webui.training.jobs import Jobs
from lib_persres.webui.training.request import Request

SMALL = {"macro_class": "dog", "recipe": "paper", "steps": 8, "batch": 2, "rank": "2", "resolution": 16, "crops": 1}


def png(seed: int, side=40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = [("a.png", png(1)), ("b.png", png(2))]


class Bench:
    """Jobs on a real model. gate: a training makes a step each time it is released; None: it runs freely."""

    def __init__(self, sd, folder, gated=False, every=2):
        self.sd, self.folder = sd, folder
        self.shelf = Shelf(lambda: folder / "persres")
        self.lock = threading.Lock()
        self.gate = threading.Semaphore(0) if gated else None
        self.stopping, self.fail_at = False, None
        self.jobs = Jobs(folder / "jobs", self.shelf, lambda: self.lock, self.lend, lambda: every)

    @contextlib.contextmanager
    def lend(self, title):
        assert self.lock.locked()
        yield self.Loan(self)

    class Loan:
        def __init__(self, bench):
            self.bench, self.host, self.checkpoint = bench, bench.sd, "tiny.safetensors"

        def progress(self, done, total):
            if self.bench.fail_at == done:
                raise RuntimeError("broken by the test\nand more")
            if self.bench.gate:
                self.bench.gate.acquire()

        def interrupted(self):
            return self.bench.stopping

        def memory(self):
            return 5

    def submit(self, concept="rex", images=IMAGES, **changes):
        return self.jobs.submit(Request.from_dict({"concept": concept, **SMALL, **changes}), images)

    def wait(self, identity, *states, seconds=120):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.jobs.get(identity)
            if status["state"] in (states or ("finished", "stopped", "cancelled", "failed", "interrupted")):
                return status
            time.sleep(0.02)
        raise AssertionError(f"still {status}")

    def wait_done(self, identity, done):
        deadline = time.monotonic() + 120
        while self.jobs.get(identity)["done"] < done:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def again(self, **options):
        """What another process finds in the same folders."""
        return Bench(self.sd, self.folder, **options)


@pytest.fixture
def bench(sd, tmp_path):
    made = []

    def make(**options):
        made.append(Bench(sd, tmp_path, **options))
        made[-1].jobs.start()
        return made[-1]

    yield make
    for bench in made:
        for _ in range(1000):
            if bench.gate:
                bench.gate.release()
        bench.jobs.close()


def direct(sd, folder, **changes):
    """The same training by hand, as the command line does it."""
    paths = []
    folder.mkdir()
    for name, data in IMAGES:
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    recipe = RECIPES["paper"].changed(steps=8, batch=2, rank="2", crops=1)
    trainer = Trainer(sd, load_images(paths), "rex", "dog", recipe, resolution=16, **changes)
    with trainer:
        while not trainer.finished:
            trainer.step()
    return trainer.residual()


def same(a: Residual, b: Residual) -> bool:
    return all(
        torch.equal(part, other)
        for name in a.factors
        for part, other in zip(vars(a.factors[name]).values(), vars(b.factors[name]).values())
    )


def saved(residual, folder):
    residual.save(folder / "other.safetensors")
    return Residual.load(folder / "other.safetensors")


# -- one training


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
    identity = b.submit()
    b.gate.release()
    b.wait_done(identity, 2)
    b.jobs.stop(identity)
    b.gate.release()
    status = b.wait(identity)
    assert status["state"] == "stopped" and status["done"] == 2
    assert "2 of 8 steps is in rex.safetensors" in status["message"]
    assert Residual.load(status["file"]).metadata.steps == 2
    b.gate = None
    b.jobs.resume(identity)
    assert b.wait(identity, "finished")["file"] == status["file"]
    assert same(Residual.load(status["file"]), saved(direct(sd, tmp_path / "by hand"), tmp_path))


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


# -- the picture in the file


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


def test_one_photo_is_allowed_and_said(bench):
    b = bench()
    status = b.wait(b.submit(images=IMAGES[:1]))
    assert status["state"] == "finished" and "single photo" in status["message"]


# -- the queue


def test_a_failed_training_does_not_stop_the_rest(bench):
    b = bench(gated=True)
    first = b.submit("one")
    second = b.submit("two", resolution=24)
    third = b.submit("three")
    b.fail_at = 2
    b.gate.release()
    status = b.wait(first)
    b.fail_at = None
    for _ in range(40):
        b.gate.release()
    assert status["state"] == "failed" and status["message"] == (
        "The training broke off: RuntimeError: broken by the test."
    )
    assert "resolution 24 does not fit" in b.wait(second)["message"]
    assert b.wait(third)["state"] == "finished"
    b.jobs.resume(first)
    assert b.wait(first, "finished")["done"] == 8


def test_the_queue_is_in_the_order_that_was_asked_for_and_a_new_process_keeps_it(bench, sd, tmp_path):
    b = bench(gated=True)
    running = b.submit("running")
    b.wait_done(running, 1)
    names = [b.submit(name) for name in ("one", "two", "three")]
    b.jobs.move(names[2], -5)
    b.jobs.move(names[0], 1)
    wanted = ["three", "two", "one"]
    listed = [status["concept"] for status in b.jobs.list()]
    assert listed == ["running", *wanted]
    with pytest.raises(PersresError, match="only those that wait"):
        b.jobs.move(running, 1)
    other = b.again()
    found = [record.request["concept"] for _, record in store.read_all(other.jobs.root)]
    assert found == listed
    b.jobs.cancel(names[1])
    b.jobs.remove(names[1])
    for _ in range(100):
        b.gate.release()
    b.wait(names[0], "finished")
    files = {name: tmp_path / "persres" / f"{name}.safetensors" for name in wanted[::2]}
    created = {name: Residual.read_metadata(path).created for name, path in files.items()}
    assert created["three"] <= created["one"] and not (tmp_path / "persres" / "two.safetensors").exists()


def test_what_is_resumed_goes_before_all_that_have_not_begun(bench):
    b = bench(gated=True)
    first = b.submit("first")
    b.wait_done(first, 1)
    b.jobs.stop(first)
    second, third = b.submit("second"), b.submit("third")
    b.gate.release()
    assert b.wait(first)["state"] == "stopped"
    b.wait_done(second, 1)
    b.jobs.resume(first)
    assert [status["concept"] for status in b.jobs.list()] == ["first", "second", "third"]
    for _ in range(8):
        b.gate.release()
    b.wait(second, "finished")
    b.wait_done(first, 2)  # and waits at the gate
    assert b.jobs.get(third)["state"] == "queued"
    found = [record.request["concept"] for _, record in store.read_all(b.jobs.root)]
    assert found == ["first", "second", "third"]


def test_a_new_process_offers_what_was_running_and_resumes_it_to_the_same_result(bench, sd, tmp_path):
    b = bench(gated=True)
    identity = b.submit()
    b.gate.release(), b.gate.release(), b.gate.release()
    b.wait_done(identity, 4)
    # as after a kill: another process reads what lies on the disk at this moment
    after = tmp_path / "after"
    shutil.copytree(tmp_path / "jobs", after / "jobs")
    other = Bench(sd, after)
    other.jobs.start()
    status = other.jobs.get(identity)
    assert status["state"] == "interrupted" and "can be resumed" in status["message"] and status["loss"]
    other.jobs.resume(identity)
    status = other.wait(identity, "finished")
    other.jobs.close()
    assert same(Residual.load(status["file"]), saved(direct(sd, tmp_path / "by hand"), tmp_path))


def test_close_interrupts_so_that_it_can_be_resumed(bench):
    b = bench(gated=True, every=100)
    identity = b.submit()
    b.gate.release(), b.gate.release()
    b.wait_done(identity, 3)
    threading.Timer(0.2, b.gate.release).start()
    b.jobs.close()
    assert b.jobs.get(identity)["state"] == "interrupted"
    other = bench()
    other.jobs.resume(identity)
    assert other.wait(identity, "finished")["done"] == 8


def test_another_checkpoint_is_refused_by_its_name_and_the_work_stays(bench, sd, monkeypatch):
    b = bench(gated=True)
    identity = b.submit()
    b.gate.release()
    b.wait_done(identity, 2)
    b.jobs.stop(identity)
    b.gate.release()
    b.wait(identity)
    b.gate = None
    hash_ = sd.hash
    monkeypatch.setitem(vars(sd), "hash", "0" * 64)
    b.jobs.resume(identity)
    status = b.wait(identity)
    assert status["state"] == "failed"
    assert "begun on the checkpoint tiny.safetensors: load that one" in status["message"]
    monkeypatch.setitem(vars(sd), "hash", hash_)
    b.jobs.resume(identity)
    assert b.wait(identity)["state"] == "finished"


def test_a_file_that_was_written_just_before_a_kill_is_known_as_its_own(bench, tmp_path):
    b = bench(gated=True)
    identity = b.submit()
    b.wait_done(identity, 1)
    b.jobs.save_now(identity)
    b.gate.release()
    b.wait_done(identity, 2)
    after = tmp_path / "after"
    shutil.copytree(tmp_path / "jobs", after / "jobs")
    shutil.copytree(tmp_path / "persres", after / "persres")
    record = after / "jobs" / identity / "job.json"
    # the kill came between the file and the record
    record.write_text(json.dumps({**json.loads(record.read_text()), "file": None, "stamp": None, "name": None}))
    other = Bench(b.sd, after)
    other.jobs.start()
    other.jobs.resume(identity)
    status = other.wait(identity, "finished")
    other.jobs.close()
    assert status["file"] == str(after / "persres" / "rex.safetensors") and status["message"] == ""
    assert [path.name for path in (after / "persres").iterdir()] == ["rex.safetensors"]


# -- what cannot be done


@pytest.mark.parametrize(
    "images, words",
    [
        ([], "No images were given"),
        ([("a.png", b"nonsense")], r"The image a.png cannot be read \(not an image format known here\)"),
        ([IMAGES[0], ("b.png", png(3)[:500])], "The image b.png cannot be read"),
        ([("tiny.png", png(1, 8))], "The image tiny.png is too small"),
        ([IMAGES[0]] * 4000, "4000 images were given, but at most 200"),
    ],
)
def test_images_that_cannot_be_used_are_named_and_nothing_stays(bench, tmp_path, images, words):
    b = bench()
    with pytest.raises(PersresError, match=words) as error:
        b.submit(images=images)
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)
    assert b.jobs.list() == [] and not any((tmp_path / "jobs").glob("*"))


def test_a_full_disk_at_the_beginning_is_told_and_leaves_nothing(bench, tmp_path, monkeypatch):
    b = bench()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_whole", full)
        with pytest.raises(PersresError, match="cannot be kept in .*: No space left on device"):
            b.submit()
    assert b.jobs.list() == [] and not any((tmp_path / "jobs").glob("*"))
    assert b.wait(b.submit())["state"] == "finished"


def test_a_full_disk_at_the_end_loses_nothing(bench, sd, tmp_path):
    b = bench()
    (tmp_path / "persres").write_text("a file where the folder should be")
    identity = b.submit()
    status = b.wait(identity)
    assert status["state"] == "failed"
    assert "cannot be written" in status["message"] and "then resume" in status["message"]
    (tmp_path / "persres").unlink()
    b.jobs.resume(identity)
    assert b.wait(identity)["state"] == "finished"
    assert same(Residual.load(tmp_path / "persres" / "rex.safetensors"), saved(direct(sd, tmp_path / "h"), tmp_path))


def test_a_full_disk_in_the_middle_does_not_end_the_training(bench, monkeypatch):
    def full(self, path):
        raise PersresError(f"{path} cannot be written: No space left on device.")

    monkeypatch.setattr(Trainer, "save_state", full)
    b = bench()
    status = b.wait(b.submit())
    assert status["state"] == "finished" and "could not be resumed from here" in status["message"]
    assert Residual.load(status["file"])


def test_a_file_that_is_there_is_never_replaced_unasked(bench, tmp_path):
    b = bench(gated=True)
    path = tmp_path / "persres" / "rex.safetensors"
    identity = b.submit()
    with pytest.raises(PersresError, match='training of "rex" is (queued|running) already'):
        b.submit()
    b.wait_done(identity, 1)
    path.parent.mkdir()
    path.write_bytes(b"another's")  # while it trains
    for _ in range(40):
        b.gate.release()
    status = b.wait(identity)
    assert status["state"] == "finished" and status["file"].endswith("rex 2.safetensors") and status["name"] == "rex 2"
    assert 'A file "rex.safetensors" is there already' in status["message"] and path.read_bytes() == b"another's"
    with pytest.raises(PersresError, match="There is a residual .*rex.safetensors already"):
        b.submit()
    assert b.wait(b.submit(overwrite=True))["file"] == str(path)
    assert Residual.load(path)


def test_unknown_and_running_trainings_are_refused_in_a_sentence(bench):
    b = bench(gated=True)
    with pytest.raises(PersresError, match="There is no training '../x'"):
        b.jobs.get("../x")
    identity = b.submit()
    b.wait_done(identity, 1)
    with pytest.raises(PersresError, match="is running: stop or cancel it first"):
        b.jobs.remove(identity)
    with pytest.raises(PersresError, match="is running: it cannot be resumed"):
        b.jobs.resume(identity)


def test_damaged_records_are_left_out_and_half_made_folders_cleared_away(bench, tmp_path, capsys):
    b = bench()
    good = b.submit()
    b.wait(good)
    root = tmp_path / "jobs"
    (root / ".new-x").mkdir()
    (root / "bad").mkdir()
    (root / "bad" / "job.json").write_text('{"request": {}}')
    (root / "order.json").write_text(json.dumps(["bad", "never", good]))
    assert [folder.id for folder, _ in store.read_all(root)] == [good]
    assert "cannot be read" in capsys.readouterr().out and not (root / ".new-x").exists()


def test_a_recipe_is_the_toyboxs_on_its_checkpoint_and_the_papers_elsewhere(sd, monkeypatch):
    request = Request("rex", "dog")
    assert run_module.recipe_of(request, sd).name == "paper"
    monkeypatch.setattr(run_module, "CHECKPOINT", sd.path)
    assert run_module.recipe_of(request, sd).name == "toybox"
    assert run_module.recipe_of(Request("rex", "dog", "paper"), sd).name == "paper"
