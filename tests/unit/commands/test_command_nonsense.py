"""Nonsense for each option of each command: a sentence and a status, never a traceback."""

import argparse
import functools
import os

import pytest

pytest.importorskip("ldm")

from benchmarks.fuzz import checkpoints
from lib_persres import commands
from lib_persres.commands import build_parser, evaluate, main
from lib_persres.errors import LONGEST, PersresError
from lib_persres.evaluation import workers
from lib_persres.evaluation.scoring import Scorer
from lib_persres.standalone import checkpoint
from lib_persres.toybox.training import autoencoder
from lib_persres.training import loop

NONSENSE = (
    *("", "-1", "0", "nan", "1e400", "1" + "0" * 400, "9" * 5000, "{}", "0-99999999999", "\udcff"),
    *("~nobody", "x" * 300, "a/b", "<persres:>", "FOLDER", "FILE"),
)


def leaves(parser, words=()):
    """Each command's words and its parser."""
    subs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not subs:
        yield words, parser
    for action in subs:
        for name, sub in action.choices.items():
            yield from leaves(sub, (*words, name))


def every_option():
    for words, parser in leaves(build_parser()):
        for action in parser._actions:
            if action.nargs != 0:  # what takes a value
                yield pytest.param(words, action.option_strings[:1], action.dest, id="-".join([*words, action.dest]))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    for name, data in checkpoints.files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / "m.safetensors"


@pytest.fixture(scope="module", autouse=True)
def made_once():
    """The parser, and the model of each path, device and precision: nothing here changes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "build_parser", functools.cache(build_parser))
        patch.setattr(checkpoint, "load", functools.cache(checkpoint.load))
        yield


LATE = {"identifier", "template", "rank", "targets", "lr"}
"""Options of `train` that are judged when the training begins."""


def stop(*_, **__):
    raise PersresError("It would work now.")


@pytest.fixture
def base(model, photos, tmp_path, monkeypatch):
    """A sound command's arguments by its words."""
    monkeypatch.chdir(tmp_path)
    on = ["--checkpoint", model, "--device", "cpu"]
    train = ["--images", photos, "--name", "rex", "--class", "dog", "--identifier", "x", "--out", "out"]
    train += ["--steps", "1", "--batch", "1", "--crops", "0", "--resolution", "16", "--no-preview", "--overwrite"]
    run = ["--suite", "toybox-quick", "--out", "run", "--workers", "1"]
    run += ["--dataset", "folder", "--root", photos, "--class", "ball"]
    return {
        ("train",): [*on, *train],
        ("generate",): [*on, "--prompt", "a dog", "--out", "out", "--steps", "1", "--width", "8", "--height", "8"],
        ("inspect",): [],
        ("export",): ["rex"],
        ("evaluate", "run"): [*on, *run],
        ("evaluate", "score"): ["run"],
        ("evaluate", "report"): ["run"],
        ("toybox", "photos"): ["out", "--count", "1", "--force"],
        ("toybox", "sample"): ["out", "--count", "1", "--force"],
        ("toybox", "train"): ["out", "--scenes", "4", "--pictures", "20"],
        ("toybox", "cool"): ["out", "--scenes", "4", "--pictures", "20"],
        ("toybox", "judge"): ["out", "--scenes", "8", "--pictures", "20"],
        ("toybox", "convert"): ["--family", "SD2", "--out", "out.safetensors", "--force"],
        ("toybox", "install"): ["--webui", "webui"],
        ("toybox", "uninstall"): ["--webui", "webui"],
    }


@pytest.mark.parametrize("words, option, name", list(every_option()))
def test_nonsense_is_a_sentence(words, option, name, base, tmp_path, capsys, monkeypatch):
    # what takes long begins, and stops
    monkeypatch.setattr(workers, "run_here", stop)
    monkeypatch.setattr(autoencoder, "train_autoencoder", stop)
    if name not in LATE:
        monkeypatch.setattr(loop, "train", stop)
    if name not in ("clip", "dino"):
        monkeypatch.setattr(evaluate, "make_scorer", lambda *_: Scorer())
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FILE").write_bytes(b"\xff\x00 no such thing")
    given = [str(part) for part in base[words]]
    for value in NONSENSE:
        command = [*words, *given]
        if option:
            command += [f"{option[0]}={value}"]
        elif words == ("export",) and name == "file":
            command[len(words)] = value
        elif name in ("folder", "out"):
            command[len(words) + (name == "out")] = value
        else:
            command += [value]
        status = main(command)  # whatever it raises is a fault
        error = capsys.readouterr().err.strip().splitlines()
        assert status in (0, 1, 2), value
        if status:
            assert error and error[-1].startswith("error: "), (value, error)
            assert len(error[-1]) <= LONGEST + len("error: ") and error[-1].isprintable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
@pytest.mark.parametrize("words", [("train",), ("generate",), ("toybox", "photos"), ("toybox", "sample")])
def test_a_folder_that_is_read_only_is_a_sentence(words, base, tmp_path, capsys):
    (tmp_path / "out").mkdir(mode=0o500)
    assert main([*words, *map(str, base[words])]) == 1
    assert "cannot be written into" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("train",), ("generate",), ("toybox", "photos"), ("toybox", "sample")])
def test_a_disk_that_is_full_is_a_sentence_and_leaves_no_half_file(words, base, tmp_path, capsys, monkeypatch):
    import resource
    import signal

    monkeypatch.setenv("HOME", str(tmp_path / "out"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "out"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
    try:
        status = main([*words, *map(str, base[words])])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 1 and error.startswith("error: ") and "File too large" in error
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
