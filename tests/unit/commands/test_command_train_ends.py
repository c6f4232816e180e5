"""`train`: what ends it early, what is kept then, and how it goes on."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ldm")

import torch
from command_runs import refused, train
from ready_processes import ready
from safetensors.torch import load_file

from lib_persres import residual as residuals
from lib_persres.commands import main, training_files
from lib_persres.commands.lock import only_one
from lib_persres.commands.training_files import TrainingFiles
from lib_persres.commands.training_run import TrainingRun
from lib_persres.errors import PersresError
from lib_persres.residual import Residual

ROOT = Path(__file__).resolve().parents[3]
FILE, STATE = "rex.safetensors", "rex.state.pt"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def heeded():
    """The signals are not ignored, as they are in a job in the background, and end no tests where nobody heeds them."""

    def missed(number, frame):
        raise AssertionError(f"signal {number} came where no training heeds it")

    before = {number: signal.signal(number, missed) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def at_step(monkeypatch):
    """at_step(n, do): do() is called after the n-th step."""
    original = TrainingRun.after_step

    def set_(number, do):
        def after_step(self, loss):
            original(self, loss)
            if self.trainer.done == number:
                do()

        monkeypatch.setattr(TrainingRun, "after_step", after_step)

    yield set_


def send(number, times=1):
    def do():
        for _ in range(times):
            os.kill(os.getpid(), number)

    return do


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_keeps_what_was_learned_and_says_how_to_go_on(
    number, status, checkpoint, photos, tmp_path, at_step, capsys
):
    at_step(2, send(number))
    before = signal.getsignal(number)
    assert train(checkpoint, photos, tmp_path, "--steps", "9") == status
    assert signal.getsignal(number) is before
    metadata = Residual.load(tmp_path / FILE).metadata
    assert metadata.steps == 2 and metadata.recipe["stages"][0]["steps"] == 9
    error = capsys.readouterr().err
    (line,) = (line for line in error.splitlines() if "after 2 of 9 steps" in line)
    assert "--resume to go on from step 2" in line
    assert names(tmp_path) == [FILE, STATE]
    assert (metadata.preview is None) == (number != signal.SIGINT)  # who ends a process does not wait for a picture


def test_a_training_that_was_resumed_is_the_same_as_one_at_once(checkpoint, photos, tmp_path, at_step, capsys):
    options = ("--steps", "5", "--no-preview")
    assert train(checkpoint, photos, tmp_path / "once", *options) == 0
    at_step(2, send(signal.SIGTERM))
    assert train(checkpoint, photos, tmp_path / "twice", *options) == 143
    at_step(-1, None)
    command = ["train", "--checkpoint", checkpoint, "--images", photos, "--name", "rex", "--class", "dog"]
    command += ["--out", tmp_path / "twice", "--steps", "5", "--batch", "1", "--crops", "0", "--device", "cpu"]
    assert "ended early" in refused(capsys, command)  # nothing is lost in silence
    assert "changed since are the recipe" in refused(capsys, [*command, "--resume", "--lr", "0.002"])
    assert train(checkpoint, photos, tmp_path / "twice", *options, "--resume") == 0
    assert "\nGoing on from step 2 of 5\n" in capsys.readouterr().err
    once, twice = (load_file(tmp_path / folder / FILE) for folder in ("once", "twice"))
    assert once.keys() == twice.keys() and all(torch.equal(once[name], twice[name]) for name in once)
    assert names(tmp_path / "twice") == [FILE]  # a finished training's state is gone
    assert "give one of them" in refused(capsys, [*command, "--resume", "--overwrite"])


def test_what_cannot_be_resumed_says_what_is_there_and_what_to_do(checkpoint, photos, tmp_path, at_step, capsys):
    file = tmp_path / FILE
    command = ["train", "--checkpoint", checkpoint, "--images", photos, "--name", "rex", "--class", "dog"]
    command += ["--out", tmp_path, "--steps", "3", "--batch", "1", "--crops", "0", "--device", "cpu", "--resume"]
    assert "Leave out --resume to begin" in refused(capsys, command)
    at_step(2, send(signal.SIGTERM))
    assert train(checkpoint, photos, tmp_path, "--steps", "3", "--no-preview") == 143
    (tmp_path / STATE).unlink()
    assert "was learned in 2 of 3 steps, but its state" in refused(capsys, command)
    at_step(-1, None)
    assert train(checkpoint, photos, tmp_path, "--steps", "3", "--no-preview", "--overwrite") == 0
    written = file.read_bytes()
    capsys.readouterr()
    assert main([*map(str, command)]) == 0  # as often as it is asked for
    told = capsys.readouterr()
    assert f"{file} is finished (3 of 3 steps)" in told.err and "<persres:rex:1.0>" in told.out
    for other in (["--steps", "4"], ["--class", "cat"], ["--lr", "0.5"]):
        assert "is finished, with other options than these" in refused(capsys, [*command, *other])
    assert file.read_bytes() == written and names(tmp_path) == [FILE]
    file.write_bytes(b"no residual")
    assert "is no residual" in refused(capsys, command)


def train_until_killed(*arguments):
    original = TrainingRun.after_step

    def after_step(self, loss):
        original(self, loss)
        if self.trainer.done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainingRun.after_step = after_step
    train(*arguments)


def test_after_a_kill_it_goes_on_from_the_last_state(checkpoint, photos, tmp_path):
    out = tmp_path / "out"
    options = ("--steps", "5", "--no-preview", "--save-every", "2")
    process = ready().Process(target=train_until_killed, args=(checkpoint, photos, out, *options))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert STATE in names(out) and FILE not in names(out)
    assert train(checkpoint, photos, out, "--steps", "5", "--no-preview", "--resume") == 0
    assert Residual.load(out / FILE).metadata.steps == 5
    assert names(out) == [FILE]


@pytest.mark.parametrize("when", ["twice", "before the first step"])
def test_an_aborted_training_writes_nothing(when, checkpoint, photos, tmp_path, monkeypatch, at_step):
    if when == "twice":
        at_step(2, send(signal.SIGINT, 2))
    else:
        original = TrainingRun.should_stop
        monkeypatch.setattr(TrainingRun, "should_stop", lambda self: [original(self), send(signal.SIGINT)()][0])
    assert train(checkpoint, photos, tmp_path, "--steps", "9") == 130
    assert names(tmp_path) == []


def test_an_error_in_the_middle_keeps_what_was_learned(checkpoint, photos, tmp_path, at_step, capsys):
    def fail():
        raise PersresError("The memory is full.")

    at_step(2, fail)
    assert train(checkpoint, photos, tmp_path, "--steps", "4") == 1
    error = capsys.readouterr().err
    assert "The memory is full." in error and "go on from step 2" in error and names(tmp_path) == [STATE]
    at_step(-1, None)
    assert train(checkpoint, photos, tmp_path, "--steps", "4", "--resume", "--no-preview") == 0
    assert names(tmp_path) == [FILE]


def test_drawn_pictures_of_the_class_are_kept_by_a_signal(checkpoint, photos, tmp_path, monkeypatch, capsys):
    from lib_persres.training import prior

    monkeypatch.setattr(prior, "STEPS", 1)
    original = TrainingRun.drawing
    drawn_at = []

    def drawing(self, drawn, count):
        original(self, drawn, count)
        drawn_at.append(drawn)
        if drawn == 4 and STATE not in names(tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrainingRun, "drawing", drawing)
    options = ("--recipe", "custom-diffusion", "--no-preview")
    assert train(checkpoint, photos, tmp_path, *options) == 143
    assert names(tmp_path) == [STATE] and "go on from step 0" in capsys.readouterr().err
    assert train(checkpoint, photos, tmp_path, *options, "--resume") == 0
    assert drawn_at[:3] == [0, 4, 4] and drawn_at.count(0) == 1  # the first four are not drawn again


# -- the file's place


def test_a_disk_that_is_full_at_the_end_costs_nothing(checkpoint, photos, tmp_path, monkeypatch, capsys):
    out, here = tmp_path / "out", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    original = os.fsync

    def full(file):
        if os.path.samefile(os.path.dirname(os.readlink(f"/proc/self/fd/{file}")), out):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(file)

    monkeypatch.setattr(residuals.os, "fsync", full)
    assert train(checkpoint, photos, out) == 1
    error = capsys.readouterr().err
    (line,) = (line for line in error.splitlines() if line.startswith("error: "))
    assert f"out/{FILE} cannot be written: No space left on device. So it is in" in line
    assert line.endswith(f"here/{FILE}: move it.")
    assert names(here) == [FILE] and names(out) == []
    assert Residual.load(here / FILE).metadata.steps == 2


def test_a_disk_without_room_is_met_before_the_work(checkpoint, photos, tmp_path, monkeypatch, capsys):
    from lib_persres.training import loop

    monkeypatch.setattr(loop, "train", lambda *_, **__: pytest.fail("it was trained"))

    class Usage:
        free = 1000

    monkeypatch.setattr(training_files.shutil, "disk_usage", lambda path: Usage)
    assert train(checkpoint, photos, tmp_path) == 1
    error = capsys.readouterr().err
    assert "has room for 1.0 kB, and the file needs" in error and names(tmp_path) == []


def test_two_trainings_of_one_name_do_not_replace_one_another(checkpoint, photos, tmp_path, at_step, capsys):
    at_step(2, lambda: (tmp_path / FILE).write_bytes(b"another's, written meanwhile"))
    assert train(checkpoint, photos, tmp_path) == 0
    assert "so this one is rex-2.safetensors" in capsys.readouterr().err
    assert (tmp_path / FILE).read_bytes() == b"another's, written meanwhile"
    assert Residual.load(tmp_path / "rex-2.safetensors").metadata.steps == 2
    at_step(2, lambda: None)
    assert train(checkpoint, photos, tmp_path, "--overwrite") == 0
    assert Residual.load(tmp_path / FILE).metadata.steps == 2


def test_a_second_training_of_a_name_is_refused_while_the_first_runs(checkpoint, photos, tmp_path, capsys):
    files = TrainingFiles(tmp_path / FILE, overwrite=False, resume=False)
    with files.lock():
        code = "import sys, pathlib; from lib_persres.commands.lock import only_one\n"
        code += "with only_one(pathlib.Path(sys.argv[1]), 'Taken.'): pass"
        other = subprocess.run(
            [sys.executable, "-c", code, tmp_path / ".rex.lock"], cwd=ROOT, capture_output=True, text=True
        )
        assert other.returncode and "PersresError: Taken." in other.stderr
        assert train(checkpoint, photos, tmp_path) == 1
        assert "is being trained by another process" in capsys.readouterr().err
    assert names(tmp_path) == []
    with files.lock():  # it was freed
        pass


def test_a_lock_where_none_can_be_written_is_none(tmp_path):
    with only_one(tmp_path / "missing" / ".lock", "taken"):
        pass
