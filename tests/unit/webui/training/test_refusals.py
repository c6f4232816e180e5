"""What a training cannot do is said in a sentence, and loses nothing that was there."""

import json

import pytest
from training_bench import IMAGES, direct, png, same, saved

from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.training.trainer import Trainer
from lib_persres.webui.training import store


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
    assert b.jobs.list() == [] and not any((tmp_path / "jobs").glob("[!.]*"))


def test_a_full_disk_at_the_beginning_is_told_and_leaves_nothing(bench, tmp_path, monkeypatch):
    b = bench()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_whole", full)
        with pytest.raises(PersresError, match="cannot be kept in .*: No space left on device"):
            b.submit()
    assert b.jobs.list() == [] and not any((tmp_path / "jobs").glob("[!.]*"))
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
    b.jobs.close()
    b = bench()
    bad, whole = b.jobs.list()
    assert whole["id"] == good and whole["state"] == "finished" and not (root / ".new-x").exists()
    assert bad["state"] == "failed" and "bad cannot be read: it lacks images. It is left out" in bad["message"]
    assert "cannot be read" in capsys.readouterr().out
    with pytest.raises(PersresError, match="bad cannot be read"):
        b.jobs.resume("bad")
    b.jobs.remove("bad")
    assert [status["id"] for status in b.jobs.list()] == [good] and not (root / "bad").exists()
