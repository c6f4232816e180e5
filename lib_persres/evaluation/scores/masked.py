"""Scores that the papers lack: the object and the background apart, what the base model's picture keeps, masks.

Pictures are (n,3,H,W) in [0,1], masks (n,H,W) bool, true on the object. "Embed" is a function from a list of
PIL images to embeddings (n,d), such as `Embedder.images`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .alignment import image_alignment_of_each

MEAN_COLOUR = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's mean: after its normalisation such a pixel is 0."""
GROWN = 4
"""Pixels by which a mask is grown before what lies outside is looked at."""
FEWEST = 200
"""A background of fewer pixels than these tells nothing."""

Embed = Callable[[Sequence[Image.Image]], torch.Tensor]


def grow(masks: torch.Tensor, pixels: int = GROWN) -> torch.Tensor:
    """Masks (n,H,W) bool, larger by so many pixels on every side."""
    return F.max_pool2d(masks.float()[:, None], 2 * pixels + 1, 1, pixels)[:, 0] > 0.5


def object_only(pictures: torch.Tensor, masks: torch.Tensor, colour=MEAN_COLOUR) -> torch.Tensor:
    """The pictures with the background replaced by the mean colour."""
    _check(pictures, masks)
    fill = torch.tensor(colour, dtype=pictures.dtype, device=pictures.device).view(1, 3, 1, 1)
    return torch.where(masks[:, None], pictures, fill)


def background_only(pictures: torch.Tensor, masks: torch.Tensor, colour=MEAN_COLOUR) -> torch.Tensor:
    """The pictures with the object, grown a little, replaced by the mean colour."""
    return object_only(pictures, ~grow(masks), colour)


def object_alignment(
    embed: Embed,
    generated: torch.Tensor,
    generated_masks: torch.Tensor,
    references: torch.Tensor,
    reference_masks: torch.Tensor,
    colour=MEAN_COLOUR,
) -> torch.Tensor:
    """Image alignment of the objects alone, each generated picture's: (n,), nan where it shows no object."""
    found = image_alignment_of_each(
        embed(to_images(object_only(generated, generated_masks, colour))),
        embed(to_images(object_only(references, reference_masks, colour))),
    )
    return torch.where(generated_masks.flatten(1).any(1).to(found.device), found, torch.nan)


def background_copied(
    embed: Embed,
    generated: torch.Tensor,
    generated_masks: torch.Tensor,
    references: torch.Tensor,
    reference_masks: torch.Tensor,
    colour=MEAN_COLOUR,
) -> torch.Tensor:
    """How much of the references' background is in each picture: the backgrounds' image alignment, (n,).

    High where the prompt asked for another background means overfitting.
    """
    return image_alignment_of_each(
        embed(to_images(background_only(generated, generated_masks, colour))),
        embed(to_images(background_only(references, reference_masks, colour))),
    )


def background_distance(pictures: torch.Tensor, base: torch.Tensor, things: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference to the base model's pictures of the same noise, in grey levels, (n,).

    Over the pixels that lie in no method's thing: `things` (n,H,W) is true where any method drew one, so that every
    method is compared over the same pixels. nan where fewer than 200 pixels are left.
    """
    _check(pictures, things)
    outside = ~grow(things)
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


def iou(masks: torch.Tensor, truth: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """Intersection over union, (n,), of LAG's masks (n,h,w), bool or shares in [0,1], with true masks (n,H,W).

    The masks are scaled up to the true ones' size; nan where both are empty.
    """
    scaled = F.interpolate(masks.float()[:, None], size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    chosen = scaled > threshold
    both = (chosen & truth).flatten(1).sum(1)
    either = (chosen | truth).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp_min(1), torch.nan)


def auc(shares: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """How well LAG's masks tell a thing from the rest, whatever their size, (n,): the area under the ROC curve.

    It is the probability that a pixel of the thing has a larger share than one beside it, ties counting half; 0.5 is
    chance. shares (n,h,w) in [0,1], scaled up to the true masks (n,H,W); nan where a picture is all thing or has none.
    """
    scaled = F.interpolate(shares.float()[:, None], size=truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    out = torch.full((len(truth),), torch.nan)
    for at, (share, thing) in enumerate(zip(scaled, truth)):
        inside, outside = share[thing], share[~thing].sort().values
        if len(inside) and len(outside):
            below = torch.searchsorted(outside, inside) + torch.searchsorted(outside, inside, right=True)
            out[at] = below.double().mean() / (2 * len(outside))
    return out


def to_images(pictures: torch.Tensor) -> list[Image.Image]:
    """(n,3,H,W) in [0,1] -> PIL images."""
    array = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in array]


def to_pictures(images: Sequence[Image.Image]) -> torch.Tensor:
    """PIL images of one size -> (n,3,H,W) in [0,1]."""
    array = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255


def _check(pictures: torch.Tensor, masks: torch.Tensor) -> None:
    if masks.dtype != torch.bool or masks.shape != (len(pictures), *pictures.shape[-2:]):
        raise ValueError(f"masks {masks.dtype} {tuple(masks.shape)} for pictures {tuple(pictures.shape)}")
