"""A small real model and photos for the tests of the trainer."""

import longhand
import pytest
import torch
from PIL import Image
from standalone_models import tiny_text, tiny_vae

from lib_persres.standalone.checkpoint import StableDiffusion, alphas_cumprod
from lib_persres.training.images import Photo


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    path.write_bytes(b"a stand-in, read only for its hash")
    return StableDiffusion(
        unet=longhand.make_unet(),
        vae=tiny_vae(),
        text=tiny_text(),
        scale_factor=0.5,
        alphas_cumprod=alphas_cumprod(0.00085, 0.012, 1000),
        device=torch.device("cpu"),
        dtype=torch.float32,
        path=path,
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path_factory.mktemp("photos")
    out = []
    for index in range(2):
        pixels = torch.randint(256, (20, 24, 3), generator=generator, dtype=torch.uint8)
        image = Image.fromarray(pixels.numpy())
        out.append(Photo(image, folder / f"{index}.png", sha256=f"{index:064x}"))
    return out
