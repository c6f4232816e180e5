"""Pictures of the macro class, so that the class stays what it is (prior preservation, regularization images)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..conditioning import Conditioning
from ..sampler import noise_for, sample
from .host import Host
from .latents import Latents

STEPS, GUIDANCE, BATCH = 50, 6.0, 4


class ClassPictures:
    """Latents of `count` pictures that the model draws, as DreamBooth's (Ruiz et al. 2023, section 3.3).

    made: (n, 4, h, w), those that are drawn; the same whether they were drawn at once or in parts.
    begun: steps made of the next ones, and (b, 4, h, w), what came of them.
    """

    def __init__(self, count: int, shape: tuple[int, ...], seed: int, device: torch.device):
        self.count, self.shape, self.seed = count, shape, seed
        self.made = torch.zeros(0, *shape, device=device)
        self.begun: tuple[int, torch.Tensor] | None = None

    @property
    def missing(self) -> int:
        return self.count - len(self.made)

    def draw(self, host: Host, conditioning: Conditioning, progress: Callable[[int, int], None]) -> None:
        """Draw what is missing. conditioning: two rows, of the class's prompt and the empty one.

        progress(drawn, count): called after each step of the sampler; whatever it raises ends the drawing, which
        goes on from there at the next call.
        """
        while self.missing > 0:
            start = len(self.made)
            seeds = [self.seed + index for index in range(start, min(start + BATCH, self.count))]
            done, latents = self.begun or (0, noise_for(seeds, self.shape))
            made = sample(
                host,
                conditioning[:1],
                conditioning[1:],
                latents,
                STEPS,
                GUIDANCE,
                begin=done,
                after_step=self._keep,
                progress=lambda *_: progress(len(self.made), self.count),
            )
            self.made, self.begun = torch.cat([self.made, made.to(self.made)]), None
        progress(len(self.made), self.count)

    def _keep(self, done: int, latents: torch.Tensor) -> None:
        self.begun = done, latents

    def latents(self) -> Latents:
        return Latents(self.made, torch.zeros_like(self.made))
