"""The judge of pictures of several things: what each of them is, where it is, and what is behind them.

It finds the pixels of things, lets each of them vote for its thing's centre, and names every thing by the features
under its own mask. Learned from the renderer; its accuracy on fresh renderings is a figure of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from .world import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, SIZE, SKINS

WEIGHTS = Path(__file__).parent / "checkpoint" / "judge.safetensors"

#: What is asked about each thing, with the possible answers.
QUESTIONS = {
    "cls": CLASSES,
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "skin": tuple(skin.name for skin in SKINS),
}
PLACES = tuple(BACKGROUNDS)

GRID = 32  # cells of the judge's maps along a side
CELL = SIZE // GRID
CENTRE = 0.35  # the least value of the centre map at a thing's centre
NEARER = 0.6  # radii of a disc of their common area: two centres that are nearer belong to one thing
SMALLEST = 0.012  # share of the picture: what is smaller is no thing


@dataclass(frozen=True, eq=False)
class SeenThing:
    """One thing of a picture. centre: (x, y) in pixels; area: share of the picture; mask: bool (128,128)."""

    cls: str
    colour: str
    pattern: str
    skin: str
    centre: tuple[float, float]
    area: float
    mask: torch.Tensor


@dataclass(frozen=True)
class Seen:
    """What a picture shows; the largest thing first."""

    background: str
    things: tuple[SeenThing, ...]
    chroma: float = 0.0
    """Mean over the pixels of what a pixel's largest channel is above its smallest."""

    @property
    def mask(self) -> torch.Tensor | None:
        """All things' mask, bool (128,128); None where there is no thing."""
        return torch.stack([thing.mask for thing in self.things]).any(0) if self.things else None


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Judge(nn.Module):
    """Pictures (b,3,128,128) in [0,1] -> features (b,144,32,32) and maps (b,4,32,32).

    The maps: logits of "a thing is here" and of "a thing's centre is here", and the vote for the own thing's centre,
    in cells to the right and down.
    """

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(_conv(3, 16, 2), _conv(16, 32, 2), _conv(32, 32))
        self.middle = nn.Sequential(_conv(32, 64, 2), _conv(64, 64))
        self.coarse = nn.Sequential(_conv(64, 128, 2), _conv(128, 128), _conv(128, 128))
        self.narrow = nn.ModuleList([nn.Conv2d(64, 48, 1), nn.Conv2d(128, 64, 1)])
        features = 32 + 48 + 64
        self.maps = nn.Sequential(nn.Conv2d(features, 48, 1), nn.ReLU(), _conv(48, 48), nn.Conv2d(48, 4, 1))
        self.thing = nn.Sequential(nn.Linear(2 * features, 256), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(known)) for name, known in QUESTIONS.items()})
        self.background = nn.Linear(2 * features, len(PLACES))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = self.fine(pictures * 2 - 1)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        narrow = (layer(features) for layer, features in zip(self.narrow, (middle, coarse)))
        levels = torch.cat([fine, *(F.interpolate(f, size=GRID, mode="nearest") for f in narrow)], 1)
        return levels, self.maps(levels)

    def name(self, features: torch.Tensor, masks: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits (b, K, answers) of each question about K things, whose masks (b,K,32,32) weigh the features."""
        pooled = self.thing(_pool(features, masks))
        return {question: head(pooled) for question, head in self.heads.items()}

    def name_background(self, features: torch.Tensor, here: torch.Tensor) -> torch.Tensor:
        """Logits (b, answers) of the background; here (b,32,32): how surely there is a thing."""
        return self.background(_pool(features, 1 - here[:, None])[:, 0])

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Judge:
        judge = cls()
        judge.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()}, strict=False)
        return judge.eval().requires_grad_(False)

    @torch.no_grad()
    def see(self, pictures: torch.Tensor, batch: int = 64) -> list[Seen]:
        """What each of the pictures (b,3,128,128) in [0,1] shows."""
        return [seen for part in pictures.split(batch) for seen in self._see(part)]

    def _see(self, pictures: torch.Tensor) -> list[Seen]:
        features, maps = self(pictures)
        found = [separate(one) for one in maps]
        here = maps[:, 0].sigmoid()
        chroma = (pictures.amax(1) - pictures.amin(1)).flatten(1).mean(1).tolist()
        behind = self.name_background(features, here).argmax(1)
        seen = []
        for row, masks in enumerate(found):
            things = []
            if len(masks):
                answers = self.name(features[row : row + 1], (masks * here[row])[None])
                words = {q: [QUESTIONS[q][i] for i in logits[0].argmax(1)] for q, logits in answers.items()}
                for i, mask in enumerate(masks):
                    large = F.interpolate(mask[None, None], size=SIZE, mode="bilinear")[0, 0] > 0.5
                    named = {question: words[question][i] for question in words}
                    things.append(SeenThing(**named, centre=_centre(mask), area=mask.mean().item(), mask=large))
            things.sort(key=lambda thing: -thing.area)
            seen.append(Seen(PLACES[behind[row]], tuple(things), chroma[row]))
        return seen


def masks(seen: Sequence[Seen], like: torch.Tensor) -> torch.Tensor:
    """All things' masks, bool (n,H,W), of pictures `like` (n,3,H,W)."""
    nothing = torch.zeros(like.shape[-2:], dtype=torch.bool)
    return torch.stack([nothing if one.mask is None else one.mask for one in seen])


def separate(maps: torch.Tensor) -> torch.Tensor:
    """The masks (things, 32, 32), 0 or 1, in a picture's maps (4,32,32): a cell belongs to the centre it votes for."""
    here = maps[0] > 0
    centres = maps[1].sigmoid()
    peaks = (centres == F.max_pool2d(centres[None], 7, 1, 3)[0]) & (centres > CENTRE)
    peaks = peaks.nonzero().float()
    if not len(peaks) or not here.any():
        return maps.new_zeros(0, GRID, GRID)
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    votes = torch.stack([y + maps[3], x + maps[2]], -1)
    peaks = peaks[centres[tuple(peaks.long().T)].argsort(descending=True)]
    while True:
        nearest = (votes[..., None, :] - peaks).norm(dim=-1).argmin(-1)
        masks = torch.stack([(nearest == i) & here for i in range(len(peaks))]).float()
        weaker = _within_one_thing(peaks, masks.sum((1, 2)))
        if weaker is None:
            return masks[masks.mean((1, 2)) >= SMALLEST]
        peaks = torch.cat([peaks[:weaker], peaks[weaker + 1 :]])


def _within_one_thing(peaks: torch.Tensor, areas: torch.Tensor) -> int | None:
    """The weaker of two peaks that lie nearer to each other than two things of their area could: a large thing's."""
    for j in range(1, len(peaks)):
        radii = ((areas[:j] + areas[j]) / torch.pi).sqrt()
        if bool(((peaks[:j] - peaks[j]).norm(dim=-1) < NEARER * radii).any()):
            return j
    return None


def _centre(mask: torch.Tensor) -> tuple[float, float]:
    y, x = (mask > 0).nonzero().float().mean(0).tolist()
    return (x + 0.5) * CELL, (y + 0.5) * CELL


def _pool(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Mean and deviation of the features (b,c,h,w) under each mask (b,K,h,w): (b, K, 2c)."""
    features, masks = features.flatten(2).transpose(1, 2), masks.flatten(2)
    masks = masks / masks.sum(-1, keepdim=True).clamp_min(1.0)
    mean = masks @ features
    variance = masks @ features.square() - mean.square()
    return torch.cat([mean, variance.clamp_min(1e-6).sqrt()], -1)
