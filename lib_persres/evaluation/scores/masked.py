"""Scores that the papers lack: the object and the background apart, what the base model's picture keeps, masks.

Pictures are (n,3,H,W) in [0,1], masks (n,H,W) bool, true on the object. "Embed" is a function from a list of
PIL images to embeddings (n,d), such as `ClipEmbedder.images`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import mannwhitneyu

from .alignment import image_alignment

MEAN_COLOUR = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's mean: after its normalisation such a pixel is 0."""
GROWN = 4
"""Pixels by which a mask is grown before what lies outside is looked at."""
FEWEST = 200
"""A background of fewer pixels than these tells nothing."""

Embed = Callable[[Sequence[Image.Image]], torch.Tensor]
Shown = tuple[torch.Tensor, torch.Tensor]
"""Pictures and their masks."""


def grow(masks: torch.Tensor, pixels: int) -> torch.Tensor:
    """Masks (n,H,W) bool, larger by so many pixels on every side."""
    return F.max_pool2d(masks.float()[:, None], 2 * pixels + 1, 1, pixels)[:, 0] > 0.5


def object_only(pictures: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The pictures with the background replaced by the mean colour."""
    _check(pictures, masks)
    return torch.where(masks[:, None], pictures, torch.tensor(MEAN_COLOUR).view(1, 3, 1, 1).to(pictures))


def object_alignment(embed: Embed, generated: Shown, references: Shown) -> torch.Tensor:
    """Image alignment of the objects alone, each generated picture's: (n,), nan where it shows no object."""
    found = image_alignment(*(embed(to_images(object_only(*shown))) for shown in (generated, references)))
    return torch.where(generated[1].flatten(1).any(1).to(found.device), found, torch.nan)


def background_copied(embed: Embed, generated: Shown, references: Shown) -> torch.Tensor:
    """How much of the references' background is in each picture: the backgrounds' image alignment, (n,).

    High where the prompt asked for another background means overfitting.
    """
    backgrounds = ((pictures, ~grow(masks, GROWN)) for pictures, masks in (generated, references))
    return image_alignment(*(embed(to_images(object_only(*shown))) for shown in backgrounds))


def background_distance(pictures: torch.Tensor, base: torch.Tensor, things: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference to the base model's pictures of the same noise, in grey levels, (n,).

    Over the pixels that lie in no method's thing: `things` (n,H,W) is true where any method drew one, so that every
    method is compared over the same pixels. nan where fewer than 200 pixels are left.
    """
    _check(pictures, things)
    outside = ~grow(things, GROWN)
    count = outside.flatten(1).sum(1)
    difference = (pictures - base).abs().mean(1) * 255
    mean = (difference * outside).flatten(1).sum(1) / count.clamp_min(1)
    return torch.where(count > FEWEST, mean, torch.nan)


def drift(pictures: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """On prompts without V*: mean absolute difference to the base model's pictures, in grey levels, (n,).

    0 is a residual that leaves alone what nobody asked it to change.
    """
    if pictures.shape != base.shape:
        raise ValueError(f"pictures {tuple(pictures.shape)} and base {tuple(base.shape)}")
    return (pictures - base).abs().flatten(1).mean(1) * 255


def iou(share: torch.Tensor, truth: torch.Tensor, threshold: float = 0.5) -> float:
    """Intersection over union of LAG's mask (h,w), bool or shares in [0,1], with a true one (H,W); nan for two empty.

    The mask is scaled up to the true one's size.
    """
    chosen = _scaled(share, truth) > threshold
    either = int((chosen | truth).sum())
    return int((chosen & truth).sum()) / either if either else math.nan


def auc(share: torch.Tensor, truth: torch.Tensor) -> float:
    """How well LAG's mask (h,w) tells a thing (H,W) from the rest, whatever its size: the area under the ROC curve.

    It is the probability that a pixel of the thing has a larger share than one beside it, ties counting half; 0.5 is
    chance, nan where a picture is all thing or has none.
    """
    scaled = _scaled(share, truth)
    inside, outside = scaled[truth].numpy(), scaled[~truth].numpy()
    if not len(inside) or not len(outside):
        return math.nan
    return float(mannwhitneyu(inside, outside, method="asymptotic").statistic) / (len(inside) * len(outside))


def to_images(pictures: torch.Tensor) -> list[Image.Image]:
    """(n,3,H,W) in [0,1] -> PIL images."""
    array = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in array]


def to_pictures(images: Sequence[Image.Image]) -> torch.Tensor:
    """PIL images of one size -> (n,3,H,W) in [0,1]."""
    array = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255


def _scaled(share: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return F.interpolate(share.float()[None, None], size=truth.shape, mode="bilinear", align_corners=False)[0, 0]


def _check(pictures: torch.Tensor, masks: torch.Tensor) -> None:
    if masks.dtype != torch.bool or masks.shape != (len(pictures), *pictures.shape[-2:]):
        raise ValueError(f"masks {masks.dtype} {tuple(masks.shape)} for pictures {tuple(pictures.shape)}")
