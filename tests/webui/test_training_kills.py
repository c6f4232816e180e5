"""The real WebUI is killed at random moments while it trains, and started again: PERSRES_KILLS times, else 2."""

import os
import random
import signal
import time
import urllib.error
from pathlib import Path

import pytest
import torch
from host import ROOT, Host, configure, make_data
from trainings import ROUTE, numbers, submit, wait

from lib_persres.errors import PersresError
from lib_persres.residual import Residual

KILLS = int(os.environ.get("PERSRES_KILLS", "2"))
STEPS = max(60, 10 * KILLS)
LONGEST = 4.0
"""Seconds from a training's begin to its kill."""


@pytest.fixture
def start(tmp_path):
    """Starts a WebUI, always with the same folder of its own."""
    data = tmp_path / "data"
    make_data(data, {"persres": ROOT})
    configure(data, persres_state_every=1)
    hosts = []

    def begin() -> Host:
        hosts.append(Host(Path(os.environ["PERSRES_WEBUI"]), data))
        return hosts[-1].wait()

    yield begin
    for one in hosts:
        one.stop()


def kill_soon(host, identity, chance) -> float:
    """Kill it after a while in which files are written now and then; the seconds."""
    began, seconds = time.monotonic(), chance.uniform(0, LONGEST)
    while time.monotonic() < began + seconds:
        try:
            host.post(f"{ROUTE}/{identity}/{chance.choice(['save', 'save', 'sample'])}")
        except urllib.error.HTTPError as error:
            error.read()  # it has not begun, or has ended
        time.sleep(min(chance.uniform(0, 0.4), max(0, began + seconds - time.monotonic())))
    host.process.send_signal(signal.SIGKILL)
    host.process.wait()
    return seconds


def test_kills_leave_no_broken_file_and_the_training_ends_as_if_there_had_been_none(start, photos):
    host = start()
    folder = host.data / "models" / "persres"
    whole = wait(host, submit(host, photos, "whole", steps=STEPS))
    expected = numbers(Residual.load(whole["file"]))
    os.unlink(whole["file"])  # else the next dog gets another identifier
    chance, moments = random.Random(time.time_ns()), []
    identity = submit(host, photos, "killed", steps=STEPS)
    for _ in range(KILLS):
        seconds = kill_soon(host, identity, chance)
        files = sorted(folder.glob("*.safetensors"))
        for path in files:
            try:
                Residual.load(path)
            except PersresError as error:
                raise AssertionError(f"after a kill at {moments}, {seconds:.2f} s: {error}") from error
        host = start()
        status = host.get(f"{ROUTE}/{identity}")
        moments.append((round(seconds, 2), status["done"], status["state"]))
        if status["state"] == "finished":
            break
        assert status["state"] in ("interrupted", "queued"), status  # queued: it was killed before it began
        if status["state"] == "interrupted":
            host.post(f"{ROUTE}/{identity}/resume")
    print("\nseconds, steps on the disk and state after each kill:", moments)
    status = wait(host, identity, "finished", "failed")
    assert status["state"] == "finished", status
    learned = Residual.load(status["file"])
    assert learned.metadata.steps == STEPS and torch.equal(numbers(learned), expected)
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == ["killed", "mia", "rex"]
    # a kill in mid-write leaves a hidden part of a file, which nothing reads
    assert all(path.suffix == ".safetensors" or path.name.startswith(".") for path in folder.iterdir())
