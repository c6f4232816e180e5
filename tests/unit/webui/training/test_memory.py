"""The figure of memory beside a training's progress."""

import pathlib
import sys

import torch

from lib_persres.webui.training.memory import in_use

CPU = torch.device("cpu")


def test_on_the_cpu_it_is_the_process_with_all_that_it_holds():
    before = in_use(CPU)
    assert before["kind"] == "RAM" and 10e6 < before["bytes"] < 1e12
    block = torch.ones(30_000_000)  # 120 MB, touched
    after = in_use(CPU)
    assert 60e6 < after["bytes"] - before["bytes"] < 300e6 and block[0] == 1


def test_where_nothing_tells_it_there_is_none_and_no_error(monkeypatch):
    def gone(*_, **__):
        raise OSError("there is no /proc here")

    monkeypatch.setattr(pathlib.Path, "read_text", gone)
    monkeypatch.setitem(sys.modules, "psutil", None)  # importing it fails
    assert in_use(CPU) is None


def test_without_proc_psutil_is_asked(monkeypatch):
    def gone(*_, **__):
        raise OSError("there is no /proc here")

    class Process:
        def memory_info(self):
            return type("Info", (), {"rss": 77})

    monkeypatch.setattr(pathlib.Path, "read_text", gone)
    monkeypatch.setitem(sys.modules, "psutil", type(sys)("psutil"))
    monkeypatch.setattr(sys.modules["psutil"], "Process", Process, raising=False)
    assert in_use(CPU) == {"kind": "RAM", "bytes": 77}
