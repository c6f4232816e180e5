"""The two texts of a training, the fixed prompt and the empty one, whose keys and values never change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ..prompt import ConceptTokens
from ..unet import find_blocks
from .frozen import forward_as


class Texts:
    """contexts: (2, n, d), of the prompt and the empty text. indicator: (1, 1, n), the concept's tokens in the first.

    rows: (b,), which of the two each row of the UNet's next call has; None: others.
    """

    def __init__(self, contexts: torch.Tensor, tokens: ConceptTokens):
        self.contexts = contexts
        self.indicator = torch.zeros(1, 1, contexts.shape[1], device=contexts.device)
        self.indicator[..., list(tokens.indices)] = 1
        self.rows: torch.Tensor | None = None

    @contextlib.contextmanager
    def fixed_in(self, unet: nn.Module) -> Iterator[None]:
        """The cross-attentions' to_k and to_v compute once and look up; hooks on them see what they always do."""
        with contextlib.ExitStack() as stack:
            for block in find_blocks(unet):
                for attention in block.attentions:
                    for module in (attention.to_k, attention.to_v):
                        stack.enter_context(forward_as(module, self._looked_up(module)))
            yield

    def _looked_up(self, module: nn.Module):
        known: list[torch.Tensor] = []

        def forward(context):
            if self.rows is None:
                return own(context)
            if not known:
                with torch.no_grad():
                    known.append(own(self.contexts.to(context.dtype)))
            return known[0][self.rows]

        own = module.forward
        return forward
