"""Pictures of the macro class, so that the class stays what it is (prior preservation, regularization images)."""

from __future__ import annotations

import torch

from ..sampler import noise_for, sample
from .host import Host
from .latents import Latents

STEPS, GUIDANCE, BATCH = 50, 6.0, 4


def draw_class(host: Host, contexts: torch.Tensor, count: int, shape: tuple[int, ...], seed: int) -> Latents:
    """Latents of `count` pictures that the model draws, as DreamBooth's (Ruiz et al. 2023, section 3.3).

    contexts: (2, n, d), of the class's prompt and the empty one. shape: (4, h, w).
    """
    made = []
    for start in range(0, count, BATCH):
        noise = noise_for([seed + index for index in range(start, min(start + BATCH, count))], shape)
        made.append(sample(host, contexts[:1], contexts[1:], noise, STEPS, GUIDANCE))
    latents = torch.cat(made)
    return Latents(latents, torch.zeros_like(latents))
