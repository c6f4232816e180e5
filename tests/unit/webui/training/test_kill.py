"""A process that trains is killed at random moments, and another one goes on."""

import os
import random
import time

import pytest
import torch
import training_process
from ready_processes import ready

from lib_persres.residual import Residual

KILLS = int(os.environ.get("PERSRES_KILLS", "1"))
STEPS = 15 * KILLS


def start(folder):
    """A process that trains, and the end of the pipe on which it tells."""
    context = ready()
    told, telling = context.Pipe(duplex=False)
    process = context.Process(target=training_process.main, args=(folder, STEPS, telling.send), daemon=True)
    process.start()
    telling.close()
    return process, told


def numbers(path):
    residual = Residual.load(path)
    return torch.cat([part.flatten() for f in residual.factors.values() for part in (f.down, f.up)])


@pytest.mark.usefixtures("one_thread")  # as in those processes
def test_kills_at_random_moments_leave_readable_files_and_a_training_that_ends_the_same(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    here = []
    training_process.main(tmp_path / "whole", STEPS, here.append)
    assert here[-1][0] == "finished", here
    chance = random.Random(time.time_ns())
    reached = []
    for _ in range(KILLS):
        process, told = start(tmp_path / "killed")
        reached.append(told.recv())
        if reached[-1] == STEPS:
            break
        time.sleep(chance.random() * 1.5)
        process.kill()
        process.join()
        for path in (tmp_path / "killed" / "persres").glob("*.safetensors"):
            Residual.load(path)
    print("the first step of each process:", reached)
    process, told = start(tmp_path / "killed")
    last = None
    while last is None or isinstance(last, int):
        last = told.recv()
    assert last[0] == "finished", last
    file = "persres/killed.safetensors"
    assert torch.equal(numbers(tmp_path / "killed" / file), numbers(tmp_path / "whole" / file))
    assert [path.name for path in (tmp_path / "killed" / "persres").glob("*.safetensors")] == ["killed.safetensors"]
