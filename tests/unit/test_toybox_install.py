"""`toybox install` and `toybox uninstall` on real files, with the shipped checkpoint."""

import functools
import hashlib
import os
import shutil
import signal
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")
import yaml

from lib_persres.commands import main
from lib_persres.standalone import architecture
from lib_persres.standalone.tokenizer import Tokenizer
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox import install as module


@pytest.fixture(scope="module", autouse=True)
def vocabulary_once(tmp_path_factory):
    """The vocabulary, which takes most of an install's time, is read and written the first time alone."""
    kept, write = tmp_path_factory.mktemp("vocabulary"), Tokenizer.write_vocabulary

    def write_once(tokenizer, folder):
        if not list(kept.iterdir()):
            write(tokenizer, kept)
        for path in kept.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokenizer, "find", functools.cache(Tokenizer.find))
        patch.setattr(Tokenizer, "write_vocabulary", write_once)
        yield


@pytest.fixture
def webui(tmp_path):
    folder = tmp_path / "a web ui"
    for part in ("webui.py", "modules/processing.py", "models/Stable-diffusion/Put Stable Diffusion checkpoints here"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_text("")
    return folder


@pytest.fixture
def run(webui, capsys):
    def run(action, *more, folder=webui):
        status = main(["toybox", action, "--webui", str(folder), *map(str, more)])
        output = capsys.readouterr()
        return status, (output.out + output.err).strip()

    return run


def content(folder: Path) -> dict[str, str]:
    """Every file in the folder and its hash; a link's target."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
    }


def models(webui: Path) -> Path:
    return webui / "models" / "Stable-diffusion"


def text_encoder_of(sidecar: Path) -> Path:
    return Path(yaml.safe_load(sidecar.read_text())["model"]["params"]["cond_stage_config"]["params"]["version"])


def test_it_is_installed_with_all_that_loading_needs_and_taken_out_again(webui, run):
    before = content(webui)
    status, text = run("install")
    assert status == 0 and "toybox.safetensors" in text and len(text.splitlines()) == 1
    checkpoint, encoder = models(webui) / "toybox.safetensors", models(webui) / "toybox_text_encoder"
    assert checkpoint.read_bytes() == CHECKPOINT.read_bytes()
    assert encoder.is_absolute() and text_encoder_of(checkpoint.with_suffix(".yaml")) == encoder
    assert (encoder / "config.json").read_bytes() == (CHECKPOINT.parent / "text_encoder/config.json").read_bytes()
    ids = Tokenizer.find(CHECKPOINT.parent).encode("a photo of a ball, in snow")
    assert Tokenizer.from_folder(encoder).encode("a photo of a ball, in snow") == ids
    # the same model to us, too
    assert architecture.read(checkpoint).unet == architecture.read(CHECKPOINT).unet
    assert architecture.read(checkpoint).text_folder == encoder
    assert not list(webui.rglob("*partial*"))
    assert {name: value for name, value in content(webui).items() if name in before} == before
    status, text = run("uninstall")
    assert status == 0 and content(webui) == before


def test_the_data_folder_is_honoured(webui, run, tmp_path):
    before = content(webui)
    assert run("install", "--data-dir", tmp_path / "data")[0] == 1
    (tmp_path / "data").mkdir()
    assert run("install", "--data-dir", tmp_path / "data")[0] == 0
    assert (tmp_path / "data" / "models" / "Stable-diffusion" / "toybox.safetensors").is_file()
    assert content(webui) == before
    assert run("uninstall")[0] == 1
    assert run("uninstall", "--data-dir", tmp_path / "data")[0] == 0
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_a_folder_that_is_no_webui_is_refused(run, tmp_path, action):
    for folder in (tmp_path, tmp_path / "nowhere"):
        status, text = run(action, folder=folder)
        assert status == 1 and f"{folder} is no WebUI" in text and len(text.splitlines()) == 1
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_relative_folder_gives_an_absolute_path(webui, run, monkeypatch):
    monkeypatch.chdir(webui.parent)
    assert run("install", folder=webui.name)[0] == 0
    assert text_encoder_of(models(webui) / "toybox.yaml") == models(webui) / "toybox_text_encoder"


@pytest.mark.parametrize("name", ["toybox.safetensors", "toybox.yaml", "toybox_text_encoder/vocab.json"])
@pytest.mark.parametrize("kind", ["file", "same file", "link", "folder"])
def test_a_foreign_file_of_the_same_name_is_left_alone(webui, run, name, kind):
    path = models(webui) / name
    path.parent.mkdir(exist_ok=True)
    if kind == "file":
        path.write_text("mine")
    elif kind == "same file":
        shutil.copyfile(CHECKPOINT, path)
    elif kind == "link":
        path.symlink_to(webui / "nowhere")
    else:
        path.mkdir()
    before = content(webui)
    status, text = run("install")
    assert status == 1 and f"{path} is there already" in text and len(text.splitlines()) == 1
    assert content(webui) == before
    status, text = run("uninstall")
    assert status == 1 and "not installed" in text and content(webui) == before


def test_a_second_install_changes_nothing(webui, run):
    run("install")
    before = content(webui)
    status, text = run("install")
    assert status == 0 and "already" in text and len(text.splitlines()) == 1
    assert content(webui) == before


def test_a_second_install_repairs_and_follows_the_webui_to_another_place(webui, run):
    run("install")
    (models(webui) / "toybox_text_encoder" / "merges.txt").unlink()
    moved = webui.rename(webui.with_name("moved"))
    assert run("install", folder=moved)[0] == 0
    assert text_encoder_of(models(moved) / "toybox.yaml") == models(moved) / "toybox_text_encoder"
    assert (models(moved) / "toybox_text_encoder" / "merges.txt").is_file()
    assert run("uninstall", folder=moved)[0] == 0
    assert not list(moved.rglob("*toybox*"))


def test_what_was_changed_or_added_stays(webui, run):
    run("install")
    changed, added = models(webui) / "toybox.yaml", models(webui) / "toybox_text_encoder" / "notes.txt"
    changed.write_text("mine")
    added.write_text("mine, too")
    (models(webui) / "toybox.png").write_text("a preview")
    status, text = run("install")
    assert status == 1 and f"{changed} is there already" in text
    status, text = run("uninstall")
    assert status == 0 and f"{changed} was changed" in text
    left = [path.name for path in models(webui).rglob("*toybox*")]
    assert sorted(left) == ["toybox.png", "toybox.yaml", "toybox_text_encoder"]
    assert list((models(webui) / "toybox_text_encoder").iterdir()) == [added]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device", "toybox")])
@pytest.mark.parametrize("at", range(5))
def test_an_interrupted_install_leaves_nothing(webui, run, monkeypatch, error, at):
    before = content(webui)
    copies = []

    def copyfile(source, target):
        copies.append(target)
        data = Path(source).read_bytes()
        Path(target).write_bytes(data[: len(data) // 2] if len(copies) > at else data)
        if len(copies) > at:
            raise error

    monkeypatch.setattr(module.shutil, "copyfile", copyfile)
    status, text = run("install")
    assert status == (130 if isinstance(error, KeyboardInterrupt) else 1) and len(text.splitlines()) == 1
    assert content(webui) == before


def test_a_killed_install_leaves_no_half_file_and_can_be_repeated_or_taken_out(webui, run):
    def copyfile(source, target):
        data = Path(source).read_bytes()
        whole = not str(target).endswith("vocab.json.persres-partial")
        Path(target).write_bytes(data if whole else data[:1000])
        if not whole:
            os.kill(os.getpid(), signal.SIGKILL)

    before = content(webui)
    for finish in ("uninstall", "install"):
        process = os.fork()
        if not process:
            try:
                shutil.copyfile = copyfile
                main(["toybox", "install", "--webui", str(webui)])
            finally:
                os._exit(0)
        assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
        assert (models(webui) / "toybox.safetensors").read_bytes() == CHECKPOINT.read_bytes()
        assert not (models(webui) / "toybox_text_encoder" / "vocab.json").exists()
        assert run(finish)[0] == 0
        if finish == "uninstall":
            assert content(webui) == before
    assert not list(webui.rglob("*partial*"))
    assert run("uninstall")[0] == 0 and content(webui) == before


@pytest.mark.parametrize(
    "record", ["{", "[1]", '{"../../webui.py": ["0"]}', '{"toybox.yaml": "0"}', '{"toybox.yaml": [""]}']
)
def test_a_damaged_record_is_told_and_nothing_is_touched(webui, run, record):
    run("install")
    (models(webui) / "toybox_text_encoder" / "installed.json").write_text(record)
    before = content(webui)
    for action in ("install", "uninstall"):
        status, text = run(action)
        assert status == 1 and "installed.json is damaged" in text and len(text.splitlines()) == 1
    assert content(webui) == before


def test_a_folder_that_cannot_be_written_into_is_told(webui, run):
    shutil.rmtree(webui / "models")
    (webui / "models").write_text("")
    status, text = run("install")
    assert status == 1 and "models" in text and len(text.splitlines()) == 1
