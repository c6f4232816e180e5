"""The Toybox's judge: what a picture of one thing shows and where, learned from the renderer.

It scores generated pictures: class, colour, pattern, background, which of the 24 skins is nearest, and the thing's
mask. Its weights are shipped; its accuracy on fresh renderings is a figure of its own (`toybox.judge_accuracy`).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from .world import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, SKINS

WEIGHTS = Path(__file__).parent / "checkpoint" / "judge.safetensors"

ANSWERS = {
    "cls": CLASSES,
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "skin": tuple(skin.name for skin in SKINS),
    "background": tuple(BACKGROUNDS),
}


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Judge(nn.Module):
    """Pictures (b,3,128,128) in [0,1] -> logits of each question in ANSWERS, and "mask" logits (b,32,32).

    Questions about the thing pool the features on the mask that the judge sees, the background's around it.
    """

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(_conv(3, 16, 2), _conv(16, 32, 2), _conv(32, 32))
        self.middle = nn.Sequential(_conv(32, 64, 2), _conv(64, 64))
        self.coarse = nn.Sequential(_conv(64, 128, 2), _conv(128, 128), _conv(128, 128))
        self.mask = nn.Sequential(_conv(32 + 64 + 128, 32), nn.Conv2d(32, 1, 1))
        pooled = 2 * (32 + 64 + 128)
        self.heads = nn.ModuleDict({name: nn.Linear(pooled, len(answers)) for name, answers in ANSWERS.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = self.fine(pictures * 2 - 1)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        levels = torch.cat([fine, *(F.interpolate(f, size=32, mode="nearest") for f in (middle, coarse))], 1)
        mask = self.mask(levels)
        inside = mask.sigmoid().detach()
        on, around = _pool(levels, inside), _pool(levels, 1 - inside)
        answers = {n: head(around if n == "background" else on) for n, head in self.heads.items()}
        return {**answers, "mask": mask[:, 0]}

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Judge:
        judge = cls()
        judge.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()}, strict=False)
        return judge.eval().requires_grad_(False)

    @torch.no_grad()
    def see(self, pictures: torch.Tensor, batch: int = 64) -> dict[str, list[str] | torch.Tensor]:
        """The answers as words, for each picture, and "mask", bool (b,128,128)."""
        parts = [self(part) for part in pictures.split(batch)]
        seen = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        words: dict = {name: [ANSWERS[name][i] for i in seen[name].argmax(1)] for name in ANSWERS}
        mask = F.interpolate(seen["mask"][:, None], size=pictures.shape[-2:], mode="bilinear")[:, 0]
        return {**words, "mask": mask > 0}


def _pool(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean and maximum over the pixels: (b, 2c)."""
    mean = (features * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1.0)
    return torch.cat([mean, (features * weight).amax((2, 3))], 1)
