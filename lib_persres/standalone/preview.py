"""A look at what is learned so far: the same noise drawn plainly and under LAG."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from ..branch import Branches
from ..lag import guidance_plan
from ..prompt import find_concept_tokens, parse_tags, substitute
from ..residual import Residual
from ..sampler import noise_for, sample

STEPS = 20
GUIDANCE = 6.0


def draw(
    host,
    residual: Residual,
    prompt: str,
    side: int,
    seed: int,
    *,
    lag: Sequence[bool] = (False, True),
    progress: Callable[[int, int], None] | None = None,
) -> list[Image.Image]:
    """A picture of a prompt with V* without and one with LAG, from the noise of one seed; lag: which, in order.

    host: that of a trainer, which also has `decode_latents` (z -> images in [0, 1]).
    """
    metadata = residual.metadata
    text = substitute(parse_tags(prompt)[0], [metadata.identifier], [metadata.macro_class]).text.strip()
    contexts, ids = host.encode_prompts([text, ""])
    found = find_concept_tokens(
        ids[0].tolist(), host.encode_text(metadata.identifier), host.encode_text(metadata.macro_class)
    )
    device = host.device
    count = len(lag)
    indicator = torch.zeros(count, 1, contexts.shape[1], device=device)
    indicator[..., list(found.indices)] = 1
    # the images of one batch: a gate that is open, or the mask
    gated = torch.tensor([[each and bool(found.indices)] for each in lag], device=device)
    plan = guidance_plan(torch.ones(count, 1, device=device), gated, indicator)
    factor = getattr(getattr(host, "vae", None), "factor", 8)
    noise = noise_for([seed], (4, side // factor, side // factor)).repeat(count, 1, 1, 1)
    with Branches(host.unet, [residual]) as branches:
        branches.plan = plan
        latents = sample(host, contexts[:1], contexts[1:], noise, STEPS, GUIDANCE, progress=progress)
    with torch.no_grad():
        pixels = (host.decode_latents(latents).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]
