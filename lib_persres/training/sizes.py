"""The sides of pictures that a UNet can take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import PersresError

if TYPE_CHECKING:  # the command line knows the sizes without torch
    from torch import nn

LATENT = 8
"""Image pixels of a latent pixel, along one side."""

MOST_AT_ONCE = 1 << 26
"""Pixels of the pictures that go through a UNet together: 256 of 512×512, for which SD1 wants hundreds of gigabytes."""


def default_resolution(unet_params: Mapping[str, Any]) -> int:
    """The side of the pictures that a model was trained on.

    SD1's own yaml says 32 latent pixels although the model was trained on 64; others are taken at their word.
    """
    size = unet_params.get("image_size", 64)
    if size == 32 and unet_params.get("model_channels") == 320:
        size = 64
    return LATENT * size


def check_side(unet_params: Mapping[str, Any], side: int, option: str) -> None:
    """Raise PersresError for a side that the UNet's levels cannot halve and double back."""
    step = LATENT * 2 ** (len(unet_params["channel_mult"]) - 1)
    if side < step or side % step:
        below = max(step, side // step * step)
        raise PersresError(f"{option} {side} does not fit this model: take a multiple of {step}, such as {below}.")


def check_pixels(pictures: int, width: int, height: int, what: str, lower: str) -> None:
    """PersresError where so many pictures at a time are more than any memory holds. what: what they are. lower: the
    settings that would help."""
    pixels = pictures * width * height
    if pixels > MOST_AT_ONCE:
        raise PersresError(
            f"{pictures:,} {what} at {width}×{height} are {pixels // 10**6:,} million pixels at a time, of which "
            f"{MOST_AT_ONCE // 10**6} million are allowed: lower {lower}."
        )


def params_of(unet: nn.Module) -> dict[str, Any]:
    """What the two above ask for, of any ldm UNet."""
    return {name: getattr(unet, name) for name in ("image_size", "model_channels", "channel_mult")}
