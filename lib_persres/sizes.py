"""The sides of pictures that a UNet can take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import PersresError
from .parameterization import EPS, V

if TYPE_CHECKING:  # the command line knows the sizes without torch
    from torch import nn

LATENT = 8
"""Image pixels of a latent pixel, along one side."""

MOST_AT_ONCE = 1 << 26
"""Pixels of the pictures that go through a UNet together: 256 of 512×512, for which SD1 wants hundreds of gigabytes."""


def default_resolution(unet_params: Mapping[str, Any], family: str = "SD1", parameterization: str = EPS) -> int:
    """The side of the pictures that a model was trained on.

    The families' own sizes are known by their UNet's width, whatever a yaml says: SD1's says 32 latent pixels, sgm's
    nothing. Others are taken at their word.
    """
    if unet_params.get("model_channels") == 320:
        return 1024 if family == "SDXL" else 768 if family == "SD2" and parameterization == V else 512
    return LATENT * (unet_params.get("image_size") or 64)


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
    """What the two above ask for, of any UNet of ldm or sgm, which has no image_size."""
    return {name: getattr(unet, name, None) for name in ("image_size", "model_channels", "channel_mult")}
