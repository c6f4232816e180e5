"""A small model to generate with, and residuals for it."""

import longhand
import torch
from standalone_models import tiny_text, tiny_vae

from lib_persres.standalone.checkpoint import StableDiffusion, alphas_cumprod


def speaking(folder):
    """A small model whose contexts differ enough between prompts."""
    return StableDiffusion(
        unet=longhand.make_unet(),
        vae=tiny_vae(),
        texts={"": longhand.random_(tiny_text())},
        scale_factor=0.5,
        alphas_cumprod=alphas_cumprod(0.00085, 0.012, 1000),
        device=torch.device("cpu"),
        dtype=torch.float32,
        path=folder / "tiny.safetensors",
    )


def concept(sd, name, rank=2, seed=0, identifier="olis", macro_class="dog"):
    residual = longhand.random_residual(sd.unet, rank, seed)
    residual.metadata.concept = name
    residual.metadata.identifier, residual.metadata.macro_class = identifier, macro_class
    return residual
