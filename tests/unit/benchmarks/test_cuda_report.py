"""`dev.py cuda`: every part is by itself, whatever becomes of it is in the report, and without a card it says so."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.cuda import __main__ as cuda
from benchmarks.cuda import report
from benchmarks.cuda.parts import PARTS, Bench

WORKS = """
import json, sys
facts = {"rows": [{"way": "a|b", "step_s": 0.123456}], "figures": {"cost.lag": {"value": 1.01, "note": "on a card"}}}
json.dump(facts, open(sys.argv[1], "w"))
"""
BREAKS = WORKS + "raise SystemExit('the card fell off')"
HANGS = (
    WORKS
    + """
import os, subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
child.wait()
"""
)
DIFFERS = """
import json, sys
json.dump({"checks": [{"what": "losses", "value": 0.5, "bound": 0.02, "ok": False}]}, open(sys.argv[1], "w"))
"""
DIES = "import os; os.abort()"


@pytest.fixture
def perform(monkeypatch, tmp_path):
    """Run parts that are these programs: the status and the report's facts."""
    monkeypatch.setattr(cuda, "card_problem", lambda python, device: None)

    def perform(programs, *arguments):
        monkeypatch.setattr(cuda, "PARTS", tuple(cuda.Part(name, 120, f"about {name}") for name in programs))
        monkeypatch.setattr(
            cuda, "command_of", lambda part, device, result: [sys.executable, "-c", programs[part.name], str(result)]
        )
        status = cuda.main(["--out", str(tmp_path / "out"), *arguments])
        return status, json.loads((tmp_path / "out" / "report.json").read_text())["parts"]

    return perform


def test_a_part_that_fails_or_dies_stops_no_other_and_what_it_had_measured_is_kept(perform, tmp_path):
    status, parts = perform({"one": BREAKS, "two": DIES, "three": DIFFERS, "four": WORKS})
    assert status == 1 and [part["state"] for part in parts] == ["failed", "failed", "differs", "done"]
    assert parts[0]["error"] == "the card fell off" and parts[0]["figures"]["cost.lag"]["value"] == 1.01
    assert "it ended with" in parts[1]["error"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| one | failed |" in text and "the card fell off" in text and "| losses | 0.5 | 0.02 | **no** |" in text
    assert "| a\\|b | 0.1235 |" in text and "| `cost.lag` | <= 1.015 | 1.01 | on a card |" in text
    assert perform({"one": WORKS})[0] == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups")
def test_a_part_that_hangs_is_ended_with_all_that_it_started(perform, tmp_path, monkeypatch):
    log = tmp_path / "out" / "one.log"

    class Hanging(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            while not log.read_text().endswith("\n"):  # until it has started its child
                assert self.poll() is None
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(self.args, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(cuda.subprocess, "Popen", Hanging)
        status, (part,) = perform({"one": HANGS})
    assert status == 1 and part["state"] == "out of time" and part["rows"]
    child = int(log.read_text())
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
            with open(f"/proc/{child}/stat") as file:
                if file.read().split()[2] == "Z":  # ended, and waits for whoever adopted it
                    return
        except (ProcessLookupError, FileNotFoundError):
            return
    raise AssertionError("the child still runs")


def test_what_no_time_is_left_for_is_said(perform):
    status, parts = perform({"one": WORKS, "two": WORKS}, "--seconds", "1")
    assert status == 1 and [part["state"] for part in parts] == ["left out"] * 2


def test_parts_can_be_chosen(perform, capsys):
    status, parts = perform({"one": WORKS, "two": BREAKS}, "one")
    assert status == 0 and [part["part"] for part in parts] == ["one"]
    with pytest.raises(SystemExit):
        perform({"one": WORKS}, "three")
    assert "there is no part 'three'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_one_sentence_says_so_and_nothing_is_written(tmp_path, capfd):
    assert cuda.main(["--out", str(tmp_path / "out")]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("There is no CUDA card here that torch ") and "--device cpu" in line
    assert not (tmp_path / "out").exists()


def test_a_python_without_torch_is_told(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n")
    python.chmod(0o755)
    problem = cuda.card_problem(str(python), "cpu")
    reason = "ModuleNotFoundError: No module named 'torch'"
    assert problem == f"{python} cannot import torch ({reason}): nothing was measured."


def test_every_part_has_its_function_and_all_end_within_nine_minutes():
    assert [part.name for part in cuda.PARTS] == list(PARTS)
    assert cuda.SECONDS <= 540 - 10 and all(part.limit <= cuda.SECONDS for part in cuda.PARTS)


def test_a_bench_tells_what_it_has_at_once_and_numbers_that_are_none_do_not_pass(tmp_path):
    bench = Bench("cpu", tmp_path / "part.json")
    bench.row(way="graph", ms=1.0)
    bench.check("losses", float("nan"), 0.1)
    bench.figures({"train.gpu_seconds": (12.0, "a card")})
    found = json.loads((tmp_path / "part.json").read_text())
    assert found["rows"] == [{"way": "graph", "ms": 1.0}] and found["checks"][0]["ok"] is False
    part = {"part": "a", "about": "b", "state": "done", **found}
    facts = {"device": "cpu", "began": "now", "python": "3", "parts": [part]}
    assert "| `train.gpu_seconds` | <= 15 | 12 | a card |" in report.markdown(facts)
