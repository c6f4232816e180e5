"""How CLIP and DINO see a picture: resized, cut to a square, normalised, as their authors do it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...errors import PersresError


@dataclass(frozen=True)
class Preprocessing:
    """Short side to `resize` (bicubic, antialiased), centre square of `crop`, then (x/255 - mean) / std."""

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """PIL images -> (n, 3, crop, crop)."""
        array = np.stack([self._one(image) for image in images])
        pixels = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (pixels - mean) / std

    def _one(self, image: Image.Image) -> np.ndarray:
        image = image.convert("RGB")
        width, height = image.size
        # the long side is cut off, not rounded, as torchvision's Resize does
        size = (
            (self.resize, int(self.resize * height / width))
            if width <= height
            else (int(self.resize * width / height), self.resize)
        )
        image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (int(round((side - self.crop) / 2)) for side in image.size)
        return np.asarray(image.crop((left, top, left + self.crop, top + self.crop)))

    @property
    def mean_colour(self) -> tuple[float, float, float]:
        """What becomes 0."""
        return self.mean


CLIP = Preprocessing(224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""OpenAI's, for ViT-B/32."""
DINO = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""DINO's own evaluation: ImageNet's mean and deviation; 256 before the crop of 224."""


def scaled(default: Preprocessing, side: int) -> Preprocessing:
    """The same for a model whose pictures have another side."""
    if side == default.crop:
        return default
    return Preprocessing(round(side * default.resize / default.crop), side, default.mean, default.std)


def clip_preprocessing(folder: Path, side: int) -> Preprocessing:
    """What the folder's preprocessor_config.json says of mean and deviation, else OpenAI's, at the model's side.

    The sides are always the model's: CLIP's resize and crop are one size.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return scaled(CLIP, side)
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        mean, std = (tuple(map(float, settings[key])) for key in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise PersresError(f"{file} does not give image_mean and image_std as three numbers each.") from None
    return Preprocessing(side, side, mean, std)
