"""A look at what is learned so far: the same noise drawn plainly and under LAG."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image

from ...branch import Branches
from ...lag import guidance_plan
from ...prompt import find_concept_tokens, parse_tags, substitute
from ...residual import Residual
from ...standalone.sampler import noise_for, sample

STEPS = 20
GUIDANCE = 6.0


def draw(
    host,
    residual: Residual,
    prompt: str,
    side: int,
    seed: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Image.Image, Image.Image]:
    """The plain picture and the LAG picture of a prompt with V*, from the noise of one seed.

    host: that of a trainer, which also has `decode_latents` (z -> images in [0, 1]).
    """
    metadata = residual.metadata
    text = substitute(parse_tags(prompt)[0], [metadata.identifier], [metadata.macro_class]).text.strip()
    contexts, ids = host.encode_prompts([text, ""])
    found = find_concept_tokens(
        ids[0].tolist(), host.encode_text(metadata.identifier), host.encode_text(metadata.macro_class)
    )
    device = host.device
    indicator = torch.zeros(2, 1, contexts.shape[1], device=device)
    indicator[..., list(found.indices)] = 1
    # two images of one batch: the second one's gate is the mask
    gated = torch.tensor([[False], [bool(found.indices)]], device=device)
    plan = guidance_plan(torch.ones(2, 1, device=device), gated, indicator)
    factor = getattr(getattr(host, "vae", None), "factor", 8)
    noise = noise_for([seed], (4, side // factor, side // factor)).repeat(2, 1, 1, 1)
    with Branches(host.unet, [residual]) as branches:
        branches.plan = plan
        latents = sample(host, contexts[:1], contexts[1:], noise, STEPS, GUIDANCE, progress=progress)
    with torch.no_grad():
        pixels = (host.decode_latents(latents).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    plain, lag = (Image.fromarray(picture) for picture in pixels)
    return plain, lag
