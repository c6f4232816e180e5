"""What LAG did, to look at: masks recorded while sampling, and pictures of them over the image."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .errors import PersresError

_COLOURS = ((255, 40, 40), (40, 140, 255), (60, 210, 60), (255, 190, 0))


class MaskRecorder:
    """A plan's recorder: sums the masks and the concept maps of each block over the steps.

    `masks` is empty where no concept ever acted.
    """

    def __init__(self):
        self.calls: dict[str, int] = {}
        self.masks: dict[str, torch.Tensor] = {}
        self.maps: dict[str, torch.Tensor] = {}

    def __call__(self, block: str, masks: torch.Tensor, maps: torch.Tensor, size: tuple[int, int]) -> None:
        """masks (images, K, hw), maps (map rows, K, hw)."""
        masks, maps = (t.detach().float().unflatten(-1, size).cpu() for t in (masks, maps))
        if block in self.calls:
            self.calls[block] += 1
            self.masks[block] += masks
            self.maps[block] += maps
        else:
            self.calls[block], self.masks[block], self.maps[block] = 1, masks, maps

    def mean(self, what: str = "masks", blocks: list[str] | None = None, size: tuple[int, int] | None = None):
        """The mean over steps and blocks, (images, K, h, w), at the largest block's size or at `size`.

        Maps are scaled to a maximum of 1 in each block first, since their sums differ between levels.
        """
        sums = getattr(self, what)
        chosen = [name for name in sums if blocks is None or name in blocks]
        if not chosen:
            raise PersresError(f"No {what} were recorded: no concept acted under LAG.")
        size = size or max((sums[name].shape[-2:] for name in chosen), key=lambda s: s[0] * s[1])
        parts = []
        for name in chosen:
            part = sums[name] / self.calls[name]
            if what == "maps":
                part = part / part.amax((-2, -1), keepdim=True).clamp_min(1e-12)
            parts.append(F.interpolate(part, size=size, mode="bilinear", align_corners=False))
        return torch.stack(parts).mean(0)


def overlay(image: Image.Image, masks: torch.Tensor) -> Image.Image:
    """The image with each concept's mask (K, h, w) in a colour of its own, the rest greyed."""
    base = np.asarray(image.convert("RGB"), dtype=np.float32)
    grey = base.mean(-1, keepdims=True).repeat(3, -1) * 0.6 + 40
    out = grey
    for index, mask in enumerate(masks):
        weight = np.asarray(
            Image.fromarray(mask.numpy().astype(np.float32)).resize(image.size, Image.BILINEAR)
        ).clip(0, 1)[..., None]
        tint = np.array(_COLOURS[index % len(_COLOURS)], np.float32)
        out = out * (1 - weight) + (0.72 * base + 0.28 * tint) * weight
    return Image.fromarray(out.clip(0, 255).astype(np.uint8))
