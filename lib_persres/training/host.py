"""What a trainer needs of a loaded model."""

from __future__ import annotations

from typing import Protocol

import torch


class Host(Protocol):
    """Latents are scaled, images are in [-1, 1].

    stays: False where the host moves the UNet's weights between a training's steps. token_embedding: the text encoder's
    table of tokens, ids -> vectors.
    """

    unet: torch.nn.Module
    token_embedding: torch.nn.Embedding
    alphas_cumprod: torch.Tensor
    device: torch.device
    family: str
    hash: str
    stays: bool

    def encode_images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    def encode_prompts(self, prompts: list[str], learning: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Contexts (b, n, d) and their ids (b, n); learning: with the graph that leads to the tokens' vectors."""

    def encode_text(self, text: str) -> list[int]: ...


class DrawingHost(Host, Protocol):
    """One that also draws."""

    def decode_latents(self, z: torch.Tensor) -> torch.Tensor:
        """Images (b, 3, h, w) in [0, 1]."""
