"""The commands on a tiny model with random weights: plumbing, sentences and files, not learning."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ldm")

import torch
from command_runs import refused
from PIL import Image
from safetensors.torch import save_file

from lib_persres import commands
from lib_persres.__main__ import run
from lib_persres.commands import common, main
from lib_persres.commands.train import output_file
from lib_persres.errors import PersresError
from lib_persres.residual import Residual

ROOT = Path(__file__).resolve().parents[3]


# -- help ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [[], ["train"], ["generate"], ["inspect"], ["toybox"], ["toybox", "photos"], ["toybox", "cool"]],
)
def test_help_is_shown_on_request(command, capsys):
    assert main([*command, "--help"]) == 0
    assert "usage: python -m lib_persres" in capsys.readouterr().out


def test_without_a_command_the_help_is_shown_and_the_status_is_2(capsys):
    assert main([]) == 2 and main(["toybox"]) == 2 and main(["cook"]) == 2
    assert "usage:" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import sys; from lib_persres.commands import main; main(['train', '--help'])\n"
        "sys.exit(bool({'torch', 'numpy', 'PIL', 'tqdm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_help_of_toybox_photos_names_what_there_is(capsys):
    from lib_persres.toybox.world import BACKGROUNDS, CLASSES, SKINS

    main(["toybox", "photos", "--help"])
    text = capsys.readouterr().out
    words = [*CLASSES, *BACKGROUNDS, *(skin.layout for skin in SKINS)]
    assert [word for word in words if word not in text] == []


# -- names of files and folders --------------------------------------------------------------------------------


def test_a_suffix_in_capitals_is_a_residuals_too_and_dots_are_no_suffix(tmp_path):
    for given, meant in {
        "rex.safetensors": "rex.safetensors",
        "rex.SAFETENSORS": "rex.safetensors",
        "run.v1.5": "run.v1.5/x.safetensors",
        "": "x.safetensors",
    }.items():
        assert output_file(str(tmp_path / given), "x") == tmp_path / meant
    (tmp_path / "rex.PNG").mkdir()
    assert output_file(str(tmp_path / "rex.PNG"), "x") == tmp_path / "rex.PNG" / "x.safetensors"


@pytest.mark.parametrize("name", ["x.png", "x.JPG", "x.webp", "x.safetensors", "x.SAFETENSORS", "x.ckpt"])
def test_no_command_makes_a_folder_that_is_named_as_a_file(name, tmp_path, capsys):
    out = tmp_path / name
    for command in (["toybox", "photos", out], ["toybox", "sample", out], ["generate", "--prompt", "x", "--out", out]):
        sentence = refused(capsys, command)
        assert f"{out} is named as a file, and a folder is needed here: leave out {out.suffix}." in sentence
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    common.make_folder(out)  # whoever has one may use it


# -- inspect -------------------------------------------------------------------------------------------------


def test_inspect_shows_the_metadata(residual, capsys):
    assert main(["inspect", str(residual)]) == 0
    text = capsys.readouterr().out
    lines = {line[:14].strip(): line[14:] for line in text.splitlines()[1:]}
    assert lines["concept"] == "rex" and lines["class"] == "dog" and lines["steps"] == "2 done"
    assert lines["ranks"].startswith("2 at width 32, 3 at width 64") and "→" in lines["loss"]
    assert "paper" in lines["recipe"] and "steps 2" in lines["stage 1"] and lines["images"].startswith("2 (")


def test_inspect_json_is_one_object_a_line(residual, capsys):
    assert main(["inspect", "--json", str(residual), str(residual)]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == second and first["concept"] == "rex" and first["ranks"] == {"32": [2], "64": [3]}
    assert first["parameters"] == Residual.load(residual).parameters_count()


def test_inspect_tells_the_reason_for_a_wrong_file_and_shows_the_others(residual, tmp_path, capsys):
    wrong = tmp_path / "lora.safetensors"
    save_file({"lora_unet_down.lora_up.weight": torch.zeros(1)}, wrong)
    assert main(["inspect", str(wrong), str(residual)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "lora.safetensors" in captured.err and "a LoRA" in captured.err
    assert "concept     rex" in captured.out


def test_inspect_finds_names_as_generate_does(residual, tmp_path, capsys, monkeypatch):
    assert main(["inspect", "rex", "--residuals", str(residual.parent)]) == 0
    assert f"{residual}\n" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    (tmp_path / "residuals").mkdir()
    (tmp_path / "residuals" / "tom.safetensors").write_bytes(residual.read_bytes())
    for name in ("tom", "rex", "tom.safetensors", "residuals/tom"):
        assert main(["inspect", name]) == 0
    capsys.readouterr()
    assert main(["inspect", "tmo"]) == 1 and main(["inspect", "no/such"]) == 1
    error = capsys.readouterr().err
    assert 'There is no residual "tmo" (did you mean "tom"?) in residuals' in error and "no residual no/such" in error


def test_inspect_says_what_a_folder_and_a_state_are(residual, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.state.pt").write_bytes(b"no state")
    state = tmp_path / "rex.state.pt"
    torch.save({"facts": Residual.read_metadata(residual).to_strings()}, state)
    for name, said in {
        residual.parent: f"is a folder with 1 residual: name files in it, such as {residual}",
        tmp_path / "empty": "is a folder without residuals",
        state: 'is the state of the unfinished training of "rex" (dog), not a residual: give',
        tmp_path / "x.state.pt": "not a safetensors file",
    }.items():
        assert main(["inspect", str(name)]) == 1
        assert said in " ".join(capsys.readouterr().err.split())


def test_inspect_leaves_out_what_is_as_usual(residual, capsys):
    assert main(["inspect", str(residual)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (recipe,) = (line for line in lines if line.startswith("  recipe"))
    (stage,) = (line for line in lines if line.startswith("  stage 1"))
    assert "template a photo of" in recipe and not any(word in recipe for word in ("flips", "start", "class_images"))
    assert "steps 2, batch 1, learning_rate" in stage and not any(word in stage for word in ("prior", "map_", "None"))


def test_inspect_lets_no_file_steer_the_terminal(residual, tmp_path, capsys):
    changed = Residual.load(residual)
    changed.metadata.base_hash = "rex\x1b[2J"
    changed.metadata.recipe = {"name": "\x1b[31m", "stages": "none"}
    changed.metadata.loss = {"first": "low"}
    changed.save(tmp_path / "rex.safetensors")
    for more in ([], ["--json"]):
        assert main(["inspect", str(tmp_path / "rex.safetensors"), *more]) == 0
        assert "\x1b" not in capsys.readouterr().out


# -- toybox --------------------------------------------------------------------------------------------------


def test_toybox_sample_writes_scenes_and_captions(tmp_path, capsys):
    assert main(["toybox", "sample", str(tmp_path / "a"), "--count", "3"]) == 0
    lines = (tmp_path / "a" / "captions.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["00000.png", "00001.png", "00002.png"]
    with Image.open(tmp_path / "a" / "00002.png") as image:
        assert image.size == (128, 128)
    assert "already exists" in refused(capsys, ["toybox", "sample", tmp_path / "a"])
    assert main(["toybox", "sample", str(tmp_path / "a"), "--count", "3", "--force"]) == 0
    assert (tmp_path / "a" / "captions.txt").read_text().splitlines() == lines


def test_toybox_photos_are_told_apart_by_their_seed_and_kept(photos, tmp_path, capsys):
    main(["toybox", "photos", str(tmp_path), "--count", "2"])
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in photos.iterdir())
    assert "already exists" in refused(capsys, ["toybox", "photos", tmp_path, "--seed", "1"])
    assert "halves-0" in refused(capsys, ["toybox", "photos", tmp_path, "--skin", "fur"])
    assert "snow" in refused(capsys, ["toybox", "photos", tmp_path, "--background", "moss"])


def test_a_training_of_the_toybox_goes_on_only_with_the_same_scenes(tmp_path, capsys):
    (tmp_path / "seed.txt").write_text("7\n")
    assert "another seed" in refused(capsys, ["toybox", "train", tmp_path, "--seed", "8"])
    assert "There is no training in" in refused(capsys, ["toybox", "cool", tmp_path, "--seed", "7"])


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, status, text",
    [
        (PersresError("So it is."), 1, "error: So it is.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(28, "No space left on device", "x.png"), 1, "error: x.png: No space left on device.\n"),
        (ModuleNotFoundError("No module", name="transformers"), 1, "error: The package transformers is not"),
        (MemoryError(), 1, "error: The memory is full"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "error: The memory is full"),
        (RuntimeError("\"conv2d\" not implemented for 'Half'"), 1, "error: The device cannot compute"),
    ],
)
def test_failures_are_a_sentence_and_a_status(error, status, text, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(commands.inspect, "run", fail)
    assert main(["inspect", "x"]) == status
    assert capsys.readouterr().err.startswith(text)


def test_ctrl_c_before_the_commands_are_there_is_a_line_and_a_status(monkeypatch, capsys):
    class Interrupted:
        def find_spec(self, name, *_):
            if name == "lib_persres.commands":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "lib_persres.commands")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert run() == 130 and capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("name", ["ldm.modules.attention", "transformers", "yaml", "clip", "ray"])
def test_a_missing_package_is_installed_by_what_the_sentence_says(name, monkeypatch, capsys):
    def fail(args):
        raise ModuleNotFoundError("No module", name=name)

    monkeypatch.setattr(commands.inspect, "run", fail)
    assert main(["inspect", "x"]) == 1
    error = capsys.readouterr().err
    listed = (ROOT / "pyproject.toml").read_text() + (ROOT / "requirements-nodeps.txt").read_text()
    nodeps = [line.partition("==")[0] for line in (ROOT / "requirements-nodeps.txt").read_text().splitlines()]
    wanted = {"ldm": "stable-diffusion-sdkit", "clip": "clip-anytorch", "ray": "ray"}.get(name.partition(".")[0])
    assert "pip install " in error and (wanted is None or (wanted in error and wanted in listed))
    if wanted in nodeps or wanted is None:  # the list alone lacks ldm, and pip's own dependencies break it
        assert "--no-deps" in error


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(commands.inspect, "run", lambda args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "x"])
