"""Prompts as the text encoder reads them where concepts have learned words."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..conditioning import Conditioning
from ..emphasis import parts_of
from ..learned_words import check_widths, learned_vectors, pieces, vectors_for
from ..prompt import Substituted, Tag
from ..residual import Residual
from .checkpoint import StableDiffusion
from .emphasis import emphasized
from .reading import write


class Words:
    """The words of a prompt's concepts, in their order.

    used: whether a concept's learned word takes its identifier's place. tags: the concepts' own. Each learned vector
    has an id of its own, below zero, so that concepts with the same identifier stay two.
    """

    def __init__(self, sd: StableDiffusion, residuals: Sequence[Residual], used: Sequence[bool], tags: Sequence[Tag]):
        self.sd = sd
        self.tags = list(tags)
        self.facts = [residual.metadata for residual in residuals]
        self._vectors: dict[int, torch.Tensor] = {}
        self._learned: dict[int, list[int]] = {}
        for index, (residual, use, tag) in enumerate(zip(residuals, used, tags, strict=True)):
            vectors = learned_vectors(residual)
            if use and vectors:
                check_widths(vectors, {"": sd.token_embedding.embedding_dim}, tag.name)
                vectors = vectors[""]
                self._learned[index] = [-1 - len(self._vectors) - i for i in range(len(vectors))]
                self._vectors |= dict(zip(self._learned[index], vectors.to(sd.device)))

    def write(self, prompt: str) -> Substituted:
        """See `reading.write`."""
        return write(prompt, self.tags, self.facts)

    def read(self, written: Substituted) -> tuple[list[int], list[float]]:
        """The ids, without start, end and padding and of any length, and what each counts by the prompt's emphasis."""
        ids: list[int] = []
        weights: list[float] = []
        learned = [index in self._learned for index in range(len(self.facts))]
        for part in parts_of(written):
            for piece in pieces(part.written, learned):
                ids += self.sd.encode_text(piece) if isinstance(piece, str) else self._learned[piece]
            weights += [part.weight] * (len(ids) - len(weights))
        return ids, weights

    def spelled(self, index: int) -> list[int]:
        """The ids that stand for a concept."""
        return self._learned.get(index) or self.sd.encode_text(self.facts[index].identifier)

    @torch.no_grad()
    def encode(self, written: Substituted) -> tuple[Conditioning, torch.Tensor]:
        """A row of 77 tokens, and the ids (1,77) it comes from."""
        own, counts = self.read(written)
        ids = torch.tensor([self.sd.text.tokenizer.pad(own)], device=self.sd.device)
        weights = torch.ones(ids.shape, device=self.sd.device)
        counts = counts[: ids.shape[1] - 2]
        weights[0, 1 : 1 + len(counts)] = torch.tensor(counts, device=self.sd.device)
        with vectors_for(self.sd.token_embedding, self._vectors):
            return Conditioning(emphasized(self.sd.text(ids), weights)), ids
