"""The photos as the UNet sees them, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .host import Host
from .images import Photo, crop_views
from .recipe import Recipe


@dataclass(frozen=True)
class Latents:
    """Every view of every photo: mean and std, each (n, 4, h, w), so that steps can still sample."""

    mean: torch.Tensor
    std: torch.Tensor

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(self.mean), (count,), generator=generator)
        noise = torch.randn(count, *self.mean.shape[1:], generator=generator).to(self.mean)
        rows = rows.to(self.mean.device)
        return self.mean[rows] + self.std[rows] * noise


def encode_photos(host: Host, photos: Sequence[Photo], recipe: Recipe, resolution: int, seed: int) -> Latents:
    means, stds = [], []
    for index, photo in enumerate(photos):
        views = crop_views(photo.image, resolution, recipe.flips, recipe.crops, seed + index)
        mean, std = host.encode_images(views)
        means.append(mean.float())
        stds.append(std.float())
    return Latents(torch.cat(means).to(host.device), torch.cat(stds).to(host.device))
