"""Tiny SD1-shaped networks with random weights, for the tests of `standalone/`."""

import torch
from torch import nn

from lib_persres.standalone.modules import AutoencoderKL, build_unet
from lib_persres.standalone.text_encoder import TextEncoder
from lib_persres.standalone.tokenizer import Tokenizer

UNET = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [1, 2],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_heads": 4,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 32,
}
DDCONFIG = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}


def randomize(module: nn.Module) -> nn.Module:
    """Fill the weights that ldm starts at zero, so that every part of a network shows in its output."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if not parameter.any():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval().requires_grad_(False)


def tiny_unet(**changes):
    torch.manual_seed(1)
    return randomize(build_unet({**UNET, **changes}))


def tiny_vae():
    torch.manual_seed(2)
    return randomize(AutoencoderKL(DDCONFIG, 4))


def tiny_text():
    torch.manual_seed(3)
    return randomize(TextEncoder(TEXT, Tokenizer.find()))
