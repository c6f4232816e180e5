"""What LAG did, to look at: masks recorded while sampling, and pictures of them over the image."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .errors import PersresError
from .mask import View

_COLOURS = ((255, 40, 40), (40, 140, 255), (60, 210, 60), (255, 190, 0))


class MaskRecorder:
    """A listener of `lag.Lag`: sums each image's masks and concept maps over the evaluations of a sampling.

    calls: block -> the number of evaluations. masks, maps: block -> (images, K, h, w), zero for an image of which none
    were made; where an image's rows make several, their union counts. They are empty where no concept ever acted.
    `end` takes in the last evaluation.
    """

    def __init__(self, images: int):
        self.images = images
        self.calls: dict[str, int] = {}
        self.masks: dict[str, torch.Tensor] = {}
        self.maps: dict[str, torch.Tensor] = {}
        self._now: dict[str, tuple[tuple[int, int], dict[str, dict[int, torch.Tensor]]]] = {}
        """Block -> its size, and for masks and maps image -> (K, hw), where the UNet computes."""

    def begin(self) -> None:
        self.end()

    def see(self, view: View, masks: torch.Tensor, maps: torch.Tensor | None) -> None:
        _, kinds = self._now.setdefault(view.block, (view.size, {"masks": {}, "maps": {}}))
        for name, tensor in (("masks", masks), ("maps", maps)):
            for row, part in zip(view.rows, tensor if tensor is not None else ()):
                before = kinds[name].get(row.image)
                kinds[name][row.image] = part if before is None else torch.maximum(before, part)

    def end(self) -> None:
        """Add what an evaluation had to the sums; this waits for the device."""
        for block, (size, kinds) in self._now.items():
            self.calls[block] = self.calls.get(block, 0) + 1
            for name, parts in kinds.items():
                if parts:
                    nothing = torch.zeros_like(next(iter(parts.values())))
                    images = torch.stack([parts.get(image, nothing) for image in range(self.images)])
                    images = images.detach().float().unflatten(-1, size).cpu()
                    sums = getattr(self, name)
                    sums[block] = sums[block] + images if block in sums else images
        self._now = {}

    def of(self, image: int) -> MaskRecorder:
        """What was recorded of one image."""
        one = MaskRecorder(1)
        one.calls = dict(self.calls)
        one.masks, one.maps = (
            {block: sums[image : image + 1] for block, sums in both.items()} for both in (self.masks, self.maps)
        )
        return one

    def mean(
        self, what: str = "masks", blocks: list[str] | None = None, size: tuple[int, int] | None = None
    ) -> torch.Tensor:
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
    """The image with each concept's mask (K, h, w) in a colour of its own, the rest greyed. The colours of several are
    stronger: which is whose is all there is to see."""
    share = 0.28 if len(masks) == 1 else 0.6
    base = np.asarray(image.convert("RGB"), dtype=np.float32)
    grey = base.mean(-1, keepdims=True).repeat(3, -1) * 0.6 + 40
    out = grey
    for index, mask in enumerate(masks):
        weight = np.asarray(Image.fromarray(mask.numpy().astype(np.float32)).resize(image.size, Image.BILINEAR)).clip(
            0, 1
        )[..., None]
        tint = np.array(_COLOURS[index % len(_COLOURS)], np.float32)
        out = out * (1 - weight) + ((1 - share) * base + share * tint) * weight
    return Image.fromarray(out.clip(0, 255).astype(np.uint8))
