"""What a UNet is told beside the noisy latents: the text's context, and what a family has besides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Rows of what a text encoder gives.

    context: (b, n, d), what the cross-attentions read. vectors: (b, m), SDXL's: the pooled text and the embeddings of
    the picture's size, its crop and the size asked for (Podell et al. 2023, section 2.2); None in a family without.
    """

    context: torch.Tensor
    vectors: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.context)

    def __getitem__(self, rows: torch.Tensor | slice | Sequence[int]) -> Conditioning:
        return self._each(lambda tensor: tensor[rows])

    @property
    def length(self) -> int:
        """n"""
        return self.context.shape[1]

    def tensors(self) -> list[torch.Tensor]:
        return [tensor for tensor in (self.context, self.vectors) if tensor is not None]

    def arguments(self) -> dict[str, torch.Tensor]:
        """Those of a UNet's call, by ldm's and sgm's names."""
        return {"context": self.context} if self.vectors is None else {"context": self.context, "y": self.vectors}

    def to(self, device: torch.device) -> Conditioning:
        return self._each(lambda tensor: tensor.to(device))

    def detach(self) -> Conditioning:
        return self._each(torch.Tensor.detach)

    def requires_grad_(self) -> Conditioning:
        """New leaves, whose gradients add up in them."""
        return self._each(lambda tensor: tensor.requires_grad_())

    def expand(self, count: int) -> Conditioning:
        """One row as `count`."""
        return self._each(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def is_finite(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors())

    def _each(self, of: Callable[[torch.Tensor], torch.Tensor]) -> Conditioning:
        return Conditioning(of(self.context), None if self.vectors is None else of(self.vectors))


def joined(parts: Sequence[Conditioning]) -> Conditioning:
    """All rows, in a row. Raises what torch raises where the contexts differ in their length."""
    vectors = [part.vectors for part in parts if part.vectors is not None]
    return Conditioning(torch.cat([part.context for part in parts]), torch.cat(vectors) if vectors else None)
