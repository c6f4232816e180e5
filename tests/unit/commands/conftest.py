"""A tiny model, photos and a residual for the commands, made once."""

import pytest
import torch
from command_runs import train
from standalone_models import DDCONFIG, randomize, tiny_text, tiny_unet

from lib_persres.commands import main
from lib_persres.standalone.checkpoint import save_sd1
from lib_persres.standalone.modules import AutoencoderKL


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny model with random weights."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    torch.manual_seed(2)
    vae = randomize(AutoencoderKL({**DDCONFIG, "ch_mult": [1, 1, 1, 1]}, 4))  # f = 8, as in every SD
    save_sd1(path, tiny_unet(), vae, tiny_text(), scale_factor=0.5)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    assert main(["toybox", "photos", str(folder), "--count", "2"]) == 0
    return folder


@pytest.fixture(scope="session")
def residual(checkpoint, photos, tmp_path_factory):
    """The file that `train` wrote."""
    path = tmp_path_factory.mktemp("residuals") / "rex.safetensors"
    assert train(checkpoint, photos, path) == 0
    return path
