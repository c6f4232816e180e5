"""The commands on a tiny model with random weights: plumbing, sentences and files, not learning."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ldm")

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from standalone_models import DDCONFIG, randomize, tiny_text, tiny_unet

from lib_persres import commands
from lib_persres.commands import common, main
from lib_persres.commands.pictures import PictureFolder, infotext, write_png
from lib_persres.commands.residual_folder import ResidualFolder
from lib_persres.commands.train import check_class, check_name
from lib_persres.errors import PersresError
from lib_persres.residual import Residual
from lib_persres.standalone.checkpoint import save_sd1
from lib_persres.standalone.modules import AutoencoderKL
from lib_persres.training.recipes import TARGETS

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "<persres:rex:0.8> a photo of a V* dog, on sand"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    torch.manual_seed(2)
    vae = randomize(AutoencoderKL({**DDCONFIG, "ch_mult": [1, 1, 1, 1]}, 4))  # f = 8, as in every SD
    save_sd1(path, tiny_unet(), vae, tiny_text(), scale_factor=0.5)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    assert main(["toybox", "photos", str(folder), "--count", "2"]) == 0
    return folder


def train(checkpoint, photos, out, *more):
    command = ["train", "--checkpoint", str(checkpoint), "--images", str(photos), "--name", "rex"]
    command += ["--class", "dog", "--out", str(out), "--steps", "2", "--batch", "1", "--crops", "0"]
    return main([*command, "--device", "cpu", *more])


@pytest.fixture(scope="module")
def residual(checkpoint, photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("residuals") / "rex.safetensors"
    assert train(checkpoint, photos, path) == 0
    return path


def generate(checkpoint, residual, out, *more, prompt=PROMPT):
    command = ["generate", "--checkpoint", str(checkpoint), "--residuals", str(residual.parent)]
    command += ["--prompt", prompt, "--out", str(out), "--steps", "2", "--device", "cpu", *more]
    return main(command)


def parameters(path):
    with Image.open(path) as image:
        return image.text["parameters"]


def refused(capsys, command):
    """The sentence with which a command ends."""
    assert main([str(part) for part in command]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and error.endswith(".")
    return error


# -- help ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [[], ["train"], ["generate"], ["inspect"], ["toybox"], ["toybox", "photos"], ["toybox", "export"]],
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


# -- train ---------------------------------------------------------------------------------------------------


def test_training_writes_a_file_that_knows_how_it_was_made(residual, checkpoint, photos):
    metadata = Residual.load(residual).metadata
    assert (metadata.concept, metadata.macro_class, metadata.steps, metadata.seed) == ("rex", "dog", 2, 0)
    assert metadata.recipe["name"] == "paper" and metadata.recipe["stages"][0]["batch"] == 1
    assert metadata.recipe["resolution"] == 64  # 8 · image_size
    assert len(metadata.image_hashes) == len(list(photos.iterdir())) == 2
    assert [path.name for path in residual.parent.iterdir()] == ["rex.safetensors"]


def test_the_same_seed_writes_the_same_file_but_for_its_time(residual, checkpoint, photos, tmp_path, capsys):
    assert train(checkpoint, photos, tmp_path / "new") == 0
    again = tmp_path / "new" / "rex.safetensors"  # --out is a folder here
    assert str(again) in capsys.readouterr().out
    first, second = load_file(residual), load_file(again)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    headers = [Residual.read_metadata(path).to_strings() for path in (residual, again)]
    for header in headers:
        del header["created"]
    assert headers[0] == headers[1]
    assert train(checkpoint, photos, tmp_path / "other", "--seed", "1") == 0
    other = load_file(tmp_path / "other" / "rex.safetensors")
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_file_has_a_picture_that_was_drawn_and_not_a_photo(residual, checkpoint, photos, tmp_path, capsys):
    text = Residual.load(residual).metadata.preview
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.size == (64, 64)  # the model's own size; a larger one would be 128
        drawn = np.asarray(image, dtype=float)
    for path in photos.iterdir():
        photo = np.asarray(Image.open(path).convert("RGB").resize((64, 64)), dtype=float)
        assert np.abs(photo - drawn).mean() > 20
    assert train(checkpoint, photos, tmp_path, "--no-preview") == 0
    bare = Residual.load(tmp_path / "rex.safetensors")
    assert bare.metadata.preview is None
    whole = Residual.load(residual)
    assert all(torch.equal(bare.factors[name].up, whole.factors[name].up) for name in whole.factors)


@pytest.mark.parametrize("error", [RuntimeError("no memory\nat all"), KeyboardInterrupt()])
def test_a_picture_that_fails_costs_no_file(checkpoint, photos, tmp_path, monkeypatch, capsys, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("lib_persres.standalone.preview.draw", fail)
    assert train(checkpoint, photos, tmp_path) == 0
    assert Residual.load(tmp_path / "rex.safetensors").metadata.preview is None
    assert ("no memory." if isinstance(error, RuntimeError) else "has no picture") in capsys.readouterr().err


def test_precision_checkpointing_and_targets_reach_the_trainer(checkpoint, photos, tmp_path, monkeypatch, capsys):
    from lib_persres.training.trainer import Trainer

    seen, original = [], Trainer.__init__

    def spy(self, *args, **options):
        seen.append((options["precision"], options["checkpointing"], args[4].stages[0].targets))
        original(self, *args, **options)

    monkeypatch.setattr(Trainer, "__init__", spy)
    more = ["--precision", "float32", "--checkpointing", "--targets", TARGETS[-1], "--no-preview"]
    assert train(checkpoint, photos, tmp_path, *more) == 0
    assert seen == [("float32", True, TARGETS[-1])]
    assert train(checkpoint, photos, tmp_path, "--targets", "everything") == 2
    assert train(checkpoint, photos, tmp_path, "--precision", "int4") == 2


def test_a_second_concept_of_a_class_gets_another_identifier(residual, checkpoint, photos, tmp_path):
    (tmp_path / "old.safetensors").write_bytes(residual.read_bytes())
    (tmp_path / "broken.safetensors").write_bytes(b"no residual")
    assert train(checkpoint, photos, tmp_path / "rex.safetensors") == 0
    identifiers = {
        Residual.read_metadata(tmp_path / f"{name}.safetensors").identifier for name in ("old", "rex")
    }
    assert len(identifiers) == 2


def test_interrupted_training_keeps_what_was_learned(checkpoint, photos, tmp_path, monkeypatch, capsys):
    from lib_persres.commands.train import _Training

    progress = _Training.progress

    def interrupt(self, done, total, loss):
        progress(self, done, total, loss)
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(_Training, "progress", interrupt)
    before = signal.getsignal(signal.SIGINT)
    assert train(checkpoint, photos, tmp_path, "--steps", "9") == 0
    assert signal.getsignal(signal.SIGINT) is before
    metadata = Residual.load(tmp_path / "rex.safetensors").metadata
    assert metadata.steps == 2 and metadata.recipe["stages"][0]["steps"] == 9
    assert "after 2 of 9 steps" in capsys.readouterr().err


@pytest.mark.parametrize("when", ["twice", "before the first step"])
def test_aborted_training_writes_nothing(when, checkpoint, photos, tmp_path, monkeypatch, capsys):
    from lib_persres.commands.train import _Training

    method = "progress" if when == "twice" else "should_stop"
    original = getattr(_Training, method)

    def interrupt(self, *args):
        result = original(self, *args)
        for _ in range(2 if when == "twice" else 1):
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(_Training, method, interrupt)
    assert train(checkpoint, photos, tmp_path, "--steps", "9") == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", "a/b", "a\\b", "../rex", ".rex", "rex:1", "a<b", "a=b", " rex", "x" * 101]
)
def test_names_that_would_be_misread_are_refused(name):
    with pytest.raises(PersresError, match="name"):
        check_name(name)


def test_ordinary_names_and_classes_are_allowed():
    for name in ("rex", "Rex 2", "my-dog_v1.5", "köter", "犬"):
        check_name(name)
    assert check_class(" teddy bear ") == "teddy bear"
    for macro_class in ("", " ", "dog:1", "(dog)", "dog, cat", '"dog"'):
        with pytest.raises(PersresError, match="class"):
            check_class(macro_class)


def test_what_cannot_be_trained_is_refused_before_the_model_is_loaded(
    residual, checkpoint, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "lib_persres.standalone.checkpoint.load", lambda *_, **__: pytest.fail("it was loaded")
    )
    good = {
        "--checkpoint": checkpoint,
        "--images": photos,
        "--name": "rex",
        "--class": "dog",
        "--out": tmp_path,
    }

    def refusal(**changes):
        options = {**good, **{f"--{name}": value for name, value in changes.items()}}
        return refused(capsys, ["train", *(part for pair in options.items() for part in pair)])

    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert "a/b" in refusal(name="a/b")
    assert "nowhere" in refusal(images="nowhere")
    assert "no images" in refusal(images=tmp_path / "empty")
    assert "already exists" in refusal(out=residual)
    assert "needed" in refusal(out=tmp_path / "file" / "rex.safetensors")
    assert "must end in" in refusal(out=tmp_path / "rex.pt")
    assert "nowhere.ckpt" in refusal(checkpoint="nowhere.ckpt")
    assert "template" in refusal(template="a {thing}")
    assert "learning rate" in refusal(lr="7")
    assert "rank" in refusal(rank="many")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
    assert main(["train", "--images", str(photos), "--name", "rex", "--class", "dog", "--steps", "0"]) == 2


def test_what_does_not_fit_the_model_is_refused(checkpoint, photos, tmp_path, capsys):
    train(checkpoint, photos, tmp_path, "--resolution", "72")
    assert "multiple of 16" in capsys.readouterr().err
    train(checkpoint, photos, tmp_path, "--device", "abacus")
    assert "abacus" in capsys.readouterr().err
    train(checkpoint, photos, tmp_path, "--identifier", "a b")
    assert "identifier" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_toybox_name_stands_for_the_shipped_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "TOYBOX_CHECKPOINT", tmp_path / "toybox.safetensors")
    with pytest.raises(PersresError, match="Toybox checkpoint"):
        common.checkpoint_path("toybox")
    (tmp_path / "toybox.safetensors").write_bytes(b"")
    assert common.is_toybox(common.checkpoint_path("toybox"))


def test_default_resolution_is_the_models():
    assert common.default_resolution({"image_size": 16, "model_channels": 64}) == 128
    assert common.default_resolution({"image_size": 32, "model_channels": 320}) == 512
    assert common.default_resolution({"image_size": 64, "model_channels": 320}) == 512


# -- generate ------------------------------------------------------------------------------------------------


def test_pictures_carry_their_settings(checkpoint, residual, tmp_path, capsys):
    out = tmp_path / "outputs"
    assert generate(checkpoint, residual, out, "--lag", "--masks", "--seeds", "3", "5-6", "--batch", "2") == 0
    names = ["00000-3.png", "00001-5.png", "00002-6.png"]
    masks = [name.replace(".png", "-mask.png") for name in names]
    assert sorted(path.name for path in out.iterdir()) == sorted(names + masks)
    assert [Path(line).name for line in capsys.readouterr().out.split()][:2] == [names[0], masks[0]]
    prompt, settings = parameters(out / names[1]).split("\n")
    assert prompt == PROMPT
    assert settings.startswith("Steps: 2, Sampler: DDIM, CFG scale: 6, Seed: 5, Size: 64x64, Model hash: ")
    assert 'Persres: "rex: 0.8 (' in settings and "Persres LAG: median/mirror" in settings
    assert "problems" not in settings
    with Image.open(out / names[0]) as picture, Image.open(out / masks[0]) as mask:
        assert picture.size == mask.size == (64, 64)


def test_pictures_are_never_replaced_and_the_same_for_a_seed(checkpoint, residual, tmp_path):
    for more in ((), (), ("--seeds", "1")):
        assert generate(checkpoint, residual, tmp_path, *more) == 0
    names = ["00000-0.png", "00001-0.png", "00002-1.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    first, second, third = (Image.open(tmp_path / name).tobytes() for name in names)
    assert first == second != third


def test_problems_are_told_on_stderr_and_in_the_picture(checkpoint, residual, tmp_path, capsys):
    prompt = "<persres:rex:1:lag=on> a photo of a cat"
    assert generate(checkpoint, residual, tmp_path, "--masks", "--negative", "a dog", prompt=prompt) == 0
    error = capsys.readouterr().err
    assert "warning: " in error and "is not in the prompt" in error and "no masks" in error
    text = parameters(tmp_path / "00000-0.png")
    assert "\nNegative prompt: a dog\n" in text and 'Persres problems: "' in text
    assert len(list(tmp_path.iterdir())) == 1


def test_pictures_without_concepts_say_nothing_of_them(checkpoint, residual, tmp_path):
    assert generate(checkpoint, residual, tmp_path, "--width", "32", "--guidance", "1", prompt="a dog") == 0
    text = parameters(tmp_path / "00000-0.png")
    assert "Persres" not in text and "Size: 32x64" in text and "CFG scale: 1," in text


def test_prompts_that_cannot_be_drawn_are_refused(checkpoint, residual, tmp_path, capsys):
    command = [
        "generate",
        "--checkpoint",
        checkpoint,
        "--residuals",
        residual.parent,
        "--out",
        tmp_path / "new",
    ]
    assert "it holds rex" in refused(capsys, [*command, "--prompt", "<persres:max> a V* dog"])
    assert "strength" in refused(capsys, [*command, "--prompt", "<persres:rex:big> a V* dog"])
    assert "no mask 'mean'" in refused(capsys, [*command, "--prompt", "a dog", "--mask", "mean"])
    assert not (tmp_path / "new").exists()
    assert "multiple of 16" in refused(capsys, [*command, "--prompt", "a dog", "--width", "72"])
    assert main([*map(str, command), "--prompt", "a dog", "--seeds", "7-3"]) == 2
    assert main([*map(str, command), "--prompt", "a dog", "--guidance", "nan"]) == 2


# -- residuals by name ---------------------------------------------------------------------------------------


def test_a_residual_is_found_by_stem_or_path(residual, tmp_path):
    deep = tmp_path / "dogs" / "rex.safetensors"
    deep.parent.mkdir()
    deep.write_bytes(residual.read_bytes())
    folder = ResidualFolder(tmp_path)
    assert folder.path("rex") == folder.path("dogs/rex") == folder.path(str(deep)) == deep
    assert folder("rex") is folder("dogs/rex") and len(folder.short_hash("rex")) == 10
    (tmp_path / "rex.safetensors").write_bytes(residual.read_bytes())
    with pytest.raises(PersresError) as caught:
        folder.path("rex")
    assert str(deep) in str(caught.value) and str(tmp_path / "rex.safetensors") in str(caught.value)
    assert folder.path("dogs/rex") == deep


def test_what_there_is_instead_is_listed(tmp_path):
    for wanted, folder in (("does not exist", tmp_path / "none"), ("holds none", tmp_path)):
        with pytest.raises(PersresError, match=wanted):
            ResidualFolder(folder).path("rex")
    for index in range(12):
        (tmp_path / f"c{index:02}.safetensors").touch()
    with pytest.raises(PersresError, match="it holds c00, c01, .*c09 and 2 more"):
        ResidualFolder(tmp_path).path("rex")
    with pytest.raises(PersresError, match="is a file"):
        ResidualFolder(tmp_path / "c00.safetensors").path("rex")
    with pytest.raises(PersresError, match="neither here nor in"):
        ResidualFolder(tmp_path).path("dogs/rex")


# -- pictures ------------------------------------------------------------------------------------------------


def test_infotext_quotes_as_the_webui_does():
    text = infotext("a\nb", "", {"Steps": 2, "CFG scale": 6.5, "Persres": "rex: 1.0 (a)", "Gone": None})
    assert text == 'a\nb\nSteps: 2, CFG scale: 6.5, Persres: "rex: 1.0 (a)"'


def test_numbers_go_on_after_the_highest(tmp_path):
    image = Image.new("RGB", (8, 8))
    for name in ("00007-1.png", "00003-1.png", "notes.txt", "99-1.png"):
        (tmp_path / name).touch()
    folder = PictureFolder(tmp_path)
    (tmp_path / "00008-4.png").write_bytes(b"written meanwhile")
    assert folder.save(image, 4, "text").name == "00009-4.png"
    with pytest.raises(FileExistsError):
        write_png(tmp_path / "00008-4.png", image)
    assert (tmp_path / "00008-4.png").read_bytes() == b"written meanwhile"


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


def test_inspect_lets_no_file_steer_the_terminal(residual, tmp_path, capsys):
    changed = Residual.load(residual)
    changed.metadata.concept = "rex\x1b[2J"
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


def test_toybox_export_writes_a_checkpoint_that_loads(tmp_path, capsys):
    from lib_persres.standalone.checkpoint import load
    from lib_persres.toybox.train_autoencoder import DDCONFIG as TOYBOX_DDCONFIG
    from lib_persres.toybox.train_denoiser import Model

    base, out = tmp_path / "base", tmp_path / "out" / "toybox.safetensors"
    base.mkdir()
    assert "autoencoder.pt is missing" in refused(capsys, ["toybox", "export", base, out])
    vae, model = AutoencoderKL(TOYBOX_DDCONFIG, 4), Model()
    torch.save({"step": 3, "model": vae.state_dict()}, base / "autoencoder.pt")
    torch.save({"step": 4, "average": model.state_dict()}, base / "denoiser.pt")
    (base / "latents.pt").write_bytes(b"damaged")
    assert "latents.pt is damaged" in refused(capsys, ["toybox", "export", base, out])
    torch.save({"scale": torch.tensor(1.5)}, base / "latents.pt")
    assert "must end in" in refused(capsys, ["toybox", "export", base, tmp_path / "toybox.ckpt"])
    assert main(["toybox", "export", str(base), str(out)]) == 0
    sd = load(out, device="cpu")
    assert sd.scale_factor == 1.5 and common.default_resolution(sd.unet.params) == 128
    weight = "out.2.weight"
    assert torch.equal(sd.unet.state_dict()[weight], model.unet.state_dict()[weight].half().float())
    assert "already exists" in refused(capsys, ["toybox", "export", base, out])


def test_toybox_training_goes_on_only_with_the_same_settings(tmp_path, capsys):
    begun = {"scenes": 50, "scene_seed": 7, "seed": 0, "autoencoder_steps": None}
    (tmp_path / "settings.json").write_text(json.dumps(begun))
    assert "other settings" in refused(capsys, ["toybox", "train", tmp_path, "--scenes", "60"])


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, status, text",
    [
        (PersresError("So it is."), 1, "error: So it is.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(28, "No space left on device", "x.png"), 1, "error: x.png: No space left on device.\n"),
        (ModuleNotFoundError("No module", name="transformers"), 1, "error: The package transformers is not"),
    ],
)
def test_failures_are_a_sentence_and_a_status(error, status, text, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(commands.inspect, "run", fail)
    assert main(["inspect", "x"]) == status
    assert capsys.readouterr().err.startswith(text)


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(commands.inspect, "run", lambda args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "x"])
