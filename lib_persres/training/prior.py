"""Pictures of the macro class, so that the class stays what it is (prior preservation, regularization images)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..sampler import noise_for, sample
from .host import Host
from .latents import Latents

STEPS, GUIDANCE, BATCH = 50, 6.0, 4


class ClassPictures:
    """Latents of `count` pictures that the model draws, as DreamBooth's (Ruiz et al. 2023, section 3.3).

    made: (n, 4, h, w), those that are drawn; the same whether they were drawn at once or in parts.
    """

    def __init__(self, count: int, shape: tuple[int, ...], seed: int, device: torch.device):
        self.count, self.shape, self.seed = count, shape, seed
        self.made = torch.zeros(0, *shape, device=device)

    @property
    def missing(self) -> int:
        return self.count - len(self.made)

    def draw(self, host: Host, contexts: torch.Tensor, progress: Callable[[int, int], None]) -> None:
        """Draw what is missing. contexts: (2, n, d), of the class's prompt and the empty one.

        progress(drawn, count): called after each step of the sampler; whatever it raises ends the drawing, and the
        pictures that are whole stay.
        """
        while self.missing > 0:
            start = len(self.made)
            seeds = [self.seed + index for index in range(start, min(start + BATCH, self.count))]
            noise = noise_for(seeds, self.shape)
            made = sample(
                host,
                contexts[:1],
                contexts[1:],
                noise,
                STEPS,
                GUIDANCE,
                progress=lambda *_: progress(len(self.made), self.count),
            )
            self.made = torch.cat([self.made, made.to(self.made)])
        progress(len(self.made), self.count)

    def latents(self) -> Latents:
        return Latents(self.made, torch.zeros_like(self.made))
