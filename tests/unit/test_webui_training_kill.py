"""A process that trains is killed at random moments, and another one goes on."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_process

from lib_persres.residual import Residual

PROGRAM = Path(__file__).parent / "training_process.py"
KILLS = int(os.environ.get("PERSRES_KILLS", "1"))
STEPS = 15 * KILLS


def start(folder):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), str(STEPS)],
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def numbers(path):
    residual = Residual.load(path)
    return torch.cat([part.flatten() for f in residual.factors.values() for part in (f.down, f.up)])


@pytest.mark.usefixtures("one_thread")  # as in those processes
def test_kills_at_random_moments_leave_readable_files_and_a_training_that_ends_the_same(tmp_path, capsys):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    training_process.main(tmp_path / "whole", STEPS)
    out = capsys.readouterr().out
    assert "finished" in out, out
    chance = random.Random(time.time_ns())
    reached = []
    for _ in range(KILLS):
        process = start(tmp_path / "killed")
        first = process.stdout.readline().strip()
        assert first.isdigit(), first + process.stdout.read()
        reached.append(int(first))
        if first == str(STEPS):
            break
        time.sleep(chance.random() * 1.5)
        process.kill()
        process.wait()
        for path in (tmp_path / "killed" / "persres").glob("*.safetensors"):
            Residual.load(path)
    print("the first step of each process:", reached)
    out, _ = start(tmp_path / "killed").communicate(timeout=600)
    assert "finished" in out, out
    file = "persres/killed.safetensors"
    assert torch.equal(numbers(tmp_path / "killed" / file), numbers(tmp_path / "whole" / file))
    assert [path.name for path in (tmp_path / "killed" / "persres").glob("*.safetensors")] == ["killed.safetensors"]
