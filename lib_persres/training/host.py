"""What a trainer needs of a loaded model."""

from __future__ import annotations

from typing import Protocol

import torch

from ..conditioning import Conditioning


class Host(Protocol):
    """Latents are scaled, images are in [-1, 1].

    parameterization: of `parameterization.KINDS`, what the UNet predicts. stays: False where the host moves the UNet's
    weights between a training's steps. token_tables: each text encoder's table of tokens, ids -> vectors, by its name
    in files, see `residual.ENCODERS`. side: of the pictures that the model was trained on.
    """

    @property
    def unet(self) -> torch.nn.Module: ...

    @property
    def token_tables(self) -> dict[str, torch.nn.Embedding]: ...

    @property
    def alphas_cumprod(self) -> torch.Tensor: ...

    @property
    def parameterization(self) -> str: ...

    @property
    def side(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def family(self) -> str: ...

    @property
    def hash(self) -> str: ...

    @property
    def stays(self) -> bool: ...

    def encode_images(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    def encode_prompts(
        self, prompts: list[str], learning: bool = False, side: int | None = None
    ) -> tuple[Conditioning, torch.Tensor]:
        """Their rows, and the ids (b, n) of the contexts. learning: with the graph that leads to the tokens' vectors.
        side: of the pictures; None: the model's own."""

    def encode_text(self, text: str) -> list[int]: ...


class DrawingHost(Host, Protocol):
    """One that also draws."""

    def decode_latents(self, z: torch.Tensor) -> torch.Tensor:
        """Images (b, 3, h, w) in [0, 1]."""
