"""SD2's and SDXL's full sizes, by diffusers' UNet: parameters of a residual, and what LAG costs a step of SDXL's."""

from __future__ import annotations

import statistics

import torch
from diffusers import UNet2DConditionModel

from lib_persres.branch import Branches
from lib_persres.residual import Residual
from lib_persres.standalone.ldm_view import ldm_view

from .cost import TOKENS, Clock, plans, random_residual, timed

LINEAR = {"use_linear_projection": True, "in_channels": 4, "out_channels": 4}
SD2 = {
    **LINEAR,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),  # diffusers' name for their number
    "cross_attention_dim": 1024,
}
SDXL = {
    **LINEAR,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
LATENT = 128
"""Of a picture of 1024."""


def params() -> dict[str, int]:
    found = {}
    for name, size, blocks in (("sd2", SD2, 16), ("sdxl", SDXL, 11)):
        with torch.device("meta"):
            view = ldm_view(UNet2DConditionModel(**size))
        residual = Residual.initialise(view)
        if len(residual.factors) != blocks:
            raise RuntimeError(f"{name}'s UNet has {blocks} transformer blocks, {len(residual.factors)} were found.")
        found[f"params.{name}"] = residual.parameters_count()
    return found


@torch.no_grad()
def cost_sdxl(rounds: int = 1) -> dict[str, tuple[float, str]]:
    """1 + (time inside our hooks) / (time of the base step), of two rows at 1024²; random weights, on CPU."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL)
    unet = unet.to_empty(device="cpu").eval().requires_grad_(False)
    for weight in unet.parameters():
        weight.uniform_(-0.02, 0.02)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, LATENT, LATENT, generator=generator)
    told = {
        "encoder_hidden_states": torch.randn(2, TOKENS, SDXL["cross_attention_dim"], generator=generator),
        "added_cond_kwargs": {"text_embeds": torch.randn(2, 1280, generator=generator), "time_ids": torch.ones(2, 6)},
    }
    view = ldm_view(unet)
    times: dict[str, list[float]] = {"base": [], "lag": []}
    inside: list[float] = []
    with Branches(view, [random_residual(view)]) as branches:
        clock = Clock(view)
        for _ in range(rounds):
            for name, plan in plans("cpu").items():
                if name in times:
                    branches.plan, clock.inside = plan, 0.0
                    times[name].append(timed(lambda: unet(x, 500, **told)))
                    if name == "lag":
                        inside.append(clock.inside)
    base, hooks = statistics.median(times["base"]), statistics.median(inside)
    layers = sum(len(block.transformer_blocks) for block in view.modules() if hasattr(block, "transformer_blocks"))
    note = f"hooks {hooks:.2f} s on all {layers} cross-attentions, base step {base:.1f} s on CPU"
    return {"cost.lag_sdxl": (1 + hooks / base, note)}
