"""AttnDreamBooth's regularization (Pang et al. 2024, equation 2): V*'s attention maps become like the class's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ..attention import Taps, token_maps
from ..concept_tokens import ConceptTokens
from ..unet import Block, find_blocks
from .recipe import Stage


class MapComparison:
    """L_reg = λμ [μ(M^V) - μ(M^class)]² + λσ [σ²(M^V) - σ²(M^class)]² of each row of the UNet's last call.

    tokens: the concept's in a context of this length; of several of V* or the class the mean of their maps is taken.
    In the paper's words the mean and variance are of "the 16 attention maps": stage.map_form "pooled" takes them over
    the pixels of all layers together, the maps being means over heads; "layers", the form of the paper's public code,
    takes them over the heads and pixels of each layer, and then the mean of L_reg over the layers.
    """

    def __init__(self, unet: nn.Module, tokens: ConceptTokens, length: int, stage: Stage):
        self._unet, self._stage = unet, stage
        self._weights = torch.zeros(2, length, device=next(unet.parameters()).device)
        noun = [place for place in tokens.indices if place not in tokens.own]
        for row, places in enumerate((list(tokens.own), noun)):
            self._weights[row, places] = 1 / len(places)
        self._rows = 0
        self._maps: dict[tuple[str, int], torch.Tensor] = {}

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        taps = Taps(find_blocks(self._unet), self._see)
        try:
            yield
        finally:
            taps.remove()

    @contextlib.contextmanager
    def watching(self, rows: int) -> Iterator[None]:
        """The first `rows` of the UNet's next call are looked at, and again where checkpointing computes it again."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = 0
            self._maps.clear()

    def _see(self, block: Block, layer: int, q: torch.Tensor, k: torch.Tensor, heads: int) -> None:
        if not self._rows:
            return
        # computed also when a checkpoint computes the layer again, which must save the very same tensors
        maps = token_maps(q[: self._rows], k[: self._rows], self._weights, heads)
        self._maps.setdefault((block.name, layer), maps)

    def loss(self) -> torch.Tensor:
        """(rows,)"""
        if self._stage.map_form == "pooled":
            pooled = torch.cat([maps.mean(1) for maps in self._maps.values()], dim=-1)  # (rows, 2, pixels of all)
            return self._compare(pooled)
        return torch.stack([self._compare(maps.transpose(1, 2).flatten(2)) for maps in self._maps.values()]).mean(0)

    def _compare(self, values: torch.Tensor) -> torch.Tensor:
        """values: (rows, 2, n) of V* and the class."""
        mean, variance = values.mean(-1), values.var(-1, unbiased=False)
        stage = self._stage
        return (
            stage.map_mean * (mean[:, 0] - mean[:, 1]).square()
            + stage.map_variance * (variance[:, 0] - variance[:, 1]).square()
        )
