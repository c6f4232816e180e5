"""Pipelines of diffusers with the Toybox's weights, and what they are compared with."""

import torch
import yaml
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, create_unet_diffusers_config_from_ldm

from lib_persres.residual import Factors, Metadata, Residual
from lib_persres.sampler import noise_for
from lib_persres.standalone import pipeline as persres
from lib_persres.standalone import weights
from lib_persres.standalone.generate import generate
from lib_persres.toybox import CHECKPOINT
from lib_persres.toybox.formats import converted

PROMPT = "a photo of a V* ball on grass"
SIZE = {"width": 64, "height": 64}
STEPS = 4


def of_toybox(family="SD1"):
    """diffusers' UNet with the Toybox's weights in a family's format, by diffusers' own converter."""
    state, description = read(family)
    config = create_unet_diffusers_config_from_ldm(description, state)
    if family == "SDXL":  # which it knows by the full size's context alone
        vector = description["model"]["params"]["network_config"]["params"]["adm_in_channels"]
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256, "class_embed_type": None}
        config["projection_class_embeddings_input_dim"] = vector
    unet = UNet2DConditionModel(**config).eval().requires_grad_(False)
    unet.load_state_dict(convert_ldm_unet_checkpoint(state, unet.config))
    return unet


def read(family):
    description = yaml.safe_load(CHECKPOINT.with_suffix(".yaml").read_text(encoding="utf-8"))
    with weights.opened(CHECKPOINT) as stored:
        state = {name: tensor.read().float() for name, tensor in stored.items()}
    return (state, description) if family == "SD1" else converted(state, description, family)


def tiny_vae():
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    return AutoencoderKL(block_out_channels=[4] * 4, norm_num_groups=2, layers_per_block=1, **kinds).eval()


def scheduler():
    """ldm's DDIM."""
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def residual(unet, seed, identifier="olis", macro_class="ball", targets="proj_out", **facts):
    generator = torch.Generator().manual_seed(seed)
    metadata = Metadata(identifier=identifier, macro_class=macro_class, **facts)
    made = Residual.initialise(unet, "4", generator, metadata, targets)
    for path, f in made.factors.items():
        made.factors[path] = Factors(f.down, 0.2 * torch.randn(f.up.shape, generator=generator))
    return made


def learned_word(rex):
    word = torch.randn(96, generator=torch.Generator().manual_seed(5))
    facts = Metadata(identifier="olis", macro_class="ball", targets="embedding+proj_out")
    return Residual(rex.factors, facts, {"olis": word})


def draw(pipe, sd, prompt, seeds=(3,), **options):
    """Pictures, decoded by the Toybox's own autoencoder."""
    noise = noise_for(list(seeds), (4, 8, 8))
    given = {**SIZE, "num_inference_steps": STEPS, "latents": noise, "output_type": "latent"}
    options = {"guidance_scale": 6.0, **options}
    if isinstance(prompt, str) and len(seeds) > 1:
        given["num_images_per_prompt"] = len(seeds)
    return sd.decode_latents(pipe(prompt, **given, **options).images)


def ours(sd, prompt, shelf, seeds=(3,), **options):
    return generate(sd, prompt, shelf.__getitem__, seeds=seeds, **SIZE, steps=STEPS, **options).images


def snapshot(pipe):
    hooks = [
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (*pipe.unet.modules(), *pipe.text_encoder.modules())
    ]
    return sum(hooks), dict(vars(pipe)).get("encode_prompt"), type(pipe), hasattr(pipe.unet, persres.MARK)


def named(rex):
    return Residual(rex.factors, Metadata(concept="rex", identifier="olis", macro_class="ball"))


def with_scheduler(kind, pipe, of=StableDiffusionPipeline):
    parts = {**pipe.components, "scheduler": kind.from_config(pipe.scheduler.config)}
    made = of(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made
