"""The identifier's vector in the text encoder's table of tokens, as something that learns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ..errors import PersresError
from ..learned_words import vectors_for
from ..residual import Residual
from ..targets import EMBEDDING, parts_of
from .host import Host
from .learned import Learned
from .recipe import Stage
from .texts import Texts

SCALE_OF_HALVES = 4096.0
"""Gradients of fp16 text encoders are scaled by it on their way, since they are tiny."""


class Embedding(Learned):
    """vector: (d,), fp32, the identifier's own or the macro class's first token's at the beginning.

    In `encode` it stands wherever the identifier does; the text encoder's own table is never changed.
    prompts: the training's texts.
    """

    def __init__(self, host: Host, identifier: str, macro_class: str, start: str, prompts: Sequence[str] = ()):
        ids = host.encode_text(identifier)
        if len(ids) != 1:
            raise PersresError(f"A learned embedding needs an identifier of one token, which {identifier!r} is not.")
        self._host, self._token, self._identifier, self._prompts = host, ids[0], identifier, list(prompts)
        source = self._token if start == "identifier" else host.encode_text(macro_class)[0]
        row = host.token_embedding(torch.tensor([source], device=host.token_embedding.weight.device))
        self.vector = nn.Parameter(row[0].detach().float().to(host.device))

    def weights(self, rule: str) -> list[nn.Parameter]:
        return [self.vector] if EMBEDDING in parts_of(rule) else []

    def rate(self, stage: Stage) -> float:
        return stage.embedding_rate or stage.learning_rate

    def tensors(self) -> dict[str, torch.Tensor]:
        return {EMBEDDING: self.vector}

    def put_into(self, residual: Residual) -> None:
        residual.embeddings[self._identifier] = self.vector.detach().to("cpu", copy=True)

    def begin(self, texts: Texts) -> None:
        texts.set(self.encode(self._prompts).detach().to(self._host.device))

    @contextlib.contextmanager
    def passes(self, stage: Stage, texts: Texts) -> Iterator[None]:
        """The texts are encoded once a batch; the UNet's passes add up a gradient for them, led on at the end."""
        if not stage.learns_embedding:
            yield
            return
        contexts = self.encode(self._prompts, learning=True)
        texts.set(contexts.detach().to(self._host.device).requires_grad_())
        yield
        self.backward(contexts, texts.contexts.grad)

    def is_recordable(self, stage: Stage) -> bool:
        return not stage.learns_embedding

    def encode(self, prompts: list[str], *, learning: bool = False) -> torch.Tensor:
        """The prompts' contexts (b, n, d); learning: with a graph that leads to the vector."""
        with vectors_for(self._host.token_embedding, {self._token: self.vector}):
            return self._host.encode_prompts(prompts, learning=learning)[0]

    def backward(self, contexts: torch.Tensor, gradient: torch.Tensor) -> None:
        """Adds to the vector's gradient; nothing of the text encoder gets one."""
        scale = SCALE_OF_HALVES if contexts.dtype == torch.float16 else 1.0
        before = self.vector.grad
        self.vector.grad = None
        torch.autograd.backward([contexts], [(gradient * scale).to(contexts.dtype)], inputs=[self.vector])
        self.vector.grad /= scale
        if before is not None:
            self.vector.grad += before
