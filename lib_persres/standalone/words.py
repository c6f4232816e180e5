"""Prompts as the text encoder reads them where concepts have learned words."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from ..concept_tokens import ConceptTokens, find_concept_tokens, together
from ..conditioning import Conditioning
from ..emphasis import parts_of
from ..learned_words import check_widths, learned_vectors, pieces, twins_of, vectors_for
from ..lora.adapter import called, more_words
from ..lora.text_part import TextFactors, TextPart
from ..prompt import Substituted, Tag
from ..residual import Residual
from .checkpoint import StableDiffusion
from .emphasis import emphasized
from .reading import write
from .tokenizer import Tokenizer


class Words:
    """The words of a prompt's concepts, in their order.

    used: whether a concept's learned word takes its identifier's place. tags: the concepts' own. words: of those whose
    files have no identifier, the prompt's words for them, see `lora.adapter.word_in`. Each learned vector
    has an id of its own, below zero, so that concepts with the same identifier stay two; and where they have the same
    class, too, the model's own vectors of the identifier have such ids.
    """

    def __init__(
        self,
        sd: StableDiffusion,
        residuals: Sequence[Residual],
        used: Sequence[bool],
        tags: Sequence[Tag],
        words: Sequence[str] | None = None,
    ):
        self.sd = sd
        self.tags = list(tags)
        self.said = said = list(words or [""] * len(self.tags))
        self.facts = [called(residual, word) for residual, word in zip(residuals, said)]
        self._more = [list(map(sd.encode_text, more_words(word))) for word in said]
        tables = sd.token_tables
        self._vectors: dict[str, dict[int, torch.Tensor]] = {encoder: {} for encoder in tables}
        self._learned: dict[int, list[int]] = {}
        twins = twins_of(self.facts)
        for index, (residual, use, tag) in enumerate(zip(residuals, used, tags, strict=True)):
            vectors = learned_vectors(residual) if use else {}
            if vectors:
                check_widths(vectors, {encoder: table.embedding_dim for encoder, table in tables.items()}, tag.name)
            elif index in twins and not said[index]:
                own = torch.tensor(sd.encode_text(self.facts[index].identifier), device=sd.device)
                vectors = {encoder: table.weight.detach()[own] for encoder, table in tables.items()}
            if vectors:
                known = sum(map(len, self._learned.values()))
                count = len(next(iter(vectors.values())))
                self._learned[index] = [-1 - known - i for i in range(count)]
                for encoder, each in vectors.items():
                    self._vectors[encoder] |= dict(zip(self._learned[index], each.to(sd.device)))
        self._strengths = [tag.strength for tag in tags]
        self._text_part: TextPart | None = None

    def lend(self, parts: Sequence[TextFactors]) -> list[int]:
        """What the concepts' files change of the text encoders from now on; of how many layers of each they have
        none."""
        self._text_part = TextPart(self.sd.texts, parts)
        return self._text_part.unknown

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

    def find(self, ids: list[int], index: int) -> ConceptTokens:
        """The tokens of the index-th concept in the ids of a prompt's context."""
        classes = [self.sd.encode_text(facts.macro_class) for facts in self.facts]
        # files that are about the same words of the prompt do not compete for them
        others = [
            (self.spelled(other), noun)
            for other, noun in enumerate(classes)
            if other != index
            and not (self.said[other] and self.said[index] and self.spelled(other) == self.spelled(index))
        ]
        spelled = [self.spelled(index), *self._more[index]]
        return together([find_concept_tokens(ids, own, classes[index], others=others) for own in spelled])

    def spelled(self, index: int) -> list[int]:
        """The ids that stand for a concept."""
        return self._learned.get(index) or self.sd.encode_text(self.facts[index].identifier)

    @torch.no_grad()
    def encode(
        self, written: Substituted, size: tuple[int, int], negative: bool = False
    ) -> tuple[Conditioning, torch.Tensor]:
        """A row of 77 tokens, and the ids (1,77) it comes from. size: see `StableDiffusion.encode_tokens`. negative:
        whether an empty text says nothing, as the WebUI has it."""
        own, counts = self.read(written)
        weights = torch.ones(1, Tokenizer.length, device=self.sd.device)
        counts = counts[: Tokenizer.length - 2]
        weights[0, 1 : 1 + len(counts)] = torch.tensor(counts, device=self.sd.device)
        with contextlib.ExitStack() as stack:
            for encoder, table in self.sd.token_tables.items():
                stack.enter_context(vectors_for(table, self._vectors[encoder]))
            if self._text_part is not None:
                stack.enter_context(self._text_part).strengths = self._strengths
            nothing = [negative and not written.text]
            return self.sd.encode_tokens([own], size, nothing, lambda context: emphasized(context, weights))
