"""Small pipelines of SD1 and SDXL, and two residuals."""

import pytest
import torch
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from pipelines import of_toybox, residual, scheduler, tiny_vae
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from lib_persres.standalone.checkpoint import load
from lib_persres.standalone.tokenizer import Tokenizer
from lib_persres.toybox import CHECKPOINT


@pytest.fixture(scope="module")
def sd():
    return load(CHECKPOINT, "cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    Tokenizer.find(CHECKPOINT.parent / "text_encoder").write_vocabulary(folder)
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


@pytest.fixture(scope="module")
def pipe(sd, tokenizer):
    made = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=sd.text.transformer,
        tokenizer=tokenizer,
        unet=of_toybox(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def rex(sd):
    return residual(sd.unet, 1)


@pytest.fixture(scope="module")
def mia(sd):
    return residual(sd.unet, 2, "phol", "box")


@pytest.fixture(scope="module")
def sdxl(sd, tokenizer):
    """The Toybox's UNet in SDXL's format and a second text encoder of random numbers."""
    unet = of_toybox("SDXL")
    width = unet.config.cross_attention_dim - sd.text.transformer.config.hidden_size
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    with torch.random.fork_rng():
        torch.manual_seed(0)
        second = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
                num_attention_heads=4, projection_dim=pooled, eos_token_id=49407,
            )
        )  # fmt: skip
    made = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=sd.text.transformer,
        text_encoder_2=second.eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        add_watermarker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made
