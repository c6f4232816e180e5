"""Scores against the Toybox's truth: what the judge sees in a picture, thing by thing, and what the prompt asked.

The judge was trained on pictures of one thing, so where it sees several, each is shown to it alone, the others
painted over with the background's mean colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...toybox.judge import Judge
from ...toybox.world import SIZES
from ..datasets.dataset import Prompt
from ..datasets.toybox import Expected, Truth
from .masked import grow

SMALLEST = 0.012
"""A thing covers at least this share of the picture; less is a speck."""
GREY = 0.07
"""Mean chroma (maximum less minimum of r, g, b in [0,1]) under which a whole picture is a sketch: the renderer's
sketches have 0, the base model's 0.03 to 0.05; photos of coloured things on any background but snow 0.1 or more."""
MOST = 4
"""Things looked at in a picture, the largest first."""


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
    labels = torch.arange(1, coarse.numel() + 1, dtype=torch.float32).view(coarse.shape) * coarse
    while True:
        spread = F.max_pool2d(labels[None], 3, 1, 1)[0] * coarse
        if torch.equal(spread, labels):
            break
        labels = spread
    parts = []
    for label in labels.unique():
        if label > 0:
            fine = F.interpolate((labels == label).float()[None, None], scale_factor=4, mode="nearest")[0, 0]
            parts.append((grow(fine[None] > 0, 3)[0]) & mask)
    parts = [part for part in parts if part.float().mean() >= SMALLEST]
    return sorted(parts, key=lambda part: -int(part.sum()))[:MOST]


def _alone(picture: torch.Tensor, mask: torch.Tensor, every: torch.Tensor) -> torch.Tensor:
    """The picture without its other things."""
    others = grow((every & ~mask)[None], 4)[0] & ~grow(mask[None], 2)[0]
    outside = ~grow(every[None], 4)[0]
    fill = picture[:, outside].mean(1) if outside.any() else picture.mean((1, 2))
    return torch.where(others, fill.view(3, 1, 1), picture)


def score(sights: list[Sight], prompt: Prompt, truth: Truth) -> list[dict[str, float | None]]:
    """A row for each picture of a prompt; 1 is right, 0 is wrong, None was not asked or cannot be told.

    identity: the thing called V* wears the concept's skin, of 24 the nearest (not asked where the prompt recolours
    it or asks for a sketch). class, background, colour, size, style, others: as the prompt says. obeyed: all of
    these. area: the share of the picture that the thing covers.
    """
    expected = prompt.expected
    if not isinstance(expected, Expected):
        raise ValueError(f"the prompt {prompt.text!r} does not say what is expected")
    return [_row(sight, expected, truth) for sight in sights]


def _row(sight: Sight, expected: Expected, truth: Truth) -> dict[str, float | None]:
    subject = subject_of(sight, expected, truth)
    rest = [thing for thing in sight.things if thing is not subject]
    sketch = expected.style == "sketch"
    asked: dict[str, bool | None] = {
        "class": None if expected.cls is None else subject is not None and subject.cls == expected.cls,
        "background": None if expected.background is None or sketch else sight.background == expected.background,
        "colour": None if expected.colour is None else subject is not None and subject.colour == expected.colour,
        "size": None if expected.size is None else subject is not None and _has_size(subject, expected.size),
        "style": sight.chroma < GREY if sketch else None,
        "others": all(any((t.colour, t.cls) == other for t in rest) for other in expected.others)
        if expected.others
        else None,
    }
    told = [value for value in asked.values() if value is not None]
    identity = None if sketch or expected.colour else subject is not None and subject.skin == truth.skin
    row = {"identity": identity, **asked, "obeyed": all(told) if told else None}
    numbers = {name: None if value is None else float(value) for name, value in row.items()}
    return {**numbers, "area": subject.area if subject else 0.0}


def subject_of(sight: Sight, expected: Expected, truth: Truth) -> Thing | None:
    """The thing that is called V*: the largest; beside others the one most like it."""
    if not sight.things:
        return None
    if not expected.others:
        return sight.things[0]
    others = set(expected.others)
    return max(
        sight.things,
        key=lambda t: ((t.colour, t.cls) not in others, t.skin == truth.skin, t.cls == expected.cls, t.area),
    )


def _has_size(thing: Thing, size: str) -> bool:
    low, high = SIZES[size]
    # a thing smaller than the world's small ones is small, too
    return thing.area < high if size == "small" else low <= thing.area


def masks(sights: list[Sight], like: torch.Tensor) -> torch.Tensor:
    """All things' masks, bool (n,H,W), of pictures `like` (n,3,H,W)."""
    empty = torch.zeros(like.shape[-2:], dtype=torch.bool)
    return torch.stack([empty if sight.mask is None else sight.mask for sight in sights])
