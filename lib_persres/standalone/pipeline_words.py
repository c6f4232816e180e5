"""Learned words in a pipeline, which tokenizes by itself: one vector takes the place of a word's one token."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import nn

from ..errors import PersresError
from ..learned_words import check_widths, learned_vectors, word_of
from ..residual import ENCODERS, Residual


class PipelineWords:
    """named: the residuals. encoders: the text encoders in their order. tokens: of each residual's identifier."""

    def __init__(self, named: Mapping[str, Residual], encoders: Sequence[nn.Module], tokens: Sequence[Sequence[int]]):
        self._names = list(named)
        self._identifiers = [residual.metadata.identifier for residual in named.values()]
        self._tokens = [list(each) for each in tokens]
        found = [encoder.get_input_embeddings() for encoder in encoders]
        self._tables = dict(zip(ENCODERS[:1] if len(found) == 1 else ENCODERS[1:], found))
        widths = {encoder: table.embedding_dim for encoder, table in self._tables.items()}
        self._learned: dict[int, dict[str, torch.Tensor]] = {}
        """Concept -> each encoder's vector."""
        for index, (name, residual) in enumerate(named.items()):
            if not (learned := learned_vectors(residual)):
                continue
            check_widths(learned, widths, name)
            if len(self._tokens[index]) != 1 or any(len(each) != 1 for each in learned.values()):
                raise PersresError(f"A pipeline reads a word of one vector for one token, which that of {name} is not.")
            self._learned[index] = {encoder: each[0] for encoder, each in learned.items()}

    @contextlib.contextmanager
    def read(self, strengths: Sequence[Sequence[float]], written: Collection[int]) -> Iterator[None]:
        """The texts of a call are encoded with the words of the concepts that act; at strength 0 the model's own is
        read. strengths: of each prompt, each concept's. written: the concepts that stand in a text."""
        acting = [any(each) for each in zip(*strengths)]
        used = [index for index in self._learned if acting[index]]
        for index in used:
            if not all(prompt[index] for prompt in strengths):
                raise PersresError(
                    f"{self._names[index]} has a learned word and is left out of some prompts of this call alone: "
                    "draw those in a call of their own."
                )
            self._check_alone(index, {other for other, acts in enumerate(acting) if acts} | set(written))
        with contextlib.ExitStack() as stack:
            for index in used:
                stack.enter_context(word_of(self._tables, self._tokens[index][0], self._learned[index]))
            yield

    def _check_alone(self, index: int, read: Collection[int]) -> None:
        """PersresError where another concept that is read has the word, too, which would be replaced there."""
        for other in read:
            if other != index and self._tokens[index][0] in self._tokens[other]:
                raise PersresError(
                    f'{self._names[index]} has a learned word for its identifier, "{self._identifiers[index]}", which '
                    f"is in that of {self._names[other]}, too: draw them in calls of their own, or train one of them "
                    "with another identifier."
                )
