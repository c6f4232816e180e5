"""Where a concept's map lies in a picture, against the renderer's mask."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..attention import Taps, concept_maps
from ..standalone.checkpoint import StableDiffusion
from ..unet import find_blocks


@torch.no_grad()
def level_maps(sd: StableDiffusion, picture: np.ndarray, prompt: str, tokens: list[int], seed: int):
    """Concept maps (side, side) by side, mean over t and the blocks of that side, each with maximum 1."""
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    mean, _ = sd.encode_images(x)
    conditioning, _ = sd.encode_prompts([prompt])
    indicator = torch.zeros(3, 1, 77)
    indicator[:, :, tokens] = 1
    sums: dict[int, torch.Tensor] = {}

    def see(block, layer, q, k, heads):
        got = concept_maps(q, k, indicator, heads).mean((0, 1))
        side = int(len(got) ** 0.5)
        sums[side] = sums.get(side, 0) + (got / got.max()).view(side, side)

    taps = Taps(find_blocks(sd.unet), see)
    t = torch.tensor([200, 400, 600])
    a = sd.alphas_cumprod[t].view(-1, 1, 1, 1)
    noise = torch.randn(3, *mean.shape[1:], generator=torch.Generator().manual_seed(seed))
    try:
        sd.unet(a.sqrt() * mean + (1 - a).sqrt() * noise, timesteps=t, **conditioning.expand(3).arguments())
    finally:
        taps.remove()
    return {side: total / total.max() for side, total in sums.items()}


def best_iou(level: torch.Tensor, mask: torch.Tensor) -> float:
    """The largest IoU of {map > threshold} with the mask, over 99 thresholds."""
    scaled = F.interpolate(level[None, None], size=mask.shape, mode="bilinear", align_corners=False)[0, 0]
    best = 0.0
    for threshold in torch.linspace(scaled.min().item(), scaled.max().item(), 101)[1:-1]:
        chosen = scaled > threshold
        best = max(best, ((chosen & mask).sum() / (chosen | mask).sum().clamp_min(1)).item())
    return best
