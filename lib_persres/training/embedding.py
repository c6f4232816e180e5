"""The identifier's vectors in the text encoders' tables of tokens, as something that learns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ..conditioning import Conditioning
from ..errors import PersresError
from ..learned_words import word_of
from ..residual import Residual, key_of
from ..targets import EMBEDDING, parts_of
from .host import Host
from .learned import Learned
from .recipe import Stage
from .texts import Texts

SCALE_OF_HALVES = 4096.0
"""Gradients of fp16 text encoders are scaled by it on their way, since they are tiny."""


class Embedding(Learned):
    """vectors: (d,) for each text encoder, fp32, the identifier's own or the macro class's first token's at the
    beginning.

    In `encode` they stand wherever the identifier does; the text encoders' own tables are never changed.
    prompts: the training's texts. side: of its pictures.
    """

    def __init__(
        self, host: Host, identifier: str, macro_class: str, start: str, prompts: Sequence[str] = (), side: int = 0
    ):
        ids = host.encode_text(identifier)
        if len(ids) != 1:
            raise PersresError(f"A learned embedding needs an identifier of one token, which {identifier!r} is not.")
        self._host, self._token, self._identifier = host, ids[0], identifier
        self._prompts, self._side = list(prompts), side or host.side
        source = self._token if start == "identifier" else host.encode_text(macro_class)[0]
        self.vectors: dict[str, nn.Parameter] = {}
        for encoder, table in host.token_tables.items():
            row = table(torch.tensor([source], device=table.weight.device))
            self.vectors[encoder] = nn.Parameter(row[0].detach().float().to(host.device))

    def weights(self, rule: str) -> list[nn.Parameter]:
        return list(self.vectors.values()) if EMBEDDING in parts_of(rule) else []

    def rate(self, stage: Stage) -> float:
        return stage.embedding_rate or stage.learning_rate

    def tensors(self) -> dict[str, torch.Tensor]:
        return {key_of(encoder, EMBEDDING): vector for encoder, vector in self.vectors.items()}

    def put_into(self, residual: Residual) -> None:
        for encoder, vector in self.vectors.items():
            residual.embeddings[key_of(encoder, self._identifier)] = vector.detach().to("cpu", copy=True)

    def begin(self, texts: Texts) -> None:
        texts.set(self.encode(self._prompts).detach().to(self._host.device))

    @contextlib.contextmanager
    def passes(self, stage: Stage, texts: Texts) -> Iterator[None]:
        """The texts are encoded once a batch; the UNet's passes add up a gradient for them, led on at the end."""
        if not stage.learns_embedding:
            yield
            return
        encoded = self.encode(self._prompts, learning=True)
        texts.set(encoded.detach().to(self._host.device).requires_grad_())
        yield
        self.backward(encoded, texts.conditioning)

    def is_recordable(self, stage: Stage) -> bool:
        return not stage.learns_embedding

    def encode(self, prompts: list[str], *, learning: bool = False) -> Conditioning:
        """The prompts' rows; learning: with a graph that leads to the vectors."""
        with word_of(self._host.token_tables, self._token, self.vectors):
            return self._host.encode_prompts(prompts, learning=learning, side=self._side)[0]

    def backward(self, encoded: Conditioning, passed: Conditioning) -> None:
        """Adds to the vectors' gradients, from those of what was passed on; nothing of the text encoders gets one."""
        vectors = list(self.vectors.values())
        scale = SCALE_OF_HALVES if encoded.context.dtype == torch.float16 else 1.0
        before = [vector.grad for vector in vectors]
        for vector in vectors:
            vector.grad = None
        pairs = [
            (own, (there.grad * scale).to(own))  # some hosts keep their text encoders on the CPU
            for own, there in zip(encoded.tensors(), passed.tensors())
            if there.grad is not None
        ]
        torch.autograd.backward([own for own, _ in pairs], [gradient for _, gradient in pairs], inputs=vectors)
        for vector, earlier in zip(vectors, before):
            vector.grad /= scale
            if earlier is not None:
                vector.grad += earlier
