"""SD2's and SDXL's full sizes: parameters of a residual, and what LAG costs a step of SDXL's."""

from __future__ import annotations

import torch

from lib_persres.branch import Branches
from lib_persres.masks import DEFAULT, MASKS
from lib_persres.residual import Residual
from lib_persres.standalone.full_sizes import SDXL_UNET, UNETS
from lib_persres.standalone.modules import build_unet

from .cost import TOKENS, Clock, plans, random_residual, timed

BLOCKS = {"SD2": 16, "SDXL": 11}
LATENT = 128
"""Of a picture of 1024."""


def params() -> dict[str, int]:
    found = {}
    for family, blocks in BLOCKS.items():
        with torch.device("meta"):
            residual = Residual.initialise(build_unet(UNETS[family]))
        if len(residual.factors) != blocks:
            raise RuntimeError(f"{family}'s UNet has {blocks} transformer blocks, {len(residual.factors)} were found.")
        found[f"params.{family.lower()}"] = residual.parameters_count()
    return found


@torch.no_grad()
def cost_sdxl() -> dict[str, tuple[float, str]]:
    """1 + (time inside our hooks) / (time of the base step), of two rows at 1024²; random weights, on CPU."""
    with torch.device("meta"):
        unet = build_unet(SDXL_UNET)
    unet = unet.to_empty(device="cpu").eval().requires_grad_(False)
    for weight in unet.parameters():
        weight.uniform_(-0.02, 0.02)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, LATENT, LATENT, generator=generator)
    told = {
        "timesteps": torch.full((2,), 500),
        "context": torch.randn(2, TOKENS, SDXL_UNET["context_dim"], generator=generator),
        "y": torch.randn(2, SDXL_UNET["adm_in_channels"], generator=generator),
    }
    inside = []
    with Branches(unet, [random_residual(unet)], MASKS[DEFAULT]()) as branches:
        clock, plan = Clock(unet), plans("cpu")["lag"]
        base = timed(lambda: unet(x, **told))
        for index in range(2):  # the first step of a sampling has no mask yet
            branches.begin(index, 0.5)
            branches.plan, clock.inside = plan, 0.0
            unet(x, **told)
            inside.append(clock.inside)
    hooks = max(inside)
    layers = sum(len(block.transformer_blocks) for block in unet.modules() if hasattr(block, "transformer_blocks"))
    note = f"hooks {hooks:.2f} s, {layers} cross-attentions, base step {base:.1f} s on CPU"
    return {"cost.lag_sdxl": (1 + hooks / base, note)}
