"""Concept maps: how much of each pixel's cross-attention goes to the concept's tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .unet import Block

See = Callable[[Block, int, torch.Tensor, torch.Tensor, int], None]
"""What `Taps` calls: block, layer, q, k, heads."""


def concept_maps(q: torch.Tensor, k: torch.Tensor, indicator: torch.Tensor, heads: int) -> torch.Tensor:
    """A_{i,C} of each concept (equations 2 and the sum over C before equation 3), mean over heads.

    q: (b, hw, heads·d) and k: (b, n, heads·d), as the attention's to_q and to_k return them, unscaled.
    indicator: (b, K, n), 1 where token j belongs to concept k, else 0.
    Returns (b, K, hw), in fp32: Σ_{j∈C} softmax_j(q kᵀ / √d).
    """
    # in fp32 from the start: some models' products are beyond fp16
    q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2).float() for t in (q, k))  # b, heads, hw or n, d
    weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).softmax(-1)
    # the sum over heads first: one head-sized product with the indicator instead of `heads`
    return torch.matmul(indicator.to(weights.dtype), weights.mean(1).transpose(-1, -2))


def token_maps(q: torch.Tensor, k: torch.Tensor, weights: torch.Tensor, heads: int) -> torch.Tensor:
    """The maps of K weighted sums of tokens, each head's its own: (b, heads, K, hw), in fp32, with their gradient.

    q, k: as `concept_maps` takes them. weights: (K, n).
    """
    q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2).float() for t in (q, k))
    maps = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).softmax(-1)
    return torch.matmul(weights, maps.transpose(-1, -2))


class Taps:
    """Hooks that see q and k of the blocks' attentions, "attn1" or "attn2", as the model computes them.

    `see(block, layer, q, k, heads)` is called for each layer in turn with the outputs of its to_q and to_k, graph
    included. Every attention implementation calls the two as modules, so it works under all of them.
    """

    def __init__(self, blocks: Iterable[Block], see: See, which: str = "attn2"):
        self._handles: list[RemovableHandle] = []
        for block in blocks:
            for layer, attention in enumerate(block.attentions if which == "attn2" else block.self_attentions):
                self._tap(block, layer, attention, see)

    def remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _tap(self, block: Block, layer: int, attention: nn.Module, see: See) -> None:
        seen: dict[str, torch.Tensor] = {}

        def forget(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            seen.clear()  # what an interrupted forward left behind must not pair with this one's

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                seen[name] = output
                if len(seen) == 2:
                    q, k = seen.pop("q"), seen.pop("k")
                    see(block, layer, q, k, attention.heads)

            return hook

        self._handles += [
            attention.register_forward_pre_hook(forget),
            attention.to_q.register_forward_hook(keep("q")),
            attention.to_k.register_forward_hook(keep("k")),
        ]
