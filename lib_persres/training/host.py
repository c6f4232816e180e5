"""What a trainer needs of a loaded model."""

from __future__ import annotations

from typing import Protocol

import torch


class Host(Protocol):
    """Latents are scaled, images are in [-1, 1].

    stays: False where the host moves the UNet's weights between a training's steps.
    """

    unet: torch.nn.Module
    alphas_cumprod: torch.Tensor
    device: torch.device
    family: str
    hash: str
    stays: bool

    def encode_images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    def encode_prompts(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]: ...

    def encode_text(self, text: str) -> list[int]: ...
