"""What the judge sees in a picture, thing by thing.

The judge was trained on pictures of one thing, so where it sees several, each is shown to it alone, the others
painted over with the background's mean colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from .judge import Judge

SMALLEST = 0.012
"""A thing covers at least this share of the picture; less is a speck."""
MOST = 4
"""Things looked at in a picture, the largest first."""


def grow(masks: torch.Tensor, pixels: int) -> torch.Tensor:
    """Masks (n,H,W) bool, larger by so many pixels on every side."""
    return F.max_pool2d(masks.float()[:, None], 2 * pixels + 1, 1, pixels)[:, 0] > 0.5


@dataclass(frozen=True)
class Thing:
    """One thing as the judge sees it. mask: bool (H,W)."""

    cls: str
    colour: str
    skin: str
    area: float
    mask: torch.Tensor


@dataclass(frozen=True)
class Sight:
    """A picture as the judge sees it: the things, the largest first, the background, the mean chroma."""

    things: tuple[Thing, ...]
    background: str
    chroma: float

    @property
    def mask(self) -> torch.Tensor | None:
        """All things' mask, bool (H,W)."""
        return torch.stack([thing.mask for thing in self.things]).any(0) if self.things else None


def look(judge: Judge, pictures: torch.Tensor) -> list[Sight]:
    """What is in each picture, (n,3,128,128) in [0,1]."""
    seen = judge.see(pictures)
    parts = [components(mask) for mask in seen["mask"]]
    shown, owners = [], []
    for index, masks in enumerate(parts):
        for mask in masks:
            shown.append(_alone(pictures[index], mask, seen["mask"][index]) if len(masks) > 1 else pictures[index])
            owners.append((index, mask))
    things: list[list[Thing]] = [[] for _ in parts]
    if shown:
        answers = judge.see(torch.stack(shown))
        for i, (index, mask) in enumerate(owners):
            words = (answers[name][i] for name in ("cls", "colour", "skin"))
            things[index].append(Thing(*words, area=mask.float().mean().item(), mask=mask))
    chroma = (pictures.amax(1) - pictures.amin(1)).flatten(1).mean(1).tolist()
    return [Sight(tuple(found), seen["background"][i], chroma[i]) for i, found in enumerate(things)]


def components(mask: torch.Tensor) -> list[torch.Tensor]:
    """The connected parts of a mask, bool (H,W) with sides in fours, the largest first; specks are left out.

    Parts are told apart on a grid of 4 pixels, the judge's own resolution.
    """
    coarse = F.avg_pool2d(mask.float()[None], 4)[0] >= 0.5
    labels, count = ndimage.label(coarse.numpy(), np.ones((3, 3)))
    parts = []
    for number in range(1, count + 1):
        fine = torch.from_numpy(labels == number).repeat_interleave(4, 0).repeat_interleave(4, 1)
        parts.append(grow(fine[None], 3)[0] & mask)
    parts = [part for part in parts if part.float().mean() >= SMALLEST]
    return sorted(parts, key=lambda part: -int(part.sum()))[:MOST]


def _alone(picture: torch.Tensor, mask: torch.Tensor, every: torch.Tensor) -> torch.Tensor:
    """The picture without its other things."""
    others = grow((every & ~mask)[None], 4)[0] & ~grow(mask[None], 2)[0]
    outside = ~grow(every[None], 4)[0]
    fill = picture[:, outside].mean(1) if outside.any() else picture.mean((1, 2))
    return torch.where(others, fill.view(3, 1, 1), picture)


def masks(sights: list[Sight], like: torch.Tensor) -> torch.Tensor:
    """All things' masks, bool (n,H,W), of pictures `like` (n,3,H,W)."""
    empty = torch.zeros(like.shape[-2:], dtype=torch.bool)
    return torch.stack([empty if sight.mask is None else sight.mask for sight in sights])
