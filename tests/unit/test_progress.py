"""Progress: a bar on a terminal, elsewhere a line now and then."""

import ast
import io
import sys
from pathlib import Path

import pytest

from lib_persres import progress
from lib_persres.progress import EVERY, Lines, progress_bar

PACKAGE = Path(progress.__file__).parent


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_log_gets_a_line_now_and_then_and_the_last_one(clock, capsys):
    with Lines(600, "steps", "training", clock) as bar:
        for step in range(600):
            clock.now += 0.25
            bar.set_postfix_str(f"loss {step}")
            bar.update()
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 600 * 0.25 / EVERY == 5 and "\r" not in told
    first, *_, last = told.splitlines()
    assert first == "training: 120 of 600 steps, 0:30 gone, 2:00 left, loss 119"
    assert last == "training: 600 of 600 steps, 2:30 gone, loss 599"


def test_the_end_is_told_once_and_only_where_something_was_done(clock, capsys):
    with Lines(None, "steps", clock=clock) as bar:
        clock.now += 3700
        bar.update(7)
        bar.close()
    with Lines(4, "steps", clock=clock):
        pass
    with Lines(4, "steps", clock=clock) as bar:
        bar.update(2)
    assert capsys.readouterr().err == "7 steps, 1:01:40 gone\n2 of 4 steps, 0:00 gone, 0:00 left\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_only_a_terminal_has_a_bar(monkeypatch, terminal):
    class File(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setattr(sys, "stderr", File())
    with progress_bar(3, "steps", "drawing") as bar:
        for _ in range(3):
            bar.update()
    told = sys.stderr.getvalue()
    assert ("\r" in told) == terminal and "drawing" in told and "3" in told


def test_there_is_one_way_to_tell_progress():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if any(name.split(".")[0] == "tqdm" for name in names):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == {"progress.py"}
