"""Half weights: the residual is fp32 whatever the model is."""

import copy
import dataclasses

import torch
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from trainer_bench import RECIPE, make, steps, weights


def test_a_model_in_bf16_teaches_what_the_model_in_fp32_teaches(sd, photos):
    half = dataclasses.replace(sd, unet=copy.deepcopy(sd.unet).bfloat16(), dtype=torch.bfloat16)
    full, low = make(sd, photos), make(half, photos)
    for a, b in zip(steps(full, RECIPE.steps), steps(low, RECIPE.steps)):
        assert abs(a - b) < 0.05 * a
    assert weights(low).dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(weights(full), weights(low), 0) > 0.99


def test_ldms_own_unet_with_half_weights_learns_under_autocast_as_in_the_webui(sd, photos):
    unet = copy.deepcopy(sd.unet).bfloat16()
    unet.__class__ = UNetModel  # which casts nothing itself
    # its group norm stays ours: autocast casts that one on CUDA alone
    half = dataclasses.replace(sd, unet=unet, dtype=torch.bfloat16)
    full = make(sd, photos)
    steps(full, RECIPE.steps)
    with torch.autocast("cpu", torch.bfloat16):
        low = make(half, photos)
        steps(low, RECIPE.steps)
    assert weights(low).dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(weights(full), weights(low), 0) > 0.99
