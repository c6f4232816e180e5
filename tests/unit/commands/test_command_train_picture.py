"""The picture that `train` draws into its file, and the options that are the trainer's."""

import base64
import io

import pytest

pytest.importorskip("ldm")

import numpy as np
import torch
from command_runs import train
from PIL import Image

from lib_persres.residual import Residual
from lib_persres.training.options import TARGETS


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

    monkeypatch.setattr("lib_persres.training.preview.draw", fail)
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
    assert train(checkpoint, photos, tmp_path, "--targets", "everything") == 1
    assert train(checkpoint, photos, tmp_path, "--precision", "int4") == 2


def test_class_images_reach_the_trainer(checkpoint, photos, tmp_path, monkeypatch):
    from lib_persres.training.trainer import Trainer

    seen, original = [], Trainer.__init__

    def spy(self, *args, **options):
        seen.append(len(options["class_photos"]))
        original(self, *args, **options)

    monkeypatch.setattr(Trainer, "__init__", spy)
    more = ["--recipe", "dreambooth", "--class-images", str(photos), "--rank", "2", "--no-preview"]
    assert train(checkpoint, photos, tmp_path, *more) == 0
    assert seen == [len(list(photos.iterdir()))]
    metadata = Residual.load(tmp_path / "rex.safetensors").metadata
    assert metadata.targets == "unet" and 0 < metadata.truncation < 1
